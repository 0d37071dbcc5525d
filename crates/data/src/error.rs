//! The one error type of this crate.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can go wrong while reading data; each variant has a stable [`code`](Error::code).
///
/// Texts never repeat what a decoder or parser said: those words come from hostile files and change
/// between library versions, so each cause is mapped to a short fixed phrase.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}: {kind}; check that it is a readable file", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// A file or text is larger than this crate reads.
    #[error("{} is larger than {limit} bytes, the most that is read here; use a smaller file", path.display())]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The picture's format is not one this build reads.
    #[error("{} is not a picture that can be read here ({kind}); save it as PNG or RGB JPEG", path.display())]
    ImageFormat {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// The picture ends too early.
    #[error("{} ends before the picture is complete; copy or download it again", path.display())]
    ImageTruncated {
        /// The file.
        path: PathBuf,
    },
    /// The picture has more pixels than is decoded here.
    #[error("{} is too large a picture ({what}); at most {} pixels a side and {} in all are decoded, so scale it down first",
        path.display(), crate::image::MAX_SIDE, crate::image::MAX_PIXELS)]
    ImageTooLarge {
        /// The file.
        path: PathBuf,
        /// The size found.
        what: String,
    },
    /// The picture is damaged.
    #[error("{} cannot be decoded ({kind}); open it in a picture viewer and save it again", path.display())]
    ImageDecode {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// Pixel data and stated sides do not fit together.
    #[error(
        "a picture of {width} x {height} x {channels} cannot hold {len} bytes; give width*height*channels bytes with 1 or 3 channels"
    )]
    ImageShape {
        /// Width.
        width: usize,
        /// Height.
        height: usize,
        /// Channels.
        channels: usize,
        /// Bytes given.
        len: usize,
    },
    /// A JSON file could not be parsed.
    #[error("{} is not valid JSON ({kind} at line {line}); download it again", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
        /// Where, counted from 1.
        line: usize,
    },
    /// A preprocessor configuration asks for what is not supported.
    #[error("{}: \"{field}\" is {value}, which is not supported; {hint}", path.display())]
    Preprocessor {
        /// The file.
        path: PathBuf,
        /// The field's name.
        field: String,
        /// The value, shortened.
        value: String,
        /// What is supported.
        hint: &'static str,
    },
    /// A Parquet table whose texts cannot be read.
    #[error("{} {what}", path.display())]
    Table {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// Mean, standard deviation and channel count disagree.
    #[error(
        "the picture has {channels} channel(s) but the preprocessor's mean and std are for {found}; use the configuration that belongs to the model"
    )]
    PreprocessorChannels {
        /// Channels asked for.
        channels: usize,
        /// Channels the configuration is for.
        found: usize,
    },
    /// The output of the preprocessor would be too large.
    #[error("preprocessing would give a picture of {width} x {height}, above the bound; set a smaller size or crop")]
    PreprocessorOutput {
        /// Width.
        width: u64,
        /// Height.
        height: u64,
    },
    /// Neither `tokenizer.json` nor `vocab.txt` is there.
    #[error("{} holds neither tokenizer.json nor vocab.txt; fetch the model's tokenizer files", dir.display())]
    TokenizerMissing {
        /// The folder.
        dir: PathBuf,
    },
    /// A tokenizer file could not be understood.
    #[error("{} is not a usable tokenizer ({kind}); download it again", path.display())]
    TokenizerParse {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// A tokenizer that could take unbounded time or memory.
    #[error("{}: the tokenizer is refused ({kind}); use a standard tokenizer file", path.display())]
    TokenizerUnsafe {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// The maximum length leaves no room for text.
    #[error("a maximum length of {max} tokens leaves no room beside {added} special tokens; raise it")]
    TokenizerMaxLength {
        /// The maximum.
        max: usize,
        /// Special tokens added.
        added: usize,
    },
    /// A text is too long.
    #[error("text {index} has {len} bytes, more than the {limit} that this tokenizer takes; split the text")]
    TokenizerTooLong {
        /// Which text of the batch.
        index: usize,
        /// Its bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A text has too long a run without a place to cut.
    #[error(
        "text {index} has more than {limit} bytes without a white space to cut at (from byte {at}); insert spaces or split the text"
    )]
    TokenizerLongRun {
        /// Which text of the batch.
        index: usize,
        /// Where the run begins.
        at: usize,
        /// The limit.
        limit: usize,
    },
    /// The tokenizer failed on a text.
    #[error("text {index} could not be tokenized ({kind}); check the text and the tokenizer file")]
    TokenizerEncode {
        /// Which text of the batch.
        index: usize,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// The tokenizer failed on token ids.
    #[error("the token ids could not be decoded ({kind}); check that they belong to this tokenizer")]
    TokenizerDecode {
        /// A fixed phrase.
        kind: &'static str,
    },
    /// A tokenizer cannot be cut down to some of its tokens.
    #[error("{} cannot be trimmed: {kind}", path.display())]
    TokenizerTrim {
        /// The tokenizer file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// Not an IDX file of bytes.
    #[error("{} does not begin as an IDX file of bytes ({kind}); fetch it again", path.display())]
    IdxMagic {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// An IDX file's dimensions are out of bounds.
    #[error("{} states dimensions that are refused ({kind}); fetch it again", path.display())]
    IdxShape {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// An IDX file's length does not fit its dimensions.
    #[error("{} has {kind} its dimensions say; fetch it again", path.display())]
    IdxLength {
        /// The file.
        path: PathBuf,
        /// "fewer bytes than" or "more bytes than".
        kind: &'static str,
    },
    /// A gzip stream is damaged.
    #[error("{} is a damaged gzip file; fetch it again", path.display())]
    IdxGzip {
        /// The file.
        path: PathBuf,
    },
    /// Fashion-MNIST was not found.
    #[error(
        "Fashion-MNIST was not found (looked in {}); run `apt-get install dataset-fashion-mnist` or scripts/fetch-models.sh, or name the folder",
        list(looked)
    )]
    FashionMissing {
        /// The folders tried.
        looked: Vec<PathBuf>,
    },
    /// CIFAR-10 is not where it was looked for.
    #[error("CIFAR-10 was not found (looked for {}); run scripts/fetch-models.sh cifar-10, or name the folder", path.display())]
    CifarMissing {
        /// The file that was looked for.
        path: PathBuf,
    },
    /// Images and labels of a dataset do not fit together.
    #[error("{} is not a usable image dataset ({kind}); fetch it again", path.display())]
    Dataset {
        /// The folder or file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// A file is packed in a way that is not read here.
    #[error("{} is {kind}, which is not read here; run `{command}` and give the file it writes", path.display())]
    Packed {
        /// The file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
        /// The command that unpacks it.
        command: String,
    },
    /// A gzip stream of text is damaged.
    #[error("{} is a gzip file that {kind}; fetch it again", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// "ends too early" or "is damaged".
        kind: &'static str,
    },
    /// A text is not UTF-8.
    #[error(
        "{} is not UTF-8 at line {line} (byte {byte}); if you know its encoding, convert it with `iconv -f ENCODING -t UTF-8`",
        path.display()
    )]
    Utf8 {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Where, counted from 0.
        byte: usize,
    },
    /// A line of text is too long.
    #[error("{}: line {line} has {len} bytes, more than the {limit} that are read here; break it up", path.display())]
    LongLine {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// Its bytes.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// A folder or file holds no text.
    #[error("{} holds {kind}; name a file or folder with text", path.display())]
    NoText {
        /// The folder or file.
        path: PathBuf,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// A file of package descriptions cannot be understood.
    #[error("{}, line {line}: {kind}; give apt's own Packages or Translation-XX file", path.display())]
    Stanza {
        /// The file.
        path: PathBuf,
        /// Where, counted from 1.
        line: usize,
        /// A fixed phrase.
        kind: &'static str,
    },
    /// A file of questions and answers cannot be understood.
    #[error("{} at {at}: {kind} (the layout is that of SQuAD v1.1)", path.display())]
    Squad {
        /// The file.
        path: PathBuf,
        /// Such as `data[3].paragraphs[0].qas[2].answers[0]`.
        at: String,
        /// What is wrong.
        kind: &'static str,
    },
    /// A tokenizer cannot be trained.
    #[error("the tokenizer cannot be trained: {kind}")]
    TokenizerTrain {
        /// A fixed phrase that says what to do.
        kind: &'static str,
    },
    /// A file could not be written.
    #[error("cannot write {}: {kind}; check the folder and the space left", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: std::io::ErrorKind,
    },
    /// A sample does not fit into any batch.
    #[error("sample {index} has {len} tokens, more than the {budget} of a batch; raise the budget or truncate")]
    Budget {
        /// Which sample.
        index: usize,
        /// Its tokens.
        len: u32,
        /// The budget.
        budget: u32,
    },
    /// Arguments of a batch function do not fit together.
    #[error("the batch cannot be made ({kind})")]
    Batch {
        /// A fixed phrase.
        kind: &'static str,
    },
}

impl Error {
    /// The stable code of this error, such as `image.too_large`; never changes between releases.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "file.read",
            Error::FileTooLarge { .. } => "file.too_large",
            Error::ImageFormat { .. } => "image.format",
            Error::ImageTruncated { .. } => "image.truncated",
            Error::ImageTooLarge { .. } => "image.too_large",
            Error::ImageDecode { .. } => "image.decode",
            Error::ImageShape { .. } => "image.shape",
            Error::Json { .. } => "json.parse",
            Error::Table { .. } => "file.table",
            Error::Preprocessor { .. } => "preprocessor.unsupported",
            Error::PreprocessorChannels { .. } => "preprocessor.channels",
            Error::PreprocessorOutput { .. } => "preprocessor.output",
            Error::TokenizerMissing { .. } => "tokenizer.missing",
            Error::TokenizerParse { .. } => "tokenizer.parse",
            Error::TokenizerUnsafe { .. } => "tokenizer.unsafe",
            Error::TokenizerMaxLength { .. } => "tokenizer.max_length",
            Error::TokenizerTooLong { .. } => "tokenizer.too_long",
            Error::TokenizerLongRun { .. } => "tokenizer.long_run",
            Error::TokenizerEncode { .. } => "tokenizer.encode",
            Error::TokenizerDecode { .. } => "tokenizer.decode",
            Error::TokenizerTrim { .. } => "tokenizer.trim",
            Error::IdxMagic { .. } => "idx.magic",
            Error::IdxShape { .. } => "idx.shape",
            Error::IdxLength { .. } => "idx.length",
            Error::IdxGzip { .. } => "idx.gzip",
            Error::FashionMissing { .. } => "fashion.missing",
            Error::CifarMissing { .. } => "cifar.missing",
            Error::Dataset { .. } => "dataset.invalid",
            Error::Packed { .. } => "file.packed",
            Error::Gzip { .. } => "file.gzip",
            Error::Utf8 { .. } => "text.utf8",
            Error::LongLine { .. } => "text.long_line",
            Error::NoText { .. } => "text.none",
            Error::Stanza { .. } => "debian.stanza",
            Error::Squad { .. } => "squad.layout",
            Error::TokenizerTrain { .. } => "tokenizer.train",
            Error::Write { .. } => "file.write",
            Error::Budget { .. } => "batch.budget",
            Error::Batch { .. } => "batch.invalid",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    let parts: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    parts.join(", ")
}

/// Opens a regular file of at most `limit` bytes; -> it and its length.
pub(crate) fn open_file(path: &Path, limit: u64) -> Result<(std::fs::File, u64)> {
    let io = |e: std::io::Error| Error::Io { path: path.to_owned(), kind: e.kind() };
    // A pipe or device could block for ever or never end; only regular files are opened.
    let meta = std::fs::metadata(path).map_err(io)?;
    if !meta.is_file() {
        return Err(Error::Io { path: path.to_owned(), kind: std::io::ErrorKind::InvalidInput });
    }
    if meta.len() > limit {
        return Err(Error::FileTooLarge { path: path.to_owned(), limit });
    }
    Ok((std::fs::File::open(path).map_err(io)?, meta.len()))
}

/// Reads a regular file of at most `limit` bytes.
pub(crate) fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let (file, len) = open_file(path, limit)?;
    let mut bytes = Vec::with_capacity(len as usize);
    // The file may grow between the check and the reading, hence the second bound.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| Error::Io { path: path.to_owned(), kind: e.kind() })?;
    if bytes.len() as u64 > limit {
        return Err(Error::FileTooLarge { path: path.to_owned(), limit });
    }
    Ok(bytes)
}

/// Reads a JSON file of at most `limit` bytes.
pub(crate) fn read_json(path: &Path, limit: u64) -> Result<serde_json::Value> {
    parse_json(&read_file(path, limit)?, path)
}

/// Parses JSON; nesting is bounded by the parser.
pub(crate) fn parse_json(bytes: &[u8], path: &Path) -> Result<serde_json::Value> {
    serde_json::from_slice(bytes).map_err(|e| Error::Json {
        path: path.to_owned(),
        kind: match e.classify() {
            serde_json::error::Category::Eof => "unexpected end",
            _ => "syntax error",
        },
        line: e.line(),
    })
}
