//! What an attention is asked for: how rows are divided, who sees whom, what is added to scores.

/// How packed rows are divided into segments and heads, for attention of rows to their own segment.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// Where segments start and, last, where they all end: `n + 1` rising numbers from 0. A
    /// segment may be empty.
    pub cu: &'a [u32],
    /// Heads.
    pub heads: usize,
    /// Floats per head.
    pub head_dim: usize,
    /// What scores are multiplied by, as a rule `1 / sqrt(head_dim)`.
    pub scale: f32,
}

impl<'a> Packed<'a> {
    /// Rows of all segments together.
    ///
    /// # Panics
    /// If `cu` does not rise from 0.
    pub fn total(&self) -> usize {
        total(self.cu)
    }

    /// Floats per row.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// The same with every option open, and none taken.
    pub fn attend(&self) -> Attend<'a> {
        let Self { cu, heads, head_dim, scale } = *self;
        Attend {
            cu_q: cu,
            cu_k: cu,
            heads,
            heads_kv: heads,
            head_dim,
            value_dim: head_dim,
            scale,
            causal: false,
            window: None,
            positions: None,
            bias: Bias::None,
            key_mask: None,
            zones: None,
        }
    }
}

fn total(cu: &[u32]) -> usize {
    assert!(cu.first() == Some(&0), "cu must start with 0");
    assert!(cu.is_sorted(), "cu must not fall");
    cu[cu.len() - 1] as usize
}

/// An attention with options: segment `i` of the queries sees segment `i` of the keys.
///
/// A query that sees no key at all gets zeros (and a log-sum-exp of minus infinity). A score below
/// -1e30 counts as not seen.
#[derive(Clone, Copy, Debug)]
pub struct Attend<'a> {
    /// Where segments of queries start and, last, where they all end.
    pub cu_q: &'a [u32],
    /// The same of keys and values; as many segments. The same slice for self-attention.
    pub cu_k: &'a [u32],
    /// Heads of the queries.
    pub heads: usize,
    /// Heads of keys and values; divides `heads`. Neighbouring heads of queries share one.
    pub heads_kv: usize,
    /// Floats per head of queries and keys.
    pub head_dim: usize,
    /// Floats per head of values and results.
    pub value_dim: usize,
    /// What products of queries and keys are multiplied by.
    pub scale: f32,
    /// Whether a query sees only keys at its own position or before.
    pub causal: bool,
    /// A query sees only keys less than so many positions away, before it or behind; all without.
    pub window: Option<usize>,
    /// Positions of queries and keys; without, the keys of a segment are at 0, 1, ... and its last
    /// query is where its last key is.
    pub positions: Option<Positions<'a>>,
    /// What is added to the scores.
    pub bias: Bias<'a>,
    /// Which keys may be seen, `[keys in all]`; all without.
    pub key_mask: Option<&'a [bool]>,
    /// Zones that keep apart; one zone without.
    pub zones: Option<Zones<'a>>,
}

/// Positions within segments, for causality and relative biases.
#[derive(Clone, Copy, Debug)]
pub struct Positions<'a> {
    /// Of the queries, `[queries in all]`.
    pub q: &'a [u32],
    /// Of the keys, `[keys in all]`.
    pub k: &'a [u32],
}

/// Zones within segments: pairs of a query and a key of different zones get a number added.
#[derive(Clone, Copy, Debug)]
pub struct Zones<'a> {
    /// Of the queries, `[queries in all]`.
    pub q: &'a [u8],
    /// Of the keys, `[keys in all]`.
    pub k: &'a [u8],
    /// What is added to the scores of pairs that are not of one zone.
    pub apart: f32,
}

/// What is added to a score after scaling.
#[derive(Clone, Copy, Debug, Default)]
pub enum Bias<'a> {
    /// Nothing.
    #[default]
    None,
    /// One number for each pair, `[heads, n_q, n_k]`, the same for every segment: all segments that
    /// are not empty must have these sizes.
    Dense(&'a [f32]),
    /// One number for each distance, `[heads, 2 * max - 1]`: entry `max - 1 + d` for a key `d`
    /// positions after the query (before it, if negative). Distances beyond the ends count as the ends.
    Relative(&'a [f32]),
}

/// A segment's number and rows: the first query, queries, the first key, keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) index: usize,
    pub(super) q: usize,
    pub(super) nq: usize,
    pub(super) k: usize,
    pub(super) nk: usize,
}

impl<'a> Attend<'a> {
    /// Queries of all segments together.
    ///
    /// # Panics
    /// If `cu_q` does not rise from 0.
    pub fn queries(&self) -> usize {
        total(self.cu_q)
    }

    /// Keys of all segments together.
    ///
    /// # Panics
    /// If `cu_k` does not rise from 0.
    pub fn keys(&self) -> usize {
        total(self.cu_k)
    }

    /// Floats per row of queries.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Floats per row of keys.
    pub fn dim_kv(&self) -> usize {
        self.heads_kv * self.head_dim
    }

    /// Floats per row of results.
    pub fn dim_out(&self) -> usize {
        self.heads * self.value_dim
    }

    /// Floats per row of values.
    pub fn dim_values(&self) -> usize {
        self.heads_kv * self.value_dim
    }

    /// Segments.
    pub(super) fn segments(&self) -> usize {
        self.cu_q.len() - 1
    }

    pub(super) fn segment(&self, i: usize) -> Segment {
        let span = |cu: &[u32]| (cu[i] as usize, (cu[i + 1] - cu[i]) as usize);
        let ((q, nq), (k, nk)) = (span(self.cu_q), span(self.cu_k));
        Segment { index: i, q, nq, k, nk }
    }

    /// Heads of queries for each head of keys.
    pub(super) fn group(&self) -> usize {
        self.heads / self.heads_kv.max(1)
    }

    /// Multiply-adds of one product over all pairs.
    pub(super) fn macs(&self) -> usize {
        let pairs: usize = (0..self.segments()).map(|i| self.segment(i)).map(|s| s.nq * s.nk).sum();
        pairs * self.heads * self.head_dim.max(self.value_dim)
    }

    pub(super) fn check(&self) {
        let (queries, keys) = (self.queries(), self.keys());
        assert_eq!(self.cu_q.len(), self.cu_k.len(), "segments of queries and keys");
        let divides = if self.heads_kv == 0 { self.heads == 0 } else { self.heads.is_multiple_of(self.heads_kv) };
        assert!(divides, "{} heads of keys do not divide {} heads", self.heads_kv, self.heads);
        if let Some(p) = self.positions {
            assert_eq!(p.q.len(), queries, "positions of the queries");
            assert_eq!(p.k.len(), keys, "positions of the keys");
        }
        if let Some(z) = self.zones {
            assert_eq!(z.q.len(), queries, "zones of the queries");
            assert_eq!(z.k.len(), keys, "zones of the keys");
        }
        assert!(self.key_mask.is_none_or(|m| m.len() == keys), "length of key_mask");
        match self.bias {
            Bias::None => {}
            Bias::Dense(b) => {
                for s in (0..self.segments()).map(|i| self.segment(i)).filter(|s| s.nq * s.nk > 0) {
                    assert_eq!(b.len(), self.heads * s.nq * s.nk, "length of the dense bias");
                }
            }
            Bias::Relative(t) => {
                let odd = self.heads == 0 || (t.len().is_multiple_of(self.heads) && (t.len() / self.heads) % 2 == 1);
                assert!(odd, "the relative bias must be [heads, 2 * max - 1]");
            }
        }
    }
}
