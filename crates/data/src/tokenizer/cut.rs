//! Where a long text may be cut without changing a single token.
//!
//! The stages of a pipeline copy a text several times and keep the place of every byte, so a long one is read in pieces.
//! A cut stands before a white space between words, where every stage known here works on each side by itself.

use std::ops::Range;

use serde_json::Value;
use tokenizers::AddedToken;

/// How long a piece gets where it can be cut, in bytes.
pub const MAX_PIECE_BYTES: usize = 64 << 10;
/// Longest piece that cannot be cut, in bytes.
pub const MAX_RUN_BYTES: usize = 1 << 20;
/// Patterns of published tokenizers, whose time is linear in a text.
const KNOWN_PATTERNS: [&str; 4] = [" {2,}", "\\s{2,}|[\\n\\r\\t]", "\\s+", "\\s"];

/// At which white space a text may be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// None that could be relied on.
    Nowhere,
    /// A space: it belongs to the word behind it.
    Space,
    /// A space, tab or line break: it is dropped.
    White,
}

/// The rule of one tokenizer.
#[derive(Debug)]
pub(crate) struct Cut {
    at: At,
    /// Whether the space must have a word behind it, as the end of a text is stripped.
    word_behind: bool,
    /// What no cut may follow: the last characters of tokens that swallow the white space behind them.
    swallow: Vec<char>,
    /// Longest piece that a stage can be trusted with.
    pub(crate) longest: usize,
}

impl Cut {
    /// The rule of a pipeline.
    pub(crate) fn of<'a>(
        normalizer: Option<&Value>,
        pre_tokenizer: Option<&Value>,
        added: impl Iterator<Item = &'a AddedToken>,
    ) -> Self {
        let mut cut = Cut { at: At::Nowhere, word_behind: false, swallow: Vec::new(), longest: MAX_RUN_BYTES };
        if [normalizer, pre_tokenizer].into_iter().flatten().any(has_odd_pattern) {
            cut.longest = MAX_PIECE_BYTES;
        }
        let Some(pre_tokenizer) = pre_tokenizer else { return cut };
        cut.at = words(pre_tokenizer);
        if !normalizer.is_none_or(|n| keeps_words(n, &mut cut.word_behind)) {
            cut.at = At::Nowhere;
        }
        for token in added {
            let last = token.content.chars().next_back();
            cut.swallow.extend(last.filter(|_| token.rstrip));
            // A token with white space in it could straddle the cut.
            if token.content.contains(char::is_whitespace) {
                cut.at = At::Nowhere;
            }
        }
        cut
    }

    /// The pieces of a text, in order: of about [`MAX_PIECE_BYTES`], longer where no cut is safe.
    pub(crate) fn pieces(&self, text: &str) -> Vec<Range<usize>> {
        let mut out = Vec::new();
        let mut start = 0;
        while text.len() - start > MAX_PIECE_BYTES && self.at != At::Nowhere {
            let end = text.floor_char_boundary(start + MAX_PIECE_BYTES);
            let back = text[start..end].char_indices().rev().map(|(i, _)| start + i).take_while(|i| *i > start);
            let mut ahead = text[end..].char_indices().map(|(i, _)| end + i);
            let Some(cut) =
                back.into_iter().find(|i| self.here(text, *i)).or_else(|| ahead.find(|i| self.here(text, *i)))
            else {
                break;
            };
            out.push(start..cut);
            start = cut;
        }
        out.push(start..text.len());
        out
    }

    /// Whether a cut before the character at `at` is safe.
    fn here(&self, text: &str, at: usize) -> bool {
        let white = match (self.at, text.as_bytes()[at]) {
            (At::Space, c) => c == b' ',
            (At::White, c) => matches!(c, b' ' | b'\t' | b'\n' | b'\r'),
            (At::Nowhere, _) => false,
        };
        if !white {
            return false;
        }
        let before = text[..at].chars().next_back();
        let behind = text[at + 1..].chars().next();
        before.is_some_and(|c| !c.is_whitespace() && !joins(c) && !self.swallow.contains(&c))
            && (!self.word_behind || behind.is_some_and(|c| !c.is_whitespace()))
    }
}

/// Characters that form one unit with whatever follows (Unicode's `Prepend`), with room to spare, and controls, which a
/// normalizer may remove so that the character before them counts.
fn joins(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c), 0x600..=0x605 | 0x6DD | 0x70F | 0x890..=0x8E2 | 0xD4E | 0x200B..=0x200F | 0x2028..=0x202E
            | 0x2060..=0x206F | 0xFE00..=0xFE0F | 0xFEFF | 0x10000..=0x1F000 | 0xE0000..=0xE0FFF)
}

fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn parts<'a>(stage: &'a Value, field: &str) -> &'a [Value] {
    stage.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Where a pre-tokenizer parts words.
fn words(stage: &Value) -> At {
    match kind(stage) {
        "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => At::White,
        "ByteLevel" if stage.get("use_regex") != Some(&Value::Bool(false)) => At::Space,
        // A piece begins with the space it was cut at, so none is put before it.
        "Metaspace" if stage.get("split") != Some(&Value::Bool(false)) => At::Space,
        "Punctuation" => At::Space,
        "Sequence" => match parts(stage, "pretokenizers") {
            // The first parts at white space, and the others work within what it leaves.
            [first, rest @ ..] if words(first) == At::White => match rest.iter().all(|p| words(p) != At::Nowhere) {
                true => At::White,
                false => At::Nowhere,
            },
            [only] => words(only),
            [first, second] if kind(first) == "Punctuation" && kind(second) == "Metaspace" => words(second),
            _ => At::Nowhere,
        },
        _ => At::Nowhere,
    }
}

/// Whether a normalizer works on each side of a cut by itself; sets `strips` where it strips the end of a text.
fn keeps_words(stage: &Value, strips: &mut bool) -> bool {
    match kind(stage) {
        "BertNormalizer" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" | "Precompiled" => true,
        "Strip" => {
            *strips = true;
            stage.get("strip_left") == Some(&Value::Bool(false))
        }
        "Replace" => match (stage.pointer("/pattern/String"), stage.pointer("/pattern/Regex")) {
            (Some(Value::String(s)), _) => !s.is_empty() && !s.contains(char::is_whitespace),
            (_, Some(Value::String(s))) => KNOWN_PATTERNS.contains(&s.as_str()) && stage["content"] == " ",
            _ => false,
        },
        "Sequence" => parts(stage, "normalizers").iter().all(|p| keeps_words(p, strips)),
        _ => false,
    }
}

/// Whether a stage has a regular expression of its own.
fn has_odd_pattern(stage: &Value) -> bool {
    match stage {
        Value::Array(list) => list.iter().any(has_odd_pattern),
        Value::Object(map) => map.iter().any(|(key, value)| match value {
            Value::String(s) if key == "Regex" => !KNOWN_PATTERNS.contains(&s.as_str()),
            other => has_odd_pattern(other),
        }),
        _ => false,
    }
}
