//! Integer dot products on the words of a panel, and their plain version.

use super::digits::DIGITS;
use super::layout::{Block, PANEL};
use crate::simd::Scalar;

/// Sums for each row of a panel. A value of the type is a proof of the instructions.
pub(super) trait Dots: Copy {
    /// The words of a block.
    type Raw: Copy;
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

    fn raw(self, block: &Block) -> Self::Raw;
    /// The unsigned codes of inputs `4 * g..4 * g + 4` of a unit, whose blocks are `w`, a byte each.
    fn bytes<const BITS: u8>(self, w: &[Self::Raw; 4], g: usize) -> Self::Raw;
    fn block(self, raw: Self::Raw) -> Block;
    fn ready(self, bytes: Self::Raw) -> Self::W;
    fn splat(self, value: i32) -> Self::Acc;
    #[inline(always)]
    fn weights(self, block: &Block) -> Self::W {
        self.ready(self.raw(block))
    }
    fn inputs(self, word: u32) -> Self::X;
    /// `acc` plus the four products of each row. It wraps round, which the end result undoes.
    fn dot(self, acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc;
    /// Both sums together. They wrap round.
    fn sum(self, a: Self::Acc, b: Self::Acc) -> Self::Acc;
    fn store(self, acc: Self::Acc) -> [i32; PANEL];
    /// Byte `at` of each row's word, without sign, less `offset`.
    fn codes(self, block: &Block, at: usize, offset: i32) -> Self::Acc;
    /// Sums as floats, rounded to nearest.
    fn rounded(self, acc: Self::Acc) -> Self::Floats;
    fn floats(self, floats: &[f32; PANEL]) -> Self::Floats;
    /// The same float for each row.
    fn all(self, value: f32) -> Self::Floats;
    /// Rounded, as [`times`](Self::times) is, and never fused with it: so every path has the same bits.
    fn plus(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    fn times(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `floats` plus the number whose digits are `acc`, times `scale * step`. As all but the last product and sum are by
    /// powers of two or rounded one by one, every path has the same bits.
    fn joined(self, floats: Self::Floats, acc: [Self::Acc; DIGITS], scale: &[f32; PANEL], step: f32) -> Self::Floats;
    /// Stores the first floats, as many as there is room for.
    fn write(self, floats: Self::Floats, to: &mut [f32]);
    /// Asks for the cache line of `at`, which need not exist.
    fn prefetch<T>(self, at: *const T);
}

/// Where the codes of inputs `4 * g..4 * g + 4` of a unit lie: block and first bit of all their bits but the upper two of 6,
/// which lie in block 2 from bit `2 * g`.
#[inline(always)]
pub(super) fn place<const BITS: u8>(g: usize) -> (usize, u32) {
    match BITS {
        8 => (g, 0),
        2 => (0, 2 * g as u32),
        _ => (g / 2, 4 * (g as u32 & 1)),
    }
}

/// The bits of each byte that [`place`] speaks of.
#[inline(always)]
pub(super) const fn byte_mask<const BITS: u8>() -> u32 {
    match BITS {
        8 => u32::MAX,
        2 => 0x0303_0303,
        _ => 0x0f0f_0f0f,
    }
}

/// The upper two bits of each byte of six.
pub(super) const UPPER: u32 = 0x3030_3030;

impl Dots for Scalar {
    type Raw = [u32; PANEL];
    type Acc = [i32; PANEL];
    type W = [u32; PANEL];
    type X = [i32; 4];
    type Floats = [f32; PANEL];
    const WIDE: bool = false;

    #[inline(always)]
    fn raw(self, block: &Block) -> Self::Raw {
        block.0
    }
    #[inline(always)]
    fn bytes<const BITS: u8>(self, w: &[Self::Raw; 4], g: usize) -> Self::Raw {
        let (block, shift) = place::<BITS>(g);
        std::array::from_fn(|i| {
            let low = (w[block][i] >> shift) & byte_mask::<BITS>();
            if BITS == 6 { low | ((w[2][i] >> (2 * g)) << 4 & UPPER) } else { low }
        })
    }
    #[inline(always)]
    fn block(self, raw: Self::Raw) -> Block {
        Block(raw)
    }
    #[inline(always)]
    fn ready(self, bytes: Self::Raw) -> Self::W {
        bytes
    }
    #[inline(always)]
    fn splat(self, value: i32) -> Self::Acc {
        [value; PANEL]
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
    fn sum(self, a: Self::Acc, b: Self::Acc) -> Self::Acc {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn store(self, acc: Self::Acc) -> [i32; PANEL] {
        acc
    }
    #[inline(always)]
    fn codes(self, block: &Block, at: usize, offset: i32) -> Self::Acc {
        block.0.map(|word| i32::from(word.to_le_bytes()[at]) - offset)
    }
    #[inline(always)]
    fn rounded(self, acc: Self::Acc) -> Self::Floats {
        acc.map(|v| v as f32)
    }
    #[inline(always)]
    fn floats(self, floats: &[f32; PANEL]) -> Self::Floats {
        *floats
    }
    #[inline(always)]
    fn all(self, value: f32) -> Self::Floats {
        [value; PANEL]
    }
    #[inline(always)]
    fn plus(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn times(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn joined(
        self,
        mut floats: Self::Floats,
        acc: [Self::Acc; DIGITS],
        scale: &[f32; PANEL],
        step: f32,
    ) -> Self::Floats {
        for i in 0..PANEL {
            let [d0, d1, d2] = acc.map(|acc| acc[i] as f32);
            floats[i] += (d2 * 65536.0 + (d1 * 256.0 + d0)) * (scale[i] * step);
        }
        floats
    }
    #[inline(always)]
    fn write(self, floats: Self::Floats, to: &mut [f32]) {
        to.copy_from_slice(&floats[..to.len()]);
    }
    #[inline(always)]
    fn prefetch<T>(self, _at: *const T) {}
}
