//! From the rows of a text to one vector.

use serde_json::Value as Json;
use switchformer_nn::{Error, Result};

use super::file::ModuleFile;

/// The rows of one text that are left, and where each stood in it.
pub(crate) struct TextRows<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) dim: usize,
    pub(crate) positions: &'a [u32],
}

impl TextRows<'_> {
    fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.dim..(i + 1) * self.dim]
    }

    /// Rows behind the first `prompt` tokens, with the place of each, counted from 1.
    fn behind(&self, prompt: usize) -> Vec<(usize, f64)> {
        let first = self.positions.first().copied().unwrap_or(0);
        let place = |p: &u32| p.saturating_sub(first) as usize;
        let all = self.positions.iter().map(place).enumerate();
        all.filter(|(_, place)| *place >= prompt).map(|(i, place)| (i, place as f64 + 1.0)).collect()
    }
}

/// How rows become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Cls,
    Max,
    Mean,
    MeanSqrtLen,
    WeightedMean,
    LastToken,
}

/// Modes by name, with the flags of older files, in the order in which flags are joined.
const MODES: [(&str, &str, Mode); 6] = [
    ("cls", "pooling_mode_cls_token", Mode::Cls),
    ("max", "pooling_mode_max_tokens", Mode::Max),
    ("mean", "pooling_mode_mean_tokens", Mode::Mean),
    ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens", Mode::MeanSqrtLen),
    ("weightedmean", "pooling_mode_weightedmean_tokens", Mode::WeightedMean),
    ("lasttoken", "pooling_mode_lasttoken", Mode::LastToken),
];

/// Most modes that are joined.
const MAX_MODES: usize = 16;

/// One vector of the rows of a text: of each mode, joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pooling {
    modes: Vec<Mode>,
    /// Whether tokens of the prompt are pooled too.
    pub(crate) include_prompt: bool,
}

impl Pooling {
    /// The first row.
    pub(crate) fn cls() -> Pooling {
        Pooling { modes: vec![Mode::Cls], include_prompt: true }
    }

    pub(crate) fn read(file: &ModuleFile) -> Result<Pooling> {
        let named = |value: &Json| {
            let mode = MODES.iter().find(|(name, ..)| value == name);
            mode.map(|(.., mode)| *mode).ok_or_else(|| file.refused("pooling_mode", value, &names()))
        };
        let modes = match file.map.get("pooling_mode") {
            Some(Json::Array(list)) if list.is_empty() || list.len() > MAX_MODES => {
                let what = format!("names {} modes, must be 1 to {MAX_MODES}", list.len());
                return Err(file.wrong("pooling_mode", what));
            }
            Some(Json::Array(list)) => list.iter().map(named).collect::<Result<_>>()?,
            Some(one) => vec![named(one)?],
            None => {
                let mut on = Vec::new();
                for (_, flag, mode) in MODES {
                    if file.get(|c| c.flag(flag, false))? {
                        on.push(mode);
                    }
                }
                if on.is_empty() { vec![Mode::Mean] } else { on }
            }
        };
        Ok(Pooling { modes, include_prompt: file.get(|c| c.flag("include_prompt", true))? })
    }

    /// The vector of a text. The first `prompt` tokens are left out where the folder says so.
    pub(crate) fn pool(&self, text: &TextRows, prompt: usize) -> Result<Vec<f32>> {
        let rows = text.behind(if self.include_prompt { 0 } else { prompt });
        let mut out = Vec::with_capacity(self.modes.len() * text.dim);
        for mode in &self.modes {
            let n = rows.len() as f64;
            match mode {
                // Without a row behind the prompt the first of all stands for it, as in the reference.
                Mode::Cls => {
                    one(text, rows.first().map(|(i, _)| *i).or((!text.positions.is_empty()).then_some(0)), &mut out)
                }
                Mode::LastToken => one(text, rows.last().map(|(i, _)| *i), &mut out),
                Mode::Max if rows.is_empty() => {
                    return Err(Error::input(
                        "a text has no token behind its prompt to take the largest of",
                        "shorten the prompt, or leave out the text",
                    ));
                }
                Mode::Max => {
                    let largest =
                        |d: usize| rows.iter().fold(f32::NEG_INFINITY, |m, (i, _)| larger(m, text.row(*i)[d]));
                    out.extend((0..text.dim).map(largest));
                }
                Mode::Mean => weighted(text, rows.iter().map(|(i, _)| (*i, 1.0)), n, &mut out),
                Mode::MeanSqrtLen => weighted(text, rows.iter().map(|(i, _)| (*i, 1.0)), n.sqrt(), &mut out),
                Mode::WeightedMean => {
                    weighted(text, rows.iter().copied(), rows.iter().map(|(_, w)| w).sum(), &mut out);
                }
            }
        }
        Ok(out)
    }
}

fn names() -> String {
    MODES.map(|(name, ..)| name).join(", ")
}

/// The larger of two, or what is no number.
fn larger(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

/// One row, or zeros where there is none.
fn one(text: &TextRows, row: Option<usize>, out: &mut Vec<f32>) {
    match row {
        Some(i) => out.extend_from_slice(text.row(i)),
        None => out.resize(out.len() + text.dim, 0.0),
    }
}

/// Sum of weighted rows, over `by`.
fn weighted(text: &TextRows, rows: impl Iterator<Item = (usize, f64)>, by: f64, out: &mut Vec<f32>) {
    let mut sums = vec![0f64; text.dim];
    for (i, weight) in rows {
        sums.iter_mut().zip(text.row(i)).for_each(|(sum, x)| *sum += weight * f64::from(*x));
    }
    out.extend(sums.into_iter().map(|sum| (sum / by.max(1e-9)) as f32));
}

/// One weight per token of the vocabulary, from scores over it: `ln(1 + relu(score))`, largest or summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Splade {
    sum: bool,
    /// Whether the logarithm is taken twice.
    twice: bool,
}

impl Splade {
    pub(crate) fn read(file: &ModuleFile) -> Result<Splade> {
        let strategy = file.get(|c| c.text("pooling_strategy", "max"))?;
        let activation = file.get(|c| c.text("activation_function", "relu"))?;
        if !matches!(strategy.as_str(), "max" | "sum") {
            return Err(file.refused("pooling_strategy", strategy, "max, sum"));
        }
        if !matches!(activation.as_str(), "relu" | "log1p_relu") {
            return Err(file.refused("activation_function", activation, "relu, log1p_relu"));
        }
        Ok(Splade { sum: strategy == "sum", twice: activation == "log1p_relu" })
    }

    pub(crate) fn pool(&self, text: &TextRows) -> Vec<f32> {
        let weight = |score: f32| {
            let once = f64::from(larger(0.0, score)).ln_1p();
            if self.twice { once.ln_1p() } else { once }
        };
        let rows = text.values.chunks_exact(text.dim.max(1));
        if self.sum {
            let mut sums = vec![0f64; text.dim];
            rows.for_each(|row| sums.iter_mut().zip(row).for_each(|(sum, score)| *sum += weight(*score)));
            return sums.into_iter().map(|x| x as f32).collect();
        }
        // The largest weight is that of the largest score: logarithms are for the end.
        let mut best = vec![0f32; text.dim];
        rows.for_each(|row| best.iter_mut().zip(row).for_each(|(best, score)| *best = larger(*best, *score)));
        best.into_iter().map(|score| weight(score) as f32).collect()
    }
}
