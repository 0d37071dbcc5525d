//! Activations and softmax against their references.
mod common;

use common::{Rng, SIZES, assert_close, dot, each_isa, numeric_grad, ulps};
use switchformer_kernels::{act, reference, softmax, softmax_backward};

type Forward = fn(&[f32], &mut [f32]);
type Backward = fn(&[f32], &[f32], &mut [f32]);
type Exact = fn(f64) -> f64;

const ALL: [(&str, Forward, Backward, Exact); 6] = [
    ("gelu_erf", act::gelu_erf, act::gelu_erf_backward, reference::gelu_erf),
    ("gelu_tanh", act::gelu_tanh, act::gelu_tanh_backward, reference::gelu_tanh),
    ("gelu_quick", act::gelu_quick, act::gelu_quick_backward, reference::gelu_quick),
    ("relu", act::relu, act::relu_backward, reference::relu),
    ("silu", act::silu, act::silu_backward, reference::silu),
    ("tanh", act::tanh, act::tanh_backward, f64::tanh),
];

/// Every `step`-th finite float, of both signs, up to `limit`.
fn sweep(step: usize, limit: f32) -> Vec<f32> {
    let positive = (0..=limit.to_bits()).step_by(step).map(f32::from_bits);
    positive.flat_map(|x| [x, -x]).collect()
}

/// The greatest error of `f` over `xs`, in ULP, with the place.
fn worst(xs: &[f32], f: Forward, exact: Exact) -> (f64, f32) {
    let mut y = vec![0.0; xs.len()];
    f(xs, &mut y);
    let errors = xs.iter().zip(&y).map(|(&x, &y)| (ulps(y, exact(f64::from(x))), x));
    errors.fold((0.0, 0.0), |a, b| if a.0 >= b.0 { a } else { b })
}

#[test]
fn exp_is_within_two_ulp() {
    let xs = sweep(1009, 120.0);
    each_isa(|isa| {
        let (ulp, x) = worst(&xs, act::exp, f64::exp);
        println!("{isa:?}: exp {ulp:.2} ULP at {x}");
        assert!(ulp <= 2.0, "{isa:?}: {ulp} ULP at {x}");
    });
}

#[test]
fn exp_at_the_edges() {
    each_isa(|_| {
        let x = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 88.72, 88.73, -103.0, -104.0, 3e38, -3e38];
        let mut y = [9.0; 11];
        act::exp(&x, &mut y);
        assert!(y[0].is_nan());
        assert_eq!(y[1..5], [f32::INFINITY, 0.0, 1.0, 1.0]);
        assert!(y[5].is_finite() && y[6].is_infinite());
        assert!(y[7] > 0.0 && y[8] == 0.0);
        assert_eq!(y[9..], [f32::INFINITY, 0.0]);
    });
}

#[test]
fn tanh_is_within_four_ulp() {
    let xs = sweep(1009, 100.0);
    each_isa(|isa| {
        let (ulp, x) = worst(&xs, act::tanh, f64::tanh);
        println!("{isa:?}: tanh {ulp:.2} ULP at {x}");
        assert!(ulp <= 4.0, "{isa:?}: {ulp} ULP at {x}");
    });
}

#[test]
fn gelu_is_close_everywhere() {
    let xs = sweep(2003, 1e6);
    each_isa(|isa| {
        for (name, f, _, exact) in ALL {
            let mut y = vec![0.0; xs.len()];
            f(&xs, &mut y);
            let mut worst = (0.0, 0.0);
            for (&x, &y) in xs.iter().zip(&y) {
                let want = exact(f64::from(x));
                let error = (f64::from(y) - want).abs() / want.abs().max(1.0);
                if error > worst.0 {
                    worst = (error, x);
                }
            }
            println!("{isa:?}: {name} {:.1e} at {}", worst.0, worst.1);
            assert!(worst.0 <= 2e-7, "{isa:?}: {name} is off by {:e} at {}", worst.0, worst.1);
        }
    });
}

#[test]
fn gelu_keeps_its_tail() {
    // Where 1 + erf would cancel to nothing.
    let xs: Vec<f32> = (0..1000).map(|i| -(i as f32) * 0.01).collect();
    each_isa(|isa| {
        let mut y = vec![0.0; xs.len()];
        act::gelu_erf(&xs, &mut y);
        for (&x, &y) in xs.iter().zip(&y) {
            let want = reference::gelu_erf(f64::from(x));
            let error = (f64::from(y) - want).abs();
            assert!(error <= 1e-5 * want.abs() + 1e-38, "{isa:?}: gelu({x}) = {y}, not {want}");
        }
    });
}

