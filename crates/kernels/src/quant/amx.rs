//! Integer products by AMX: 16 rows of `x` times 16 outputs, 64 inputs at once.
//!
//! A tile of weights is 16 blocks of a panel as they lie in memory; a tile of `x` is 64 codes of 16 rows. Products of
//! signed and unsigned bytes are summed in 32 bits that wrap round, so the sums are those of every other path.

use super::dots::Dots;
use super::dots_x86::Avx512Vnni;
use super::int::{Job, Out, finish, write_sums};
use super::layout::{Block, FULL_BLOCKS, PANEL};
use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;
use std::sync::OnceLock;

/// Most rows of a tile.
const TILE: usize = 16;

/// Blocks of a panel that one step multiplies by: 64 inputs.
const STEP: usize = 16;

/// Groups of inputs whose sums are scaled in one go.
const CHUNK: usize = 4;

/// Bytes from one row of a tile of sums or weights to the next.
const LINE: usize = 64;

/// Sums of up to 16 rows for the outputs of one panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Sums([[i32; PANEL]; TILE]);

impl Sums {
    const ZERO: Self = Self([[0; PANEL]; TILE]);

    fn add(&mut self, other: &Self) {
        for (sum, other) in self.0.as_flattened_mut().iter_mut().zip(other.0.as_flattened()) {
            *sum = sum.wrapping_add(*other);
        }
    }
}

/// Whether the processor has AMX for bytes, and the system lets this process use it.
pub(super) fn ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| in_processor() && allowed())
}

/// Whether the processor has AMX for bytes and the system saves its registers.
fn in_processor() -> bool {
    const TILES: u32 = 1 << 24;
    const BYTES: u32 = 1 << 25;
    const STATE: u64 = 3 << 17;
    if !is_x86_feature_detected!("xsave") || !is_x86_feature_detected!("avx512vnni") {
        return false;
    }
    let has = TILES | BYTES;
    // SAFETY: leaf 7 is there where AVX-512 is, and the register may be read where the system uses `xsave`.
    unsafe { __cpuid_count(7, 0).edx & has == has && _xgetbv(0) & STATE == STATE }
}

/// Asks the system for the tiles' state, which programs do not have from the start.
fn allowed() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Results of the tiles at work: upper and lower rows of `x`, two panels.
struct Work {
    /// Sums of [`CHUNK`] groups.
    sums: [[[Sums; 2]; 2]; CHUNK],
    /// What a group takes off a row's sums, for the upper and the lower rows.
    offsets: [[[i32; TILE]; 2]; CHUNK],
    /// Scaled sums of the groups so far.
    totals: [[Totals; 2]; 2],
}

/// Scaled sums of up to 16 rows for the outputs of one panel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Totals([[f32; PANEL]; TILE]);

/// The product by AMX: 32 rows of `x` and two panels at once, then what is left of either.
#[inline(always)]
pub(super) fn panels_body(d: Avx512Vnni, bytes: &[Block], panels: Range<usize>, rows: Range<usize>, job: &Job<'_>) {
    let len = job.w.units() * FULL_BLOCKS;
    let mut work = Work {
        sums: [[[Sums::ZERO; 2]; 2]; CHUNK],
        offsets: [[[0; TILE]; 2]; CHUNK],
        totals: [[Totals([[0.0; PANEL]; TILE]); 2]; 2],
    };
    // SAFETY: this path was chosen because AMX is ready.
    let mut tiles = unsafe { Tiles::new() };
    for row in rows.clone().step_by(2 * TILE) {
        let rows = row..rows.end.min(row + 2 * TILE);
        for panel in panels.clone().step_by(2) {
            let blocks = &bytes[(panel - panels.start) * len..];
            square(d, &mut tiles, &mut work, blocks, panel..panels.end.min(panel + 2), rows.clone(), job);
        }
    }
}

