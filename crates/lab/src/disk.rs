//! File operations of the save protocol, each of which a test can make the last one of a process.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use switchformer_nn::Error;

use crate::error::Result;

/// Does the operations. In tests the n-th fails half-done, and all after it, as if the process had been killed.
#[derive(Debug, Default)]
pub struct Disk {
    #[cfg(test)]
    pub(crate) done: std::cell::Cell<usize>,
    #[cfg(test)]
    pub(crate) dies_at: Option<usize>,
}

impl Disk {
    /// Whether this operation is the one that dies, or comes after it.
    #[cfg(test)]
    fn dead(&self) -> Option<bool> {
        let now = self.done.get();
        self.done.set(now + 1);
        self.dies_at.filter(|at| now >= *at).map(|at| now == at)
    }

    #[cfg(not(test))]
    fn dead(&self) -> Option<bool> {
        None
    }

    fn act(&self, path: &Path, work: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        let done = match self.dead() {
            None => work(),
            Some(_) => Err(std::io::Error::other("killed")),
        };
        done.map_err(|e| Error::io(path, e).into())
    }

    /// Makes a folder; its parents must exist.
    pub fn make_dir(&self, path: &Path) -> Result<()> {
        self.act(path, || fs::create_dir(path))
    }

    /// Writes a new file whole and syncs it.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let put = |bytes: &[u8]| -> std::io::Result<()> { File::create(path)?.write_all(bytes) };
        match self.dead() {
            None => {}
            // The kill comes in the middle of the bytes.
            Some(first) => {
                if first {
                    put(&bytes[..bytes.len() / 2]).map_err(|e| Error::io(path, e))?;
                }
                return Err(Error::io(path, std::io::Error::other("killed")).into());
            }
        }
        put(bytes).map_err(|e| Error::io(path, e))?;
        self.sync(path)
    }

    /// Makes the content of a file or folder last.
    pub fn sync(&self, path: &Path) -> Result<()> {
        self.act(path, || File::open(path)?.sync_all())
    }

    /// Gives a file or folder another name.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.act(from, || fs::rename(from, to))
    }

    /// Removes a file.
    pub fn remove_file(&self, path: &Path) -> Result<()> {
        self.act(path, || fs::remove_file(path))
    }

    /// Removes an empty folder.
    pub fn remove_dir(&self, path: &Path) -> Result<()> {
        self.act(path, || fs::remove_dir(path))
    }
}
