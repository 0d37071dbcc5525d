//! Activations in 8 bits.

use super::MAX_INT_ROW;
use super::layout::UNIT;
use crate::buffer::unfilled_words;
use crate::dispatch::dispatch;
use crate::simd::Simd;
use crate::threads::{self, PARALLEL_FLOATS, Shared};

/// Words of four codes in a unit.
const WORDS: usize = UNIT / 4;

/// Inputs for each of which a row may have one value out of the range of its codes.
const INPUTS_PER_WIDE: usize = 64;

/// Most values out of range that the range is chosen for.
const WIDE_GOAL: usize = 4;

/// A range without them is worth its cost where it is at most this share of the whole one.
const WORTH: f32 = 0.75;

/// Places for such values: equal ones may be more than the goal. Past this the range is the whole one.
const WIDE_PLACES: usize = 8;

/// Lanes in which extremes are looked for: two values in one lane count as one.
const LANES: usize = 32;

/// A value out of the range of its row's codes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wide {
    /// Which input.
    pub(super) at: u32,
    /// What its code leaves of it.
    pub(super) rest: f32,
}

/// Rows of 8-bit codes as integer products take them. A value is `code * scale + middle`, and for the
/// few greatest of a row a float rest more: a trained network has single inputs ten times beyond all
/// others, and a range that reached to them would leave the others a few codes.
#[derive(Debug)]
pub struct Int8Rows {
    pub(super) m: usize,
    pub(super) d_in: usize,
    pub(super) group: usize,
    /// `[m, units * 4]`: four codes to a word, the first lowest; padded with zeros.
    pub(super) words: Vec<u32>,
    /// `[groups, m]`: the sum of each group's codes.
    pub(super) sums: Vec<i32>,
    /// What each row's codes are to be multiplied by.
    pub(super) scale: Vec<f32>,
    /// What is to be added to each of a row's values.
    pub(super) middle: Vec<f32>,
    wide: Vec<[Wide; WIDE_PLACES]>,
    wide_count: Vec<u32>,
}

/// One row's places.
struct Row<'a> {
    words: &'a mut [u32],
    sums: &'a mut [i32],
    scale: &'a mut f32,
    middle: &'a mut f32,
    wide: &'a mut [Wide; WIDE_PLACES],
    wide_count: &'a mut u32,
}

impl Int8Rows {
    /// Rounds each row of `x[m,in]` to codes in -127..=127, half to even, for products with weights of
    /// one scale for each `group` inputs (`in` for one scale a row).
    ///
    /// The range runs from the least to the greatest value of the row, but that it leaves out up to one
    /// value in 64, four at most, on the sides where that makes it smallest, if that takes a quarter off; those keep all
    /// their bits.
    ///
    /// A row of equal values, or within 10^-36, gets scale 0; a row with an infinity or a NaN gets a
    /// NaN, and so do all its results.
    ///
    /// # Panics
    /// If a length does not match, `group` does not divide `in`, or `d_in` is above [`MAX_INT_ROW`].
    pub fn quantize(m: usize, d_in: usize, group: usize, x: &[f32]) -> Self {
        assert_eq!(x.len(), m * d_in, "length of x");
        let mut rows = Self::empty(m, d_in, group);
        let (width, groups) = (rows.width(), rows.groups());
        let (words, sums) = (Shared::new(&mut rows.words), Shared::new(&mut rows.sums));
        let (scale, middle) = (Shared::new(&mut rows.scale), Shared::new(&mut rows.middle));
        let (wide, wide_count) = (Shared::new(&mut rows.wide), Shared::new(&mut rows.wide_count));
        let chunk = (8192 / d_in.max(1)).max(1);
        threads::run(m.div_ceil(chunk), x.len() >= PARALLEL_FLOATS, |i| {
            let mut own = vec![0; groups];
            for row in i * chunk..m.min((i + 1) * chunk) {
                // SAFETY: each row belongs to one task.
                let mut at = unsafe {
                    Row {
                        words: words.slice(row * width, width),
                        sums: &mut own,
                        scale: &mut scale.slice(row, 1)[0],
                        middle: &mut middle.slice(row, 1)[0],
                        wide: &mut wide.slice(row, 1)[0],
                        wide_count: &mut wide_count.slice(row, 1)[0],
                    }
                };
                quantize_row(&x[row * d_in..][..d_in], group, &mut at);
                for (g, sum) in own.iter_mut().enumerate() {
                    // SAFETY: as above.
                    unsafe { sums.slice(g * m + row, 1)[0] = std::mem::take(sum) };
                }
            }
        });
        rows
    }

