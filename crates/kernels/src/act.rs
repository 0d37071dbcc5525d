//! Activations, element by element; each backward takes the forward's input.

use crate::dispatch::dispatch;
use crate::math;
use crate::simd::{Simd, map1, map2};
use crate::threads::run_chunks;

/// Elements a task works on: small enough for the first-level cache.
const CHUNK: usize = 4096;

/// `1 / sqrt(2 pi)`.
const INV_SQRT_2PI: f32 = 0.398_942_3;
/// `2 * sqrt(2 / pi)`.
const TANH_SCALE: f32 = 1.595_769;
/// The cubic term of the tanh approximation.
const TANH_CUBIC: f32 = 0.044_715;

/// Holds `x` where the tails are long zero, so that infinity times zero cannot arise.
#[inline(always)]
fn clamp<S: Simd>(s: S, x: S::V) -> S::V {
    s.max(s.splat(-100.0), s.min(s.splat(100.0), x))
}

#[inline(always)]
pub(crate) fn gelu_erf_v<S: Simd>(s: S, x: S::V) -> S::V {
    // x Phi(x) = max(x, 0) - |x| tail(|x|): no cancellation on either side.
    let c = clamp(s, x);
    let (tail, _) = math::normal_tail(s, c);
    s.fnma(s.abs(c), tail, s.max(s.splat(0.0), x))
}

#[inline(always)]
fn gelu_erf_grad<S: Simd>(s: S, x: S::V, dy: S::V) -> S::V {
    let c = clamp(s, x);
    let (tail, e) = math::normal_tail(s, c);
    let cdf = s.select_lt(x, s.splat(0.0), tail, s.sub(s.splat(1.0), tail));
    s.mul(dy, s.fma(s.mul(c, s.splat(INV_SQRT_2PI)), e, cdf))
}

/// `2u` for the tanh approximation, which is `x sigmoid(2u)`.
#[inline(always)]
fn tanh_arg<S: Simd>(s: S, x: S::V) -> S::V {
    let x2 = s.mul(x, x);
    s.mul(x, s.fma(x2, s.splat(TANH_SCALE * TANH_CUBIC), s.splat(TANH_SCALE)))
}

#[inline(always)]
pub(crate) fn gelu_tanh_v<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, math::sigmoid(s, tanh_arg(s, x)))
}

#[inline(always)]
fn gelu_tanh_grad<S: Simd>(s: S, x: S::V, dy: S::V) -> S::V {
    let p = math::sigmoid(s, tanh_arg(s, x));
    let c = clamp(s, x);
    let x2 = s.mul(c, c);
    let inner = s.fma(x2, s.splat(3.0 * TANH_SCALE * TANH_CUBIC), s.splat(TANH_SCALE));
    let q = s.mul(p, s.sub(s.splat(1.0), p));
    s.mul(dy, s.fma(q, s.mul(c, inner), p))
}

#[inline(always)]
pub(crate) fn relu_v<S: Simd>(s: S, x: S::V) -> S::V {
    s.max(s.splat(0.0), x)
}

#[inline(always)]
fn relu_grad<S: Simd>(s: S, x: S::V, dy: S::V) -> S::V {
    s.select_lt(s.splat(0.0), x, dy, s.splat(0.0))
}

#[inline(always)]
pub(crate) fn silu_v<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, math::sigmoid(s, x))
}

#[inline(always)]
fn silu_grad<S: Simd>(s: S, x: S::V, dy: S::V) -> S::V {
    let p = math::sigmoid(s, x);
    let q = s.mul(p, s.sub(s.splat(1.0), p));
    s.mul(dy, s.fma(x, q, p))
}

/// Slope of the sigmoid in the quick GELU.
const QUICK: f32 = 1.702;

#[inline(always)]
pub(crate) fn gelu_quick_v<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, math::sigmoid(s, s.mul(x, s.splat(QUICK))))
}

#[inline(always)]
fn gelu_quick_grad<S: Simd>(s: S, x: S::V, dy: S::V) -> S::V {
    let steep = s.mul(x, s.splat(QUICK));
    let p = math::sigmoid(s, steep);
    let q = s.mul(p, s.sub(s.splat(1.0), p));
    s.mul(dy, s.fma(steep, q, p))
}

#[inline(always)]
pub(crate) fn tanh_v<S: Simd>(s: S, x: S::V) -> S::V {
    math::tanh(s, x)
}

#[inline(always)]
fn tanh_grad<S: Simd>(s: S, x: S::V, dy: S::V) -> S::V {
    let t = math::tanh(s, x);
    s.mul(dy, s.fnma(t, t, s.splat(1.0)))
}

#[inline(always)]
fn exp_v<S: Simd>(s: S, x: S::V) -> S::V {
    math::exp(s, x)
}

/// The public pair for one activation.
macro_rules! activation {
    ($doc:literal, $name:ident = $value:ident) => {
        #[doc = concat!($doc, ": `y[i] = f(x[i])`, `x` and `y` of one length.")]
        ///
        /// # Panics
        /// If the lengths differ.
        pub fn $name(x: &[f32], y: &mut [f32]) {
            #[inline(always)]
            fn body<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
                map1!(S, s, x, y, |v| $value(s, v));
            }
            dispatch!(fn kernel = body(x: &[f32], y: &mut [f32]));
            assert_eq!(x.len(), y.len(), "lengths of x and y");
            run_chunks(y, CHUNK, |at, y| kernel(&x[at..at + y.len()], y));
        }
    };
    ($doc:literal, $name:ident = $value:ident, $backward:ident = $grad:ident) => {
        activation!($doc, $name = $value);

        #[doc = concat!($doc, ", backward: `dx[i] = f'(x[i]) dy[i]`, all of one length.")]
        ///
        /// # Panics
        /// If the lengths differ.
        pub fn $backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
            #[inline(always)]
            fn body<S: Simd>(s: S, x: &[f32], dy: &[f32], dx: &mut [f32]) {
                map2!(S, s, x, dy, dx, |v, d| $grad(s, v, d));
            }
            dispatch!(fn kernel = body(x: &[f32], dy: &[f32], dx: &mut [f32]));
            assert_eq!(x.len(), dy.len(), "lengths of x and dy");
            assert_eq!(x.len(), dx.len(), "lengths of x and dx");
            run_chunks(dx, CHUNK, |at, dx| {
                let end = at + dx.len();
                kernel(&x[at..end], &dy[at..end], dx);
            });
        }
    };
}

activation!(
    "GELU with the exact normal distribution function",
    gelu_erf = gelu_erf_v,
    gelu_erf_backward = gelu_erf_grad
);
activation!("GELU by its tanh approximation", gelu_tanh = gelu_tanh_v, gelu_tanh_backward = gelu_tanh_grad);
activation!("GELU as `x sigmoid(1.702 x)`", gelu_quick = gelu_quick_v, gelu_quick_backward = gelu_quick_grad);
activation!("ReLU", relu = relu_v, relu_backward = relu_grad);
activation!("SiLU, `x sigmoid(x)`", silu = silu_v, silu_backward = silu_grad);
activation!("Hyperbolic tangent", tanh = tanh_v, tanh_backward = tanh_grad);
activation!("Exponential", exp = exp_v);
