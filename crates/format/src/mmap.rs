//! The one place outside the kernels that needs `unsafe`: mapping a checkpoint read-only.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, no_file};

/// A file mapped read-only.
///
/// Truncating a mapped file from another process ends this one with SIGBUS; that is documented, not defended against.
#[derive(Debug)]
pub struct Mapped {
    map: memmap2::Mmap,
    path: PathBuf,
}

impl Mapped {
    /// Maps a regular file that is not empty; its length is read again after mapping.
    pub fn open(path: &Path) -> Result<Self> {
        // Asked before opening: opening a named pipe would wait for a writer for ever.
        let before = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !before.is_file() {
            return Err(Error::format(path, "file.kind", no_file(&before), "name a safetensors file"));
        }
        if before.len() == 0 {
            return Err(Error::format(path, "safetensors.empty", "the file is empty", "download it again"));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        #[allow(unsafe_code)]
        // SAFETY: the map is read-only and private to this struct; bytes are only ever read as `&[u8]` and every
        // extent is checked against the mapped length first. Concurrent truncation is the caller's to avoid (above).
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io(path, e))?;
        let after = file.metadata().map_err(|e| Error::io(path, e))?;
        if after.len() != map.len() as u64 {
            return Err(Error::format(path, "file.changed", "the file changed while it was opened", "try again"));
        }
        Ok(Mapped { map, path: path.to_path_buf() })
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Lets go of the pages of a part of the file: they count as memory of this process until then. A later read brings
    /// them back.
    pub fn release(&self, from: usize, to: usize) {
        #[cfg(unix)]
        if from < to && to <= self.map.len() {
            #[allow(unsafe_code)]
            // SAFETY: the map is of a file and never written, so pages that are dropped come back with the same bytes; the range
            // is inside the map. What else lies on its first and last page is dropped, and comes back, too.
            let told = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, from, to - from) };
            // Advice that is not taken costs memory and nothing else.
            drop(told);
        }
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
