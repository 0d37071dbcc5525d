//! The files of a checkpoint: one or several shards, mapped, every header checked before anything is read.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use safetensors::Dtype;

use crate::account::{Handling, Key};
use crate::error::{Error, Result};
use crate::folder::{Blob, Folder};
use crate::header::{self, MAX_TENSORS};
use crate::mmap::Mapped;
use crate::names::Names;

/// The weights of a checkpoint in one file.
const SINGLE: &str = "model.safetensors";
/// The list of shards where there are several.
pub const INDEX: &str = "model.safetensors.index.json";
/// Every key of [`INDEX`], and what is done about it.
pub static INDEX_KEYS: &[Key] = &[
    Key::new(INDEX, "weight_map", Handling::Applied, "which file holds each tensor"),
    Key::new(INDEX, "metadata", Handling::NoEffect, "a record of sizes"),
];
/// Largest shard index file.
const MAX_INDEX: u64 = 16 << 20;
/// Most shards of one checkpoint.
const MAX_SHARDS: usize = 10_000;

/// Most tensors that are stored as one.
const MAX_PARTS: usize = 4_096;

/// Header of one stored tensor.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    file: usize,
    range: (usize, usize),
}

impl Stored {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|d| *d as u64).product()
    }

    /// Its size in the file.
    pub fn bytes(&self) -> u64 {
        (self.range.1 - self.range.0) as u64
    }
}

/// The mapped files of a checkpoint and what they hold, by canonical name.
#[derive(Clone, Default)]
pub struct Files {
    maps: Vec<Arc<Blob>>,
    entries: BTreeMap<String, Stored>,
}

impl Files {
    /// Maps the checkpoint in a folder and checks every header.
    pub fn open(folder: &Folder, names: &Names) -> Result<Files> {
        let mut files = Files::default();
        if folder.has(SINGLE) {
            files.add(folder.blob(SINGLE)?, names, None)?;
        } else if folder.has(INDEX) {
            files.add_shards(folder, names)?;
        } else {
            let pickle = ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"];
            let onnx = ["model.onnx", "onnx/model.onnx"];
            let (what, hint) = match pickle.iter().chain(&onnx).find(|p| folder.has(p)) {
                Some(p) if onnx.contains(p) => (
                    format!("holds {p} but no {SINGLE}"),
                    "`switchformer convert` reads the tensors of an ONNX file and writes model.safetensors",
                ),
                Some(p) => (
                    format!("holds {p} but no {SINGLE}"),
                    "pickle files can run code and are not opened; `switchformer convert` reads the tensors and writes model.safetensors",
                ),
                None => (format!("holds no {SINGLE}"), "name a Hugging Face model folder"),
            };
            return Err(Error::format(folder.path(""), "checkpoint.missing", what, hint));
        }
        Ok(files)
    }

    /// Maps one safetensors file of a folder and checks its header.
    pub fn one(folder: &Folder, name: &str, names: &Names) -> Result<Files> {
        let mut files = Files::default();
        files.add(folder.blob(name)?, names, None)?;
        Ok(files)
    }

    /// Headers of all tensors, by canonical name.
    pub fn entries(&self) -> &BTreeMap<String, Stored> {
        &self.entries
    }

    fn add_shards(&mut self, folder: &Folder, names: &Names) -> Result<()> {
        let index = folder.path(INDEX);
        let bad = |what: String| {
            Error::format(&index, "index.schema", what, "compare with the index that Hugging Face writes")
        };
        let doc = folder.json(INDEX, MAX_INDEX)?;
        let map = doc.get("weight_map").and_then(|m| m.as_object()).ok_or_else(|| bad("no weight_map".into()))?;
        let mut shards: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (tensor, shard) in map {
            let shard = shard.as_str().ok_or_else(|| bad(format!("shard of {tensor} is not text")))?;
            shards.entry(shard).or_default().insert(tensor);
        }
        if shards.len() > MAX_SHARDS {
            return Err(bad(format!("{} shards, the limit is {MAX_SHARDS}", shards.len())));
        }
        let names = &names.among(map.keys().map(String::as_str));
        for (shard, tensors) in shards {
            check_shard(folder, &index, shard)?;
            self.add(folder.blob(shard)?, names, Some(&tensors))?;
        }
        Ok(())
    }

