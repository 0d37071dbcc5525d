//! Beam search: the best whole sequences among several that are written at once.
//!
//! The rules are those of Hugging Face's `generate`: candidates by summed log-probability; those that end within the
//! first `width` are finished at `sum / length^penalty`; the search of a member stops by [`Early`]. Each member is
//! searched on its own terms, so that other samples move nothing.

use serde::{Deserialize, Serialize};
use switchformer_nn::{Error, Result};

use super::{Before, Decoder, End, Ends, Generation};

/// Most beams per member.
pub const MAX_BEAMS: usize = 64;

/// When the search of a member stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Early {
    /// When the best running beam, at its present length, is worse than the worst finished one.
    #[default]
    No,
    /// When as many texts as beams are finished.
    Yes,
    /// When no running beam can become better than the worst finished one at any length.
    Never,
}

/// Settings of a beam search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beams {
    /// Beams per member.
    pub width: usize,
    /// Power of the length that a sum is divided by: above 0 favours long texts, below 0 short ones.
    pub length_penalty: f64,
    /// When the search stops.
    pub early: Early,
    /// Texts given back per member, the best first.
    pub keep: usize,
}

impl Beams {
    /// Refuses values out of bounds by name.
    pub fn check(&self) -> Result<()> {
        if !(2..=MAX_BEAMS).contains(&self.width) {
            return Err(Error::input(format!("{} beams", self.width), format!("2 to {MAX_BEAMS}; one beam is greedy")));
        }
        if !(-10.0..=10.0).contains(&self.length_penalty) {
            return Err(Error::input(format!("length penalty {}", self.length_penalty), "-10 to 10"));
        }
        if !(1..=self.width).contains(&self.keep) {
            return Err(Error::input(format!("{} texts of {} beams", self.keep, self.width), "1 to the beams"));
        }
        Ok(())
    }

    fn score(&self, sum: f64, length: usize) -> f64 {
        sum / (length as f64).powf(self.length_penalty)
    }
}

/// A text being written.
struct Beam {
    tokens: Vec<u32>,
    sum: f64,
    /// The segment of the memory that it continues.
    from: usize,
}

/// The search of one member.
struct Search {
    running: Vec<Beam>,
    /// Best first.
    finished: Vec<(f64, Vec<u32>, End)>,
}

impl Search {
    /// Goes one step on. `scores` are log-probabilities `[vocab]` of each running beam, by the segment it stands in.
    fn step(&mut self, scores: &[Vec<f64>], ends: &Ends, b: &Beams) {
        let wide = b.width * (1 + ends.tokens.len()).max(2);
        let mut running = Vec::with_capacity(b.width);
        let candidates = self.candidates(scores, wide);
        // What rules forbid neither goes on nor ends a text, where they leave anything.
        let some = candidates.iter().any(|(.., sum)| sum.is_finite());
        for (rank, (beam, token, sum)) in candidates.into_iter().enumerate().filter(|(_, c)| c.2.is_finite() || !some) {
            let old = &self.running[beam];
            let tokens = [old.tokens.as_slice(), &[token]].concat();
            match ends.of(&tokens) {
                Some(end) if rank < b.width => self.finished.push((b.score(sum, tokens.len()), tokens, end)),
                None if running.len() < b.width => running.push(Beam { tokens, sum, from: old.from }),
                _ => {}
            }
        }
        self.finished.sort_by(|x, y| y.0.total_cmp(&x.0));
        self.finished.truncate(b.width);
        self.running = running;
        if self.over(ends.max, b) {
            self.running.clear();
        }
    }

    /// Ends with the best text so far.
    fn cancel(&mut self, b: &Beams) {
        if let Some(Beam { tokens, sum, .. }) = self.running.drain(..).next() {
            self.finished = vec![(b.score(sum, tokens.len().max(1)), tokens, End::Cancelled)];
        }
    }

    /// The `n` best continuations: beam, token, sum; the first of equals first.
    fn candidates(&self, scores: &[Vec<f64>], n: usize) -> Vec<(usize, u32, f64)> {
        let mut all = Vec::new();
        for (beam, old) in self.running.iter().enumerate() {
            let row = &scores[old.from];
            let mut order: Vec<u32> = (0..row.len() as u32).collect();
            let before = |x: &u32, y: &u32| row[*y as usize].total_cmp(&row[*x as usize]).then(x.cmp(y));
            if n < order.len() {
                order.select_nth_unstable_by(n, before);
                order.truncate(n);
            }
            all.extend(order.into_iter().map(|t| (beam, t, old.sum + row[t as usize])));
        }
        all.sort_by(|x, y| y.2.total_cmp(&x.2).then((x.0, x.1).cmp(&(y.0, y.1))));
        all.truncate(n);
        all
    }

    fn over(&self, max: usize, b: &Beams) -> bool {
        let Some(best) = self.running.first() else { return true };
        if self.finished.len() < b.width {
            return false;
        }
        let length = match b.early {
            Early::Yes => return true,
            Early::Never if b.length_penalty > 0.0 => max,
            _ => best.tokens.len(),
        };
        self.finished.last().is_some_and(|worst| b.score(best.sum, length) <= worst.0)
    }
}

/// Log-probabilities of scores.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let top = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let total: f64 = row.iter().map(|v| f64::from(v - top).exp()).sum();
    row.iter().map(|v| f64::from(v - top) - total.ln()).collect()
}

/// The best texts of each member.
pub(super) fn search(writer: &mut Decoder, before: &Before, ends: &Ends, b: &Beams) -> Result<Vec<Vec<Generation>>> {
    b.check()?;
    let (mut memory, mut logits) = writer.begin(before.source)?;
    // All beams of a member start as one.
    let start =
        |from: usize| Search { running: vec![Beam { tokens: Vec::new(), sum: 0.0, from }], finished: Vec::new() };
    let mut searches: Vec<Search> = (0..before.source.n()).map(start).collect();
    loop {
        let mut scores: Vec<Vec<f64>> = logits.iter().map(|row| log_softmax(row)).collect();
        if !before.rules.are_none() {
            for (member, search) in searches.iter().enumerate() {
                for beam in &search.running {
                    before.apply(member, &beam.tokens, &mut scores[beam.from])?;
                }
            }
        }
        for (member, search) in (0..).zip(&mut searches).filter(|(_, s)| !s.running.is_empty()) {
            if writer.members.cancelled(member) { search.cancel(b) } else { search.step(&scores, ends, b) }
        }
        // Segments of the next step: what each running beam continues, and with which token.
        let (mut segments, mut tokens) = (Vec::new(), Vec::new());
        for beam in searches.iter_mut().flat_map(|s| &mut s.running) {
            segments.push(beam.from);
            tokens.extend(beam.tokens.last());
            beam.from = segments.len() - 1;
        }
        if segments.is_empty() {
            break;
        }
        memory.select(&segments)?;
        logits = writer.step(&mut memory, &tokens)?;
    }
    let texts = |s: Search| {
        let written = |(score, tokens, end)| Generation { tokens, score: Some(score), end };
        s.finished.into_iter().take(b.keep).map(written).collect()
    };
    Ok(searches.into_iter().map(texts).collect())
}
