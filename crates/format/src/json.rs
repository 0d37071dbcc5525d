//! Strict JSON: caps on size, depth and memory, and no duplicate keys (a duplicate would let two readers see two files).

use std::cell::Cell;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{self, Deserialize, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::error::{Error, Result};

/// Deepest nesting that any file of ours or of Hugging Face needs.
const MAX_DEPTH: usize = 32;
/// Memory that a document may take beyond twice its text: `[[],[],[]]` grows tenfold when parsed, `[{"":0}]` a hundredfold.
const MAX_EXTRA: usize = 24 << 20;
/// Longest key that a message repeats.
const SHOWN: usize = 80;

/// Parses `bytes` of the file at `path`, refusing duplicates, depth over 32, documents that blow up and trailing data.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let bad = |e: serde_json::Error| {
        let code = if e.to_string().contains("duplicate key") {
            "json.duplicate"
        } else if e.to_string().contains("nested deeper") {
            "json.depth"
        } else if e.to_string().contains("too much memory") {
            "json.size"
        } else {
            "json.syntax"
        };
        Error::format(path, code, format!("not valid JSON: {e}"), "download the file again or repair it")
    };
    let budget = Cell::new(MAX_EXTRA + 2 * bytes.len());
    let value = Strict { depth: 0, budget: &budget }.deserialize(&mut de).map_err(bad)?;
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
    let fits = |got: u64| {
        let hint = "this file is larger than any legitimate one of its kind".to_string();
        if got > max {
            return Err(Error::Limit { what: format!("size of {}", path.display()), got, max, hint });
        }
        Ok(())
    };
    fits(meta.len())?;
    // The file may grow meanwhile, and some systems report 0: the read itself is bounded too.
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
    fits(bytes.len() as u64)?;
    Ok(bytes)
}

/// Reads a typed document, mapping serde's message to the file.
pub fn typed<T: for<'de> Deserialize<'de>>(value: Value, path: &Path) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|e| Error::format(path, "json.schema", e.to_string(), "compare the file with a published one"))
}

#[derive(Clone, Copy)]
struct Strict<'a> {
    depth: usize,
    /// Bytes that may still be taken, estimated from above.
    budget: &'a Cell<usize>,
}

impl Strict<'_> {
    fn deeper(self) -> Self {
        Strict { depth: self.depth + 1, ..self }
    }

    fn take<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(bytes);
        self.budget.set(left.ok_or_else(|| E::custom("the document takes too much memory"))?);
        Ok(())
    }
}

/// What an item of a list takes: a value, twice over while the list grows.
const ITEM: usize = 96;
/// What a filled object takes at least: one node of the map.
const NODE: usize = 640;
/// What an entry of an object takes beside its key's letters, in half-full nodes.
const ENTRY: usize = 120;

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        if self.depth > MAX_DEPTH {
            return Err(de::Error::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
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
    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.take(v.len())?;
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(v) = seq.next_element_seed(self.deeper())? {
            self.take(ITEM)?;
            out.push(v);
        }
        Ok(out.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            self.take(key.len() + if out.is_empty() { NODE } else { ENTRY })?;
            let value = map.next_value_seed(self.deeper())?;
            if out.contains_key(&key) {
                let key: String = key.chars().take(SHOWN).collect();
                return Err(de::Error::custom(format!("duplicate key {key:?}")));
            }
            out.insert(key, value);
        }
        Ok(out.into())
    }
}
