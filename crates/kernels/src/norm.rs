//! Layer normalisation, as PyTorch's: population variance, `eps` inside the root.

use crate::dispatch::dispatch;
use crate::gemm::reduce_chunks;
use crate::simd::Simd;
use crate::threads::{Shared, run_chunks};

/// Floats per task of the forward, rounded to whole rows.
const CHUNK: usize = 8192;

/// The first float and width of each vector of a row, the last maybe narrower.
///
/// An iterator and not a call with a closure, which would not take on the kernel's instruction set.
#[inline(always)]
fn vectors<S: Simd>(dim: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dim).step_by(S::LANES).map(move |at| (at, S::LANES.min(dim - at)))
}

/// A row's mean and one over its standard deviation.
#[inline(always)]
fn moments<S: Simd>(s: S, x: &[f32], eps: f32) -> (f32, f32) {
    let n = x.len() as f32;
    let mut sum = s.splat(0.0);
    for (at, w) in vectors::<S>(x.len()) {
        sum = s.add(sum, s.load_part(&x[at..at + w]));
    }
    let mean = s.sum(sum) / n;
    // A second pass: the mean of squares less the square of the mean would cancel. It also finds
    // what rounding left out of the mean.
    let (mut rest, mut sq) = (s.splat(0.0), s.splat(0.0));
    let m = s.splat(mean);
    let mut xs = x.chunks_exact(S::LANES);
    for v in &mut xs {
        let d = s.sub(s.load(v), m);
        rest = s.add(rest, d);
        sq = s.fma(d, d, sq);
    }
    let (mut rest, mut sq) = (s.sum(rest), s.sum(sq));
    for &v in xs.remainder() {
        let d = v - mean;
        rest += d;
        sq += d * d;
    }
    let rest = rest / n;
    let var = (sq / n - rest * rest).max(0.0);
    (mean + rest, 1.0 / (var + eps).sqrt())
}

#[inline(always)]
fn forward_body<S: Simd>(s: S, x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    let dim = gamma.len();
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        let (mean, rstd) = moments(s, x, eps);
        let (mean, rstd) = (s.splat(mean), s.splat(rstd));
        for (at, w) in vectors::<S>(dim) {
            let r = at..at + w;
            let xhat = s.mul(s.sub(s.load_part(&x[r.clone()]), mean), rstd);
            let (g, b) = (s.load_part(&gamma[r.clone()]), s.load_part(&beta[r.clone()]));
            s.store_part(&mut y[r], s.fma(xhat, g, b));
        }
    }
}

#[inline(always)]
fn backward_body<S: Simd>(s: S, x: &[f32], gamma: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dparam: &mut [f32]) {
    let dim = gamma.len();
    let (dgamma, dbeta) = dparam.split_at_mut(dim);
    let rows = x.chunks_exact(dim).zip(dy.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim));
    for ((x, dy), dx) in rows {
        let (mean, rstd) = moments(s, x, eps);
        let (mean, r) = (s.splat(mean), s.splat(rstd));
        let (mut sum_g, mut sum_gx) = (s.splat(0.0), s.splat(0.0));
        // x-hat waits in dx for the second pass, which cannot start before the sums are known.
        // Lanes past a row's end have dy = gamma = 0, so they add nothing.
        for (at, w) in vectors::<S>(dim) {
            let at = at..at + w;
            let xhat = s.mul(s.sub(s.load_part(&x[at.clone()]), mean), r);
            let d = s.load_part(&dy[at.clone()]);
            let g = s.mul(d, s.load_part(&gamma[at.clone()]));
            sum_g = s.add(sum_g, g);
            sum_gx = s.fma(g, xhat, sum_gx);
            s.store_part(&mut dx[at.clone()], xhat);
            let dg = s.fma(d, xhat, s.load_part(&dgamma[at.clone()]));
            s.store_part(&mut dgamma[at.clone()], dg);
            let db = s.add(d, s.load_part(&dbeta[at.clone()]));
            s.store_part(&mut dbeta[at], db);
        }
        let mean_g = s.splat(s.sum(sum_g) / dim as f32);
        let mean_gx = s.splat(s.sum(sum_gx) / dim as f32);
        for (at, w) in vectors::<S>(dim) {
            let at = at..at + w;
            let xhat = s.load_part(&dx[at.clone()]);
            let g = s.mul(s.load_part(&dy[at.clone()]), s.load_part(&gamma[at.clone()]));
            let v = s.mul(r, s.fnma(xhat, mean_gx, s.sub(g, mean_g)));
            s.store_part(&mut dx[at], v);
        }
    }
}

dispatch!(fn forward_rows = forward_body(
    x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]));
dispatch!(fn backward_rows = backward_body(
    x: &[f32], gamma: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], dparam: &mut [f32]));

/// `y[rows,dim] = (x - mean) / sqrt(var + eps) * gamma + beta`, row by row; `gamma[dim]`,
/// `beta[dim]`.
///
/// # Panics
/// If a length does not match.
pub fn layer_norm(rows: usize, dim: usize, x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    assert_eq!(x.len(), rows * dim, "length of x");
    assert_eq!(y.len(), rows * dim, "length of y");
    assert_eq!(gamma.len(), dim, "length of gamma");
    assert_eq!(beta.len(), dim, "length of beta");
    if dim == 0 {
        return;
    }
    let chunk = (CHUNK / dim).max(1) * dim;
    run_chunks(y, chunk, |at, y| forward_rows(&x[at..at + y.len()], gamma, beta, eps, y));
}

/// Backward of [`layer_norm`] from `dy[rows,dim]`: `dx[rows,dim]` is overwritten, `dgamma[dim]` and
/// `dbeta[dim]` are added to. Mean and deviation are computed again from `x`.
///
/// # Panics
/// If a length does not match.
pub fn layer_norm_backward(
    rows: usize,
    dim: usize,
    x: &[f32],
    gamma: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    assert_eq!(x.len(), rows * dim, "length of x");
    assert_eq!(dy.len(), rows * dim, "length of dy");
    assert_eq!(dx.len(), rows * dim, "length of dx");
    assert_eq!(gamma.len(), dim, "length of gamma");
    assert_eq!(dgamma.len(), dim, "length of dgamma");
    assert_eq!(dbeta.len(), dim, "length of dbeta");
    if dim == 0 {
        return;
    }
    let shared = Shared::new(dx);
    let mut dparam = vec![0.0; 2 * dim];
    reduce_chunks(rows, 2 * dim, rows * dim, &mut dparam, |first, last, part| {
        let at = first * dim..last * dim;
        // SAFETY: the chunks of rows do not overlap.
        let dx = unsafe { shared.slice(at.start, at.len()) };
        backward_rows(&x[at.clone()], gamma, eps, &dy[at], dx, part);
    });
    dgamma.iter_mut().zip(&dparam[..dim]).for_each(|(a, p)| *a += p);
    dbeta.iter_mut().zip(&dparam[dim..]).for_each(|(a, p)| *a += p);
}