    fn add(&mut self, map: Blob, names: &Names, expected: Option<&BTreeSet<&str>>) -> Result<()> {
        let path = &map.path().to_path_buf();
        let file = self.maps.len();
        let mut lost = expected.cloned().unwrap_or_default();
        let tensors = header::read(map.bytes(), path)?;
        let names = names.among(tensors.iter().map(|t| t.name.as_str()));
        for header::Entry { name, dtype, shape, range } in tensors {
            lost.remove(name.as_str());
            let canonical = names.canonical(&name);
            if names.ignored(&canonical) {
                continue;
            }
            for (canonical, stored) in split(path, canonical, Stored { name, dtype, shape, file, range })? {
                match self.entries.entry(canonical) {
                    Slot::Vacant(slot) => slot.insert(stored),
                    Slot::Occupied(other) => {
                        return Err(Error::format(
                            path,
                            "tensors.duplicate",
                            format!("{} and {} are the same tensor", stored.name, other.get().name),
                            "keep one generation of names",
                        ));
                    }
                };
            }
        }
        if self.entries.len() > MAX_TENSORS {
            return Err(Error::Limit {
                what: format!("tensors up to {}", path.display()),
                got: self.entries.len() as u64,
                max: MAX_TENSORS as u64,
                hint: "no model here has so many".into(),
            });
        }
        if let Some(lost) = lost.first() {
            return Err(Error::format(
                path,
                "index.mismatch",
                format!("the index promises {lost} here, the shard lacks it"),
                "download index and shards again, from one revision",
            ));
        }
        self.maps.push(Arc::new(map));
        Ok(())
    }

    /// The bytes of one of [`Files::entries`].
    pub fn bytes(&self, e: &Stored) -> &[u8] {
        &self.maps[e.file].bytes()[e.range.0..e.range.1]
    }

    /// A tensor of floats by its canonical name. Errors where there is none, and on integers.
    pub fn floats(&self, canonical: &str) -> Result<&Stored> {
        let e = self
            .entries
            .get(canonical)
            .ok_or_else(|| Error::input(format!("there is no {canonical}"), "see the config"))?;
        match e.dtype {
            Dtype::F32 | Dtype::F64 | Dtype::BF16 | Dtype::F16 => Ok(e),
            other => Err(Error::format(
                self.maps[e.file].path(),
                "tensors.dtype",
                format!("{} is stored as {other:?}", e.name),
                "weights must be F32, F16, BF16 or F64 (I8 with a switchformer quantization_config)",
            )),
        }
    }

    /// Values of a tensor by its canonical name, as f32. Errors as [`Files::floats`].
    pub fn read(&self, canonical: &str) -> Result<Vec<f32>> {
        let e = self.floats(canonical)?;
        let mut all = Vec::with_capacity(e.elements() as usize);
        self.append(e, 0, e.elements() as usize, &mut all);
        Ok(all)
    }

    /// Appends `len` values of one of [`Files::floats`] from the given place on, as f32. What lies outside it is left out.
    pub fn append(&self, e: &Stored, from: usize, len: usize, out: &mut Vec<f32>) {
        let width = match e.dtype {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            _ => 2,
        };
        let b = self.bytes(e);
        let at = |element: usize| element.saturating_mul(width).min(b.len());
        let b = &b[at(from)..at(from.saturating_add(len))];
        match e.dtype {
            Dtype::F64 => le::<8>(b, out, |v| f64::from_le_bytes(v) as f32),
            Dtype::F32 => le::<4>(b, out, f32::from_le_bytes),
            Dtype::F16 => le::<2>(b, out, |v| half_to_f32(u16::from_le_bytes(v))),
            _ => le::<2>(b, out, |v| f32::from_bits(u32::from(u16::from_le_bytes(v)) << 16)),
        }
    }

    /// Lets go of a tensor's part of the mapped file; see [`Mapped::release`].
    pub fn release(&self, e: &Stored) {
        self.maps[e.file].release(e.range.0, e.range.1);
    }
}