    /// Rows of given codes `[m,in]`, -128 among them, and scales `[m]`, for weights of one scale a row.
    ///
    /// # Panics
    /// If a length does not match or `d_in` is above [`MAX_INT_ROW`].
    pub fn from_codes(m: usize, d_in: usize, codes: &[i8], scale: &[f32]) -> Self {
        Self::from_grouped(m, d_in, d_in, codes, scale)
    }

    /// [`from_codes`](Self::from_codes) for weights of one scale for each `group` inputs.
    ///
    /// # Panics
    /// If a length does not match, `group` does not divide `in`, or `d_in` is above [`MAX_INT_ROW`].
    pub fn from_grouped(m: usize, d_in: usize, group: usize, codes: &[i8], scale: &[f32]) -> Self {
        assert_eq!(codes.len(), m * d_in, "length of codes");
        assert_eq!(scale.len(), m, "length of scale");
        let mut rows = Self::empty(m, d_in, group);
        rows.scale.copy_from_slice(scale);
        let width = rows.width();
        rows.words.fill(0);
        for row in 0..m {
            let codes = &codes[row * d_in..][..d_in];
            for (word, four) in rows.words[row * width..][..width].iter_mut().zip(codes.chunks(4)) {
                let mut bytes = [0; 4];
                for (byte, &code) in bytes.iter_mut().zip(four) {
                    *byte = code as u8;
                }
                *word = u32::from_le_bytes(bytes);
            }
        }
        if group > 0 {
            for (i, codes) in codes.chunks_exact(group).enumerate() {
                let (row, g) = (i / rows.groups(), i % rows.groups());
                rows.sums[g * m + row] = codes.iter().map(|&c| i32::from(c)).sum();
            }
        }
        rows
    }

    fn empty(m: usize, d_in: usize, group: usize) -> Self {
        assert!(d_in <= MAX_INT_ROW, "rows of {d_in} are too long for 32-bit sums");
        assert!(d_in == group || d_in.is_multiple_of(group), "groups of {group} do not make a row of {d_in}");
        let words = unfilled_words(m * d_in.div_ceil(UNIT) * WORDS);
        let groups = d_in.checked_div(group).unwrap_or(1);
        Self {
            m,
            d_in,
            group,
            words,
            sums: vec![0; m * groups],
            scale: vec![0.0; m],
            middle: vec![0.0; m],
            wide: vec![Default::default(); m],
            wide_count: vec![0; m],
        }
    }

    /// How many rows.
    pub fn rows(&self) -> usize {
        self.m
    }

    /// The scale `[m]` of each row.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// The middle `[m]` of each row's range.
    pub fn middle(&self) -> &[f32] {
        &self.middle
    }

    /// The codes `[m,in]`.
    pub fn codes(&self) -> Vec<i8> {
        let width = self.width();
        let row = |i: usize| self.words[i * width..][..width].iter().flat_map(|w| w.to_le_bytes()).take(self.d_in);
        (0..self.m).flat_map(row).map(|c| c as i8).collect()
    }

    /// The values `[m,in]` that products compute with.
    pub fn values(&self) -> Vec<f32> {
        let mut values: Vec<f32> = self.codes().into_iter().map(f32::from).collect();
        for (row, values) in values.chunks_exact_mut(self.d_in.max(1)).enumerate() {
            values.iter_mut().for_each(|v| *v = *v * self.scale[row] + self.middle[row]);
            self.wide(row).iter().for_each(|w| values[w.at as usize] += w.rest);
        }
        values
    }

    /// The values of a row out of the range of its codes.
    #[inline(always)]
    pub(super) fn wide(&self, row: usize) -> &[Wide] {
        &self.wide[row][..self.wide_count[row] as usize]
    }

    /// Words of a row.
    pub(super) fn width(&self) -> usize {
        self.d_in.div_ceil(UNIT) * WORDS
    }

    fn groups(&self) -> usize {
        self.d_in.checked_div(self.group).unwrap_or(1)
    }
}

/// The greater; the first where one is not a number.
#[inline(always)]
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// Puts values into as many lists of the greatest, greatest first: each list keeps its greatest and hands the lesser on.
#[inline(always)]
fn insert<const N: usize>(lists: &mut [[f32; N]; WIDE_GOAL + 1], mut values: [f32; N]) {
    for kept in lists {
        for (kept, value) in kept.iter_mut().zip(&mut values) {
            (*kept, *value) = if *value > *kept { (*value, *kept) } else { (*kept, *value) };
        }
    }
}

