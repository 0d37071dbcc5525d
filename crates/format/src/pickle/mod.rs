//! PyTorch's pickled checkpoints, zipped (`torch.save` since 1.6) and older, as tensors. Nothing of a file is ever run.

mod extract;
mod machine;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use zip::ZipArchive;

use crate::contents;
use crate::error::{Error, Result};
use crate::mmap::Mapped;
use crate::store::SavedMap;
use machine::{Obj, Pickle};

/// Largest pickle inside a zipped file; tensors lie beside it.
const MAX_PICKLE: u64 = 256 << 20;
/// What tensors may take together, in sizes of the file: strides can make much of little.
const MAX_GROWTH: usize = 8;
/// How old files begin, as a number.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
const PROTOCOL: i64 = 1001;

/// What was read.
#[derive(Debug)]
pub struct Pickled {
    /// The tensors, in the types they are stored in.
    pub tensors: SavedMap,
    /// Key of the dictionary that held them, if it was not the outermost.
    pub key: Option<String>,
    /// Prefix that every name had and that was taken off.
    pub prefix: Option<&'static str>,
    /// Entries beside the tensors that are no tensors.
    pub skipped: Vec<String>,
    /// Entries that hold tensors and were not read.
    pub left: Vec<Left>,
}

/// An entry that holds tensors and was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its keys, joined by dots.
    pub name: String,
    /// The reason, to follow the name.
    pub why: String,
}

/// Whether the first eight bytes are a length within the file, as in safetensors.
fn is_length(bytes: &[u8]) -> bool {
    let first = bytes.first_chunk().map(|b| u64::from_le_bytes(*b));
    first.is_some_and(|n| n < bytes.len() as u64)
}

/// Reads a checkpoint. `key` names the entry that holds the tensors; without it, the usual ones are looked for.
pub fn read(path: &Path, key: Option<&str>) -> Result<Pickled> {
    if path.is_dir() {
        let hint = "name the file in it that holds the weights, such as pytorch_model.bin";
        return Err(Error::format(path, "file.kind", "is a folder", hint));
    }
    let map = Mapped::open(path)?;
    let bytes = map.bytes();
    let file = Source { path, bytes, max: bytes.len().saturating_mul(MAX_GROWTH).saturating_add(1 << 20) };
    if bytes.starts_with(b"PK") {
        file.zipped(key)
    } else if bytes.first() == Some(&0x80) {
        file.plain(key)
    } else if bytes.get(257..262) == Some(b"ustar") {
        Err(file.fail("pickle.format", "is a tar file of PyTorch before 0.2".into()))
    } else if bytes.get(8) == Some(&b'{') && is_length(bytes) {
        Err(Error::format(
            path,
            "pickle.format",
            "is already safetensors",
            "use it as it is; there is nothing to convert",
        ))
    } else {
        let other = contents::instead(bytes, path, "pickle.format", "a PyTorch checkpoint");
        Err(other.unwrap_or_else(|| file.fail("pickle.format", "is no PyTorch checkpoint".into())))
    }
}

struct Source<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    max: usize,
}

