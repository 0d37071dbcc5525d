//! The few vector operations the kernels need, and their plain version.
//!
//! A value of a type that implements [`Simd`] is a proof that the processor has the instructions.

/// A vector instruction set.
pub(crate) trait Simd: Copy {
    /// A vector of `LANES` floats.
    type V: Copy;
    /// Floats in a vector.
    const LANES: usize;
    /// Whether there are 32 vector registers, not 16.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    /// Asks for the cache line at `p`, into the second level, ahead of its use. Any address will do.
    #[inline(always)]
    fn prefetch_ptr(self, p: *const f32) {
        let _ = p;
    }
    /// # Safety
    /// `p` must be good for reading `LANES` floats (of any alignment).
    unsafe fn load_ptr(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `p` must be good for writing `LANES` floats (of any alignment).
    unsafe fn store_ptr(self, p: *mut f32, v: Self::V);
    /// The first `min(x.len(), LANES)` floats of `x`, then zeros.
    fn load_part(self, x: &[f32]) -> Self::V;
    /// Writes the first `min(x.len(), LANES)` lanes.
    fn store_part(self, x: &mut [f32], v: Self::V);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`; fused where the instruction exists.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a * b`; fused where the instruction exists.
    fn fnma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; `b` where either is a NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser; `b` where either is a NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// The size of `mag` with the sign of `sign`.
    fn copysign(self, mag: Self::V, sign: Self::V) -> Self::V;
    /// `if a < b { t } else { f }`, lane by lane.
    fn select_lt(self, a: Self::V, b: Self::V, t: Self::V, f: Self::V) -> Self::V;
    /// To the nearest integer.
    fn round(self, a: Self::V) -> Self::V;
    /// `a * 2^n` for integral `n` in -150..=150, rounded once.
    fn scale2(self, a: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes, as a fixed tree.
    fn sum(self, a: Self::V) -> f32;
    /// The greatest lane.
    fn hmax(self, a: Self::V) -> f32;
    /// The whole number below the binary logarithm of a positive normal `a`.
    fn exponent(self, a: Self::V) -> Self::V;
    /// Transposes `rows` rows of `cols` floats, `from_rs` apart, into `cols` lines of `width` floats, `to_rs` apart;
    /// lanes past `rows` are zeros. All three counts are at most `LANES`.
    ///
    /// # Safety
    /// The rows must be good for reading and the lines for writing, and they must not overlap.
    unsafe fn transpose(
        self,
        from: *const f32,
        from_rs: usize,
        rows: usize,
        cols: usize,
        to: *mut f32,
        to_rs: usize,
        width: usize,
    );

    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the slice was just seen to be long enough.
        unsafe { self.load_ptr(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, x: &mut [f32], v: Self::V) {
        assert!(x.len() >= Self::LANES);
        // SAFETY: the slice was just seen to be long enough.
        unsafe { self.store_ptr(x.as_mut_ptr(), v) }
    }
}

/// Floats that a padded row of scratch is a multiple of: whole vectors, and whole row blocks of
/// the tile kernel when the matrix is read transposed.
#[inline(always)]
pub(crate) fn pad<S: Simd>(n: usize) -> usize {
    let unit = if S::LANES > 8 { S::LANES } else { 8 };
    n.div_ceil(unit) * unit
}

// Macros and not functions: a closure does not take on the instruction set of the kernel around
// it, so its vector operations would each become a call.

/// `y[i] = f(x[i])`, a vector at a time; the tail goes through the same code, masked.
macro_rules! map1 {
    ($t:ident, $s:expr, $x:expr, $y:expr, |$v:ident| $f:expr) => {{
        let mut xs = $x.chunks_exact($t::LANES);
        let mut ys = $y.chunks_exact_mut($t::LANES);
        for (a, b) in (&mut xs).zip(&mut ys) {
            let $v = $s.load(a);
            $s.store(b, $f);
        }
        let rest = ys.into_remainder();
        if !rest.is_empty() {
            let $v = $s.load_part(xs.remainder());
            $s.store_part(rest, $f);
        }
    }};
}

/// `y[i] = f(a[i], b[i])`, a vector at a time.
macro_rules! map2 {
    ($t:ident, $s:expr, $a:expr, $b:expr, $y:expr, |$p:ident, $q:ident| $f:expr) => {{
        let mut xs = $a.chunks_exact($t::LANES);
        let mut zs = $b.chunks_exact($t::LANES);
        let mut ys = $y.chunks_exact_mut($t::LANES);
        for ((a, b), o) in (&mut xs).zip(&mut zs).zip(&mut ys) {
            let ($p, $q) = ($s.load(a), $s.load(b));
            $s.store(o, $f);
        }
        let rest = ys.into_remainder();
        if !rest.is_empty() {
            let ($p, $q) = ($s.load_part(xs.remainder()), $s.load_part(zs.remainder()));
            $s.store_part(rest, $f);
        }
    }};
}

/// `y[i] = f(y[i])`, a vector at a time.
macro_rules! map_in_place {
    ($t:ident, $s:expr, $y:expr, |$v:ident| $f:expr) => {{
        let mut ys = $y.chunks_exact_mut($t::LANES);
        for b in &mut ys {
            let $v = $s.load(b);
            $s.store(b, $f);
        }
        let rest = ys.into_remainder();
        if !rest.is_empty() {
            let $v = $s.load_part(rest);
            $s.store_part(rest, $f);
        }
    }};
}

/// `y[i] = f(y[i], x[i])`, a vector at a time.
macro_rules! zip_in_place {
    ($t:ident, $s:expr, $y:expr, $x:expr, |$v:ident, $w:ident| $f:expr) => {{
        let mut ys = $y.chunks_exact_mut($t::LANES);
        let mut xs = $x.chunks_exact($t::LANES);
        for (b, a) in (&mut ys).zip(&mut xs) {
            let ($v, $w) = ($s.load(b), $s.load(a));
            $s.store(b, $f);
        }
        let rest = ys.into_remainder();
        if !rest.is_empty() {
            let ($v, $w) = ($s.load_part(rest), $s.load_part(xs.remainder()));
            $s.store_part(rest, $f);
        }
    }};
}

pub(crate) use {map_in_place, map1, map2, zip_in_place};

/// Plain code, four lanes at a time so that any compiler can use the target's baseline vectors.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type F4 = [f32; 4];

#[inline(always)]
fn zip4(a: F4, b: F4, f: impl Fn(f32, f32) -> f32) -> F4 {
    [f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])]
}

impl Simd for Scalar {
    type V = F4;
    const LANES: usize = 4;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> F4 {
        [x; 4]
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> F4 {
        // SAFETY: the caller promises four readable floats; an array of f32 is aligned as one.
        unsafe { p.cast::<F4>().read() }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, v: F4) {
        // SAFETY: the caller promises four writable floats; an array of f32 is aligned as one.
        unsafe { p.cast::<F4>().write(v) }
    }
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> F4 {
        if let Some(whole) = x.first_chunk() {
            return *whole;
        }
        let mut v = [0.0; 4];
        for (lane, &value) in v.iter_mut().zip(x) {
            *lane = value;
        }
        v
    }
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: F4) {
        if let Some(whole) = x.first_chunk_mut() {
            *whole = v;
            return;
        }
        for (value, &lane) in x.iter_mut().zip(&v) {
            *value = lane;
        }
    }
    #[inline(always)]
    fn add(self, a: F4, b: F4) -> F4 {
        zip4(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: F4, b: F4) -> F4 {
        zip4(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: F4, b: F4) -> F4 {
        zip4(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: F4, b: F4) -> F4 {
        zip4(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: F4, b: F4, c: F4) -> F4 {
        // Not `mul_add`: without the instruction that is a slow library call.
        zip4(zip4(a, b, |a, b| a * b), c, |p, c| p + c)
    }
    #[inline(always)]
    fn fnma(self, a: F4, b: F4, c: F4) -> F4 {
        zip4(zip4(a, b, |a, b| a * b), c, |p, c| c - p)
    }
    #[inline(always)]
    fn max(self, a: F4, b: F4) -> F4 {
        zip4(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: F4, b: F4) -> F4 {
        zip4(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: F4) -> F4 {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn abs(self, a: F4) -> F4 {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copysign(self, mag: F4, sign: F4) -> F4 {
        zip4(mag, sign, f32::copysign)
    }
    #[inline(always)]
    fn select_lt(self, a: F4, b: F4, t: F4, f: F4) -> F4 {
        let pick = |i: usize| if a[i] < b[i] { t[i] } else { f[i] };
        [pick(0), pick(1), pick(2), pick(3)]
    }
    #[inline(always)]
    fn round(self, a: F4) -> F4 {
        // Adding 1.5 * 2^23 leaves no bits for a fraction; good for |a| < 2^22, which is all the
        // callers need, and needs no rounding instruction.
        const BIG: f32 = 12_582_912.0;
        a.map(|x| (x + BIG) - BIG)
    }
    #[inline(always)]
    fn scale2(self, a: F4, n: F4) -> F4 {
        // Two factors, as 2^n itself may be out of range. The first is never the subnormal one,
        // so only the second product rounds.
        zip4(a, n, |x, n| {
            let n = n as i32;
            let half = n >> 1;
            let pow = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
            x * pow(half) * pow(n - half)
        })
    }
    #[inline(always)]
    fn sum(self, a: F4) -> f32 {
        (a[0] + a[2]) + (a[1] + a[3])
    }
    #[inline(always)]
    fn hmax(self, a: F4) -> f32 {
        let m = |a: f32, b: f32| if a > b { a } else { b };
        m(m(a[0], a[2]), m(a[1], a[3]))
    }
    #[inline(always)]
    fn exponent(self, a: F4) -> F4 {
        a.map(|x| ((x.to_bits() >> 23) as i32 - 127) as f32)
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_rs: usize,
        rows: usize,
        cols: usize,
        to: *mut f32,
        to_rs: usize,
        width: usize,
    ) {
        for c in 0..cols {
            for r in 0..width {
                // SAFETY: the caller's promise.
                unsafe { *to.add(c * to_rs + r) = if r < rows { *from.add(r * from_rs + c) } else { 0.0 } };
            }
        }
    }
}
