//! One segment and one head of keys, forward: blocks of queries against blocks of keys, with a running maximum and
//! denominator so that scores are never kept.
//!
//! A tile of scores has a key in each row and a query in each lane: maxima and sums run down the rows without a
//! reduction across lanes, keys and values are used as they lie, and only queries and results are transposed.

use super::scores::{Scores, TileAt};
use super::spec::{Attend, Segment};
use super::tile::{carve, pack, pack_transposed, pad_rows, product, untranspose};
use super::views::{Keys, Rows, Target};
use super::{KEY_BLOCK, QUERY_BLOCK};
use crate::math::{exp_weight, ln};
use crate::simd::{Simd, pad};
use crate::threads::{Shared, scratch};

/// A maximum starts here, so that a query that sees nothing subtracts something finite.
pub(super) const FLOOR: f32 = -1e30;

/// A segment's rows and a head of keys, with the heads of queries that share it.
pub(super) struct Task<'a> {
    pub(super) spec: &'a Attend<'a>,
    pub(super) segment: Segment,
    pub(super) head_kv: usize,
    pub(super) q: Rows<'a>,
    /// Keys and values of this segment and head.
    pub(super) k: Rows<'a>,
    pub(super) v: Rows<'a>,
    pub(super) out: Target<'a>,
    /// `[heads, queries in all]`.
    pub(super) lse: Option<Shared<'a>>,
    /// Queries in all.
    pub(super) queries: usize,
}

#[inline(always)]
pub(super) fn body<S: Simd>(s: S, t: Task<'_>) {
    let (hd, vd, group, Segment { nq, nk, .. }) = (t.spec.head_dim, t.spec.value_dim, t.spec.group(), t.segment);
    let (hdp, vdp) = (pad::<S>(hd), pad::<S>(vd));
    let lanes = pad::<S>(nq.min(QUERY_BLOCK));
    let (keys, tile) = (pad_rows(nk), pad_rows(nk.min(KEY_BLOCK)) * lanes);
    let lens = [keys * hdp, keys * vdp, hd * lanes, tile, vdp * lanes, lanes, lanes];
    let mut buffer = scratch(lens.iter().sum::<usize>() + carve_slack(lens.len()));
    let [k, v, qt, p, ot, top, sum] = carve(&mut buffer, lens);
    pack(s, t.k, 0, nk, 0, hd, 1.0, k, hdp);
    pack(s, t.v, 0, nk, 0, vd, 1.0, v, vdp);
    for head in t.head_kv * group..(t.head_kv + 1) * group {
        let mut scores = Scores::new(t.spec, t.segment, head);
        for start in (0..nq).step_by(QUERY_BLOCK) {
            let m = QUERY_BLOCK.min(nq - start);
            let ld = pad::<S>(m);
            scores.begin(start, m);
            pack_transposed(s, t.q, t.segment.q + start, m, head * hd, hd, t.spec.scale, qt, ld);
            top[..ld].fill(FLOOR);
            sum[..ld].fill(0.0);
            let mut seen = false;
            for key in (0..nk).step_by(KEY_BLOCK) {
                let count = scores.visible(key, KEY_BLOCK.min(nk - key));
                if count == 0 {
                    continue;
                }
                product::<S, false>(s, count, ld, hd, &k[key * hdp..], hdp, qt, ld, p, ld, false);
                scores.apply(s, TileAt { start, m, key, count }, p, ld);
                exp_tile(s, count, ld, p, top, sum, if seen { &mut ot[..vd * ld] } else { &mut [] });
                product::<S, true>(s, vd, ld, count, &v[key * vdp..], vdp, p, ld, ot, ld, seen);
                seen = true;
            }
            if !seen {
                ot[..vd * ld].fill(0.0);
            }
            finish(s, ld, top, sum, &mut ot[..vd * ld]);
            // SAFETY: the rows and the head are this task's own.
            unsafe { untranspose(s, ot, ld, m, vd, t.out, t.segment.q + start, head * vd) };
            if let Some(lse) = t.lse {
                // SAFETY: as above.
                let to = unsafe { lse.slice(head * t.queries + t.segment.q + start, m) };
                to.copy_from_slice(&top[..m]);
            }
        }
    }
}

