//! Products of packed codes with float activations.

use super::PackedCodes;
use super::lanes::{Both, Lanes};
use super::layout::{Block, PANEL, UNIT, as_blocks, blocks_per_unit};
use crate::dispatch::dispatch;
use crate::nested::FULL_BITS;
use crate::simd::Simd;
use crate::threads::{self, Shared, scratch};

/// Bytes of packed codes that a task reads.
const TASK_BYTES: usize = 64 * 1024;

/// Bytes times rows of `x` below which a second thread costs more than it saves.
const PARALLEL_BYTES: usize = 128 * 1024;

/// Panels that are summed at once: enough sums in flight to hide the time an addition takes.
const GROUP: usize = 4;

/// Blocks ahead of the one in use that are asked for: one page of memory.
const AHEAD: usize = 64;

/// Repeats a block with each value of a constant: shifts by constants are cheaper than by variables,
/// and the compiler leaves a loop of this length as it is.
macro_rules! unrolled {
    ($at:ident in $($value:literal)*: $body:block) => {
        $({
            const $at: usize = $value;
            $body
        })*
    };
}

struct Job<'a> {
    packed: &'a [Block],
    units: usize,
    bits: u8,
    m: usize,
    /// Rows of `units * UNIT` floats, padded with zeros.
    x: &'a [f32],
    /// For `m = 1` and two bits: a table for each two inputs, of what they add for each two codes.
    tables: &'a [Block],
    w: &'a PackedCodes,
    bias: Option<&'a [f32]>,
    y: Shared<'a>,
}

pub(super) fn linear(w: &PackedCodes, m: usize, x: &[f32], bits: u8, bias: Option<&[f32]>, y: &mut [f32]) {
    let packed = w.panels(bits);
    if m == 0 || w.d_out() == 0 {
        return;
    }
    let (d_in, units) = (w.d_in(), w.units());
    let width = units * UNIT;
    let pairs = m == 1 && bits == 2;
    let table_floats = if pairs { width / 2 * PANEL + PANEL } else { 0 };
    let mut buffer = scratch(m * width + table_floats);
    let (padded, tables) = buffer.split_at_mut(m * width);
    for i in 0..m {
        let row = &mut padded[i * width..][..width];
        row[..d_in].copy_from_slice(&x[i * d_in..][..d_in]);
        row[d_in..].fill(0.0);
    }
    let tables = as_blocks(tables);
    if pairs {
        make_tables(padded, tables);
    }
    let y = Shared::new(y);
    let job = Job { packed, units, bits, m, x: padded, tables, w, bias, y };
    let panel_bytes = (units * blocks_per_unit(bits) * size_of::<Block>()).max(1);
    let chunk = (TASK_BYTES / panel_bytes).next_multiple_of(GROUP).max(GROUP);
    let panels = w.panel_count();
    let parallel = panels * panel_bytes * m >= PARALLEL_BYTES;
    threads::run(panels.div_ceil(chunk), parallel, |i| {
        run_panels(&job, i * chunk, chunk.min(panels - i * chunk));
    });
}

#[inline(always)]
fn tables_body<S: Simd>(_s: S, x: &[f32], tables: &mut [Block]) {
    for (x, tables) in x.as_chunks::<UNIT>().0.iter().zip(tables.as_chunks_mut::<8>().0) {
        for (n, table) in tables.iter_mut().enumerate() {
            // Four bits of a word are the codes of one byte in two groups of inputs.
            let first = 8 * (n % 2) + n / 2;
            for (i, entry) in table.0.iter_mut().enumerate() {
                let (low, high) = ((i % 4) as f32 - 2.0, (i / 4) as f32 - 2.0);
                *entry = (x[first] * low + x[first + 4] * high).to_bits();
            }
        }
    }
}

