//! The packed codes of one linear map.

use super::layout::{Block, FULL_BLOCKS, PANEL, UNIT, blocks_per_unit, narrow, offset, pack_full, widen};
use super::{MAX_INT_ROW, WIDTHS, digits, int, rows::Int8Rows};
use crate::gemm::Epilogue;
use crate::nested::FULL_BITS;
use crate::threads::{self, Shared};
use std::borrow::Cow;
use std::sync::OnceLock;

/// Blocks that one task packs.
const PACK_BLOCKS: usize = 1 << 12;

/// The nested codes `[out,in]` of one linear map, with one scale per output row or per group of its
/// inputs, packed so that a view of `bits` bits reads `bits` bits per weight.
///
/// Memory: one byte per weight for the 8-bit panels, from which the others are made, and `bits / 8`
/// bytes more for each narrower width that has been used (all three: 2.5 bytes per weight). Rows are
/// padded to a multiple of 16, inputs too. The codes it is made from are not kept.
#[derive(Debug)]
pub struct PackedCodes {
    d_in: usize,
    d_out: usize,
    /// Inputs of a group.
    group: usize,
    /// For each panel, for each group, the scale of each row; padded with zeros.
    scale: Vec<[f32; PANEL]>,
    full: Vec<Block>,
    /// The widths below 8, in the order of [`WIDTHS`].
    narrow: [OnceLock<Vec<Block>>; WIDTHS.len() - 1],
    /// The sums of [`row_sums`](Self::row_sums), in the order of [`WIDTHS`].
    sums: [OnceLock<Vec<f32>>; WIDTHS.len()],
}

impl PackedCodes {
    /// Packs `codes[out,in]`, whose groups of inputs are to be multiplied by `scale[out,groups]`.
    ///
    /// # Panics
    /// If a length does not match, or groups are not whole units of 16 inputs where there are several.
    pub fn new(d_in: usize, d_out: usize, codes: &[i8], scale: &[f32]) -> Self {
        assert_eq!(codes.len(), d_out * d_in, "length of codes");
        let groups = scale.len().checked_div(d_out).unwrap_or(1);
        assert!(groups > 0 && scale.len() == d_out * groups, "length of scale");
        let fits = groups == 1 || (d_in.is_multiple_of(groups) && (d_in / groups).is_multiple_of(UNIT));
        assert!(fits, "{groups} groups of {d_in} inputs are not whole units of {UNIT}");
        let full = pack_full(d_out, d_in, codes);
        let mut panels = vec![[0.0; PANEL]; d_out.div_ceil(PANEL) * groups];
        for (row, scale) in scale.chunks_exact(groups).enumerate() {
            for (g, &scale) in scale.iter().enumerate() {
                panels[row / PANEL * groups + g][row % PANEL] = scale;
            }
        }
        let group = d_in / groups;
        Self { d_in, d_out, group, scale: panels, full, narrow: Default::default(), sums: Default::default() }
    }

    /// Inputs: floats of a row of `x`.
    pub fn d_in(&self) -> usize {
        self.d_in
    }

    /// Outputs: floats of a row of `y`.
    pub fn d_out(&self) -> usize {
        self.d_out
    }

    /// Inputs that share a scale.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Bytes of the packed codes of every width made so far.
    pub fn bytes(&self) -> usize {
        let narrow: usize = self.narrow.iter().filter_map(|n| n.get()).map(Vec::len).sum();
        (self.full.len() + narrow) * size_of::<Block>()
    }

    /// Makes the packed copy of `bits` bits now rather than at its first use.
    ///
    /// # Panics
    /// If `bits` is not one of [`WIDTHS`].
    pub fn prepare(&self, bits: u8) {
        self.panels(bits);
    }

    /// The `bits`-bit codes `[out,in]`, unpacked.
    ///
    /// # Panics
    /// If `bits` is not one of [`WIDTHS`].
    pub fn codes(&self, bits: u8) -> Vec<i8> {
        let bytes = self.byte_panels(bits);
        let panel = self.units() * FULL_BLOCKS;
        let mut codes = Vec::with_capacity(self.d_in * self.d_out);
        for row in 0..self.d_out {
            for col in 0..self.d_in {
                let word = bytes[row / PANEL * panel + col / 4].0[row % PANEL];
                codes.push((i32::from(word.to_le_bytes()[col % 4]) - offset(bits)) as i8);
            }
        }
        codes
    }

