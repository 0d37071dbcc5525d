//! chrF and chrF++ as sacreBLEU computes them.
//!
//! For every order (characters 1..6 without white space; chrF++ also words 1..2) precision and recall of n-grams,
//! summed over the corpus. With the means `P` and `R` over the orders that both sides are long enough for:
//!
//! `chrF = 100 * (1 + b^2) P R / (b^2 P + R)`, b = 2
//!
//! (Popovic 2015 and 2017). Of several references the one with the best score of the segment counts.

use std::hash::Hash;

use super::bleu::{ngrams, split};
use super::{Stats, is_space, same_length};
use crate::Result;

/// Weight of recall against precision.
const BETA: f64 = 2.0;

/// The settings of a chrF score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chrf {
    /// Longest run of characters (6 in all published scores).
    pub chars: usize,
    /// Longest run of words: 0 for chrF, 2 for chrF++.
    pub words: usize,
    /// Lower-case first.
    pub lowercase: bool,
}

impl Chrf {
    /// chrF.
    pub const CHRF: Chrf = Chrf { chars: 6, words: 0, lowercase: false };
    /// chrF++.
    pub const PLUS_PLUS: Chrf = Chrf { chars: 6, words: 2, lowercase: false };

    /// The settings in sacreBLEU's words, such as `nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no`.
    pub fn signature(&self, refs: usize) -> String {
        let case = if self.lowercase { "lc" } else { "mixed" };
        format!("nrefs:{refs}|case:{case}|eff:yes|nc:{}|nw:{}|space:no", self.chars, self.words)
    }

    /// Statistics of each hypothesis `[segments]` against references `[refs][segments]`: for every order the n-grams
    /// of the hypothesis, of the reference, and of both.
    pub fn stats<S: AsRef<str>>(&self, hyp: &[S], refs: &[Vec<S>]) -> Result<Stats> {
        same_length(hyp.len(), refs.iter().map(Vec::len))?;
        let mut stats = Stats::new(3 * (self.chars + self.words));
        for (i, hyp) in hyp.iter().enumerate() {
            let hyp = Side::of(self, hyp.as_ref());
            let mut best: Option<(f64, Vec<f64>)> = None;
            for r in refs {
                let row = self.segment(&hyp, &Side::of(self, r[i].as_ref()));
                let score = self.score(&row);
                if best.as_ref().is_none_or(|(s, _)| score > *s) {
                    best = Some((score, row));
                }
            }
            stats.push_dense(&best.map(|b| b.1).unwrap_or_default());
        }
        Ok(stats)
    }

    fn segment(&self, hyp: &Side, reference: &Side) -> Vec<f64> {
        let chars = (1..=self.chars).flat_map(|n| counts(&hyp.chars, &reference.chars, n));
        let words = (1..=self.words).flat_map(|n| counts(&hyp.words, &reference.words, n));
        chars.chain(words).collect()
    }

    /// The score, 0 to 100, of summed statistics `[3 * orders]`.
    pub fn score(&self, sums: &[f64]) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for order in sums.chunks_exact(3).filter(|o| o[0] > 0.0 && o[1] > 0.0) {
            precision += order[2] / order[0];
            recall += order[2] / order[1];
            orders += 1.0;
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let (p, r) = (precision / orders, recall / orders);
        100.0 * ((1.0 + BETA * BETA) * p * r / (BETA * BETA * p + r))
    }
}

/// One segment as characters and words.
struct Side {
    chars: Vec<char>,
    words: Vec<String>,
}

impl Side {
    fn of(settings: &Chrf, segment: &str) -> Self {
        let lower = if settings.lowercase { segment.to_lowercase() } else { segment.to_string() };
        let words = if settings.words > 0 { words(&lower) } else { Vec::new() };
        Side { chars: lower.chars().filter(|&c| !is_space(c)).collect(), words }
    }
}

/// Words with one punctuation mark split off at the end or, failing that, at the beginning.
fn words(segment: &str) -> Vec<String> {
    let mut out = Vec::new();
    for word in split(segment) {
        let mut inner = word.chars();
        let (first, last) = (inner.next(), inner.next_back());
        match (first, last) {
            (Some(_), Some(l)) if l.is_ascii_punctuation() => {
                out.push(word[..word.len() - 1].to_string());
                out.push(l.to_string());
            }
            (Some(f), Some(_)) if f.is_ascii_punctuation() => {
                out.push(f.to_string());
                out.push(word[1..].to_string());
            }
            _ => out.push(word.to_string()),
        }
    }
    out
}

/// The n-grams of the hypothesis (0 where the reference has none), of the reference, and of both.
fn counts<T: Eq + Hash>(hyp: &[T], reference: &[T], n: usize) -> [f64; 3] {
    let (ours, theirs) = (ngrams(hyp, n), ngrams(reference, n));
    let both: u32 = ours.iter().map(|(gram, &c)| c.min(theirs.get(gram).copied().unwrap_or(0))).sum();
    let total = |items: &[T]| (items.len() + 1).saturating_sub(n) as f64;
    [if theirs.is_empty() { 0.0 } else { total(hyp) }, total(reference), f64::from(both)]
}
