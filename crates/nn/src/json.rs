//! Strict JSON: size cap, depth cap, and no duplicate keys (a duplicate would let two readers see two files).

use std::fmt;
use std::path::Path;

use serde::de::{self, Deserialize, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Deepest nesting that any file of ours or of Hugging Face needs.
const MAX_DEPTH: usize = 32;

/// Parses `bytes` of the file at `path`, refusing duplicates, depth over 32 and trailing data.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let bad = |e: serde_json::Error| {
        let code = if e.to_string().contains("duplicate key") {
            "json.duplicate"
        } else if e.to_string().contains("nested deeper") {
            "json.depth"
        } else {
            "json.syntax"
        };
        Error::format(path, code, format!("not valid JSON: {e}"), "download the file again or repair it")
    };
    let value = Strict { depth: 0 }.deserialize(&mut de).map_err(bad)?;
    de.end().map_err(bad)?;
    Ok(value)
}

/// Reads and parses a JSON file of at most `max` bytes.
pub fn read(path: &Path, max: u64) -> Result<Value> {
    parse(&read_capped(path, max)?, path)
}

/// Reads a regular file of at most `max` bytes.
pub fn read_capped(path: &Path, max: u64) -> Result<Vec<u8>> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
    if !meta.is_file() {
        return Err(Error::format(path, "file.kind", "not a regular file", "name a file"));
    }
    if meta.len() > max {
        return Err(Error::Limit {
            what: format!("size of {}", path.display()),
            got: meta.len(),
            max,
            hint: "this file is larger than any legitimate one of its kind".into(),
        });
    }
    std::fs::read(path).map_err(|e| Error::io(path, e))
}

/// Reads a typed document, mapping serde's message to the file.
pub fn typed<T: for<'de> Deserialize<'de>>(value: Value, path: &Path) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Error::format(path, "json.schema", e.to_string(), "compare the file with a published one"))
}

struct Strict {
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(de::Error::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = seq.next_element_seed(Strict { depth: self.depth + 1 })? {
            out.push(v);
        }
        Ok(out.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(Strict { depth: self.depth + 1 })?;
            if out.contains_key(&key) {
                return Err(de::Error::custom(format!("duplicate key \"{key}\"")));
            }
            out.insert(key, value);
        }
        Ok(out.into())
    }
}
