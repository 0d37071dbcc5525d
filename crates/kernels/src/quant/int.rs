//! Products of packed codes with 8-bit activations, in integers.

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::dots::Dots;
use super::layout::{Block, FULL_BLOCKS, PANEL, as_blocks, blocks_per_unit, offset, whole, widen};
use super::path::{IntPath, int_path, on_path};
use super::rows::Int8Rows;
use super::{MAX_INT_ROW, PackedCodes};
use crate::gemm::epilogue::{Epilogue, apply};
use crate::nested::FULL_BITS;
use crate::threads::{self, Shared, scratch};
use std::ops::Range;

/// Panels of a tile, and of a task: what they widen to fits the caches next to a core.
const GROUP: usize = 4;

/// Panels of a task by AMX, for which codes in the second cache are near enough: rows of the result are written in long
/// stretches. Fewer, down to [`GROUP`], where there would be too few tasks.
const LONG_GROUP: usize = 16;

/// Rows from which on AMX is faster than AVX-512.
const FEW_ROWS: usize = 4;

/// Tasks that divide well among threads.
const TASKS: usize = 12;

/// Rows of `x` of a task, a multiple of every tile's: they and their results fit the second cache.
const ROWS: usize = 192;

/// Products below which a second thread costs more than it saves.
const PARALLEL_PRODUCTS: usize = 1 << 19;

/// Where the results go.
#[derive(Clone, Copy)]
pub(super) enum Out<'a> {
    Sums(Shared<'a, i32>),
    Floats { y: Shared<'a>, row_sums: &'a [f32], step: f32, bias: Option<&'a [f32]> },
}

/// What a task needs beside its panels.
pub(super) struct Job<'a> {
    pub(super) x: &'a Int8Rows,
    pub(super) w: &'a PackedCodes,
    pub(super) offset: i32,
    /// `[groups, m]`: what the sums of a row begin with, to take the offset of the codes off. Sums wrap round, which the last
    /// one undoes.
    pub(super) starts: &'a [i32],
    pub(super) out: Out<'a>,
}

pub(super) fn sums(w: &PackedCodes, x: &Int8Rows, bits: u8, sums: &mut [i32]) {
    product(w, x, bits, Out::Sums(Shared::new(sums)), &Epilogue::default());
}

pub(super) fn linear(w: &PackedCodes, x: &Int8Rows, bits: u8, then: &Epilogue<'_>, y: &mut [f32]) {
    let panels = w.panels(bits);
    debug_assert_eq!(panels.len(), w.panel_count() * w.units() * blocks_per_unit(bits));
    let step = f32::from(1u8 << (FULL_BITS - bits));
    let out = Out::Floats { y: Shared::new(y), row_sums: w.row_sums(bits), step, bias: then.bias };
    // The bias is added where sums become floats.
    product(w, x, bits, out, &Epilogue { bias: None, ..*then });
}

fn product(w: &PackedCodes, x: &Int8Rows, bits: u8, out: Out<'_>, then: &Epilogue<'_>) {
    assert!(w.d_in() <= MAX_INT_ROW, "rows of {} are too long for 32-bit sums", w.d_in());
    assert_eq!(x.d_in, w.d_in(), "inputs of x");
    assert_eq!(x.group, w.group(), "inputs of x that share a sum");
    let packed = w.panels(bits);
    let (units, panels) = (w.units(), w.panel_count());
    if x.m == 0 || panels == 0 {
        return;
    }
    let path = match int_path() {
        // Tiles would be mostly empty.
        IntPath::Amx if x.m < FEW_ROWS => IntPath::Avx512Vnni,
        path => path,
    };
    let starts: Vec<i32> = x.sums.iter().map(|sum| sum.wrapping_mul(-offset(bits))).collect();
    let job = Job { x, w, offset: offset(bits), starts: &starts, out };
    let per_panel = units * blocks_per_unit(bits);
    let parallel = x.m * w.d_in() * w.d_out() >= PARALLEL_PRODUCTS;
    let mut group = if path == IntPath::Amx { LONG_GROUP } else { GROUP };
    while group > GROUP && panels.div_ceil(group) * x.m.div_ceil(ROWS) < TASKS {
        group /= 2;
    }
    let groups = panels.div_ceil(group);
    threads::run(groups * x.m.div_ceil(ROWS), parallel, |i| {
        let first = i % groups * group;
        let rows = i / groups * ROWS;
        let rows = rows..x.m.min(rows + ROWS);
        let n = group.min(panels - first);
        let packed = &packed[first * per_panel..][..n * per_panel];
        if bits == FULL_BITS {
            run_panels(path, packed, first..first + n, rows.clone(), &job);
        } else {
            let blocks = n * units * FULL_BLOCKS;
            let mut buffer = scratch((blocks + 1) * PANEL);
            let bytes = &mut as_blocks(&mut buffer)[..blocks];
            widen(packed, bits, bytes);
            run_panels(path, bytes, first..first + n, rows.clone(), &job);
        }
        if let (Out::Floats { y, .. }, false) = (out, then.is_none()) {
            let (col, end) = (first * PANEL, w.d_out().min((first + n) * PANEL));
            for row in rows {
                // SAFETY: these outputs belong to this task.
                let y = unsafe { y.slice(row * w.d_out() + col, end - col) };
                apply(then, y, row, col, w.d_out());
            }
        }
    });
}

