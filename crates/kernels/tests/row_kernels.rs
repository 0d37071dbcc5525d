//! Norms of sums, sums, and rotations against plain f64 twins and differences.
mod common;

use common::{Rng, SIZES, assert_close, dot, each_isa, numeric_grad};
use switchformer_kernels::*;

const EPS: f32 = 1e-5;

/// `(y, sum)` of a norm.
fn forward(rms: bool, dim: usize, x: &[f32], r: Option<&[f32]>, g: &[f32], b: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let rows = x.len() / dim;
    let (mut y, mut sum) = (vec![f32::NAN; x.len()], vec![f32::NAN; x.len()]);
    match (rms, r) {
        (false, None) => layer_norm(rows, dim, x, g, b, EPS, &mut y),
        (false, Some(r)) => layer_norm_residual(rows, dim, x, r, g, b, EPS, &mut sum, &mut y),
        (true, None) => rms_norm(rows, dim, x, g, EPS, &mut y),
        (true, Some(r)) => rms_norm_residual(rows, dim, x, r, g, EPS, &mut sum, &mut y),
    }
    (y, sum)
}

fn naive(rms: bool, dim: usize, x: &[f32], g: &[f32], b: &[f32]) -> Vec<f32> {
    if rms { reference::rms_norm(dim, x, g, EPS) } else { reference::layer_norm(dim, x, g, b, EPS) }
}

#[test]
fn norms_match_alone_and_with_a_residual() {
    each_isa(|isa| {
        for rms in [false, true] {
            for dim in SIZES.into_iter().filter(|&d| d > 0) {
                for rows in [0, 1, 3, 130] {
                    let mut rng = Rng::new((dim + rows) as u64);
                    let (x, r) = (rng.floats(rows * dim), rng.floats(rows * dim));
                    let (g, b) = (rng.floats(dim), rng.floats(dim));
                    let what = format!("{isa:?} rms {rms} {rows} x {dim}");
                    let want_sum: Vec<f32> = x.iter().zip(&r).map(|(a, b)| a + b).collect();
                    let (y, sum) = forward(rms, dim, &x, Some(&r), &g, &b);
                    assert_eq!(sum, want_sum, "{what}");
                    // A row of one float is all rounding for a layer norm.
                    let tol = if dim < 4 { 2e-3 } else { 1e-5 };
                    assert_close(&y, &naive(rms, dim, &sum, &g, &b), tol, &what);
                    assert_eq!(forward(rms, dim, &sum, None, &g, &b).0, y, "{what}");
                }
            }
        }
    });
}

#[test]
fn norm_gradients_by_differences() {
    each_isa(|isa| {
        for (rms, rows, dim) in [(false, 3, 7), (true, 3, 7), (true, 2, 17), (false, 2, 16), (true, 1, 1)] {
            let mut rng = Rng::new(dim as u64);
            let n = rows * dim;
            let [x, r, dy, dsum] = [(); 4].map(|()| rng.floats(n));
            let (g, b) = (rng.floats(dim), rng.floats(dim));
            let sum: Vec<f32> = x.iter().zip(&r).map(|(a, b)| a + b).collect();
            let want = numeric_grad(&sum, |h| dot(&naive(rms, dim, h, &g, &b), &dy) + dot(h, &dsum));
            let want_g = numeric_grad(&g, |g| dot(&naive(rms, dim, &sum, g, &b), &dy));
            let (mut dx, mut dg, mut db) = (vec![f32::NAN; n], vec![1.0; dim], vec![1.0; dim]);
            if rms {
                rms_norm_residual_backward(rows, dim, &sum, &g, EPS, &dy, Some(&dsum), &mut dx, &mut dg);
            } else {
                layer_norm_residual_backward(rows, dim, &sum, &g, EPS, &dy, Some(&dsum), &mut dx, &mut dg, &mut db);
                for (c, db) in db.iter().enumerate() {
                    let want: f32 = 1.0 + dy.iter().skip(c).step_by(dim).sum::<f32>();
                    assert_close(&[*db], &[want], 1e-5, "dbeta");
                }
            }
            let what = format!("{isa:?} rms {rms} {rows} x {dim}");
            assert_close(&dx, &want, 2e-3, &what);
            let dg: Vec<f32> = dg.iter().map(|v| v - 1.0).collect();
            assert_close(&dg, &want_g, 2e-3, &what);
            if rms {
                let mut alone = vec![f32::NAN; n];
                rms_norm_backward(rows, dim, &sum, &g, EPS, &dy, &mut alone, &mut vec![0.0; dim]);
                let both: Vec<f32> = alone.iter().zip(&dsum).map(|(a, b)| a + b).collect();
                assert_eq!(both, dx, "{what}");
            }
        }
    });
}

