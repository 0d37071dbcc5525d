//! Elementary functions on vectors.
//!
//! The polynomials are Chebyshev fits made for this crate; the tests measure their errors.

use crate::simd::Simd;

/// Horner's rule, highest power first.
#[inline(always)]
pub(crate) fn poly<S: Simd, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut acc = s.splat(c[0]);
    for &k in &c[1..] {
        acc = s.fma(acc, x, s.splat(k));
    }
    acc
}

/// `e^x`, within 2 ULP; infinite above 88.73, zero below -104, NaN for NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // Clamped so that the power of two stays in range. The order keeps a NaN a NaN.
    let x = s.max(s.splat(-104.0), s.min(s.splat(89.0), x));
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    // ln 2 in two parts, the first with few bits so that n times it is exact.
    let r = s.fnma(n, s.splat(0.693_359_4), x);
    let r = s.fnma(n, s.splat(-2.121_944_4e-4), r);
    // (e^r - 1 - r) / r^2 on |r| <= ln(2)/2; the fit's own error is 8e-9.
    let p = poly(s, r, [0.001_392_625, 0.008_363_233, 0.041_666_552, 0.166_665_76, 0.5]);
    let p = s.fma(s.mul(r, r), p, r);
    s.scale2(s.add(p, s.splat(1.0)), n)
}

/// [`exp`] of what weighs other numbers: a result that is no normal number is zero, as products with one are slow.
/// Masks of -100 (shifted windows) give nothing else.
#[inline(always)]
pub(crate) fn exp_weight<S: Simd>(s: S, x: S::V) -> S::V {
    s.select_lt(x, s.splat(-87.3), s.splat(0.0), exp(s, x))
}

/// The natural logarithm of a positive normal number, within 2 ULP away from 1 (and 1e-7 near it).
#[inline(always)]
pub(crate) fn ln<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let e = s.exponent(x);
    let m = s.scale2(x, s.sub(s.splat(0.0), e));
    // The mantissa between sqrt(1/2) and sqrt(2).
    let big = s.select_lt(s.splat(std::f32::consts::SQRT_2), m, one, s.splat(0.0));
    let (e, m) = (s.add(e, big), s.scale2(m, s.sub(s.splat(0.0), big)));
    // 2 artanh((m - 1) / (m + 1)), whose series is short here.
    let t = s.div(s.sub(m, one), s.add(m, one));
    let t2 = s.mul(t, t);
    let p = poly(s, t2, [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0]);
    s.fma(e, s.splat(std::f32::consts::LN_2), s.mul(t, p))
}

/// `tanh x`, within 4 ULP.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.abs(x);
    // Small: x + x^3 p(x^2), as 1 - 2/(e^2x + 1) would cancel.
    let t = s.mul(a, a);
    let small = poly(s, t, [-0.006_096_714, 0.020_997_18, -0.053_850_908, 0.133_327_7, -0.333_333_28]);
    let small = s.fma(s.mul(small, t), a, a);
    let one = s.splat(1.0);
    let e = exp(s, s.add(a, a));
    let large = s.sub(one, s.div(s.splat(2.0), s.add(e, one)));
    s.copysign(s.select_lt(a, s.splat(0.625), small, large), x)
}

/// The standard normal's `(tail(|x|), density(x) * sqrt(2 pi))`: the chance of exceeding |x|, and
/// `exp(-x^2/2)`.
///
/// The tail is the exponential times a slowly falling function (Mills' ratio), so that it keeps
/// its relative accuracy where `1 - erf` would cancel.
#[inline(always)]
pub(crate) fn normal_tail<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let a = s.abs(x);
    let half = s.mul(s.splat(-0.5), x);
    let e = exp(s, s.mul(half, x));
    // Fitted on |x| <= 14; past that the exponential is zero.
    let t = s.div(s.splat(4.0), s.add(s.splat(4.0), a));
    let p = poly(
        s,
        t,
        [
            0.015_383_603,
            -0.056_345_463,
            0.036_615_256,
            0.048_318_084,
            -0.003_677_959_3,
            0.095_375_57,
            0.069_011_636,
            0.096_150_87,
            0.099_416_62,
            0.099_751_79,
        ],
    );
    (s.mul(s.mul(p, t), e), e)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}
