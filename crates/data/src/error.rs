//! The one error type of this crate.

use std::path::{Path, PathBuf};

use switchformer_format::error::{no_file, reason};
use switchformer_format::json;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong while reading data; each has a stable [`code`](Error::code).
///
/// Texts never repeat what a decoder said: those words come from hostile files and change between library versions, so
/// each cause is mapped to a short fixed phrase. What JSON says of itself is cut and stripped first.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused a read.
    #[error("{}: {}", path.display(), reason(&(*kind).into()))]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// A file or folder is not what it should be, is beyond a limit, or could not be written.
    #[error("{} {what}; {hint}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// Stable code, such as `image.too_large`.
        code: &'static str,
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// What the caller gave (a text, pixels, indices, lengths) cannot be worked with.
    #[error("{what}; {hint}")]
    Input {
        /// Stable code, such as `tokenizer.too_long`.
        code: &'static str,
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A JSON file is refused.
    #[error(transparent)]
    Json(#[from] switchformer_format::Error),
}

impl Error {
    /// The stable code of this error, such as `image.too_large`; never changes between releases.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "file.read",
            Error::File { code, .. } | Error::Input { code, .. } => code,
            Error::Json(e) => e.code(),
        }
    }

    pub(crate) fn io(path: &Path, e: &std::io::Error) -> Self {
        Error::Io { path: path.to_owned(), kind: e.kind() }
    }

    pub(crate) fn file(path: &Path, code: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::File { path: path.to_owned(), code, what: what.into(), hint: hint.into() }
    }

    pub(crate) fn input(code: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Input { code, what: what.into(), hint: hint.into() }
    }

    pub(crate) fn too_large(path: &Path, limit: u64) -> Self {
        let what = format!("is larger than {limit} bytes, the most that is read here");
        Error::file(path, "file.too_large", what, "use a smaller file")
    }

    pub(crate) fn no_text(path: &Path, kind: &str) -> Self {
        Error::file(path, "text.none", format!("holds {kind}"), "name a file or folder with text")
    }

    pub(crate) fn dataset(path: &Path, kind: &str) -> Self {
        Error::file(path, "dataset.invalid", format!("is not a usable data set ({kind})"), "fetch it again")
    }

    pub(crate) fn batch(kind: &str) -> Self {
        Error::input("batch.invalid", format!("the batch cannot be made ({kind})"), "check what is asked for")
    }

    pub(crate) fn tokenizer(path: &Path, kind: &str) -> Self {
        let what = format!("is not a usable tokenizer ({kind})");
        Error::file(path, "tokenizer.parse", what, "download it again")
    }

    pub(crate) fn no_tokenizer(dir: &Path, files: &str) -> Self {
        let hint = if dir.join("vocab.txt").exists() {
            "fetch the model's tokenizer files; a vocab.txt that belongs to the model is read once tokenizer_config.json \
             says \"tokenizer_class\": \"BertTokenizer\""
        } else {
            "fetch the model's tokenizer files"
        };
        Error::file(dir, "tokenizer.missing", format!("holds no tokenizer: neither {files}"), hint)
    }

    pub(crate) fn unsafe_tokenizer(path: &Path, kind: &str) -> Self {
        let what = format!("is a tokenizer that is refused ({kind})");
        Error::file(path, "tokenizer.unsafe", what, "use a standard tokenizer file")
    }

    pub(crate) fn max_length(max: usize, added: usize) -> Self {
        let what = format!("a maximum length of {max} tokens leaves no room beside {added} special tokens");
        Error::input("tokenizer.max_length", what, "raise it")
    }

    pub(crate) fn encode(index: usize, kind: &str) -> Self {
        let what = format!("text {} could not be tokenized ({kind})", index + 1);
        Error::input("tokenizer.encode", what, "check the text and the tokenizer file")
    }

    pub(crate) fn output(width: usize, height: usize) -> Self {
        let what = format!("preprocessing would give a picture of {width} x {height}, above the bound");
        Error::input("preprocessor.output", what, "set a smaller size or crop")
    }
}

/// Opens a regular file of at most `limit` bytes; -> it and its length.
pub(crate) fn open_file(path: &Path, limit: u64) -> Result<(std::fs::File, u64)> {
    let io = |e: std::io::Error| Error::io(path, &e);
    // A pipe or device could block for ever or never end; only regular files are opened.
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(Error::file(path, "file.read", no_file(&meta), "name a file"));
    }
    if meta.len() > limit {
        return Err(Error::too_large(path, limit));
    }
    Ok((std::fs::File::open(path).map_err(io)?, meta.len()))
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let (file, len) = open_file(path, limit)?;
    let mut bytes = Vec::with_capacity(len as usize);
    // The file may grow between the check and the reading, hence the second bound.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::io(path, &e))?;
    if bytes.len() as u64 > limit {
        return Err(Error::too_large(path, limit));
    }
    Ok(bytes)
}

/// Reads a JSON file of at most `limit` bytes, strictly.
pub(crate) fn read_json(path: &Path, limit: u64) -> Result<serde_json::Value> {
    Ok(json::parse(&read_file(path, limit)?, path)?)
}
