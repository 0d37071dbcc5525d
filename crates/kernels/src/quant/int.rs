//! Products of packed codes with 8-bit activations, in integers.

use super::dots::Dots;
#[cfg(target_arch = "x86_64")]
use super::dots_x86::{Avx2Vnni, Avx512Vnni};
use super::layout::{Block, FULL_BLOCKS, PANEL, as_blocks, blocks_per_unit, offset, widen};
use super::rows::Int8Rows;
use super::vnni::{IntPath, int_path};
use super::{MAX_INT_ROW, PackedCodes};
use crate::nested::FULL_BITS;
use crate::simd::Scalar;
#[cfg(target_arch = "x86_64")]
use crate::simd_x86::{Avx2, Avx512};
use crate::threads::{self, Shared, scratch};
use std::ops::Range;

/// Panels of a task: what they widen to fits the caches next to a core.
const GROUP: usize = 4;

/// Rows of `x` of a task, a multiple of every tile's: they and their results fit the second cache.
const ROWS: usize = 120;

/// Products below which a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 19;

/// Where the results go.
#[derive(Clone, Copy)]
enum Out<'a> {
    Sums(Shared<'a, i32>),
    Floats { y: Shared<'a>, scale: &'a [f32], step: f32, bias: Option<&'a [f32]> },
}

/// What a task needs beside its panels.
struct Job<'a> {
    x: &'a Int8Rows,
    d_out: usize,
    units: usize,
    offset: i32,
    out: Out<'a>,
}

pub(super) fn sums(w: &PackedCodes, x: &Int8Rows, bits: u8, sums: &mut [i32]) {
    product(w, x, bits, Out::Sums(Shared::new(sums)));
}

pub(super) fn linear(w: &PackedCodes, x: &Int8Rows, bits: u8, bias: Option<&[f32]>, y: &mut [f32]) {
    let panels = w.panels(bits);
    debug_assert_eq!(panels.len(), w.panel_count() * w.units() * blocks_per_unit(bits));
    let step = f32::from(1u8 << (FULL_BITS - bits));
    product(w, x, bits, Out::Floats { y: Shared::new(y), scale: w.scale(), step, bias });
}

fn product(w: &PackedCodes, x: &Int8Rows, bits: u8, out: Out<'_>) {
    assert!(w.d_in() <= MAX_INT_ROW, "rows of {} are too long for 32-bit sums", w.d_in());
    assert_eq!(x.d_in, w.d_in(), "inputs of x");
    let packed = w.panels(bits);
    let (units, panels) = (w.units(), w.panel_count());
    if x.m == 0 || panels == 0 {
        return;
    }
    let path = int_path();
    let job = Job { x, d_out: w.d_out(), units, offset: offset(bits), out };
    let per_panel = units * blocks_per_unit(bits);
    let parallel = x.m * w.d_in() * w.d_out() >= PARALLEL_PRODUCTS;
    let groups = panels.div_ceil(GROUP);
    threads::run(groups * x.m.div_ceil(ROWS), parallel, |i| {
        let first = i % groups * GROUP;
        let rows = i / groups * ROWS;
        let rows = rows..x.m.min(rows + ROWS);
        let n = GROUP.min(panels - first);
        let packed = &packed[first * per_panel..][..n * per_panel];
        if bits == FULL_BITS {
            return run_panels(path, packed, first, rows, &job);
        }
        let blocks = n * units * FULL_BLOCKS;
        let mut buffer = scratch((blocks + 1) * PANEL);
        let bytes = &mut as_blocks(&mut buffer)[..blocks];
        widen(packed, bits, bytes);
        run_panels(path, bytes, first, rows, &job);
    });
}

fn run_panels(path: IntPath, bytes: &[Block], first: usize, rows: Range<usize>, job: &Job<'_>) {
    /// Compiles the product for one path.
    #[cfg(target_arch = "x86_64")]
    macro_rules! compiled {
        ($features:literal, $token:ty) => {{
            #[target_feature(enable = $features)]
            fn compiled(bytes: &[Block], first: usize, rows: Range<usize>, job: &Job<'_>) {
                // SAFETY: this function's own features are those the token stands for.
                panels_body(unsafe { <$token>::new() }, bytes, first, rows, job);
            }
            // SAFETY: `path` was found by asking the processor for these features.
            unsafe { compiled(bytes, first, rows, job) }
        }};
    }
    match path {
        #[cfg(target_arch = "x86_64")]
        IntPath::Avx512Vnni => compiled!("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni", Avx512Vnni),
        #[cfg(target_arch = "x86_64")]
        IntPath::Avx512 => compiled!("avx2,fma,avx512f,avx512vl,avx512bw,avx512dq", Avx512),
        #[cfg(target_arch = "x86_64")]
        IntPath::Avx2Vnni => compiled!("avx2,fma,avxvnni", Avx2Vnni),
        #[cfg(target_arch = "x86_64")]
        IntPath::Avx2 => compiled!("avx2,fma", Avx2),
        _ => panels_body(Scalar, bytes, first, rows, job),
    }
}

