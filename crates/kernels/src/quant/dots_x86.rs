//! Integer dot products with AVX2 and AVX-512, without and with the VNNI extensions.
//!
//! The bytewise multiply-and-add of AVX2 saturates at 16 bits, so without VNNI bytes are widened
//! first: even and odd ones of a word apart, by a mask and a shift.

use super::digits::DIGITS;
use super::dots::{Dots, UPPER, byte_mask, place};
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

#[inline(always)]
fn prefetch_line<T>(at: *const T) {
    // SAFETY: a prefetch reads nothing the program can see and never faults, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
}

// Functions and not closures: a closure does not take on the features of the code around it.

/// The bytes of eight rows, the lower or the upper half of a panel.
#[inline(always)]
fn bytes8<const BITS: u8>(_proof: Avx2, w: &[[__m256i; 2]; 4], g: usize, half: usize) -> __m256i {
    let (block, shift) = place::<BITS>(g);
    // SAFETY: the token proves the instructions.
    unsafe {
        let low = _mm256_srl_epi32(w[block][half], _mm_cvtsi32_si128(shift as i32));
        let low = _mm256_and_si256(low, _mm256_set1_epi32(byte_mask::<BITS>() as i32));
        if BITS != 6 {
            return low;
        }
        let high = _mm256_slli_epi32::<4>(_mm256_srl_epi32(w[2][half], _mm_cvtsi32_si128(2 * g as i32)));
        _mm256_or_si256(low, _mm256_and_si256(high, _mm256_set1_epi32(UPPER as i32)))
    }
}

/// The bytes of a panel's rows.
#[inline(always)]
fn bytes16<const BITS: u8>(_proof: Avx512, w: &[__m512i; 4], g: usize) -> __m512i {
    let (block, shift) = place::<BITS>(g);
    // SAFETY: the token proves the instructions.
    unsafe {
        let low = _mm512_srl_epi32(w[block], _mm_cvtsi32_si128(shift as i32));
        let mask = _mm512_set1_epi32(byte_mask::<BITS>() as i32);
        if BITS != 6 {
            return _mm512_and_si512(low, mask);
        }
        let high = match g {
            0..=2 => _mm512_sll_epi32(w[2], _mm_cvtsi32_si128(4 - 2 * g as i32)),
            _ => _mm512_srl_epi32(w[2], _mm_cvtsi32_si128(2 * g as i32 - 4)),
        };
        let high = _mm512_and_si512(high, _mm512_set1_epi32(UPPER as i32));
        // The first and the second, or the third.
        _mm512_ternarylogic_epi32::<0xEA>(low, mask, high)
    }
}

impl Avx2 {
    #[inline(always)]
    fn plain(self) -> Self {
        self
    }
}

impl Avx2Vnni {
    #[inline(always)]
    fn plain(self) -> Avx2 {
        // SAFETY: the processor has AVX2 by this token.
        unsafe { Avx2::new() }
    }
}

impl Avx512 {
    #[inline(always)]
    fn plain(self) -> Self {
        self
    }
}

impl Avx512Vnni {
    #[inline(always)]
    fn plain(self) -> Avx512 {
        // SAFETY: the processor has AVX-512 by this token.
        unsafe { Avx512::new() }
    }
}

