//! What changes the scores before a token is chosen: penalties, repetitions, forbidden and forced tokens, least lengths. Names
//! and order are those of Hugging Face's `generate`.

use std::collections::BTreeSet;

use switchformer_nn::{Error, Result};

/// Most sequences of tokens that a rule may list.
const MAX_SEQUENCES: usize = 100_000;

/// Rules on the scores of the next token; the default changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Added to the score of a sequence's last token where the text ends with the others.
    pub sequence_bias: Vec<(Vec<u32>, f64)>,
    /// Favours (above 1) tokens of the source.
    pub encoder_repetition_penalty: f64,
    /// Disfavours (above 1) tokens that were written, the start token included.
    pub repetition_penalty: f64,
    /// No run of this many tokens is written twice; 0 allows it.
    pub no_repeat_ngram_size: usize,
    /// No run of this many tokens is taken from the source; 0 allows it.
    pub encoder_no_repeat_ngram_size: usize,
    /// Sequences that are not written.
    pub bad_words: Vec<Vec<u32>>,
    /// Least length of the text with its start token.
    pub min_length: usize,
    /// Least number of written tokens.
    pub min_tokens: usize,
    /// The first token.
    pub forced_bos: Option<u32>,
    /// What the last token must be where the length ends the text.
    pub forced_eos: Vec<u32>,
    /// From this number of written tokens on, the tokens that end the text gain by a power of this factor.
    pub exponential_decay: Option<(usize, f64)>,
    /// Tokens that are not written.
    pub suppress: Vec<u32>,
    /// Tokens that are not written first.
    pub begin_suppress: Vec<u32>,
    /// Whether what the other rules leave is made log-probabilities again.
    pub renormalize: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            sequence_bias: Vec::new(),
            encoder_repetition_penalty: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            encoder_no_repeat_ngram_size: 0,
            bad_words: Vec::new(),
            min_length: 0,
            min_tokens: 0,
            forced_bos: None,
            forced_eos: Vec::new(),
            exponential_decay: None,
            suppress: Vec::new(),
            begin_suppress: Vec::new(),
            renormalize: false,
        }
    }
}

/// The text whose next token is chosen.
pub(super) struct Text<'a> {
    /// The start token.
    pub(super) start: u32,
    /// What was written behind it.
    pub(super) written: &'a [u32],
    /// What was read.
    pub(super) source: &'a [u32],
    /// Tokens that end a text.
    pub(super) ends: &'a [u32],
    /// Most tokens to write.
    pub(super) max: usize,
}

impl Rules {
    /// Refuses values out of bounds by name; `vocab` bounds the tokens.
    pub fn check(&self, vocab: usize) -> Result<()> {
        for (name, penalty) in [
            ("repetition_penalty", self.repetition_penalty),
            ("encoder_repetition_penalty", self.encoder_repetition_penalty),
        ] {
            if !(penalty > 0.0 && penalty <= 1e3) {
                return Err(Error::input(format!("{name} {penalty}"), "above 0, up to 1000; 1 changes nothing"));
            }
        }
        let listed = self.bad_words.iter().chain(self.sequence_bias.iter().map(|(s, _)| s));
        if listed.clone().count() > MAX_SEQUENCES {
            return Err(Error::input(
                "too many sequences",
                format!("bad_words_ids and sequence_bias list {MAX_SEQUENCES} at most"),
            ));
        }
        if listed.clone().any(Vec::is_empty) {
            return Err(Error::input(
                "an empty sequence",
                "bad_words_ids and sequence_bias list at least one token each",
            ));
        }
        let lone =
            [&self.forced_eos, &self.suppress, &self.begin_suppress].into_iter().flatten().chain(&self.forced_bos);
        match listed.flatten().chain(lone).find(|t| **t as usize >= vocab) {
            Some(token) => {
                Err(Error::input(format!("token {token} of a rule of generation"), format!("0 to {}", vocab - 1)))
            }
            None => Ok(()),
        }
    }

    /// Whether no score is changed.
    pub(super) fn are_none(&self) -> bool {
        *self == Rules::default()
    }

