//! Activations in 8 bits.

use super::MAX_INT_ROW;
use super::layout::UNIT;
use crate::dispatch::dispatch;
use crate::simd::Simd;
use crate::threads::{self, PARALLEL_FLOATS, Shared};

/// Words of four codes in a unit.
const WORDS: usize = UNIT / 4;

/// Rows of 8-bit codes with a scale each, as integer products take them.
#[derive(Debug)]
pub struct Int8Rows {
    pub(super) m: usize,
    pub(super) d_in: usize,
    /// `[m, units * 4]`: four codes to a word, the first lowest; padded with zeros.
    pub(super) words: Vec<u32>,
    /// The sum of each row's codes.
    pub(super) sums: Vec<i32>,
    /// What each row's codes are to be multiplied by.
    pub(super) scale: Vec<f32>,
}

impl Int8Rows {
    /// Rounds each row of `x[m,in]` to codes in -127..=127, half to even, with the scale
    /// `greatest magnitude / 127`.
    ///
    /// A row of zeros, or of nothing above 10^-36, gets scale 0; a row with an infinity or a NaN
    /// gets a NaN, and so do all its results.
    ///
    /// # Panics
    /// If a length does not match or `d_in` is above [`MAX_INT_ROW`].
    pub fn quantize(m: usize, d_in: usize, x: &[f32]) -> Self {
        assert_eq!(x.len(), m * d_in, "length of x");
        let mut rows = Self::empty(m, d_in);
        let width = rows.width();
        let words = Shared::new(&mut rows.words);
        let (sums, scale) = (Shared::new(&mut rows.sums), Shared::new(&mut rows.scale));
        let chunk = (8192 / d_in.max(1)).max(1);
        threads::run(m.div_ceil(chunk), x.len() >= PARALLEL_FLOATS, |i| {
            for row in i * chunk..m.min((i + 1) * chunk) {
                // SAFETY: each row belongs to one task.
                let (words, sum, scale) =
                    unsafe { (words.slice(row * width, width), sums.slice(row, 1), scale.slice(row, 1)) };
                quantize_row(&x[row * d_in..][..d_in], words, &mut sum[0], &mut scale[0]);
            }
        });
        rows
    }

    /// Rows of given codes `[m,in]`, -128 among them, and scales `[m]`.
    ///
    /// # Panics
    /// If a length does not match or `d_in` is above [`MAX_INT_ROW`].
    pub fn from_codes(m: usize, d_in: usize, codes: &[i8], scale: &[f32]) -> Self {
        assert_eq!(codes.len(), m * d_in, "length of codes");
        assert_eq!(scale.len(), m, "length of scale");
        let mut rows = Self::empty(m, d_in);
        rows.scale.copy_from_slice(scale);
        let width = rows.width();
        for row in 0..m {
            let codes = &codes[row * d_in..][..d_in];
            for (word, four) in rows.words[row * width..][..width].iter_mut().zip(codes.chunks(4)) {
                let mut bytes = [0; 4];
                for (byte, &code) in bytes.iter_mut().zip(four) {
                    *byte = code as u8;
                }
                *word = u32::from_le_bytes(bytes);
            }
            rows.sums[row] = codes.iter().map(|&c| i32::from(c)).sum();
        }
        rows
    }

    fn empty(m: usize, d_in: usize) -> Self {
        assert!(d_in <= MAX_INT_ROW, "rows of {d_in} are too long for 32-bit sums");
        let words = vec![0; m * d_in.div_ceil(UNIT) * WORDS];
        Self { m, d_in, words, sums: vec![0; m], scale: vec![0.0; m] }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.m
    }

    /// The scale `[m]` of each row.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// The codes `[m,in]`.
    pub fn codes(&self) -> Vec<i8> {
        let width = self.width();
        let row = |i: usize| self.words[i * width..][..width].iter().flat_map(|w| w.to_le_bytes()).take(self.d_in);
        (0..self.m).flat_map(row).map(|c| c as i8).collect()
    }

    /// Words of a row.
    pub(super) fn width(&self) -> usize {
        self.d_in.div_ceil(UNIT) * WORDS
    }
}

#[inline(always)]
fn quantize_body<S: Simd>(_s: S, x: &[f32], words: &mut [u32], sum: &mut i32, scale: &mut f32) {
    // As integers magnitudes keep their order, with infinity and then the NaNs at the top.
    let mut top = 0u32;
    for v in x {
        top = top.max(v.to_bits() & 0x7fff_ffff);
    }
    let top = f32::from_bits(top);
    let inverse = 127.0 / top;
    *scale = if !top.is_finite() {
        f32::NAN
    } else if inverse.is_finite() {
        top / 127.0
    } else {
        0.0
    };
    if *scale > 0.0 {
        // Adding 1.5 * 2^23 leaves the rounded integer in the lower bits.
        const BIG: f32 = 12_582_912.0;
        let mut total = 0;
        let (fours, rest) = x.as_chunks::<4>();
        for (word, four) in words.iter_mut().zip(fours) {
            let codes = four.map(|v| (v * inverse + BIG).to_bits() as u8);
            *word = u32::from_le_bytes(codes);
            total += codes.iter().map(|&c| i32::from(c as i8)).sum::<i32>();
        }
        for (i, v) in rest.iter().enumerate() {
            let code = (v * inverse + BIG).to_bits() as u8;
            words[fours.len()] |= u32::from(code) << (8 * i);
            total += i32::from(code as i8);
        }
        *sum = total;
    }
}

dispatch!(fn quantize_row = quantize_body(x: &[f32], words: &mut [u32], sum: &mut i32, scale: &mut f32));
