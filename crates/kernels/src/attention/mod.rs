//! Attention over packed rows: segments of a batch lie one after another, without padding, and
//! each row attends to the rows of its own segment - or to those of the same segment among other
//! keys, with what options [`Attend`] has.

mod backward;
mod forward;
mod pairs;
mod scores;
mod single;
mod spec;
mod tile;
mod views;

pub use pairs::{PairPlaces, pair_scores, pair_scores_backward};
pub use spec::{Attend, Bias, Packed, Positions, Zones};
pub use views::{Keys, QkvGrad, Rows, RowsMut, Slab};

use crate::dispatch::dispatch;
use crate::threads::{self, Shared};
use views::Target;

/// Rows of queries handled at once: whole vectors.
const QUERY_BLOCK: usize = 64;
/// Keys handled at once: whole row blocks.
const KEY_BLOCK: usize = 128;
/// Multiply-adds below which one thread is quicker.
const PARALLEL_MACS: usize = 256 * 1024;

dispatch!(fn forward_task = forward::body(task: forward::Task<'_>));
dispatch!(fn single_task = single::body(task: forward::Task<'_>));
dispatch!(fn map_task = forward::map_body(task: forward::MapTask<'_>));
dispatch!(fn backward_task = backward::body(task: backward::Task<'_>));

/// `out[total, dim]` = softmax(q k^T scale) v for each segment and head, where `q`, `k` and `v` are
/// `[total, dim]` and `dim = heads * head_dim`. `lse[heads, total]`, if given, gets the logarithm of
/// each softmax's denominator, which [`attention_backward`] needs.
///
/// No more than a tile of scores is ever in memory.
///
/// # Panics
/// If a length does not match or `cu` does not rise from 0.
pub fn attention(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, out: &mut [f32], lse: Option<&mut [f32]>) {
    attend(&packed.attend(), q, k, v, out, lse);
}

/// The attention map of one segment of `n` rows: `probs[heads, n, n]` = softmax(q k^T scale).
///
/// # Panics
/// If a length does not match or there is no such segment.
pub fn attention_probs(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, segment: usize, probs: &mut [f32]) {
    attend_probs(&packed.attend(), q, k, segment, probs);
}

/// Backward of [`attention`] from its `out[total, dim]`, its `lse[heads, total]` and
/// `dout[total, dim]`; overwrites the gradients in `grad`. Probabilities are computed again, a tile
/// at a time.
///
/// # Panics
/// If a length does not match or `cu` does not rise from 0.
pub fn attention_backward(
    packed: &Packed<'_>,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    grad: QkvGrad<'_>,
) {
    attend_backward(&packed.attend(), q, k, v, out, lse, dout, grad, None);
}

/// [`attention`] with options: `q` is `[queries, dim]`, `k` is `[keys, dim_kv]`, `v` is `[keys, dim_values]`, `out` is
/// `[queries, dim_out]`, `lse` is `[heads, queries]`.
///
/// # Panics
/// If a length does not match, `cu_q` or `cu_k` does not rise from 0, or `heads_kv` does not divide `heads`.
pub fn attend<'a>(
    spec: &Attend<'_>,
    q: Rows<'_>,
    k: impl Into<Keys<'a>>,
    v: impl Into<Keys<'a>>,
    out: &mut [f32],
    lse: Option<&mut [f32]>,
) {
    let (k, v) = (k.into(), v.into());
    spec.check();
    let (queries, dim) = (spec.queries(), spec.dim());
    q.check(queries, dim, "q");
    k.check(spec, spec.head_dim, "k");
    v.check(spec, spec.value_dim, "v");
    assert_eq!(out.len(), queries * spec.dim_out(), "length of out");
    let lse = lse.map(|lse| {
        assert_eq!(lse.len(), spec.heads * queries, "length of lse");
        Shared::new(lse)
    });
    if dim * spec.value_dim == 0 {
        return;
    }
    let out = Target { data: Shared::new(out), stride: spec.dim_out(), offset: 0 };
    threads::run(spec.segments() * spec.heads_kv, 2 * spec.macs() >= PARALLEL_MACS, |i| {
        let (segment, head_kv) = (spec.segment(i / spec.heads_kv), i % spec.heads_kv);
        let (k, v) = (k.head(segment, head_kv, spec.head_dim), v.head(segment, head_kv, spec.value_dim));
        let task = forward::Task { spec, segment, head_kv, q, k, v, out, lse, queries };
        match segment.nq {
            0 => {}
            // Nothing is read twice, so nothing is worth packing.
            1 => single_task(task),
            _ => forward_task(task),
        }
    });
}

/// The attention map of one segment of `n_q` queries and `n_k` keys: `probs[heads, n_q, n_k]`.
///
/// # Panics
/// If a length does not match or there is no such segment.
pub fn attend_probs<'a>(spec: &Attend<'_>, q: Rows<'_>, k: impl Into<Keys<'a>>, segment: usize, probs: &mut [f32]) {
    map(spec, q, k.into(), segment, probs, false);
}

/// [`attend_probs`], the mean over heads: `probs[n_q, n_k]`.
///
/// # Panics
/// If a length does not match or there is no such segment.
pub fn attend_probs_mean(spec: &Attend<'_>, q: Rows<'_>, k: Rows<'_>, segment: usize, probs: &mut [f32]) {
    map(spec, q, k.into(), segment, probs, true);
}

fn map(spec: &Attend<'_>, q: Rows<'_>, k: Keys<'_>, segment: usize, probs: &mut [f32], mean: bool) {
    spec.check();
    q.check(spec.queries(), spec.dim(), "q");
    k.check(spec, spec.head_dim, "k");
    assert!(segment < spec.segments(), "no segment {segment}");
    let segment = spec.segment(segment);
    let (nq, nk) = (segment.nq, segment.nk);
    let maps = if mean { 1 } else { spec.heads };
    assert_eq!(probs.len(), maps * nq * nk, "length of probs");
    if probs.is_empty() || spec.dim() == 0 {
        // The mean over no heads.
        probs.fill(0.0);
        return;
    }
    let probs = Shared::new(probs);
    let blocks = nq.div_ceil(QUERY_BLOCK);
    threads::run(maps * blocks, nq * nk * spec.dim() >= PARALLEL_MACS, |i| {
        let (head, start) = (i / blocks, i % blocks * QUERY_BLOCK);
        let heads = if mean { 0..spec.heads } else { head..head + 1 };
        let m = QUERY_BLOCK.min(nq - start);
        let out = Target { data: probs, stride: nk, offset: head * nq * nk };
        map_task(forward::MapTask { spec, segment, q, k, heads, mean, start, m, out });
    });
}

/// Backward of [`attend`] from its `out`, its `lse[heads, queries]` and `dout[queries, dim_out]`; overwrites the gradients
/// in `grad` and adds to `dbias`, which has the shape of the bias.
///
/// With `dbias`, threads share the heads of keys only: the segments' gradients are added in order.
///
/// # Panics
/// As [`attend`], or if `dbias` is asked for where there is no bias.
pub fn attend_backward(
    spec: &Attend<'_>,
    q: Rows<'_>,
    k: Rows<'_>,
    v: Rows<'_>,
    out: &[f32],
    lse: &[f32],
    dout: &[f32],
    grad: QkvGrad<'_>,
    dbias: Option<&mut [f32]>,
) {
    spec.check();
    let (queries, keys, dim) = (spec.queries(), spec.keys(), spec.dim());
    q.check(queries, dim, "q");
    k.check(keys, spec.dim_kv(), "k");
    v.check(keys, spec.dim_values(), "v");
    assert_eq!(out.len(), queries * spec.dim_out(), "length of out");
    assert_eq!(dout.len(), queries * spec.dim_out(), "length of dout");
    assert_eq!(lse.len(), spec.heads * queries, "length of lse");
    let [dq, dk, dv] = grad.targets([(queries, dim), (keys, spec.dim_kv()), (keys, spec.dim_values())]);
    let bias_len = match spec.bias {
        Bias::None => 0,
        Bias::Dense(b) | Bias::Relative(b) => b.len(),
    };
    let dbias = dbias.map(|d| {
        assert!(d.len() == bias_len && !matches!(spec.bias, Bias::None), "length of dbias");
        Shared::new(d)
    });
    if dim * spec.value_dim == 0 {
        return;
    }
    let (out, dout) = (Rows::packed(out, spec.dim_out()), Rows::packed(dout, spec.dim_out()));
    let task = |segment, head_kv| {
        let segment = spec.segment(segment);
        if segment.nq + segment.nk > 0 {
            let task = backward::Task { spec, segment, head_kv, q, k, v, out, dout, lse, queries, dq, dk, dv, dbias };
            backward_task(task);
        }
    };
    let parallel = 5 * spec.macs() >= PARALLEL_MACS;
    if dbias.is_some() {
        threads::run(spec.heads_kv, parallel, |head| (0..spec.segments()).for_each(|i| task(i, head)));
    } else {
        let count = spec.segments() * spec.heads_kv;
        threads::run(count, parallel, |i| task(i / spec.heads_kv, i % spec.heads_kv));
    }
}
