//! Depth-wise 2-D convolution, channels last.

use crate::dispatch::dispatch;
use crate::gemm::Epilogue;
use crate::gemm::epilogue::apply;
use crate::simd::Simd;
use crate::threads::{Shared, run};

/// Multiply-adds below which one thread is quicker.
const PARALLEL_MACS: usize = 96 * 1024;
/// Widest kernel.
const WIDEST: usize = 9;
/// Output pixels whose sums are kept in registers at once.
const PIXELS: usize = 8;

/// A depth-wise convolution: every channel has its own `kernel` by `kernel` filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// Images.
    pub batch: usize,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Rows and columns of a filter, 1 to 9.
    pub kernel: usize,
    /// Pixels from one place of the filter to the next, in both directions.
    pub stride: usize,
    /// Zeros around the image on each side.
    pub padding: usize,
}

impl Depthwise {
    /// Rows and columns of the output; zero where the padded image is smaller than the filter.
    pub fn output(&self) -> (usize, usize) {
        let places = |n: usize| {
            let n = n + 2 * self.padding;
            if n < self.kernel { 0 } else { (n - self.kernel) / self.stride + 1 }
        };
        (places(self.height), places(self.width))
    }

    fn check(&self, x: usize, w: usize, y: usize) {
        assert!((1..=WIDEST).contains(&self.kernel), "the kernel must be 1 to {WIDEST} wide, not {}", self.kernel);
        assert!(self.stride > 0, "the stride must not be 0");
        let (oh, ow) = self.output();
        assert_eq!(x, self.batch * self.height * self.width * self.channels, "length of x");
        assert_eq!(w, self.kernel * self.kernel * self.channels, "length of w");
        assert_eq!(y, self.batch * oh * ow * self.channels, "length of y");
    }

    fn macs(&self) -> usize {
        let (oh, ow) = self.output();
        self.batch * oh * ow * self.kernel * self.kernel * self.channels
    }

    /// The filter rows (or columns) `from..to` that fall inside an image of `n` when the filter's first is at
    /// `at * stride - padding`.
    #[inline(always)]
    fn inside(&self, at: usize, n: usize) -> (usize, usize) {
        let start = at * self.stride;
        (self.padding.saturating_sub(start).min(self.kernel), self.kernel.min((n + self.padding).saturating_sub(start)))
    }
}

/// `y[batch, oh, ow, channels]` = the convolution of `x[batch, height, width, channels]` with
/// `w[kernel, kernel, channels]`, followed by `then` (whose bias is `[channels]`, the rest like `y`) row by row, while a
/// row is near; see [`Depthwise::output`] for `oh` and `ow`.
///
/// # Panics
/// If a length does not match, or the kernel or stride is out of range.
pub fn depthwise(shape: &Depthwise, x: &[f32], w: &[f32], then: &Epilogue<'_>, y: &mut [f32]) {
    shape.check(x.len(), w.len(), y.len());
    if y.is_empty() {
        return;
    }
    let (oh, ow) = shape.output();
    then.check(shape.batch * oh * ow, shape.channels);
    let (len, y, bias) = (ow * shape.channels, Shared::new(y), then.bias);
    let then = Epilogue { bias: None, ..*then };
    run(shape.batch * oh, shape.macs() >= PARALLEL_MACS, |i| {
        // SAFETY: each task has an output row of its own.
        let row = unsafe { y.slice(i * len, len) };
        forward_row(shape, &x[i / oh * shape.height * shape.width * shape.channels..], w, bias, i % oh, row);
        if !then.is_none() {
            apply(&then, row, i, 0, len);
        }
    });
}

dispatch!(fn forward_row = forward_body(
    shape: &Depthwise, x: &[f32], w: &[f32], bias: Option<&[f32]>, row: usize, y: &mut [f32]));

#[inline(always)]
fn forward_body<S: Simd>(
    s: S,
    shape: &Depthwise,
    x: &[f32],
    w: &[f32],
    bias: Option<&[f32]>,
    row: usize,
    y: &mut [f32],
) {
    let (c, k, columns) = (shape.channels, shape.kernel, y.len() / shape.channels);
    let (top, bottom) = shape.inside(row, shape.height);
    for at in (0..c).step_by(S::LANES) {
        let lanes = S::LANES.min(c - at);
        let start = bias.map_or(s.splat(0.0), |b| s.load_part(&b[at..at + lanes]));
        let mut col = 0;
        while col < columns {
            let pixels = PIXELS.min(columns - col);
            // Pixels whose filter lies inside the image share each filter vector; the others go one by one.
            let whole = |col: usize| shape.inside(col, shape.width) == (0, k);
            let together = pixels == PIXELS && whole(col) && whole(col + pixels - 1);
            let n = if together { PIXELS } else { 1 };
            let (left, right) = shape.inside(col, shape.width);
            let mut acc = [start; PIXELS];
            for ky in top..bottom {
                let line = (row * shape.stride + ky - shape.padding) * shape.width;
                for kx in left..right {
                    let f = s.load_part(&w[(ky * k + kx) * c + at..][..lanes]);
                    let pixel = line + col * shape.stride + kx - shape.padding;
                    if together {
                        for (p, acc) in acc.iter_mut().enumerate() {
                            let v = s.load_part(&x[(pixel + p * shape.stride) * c + at..][..lanes]);
                            *acc = s.fma(v, f, *acc);
                        }
                    } else {
                        acc[0] = s.fma(s.load_part(&x[pixel * c + at..][..lanes]), f, acc[0]);
                    }
                }
            }
            for (p, &acc) in acc.iter().take(n).enumerate() {
                s.store_part(&mut y[(col + p) * c + at..][..lanes], acc);
            }
            col += n;
        }
    }
}