on_path!(fn run_panels = panels_body | amx::panels_body (
    bytes: &[Block], panels: Range<usize>, rows: Range<usize>, job: &Job<'_>));

#[inline(always)]
fn panels_body<D: Dots>(d: D, bytes: &[Block], panels: Range<usize>, rows: Range<usize>, job: &Job<'_>) {
    let len = job.w.units() * FULL_BLOCKS;
    let mut panel = panels.start;
    while panel < panels.end {
        let blocks = &bytes[(panel - panels.start) * len..];
        let left = if D::WIDE { panels.end - panel } else { 1 };
        panel += match job.out {
            Out::Sums(_) => strip::<D, 4, 1, true>(d, blocks, panel, rows.clone(), job),
            Out::Floats { .. } if left >= GROUP && job.w.groups() == 1 => {
                strip::<D, 6, GROUP, false>(d, blocks, panel, rows.clone(), job)
            }
            // Half of the registers hold the floats of the groups before.
            Out::Floats { .. } if left >= GROUP / 2 => {
                strip::<D, 6, { GROUP / 2 }, false>(d, blocks, panel, rows.clone(), job)
            }
            Out::Floats { .. } => strip::<D, 4, 1, false>(d, blocks, panel, rows.clone(), job),
        };
    }
}

/// The given rows of `x`, `ROWS` at a time, with `PANELS` panels from `panel`, the first of `blocks`; gives `PANELS`.
#[inline(always)]
fn strip<D: Dots, const ROWS: usize, const PANELS: usize, const SUMS: bool>(
    d: D,
    blocks: &[Block],
    panel: usize,
    rows: Range<usize>,
    job: &Job<'_>,
) -> usize {
    let mut row = rows.start;
    while row < rows.end {
        if rows.end - row > ROWS / 2 {
            tile::<D, ROWS, PANELS, SUMS>(d, blocks, panel, row, job);
            row += ROWS;
        } else {
            tile::<D, 1, PANELS, SUMS>(d, blocks, panel, row, job);
            row += 1;
        }
    }
    PANELS
}

/// Up to `ROWS` rows of `x` from `row`; past the last a tile repeats it. `SUMS` says which results the job is for: a
/// constant, so that floats stay in registers where they are made.
#[allow(clippy::needless_range_loop)] // one index into several arrays
#[inline(always)]
fn tile<D: Dots, const ROWS: usize, const PANELS: usize, const SUMS: bool>(
    d: D,
    blocks: &[Block],
    panel: usize,
    row: usize,
    job: &Job<'_>,
) {
    let len = job.w.units() * FULL_BLOCKS;
    let groups = job.w.groups();
    let per_group = len / groups;
    let mut xs: [&[u32]; ROWS] = [&[]; ROWS];
    for r in 0..ROWS {
        let row = (row + r).min(job.x.m - 1);
        xs[r] = &job.x.words[row * len..][..len];
    }
    let mut panels: [&[Block]; PANELS] = [&[]; PANELS];
    let mut scales: [&[[f32; PANEL]]; PANELS] = [&[]; PANELS];
    for p in 0..PANELS {
        panels[p] = &blocks[p * len..][..len];
        scales[p] = &job.w.scale()[(panel + p) * groups..][..groups];
    }
    if let (Out::Floats { y, .. }, false) = (job.out, SUMS) {
        // Where results go is asked for before there are any.
        for r in row..job.x.m.min(row + ROWS) {
            for p in panel..panel + PANELS {
                d.prefetch(y.ptr(r * job.w.d_out() + p * PANEL));
            }
        }
    }
    let mut total = [[d.all(0.0); PANELS]; ROWS];
    for g in 0..groups {
        let mut acc = [[d.splat(0); PANELS]; ROWS];
        let starts = &job.starts[g * job.x.m..][..job.x.m];
        for r in 0..ROWS {
            acc[r] = [d.splat(starts[(row + r).min(job.x.m - 1)]); PANELS];
        }
        for b in g * per_group..(g + 1) * per_group {
            let mut w = [d.weights(&panels[0][b]); PANELS];
            for p in 1..PANELS {
                w[p] = d.weights(&panels[p][b]);
            }
            for r in 0..ROWS {
                let x = d.inputs(xs[r][b]);
                for p in 0..PANELS {
                    acc[r][p] = d.dot(acc[r][p], w[p], x);
                }
            }
        }
        for p in 0..PANELS {
            let scale = d.floats(&scales[p][g]);
            for r in 0..ROWS {
                if SUMS {
                    if let (Out::Sums(out), true) = (job.out, row + r < job.x.m) {
                        write_sums(out, &d.store(acc[r][p]), (panel + p) * PANEL, (row + r) * groups + g, job);
                    }
                } else {
                    total[r][p] = d.plus(total[r][p], d.times(d.rounded(acc[r][p]), scale));
                }
            }
        }
    }
    if SUMS {
        return;
    }
    for p in 0..PANELS {
        let own = total.map(|of_row| of_row[p]);
        finish(d, &own[..ROWS.min(job.x.m - row)], panels[p], panel + p, row, job);
    }
}

/// Writes integer sums of a row (or of a group of one) for the outputs of one panel, from `first` on.
#[inline(always)]
pub(super) fn write_sums(out: Shared<'_, i32>, sums: &[i32; PANEL], first: usize, row: usize, job: &Job<'_>) {
    let n = PANEL.min(job.w.d_out() - first);
    // SAFETY: these outputs belong to one panel, and each panel to one task.
    unsafe { out.slice(row * job.w.d_out() + first, n) }.copy_from_slice(&sums[..n]);
}

/// Writes the results of rows from `row` on for the outputs of one panel, whose codes are `blocks`: the scaled sums of their
/// codes (`totals`), the middle of a row's range times all weights, and what its wide values are beyond the codes.
#[inline(always)]
pub(super) fn finish<D: Dots>(d: D, totals: &[D::Floats], blocks: &[Block], panel: usize, row: usize, job: &Job<'_>) {
    let Out::Floats { y, row_sums, step, bias } = job.out else { return };
    let (first, groups) = (panel * PANEL, job.w.groups());
    let scales = &job.w.scale()[panel * groups..][..groups];
    let n = PANEL.min(job.w.d_out() - first);
    let (row_sums, bias) = (whole(&row_sums[first..]), bias.map(|b| whole(&b[first..])));
    let (row_sums, step) = (d.floats(&row_sums), d.all(step));
    for (row, &total) in (row..).zip(totals) {
        let total = d.times(total, d.all(job.x.scale[row]));
        let mut value = d.plus(total, d.times(d.all(job.x.middle[row]), row_sums));
        let mut beyond = d.all(0.0);
        for wide in job.x.wide(row) {
            let at = wide.at as usize;
            let codes = d.rounded(d.codes(&blocks[at / 4], at % 4, job.offset));
            let weights = d.times(codes, d.floats(&scales[at / job.w.group()]));
            beyond = d.plus(beyond, d.times(d.all(wide.rest), weights));
        }
        value = d.times(d.plus(value, beyond), step);
        if let Some(bias) = &bias {
            value = d.plus(value, d.floats(bias));
        }
        // SAFETY: these outputs belong to one panel, and each panel to one task.
        d.write(value, unsafe { y.slice(row * job.w.d_out() + first, n) });
    }
}
