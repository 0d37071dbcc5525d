//! Packed low-bit codes.
mod common;

use common::{Rng, assert_close, each_isa};
use switchformer_kernels::nested::round_to;
use switchformer_kernels::quant::{
    Int8Rows, IntPath, MAX_INT_ROW, PackedCodes, WIDTHS, force_int_path, int_paths, reference,
};
use switchformer_kernels::{Act, Epilogue, isa, set_threads};

/// `(in, out)`: empty, single, primes, tails of panels and units, several tasks.
const SHAPES: [(usize, usize); 15] = [
    (0, 3),
    (3, 0),
    (1, 1),
    (3, 2),
    (4, 16),
    (7, 17),
    (15, 15),
    (16, 16),
    (17, 33),
    (31, 65),
    (67, 131),
    (128, 64),
    (300, 80),
    (61, 1021),
    (769, 129),
];

/// Rows of `x`: none, one, tails of tiles.
const ROWS: [usize; 11] = [0, 1, 2, 3, 4, 5, 7, 13, 33, 47, 64];

fn random_codes(rng: &mut Rng, n: usize) -> Vec<i8> {
    (0..n).map(|_| rng.bits() as i8).collect()
}

fn random_map(rng: &mut Rng, d_in: usize, d_out: usize) -> (Vec<i8>, Vec<f32>, Vec<f32>) {
    let scale = rng.floats(d_out).iter().map(|v| v.abs() / 128.0).collect();
    (random_codes(rng, d_in * d_out), scale, rng.floats(d_out))
}

fn biased(bias: Option<&[f32]>) -> Epilogue<'_> {
    Epilogue { bias, ..Epilogue::default() }
}

/// Runs `f` on every path of integer products that this machine has.
fn each_path(f: impl Fn(IntPath)) {
    each_isa(|_| {
        for path in int_paths() {
            force_int_path(Some(path));
            f(path);
        }
        force_int_path(None);
    });
}

#[test]
fn every_code_at_every_width() {
    let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    each_isa(|isa| {
        // Each code at each place of a unit: rows of 16 and of 17, turned by one.
        for d_in in [1, 16, 17, 256] {
            for turn in 0..17 {
                let mut codes = all.clone();
                codes.rotate_left(turn);
                codes.truncate(256 / d_in * d_in);
                let d_out = codes.len() / d_in;
                let packed = PackedCodes::new(d_in, d_out, &codes, &vec![1.0; d_out]);
                for bits in WIDTHS {
                    let want: Vec<i8> = codes.iter().map(|&c| round_to(c, bits)).collect();
                    assert_eq!(packed.codes(bits), want, "{isa:?} {d_in} inputs at {bits} bits");
                }
            }
        }
    });
}

#[test]
fn a_width_is_packed_once_and_costs_its_bits() {
    let packed = PackedCodes::new(64, 32, &[1; 64 * 32], &[1.0; 32]);
    let mut want = 64 * 32;
    assert_eq!(packed.bytes(), want);
    for bits in [2, 6, 4] {
        packed.prepare(bits);
        packed.prepare(bits);
        want += 64 * 32 * usize::from(bits) / 8;
        assert_eq!(packed.bytes(), want);
    }
    packed.prepare(8);
    assert_eq!(packed.bytes(), want);
}

#[test]
#[should_panic(expected = "bits must be one of [8, 6, 4, 2], not 5")]
fn five_bits_are_refused() {
    PackedCodes::new(1, 1, &[1], &[1.0]).prepare(5);
}

#[test]
#[should_panic(expected = "inputs of x")]
fn rows_of_another_length_are_refused() {
    let x = Int8Rows::quantize(1, 2, 2, &[1.0; 2]);
    PackedCodes::new(3, 1, &[1; 3], &[1.0]).linear_int8(&x, 8, &Epilogue::default(), &mut [0.0]);
}

#[test]
#[should_panic(expected = "too long for 32-bit sums")]
fn rows_too_long_for_sums_are_refused() {
    Int8Rows::quantize(1, MAX_INT_ROW + 1, MAX_INT_ROW + 1, &vec![0.0; MAX_INT_ROW + 1]);
}

