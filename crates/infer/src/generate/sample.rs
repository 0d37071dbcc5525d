//! Seeded draws from what could follow.

use switchformer_nn::init::Stream;
use switchformer_nn::{Error, Ids, Input, Result};

/// How scores become chances. Applied in this order, as the reference does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Scores are divided by it; below 1 sharpens.
    pub temperature: f64,
    /// Only tokens that score as high as the k-th best; all where absent.
    pub top_k: Option<usize>,
    /// Only the likeliest tokens that together reach this chance; 1 keeps all.
    pub top_p: f64,
    /// Only tokens with at least this share of the likeliest one's chance; 0 keeps all.
    pub min_p: f64,
    /// Only tokens whose surprise is closest to the expected one, which together reach this chance; 1 keeps all.
    pub typical_p: f64,
    /// Only tokens with at least this chance, and the likeliest; 0 keeps all.
    pub epsilon_cutoff: f64,
    /// The same with a bound that falls where many tokens are likely; 0 keeps all.
    pub eta_cutoff: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
        }
    }
}

impl Sampling {
    /// Refuses values out of bounds by name.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String, hint: &str| Err(Error::input(what, hint));
        if !(self.temperature > 0.0 && self.temperature <= 100.0) {
            return bad(
                format!("temperature {}", self.temperature),
                "above 0, up to 100; without it the likeliest is taken",
            );
        }
        if self.top_k == Some(0) {
            return bad("top_k 0".into(), "1 or more");
        }
        for (name, share) in [("top_p", self.top_p), ("typical_p", self.typical_p)] {
            if !(share > 0.0 && share <= 1.0) {
                return bad(format!("{name} {share}"), "above 0, up to 1");
            }
        }
        let shares = [("min_p", self.min_p), ("epsilon_cutoff", self.epsilon_cutoff), ("eta_cutoff", self.eta_cutoff)];
        for (name, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return bad(format!("{name} {share}"), "0 to below 1");
            }
        }
        Ok(())
    }

    /// Tokens that may follow with their chances, which sum to one; the likeliest first. Shapes: row `[vocab]`.
    pub fn chances(&self, row: &[f32]) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..row.len() as u32).collect();
        let before = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
        if let Some(k) = self.top_k.filter(|k| *k < order.len()) {
            let least = row[*order.select_nth_unstable_by(k - 1, before).1 as usize];
            order.retain(|t| row[*t as usize] >= least);
        }
        order.sort_unstable_by(before);
        let top = order.first().map_or(0.0, |t| f64::from(row[*t as usize]));
        let weigh = |t: u32| (t, ((f64::from(row[t as usize]) - top) / self.temperature).exp());
        let mut chances: Vec<(u32, f64)> = order.into_iter().map(weigh).collect();
        let total: f64 = chances.iter().map(|c| c.1).sum();
        let mut before = 0.0;
        let kept = chances.iter().take_while(|(_, w)| {
            let keep = before < self.top_p * total;
            before += w;
            keep
        });
        let n = kept.count().max(1);
        chances.truncate(n);
        share_out(&mut chances);
        if self.min_p > 0.0 {
            let least = self.min_p * chances.first().map_or(0.0, |c| c.1);
            chances.retain(|c| c.1 >= least);
            share_out(&mut chances);
        }
        if self.typical_p < 1.0 {
            self.keep_typical(&mut chances);
        }
        if self.epsilon_cutoff > 0.0 {
            keep_above(&mut chances, self.epsilon_cutoff);
        }
        if self.eta_cutoff > 0.0 {
            let bound = self.eta_cutoff.sqrt() * (-entropy(&chances)).exp();
            keep_above(&mut chances, bound.min(self.eta_cutoff));
        }
        chances
    }

    /// Keeps the tokens whose surprise is closest to the entropy until they reach the share.
    fn keep_typical(&self, chances: &mut Vec<(u32, f64)>) {
        let expected = entropy(chances);
        let off = |p: f64| (-p.ln() - expected).abs();
        let mut order: Vec<f64> = chances.iter().filter(|c| c.1 > 0.0).map(|c| c.1).collect();
        order.sort_by(|a, b| off(*a).total_cmp(&off(*b)));
        let mut sum = 0.0;
        let last = order.iter().find(|p| {
            sum += **p;
            sum >= self.typical_p
        });
        if let Some(bound) = last.or(order.last()).map(|p| off(*p)) {
            chances.retain(|c| c.1 > 0.0 && off(c.1) <= bound);
            share_out(chances);
        }
    }

    /// The token at a place of the cumulative chances, `at` in `[0, 1)`.
    pub(super) fn pick(&self, row: &[f32], at: f64) -> u32 {
        let chances = self.chances(row);
        let mut sum = 0.0;
        let hit = chances.iter().find(|(_, p)| {
            sum += p;
            at < sum
        });
        hit.or(chances.last()).map_or(0, |c| c.0)
    }
}

/// Makes chances sum to one.
fn share_out(chances: &mut [(u32, f64)]) {
    let total: f64 = chances.iter().map(|c| c.1).sum();
    chances.iter_mut().for_each(|c| c.1 /= total);
}