dispatch!(fn make_tables = tables_body(x: &[f32], tables: &mut [Block]));
dispatch!(fn run_panels = panels_body(job: &Job<'_>, first: usize, count: usize));

#[inline(always)]
fn panels_body<S: Both>(s: S, job: &Job<'_>, first: usize, count: usize) {
    match job.bits {
        8 => rows_body::<S, 8>(s, job, first, count),
        6 => rows_body::<S, 6>(s, job, first, count),
        4 => rows_body::<S, 4>(s, job, first, count),
        _ => rows_body::<S, 2>(s, job, first, count),
    }
}

#[inline(always)]
fn rows_body<S: Both, const BITS: u8>(s: S, job: &Job<'_>, first: usize, count: usize) {
    let end = first + count;
    let mut panel = first;
    if job.m == 1 {
        while panel + GROUP <= end {
            tile::<S, BITS, 1, GROUP>(s, job, panel, 0);
            panel += GROUP;
        }
        while panel < end {
            tile::<S, BITS, 1, 1>(s, job, panel, 0);
            panel += 1;
        }
        return;
    }
    while panel < end {
        if <S as Lanes>::WIDE && panel + 2 <= end {
            strip::<S, BITS, 2>(s, job, panel);
            panel += 2;
        } else {
            strip::<S, BITS, 1>(s, job, panel);
            panel += 1;
        }
    }
}

/// All rows of `x` with `PANELS` panels from `panel`.
#[inline(always)]
fn strip<S: Both, const BITS: u8, const PANELS: usize>(s: S, job: &Job<'_>, panel: usize) {
    let mut row = 0;
    while row < job.m {
        // Past the last row a tile repeats it.
        row += match job.m - row {
            1 => tile::<S, BITS, 1, PANELS>(s, job, panel, row),
            2 => tile::<S, BITS, 2, PANELS>(s, job, panel, row),
            5.. if <S as Lanes>::WIDE => tile::<S, BITS, 8, PANELS>(s, job, panel, row),
            _ => tile::<S, BITS, 4, PANELS>(s, job, panel, row),
        };
    }
}

/// The products of up to `ROWS` rows of `x` from `row` with `PANELS` panels from `panel`; gives `ROWS`.
#[inline(always)]
fn tile<S: Both, const BITS: u8, const ROWS: usize, const PANELS: usize>(
    s: S,
    job: &Job<'_>,
    panel: usize,
    row: usize,
) -> usize {
    let per_unit = const { blocks_per_unit(BITS) };
    let len = job.units * per_unit;
    let mut panels: [&[Block]; PANELS] = [&[]; PANELS];
    let groups = job.w.groups();
    let per_group = job.units / groups;
    for (p, blocks) in panels.iter_mut().enumerate() {
        *blocks = &job.packed[(panel + p) * len..][..len];
    }
    let width = job.units * UNIT;
    let mut xs: [&[[f32; UNIT]]; ROWS] = [&[]; ROWS];
    for (r, x) in xs.iter_mut().enumerate() {
        *x = &job.x[(row + r).min(job.m - 1) * width..][..width].as_chunks().0[..job.units];
    }
    let pairs = BITS == 2 && job.m == 1;
    let mut total = [[[0.0f32; PANEL]; PANELS]; ROWS];
    for g in 0..groups {
        let mut acc = [[s.zero(); PANELS]; ROWS];
        for unit in g * per_group..(g + 1) * per_group {
            let mut words = [[s.words(&Block::ZERO); 4]; PANELS];
            for p in 0..PANELS {
                let blocks = &panels[p][unit * per_unit..][..per_unit];
                for (b, block) in blocks.iter().enumerate() {
                    words[p][b] = s.words(block);
                    if ROWS == 1 {
                        s.prefetch(block, AHEAD);
                    }
                }
            }
            if pairs {
                let tables = &job.tables[8 * unit..][..8];
                unrolled!(N in 0 1 2 3 4 5 6 7: {
                    for p in 0..PANELS {
                        acc[0][p] = s.pairs(words[p][0], 4 * N as u32, &tables[N], acc[0][p]);
                    }
                });
                continue;
            }
            let mut x: [&[f32; UNIT]; ROWS] = [&[0.0; UNIT]; ROWS];
            for r in 0..ROWS {
                x[r] = &xs[r][unit];
            }
            unrolled!(K in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15: {
                let mut codes = [s.zero(); PANELS];
                for p in 0..PANELS {
                    codes[p] = s.codes::<BITS>(&words[p], K);
                }
                for r in 0..ROWS {
                    let x = Lanes::splat(s, x[r][K]);
                    for p in 0..PANELS {
                        acc[r][p] = Lanes::fma(s, codes[p], x, acc[r][p]);
                    }
                }
            });
        }
        for r in 0..ROWS {
            for p in 0..PANELS {
                let sums = Lanes::store(s, acc[r][p]);
                let scale = &job.w.scale()[(panel + p) * groups + g];
                for ((total, sum), scale) in total[r][p].iter_mut().zip(sums).zip(scale) {
                    *total += sum * scale;
                }
            }
        }
    }
    let d_out = job.w.d_out();
    let step = f32::from(1u8 << (FULL_BITS - BITS));
    for (r, total) in total.iter().enumerate().take(job.m - row) {
        for (p, total) in total.iter().enumerate() {
            let first = (panel + p) * PANEL;
            let n = PANEL.min(d_out - first);
            // SAFETY: these outputs belong to one panel, and each panel to one task.
            let y = unsafe { job.y.slice((row + r) * d_out + first, n) };
            for i in 0..n {
                let bias = job.bias.map_or(0.0, |b| b[first + i]);
                y[i] = total[i] * step + bias;
            }
        }
    }
    ROWS
}
