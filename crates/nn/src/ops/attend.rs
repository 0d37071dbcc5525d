//! What an attention may ask for beyond plain softmax over its own rows, and relative positions.

use switchformer_tensor::Tensor;

use crate::error::{Error, Result};
use crate::rows::Rows;

/// How [`super::attend()`] attends. Segment `i` of the queries sees segment `i` of the keys.
#[derive(Clone, Copy, Debug)]
pub struct AttendSpec<'a> {
    /// Members of the queries.
    pub q_rows: &'a Rows,
    /// Members of the keys and values; the same rows for self-attention.
    pub k_rows: &'a Rows,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`. Neighbouring heads of queries share one.
    pub kv_heads: usize,
    /// Factor of the scores: `head_dim^-1/2` for most, 1 for T5.
    pub scale: f64,
    /// Whether a query sees only keys at its own position or before.
    pub causal: bool,
    /// A query sees only keys less than so many positions away.
    pub window: Option<usize>,
    /// A learned number added to each score.
    pub bias: Option<ScoreBias<'a>>,
    /// Parts of a segment that are kept apart, where queries and keys are the same rows.
    pub zones: Option<Zones<'a>>,
}

/// What is added to each score.
#[derive(Clone, Copy, Debug)]
pub enum ScoreBias<'a> {
    /// By the distance between the two positions.
    Distance(RelativeBias<'a>),
    /// By the places of query and key in their segments, `[heads, n, m]`: all segments are of one size.
    Pairs(&'a Tensor),
}

impl<'a> ScoreBias<'a> {
    /// The learned numbers.
    pub(super) fn tensor(&self) -> &'a Tensor {
        match self {
            ScoreBias::Distance(r) => r.table,
            ScoreBias::Pairs(t) => t,
        }
    }
}

/// Zones within segments: a query and a key of different zones get a number added to their score.
#[derive(Clone, Copy, Debug)]
pub struct Zones<'a> {
    /// Zone of every row, `[rows]`.
    pub of: &'a [u8],
    /// What is added.
    pub apart: f32,
}

/// Scores by distance, in buckets that grow with it (T5).
#[derive(Clone, Copy, Debug)]
pub struct RelativeBias<'a> {
    /// `[buckets, heads]`.
    pub table: &'a Tensor,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
    /// Whether keys after the query have buckets of their own; otherwise they count as distance 0.
    pub bidirectional: bool,
}

/// Most scores of one member over all heads, and most numbers of maps that are kept together.
const MAX_SCORES: usize = 1 << 30;

impl<'a> AttendSpec<'a> {
    /// Plain attention of `q_rows` to `k_rows`.
    pub fn new(q_rows: &'a Rows, k_rows: &'a Rows, heads: usize, scale: f64) -> Self {
        AttendSpec {
            q_rows,
            k_rows,
            heads,
            kv_heads: heads,
            scale,
            causal: false,
            window: None,
            bias: None,
            zones: None,
        }
    }

    /// The result for hollow operands, of which `values` columns are of values; `None` where all have numbers.
    pub(super) fn hollow_of(&self, read: &[&Tensor], values: usize) -> Option<Tensor> {
        let bias = self.bias.map(|b| b.tensor());
        let read: Vec<&Tensor> = read.iter().copied().chain(bias).collect();
        let columns = values / self.kv_heads * self.heads;
        Tensor::hollow_of(&read, (self.q_rows.total(), columns), read[0].dtype())
    }

    /// Whether the kernels can take the bias.
    pub(super) fn on_kernels(&self) -> bool {
        self.bias.is_none_or(|b| super::on_kernels(&[b.tensor()]))
    }

