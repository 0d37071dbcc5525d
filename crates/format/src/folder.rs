//! A checkpoint folder: on disk, or compiled into the binary.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json;
use crate::mmap::Mapped;

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
    /// A directory on disk. Errors when it is none.
    pub fn disk(dir: &Path) -> Result<Folder> {
        let meta = std::fs::metadata(dir).map_err(|e| Error::io(dir, e))?;
        if !meta.is_dir() {
            return Err(Error::format(dir, "checkpoint.folder", "is not a folder", "name a Hugging Face model folder"));
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
            Folder::Disk(dir) => json::read_capped(&dir.join(name), max),
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
            Folder::Disk(dir) => Mapped::open(&dir.join(name)).map(Blob::Mapped),
            Folder::Embedded(_) => {
                self.embedded(name).map(|b| Blob::Static(b, self.path(name))).ok_or_else(|| self.absent(name))
            }
        }
    }

    fn absent(&self, name: &str) -> Error {
        Error::io(self.path(name), std::io::ErrorKind::NotFound.into())
    }
}
