//! IDX files of bytes (the MNIST format), plain or gzip'd.

use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};

use crate::error::{Error, Result, read_file};

/// Most bytes of data, and of a file.
pub const MAX_BYTES: usize = 256 << 20;
const MAX_DIMS: u8 = 4;
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// An array of bytes of up to four dimensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// The sides, outermost first.
    pub dims: Vec<usize>,
    /// The bytes, row by row; as many as the product of `dims`.
    pub data: Vec<u8>,
}

/// Reads an IDX file, gzip'd or not whatever its name; fails with `file.*` or `idx.*`.
pub fn open(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    from_bytes(&read_file(path, MAX_BYTES as u64)?, path)
}

/// Reads an IDX file in memory; `label` stands in for the path in errors; fails with `idx.*`.
pub fn from_bytes(bytes: &[u8], label: &Path) -> Result<Idx> {
    if bytes.starts_with(&GZIP_MAGIC) { read(MultiGzDecoder::new(bytes), label) } else { read(bytes, label) }
}

/// Writes a gzip'd IDX file into memory, byte for byte the same on every run; fails with `idx.shape` or `idx.length`.
pub fn to_gzip(dims: &[usize], data: &[u8], label: &Path) -> Result<Vec<u8>> {
    let mut head = vec![0, 0, 8, u8::try_from(dims.len()).unwrap_or(u8::MAX)];
    for &dim in dims {
        let dim = u32::try_from(dim).map_err(|_| shape_error(label, "a side does not fit 32 bits"))?;
        head.extend(dim.to_be_bytes());
    }
    // The reader's own checks decide what may be written.
    let expected = header(&mut head.as_slice(), label)?.iter().product::<usize>();
    if data.len() != expected {
        return Err(length(label, data.len() < expected));
    }
    let mut gz = GzBuilder::new().write(Vec::new(), Compression::best());
    // Writing into memory cannot fail.
    let done = gz.write_all(&head).and_then(|()| gz.write_all(data)).and_then(|()| gz.finish());
    done.map_err(|e| Error::io(label, &e))
}

fn shape_error(path: &Path, kind: &str) -> Error {
    Error::file(path, "idx.shape", format!("states dimensions that are refused ({kind})"), "fetch it again")
}

fn length(path: &Path, short: bool) -> Error {
    let kind = if short { "fewer bytes than" } else { "more bytes than" };
    Error::file(path, "idx.length", format!("has {kind} its dimensions say"), "fetch it again")
}

/// A gzip stream fails with other kinds than a slice; those mean damage, an early end means a short file.
fn io(path: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => length(path, true),
        _ => Error::file(path, "idx.gzip", "is a damaged gzip file", "fetch it again"),
    }
}

/// Reads magic and sides, and checks them before any data is read.
fn header(reader: &mut impl Read, path: &Path) -> Result<Vec<usize>> {
    let magic = |kind: &str| {
        let what = format!("does not begin as an IDX file of bytes ({kind})");
        Error::file(path, "idx.magic", what, "fetch it again")
    };
    let shape = |kind| shape_error(path, kind);
    let mut head = [0u8; 4];
    reader.read_exact(&mut head).map_err(|e| io(path, &e))?;
    if head[..2] != [0, 0] {
        return Err(magic("the first two bytes are not 0"));
    }
    if head[2] != 8 {
        return Err(magic("the elements are not unsigned bytes"));
    }
    if !(1..=MAX_DIMS).contains(&head[3]) {
        return Err(magic("the number of dimensions is not 1 to 4"));
    }
    let mut dims = Vec::with_capacity(usize::from(head[3]));
    for _ in 0..head[3] {
        let mut side = [0u8; 4];
        reader.read_exact(&mut side).map_err(|e| io(path, &e))?;
        dims.push(u32::from_be_bytes(side) as usize);
    }
    if dims.contains(&0) {
        return Err(shape("a side is 0"));
    }
    let total = dims.iter().try_fold(1usize, |all, &d| all.checked_mul(d));
    match total {
        Some(total) if total <= MAX_BYTES => Ok(dims),
        _ => Err(shape("more than 256 MiB")),
    }
}

fn read(mut reader: impl Read, path: &Path) -> Result<Idx> {
    let dims = header(&mut reader, path)?;
    let expected: usize = dims.iter().product();
    // Not reserved at once: a small file may claim much.
    let mut data = Vec::new();
    reader.take(expected as u64 + 1).read_to_end(&mut data).map_err(|e| io(path, &e))?;
    if data.len() != expected {
        return Err(length(path, data.len() < expected));
    }
    data.shrink_to_fit();
    Ok(Idx { dims, data })
}
