//! Integer dot products with AVX2 and AVX-512, without and with the VNNI extensions.
//!
//! The bytewise multiply-and-add of AVX2 saturates at 16 bits, so without VNNI bytes are widened
//! first: even and odd ones of a word apart, by a mask and a shift.

use super::dots::Dots;
use super::layout::{Block, PANEL};
use crate::simd_x86::{Avx2, Avx512};
use std::arch::x86_64::*;

/// Proof of AVX2 and AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx2Vnni(());

/// Proof of AVX-512 F, VL, BW, DQ and AVX-512-VNNI.
#[derive(Clone, Copy)]
pub(super) struct Avx512Vnni(());

impl Avx2Vnni {
    /// # Safety
    /// The processor must have AVX2 and AVX-VNNI.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

impl Avx512Vnni {
    /// # Safety
    /// The processor must have AVX-512 F, VL, BW, DQ and AVX-512-VNNI.
    #[inline(always)]
    pub(super) unsafe fn new() -> Self {
        Self(())
    }

    /// `sums` less one number. It wraps round.
    #[inline(always)]
    pub(super) fn less(self, sums: &[i32; PANEL], number: i32) -> __m512i {
        // SAFETY: the array is one vector long; the token proves the instructions.
        unsafe { _mm512_sub_epi32(_mm512_loadu_si512(sums.as_ptr().cast()), _mm512_set1_epi32(number)) }
    }
}

/// Bytes 0 and 2 of a word, and bytes 1 and 3, each sign-extended to 16 bits.
#[inline(always)]
fn even_odd(word: u32) -> [i32; 2] {
    let b = word.to_le_bytes().map(|b| u32::from(b as i8 as i16 as u16));
    [(b[0] | b[2] << 16) as i32, (b[1] | b[3] << 16) as i32]
}

const EVEN: i32 = 0x00ff_00ff;

/// The members that sums in two AVX2 registers share.
macro_rules! sums_avx2 {
    () => {
        type Acc = [__m256i; 2];
        type Floats = [__m256; 2];
        const WIDE: bool = false;

        #[inline(always)]
        fn splat(self, value: i32) -> Self::Acc {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_set1_epi32(value); 2] }
        }
        #[inline(always)]
        fn store(self, acc: Self::Acc) -> [i32; PANEL] {
            let mut out = [0; PANEL];
            // SAFETY: the array is two vectors long; the token proves the instruction.
            unsafe {
                _mm256_storeu_si256(out.as_mut_ptr().cast(), acc[0]);
                _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), acc[1]);
            }
            out
        }
        #[inline(always)]
        fn no_floats(self) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_setzero_ps(); 2] }
        }
        #[inline(always)]
        fn scaled(self, mut floats: Self::Floats, acc: Self::Acc, scale: &[f32; PANEL]) -> Self::Floats {
            for half in 0..2 {
                // SAFETY: the array is two vectors long; the token proves the instructions.
                unsafe {
                    let scale = _mm256_loadu_ps(scale.as_ptr().add(8 * half));
                    let value = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[half]), scale);
                    floats[half] = _mm256_add_ps(floats[half], value);
                }
            }
            floats
        }
        #[inline(always)]
        fn store_floats(self, floats: Self::Floats) -> [f32; PANEL] {
            let mut out = [0.0; PANEL];
            // SAFETY: the array is two vectors long; the token proves the instruction.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), floats[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), floats[1]);
            }
            out
        }
    };
}

/// The members that sums in one AVX-512 register share.
macro_rules! sums_avx512 {
    ($wide:literal) => {
        type Acc = __m512i;
        type Floats = __m512;
        const WIDE: bool = $wide;

        #[inline(always)]
        fn splat(self, value: i32) -> Self::Acc {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_set1_epi32(value) }
        }
        #[inline(always)]
        fn store(self, acc: Self::Acc) -> [i32; PANEL] {
            let mut out = [0; PANEL];
            // SAFETY: the array is one vector long; the token proves the instruction.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), acc) };
            out
        }
        #[inline(always)]
        fn no_floats(self) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_setzero_ps() }
        }
        #[inline(always)]
        fn scaled(self, floats: Self::Floats, acc: Self::Acc, scale: &[f32; PANEL]) -> Self::Floats {
            // SAFETY: the array is one vector long; the token proves the instructions.
            unsafe {
                let value = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), _mm512_loadu_ps(scale.as_ptr()));
                _mm512_add_ps(floats, value)
            }
        }
        #[inline(always)]
        fn store_floats(self, floats: Self::Floats) -> [f32; PANEL] {
            let mut out = [0.0; PANEL];
            // SAFETY: the array is one vector long; the token proves the instruction.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), floats) };
            out
        }
    };
}

