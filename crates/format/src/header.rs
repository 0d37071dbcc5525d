//! The header of a safetensors file, read without trusting a single number in it.
//!
//! Rules (`docs/trust.md`): bounded length, count, names and ranks; no duplicate key; tensors cover the data exactly,
//! without holes, overlaps or trailing bytes. Entries are read one by one, so memory stays near that of the header.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;

use safetensors::Dtype;
use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::contents;
use crate::error::{Error, Result};

/// Largest header in bytes.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// From this file size on, the header may be at most a quarter of the file.
const SMALL_FILE: u64 = 1 << 20;
/// Most tensors in one checkpoint.
pub(crate) const MAX_TENSORS: usize = 200_000;
/// Longest tensor name in bytes.
pub(crate) const MAX_NAME: usize = 1_024;
/// The entry that is no tensor.
const METADATA: &str = "__metadata__";
/// Most dotted parts of a tensor name.
const MAX_PARTS: usize = 64;
/// Most dimensions of a tensor.
pub(crate) const MAX_RANK: usize = 16;
/// Most entries of `__metadata__`.
const MAX_METADATA: usize = 10_000;

/// One tensor of a file; `range` is in bytes of the file.
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: (usize, usize),
}

/// Reads and checks the header of a whole file; entries come in order of their data.
pub(crate) fn read(bytes: &[u8], path: &Path) -> Result<Vec<Entry>> {
    let other = |e: Error| match &e {
        Error::Format { code, .. } => contents::instead(bytes, path, code, "a safetensors file").unwrap_or(e),
        _ => e,
    };
    let head = head(bytes, path).map_err(other)?;
    let start = 8 + head.len();
    let mut entries = parse(head, path)?;
    entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = entries.windows(2).find(|w| w[0].name == w[1].name) {
        let what = format!("the header holds {:?} twice", twice[0].name);
        return Err(Error::format(path, "json.duplicate", what, AGAIN));
    }
    entries.sort_unstable_by_key(|e| e.range);
    check_extents(&entries, bytes.len() - start, path)?;
    entries.iter_mut().for_each(|e| e.range = (start + e.range.0, start + e.range.1));
    Ok(entries)
}

/// The JSON text of the header.
fn head<'a>(bytes: &'a [u8], path: &Path) -> Result<&'a [u8]> {
    let cut = |what: String| Error::format(path, "safetensors.truncated", what, "download it again");
    let (len, rest) =
        bytes.split_first_chunk::<8>().ok_or_else(|| cut("shorter than its 8-byte header length".into()))?;
    let (len, file) = (u64::from_le_bytes(*len), bytes.len() as u64);
    if len > MAX_HEADER {
        return Err(bad(path, format!("header length {len} is over {MAX_HEADER}")));
    }
    let head = rest.get(..len as usize).ok_or_else(|| cut(format!("header of {len} bytes in a file of {file}")))?;
    if file > SMALL_FILE && len > file / 4 {
        return Err(bad(path, format!("header of {len} bytes is over a quarter of the file")));
    }
    if head.first() != Some(&b'{') {
        return Err(bad(path, "the header does not start with `{`".into()));
    }
    Ok(head)
}

fn parse(head: &[u8], path: &Path) -> Result<Vec<Entry>> {
    let at = RefCell::new(String::new());
    let mut de = serde_json::Deserializer::from_slice(head);
    let parsed = de.deserialize_map(Header { at: &at }).and_then(|entries| de.end().map(|()| entries));
    parsed.map_err(|e| {
        let text = e.to_string();
        let code = match e.classify() {
            serde_json::error::Category::Data if text.contains("duplicate") => "json.duplicate",
            serde_json::error::Category::Data => "safetensors.header",
            _ => "json.syntax",
        };
        let at = at.borrow();
        let place = if at.is_empty() { String::new() } else { format!(" in or after the entry of {at:?}") };
        Error::format(path, code, format!("bad header: {text}{place}"), AGAIN)
    })
}

