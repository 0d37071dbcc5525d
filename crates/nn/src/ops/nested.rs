//! Nested integer weights: stored codes, and the packed form that reads as few bytes as a view needs.

use std::sync::OnceLock;

use candle_core::Tensor;
use switchformer_kernels::quant::{MAX_INT_ROW, PackedCodes};

use super::{composed, fused, on_kernels};
use crate::error::Result;

/// Nested integer weights of one projection: 8-bit codes `[out, in]`, one scale per output row or per group of inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NestedWeight {
    /// Codes of the widest view, row-major.
    pub codes: Vec<i8>,
    /// Scales `[out, groups]`, row-major; one group is a whole row.
    pub scale: Vec<f32>,
    /// Output rows.
    pub out: usize,
}

impl NestedWeight {
    /// The matrix that a view of `bits` computes with: `code_l * 2^(8-l) * scale`. Shapes: -> `[out, in]`.
    pub fn dense(&self, bits: u8) -> Result<Tensor> {
        Ok(Tensor::from_vec(fused::nested_dense(self, bits), (self.out, self.inner()), &candle_core::Device::Cpu)?)
    }

    fn inner(&self) -> usize {
        self.codes.len() / self.out.max(1)
    }
}

/// Projection with nested integer weights seen at `bits`. Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
pub fn nested_linear(x: &Tensor, w: &NestedWeight, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
    if on_kernels(&[x]) {
        fused::nested_linear(x, w, bits, b)
    } else {
        composed::linear(x, &w.dense(bits)?.to_device(x.device())?, b)
    }
}

/// The packed form of nested weights, made at its first use: one byte a weight, and `bits / 8` bytes more for each
/// narrower view that was used.
#[derive(Debug, Default)]
pub struct PackedNested(OnceLock<PackedCodes>);

impl PackedNested {
    /// Projection in integers: activations are rounded to 8 bits row by row, the sums of groups are exact. The same bits
    /// for a row on every processor, whatever its batch mates. Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
    ///
    /// Falls back to float activations on other devices and for rows above 131,071 values.
    pub fn linear_int8(&self, x: &Tensor, w: &NestedWeight, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
        let (out, inner) = (w.out, w.inner());
        if !on_kernels(&[x]) || inner > MAX_INT_ROW {
            return nested_linear(x, w, bits, b);
        }
        let packed = self.0.get_or_init(|| PackedCodes::new(inner, out, &w.codes, &w.scale));
        fused::linear_int8(x, packed, bits, b)
    }

    /// Bytes held beside the stored codes.
    pub fn bytes(&self) -> usize {
        self.0.get().map_or(0, PackedCodes::bytes)
    }
}
