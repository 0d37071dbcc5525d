//! Products of packed codes with float activations, for few rows.
//!
//! What such a product takes is the time to read its codes, if little is done to each. Turning each into a float is too
//! much; dot products of bytes take sixty-four at once. So the activations become integers, [`BITS`] bits and a sign for
//! each group of inputs, in three signed digits of 8 bits, and the sums of each digit are exact.

use super::PackedCodes;
use super::dots::Dots;
use super::layout::{Block, PANEL, UNIT, blocks_per_unit, offset, whole};
use super::path::{int_path, on_path};
use crate::dispatch::dispatch;
use crate::nested::FULL_BITS;
use crate::simd::Simd;
use crate::threads::{self, Shared};

/// Digits of an activation, the lowest first.
pub(super) const DIGITS: usize = 3;

/// Bits of the greatest activation of a group beside its sign.
const BITS: u32 = 23;

/// The greatest number of [`DIGITS`] digits of -128 to 127.
const MOST: u32 = 0x7f_7f7f;

/// Bytes of packed codes that a task reads.
const TASK_BYTES: usize = 64 * 1024;

/// Bytes times rows of `x` below which a second thread costs more than it saves.
const PARALLEL_BYTES: usize = 128 * 1024;

/// Sums in flight for each digit of a row and panel, where only one row and panel are at work: enough to hide most of the
/// time an addition takes.
const CHAINS: usize = 2;

/// Blocks ahead of the one in use that are asked for.
const AHEAD: usize = 32;

/// Rows of activations as digits: a value is `(d0 + 256 d1 + 65536 d2) * step`, where the step is a power of two, so that
/// numbers on a grid of 22 bits are exact; of others no more is lost than 2^-23 of the group's greatest.
struct Rows {
    m: usize,
    /// Inputs of a row, padded to whole units.
    width: usize,
    groups: usize,
    /// `[m, DIGITS, width]`.
    digits: Vec<u8>,
    /// `[m, groups]`: the sums of each digit.
    sums: Vec<[i32; DIGITS]>,
    /// `[m, groups]`; NaN for a group with a value that is not finite.
    steps: Vec<f32>,
}

impl Rows {
    fn new(m: usize, x: &[f32], w: &PackedCodes) -> Self {
        let (d_in, width, groups) = (w.d_in(), w.units() * UNIT, w.groups());
        let mut rows = Self {
            m,
            width,
            groups,
            digits: vec![0; m * DIGITS * width],
            sums: vec![[0; DIGITS]; m * groups],
            steps: vec![0.0; m * groups],
        };
        if d_in > 0 {
            let lines = rows.digits.chunks_exact_mut(DIGITS * width).zip(x.chunks_exact(d_in));
            let of_groups = rows.sums.chunks_exact_mut(groups).zip(rows.steps.chunks_exact_mut(groups));
            for ((digits, x), (sums, steps)) in lines.zip(of_groups) {
                split(x, w.group(), digits, sums, steps);
            }
        }
        rows
    }

    /// The digits of a row, four inputs to a word; of the last row past it.
    #[inline(always)]
    fn words(&self, row: usize) -> [&[[u8; 4]]; DIGITS] {
        let line = &self.digits[row.min(self.m - 1) * DIGITS * self.width..][..DIGITS * self.width];
        std::array::from_fn(|d| line[d * self.width..][..self.width].as_chunks().0)
    }

    #[inline(always)]
    fn group(&self, row: usize, g: usize) -> ([i32; DIGITS], f32) {
        let at = row.min(self.m - 1) * self.groups + g;
        (self.sums[at], self.steps[at])
    }
}

