//! Segments and their translations.

use std::collections::HashSet;

use crate::debian::Split;

/// A segment and its translation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// English.
    pub english: String,
    /// The translation.
    pub other: String,
    /// Where it belongs.
    pub split: Split,
}

/// Aligned segments, and what was left out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Aligned {
    /// In the order of the files; no segment occurs in two pairs, on either side.
    pub pairs: Vec<Pair>,
    /// Translations of descriptions that the English file does not hold.
    pub unmatched: usize,
    /// Descriptions with another number of paragraphs than the original (their short description is still used).
    pub uneven: usize,
    /// Segments that are the same in both languages, or empty in one.
    pub untranslated: usize,
    /// Segments seen before, in either language.
    pub repeated: usize,
}

/// Pairs as they are found.
#[derive(Default)]
pub(crate) struct Pairing<'a> {
    pub(crate) aligned: Aligned,
    english: HashSet<&'a str>,
    other: HashSet<&'a str>,
}

impl<'a> Pairing<'a> {
    /// Takes a pair, or counts why not: a segment that occurs twice must not train under one and test under the other.
    pub(crate) fn add(&mut self, english: &'a str, other: &'a str, split: Split) {
        if english == other || english.is_empty() || other.is_empty() {
            self.aligned.untranslated += 1;
        } else if self.english.contains(english) || self.other.contains(other) {
            self.aligned.repeated += 1;
        } else {
            self.english.insert(english);
            self.other.insert(other);
            self.aligned.pairs.push(Pair { english: english.to_owned(), other: other.to_owned(), split });
        }
    }
}

/// Single spaces between words.
pub(crate) fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