/// Extents must follow each other from 0 to `data`, each as long as its type and shape say.
fn check_extents(entries: &[Entry], data: usize, path: &Path) -> Result<()> {
    if let Some(e) = entries.iter().find(|e| e.range.1 > data) {
        let what = format!("{} ends at byte {} of the data, the file holds {data}", e.name, e.range.1);
        return Err(Error::format(path, "safetensors.truncated", what, "download it again"));
    }
    let mut end = 0;
    let mut before = "the start";
    for Entry { name, dtype, shape, range: (from, to) } in entries {
        if to < from {
            return Err(bad(path, format!("{name}: data_offsets [{from}, {to}] run backwards")));
        }
        let bits = shape.iter().try_fold(dtype.bitsize(), |n, d| n.checked_mul(*d));
        let bits = bits.ok_or_else(|| bad(path, format!("{name}: the size of {shape:?} overflows")))?;
        if bits % 8 != 0 || bits / 8 != to - from {
            let held = to - from;
            return Err(bad(
                path,
                format!("{name}: {dtype:?} {shape:?} is {bits} bits, data_offsets hold {held} bytes"),
            ));
        }
        if *from < end {
            return Err(bad(path, format!("{name} overlaps {before}")));
        }
        if *from > end {
            return Err(bad(path, format!("{} bytes between {before} and {name} belong to no tensor", from - end)));
        }
        (end, before) = (*to, name);
    }
    if end != data {
        return Err(bad(path, format!("{} bytes after the last tensor belong to no tensor", data - end)));
    }
    Ok(())
}

const AGAIN: &str = "the file is damaged or not a safetensors file; download it again";

fn bad(path: &Path, what: String) -> Error {
    Error::format(path, "safetensors.header", what, AGAIN)
}

/// Whether a tensor may have this name; else what is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    let (len, parts) = (name.len(), name.split('.').count());
    match () {
        () if len == 0 || len > MAX_NAME => Err(format!("a tensor name of {len} bytes, allowed: 1 to {MAX_NAME}")),
        () if parts > MAX_PARTS => Err(format!("a tensor name of {parts} parts, the limit is {MAX_PARTS}")),
        () if name == METADATA => Err(format!("a tensor named {METADATA}, which is no tensor")),
        () => Ok(()),
    }
}

/// Reads the header object; `at` names the entry being read, for messages.
struct Header<'a> {
    at: &'a RefCell<String>,
}

impl<'de> Visitor<'de> for Header<'_> {
    type Value = Vec<Entry>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Entry>, A::Error> {
        let mut entries = Vec::new();
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            let named = if name == METADATA { Ok(()) } else { check_name(&name) };
            named.map_err(de::Error::custom)?;
            self.at.borrow_mut().clone_from(&name);
            if name == METADATA {
                if metadata {
                    return Err(de::Error::custom("duplicate __metadata__"));
                }
                metadata = true;
                map.next_value_seed(Metadata)?;
                continue;
            }
            if entries.len() == MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            let info: Info = map.next_value()?;
            entries.push(Entry { name, dtype: info.dtype, shape: info.shape.0, range: info.data_offsets });
        }
        Ok(entries)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Info {
    dtype: Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// Dimensions; a list that is too long is refused before it takes memory.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Dims;
        impl<'de> Visitor<'de> for Dims {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of dimensions")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut dims = Vec::new();
                while let Some(d) = seq.next_element()? {
                    if dims.len() == MAX_RANK {
                        return Err(de::Error::custom(format!("more than {MAX_RANK} dimensions")));
                    }
                    dims.push(d);
                }
                Ok(Shape(dims))
            }
        }
        d.deserialize_seq(Dims)
    }
}

/// Reads `__metadata__` and forgets it: texts only, no key twice.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of texts")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = std::collections::BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<String>()?;
            if keys.len() == MAX_METADATA {
                return Err(de::Error::custom(format!("more than {MAX_METADATA} entries")));
            }
            if !keys.insert(key) {
                return Err(de::Error::custom("duplicate key in __metadata__"));
            }
        }
        Ok(())
    }
}
