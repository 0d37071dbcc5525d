//! Sums of two slices.

use crate::dispatch::dispatch;
use crate::simd::{Simd, map2, zip_in_place};
use crate::threads::run_chunks;

/// Floats per task.
const CHUNK: usize = 8192;

#[inline(always)]
fn add_body<S: Simd>(s: S, a: &[f32], b: &[f32], y: &mut [f32]) {
    map2!(S, s, a, b, y, |p, q| s.add(p, q));
}

#[inline(always)]
fn add_in_place_body<S: Simd>(s: S, y: &mut [f32], x: &[f32]) {
    zip_in_place!(S, s, y, x, |v, w| s.add(v, w));
}

dispatch!(fn add_chunk = add_body(a: &[f32], b: &[f32], y: &mut [f32]));
dispatch!(fn add_in_place_chunk = add_in_place_body(y: &mut [f32], x: &[f32]));

/// `y[i] = a[i] + b[i]`, all of one length.
///
/// # Panics
/// If the lengths differ.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) {
    assert_eq!(a.len(), b.len(), "lengths of a and b");
    assert_eq!(a.len(), y.len(), "lengths of a and y");
    run_chunks(y, CHUNK, |at, y| {
        let end = at + y.len();
        add_chunk(&a[at..end], &b[at..end], y);
    });
}

/// `y[i] += x[i]`, both of one length.
///
/// # Panics
/// If the lengths differ.
pub fn add_in_place(y: &mut [f32], x: &[f32]) {
    assert_eq!(x.len(), y.len(), "lengths of x and y");
    run_chunks(y, CHUNK, |at, y| add_in_place_chunk(y, &x[at..at + y.len()]));
}
