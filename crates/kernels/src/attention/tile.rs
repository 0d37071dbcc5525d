//! The small matrix product that attention is made of, and the packing of its operands.
//!
//! Operands are scratch, padded with zeros to whole vectors and whole blocks of rows, so the
//! kernel has no tails at all.

use super::views::{Rows, Target};
use crate::simd::Simd;
use crate::threads::LINE;

/// Rows the tile kernel computes at once where there are registers for it; rows of scratch are
/// padded to a multiple.
pub(super) const ROWS: usize = 8;

/// `n` up to a whole number of row blocks.
#[inline(always)]
pub(super) fn pad_rows(n: usize) -> usize {
    n.div_ceil(ROWS) * ROWS
}

/// `MR` rows by `NV` vectors of C; A's element (r, p) is at `r * rs + p * cs`.
///
/// # Safety
/// All the elements must lie in their buffers.
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize, const TA: bool>(
    s: S,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mut acc = [[s.splat(0.0); NV]; MR];
    // SAFETY: the caller's promise covers every offset below.
    unsafe {
        for p in 0..k {
            let mut row = [s.splat(0.0); NV];
            for (v, lane) in row.iter_mut().enumerate() {
                *lane = s.load_ptr(b.add(p * ldb + v * S::LANES));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let at = if TA { p * lda + r } else { r * lda + p };
                let x = s.splat(*a.add(at));
                for (sum, &lane) in acc.iter_mut().zip(&row) {
                    *sum = s.fma(x, lane, *sum);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &sum) in acc.iter().enumerate() {
                let at = c.add(r * ldc + v * S::LANES);
                let sum = if add { s.add(s.load_ptr(at), sum) } else { sum };
                s.store_ptr(at, sum);
            }
        }
    }
}

/// `C[m,n] = A B`, or `+=` with `add`, where `A` is `[m,k]`, or with `TA` lies as `[k,m]`.
///
/// `n` must be whole vectors; `m` is rounded up to whole blocks of [`ROWS`], and the rows added
/// are computed and written too.
#[inline(always)]
pub(super) fn product<S: Simd, const TA: bool>(
    s: S,
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    lda: usize,
    b: &[f32],
    ldb: usize,
    c: &mut [f32],
    ldc: usize,
    add: bool,
) {
    let m = pad_rows(m);
    assert!(m > 0 && k > 0 && n > 0 && n.is_multiple_of(S::LANES));
    assert!(a.len() >= if TA { (k - 1) * lda + m } else { (m - 1) * lda + k });
    assert!(b.len() >= (k - 1) * ldb + n);
    assert!(c.len() >= (m - 1) * ldc + n);
    let (a, b, c) = (a.as_ptr(), b.as_ptr(), c.as_mut_ptr());
    let mr = if S::WIDE { ROWS } else { ROWS / 2 };
    let vectors = n / S::LANES;
    // Three vectors at most, shared out evenly: 4 go as 2 + 2, not 3 + 1.
    let blocks = vectors.div_ceil(3);
    let mut done = 0;
    for block in 0..blocks {
        let width = (vectors - done).div_ceil(blocks - block);
        for i in (0..m).step_by(mr) {
            let j = done * S::LANES;
            let ai = if TA { i } else { i * lda };
            // SAFETY: rows i..i + mr <= m and columns j..j + width * LANES <= n are in range by
            // the assertions above.
            unsafe {
                let (a, b, c) = (a.add(ai), b.add(j), c.add(i * ldc + j));
                match (S::WIDE, width) {
                    (true, 1) => tile::<S, 8, 1, TA>(s, k, a, lda, b, ldb, c, ldc, add),
                    (true, 2) => tile::<S, 8, 2, TA>(s, k, a, lda, b, ldb, c, ldc, add),
                    (true, _) => tile::<S, 8, 3, TA>(s, k, a, lda, b, ldb, c, ldc, add),
                    (false, 1) => tile::<S, 4, 1, TA>(s, k, a, lda, b, ldb, c, ldc, add),
                    (false, 2) => tile::<S, 4, 2, TA>(s, k, a, lda, b, ldb, c, ldc, add),
                    (false, _) => tile::<S, 4, 3, TA>(s, k, a, lda, b, ldb, c, ldc, add),
                }
            }
        }
        done += width;
    }
}

/// Copies `count` rows of `len` floats, from row `first` and column `col`, times `scale`, into
/// `dst[pad_rows(count), ld]`; the padding becomes zero.
#[inline(always)]
pub(super) fn pack<S: Simd>(
    s: S,
    src: Rows<'_>,
    first: usize,
    count: usize,
    col: usize,
    len: usize,
    scale: f32,
    dst: &mut [f32],
    ld: usize,
) {
    assert!(len <= ld && ld.is_multiple_of(S::LANES));
    let factor = s.splat(scale);
    let (body, pad) = dst[..pad_rows(count) * ld].split_at_mut(count * ld);
    pad.fill(0.0);
    if count == 0 {
        return;
    }
    let from = &src.data[first * src.stride + src.offset + col..][..(count - 1) * src.stride + len];
    for i in 0..count {
        for c in (0..ld).step_by(S::LANES) {
            // SAFETY: row i, column c of `body`, whose rows are whole vectors, and what the source's row i has from
            // column c: `from` ends with the last row. One check for all rows, as the rows are often one vector each.
            unsafe {
                let at = from.as_ptr().wrapping_add(i * src.stride + c);
                let v = if c + S::LANES <= len {
                    s.load_ptr(at)
                } else if c < len {
                    s.load_part(std::slice::from_raw_parts(at, len - c))
                } else {
                    s.splat(0.0)
                };
                s.store_ptr(body.as_mut_ptr().add(i * ld + c), s.mul(v, factor));
            }
        }
    }
}

/// Copies `count` rows of `len` floats, from row `first` and column `col`, transposed and times `scale`, into
/// `dst[len, ld]`; columns past `count` become zero.
#[inline(always)]
pub(super) fn pack_transposed<S: Simd>(
    s: S,
    src: Rows<'_>,
    first: usize,
    count: usize,
    col: usize,
    len: usize,
    scale: f32,
    dst: &mut [f32],
    ld: usize,
) {
    assert!(count > 0 && len > 0 && count <= ld && ld.is_multiple_of(S::LANES));
    let dst = &mut dst[..len * ld];
    let from = src.data[first * src.stride + src.offset + col..][..(count - 1) * src.stride + len].as_ptr();
    for r in (0..ld).step_by(S::LANES) {
        let rows = S::LANES.min(count.saturating_sub(r));
        for c in (0..len).step_by(S::LANES) {
            let cols = S::LANES.min(len - c);
            // SAFETY: `rows` rows of `cols` floats from row r, column c are in the slice above; lines c..c + cols and
            // columns r..r + LANES <= ld in `dst`. Without rows nothing is read.
            unsafe {
                let from = from.wrapping_add(r * src.stride + c);
                s.transpose(from, src.stride, rows, cols, dst.as_mut_ptr().add(c * ld + r), ld, S::LANES);
            }
        }
    }
    if scale != 1.0 {
        let factor = s.splat(scale);
        for v in dst.chunks_exact_mut(S::LANES) {
            let x = s.mul(s.load(v), factor);
            s.store(v, x);
        }
    }
}

/// Writes the first `count` columns of `src[len, ld]` as rows `first..first + count` of `dst`, from column `col`.
///
/// # Safety
/// No other live slice may overlap those rows and columns.
#[inline(always)]
pub(super) unsafe fn untranspose<S: Simd>(
    s: S,
    src: &[f32],
    ld: usize,
    count: usize,
    len: usize,
    dst: Target<'_>,
    first: usize,
    col: usize,
) {
    assert!(count > 0 && len > 0 && count <= ld);
    let src = &src[..len * ld];
    let at = first * dst.stride + dst.offset + col;
    // SAFETY: only a check of the range: the last row ends inside the buffer.
    unsafe { dst.data.slice(at + (count - 1) * dst.stride, len) };
    for i in (0..count).step_by(S::LANES) {
        let cols = S::LANES.min(count - i);
        for c in (0..len).step_by(S::LANES) {
            let rows = S::LANES.min(len - c);
            // SAFETY: rows c.. and columns i.. of `src` are in range; so is what is written, by the check above, and
            // it is the caller's own.
            unsafe {
                let to = dst.data.ptr(at + i * dst.stride + c);
                s.transpose(src.as_ptr().add(c * ld + i), ld, rows, cols, to, dst.stride, rows);
            }
        }
    }
}

/// Writes `count` rows of scratch, times `factor`, as rows `first..` of `dst`, `len` floats each from column `col`.
///
/// # Safety
/// No other live slice may overlap those rows and columns.
#[inline(always)]
pub(super) unsafe fn write_rows<S: Simd>(
    s: S,
    src: &[f32],
    ld: usize,
    count: usize,
    factor: f32,
    dst: Target<'_>,
    first: usize,
    col: usize,
    len: usize,
) {
    if count == 0 {
        return;
    }
    let (f, src) = (s.splat(factor), &src[..count * ld]);
    assert!(len <= ld && ld.is_multiple_of(S::LANES));
    let at = first * dst.stride + dst.offset + col;
    // SAFETY: only a check of the range: the last row ends inside the buffer.
    unsafe { dst.data.slice(at + (count - 1) * dst.stride, len) };
    for i in 0..count {
        for c in (0..len).step_by(S::LANES) {
            // SAFETY: row i of the source is whole vectors; the row written is in range and the caller's own.
            unsafe {
                let v = s.mul(s.load_ptr(src.as_ptr().add(i * ld + c)), f);
                let to = dst.data.ptr(at + i * dst.stride + c);
                if c + S::LANES <= len {
                    s.store_ptr(to, v);
                } else {
                    s.store_part(std::slice::from_raw_parts_mut(to, len - c), v);
                }
            }
        }
    }
}

/// Cuts scratch that starts at a cache line into buffers of the given lengths that each start at one.
#[inline(always)]
pub(super) fn carve<const N: usize>(scratch: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = scratch;
    lens.map(|len| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len.div_ceil(LINE) * LINE);
        rest = after;
        &mut part[..len]
    })
}
