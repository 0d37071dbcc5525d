//! The panel operations with AVX2 + FMA, and with AVX-512.

use super::lanes::{Lanes, byte_mask, place, place_upper};
use super::layout::{Block, PANEL};
use crate::simd_x86::{Avx2, Avx512};
use std::arch::x86_64::*;

/// The bits of the float 2^23: with a small integer in its lower bits it is 2^23 plus that.
const BIG: i32 = 0x4B00_0000;

#[inline(always)]
fn big_offset(bits: u8) -> f32 {
    8_388_608.0 + f32::from(1u8 << (bits - 1))
}

#[inline(always)]
fn prefetch_line(block: &Block, ahead: usize) {
    let line = std::ptr::from_ref(block).wrapping_add(ahead);
    // SAFETY: a prefetch reads nothing the program can see and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) }
}

// Functions and not closures: a closure does not take on the features of the code around it.

#[inline(always)]
fn shift8(_proof: Avx2, w: __m256i, n: u32) -> __m256i {
    // SAFETY: the token proves the instructions.
    unsafe { _mm256_srl_epi32(w, _mm_cvtsi32_si128(n as i32)) }
}

#[inline(always)]
fn shift16(_proof: Avx512, w: __m512i, n: u32) -> __m512i {
    // SAFETY: the token proves the instructions.
    unsafe { _mm512_srl_epi32(w, _mm_cvtsi32_si128(n as i32)) }
}

/// The codes of eight rows, the lower or the upper half of a panel.
#[inline(always)]
fn codes8<const BITS: u8>(s: Avx2, w: &[[__m256i; 2]; 4], k: usize, half: usize) -> __m256 {
    let (block, shift) = place::<BITS>(k);
    let low = if BITS == 6 { 15 } else { (1 << BITS) - 1 };
    let word = shift8(s, w[block][half], shift);
    // SAFETY: the token proves the instructions.
    unsafe {
        let mut code = _mm256_and_si256(word, _mm256_set1_epi32(low));
        if BITS == 6 {
            let high = _mm256_and_si256(shift8(s, w[2][half], place_upper(k)), _mm256_set1_epi32(3));
            code = _mm256_or_si256(code, _mm256_slli_epi32::<4>(high));
        }
        let float = _mm256_castsi256_ps(_mm256_or_si256(code, _mm256_set1_epi32(BIG)));
        _mm256_sub_ps(float, _mm256_set1_ps(big_offset(BITS)))
    }
}

/// The bytes of eight rows, the lower or the upper half of a panel.
#[inline(always)]
fn bytes8<const BITS: u8>(s: Avx2, w: &[[__m256i; 2]; 4], g: usize, half: usize) -> __m256i {
    let (block, shift) = place::<BITS>(4 * g);
    let (low, high) = (shift8(s, w[block][half], shift), shift8(s, w[2][half], 2 * g as u32));
    // SAFETY: the token proves the instructions.
    unsafe {
        let low = _mm256_and_si256(low, _mm256_set1_epi32(byte_mask::<BITS>() as i32));
        let high = _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(0x0303_0303)));
        if BITS == 6 { _mm256_or_si256(low, high) } else { low }
    }
}

/// A lookup in each half of the table and a choice by the fourth bit.
#[inline(always)]
fn pairs8(s: Avx2, w: __m256i, shift: u32, table: &Block, acc: __m256) -> __m256 {
    let at = shift8(s, w, shift);
    // SAFETY: the table has sixteen floats; the token proves the instructions.
    unsafe {
        let (a, b) =
            (_mm256_loadu_ps(table.0.as_ptr().cast::<f32>()), _mm256_loadu_ps(table.0.as_ptr().cast::<f32>().add(8)));
        let (a, b) = (_mm256_permutevar8x32_ps(a, at), _mm256_permutevar8x32_ps(b, at));
        _mm256_add_ps(acc, _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(at))))
    }
}

impl Lanes for Avx2 {
    type W = [__m256i; 2];
    type F = [__m256; 2];
    const WIDE: bool = false;

