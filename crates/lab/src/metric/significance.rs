//! How sure a score is: bootstrap intervals and paired tests.
//!
//! Draws are a function of the seed alone ([`Rng`]). The functions that take draws are public, so that the numbers can be
//! compared with another implementation draw for draw.

use switchformer_data::Rng;

use super::{Stats, refuse};
use crate::Result;

/// A percentile interval from bootstrap resamples (Efron 1979; Koehn 2004).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Mean over the resamples.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The interval that leaves `floor(n (1 - level) / 2)` of the `n` scores out at either end.
    pub fn percentile(mut scores: Vec<f64>, level: f64) -> Result<Self> {
        if scores.is_empty() {
            return refuse("an interval needs one resample at least");
        }
        if !(level > 0.0 && level < 1.0) {
            return refuse(format!("the level of an interval is between 0 and 1, not {level}"));
        }
        scores.sort_by(f64::total_cmp);
        let n = scores.len();
        // 1 - 0.95 is a little above 0.05; an exact count must not fall to the next below or above.
        let out = ((n as f64 * (1.0 - level) / 2.0) + 1e-9).floor() as usize;
        Ok(Interval { mean: scores.iter().sum::<f64>() / n as f64, low: scores[out], high: scores[n - 1 - out] })
    }
}

/// What a paired test says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Paired {
    /// Score of the second system less that of the first.
    pub difference: f64,
    /// Two-sided probability of a difference this large, if there were none.
    pub p: f64,
}

/// Scores of resamples, one for each draw of segment indices; an index beyond the table is refused.
pub fn resampled<D: AsRef<[u32]>>(
    stats: &Stats,
    score: impl Fn(&[f64]) -> f64,
    draws: impl IntoIterator<Item = D>,
) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; stats.width()];
    let mut out = Vec::new();
    for draw in draws {
        sums.fill(0.0);
        for &i in draw.as_ref() {
            if i as usize >= stats.len() {
                return refuse(format!("a draw names segment {i} of {}", stats.len()));
            }
            stats.add_row(i as usize, &mut sums);
        }
        out.push(score(&sums));
    }
    Ok(out)
}

/// `samples` draws of `n` of `n` segments with replacement.
fn draws(n: usize, samples: usize, seed: u64) -> Result<impl Iterator<Item = Vec<u32>> + Clone> {
    let n = checked(n, samples)?;
    Ok((0..samples as u64).map(move |sample| {
        let mut rng = Rng::of(&[3, seed, sample]);
        (0..n).map(|_| rng.pick(n)).collect()
    }))
}

fn checked(n: usize, samples: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) if n > 0 && samples > 0 => Ok(n),
        _ => refuse(format!("{n} segments and {samples} resamples do not make a test; give one of each at least")),
    }
}

/// The bootstrap interval of a score from `samples` resamples.
pub fn bootstrap(
    stats: &Stats,
    score: impl Fn(&[f64]) -> f64,
    samples: usize,
    level: f64,
    seed: u64,
) -> Result<Interval> {
    Interval::percentile(resampled(stats, score, draws(stats.len(), samples, seed)?)?, level)
}

/// The share of `trials` at or above the observed difference, with the observation itself counted as one trial. A trial that
/// equals the observation is as extreme; sacreBLEU counts those above alone, which differs where scores tie.
fn p_value(trials: &[f64], observed: f64) -> f64 {
    (trials.iter().filter(|&&t| t >= observed - 1e-12).count() + 1) as f64 / (trials.len() + 1) as f64
}

fn difference(first: &Stats, second: &Stats, score: impl Fn(&[f64]) -> f64) -> Result<f64> {
    if first.len() != second.len() || first.width() != second.width() {
        return refuse("the systems of a paired test must answer the same segments");
    }
    Ok(score(&second.total()) - score(&first.total()))
}

