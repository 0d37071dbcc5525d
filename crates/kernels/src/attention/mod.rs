//! Attention over packed rows: segments of a batch lie one after another, without padding, and
//! each row attends to the rows of its own segment.

mod backward;
mod forward;
mod tile;

use crate::dispatch::dispatch;
use crate::threads::{self, Shared};

/// Rows of queries handled at once.
const QUERY_BLOCK: usize = 64;
/// Keys handled at once: a whole number of vectors and row blocks.
const KEY_BLOCK: usize = 128;
/// Multiply-adds below which one thread is quicker.
const PARALLEL_MACS: usize = 256 * 1024;

/// A read-only view of rows in a larger buffer: row `i` starts at `data[i * stride + offset]`.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Floats from the start of one row to the next.
    pub stride: usize,
    /// Where row 0 starts.
    pub offset: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `dim` floats without gaps.
    pub fn packed(data: &'a [f32], dim: usize) -> Self {
        Self { data, stride: dim, offset: 0 }
    }

    /// The queries, keys and values of a fused projection `[total, 3 * dim]`.
    pub fn fused_qkv(data: &'a [f32], dim: usize) -> [Self; 3] {
        [0, dim, 2 * dim].map(|offset| Self { data, stride: 3 * dim, offset })
    }

    /// `len` floats of row `i` from column `col`.
    #[inline(always)]
    fn row(&self, i: usize, col: usize, len: usize) -> &'a [f32] {
        let at = i * self.stride + self.offset + col;
        &self.data[at..at + len]
    }

    fn check(&self, rows: usize, dim: usize, name: &str) {
        check_view(self.data.len(), self.stride, self.offset, rows, dim, name);
    }
}

/// A writable view of rows in a larger buffer: row `i` starts at `data[i * stride + offset]`.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// The buffer.
    pub data: &'a mut [f32],
    /// Floats from the start of one row to the next.
    pub stride: usize,
    /// Where row 0 starts.
    pub offset: usize,
}

impl<'a> RowsMut<'a> {
    /// Rows of `dim` floats without gaps.
    pub fn packed(data: &'a mut [f32], dim: usize) -> Self {
        Self { data, stride: dim, offset: 0 }
    }
}

/// Where the backward writes the gradients of queries, keys and values (overwriting what is there).
#[derive(Debug)]
pub enum QkvGrad<'a> {
    /// Three buffers.
    Split {
        /// Gradient of the queries, `[total, heads * head_dim]`.
        dq: RowsMut<'a>,
        /// Gradient of the keys, `[total, heads * head_dim]`.
        dk: RowsMut<'a>,
        /// Gradient of the values, `[total, heads * head_dim]`.
        dv: RowsMut<'a>,
    },
    /// One buffer, the gradient of a fused projection.
    Fused {
        /// The buffer, `[total, stride]`.
        data: &'a mut [f32],
        /// Floats from the start of one row to the next.
        stride: usize,
        /// The columns where the gradients of queries, keys and values start.
        offsets: [usize; 3],
    },
}

impl<'a> QkvGrad<'a> {
    /// The gradient of a fused projection, `[total, 3 * dim]`.
    pub fn fused(data: &'a mut [f32], dim: usize) -> Self {
        Self::Fused { data, stride: 3 * dim, offsets: [0, dim, 2 * dim] }
    }

    fn targets(self, rows: usize, dim: usize) -> [Target<'a>; 3] {
        match self {
            Self::Split { dq, dk, dv } => [(dq, "dq"), (dk, "dk"), (dv, "dv")].map(|(r, name)| {
                check_view(r.data.len(), r.stride, r.offset, rows, dim, name);
                Target { data: Shared::new(r.data), stride: r.stride, offset: r.offset }
            }),
            Self::Fused { data, stride, offsets } => {
                for offset in offsets {
                    check_view(data.len(), stride, offset, rows, dim, "the fused gradient");
                    assert!(offset + dim <= stride, "the fused gradient's rows overlap");
                }
                let mut sorted = offsets;
                sorted.sort_unstable();
                let apart = sorted.windows(2).all(|w| w[1] - w[0] >= dim);
                assert!(apart, "the fused gradient's columns overlap");
                let data = Shared::new(data);
                offsets.map(|offset| Target { data, stride, offset })
            }
        }
    }
}

fn check_view(len: usize, stride: usize, offset: usize, rows: usize, dim: usize, name: &str) {
    assert!(dim <= stride, "rows of {name} overlap");
    assert!(rows == 0 || (rows - 1) * stride + offset + dim <= len, "{name} is too short");
}

/// Rows that several tasks write, each its own segment's and head's part.
#[derive(Clone, Copy)]
struct Target<'a> {
    data: Shared<'a>,
    stride: usize,
    offset: usize,
}

impl<'a> Target<'a> {
    /// `len` floats of row `i` from column `col`.
    ///
    /// # Safety
    /// No other live slice may overlap: a task keeps to its own rows and head.
    #[inline(always)]
    unsafe fn row(&self, i: usize, col: usize, len: usize) -> &'a mut [f32] {
        // SAFETY: the caller's promise.
        unsafe { self.data.slice(i * self.stride + self.offset + col, len) }
    }
}

/// How packed rows are divided into segments and heads.
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

