//! How packed codes lie in memory.
//!
//! Output rows go in panels of [`PANEL`], inputs in units of [`UNIT`]; both are padded. A code is
//! stored without sign, `code + 2^(bits - 1)`. One unit of a panel is `bits / 2` blocks, a block
//! being one 32-bit word for each row of the panel. Input `4 * g + j` of a unit lies in byte `j`:
//!
//! - 8 bits: of block `g`;
//! - 4 bits: of block `g / 2`, in the lower half for even `g`, in the upper for odd;
//! - 2 bits: of the one block, from bit `2 * g`;
//! - 6 bits: the lower four bits as above in blocks 0 and 1, the upper two as above in block 2.
//!
//! So masks and shifts of whole words give bytes of four inputs in a row, which is what integer dot
//! products take.

use super::dots::Dots;
use crate::dispatch::dispatch;
use crate::nested::FULL_BITS;
use crate::simd::Simd;

/// Output rows of a panel.
pub(super) const PANEL: usize = 16;

/// Inputs of a unit.
pub(super) const UNIT: usize = 16;

/// Blocks of a unit of 8-bit codes.
pub(super) const FULL_BLOCKS: usize = blocks_per_unit(FULL_BITS);

/// One word for each row of a panel; aligned so that a load never crosses a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [u32; PANEL]);

impl Block {
    pub(super) const ZERO: Self = Self([0; PANEL]);
}

/// Blocks of one unit of one panel.
pub(super) const fn blocks_per_unit(bits: u8) -> usize {
    bits as usize / 2
}

/// The first floats for a whole panel, with zeros where there are fewer.
#[inline(always)]
pub(super) fn whole(floats: &[f32]) -> [f32; PANEL] {
    if let Some(whole) = floats.first_chunk() {
        return *whole;
    }
    let mut out = [0.0; PANEL];
    out[..floats.len()].copy_from_slice(floats);
    out
}

/// What is added to a `bits`-bit code to make it unsigned.
pub(super) fn offset(bits: u8) -> i32 {
    1 << (bits - 1)
}

/// 8-bit panels of `codes[rows,cols]`. Padding has code 0.
pub(super) fn pack_full(rows: usize, cols: usize, codes: &[i8]) -> Vec<Block> {
    let units = cols.div_ceil(UNIT);
    let zero = Block([0x8080_8080; PANEL]);
    let mut out = vec![zero; rows.div_ceil(PANEL) * units * FULL_BLOCKS];
    if out.is_empty() {
        return out;
    }
    for (row, codes) in codes.chunks_exact(cols).enumerate() {
        let panel = &mut out[row / PANEL * units * FULL_BLOCKS..][..units * FULL_BLOCKS];
        for (block, four) in panel.iter_mut().zip(codes.chunks(4)) {
            let mut bytes = [0i8; 4];
            bytes[..four.len()].copy_from_slice(four);
            block.0[row % PANEL] = u32::from_le_bytes(bytes.map(|c| c as u8 ^ 0x80));
        }
    }
    out
}

/// Each byte rounded half up to its upper `8 - shift` bits; the top stays the top.
#[inline(always)]
fn round_bytes(word: u32, shift: u32) -> u32 {
    let half = (1u8 << shift) >> 1;
    u32::from_le_bytes(word.to_le_bytes().map(|b| b.saturating_add(half) >> shift))
}

#[inline(always)]
fn narrow_unit<const BLOCKS: usize>(full: &[Block; FULL_BLOCKS], shift: u32, out: &mut [Block; BLOCKS]) {
    for lane in 0..PANEL {
        let w = full.map(|b| round_bytes(b.0[lane], shift));
        if BLOCKS == 1 {
            out[0].0[lane] = w[0] | w[1] << 2 | w[2] << 4 | w[3] << 6;
            continue;
        }
        let low = w.map(|w| w & 0x0f0f_0f0f);
        out[0].0[lane] = low[0] | low[1] << 4;
        out[1].0[lane] = low[2] | low[3] << 4;
        if BLOCKS == 3 {
            let up = w.map(|w| (w >> 4) & 0x0303_0303);
            out[2].0[lane] = up[0] | up[1] << 2 | up[2] << 4 | up[3] << 6;
        }
    }
}

#[inline(always)]
fn narrow_units<const BLOCKS: usize>(full: &[Block], out: &mut [Block]) {
    let shift = const { FULL_BITS as u32 - 2 * BLOCKS as u32 };
    for (full, out) in full.as_chunks().0.iter().zip(out.as_chunks_mut::<BLOCKS>().0) {
        narrow_unit(full, shift, out);
    }
}

#[inline(always)]
fn widen_units<D: Dots, const BITS: u8>(d: D, packed: &[Block], out: &mut [Block]) {
    let per_unit = const { blocks_per_unit(BITS) };
    for (packed, out) in packed.chunks_exact(per_unit).zip(out.as_chunks_mut::<FULL_BLOCKS>().0) {
        let mut raw = [d.raw(&Block::ZERO); 4];
        for (raw, block) in raw.iter_mut().zip(packed) {
            *raw = d.raw(block);
        }
        for (g, out) in out.iter_mut().enumerate() {
            *out = d.block(d.bytes::<BITS>(&raw, g));
        }
    }
}

#[inline(always)]
fn narrow_body<S: Simd>(_s: S, full: &[Block], bits: u8, out: &mut [Block]) {
    match blocks_per_unit(bits) {
        1 => narrow_units::<1>(full, out),
        2 => narrow_units::<2>(full, out),
        _ => narrow_units::<3>(full, out),
    }
}

#[inline(always)]
fn widen_body<D: Dots>(d: D, packed: &[Block], bits: u8, out: &mut [Block]) {
    match blocks_per_unit(bits) {
        1 => widen_units::<D, 2>(d, packed, out),
        2 => widen_units::<D, 4>(d, packed, out),
        _ => widen_units::<D, 6>(d, packed, out),
    }
}

dispatch!(
    /// Panels of `bits < 8` bits from 8-bit panels.
    pub(super) fn narrow = narrow_body(full: &[Block], bits: u8, out: &mut [Block])
);
dispatch!(
    /// From panels of `bits < 8` bits to a byte for each code, laid out as 8-bit panels.
    pub(super) fn widen = widen_body(packed: &[Block], bits: u8, out: &mut [Block])
);

/// The whole blocks within a scratch buffer, which is to be longer than they by [`PANEL`] words.
pub(super) fn as_blocks(buffer: &mut [f32]) -> &mut [Block] {
    // SAFETY: any bits are both a float and a word, and the blocks are aligned.
    unsafe { buffer.align_to_mut::<Block>().1 }
}