/// Paired bootstrap from given draws: the spread of absolute differences about their mean against the observed one.
pub fn paired_bootstrap_with<D: AsRef<[u32]>>(
    first: &Stats,
    second: &Stats,
    score: impl Fn(&[f64]) -> f64,
    draws: impl IntoIterator<Item = D> + Clone,
) -> Result<Paired> {
    let difference = difference(first, second, &score)?;
    let (a, b) = (resampled(first, &score, draws.clone())?, resampled(second, &score, draws)?);
    let gaps: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (b - a).abs()).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    let centred: Vec<f64> = gaps.iter().map(|g| g - mean).collect();
    Ok(Paired { difference, p: p_value(&centred, difference.abs()) })
}

/// Paired bootstrap test (Koehn 2004, in the two-sided form of sacreBLEU).
pub fn paired_bootstrap(
    first: &Stats,
    second: &Stats,
    score: impl Fn(&[f64]) -> f64,
    samples: usize,
    seed: u64,
) -> Result<Paired> {
    // Drawn anew for each system: all of them at once would be samples * segments numbers.
    paired_bootstrap_with(first, second, score, draws(first.len(), samples, seed)?)
}

/// Approximate randomisation from given choices: where `swap[i]` is true, segment `i` changes sides in that trial.
pub fn approximate_randomization_with<D: AsRef<[bool]>>(
    first: &Stats,
    second: &Stats,
    score: impl Fn(&[f64]) -> f64,
    swaps: impl IntoIterator<Item = D>,
) -> Result<Paired> {
    let difference = difference(first, second, &score)?;
    let mut gaps = Vec::new();
    for swap in swaps {
        let (mut a, mut b) = (vec![0.0; first.width()], vec![0.0; first.width()]);
        if swap.as_ref().len() != first.len() {
            return refuse("a trial must say for every segment whether it changes sides");
        }
        for (i, &swap) in swap.as_ref().iter().enumerate() {
            let (to_a, to_b) = if swap { (second, first) } else { (first, second) };
            to_a.add_row(i, &mut a);
            to_b.add_row(i, &mut b);
        }
        gaps.push((score(&a) - score(&b)).abs());
    }
    Ok(Paired { difference, p: p_value(&gaps, difference.abs()) })
}

/// Approximate randomisation test (Noreen 1989; Riezler and Maxwell 2005).
pub fn approximate_randomization(
    first: &Stats,
    second: &Stats,
    score: impl Fn(&[f64]) -> f64,
    trials: usize,
    seed: u64,
) -> Result<Paired> {
    let n = checked(first.len(), trials)?;
    let swaps = (0..trials as u64).map(|trial| {
        let mut rng = Rng::of(&[4, seed, trial]);
        (0..n).map(|_| rng.pick(2) == 1).collect::<Vec<bool>>()
    });
    approximate_randomization_with(first, second, score, swaps)
}

/// What McNemar's test says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct McNemar {
    /// Items that only the first system has right.
    pub only_first: u64,
    /// Items that only the second system has right.
    pub only_second: u64,
    /// `(|b - c| - 1)^2 / (b + c)`, the statistic with continuity correction; 0 where the systems never differ.
    pub statistic: f64,
    /// Exact two-sided probability: twice the lower tail of Binomial(b + c, 1/2), at most 1.
    pub p: f64,
}

/// McNemar's exact test on whether each system has each item right, `[items]` each (McNemar 1947).
pub fn mcnemar(first: &[bool], second: &[bool]) -> Result<McNemar> {
    super::same_length(first.len(), [second.len()])?;
    let count = |f: bool, s: bool| first.iter().zip(second).filter(|&(&a, &b)| a == f && b == s).count() as u64;
    let (b, c) = (count(true, false), count(false, true));
    let n = (b + c) as f64;
    // Terms of the binomial from the log domain, so that no number of items underflows to a wrong sum.
    let mut log_term = n * 0.5f64.ln();
    let mut tail = 0.0;
    for k in 0..=b.min(c) {
        tail += log_term.exp();
        log_term += ((n - k as f64) / (k as f64 + 1.0)).ln();
    }
    let gap = (b.abs_diff(c) as f64 - 1.0).max(0.0);
    let statistic = if n > 0.0 { gap * gap / n } else { 0.0 };
    Ok(McNemar { only_first: b, only_second: c, statistic, p: (2.0 * tail).min(1.0) })
}
