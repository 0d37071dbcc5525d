//! Keys and values that stay from pass to pass, and attention to them where they lie.

use std::ops::Range;
use std::sync::Arc;

use switchformer_kernels::{self as kernels, Keys, Rows as View, Slab};
use switchformer_tensor::Tensor;

use super::AttendSpec;
use super::attention::{AttendOp, Operands, with_bias, with_rows};
use crate::error::{Error, Result};
use crate::rows::Rows;

/// Fewest rows that a slab has room for.
const LEAST: usize = 16;

/// Keys and values of one member, head after head, with room to grow: `[heads, capacity, head_dim]`, behind them `[heads,
/// capacity, value_dim]`.
#[derive(Clone, Debug)]
pub(crate) struct KeyValueSlab {
    data: Vec<f32>,
    heads: usize,
    /// Widths of a head of keys and of one of values.
    widths: [usize; 2],
    rows: usize,
    capacity: usize,
}

impl KeyValueSlab {
    pub(crate) fn new(heads: usize, widths: [usize; 2]) -> Self {
        KeyValueSlab { data: Vec::new(), heads, widths, rows: 0, capacity: 0 }
    }

    /// Bytes held, room to grow included.
    pub(crate) fn bytes(&self) -> usize {
        4 * self.data.len()
    }

    /// Makes room for `more` rows; room at least doubles, so a row is moved a fixed number of times on average.
    fn reserve(&mut self, more: usize) {
        let need = self.rows + more;
        if need <= self.capacity {
            return;
        }
        let capacity = need.next_power_of_two().max(LEAST);
        let mut data = vec![0f32; self.heads * capacity * (self.widths[0] + self.widths[1])];
        let (mut from, mut to) = (0, 0);
        for width in self.widths {
            for _ in 0..self.heads {
                data[to..to + self.rows * width].copy_from_slice(&self.data[from..from + self.rows * width]);
                (from, to) = (from + self.capacity * width, to + capacity * width);
            }
        }
        (self.data, self.capacity) = (data, capacity);
    }

    /// Adds rows of packed keys and values.
    fn extend(&mut self, of: [View<'_>; 2], range: Range<usize>) {
        self.reserve(range.len());
        let starts = [0, self.values()];
        for row in range {
            for ((view, width), start) in of.iter().zip(self.widths).zip(starts) {
                let from = &view.data[row * view.stride + view.offset..][..self.heads * width];
                for (h, from) in from.chunks_exact(width.max(1)).enumerate() {
                    let to = start + (h * self.capacity + self.rows) * width;
                    self.data[to..to + width].copy_from_slice(from);
                }
            }
            self.rows += 1;
        }
    }

    /// Where the values start.
    fn values(&self) -> usize {
        self.heads * self.capacity * self.widths[0]
    }

    /// Keys and values as the kernels read them.
    fn halves(&self) -> [Slab<'_>; 2] {
        let (k, v) = self.data.split_at(self.values());
        [k, v].map(|data| Slab { data, capacity: self.capacity })
    }
}

/// Adds keys and values to the slabs of their members. A slab that several beams share is copied first. Shapes: k
/// `[rows, heads * head_dim]`, v `[rows, heads * value_dim]`; segment `i` of `rows` goes to slab `slots[i]`.
pub(crate) fn extend_slabs(
    slabs: &mut [Arc<KeyValueSlab>],
    slots: &[usize],
    rows: &Rows,
    [k, v]: [&Tensor; 2],
) -> Result<()> {
    with_rows([k, v], |views| {
        for (i, slot) in slots.iter().enumerate().filter(|(i, _)| rows.len(*i) > 0) {
            Arc::make_mut(&mut slabs[*slot]).extend(views, rows.range(i));
        }
    })?;
    Ok(())
}

/// [`super::attend()`] to slabs, one per segment of the queries. Shapes: q `[queries, heads * head_dim]` -> `[queries,
/// heads * value_dim]`.
pub(crate) fn attend_slabs(q: &Tensor, slabs: &[&KeyValueSlab], value_dim: usize, spec: &AttendSpec) -> Result<Tensor> {
    if slabs.len() != spec.q_rows.n() {
        return Err(Error::shape("attend", format!("slabs of {} segments", spec.q_rows.n()), &[slabs.len()]));
    }
    spec.check_members()?;
    let op = AttendOp::new(spec, Operands::Apart, [q.dims2()?.1, spec.kv_heads * value_dim]);
    let dim = spec.heads * value_dim;
    let (k, v): (Vec<_>, Vec<_>) = slabs.iter().map(|s| s.halves()).map(|[k, v]| (k, v)).unzip();
    let mut out = kernels::unfilled(spec.q_rows.total() * dim);
    let run = |raw: Option<&[f32]>| {
        let added = op.added(raw);
        let spec = op.spec(&added);
        with_rows([q], |[q]| kernels::attend(&spec, q, Keys::Slabs(&k), Keys::Slabs(&v), &mut out, None))
    };
    with_bias(spec.bias, run)??;
    Tensor::from_vec(out, (spec.q_rows.total(), dim))
}

/// The keys of slabs as packed rows. Shapes: -> `[rows of all slabs, heads * head_dim]`.
pub(crate) fn packed_keys(slabs: &[&KeyValueSlab]) -> Result<Tensor> {
    let Some(first) = slabs.first() else { return Tensor::zeros((0, 0), switchformer_tensor::DType::F32) };
    let (heads, hd) = (first.heads, first.widths[0]);
    let total: usize = slabs.iter().map(|s| s.rows).sum();
    let mut keys = Vec::with_capacity(total * heads * hd);
    for slab in slabs {
        for row in 0..slab.rows {
            let at = |h: usize| (h * slab.capacity + row) * hd;
            (0..heads).for_each(|h| keys.extend_from_slice(&slab.data[at(h)..at(h) + hd]));
        }
    }
    Tensor::from_vec(keys, (total, heads * hd))
}