    /// Changes the scores of what may follow. Shapes: row `[vocab]`.
    pub(super) fn apply(&self, text: &Text, row: &mut [f64]) {
        const NEVER: f64 = f64::NEG_INFINITY;
        let length = 1 + text.written.len();
        let so_far: Vec<u32> = std::iter::once(text.start).chain(text.written.iter().copied()).collect();
        for (sequence, bias) in &self.sequence_bias {
            add_behind(&so_far, sequence, *bias, row);
        }
        scale(text.source, 1.0 / self.encoder_repetition_penalty, row);
        scale(&so_far, self.repetition_penalty, row);
        ban_repeats(&so_far, &so_far, self.no_repeat_ngram_size, row);
        ban_repeats(text.source, &so_far, self.encoder_no_repeat_ngram_size, row);
        for sequence in self.bad_words.iter().filter(|s| !matches!(s.as_slice(), [t] if text.ends.contains(t))) {
            add_behind(&so_far, sequence, NEVER, row);
        }
        let mut never = |tokens: &[u32]| tokens.iter().for_each(|t| row[*t as usize] = NEVER);
        if length < self.min_length || text.written.len() < self.min_tokens {
            never(text.ends);
        }
        if let Some(first) = self.forced_bos.filter(|_| length == 1) {
            only(&[first], row);
        }
        if !self.forced_eos.is_empty() && text.written.len() + 1 == text.max {
            only(&self.forced_eos, row);
        }
        if let Some((from, factor)) = self.exponential_decay
            && text.written.len() > from
        {
            let power = factor.powi((text.written.len() - from) as i32) - 1.0;
            let possible = text.ends.iter().filter(|t| row[**t as usize].is_finite()).copied().collect::<Vec<_>>();
            possible.into_iter().for_each(|t| row[t as usize] += row[t as usize].abs() * power);
        }
        let mut never = |tokens: &[u32]| tokens.iter().for_each(|t| row[*t as usize] = NEVER);
        never(&self.suppress);
        if text.written.len() == usize::from(self.forced_bos.is_some()) {
            never(&self.begin_suppress);
        }
        if self.renormalize {
            let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total = top + row.iter().map(|v| (v - top).exp()).sum::<f64>().ln();
            // Where nothing may be written there is nothing to share out.
            if total.is_finite() {
                row.iter_mut().for_each(|v| *v -= total);
            }
        }
    }
}

/// Leaves nothing but these tokens.
fn only(tokens: &[u32], row: &mut [f64]) {
    row.fill(f64::NEG_INFINITY);
    tokens.iter().for_each(|t| row[*t as usize] = 0.0);
}

/// Adds to the score of a sequence's last token where the text ends with the others.
fn add_behind(text: &[u32], sequence: &[u32], bias: f64, row: &mut [f64]) {
    if let Some((last, before)) = sequence.split_last()
        && (before.is_empty() || (sequence.len() <= text.len() && text.ends_with(before)))
    {
        row[*last as usize] += bias;
    }
}

/// Divides the scores of these tokens, each once, so that a penalty above 1 makes them less likely.
fn scale(tokens: &[u32], penalty: f64, row: &mut [f64]) {
    if penalty == 1.0 {
        return;
    }
    for t in tokens.iter().collect::<BTreeSet<_>>() {
        let score = &mut row[*t as usize];
        *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
    }
}

/// Forbids what would make a run of `n` tokens that stands in `among` already.
fn ban_repeats(among: &[u32], text: &[u32], n: usize, row: &mut [f64]) {
    if n == 0 || text.len() + 1 < n {
        return;
    }
    let end = &text[text.len() + 1 - n..];
    for run in among.windows(n).filter(|run| run.starts_with(end)) {
        row[run[n - 1] as usize] = f64::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Text = Text { start: 0, written: &[3, 4, 3], source: &[5, 4, 2], ends: &[1], max: 8 };

    fn applied(rules: Rules) -> Vec<f64> {
        let mut row = vec![1.0, -1.0, 2.0, -2.0, 4.0, 3.0];
        rules.apply(&TEXT, &mut row);
        row
    }

    #[test]
    fn each_rule_changes_what_it_says() {
        let inf = f64::NEG_INFINITY;
        let plain = Rules::default;
        assert!(plain().are_none());
        assert_eq!(applied(Rules { repetition_penalty: 2.0, ..plain() }), [0.5, -1.0, 2.0, -4.0, 2.0, 3.0]);
        assert_eq!(applied(Rules { encoder_repetition_penalty: 2.0, ..plain() }), [1.0, -1.0, 4.0, -2.0, 8.0, 6.0]);
        // 3 4 stood there, and the text ends with 3.
        assert_eq!(applied(Rules { no_repeat_ngram_size: 2, ..plain() })[4], inf);
        assert_eq!(applied(Rules { no_repeat_ngram_size: 3, ..plain() }), applied(plain()));
        assert_eq!(applied(Rules { encoder_no_repeat_ngram_size: 1, ..plain() }), [1.0, -1.0, inf, -2.0, inf, inf]);
        assert_eq!(applied(Rules { bad_words: vec![vec![4, 3, 5], vec![1], vec![5, 2]], ..plain() })[5], inf);
        assert_eq!(applied(Rules { sequence_bias: vec![(vec![3, 2], 0.5), (vec![2, 5], 9.0)], ..plain() })[2], 2.5);
        assert_eq!(applied(Rules { min_length: 5, ..plain() })[1], inf);
        assert_eq!(applied(Rules { min_length: 4, min_tokens: 3, ..plain() })[1], -1.0);
        assert_eq!(applied(Rules { exponential_decay: Some((1, 1.5)), ..plain() })[1], -1.0 + 1.25);
        // What is forbidden stays so.
        let both = Rules { exponential_decay: Some((1, 1.5)), min_length: 5, ..plain() };
        assert_eq!(applied(both)[1], inf);
        assert_eq!(applied(Rules { suppress: vec![2], begin_suppress: vec![3], ..plain() })[2..4], [inf, -2.0]);
        assert_eq!(applied(Rules { forced_eos: vec![1], ..plain() })[1], -1.0);
        assert!(Rules { suppress: vec![6], ..plain() }.check(6).is_err());
        assert!(Rules { repetition_penalty: 0.0, ..plain() }.check(6).is_err());
    }
}
