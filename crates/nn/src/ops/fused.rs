//! The operations on our kernels (placeholder doors until the kernels are bound).
pub use super::composed::*;
use super::NestedWeight;
use crate::error::Result;
use candle_core::Tensor;

pub fn round_to(code: i8, bits: u8) -> i8 {
    let shift = 8 - bits;
    let half = if shift == 0 { 0 } else { 1i32 << (shift - 1) };
    let (lo, hi) = (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1);
    ((i32::from(code) + half) >> shift).clamp(lo, hi) as i8
}
pub fn nested_dense(w: &NestedWeight, bits: u8) -> Vec<f32> {
    let inner = w.codes.len() / w.scale.len().max(1);
    let step = (1u32 << (8 - bits)) as f32;
    w.codes.iter().enumerate().map(|(i, c)| f32::from(round_to(*c, bits)) * step * w.scale[i / inner]).collect()
}
pub fn nested_linear(x: &Tensor, w: &NestedWeight, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
    linear(x, &w.dense(bits)?, b)
}
pub fn nested_codes(w: &[f32], scale: Vec<f32>) -> NestedWeight {
    let inner = w.len() / scale.len().max(1);
    let codes = w.iter().enumerate().map(|(i, v)| (v / scale[i / inner] + 0.5).floor().clamp(-128.0, 127.0) as i8).collect();
    NestedWeight { codes, scale }
}
pub fn nested_view(w: &Tensor, scale: &Tensor, bits: u8) -> Result<Tensor> {
    let s = scale.unsqueeze(1)?;
    let v = w.broadcast_div(&s)?.clamp(-128f32, 127f32)?;
    let step = f64::from(1u32 << (8 - bits));
    let r8 = (v.detach() + 0.5)?.floor()?.clamp(-128f32, 127f32)?;
    let q = (((r8 / step)? + if bits == 8 {0.0} else {0.5})?.floor()?.clamp(-(1i32 << (bits-1)) as f32, ((1i32 << (bits-1)) - 1) as f32)? * step)?;
    let c = (&v + (q - v.detach())?.detach())?;
    Ok(c.broadcast_mul(&s)?)
}