#[inline(always)]
fn split_body<S: Simd>(
    _s: S,
    x: &[f32],
    group: usize,
    digits: &mut [u8],
    sums: &mut [[i32; DIGITS]],
    steps: &mut [f32],
) {
    let width = digits.len() / DIGITS;
    let (low, rest) = digits.split_at_mut(width);
    let (middle, high) = rest.split_at_mut(width);
    for (g, x) in x.chunks_exact(group).enumerate() {
        const MANTISSA: u32 = f32::MANTISSA_DIGITS - 1;
        // The exponent of the greatest, with its bias, and one more where its digits would be too many; that of an infinity
        // or a NaN is above all others.
        let most = x.iter().fold(0, |most: u32, v| most.max(v.to_bits() & i32::MAX as u32));
        if most >= f32::INFINITY.to_bits() {
            steps[g] = f32::NAN;
            continue;
        }
        // Of groups below 2^-103 fewer bits are left, down to none.
        let top = ((most + 2 * ((1 << BITS) - 1 - MOST) + 1) >> MANTISSA).max(BITS + 1);
        // step = 2^(top - 127 - (BITS - 1)), as floats of biased exponents.
        steps[g] = f32::from_bits((top + 1 - BITS) << MANTISSA);
        let inverse = f32::from_bits((253 + BITS - top) << MANTISSA);
        let at = g * group..(g + 1) * group;
        let mut sum = [0; DIGITS];
        let places = low[at.clone()].iter_mut().zip(&mut middle[at.clone()]).zip(&mut high[at]);
        for (&x, ((d0, d1), d2)) in x.iter().zip(places) {
            let n = (x * inverse).round_ties_even() as i32;
            let first = n as i8;
            let n = (n - i32::from(first)) >> 8;
            let second = n as i8;
            let third = (n - i32::from(second)) >> 8;
            (*d0, *d1, *d2) = (first as u8, second as u8, third as u8);
            sum[0] += i32::from(first);
            sum[1] += i32::from(second);
            sum[2] += third;
        }
        sums[g] = sum;
    }
}

dispatch!(
    /// The digits `[DIGITS, width]` of a row, and of each of its groups the sums and the step; padding stays as it is.
    fn split = split_body(
        x: &[f32], group: usize, digits: &mut [u8], sums: &mut [[i32; DIGITS]], steps: &mut [f32])
);

struct Job<'a> {
    packed: &'a [Block],
    bits: u8,
    x: &'a Rows,
    w: &'a PackedCodes,
    bias: Option<&'a [f32]>,
    y: Shared<'a>,
}

pub(super) fn linear(w: &PackedCodes, m: usize, x: &[f32], bits: u8, bias: Option<&[f32]>, y: &mut [f32]) {
    let packed = w.panels(bits);
    if m == 0 || w.d_out() == 0 {
        return;
    }
    let path = int_path();
    let x = Rows::new(m, x, w);
    let job = Job { packed, bits, x: &x, w, bias, y: Shared::new(y) };
    let panel_bytes = (w.units() * blocks_per_unit(bits) * size_of::<Block>()).max(1);
    let chunk = (TASK_BYTES / panel_bytes).next_multiple_of(WIDEST).max(WIDEST);
    let panels = w.panel_count();
    let parallel = panels * panel_bytes * m >= PARALLEL_BYTES;
    threads::run(panels.div_ceil(chunk), parallel, |i| {
        run_panels(path, &job, i * chunk, chunk.min(panels - i * chunk));
    });
}

