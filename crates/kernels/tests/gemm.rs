//! Dense products and layer norm against their references.
mod common;

use common::{Rng, SIZES, assert_close, dot, each_isa, numeric_grad};
use switchformer_kernels::{
    Act, Epilogue, Layout, PackedMatrix, gemm, layer_norm, layer_norm_backward, linear, linear_backward, linear_fused,
    linear_packed, reference,
};

#[test]
fn gemm_in_every_layout() {
    each_isa(|isa| {
        every_layout(&format!("{isa:?}"));
    });
}

fn every_layout(isa: &str) {
    let mut rng = Rng::new(1);
    for m in [0, 1, 2, 7, 16, 33, 67] {
        for n in [0, 1, 5, 8, 17, 64] {
            for k in [0, 1, 3, 16, 31, 130] {
                let (a, b, c) = (rng.floats(m * k), rng.floats(k * n), rng.floats(m * n));
                for (la, lb) in [
                    (Layout::Normal, Layout::Normal),
                    (Layout::Normal, Layout::Transposed),
                    (Layout::Transposed, Layout::Normal),
                    (Layout::Transposed, Layout::Transposed),
                ] {
                    let at = |i, p| if la == Layout::Normal { a[i * k + p] } else { a[p * m + i] };
                    let bt = |p, j| if lb == Layout::Normal { b[p * n + j] } else { b[j * k + p] };
                    let mut want = reference::gemm(m, n, k, at, bt);
                    // With beta 0 what was there must not show, not even a NaN.
                    let mut got = vec![f32::NAN; m * n];
                    gemm(m, n, k, &a, la, &b, lb, 0.0, &mut got);
                    assert_close(&got, &want, 1e-5, &format!("{isa} {m}x{n}x{k} {la:?} {lb:?}"));
                    let mut got = c.clone();
                    gemm(m, n, k, &a, la, &b, lb, 1.0, &mut got);
                    want.iter_mut().zip(&c).for_each(|(w, c)| *w += c);
                    assert_close(&got, &want, 1e-5, &format!("{isa} {m}x{n}x{k} {la:?} {lb:?} added"));
                }
            }
        }
    }
}

#[test]
fn linear_and_its_gradients() {
    let mut rng = Rng::new(2);
    for (m, i, o) in [(0, 3, 4), (1, 1, 1), (3, 0, 2), (3, 5, 0), (5, 7, 3), (300, 4, 17), (17, 33, 9), (129, 1, 1)] {
        let (x, w, b, dy) = (rng.floats(m * i), rng.floats(o * i), rng.floats(o), rng.floats(m * o));
        for bias in [None, Some(&b[..])] {
            let mut y = vec![f32::NAN; m * o];
            linear(m, i, o, &x, &w, bias, &mut y);
            if o > 0 {
                assert_close(&y, &reference::linear(m, i, o, &x, &w, bias), 1e-5, "linear");
            }
        }
        each_isa(|isa| {
            let (mut dx, mut dw, mut db) = (vec![f32::NAN; m * i], vec![1.0; o * i], vec![2.0; o]);
            linear_backward(m, i, o, &x, &w, &dy, Some(&mut dx), Some(&mut dw), Some(&mut db));
            linear_backward(m, i, o, &x, &w, &dy, None, None, None);
            let want = reference::gemm(m, i, o, |r, p| dy[r * o + p], |p, j| w[p * i + j]);
            assert_close(&dx, &want, 1e-5, &format!("{isa:?} dx"));
            let mut want = reference::gemm(o, i, m, |r, p| dy[p * o + r], |p, j| x[p * i + j]);
            want.iter_mut().for_each(|v| *v += 1.0);
            assert_close(&dw, &want, 1e-5, &format!("{isa:?} dw"));
            let mut want = reference::gemm(o, 1, m, |r, p| dy[p * o + r], |_, _| 1.0);
            want.iter_mut().for_each(|v| *v += 2.0);
            assert_close(&db, &want, 1e-5, &format!("{isa:?} db"));
        });
    }
}