#[test]
fn float_products_match() {
    each_path(|path| {
        let mut rng = Rng::new(7);
        for (d_in, d_out) in SHAPES {
            let (codes, scale, bias) = random_map(&mut rng, d_in, d_out);
            let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
            for m in ROWS {
                let x = rng.floats(m * d_in);
                for bits in WIDTHS {
                    for bias in [None, Some(&bias[..])] {
                        let mut y = vec![f32::NAN; m * d_out];
                        packed.linear(m, &x, bits, bias, &mut y);
                        let want = reference::linear(m, d_in, d_out, &x, &codes, &scale, bits, bias);
                        assert_close(&y, &want, 2e-5, &format!("{path:?} {m}x{d_in}x{d_out} at {bits} bits"));
                    }
                }
            }
        }
    });
}

/// Numbers on a grid are exact in their digits; tiny, huge and mixed ones are as near as their group's greatest allows.
#[test]
fn float_activations_keep_their_bits() {
    each_path(|path| {
        let mut rng = Rng::new(17);
        let (d_in, d_out) = (128, 19);
        let (codes, _, _) = random_map(&mut rng, d_in, d_out);
        let packed = PackedCodes::new(d_in, d_out, &codes, &vec![0.5; 2 * d_out]);
        for power in [-140, -126, -100, -30, 0, 30, 100] {
            // Seven bits, in the extremes of the digits too: sums of products with codes fit a float.
            let unit = 2f64.powi(power) as f32;
            let x: Vec<f32> = (0..d_in).map(|k| (k as f32 - 64.0) * unit).collect();
            for bits in WIDTHS {
                let mut y = vec![f32::NAN; d_out];
                packed.linear(1, &x, bits, None, &mut y);
                let want = reference::linear(1, d_in, d_out, &x, &codes, &vec![0.5; 2 * d_out], bits, None);
                // Below 2^-103 numbers lose bits.
                let most = if power < -100 { 2f32.powi(-120) * 128.0 * 128.0 } else { 0.0 };
                let near = y.iter().zip(&want).all(|(y, want)| (y - want).abs() <= most);
                assert!(near, "{path:?} 2^{power} at {bits} bits: {y:?}, not {want:?}");
            }
        }
        // The extremes of every digit, with the extremes of the codes.
        for n in [0x7f_7f7f, 0x3f_7f7f, 0x3f_8080, 0x20_8080, -0x7f_7f7f, -0x3f_8080, -0x3f_7f7f, -0x20_7f7f] {
            for code in [-128, 127] {
                let packed = PackedCodes::new(64, 1, &[code; 64], &[1.0]);
                let mut y = [0.0];
                packed.linear(1, &[n as f32; 64], 8, None, &mut y);
                assert_eq!(
                    f64::from(y[0]),
                    f64::from((64.0 * f64::from(code) * f64::from(n)) as f32),
                    "{path:?} {n:x}"
                );
            }
        }
        // A step more is too many for the digits: the next coarser step, by which odd numbers are rounded.
        for (n, want) in [(8_355_711.5, 0x7f_7f80), (8_355_712.0, 0x7f_7f80), (8_388_607.0, 0x80_0000)] {
            let packed = PackedCodes::new(1, 1, &[1], &[1.0]);
            let mut y = [0.0];
            packed.linear(1, &[n], 8, None, &mut y);
            assert_eq!(y[0], want as f32, "{path:?}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1.0; 2 * d_in];
            x[3] = bad;
            let mut y = vec![0.0; 2 * d_out];
            packed.linear(2, &x, 4, None, &mut y);
            assert!(
                y[..d_out].iter().all(|v| v.is_nan()) && y[d_out..].iter().all(|v| v.is_finite()),
                "{path:?} {bad}"
            );
        }
    });
}

#[test]
fn integer_sums_match_on_every_path() {
    each_path(|path| {
        let mut rng = Rng::new(8);
        for (d_in, d_out) in SHAPES {
            let (codes, scale, _) = random_map(&mut rng, d_in, d_out);
            let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
            for m in ROWS {
                let x = random_codes(&mut rng, m * d_in);
                let rows = Int8Rows::from_codes(m, d_in, &x, &vec![1.0; m]);
                assert_eq!(rows.codes(), x);
                for bits in WIDTHS {
                    let mut sums = vec![i32::MIN; m * d_out];
                    packed.int_sums(&rows, bits, &mut sums);
                    let sums: Vec<i64> = sums.into_iter().map(i64::from).collect();
                    let want = reference::int_sums(m, d_in, d_out, &x, &codes, bits);
                    assert_eq!(sums, want, "{path:?} {m}x{d_in}x{d_out} at {bits} bits");
                }
            }
        }
    });
}

#[test]
fn extremes_do_not_saturate() {
    const SIDES: [i8; 4] = [-128, 127, -1, 0];
    each_path(|path| {
        // The longest row allowed, and one with a tail.
        for d_in in [MAX_INT_ROW, 37] {
            for w in SIDES {
                let packed = PackedCodes::new(d_in, 17, &vec![w; d_in * 17], &[1.0; 17]);
                for x in SIDES {
                    let rows = Int8Rows::from_codes(7, d_in, &vec![x; 7 * d_in], &[1.0; 7]);
                    for bits in WIDTHS {
                        let mut sums = vec![1; 7 * 17];
                        packed.int_sums(&rows, bits, &mut sums);
                        let want = i64::from(x) * i64::from(round_to(w, bits)) * d_in as i64;
                        let all = sums.iter().all(|&s| i64::from(s) == want);
                        assert!(all, "{path:?} {d_in} of {w} times {x} at {bits} bits: {}, not {want}", sums[0]);
                    }
                }
            }
        }
    });
}

#[test]
fn int8_results_are_the_same_bits_everywhere() {
    let mut rng = Rng::new(9);
    for (m, d_in, d_out) in [(1, 769, 257), (19, 300, 700), (150, 96, 131), (1300, 40, 300)] {
        let (codes, scale, bias) = random_map(&mut rng, d_in, d_out);
        let x = rng.floats(m * d_in);
        for bits in WIDTHS {
            let mut want: Option<Vec<u32>> = None;
            for threads in [1, 2, 5] {
                set_threads(threads);
                for isa in isa::available() {
                    isa::force(Some(isa));
                    for path in int_paths() {
                        force_int_path(Some(path));
                        let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
                        let mut y = vec![f32::NAN; m * d_out];
                        packed.linear_int8(&Int8Rows::quantize(m, d_in, d_in, &x), bits, &biased(Some(&bias)), &mut y);
                        let y: Vec<u32> = y.iter().map(|v| v.to_bits()).collect();
                        match &want {
                            None => want = Some(y),
                            Some(want) => assert!(*want == y, "{path:?}, {threads} threads, {bits} bits"),
                        }
                    }
                    force_int_path(None);
                }
            }
        }
    }
    isa::force(None);
    set_threads(0);
}

#[test]
fn float_results_are_the_same_bits_everywhere() {
    let mut rng = Rng::new(10);
    let (m, d_in, d_out) = (9, 768, 1100);
    let (codes, _, bias) = random_map(&mut rng, d_in, d_out);
    let x = rng.floats(m * d_in);
    for groups in [1, 12] {
        let scale: Vec<f32> = rng.floats(d_out * groups).iter().map(|v| v.abs() / 128.0).collect();
        let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
        for bits in WIDTHS {
            let run = |first: usize, rows: usize| {
                let mut y = vec![f32::NAN; rows * d_out];
                packed.linear(rows, &x[first * d_in..][..rows * d_in], bits, Some(&bias), &mut y);
                y
            };
            let want = run(0, m);
            each_path(|path| {
                for threads in [1, 2, 3] {
                    set_threads(threads);
                    let at = format!("{path:?}, {threads} threads, {bits} bits");
                    assert!(run(0, m) == want, "{at}");
                    // Nor does a row's company matter.
                    for (first, rows) in [(0, 1), (5, 2), (2, 4)] {
                        assert!(run(first, rows) == want[first * d_out..][..rows * d_out], "{at}: {rows} rows");
                    }
                }
                set_threads(0);
            });
        }
    }
}

#[test]
fn int8_products_are_the_scaled_sums() {
    let mut rng = Rng::new(11);
    let (m, d_in, d_out) = (5, 83, 37);
    let (codes, scale, bias) = random_map(&mut rng, d_in, d_out);
    let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
    let rows = Int8Rows::quantize(m, d_in, d_in, &rng.floats(m * d_in));
    let x = rows.values();
    for bits in WIDTHS {
        for bias in [None, Some(&bias[..])] {
            let mut y = vec![f32::NAN; m * d_out];
            packed.linear_int8(&rows, bits, &biased(bias), &mut y);
            let want = reference::linear(m, d_in, d_out, &x, &codes, &scale, bits, bias);
            assert_close(&y, &want, 1e-5, &format!("{bits} bits"));
        }
    }
}

#[test]
fn what_follows_an_int8_product_is_done_to_its_results() {
    each_path(|path| {
        let mut rng = Rng::new(16);
        for (m, d_in, d_out) in [(1, 64, 17), (21, 64, 300), (400, 16, 260)] {
            let (codes, scale, bias) = random_map(&mut rng, d_in, d_out);
            let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
            let rows = Int8Rows::quantize(m, d_in, d_in, &rng.floats(m * d_in));
            let (gate, residual) = (rng.floats(m * d_out), rng.floats(m * d_out));
            for bits in [8, 4] {
                let run = |then: &Epilogue| {
                    let mut y = vec![f32::NAN; m * d_out];
                    packed.linear_int8(&rows, bits, then, &mut y);
                    y
                };
                let plain = run(&biased(Some(&bias)));
                let then =
                    Epilogue { bias: Some(&bias), act: Some(Act::Relu), gate: Some(&gate), residual: Some(&residual) };
                let want: Vec<f32> = (0..plain.len()).map(|i| plain[i].max(0.0) * gate[i] + residual[i]).collect();
                assert_close(&run(&then), &want, 1e-6, &format!("{path:?} {m}x{d_in}x{d_out} at {bits} bits"));
            }
        }
    });
}

#[test]
fn activations_are_rounded_as_told() {
    each_isa(|isa| {
        let mut rng = Rng::new(12);
        for d_in in common::SIZES {
            // Growing, zero, tiny, huge, subnormal, infinite and NaN rows.
            let mut x = rng.floats(8 * d_in);
            if d_in > 0 {
                let last = d_in - 1;
                x[d_in..2 * d_in].fill(0.0);
                x[2 * d_in..3 * d_in].iter_mut().for_each(|v| *v *= 1e-30);
                x[3 * d_in + last] = f32::MAX;
                x[4 * d_in..5 * d_in].fill(1e-40);
                x[5 * d_in + last] = f32::NEG_INFINITY;
                x[6 * d_in + last] = f32::NAN;
                // Ties: the range is -127 to 127, so the codes are the values, rounded.
                let ties = [127.0, 0.5, 1.5, -0.5, -1.5, 2.5, -127.0];
                for (x, tie) in x[7 * d_in..].iter_mut().zip(ties.into_iter().cycle()) {
                    *x = tie;
                }
            }
            let rows = Int8Rows::quantize(8, d_in, d_in, &x);
            let codes = rows.codes();
            for i in 0..8 {
                let (want, scale, middle) = reference::int8_row(&x[i * d_in..][..d_in]);
                assert_eq!(&codes[i * d_in..][..d_in], &want[..], "{isa:?} row {i} of {d_in}");
                assert_eq!(rows.scale()[i].to_bits(), scale.to_bits(), "{isa:?} row {i} of {d_in}");
                assert_eq!(rows.middle()[i], middle, "{isa:?} row {i} of {d_in}");
            }
        }
    });
    let rows = Int8Rows::quantize(2, 2, 2, &[1.0, f32::NAN, 0.0, 0.0]);
    let mut y = [1.0; 2];
    PackedCodes::new(2, 1, &[3, 4], &[1.0]).linear_int8(&rows, 8, &biased(Some(&[0.5])), &mut y);
    assert!(y[0].is_nan() && y[1] == 0.5);
}

#[test]
fn groups_of_inputs_have_scales_of_their_own() {
    each_path(|path| {
        let mut rng = Rng::new(13);
        for (groups, group, d_out) in [(2, 16, 5), (3, 64, 33), (6, 64, 130), (5, 48, 64), (1, 37, 16)] {
            let d_in = groups * group;
            let (codes, _, bias) = random_map(&mut rng, d_in, d_out);
            let scale: Vec<f32> = rng.floats(d_out * groups).iter().map(|v| v.abs() / 128.0).collect();
            let packed = PackedCodes::new(d_in, d_out, &codes, &scale);
            for m in ROWS {
                let mut x = rng.floats(m * d_in);
                // Values far out of the range of the others.
                for row in x.chunks_exact_mut(d_in) {
                    (row[d_in / 3], row[d_in / 2]) = (20.0, -9.0);
                }
                let rows = Int8Rows::quantize(m, d_in, group, &x);
                for bits in WIDTHS {
                    let (mut floats, mut ints) = (vec![f32::NAN; m * d_out], vec![f32::NAN; m * d_out]);
                    let at = format!("{path:?} {m}x{groups}x{group}x{d_out} at {bits} bits");
                    packed.linear(m, &x, bits, Some(&bias), &mut floats);
                    let want = reference::linear(m, d_in, d_out, &x, &codes, &scale, bits, Some(&bias));
                    assert_close(&floats, &want, 2e-5, &at);
                    packed.linear_int8(&rows, bits, &biased(Some(&bias)), &mut ints);
                    let want = reference::linear(m, d_in, d_out, &rows.values(), &codes, &scale, bits, Some(&bias));
                    assert_close(&ints, &want, 2e-5, &at);
                }
            }
        }
    });
}

#[test]
fn sums_of_groups_match_on_every_path() {
    each_path(|path| {
        let mut rng = Rng::new(14);
        let (m, groups, group, d_out) = (7, 3, 32, 83);
        let d_in = groups * group;
        let (codes, _, _) = random_map(&mut rng, d_in, d_out);
        let packed = PackedCodes::new(d_in, d_out, &codes, &vec![1.0; d_out * groups]);
        let x = random_codes(&mut rng, m * d_in);
        let rows = Int8Rows::from_grouped(m, d_in, group, &x, &vec![1.0; m]);
        for bits in WIDTHS {
            let mut sums = vec![0; m * groups * d_out];
            packed.int_sums(&rows, bits, &mut sums);
            for (i, &sum) in sums.iter().enumerate() {
                let (row, g, out) = (i / d_out / groups, i / d_out % groups, i % d_out);
                let at = |k: usize| (row * d_in + g * group + k, out * d_in + g * group + k);
                let term = |(a, b): (usize, usize)| i32::from(x[a]) * i32::from(round_to(codes[b], bits));
                assert_eq!(sum, (0..group).map(|k| term(at(k))).sum::<i32>(), "{path:?} sum {i} at {bits} bits");
            }
        }
    });
}

#[test]
fn a_few_values_far_out_do_not_coarsen_the_others() {
    each_isa(|isa| {
        let mut rng = Rng::new(15);
        let (d_in, far) = (384, [(7, 90.0f32), (100, -300.0), (205, 80.0), (383, 1e30)]);
        let mut x: Vec<f32> = rng.floats(d_in).iter().map(|v| v.clamp(-1.0, 1.0)).collect();
        for (at, v) in far {
            x[at] = v;
        }
        let got = Int8Rows::quantize(1, d_in, 64, &x).values();
        for (i, (got, x)) in got.iter().zip(&x).enumerate() {
            let most = if x.abs() > 1.0 { x.abs() * 1e-6 } else { 1.0 / 127.0 };
            assert!((got - x).abs() <= most, "{isa:?} value {i} is {got}, not {x}");
        }
        // Too many for the places: the range takes them in.
        x[..40].fill(50.0);
        let rows = Int8Rows::quantize(1, d_in, 64, &x);
        assert!(rows.values().iter().zip(&x).take(40).all(|(got, x)| (got - x).abs() <= 25.0), "{isa:?}");
    });
}

#[test]
#[should_panic(expected = "2 groups of 20 inputs are not whole units of 16")]
fn groups_that_split_units_are_refused() {
    PackedCodes::new(20, 1, &[1; 20], &[1.0; 2]);
}
