//! Layer and RMS normalisation, as PyTorch's: population variance, `eps` inside the root; alone, or of a sum with a
//! residual.

use crate::dispatch::dispatch;
use crate::gemm::reduce_chunks;
use crate::simd::{Simd, map2};
use crate::threads::{PARALLEL_FLOATS, Shared, run};

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

/// One over the root of a row's mean square.
#[inline(always)]
fn mean_square<S: Simd>(s: S, x: &[f32], eps: f32) -> f32 {
    let mut sq = s.splat(0.0);
    for (at, w) in vectors::<S>(x.len()) {
        let v = s.load_part(&x[at..at + w]);
        sq = s.fma(v, v, sq);
    }
    1.0 / (s.sum(sq) / x.len() as f32 + eps).sqrt()
}

/// A norm's parameters: a layer norm has `beta`, an RMS norm has none and leaves the mean in place.
#[derive(Clone, Copy)]
struct Norm<'a> {
    gamma: &'a [f32],
    beta: Option<&'a [f32]>,
    rms: bool,
    eps: f32,
}

impl Norm<'_> {
    /// What is taken off a row, and what it is then multiplied by.
    #[inline(always)]
    fn of<S: Simd>(&self, s: S, x: &[f32]) -> (S::V, S::V) {
        let (mean, rstd) = if self.rms { (0.0, mean_square(s, x, self.eps)) } else { moments(s, x, self.eps) };
        (s.splat(mean), s.splat(rstd))
    }
}

#[inline(always)]
fn forward_body<S: Simd>(s: S, norm: &Norm<'_>, x: &[f32], y: &mut [f32]) {
    let dim = norm.gamma.len();
    for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact_mut(dim)) {
        let (mean, rstd) = norm.of(s, x);
        for (at, w) in vectors::<S>(dim) {
            let r = at..at + w;
            let xhat = s.mul(s.sub(s.load_part(&x[r.clone()]), mean), rstd);
            let g = s.load_part(&norm.gamma[r.clone()]);
            let v = match norm.beta {
                Some(beta) => s.fma(xhat, g, s.load_part(&beta[r.clone()])),
                None => s.mul(xhat, g),
            };
            s.store_part(&mut y[r], v);
        }
    }
}

/// `sum = x + residual` and its norm, a row at a time so that the sum is still in the first-level cache.
#[inline(always)]
fn residual_body<S: Simd>(s: S, norm: &Norm<'_>, x: &[f32], residual: &[f32], sum: &mut [f32], y: &mut [f32]) {
    let dim = norm.gamma.len();
    let rows = x.chunks_exact(dim).zip(residual.chunks_exact(dim)).zip(sum.chunks_exact_mut(dim));
    for (((x, r), sum), y) in rows.zip(y.chunks_exact_mut(dim)) {
        map2!(S, s, x, r, sum, |p, q| s.add(p, q));
        forward_body(s, norm, sum, y);
    }
}

/// `dsum`, where given, is the gradient that reaches the norm's input on other ways.
#[inline(always)]
fn backward_body<S: Simd>(
    s: S,
    norm: &Norm<'_>,
    x: &[f32],
    dy: &[f32],
    dsum: Option<&[f32]>,
    dx: &mut [f32],
    dparam: &mut [f32],
) {
    let dim = norm.gamma.len();
    // An RMS norm has no second half.
    let (dgamma, dbeta) = dparam.split_at_mut(dim);
    let rows = x.chunks_exact(dim).zip(dy.chunks_exact(dim)).zip(dx.chunks_exact_mut(dim));
    for (i, ((x, dy), dx)) in rows.enumerate() {
        let (mean, r) = norm.of(s, x);
        let (mut sum_g, mut sum_gx) = (s.splat(0.0), s.splat(0.0));
        // x-hat waits in dx for the second pass, which cannot start before the sums are known.
        // Lanes past a row's end have dy = gamma = 0, so they add nothing.
        for (at, w) in vectors::<S>(dim) {
            let at = at..at + w;
            let xhat = s.mul(s.sub(s.load_part(&x[at.clone()]), mean), r);
            let d = s.load_part(&dy[at.clone()]);
            let g = s.mul(d, s.load_part(&norm.gamma[at.clone()]));
            sum_g = s.add(sum_g, g);
            sum_gx = s.fma(g, xhat, sum_gx);
            s.store_part(&mut dx[at.clone()], xhat);
            let dg = s.fma(d, xhat, s.load_part(&dgamma[at.clone()]));
            s.store_part(&mut dgamma[at.clone()], dg);
            if !norm.rms {
                let db = s.add(d, s.load_part(&dbeta[at.clone()]));
                s.store_part(&mut dbeta[at], db);
            }
        }
        let mean_g = s.splat(if norm.rms { 0.0 } else { s.sum(sum_g) / dim as f32 });
        let mean_gx = s.splat(s.sum(sum_gx) / dim as f32);
        for (at, w) in vectors::<S>(dim) {
            let at = at..at + w;
            let xhat = s.load_part(&dx[at.clone()]);
            let g = s.mul(s.load_part(&dy[at.clone()]), s.load_part(&norm.gamma[at.clone()]));
            let v = s.mul(r, s.fnma(xhat, mean_gx, s.sub(g, mean_g)));
            let v = match dsum {
                Some(dsum) => s.add(v, s.load_part(&dsum[i * dim..][at.clone()])),
                None => v,
            };
            s.store_part(&mut dx[at], v);
        }
    }
}

