//! One segment and one head of keys, backward: probabilities are computed again from the log of their denominators, a
//! tile at a time. Tiles lie as in the forward pass, a key in each row and a query in each lane.

use super::forward::carve_slack;
use super::scores::{BiasGrad, Scores, TileAt};
use super::spec::{Attend, Segment};
use super::tile::{carve, pack, pack_transposed, pad_rows, product, write_rows};
use super::views::{Rows, Target};
use super::{KEY_BLOCK, QUERY_BLOCK};
use crate::math::exp_weight;
use crate::simd::{Simd, pad};
use crate::threads::{Shared, scratch};

/// A segment's rows and a head of keys, with the heads of queries that share it.
pub(super) struct Task<'a> {
    pub(super) spec: &'a Attend<'a>,
    pub(super) segment: Segment,
    pub(super) head_kv: usize,
    pub(super) q: Rows<'a>,
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) out: Rows<'a>,
    pub(super) dout: Rows<'a>,
    /// `[heads, queries in all]`.
    pub(super) lse: &'a [f32],
    /// Queries in all.
    pub(super) queries: usize,
    pub(super) dq: Target<'a>,
    pub(super) dk: Target<'a>,
    pub(super) dv: Target<'a>,
    /// The gradient of the biases, all heads'.
    pub(super) dbias: Option<Shared<'a>>,
}

// With P the probabilities, O = P V and S = scale Q K^T + bias:
//   dV = P^T dO,   dP = dO V^T,   dS = P (dP - rowsum(dO O)),
//   dQ = scale dS K,   dK = dS^T (scale Q),   dbias = dS.
#[inline(always)]
pub(super) fn body<S: Simd>(s: S, t: Task<'_>) {
    let (hd, vd, group, Segment { nq, nk, .. }) = (t.spec.head_dim, t.spec.value_dim, t.spec.group(), t.segment);
    let (hdp, vdp) = (pad::<S>(hd), pad::<S>(vd));
    let lanes = pad::<S>(nq.min(QUERY_BLOCK));
    let (keys, values, tile) = (pad_rows(nk) * hdp, pad_rows(nk) * vdp, pad_rows(nk.min(KEY_BLOCK)) * lanes);
    let block = pad_rows(nq.min(QUERY_BLOCK));
    let [of_q, of_dout] = [block * hdp, block * vdp];
    let lens = [keys, values, keys, values, of_q, of_dout, of_q, hd * lanes, vd * lanes, tile, tile, lanes, lanes];
    let mut buffer = scratch(lens.iter().sum::<usize>() + carve_slack(lens.len()));
    let [k, v, dk, dv, q, dout, dq, qt, dot, p, ds, lse, delta] = carve(&mut buffer, lens);
    let (col_k, col_v) = (t.head_kv * hd, t.head_kv * vd);
    pack(s, t.k, t.segment.k, nk, col_k, hd, 1.0, k, hdp);
    pack(s, t.v, t.segment.k, nk, col_v, vd, 1.0, v, vdp);
    if nq == 0 {
        dk.fill(0.0);
        dv.fill(0.0);
    }
    for head in t.head_kv * group..(t.head_kv + 1) * group {
        let (col, col_out, scale) = (head * hd, head * vd, t.spec.scale);
        let mut scores = Scores::new(t.spec, t.segment, head);
        let mut dbias = t.dbias.map(|d| {
            let n = d.len() / t.spec.heads;
            // SAFETY: where biases have gradients, one task at a time has a head.
            BiasGrad { out: unsafe { d.slice(head * n, n) }, line: Vec::new() }
        });
        for start in (0..nq).step_by(QUERY_BLOCK) {
            let m = QUERY_BLOCK.min(nq - start);
            let ld = pad::<S>(m);
            let (row, first) = (t.segment.q + start, head == t.head_kv * group && start == 0);
            scores.begin(start, m);
            if let Some(d) = &mut dbias {
                scores.begin_grad(d);
            }
            pack(s, t.q, row, m, col, hd, scale, q, hdp);
            pack(s, t.dout, row, m, col_out, vd, 1.0, dout, vdp);
            pack_transposed(s, Rows::packed(q, hdp), 0, m, 0, hd, 1.0, qt, ld);
            pack_transposed(s, Rows::packed(dout, vdp), 0, m, 0, vd, 1.0, dot, ld);
            for i in 0..m {
                delta[i] = dot_row(s, &dout[i * vdp..], t.out.row(row + i, col_out, vd));
                let l = t.lse[head * t.queries + row + i];
                // A query that saw nothing: minus infinity less this is still nothing.
                lse[i] = if l == f32::NEG_INFINITY { f32::INFINITY } else { l };
            }
            delta[m..ld].fill(0.0);
            lse[m..ld].fill(0.0);
            let mut seen = false;
            for key in (0..nk).step_by(KEY_BLOCK) {
                let all = KEY_BLOCK.min(nk - key);
                let count = scores.visible(key, all);
                if first && count < all {
                    dk[(key + count) * hdp..(key + all) * hdp].fill(0.0);
                    dv[(key + count) * vdp..(key + all) * vdp].fill(0.0);
                }
                if count == 0 {
                    continue;
                }
                let (k, at) = (&k[key * hdp..], TileAt { start, m, key, count });
                product::<S, false>(s, count, ld, hd, k, hdp, qt, ld, p, ld, false);
                product::<S, false>(s, count, ld, vd, &v[key * vdp..], vdp, dot, ld, ds, ld, false);
                scores.apply(s, at, p, ld);
                score_gradients(s, count, ld, p, ds, lse, delta);
                if let Some(d) = &mut dbias {
                    scores.collect(s, at, ds, ld, d);
                }
                // The padding of p and ds holds no sense, and reaches only rows not written out.
                product::<S, false>(s, count, vdp, m, p, ld, dout, vdp, &mut dv[key * vdp..], vdp, !first);
                product::<S, false>(s, count, hdp, m, ds, ld, q, hdp, &mut dk[key * hdp..], hdp, !first);
                product::<S, true>(s, m, hdp, count, ds, ld, k, hdp, dq, hdp, seen);
                seen = true;
            }
            if !seen {
                dq.fill(0.0);
            }
            if let Some(d) = &mut dbias {
                scores.end_grad(d);
            }
            // SAFETY: the rows and the head are this task's own.
            unsafe { write_rows(s, dq, hdp, m, scale, t.dq, row, col, hd) };
        }
    }
    // SAFETY: as above, the head of keys.
    unsafe {
        write_rows(s, dk, hdp, nk, 1.0, t.dk, t.segment.k, col_k, hd);
        write_rows(s, dv, vdp, nk, 1.0, t.dv, t.segment.k, col_v, vd);
    }
}

