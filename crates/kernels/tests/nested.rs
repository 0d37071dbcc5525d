//! Nested integers.
mod common;

use common::{Rng, assert_close, each_isa};
use switchformer_kernels::nested::{dequantize, linear_nested, quantize_rows, round_to, row_scales};
use switchformer_kernels::reference;

#[test]
fn every_code_at_every_width() {
    for bits in 2..=8 {
        for code in i8::MIN..=i8::MAX {
            assert_eq!(round_to(code, bits), reference::nested_code(code, bits), "{code} at {bits} bits");
        }
    }
    // The top clips, for want of a code above it; halves go up on both sides of zero.
    assert_eq!(
        [127, 96, 95, 32, 31, -32, -33, -96, -97, -128].map(|c| round_to(c, 2)),
        [1, 1, 1, 1, 0, 0, -1, -1, -2, -2]
    );
    assert_eq!(round_to(127, 7), 63);
    assert_eq!((i8::MIN..=i8::MAX).filter(|&c| round_to(c, 8) != c).count(), 0);
}

#[test]
#[should_panic(expected = "bits must be in 2..=8")]
fn one_bit_is_refused() {
    round_to(0, 1);
}

#[test]
fn dequantize_every_code() {
    let codes: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    each_isa(|isa| {
        for bits in 2..=8 {
            let mut w = vec![f32::NAN; 256];
            dequantize(&codes, &[0.25], bits, &mut w);
            for (&code, &w) in codes.iter().zip(&w) {
                let step = f32::from(1u16 << (8 - bits));
                assert_eq!(w, f32::from(reference::nested_code(code, bits)) * step * 0.25, "{isa:?} {code} {bits}");
            }
        }
    });
}

#[test]
fn quantize_rounds_half_up_and_clips() {
    let w = [0.5, -0.5, 1.5, -1.5, 0.499_999_97, -0.500_000_06, 126.5, 127.5, -128.5, -129.0, 1e9, f32::NAN];
    let mut codes = [9; 12];
    quantize_rows(&w, &[1.0], &mut codes);
    assert_eq!(codes, [1, 0, 2, -1, 0, -1, 127, 127, -128, -128, 127, 0]);
    quantize_rows(&w, &[0.0], &mut codes);
    assert_eq!(codes, [0; 12]);
    quantize_rows(&[3.0, 8.0], &[1.0, 2.0], &mut codes[..2]);
    assert_eq!(codes[..2], [3, 4]);
    let mut scale = [0.0; 2];
    row_scales(&[-254.0, 1.0, 0.0, 0.0], &mut scale);
    assert_eq!(scale, [2.0, 1.0]);
}

#[test]
fn linear_nested_matches() {
    each_isa(|isa| {
        let mut rng = Rng::new(1);
        // The last two take several blocks of output rows.
        let shapes = [(0, 3), (3, 0), (1, 1), (7, 5), (31, 9), (32, 8), (33, 67), (130, 3), (300, 500), (5000, 61)];
        for (d_in, d_out) in shapes {
            let codes: Vec<i8> = (0..d_in * d_out).map(|_| rng.bits() as i8).collect();
            let scale: Vec<f32> = rng.floats(d_out).iter().map(|v| v.abs() / 128.0).collect();
            let bias = rng.floats(d_out);
            for bits in [2, 5, 8] {
                let mut w = vec![f32::NAN; d_in * d_out];
                dequantize(&codes, &scale, bits, &mut w);
                for m in [0, 1, 2, 17] {
                    let x = rng.floats(m * d_in);
                    for bias in [None, Some(&bias[..])] {
                        let mut y = vec![f32::NAN; m * d_out];
                        linear_nested(m, d_in, d_out, &x, &codes, &scale, bits, bias, &mut y);
                        if d_out > 0 {
                            let want = reference::linear(m, d_in, d_out, &x, &w, bias);
                            let what = format!("{isa:?} {m}x{d_in}x{d_out} at {bits} bits");
                            // Sums of thousands of terms of either sign.
                            assert_close(&y, &want, 1e-5 + 1e-6 * (d_in as f32).sqrt(), &what);
                        }
                    }
                }
            }
        }
    });
}
