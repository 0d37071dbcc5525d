//! Nested integers: 8-bit codes whose upper bits are themselves codes of fewer bits, with one scale
//! per output row, or one per group of its inputs: `scale[out,groups]`, groups of equal length. One
//! set of codes serves every width from 2 to 8 bits.
//!
//! Groups lie in memory as short rows do, so what works row by row here takes either.

use crate::dispatch::dispatch;
use crate::gemm::{Layout, fill_bias, gemm_into};
use crate::simd::Simd;
use crate::threads::{self, PARALLEL_FLOATS, Shared, run_chunks, scratch};

/// Bits of a full code.
pub const FULL_BITS: u8 = 8;

/// Floats of dequantised weights handled at once: they stay in the second-level cache.
const BLOCK: usize = 128 * 1024;

/// The `bits`-bit code of the full `code`: its upper bits, rounded half up, then clipped to the
/// range of `bits` bits, so that the topmost codes round down for want of a higher one.
///
/// # Panics
/// If `bits` is not in 2..=8.
#[inline]
pub fn round_to(code: i8, bits: u8) -> i8 {
    check_bits(bits);
    let shift = u32::from(FULL_BITS - bits);
    round_code(code, shift) >> shift
}

fn check_bits(bits: u8) {
    assert!((2..=FULL_BITS).contains(&bits), "bits must be in 2..=8, not {bits}");
}

/// A code's value in full steps: [`round_to`] times `2^shift`, where `shift = 8 - bits`.
///
/// All in eight bits: a sum past the top saturates at 127, whose upper bits are the top code.
#[inline(always)]
fn round_code(code: i8, shift: u32) -> i8 {
    // Half a step; 0 where nothing is dropped.
    let half = ((1u32 << shift) >> 1) as i8;
    code.saturating_add(half) & (-1i8 << shift)
}

#[inline(always)]
fn row_body<S: Simd>(_s: S, codes: &[i8], scale: f32, bits: u8, w: &mut [f32]) {
    let shift = u32::from(FULL_BITS - bits);
    for (w, &code) in w.iter_mut().zip(codes) {
        *w = f32::from(round_code(code, shift)) * scale;
    }
}

