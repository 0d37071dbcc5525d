//! No result depends on the number of threads. One test of that, as the number is the whole process's.
mod common;

use common::{Rng, each_isa};
use switchformer_kernels::nested::linear_nested;
use switchformer_kernels::optim::{adamw_step, sum_squares};
use switchformer_kernels::rows::embedding_backward;
use switchformer_kernels::*;

/// Bits of everything the kernels make of one set of inputs.
fn run() -> Vec<u32> {
    let mut rng = Rng::new(1);
    let mut all: Vec<f32> = Vec::new();
    for (m, i, o) in [(3200, 64, 192), (257, 384, 100), (700, 33, 1030), (1, 700, 900), (900, 700, 1)] {
        let (x, w, b, dy) = (rng.floats(m * i), rng.floats(o * i), rng.floats(o), rng.floats(m * o));
        let mut y = vec![0.0; m * o];
        linear(m, i, o, &x, &w, Some(&b), &mut y);
        let (mut dx, mut dw, mut db) = (vec![0.0; m * i], vec![0.0; o * i], vec![0.0; o]);
        linear_backward(m, i, o, &x, &w, &dy, Some(&mut dx), Some(&mut dw), Some(&mut db));
        [&y, &dx, &dw, &db].into_iter().for_each(|v| all.extend(v));
        let codes: Vec<i8> = (0..o * i).map(|_| rng.bits() as i8).collect();
        linear_nested(m, i, o, &x, &codes, &b, 4, None, &mut y);
        all.extend(&y);
        let (mut dg, mut dbeta) = (vec![0.0; i], vec![0.0; i]);
        let mut n = vec![0.0; m * i];
        layer_norm(m, i, &x, &w[..i], &w[..i], 1e-5, &mut n);
        all.extend(&n);
        layer_norm_backward(m, i, &x, &w[..i], 1e-5, &n, &mut dx, &mut dg, &mut dbeta);
        act::gelu_erf(&x, &mut n);
        [&n, &dx, &dg, &dbeta].into_iter().for_each(|v| all.extend(v));
        softmax(m, i, &x, &mut n);
        softmax_backward(m, i, &n, &x, &mut dx);
        [&n, &dx].into_iter().for_each(|v| all.extend(v));
        let ids: Vec<u32> = (0..m).map(|_| rng.bits() % 37).collect();
        let mut table = vec![0.0; 37 * o];
        embedding_backward(o, &ids, &dy, &mut table);
        all.extend(&table);
        let (mut p, mut m1, mut v1) = (w.clone(), vec![0.0; o * i], vec![0.0; o * i]);
        adamw_step(&mut p, &dw, 1.0, &mut m1, &mut v1, 1e-3, 0.9, 0.99, 1e-8, 0.1, 3);
        all.extend(&p);
        let s = sum_squares(&y).to_bits();
        all.extend([f32::from_bits(s as u32), f32::from_bits((s >> 32) as u32)]);
    }
    let cu = [0, 50, 50, 53, 200, 250];
    let packed = Packed { cu: &cu, heads: 3, head_dim: 20, scale: 0.2 };
    let qkv = rng.floats(250 * 180);
    let [q, k, v] = Rows::fused_qkv(&qkv, 60);
    let (mut out, mut lse) = (vec![0.0; 250 * 60], vec![0.0; 3 * 250]);
    attention(&packed, q, k, v, &mut out, Some(&mut lse));
    let mut grad = vec![0.0; 250 * 180];
    attention_backward(&packed, q, k, v, &out, &lse, &out, QkvGrad::fused(&mut grad, 60));
    let mut probs = vec![0.0; 3 * 147 * 147];
    attention_probs(&packed, q, k, 3, &mut probs);
    [&out, &lse, &grad, &probs].into_iter().for_each(|v| all.extend(v));
    all.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn results_do_not_depend_on_threads() {
    each_isa(|isa| {
        set_threads(1);
        assert_eq!(threads(), 1);
        let want = run();
        for n in [2, 3, 8, 0] {
            set_threads(n);
            let got = run();
            let at = got.iter().zip(&want).position(|(a, b)| a != b);
            assert_eq!(at, None, "{isa:?} on {n} threads differs at this place of {}", want.len());
        }
    });
    assert!(threads() >= 1);
}

/// Sections that meet, nest or panic: each runs to its end, and the workers serve the next.
#[test]
fn sections_from_many_threads() {
    let x = vec![1.0f32; 200 * 300];
    let w = vec![0.5f32; 100 * 300];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut y = vec![0.0; 200 * 100];
                    linear(200, 300, 100, &x, &w, None, &mut y);
                    assert!(y.iter().all(|v| *v == 150.0));
                }
            });
        }
    });
}

/// Another thread may be reading the environment.
#[test]
fn a_process_of_several_threads_keeps_its_environment() {
    let preset = switchformer_kernels::threads::preset;
    std::thread::scope(|s| {
        s.spawn(|| assert!(!preset(&[("SWITCHFORMER_PRESET_TEST", "1")])));
    });
    assert!(std::env::var_os("SWITCHFORMER_PRESET_TEST").is_none());
}