/// Deeper than one block of the depth, and wider than one block of panels.
#[test]
fn large_products_match() {
    each_isa(|isa| {
        let mut rng = Rng::new(11);
        for (m, n, k) in [(3, 1500, 40), (800, 50, 30), (5, 9, 1700), (13, 100, 1536), (9, 7, 768), (2, 3, 769)] {
            let (a, b) = (rng.floats(m * k), rng.floats(n * k));
            let mut got = vec![f32::NAN; m * n];
            gemm(m, n, k, &a, Layout::Normal, &b, Layout::Transposed, 0.0, &mut got);
            let want = reference::gemm(m, n, k, |i, p| a[i * k + p], |p, j| b[j * k + p]);
            assert_close(&got, &want, 2e-5, &format!("{isa:?} {m}x{n}x{k}"));
        }
    });
}

#[test]
fn what_follows_a_product() {
    type Twin = fn(f64) -> f64;
    let acts: [(Option<Act>, Twin); 7] = [
        (None, |x| x),
        (Some(Act::GeluErf), reference::gelu_erf),
        (Some(Act::GeluTanh), reference::gelu_tanh),
        (Some(Act::GeluQuick), reference::gelu_quick),
        (Some(Act::Relu), |x| x.max(0.0)),
        (Some(Act::Silu), |x| x / (1.0 + (-x).exp())),
        (Some(Act::Tanh), f64::tanh),
    ];
    each_isa(|isa| {
        let mut rng = Rng::new(12);
        for (m, k, n) in [(0, 3, 5), (1, 0, 4), (1, 1, 1), (7, 5, 70), (30, 17, 33), (1, 900, 97), (20, 64, 48)] {
            let (x, w, bias) = (rng.floats(m * k), rng.floats(n * k), rng.floats(n));
            let (gate, residual) = (rng.floats(m * n), rng.floats(m * n));
            let plain = reference::linear(m, k, n, &x, &w, None);
            let packed = PackedMatrix::new(k, n, &w);
            assert_eq!(packed.dims(), (k, n));
            for (act, f) in acts {
                for parts in 0..8 {
                    let then = Epilogue {
                        bias: (parts & 1 > 0).then_some(&bias[..]),
                        act,
                        gate: (parts & 2 > 0).then_some(&gate[..]),
                        residual: (parts & 4 > 0).then_some(&residual[..]),
                    };
                    let want: Vec<f32> = (0..m * n)
                        .map(|i| {
                            let v = f(f64::from(plain[i] + then.bias.map_or(0.0, |b| b[i % n])));
                            let v = v * f64::from(then.gate.map_or(1.0, |g| g[i]));
                            (v + f64::from(then.residual.map_or(0.0, |r| r[i]))) as f32
                        })
                        .collect();
                    let what = format!("{isa:?} {m}x{k}x{n} {act:?} parts {parts}");
                    let mut got = vec![f32::NAN; m * n];
                    linear_packed(m, &x, &packed, &then, &mut got);
                    assert_close(&got, &want, 2e-5, &what);
                    let mut again = vec![f32::NAN; m * n];
                    linear_fused(m, k, n, &x, &w, &then, &mut again);
                    assert_eq!(got, again, "packed or not: {what}");
                }
            }
        }
    });
}

/// A row's bits do not depend on how many rows there are.
#[test]
fn rows_do_not_depend_on_one_another() {
    each_isa(|isa| {
        let mut rng = Rng::new(13);
        for (k, n) in [(64, 192), (770, 50), (1600, 33)] {
            let (x, w, bias) = (rng.floats(100 * k), rng.floats(n * k), rng.floats(n));
            let packed = PackedMatrix::new(k, n, &w);
            let then = Epilogue { bias: Some(&bias), act: Some(Act::GeluErf), ..Epilogue::default() };
            let mut all = vec![0.0; 100 * n];
            linear_packed(100, &x, &packed, &then, &mut all);
            for (first, m) in [(0, 1), (3, 1), (50, 2), (7, 13), (99, 1)] {
                let mut some = vec![0.0; m * n];
                linear_packed(m, &x[first * k..][..m * k], &packed, &then, &mut some);
                assert_eq!(some, all[first * n..][..m * n], "{isa:?} rows {first}.. of {k}x{n}");
            }
        }
    });
}