impl Source<'_> {
    fn fail(&self, code: &'static str, what: String) -> Error {
        if code == "limit" {
            let got = self.bytes.len() as u64;
            let what = format!("what {} asks for ({what}), from bytes,", self.path.display());
            return Error::Limit { what, got, max: self.max as u64, hint: "no real checkpoint needs so much".into() };
        }
        let hint = match code {
            "pickle.global" => "save model.state_dict() alone, which holds tensors and no code",
            "pickle.key" => "name the entry with --key",
            "pickle.tensor" => "save a state_dict of dense tensors, each under a name of its own",
            _ => "give a file that torch.save wrote of a state_dict",
        };
        Error::format(self.path, code, what, hint)
    }

    fn pickle(&self, bytes: &[u8]) -> Result<Pickle> {
        Pickle::read(bytes, &|code, what| self.fail(code, what))
    }

    fn zipped(&self, key: Option<&str>) -> Result<Pickled> {
        let bad = |e: zip::result::ZipError| self.fail("pickle.archive", format!("is not a readable zip file: {e}"));
        let mut zip = ZipArchive::new(Cursor::new(self.bytes)).map_err(bad)?;
        // Two names for one place would make much of little.
        if zip.has_overlapping_files().map_err(bad)? {
            return Err(self.fail("pickle.archive", "holds entries that overlap".into()));
        }
        let names: Vec<String> = zip.file_names().filter_map(|n| n.ok().map(|n| n.into_owned())).collect();
        let roots: Vec<&str> = names.iter().filter_map(|n| n.strip_suffix("data.pkl")).collect();
        let [root] = roots.as_slice() else {
            return Err(self.fail("pickle.archive", format!("holds {} pickles, must hold one", roots.len())));
        };
        if names.contains(&format!("{root}constants.pkl")) {
            return Err(self.fail("pickle.format", "is a TorchScript program, not a checkpoint".into()));
        }
        let mut entry = |name: &str, max: u64| -> Result<Vec<u8>> {
            let file = zip.by_name(name).map_err(bad)?;
            let size = file.size();
            if size > max {
                return Err(self.fail("limit", format!("{name} of {size} bytes")));
            }
            let mut bytes = Vec::new();
            let read = file.take(max + 1).read_to_end(&mut bytes);
            read.map_err(|e| self.fail("pickle.archive", format!("{name} cannot be read: {e}")))?;
            if bytes.len() as u64 != size {
                return Err(self.fail("pickle.archive", format!("{name} is not as long as the zip file says")));
            }
            Ok(bytes)
        };
        let order = format!("{root}byteorder");
        if names.contains(&order) && entry(&order, 16)? != b"little" {
            return Err(self.fail("pickle.storage", "was written on a big-endian machine".into()));
        }
        let pickle = self.pickle(&entry(&format!("{root}data.pkl"), MAX_PICKLE)?)?;
        let found = extract::find(&pickle, key, &|code, what| self.fail(code, what))?;
        let mut data = BTreeMap::new();
        for (name, size) in found.storages() {
            let bytes = entry(&format!("{root}data/{name}"), self.bytes.len() as u64)?;
            if bytes.len() != size {
                let what = format!("storage {name} has {} bytes, its tensors say {size}", bytes.len());
                return Err(self.fail("pickle.storage", what));
            }
            data.insert(name.to_string(), bytes);
        }
        found.tensors(self.max, &|name| data.get(name).map(Vec::as_slice), &|code, what| self.fail(code, what))
    }

    /// Pickles one after the other: a number, a version, the machine, the tensors, the keys of storages; then the storages.
    fn plain(&self, key: Option<&str>) -> Result<Pickled> {
        let mut rest = self.bytes;
        let mut next = || -> Result<Pickle> {
            let p = self.pickle(rest)?;
            rest = &rest[p.len..];
            Ok(p)
        };
        let magic = next()?;
        if !matches!(magic.get(magic.root), Obj::Big(b) if *b == MAGIC) {
            return Err(self.fail("pickle.format", "is a pickle, but not one that torch.save wrote".into()));
        }
        let version = next()?;
        if !matches!(version.get(version.root), Obj::Int(PROTOCOL)) {
            return Err(self.fail("pickle.format", "has another version than torch.save writes".into()));
        }
        next()?;
        let pickle = next()?;
        let keys = next()?;
        let found = extract::find(&pickle, key, &|code, what| self.fail(code, what))?;
        let sizes: BTreeMap<&str, usize> = found.storages().collect();
        let all = extract::storages(&pickle);
        let mut data: BTreeMap<String, &[u8]> = BTreeMap::new();
        let Obj::List(list) = keys.get(keys.root) else {
            return Err(self.fail("pickle.format", "does not list its storages".into()));
        };
        for id in list {
            let name = keys.text(*id).unwrap_or_default();
            let short = || self.fail("pickle.truncated", format!("ends inside storage {name:.40}"));
            let width = *all.get(name).ok_or_else(|| {
                self.fail("pickle.storage", format!("lists storage {name:.40}, which no tensor uses"))
            })?;
            let (count, after) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let size = usize::try_from(u64::from_le_bytes(*count)).ok().and_then(|n| n.checked_mul(width));
            let size = size.filter(|n| *n <= after.len()).ok_or_else(short)?;
            if sizes.get(name).is_some_and(|want| *want != size) {
                return Err(
                    self.fail("pickle.storage", format!("storage {name:.40} has another size than its tensors say"))
                );
            }
            data.insert(name.to_string(), &after[..size]);
            rest = &after[size..];
        }
        found.tensors(self.max, &|name| data.get(name).copied(), &|code, what| self.fail(code, what))
    }
}
