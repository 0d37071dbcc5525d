//! Softmax over rows.

use crate::dispatch::dispatch;
use crate::math::exp;
use crate::simd::{Simd, map1, map2};
use crate::threads::run_chunks;

/// Floats per task, rounded to whole rows.
const CHUNK: usize = 8192;

/// The greatest element of `x` (minus infinity when empty; a NaN may or may not show).
#[inline(always)]
fn row_max<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut m = s.splat(f32::NEG_INFINITY);
    let mut vs = x.chunks_exact(S::LANES);
    for v in &mut vs {
        m = s.max(s.load(v), m);
    }
    vs.remainder().iter().fold(s.hmax(m), |m, &v| if v > m { v } else { m })
}

#[inline(always)]
pub(crate) fn softmax_body<S: Simd>(s: S, n: usize, x: &[f32], y: &mut [f32]) {
    for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
        let m = s.splat(row_max(s, x));
        map1!(S, s, x, y, |v| exp(s, s.sub(v, m)));
        let inv = s.splat(1.0 / total(s, y));
        let mut vs = y.chunks_exact_mut(S::LANES);
        for v in &mut vs {
            let scaled = s.mul(s.load(v), inv);
            s.store(v, scaled);
        }
        let rest = vs.into_remainder();
        let scaled = s.mul(s.load_part(rest), inv);
        s.store_part(rest, scaled);
    }
}

/// The sum of `x`.
#[inline(always)]
fn total<S: Simd>(s: S, x: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    let mut vs = x.chunks_exact(S::LANES);
    for v in &mut vs {
        acc = s.add(acc, s.load(v));
    }
    s.sum(s.add(acc, s.load_part(vs.remainder())))
}

#[inline(always)]
fn backward_body<S: Simd>(s: S, n: usize, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    let rows = y.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n));
    for ((y, dy), dx) in rows {
        let mut acc = s.splat(0.0);
        let (mut ys, mut ds) = (y.chunks_exact(S::LANES), dy.chunks_exact(S::LANES));
        for (a, b) in (&mut ys).zip(&mut ds) {
            acc = s.fma(s.load(a), s.load(b), acc);
        }
        let (a, b) = (s.load_part(ys.remainder()), s.load_part(ds.remainder()));
        let dot = s.splat(s.sum(s.fma(a, b, acc)));
        map2!(S, s, y, dy, dx, |p, d| s.mul(p, s.sub(d, dot)));
    }
}

dispatch!(fn softmax_rows = softmax_body(n: usize, x: &[f32], y: &mut [f32]));
dispatch!(fn backward_rows = backward_body(n: usize, y: &[f32], dy: &[f32], dx: &mut [f32]));

/// `y[rows, n]` = softmax of each row of `x[rows, n]`.
///
/// A row that is minus infinity throughout gives NaN.
///
/// # Panics
/// If a length does not match.
pub fn softmax(rows: usize, n: usize, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), rows * n, "length of x");
    assert_eq!(y.len(), rows * n, "length of y");
    if n == 0 {
        return;
    }
    let chunk = (CHUNK / n).max(1) * n;
    run_chunks(y, chunk, |at, y| softmax_rows(n, &x[at..at + y.len()], y));
}

/// `dx[rows, n]` from softmax's output `y[rows, n]` and `dy[rows, n]`: `y (dy - sum(y dy))`.
///
/// # Panics
/// If a length does not match.
pub fn softmax_backward(rows: usize, n: usize, y: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(y.len(), rows * n, "length of y");
    assert_eq!(dy.len(), rows * n, "length of dy");
    assert_eq!(dx.len(), rows * n, "length of dx");
    if n == 0 {
        return;
    }
    let chunk = (CHUNK / n).max(1) * n;
    run_chunks(dx, chunk, |at, dx| {
        let end = at + dx.len();
        backward_rows(n, &y[at..end], &dy[at..end], dx);
    });
}
