//! One segment and head, backward: probabilities are computed again from the log of their
//! denominators, a tile at a time.

use super::forward::{carve, write_scaled};
use super::tile::{pack, pack_transposed, pad_rows, product};
use super::{KEY_BLOCK, QUERY_BLOCK, Rows, Target};
use crate::math::exp;
use crate::simd::{Simd, pad};
use crate::threads::scratch;

/// A segment's rows and a head's columns.
pub(super) struct Task<'a> {
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) out: Rows<'a>,
    pub(super) dout: Rows<'a>,
    pub(super) lse: &'a [f32],
    pub(super) first: usize,
    pub(super) n: usize,
    pub(super) col: usize,
    pub(super) hd: usize,
    pub(super) scale: f32,
    pub(super) dq: Target<'a>,
    pub(super) dk: Target<'a>,
    pub(super) dv: Target<'a>,
}

// With P the probabilities, O = P V and S = scale Q K^T:
//   dV = P^T dO,   dP = dO V^T,   dS = P (dP - rowsum(dO O)),
//   dQ = scale dS K,   dK = dS^T (scale Q).
#[inline(always)]
pub(super) fn body<S: Simd>(s: S, t: Task<'_>) {
    let (n, hd, col) = (t.n, t.hd, t.col);
    let hdp = pad::<S>(hd);
    let rows = pad_rows(n);
    let keys = n.min(KEY_BLOCK);
    let (kp, kr) = (pad::<S>(keys), pad_rows(keys));
    let tile = pad_rows(n.min(QUERY_BLOCK)) * kp;
    let (whole, block) = (rows * hdp, kr * hdp);
    let lens = [whole, whole, whole, rows, hd * kp, hd * kp, block, block, block, tile, tile];
    let mut buffer = scratch(lens.iter().sum());
    let [q, dout, dq, delta, kt, vt, k, dk, dv, p, ds] = carve(&mut buffer, lens);
    pack(s, t.q, t.first, n, col, hd, t.scale, q, hdp);
    pack(s, t.dout, t.first, n, col, hd, 1.0, dout, hdp);
    for (i, delta) in delta.iter_mut().take(n).enumerate() {
        *delta = dot(s, &dout[i * hdp..], t.out.row(t.first + i, col, hd));
    }
    for key in (0..n).step_by(KEY_BLOCK) {
        let count = KEY_BLOCK.min(n - key);
        let ld = pad::<S>(count);
        pack_transposed(t.k, t.first + key, count, col, hd, kt, ld);
        pack_transposed(t.v, t.first + key, count, col, hd, vt, ld);
        pack(s, t.k, t.first + key, count, col, hd, 1.0, k, hdp);
        for start in (0..n).step_by(QUERY_BLOCK) {
            let m = QUERY_BLOCK.min(n - start);
            let (q, dout) = (&q[start * hdp..], &dout[start * hdp..]);
            product::<S, false>(s, m, ld, hd, q, hdp, kt, ld, p, ld, false);
            product::<S, false>(s, m, ld, hd, dout, hdp, vt, ld, ds, ld, false);
            for i in 0..m {
                let at = i * ld..(i + 1) * ld;
                let (lse, delta) = (t.lse[start + i], delta[start + i]);
                score_gradient(s, &mut p[at.clone()], &mut ds[at], lse, delta);
            }
            // The padding of p and ds holds no sense, and reaches only rows not written out.
            let more = start > 0;
            product::<S, true>(s, count, hdp, m, p, ld, dout, hdp, dv, hdp, more);
            product::<S, true>(s, count, hdp, m, ds, ld, q, hdp, dk, hdp, more);
            let dq = &mut dq[start * hdp..];
            product::<S, false>(s, m, hdp, count, ds, ld, k, hdp, dq, hdp, key > 0);
        }
        for i in 0..count {
            // SAFETY: the row and head are this task's own.
            let (to_k, to_v) = unsafe {
                let row = t.first + key + i;
                (t.dk.row(row, col, hd), t.dv.row(row, col, hd))
            };
            write_scaled(s, &dk[i * hdp..], 1.0, to_k);
            write_scaled(s, &dv[i * hdp..], 1.0, to_v);
        }
    }
    for i in 0..n {
        // SAFETY: the row and head are this task's own.
        let to = unsafe { t.dq.row(t.first + i, col, hd) };
        write_scaled(s, &dq[i * hdp..], t.scale, to);
    }
}

/// Scores in `p` become probabilities; their gradients in `ds` become the scores'.
#[inline(always)]
fn score_gradient<S: Simd>(s: S, p: &mut [f32], ds: &mut [f32], lse: f32, delta: f32) {
    let (lse, delta) = (s.splat(lse), s.splat(delta));
    for (p, ds) in p.chunks_exact_mut(S::LANES).zip(ds.chunks_exact_mut(S::LANES)) {
        let prob = exp(s, s.sub(s.load(p), lse));
        s.store(p, prob);
        let grad = s.mul(prob, s.sub(s.load(ds), delta));
        s.store(ds, grad);
    }
}

/// The sum of `a[i] b[i]` over `b`'s length; `a` is padded to whole vectors.
#[inline(always)]
fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    for (a, b) in a.chunks_exact(S::LANES).zip(b.chunks(S::LANES)) {
        acc = s.fma(s.load(a), s.load_part(b), acc);
    }
    s.sum(acc)
}
