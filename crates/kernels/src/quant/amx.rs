//! Integer products by AMX: 16 rows of `x` times 16 outputs, 64 inputs at once.
//!
//! A tile of weights is 16 blocks of a panel as they lie in memory; a tile of `x` is 64 codes of 16 rows. Products of
//! signed and unsigned bytes are summed in 32 bits that wrap round, so the sums are those of every other path.

use super::dots::Dots;
use super::dots_x86::Avx512Vnni;
use super::int::{Job, Out, finish, write_sums};
use super::layout::{Block, FULL_BLOCKS, PANEL};
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::ops::Range;
use std::sync::OnceLock;

/// Most rows of a tile.
const TILE: usize = 16;

/// Blocks of a panel that one step multiplies by: 64 inputs.
const STEP: usize = 16;

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

/// The product by AMX: 32 rows of `x` and two panels at once, then what is left of either.
#[inline(always)]
pub(super) fn panels_body(d: Avx512Vnni, bytes: &[Block], panels: Range<usize>, rows: Range<usize>, job: &Job<'_>) {
    let len = job.w.units() * FULL_BLOCKS;
    // SAFETY: this path was chosen because AMX is ready.
    let mut tiles = unsafe { Tiles::new() };
    for row in rows.clone().step_by(2 * TILE) {
        let n = (rows.end - row).min(2 * TILE);
        let mut panel = panels.start;
        while panel < panels.end {
            let blocks = &bytes[(panel - panels.start) * len..];
            if n > TILE && panel + 2 <= panels.end {
                tiles_of::<2, 2>(d, &mut tiles, blocks, panel, row..row + n, job);
                panel += 2;
                continue;
            }
            for row in (row..row + n).step_by(TILE) {
                let rows = row..rows.end.min(row + TILE);
                tiles_of::<1, 1>(d, &mut tiles, blocks, panel, rows, job);
            }
            panel += 1;
        }
    }
}

/// Rows of `x` in `HEIGHT` tiles (the last may be shorter) with `PANELS` panels from `panel`, the first of `blocks`.
#[inline(always)]
fn tiles_of<const HEIGHT: usize, const PANELS: usize>(
    d: Avx512Vnni,
    tiles: &mut Tiles,
    blocks: &[Block],
    panel: usize,
    rows: Range<usize>,
    job: &Job<'_>,
) {
    let len = job.w.units() * FULL_BLOCKS;
    let groups = job.w.groups();
    let per_group = len / groups;
    // What is left after whole steps is summed apart, as tiles have one shape at a time.
    let whole = per_group / STEP * STEP;
    // Two, so that tiles are multiplied while the sums of the group before are scaled.
    let mut both = [[[Sums::ZERO; PANELS]; HEIGHT]; 2];
    let mut totals = [[[d.no_floats(); TILE]; PANELS]; HEIGHT];
    // The rows of an upper or lower tile, counted from its first.
    let halves = |half: usize| 0..rows.len().saturating_sub(half * TILE).min(TILE);
    let mut multiply = |g: usize, sums: &mut [[Sums; PANELS]; HEIGHT]| {
        let mut part = |start: usize, end: usize, sums: &mut [[Sums; PANELS]; HEIGHT]| {
            let from = g * per_group + start;
            let x = &job.x.words[rows.start * len + from..][..(rows.len() - 1) * len + end - start];
            let w = |p: usize| &blocks[p * len + from..][..end - start];
            // SAFETY: the slices above hold all rows of `x` and blocks of the panels that are multiplied.
            unsafe {
                if const { HEIGHT == 2 && PANELS == 2 } {
                    tiles.four(x.as_ptr(), len, rows.len() - TILE, [w(0), w(1)], sums.as_flattened_mut());
                } else {
                    tiles.one(x.as_ptr(), len, rows.len(), w(0), &mut sums[0][0]);
                }
            }
        };
        if per_group == 0 {
            return; // rows of no inputs: sums are 0
        }
        part(0, if whole == 0 { per_group } else { whole }, sums);
        if (1..per_group).contains(&whole) {
            let mut rest = [[Sums::ZERO; PANELS]; HEIGHT];
            part(whole, per_group, &mut rest);
            for (sums, rest) in sums.as_flattened_mut().iter_mut().zip(rest.as_flattened()) {
                sums.add(rest);
            }
        }
    };
    multiply(0, &mut both[0]);
    for g in 0..groups {
        if g + 1 < groups {
            multiply(g + 1, &mut both[(g + 1) % 2]);
        }
        let sums = &both[g % 2];
        for half in 0..HEIGHT {
            // Takes the offset of the codes off; sums wrap round, which this undoes.
            let mut offsets = [0; TILE];
            let first = g * job.x.m + rows.start + half * TILE;
            for (offset, sum) in offsets.iter_mut().zip(&job.x.sums[first..][..halves(half).len()]) {
                *offset = job.offset.wrapping_mul(*sum);
            }
            for p in 0..PANELS {
                let (sums, totals) = (&sums[half][p].0, &mut totals[half][p]);
                if let Out::Sums(out) = job.out {
                    for r in halves(half) {
                        let row = (rows.start + half * TILE + r) * groups + g;
                        write_sums(out, &d.store(d.less(&sums[r], offsets[r])), (panel + p) * PANEL, row, job);
                    }
                    continue;
                }
                let scale = &job.w.scale()[(panel + p) * groups + g];
                for r in halves(half) {
                    totals[r] = d.scaled(totals[r], d.less(&sums[r], offsets[r]), scale);
                }
            }
        }
    }
    for half in 0..HEIGHT {
        for p in 0..PANELS {
            let scales = &job.w.scale()[(panel + p) * groups..][..groups];
            for r in halves(half) {
                let row = rows.start + half * TILE + r;
                let total = d.store_floats(totals[half][p][r]);
                finish(&total, &blocks[p * len..][..len], scales, (panel + p) * PANEL, row, job);
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
    unsafe fn four(&mut self, x: *const u32, width: usize, below: usize, w: [&[Block]; 2], sums: &mut [Sums]) {
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
