//! Dense matrix products, by the `gemm` crate.

use crate::dispatch::dispatch;
use crate::simd::Simd;
use crate::threads::{self, Shared, threads};

/// How a factor lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// As the formula has it, row-major.
    Normal,
    /// Its transpose, row-major.
    Transposed,
}

/// Multiply-adds below which one thread is quicker.
const PARALLEL_MACS: usize = 512 * 1024;

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

/// [`gemm`] into the first `n` columns of rows that are `c_stride` apart.
pub(crate) fn gemm_into(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_layout: Layout,
    b: &[f32],
    b_layout: Layout,
    beta: f32,
    c: &mut [f32],
    c_stride: usize,
) {
    assert_eq!(a.len(), m * k, "length of a");
    assert_eq!(b.len(), k * n, "length of b");
    assert!(beta == 0.0 || beta == 1.0, "beta must be 0 or 1, not {beta}");
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= c_stride, "c's rows overlap");
    assert!(c.len() >= (m - 1) * c_stride + n, "length of c");
    if k == 0 {
        // The crate is not asked: an empty sum is zero whatever it would do.
        if beta == 0.0 {
            c.chunks_mut(c_stride).take(m).for_each(|row| row[..n].fill(0.0));
        }
        return;
    }
    let strides = |layout, rows: usize, cols: usize| match layout {
        Layout::Normal => (1, cols as isize),
        Layout::Transposed => (rows as isize, 1),
    };
    let (a_cs, a_rs) = strides(a_layout, m, k);
    let (b_cs, b_rs) = strides(b_layout, k, n);
    let parallelism = match threads() {
        t if t > 1 && m * n * k >= PARALLEL_MACS => gemm::Parallelism::Rayon(t),
        _ => gemm::Parallelism::None,
    };
    // SAFETY: every element the strides reach lies in its slice by the assertions above, and `c`
    // is a unique borrow. With `read_dst` false the destination is only written.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            beta == 1.0,
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `y[m,out] = x[m,in] w^T + bias` with `w[out,in]` and `bias[out]`.
///
/// # Panics
/// If a length does not match.
pub fn linear(m: usize, d_in: usize, d_out: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32]) {
    assert_eq!(y.len(), m * d_out, "length of y");
    let beta = fill_bias(d_out, bias, y);
    gemm(m, d_out, d_in, x, Layout::Normal, w, Layout::Transposed, beta, y);
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
