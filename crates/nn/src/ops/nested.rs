//! Nested integer weights: stored codes, and the packed form that reads as few bytes as a view needs.

use std::sync::OnceLock;

use switchformer_kernels::quant::{MAX_INT_ROW, PackedCodes};
use switchformer_tensor::Tensor;

use super::{composed, fused, on_kernels};
use crate::error::Result;
use crate::ops::Epilogue;

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
    /// Width of a row.
    fn inner(&self) -> usize {
        self.codes.len() / self.out.max(1)
    }

    /// The matrix that a view of `bits` computes with: `code_l * 2^(8-l) * scale`. Shapes: -> `[out, in]`.
    pub fn dense(&self, bits: u8) -> Result<Tensor> {
        Tensor::from_vec(fused::nested_dense(self, bits), (self.out, self.inner()))
    }
}

/// Projection with nested integer weights seen at `bits`. Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
pub fn nested_linear(x: &Tensor, w: &NestedWeight, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
    if on_kernels(&[x]) { fused::nested_linear(x, w, bits, b) } else { composed::linear(x, &w.dense(bits)?, b) }
}

/// Rows up to which packed codes are multiplied as they lie: past it, making them floats first is soon no dearer.
pub const FEW_ROWS: usize = 32;

/// The packed form of nested weights, made at its first use: one byte a weight, and `bits / 8` bytes more for each
/// narrower view that was used.
#[derive(Debug, Default)]
pub struct PackedNested(OnceLock<PackedCodes>);

impl PackedNested {
    /// Projection in integers: activations are rounded to 8 bits row by row, the sums of groups are exact. The same bits
    /// for a row on every processor, whatever other rows are in the batch, up to an activation that follows. Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
    ///
    /// Falls back to float activations for other types than f32 and for rows above 131,071 values.
    pub fn linear_int8(
        &self,
        x: &Tensor,
        w: &NestedWeight,
        bits: u8,
        b: Option<&Tensor>,
        epilogue: &Epilogue,
    ) -> Result<Tensor> {
        if !on_kernels(&[x]) || w.inner() > MAX_INT_ROW {
            return epilogue.apply(nested_linear(x, w, bits, b)?);
        }
        fused::linear_int8(x, self.packed(w), bits, b, epilogue)
    }

    /// [`nested_linear`], which for up to [`FEW_ROWS`] rows reads `bits` bits a weight and no more. Among so few a row
    /// has the same bits however many they are; more rows go the way of dense weights, where the last bits differ.
    /// Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
    pub fn linear(&self, x: &Tensor, w: &NestedWeight, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
        let few = x.dims() == [x.dims()[0], w.inner()] && x.dims()[0] <= FEW_ROWS;
        if on_kernels(&[x]) && few && w.inner() <= MAX_INT_ROW {
            fused::linear_few(x, self.packed(w), bits, b)
        } else {
            nested_linear(x, w, bits, b)
        }
    }

    fn packed(&self, w: &NestedWeight) -> &PackedCodes {
        self.0.get_or_init(|| PackedCodes::new(w.inner(), w.out, &w.codes, &w.scale))
    }

    /// Bytes held beside the stored codes.
    pub fn bytes(&self) -> usize {
        self.0.get().map_or(0, PackedCodes::bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::init::Stream;

    /// Few rows read packed codes; more go another way, equal to rounding.
    #[test]
    fn among_few_rows_company_moves_no_bit() {
        let (out, inner, n) = (70, 45, FEW_ROWS + 1);
        let mut stream = Stream::named("few rows");
        let codes = (0..out * inner).map(|_| (stream.below(256) as i64 - 128) as i8).collect();
        let scale = (0..out).map(|_| 0.01 * (0.5 + stream.unit())).collect();
        let weight = NestedWeight { codes, scale, out };
        let mut floats = |n: usize| (0..n).map(|_| 2.0 * stream.unit() - 1.0).collect::<Vec<f32>>();
        let x = Tensor::from_vec(floats(n * inner), (n, inner)).unwrap();
        let bias = Tensor::from_vec(floats(out), out).unwrap();
        let packed = PackedNested::default();
        for bits in [8, 6, 4, 2] {
            let run = |from: usize, n: usize| -> Vec<Vec<f32>> {
                let rows = x.narrow(0, from, n).unwrap();
                packed.linear(&rows, &weight, bits, Some(&bias)).unwrap().to_vec2().unwrap()
            };
            let alone: Vec<Vec<f32>> = (0..n).flat_map(|i| run(i, 1)).collect();
            for m in 2..=FEW_ROWS {
                assert_eq!(run(0, m), alone[..m], "{m} rows at {bits} bits");
                assert_eq!(run(n - m, m), alone[n - m..], "the last {m} rows at {bits} bits");
            }
            let many = run(0, n);
            let near = |a: &f32, b: &f32| (a - b).abs() < 1e-4;
            assert!(many.iter().flatten().zip(alone.iter().flatten()).all(|(a, b)| near(a, b)), "{bits} bits");
        }
    }
}