/// The members that sums in two AVX2 registers share.
macro_rules! sums_avx2 {
    () => {
        type Raw = [__m256i; 2];
        type Acc = [__m256i; 2];
        type Floats = [__m256; 2];
        const WIDE: bool = false;

        #[inline(always)]
        fn raw(self, block: &Block) -> Self::Raw {
            let p: *const __m256i = block.0.as_ptr().cast();
            // SAFETY: a block is two vectors long and aligned; the token proves the instruction.
            unsafe { [_mm256_load_si256(p), _mm256_load_si256(p.add(1))] }
        }
        #[inline(always)]
        fn bytes<const BITS: u8>(self, w: &[Self::Raw; 4], g: usize) -> Self::Raw {
            [bytes8::<BITS>(self.plain(), w, g, 0), bytes8::<BITS>(self.plain(), w, g, 1)]
        }
        #[inline(always)]
        fn block(self, raw: Self::Raw) -> Block {
            let mut out = Block::ZERO;
            let p: *mut __m256i = out.0.as_mut_ptr().cast();
            // SAFETY: a block is two aligned vectors; the token proves the instruction.
            unsafe {
                _mm256_store_si256(p, raw[0]);
                _mm256_store_si256(p.add(1), raw[1]);
            }
            out
        }
        #[inline(always)]
        fn prefetch<T>(self, at: *const T) {
            prefetch_line(at);
        }
        #[inline(always)]
        fn splat(self, value: i32) -> Self::Acc {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_set1_epi32(value); 2] }
        }
        #[inline(always)]
        fn sum(self, a: Self::Acc, b: Self::Acc) -> Self::Acc {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
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
        fn codes(self, block: &Block, at: usize, offset: i32) -> Self::Acc {
            let mut out = self.raw(block);
            for words in &mut out {
                // SAFETY: the token proves the instructions.
                unsafe {
                    let bytes = _mm256_srl_epi32(*words, _mm_cvtsi32_si128(8 * at as i32));
                    let bytes = _mm256_and_si256(bytes, _mm256_set1_epi32(255));
                    *words = _mm256_sub_epi32(bytes, _mm256_set1_epi32(offset));
                }
            }
            out
        }
        #[inline(always)]
        fn rounded(self, acc: Self::Acc) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_cvtepi32_ps(acc[0]), _mm256_cvtepi32_ps(acc[1])] }
        }
        #[inline(always)]
        fn floats(self, floats: &[f32; PANEL]) -> Self::Floats {
            // SAFETY: the array is two vectors long; the token proves the instruction.
            unsafe { [_mm256_loadu_ps(floats.as_ptr()), _mm256_loadu_ps(floats.as_ptr().add(8))] }
        }
        #[inline(always)]
        fn all(self, value: f32) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_set1_ps(value); 2] }
        }
        #[inline(always)]
        fn plus(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn times(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        }
        #[inline(always)]
        fn joined(
            self,
            mut floats: Self::Floats,
            acc: [Self::Acc; DIGITS],
            scale: &[f32; PANEL],
            step: f32,
        ) -> Self::Floats {
            for half in 0..2 {
                let mut digits = [self.all(0.0)[0]; DIGITS];
                for (digit, acc) in digits.iter_mut().zip(acc) {
                    // SAFETY: the token proves the instruction.
                    *digit = unsafe { _mm256_cvtepi32_ps(acc[half]) };
                }
                // SAFETY: the array is two vectors long; the token proves the instructions.
                unsafe {
                    let low = _mm256_fmadd_ps(digits[1], _mm256_set1_ps(256.0), digits[0]);
                    let sum = _mm256_fmadd_ps(digits[2], _mm256_set1_ps(65536.0), low);
                    let scale = _mm256_mul_ps(_mm256_loadu_ps(scale.as_ptr().add(8 * half)), _mm256_set1_ps(step));
                    floats[half] = _mm256_add_ps(floats[half], _mm256_mul_ps(sum, scale));
                }
            }
            floats
        }
        #[inline(always)]
        fn write(self, floats: Self::Floats, to: &mut [f32]) {
            let mut part = [0.0; PANEL];
            let whole = to.len() == PANEL;
            let at = if whole { to.as_mut_ptr() } else { part.as_mut_ptr() };
            // SAFETY: there are two vectors from there on; the token proves the instruction.
            unsafe {
                _mm256_storeu_ps(at, floats[0]);
                _mm256_storeu_ps(at.add(8), floats[1]);
            }
            if !whole {
                to.copy_from_slice(&part[..to.len()]);
            }
        }
    };
}