/// Up to 32 rows of `x` with up to two panels, whose codes are the first of `blocks`.
#[inline(always)]
fn square(
    d: Avx512Vnni,
    tiles: &mut Tiles,
    work: &mut Work,
    blocks: &[Block],
    panels: Range<usize>,
    rows: Range<usize>,
    job: &Job<'_>,
) {
    let len = job.w.units() * FULL_BLOCKS;
    let groups = job.w.groups();
    let halves = [rows.start..rows.end.min(rows.start + TILE), rows.end.min(rows.start + TILE)..rows.end];
    for first in (0..groups).step_by(CHUNK) {
        let n = CHUNK.min(groups - first);
        for i in 0..n {
            multiply(tiles, &mut work.sums[i], blocks, panels.len(), &halves, first + i, job);
            for (offsets, rows) in work.offsets[i].iter_mut().zip(&halves) {
                let sums = &job.x.sums[(first + i) * job.x.m..][..job.x.m][rows.clone()];
                // Takes the offset of the codes off; sums wrap round, which this undoes.
                for (offset, sum) in offsets.iter_mut().zip(sums) {
                    *offset = job.offset.wrapping_mul(*sum);
                }
            }
        }
        for (half, rows) in halves.iter().enumerate() {
            for (p, panel) in panels.clone().enumerate() {
                if let Out::Sums(out) = job.out {
                    for (i, (r, row)) in (0..n).flat_map(|i| rows.clone().enumerate().map(move |r| (i, r))) {
                        let sums = d.less(&work.sums[i][half][p].0[r], work.offsets[i][half][r]);
                        write_sums(out, &d.store(sums), panel * PANEL, row * groups + first + i, job);
                    }
                } else if !rows.is_empty() {
                    let scales = &job.w.scale()[panel * groups + first..][..n];
                    scale(d, work, [half, p], scales, first == 0);
                }
            }
        }
    }
    for (half, rows) in halves.into_iter().enumerate() {
        for (p, panel) in panels.clone().enumerate() {
            for (total, row) in work.totals[half][p].0.iter().zip(rows.clone()) {
                finish(d, &[d.floats(total)], &blocks[p * len..][..len], panel, row, job);
            }
        }
    }
}

/// The integer sums of one group. What is left after whole steps is summed apart, as tiles have one shape at a time.
#[inline(always)]
fn multiply(
    tiles: &mut Tiles,
    sums: &mut [[Sums; 2]; 2],
    blocks: &[Block],
    panels: usize,
    [above, below]: &[Range<usize>; 2],
    group: usize,
    job: &Job<'_>,
) {
    let len = job.w.units() * FULL_BLOCKS;
    let per_group = len / job.w.groups();
    let mut part = |start: usize, end: usize, sums: &mut [[Sums; 2]; 2]| {
        let from = group * per_group + start;
        let x = |rows: &Range<usize>| {
            job.x.words[rows.start * len + from..][..(rows.len() - 1) * len + end - start].as_ptr()
        };
        let w = |p: usize| &blocks[p * len + from..][..end - start];
        // SAFETY: the slices above hold all rows of `x` and blocks of the panels that are multiplied.
        unsafe {
            if panels == 2 && !below.is_empty() {
                x(below); // checks that they are there
                return tiles.four(x(above), len, below.len(), [w(0), w(1)], sums);
            }
            for (rows, sums) in [above, below].into_iter().zip(sums).filter(|(rows, _)| !rows.is_empty()) {
                for (p, sums) in sums[..panels].iter_mut().enumerate() {
                    tiles.one(x(rows), len, rows.len(), w(p), sums);
                }
            }
        }
    };
    if per_group == 0 {
        return; // rows of no inputs: sums are 0
    }
    let whole = per_group / STEP * STEP;
    part(0, if whole == 0 { per_group } else { whole }, sums);
    if (1..per_group).contains(&whole) {
        let mut rest = [[Sums::ZERO; 2]; 2];
        part(whole, per_group, &mut rest);
        for (sums, rest) in sums.as_flattened_mut().iter_mut().zip(rest.as_flattened()) {
            sums.add(rest);
        }
    }
}

/// Adds to the totals of one tile the sums of some groups times their scales; `fresh` totals begin at 0. Sums and totals
/// of rows past the last have no meaning, and no one reads them.
#[inline(always)]
fn scale(_: Avx512Vnni, work: &mut Work, [half, p]: [usize; 2], scales: &[[f32; PANEL]], fresh: bool) {
    /// Rows whose totals stay in registers.
    const ROWS: usize = 8;
    for first in (0..TILE).step_by(ROWS) {
        // SAFETY: every array is one vector long; the token proves the instructions.
        unsafe {
            let mut own = [_mm512_setzero_ps(); ROWS];
            for (r, own) in own.iter_mut().enumerate() {
                if !fresh {
                    *own = _mm512_load_ps(work.totals[half][p].0[first + r].as_ptr());
                }
            }
            for (i, scale) in scales.iter().enumerate() {
                let scale = _mm512_loadu_ps(scale.as_ptr());
                for (r, own) in own.iter_mut().enumerate() {
                    let sums = _mm512_load_si512(work.sums[i][half][p].0[first + r].as_ptr().cast());
                    let sums = _mm512_sub_epi32(sums, _mm512_set1_epi32(work.offsets[i][half][first + r]));
                    *own = _mm512_add_ps(*own, _mm512_mul_ps(_mm512_cvtepi32_ps(sums), scale));
                }
            }
            for (r, own) in own.into_iter().enumerate() {
                _mm512_store_ps(work.totals[half][p].0[first + r].as_mut_ptr(), own);
            }
        }
    }
}