/// The greatest of the lanes of both sides, greatest first, each as often as it is there.
#[inline(always)]
fn greatest(sides: [&[f32; LANES]; 2]) -> [[f32; WIDE_GOAL + 1]; 2] {
    const HALF: usize = LANES / 2;
    // Halves of both sides are a vector.
    let mut four = [[f32::NEG_INFINITY; 4]; WIDE_GOAL + 1];
    for i in 0..HALF {
        insert(&mut four, [sides[0][i], sides[0][HALF + i], sides[1][i], sides[1][HALF + i]]);
    }
    let mut both = four.map(|v| [v[0], v[2]]);
    for v in four {
        insert(&mut both, [v[1], v[3]]);
    }
    [both.map(|v| v[0]), both.map(|v| v[1])]
}

/// Least and greatest value of the range of a row's codes, and whether values lie outside.
#[inline(always)]
fn range(x: &[f32]) -> Option<(f32, f32, bool)> {
    let (mut lo, mut hi) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    let mut zero = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for x in chunks {
        for i in 0..LANES {
            hi[i] = greater(hi[i], x[i]);
            lo[i] = -greater(-lo[i], -x[i]);
            // An infinity or a NaN leaves a NaN.
            zero[i] += x[i] * 0.0;
        }
    }
    for (i, &v) in rest.iter().enumerate() {
        hi[i] = greater(hi[i], v);
        lo[i] = -greater(-lo[i], -v);
        zero[i] += v * 0.0;
    }
    if zero.iter().any(|z| z.is_nan()) {
        return None;
    }
    let n = (x.len() / INPUTS_PER_WIDE).min(WIDE_GOAL);
    let [hi, lo] = greatest([&hi, &lo.map(|v| -v)]);
    let lo = lo.map(|v| -v);
    let mut best = (lo[0], hi[0]);
    if n > 0 {
        best = (lo[0], hi[n]);
        for i in 1..=n {
            if hi[n - i] * 0.5 - lo[i] * 0.5 < best.1 * 0.5 - best.0 * 0.5 {
                best = (lo[i], hi[n - i]);
            }
        }
        let worth = best.1 * 0.5 - best.0 * 0.5 <= WORTH * (hi[0] * 0.5 - lo[0] * 0.5);
        let outside = || x.iter().map(|&v| usize::from(v < best.0 || v > best.1)).sum::<usize>();
        if !worth || outside() > WIDE_PLACES {
            best = (lo[0], hi[0]);
        }
    }
    Some((best.0, best.1, best != (lo[0], hi[0])))
}

#[inline(always)]
fn quantize_body<S: Simd>(_s: S, x: &[f32], group: usize, row: &mut Row<'_>) {
    if x.is_empty() {
        return;
    }
    let Some((lo, hi, outside)) = range(x) else {
        row.words.fill(0);
        *row.scale = f32::NAN;
        return;
    };
    // Halves first: the whole range may be beyond the floats.
    let (half, middle) = (hi * 0.5 - lo * 0.5, hi * 0.5 + lo * 0.5);
    let inverse = 127.0 / half;
    *row.middle = middle;
    if inverse.is_finite() {
        *row.scale = half / 127.0;
        // Adding 1.5 * 2^23 leaves the rounded integer in the lower bits.
        const BIG: f32 = 12_582_912.0;
        let code = |v: f32| {
            let v = -greater(-greater((v - middle) * inverse, -127.0), -127.0);
            (v + BIG).to_bits() as u8
        };
        let (fours, rest) = x.as_chunks::<4>();
        for (word, four) in row.words.iter_mut().zip(fours) {
            *word = u32::from_le_bytes(four.map(code));
        }
        // Padding has code 0.
        row.words[fours.len()..].fill(0);
        for (i, &v) in rest.iter().enumerate() {
            row.words[fours.len()] |= u32::from(code(v)) << (8 * i);
        }
        let whole = if group == x.len() { row.words.len() } else { group / 4 };
        for (sum, words) in row.sums.iter_mut().zip(row.words.chunks_exact(whole)) {
            *sum = words.iter().map(|w| w.to_le_bytes().iter().map(|&c| i32::from(c as i8)).sum::<i32>()).sum();
        }
    } else {
        row.words.fill(0);
    }
    if outside {
        for (c, chunk) in x.chunks(UNIT).enumerate() {
            let any = chunk.iter().fold(false, |any, &v| any | (v < lo) | (v > hi));
            if !any {
                continue;
            }
            for (i, &v) in chunk.iter().enumerate().filter(|(_, v)| **v < lo || **v > hi) {
                let edge = if v > hi { 127.0 } else { -127.0 };
                let rest = v - (edge * *row.scale + middle);
                row.wide[*row.wide_count as usize] = Wide { at: (c * UNIT + i) as u32, rest };
                *row.wide_count += 1;
            }
        }
    }
}

dispatch!(fn quantize_row = quantize_body(x: &[f32], group: usize, row: &mut Row<'_>));
