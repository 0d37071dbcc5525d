//! Sums and products of two slices.

use crate::dispatch::dispatch;
use crate::simd::{Simd, map2, zip_in_place};
use crate::threads::run_chunks;

/// Floats per task.
const CHUNK: usize = 8192;

#[inline(always)]
fn add_body<S: Simd>(s: S, a: &[f32], b: &[f32], y: &mut [f32]) {
    map2!(S, s, a, b, y, |p, q| s.add(p, q));
}

#[inline(always)]
fn add_in_place_body<S: Simd>(s: S, y: &mut [f32], x: &[f32]) {
    zip_in_place!(S, s, y, x, |v, w| s.add(v, w));
}

#[inline(always)]
fn mul_body<S: Simd>(s: S, a: &[f32], b: &[f32], y: &mut [f32]) {
    map2!(S, s, a, b, y, |p, q| s.mul(p, q));
}

dispatch!(fn mul_chunk = mul_body(a: &[f32], b: &[f32], y: &mut [f32]));
dispatch!(fn add_chunk = add_body(a: &[f32], b: &[f32], y: &mut [f32]));
dispatch!(fn add_in_place_chunk = add_in_place_body(y: &mut [f32], x: &[f32]));

/// `y[i] = a[i] + b[i]`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    assert_eq!(a.len(), y.len(), "lengths of a and y");
    run_chunks(y, CHUNK, |at, y| {
        let end = at + y.len();
        add_chunk(&a[at..end], &b[at..end], y);
    });
}

/// `y[i] += x[i]`, both of one length.
///
/// # Panics
/// If the lengths differ.
pub fn add_in_place(y: &mut [f32], x: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    run_chunks(y, CHUNK, |at, y| add_in_place_chunk(y, &x[at..at + y.len()]));
}

/// `y[i] = a[i] * b[i]`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn mul(a: &[f32], b: &[f32], y: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    assert_eq!(a.len(), y.len(), "lengths of a and y");
    run_chunks(y, CHUNK, |at, y| {
        let end = at + y.len();
        mul_chunk(&a[at..end], &b[at..end], y);
    });
}

/// `y[rows, dim]`: every row of `x` times `factor[dim]`.
///
/// # Panics
/// If `x` is not whole rows or `y` is not as long.
pub fn scale_columns(x: &[f32], factor: &[f32], y: &mut [f32]) {
    let dim = factor.len();
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    assert!(x.is_empty() || (dim > 0 && x.len().is_multiple_of(dim)), "x must be whole rows of {dim}");
    run_chunks(y, (CHUNK / dim.max(1)).max(1) * dim, |at, y| {
        for (x, y) in x[at..at + y.len()].chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
            mul_chunk(x, factor, y);
        }
    });
}

#[inline(always)]
fn affine_body<S: Simd>(s: S, x: &[f32], factor: &[f32], shift: &[f32], y: &mut [f32]) {
    let dim = factor.len();
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        for from in (0..dim).step_by(S::LANES) {
            let at = from..dim.min(from + S::LANES);
            let [x, f, t] = [&x[at.clone()], &factor[at.clone()], &shift[at.clone()]].map(|part| s.load_part(part));
            s.store_part(&mut y[at], s.fma(x, f, t));
        }
    }
}

dispatch!(fn affine_rows = affine_body(x: &[f32], factor: &[f32], shift: &[f32], y: &mut [f32]));

/// `y[rows, dim]`: every row of `x` times `factor[dim]` plus `shift[dim]`.
///
/// # Panics
/// If `x` is not whole rows or a length does not match.
pub fn affine_columns(x: &[f32], factor: &[f32], shift: &[f32], y: &mut [f32]) {
    let dim = factor.len();
    assert_eq!(dim, shift.len(), "lengths of factor and shift");
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    assert!(x.is_empty() || (dim > 0 && x.len().is_multiple_of(dim)), "x must be whole rows of {dim}");
    run_chunks(y, (CHUNK / dim.max(1)).max(1) * dim, |at, y| {
        affine_rows(&x[at..at + y.len()], factor, shift, y);
    });
}

/// `y[rows, dim]`: row `i` of `x` times `factor[i]`.
///
/// # Panics
/// If `x` is not as many rows as there are factors or `y` is not as long.
pub fn scale_rows(dim: usize, x: &[f32], factor: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), factor.len() * dim, "length of x");
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    run_chunks(y, (CHUNK / dim.max(1)).max(1) * dim, |at, y| {
        let rows = x[at..at + y.len()].chunks_exact(dim).zip(&factor[at / dim..]);
        for (y, (x, factor)) in y.chunks_exact_mut(dim).zip(rows) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y = x * factor);
        }
    });
}

/// `out[rows]`: the product of row `i` of `a[rows, dim]` with that of `b`.
///
/// # Panics
/// If a length does not match.
pub fn row_products(dim: usize, a: &[f32], b: &[f32], out: &mut [f32]) {
    assert_eq!(a.len(), out.len() * dim, "length of a");
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    for ((a, b), out) in a.chunks_exact(dim.max(1)).zip(b.chunks_exact(dim.max(1))).zip(&mut *out) {
        // Eight sums side by side, which the compiler turns into vectors.
        let mut sums = [0f32; 8];
        let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<8>(), b.as_chunks::<8>());
        for (a, b) in a.iter().zip(b) {
            sums.iter_mut().zip(a).zip(b).for_each(|((s, a), b)| *s += a * b);
        }
        *out = sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>();
    }
    if dim == 0 {
        out.fill(0.0);
    }
}

/// `out[dim]`: the sum over all rows of `a * b`, both `[rows, dim]`. Rows are summed in blocks of a fixed size, so that
/// rounding does not grow with their number.
///
/// # Panics
/// If the lengths differ or are not whole rows.
pub fn column_products(a: &[f32], b: &[f32], out: &mut [f32]) {
    const BLOCK: usize = 64;
    let dim = out.len();
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    assert!(a.is_empty() || (dim > 0 && a.len().is_multiple_of(dim)), "a must be whole rows of {dim}");
    out.fill(0.0);
    let mut block = vec![0f32; dim];
    let size = (BLOCK * dim).max(1);
    for (a, b) in a.chunks(size).zip(b.chunks(size)) {
        block.fill(0.0);
        for (a, b) in a.chunks_exact(dim).zip(b.chunks_exact(dim)) {
            block.iter_mut().zip(a).zip(b).for_each(|((s, a), b)| *s += a * b);
        }
        out.iter_mut().zip(&block).for_each(|(o, s)| *o += s);
    }
}
