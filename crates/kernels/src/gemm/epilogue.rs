//! What follows a product, applied to strips of rows that are still in the first-level cache.

use crate::act::{gelu_erf_v, gelu_quick_v, gelu_tanh_v, relu_v, silu_v, tanh_v};
use crate::dispatch::dispatch;
use crate::simd::{Simd, map_in_place, zip_in_place};

/// An activation that a product can apply to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// GELU with the exact normal distribution function.
    GeluErf,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// GELU as `x sigmoid(1.702 x)`.
    GeluQuick,
    /// ReLU.
    Relu,
    /// SiLU.
    Silu,
    /// Hyperbolic tangent.
    Tanh,
}

/// What follows a product: `y = act(product + bias) * gate + residual`, each part only where given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to each row, `[n]`.
    pub bias: Option<&'a [f32]>,
    /// Applied after the bias.
    pub act: Option<Act>,
    /// Multiplied element by element, `[m, n]` (a gated feed-forward).
    pub gate: Option<&'a [f32]>,
    /// Added last, `[m, n]`.
    pub residual: Option<&'a [f32]>,
}

impl Epilogue<'_> {
    pub(crate) fn is_none(&self) -> bool {
        self.bias.is_none() && self.act.is_none() && self.gate.is_none() && self.residual.is_none()
    }

    pub(crate) fn check(&self, m: usize, n: usize) {
        assert!(self.bias.is_none_or(|b| b.len() == n), "length of bias");
        assert!(self.gate.is_none_or(|g| g.len() == m * n), "length of gate");
        assert!(self.residual.is_none_or(|r| r.len() == m * n), "length of residual");
    }
}

dispatch!(
    /// Applies `then` to `y`, which is columns `col..` of row `row` of a result `n` wide.
    ///
    /// A function of its own: inlined between the tiles it would be compiled with their registers in mind.
    pub(crate) fn apply = apply_body(then: &Epilogue<'_>, y: &mut [f32], row: usize, col: usize, n: usize)
);

#[inline(always)]
fn apply_body<S: Simd>(s: S, then: &Epilogue<'_>, y: &mut [f32], row: usize, col: usize, n: usize) {
    let (len, at) = (y.len(), row * n + col);
    if let Some(bias) = then.bias {
        zip_in_place!(S, s, y, bias[col..col + len], |v, b| s.add(v, b));
    }
    match then.act {
        None => {}
        Some(Act::GeluErf) => map_in_place!(S, s, y, |v| gelu_erf_v(s, v)),
        Some(Act::GeluTanh) => map_in_place!(S, s, y, |v| gelu_tanh_v(s, v)),
        Some(Act::GeluQuick) => map_in_place!(S, s, y, |v| gelu_quick_v(s, v)),
        Some(Act::Relu) => map_in_place!(S, s, y, |v| relu_v(s, v)),
        Some(Act::Silu) => map_in_place!(S, s, y, |v| silu_v(s, v)),
        Some(Act::Tanh) => map_in_place!(S, s, y, |v| tanh_v(s, v)),
    }
    if let Some(gate) = then.gate {
        zip_in_place!(S, s, y, gate[at..at + len], |v, g| s.mul(v, g));
    }
    if let Some(residual) = then.residual {
        zip_in_place!(S, s, y, residual[at..at + len], |v, r| s.add(v, r));
    }
}