#[inline(always)]
fn halves(_proof: Avx2, block: &Block) -> [__m256i; 2] {
    let p: *const __m256i = block.0.as_ptr().cast();
    // SAFETY: a block is two vectors long and aligned; the token proves the instruction.
    unsafe { [_mm256_load_si256(p), _mm256_load_si256(p.add(1))] }
}

impl Dots for Avx2 {
    sums_avx2!();
    /// Even and odd bytes of both halves, as 16-bit integers.
    type W = [[__m256i; 2]; 2];
    type X = [__m256i; 2];

    #[inline(always)]
    fn weights(self, block: &Block) -> Self::W {
        let [a, b] = halves(self, block);
        // SAFETY: the token proves the instructions.
        unsafe {
            let even = _mm256_set1_epi32(EVEN);
            [
                [_mm256_and_si256(a, even), _mm256_srli_epi16::<8>(a)],
                [_mm256_and_si256(b, even), _mm256_srli_epi16::<8>(b)],
            ]
        }
    }
    #[inline(always)]
    fn inputs(self, word: u32) -> Self::X {
        let [even, odd] = even_odd(word);
        // SAFETY: the token proves the instruction.
        unsafe { [_mm256_set1_epi32(even), _mm256_set1_epi32(odd)] }
    }
    #[inline(always)]
    fn dot(self, acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc {
        let mut out = acc;
        for (acc, w) in out.iter_mut().zip(w) {
            // SAFETY: the token proves the instructions.
            unsafe {
                let (even, odd) = (_mm256_madd_epi16(w[0], x[0]), _mm256_madd_epi16(w[1], x[1]));
                *acc = _mm256_add_epi32(*acc, _mm256_add_epi32(even, odd));
            }
        }
        out
    }
}

impl Dots for Avx2Vnni {
    sums_avx2!();
    type W = [__m256i; 2];
    type X = __m256i;

    #[inline(always)]
    fn weights(self, block: &Block) -> Self::W {
        // SAFETY: the processor has AVX2 by this token.
        halves(unsafe { Avx2::new() }, block)
    }
    #[inline(always)]
    fn inputs(self, word: u32) -> Self::X {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_set1_epi32(word as i32) }
    }
    #[inline(always)]
    fn dot(self, acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc {
        // SAFETY: the token proves the instruction.
        unsafe { [_mm256_dpbusd_avx_epi32(acc[0], w[0], x), _mm256_dpbusd_avx_epi32(acc[1], w[1], x)] }
    }
}

impl Dots for Avx512 {
    sums_avx512!(false);
    type W = [__m512i; 2];
    type X = [__m512i; 2];

    #[inline(always)]
    fn weights(self, block: &Block) -> Self::W {
        // SAFETY: a block is one aligned vector; the token proves the instructions.
        unsafe {
            let w = _mm512_load_si512(block.0.as_ptr().cast());
            [_mm512_and_si512(w, _mm512_set1_epi32(EVEN)), _mm512_srli_epi16::<8>(w)]
        }
    }
    #[inline(always)]
    fn inputs(self, word: u32) -> Self::X {
        let [even, odd] = even_odd(word);
        // SAFETY: the token proves the instruction.
        unsafe { [_mm512_set1_epi32(even), _mm512_set1_epi32(odd)] }
    }
    #[inline(always)]
    fn dot(self, acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc {
        // SAFETY: the token proves the instructions.
        unsafe {
            let (even, odd) = (_mm512_madd_epi16(w[0], x[0]), _mm512_madd_epi16(w[1], x[1]));
            _mm512_add_epi32(acc, _mm512_add_epi32(even, odd))
        }
    }
}

impl Dots for Avx512Vnni {
    sums_avx512!(true);
    type W = __m512i;
    type X = __m512i;

    #[inline(always)]
    fn weights(self, block: &Block) -> Self::W {
        // SAFETY: a block is one aligned vector; the token proves the instruction.
        unsafe { _mm512_load_si512(block.0.as_ptr().cast()) }
    }
    #[inline(always)]
    fn inputs(self, word: u32) -> Self::X {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_set1_epi32(word as i32) }
    }
    #[inline(always)]
    fn dot(self, acc: Self::Acc, w: Self::W, x: Self::X) -> Self::Acc {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
}