/// The sum of `x[i]` times code `i`'s value, without the scale.
#[inline(always)]
fn dot_body<S: Simd>(_s: S, codes: &[i8], bits: u8, x: &[f32]) -> f32 {
    const LANES: usize = 32;
    let shift = u32::from(FULL_BITS - bits);
    let value = |code: i8| f32::from(round_code(code, shift));
    let mut acc = [0.0f32; LANES];
    let (mut cs, mut xs) = (codes.chunks_exact(LANES), x.chunks_exact(LANES));
    for (c, x) in (&mut cs).zip(&mut xs) {
        for i in 0..LANES {
            acc[i] += value(c[i]) * x[i];
        }
    }
    for ((a, &c), &x) in acc.iter_mut().zip(cs.remainder()).zip(xs.remainder()) {
        *a += value(c) * x;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

dispatch!(fn dequantize_row = row_body(codes: &[i8], scale: f32, bits: u8, w: &mut [f32]));
dispatch!(fn dot = dot_body(codes: &[i8], bits: u8, x: &[f32]) -> f32);

/// `w[out,in]` = the `bits`-bit codes of `codes[out,in]`, times `2^(8 - bits)`, times `scale[out,groups]`.
///
/// # Panics
/// If a length does not match or `bits` is not in 2..=8.
pub fn dequantize(codes: &[i8], scale: &[f32], bits: u8, w: &mut [f32]) {
    check_bits(bits);
    assert_eq!(codes.len(), w.len(), "lengths of codes and w");
    let d_in = row_len(codes.len(), scale.len());
    if d_in == 0 {
        return;
    }
    let chunk = (8192 / d_in).max(1) * d_in;
    run_chunks(w, chunk, |at, w| {
        for (i, w) in w.chunks_exact_mut(d_in).enumerate() {
            let row = at / d_in + i;
            dequantize_row(&codes[row * d_in..][..d_in], scale[row], bits, w);
        }
    });
}

/// Floats per row when `len` floats make `rows` rows.
fn row_len(len: usize, rows: usize) -> usize {
    if rows == 0 {
        assert_eq!(len, 0, "codes without scales");
        return 0;
    }
    assert_eq!(len % rows, 0, "codes must be whole rows");
    len / rows
}

/// `codes[out,in]` = `w[out,in] / scale[out,groups]`, rounded half up and clipped to -128..=127. A group
/// whose scale is 0 gets zeros; so does a NaN weight.
///
/// # Panics
/// If a length does not match.
pub fn quantize_rows(w: &[f32], scale: &[f32], codes: &mut [i8]) {
    assert_eq!(codes.len(), w.len(), "lengths of codes and w");
    let d_in = row_len(w.len(), scale.len());
    if d_in == 0 {
        return;
    }
    let rows = w.chunks_exact(d_in).zip(codes.chunks_exact_mut(d_in)).zip(scale);
    for ((w, codes), &scale) in rows {
        for (code, &w) in codes.iter_mut().zip(w) {
            // floor(x + 0.5) in f32 is wrong just below a half; what is left over is exact.
            let x = if scale == 0.0 { 0.0 } else { w / scale };
            let low = x.floor();
            let rounded = if x - low >= 0.5 { low + 1.0 } else { low };
            // A float to integer cast saturates, and makes zero of a NaN.
            *code = rounded as i8;
        }
    }
}

/// `scale[out,groups]` that brings each group of `w[out,in]` into the range of the codes: its greatest
/// magnitude over 127, 1 for a group of zeros.
///
/// # Panics
/// If a length does not match.
pub fn row_scales(w: &[f32], scale: &mut [f32]) {
    let d_in = row_len(w.len(), scale.len());
    for (i, scale) in scale.iter_mut().enumerate() {
        let top = w[i * d_in..(i + 1) * d_in].iter().fold(0.0f32, |m, v| m.max(v.abs()));
        *scale = if top > 0.0 { top / 127.0 } else { 1.0 };
    }
}

/// [`linear`](crate::linear) with `bits`-bit weights: `y[m,out] = x[m,in] w^T + bias`, where `w` is
/// what [`dequantize`] makes of `codes[out,in]` and `scale[out,groups]`.
///
/// The float weights are never in memory as a whole.
///
/// # Panics
/// If a length does not match or `bits` is not in 2..=8.
pub fn linear_nested(
    m: usize,
    d_in: usize,
    d_out: usize,
    x: &[f32],
    codes: &[i8],
    scale: &[f32],
    bits: u8,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    check_bits(bits);
    assert_eq!(x.len(), m * d_in, "length of x");
    assert_eq!(codes.len(), d_out * d_in, "length of codes");
    let groups = scale.len().checked_div(d_out).unwrap_or(0);
    assert_eq!(scale.len(), d_out * groups, "length of scale");
    assert_eq!(y.len(), m * d_out, "length of y");
    let beta = fill_bias(d_out, bias, y);
    if m == 0 || d_out == 0 {
        return;
    }
    if d_in == 0 {
        if beta == 0.0 {
            y.fill(0.0);
        }
        return;
    }
    if m == 1 {
        // One row uses each weight once: unpacking it to memory first would be the whole cost.
        let rows = (8192 / d_in).max(1);
        let group = row_len(d_in, groups);
        let shared = Shared::new(y);
        threads::run(d_out.div_ceil(rows), d_out * d_in >= PARALLEL_FLOATS, |i| {
            let first = i * rows;
            // SAFETY: task i has outputs first..first + rows to itself.
            let y = unsafe { shared.slice(first, rows.min(d_out - first)) };
            for (j, y) in (first..).zip(y) {
                let codes = codes[j * d_in..][..d_in].chunks_exact(group);
                let terms = codes.zip(x.chunks_exact(group)).zip(&scale[j * groups..]);
                let value: f32 = terms.map(|((c, x), s)| dot(c, bits, x) * s).sum();
                *y = if beta == 0.0 { value } else { *y + value };
            }
        });
        return;
    }
    let block = (BLOCK / d_in).max(1).min(d_out);
    let mut buffer = scratch(block * d_in);
    for first in (0..d_out).step_by(block) {
        let n = block.min(d_out - first);
        let w = &mut buffer[..n * d_in];
        dequantize(&codes[first * d_in..][..n * d_in], &scale[first * groups..][..n * groups], bits, w);
        let y = &mut y[first..];
        gemm_into(m, n, d_in, x, Layout::Normal, w, Layout::Transposed, beta, y, d_out);
    }
}
