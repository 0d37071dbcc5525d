//! The small matrix product that attention is made of, and the packing of its operands.
//!
//! Operands are scratch, padded with zeros to whole vectors and whole blocks of rows, so the
//! kernel has no tails at all.

use super::Rows;
use crate::simd::Simd;

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
    let factor = s.splat(scale);
    let (body, pad) = dst[..pad_rows(count) * ld].split_at_mut(count * ld);
    for (i, dst) in body.chunks_exact_mut(ld).enumerate() {
        let row = src.row(first + i, col, len);
        let mut at = 0;
        while at + S::LANES <= len {
            s.store(&mut dst[at..], s.mul(s.load(&row[at..]), factor));
            at += S::LANES;
        }
        // `ld` is whole vectors, so the tail is written with its padding.
        if at < ld {
            s.store(&mut dst[at..], s.mul(s.load_part(&row[at..]), factor));
            at += S::LANES;
        }
        dst[at.min(ld)..].fill(0.0);
    }
    pad.fill(0.0);
}

/// Copies the same rows transposed into `dst[len, ld]`; columns past `count` become zero.
#[inline(always)]
pub(super) fn pack_transposed(
    src: Rows<'_>,
    first: usize,
    count: usize,
    col: usize,
    len: usize,
    dst: &mut [f32],
    ld: usize,
) {
    let dst = &mut dst[..len * ld];
    let mut j = 0;
    while j < count {
        // Eight rows at a time, so that a line of `dst` is written in one go.
        let width = (count - j).min(8);
        if width == 8 {
            let rows: [&[f32]; 8] = std::array::from_fn(|r| src.row(first + j + r, col, len));
            for (d, line) in dst.chunks_exact_mut(ld).enumerate() {
                let line = &mut line[j..j + 8];
                for (slot, row) in line.iter_mut().zip(&rows) {
                    *slot = row[d];
                }
            }
        } else {
            for r in j..j + width {
                let row = src.row(first + r, col, len);
                for (line, &v) in dst.chunks_exact_mut(ld).zip(row) {
                    line[r] = v;
                }
            }
        }
        j += width;
    }
    if count < ld {
        dst.chunks_exact_mut(ld).for_each(|line| line[count..].fill(0.0));
    }
}
