//! Rows by index, and the optimiser.
mod common;

use common::{Rng, SIZES, assert_close, each_isa};
use switchformer_kernels::optim::{adamw_step, sum_squares};
use switchformer_kernels::reference;
use switchformer_kernels::rows::{embedding, embedding_backward, gather, scatter, scatter_add};

#[test]
fn gather_scatter_and_add() {
    let mut rng = Rng::new(1);
    for dim in SIZES {
        for n in [0usize, 1, 5, 700] {
            let vocab = 13;
            let table = rng.floats(vocab * dim);
            let ids: Vec<u32> = (0..n).map(|_| rng.bits() % vocab as u32).collect();
            let mut out = vec![f32::NAN; n * dim];
            embedding(dim, &table, &ids, &mut out);
            for (i, &id) in ids.iter().enumerate() {
                assert_eq!(out[i * dim..][..dim], table[id as usize * dim..][..dim]);
            }
            // Not merely close: the order of additions is part of the contract.
            let dy = rng.floats(n * dim);
            let (mut got, mut want) = (table.clone(), table.clone());
            embedding_backward(dim, &ids, &dy, &mut got);
            let mut last = table.clone();
            for (i, &id) in ids.iter().enumerate() {
                for c in 0..dim {
                    want[id as usize * dim + c] += dy[i * dim + c];
                    last[id as usize * dim + c] = dy[i * dim + c];
                }
            }
            assert_eq!(got, want, "{n} rows of {dim}");
            let mut got = table.clone();
            scatter(dim, &dy, &ids, &mut got);
            assert_eq!(got, last, "{n} rows of {dim}");
        }
    }
}

#[test]
#[should_panic(expected = "row 3 of 3 rows")]
fn a_row_out_of_range_is_refused() {
    gather(2, &[0.0; 6], &[0, 3], &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "row 0 of 0 rows")]
fn an_empty_table_has_no_rows() {
    scatter_add(2, &[0.0; 2], &[0], &mut []);
}

#[test]
fn adamw_matches() {
    each_isa(|isa| {
        let mut rng = Rng::new(2);
        for n in SIZES.into_iter().chain([8192, 40_001]) {
            let mut param = rng.floats(n);
            let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
            let mut want: Vec<(f64, f64, f64)> = param.iter().map(|&p| (f64::from(p), 0.0, 0.0)).collect();
            for step in 1..=5 {
                let grad = rng.floats(n);
                adamw_step(&mut param, &grad, 0.5, &mut m, &mut v, 1e-2, 0.9, 0.999, 1e-8, 0.05, step);
                for (w, &g) in want.iter_mut().zip(&grad) {
                    *w = reference::adamw(*w, 0.5 * f64::from(g), 1e-2, (0.9, 0.999), 1e-8, 0.05, step as i32);
                }
            }
            let want: Vec<f32> = want.iter().map(|w| w.0 as f32).collect();
            assert_close(&param, &want, 2e-6, &format!("{isa:?} adamw of {n}"));
        }
    });
}

#[test]
fn sum_squares_is_exact_enough_and_the_same_everywhere() {
    let mut rng = Rng::new(3);
    for n in SIZES.into_iter().chain([8191, 8193, 100_003]) {
        let x = rng.floats(n);
        let want: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let first = sum_squares(&x);
        assert!((first - want).abs() <= 1e-12 * want);
        each_isa(|isa| assert_eq!(sum_squares(&x), first, "{isa:?}"));
    }
    assert_eq!(sum_squares(&[1e30, 1e30]), 2.0 * f64::from(1e30f32) * f64::from(1e30f32));
}