dispatch!(fn forward_rows = forward_body(norm: &Norm<'_>, x: &[f32], y: &mut [f32]));
dispatch!(fn residual_rows = residual_body(norm: &Norm<'_>, x: &[f32], residual: &[f32], sum: &mut [f32], y: &mut [f32]));
dispatch!(fn backward_rows = backward_body(norm: &Norm<'_>, x: &[f32], dy: &[f32], dsum: Option<&[f32]>,
    dx: &mut [f32], dparam: &mut [f32]));

/// Runs a norm forward; with a residual, of `x + residual`, which is written to the given place.
fn forward(norm: &Norm<'_>, rows: usize, x: &[f32], residual: Option<(&[f32], &mut [f32])>, y: &mut [f32]) {
    let dim = norm.gamma.len();
    assert_eq!(x.len(), rows * dim, "length of x");
    assert_eq!(y.len(), rows * dim, "length of y");
    assert!(norm.beta.is_none_or(|b| b.len() == dim), "length of beta");
    let residual = residual.map(|(r, sum)| {
        assert_eq!(r.len(), rows * dim, "length of residual");
        assert_eq!(sum.len(), rows * dim, "length of sum");
        (r, Shared::new(sum))
    });
    if dim == 0 {
        return;
    }
    let (len, y) = (y.len(), Shared::new(y));
    let chunk = (CHUNK / dim).max(1) * dim;
    run(len.div_ceil(chunk), len >= PARALLEL_FLOATS, |i| {
        let at = i * chunk..len.min((i + 1) * chunk);
        // SAFETY: the chunks of different tasks do not overlap.
        let y = unsafe { y.slice(at.start, at.len()) };
        match residual {
            None => forward_rows(norm, &x[at], y),
            Some((r, sum)) => {
                // SAFETY: as above.
                let sum = unsafe { sum.slice(at.start, at.len()) };
                residual_rows(norm, &x[at.clone()], &r[at], sum, y);
            }
        }
    });
}

fn backward(
    norm: &Norm<'_>,
    rows: usize,
    x: &[f32],
    dy: &[f32],
    dsum: Option<&[f32]>,
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: Option<&mut [f32]>,
) {
    let dim = norm.gamma.len();
    assert_eq!(x.len(), rows * dim, "length of x");
    assert_eq!(dy.len(), rows * dim, "length of dy");
    assert_eq!(dx.len(), rows * dim, "length of dx");
    assert_eq!(dgamma.len(), dim, "length of dgamma");
    assert!(dsum.is_none_or(|d| d.len() == rows * dim), "length of dsum");
    assert!(dbeta.as_ref().is_none_or(|d| d.len() == dim), "length of dbeta");
    if dim == 0 {
        return;
    }
    let shared = Shared::new(dx);
    let params = if norm.rms { dim } else { 2 * dim };
    let mut dparam = vec![0.0; params];
    reduce_chunks(rows, params, rows * dim, &mut dparam, |first, last, part| {
        let at = first * dim..last * dim;
        // SAFETY: the chunks of rows do not overlap.
        let dx = unsafe { shared.slice(at.start, at.len()) };
        backward_rows(norm, &x[at.clone()], &dy[at.clone()], dsum.map(|d| &d[at]), dx, part);
    });
    dgamma.iter_mut().zip(&dparam[..dim]).for_each(|(a, p)| *a += p);
    if let Some(dbeta) = dbeta {
        dbeta.iter_mut().zip(&dparam[dim..]).for_each(|(a, p)| *a += p);
    }
}

fn layer<'a>(dim: usize, gamma: &'a [f32], beta: Option<&'a [f32]>, eps: f32) -> Norm<'a> {
    assert_eq!(gamma.len(), dim, "length of gamma");
    Norm { gamma, beta, rms: false, eps }
}

fn rms(dim: usize, gamma: &[f32], eps: f32) -> Norm<'_> {
    assert_eq!(gamma.len(), dim, "length of gamma");
    Norm { gamma, beta: None, rms: true, eps }
}

/// `y[rows,dim] = (x - mean) / sqrt(var + eps) * gamma + beta`, row by row; `gamma[dim]`,
/// `beta[dim]`.
///
/// # Panics
/// If a length does not match.
pub fn layer_norm(rows: usize, dim: usize, x: &[f32], gamma: &[f32], beta: &[f32], eps: f32, y: &mut [f32]) {
    forward(&layer(dim, gamma, Some(beta), eps), rows, x, None, y);
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
    backward(&layer(dim, gamma, None, eps), rows, x, dy, None, dx, dgamma, Some(dbeta));
}

/// `sum = x + residual` and `y` = [`layer_norm`] of `sum`; `x`, `residual`, `sum` and `y` are `[rows, dim]`.
///
/// # Panics
/// If a length does not match.
pub fn layer_norm_residual(
    rows: usize,
    dim: usize,
    x: &[f32],
    residual: &[f32],
    gamma: &[f32],
    beta: &[f32],
    eps: f32,
    sum: &mut [f32],
    y: &mut [f32],
) {
    forward(&layer(dim, gamma, Some(beta), eps), rows, x, Some((residual, sum)), y);
}

/// Backward of [`layer_norm_residual`] from its `sum`, `dy[rows,dim]` and, where the sum is used elsewhere too,
/// `dsum[rows,dim]`: `dx[rows,dim]`, overwritten, is the gradient of both `x` and `residual`; `dgamma[dim]` and
/// `dbeta[dim]` are added to.
///
/// # Panics
/// If a length does not match.
pub fn layer_norm_residual_backward(
    rows: usize,
    dim: usize,
    sum: &[f32],
    gamma: &[f32],
    eps: f32,
    dy: &[f32],
    dsum: Option<&[f32]>,
    dx: &mut [f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
) {
    backward(&layer(dim, gamma, None, eps), rows, sum, dy, dsum, dx, dgamma, Some(dbeta));
}

/// `y[rows,dim] = x / sqrt(mean of x^2 + eps) * gamma`, row by row; `gamma[dim]`.
///
/// # Panics
/// If a length does not match.
pub fn rms_norm(rows: usize, dim: usize, x: &[f32], gamma: &[f32], eps: f32, y: &mut [f32]) {
    forward(&rms(dim, gamma, eps), rows, x, None, y);
}

/// Backward of [`rms_norm`] from `dy[rows,dim]`: `dx[rows,dim]` is overwritten, `dgamma[dim]` is added to.
///
/// # Panics
/// If a length does not match.
pub fn rms_norm_backward(
    rows: usize,
    dim: usize,
    x: &[f32],
    gamma: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    dgamma: &mut [f32],
) {
    backward(&rms(dim, gamma, eps), rows, x, dy, None, dx, dgamma, None);
}

/// `sum = x + residual` and `y` = [`rms_norm`] of `sum`; `x`, `residual`, `sum` and `y` are `[rows, dim]`.
///
/// # Panics
/// If a length does not match.
pub fn rms_norm_residual(
    rows: usize,
    dim: usize,
    x: &[f32],
    residual: &[f32],
    gamma: &[f32],
    eps: f32,
    sum: &mut [f32],
    y: &mut [f32],
) {
    forward(&rms(dim, gamma, eps), rows, x, Some((residual, sum)), y);
}

/// Backward of [`rms_norm_residual`], as [`layer_norm_residual_backward`] without `dbeta`.
///
/// # Panics
/// If a length does not match.
pub fn rms_norm_residual_backward(
    rows: usize,
    dim: usize,
    sum: &[f32],
    gamma: &[f32],
    eps: f32,
    dy: &[f32],
    dsum: Option<&[f32]>,
    dx: &mut [f32],
    dgamma: &mut [f32],
) {
    backward(&rms(dim, gamma, eps), rows, sum, dy, dsum, dx, dgamma, None);
}
