//! Writing checkpoints: deterministic bytes, and never a half-written file under the final name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::{Error, Result};
use crate::header;

/// One tensor to store.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    /// Element type.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<usize>,
    /// Little-endian bytes.
    pub bytes: Vec<u8>,
}

/// Tensors to store, by published name.
pub type SavedMap = BTreeMap<String, Saved>;

impl Saved {
    /// f32 values.
    pub fn f32(shape: &[usize], values: &[f32]) -> Saved {
        Saved { dtype: Dtype::F32, shape: shape.to_vec(), bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect() }
    }

    /// Signed bytes.
    pub fn i8(shape: &[usize], values: &[i8]) -> Saved {
        Saved { dtype: Dtype::I8, shape: shape.to_vec(), bytes: values.iter().map(|v| *v as u8).collect() }
    }
}

/// Serialised safetensors with the metadata that other readers look for. Equal maps give equal bytes. Errors where reading
/// would refuse a name, a rank or the size of the header.
pub fn safetensors_bytes(tensors: &SavedMap) -> Result<Vec<u8>> {
    let path = Path::new("safetensors");
    let views = tensors
        .iter()
        .map(|(name, s)| {
            TensorView::new(s.dtype, s.shape.clone(), &s.bytes)
                .map(|v| (name.as_str(), v))
                .map_err(|e| Error::format(path, "safetensors.write", e.to_string(), "this is a bug"))
        })
        .collect::<Result<Vec<_>>>()?;
    // One metadata key only: the crate's map has no fixed order.
    let meta = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
    let bytes = safetensors::serialize(views, Some(meta))
        .map_err(|e| Error::format(path, "safetensors.write", e.to_string(), "this is a bug"))?;
    // What reading would refuse is not written.
    match header::read(&bytes, path) {
        Ok(_) => Ok(bytes),
        Err(Error::Format { what, .. }) => {
            Err(Error::format(path, "safetensors.write", what, "no file was written; rename or split the tensors"))
        }
        Err(e) => Err(e),
    }
}

/// Writes a file under a temporary sibling name, syncs it, and renames it into place.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let temp = sibling(path);
    let io = |e| Error::io(&temp, e);
    let mut file = File::create_new(&temp).map_err(io)?;
    let done = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(e) = done.and_then(|()| fs::rename(&temp, path)) {
        let _ = fs::remove_file(&temp);
        return Err(Error::io(path, e));
    }
    sync_dir(path)
}

/// Errors where something of this name exists: what a command makes of a checkpoint replaces nothing.
pub fn unused(out: &Path) -> Result<()> {
    match out.exists() {
        true => Err(Error::input(format!("{} exists already", out.display()), "name a new folder")),
        false => Ok(()),
    }
}

/// Writes a folder of files (names may lead into subfolders): all or nothing. An existing folder of that name is replaced.
pub fn write_folder<N: AsRef<str>>(dir: &Path, files: &[(N, Vec<u8>)]) -> Result<()> {
    let temp = sibling(dir);
    fs::create_dir_all(&temp).map_err(|e| Error::io(&temp, e))?;
    let fill = || -> Result<()> {
        for (name, bytes) in files {
            let path = temp.join(name.as_ref());
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
            }
            write_atomic(&path, bytes)?;
        }
        // A folder cannot be renamed over a full one: move the old one aside first, so that one of both always exists.
        let old = dir.exists().then(|| sibling(&dir.with_extension("old")));
        if let Some(old) = &old {
            fs::rename(dir, old).map_err(|e| Error::io(dir, e))?;
        }
        if let Err(e) = fs::rename(&temp, dir) {
            if let Some(old) = &old {
                let _ = fs::rename(old, dir);
            }
            return Err(Error::io(dir, e));
        }
        sync_dir(dir)?;
        if let Some(old) = old {
            fs::remove_dir_all(&old).map_err(|e| Error::io(&old, e))?;
        }
        Ok(())
    };
    let done = fill();
    if done.is_err() {
        let _ = fs::remove_dir_all(&temp);
    }
    done
}

/// A temporary name beside `path` that no other process uses.
fn sibling(path: &Path) -> PathBuf {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.tmp-{}", std::process::id()))
}

fn sync_dir(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).map_err(|e| Error::io(parent, e))
}
