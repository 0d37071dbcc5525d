//! The vector operations with AVX2 + FMA, and with AVX-512.

use crate::simd::Simd;
use std::arch::x86_64::*;

/// Proof of AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

/// Proof of AVX-512 F, VL, BW and DQ.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx2 {
    /// # Safety
    /// The processor must have AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

impl Avx512 {
    /// # Safety
    /// The processor must have AVX-512 F, VL, BW and DQ, and AVX2 and FMA.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }
}

/// Eight set lanes, then eight clear ones: a window into it is a mask.
static MASKS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

#[inline(always)]
fn mask8(_proof: Avx2, n: usize) -> __m256i {
    // SAFETY: the window starts at 0..=8 of 16 words; the token proves the instruction.
    unsafe { _mm256_loadu_si256(MASKS.as_ptr().add(8 - n.min(8)).cast()) }
}

#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    ((1u32 << n.min(16)) - 1) as __mmask16
}

/// Methods that are one intrinsic each.
macro_rules! direct {
    ($v:ty; $($name:ident($($arg:ident),*) = $f:ident;)*) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $v),*) -> $v {
            // SAFETY: the token proves the instruction.
            unsafe { $f($($arg),*) }
        })*
    };
}

/// [`Simd::transpose`]: within quarters by unpacking, then `$last` moves whole quarters of 128 bits.
macro_rules! transpose {
    ($v:ty, $lanes:literal, |$t:ident, $out:ident| $last:block, $lo:ident, $hi:ident, $pd:ident, $ps:ident, $lo2:ident,
     $hi2:ident) => {
        #[inline(always)]
        unsafe fn transpose(
            self,
            from: *const f32,
            from_rs: usize,
            rows: usize,
            cols: usize,
            to: *mut f32,
            to_rs: usize,
            width: usize,
        ) {
            // SAFETY: the caller promises the rows and lines; the token proves the instructions.
            unsafe {
                let mut $t = [self.splat(0.0); $lanes];
                for (r, row) in $t.iter_mut().enumerate() {
                    if r < rows {
                        let from = from.add(r * from_rs);
                        *row = if cols == $lanes {
                            self.load_ptr(from)
                        } else {
                            self.load_part(std::slice::from_raw_parts(from, cols))
                        };
                    }
                }
                for g in (0..$lanes).step_by(4) {
                    let (a, b, c, d) = ($t[g], $t[g + 1], $t[g + 2], $t[g + 3]);
                    let (ab, ab2, cd, cd2) = ($pd($lo(a, b)), $pd($hi(a, b)), $pd($lo(c, d)), $pd($hi(c, d)));
                    $t[g] = $ps($lo2(ab, cd));
                    $t[g + 1] = $ps($hi2(ab, cd));
                    $t[g + 2] = $ps($lo2(ab2, cd2));
                    $t[g + 3] = $ps($hi2(ab2, cd2));
                }
                let mut $out = [self.splat(0.0); $lanes];
                $last
                for (c, &line) in $out.iter().enumerate() {
                    if c < cols {
                        let to = to.add(c * to_rs);
                        if width == $lanes {
                            self.store_ptr(to, line);
                        } else {
                            self.store_part(std::slice::from_raw_parts_mut(to, width), line);
                        }
                    }
                }
            }
        }
    };
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const WIDE: bool = false;

    direct! { __m256;
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        fma(a, b, c) = _mm256_fmadd_ps;
        fnma(a, b, c) = _mm256_fnmadd_ps;
        max(a, b) = _mm256_max_ps;
        min(a, b) = _mm256_min_ps;
        sqrt(a) = _mm256_sqrt_ps;
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn prefetch_ptr(self, p: *const f32) {
        // SAFETY: a prefetch reads nothing the program can see and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m256 {
        // SAFETY: the caller promises eight readable floats; the token proves the instruction.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller promises eight writable floats; the token proves the instruction.
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m256 {
        // SAFETY: masked lanes are not touched, and the mask covers no more than the slice.
        unsafe { _mm256_maskload_ps(x.as_ptr(), mask8(self, x.len())) }
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: __m256) {
        // SAFETY: masked lanes are not touched, and the mask covers no more than the slice.
        unsafe { _mm256_maskstore_ps(x.as_mut_ptr(), mask8(self, x.len()), v) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn copysign(self, mag: __m256, sign: __m256) -> __m256 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let bit = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(bit, mag), _mm256_and_ps(bit, sign))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, t: __m256, f: __m256) -> __m256 {
        // SAFETY: the token proves the instructions.
        unsafe { _mm256_blendv_ps(f, t, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale2(self, a: __m256, n: __m256) -> __m256 {
        // Two factors, as 2^n itself may be out of range.
        // SAFETY: the token proves the instructions.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let bias = _mm256_set1_epi32(127);
            let p = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
            let q = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias)));
            _mm256_mul_ps(_mm256_mul_ps(a, p), q)
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn hmax(self, a: __m256) -> f32 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
            _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps::<1>(x, x)))
        }
    }
    #[inline(always)]
    fn exponent(self, a: __m256) -> __m256 {
        // SAFETY: the token proves the instructions.
        unsafe {
            let biased = _mm256_srli_epi32::<23>(_mm256_castps_si256(a));
            _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(127)))
        }
    }
    transpose!(
        __m256,
        8,
        |t, out| {
            for c in 0..4 {
                out[c] = _mm256_permute2f128_ps::<0x20>(t[c], t[4 + c]);
                out[4 + c] = _mm256_permute2f128_ps::<0x31>(t[c], t[4 + c]);
            }
        },
        _mm256_unpacklo_ps,
        _mm256_unpackhi_ps,
        _mm256_castps_pd,
        _mm256_castpd_ps,
        _mm256_unpacklo_pd,
        _mm256_unpackhi_pd
    );
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const WIDE: bool = true;

    direct! { __m512;
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        fma(a, b, c) = _mm512_fmadd_ps;
        fnma(a, b, c) = _mm512_fnmadd_ps;
        max(a, b) = _mm512_max_ps;
        min(a, b) = _mm512_min_ps;
        sqrt(a) = _mm512_sqrt_ps;
        abs(a) = _mm512_abs_ps;
        scale2(a, n) = _mm512_scalef_ps;
        exponent(a) = _mm512_getexp_ps;
    }
    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    fn prefetch_ptr(self, p: *const f32) {
        // SAFETY: a prefetch reads nothing the program can see and never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m512 {
        // SAFETY: the caller promises sixteen readable floats; the token proves the instruction.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller promises sixteen writable floats; the token proves the instruction.
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> __m512 {
        // SAFETY: masked lanes are not touched, and the mask covers no more than the slice.
        unsafe { _mm512_maskz_loadu_ps(mask16(x.len()), x.as_ptr()) }
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: __m512) {
        // SAFETY: masked lanes are not touched, and the mask covers no more than the slice.
        unsafe { _mm512_mask_storeu_ps(x.as_mut_ptr(), mask16(x.len()), v) }
    }
    #[inline(always)]
    fn copysign(self, mag: __m512, sign: __m512) -> __m512 {
        // SAFETY: the token proves the instructions (DQ has the float logic).
        unsafe {
            let bit = _mm512_set1_ps(-0.0);
            _mm512_or_ps(_mm512_andnot_ps(bit, mag), _mm512_and_ps(bit, sign))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m512, b: __m512, t: __m512, f: __m512) -> __m512 {
        // SAFETY: the token proves the instructions.
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), f, t) }
    }
    #[inline(always)]
    fn round(self, a: __m512) -> __m512 {
        // SAFETY: the token proves the instruction.
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: the token proves the instructions, and AVX-512 implies AVX2 and FMA.
        unsafe {
            let halves = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            Avx2::new().sum(halves)
        }
    }
    #[inline(always)]
    fn hmax(self, a: __m512) -> f32 {
        // SAFETY: the token proves the instructions, and AVX-512 implies AVX2 and FMA.
        unsafe {
            let halves = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            Avx2::new().hmax(halves)
        }
    }
    transpose!(
        __m512,
        16,
        |t, out| {
            for c in 0..4 {
                let (low, high) =
                    (_mm512_shuffle_f32x4::<0x88>(t[c], t[4 + c]), _mm512_shuffle_f32x4::<0x88>(t[8 + c], t[12 + c]));
                out[c] = _mm512_shuffle_f32x4::<0x88>(low, high);
                out[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low, high);
                let (low, high) =
                    (_mm512_shuffle_f32x4::<0xdd>(t[c], t[4 + c]), _mm512_shuffle_f32x4::<0xdd>(t[8 + c], t[12 + c]));
                out[4 + c] = _mm512_shuffle_f32x4::<0x88>(low, high);
                out[12 + c] = _mm512_shuffle_f32x4::<0xdd>(low, high);
            }
        },
        _mm512_unpacklo_ps,
        _mm512_unpackhi_ps,
        _mm512_castps_pd,
        _mm512_castpd_ps,
        _mm512_unpacklo_pd,
        _mm512_unpackhi_pd
    );
}
