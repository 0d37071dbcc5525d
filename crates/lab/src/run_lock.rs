//! Folders that one process at a time works in.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;

use crate::error::Result;

/// A folder that is this process's until the value is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct RunLock {
    /// The lock goes with the file.
    _file: Option<File>,
}

impl RunLock {
    /// The folder, made if absent; none where another process holds it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn take(dir: &Path) -> Result<Option<Self>> {
        let file = lock_file(dir)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(RunLock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => RunLock::without(dir, e).map(Some),
        }
    }

    /// The folder, made if absent, once no other process holds it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn wait(dir: &Path) -> Result<Self> {
        let file = lock_file(dir)?;
        match file.lock() {
            Ok(()) => Ok(RunLock { _file: Some(file) }),
            Err(e) => RunLock::without(dir, e),
        }
    }

    /// Some file systems have no locks; there the user is trusted.
    fn without(dir: &Path, error: io::Error) -> Result<Self> {
        if error.kind() == io::ErrorKind::Unsupported {
            return Ok(RunLock { _file: None });
        }
        Err(switchformer_nn::Error::io(dir, error).into())
    }
}

/// The file of a folder that stands for it; it stays there, empty.
fn lock_file(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir).map_err(|e| switchformer_nn::Error::io(dir, e))?;
    let path = dir.join("lock");
    // Nothing is cut: the name might be a link to a file of the user.
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    Ok(file.map_err(|e| switchformer_nn::Error::io(&path, e))?)
}
