//! Accuracy and macro-F1 of class labels, as scikit-learn computes them.
//!
//! `accuracy = right / all`; `macro-F1 = mean over classes of 2 TP / (2 TP + FP + FN)` over the classes that occur in
//! the truth or the answers (`accuracy_score`; `f1_score(average="macro", zero_division=0)`).

use std::collections::HashMap;

use super::{Stats, same_length};
use crate::Result;

/// Scores of class labels.
pub struct Labels;

impl Labels {
    /// Statistics `[items, 2 + 3 * classes]`: right, 1, then for each class true and false positives and false
    /// negatives, of answers `[items]` against the truth `[items]`.
    pub fn stats<S: AsRef<str>>(given: &[S], truth: &[S]) -> Result<Stats> {
        same_length(given.len(), [truth.len()])?;
        Ok(table(given, truth, &classes(&[truth, given])))
    }

    /// [`stats`](Self::stats) of two systems with the same columns, as paired tests need them: each may answer classes
    /// that the other does not.
    pub fn paired<S: AsRef<str>>(first: &[S], second: &[S], truth: &[S]) -> Result<(Stats, Stats)> {
        same_length(first.len(), [truth.len()])?;
        same_length(second.len(), [truth.len()])?;
        let classes = classes(&[truth, first, second]);
        Ok((table(first, truth, &classes), table(second, truth, &classes)))
    }

    /// Accuracy, 0 to 1, of summed statistics.
    pub fn accuracy(sums: &[f64]) -> f64 {
        sums[0] / sums[1]
    }

    /// Macro-F1, 0 to 1, of summed statistics.
    pub fn macro_f1(sums: &[f64]) -> f64 {
        let f1 = |c: &[f64]| 2.0 * c[0] / (2.0 * c[0] + c[1] + c[2]);
        let here: Vec<f64> = sums[2..].chunks_exact(3).filter(|c| c.iter().any(|&n| n > 0.0)).map(f1).collect();
        here.iter().sum::<f64>() / here.len() as f64
    }
}

/// The classes that occur, numbered.
fn classes<'a, S: AsRef<str>>(lists: &[&'a [S]]) -> HashMap<&'a str, usize> {
    let mut classes = HashMap::new();
    for label in lists.iter().flat_map(|list| list.iter()) {
        let next = classes.len();
        classes.entry(label.as_ref()).or_insert(next);
    }
    classes
}

fn table<S: AsRef<str>>(given: &[S], truth: &[S], classes: &HashMap<&str, usize>) -> Stats {
    let mut stats = Stats::new(2 + 3 * classes.len());
    for (given, truth) in given.iter().zip(truth) {
        let (g, t) = (2 + 3 * classes[given.as_ref()], 2 + 3 * classes[truth.as_ref()]);
        if g == t {
            stats.push([(0, 1.0), (1, 1.0), (g, 1.0)]);
        } else {
            stats.push([(1, 1.0), (g + 1, 1.0), (t + 2, 1.0)]);
        }
    }
    stats
}
