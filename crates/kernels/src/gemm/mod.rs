//! Dense matrix products in f32.
//!
//! The right factor is packed into panels a few vectors wide, once at load for weights ([`PackedMatrix`]), block by
//! block otherwise; the left factor is read where it lies. Blocks are sized for the second-level cache. Whatever
//! follows a product - bias, activation, gate, residual - is applied to each strip of rows while it is in the first
//! level ([`Epilogue`]).
//!
//! Every element is one chain of multiply-adds in the order of k, cut only at multiples of a fixed depth: a row's
//! result depends neither on the other rows nor on the number of threads.

mod drive;
pub(crate) mod epilogue;
mod pack;
mod tile;

pub(crate) use drive::gemm_into;
pub use epilogue::{Act, Epilogue};
pub use pack::{PackedMatrix, packed_bytes};

use crate::dispatch::dispatch;
use crate::isa::Isa;
use crate::simd::Simd;
use crate::threads::{self, Shared};

/// How a factor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As the formula has it, row-major.
    Normal,
    /// Its transpose, row-major.
    Transposed,
}

/// Register and cache blocking of an instruction set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Rows of a tile.
    pub(crate) mr: usize,
    /// Columns of a panel.
    pub(crate) nr: usize,
}

impl Geometry {
    pub(crate) fn of(isa: Isa) -> Self {
        match isa {
            // 24 accumulators, 3 vectors of the panel, 1 broadcast: 28 of 32 registers. No more than 8 rows, so that
            // each row's address has a register too.
            Isa::Avx512 => Geometry { mr: 8, nr: 48 },
            // 12 accumulators, 2 vectors of the panel, 1 broadcast: 15 of 16 registers.
            Isa::Avx2 => Geometry { mr: 6, nr: 16 },
            Isa::Scalar => Geometry { mr: 4, nr: 8 },
        }
    }
}

/// `c[m,n] = beta c + A B` with `A: [m,k]` and `B: [k,n]`; a transposed `a` is `[k,m]` in memory,
/// a transposed `b` is `[n,k]`.
///
/// With `beta` 0, `c` is not read.
///
/// # Panics
/// If a length does not match or `beta` is neither 0 nor 1.
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_layout: Layout,
    b: &[f32],
    b_layout: Layout,
    beta: f32,
    c: &mut [f32],
) {
    gemm_into(m, n, k, a, a_layout, b, b_layout, beta, c, n);
}

/// `y[m,out] = x[m,in] w^T + bias` with `w[out,in]` and `bias[out]`; packs `w` on the way.
///
/// # Panics
/// If a length does not match.
pub fn linear(m: usize, d_in: usize, d_out: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert_eq!(y.len(), m * d_out, "length of y");
    drive::linear(m, d_in, d_out, x, w, &Epilogue { bias, ..Epilogue::default() }, y);
}

/// [`linear`] with what follows it fused in: `y = act(x w^T + bias) * gate + residual`.
///
/// # Panics
/// If a length does not match.
pub fn linear_fused(m: usize, d_in: usize, d_out: usize, x: &[f32], w: &[f32], then: &Epilogue<'_>, y: &mut [f32]) {
    assert_eq!(y.len(), m * d_out, "length of y");
    drive::linear(m, d_in, d_out, x, w, then, y);
}

/// [`linear_fused`] with weights packed once.
///
/// # Panics
/// If a length does not match.
pub fn linear_packed(m: usize, x: &[f32], w: &PackedMatrix, then: &Epilogue<'_>, y: &mut [f32]) {
    drive::linear_packed(m, x, w, then, y);
}

