//! Integer dot products on the words of a panel, and their plain version.

use super::layout::{Block, PANEL};
use crate::simd::Scalar;

/// Sums for each row of a panel. A value of the type is a proof of the instructions.
pub(super) trait Dots: Copy {
    /// A sum for each row.
    type Acc: Copy;
    /// Four unsigned codes of each row, made ready.
    type W: Copy;
    /// Four signed activations, made ready.
    type X: Copy;
    /// A float for each row.
    type Floats: Copy;
    /// Whether there is room for 24 sums of a panel; else for four.
    const WIDE: bool;

    fn splat(self, value: i32) -> Self::Acc;
    fn weights(self, block: &Block) -> Self::W;
    fn inputs(self, word: u32) -> Self::X;
    /// `acc` plus the four products of each row. It wraps round, which the end result undoes.
    fn dot(self, acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc;
    fn store(self, acc: Self::Acc) -> [i32; PANEL];
    /// Floats of a panel's rows, all zero.
    fn no_floats(self) -> Self::Floats;
    /// `floats + acc * scale`, rounded twice, so that every path has the same bits.
    fn scaled(self, floats: Self::Floats, acc: Self::Acc, scale: &[f32; PANEL]) -> Self::Floats;
    fn store_floats(self, floats: Self::Floats) -> [f32; PANEL];
}

impl Dots for Scalar {
    type Acc = [i32; PANEL];
    type W = [u32; PANEL];
    type X = [i32; 4];
    type Floats = [f32; PANEL];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, value: i32) -> Self::Acc {
        [value; PANEL]
    }
    #[inline(always)]
    fn weights(self, block: &Block) -> Self::W {
        block.0
    }
    #[inline(always)]
    fn inputs(self, word: u32) -> Self::X {
        word.to_le_bytes().map(|b| i32::from(b as i8))
    }
    #[inline(always)]
    fn dot(self, mut acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc {
        for (acc, w) in acc.iter_mut().zip(w) {
            let products = (w & 255) as i32 * x[0]
                + (w >> 8 & 255) as i32 * x[1]
                + (w >> 16 & 255) as i32 * x[2]
                + (w >> 24) as i32 * x[3];
            *acc = acc.wrapping_add(products);
        }
        acc
    }
    #[inline(always)]
    fn store(self, acc: Self::Acc) -> [i32; PANEL] {
        acc
    }
    #[inline(always)]
    fn no_floats(self) -> Self::Floats {
        [0.0; PANEL]
    }
    #[inline(always)]
    fn scaled(self, mut floats: Self::Floats, acc: Self::Acc, scale: &[f32; PANEL]) -> Self::Floats {
        for i in 0..PANEL {
            floats[i] += acc[i] as f32 * scale[i];
        }
        floats
    }
    #[inline(always)]
    fn store_floats(self, floats: Self::Floats) -> [f32; PANEL] {
        floats
    }
}
