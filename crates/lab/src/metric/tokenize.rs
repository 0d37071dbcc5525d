//! The tokenizers of sacreBLEU's BLEU.

use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

use super::bleu::split;
use super::{is_space, refuse};
use crate::{Error, Result};

/// How a segment becomes tokens; the score depends on it, so it is part of the signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tokenize {
    /// WMT's `mteval-v13a`: ASCII punctuation is split off, `.` and `,` stay inside numbers, `-` leaves a digit.
    #[default]
    V13a,
    /// `mteval-v14 --international-tokenization`: Unicode punctuation beside a non-number, and every symbol.
    Intl,
    /// One token per character that is not white space.
    Char,
    /// Split at white space only (already tokenized text).
    None,
}

/// Names as sacreBLEU spells them.
const NAMES: [(&str, Tokenize); 4] =
    [("13a", Tokenize::V13a), ("intl", Tokenize::Intl), ("char", Tokenize::Char), ("none", Tokenize::None)];

impl FromStr for Tokenize {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match NAMES.iter().find(|(n, _)| *n == name) {
            Some(&(_, t)) => Ok(t),
            None => refuse(format!("tokenizer `{name}` is not one of 13a, intl, char, none")),
        }
    }
}

impl Tokenize {
    /// The name, as in [`FromStr`].
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, t)| *t == self).map_or("", |(n, _)| n)
    }

    /// The tokens of a segment.
    pub fn tokens(self, segment: &str) -> Vec<String> {
        split(&self.apply(segment)).map(str::to_string).collect()
    }

    /// The segment with spaces between its tokens; trailing white space is dropped first.
    pub(crate) fn apply(self, segment: &str) -> String {
        let segment = segment.trim_end_matches(is_space);
        match self {
            Tokenize::None => segment.to_string(),
            Tokenize::Char => segment.chars().flat_map(|c| [c, ' ']).collect(),
            Tokenize::V13a => v13a(segment),
            Tokenize::Intl => intl(segment),
        }
    }
}

fn v13a(segment: &str) -> String {
    let mut text = segment.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    for (entity, c) in [("&quot;", "\""), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")] {
        text = text.replace(entity, c);
    }
    // The padding lets a `.` or `,` at either end count as beside a non-digit.
    let text =
        apart(&format!(" {text} "), |c| matches!(c, '{'..='~' | '['..='`' | ' '..='&' | '('..='+' | ':'..='@' | '/'));
    let (digit, stop) = (|c: char| c.is_ascii_digit(), |c: char| matches!(c, '.' | ','));
    let text = pairs(&text, |c| !digit(c), stop, Space::AroundSecond);
    let text = pairs(&text, stop, |c| !digit(c), Space::AroundFirst);
    pairs(&text, digit, |c| c == '-', Space::AroundSecond)
}

fn intl(segment: &str) -> String {
    // Category N, which `char::is_numeric` is defined as.
    let number = char::is_numeric;
    let text = pairs(segment, |c| !number(c), punctuation, Space::AroundSecond);
    let text = pairs(&text, punctuation, |c| !number(c), Space::AroundFirst);
    apart(&text, symbol)
}

/// Where a pair of neighbours gets its spaces.
enum Space {
    AroundFirst,
    AroundSecond,
}

/// Spaces around every character that passes.
fn apart(text: &str, this: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for c in text.chars() {
        if this(c) {
            out.extend([' ', c, ' ']);
        } else {
            out.push(c);
        }
    }
    out
}

/// Spaces at every pair of neighbours that passes, from the left; a character takes part in one pair only, which is
/// how a substitution of two captured characters works.
fn pairs(text: &str, first: impl Fn(char) -> bool, second: impl Fn(char) -> bool, space: Space) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    let mut chars = text.chars().peekable();
    while let Some(a) = chars.next() {
        let Some(b) = chars.next_if(|&b| first(a) && second(b)) else {
            out.push(a);
            continue;
        };
        match space {
            Space::AroundFirst => out.extend([' ', a, ' ', b]),
            Space::AroundSecond => out.extend([a, ' ', b, ' ']),
        }
    }
    out
}

/// Unicode category P.
fn punctuation(c: char) -> bool {
    static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{P}$").ok());
    in_class(&CLASS, c)
}

/// Unicode category S.
fn symbol(c: char) -> bool {
    static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{S}$").ok());
    in_class(&CLASS, c)
}

/// A word character of Python's `re`: a letter, a number or `_`, but no combining mark.
pub(crate) fn is_word(c: char) -> bool {
    static CLASS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}_]$").ok());
    if c.is_ascii() { c.is_ascii_alphanumeric() || c == '_' } else { in_class(&CLASS, c) }
}

/// Whether a character is in a class that holds no ASCII letter, digit or space.
fn in_class(class: &Option<Regex>, c: char) -> bool {
    // Most text is letters and spaces; the table behind the pattern is asked for the rest.
    let common = c.is_ascii_alphanumeric() || c == ' ';
    !common && class.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4])))
}