    fn byte_panels(&self, bits: u8) -> Cow<'_, [Block]> {
        let packed = self.panels(bits);
        if bits == FULL_BITS {
            return Cow::Borrowed(packed);
        }
        let mut bytes = vec![Block::ZERO; self.full.len()];
        widen(packed, bits, &mut bytes);
        Cow::Owned(bytes)
    }

    /// `y[m,out] = x[m,in] w^T + bias` with float activations, where `w` is what
    /// [`dequantize`](crate::nested::dequantize) makes of the codes at `bits` bits.
    ///
    /// Reads `bits` bits per weight; meant for few rows, right for any. Each activation is rounded to a step of its group of
    /// inputs ([`group`](Self::group)), a power of two that is at most 2^-22 of the group's greatest; the sum of each group
    /// is then exact, and scaled to a float. The same bits on every processor, whatever the other rows. A row with an
    /// infinity or a NaN gives NaN.
    ///
    /// # Panics
    /// If a length does not match, `bits` is not one of [`WIDTHS`], or a group has more inputs than
    /// [`MAX_INT_ROW`].
    pub fn linear(&self, m: usize, x: &[f32], bits: u8, bias: Option<&[f32]>, y: &mut [f32]) {
        assert_eq!(x.len(), m * self.d_in, "length of x");
        self.check_out(m, bias, y.len());
        assert!(self.group <= MAX_INT_ROW, "groups of {} are too long for 32-bit sums", self.group);
        digits::linear(self, m, x, bits, bias, y);
    }

    /// [`linear`](Self::linear) with activations rounded to 8 bits row by row ([`Int8Rows`]): the sum of
    /// each group is an exact integer, scaled to a float at its end. The same bits on every processor, up to an activation
    /// that follows.
    ///
    /// # Panics
    /// If a length does not match, `x` was not rounded in groups of [`group`](Self::group), `bits` is not
    /// one of [`WIDTHS`], or `in` is above [`MAX_INT_ROW`].
    pub fn linear_int8(&self, x: &Int8Rows, bits: u8, then: &Epilogue<'_>, y: &mut [f32]) {
        then.check(x.rows(), self.d_out);
        self.check_out(x.rows(), None, y.len());
        int::linear(self, x, bits, then, y);
    }

    /// The integer sums `[m,groups,out]` behind [`linear_int8`](Self::linear_int8): codes of `x` times
    /// the `bits`-bit codes.
    ///
    /// # Panics
    /// As [`linear_int8`](Self::linear_int8).
    pub fn int_sums(&self, x: &Int8Rows, bits: u8, sums: &mut [i32]) {
        assert_eq!(sums.len(), x.rows() * self.groups() * self.d_out, "length of the sums");
        int::sums(self, x, bits, sums);
    }

    fn check_out(&self, m: usize, bias: Option<&[f32]>, len: usize) {
        assert!(bias.is_none_or(|b| b.len() == self.d_out), "length of bias");
        assert_eq!(len, m * self.d_out, "length of the result");
    }

    pub(super) fn groups(&self) -> usize {
        self.d_in.checked_div(self.group).unwrap_or(1)
    }

    /// The scales of panel after panel, each of group after group.
    pub(super) fn scale(&self) -> &[[f32; PANEL]] {
        &self.scale
    }

    /// For each output the sum of its weights at `bits` bits, in steps of that width.
    pub(super) fn row_sums(&self, bits: u8) -> &[f32] {
        let Some(at) = WIDTHS.iter().position(|&w| w == bits) else {
            panic!("bits must be one of {WIDTHS:?}, not {bits}");
        };
        self.sums[at].get_or_init(|| {
            let codes = self.codes(bits);
            let mut sums = vec![0.0; self.d_out];
            for (row, (sum, codes)) in sums.iter_mut().zip(codes.chunks_exact(self.d_in.max(1))).enumerate() {
                let scale = &self.scale[row / PANEL * self.groups()..];
                for (codes, scale) in codes.chunks_exact(self.group).zip(scale) {
                    *sum += codes.iter().map(|&c| i32::from(c)).sum::<i32>() as f32 * scale[row % PANEL];
                }
            }
            sums
        })
    }

    pub(super) fn units(&self) -> usize {
        self.d_in.div_ceil(UNIT)
    }

    pub(super) fn panel_count(&self) -> usize {
        self.d_out.div_ceil(PANEL)
    }

    /// The packed copy of `bits` bits.
    pub(super) fn panels(&self, bits: u8) -> &[Block] {
        let Some(at) = WIDTHS.iter().position(|&w| w == bits) else {
            panic!("bits must be one of {WIDTHS:?}, not {bits}");
        };
        if at == 0 {
            return &self.full;
        }
        self.narrow[at - 1].get_or_init(|| {
            let per_unit = blocks_per_unit(bits);
            let units = self.full.len() / FULL_BLOCKS;
            let mut packed = vec![Block::ZERO; units * per_unit];
            let parts = Shared::new(&mut packed);
            let chunk = PACK_BLOCKS / FULL_BLOCKS;
            threads::run(units.div_ceil(chunk), units > chunk, |i| {
                let first = i * chunk;
                let n = chunk.min(units - first);
                // SAFETY: task i has units first..first + n to itself.
                let part = unsafe { parts.slice(first * per_unit, n * per_unit) };
                narrow(&self.full[first * FULL_BLOCKS..][..n * FULL_BLOCKS], bits, part);
            });
            packed
        })
    }
}