on_path!(fn run_panels = panels_body | panels_body (job: &Job<'_>, first: usize, count: usize));

#[inline(always)]
fn panels_body<D: Dots>(d: D, job: &Job<'_>, first: usize, count: usize) {
    match job.bits {
        8 => rows_body::<D, 8>(d, job, first, count),
        6 => rows_body::<D, 6>(d, job, first, count),
        4 => rows_body::<D, 4>(d, job, first, count),
        _ => rows_body::<D, 2>(d, job, first, count),
    }
}

/// Most panels of a tile.
const WIDEST: usize = 2;

/// Tiles that the sums have registers for: three for each row and panel.
#[inline(always)]
fn rows_body<D: Dots, const BITS: u8>(d: D, job: &Job<'_>, first: usize, count: usize) {
    let end = first + count;
    let mut panel = first;
    while panel < end {
        panel += match (job.x.m, end - panel) {
            // Few rows take what memory gives, which is most where it is one stretch.
            (1, _) => strip::<D, BITS, 1, 1>(d, job, panel),
            (2, _) if D::WIDE => strip::<D, BITS, 2, 1>(d, job, panel),
            (5.., WIDEST..) if D::WIDE => strip::<D, BITS, 4, WIDEST>(d, job, panel),
            (3.., _) if D::WIDE => strip::<D, BITS, 4, 1>(d, job, panel),
            _ => strip::<D, BITS, 1, 1>(d, job, panel),
        };
    }
}

/// The rows of `x`, `ROWS` at a time, with `PANELS` panels from `panel`; gives `PANELS`.
#[inline(always)]
fn strip<D: Dots, const BITS: u8, const ROWS: usize, const PANELS: usize>(d: D, job: &Job<'_>, panel: usize) -> usize {
    let mut row = 0;
    while row < job.x.m {
        // Past the last row a tile repeats it.
        tile::<D, BITS, ROWS, PANELS>(d, job, panel, row);
        row += ROWS;
    }
    PANELS
}

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

/// The products of up to `ROWS` rows of `x` from `row` with `PANELS` panels from `panel`.
#[allow(clippy::needless_range_loop)] // one index into several arrays
#[inline(always)]
fn tile<D: Dots, const BITS: u8, const ROWS: usize, const PANELS: usize>(
    d: D,
    job: &Job<'_>,
    panel: usize,
    row: usize,
) {
    let per_unit = const { blocks_per_unit(BITS) };
    let (units, groups) = (job.w.units(), job.w.groups());
    let (per_group, len) = (units / groups, units * per_unit);
    let mut panels: [&[Block]; PANELS] = [&[]; PANELS];
    let mut scales: [&[[f32; PANEL]]; PANELS] = [&[]; PANELS];
    for p in 0..PANELS {
        panels[p] = &job.packed[(panel + p) * len..][..len];
        scales[p] = &job.w.scale()[(panel + p) * groups..][..groups];
    }
    let mut xs: [[&[[u8; 4]]; DIGITS]; ROWS] = [[&[]; DIGITS]; ROWS];
    for r in 0..ROWS {
        xs[r] = job.x.words(row + r);
    }
    let mut total = [[d.all(0.0); PANELS]; ROWS];
    for g in 0..groups {
        let mut acc = [[[d.splat(0); DIGITS]; PANELS]; ROWS];
        // Of odd words, where few sums are in flight.
        let mut odd = [d.splat(0); DIGITS];
        let alone = const { ROWS * PANELS < CHAINS };
        for r in 0..ROWS {
            // Takes the offset of the codes off; sums wrap round, which the last one undoes.
            let (sums, _) = job.x.group(row + r, g);
            for digit in 0..DIGITS {
                let start = d.splat(offset(BITS).wrapping_mul(sums[digit]).wrapping_neg());
                for p in 0..PANELS {
                    acc[r][p][digit] = start;
                }
            }
        }
        for unit in g * per_group..(g + 1) * per_group {
            let mut raw = [[d.raw(&Block::ZERO); 4]; PANELS];
            // Past the end of a panel the next are the other ones in work.
            let ahead = AHEAD + if unit * per_unit + AHEAD < len { 0 } else { (PANELS - 1) * len };
            for p in 0..PANELS {
                for (raw, block) in raw[p].iter_mut().zip(&panels[p][unit * per_unit..][..per_unit]) {
                    *raw = d.raw(block);
                    d.prefetch(std::ptr::from_ref(block).wrapping_add(ahead));
                }
            }
            let mut fours = [[&[[0; 4]; 4]; DIGITS]; ROWS];
            for r in 0..ROWS {
                for digit in 0..DIGITS {
                    fours[r][digit] = &xs[r][digit].as_chunks().0[unit];
                }
            }
            unrolled!(G in 0 1 2 3: {
                let mut w = [d.ready(raw[0][0]); PANELS];
                for p in 0..PANELS {
                    w[p] = d.ready(d.bytes::<BITS>(&raw[p], G));
                }
                for r in 0..ROWS {
                    for digit in 0..DIGITS {
                        let x = d.inputs(u32::from_le_bytes(fours[r][digit][G]));
                        if alone && G % 2 == 1 {
                            odd[digit] = d.dot(odd[digit], w[0], x);
                            continue;
                        }
                        for p in 0..PANELS {
                            acc[r][p][digit] = d.dot(acc[r][p][digit], w[p], x);
                        }
                    }
                }
            });
        }
        if alone {
            for digit in 0..DIGITS {
                acc[0][0][digit] = d.sum(acc[0][0][digit], odd[digit]);
            }
        }
        for r in 0..ROWS {
            let (_, step) = job.x.group(row + r, g);
            for p in 0..PANELS {
                total[r][p] = d.joined(total[r][p], acc[r][p], &scales[p][g], step);
            }
        }
    }
    let d_out = job.w.d_out();
    let step = d.all(f32::from(1u8 << (FULL_BITS - BITS)));
    for p in 0..PANELS {
        let first = (panel + p) * PANEL;
        let n = PANEL.min(d_out - first);
        let bias = d.floats(&job.bias.map_or([0.0; PANEL], |b| whole(&b[first..])));
        for (r, total) in total.iter().enumerate().take(job.x.m - row) {
            // SAFETY: these outputs belong to one panel, and each panel to one task.
            let y = unsafe { job.y.slice((row + r) * d_out + first, n) };
            d.write(d.plus(d.times(total[p], step), bias), y);
        }
    }
}