#[inline(always)]
fn panels_body<D: Dots>(d: D, bytes: &[Block], first: usize, rows: Range<usize>, job: &Job<'_>) {
    let len = job.units * FULL_BLOCKS;
    let end = job.d_out.div_ceil(PANEL).min(first + GROUP);
    let mut panel = first;
    while panel < end {
        let blocks = &bytes[(panel - first) * len..];
        if D::WIDE && panel + GROUP <= end {
            strip::<D, 6, GROUP>(d, blocks, panel, rows.clone(), job);
            panel += GROUP;
        } else {
            strip::<D, 4, 1>(d, blocks, panel, rows.clone(), job);
            panel += 1;
        }
    }
}

/// The given rows of `x`, `ROWS` at a time, with `PANELS` panels from `panel`, the first of `blocks`.
#[inline(always)]
fn strip<D: Dots, const ROWS: usize, const PANELS: usize>(
    d: D,
    blocks: &[Block],
    panel: usize,
    rows: Range<usize>,
    job: &Job<'_>,
) {
    let mut row = rows.start;
    while row < rows.end {
        if rows.end - row > ROWS / 2 {
            tile::<D, ROWS, PANELS>(d, blocks, panel, row, job);
            row += ROWS;
        } else {
            tile::<D, 1, PANELS>(d, blocks, panel, row, job);
            row += 1;
        }
    }
}

/// Up to `ROWS` rows of `x` from `row`; past the last a tile repeats it.
#[inline(always)]
fn tile<D: Dots, const ROWS: usize, const PANELS: usize>(
    d: D,
    blocks: &[Block],
    panel: usize,
    row: usize,
    job: &Job<'_>,
) {
    let len = job.units * FULL_BLOCKS;
    let mut xs: [&[u32]; ROWS] = [&[]; ROWS];
    for (r, x) in xs.iter_mut().enumerate() {
        *x = &job.x.words[(row + r).min(job.x.m - 1) * len..][..len];
    }
    let mut panels: [&[Block]; PANELS] = [&[]; PANELS];
    for (p, panel) in panels.iter_mut().enumerate() {
        *panel = &blocks[p * len..][..len];
    }
    let mut acc = [[d.zero(); PANELS]; ROWS];
    for g in 0..len {
        let mut w = [d.weights(&panels[0][g]); PANELS];
        for p in 1..PANELS {
            w[p] = d.weights(&panels[p][g]);
        }
        for r in 0..ROWS {
            let x = d.inputs(xs[r][g]);
            for p in 0..PANELS {
                acc[r][p] = d.dot(acc[r][p], w[p], x);
            }
        }
    }
    for (r, acc) in acc.iter().enumerate().take(job.x.m - row) {
        for (p, &acc) in acc.iter().enumerate() {
            finish(d.store(acc), (panel + p) * PANEL, row + r, job);
        }
    }
}

/// Takes the offset of the codes off the sums of outputs from `first`, and writes the results.
#[inline(always)]
fn finish(mut sums: [i32; PANEL], first: usize, row: usize, job: &Job<'_>) {
    let n = PANEL.min(job.d_out - first);
    let extra = job.offset.wrapping_mul(job.x.sums[row]);
    for sum in &mut sums {
        *sum = sum.wrapping_sub(extra);
    }
    let at = row * job.d_out + first;
    match job.out {
        // SAFETY: these outputs belong to one panel, and each panel to one task.
        Out::Sums(out) => unsafe { out.slice(at, n) }.copy_from_slice(&sums[..n]),
        Out::Floats { y, scale, step, bias } => {
            let x_scale = job.x.scale[row] * step;
            // SAFETY: as above.
            let y = unsafe { y.slice(at, n) };
            for i in 0..n {
                let value = sums[i] as f32 * (x_scale * scale[first + i]);
                y[i] = bias.map_or(value, |b| value + b[first + i]);
            }
        }
    }
}