    /// Shapes must agree, and every member that asks must have something to look at.
    pub(super) fn check(&self, q: &Tensor, k: &Tensor, v: Option<&Tensor>) -> Result<()> {
        if self.heads == 0 || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let want = format!("{} heads, which {} heads of keys divide", self.heads, self.kv_heads);
            return Err(Error::shape("attend", want, &[self.heads, self.kv_heads]));
        }
        for (t, rows, heads) in
            [(Some(q), self.q_rows, self.heads), (Some(k), self.k_rows, self.kv_heads), (v, self.k_rows, self.kv_heads)]
        {
            let Some(t) = t else { continue };
            if !matches!(t.dims(), [n, d] if *n == rows.total() && d.is_multiple_of(heads)) {
                return Err(Error::shape("attend", format!("[{}, {heads} * head_dim]", rows.total()), t.dims()));
            }
        }
        let head_dim = q.dims()[1] / self.heads;
        if k.dims()[1] != self.kv_heads * head_dim || self.q_rows.n() != self.k_rows.n() {
            let want = format!("[{}, {} * {head_dim}]", self.k_rows.total(), self.kv_heads);
            return Err(Error::shape("attend", want, k.dims()));
        }
        match self.bias {
            Some(ScoreBias::Distance(b)) if b.table.dims().get(1) != Some(&self.heads) => {
                return Err(Error::shape("relative bias", format!("[buckets, {}]", self.heads), b.table.dims()));
            }
            Some(ScoreBias::Pairs(t)) => {
                let fits = |i: usize| {
                    let (n, m) = (self.q_rows.len(i), self.k_rows.len(i));
                    n * m == 0 || t.dims() == [self.heads, n, m]
                };
                if !(0..self.q_rows.n()).all(fits) {
                    let want = format!("[{}, queries, keys] of every segment", self.heads);
                    return Err(Error::shape("attention bias", want, t.dims()));
                }
            }
            _ => {}
        }
        if let Some(z) = self.zones
            && (z.of.len() != self.q_rows.total() || self.q_rows.cu() != self.k_rows.cu())
        {
            return Err(Error::shape("attention zones", format!("[{}]", self.q_rows.total()), &[z.of.len()]));
        }
        self.check_members()
    }

    /// Every member that asks must have something to look at, and not too much.
    pub(super) fn check_members(&self) -> Result<()> {
        if self.window == Some(0) {
            return Err(Error::config("sliding_window", "is 0, so that nothing is seen"));
        }
        for i in 0..self.q_rows.n() {
            let (n, m) = (self.q_rows.len(i), self.k_rows.len(i));
            if n > 0 && m == 0 {
                let what = format!("member {} has no valid token", self.q_rows.members()[i]);
                return Err(Error::input(what, "give at least one token, and a mask that is not all zero"));
            }
            if n.saturating_mul(m).saturating_mul(self.heads) > MAX_SCORES {
                return Err(Error::Limit {
                    what: format!("attention scores of one member ({n} rows to {m}, {} heads)", self.heads),
                    got: n.saturating_mul(m).saturating_mul(self.heads) as u64,
                    max: MAX_SCORES as u64,
                    hint: "shorten the text, or give a smaller image".into(),
                });
            }
        }
        Ok(())
    }

    /// Maps of all members are kept together, so that they are bounded together.
    pub(super) fn check_maps(&self) -> Result<()> {
        let each = |i: usize| self.q_rows.len(i).saturating_mul(self.k_rows.len(i)).saturating_mul(self.heads);
        let (n, all) = (self.q_rows.n(), (0..self.q_rows.n()).map(each).fold(0, usize::saturating_add));
        if all > MAX_SCORES {
            let rows = self.q_rows.total();
            return Err(Error::Limit {
                what: format!("numbers in attention maps of {n} members ({rows} rows, {} heads)", self.heads),
                got: all as u64,
                max: MAX_SCORES as u64,
                hint: "give fewer at once, shorter texts or smaller images".into(),
            });
        }
        Ok(())
    }

    /// Distance `key - query` of every pair of segment `i`, row by row.
    fn distances(&self, i: usize) -> impl Iterator<Item = i64> {
        let queries = &self.q_rows.positions()[self.q_rows.range(i)];
        let keys = &self.k_rows.positions()[self.k_rows.range(i)];
        queries.iter().flat_map(move |q| keys.iter().map(move |k| i64::from(*k) - i64::from(*q)))
    }

    /// Biases of segment `i`, `[heads, n, m]`.
    pub(super) fn bias_of(&self, i: usize) -> Result<Option<Tensor>> {
        let bias = match self.bias {
            None => return Ok(None),
            Some(ScoreBias::Pairs(t)) => return Ok(Some(t.clone())),
            Some(ScoreBias::Distance(bias)) => bias,
        };
        let (n, m) = (self.q_rows.len(i), self.k_rows.len(i));
        let buckets = bias.table.dims()[0];
        let index: Vec<u32> =
            self.distances(i).map(|d| bucket(d, buckets, bias.max_distance, bias.bidirectional)).collect();
        let picked = bias.table.index_select(&Tensor::from_vec(index, n * m)?, 0)?; // [n * m, h]
        Ok(Some(picked.reshape((n, m, self.heads))?.permute((2, 0, 1))?.contiguous()?))
    }

    /// Minus infinity where a query may not look, and what keeps zones apart, `[n, m]`; `None` where there is neither.
    pub(super) fn mask_of(&self, i: usize) -> Result<Option<Tensor>> {
        let hidden = |d: i64| (self.causal && d > 0) || self.window.is_some_and(|w| d.unsigned_abs() >= w as u64);
        let hides = self.distances(i).any(hidden);
        if !hides && self.zones.is_none() {
            return Ok(None);
        }
        let mut mask: Vec<f32> = self.distances(i).map(|d| if hidden(d) { f32::NEG_INFINITY } else { 0.0 }).collect();
        if let Some(z) = self.zones {
            let own = &z.of[self.q_rows.range(i)];
            let pairs = own.iter().flat_map(|q| own.iter().map(move |k| q != k));
            mask.iter_mut().zip(pairs).filter(|(_, apart)| *apart).for_each(|(v, _)| *v += z.apart);
        }
        Ok(Some(Tensor::from_vec(mask, (self.q_rows.len(i), self.k_rows.len(i)))?))
    }
}

