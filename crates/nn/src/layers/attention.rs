//! The attention leaf: what a model file asks for, and its dense form.

mod heads;
mod memory;
mod softmax;

use std::sync::{Arc, PoisonError, RwLock};

use switchformer_tensor::Tensor;

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::maps::{Cut, Depthwise};
use crate::ops::{self, Angles};
use crate::rows::{Rows, Size};
use crate::staged::State;

pub(crate) use heads::ByHeads;
pub use heads::{HeadSite, KeptHeads};
pub use softmax::{Projection, Projections, SoftmaxAttention};
pub use switchformer_kernels::Pairs;

/// Published names of the projections of an attention.
#[derive(Clone, Copy, Debug)]
pub struct AttentionNames {
    /// Query, key, value. Neighbours of one name are stored as one tensor, one part behind the other.
    pub qkv: [&'static str; 3],
    /// One tensor that holds all three, in other generations of the layout.
    pub fused: Option<&'static str>,
    /// One tensor that holds keys and values, in other generations of the layout; queries then have a product of their own.
    pub kv: Option<&'static str>,
    /// Output projection.
    pub out: &'static str,
}

impl AttentionNames {
    /// Names of query, key and value, and of the output projection, in one generation.
    pub const fn new(qkv: [&'static str; 3], out: &'static str) -> Self {
        AttentionNames { qkv, fused: None, kv: None, out }
    }
}

/// The attention a model file asks for; the loader decides its form. [`AttentionSpec::new`] is plain self-attention.
#[derive(Clone)]
pub struct AttentionSpec {
    /// Projections.
    pub names: AttentionNames,
    /// Width of the rows that ask, and of the result.
    pub dim: usize,
    /// Width of the rows that keys and values are made of, where these are another stream's (cross-attention).
    pub source: Option<usize>,
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`. Neighbouring heads of queries share one.
    pub kv_heads: usize,
    /// Width of a head of queries and keys.
    pub head_dim: usize,
    /// Width of a head of values.
    pub value_dim: usize,
    /// Whether queries, keys and values have biases.
    pub bias: [bool; 3],
    /// Whether the output projection has a bias.
    pub out_bias: bool,
    /// How scores come from queries and keys.
    pub scores: Scores,
    /// What is added to the scores.
    pub positions: Positions,
    /// Rotary positions of queries and keys.
    pub rotary: Option<Arc<Rotary>>,
    /// Whether a query sees only keys at its own position or before.
    pub causal: bool,
    /// A query sees only keys less than so many positions away.
    pub window: Option<usize>,
    /// Windows of maps. Where there are several, each belongs to an equal share of the heads.
    pub cuts: Vec<Partition>,
    /// The smaller map that keys and values are made of.
    pub reduce: Option<Arc<dyn Shrink>>,
    /// Convolutions of the values that are added to what the heads gather, within each window; one for each of `cuts`, or
    /// one.
    pub local: Vec<Depthwise>,
    /// Name of its taps: `blocks.N.{tap}.probs`, `blocks.N.{tap}.maps` (what the first are made of) and `blocks.N.{tap}.k`.
    pub tap: &'static str,
}

impl AttentionSpec {
    /// Every row attends to every row of its segment: heads of `dim / heads`, scores times `head_dim^-1/2`, all biases.
    pub fn new(names: AttentionNames, dim: usize, heads: usize) -> Self {
        let head_dim = dim / heads.max(1);
        AttentionSpec {
            names,
            dim,
            source: None,
            heads,
            kv_heads: heads,
            head_dim,
            value_dim: head_dim,
            bias: [true; 3],
            out_bias: true,
            scores: Scores::Dot((head_dim.max(1) as f64).powf(-0.5)),
            positions: Positions::None,
            rotary: None,
            causal: false,
            window: None,
            cuts: Vec::new(),
            reduce: None,
            local: Vec::new(),
            tap: "attn",
        }
    }

    /// Heads must divide, and options that exclude each other must not stand together.
    fn check(&self) -> Result<()> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let what = format!("is {}, which does not divide the {} heads", self.kv_heads, self.heads);
            return Err(Error::config("num_key_value_heads", what));
        }
        let shared = self.kv_heads == self.heads && self.head_dim == self.value_dim;
        let cosine = matches!(self.scores, Scores::Cosine(_));
        if !shared && (cosine || !self.cuts.is_empty() || !self.local.is_empty()) {
            return Err(Error::config("num_key_value_heads", "shares heads, which windows and cosines cannot"));
        }
        let parts = self.cuts.len().max(1);
        if !self.heads.is_multiple_of(parts) || ![0, parts].contains(&self.local.len()) {
            return Err(Error::config(
                "num_heads",
                format!("is {}, which {parts} kinds of windows cannot share", self.heads),
            ));
        }
        let elsewhere = usize::from(self.reduce.is_some()) + usize::from(self.source.is_some());
        if elsewhere + usize::from(!self.cuts.is_empty()) > 1 || (elsewhere > 0 && cosine) {
            return Err(Error::unsupported(
                "attention",
                "windows or cosines with another source of keys",
                "one of them",
            ));
        }
        Ok(())
    }
}

/// How scores come from queries and keys.
#[derive(Clone, Debug)]
pub enum Scores {
    /// Scaled dot product.
    Dot(f64),
    /// Cosine times a factor per head, whose logarithm `[heads, 1, 1]` counts as `ln 100` at most (Swin v2).
    Cosine(Tensor),
}

/// What is added to the scores of an attention.
#[derive(Clone, Default)]
pub enum Positions {
    /// Nothing.
    #[default]
    None,
    /// A learned number by distance, in buckets that grow with it (T5). Blocks may share the table, so its bytes are
    /// counted by the model.
    Distance(DistanceBias),
    /// A number for every pair of places of a window.
    Pairs(Arc<dyn PairBias>),
}

/// Scores by distance; see [`crate::ops::RelativeBias`].
#[derive(Clone, Debug)]
pub struct DistanceBias {
    /// `[buckets, heads]`.
    pub table: Tensor,
    /// Distances from here on share the last bucket.
    pub max_distance: usize,
    /// Whether keys after the query have buckets of their own.
    pub bidirectional: bool,
}

/// Numbers that are added to the scores of the pairs of places of a window.
pub trait PairBias: Send + Sync {
    /// Shapes: -> `[heads, len, len]` for windows of `len` places.
    fn of(&self, window: Size) -> Result<Tensor>;
}

/// How a map of a size is cut into windows.
pub type Partition = Arc<dyn Fn(Size) -> Result<Cut> + Send + Sync>;

/// Rows of a map to rows of a smaller one: a step of a pyramid, or what keys and values are made of.
pub trait Shrink: Send + Sync {
    /// Shapes: x `[total, from]` -> `[total', to]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State>;
}

/// Rotary positions: pairs of a head's numbers turn by an angle that grows with the position of the row.
#[derive(Debug)]
pub struct Rotary {
    by: Vec<f32>,
    pairs: Pairs,
    width: usize,
    /// Angles of all positions met so far.
    angles: RwLock<Angles>,
}

impl Rotary {
    /// Pair `k` of a head turns by `by[k]` per position; the pairs are whole heads.
    pub fn new(by: Vec<f32>, pairs: Pairs) -> Self {
        let width = 2 * by.len();
        Rotary::partial(by, pairs, width)
    }

    /// The same for heads of `width` numbers, of which those behind the pairs stay.
    pub fn partial(by: Vec<f32>, pairs: Pairs, width: usize) -> Self {
        let angles = RwLock::new(Angles::new(0, &by, pairs).partial(width));
        Rotary { by, pairs, width, angles }
    }

    /// Shapes: x `[rows, heads * head_dim]`, positions `[rows]` -> the same as x.
    pub fn rotate(&self, x: &Tensor, heads: usize, positions: &[u32]) -> Result<Tensor> {
        let need = positions.iter().max().map_or(0, |p| *p as usize + 1);
        // The lock guards one assignment, so a panic elsewhere leaves nothing half done.
        let known = self.angles.read().unwrap_or_else(PoisonError::into_inner).clone();
        if known.positions() >= need {
            return ops::rotate(x, heads, &known, positions);
        }
        let grown = Angles::new(need.next_power_of_two(), &self.by, self.pairs).partial(self.width);
        *self.angles.write().unwrap_or_else(PoisonError::into_inner) = grown.clone();
        ops::rotate(x, heads, &grown, positions)
    }
}
