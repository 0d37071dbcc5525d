//! BLEU as sacreBLEU computes it.
//!
//! With clipped n-gram matches `m_n`, n-grams of the hypothesis `t_n`, lengths `c` (hypothesis) and `r` (closest
//! reference, the shorter of two equally close), all summed over the corpus:
//!
//! `BLEU = 100 * min(1, exp(1 - r/c)) * exp(1/4 * sum_n ln(m_n / t_n))`, n = 1..4
//!
//! (Papineni et al. 2002). Orders without a match are smoothed (Chen and Cherry 2014): `exp` takes `1 / (2^k t_n)` for
//! the k-th such order, `floor` a constant match count, `add-k` adds k to both counts above n = 1, `none` gives 0.

use std::collections::HashMap;
use std::hash::Hash;
use std::str::FromStr;

use super::{Stats, Tokenize, is_space, refuse, same_length};
use crate::{Error, Result};

/// Longest n-gram.
const ORDER: usize = 4;
/// The logarithm that stands for that of 0.
const LOG_ZERO: f64 = -9_999_999_999.0;

/// What orders without a match count as.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Smooth {
    /// Half, a quarter, ... of one match.
    #[default]
    Exp,
    /// This many matches (sacreBLEU's default is 0.1).
    Floor(f64),
    /// This is added to matches and totals above single words (sacreBLEU's default is 1).
    AddK(f64),
    /// 0.
    None,
}

impl Smooth {
    /// The name in a signature, with the value where there is one.
    pub fn name(self) -> String {
        match self {
            Smooth::Exp => "exp".into(),
            Smooth::Floor(v) => format!("floor[{v:.2}]"),
            Smooth::AddK(v) => format!("add-k[{v:.2}]"),
            Smooth::None => "none".into(),
        }
    }

    /// The same method with another value; refused where the method takes none.
    pub fn with_value(self, value: f64) -> Result<Self> {
        if !(value.is_finite() && value > 0.0) {
            return refuse(format!("the smoothing value must be a number above 0, not {value}"));
        }
        match self {
            Smooth::Floor(_) => Ok(Smooth::Floor(value)),
            Smooth::AddK(_) => Ok(Smooth::AddK(value)),
            Smooth::Exp | Smooth::None => refuse("a smoothing value goes with floor and add-k only"),
        }
    }
}

impl FromStr for Smooth {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "exp" => Ok(Smooth::Exp),
            "floor" => Ok(Smooth::Floor(0.1)),
            "add-k" => Ok(Smooth::AddK(1.0)),
            "none" => Ok(Smooth::None),
            _ => refuse(format!("smoothing `{name}` is not one of exp, floor, add-k, none")),
        }
    }
}

/// The settings of a BLEU score.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bleu {
    /// Tokenizer.
    pub tokenize: Tokenize,
    /// Smoothing.
    pub smooth: Smooth,
    /// Lower-case first.
    pub lowercase: bool,
    /// Average only over the orders that the hypothesis is long enough for (for single sentences).
    pub effective_order: bool,
}

/// A BLEU score and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BleuScore {
    /// 0 to 100.
    pub score: f64,
    /// Precision of n = 1..4 in percent, `[4]`.
    pub precisions: [f64; ORDER],
    /// Brevity penalty.
    pub brevity: f64,
    /// Tokens of the hypothesis.
    pub hyp_len: f64,
    /// Tokens of the closest references.
    pub ref_len: f64,
}

impl Bleu {
    /// Columns of [`stats`](Self::stats): both lengths, matches `[4]`, totals `[4]`.
    const WIDTH: usize = 2 + 2 * ORDER;

    /// The settings in sacreBLEU's words, such as `nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp`.
    pub fn signature(&self, refs: usize) -> String {
        format!(
            "nrefs:{refs}|case:{}|eff:{}|tok:{}|smooth:{}",
            if self.lowercase { "lc" } else { "mixed" },
            if self.effective_order { "yes" } else { "no" },
            self.tokenize.name(),
            self.smooth.name()
        )
    }

