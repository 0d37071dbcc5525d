//! The naive twins of the packed kernels.

use crate::nested::round_to;

/// `y[m,out]` of floats `x[m,in]` and the `bits`-bit codes of `codes[out,in]`, summed in f64.
pub fn linear(
    m: usize,
    d_in: usize,
    d_out: usize,
    x: &[f32],
    codes: &[i8],
    scale: &[f32],
    bits: u8,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let step = f64::from(1u32 << (8 - bits));
    let mut y = Vec::with_capacity(m * d_out);
    for i in 0..m {
        for j in 0..d_out {
            let terms = (0..d_in).map(|k| f64::from(x[i * d_in + k]) * f64::from(round_to(codes[j * d_in + k], bits)));
            let sum = terms.sum::<f64>() * step * f64::from(scale[j]);
            y.push((sum + bias.map_or(0.0, |b| f64::from(b[j]))) as f32);
        }
    }
    y
}

/// The sums `[m,out]` of `x[m,in]` and the `bits`-bit codes of `codes[out,in]`, in i64.
pub fn int_sums(m: usize, d_in: usize, d_out: usize, x: &[i8], codes: &[i8], bits: u8) -> Vec<i64> {
    let mut sums = Vec::with_capacity(m * d_out);
    for i in 0..m {
        for j in 0..d_out {
            let terms = (0..d_in).map(|k| i64::from(x[i * d_in + k]) * i64::from(round_to(codes[j * d_in + k], bits)));
            sums.push(terms.sum());
        }
    }
    sums
}

/// One row of activations in 8 bits: the codes, rounded half to even, and the scale.
pub fn int8_row(x: &[f32]) -> (Vec<i8>, f32) {
    if x.iter().any(|v| !v.is_finite()) {
        return (vec![0; x.len()], f32::NAN);
    }
    let top = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let inverse = 127.0 / top;
    if !inverse.is_finite() {
        return (vec![0; x.len()], 0.0);
    }
    (x.iter().map(|v| (v * inverse).round_ties_even() as i8).collect(), top / 127.0)
}
