//! Depth-wise convolution against its twin and differences; grouped products against single ones.
mod common;

use common::{Rng, assert_close, dot, each_isa, numeric_grad};
use switchformer_kernels::*;

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

fn shapes() -> Vec<Depthwise> {
    let mut all = Vec::new();
    for kernel in [1, 3, 5, 7, 9] {
        for stride in [1, 2] {
            for padding in [0, 1, kernel / 2] {
                for (batch, height, width, channels) in
                    [(1, 9, 13, 3), (2, 4, 21, 17), (1, 1, 1, 1), (1, 7, 3, 33), (0, 5, 5, 4)]
                {
                    all.push(Depthwise { batch, height, width, channels, kernel, stride, padding });
                }
            }
        }
    }
    all
}

#[test]
fn convolution_matches() {
    each_isa(|isa| {
        for d in shapes() {
            let mut rng = Rng::new(d.kernel as u64);
            let x = rng.floats(d.batch * d.height * d.width * d.channels);
            let (w, b) = (rng.floats(d.kernel * d.kernel * d.channels), rng.floats(d.channels));
            for bias in [None, Some(&b[..])] {
                let want = single(&reference::depthwise(&d, &x, &w, bias));
                let mut y = vec![f32::NAN; want.len()];
                depthwise(&d, &x, &w, &Epilogue { bias, ..Epilogue::default() }, &mut y);
                assert_close(&y, &want, 1e-5, &format!("{isa:?} {d:?}"));
                // What follows, by hand.
                let (gate, residual) = (rng.floats(y.len()), rng.floats(y.len()));
                let then = Epilogue { bias, act: Some(Act::Relu), gate: Some(&gate), residual: Some(&residual) };
                let want: Vec<f32> = (0..y.len()).map(|i| y[i].max(0.0) * gate[i] + residual[i]).collect();
                depthwise(&d, &x, &w, &then, &mut y);
                assert_close(&y, &want, 1e-6, &format!("{isa:?} {d:?} and what follows"));
            }
        }
    });
}

#[test]
fn convolution_gradients_by_differences() {
    for d in shapes().into_iter().filter(|d| d.height * d.width * d.channels * d.kernel < 1500) {
        let mut rng = Rng::new(d.width as u64);
        let x = rng.floats(d.batch * d.height * d.width * d.channels);
        let (w, b) = (rng.floats(d.kernel * d.kernel * d.channels), rng.floats(d.channels));
        let dy = rng.floats(reference::depthwise(&d, &x, &w, None).len());
        let value = |x: &[f32], w: &[f32], b: &[f32]| dot(&single(&reference::depthwise(&d, x, w, Some(b))), &dy);
        let want_x = numeric_grad(&x, |x| value(x, &w, &b));
        let want_w = numeric_grad(&w, |w| value(&x, w, &b));
        let want_b = numeric_grad(&b, |b| value(&x, &w, b));
        each_isa(|isa| {
            let (mut dx, mut dw, mut db) = (vec![f32::NAN; x.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
            depthwise_backward(&d, &x, &w, &dy, Some(&mut dx), Some(&mut dw), Some(&mut db));
            for (got, want) in [(&dx, &want_x), (&dw, &want_w), (&db, &want_b)] {
                assert_close(got, want, 1e-3, &format!("{isa:?} {d:?}"));
            }
            // Gradients of parameters add up.
            let once = dw.clone();
            depthwise_backward(&d, &x, &w, &dy, None, Some(&mut dw), None);
            let twice: Vec<f32> = once.iter().map(|v| v + v).collect();
            assert_close(&dw, &twice, 1e-5, "twice");
        });
    }
}

#[test]
fn convolution_does_not_depend_on_threads() {
    let d = Depthwise { batch: 2, height: 20, width: 20, channels: 40, kernel: 5, stride: 1, padding: 2 };
    let mut rng = Rng::new(5);
    let (x, w) = (rng.floats(2 * 400 * 40), rng.floats(25 * 40));
    let run = |threads| {
        set_threads(threads);
        let (mut y, mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; w.len()]);
        depthwise(&d, &x, &w, &Epilogue::default(), &mut y);
        depthwise_backward(&d, &x, &w, &y, Some(&mut dx), Some(&mut dw), None);
        set_threads(0);
        (y, dx, dw)
    };
    let one = run(1);
    assert!(run(2) == one && run(3) == one);
}

#[test]
fn groups_are_single_products_bit_for_bit() {
    each_isa(|isa| {
        for (k, n) in [(1, 1), (7, 50), (96, 130), (800, 33)] {
            for lens in [&[][..], &[0, 0, 0], &[1, 0, 3, 0, 17], &[0, 130, 1, 2], &[5, 5, 5, 5, 5, 400]] {
                let mut rng = Rng::new(k as u64);
                let mut cu = vec![0u32];
                lens.iter().for_each(|l| cu.push(cu[cu.len() - 1] + l));
                let total = cu[cu.len() - 1] as usize;
                let x = rng.floats(total * k);
                let w: Vec<PackedMatrix> = lens.iter().map(|_| PackedMatrix::new(k, n, &rng.floats(k * n))).collect();
                let biases: Vec<Vec<f32>> = lens.iter().map(|_| rng.floats(n)).collect();
                let then: Vec<Epilogue<'_>> = biases
                    .iter()
                    .map(|b| Epilogue { bias: Some(b), act: Some(Act::Silu), ..Default::default() })
                    .collect();
                let mut y = vec![f32::NAN; total * n];
                linear_grouped(&x, &cu, &w.iter().collect::<Vec<_>>(), &then, &mut y);
                for g in 0..lens.len() {
                    let (from, to) = (cu[g] as usize, cu[g + 1] as usize);
                    let mut want = vec![f32::NAN; (to - from) * n];
                    linear_packed(to - from, &x[from * k..to * k], &w[g], &then[g], &mut want);
                    assert_eq!(y[from * n..to * n], want, "{isa:?} {k} x {n}, {lens:?}, group {g}");
                }
            }
        }
    });
}

#[test]
#[should_panic(expected = "groups of rows and of weights")]
fn groups_must_match() {
    linear_grouped(&[], &[0, 0], &[], &[], &mut []);
}