/// Bucket of a distance `key - query`: half of the buckets (of each side) hold one distance each, the rest grow
/// logarithmically up to `max_distance`. Needs at least two buckets a side and a `max_distance` beyond the exact ones.
pub fn bucket(distance: i64, buckets: usize, max_distance: usize, bidirectional: bool) -> u32 {
    let (side, first, far) = if bidirectional {
        (buckets / 2, if distance > 0 { buckets / 2 } else { 0 }, distance.unsigned_abs())
    } else {
        (buckets, 0, (-distance).max(0) as u64)
    };
    let exact = side / 2;
    if far < exact as u64 {
        return (first + far as usize) as u32;
    }
    // In f32, as the reference computes it: a rounding at the edge of a bucket moves a distance into the next.
    let log = (far as f32 / exact as f32).ln() / (max_distance as f64 / exact as f64).ln() as f32;
    let grown = exact + (log * (side - exact) as f32) as usize;
    (first + grown.min(side - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::bucket;

    /// Distances from -300 to 300 at which the reference's bucket is another than one step before.
    type Case = ((usize, usize, bool), &'static [i64], (u32, u32));
    const CASES: [Case; 5] = [
        (
            (32, 128, true),
            &[
                -90, -63, -45, -31, -22, -15, -11, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23,
                32, 46, 64, 91,
            ],
            (15, 31),
        ),
        (
            (32, 128, false),
            &[
                -112, -98, -86, -76, -66, -58, -51, -45, -39, -34, -30, -26, -23, -20, -18, -15, -14, -13, -12, -11,
                -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, 0,
            ],
            (31, 0),
        ),
        ((8, 10, true), &[-4, -1, 0, 1, 2, 5], (3, 7)),
        ((8, 20, false), &[-13, -8, -5, -3, -2, -1, 0], (7, 0)),
        ((12, 50, true), &[-19, -7, -2, -1, 0, 1, 2, 3, 8, 20], (5, 11)),
    ];

    #[test]
    fn buckets_change_where_the_reference_changes_them() {
        for ((buckets, far, both), changes, ends) in CASES {
            let at = |d: i64| bucket(d, buckets, far, both);
            let found: Vec<i64> = (-299..=300).filter(|d| at(*d) != at(d - 1)).collect();
            assert_eq!(found, changes, "{buckets} buckets up to {far}");
            assert_eq!((at(-300), at(300)), ends, "{buckets} buckets up to {far}");
            assert!((-300..=300).all(|d| (at(d) as usize) < buckets));
        }
    }
}
