//! Expected calibration error.
//!
//! Answers are put into `M` bins of equal width by their confidence, each bin closed on the right (confidence 0 goes
//! into the first): `ECE = sum_b |B_b|/N * |accuracy(B_b) - mean confidence(B_b)|` (Naeini et al. 2015, Guo et al. 2017).
//! The number of bins changes the value, so it belongs beside it.

use super::{Stats, refuse, same_length};
use crate::Result;

/// Settings of an expected calibration error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calibration {
    /// Number of bins.
    pub bins: usize,
}

impl Default for Calibration {
    fn default() -> Self {
        Calibration { bins: 15 }
    }
}

impl Calibration {
    /// Statistics `[items, 3 * bins]`: per bin items, right answers and summed confidence, from the confidence of each
    /// answer `[items]`, 0 to 1, and whether it was right `[items]`.
    pub fn stats(&self, confidence: &[f64], right: &[bool]) -> Result<Stats> {
        same_length(confidence.len(), [right.len()])?;
        if self.bins == 0 || self.bins > 10_000 {
            return refuse(format!("{} bins are not possible; give 1 to 10000", self.bins));
        }
        // Edges as multiples of the rounded width, as numpy.linspace makes them: values on an edge agree.
        let width = 1.0 / self.bins as f64;
        let edges: Vec<f64> = (1..self.bins).map(|i| i as f64 * width).collect();
        let mut stats = Stats::new(3 * self.bins);
        for (i, (&c, &right)) in confidence.iter().zip(right).enumerate() {
            if !(0.0..=1.0).contains(&c) {
                return refuse(format!("confidence {} is {c}; it must be from 0 to 1", i + 1));
            }
            let bin = edges.partition_point(|&edge| edge < c);
            stats.push([(3 * bin, 1.0), (3 * bin + 1, f64::from(u8::from(right))), (3 * bin + 2, c)]);
        }
        Ok(stats)
    }

    /// The error, 0 to 1, of summed statistics.
    pub fn score(sums: &[f64]) -> f64 {
        let bins = || sums.chunks_exact(3).filter(|b| b[0] > 0.0);
        let items: f64 = bins().map(|b| b[0]).sum();
        bins().map(|b| b[0] / items * (b[1] / b[0] - b[2] / b[0]).abs()).sum()
    }
}
