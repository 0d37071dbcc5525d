//! Rotary position embedding: pairs of a head's floats turn by an angle that grows with the position.

use crate::attention::RowsMut;
use crate::dispatch::dispatch;
use crate::simd::Simd;
use crate::threads::{PARALLEL_FLOATS, Shared, run};

/// Rows per task.
const ROWS: usize = 16;

/// Which floats of a head make a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Float `i` and float `i + half` (the convention of LLaMA, GPT-NeoX and ModernBERT).
    Halves,
    /// Float `2 i` and float `2 i + 1` (that of GPT-J and RoFormer).
    Neighbours,
}

/// Angles by position, and how they are used.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<'a> {
    /// Cosines, `[positions, half]`.
    pub cos: &'a [f32],
    /// Sines, `[positions, half]`.
    pub sin: &'a [f32],
    /// Pairs that turn in each head; floats past the first `2 * half` stay.
    pub half: usize,
    /// What makes a pair.
    pub pairs: Pairs,
}

/// Turns the heads of each row of `x[rows, heads * head_dim]` in place, row `i` by the angles of `positions[i]`;
/// `rows` is the number of positions.
///
/// # Panics
/// If a length does not match, a position is beyond the tables or a head has fewer than `2 * half` floats.
pub fn rotary(x: RowsMut<'_>, heads: usize, head_dim: usize, rotary: &Rotary<'_>, positions: &[u32]) {
    turn(x, heads, head_dim, rotary, positions, 1.0);
}

/// Backward of [`rotary`]: the gradient in `dy[rows, heads * head_dim]` turns back, in place.
///
/// # Panics
/// As [`rotary`].
pub fn rotary_backward(dy: RowsMut<'_>, heads: usize, head_dim: usize, rotary: &Rotary<'_>, positions: &[u32]) {
    turn(dy, heads, head_dim, rotary, positions, -1.0);
}

fn turn(x: RowsMut<'_>, heads: usize, head_dim: usize, r: &Rotary<'_>, positions: &[u32], sign: f32) {
    let (rows, dim, half) = (positions.len(), heads * head_dim, r.half);
    assert_eq!(r.cos.len(), r.sin.len(), "lengths of cos and sin");
    assert!(2 * half <= head_dim, "{half} pairs in a head of {head_dim}");
    x.as_rows().check(rows, dim, "x");
    let top = positions.iter().max().map_or(0, |&p| p as usize + 1);
    assert!(top.saturating_mul(half) <= r.cos.len(), "position {} is beyond the tables", top.saturating_sub(1));
    if half == 0 || dim == 0 {
        return;
    }
    let (stride, offset, data) = (x.stride, x.offset, Shared::new(x.data));
    run(rows.div_ceil(ROWS), rows * dim >= PARALLEL_FLOATS, |task| {
        for (row, &position) in positions.iter().enumerate().skip(task * ROWS).take(ROWS) {
            let at = position as usize * half;
            let (cos, sin) = (&r.cos[at..at + half], &r.sin[at..at + half]);
            // SAFETY: rows do not overlap, and a row is one task's.
            let x = unsafe { data.slice(row * stride + offset, dim) };
            turn_row(x, head_dim, cos, sin, sign, r.pairs);
        }
    });
}

dispatch!(fn turn_row = turn_row_body(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32, pairs: Pairs));

#[inline(always)]
fn turn_row_body<S: Simd>(s: S, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32, pairs: Pairs) {
    let half = cos.len();
    let sign_v = s.splat(sign);
    for head in x.chunks_exact_mut(head_dim) {
        if pairs == Pairs::Neighbours {
            // Plain code, which the compiler turns into vectors and shuffles.
            for ((pair, &c), &n) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                let [a, b] = *pair;
                let n = n * sign;
                *pair = [a * c - b * n, b * c + a * n];
            }
            continue;
        }
        let (low, high) = head[..2 * half].split_at_mut(half);
        for i in (0..half).step_by(S::LANES) {
            let at = i..half.min(i + S::LANES);
            let (c, n) = (s.load_part(&cos[at.clone()]), s.mul(sign_v, s.load_part(&sin[at.clone()])));
            let (a, b) = (s.load_part(&low[at.clone()]), s.load_part(&high[at.clone()]));
            s.store_part(&mut low[at.clone()], s.fnma(b, n, s.mul(a, c)));
            s.store_part(&mut high[at], s.fma(a, n, s.mul(b, c)));
        }
    }
}
