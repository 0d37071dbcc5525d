//! Views of rows in larger buffers, read and written.

use super::spec::{Attend, Segment};
use crate::threads::Shared;

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
    pub(super) fn row(&self, i: usize, col: usize, len: usize) -> &'a [f32] {
        let at = i * self.stride + self.offset + col;
        &self.data[at..at + len]
    }

    pub(crate) fn check(&self, rows: usize, dim: usize, name: &str) {
        check_view(self.data.len(), self.stride, self.offset, rows, dim, name);
    }
}

/// Where the keys or the values of all segments lie.
#[derive(Clone, Copy, Debug)]
pub enum Keys<'a> {
    /// Segment after segment in one buffer.
    Packed(Rows<'a>),
    /// A buffer for each segment.
    Slabs(&'a [Slab<'a>]),
}

/// The keys or the values of one segment, head after head: row `j` of head `h` starts at
/// `data[(h * capacity + j) * head_dim]`. Rows can be added until there are `capacity` of them.
#[derive(Clone, Copy, Debug)]
pub struct Slab<'a> {
    /// The buffer.
    pub data: &'a [f32],
    /// Rows that each head has room for.
    pub capacity: usize,
}

impl<'a> From<Rows<'a>> for Keys<'a> {
    fn from(rows: Rows<'a>) -> Self {
        Keys::Packed(rows)
    }
}

impl<'a> Keys<'a> {
    /// The rows of a head in a segment: its key `j` is row `j`, `width` floats from column 0.
    #[inline(always)]
    pub(super) fn head(&self, segment: Segment, head: usize, width: usize) -> Rows<'a> {
        match self {
            Keys::Packed(r) => Rows { offset: r.offset + segment.k * r.stride + head * width, ..*r },
            Keys::Slabs(slabs) => {
                let slab = slabs[segment.index];
                Rows { data: slab.data, stride: width, offset: head * slab.capacity * width }
            }
        }
    }

    pub(super) fn check(&self, spec: &Attend<'_>, width: usize, name: &str) {
        match self {
            Keys::Packed(rows) => rows.check(spec.keys(), spec.heads_kv * width, name),
            Keys::Slabs(slabs) => {
                assert_eq!(slabs.len(), spec.segments(), "slabs of {name}");
                for (i, slab) in slabs.iter().enumerate() {
                    let fits = spec.segment(i).nk <= slab.capacity;
                    let room = slab.data.len() >= spec.heads_kv * slab.capacity * width;
                    assert!(fits && room, "slab {i} of {name} is too short");
                }
            }
        }
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

    /// The same rows, to read.
    pub fn as_rows(&self) -> Rows<'_> {
        Rows { data: self.data, stride: self.stride, offset: self.offset }
    }
}

/// Where the backward writes the gradients of queries, keys and values (overwriting what is there).
#[derive(Debug)]
pub enum QkvGrad<'a> {
    /// Three buffers.
    Split {
        /// Gradient of the queries, `[total, heads * head_dim]`.
        dq: RowsMut<'a>,
        /// Gradient of the keys, `[total, heads_kv * head_dim]`.
        dk: RowsMut<'a>,
        /// Gradient of the values, `[total, heads_kv * value_dim]`.
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

    /// The three targets of queries, keys and values of these rows and widths.
    pub(super) fn targets(self, shapes: [(usize, usize); 3]) -> [Target<'a>; 3] {
        match self {
            Self::Split { dq, dk, dv } => {
                let parts = [(dq, "dq", shapes[0]), (dk, "dk", shapes[1]), (dv, "dv", shapes[2])];
                parts.map(|(r, name, (rows, dim))| {
                    check_view(r.data.len(), r.stride, r.offset, rows, dim, name);
                    Target { data: Shared::new(r.data), stride: r.stride, offset: r.offset }
                })
            }
            Self::Fused { data, stride, offsets } => {
                let mut spans = [(0, 0); 3];
                for (span, (offset, (rows, dim))) in spans.iter_mut().zip(offsets.into_iter().zip(shapes)) {
                    check_view(data.len(), stride, offset, rows, dim, "the fused gradient");
                    assert!(offset + dim <= stride, "the fused gradient's rows overlap");
                    *span = (offset, offset + dim);
                }
                spans.sort_unstable();
                let apart = spans.windows(2).all(|w| w[0].1 <= w[1].0);
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
pub(super) struct Target<'a> {
    pub(super) data: Shared<'a>,
    pub(super) stride: usize,
    pub(super) offset: usize,
}
