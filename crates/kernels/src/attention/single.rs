//! A segment of one query, forward: a step of a decoder, or a class row that looks around. Keys and values are read
//! once, where they lie; packing them, as for many queries, would read and write them first.

use super::forward::{FLOOR, Task, carve_slack};
use super::scores::Scores;
use super::spec::Segment;
use super::tile::carve;
use super::views::Rows;
use crate::math::{exp_weight, ln};
use crate::simd::{Simd, pad};
use crate::threads::scratch;

/// Keys whose products with the query are summed at once.
const KEYS: usize = 4;
/// Vectors of a result that are kept in registers.
const VECTORS: usize = 4;

#[inline(always)]
pub(super) fn body<S: Simd>(s: S, t: Task<'_>) {
    let (hd, vd, group, Segment { nk, .. }) = (t.spec.head_dim, t.spec.value_dim, t.spec.group(), t.segment);
    let lens = [pad::<S>(nk), pad::<S>(hd)];
    let mut buffer = scratch(lens.iter().sum::<usize>() + carve_slack(lens.len()));
    let [p, q] = carve(&mut buffer, lens);
    for head in t.head_kv * group..(t.head_kv + 1) * group {
        let scale = s.splat(t.spec.scale);
        q.fill(0.0);
        for (to, from) in q.chunks_mut(S::LANES).zip(t.q.row(t.segment.q, head * hd, hd).chunks(S::LANES)) {
            s.store(to, s.mul(s.load_part(from), scale));
        }
        for j in (0..nk).step_by(KEYS) {
            match nk - j {
                1 => dots::<S, 1>(s, t.k, j, hd, q, &mut p[j..]),
                2 => dots::<S, 2>(s, t.k, j, hd, q, &mut p[j..]),
                3 => dots::<S, 3>(s, t.k, j, hd, q, &mut p[j..]),
                _ => dots::<S, KEYS>(s, t.k, j, hd, q, &mut p[j..]),
            }
        }
        Scores::new(t.spec, t.segment, head).apply_one(0, &mut p[..nk]);
        p[nk..].fill(f32::NEG_INFINITY);
        let (top, sum) = exp_row(s, p);
        // SAFETY: the row and the head are this task's own.
        let out = unsafe { t.out.data.slice(t.segment.q * t.out.stride + t.out.offset + head * vd, vd) };
        // A NaN stays one: only a sum of nothing is replaced.
        let inv = if sum < f32::MIN_POSITIVE { 0.0 } else { 1.0 / sum };
        mix(s, t.v, &p[..nk], inv, out);
        if let Some(lse) = t.lse {
            let log = s.add(s.splat(top), ln(s, s.splat(sum)));
            let mut lanes = [0.0; 16];
            s.store(&mut lanes, log);
            // SAFETY: as above.
            let to = unsafe { lse.slice(head * t.queries + t.segment.q, 1) };
            to[0] = if sum < f32::MIN_POSITIVE { f32::NEG_INFINITY } else { lanes[0] };
        }
    }
}

/// `to[0..N]`: products of `q`, padded with zeros, and the rows from `first`.
#[inline(always)]
fn dots<S: Simd, const N: usize>(s: S, k: Rows<'_>, first: usize, hd: usize, q: &[f32], to: &mut [f32]) {
    let mut rows = [&[][..]; N];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = k.row(first + r, 0, hd);
    }
    let mut acc = [s.splat(0.0); N];
    let whole = hd / S::LANES * S::LANES;
    for c in (0..whole).step_by(S::LANES) {
        let x = s.load(&q[c..]);
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: columns c..c + LANES <= hd are in the row.
            *acc = s.fma(unsafe { s.load_ptr(row.as_ptr().add(c)) }, x, *acc);
        }
    }
    if whole < hd {
        let x = s.load(&q[whole..]);
        for (acc, row) in acc.iter_mut().zip(rows) {
            *acc = s.fma(s.load_part(&row[whole..]), x, *acc);
        }
    }
    for (to, acc) in to.iter_mut().zip(acc) {
        *to = s.sum(acc);
    }
}

/// Turns scores, whole vectors of them, into `exp(x - top)`; the maximum and the sum.
#[inline(always)]
fn exp_row<S: Simd>(s: S, p: &mut [f32]) -> (f32, f32) {
    let mut top = s.splat(FLOOR);
    for v in p.chunks_exact(S::LANES) {
        top = s.max(s.load(v), top);
    }
    let top = s.hmax(top);
    let mut sum = s.splat(0.0);
    for v in p.chunks_exact_mut(S::LANES) {
        let e = exp_weight(s, s.sub(s.load(v), s.splat(top)));
        sum = s.add(sum, e);
        s.store(v, e);
    }
    (top, s.sum(sum))
}

/// `out` = the sum of `p[j]` times row `j`, times `inv`.
#[inline(always)]
fn mix<S: Simd>(s: S, v: Rows<'_>, p: &[f32], inv: f32, out: &mut [f32]) {
    let inv = s.splat(inv);
    let hd = out.len();
    let mut at = 0;
    while at < hd {
        let left = hd - at;
        if left >= VECTORS * S::LANES {
            let mut acc = [s.splat(0.0); VECTORS];
            for (j, &p) in p.iter().enumerate() {
                let (p, row) = (s.splat(p), &v.row(j, at, VECTORS * S::LANES));
                for (c, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the row has VECTORS vectors.
                    *acc = s.fma(p, unsafe { s.load_ptr(row.as_ptr().add(c * S::LANES)) }, *acc);
                }
            }
            for (to, acc) in out[at..].chunks_exact_mut(S::LANES).zip(acc) {
                s.store(to, s.mul(acc, inv));
            }
            at += VECTORS * S::LANES;
        } else {
            let lanes = S::LANES.min(left);
            let mut acc = s.splat(0.0);
            for (j, &p) in p.iter().enumerate() {
                acc = s.fma(s.splat(p), s.load_part(v.row(j, at, lanes)), acc);
            }
            s.store_part(&mut out[at..at + lanes], s.mul(acc, inv));
            at += lanes;
        }
    }
}
