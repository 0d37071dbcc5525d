//! Strict JSON: caps on size, depth and memory, and no duplicate keys (a duplicate would let two readers see two files).

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::contents;
use crate::error::{Error, Result, no_file};
use crate::objects;

/// Deepest nesting that any file of ours or of Hugging Face needs.
const MAX_DEPTH: usize = 32;
/// Memory that a document may take beyond [`GROWTH`] times its text: `[[],[],[]]` grows tenfold when parsed, `[{"":0}]` a
/// hundredfold.
const MAX_EXTRA: usize = 24 << 20;
/// How many times its text a document may take in memory.
const GROWTH: usize = 2;
/// Longest key that a message repeats.
const SHOWN: usize = 80;

/// Parses `bytes` of the file at `path`, refusing duplicates, depth over 32, documents that blow up and trailing data.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    parse_growing(bytes, path, GROWTH)
}

/// Parses as [`parse`] does, but the document may take `growth` times its text in memory (and 24 MiB): for long lists of
/// short entries, such as vocabularies.
pub fn parse_growing(bytes: &[u8], path: &Path, growth: usize) -> Result<Value> {
    let budget = Cell::new(MAX_EXTRA.saturating_add(growth.saturating_mul(bytes.len())));
    whole(bytes, path, Strict { depth: 0, budget: &budget })
}

/// Checks a document as [`parse`] does and keeps nothing of it: for one that is read into a type of its own, which would
/// take the last of two equal keys. Memory is that of the keys of the objects that are open.
pub fn check(bytes: &[u8], path: &Path) -> Result<()> {
    let budget = Cell::new(MAX_EXTRA.saturating_add(GROWTH.saturating_mul(bytes.len())));
    whole(bytes, path, Check(Strict { depth: 0, budget: &budget }))
}

/// Parses text that is no file, such as an argument; an error says where in the text it is wrong.
pub fn parse_text(text: &str) -> Result<Value, String> {
    parse(text.as_bytes(), Path::new("")).map_err(|e| match e {
        Error::Format { what, .. } => what,
        e => e.to_string(),
    })
}

fn whole<'a, S: DeserializeSeed<'a>>(bytes: &'a [u8], path: &Path, seed: S) -> Result<S::Value> {
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
        let other = if code == "json.syntax" { contents::instead(bytes, path, code, "JSON") } else { None };
        let bad = || Error::format(path, code, format!("not valid JSON: {e}"), "download the file again or repair it");
        other.unwrap_or_else(bad)
    };
    let value = seed.deserialize(&mut de).map_err(bad)?;
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
        return Err(Error::format(path, "file.kind", no_file(&meta), "name a file"));
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

/// Reads a typed document, mapping serde's message to the file. A list is no object.
pub fn typed<T: for<'de> Deserialize<'de>>(value: Value, path: &Path) -> Result<T> {
    objects::read(value)
        .map_err(|e: serde_json::Error| objects::words(&e.to_string()))
        .map_err(|e| Error::format(path, "json.schema", e, "compare the file with a published one"))
}

/// Reads a type from text that was checked before; see [`check`]. A list is no object.
pub fn typed_text<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = objects::read(&mut de)?;
    de.end().map(|()| value)
}

/// A value as a field of a type: no duplicate key, and no deeper or larger than [`parse`] allows. For `deserialize_with`.
pub fn value<'de, D: Deserializer<'de>>(d: D) -> Result<Value, D::Error> {
    let budget = Cell::new(MAX_EXTRA);
    Strict { depth: 0, budget: &budget }.deserialize(d)
}

/// An object of values of one type, no key twice. For `deserialize_with`.
pub fn distinct<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<BTreeMap<String, T>, D::Error> {
    struct Distinct<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Distinct<T> {
        type Value = BTreeMap<String, T>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut out = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if out.contains_key(&key) {
                    return Err(twice(&key));
                }
                out.insert(key, map.next_value()?);
            }
            Ok(out)
        }
    }
    d.deserialize_map(Distinct(PhantomData))
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

    /// Errors where a value at this depth is too deep.
    fn reach<E: de::Error>(self) -> Result<(), E> {
        if self.depth > MAX_DEPTH {
            return Err(E::custom(format!("nested deeper than {MAX_DEPTH}")));
        }
        Ok(())
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
        self.reach()?;
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
                return Err(twice(&key));
            }
            out.insert(key, value);
        }
        Ok(out.into())
    }
}

fn twice<E: de::Error>(key: &str) -> E {
    let key: String = key.chars().take(SHOWN).collect();
    E::custom(format!("duplicate key {key:?}"))
}

/// Walks a document and keeps nothing but the keys of open objects.
#[derive(Clone, Copy)]
struct Check<'a>(Strict<'a>);

/// What a key of an open object takes beside its letters, where it is written with escapes.
const KEY: usize = 64;

impl<'de> DeserializeSeed<'de> for Check<'_> {
    type Value = ();
    fn deserialize<D: de::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        self.0.reach()?;
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Check<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Check(self.0.deeper()))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        let mut taken = 0;
        while let Some(Key(key)) = map.next_key()? {
            let size = KEY + if matches!(key, Cow::Owned(_)) { key.len() } else { 0 };
            self.0.take(size)?;
            taken += size;
            if keys.contains(&key) {
                return Err(twice(&key));
            }
            keys.insert(key);
            map.next_value_seed(Check(self.0.deeper()))?;
        }
        self.0.budget.set(self.0.budget.get() + taken);
        Ok(())
    }
}

/// A key, borrowed where it is written without escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn codes(text: &str) -> [Option<&'static str>; 2] {
        let path = Path::new("a.json");
        let code = |e: Error| e.code();
        [parse(text.as_bytes(), path).err().map(code), check(text.as_bytes(), path).err().map(code)]
    }

    #[test]
    fn what_is_kept_and_what_is_only_checked_are_refused_alike() {
        let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        for (text, code) in [
            (r#"{"a": [1, -2, 0.5, null, true, "b\n"], "b": {"a": {}, "c": []}}"#.to_string(), None),
            (nested(MAX_DEPTH), None),
            (nested(MAX_DEPTH + 1), Some("json.depth")),
            (r#"{"a":"#.repeat(MAX_DEPTH + 1), Some("json.depth")),
            ("[".repeat(100_000), Some("json.depth")),
            (r#"{"a": 1, "b": 2, "a": 1}"#.into(), Some("json.duplicate")),
            (r#"{"a": 1, "\u0061": 1}"#.into(), Some("json.duplicate")),
            (r#"[{"b": {"a": 1, "a": 1}}]"#.into(), Some("json.duplicate")),
            (r#"{"a": 1e999}"#.into(), Some("json.syntax")),
            ("{} {}".into(), Some("json.syntax")),
            ("".into(), Some("json.syntax")),
            (r#"{"a": "#.into(), Some("json.syntax")),
        ] {
            assert_eq!(codes(&text), [code; 2], "{text:.60}");
        }
    }

    #[test]
    fn memory_is_bounded_and_given_back() {
        let path = Path::new("a.json");
        // What grows a hundredfold is refused where it is kept, and takes nothing where it is not.
        let wide = format!("[{}0]", r#"{"":0},"#.repeat(100_000));
        assert_eq!(codes(&wide), [Some("json.size"), None]);
        assert!(parse_growing(wide.as_bytes(), path, 100).is_ok());
        let keys: String = (0..1_000_000).map(|i| format!("\"{i}\":0,")).collect();
        assert_eq!(codes(&format!("{{{keys}\"a\":0}}")), [Some("json.size"); 2]);
    }
}