#[test]
fn linear_gradients_by_differences() {
    let mut rng = Rng::new(3);
    let (m, i, o) = (4, 5, 3);
    let (x, w, b, dy) = (rng.floats(m * i), rng.floats(o * i), rng.floats(o), rng.floats(m * o));
    let (mut dx, mut dw, mut db) = (vec![0.0; m * i], vec![0.0; o * i], vec![0.0; o]);
    linear_backward(m, i, o, &x, &w, &dy, Some(&mut dx), Some(&mut dw), Some(&mut db));
    let loss = |x: &[f32], w: &[f32], b: &[f32]| dot(&reference::linear(m, i, o, x, w, Some(b)), &dy);
    assert_close(&dx, &numeric_grad(&x, |x| loss(x, &w, &b)), 2e-4, "dx");
    assert_close(&dw, &numeric_grad(&w, |w| loss(&x, w, &b)), 2e-4, "dw");
    assert_close(&db, &numeric_grad(&b, |b| loss(&x, &w, b)), 2e-4, "db");
}

#[test]
#[should_panic(expected = "length of b")]
fn gemm_refuses_a_wrong_length() {
    gemm(2, 2, 2, &[0.0; 4], Layout::Normal, &[0.0; 3], Layout::Normal, 0.0, &mut [0.0; 4]);
}

#[test]
fn layer_norm_matches() {
    each_isa(|isa| {
        let mut rng = Rng::new(4);
        for dim in SIZES.into_iter().chain([192, 768]) {
            for rows in [0, 1, 5, 130] {
                let (g, b) = (rng.floats(dim), rng.floats(dim));
                for (size, mean) in [(1.0, 0.0), (0.01, 3.0), (30.0, -100.0)] {
                    let x: Vec<f32> = rng.floats(rows * dim + 1).iter().map(|v| v * size + mean).collect();
                    let x = &x[1..];
                    let mut y = vec![f32::NAN; rows * dim];
                    layer_norm(rows, dim, x, &g, &b, 1e-5, &mut y);
                    if dim > 0 {
                        let want = reference::layer_norm(dim, x, &g, &b, 1e-5);
                        // A mean that dwarfs the deviation costs digits in any f32 kernel.
                        let tol = if mean == 0.0 { 3e-6 } else { 1e-4 };
                        assert_close(&y, &want, tol, &format!("{isa:?} {rows}x{dim}"));
                    }
                }
            }
        }
    });
}

#[test]
fn layer_norm_gradients_by_differences() {
    each_isa(|isa| {
        let mut rng = Rng::new(5);
        for (rows, dim) in [(0, 4), (3, 0), (1, 2), (2, 7), (3, 16), (2, 33), (300, 3)] {
            let x: Vec<f32> = rng.floats(rows * dim).iter().map(|v| v * 2.0).collect();
            let (g, b, dy) = (rng.floats(dim), rng.floats(dim), rng.floats(rows * dim));
            let (mut dx, mut dg, mut db) = (vec![f32::NAN; rows * dim], vec![1.0; dim], vec![2.0; dim]);
            // An eps large enough that rows of two or three elements are not all corner.
            let eps = 0.1;
            layer_norm_backward(rows, dim, &x, &g, eps, &dy, &mut dx, &mut dg, &mut db);
            if dim == 0 {
                continue;
            }
            let loss = |x: &[f32], g: &[f32], b: &[f32]| dot(&reference::layer_norm(dim, x, g, b, eps), &dy);
            let what = format!("{isa:?} {rows}x{dim}");
            let want: Vec<f32> = (0..rows)
                .flat_map(|r| {
                    let at = r * dim..(r + 1) * dim;
                    let dy = &dy[at.clone()];
                    numeric_grad(&x[at], |x| dot(&reference::layer_norm(dim, x, &g, &b, eps), dy))
                })
                .collect();
            assert_close(&dx, &want, 5e-4, &what);
            let plus = |v: Vec<f32>, by: f32| v.iter().map(|v| v + by).collect::<Vec<_>>();
            assert_close(&dg, &plus(numeric_grad(&g, |g| loss(&x, g, &b)), 1.0), 5e-4, &what);
            assert_close(&db, &plus(numeric_grad(&b, |b| loss(&x, &g, b)), 2.0), 5e-4, &what);
        }
    });
}

#[test]
fn packed_weights_come_back_as_they_were() {
    each_isa(|_| {
        for (k, n) in [(1, 1), (3, 5), (16, 48), (17, 49), (100, 97), (0, 4), (4, 0)] {
            let w = Rng::new(7).floats(k * n);
            assert_eq!(PackedMatrix::new(k, n, &w).unpack(), w, "[{n}, {k}]");
        }
    });
}
