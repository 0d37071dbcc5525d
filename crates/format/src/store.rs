//! Writing checkpoints: deterministic bytes, and never a half-written file under the final name.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::error::{Error, Result, no_file};
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

/// Writes a file under a temporary sibling name, syncs it, and renames it into place. Links are followed: what they lead to
/// is replaced, not the link. A pipe or a character device (`/dev/stdout`, `/dev/null`) is written to as it is.
///
/// # Errors
/// Where a folder, a block device or a socket is there, where a link leads to an open descriptor that is a regular file (its
/// reader would not see the new one), and where writing fails.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let (path, there) = end_of_links(path)?;
    match there {
        Some(there) if there.is_file() && descriptor(&path) => {
            let hint = "name the file itself";
            return Err(Error::format(path, "file.kind", "is an open file of this process", hint));
        }
        Some(there) if !there.is_file() => return write_through(&path, &there, bytes),
        _ => {}
    }
    let temp = sibling(&path);
    let io = |e| Error::io(&path, e);
    let mut file = File::create_new(&temp).map_err(io)?;
    let done = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(e) = done.and_then(|()| fs::rename(&temp, &path)) {
        let _ = fs::remove_file(&temp);
        return Err(Error::io(path, e));
    }
    sync_dir(&path)
}

/// Writes to what is no regular file, where that is a stream.
fn write_through(path: &Path, there: &Metadata, bytes: &[u8]) -> Result<()> {
    if !stream(there) {
        return Err(Error::format(path, "file.kind", no_file(there), "name a file; nothing was written"));
    }
    let file = File::options().write(true).open(path);
    file.and_then(|mut f| f.write_all(bytes)).map_err(|e| Error::io(path, e))
}

#[cfg(unix)]
fn stream(there: &Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    there.file_type().is_fifo() || there.file_type().is_char_device()
}

#[cfg(not(unix))]
fn stream(_: &Metadata) -> bool {
    false
}

/// Whether a name stands for an open file of a process, as what `/dev/stdout` leads to does.
fn descriptor(path: &Path) -> bool {
    let parent = path.parent().and_then(|p| fs::canonicalize(p).ok());
    parent.is_some_and(|p| p.starts_with("/proc") || p.starts_with("/dev/fd"))
}

/// Most links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

/// The place that links lead to, and what is there; the last link may lead to nothing yet.
fn end_of_links(path: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::symlink_metadata(&at) {
            // The link of a descriptor shows no path but what is open.
            Ok(m) if m.is_symlink() && !descriptor(&at) => {
                let to = fs::read_link(&at).map_err(|e| Error::io(&at, e))?;
                at = at.parent().unwrap_or(Path::new("")).join(to);
            }
            Ok(m) if m.is_symlink() => {
                return Ok((at.clone(), Some(fs::metadata(&at).map_err(|e| Error::io(&at, e))?)));
            }
            Ok(m) => return Ok((at, Some(m))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((at, None)),
            Err(e) => return Err(Error::io(at, e)),
        }
    }
    Err(Error::format(path, "file.kind", format!("leads through more than {MAX_LINKS} links"), "name a file"))
}

/// Errors where writing to `out` would replace one of the files in `read`, or one in a folder of them (whatever links lead
/// there): a command does not destroy what it reads.
pub fn apart<P: AsRef<Path>>(out: &Path, read: &[P]) -> Result<()> {
    let (end, there) = end_of_links(out)?;
    if !there.is_some_and(|m| m.is_file()) {
        return Ok(());
    }
    let real = |p: &Path| fs::canonicalize(p).map_err(|e| Error::io(p, e));
    let end = real(&end)?;
    for path in read.iter().map(AsRef::as_ref).filter(|p| p.exists()) {
        let inside = path.is_dir() && (end.starts_with(real(path)?) || leads_to(path, &end, 0)?);
        if inside || end == real(path)? {
            let what = format!("{} is read by this command and would be overwritten", out.display());
            return Err(Error::input(what, "name another file"));
        }
    }
    Ok(())
}

/// Deepest folder of a checkpoint that links are looked for in.
const MAX_FOLDERS: usize = 3;

/// Whether a link in a folder leads to a file.
fn leads_to(dir: &Path, end: &Path, depth: usize) -> Result<bool> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(|e| Error::io(dir, e))?);
        let found = match () {
            () if kind.is_symlink() => fs::canonicalize(&path).is_ok_and(|p| p == end),
            () if kind.is_dir() && depth < MAX_FOLDERS => leads_to(&path, end, depth + 1)?,
            () => false,
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Errors where something of this name exists, be it a link to nothing: what a command makes of a checkpoint replaces
/// nothing.
pub fn unused(out: &Path) -> Result<()> {
    match fs::symlink_metadata(out) {
        Ok(_) => Err(Error::input(format!("{} exists already", out.display()), "name a new one")),
        Err(_) => Ok(()),
    }
}

/// Writes a folder of files (names may lead into subfolders): all or nothing. An existing folder of that name is
/// replaced, also where a link leads to it; anything else that exists is an error.
pub fn write_folder<N: AsRef<str>>(dir: &Path, files: &[(N, Vec<u8>)]) -> Result<()> {
    let (dir, there) = end_of_links(dir)?;
    let dir = dir.as_path();
    if there.is_some_and(|m| !m.is_dir()) {
        return Err(Error::format(dir, "file.kind", "is no folder", "name a folder; nothing was written"));
    }
    let temp = sibling(dir);
    fs::create_dir_all(&temp).map_err(|e| Error::io(dir, e))?;
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

/// A temporary name beside `path` that no other process and no other thread uses.
fn sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.tmp-{}-{next}", std::process::id()))
}

fn sync_dir(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|d| d.sync_all()).map_err(|e| Error::io(parent, e))
}
