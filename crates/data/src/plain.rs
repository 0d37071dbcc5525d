//! Plain text: lines or whole documents, in UTF-8, as they are or gzip'd; or the rows of Parquet tables.
//!
//! Files that are packed in another way are told from their first bytes and refused with the command that unpacks them.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result, open_file, read_file};

/// Largest file of text, packed and unpacked, in bytes.
pub const MAX_FILE_BYTES: u64 = 512 << 20;
/// Longest line, in bytes: what a tokenizer takes at once.
pub const MAX_LINE_BYTES: usize = 1 << 20;
/// Most files of a folder of documents.
const MAX_FILES: usize = 100_000;
/// Ends of the names of files of documents.
const FOLDER: [&str; 3] = [".txt", ".txt.gz", ".parquet"];

const GZIP: &[u8] = &[0x1F, 0x8B];
const TABLE: &[u8] = b"PAR1";

/// First bytes, what they mean, and what unpacks them.
const FORMATS: [(&[u8], &str, &str); 6] = [
    (&[0xFD, b'7', b'z', b'X', b'Z', 0], "packed with xz", "xz -dk FILE"),
    (&[0x04, 0x22, 0x4D, 0x18], "packed with lz4", "lz4 -dk FILE"),
    (&[0x28, 0xB5, 0x2F, 0xFD], "packed with zstd", "zstd -dk FILE"),
    (b"BZh", "packed with bzip2", "bzip2 -dk FILE"),
    (b"PK\x03\x04", "a zip archive", "unzip FILE"),
    (
        TABLE,
        "a Parquet table",
        r#"python3 -c "import pandas; print(*pandas.read_parquet('FILE')['text'], sep='\n')" > text.txt"#,
    ),
];

/// Every line of a file, empty ones too, without line ends, or every row of a table: for files whose lines answer each other;
/// fails with `file.*` or `text.*`.
pub fn segments(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    if is_table(path)? {
        let rows = rows(path)?;
        return match rows.iter().position(|row| row.len() > MAX_LINE_BYTES) {
            Some(i) => Err(long_line(path, i, rows[i].len())),
            None => Ok(rows),
        };
    }
    let text = read_text(path)?;
    Lines::new(&text, path).map(|line| Ok(line?.1.to_owned())).collect()
}

/// The lines of a file or rows of a table, in order, without empty ones and without line ends; fails with `file.*` or `text.*`.
pub fn lines(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let mut out = segments(path)?;
    out.retain(|line| !line.trim().is_empty());
    if out.is_empty() { Err(Error::no_text(path, "no line of text")) } else { Ok(out) }
}

/// A file as one document, each row of a table as one, or those of every `.txt`, `.txt.gz` and `.parquet` file of a folder in the
/// order of their names; fails with `file.*` or `text.*`.
pub fn documents(path: impl AsRef<Path>) -> Result<Vec<String>> {
    let path = path.as_ref();
    let io = |e: std::io::Error| Error::io(path, &e);
    let none = |kind| Error::no_text(path, kind);
    if !std::fs::metadata(path).map_err(io)?.is_dir() {
        let texts = texts(path)?;
        return if texts.is_empty() { Err(none("no text")) } else { Ok(texts) };
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        if FOLDER.iter().any(|end| name.ends_with(end)) && file.is_file() {
            files.push(file);
        }
        if files.len() > MAX_FILES {
            return Err(none("more than 100,000 files"));
        }
    }
    if files.is_empty() {
        return Err(none("no .txt, .txt.gz or .parquet file"));
    }
    files.sort();
    let mut left = MAX_FILE_BYTES;
    let mut out = Vec::with_capacity(files.len());
    for file in &files {
        for text in texts(file)? {
            left = left.checked_sub(text.len() as u64).ok_or_else(|| Error::too_large(path, MAX_FILE_BYTES))?;
            out.push(text);
        }
    }
    if out.is_empty() { Err(none("no text")) } else { Ok(out) }
}

/// The text of a file, or those of the rows of a table, without empty ones.
fn texts(path: &Path) -> Result<Vec<String>> {
    let mut texts = if is_table(path)? { rows(path)? } else { vec![read_text(path)?] };
    texts.retain(|text| !text.trim().is_empty());
    Ok(texts)
}

/// The texts of a table.
#[cfg(feature = "parquet")]
fn rows(path: &Path) -> Result<Vec<String>> {
    crate::table::texts(path)
}

/// Refused where the reader of tables was not built.
#[cfg(not(feature = "parquet"))]
fn rows(path: &Path) -> Result<Vec<String>> {
    let what = "is a Parquet table, which this build does not read";
    let hint = "build with `--features parquet`, or write the texts to a plain file, one a line";
    Err(Error::file(path, "file.table", what, hint))
}

/// By its first bytes, whatever its name.
fn is_table(path: &Path) -> Result<bool> {
    let mut head = Vec::with_capacity(TABLE.len());
    let (file, _) = open_file(path, MAX_FILE_BYTES)?;
    file.take(TABLE.len() as u64).read_to_end(&mut head).map_err(|e| Error::io(path, &e))?;
    Ok(head == TABLE)
}

fn long_line(path: &Path, at: usize, len: usize) -> Error {
    let line = at + 1;
    let what = format!("at line {line} has {len} bytes, more than the {MAX_LINE_BYTES} that are read here");
    Error::file(path, "text.long_line", what, "break it up")
}

/// Reads a text file, gzip'd or not whatever its name.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    text_from(read_file(path, MAX_FILE_BYTES)?, path)
}

/// The text of a file's bytes, gzip'd or not; `label` stands in for the path in errors; fails with `file.*` or `text.*`.
pub fn text_from(bytes: Vec<u8>, label: &Path) -> Result<String> {
    if let Some((_, kind, command)) = FORMATS.iter().find(|(magic, ..)| bytes.starts_with(magic)) {
        let command = command.replace("FILE", &label.display().to_string());
        let hint = format!("run `{command}` and give the file it writes");
        return Err(Error::file(label, "file.packed", format!("is {kind}, which is not read here"), hint));
    }
    let bytes = if bytes.starts_with(GZIP) { gunzip(&bytes, label)? } else { bytes };
    let text = String::from_utf8(bytes).map_err(|e| {
        let byte = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..byte].iter().filter(|&&b| b == b'\n').count();
        let hint = "if you know its encoding, convert it with `iconv -f ENCODING -t UTF-8`";
        Error::file(label, "text.utf8", format!("is not UTF-8 at line {line} (byte {byte})"), hint)
    })?;
    // Some editors put a byte order mark in front.
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

fn gunzip(bytes: &[u8], path: &Path) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    MultiGzDecoder::new(bytes).take(MAX_FILE_BYTES + 1).read_to_end(&mut out).map_err(|e| {
        let kind = if e.kind() == ErrorKind::UnexpectedEof { "ends too early" } else { "is damaged" };
        Error::file(path, "file.gzip", format!("is a gzip file that {kind}"), "fetch it again")
    })?;
    if out.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::too_large(path, MAX_FILE_BYTES));
    }
    Ok(out)
}

/// Numbered lines, counted from 1, without their ends; a line that is too long is an error.
pub(crate) struct Lines<'a> {
    lines: std::iter::Enumerate<std::str::Lines<'a>>,
    path: &'a Path,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str, path: &'a Path) -> Self {
        Lines { lines: text.lines().enumerate(), path }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<(usize, &'a str)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (i, line) = self.lines.next()?;
        Some(if line.len() > MAX_LINE_BYTES { Err(long_line(self.path, i, line.len())) } else { Ok((i + 1, line)) })
    }
}