/// A stored tensor under its name, or the several that it holds.
fn split(path: &Path, canonical: String, whole: Stored) -> Result<Vec<(String, Stored)>> {
    let n = whole.shape.first().copied().unwrap_or(0);
    // Names are made once their number is known to be sound.
    let Some(names) = Names::parts(&canonical, if n <= MAX_PARTS { n } else { 0 }) else {
        return Ok(vec![(canonical, whole)]);
    };
    if names.is_empty() {
        return Err(Error::format(
            path,
            "tensors.parts",
            format!(
                "{} has the shape {:?}, whose first number counts 1 to {MAX_PARTS} tensors",
                whole.name, whole.shape
            ),
            "compare with the config",
        ));
    }
    let bytes = (whole.range.1 - whole.range.0) / n;
    let one = |(i, name): (usize, String)| {
        let from = whole.range.0 + i * bytes;
        let part = Stored { shape: whole.shape[1..].to_vec(), range: (from, from + bytes), ..whole.clone() };
        (name, part)
    };
    Ok(names.into_iter().enumerate().map(one).collect())
}

fn le<const N: usize>(bytes: &[u8], out: &mut Vec<f32>, f: impl Fn([u8; N]) -> f32) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|c| f(*c)));
}

/// IEEE half to single precision.
fn half_to_f32(h: u16) -> f32 {
    let sign = u32::from(h >> 15) << 31;
    let exp = u32::from(h >> 10) & 0x1f;
    let frac = u32::from(h) & 0x3ff;
    match exp {
        // Subnormal: frac * 2^-24.
        0 => f32::from_bits(sign | (frac as f32 * 2f32.powi(-24)).to_bits()),
        0x1f => f32::from_bits(sign | 0x7f80_0000 | (frac << 13)),
        _ => f32::from_bits(sign | ((exp + 112) << 23) | (frac << 13)),
    }
}

/// A shard must be a plain file name that resolves inside the folder (or into the `blobs` of a hub cache).
fn check_shard(folder: &Folder, index: &Path, shard: &str) -> Result<()> {
    let refuse = |what: String| {
        Error::format(index, "index.path", what, "shards must be plain file names inside the model folder")
    };
    let plain = !shard.is_empty()
        && shard.len() <= 255
        && !shard.contains(['/', '\\', ':', '\0'])
        && shard != ".."
        && shard != ".";
    if !plain {
        return Err(refuse(format!("shard name {shard:?}")));
    }
    let Folder::Disk(dir) = folder else { return Ok(()) };
    let path = dir.join(shard);
    path.canonicalize().map_err(|e| folder.explained(shard, Error::io(&path, e)))?;
    if inside(dir, &path)? {
        return Ok(());
    }
    Err(refuse(format!("shard {shard:?} points outside the folder")))
}

/// Whether a file lies in a folder after links are followed, or in the `blobs` of a hub cache, whose
/// `snapshots/<revision>/x` link to `../../blobs/<hash>`.
pub(crate) fn inside(dir: &Path, file: &Path) -> Result<bool> {
    let real = |p: &Path| p.canonicalize().map_err(|e| Error::io(p, e));
    let (home, real) = (real(dir)?, real(file)?);
    let blobs = home.parent().and_then(Path::parent).map(|p| p.join("blobs"));
    Ok(real.starts_with(&home) || blobs.is_some_and(|b| real.starts_with(b)))
}

/// Headers of a checkpoint folder or a single safetensors file, read without loading any tensor.
pub fn inspect(path: &Path) -> Result<Vec<Stored>> {
    if path.is_dir() {
        return inspect_folder(&Folder::disk(path)?);
    }
    let mut files = Files::default();
    files.add(Blob::Mapped(Mapped::open(path)?), &Names::default(), None)?;
    Ok(files.entries.into_values().collect())
}

/// Headers of a checkpoint folder, on disk or compiled in, read without loading any tensor.
pub fn inspect_folder(folder: &Folder) -> Result<Vec<Stored>> {
    Ok(Files::open(folder, &Names::default())?.entries.into_values().collect())
}