impl Packed<'_> {
    /// Rows of all segments together.
    ///
    /// # Panics
    /// If `cu` does not rise from 0.
    pub fn total(&self) -> usize {
        assert!(self.cu.first() == Some(&0), "cu must start with 0");
        assert!(self.cu.is_sorted(), "cu must not fall");
        self.cu[self.cu.len() - 1] as usize
    }

    /// Floats per row.
    pub fn dim(&self) -> usize {
        self.heads * self.head_dim
    }

    fn segment(&self, i: usize) -> (usize, usize) {
        (self.cu[i] as usize, self.cu[i + 1] as usize - self.cu[i] as usize)
    }

    /// Runs `task(first row, rows, head)` for every segment that is not empty, and every head.
    fn each(&self, macs_per_pair: usize, task: impl Fn(usize, usize, usize) + Sync) {
        let macs: usize = self.cu.windows(2).map(|w| ((w[1] - w[0]) as usize).pow(2)).sum();
        let macs = macs * self.dim() * macs_per_pair;
        threads::run((self.cu.len() - 1) * self.heads, macs >= PARALLEL_MACS, |i| {
            let (first, n) = self.segment(i / self.heads);
            if n > 0 {
                task(first, n, i % self.heads);
            }
        });
    }
}

dispatch!(fn forward_task = forward::body(task: forward::Task<'_>));
dispatch!(fn probs_task = forward::probs_body(task: forward::Task<'_>));
dispatch!(fn backward_task = backward::body(task: backward::Task<'_>));

/// `out[total, dim]` = softmax(q k^T scale) v for each segment and head, where `q`, `k` and `v` are
/// `[total, dim]` and `dim = heads * head_dim`. `lse[heads, total]`, if given, gets the logarithm of
/// each softmax's denominator, which [`attention_backward`] needs.
///
/// No more than a tile of scores is ever in memory.
///
/// # Panics
/// If a length does not match or `cu` does not rise from 0.
pub fn attention(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, out: &mut [f32], lse: Option<&mut [f32]>) {
    let (total, dim) = (packed.total(), packed.dim());
    q.check(total, dim, "q");
    k.check(total, dim, "k");
    v.check(total, dim, "v");
    assert_eq!(out.len(), total * dim, "length of out");
    let lse = lse.map(|lse| {
        assert_eq!(lse.len(), packed.heads * total, "length of lse");
        Shared::new(lse)
    });
    if dim == 0 {
        return;
    }
    let out = Target { data: Shared::new(out), stride: dim, offset: 0 };
    packed.each(2, |first, n, head| {
        let (hd, scale) = (packed.head_dim, packed.scale);
        // SAFETY: each task has the lse of its own head and rows.
        let lse = lse.map(|lse| unsafe { lse.slice(head * total + first, n) });
        forward_task(forward::Task { q, k, v, first, n, col: head * hd, hd, scale, out, lse });
    });
}

/// The attention map of one segment of `n` rows: `probs[heads, n, n]` = softmax(q k^T scale).
///
/// # Panics
/// If a length does not match or there is no such segment.
pub fn attention_probs(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, segment: usize, probs: &mut [f32]) {
    let (total, dim) = (packed.total(), packed.dim());
    q.check(total, dim, "q");
    k.check(total, dim, "k");
    assert!(segment + 1 < packed.cu.len(), "no segment {segment}");
    let (first, n) = packed.segment(segment);
    assert_eq!(probs.len(), packed.heads * n * n, "length of probs");
    if n == 0 || dim == 0 {
        return;
    }
    let probs = Shared::new(probs);
    let (hd, scale) = (packed.head_dim, packed.scale);
    threads::run(packed.heads, n * n * dim >= PARALLEL_MACS, |head| {
        // A head's map stands in for the output rows.
        let out = Target { data: probs, stride: n, offset: head * n * n };
        let col = head * hd;
        probs_task(forward::Task { q, k, v: k, first, n, col, hd, scale, out, lse: None });
    });
}

/// Backward of [`attention`] from its `out[total, dim]`, its `lse[heads, total]` and
/// `dout[total, dim]`; overwrites the gradients in `grad`. Probabilities are computed again, a tile
/// at a time.
///
/// # Panics
/// If a length does not match or `cu` does not rise from 0.
pub fn attention_backward(
    packed: &Packed<'_>,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    grad: QkvGrad<'_>,
) {
    let (total, dim) = (packed.total(), packed.dim());
    q.check(total, dim, "q");
    k.check(total, dim, "k");
    v.check(total, dim, "v");
    assert_eq!(out.len(), total * dim, "length of out");
    assert_eq!(dout.len(), total * dim, "length of dout");
    assert_eq!(lse.len(), packed.heads * total, "length of lse");
    let [dq, dk, dv] = grad.targets(total, dim);
    if dim == 0 {
        return;
    }
    let (out, dout) = (Rows::packed(out, dim), Rows::packed(dout, dim));
    packed.each(5, |first, n, head| {
        let (hd, scale) = (packed.head_dim, packed.scale);
        let lse = &lse[head * total + first..][..n];
        let col = head * hd;
        backward_task(backward::Task { q, k, v, out, dout, lse, first, n, col, hd, scale, dq, dk, dv });
    });
}
