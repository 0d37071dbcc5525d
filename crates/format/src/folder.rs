//! A checkpoint folder: on disk, or compiled into the binary.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json;
use crate::mmap::Mapped;

/// What every model folder holds.
const CONFIG: &str = "config.json";
/// Most snapshots of a cache that are looked at.
const MAX_SNAPSHOTS: usize = 1_000;

/// Where the files of a checkpoint are.
#[derive(Clone, Debug)]
pub enum Folder {
    /// A directory.
    Disk(PathBuf),
    /// File names and contents compiled into the binary.
    Embedded(&'static [(&'static str, &'static [u8])]),
}

/// Bytes of a file: mapped or compiled in.
#[derive(Debug)]
pub enum Blob {
    /// Mapped read-only.
    Mapped(Mapped),
    /// Compiled in, with the path to show in messages.
    Static(&'static [u8], PathBuf),
}

impl Blob {
    /// The content.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Blob::Mapped(m) => m.bytes(),
            Blob::Static(b, _) => b,
        }
    }

    /// See [`Mapped::release`].
    pub fn release(&self, from: usize, to: usize) {
        if let Blob::Mapped(m) = self {
            m.release(from, to);
        }
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        match self {
            Blob::Mapped(m) => m.path(),
            Blob::Static(_, p) => p,
        }
    }
}

impl Folder {
    /// A directory on disk; a model's folder in a hub's cache (`models--OWNER--NAME`) stands for its only snapshot. Errors when
    /// it is none, or there are several.
    pub fn disk(dir: &Path) -> Result<Folder> {
        let meta = std::fs::metadata(dir).map_err(|e| Error::io(dir, e))?;
        if !meta.is_dir() {
            return Err(Error::format(dir, "checkpoint.folder", "is not a folder", "name a Hugging Face model folder"));
        }
        let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("models--") && !dir.join(CONFIG).exists() {
            return snapshot(dir).map(Folder::Disk);
        }
        Ok(Folder::Disk(dir.to_path_buf()))
    }

    /// Path of a file, for messages.
    pub fn path(&self, name: &str) -> PathBuf {
        match self {
            Folder::Disk(dir) => dir.join(name),
            Folder::Embedded(_) => Path::new("(embedded)").join(name),
        }
    }

    fn embedded(&self, name: &str) -> Option<&'static [u8]> {
        match self {
            Folder::Disk(_) => None,
            Folder::Embedded(files) => files.iter().find(|(n, _)| *n == name).map(|(_, b)| *b),
        }
    }

    /// Whether the folder holds a file of this name.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Folder::Disk(dir) => dir.join(name).exists(),
            Folder::Embedded(_) => self.embedded(name).is_some(),
        }
    }

    /// Content of a file of at most `max` bytes.
    pub fn read(&self, name: &str, max: u64) -> Result<Vec<u8>> {
        match self {
            Folder::Disk(dir) => json::read_capped(&dir.join(name), max).map_err(|e| self.explained(name, e)),
            Folder::Embedded(_) => self.embedded(name).map(<[u8]>::to_vec).ok_or_else(|| self.absent(name)),
        }
    }

    /// A JSON file of at most `max` bytes, parsed strictly.
    pub fn json(&self, name: &str, max: u64) -> Result<Value> {
        json::parse(&self.read(name, max)?, &self.path(name))
    }

    /// A large binary file.
    pub fn blob(&self, name: &str) -> Result<Blob> {
        match self {
            Folder::Disk(dir) => Mapped::open(&dir.join(name)).map(Blob::Mapped).map_err(|e| self.explained(name, e)),
            Folder::Embedded(_) => {
                self.embedded(name).map(|b| Blob::Static(b, self.path(name))).ok_or_else(|| self.absent(name))
            }
        }
    }

    fn absent(&self, name: &str) -> Error {
        self.explained(name, Error::io(self.path(name), std::io::ErrorKind::NotFound.into()))
    }

    /// What to do about a file that is not there; other errors as they are.
    pub(crate) fn explained(&self, name: &str, error: Error) -> Error {
        match &error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {}
            _ => return error,
        }
        let below = Path::new(name).parent().filter(|p| !p.as_os_str().is_empty() && !self.path("").join(p).is_dir());
        let (what, hint) = match below {
            Some(below) => (
                format!("is missing, with its folder {}", below.display()),
                "a download that leaves out subfolders is not whole: fetch the folder again (`hf download`)",
            ),
            None if name == CONFIG => {
                ("is missing".to_string(), "name a model folder, with config.json and model.safetensors in it")
            }
            None => (
                "is missing".to_string(),
                "fetch the folder again (`hf download`); other files of it refer to this one",
            ),
        };
        Error::format(self.path(name), "checkpoint.missing", what, hint)
    }
}

/// The only snapshot of a model in a hub's cache.
fn snapshot(dir: &Path) -> Result<PathBuf> {
    let list = std::fs::read_dir(dir.join("snapshots")).into_iter().flatten().take(MAX_SNAPSHOTS);
    let mut all: Vec<PathBuf> = list.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    all.sort();
    match all.as_slice() {
        [one] => Ok(one.clone()),
        [] => {
            let what = "is a folder of a hub's cache without a snapshot";
            Err(Error::format(dir, "checkpoint.folder", what, "fetch the model again (`hf download`)"))
        }
        several => {
            let names: Vec<_> = several.iter().filter_map(|p| Some(p.file_name()?.to_string_lossy())).collect();
            let what = format!("holds {} snapshots: {}", names.len(), names.join(", "));
            Err(Error::format(dir, "checkpoint.folder", what, "name one of them, .../snapshots/HASH"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_hub_s_cache_stands_for_its_only_snapshot() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("models--x--y");
        std::fs::create_dir(&dir).unwrap();
        assert!(Folder::disk(&dir).unwrap_err().to_string().contains("without a snapshot"));
        std::fs::create_dir_all(dir.join("snapshots/abc")).unwrap();
        assert!(matches!(Folder::disk(&dir).unwrap(), Folder::Disk(d) if d.ends_with("snapshots/abc")));
        std::fs::create_dir(dir.join("snapshots/def")).unwrap();
        let several = Folder::disk(&dir).unwrap_err().to_string();
        assert!(several.contains("abc, def") && several.contains("name one of them"), "{several}");
    }

    #[test]
    fn what_is_missing_says_what_to_do() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::disk(temp.path()).unwrap();
        let says = |name: &str| folder.read(name, 100).unwrap_err().to_string();
        assert!(says("config.json").contains("name a model folder"));
        assert!(
            says("1_Pooling/config.json").contains("with its folder 1_Pooling; a download that leaves out subfolders")
        );
        assert!(folder.blob("x.safetensors").unwrap_err().to_string().contains("fetch the folder again"));
    }
}
