//! One error type from the file to the output: every variant has a stable code and says what, where and what to do.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

/// Result of every fallible call in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A tensor the model needs and the checkpoint lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingTensor {
    /// Published name.
    pub name: String,
    /// Shape the configuration asks for.
    pub shape: Vec<usize>,
    /// The closest name that the checkpoint does hold.
    pub nearest: Option<String>,
}

/// What can go wrong between a checkpoint folder and an output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused a read or write.
    #[error("{}: {}", place(path), reason(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what its format demands.
    #[error("{}: {what}; {hint}", place(path))]
    Format {
        /// The offending file.
        path: PathBuf,
        /// Stable code, such as `safetensors.header`.
        code: &'static str,
        /// What is wrong.
        what: String,
        /// What the user can do.
        hint: &'static str,
    },
    /// A configuration value is missing, of the wrong type or out of bounds.
    #[error("config field `{field}`: {what}")]
    Config {
        /// Dotted field name.
        field: String,
        /// What is wrong with it and what is allowed.
        what: String,
    },
    /// A configuration value is legal elsewhere but not supported here.
    #[error("`{field}` = {value} is not supported; supported: {supported}")]
    Unsupported {
        /// Dotted field name.
        field: String,
        /// The value found.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// Checkpoint and configuration disagree about which tensors exist.
    #[error("{}", describe_tensors(missing, leftover, shapes))]
    Tensors {
        /// Needed and absent.
        missing: Vec<MissingTensor>,
        /// Present and unused.
        leftover: Vec<String>,
        /// Present with another shape: name, wanted, found.
        shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    },
    /// A tensor reached a layer with the wrong shape.
    #[error("{at}: expected {want}, got {got:?}")]
    Shape {
        /// Layer path.
        at: String,
        /// Expected shape in words.
        want: String,
        /// Found shape.
        got: Vec<usize>,
    },
    /// The caller's input does not fit the model.
    #[error("input: {what}; {hint}")]
    Input {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// An operating point asks for something this checkpoint cannot do.
    #[error("point: {what}; {hint}")]
    Point {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A size goes beyond the limit that protects this machine.
    #[error("{what} is {got}, the limit is {max}; {hint}")]
    Limit {
        /// What was measured.
        what: String,
        /// Its value.
        got: u64,
        /// The limit.
        max: u64,
        /// What to do.
        hint: String,
    },
    /// A number that an answer is decided by is NaN or infinite.
    #[error(
        "`{output}` of member {member} holds {value}, so nothing can be decided by it; check that the checkpoint holds \
         no such number, and that it was not saved in a type too narrow for it (f16)"
    )]
    NotFinite {
        /// Name of the output.
        output: String,
        /// Member of the batch or request.
        member: usize,
        /// The number.
        value: f32,
    },
    /// An operation of the crate `tensor`, or one on its tensors, failed; after loading this is a bug.
    #[error("tensor operation failed: {0}")]
    Tensor(String),
}

impl Error {
    /// Stable machine-readable code, one per kind of failure.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Io { .. } => "io",
            Error::Format { code, .. } => code,
            Error::Config { .. } => "config.value",
            Error::Unsupported { .. } => "config.unsupported",
            Error::Tensors { missing, shapes, .. } => {
                if !missing.is_empty() {
                    "tensors.missing"
                } else if !shapes.is_empty() {
                    "tensors.shape"
                } else {
                    "tensors.leftover"
                }
            }
            Error::Shape { .. } => "shape",
            Error::Input { .. } => "input",
            Error::Point { .. } => "point",
            Error::Limit { .. } => "limit",
            Error::NotFinite { .. } => "not_finite",
            Error::Tensor(_) => "tensor",
        }
    }

    /// Read or write failure at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Error::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// Malformed file.
    pub fn format(path: impl AsRef<Path>, code: &'static str, what: impl Into<String>, hint: &'static str) -> Self {
        Error::Format { path: path.as_ref().to_path_buf(), code, what: plain(what), hint }
    }

    /// Bad input of the caller.
    pub fn input(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Input { what: plain(what), hint: plain(hint) }
    }

    /// Bad operating point.
    pub fn point(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Point { what: plain(what), hint: plain(hint) }
    }

    /// Bad configuration value.
    pub fn config(field: impl Into<String>, what: impl Into<String>) -> Self {
        Error::Config { field: field.into(), what: plain(what) }
    }

    /// Legal but unsupported configuration value.
    pub fn unsupported(field: impl Into<String>, value: impl ToString, supported: impl Into<String>) -> Self {
        Error::Unsupported { field: field.into(), value: plain(value.to_string()), supported: supported.into() }
    }

    /// Errors unless all numbers of an output, which an answer is decided by, are finite.
    pub fn unless_finite(output: &str, member: usize, values: &[f32]) -> Result<()> {
        match values.iter().find(|v| !v.is_finite()) {
            Some(value) => Err(Error::NotFinite { output: output.into(), member, value: *value }),
            None => Ok(()),
        }
    }

    /// Failure of a tensor operation.
    pub fn tensor(what: impl Into<String>) -> Self {
        Error::Tensor(what.into())
    }

    /// Wrong tensor shape at a layer.
    pub fn shape(at: impl Into<String>, want: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { at: at.into(), want: want.into(), got: got.to_vec() }
    }
}