/// [`linear_packed`] of groups of rows, each with weights of its own (a mixture of experts): rows `cu[g]..cu[g + 1]` of
/// `x[total, in]` go through `w[g]` and `then[g]` into the same rows of `y[total, out]`; `then`'s gate and residual are
/// `[rows of the group, out]`.
///
/// All weights have one shape. A group without rows costs nothing; a row's result is that of [`linear_packed`], bit
/// for bit.
///
/// # Panics
/// If a length or shape does not match, or `cu` does not rise from 0.
pub fn linear_grouped(x: &[f32], cu: &[u32], w: &[&PackedMatrix], then: &[Epilogue<'_>], y: &mut [f32]) {
    drive::linear_grouped(x, cu, w, then, y);
}

/// Copies `bias` into each row of `y`; returns the `beta` with which a product is then added.
pub(crate) fn fill_bias(d_out: usize, bias: Option<&[f32]>, y: &mut [f32]) -> f32 {
    let Some(bias) = bias else { return 0.0 };
    assert_eq!(bias.len(), d_out, "length of bias");
    if d_out > 0 {
        y.chunks_exact_mut(d_out).for_each(|row| row.copy_from_slice(bias));
    }
    1.0
}

/// Backward of [`linear`] from `dy[m,out]`: `dx[m,in] = dy w` (overwritten), `dw[out,in] += dy^T x`
/// and `db[out] += sum of dy's rows` (accumulated); each only where asked for.
///
/// # Panics
/// If a length does not match.
pub fn linear_backward(
    m: usize,
    d_in: usize,
    d_out: usize,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    dx: Option<&mut [f32]>,
    dw: Option<&mut [f32]>,
    db: Option<&mut [f32]>,
) {
    assert_eq!(dy.len(), m * d_out, "length of dy");
    if let Some(dx) = dx {
        assert_eq!(dx.len(), m * d_in, "length of dx");
        gemm(m, d_in, d_out, dy, Layout::Normal, w, Layout::Normal, 0.0, dx);
    }
    if let Some(dw) = dw {
        assert_eq!(dw.len(), d_out * d_in, "length of dw");
        gemm(d_out, d_in, m, dy, Layout::Transposed, x, Layout::Normal, 1.0, dw);
    }
    if let Some(db) = db {
        add_column_sums(m, d_out, dy, db);
    }
}

/// Rows per partial sum. Fixed, so that the order of additions is the same on any machine.
pub(crate) const SUM_ROWS: usize = 128;

#[inline(always)]
fn add_rows_body<S: Simd>(s: S, n: usize, x: &[f32], acc: &mut [f32]) {
    // Four rows for each pass over the sums; the additions are in the rows' order all the same.
    let mut quads = x.chunks_exact(4 * n);
    for quad in &mut quads {
        let mut at = 0;
        while at < n {
            let width = S::LANES.min(n - at);
            let mut sum = s.load_part(&acc[at..at + width]);
            for row in 0..4 {
                sum = s.add(sum, s.load_part(&quad[row * n + at..][..width]));
            }
            s.store_part(&mut acc[at..at + width], sum);
            at += width;
        }
    }
    for row in quads.remainder().chunks_exact(n) {
        acc.iter_mut().zip(row).for_each(|(a, v)| *a += v);
    }
}

dispatch!(fn add_rows = add_rows_body(n: usize, x: &[f32], acc: &mut [f32]));

/// `acc[n] += sum of x[m,n]'s rows`: sums of fixed chunks, added in order.
pub(crate) fn add_column_sums(m: usize, n: usize, x: &[f32], acc: &mut [f32]) {
    assert_eq!(acc.len(), n, "length of the column sums");
    if n == 0 {
        return;
    }
    reduce_chunks(m, n, m * n, acc, |first, last, part| add_rows(n, &x[first * n..last * n], part));
}

/// `acc[n] += ` the sum over chunks of [`SUM_ROWS`] of `rows` rows of what `task(first, last, zeros)`
/// writes; the chunks run in parallel and are added in order.
pub(crate) fn reduce_chunks(
    rows: usize,
    n: usize,
    work: usize,
    acc: &mut [f32],
    task: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let chunks = rows.div_ceil(SUM_ROWS);
    let mut parts = vec![0.0f32; chunks * n];
    let shared = Shared::new(&mut parts);
    threads::run(chunks, work >= threads::PARALLEL_FLOATS, |i| {
        // SAFETY: task i has the i-th n floats to itself.
        let part = unsafe { shared.slice(i * n, n) };
        task(i * SUM_ROWS, ((i + 1) * SUM_ROWS).min(rows), part);
    });
    for part in parts.chunks_exact(n) {
        acc.iter_mut().zip(part).for_each(|(a, p)| *a += p);
    }
}