/// Scores in `p` become probabilities; their gradients in `ds` become the scores'.
#[inline(always)]
fn score_gradients<S: Simd>(s: S, rows: usize, ld: usize, p: &mut [f32], ds: &mut [f32], lse: &[f32], delta: &[f32]) {
    assert!(ld.is_multiple_of(S::LANES) && p.len() >= rows * ld && ds.len() >= rows * ld);
    for c in (0..ld).step_by(S::LANES) {
        let (lse, delta) = (s.load(&lse[c..]), s.load(&delta[c..]));
        let (p, ds) = (p[c..].as_mut_ptr(), ds[c..].as_mut_ptr());
        for j in 0..rows {
            // SAFETY: row j < rows and columns c..c + LANES <= ld are inside both tiles.
            unsafe {
                let (p, ds) = (p.add(j * ld), ds.add(j * ld));
                let prob = exp_weight(s, s.sub(s.load_ptr(p), lse));
                s.store_ptr(p, prob);
                s.store_ptr(ds, s.mul(prob, s.sub(s.load_ptr(ds), delta)));
            }
        }
    }
}

/// The sum of `a[i] b[i]` over `b`'s length; `a` is padded to whole vectors.
#[inline(always)]
fn dot_row<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let mut acc = s.splat(0.0);
    for (a, b) in a.chunks_exact(S::LANES).zip(b.chunks(S::LANES)) {
        acc = s.fma(s.load(a), s.load_part(b), acc);
    }
    s.sum(acc)
}
