//! One segment and head, forward: blocks of queries against blocks of keys, with a running
//! maximum and denominator so that scores are never kept.

use super::tile::{pack, pack_transposed, pad_rows, product};
use super::{KEY_BLOCK, QUERY_BLOCK, Rows, Target};
use crate::math::exp;
use crate::simd::{Simd, pad};
use crate::softmax::softmax_body;
use crate::threads::scratch;

/// A segment's rows and a head's columns.
pub(super) struct Task<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) first: usize,
    pub(super) n: usize,
    pub(super) col: usize,
    pub(super) hd: usize,
    pub(super) scale: f32,
    pub(super) out: Target<'a>,
    pub(super) lse: Option<&'a mut [f32]>,
}

/// The keys, transposed, one block after another: `[hd, pad(block)]` each.
#[inline(always)]
fn pack_keys<S: Simd>(_s: S, t: &Task<'_>, keys: &mut [f32]) {
    for start in (0..t.n).step_by(KEY_BLOCK) {
        let count = KEY_BLOCK.min(t.n - start);
        let block = &mut keys[start * t.hd..];
        pack_transposed(t.k, t.first + start, count, t.col, t.hd, block, pad::<S>(count));
    }
}

#[inline(always)]
pub(super) fn body<S: Simd>(s: S, t: Task<'_>) {
    let (n, hd) = (t.n, t.hd);
    let hdp = pad::<S>(hd);
    let rows = pad_rows(n.min(QUERY_BLOCK));
    let sp = pad::<S>(n.min(KEY_BLOCK));
    let lens = [hd * pad::<S>(n), pad_rows(n) * hdp, rows * hdp, rows * sp, rows * hdp];
    let mut buffer = scratch(lens.iter().sum());
    let [keys, values, q, p, o] = carve(&mut buffer, lens);
    pack_keys(s, &t, keys);
    pack(s, t.v, t.first, n, t.col, hd, 1.0, values, hdp);
    let mut lse = t.lse;
    for start in (0..n).step_by(QUERY_BLOCK) {
        let m = QUERY_BLOCK.min(n - start);
        pack(s, t.q, t.first + start, m, t.col, hd, t.scale, q, hdp);
        let mut top = [f32::NEG_INFINITY; QUERY_BLOCK];
        let mut sum = [0.0f32; QUERY_BLOCK];
        for key in (0..n).step_by(KEY_BLOCK) {
            let count = KEY_BLOCK.min(n - key);
            let ld = pad::<S>(count);
            product::<S, false>(s, m, ld, hd, q, hdp, &keys[key * hd..], ld, p, ld, false);
            let mask = tail_mask(s, count);
            for i in 0..m {
                let row = &mut p[i * ld..(i + 1) * ld];
                let before = top[i];
                let part = exp_row(s, row, count, mask, &mut top[i]);
                // What was summed under a lower maximum shrinks; nothing on the first block.
                if key > 0 {
                    let shrink = (before - top[i]).exp();
                    sum[i] *= shrink;
                    scale_row(s, &mut o[i * hdp..(i + 1) * hdp], shrink);
                }
                sum[i] += part;
            }
            let v = &values[key * hdp..];
            product::<S, false>(s, m, hdp, count, p, ld, v, hdp, o, hdp, key > 0);
        }
        for i in 0..m {
            // SAFETY: the row and head are this task's own.
            let out = unsafe { t.out.row(t.first + start + i, t.col, hd) };
            write_scaled(s, &o[i * hdp..], 1.0 / sum[i], out);
            if let Some(lse) = lse.as_deref_mut() {
                lse[start + i] = top[i] + sum[i].ln();
            }
        }
    }
}

#[inline(always)]
pub(super) fn probs_body<S: Simd>(s: S, t: Task<'_>) {
    let (n, hd) = (t.n, t.hd);
    let hdp = pad::<S>(hd);
    let rows = pad_rows(n.min(QUERY_BLOCK));
    let np = pad::<S>(n);
    let lens = [hd * np, rows * hdp, rows * np];
    let mut buffer = scratch(lens.iter().sum());
    let [keys, q, scores] = carve(&mut buffer, lens);
    pack_keys(s, &t, keys);
    for start in (0..n).step_by(QUERY_BLOCK) {
        let m = QUERY_BLOCK.min(n - start);
        pack(s, t.q, t.first + start, m, t.col, hd, t.scale, q, hdp);
        for key in (0..n).step_by(KEY_BLOCK) {
            let ld = pad::<S>(KEY_BLOCK.min(n - key));
            let (k, c) = (&keys[key * hd..], &mut scores[key..]);
            product::<S, false>(s, m, ld, hd, q, hdp, k, ld, c, np, false);
        }
        for i in 0..m {
            // SAFETY: the head's map is this task's own.
            let out = unsafe { t.out.row(start + i, 0, n) };
            softmax_body(s, n, &scores[i * np..i * np + n], out);
        }
    }
}

/// Zeros in the lanes a row of `count` leaves in its last vector, minus infinity in the rest.
#[inline(always)]
fn tail_mask<S: Simd>(s: S, count: usize) -> S::V {
    let mut lanes = [f32::NEG_INFINITY; 64];
    lanes[..count % S::LANES].fill(0.0);
    s.load(&lanes)
}

/// Raises `top` to the maximum of the row's first `count` scores; turns them into `exp(x - top)`;
/// returns their sum. `mask` is [`tail_mask`]'s.
#[inline(always)]
fn exp_row<S: Simd>(s: S, row: &mut [f32], count: usize, mask: S::V, top: &mut f32) -> f32 {
    let (body, rest) = row.split_at_mut(count / S::LANES * S::LANES);
    let tail = !count.is_multiple_of(S::LANES);
    let mut max = s.splat(*top);
    for v in body.chunks_exact(S::LANES) {
        max = s.max(s.load(v), max);
    }
    if tail {
        max = s.max(s.add(s.load(rest), mask), max);
    }
    *top = s.hmax(max);
    let m = s.splat(*top);
    let mut sum = s.splat(0.0);
    for v in body.chunks_exact_mut(S::LANES) {
        let e = exp(s, s.sub(s.load(v), m));
        sum = s.add(sum, e);
        s.store(v, e);
    }
    if tail {
        let e = exp(s, s.sub(s.add(s.load(rest), mask), m));
        sum = s.add(sum, e);
        s.store(rest, e);
    }
    s.sum(sum)
}

/// `row *= factor`; `row` is whole vectors.
#[inline(always)]
fn scale_row<S: Simd>(s: S, row: &mut [f32], factor: f32) {
    let f = s.splat(factor);
    for v in row.chunks_exact_mut(S::LANES) {
        let x = s.mul(s.load(v), f);
        s.store(v, x);
    }
}

/// `out = src[..out.len()] * factor`; `src` is padded to whole vectors.
#[inline(always)]
pub(super) fn write_scaled<S: Simd>(s: S, src: &[f32], factor: f32, out: &mut [f32]) {
    let f = s.splat(factor);
    let mut outs = out.chunks_exact_mut(S::LANES);
    let mut srcs = src.chunks_exact(S::LANES);
    for (o, v) in (&mut outs).zip(&mut srcs) {
        s.store(o, s.mul(s.load(v), f));
    }
    let rest = outs.into_remainder();
    if let Some(v) = srcs.next() {
        s.store_part(rest, s.mul(s.load(v), f));
    }
}

/// Cuts scratch into buffers of the given lengths.
#[inline(always)]
pub(super) fn carve<const N: usize>(scratch: &mut [f32], lens: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = scratch;
    lens.map(|len| {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(len);
        rest = after;
        part
    })
}