#[test]
fn infinities_and_nan() {
    each_isa(|_| {
        for (name, f, _, _) in ALL {
            let mut y = [9.0; 2];
            f(&[f32::INFINITY, f32::NAN], &mut y);
            let top = if name == "tanh" { 1.0 } else { f32::INFINITY };
            assert!(y[0] == top && y[1].is_nan(), "{name}: {y:?}");
        }
        for (name, _, backward, _) in ALL {
            let mut dx = [9.0; 4];
            backward(&[1e30, -1e30, f32::INFINITY, f32::NAN], &[1.0; 4], &mut dx);
            let top = if name == "tanh" { 0.0 } else { 1.0 };
            assert!(dx[0] == top && dx[1].abs() == 0.0, "{name}: {dx:?}");
            if name != "relu" {
                assert!(dx[3].is_nan(), "{name}: {dx:?}");
            }
        }
    });
}

#[test]
fn activations_at_hostile_lengths_and_alignments() {
    each_isa(|isa| {
        let mut rng = Rng::new(isa as u64 + 17);
        for n in SIZES.into_iter().chain([4096, 4099, 40_000]) {
            for shift in [0, 1, 3] {
                let x: Vec<f32> = rng.floats(n + shift).iter().map(|v| v * 6.0).collect();
                let x = &x[shift..];
                for (name, f, _, exact) in ALL {
                    let mut y = vec![9.0; n + shift + 1];
                    f(x, &mut y[shift..shift + n]);
                    let want: Vec<f32> = x.iter().map(|&v| exact(f64::from(v)) as f32).collect();
                    assert_close(&y[shift..shift + n], &want, 2e-7, name);
                    assert_eq!((y[..shift].iter().sum::<f32>(), y[shift + n]), (9.0 * shift as f32, 9.0), "{name}");
                }
            }
        }
    });
}

#[test]
fn activation_gradients() {
    let mut rng = Rng::new(2);
    for n in [1, 17, 131] {
        // Away from ReLU's corner, which a difference would straddle.
        let x: Vec<f32> = rng.floats(n).iter().map(|v| v * 4.0 + 0.01f32.copysign(*v)).collect();
        let dy = rng.floats(n);
        each_isa(|isa| {
            for (name, _, backward, exact) in ALL {
                let mut dx = vec![9.0; n];
                backward(&x, &dy, &mut dx);
                let h = 1e-5;
                let slope = |x: f64| (exact(x + h) - exact(x - h)) / (2.0 * h);
                let want: Vec<f32> =
                    x.iter().zip(&dy).map(|(&x, &d)| (slope(f64::from(x)) * f64::from(d)) as f32).collect();
                assert_close(&dx, &want, 1e-6, &format!("{isa:?} {name}"));
            }
        });
    }
}

#[test]
fn softmax_matches_and_its_gradient_too() {
    each_isa(|isa| {
        let mut rng = Rng::new(3);
        for n in SIZES {
            for rows in [0, 1, 3, 37] {
                let x: Vec<f32> = rng.floats(rows * n).iter().map(|v| v * 20.0).collect();
                let mut y = vec![9.0; rows * n];
                softmax(rows, n, &x, &mut y);
                let want = if n == 0 { Vec::new() } else { reference::softmax(n, &x) };
                let what = format!("{isa:?} softmax {rows}x{n}");
                assert_close(&y, &want, 1e-6, &what);
                if n == 0 || rows > 3 {
                    continue;
                }
                let x = rng.floats(rows * n);
                softmax(rows, n, &x, &mut y);
                let (dy, mut dx) = (rng.floats(rows * n), vec![9.0; rows * n]);
                softmax_backward(rows, n, &y, &dy, &mut dx);
                let want = numeric_grad(&x, |x| dot(&reference::softmax(n, x), &dy));
                assert_close(&dx, &want, 1e-4, &what);
            }
        }
    });
}

#[test]
fn softmax_of_extremes() {
    each_isa(|_| {
        let x = [1e30, -1e30, 0.0, f32::NEG_INFINITY, -1000.0, -1001.0, -1002.0, f32::NEG_INFINITY];
        let mut y = [9.0; 8];
        softmax(2, 4, &x, &mut y);
        assert_eq!(y[..4], [1.0, 0.0, 0.0, 0.0]);
        assert_close(&y[4..], &[0.665_240_97, 0.244_728_47, 0.090_030_57, 0.0], 1e-6, "far below zero");
    });
}
