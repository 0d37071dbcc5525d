//! The tile kernel: a few rows of the left factor against one panel of the right, in registers.
//!
//! Every element of C is one chain of fused multiply-adds in the order of k, whatever the number of rows: a row's
//! result does not depend on what else is in the batch.

use crate::simd::Simd;

/// Where a tile reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) k: usize,
    /// Left factor: element (r, p) at `a[r * a_rs + p * a_cs]`.
    pub(super) a: *const f32,
    pub(super) a_rs: usize,
    pub(super) a_cs: usize,
    /// One panel, rows `b_rs` apart.
    pub(super) b: *const f32,
    pub(super) b_rs: usize,
    /// What is asked for meanwhile: `k` steps of `ahead_step` floats each. Any address will do.
    pub(super) ahead: *const f32,
    pub(super) ahead_step: usize,
    pub(super) c: *mut f32,
    pub(super) c_rs: usize,
    /// Columns of C that exist.
    pub(super) cols: usize,
    /// Whether to add to C rather than overwrite it.
    pub(super) add: bool,
}

/// Floats of a cache line.
const LINE: usize = 16;

/// `MR` rows by `NV` vectors.
///
/// # Safety
/// Every element the tile names must lie in its buffer.
#[inline(always)]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(s: S, t: Tile) {
    let mut acc = [[s.splat(0.0); NV]; MR];
    let rows: [*const f32; MR] = std::array::from_fn(|r| t.a.wrapping_add(r * t.a_rs));
    let (mut b, mut at, mut ahead) = (t.b, 0, t.ahead);
    // SAFETY: the caller's promise covers every offset below.
    unsafe {
        // What is written at the end is on its way meanwhile.
        for r in 0..MR {
            for v in 0..NV {
                s.prefetch_ptr(t.c.wrapping_add(r * t.c_rs + v * S::LANES));
            }
        }
        for _ in 0..t.k {
            // A loop and not a closure, which would not take on the kernel's instruction set.
            let mut line = [s.splat(0.0); NV];
            for (v, lane) in line.iter_mut().enumerate() {
                *lane = s.load_ptr(b.add(v * S::LANES));
                if v * S::LANES % LINE == 0 {
                    s.prefetch_ptr(ahead.wrapping_add(v * S::LANES));
                }
            }
            for r in 0..MR {
                let x = s.splat(*rows[r].add(at));
                for v in 0..NV {
                    acc[r][v] = s.fma(x, line[v], acc[r][v]);
                }
            }
            b = b.add(t.b_rs);
            at += t.a_cs;
            ahead = ahead.wrapping_add(t.ahead_step);
        }
        for (r, acc) in acc.iter().enumerate() {
            let row = t.c.add(r * t.c_rs);
            for (v, &sum) in acc.iter().enumerate() {
                let at = v * S::LANES;
                if at + S::LANES <= t.cols {
                    let to = row.add(at);
                    let sum = if t.add { s.add(s.load_ptr(to), sum) } else { sum };
                    s.store_ptr(to, sum);
                } else if at < t.cols {
                    let to = std::slice::from_raw_parts_mut(row.add(at), t.cols - at);
                    let sum = if t.add { s.add(s.load_part(to), sum) } else { sum };
                    s.store_part(to, sum);
                }
            }
        }
    }
}

/// The tile of `rows` rows (at most 8), as many vectors wide as it has columns.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
pub(super) unsafe fn tile_of<S: Simd>(s: S, rows: usize, t: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match t.cols.div_ceil(S::LANES) {
            1 => rows_of::<S, 1>(s, rows, t),
            2 => rows_of::<S, 2>(s, rows, t),
            _ => rows_of::<S, 3>(s, rows, t),
        }
    }
}

#[inline(always)]
unsafe fn rows_of<S: Simd, const NV: usize>(s: S, rows: usize, t: Tile) {
    // SAFETY: the caller's promise.
    unsafe {
        match rows {
            1 => tile::<S, 1, NV>(s, t),
            2 => tile::<S, 2, NV>(s, t),
            3 => tile::<S, 3, NV>(s, t),
            4 => tile::<S, 4, NV>(s, t),
            5 => tile::<S, 5, NV>(s, t),
            6 => tile::<S, 6, NV>(s, t),
            7 => tile::<S, 7, NV>(s, t),
            _ => tile::<S, 8, NV>(s, t),
        }
    }
}
