//! Channels of several parts mixed place by place: a point-wise convolution with as many groups as a part has channels.

use crate::dispatch::dispatch;
use crate::threads::{PARALLEL_FLOATS, Shared, run, run_chunks};

/// Rows per task, and per block of a sum over rows.
const ROWS: usize = 64;

/// Shape of [`mix_parts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    /// Parts side by side.
    pub parts: usize,
    /// Channels of a part, which is the number of groups.
    pub width: usize,
    /// Channels that each group makes.
    pub out: usize,
}

/// `y[row, g * out + o] = bias[g * out + o] + sum over p of w[g, o, p] * x[row, p * width + g]`, with
/// `x[rows, parts * width]`, `w[width, out, parts]`, `bias[width * out]` and `y[rows, width * out]`.
///
/// # Panics
/// If a length does not match.
pub fn mix_parts(shape: &Mix, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]) {
    let Mix { parts, width, out } = *shape;
    check(shape, x.len(), w.len(), y.len());
    assert_eq!(bias.len(), width * out, "length of bias");
    let turned = turned(w, out, parts);
    run_chunks(y, (ROWS * width * out).max(1), |at, y| {
        let first = at / (width * out);
        let rows = y.len() / (width * out);
        forward_rows(shape, &x[first * parts * width..][..rows * parts * width], &turned, bias, y);
    });
}

/// Backward of [`mix_parts`]: `dx` is overwritten, `dw[width, out, parts]` and `dbias[width * out]` are added to.
///
/// # Panics
/// As [`mix_parts`].
pub fn mix_parts_backward(
    shape: &Mix,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dw: &mut [f32],
    dbias: &mut [f32],
) {
    let Mix { parts, width, out } = *shape;
    check(shape, x.len(), w.len(), dy.len());
    assert_eq!(dx.len(), x.len(), "length of dx");
    assert_eq!(dw.len(), w.len(), "length of dw");
    assert_eq!(dbias.len(), width * out, "length of dbias");
    if width * out * parts == 0 {
        return;
    }
    let turned = turned(w, out, parts);
    let rows = dy.len() / (width * out);
    // Sums of each block of rows, then of the blocks in their order: the same for any number of threads.
    let (blocks, size) = (rows.div_ceil(ROWS), width * out * (parts + 1));
    let mut sums = vec![0f32; blocks * size];
    let (shared, dx) = (Shared::new(&mut sums), Shared::new(dx));
    run(blocks, dy.len() >= PARALLEL_FLOATS, |block| {
        let (first, n) = (block * ROWS, ROWS.min(rows - block * ROWS));
        // SAFETY: each block has rows and sums of its own.
        let (dx, sums) =
            unsafe { (dx.slice(first * parts * width, n * parts * width), shared.slice(block * size, size)) };
        let (x, dy) = (&x[first * parts * width..][..n * parts * width], &dy[first * width * out..][..n * width * out]);
        backward_rows(shape, x, &turned, dy, dx, sums);
    });
    for sums in sums.chunks_exact(size) {
        let (weights, biases) = sums.split_at(width * out * parts);
        dbias.iter_mut().zip(biases).for_each(|(d, s)| *d += s);
        for (g, own) in weights.chunks_exact(parts * out).enumerate() {
            for (p, own) in own.chunks_exact(out).enumerate() {
                own.iter().enumerate().for_each(|(o, s)| dw[(g * out + o) * parts + p] += s);
            }
        }
    }
}

fn check(shape: &Mix, x: usize, w: usize, y: usize) {
    let Mix { parts, width, out } = *shape;
    assert_eq!(w, width * out * parts, "length of w");
    let rows = x.checked_div(parts * width).unwrap_or(0);
    assert_eq!(x, rows * parts * width, "x must be whole rows");
    assert_eq!(y, rows * width * out, "length of y");
}

/// `[width, out, parts]` as `[width, parts, out]`.
fn turned(w: &[f32], out: usize, parts: usize) -> Vec<f32> {
    let group = |w: &[f32]| (0..parts).flat_map(|p| w.iter().skip(p).step_by(parts)).copied().collect::<Vec<_>>();
    w.chunks_exact((out * parts).max(1)).flat_map(group).collect()
}

dispatch!(fn forward_rows = forward_body(shape: &Mix, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]));

// Plain code: a group makes few channels, which the compiler turns into one or two vectors.
#[inline(always)]
fn forward_body<S: Copy>(_: S, shape: &Mix, x: &[f32], w: &[f32], bias: &[f32], y: &mut [f32]) {
    let Mix { parts, width, out } = *shape;
    for (x, y) in x.chunks_exact(parts * width).zip(y.chunks_exact_mut(width * out)) {
        y.copy_from_slice(bias);
        for ((g, y), w) in y.chunks_exact_mut(out).enumerate().zip(w.chunks_exact(parts * out)) {
            for (w, x) in w.chunks_exact(out).zip(x[g..].iter().step_by(width)) {
                y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
            }
        }
    }
}

dispatch!(fn backward_rows = backward_body(shape: &Mix, x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32],
    sums: &mut [f32]));

#[inline(always)]
fn backward_body<S: Copy>(_: S, shape: &Mix, x: &[f32], w: &[f32], dy: &[f32], dx: &mut [f32], sums: &mut [f32]) {
    let Mix { parts, width, out } = *shape;
    let (weights, biases) = sums.split_at_mut(width * out * parts);
    for ((x, dx), dy) in
        x.chunks_exact(parts * width).zip(dx.chunks_exact_mut(parts * width)).zip(dy.chunks_exact(width * out))
    {
        biases.iter_mut().zip(dy).for_each(|(b, g)| *b += g);
        for (g, dy) in dy.chunks_exact(out).enumerate() {
            for p in 0..parts {
                let at = (g * parts + p) * out;
                let v = x[p * width + g];
                weights[at..at + out].iter_mut().zip(dy).for_each(|(s, d)| *s += v * d);
                dx[p * width + g] = w[at..at + out].iter().zip(dy).map(|(w, d)| w * d).sum();
            }
        }
    }
}