#[test]
fn sums_are_exact() {
    each_isa(|isa| {
        for n in SIZES.into_iter().chain([40_001]) {
            let mut rng = Rng::new(n as u64);
            let (a, b) = (rng.floats(n), rng.floats(n));
            let want: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let mut y = vec![f32::NAN; n];
            add(&a, &b, &mut y);
            assert_eq!(y, want, "{isa:?} {n}");
            let mut y = a.clone();
            add_in_place(&mut y, &b);
            assert_eq!(y, want, "{isa:?} {n} in place");
        }
    });
}

#[test]
fn rotations_turn_and_turn_back() {
    each_isa(|isa| {
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            for (rows, heads, hd, half) in [
                (0, 1, 2, 1),
                (1, 1, 2, 1),
                (3, 2, 5, 2),
                (5, 3, 64, 32),
                (7, 1, 70, 17),
                (700, 2, 32, 16),
                (2, 2, 4, 0),
            ] {
                let mut rng = Rng::new((rows * hd) as u64 + 1);
                let angles: Vec<f32> = rng.floats(40 * half).iter().map(|a| a * 3.0).collect();
                let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
                let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
                let table = Rotary { cos: &cos, sin: &sin, half, pairs };
                let positions: Vec<u32> = (0..rows).map(|_| rng.bits() % 40).collect();
                // Rows within wider ones, as in a fused projection.
                let (stride, offset) = (3 * heads * hd, heads * hd);
                let x = rng.floats(rows * stride);
                let mut y = x.clone();
                rotary(RowsMut { data: &mut y, stride, offset }, heads, hd, &table, &positions);
                let mut want = x.clone();
                for (row, &p) in positions.iter().enumerate() {
                    for h in 0..heads {
                        let at = row * stride + offset + h * hd;
                        for i in 0..half {
                            let (a, b) = if pairs == Pairs::Halves {
                                (at + i, at + half + i)
                            } else {
                                (at + 2 * i, at + 2 * i + 1)
                            };
                            let (c, n) = (cos[p as usize * half + i], sin[p as usize * half + i]);
                            let turn = |u: f32, v: f32, w: f32, z: f32| {
                                f64::from(u) * f64::from(v) + f64::from(w) * f64::from(z)
                            };
                            want[a] = turn(x[a], c, -x[b], n) as f32;
                            want[b] = turn(x[b], c, x[a], n) as f32;
                        }
                    }
                }
                let what = format!("{isa:?} {pairs:?} {rows} x {heads} x {hd}, {half} pairs");
                assert_close(&y, &want, 1e-6, &what);
                // A rotation's transpose is its inverse.
                rotary_backward(RowsMut { data: &mut y, stride, offset }, heads, hd, &table, &positions);
                assert_close(&y, &x, 1e-5, &what);
            }
        }
    });
}

#[test]
#[should_panic(expected = "beyond the tables")]
fn positions_beyond_the_tables_are_refused() {
    let table = Rotary { cos: &[1.0], sin: &[0.0], half: 1, pairs: Pairs::Halves };
    rotary(RowsMut::packed(&mut [0.0; 2], 2), 1, 2, &table, &[1]);
}
