//! Learning rates by step.

use crate::recipe::{Schedule, Train};

/// The learning rate of a step: linear warm-up to the peak, then the recipe's schedule. Steps count from 0.
pub fn rate(t: &Train, step: u64) -> f64 {
    match t.schedule {
        Schedule::Cosine => warmup_cosine(step, t.steps, t.warmup, t.lr, t.final_lr),
        _ if step < t.warmup => warm(step, t.warmup, t.lr),
        Schedule::InverseSqrt => {
            let from = t.warmup.max(1) as f64;
            (t.lr * (from / (step + 1).max(1) as f64).sqrt()).min(t.lr).max(t.final_lr)
        }
        Schedule::Linear => t.lr + (t.final_lr - t.lr) * passed(step, t.steps, t.warmup),
    }
}

/// Linear warm-up to `peak`, then cosine to `end`. Steps count from 0.
pub fn warmup_cosine(step: u64, steps: u64, warmup: u64, peak: f64, end: f64) -> f64 {
    if step < warmup {
        return warm(step, warmup, peak);
    }
    let t = passed(step, steps, warmup);
    end + (peak - end) * 0.5 * (1.0 + (std::f64::consts::PI * t).cos())
}

fn warm(step: u64, warmup: u64, peak: f64) -> f64 {
    peak * (step + 1) as f64 / warmup as f64
}

/// Share of the steps after the warm-up that lie behind, 0 to 1.
fn passed(step: u64, steps: u64, warmup: u64) -> f64 {
    ((step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64).min(1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn train(schedule: &str) -> Train {
        let text = format!("steps = 100\nbatch = 1\nlr = 1.0\nwarmup = 10\nfinal_lr = 0.1\nschedule = \"{schedule}\"");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn cosine_warms_up_and_falls() {
        let at = |s| warmup_cosine(s, 100, 10, 1.0, 0.1);
        assert!((at(0) - 0.1).abs() < 1e-12 && (at(9) - 1.0).abs() < 1e-12);
        assert!((at(55) - 0.55).abs() < 1e-9 && (at(100) - 0.1).abs() < 1e-12);
        assert!((10..100).all(|s| at(s + 1) <= at(s)));
        let t = train("cosine");
        assert!((0..100).all(|s| rate(&t, s) == at(s)));
    }

    #[test]
    fn linear_falls_by_equal_steps() {
        let t = train("linear");
        assert!((rate(&t, 4) - 0.5).abs() < 1e-12 && (rate(&t, 10) - 1.0).abs() < 1e-12);
        assert!((rate(&t, 55) - 0.55).abs() < 1e-12 && (rate(&t, 100) - 0.1).abs() < 1e-12);
    }

    #[test]
    fn inverse_square_root_halves_at_four_times_the_step() {
        let t = train("inverse-sqrt");
        assert!((rate(&t, 9) - 1.0).abs() < 1e-12 && (rate(&t, 39) - 0.5).abs() < 1e-12);
        assert!((rate(&t, 10_000) - 0.1).abs() < 1e-12, "never below final_lr");
    }
}
