//! Which points are better: paired tests of what they answer on the same samples and of how long they take in the same rounds.

use serde::Serialize;

use super::{Measured, Quality, Spread};
use crate::metric::mcnemar;

/// How a point's answers stand beside those at `full`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is `full`.
    Full,
    /// No worse, as far as these samples can tell.
    AsGood,
    /// Worse.
    Worse,
    /// Better.
    Better,
}

/// Level of every test.
const LEVEL: f64 = 0.05;
/// Least gain in time that counts, where three rounds in four show it.
const GAIN: f64 = 1.02;
/// Width of the quartiles, as a share of the median, beyond which times tell nothing.
const NOISE: f64 = 0.25;
/// Without labels, the least agreement that is as good as `full`.
const AGREES: f64 = 0.99;
/// The largest loss of accuracy that a recommended point may show, whatever a small sample cannot tell.
const MAX_DROP: f64 = 0.01;

/// Whether `a` is answered worse than `b` on the same samples: McNemar's exact test where all are right or wrong, else the
/// normal test of the mean difference.
fn worse(a: &[f64], b: &[f64]) -> bool {
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len().max(1) as f64;
    if mean(a) >= mean(b) {
        return false;
    }
    let binary = |v: &[f64]| v.iter().all(|q| *q == 0.0 || *q == 1.0);
    if binary(a) && binary(b) {
        let right = |v: &[f64]| v.iter().map(|q| *q == 1.0).collect::<Vec<_>>();
        return mcnemar(&right(a), &right(b)).is_ok_and(|test| test.p < LEVEL);
    }
    let gaps: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let (gap, n) = (mean(&gaps), gaps.len() as f64);
    let deviation = gaps.iter().map(|g| (g - gap).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    gap > 1.96 * (deviation / n).sqrt()
}

/// Times of `b` over those of `a`, round by round: above 1 where `a` is faster.
fn ratios(a: &[f64], b: &[f64]) -> Spread {
    Spread::of(a.iter().zip(b).map(|(a, b)| b / a.max(1e-9)).collect())
}

fn clearly_faster(a: &Measured, b: &Measured) -> bool {
    ratios(&a.rounds[1], &b.rounds[1]).q1 > GAIN
}

/// Whether `a` takes no longer, as far as its times tell.
fn as_fast(a: &Measured, b: &Measured) -> bool {
    ratios(&a.rounds[1], &b.rounds[1]).median > 1.0 / GAIN && !clearly_faster(b, a)
}

/// Whether nobody who may choose `a` would choose `b`.
fn beats(a: &Measured, b: &Measured) -> bool {
    (clearly_faster(a, b) && !worse(&a.each, &b.each)) || (worse(&b.each, &a.each) && as_fast(a, b))
}

/// Fewest samples from which a point is recommended.
pub(super) const LEAST: usize = 30;

/// Compares every point with the first, which is `full`, and with all others. Returns the name of the point to use.
pub(super) fn settle(kind: Quality, points: &mut [Measured]) -> Option<String> {
    let full = points.first()?.clone();
    let front: Vec<bool> = points.iter().map(|p| !points.iter().any(|q| beats(q, p))).collect();
    for (i, (p, front)) in points.iter_mut().zip(front).enumerate() {
        p.speedup_batch1 = ratios(&p.rounds[0], &full.rounds[0]);
        p.speedup_batch32 = ratios(&p.rounds[1], &full.rounds[1]);
        // Paired with `full` where that is possible: what slows both down changes no ratio.
        let width = if i == 0 { p.ms_batch32.width() } else { p.speedup_batch32.width() };
        p.noisy = width > NOISE;
        p.front = front;
        p.verdict = match kind {
            _ if i == 0 => Verdict::Full,
            Quality::Accuracy if worse(&p.each, &full.each) => Verdict::Worse,
            Quality::Accuracy if worse(&full.each, &p.each) => Verdict::Better,
            Quality::Accuracy => Verdict::AsGood,
            _ if p.quality >= AGREES => Verdict::AsGood,
            _ => Verdict::Worse,
        };
    }
    if full.n < LEAST {
        return None;
    }
    let good = points.iter().filter(|p| {
        let level = matches!(p.verdict, Verdict::AsGood | Verdict::Better);
        let drop = if kind == Quality::Accuracy { full.quality - p.quality } else { 0.0 };
        level && drop <= MAX_DROP && p.speedup_batch32.q1 > GAIN
    });
    good.max_by(|a, b| a.speedup_batch32.median.total_cmp(&b.speedup_batch32.median)).map(|p| p.name.clone())
}

#[cfg(test)]
mod tests {
    use switchformer_nn::Point;

    use super::*;

    fn point(name: &str, right: usize, ms: &[f64]) -> Measured {
        let each: Vec<f64> = (0..1000).map(|i| f64::from(u8::from(i < right))).collect();
        Measured {
            name: name.into(),
            about: String::new(),
            point: Point::new(),
            n: each.len(),
            quality: right as f64 / each.len() as f64,
            quality_ci: [0.0, 1.0],
            verdict: Verdict::Full,
            ms_batch1: Spread::of(ms.to_vec()),
            ms_batch32: Spread::of(ms.to_vec()),
            speedup_batch1: Spread::default(),
            speedup_batch32: Spread::default(),
            noisy: false,
            flops: 0.0,
            decision_flops: 0.0,
            weight_bytes: 0,
            resident_bytes: 0,
            mean_depth: 0.0,
            front: false,
            each,
            rounds: [ms.to_vec(), ms.to_vec()],
        }
    }

    #[test]
    fn stars_and_the_recommendation_follow_paired_tests() {
        let mut all = [
            point("full", 900, &[4.0, 4.1, 4.0, 4.2]),
            point("level", 897, &[2.0, 2.1, 2.0, 2.1]),
            point("slow", 898, &[4.4, 4.5, 4.4, 4.6]),
            point("cheap", 700, &[1.0, 1.0, 1.1, 1.0]),
            point("busy", 900, &[1.0, 9.0, 1.0, 9.0]),
        ];
        let best = settle(Quality::Accuracy, &mut all);
        assert_eq!(best.as_deref(), Some("level"));
        let stars: Vec<&str> = all.iter().filter(|p| p.front).map(|p| p.name.as_str()).collect();
        // Three answers of a thousand are no difference, so `level` takes the star of `full`; a busy moment takes no star.
        assert_eq!(stars, ["level", "cheap", "busy"]);
        assert!(all[4].noisy && !all[1].noisy);
        assert_eq!(all.each_ref().map(|p| p.verdict)[1..4], [Verdict::AsGood, Verdict::AsGood, Verdict::Worse]);
        assert!((all[1].speedup_batch32.median - 2.0).abs() < 0.06);
    }

    #[test]
    fn what_slows_all_down_alike_is_no_noise() {
        let mut all = [point("full", 900, &[4.0, 40.0, 4.0, 40.0]), point("half", 900, &[2.0, 20.0, 2.0, 20.0])];
        assert_eq!(settle(Quality::Accuracy, &mut all).as_deref(), Some("half"));
        assert!(all[0].noisy && !all[1].noisy);
    }

    #[test]
    fn without_labels_agreement_decides() {
        let mut all = [point("full", 1000, &[4.0; 4]), point("far", 980, &[1.0; 4]), point("near", 995, &[2.0; 4])];
        assert_eq!(settle(Quality::Agreement, &mut all).as_deref(), Some("near"));
        assert_eq!(all[1].verdict, Verdict::Worse);
    }
}
