//! Vector operations on the words of a panel, with float sums, and their plain version.

use super::layout::{Block, PANEL};
use crate::simd::{Scalar, Simd};
#[cfg(target_arch = "x86_64")]
use crate::simd_x86::{Avx2, Avx512};

/// Operations on one value per row of a panel. A value of the type is a proof of the instructions.
pub(super) trait Lanes: Copy {
    /// The words of a block.
    type W: Copy;
    /// A float for each row.
    type F: Copy;
    /// Whether there are 32 registers of a whole panel's width, and [`pairs`](Self::pairs) is fast.
    const WIDE: bool;

    fn words(self, block: &Block) -> Self::W;
    fn zero(self) -> Self::F;
    fn splat(self, x: f32) -> Self::F;
    /// `a * b + c`.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn store(self, v: Self::F) -> [f32; PANEL];
    /// The signed codes of input `k` of a unit, whose blocks are `w`.
    fn codes<const BITS: u8>(self, w: &[Self::W; 4], k: usize) -> Self::F;
    /// The unsigned codes of inputs `4 * g..4 * g + 4` of a unit of less than 8 bits, a byte each.
    fn bytes<const BITS: u8>(self, w: &[Self::W; 4], g: usize) -> Block;
    /// `acc` plus, for each row, the float in `table` (as bits) that bits `shift..shift + 4` of `w` tell.
    fn pairs(self, w: Self::W, shift: u32, table: &Block, acc: Self::F) -> Self::F;
    /// Asks for the cache line `ahead` blocks after `block`, which need not exist.
    fn prefetch(self, block: &Block, ahead: usize);
}

/// Where input `k` of a unit lies: block and first bit of all its bits but the upper two of 6.
#[inline(always)]
pub(super) fn place<const BITS: u8>(k: usize) -> (usize, u32) {
    let (g, byte) = (k / 4, 8 * (k % 4) as u32);
    match BITS {
        8 => (g, byte),
        2 => (0, byte + 2 * g as u32),
        _ => (g / 2, byte + 4 * (g as u32 & 1)),
    }
}

/// Bit of block 2 where the upper two of the six bits of input `k` begin.
#[inline(always)]
pub(super) fn place_upper(k: usize) -> u32 {
    place::<2>(k).1
}

/// The bits of each byte that [`place`] speaks of.
#[inline(always)]
pub(super) const fn byte_mask<const BITS: u8>() -> u32 {
    if BITS == 2 { 0x0303_0303 } else { 0x0f0f_0f0f }
}

impl Lanes for Scalar {
    type W = [u32; PANEL];
    type F = [f32; PANEL];
    const WIDE: bool = false;

    #[inline(always)]
    fn words(self, block: &Block) -> Self::W {
        block.0
    }
    #[inline(always)]
    fn zero(self) -> Self::F {
        [0.0; PANEL]
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; PANEL]
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn store(self, v: Self::F) -> [f32; PANEL] {
        v
    }
    #[inline(always)]
    fn codes<const BITS: u8>(self, w: &[Self::W; 4], k: usize) -> Self::F {
        let (block, shift) = place::<BITS>(k);
        let low = if BITS == 6 { 4 } else { u32::from(BITS) };
        std::array::from_fn(|i| {
            let mut code = (w[block][i] >> shift) & ((1 << low) - 1);
            if BITS == 6 {
                code |= ((w[2][i] >> place_upper(k)) & 3) << 4;
            }
            (code as i32 - (1 << (BITS - 1))) as f32
        })
    }
    #[inline(always)]
    fn bytes<const BITS: u8>(self, w: &[Self::W; 4], g: usize) -> Block {
        let (block, shift) = place::<BITS>(4 * g);
        Block(std::array::from_fn(|i| {
            let low = (w[block][i] >> shift) & byte_mask::<BITS>();
            if BITS == 6 { low | ((w[2][i] >> (2 * g)) & 0x0303_0303) << 4 } else { low }
        }))
    }
    #[inline(always)]
    fn pairs(self, w: Self::W, shift: u32, table: &Block, acc: Self::F) -> Self::F {
        std::array::from_fn(|i| acc[i] + f32::from_bits(table.0[(w[i] >> shift) as usize & 15]))
    }
    #[inline(always)]
    fn prefetch(self, _block: &Block, _ahead: usize) {}
}

/// The vector operations of an instruction set: those of other kernels, and on panels.
pub(super) trait Both: Simd + Lanes {}
impl Both for Scalar {}
#[cfg(target_arch = "x86_64")]
impl Both for Avx2 {}
#[cfg(target_arch = "x86_64")]
impl Both for Avx512 {}
