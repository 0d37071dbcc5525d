//! Rows by index and taken apart, products with rows and columns, filters along an axis, and the optimiser.
mod common;

use common::{Rng, SIZES, assert_close, each_isa};
use switchformer_kernels::axis::along;
use switchformer_kernels::elementwise;
use switchformer_kernels::mix::{Mix, mix_parts, mix_parts_backward};
use switchformer_kernels::optim::{adamw_step, sum_squares};
use switchformer_kernels::reference;
use switchformer_kernels::rows::{
    NONE, columns, embedding, embedding_backward, gather, mean_rows, mean_rows_backward, put_columns, scatter,
    scatter_add,
};

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
fn no_row_reads_zeros_and_drops_what_it_gets() {
    let src = [1.0, 2.0, 3.0, 4.0];
    let mut out = [f32::NAN; 6];
    gather(2, &src, &[1, NONE, 0], &mut out);
    assert_eq!(out, [3.0, 4.0, 0.0, 0.0, 1.0, 2.0]);
    let mut sums = [0.5; 4];
    scatter_add(2, &out, &[1, NONE, 1], &mut sums);
    assert_eq!(sums, [0.5, 0.5, 4.5, 6.5]);
    let mut last = [0.5; 4];
    scatter(2, &out, &[NONE, 0, 1], &mut last);
    assert_eq!(last, [0.0, 0.0, 1.0, 2.0]);
}

#[test]
fn columns_are_cut_out_and_put_in() {
    let mut rng = Rng::new(5);
    for (rows, dim, from, width) in [(0, 3, 1, 2), (1, 1, 0, 1), (7, 5, 5, 0), (7, 5, 1, 3), (900, 67, 17, 31)] {
        let x = rng.floats(rows * dim);
        let mut y = vec![f32::NAN; rows * width];
        columns(dim, &x, from, width, &mut y);
        let mut back = vec![9.0; rows * dim];
        put_columns(dim, &y, from, width, &mut back);
        for (i, (x, back)) in x.iter().zip(&back).enumerate() {
            let own = (from..from + width).contains(&(i % dim));
            assert_eq!(*back, if own { *x } else { 9.0 }, "{rows} rows of {dim}, {i}");
        }
    }
}

#[test]
#[should_panic(expected = "columns 4..7 of 6")]
fn columns_that_are_not_there_are_refused() {
    columns(6, &[0.0; 6], 4, 3, &mut [0.0; 3]);
}

#[test]
fn means_of_segments_and_their_gradients() {
    let mut rng = Rng::new(6);
    for dim in SIZES {
        let cu = [0u32, 3, 3, 4, 800];
        let (x, dy) = (rng.floats(800 * dim), rng.floats(4 * dim));
        let (mut y, mut dx) = (vec![f32::NAN; 4 * dim], vec![f32::NAN; 800 * dim]);
        mean_rows(dim, &x, &cu, &mut y);
        mean_rows_backward(dim, &dy, &cu, &mut dx);
        for s in 0..4 {
            let rows = cu[s] as usize..cu[s + 1] as usize;
            for c in 0..dim {
                let sum: f64 = rows.clone().map(|r| f64::from(x[r * dim + c])).sum();
                assert!((f64::from(y[s * dim + c]) - sum / rows.len().max(1) as f64).abs() < 1e-6);
                for r in rows.clone() {
                    assert!((dx[r * dim + c] - dy[s * dim + c] / rows.len() as f32).abs() < 1e-6);
                }
            }
        }
    }
}

#[test]
fn a_matrix_along_an_axis() {
    each_isa(|_| {
        let mut rng = Rng::new(8);
        let cases =
            [(0, 3, 2, 5), (1, 1, 1, 1), (3, 5, 7, 33), (2, 8, 4, 16), (64, 6, 19, 67), (2, 4, 0, 3), (2, 0, 3, 3)];
        for (outer, rows, columns, inner) in cases {
            let (mut m, x) = (rng.floats(rows * columns), rng.floats(outer * columns * inner));
            // A band of zeros, and a row of nothing else.
            let zero = |i: usize| i / columns.max(1) == 3 || (i % columns.max(1)).abs_diff(i / columns.max(1)) > 4;
            m.iter_mut().enumerate().filter(|(i, _)| zero(*i)).for_each(|(_, v)| *v = 0.0);
            let mut y = vec![f32::NAN; outer * rows * inner];
            along([outer, inner], [rows, columns], &m, &x, &mut y);
            for (at, y) in y.iter().enumerate() {
                let (o, r, i) = (at / (rows * inner), at / inner % rows, at % inner);
                let term = |c: usize| f64::from(m[r * columns + c]) * f64::from(x[(o * columns + c) * inner + i]);
                let want: f64 = (0..columns).map(term).sum();
                assert!((f64::from(*y) - want).abs() < 1e-5, "{outer} {rows} {columns} {inner}: {y} {want}");
            }
        }
    });
}