    /// Statistics of each hypothesis `[segments]` against references `[refs][segments]`.
    pub fn stats<S: AsRef<str>>(&self, hyp: &[S], refs: &[Vec<S>]) -> Result<Stats> {
        same_length(hyp.len(), refs.iter().map(Vec::len))?;
        let mut stats = Stats::new(Self::WIDTH);
        for (i, hyp) in hyp.iter().enumerate() {
            let hyp = self.prepare(hyp.as_ref());
            let refs: Vec<String> = refs.iter().map(|r| self.prepare(r[i].as_ref())).collect();
            stats.push_dense(&segment(&hyp, &refs));
        }
        Ok(stats)
    }

    fn prepare(&self, segment: &str) -> String {
        if self.lowercase { self.tokenize.apply(&segment.to_lowercase()) } else { self.tokenize.apply(segment) }
    }

    /// The score of summed statistics `[10]`.
    pub fn score(&self, sums: &[f64]) -> BleuScore {
        let (hyp_len, ref_len) = (sums[0], sums[1]);
        let (matches, totals) = sums[2..Self::WIDTH].split_at(ORDER);
        let brevity = match hyp_len {
            h if h >= ref_len => 1.0,
            h if h > 0.0 => (1.0 - ref_len / h).exp(),
            _ => 0.0,
        };
        let mut precisions = [0.0; ORDER];
        let mut out = BleuScore { score: 0.0, precisions, brevity, hyp_len, ref_len };
        if matches.iter().all(|&m| m == 0.0) {
            return out;
        }
        let mut halves = 1.0;
        let mut orders = ORDER;
        for n in 0..ORDER {
            let k = match self.smooth {
                Smooth::AddK(k) if n > 0 => k,
                _ => 0.0,
            };
            let (found, total) = (matches[n] + k, totals[n] + k);
            if total == 0.0 {
                break;
            }
            if self.effective_order {
                orders = n + 1;
            }
            precisions[n] = match self.smooth {
                _ if found != 0.0 => 100.0 * found / total,
                Smooth::Exp => {
                    halves *= 2.0;
                    100.0 / (halves * total)
                }
                Smooth::Floor(value) => 100.0 * value / total,
                Smooth::AddK(_) | Smooth::None => 0.0,
            };
        }
        let log = |p: f64| if p == 0.0 { LOG_ZERO } else { p.ln() };
        out.score = brevity * (precisions[..orders].iter().map(|&p| log(p)).sum::<f64>() / orders as f64).exp();
        out.precisions = precisions;
        out
    }
}

/// The statistics `[10]` of one tokenized segment.
fn segment(hyp: &str, refs: &[String]) -> [f64; Bleu::WIDTH] {
    let hyp: Vec<&str> = split(hyp).collect();
    let refs: Vec<Vec<&str>> = refs.iter().map(|r| split(r).collect()).collect();
    let closest = refs.iter().map(Vec::len).min_by_key(|&len| (len.abs_diff(hyp.len()), len)).unwrap_or(0);
    let mut row = [0.0; Bleu::WIDTH];
    row[0] = hyp.len() as f64;
    row[1] = closest as f64;
    for n in 1..=ORDER {
        let mut allowed: HashMap<&[&str], u32> = HashMap::new();
        for words in &refs {
            for (gram, count) in ngrams(words, n) {
                let most = allowed.entry(gram).or_default();
                *most = count.max(*most);
            }
        }
        for (gram, count) in ngrams(&hyp, n) {
            row[1 + n] += f64::from(count.min(allowed.get(gram).copied().unwrap_or(0)));
            row[1 + ORDER + n] += f64::from(count);
        }
    }
    row
}

/// The pieces between white space.
pub(super) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|w| !w.is_empty())
}

/// How often each run of `n` items occurs.
pub(super) fn ngrams<T: Eq + Hash>(items: &[T], n: usize) -> HashMap<&[T], u32> {
    let mut counts = HashMap::new();
    for gram in items.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}