/// Raises `top` to the maximum down each column of the tile's `rows` rows, turns the scores into `exp(x - top)` and adds
/// them to `sum`; what was summed under a lower maximum, in `sum` and the rows of `before`, shrinks.
#[inline(always)]
fn exp_tile<S: Simd>(
    s: S,
    rows: usize,
    ld: usize,
    tile: &mut [f32],
    top: &mut [f32],
    sum: &mut [f32],
    before: &mut [f32],
) {
    assert!(rows > 0 && ld > 0 && ld.is_multiple_of(S::LANES) && tile.len() >= rows * ld);
    for c in (0..ld).step_by(S::LANES) {
        let base = tile[c..].as_mut_ptr();
        let old = s.load(&top[c..]);
        // Four maxima, as one would wait for itself.
        let mut tops = [old; 4];
        for j in (0..rows).step_by(4) {
            for (r, m) in tops.iter_mut().enumerate() {
                // SAFETY: row min(j + r, rows - 1) and columns c..c + LANES <= ld are inside the tile.
                *m = s.max(unsafe { s.load_ptr(base.add((j + r).min(rows - 1) * ld)) }, *m);
            }
        }
        let m = s.max(s.max(tops[0], tops[1]), s.max(tops[2], tops[3]));
        s.store(&mut top[c..], m);
        let mut acc = s.splat(0.0);
        for j in 0..rows {
            // SAFETY: as above.
            unsafe {
                let at = base.add(j * ld);
                let e = exp_weight(s, s.sub(s.load_ptr(at), m));
                acc = s.add(acc, e);
                s.store_ptr(at, e);
            }
        }
        let shrink = exp_weight(s, s.sub(old, m));
        let total = s.fma(s.load(&sum[c..]), shrink, acc);
        s.store(&mut sum[c..], total);
        for row in before.chunks_exact_mut(ld) {
            let x = s.mul(s.load(&row[c..]), shrink);
            s.store(&mut row[c..], x);
        }
    }
}

/// Divides the columns of `ot` by `sum`, where there is something to divide; `top` becomes the log-sum-exp.
#[inline(always)]
fn finish<S: Simd>(s: S, ld: usize, top: &mut [f32], sum: &[f32], ot: &mut [f32]) {
    let zero = s.splat(0.0);
    for c in (0..ld).step_by(S::LANES) {
        let total = s.load(&sum[c..]);
        // A NaN stays one: only zero is replaced.
        let inv = s.select_lt(s.abs(total), s.splat(f32::MIN_POSITIVE), zero, s.div(s.splat(1.0), total));
        for row in ot.chunks_exact_mut(ld) {
            let x = s.mul(s.load(&row[c..]), inv);
            s.store(&mut row[c..], x);
        }
        let lse = s.add(s.load(&top[c..]), ln(s, total));
        let lse = s.select_lt(total, s.splat(f32::MIN_POSITIVE), s.splat(f32::NEG_INFINITY), lse);
        s.store(&mut top[c..], lse);
    }
}

/// What becomes of a segment's attention map.
pub(super) struct MapTask<'a> {
    pub(super) spec: &'a Attend<'a>,
    pub(super) segment: Segment,
    pub(super) q: Rows<'a>,
    pub(super) k: Keys<'a>,
    /// Heads to run through; with `mean`, their maps are added up and divided by their number.
    pub(super) heads: std::ops::Range<usize>,
    pub(super) mean: bool,
    /// First query and queries, at most a block.
    pub(super) start: usize,
    pub(super) m: usize,
    /// The first head's map; others follow.
    pub(super) out: Target<'a>,
}

#[inline(always)]
pub(super) fn map_body<S: Simd>(s: S, t: MapTask<'_>) {
    let (hd, group, Segment { nq, nk, .. }) = (t.spec.head_dim, t.spec.group(), t.segment);
    let (hdp, ld) = (pad::<S>(hd), pad::<S>(t.m));
    let tile = pad_rows(nk) * ld;
    let lens = [pad_rows(nk) * hdp, hd * ld, tile, ld, ld, if t.mean { tile } else { 0 }];
    let mut buffer = scratch(lens.iter().sum::<usize>() + carve_slack(lens.len()));
    let [k, qt, p, top, sum, mean] = carve(&mut buffer, lens);
    mean.fill(0.0);
    let share = s.splat(1.0 / t.heads.len() as f32);
    for head in t.heads.clone() {
        let mut scores = Scores::new(t.spec, t.segment, head);
        scores.begin(t.start, t.m);
        // Neighbouring heads may share keys.
        if head == t.heads.start || head % group == 0 {
            pack(s, t.k.head(t.segment, head / group, hd), 0, nk, 0, hd, 1.0, k, hdp);
        }
        pack_transposed(s, t.q, t.segment.q + t.start, t.m, head * hd, hd, t.spec.scale, qt, ld);
        product::<S, false>(s, nk, ld, hd, k, hdp, qt, ld, p, ld, false);
        scores.apply(s, TileAt { start: t.start, m: t.m, key: 0, count: nk }, p, ld);
        top.fill(FLOOR);
        sum.fill(0.0);
        exp_tile(s, nk, ld, p, top, sum, &mut []);
        finish(s, ld, top, sum, &mut p[..nk * ld]);
        if t.mean {
            for (to, p) in mean[..nk * ld].chunks_exact_mut(S::LANES).zip(p.chunks_exact(S::LANES)) {
                let x = s.fma(s.load(p), share, s.load(to));
                s.store(to, x);
            }
            continue;
        }
        let row = (head - t.heads.start) * nq + t.start;
        // SAFETY: these rows of the head's map are this task's own.
        unsafe { untranspose(s, p, ld, t.m, nk, t.out, row, 0) };
    }
    if t.mean {
        // SAFETY: as above.
        unsafe { untranspose(s, mean, ld, t.m, nk, t.out, t.start, 0) };
    }
}

/// Floats that aligning each of `n` buffers may take.
pub(super) fn carve_slack(n: usize) -> usize {
    n * crate::threads::LINE
}