    #[inline(always)]
    fn words(self, block: &Block) -> Self::W {
        let p: *const __m256i = block.0.as_ptr().cast();
        // SAFETY: a block is two vectors long and aligned; the token proves the instruction.
        unsafe { [_mm256_load_si256(p), _mm256_load_si256(p.add(1))] }
    }
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the instruction.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the token proves the instruction.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn store(self, v: Self::F) -> [f32; PANEL] {
        let mut out = [0.0; PANEL];
        // SAFETY: the array is two vectors long; the token proves the instruction.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v[1]);
        }
        out
    }
    #[inline(always)]
    fn codes<const BITS: u8>(self, w: &[Self::W; 4], k: usize) -> Self::F {
        [codes8::<BITS>(self, w, k, 0), codes8::<BITS>(self, w, k, 1)]
    }
    #[inline(always)]
    fn bytes<const BITS: u8>(self, w: &[Self::W; 4], g: usize) -> Block {
        let mut out = Block::ZERO;
        let p: *mut __m256i = out.0.as_mut_ptr().cast();
        let halves = [bytes8::<BITS>(self, w, g, 0), bytes8::<BITS>(self, w, g, 1)];
        // SAFETY: a block is two aligned vectors; the token proves the instruction.
        unsafe {
            _mm256_store_si256(p, halves[0]);
            _mm256_store_si256(p.add(1), halves[1]);
        }
        out
    }
    #[inline(always)]
    fn pairs(self, w: Self::W, shift: u32, table: &Block, acc: Self::F) -> Self::F {
        [pairs8(self, w[0], shift, table, acc[0]), pairs8(self, w[1], shift, table, acc[1])]
    }
    #[inline(always)]
    fn prefetch(self, block: &Block, ahead: usize) {
        prefetch_line(block, ahead);
    }
}

/// Values of 4-bit codes, and of 2-bit codes whatever the two bits above them.
static VALUES_4: [f32; 16] = [-8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.];
static VALUES_2: [f32; 16] = [-2., -1., 0., 1., -2., -1., 0., 1., -2., -1., 0., 1., -2., -1., 0., 1.];

impl Lanes for Avx512 {
    type W = __m512i;
    type F = __m512;
    const WIDE: bool = true;

    #[inline(always)]
    fn words(self, block: &Block) -> Self::W {
        // SAFETY: a block is one vector long and aligned; the token proves the instruction.
        unsafe { _mm512_load_si512(block.0.as_ptr().cast()) }
    }
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn store(self, v: Self::F) -> [f32; PANEL] {
        let mut out = [0.0; PANEL];
        // SAFETY: the array is one vector long; the token proves the instruction.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) };
        out
    }
    #[inline(always)]
    fn codes<const BITS: u8>(self, w: &[Self::W; 4], k: usize) -> Self::F {
        let (block, shift) = place::<BITS>(k);
        let low = shift16(self, w[block], shift);
        // SAFETY: the tables have sixteen floats; the token proves the instructions.
        unsafe {
            let code = match BITS {
                // A lookup takes the lower four bits of an index and ignores the rest.
                4 => return _mm512_permutexvar_ps(low, _mm512_loadu_ps(VALUES_4.as_ptr())),
                2 => return _mm512_permutexvar_ps(low, _mm512_loadu_ps(VALUES_2.as_ptr())),
                6 => {
                    let n = place_upper(k);
                    let high = match n.checked_sub(4) {
                        Some(n) => shift16(self, w[2], n),
                        None => _mm512_sllv_epi32(w[2], _mm512_set1_epi32(4 - n as i32)),
                    };
                    // Bit by bit: where the third is set the first, else the second.
                    _mm512_ternarylogic_epi32::<0xE4>(low, high, _mm512_set1_epi32(15))
                }
                _ => low,
            };
            let mask = (1 << BITS) - 1;
            // The first and the second, or the third.
            let float = _mm512_ternarylogic_epi32::<0xEA>(code, _mm512_set1_epi32(mask), _mm512_set1_epi32(BIG));
            _mm512_sub_ps(_mm512_castsi512_ps(float), _mm512_set1_ps(big_offset(BITS)))
        }
    }
    #[inline(always)]
    fn bytes<const BITS: u8>(self, w: &[Self::W; 4], g: usize) -> Block {
        let (block, shift) = place::<BITS>(4 * g);
        let (low, high) = (shift16(self, w[block], shift), shift16(self, w[2], 2 * g as u32));
        let mut out = Block::ZERO;
        // SAFETY: a block is one aligned vector; the token proves the instructions.
        unsafe {
            let low = _mm512_and_si512(low, _mm512_set1_epi32(byte_mask::<BITS>() as i32));
            let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, _mm512_set1_epi32(0x0303_0303)));
            let all = if BITS == 6 { _mm512_or_si512(low, high) } else { low };
            _mm512_store_si512(out.0.as_mut_ptr().cast(), all);
        }
        out
    }
    #[inline(always)]
    fn pairs(self, w: Self::W, shift: u32, table: &Block, acc: Self::F) -> Self::F {
        let at = shift16(self, w, shift);
        // SAFETY: the table has sixteen floats; the token proves the instructions.
        unsafe { _mm512_add_ps(acc, _mm512_permutexvar_ps(at, _mm512_loadu_ps(table.0.as_ptr().cast::<f32>()))) }
    }
    #[inline(always)]
    fn prefetch(self, block: &Block, ahead: usize) {
        prefetch_line(block, ahead);
    }
}