/// Shape of the tiles: rows of the upper and the lower tile of `x`, and blocks that a step takes of a panel.
type Shape = [u8; 3];

/// The tiles of this thread. Dropping it gives them back, which keeps switches between threads cheap.
struct Tiles {
    shape: Option<Shape>,
}

impl Tiles {
    /// # Safety
    /// [`ready`] must have said so.
    unsafe fn new() -> Self {
        Self { shape: None }
    }

    /// Sums of the codes of `rows` rows of `x` times the blocks `w` of one panel: whole steps of 16 blocks, or fewer.
    ///
    /// # Safety
    /// `x` must have `rows` (1..=16) rows, `width` words apart, of as many words as `w` has blocks.
    unsafe fn one(&mut self, x: *const u32, width: usize, rows: usize, w: &[Block], sums: &mut Sums) {
        self.shape([rows as u8, rows as u8, w.len().min(STEP) as u8]);
        // SAFETY: the shape bounds every load by what the caller promises.
        unsafe {
            asm!(
                "tilezero tmm0",
                "2:",
                "tileloadd tmm4, [{x} + {width}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "add {x}, 64",
                "add {w}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                x = inout(reg) x => _,
                w = inout(reg) w.as_ptr() => _,
                steps = inout(reg) w.len().div_ceil(STEP) => _,
                width = in(reg) width * size_of::<u32>(),
                line = in(reg) LINE,
                sums = in(reg) sums.0.as_mut_ptr(),
                out("tmm0") _, out("tmm4") _, out("tmm6") _,
                options(nostack),
            );
        }
    }

    /// [`one`](Self::one) for 16 rows of `x` and `below` rows after them, and for two panels: each load is used twice.
    ///
    /// # Safety
    /// As there, with `below` (1..=16) rows more, both panels of the same length, and four sums: two for each tile of `x`.
    unsafe fn four(&mut self, x: *const u32, width: usize, below: usize, w: [&[Block]; 2], sums: &mut [[Sums; 2]; 2]) {
        self.shape([TILE as u8, below as u8, w[0].len().min(STEP) as u8]);
        // SAFETY: the shape bounds every load by what the caller promises.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{x} + {width}]",
                "tileloadd tmm6, [{w0} + {line}]",
                "tileloadd tmm7, [{w1} + {line}]",
                "tdpbsud tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{below} + {width}]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tdpbsud tmm2, tmm5, tmm6",
                "tdpbsud tmm3, tmm5, tmm7",
                "add {x}, 64",
                "add {below}, 64",
                "add {w0}, 1024",
                "add {w1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {line}], tmm0",
                "tilestored [{sums} + {line} + 1024], tmm1",
                "tilestored [{sums} + {line} + 2048], tmm2",
                "tilestored [{sums} + {line} + 3072], tmm3",
                x = inout(reg) x => _,
                below = inout(reg) x.add(TILE * width) => _,
                w0 = inout(reg) w[0].as_ptr() => _,
                w1 = inout(reg) w[1].as_ptr() => _,
                steps = inout(reg) w[0].len().div_ceil(STEP) => _,
                width = in(reg) width * size_of::<u32>(),
                line = in(reg) LINE,
                sums = in(reg) sums.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Gives the tiles a shape: 0 to 3 sums, 4 and 5 rows of `x`, 6 and 7 blocks of panels.
    fn shape(&mut self, shape: Shape) {
        if self.shape == Some(shape) {
            return;
        }
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // the one kind of shape there is
        let [above, below, blocks] = shape;
        let line = LINE as u8;
        let tiles = [
            (above, line),
            (above, line),
            (below, line),
            (below, line),
            (above, 4 * blocks),
            (below, 4 * blocks),
            (blocks, line),
            (blocks, line),
        ];
        for (i, (rows, bytes)) in tiles.into_iter().enumerate() {
            config.0[16 + 2 * i] = bytes;
            config.0[48 + i] = rows;
        }
        // SAFETY: AMX is there (promised to `new`), and the shape is one that it takes: up to 16 rows of up to 64 bytes.
        unsafe {
            asm!(
                "ldtilecfg [{}]", in(reg) &config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, readonly),
            );
        }
        self.shape = Some(shape);
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: as in `shape`.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, nomem),
            );
        }
    }
}