#[test]
fn parts_are_mixed_place_by_place() {
    each_isa(|_| {
        let mut rng = Rng::new(9);
        for (rows, parts, width, out) in [(0, 2, 3, 4), (1, 1, 1, 1), (5, 3, 7, 5), (131, 4, 16, 8), (700, 2, 8, 16)] {
            let shape = Mix { parts, width, out };
            let (x, w) = (rng.floats(rows * parts * width), rng.floats(width * out * parts));
            let (bias, dy) = (rng.floats(width * out), rng.floats(rows * width * out));
            let mut y = vec![f32::NAN; dy.len()];
            mix_parts(&shape, &x, &w, &bias, &mut y);
            let mut dx = vec![f32::NAN; x.len()];
            let (mut dw, mut db) = (vec![0.5; w.len()], vec![0.5; bias.len()]);
            mix_parts_backward(&shape, &x, &w, &dy, &mut dx, &mut dw, &mut db);
            let mut want_y: Vec<f64> = (0..rows).flat_map(|_| &bias).map(|b| f64::from(*b)).collect();
            let mut want_dx = vec![0f64; x.len()];
            let (mut want_dw, mut want_db) = (vec![0.5f64; w.len()], vec![0.5f64; bias.len()]);
            for (r, g, o) in (0..rows).flat_map(|r| (0..width).flat_map(move |g| (0..out).map(move |o| (r, g, o)))) {
                let at = (r * width + g) * out + o;
                let d = f64::from(dy[at]);
                want_db[g * out + o] += d;
                for p in 0..parts {
                    let (i, k) = ((r * parts + p) * width + g, (g * out + o) * parts + p);
                    want_y[at] += f64::from(x[i]) * f64::from(w[k]);
                    want_dx[i] += d * f64::from(w[k]);
                    want_dw[k] += d * f64::from(x[i]);
                }
            }
            for (got, want) in [(&y, want_y), (&dx, want_dx), (&dw, want_dw), (&db, want_db)] {
                let near = |(g, w): (&f32, &f64)| (f64::from(*g) - w).abs() < 1e-4;
                assert!(got.iter().zip(&want).all(near), "{rows} {parts} {width} {out}");
            }
        }
    });
}

#[test]
fn products_by_element_row_and_column() {
    each_isa(|_| {
        let mut rng = Rng::new(7);
        for dim in SIZES {
            let rows = 131;
            let (a, b) = (rng.floats(rows * dim), rng.floats(rows * dim));
            let (by_row, by_column) = (rng.floats(rows), rng.floats(dim));
            let shift = rng.floats(dim);
            let mut all = [(); 4].map(|()| vec![f32::NAN; rows * dim]);
            elementwise::mul(&a, &b, &mut all[0]);
            elementwise::scale_rows(dim, &a, &by_row, &mut all[1]);
            elementwise::scale_columns(&a, &by_column, &mut all[2]);
            elementwise::affine_columns(&a, &by_column, &shift, &mut all[3]);
            let (mut rows_of, mut columns_of) = (vec![f32::NAN; rows], vec![f32::NAN; dim]);
            elementwise::row_products(dim, &a, &b, &mut rows_of);
            elementwise::column_products(&a, &b, &mut columns_of);
            let (mut want_rows, mut want_columns) = (vec![0f64; rows], vec![0f64; dim]);
            for i in 0..rows * dim {
                let (r, c) = (i / dim, i % dim);
                assert_eq!(all[0][i], a[i] * b[i]);
                assert_eq!(all[1][i], a[i] * by_row[r]);
                assert_eq!(all[2][i], a[i] * by_column[c]);
                let affine = f64::from(a[i]) * f64::from(by_column[c]) + f64::from(shift[c]);
                assert!((f64::from(all[3][i]) - affine).abs() < 1e-6);
                want_rows[r] += f64::from(a[i]) * f64::from(b[i]);
                want_columns[c] += f64::from(a[i]) * f64::from(b[i]);
            }
            let near = |(got, want): (&f32, &f64)| (f64::from(*got) - want).abs() < 1e-4;
            assert!(rows_of.iter().zip(&want_rows).all(near) && columns_of.iter().zip(&want_columns).all(near));
        }
    });
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
