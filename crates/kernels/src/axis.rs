//! A small matrix applied along one axis of an array: filters of a fixed size, resizing, wavelets.

use std::ops::Range;

use crate::dispatch::dispatch;
use crate::simd::Simd;
use crate::threads::{PARALLEL_FLOATS, Shared, run};

/// Rows of the matrix that are computed side by side.
const ROWS: usize = 4;

/// `y[o, r, i] = sum over c of matrix[r, c] * x[o, c, i]`, with `x[outer, columns, inner]`, `y[outer, rows, inner]` and
/// `matrix[rows, columns]`. Columns at which neighbouring rows are zero are skipped, so the time of a filter grows with its
/// taps.
///
/// # Panics
/// If a length does not match.
pub fn along([outer, inner]: [usize; 2], [rows, columns]: [usize; 2], matrix: &[f32], x: &[f32], y: &mut [f32]) {
    assert_eq!(matrix.len(), rows * columns, "length of the matrix");
    assert_eq!(x.len(), outer * columns * inner, "length of x");
    assert_eq!(y.len(), outer * rows * inner, "length of y");
    // The first and last column that each group of rows sees.
    let seen = |rows: &[f32]| {
        let own = |row: &[f32]| Some((row.iter().position(|v| *v != 0.0)?, row.iter().rposition(|v| *v != 0.0)? + 1));
        let all = rows.chunks_exact(columns.max(1)).filter_map(own);
        all.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).map_or(0..0, |(from, to)| from..to)
    };
    let seen: Vec<Range<usize>> = matrix.chunks((ROWS * columns).max(1)).map(seen).collect();
    let parallel = y.len() >= PARALLEL_FLOATS;
    let shared = Shared::new(y);
    run(outer, parallel, |o| {
        // SAFETY: each task has a stretch of its own.
        let y = unsafe { shared.slice(o * rows * inner, rows * inner) };
        one(rows, columns, inner, matrix, &seen, &x[o * columns * inner..][..columns * inner], y);
    });
}

dispatch!(fn one = one_body(rows: usize, columns: usize, inner: usize, matrix: &[f32], seen: &[Range<usize>], x: &[f32],
    y: &mut [f32]));

#[inline(always)]
fn one_body<S: Simd>(
    s: S,
    rows: usize,
    columns: usize,
    inner: usize,
    matrix: &[f32],
    seen: &[Range<usize>],
    x: &[f32],
    y: &mut [f32],
) {
    for first in (0..rows).step_by(ROWS) {
        let n = ROWS.min(rows - first);
        // A row that is not there repeats the last one and is not stored.
        let weights = |r: usize| &matrix[(first + r.min(n - 1)) * columns..][..columns];
        let weights = [weights(0), weights(1), weights(2), weights(3)];
        for from in (0..inner).step_by(S::LANES) {
            let lanes = from..inner.min(from + S::LANES);
            let mut sums = [s.splat(0.0); ROWS];
            for c in seen.get(first / ROWS).cloned().unwrap_or_default() {
                let part = &x[c * inner..][lanes.clone()];
                let v = if part.len() == S::LANES { s.load(part) } else { s.load_part(part) };
                for (sum, weights) in sums.iter_mut().zip(&weights) {
                    *sum = s.fma(s.splat(weights[c]), v, *sum);
                }
            }
            for (r, sum) in sums.into_iter().enumerate().take(n) {
                s.store_part(&mut y[(first + r) * inner..][lanes.clone()], sum);
            }
        }
    }
}