/// Longest text of others that a message repeats, in characters.
const REPEATED: usize = 600;

/// A path for a message.
/// Why the system refused, in the same words wherever a file was looked for.
pub fn reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or folder".into(),
        std::io::ErrorKind::AlreadyExists => "exists already, as a file".into(),
        std::io::ErrorKind::NotADirectory => "a part of this path is a file, not a folder".into(),
        std::io::ErrorKind::IsADirectory => "is a folder; name a file".into(),
        _ => error.to_string(),
    }
}

/// What is there in place of a regular file.
pub fn no_file(meta: &std::fs::Metadata) -> &'static str {
    if meta.is_dir() { "is a folder" } else { "is no regular file" }
}

fn place(path: &Path) -> String {
    shortened(path.display().to_string(), 4 * REPEATED)
}

/// Text from files, fit for a terminal and a log: one line, nothing that a terminal obeys, cut where it is long.
pub fn plain(text: impl Into<String>) -> String {
    shortened(text.into(), REPEATED)
}

/// Text of several lines, fit for a terminal: what a terminal obeys is escaped, line breaks and tabs stay.
pub fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| obeyed(c) && !matches!(c, '\n' | '\t');
    match text.contains(hidden) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(escaped(text, hidden)),
    }
}

/// Whether a terminal obeys a character in place of showing it: controls, and marks that turn the direction of text.
fn obeyed(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if hidden(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

fn shortened(text: String, max: usize) -> String {
    let cut = text.char_indices().nth(max).map(|(at, _)| at);
    if cut.is_none() && !text.contains(obeyed) {
        return text;
    }
    let mut out = escaped(&text[..cut.unwrap_or(text.len())], obeyed);
    if cut.is_some() {
        out.push_str("...");
    }
    out
}

/// Lists at most this many names of a kind; the count of the rest follows.
const LISTED: usize = 12;

fn describe_tensors(
    missing: &[MissingTensor],
    leftover: &[String],
    shapes: &[(String, Vec<usize>, Vec<usize>)],
) -> String {
    let mut text = String::from("checkpoint and config disagree");
    if !missing.is_empty() {
        text.push_str(&format!("\n  {} missing:", missing.len()));
        for m in missing.iter().take(LISTED) {
            text.push_str(&format!("\n    {} {:?}", plain(&m.name), m.shape));
            if let Some(near) = &m.nearest {
                text.push_str(&format!("  (nearest left-over: {})", plain(near)));
            }
        }
        more(&mut text, missing.len());
    }
    if !shapes.is_empty() {
        text.push_str(&format!("\n  {} with another shape:", shapes.len()));
        for (name, want, got) in shapes.iter().take(LISTED) {
            text.push_str(&format!("\n    {}: config says {want:?}, file has {got:?}", plain(name)));
        }
        more(&mut text, shapes.len());
    }
    if !leftover.is_empty() {
        text.push_str(&format!("\n  {} left over:", leftover.len()));
        for name in leftover.iter().take(LISTED) {
            text.push_str(&format!("\n    {}", plain(name)));
        }
        more(&mut text, leftover.len());
    }
    text.push_str("\n  check that config.json belongs to these weights");
    text
}

fn more(text: &mut String, n: usize) {
    if n > LISTED {
        text.push_str(&format!("\n    ... and {} more", n - LISTED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_a_file() {
        let evil = "a\u{1b}[31m\u{9b}2J\rb\u{202e}c\n\u{7f}";
        assert_eq!(plain(evil), "a\\u{1b}[31m\\u{9b}2J\\rb\\u{202e}c\\n\\u{7f}");
        assert_eq!(visible(evil), "a\\u{1b}[31m\\u{9b}2J\\rb\\u{202e}c\n\\u{7f}");
        assert_eq!(visible("两\t行\né"), "两\t行\né");
        assert_eq!(plain("é".repeat(100_000)).chars().count(), REPEATED + 3);
    }
}
