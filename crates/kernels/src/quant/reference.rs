//! The naive twins of the packed kernels.

use crate::nested::round_to;

/// `y[m,out]` of floats `x[m,in]` and the `bits`-bit codes of `codes[out,in]` with `scale[out,groups]`,
/// summed in f64.
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
    let groups = scale.len().checked_div(d_out).unwrap_or(1);
    let weight = |j: usize, k: usize| {
        f64::from(round_to(codes[j * d_in + k], bits)) * f64::from(scale[j * groups + k * groups / d_in])
    };
    let mut y = Vec::with_capacity(m * d_out);
    for i in 0..m {
        for j in 0..d_out {
            let sum = (0..d_in).map(|k| f64::from(x[i * d_in + k]) * weight(j, k)).sum::<f64>() * step;
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

/// One row of activations in 8 bits: codes, rounded half to even, scale and middle of the range that
/// leaves out as many values as it may, where that takes a quarter off.
///
/// The kernel finds extremes in 32 lanes; so does this.
pub fn int8_row(x: &[f32]) -> (Vec<i8>, f32, f32) {
    if x.iter().any(|v| !v.is_finite()) {
        return (vec![0; x.len()], f32::NAN, 0.0);
    }
    if x.is_empty() {
        return (Vec::new(), 0.0, 0.0);
    }
    let lane = |of: fn(f32, f32) -> f32, l: usize| x.iter().copied().skip(l).step_by(32).reduce(of);
    let mut low: Vec<f32> = (0..32).filter_map(|l| lane(f32::min, l)).collect();
    let mut high: Vec<f32> = (0..32).filter_map(|l| lane(f32::max, l)).collect();
    low.sort_by(f32::total_cmp);
    high.sort_by(|a, b| b.total_cmp(a));
    let n = (x.len() / 64).min(4);
    let half = |(lo, hi): (f32, f32)| hi * 0.5 - lo * 0.5;
    let ranges = (0..=n).map(|i| (low[i], high[n - i]));
    let mut best = ranges.reduce(|best, r| if half(r) < half(best) { r } else { best }).unwrap_or((low[0], high[0]));
    if x.iter().filter(|v| **v < best.0 || **v > best.1).count() > 8 || half(best) > 0.75 * half((low[0], high[0])) {
        best = (low[0], high[0]);
    }
    let middle = best.1 * 0.5 + best.0 * 0.5;
    let inverse = 127.0 / half(best);
    if !inverse.is_finite() {
        return (vec![0; x.len()], 0.0, middle);
    }
    let code = |v: &f32| ((v - middle) * inverse).clamp(-127.0, 127.0).round_ties_even() as i8;
    (x.iter().map(code).collect(), half(best) / 127.0, middle)
}
