//! Scores of texts, answers and labels, equal to the public scorers; intervals and paired tests.
//!
//! Every metric is a table of *sufficient statistics*, one row a segment ([`Stats`]), and a function from the summed
//! row to the score. So a bootstrap resample costs one sum and no metric has code of its own for it.
//!
//! | metric | equal to | file |
//! |---|---|---|
//! | BLEU | sacreBLEU 2.6 (Post 2018, "A Call for Clarity in Reporting BLEU Scores") | [`bleu`] |
//! | chrF, chrF++ | sacreBLEU 2.6 (Popovic 2015, 2017) | [`chrf`] |
//! | exact match, F1 of answers | the SQuAD v1.1 script (Rajpurkar et al. 2016) | [`answers`] |
//! | accuracy, macro-F1 | scikit-learn 1.9 | [`labels`] |
//! | expected calibration error | scikit-learn's bins (Naeini et al. 2015; Guo et al. 2017) | [`calibration`] |
//! | bootstrap, paired bootstrap, approximate randomisation | sacreBLEU 2.6, draw for draw | [`significance`] |
//! | McNemar | the exact binomial test (McNemar 1947) | [`significance`] |

pub mod answers;
pub mod bleu;
pub mod calibration;
pub mod chrf;
pub mod labels;
pub mod maps;
pub mod significance;
pub mod tokenize;

pub use answers::Answers;
pub use bleu::{Bleu, BleuScore, Smooth};
pub use calibration::Calibration;
pub use chrf::Chrf;
pub use labels::Labels;
pub use significance::{Interval, McNemar, Paired, approximate_randomization, bootstrap, mcnemar, paired_bootstrap};
pub use tokenize::Tokenize;

use crate::{Error, Result};

/// Sufficient statistics, `[segments, width]`, most of them zero for label metrics and so stored sparsely.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    width: usize,
    /// Where each row ends in `cells`.
    ends: Vec<usize>,
    /// Column and value.
    cells: Vec<(u32, f64)>,
}

impl Stats {
    /// An empty table of `width` columns.
    pub fn new(width: usize) -> Self {
        Stats { width, ends: Vec::new(), cells: Vec::new() }
    }

    /// Adds a row `[width]` given by its values that are not zero.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = (usize, f64)>) {
        self.cells.extend(row.into_iter().filter(|&(_, v)| v != 0.0).map(|(c, v)| {
            debug_assert!(c < self.width);
            (c as u32, v)
        }));
        self.ends.push(self.cells.len());
    }

    /// Adds a row `[width]` given whole.
    pub(crate) fn push_dense(&mut self, row: &[f64]) {
        debug_assert_eq!(row.len(), self.width);
        self.push(row.iter().copied().enumerate());
    }

    /// Number of segments.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no segment.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Adds row `i` into `sums` `[width]`.
    pub(crate) fn add_row(&self, i: usize, sums: &mut [f64]) {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        for &(column, value) in &self.cells[start..self.ends[i]] {
            sums[column as usize] += value;
        }
    }

    /// The column sums over all segments, `[width]`.
    pub fn total(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.width];
        (0..self.len()).for_each(|i| self.add_row(i, &mut sums));
        sums
    }
}

/// A refusal.
pub(crate) fn refuse<T>(what: impl Into<String>) -> Result<T> {
    Err(Error::Metric { what: what.into() })
}

/// Fails unless every reference has as many segments as the hypothesis, and there is one of each at least.
pub(crate) fn same_length(hyp: usize, refs: impl IntoIterator<Item = usize>) -> Result<()> {
    if hyp == 0 {
        // Every mean over nothing would be 0/0.
        return refuse("the hypothesis has no segment; give one at least");
    }
    let mut any = false;
    for (i, len) in refs.into_iter().enumerate() {
        any = true;
        if len != hyp {
            return refuse(format!(
                "the hypothesis has {hyp} segments, reference {} has {len}; they must pair up",
                i + 1
            ));
        }
    }
    if any { Ok(()) } else { refuse("there is no reference; give one at least") }
}

/// White space as Python's `str.split` sees it: Unicode's, and the four ASCII separators 1C to 1F.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