/// Backward of [`depthwise`] from `dy[batch, oh, ow, channels]`: `dx` is overwritten, `dw[kernel, kernel, channels]` and
/// `db[channels]` are added to; each only where asked for.
///
/// # Panics
/// If a length does not match, or the kernel or stride is out of range.
pub fn depthwise_backward(
    shape: &Depthwise,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    dx: Option<&mut [f32]>,
    dw: Option<&mut [f32]>,
    db: Option<&mut [f32]>,
) {
    shape.check(x.len(), w.len(), dy.len());
    let (c, parallel) = (shape.channels, shape.macs() >= PARALLEL_MACS);
    if let Some(dx) = dx {
        assert_eq!(dx.len(), x.len(), "length of dx");
        let (len, dx) = (shape.width * c, Shared::new(dx));
        let (oh, ow) = shape.output();
        run(if len == 0 { 0 } else { shape.batch * shape.height }, parallel, |i| {
            // SAFETY: each task has an input row of its own.
            let row = unsafe { dx.slice(i * len, len) };
            input_row(shape, w, &dy[i / shape.height * oh * ow * c..], i % shape.height, row);
        });
    }
    if let Some(dw) = dw {
        assert_eq!(dw.len(), w.len(), "length of dw");
        let dw = Shared::new(dw);
        // Each task sums over all pixels, in their order, for a filter row of a few channels.
        const CHANNELS: usize = 16;
        let blocks = c.div_ceil(CHANNELS);
        run(shape.kernel * blocks, parallel, |i| {
            let (ky, at) = (i / blocks, i % blocks * CHANNELS);
            filter_row(shape, x, dy, ky, at, CHANNELS.min(c - at), dw);
        });
    }
    if let Some(db) = db {
        assert_eq!(db.len(), c, "length of db");
        crate::gemm::add_column_sums(dy.len() / c.max(1), c, dy, db);
    }
}

dispatch!(fn input_row = input_body(shape: &Depthwise, w: &[f32], dy: &[f32], row: usize, dx: &mut [f32]));

/// The output places whose filter reaches input row (or column) `at` with filter row `at + padding - place * stride`.
#[inline(always)]
fn places(shape: &Depthwise, at: usize, n: usize) -> std::ops::Range<usize> {
    let reach = at + shape.padding;
    let first = (reach + 1).saturating_sub(shape.kernel).div_ceil(shape.stride);
    first..n.min(reach / shape.stride + 1)
}

#[inline(always)]
fn input_body<S: Simd>(s: S, shape: &Depthwise, w: &[f32], dy: &[f32], row: usize, dx: &mut [f32]) {
    let (c, k, (oh, ow)) = (shape.channels, shape.kernel, shape.output());
    let rows = places(shape, row, oh);
    for (col, pixel) in dx.chunks_exact_mut(c).enumerate() {
        let cols = places(shape, col, ow);
        for at in (0..c).step_by(S::LANES) {
            let lanes = S::LANES.min(c - at);
            // Two sums, as one would wait for itself.
            let mut acc = [s.splat(0.0); 2];
            for oy in rows.clone() {
                let ky = row + shape.padding - oy * shape.stride;
                for ox in cols.clone() {
                    let kx = col + shape.padding - ox * shape.stride;
                    let f = s.load_part(&w[(ky * k + kx) * c + at..][..lanes]);
                    let d = s.load_part(&dy[(oy * ow + ox) * c + at..][..lanes]);
                    acc[ox & 1] = s.fma(d, f, acc[ox & 1]);
                }
            }
            s.store_part(&mut pixel[at..at + lanes], s.add(acc[0], acc[1]));
        }
    }
}

dispatch!(fn filter_row = filter_body(
    shape: &Depthwise, x: &[f32], dy: &[f32], ky: usize, at: usize, count: usize, dw: Shared<'_>));

#[inline(always)]
fn filter_body<S: Simd>(
    s: S,
    shape: &Depthwise,
    x: &[f32],
    dy: &[f32],
    ky: usize,
    first: usize,
    count: usize,
    dw: Shared<'_>,
) {
    let (c, k, (oh, ow)) = (shape.channels, shape.kernel, shape.output());
    for at in (first..first + count).step_by(S::LANES) {
        let lanes = S::LANES.min(first + count - at);
        let mut acc = [s.splat(0.0); WIDEST];
        for image in 0..shape.batch {
            for oy in 0..oh {
                let (top, bottom) = shape.inside(oy, shape.height);
                if ky < top || ky >= bottom {
                    continue;
                }
                let line = (image * shape.height + oy * shape.stride + ky - shape.padding) * shape.width;
                for ox in 0..ow {
                    let d = s.load_part(&dy[((image * oh + oy) * ow + ox) * c + at..][..lanes]);
                    let (left, right) = shape.inside(ox, shape.width);
                    // All of the nine by number, so that the sums stay in registers.
                    for (kx, acc) in acc.iter_mut().enumerate() {
                        if kx >= left && kx < right {
                            let pixel = line + ox * shape.stride + kx - shape.padding;
                            *acc = s.fma(d, s.load_part(&x[pixel * c + at..][..lanes]), *acc);
                        }
                    }
                }
            }
        }
        for (kx, &acc) in acc.iter().take(k).enumerate() {
            // SAFETY: this filter row of these channels is this task's own.
            let to = unsafe { dw.slice((ky * k + kx) * c + at, lanes) };
            let sum = s.add(s.load_part(to), acc);
            s.store_part(to, sum);
        }
    }
}