/// Expected surprise of chances that sum to one, in nats.
fn entropy(chances: &[(u32, f64)]) -> f64 {
    chances.iter().filter(|c| c.1 > 0.0).map(|c| -c.1 * c.1.ln()).sum()
}

/// Keeps what reaches a chance, and the likeliest.
fn keep_above(chances: &mut Vec<(u32, f64)>, least: f64) {
    let top = chances.first().map_or(0.0, |c| c.1);
    chances.retain(|c| c.1 >= least.min(top));
    share_out(chances);
}

/// The draws of a call: each a function of (the member's seed and own source, step), so neither other samples nor the order of
/// calls move them.
pub(super) struct Draws(Vec<Stream>);

impl Draws {
    pub(super) fn new(seed: u64, source: &Input) -> Result<Draws> {
        let Ids { ids, rows, .. } = source.ids("input_ids")?;
        let of = |i: usize| {
            let own = Stream::named("sample").fork(source.members().seed(i as u32).unwrap_or(seed));
            ids[rows.range(i)].iter().fold(own, |s, id| s.fork(u64::from(*id) + 1))
        };
        Ok(Draws((0..rows.n()).map(of).collect()))
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub(super) fn at(&self, member: usize, step: usize) -> f64 {
        (self.0[member].fork(step as u64).next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(s: Sampling, row: &[f32]) -> Vec<u32> {
        s.chances(row).iter().map(|c| c.0).collect()
    }

    #[test]
    fn filters_keep_what_they_say() {
        // Chances 0.5, 0.25, 0.125, 0.125.
        let row = [1.0f32, 2.0, 1.0, 3.0].map(|e| e * std::f32::consts::LN_2);
        let s = Sampling::default();
        assert_eq!(tokens(s, &row), [3, 1, 0, 2]);
        let p: Vec<f64> = s.chances(&row).iter().map(|c| c.1).collect();
        p.iter().zip([0.5, 0.25, 0.125, 0.125]).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{p:?}"));
        assert_eq!(tokens(Sampling { top_k: Some(2), ..s }, &row), [3, 1]);
        // Equals of the k-th stay.
        assert_eq!(tokens(Sampling { top_k: Some(3), ..s }, &row), [3, 1, 0, 2]);
        assert_eq!(tokens(Sampling { top_p: 0.7, ..s }, &row), [3, 1]);
        assert_eq!(tokens(Sampling { top_p: 0.8, ..s }, &row), [3, 1, 0]);
        assert_eq!(tokens(Sampling { top_p: 1e-9, ..s }, &row), [3]);
        // Temperature comes first: at 0.5 the chances are squared, 16 : 4 : 1 : 1 of 22.
        assert_eq!(tokens(Sampling { top_p: 0.72, temperature: 0.5, ..s }, &row), [3]);
        assert_eq!(tokens(Sampling { top_p: 0.73, temperature: 0.5, ..s }, &row), [3, 1]);
        assert_eq!(tokens(Sampling { min_p: 0.4, ..s }, &row), [3, 1]);
        assert_eq!(tokens(Sampling { min_p: 0.2, ..s }, &row), [3, 1, 0, 2]);
        // The entropy is 1.75 bits: the token of 2 bits is closest, then the likeliest of 1 bit, then those of 3 bits.
        assert_eq!(tokens(Sampling { typical_p: 0.2, ..s }, &row), [1]);
        assert_eq!(tokens(Sampling { typical_p: 0.7, ..s }, &row), [3, 1]);
        assert_eq!(tokens(Sampling { typical_p: 0.8, ..s }, &row), [3, 1, 0, 2]);
        assert_eq!(tokens(Sampling { epsilon_cutoff: 0.2, ..s }, &row), [3, 1]);
        assert_eq!(tokens(Sampling { epsilon_cutoff: 0.9, ..s }, &row), [3]);
        // sqrt(0.2) / 2^1.75 is 0.133: between the chances of 0.25 and 0.125.
        assert_eq!(tokens(Sampling { eta_cutoff: 0.2, ..s }, &row), [3, 1]);
    }

    #[test]
    fn draws_follow_the_chances() {
        let row = [0.0f32, 1.0, 2.0, -1.0];
        let s = Sampling { temperature: 1.5, ..Sampling::default() };
        let source = Input::tokens(&[[7u32, 8]]).unwrap_or_else(|e| panic!("{e}"));
        let n = 4000;
        let mut counts = [0f64; 4];
        for seed in 0..n {
            let draws = Draws::new(seed, &source).unwrap_or_else(|e| panic!("{e}"));
            counts[s.pick(&row, draws.at(0, 3)) as usize] += 1.0;
        }
        let chi: f64 =
            s.chances(&row).iter().map(|(t, p)| (counts[*t as usize] - p * n as f64).powi(2) / (p * n as f64)).sum();
        // 16.27 is the 0.999 quantile with three degrees of freedom.
        assert!(chi < 16.27, "{counts:?}, chi-square {chi}");
    }
}