/// The members that sums in one AVX-512 register share.
macro_rules! sums_avx512 {
    ($wide:literal) => {
        type Raw = __m512i;
        type Acc = __m512i;
        type Floats = __m512;
        const WIDE: bool = $wide;

        #[inline(always)]
        fn raw(self, block: &Block) -> Self::Raw {
            // SAFETY: a block is one aligned vector; the token proves the instruction.
            unsafe { _mm512_load_si512(block.0.as_ptr().cast()) }
        }
        #[inline(always)]
        fn bytes<const BITS: u8>(self, w: &[Self::Raw; 4], g: usize) -> Self::Raw {
            bytes16::<BITS>(self.plain(), w, g)
        }
        #[inline(always)]
        fn block(self, raw: Self::Raw) -> Block {
            let mut out = Block::ZERO;
            // SAFETY: a block is one aligned vector; the token proves the instruction.
            unsafe { _mm512_store_si512(out.0.as_mut_ptr().cast(), raw) };
            out
        }
        #[inline(always)]
        fn prefetch<T>(self, at: *const T) {
            prefetch_line(at);
        }
        #[inline(always)]
        fn splat(self, value: i32) -> Self::Acc {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_set1_epi32(value) }
        }
        #[inline(always)]
        fn sum(self, a: Self::Acc, b: Self::Acc) -> Self::Acc {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_add_epi32(a, b) }
        }
        #[inline(always)]
        fn store(self, acc: Self::Acc) -> [i32; PANEL] {
            let mut out = [0; PANEL];
            // SAFETY: the array is one vector long; the token proves the instruction.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), acc) };
            out
        }
        #[inline(always)]
        fn codes(self, block: &Block, at: usize, offset: i32) -> Self::Acc {
            // SAFETY: the token proves the instructions.
            unsafe {
                let bytes = _mm512_srl_epi32(self.raw(block), _mm_cvtsi32_si128(8 * at as i32));
                let bytes = _mm512_and_si512(bytes, _mm512_set1_epi32(255));
                _mm512_sub_epi32(bytes, _mm512_set1_epi32(offset))
            }
        }
        #[inline(always)]
        fn rounded(self, acc: Self::Acc) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_cvtepi32_ps(acc) }
        }
        #[inline(always)]
        fn floats(self, floats: &[f32; PANEL]) -> Self::Floats {
            // SAFETY: the array is one vector long; the token proves the instruction.
            unsafe { _mm512_loadu_ps(floats.as_ptr()) }
        }
        #[inline(always)]
        fn all(self, value: f32) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        fn plus(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        fn times(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
            // SAFETY: the token proves the instruction.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        fn joined(
            self,
            floats: Self::Floats,
            acc: [Self::Acc; DIGITS],
            scale: &[f32; PANEL],
            step: f32,
        ) -> Self::Floats {
            // SAFETY: the array is one vector long; the token proves the instructions.
            unsafe {
                let low =
                    _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[1]), _mm512_set1_ps(256.0), _mm512_cvtepi32_ps(acc[0]));
                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[2]), _mm512_set1_ps(65536.0), low);
                let scale = _mm512_mul_ps(_mm512_loadu_ps(scale.as_ptr()), _mm512_set1_ps(step));
                _mm512_add_ps(floats, _mm512_mul_ps(sum, scale))
            }
        }
        #[inline(always)]
        fn write(self, floats: Self::Floats, to: &mut [f32]) {
            match to.first_chunk_mut::<PANEL>() {
                // SAFETY: the array is one vector long; the token proves the instruction.
                Some(to) => unsafe { _mm512_storeu_ps(to.as_mut_ptr(), floats) },
                // SAFETY: the mask has as many lanes as there are floats, fewer than a vector's.
                None => unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), (1 << to.len()) - 1, floats) },
            }
        }
    };
}

impl Dots for Avx2 {
    sums_avx2!();
    /// Even and odd bytes of both halves, as 16-bit integers.
    type W = [[__m256i; 2]; 2];
    type X = [__m256i; 2];

    #[inline(always)]
    fn ready(self, [a, b]: Self::Raw) -> Self::W {
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
    fn ready(self, bytes: Self::Raw) -> Self::W {
        bytes
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
    fn ready(self, w: Self::Raw) -> Self::W {
        // SAFETY: the token proves the instructions.
        unsafe { [_mm512_and_si512(w, _mm512_set1_epi32(EVEN)), _mm512_srli_epi16::<8>(w)] }
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
    fn ready(self, bytes: Self::Raw) -> Self::W {
        bytes
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
