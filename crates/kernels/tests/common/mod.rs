//! What the kernels' tests share.
#![allow(dead_code)]

use switchformer_kernels::isa;

/// Sizes that catch tails, off-by-ones and empty cases.
pub(crate) const SIZES: [usize; 16] = [0, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67, 131];

/// A small generator of floats, uniform in -1..1.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    pub(crate) fn float(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }
}

/// Runs `f` with every instruction set this machine has.
pub(crate) fn each_isa(f: impl Fn(isa::Isa)) {
    for isa in isa::available() {
        isa::force(Some(isa));
        f(isa);
    }
    isa::force(None);
}

/// Asserts that each element is within `tol` of what is expected, absolutely or relatively.
#[track_caller]
pub(crate) fn assert_close(got: &[f32], want: &[f32], tol: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let ok = (g - w).abs() <= tol * w.abs().max(1.0) || g == w;
        assert!(ok, "{what}: element {i} is {g}, not {w}");
    }
}

/// The gradient of `f` at `x` by central differences.
pub(crate) fn numeric_grad(x: &[f32], f: impl Fn(&[f32]) -> f64) -> Vec<f32> {
    const H: f32 = 1.0 / 512.0;
    let mut at = x.to_vec();
    (0..x.len())
        .map(|i| {
            at[i] = x[i] + H;
            let (up, high) = (f(&at), at[i]);
            at[i] = x[i] - H;
            let (down, low) = (f(&at), at[i]);
            at[i] = x[i];
            ((up - down) / (f64::from(high) - f64::from(low))) as f32
        })
        .collect()
}

/// The sum of `a[i] b[i]`.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

/// How far `got` is from `exact`, in units of the last place of an f32 of that size.
pub(crate) fn ulps(got: f32, exact: f64) -> f64 {
    let size = (exact.abs() as f32).max(f32::MIN_POSITIVE);
    if size.is_infinite() {
        return if f64::from(got) == exact || got.is_infinite() { 0.0 } else { f64::INFINITY };
    }
    let ulp = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
    (f64::from(got) - exact).abs() / ulp
}
