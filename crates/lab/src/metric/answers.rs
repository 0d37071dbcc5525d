//! Exact match and F1 of short answers, as the scripts of SQuAD v1.1 and v2.0 compute them.
//!
//! Both sides are normalised: lower case, no ASCII punctuation, no words a / an / the, single spaces. Exact match is 1
//! if they are then equal; F1 is `2 P R / (P + R)` of the bags of words, 0 without a common word (so an empty
//! answer never scores, unlike in SQuAD 2.0). The best of the accepted answers counts; the score is the mean in percent
//! (Rajpurkar et al. 2016).
//!
//! In v2.0 a question may have no answer, and the right one is then the empty text; two empty texts agree wholly, an empty and
//! another not at all. A question that nothing was said about scores 0; the script of v2.0 ends with an error there.

use std::collections::HashMap;

use super::bleu::split;
use super::tokenize::is_word;
use super::{Stats, refuse};
use crate::Result;

/// Scores of answers.
pub struct Answers;

impl Answers {
    /// Statistics `[questions, 3]`: exact match, F1, 1. `given[i]` is `None` where nothing was answered, which scores 0;
    /// `accepted[i]` are the right answers, one at least.
    pub fn stats<S: AsRef<str>, T: AsRef<str>>(given: &[Option<S>], accepted: &[Vec<T>]) -> Result<Stats> {
        super::same_length(given.len(), [accepted.len()])?;
        let mut stats = Stats::new(3);
        for (i, (given, accepted)) in given.iter().zip(accepted).enumerate() {
            if accepted.is_empty() {
                return refuse(format!("question {} has no accepted answer", i + 1));
            }
            let (mut exact, mut f1) = (0.0f64, 0.0f64);
            if let Some(given) = given {
                let given = normalize(given.as_ref());
                for right in accepted {
                    let right = normalize(right.as_ref());
                    exact = exact.max(f64::from(u8::from(given == right)));
                    f1 = f1.max(overlap(&given, &right));
                }
            }
            stats.push_dense(&[exact, f1, 1.0]);
        }
        Ok(stats)
    }

    /// Statistics by the rules of v2.0, `[questions, 8]`: exact match, F1, 1; the same of questions with an answer; exact
    /// match and 1 of those without.
    pub fn stats_v2<S: AsRef<str>, T: AsRef<str>>(given: &[Option<S>], accepted: &[Vec<T>]) -> Result<Stats> {
        super::same_length(given.len(), [accepted.len()])?;
        let mut stats = Stats::new(8);
        for (given, accepted) in given.iter().zip(accepted) {
            let mut right: Vec<String> =
                accepted.iter().map(|r| normalize(r.as_ref())).filter(|r| !r.is_empty()).collect();
            if right.is_empty() {
                right.push(String::new());
            }
            let (mut exact, mut f1) = (0.0f64, 0.0f64);
            if let Some(given) = given {
                let given = normalize(given.as_ref());
                for right in &right {
                    let same = f64::from(u8::from(given == *right));
                    exact = exact.max(same);
                    f1 = f1.max(if given.is_empty() || right.is_empty() { same } else { overlap(&given, right) });
                }
            }
            match accepted.is_empty() {
                true => stats.push_dense(&[exact, f1, 1.0, 0.0, 0.0, 0.0, exact, 1.0]),
                false => stats.push_dense(&[exact, f1, 1.0, exact, f1, 1.0, 0.0, 0.0]),
            }
        }
        Ok(stats)
    }

    /// Exact match, 0 to 100, of summed statistics `[3]`.
    pub fn exact(sums: &[f64]) -> f64 {
        100.0 * sums[0] / sums[2]
    }

    /// F1, 0 to 100, of summed statistics `[3]`.
    pub fn f1(sums: &[f64]) -> f64 {
        100.0 * sums[1] / sums[2]
    }
}

/// Lower case, no ASCII punctuation, no articles, single spaces.
fn normalize(answer: &str) -> String {
    let lower: String = answer.to_lowercase().chars().filter(|c| !c.is_ascii_punctuation()).collect();
    let mut text = String::with_capacity(lower.len());
    let mut rest = lower.as_str();
    while let Some(c) = rest.chars().next() {
        // Runs of word characters and of others take turns; an article is a whole run.
        let end = rest.find(|d| is_word(d) != is_word(c)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        text.push_str(if matches!(run, "a" | "an" | "the") { " " } else { run });
        rest = after;
    }
    split(&text).collect::<Vec<_>>().join(" ")
}

/// F1 of two bags of words.
fn overlap(given: &str, right: &str) -> f64 {
    let mut left: HashMap<&str, usize> = HashMap::new();
    split(right).for_each(|w| *left.entry(w).or_default() += 1);
    let mut same = 0.0;
    for word in split(given) {
        if let Some(n) = left.get_mut(word).filter(|n| **n > 0) {
            *n -= 1;
            same += 1.0;
        }
    }
    if same == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (same / split(given).count() as f64, same / split(right).count() as f64);
    2.0 * precision * recall / (precision + recall)
}
