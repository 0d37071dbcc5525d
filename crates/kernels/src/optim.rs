//! The optimiser's step, and what gradient clipping needs.

use crate::dispatch::dispatch;
use crate::simd::Simd;
use crate::threads::{self, PARALLEL_FLOATS, Shared, run};

/// Floats per task. Fixed: sums are taken over these chunks, then over the chunks in order.
const CHUNK: usize = 8192;

/// The numbers a step needs, worked out once.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    beta1: f32,
    beta2: f32,
    keep: f32,
    size: f32,
    root: f32,
    eps: f32,
}

#[inline(always)]
fn adamw_body<S: Simd>(s: S, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], step: Step) {
    let (b1, b2) = (s.splat(step.beta1), s.splat(step.beta2));
    let (c1, c2) = (s.splat(1.0 - step.beta1), s.splat(1.0 - step.beta2));
    let (keep, size) = (s.splat(step.keep), s.splat(step.size));
    let (root, eps, scale) = (s.splat(step.root), s.splat(step.eps), s.splat(step.scale));
    let mut at = 0;
    while at < param.len() {
        let r = at..(at + S::LANES).min(param.len());
        let g = s.mul(scale, s.load_part(&grad[r.clone()]));
        let m1 = s.fma(b1, s.load_part(&m[r.clone()]), s.mul(c1, g));
        let v1 = s.fma(b2, s.load_part(&v[r.clone()]), s.mul(c2, s.mul(g, g)));
        s.store_part(&mut m[r.clone()], m1);
        s.store_part(&mut v[r.clone()], v1);
        let denominator = s.fma(s.sqrt(v1), root, eps);
        let p = s.mul(s.load_part(&param[r.clone()]), keep);
        let p = s.fnma(size, s.div(m1, denominator), p);
        s.store_part(&mut param[r], p);
        at += S::LANES;
    }
}

dispatch!(fn adamw_chunk = adamw_body(
    param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32], step: Step));

/// One step of AdamW as PyTorch's, in place, with gradients times `scale` (clipping); all slices of one length, `step`
/// counted from 1.
///
/// # Panics
/// If the lengths differ or `step` is 0.
pub fn adamw_step(
    param: &mut [f32],
    grad: &[f32],
    scale: f32,
    m: &mut [f32],
    v: &mut [f32],
    lr: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    weight_decay: f32,
    step: u64,
) {
    assert_eq!(grad.len(), param.len(), "length of grad");
    assert_eq!(m.len(), param.len(), "length of m");
    assert_eq!(v.len(), param.len(), "length of v");
    assert!(step > 0, "steps count from 1");
    // In f64: beta2^step is close to 1 for long.
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(step as f64);
    let numbers = Step {
        scale,
        beta1,
        beta2,
        keep: (1.0 - f64::from(lr) * f64::from(weight_decay)) as f32,
        size: (f64::from(lr) / correction(beta1)) as f32,
        root: (1.0 / correction(beta2).sqrt()) as f32,
        eps,
    };
    let len = param.len();
    let (param, m, v) = (Shared::new(param), Shared::new(m), Shared::new(v));
    run(len.div_ceil(CHUNK), len >= PARALLEL_FLOATS, |i| {
        let at = i * CHUNK;
        let n = CHUNK.min(len - at);
        // SAFETY: task i has the i-th chunk of each to itself.
        let (param, m, v) = unsafe { (param.slice(at, n), m.slice(at, n), v.slice(at, n)) };
        adamw_chunk(param, &grad[at..at + n], m, v, numbers);
    });
}

#[inline(always)]
fn sum_squares_body<S: Simd>(_s: S, x: &[f32]) -> f64 {
    const LANES: usize = 32;
    let mut acc = [0.0f64; LANES];
    let mut xs = x.chunks_exact(LANES);
    for x in &mut xs {
        for i in 0..LANES {
            acc[i] += f64::from(x[i]) * f64::from(x[i]);
        }
    }
    for (a, &x) in acc.iter_mut().zip(xs.remainder()) {
        *a += f64::from(x) * f64::from(x);
    }
    acc.iter().sum()
}

dispatch!(fn sum_squares_chunk = sum_squares_body(x: &[f32]) -> f64);

/// The sum of squares of `x`, in f64; the same on any number of threads and instruction set.
pub fn sum_squares(x: &[f32]) -> f64 {
    let mut parts = vec![0.0f64; x.len().div_ceil(CHUNK)];
    let shared = Shared::new(&mut parts);
    threads::run(x.len().div_ceil(CHUNK), x.len() >= PARALLEL_FLOATS, |i| {
        let at = i * CHUNK;
        // SAFETY: task i has part i to itself.
        let part = unsafe { shared.slice(i, 1) };
        part[0] = sum_squares_chunk(&x[at..(at + CHUNK).min(x.len())]);
    });
    parts.iter().sum()
}
