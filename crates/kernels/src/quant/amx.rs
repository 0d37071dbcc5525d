//! Integer products by AMX: 16 rows of `x` times 16 outputs, 64 inputs at once.
//!
//! A tile of weights is 16 blocks of a panel as they lie in memory; a tile of `x` is 64 codes of 16 rows. Products of
//! signed and unsigned bytes are summed in 32 bits that wrap round, so the sums are those of every other path.

use super::dots::Dots;
use super::dots_x86::Avx512Vnni;
use super::int::{GROUP, Job, Out, finish, write_sums};
use super::layout::{Block, FULL_BLOCKS, PANEL};
use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, _mm512_load_si512, _xgetbv};
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
pub(super) fn panels_body(d: Avx512Vnni, bytes: &[Block], first: usize, rows: Range<usize>, job: &Job<'_>) {
    let len = job.w.units() * FULL_BLOCKS;
    let end = job.w.panel_count().min(first + GROUP);
    // SAFETY: this path was chosen because AMX is ready.
    let mut tiles = unsafe { Tiles::new() };
    for row in rows.clone().step_by(2 * TILE) {
        let n = (rows.end - row).min(2 * TILE);
        let mut panel = first;
        while panel < end {
            let blocks = &bytes[(panel - first) * len..];
            if n > TILE && panel + 2 <= end {
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
    let mut total = [[[d.no_floats(); TILE]; PANELS]; HEIGHT];
    for g in 0..groups {
        let mut sums = [[Sums([[0; PANEL]; TILE]); PANELS]; HEIGHT];
        for (r, row) in rows.clone().enumerate() {
            // Takes the offset of the codes off; sums wrap round, which the last one undoes.
            let start = job.offset.wrapping_mul(job.x.sums[row * groups + g]).wrapping_neg();
            for sums in &mut sums[r / TILE] {
                sums.0[r % TILE] = [start; PANEL];
            }
        }
        let x = &job.x.words[rows.start * len + g * per_group..][..(rows.len() - 1) * len + per_group];
        let w = |p: usize| &blocks[p * len + g * per_group..][..per_group];
        // SAFETY: the slices above hold all rows of `x` and blocks of the panels that are multiplied.
        unsafe {
            if const { HEIGHT == 2 && PANELS == 2 } {
                tiles.add_four(x.as_ptr(), len, rows.len() - TILE, [w(0), w(1)], sums.as_flattened_mut());
            } else {
                tiles.add(x.as_ptr(), len, rows.len(), w(0), &mut sums[0][0]);
            }
        }
        for (r, row) in rows.clone().enumerate() {
            for p in 0..PANELS {
                let sums = &sums[r / TILE][p].0[r % TILE];
                if let Out::Sums(out) = job.out {
                    write_sums(out, sums, (panel + p) * PANEL, row * groups + g, job);
                    continue;
                }
                let scales = &job.w.scale()[(panel + p) * groups..][..groups];
                let total = &mut total[r / TILE][p][r % TILE];
                *total = d.scaled(*total, unsafe { _mm512_load_si512(sums.as_ptr().cast()) }, &scales[g]);
                if g + 1 == groups {
                    let blocks = &blocks[p * len..][..len];
                    finish(&d.store_floats(*total), blocks, scales, (panel + p) * PANEL, row, job);
                }
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

    /// Adds to sums the codes of `rows` rows of `x` times `blocks` blocks of one panel.
    ///
    /// # Safety
    /// `x` must have `rows` (1..=16) rows, `width` words apart, of as many words as `w` has blocks.
    unsafe fn add(&mut self, x: *const u32, width: usize, rows: usize, w: &[Block], sums: &mut Sums) {
        let (whole, rest) = (w.len() / STEP, w.len() % STEP);
        for (from, steps, blocks) in [(0, whole, STEP), (whole * STEP, usize::from(rest > 0), rest)] {
            if steps == 0 {
                continue;
            }
            self.shape([rows as u8, rows as u8, blocks as u8]);
            // SAFETY: the shape bounds every load by what the caller promises.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {line}]",
                    "2:",
                    "tileloadd tmm4, [{x} + {width}]",
                    "tileloadd tmm6, [{w} + {line}]",
                    "tdpbsud tmm0, tmm4, tmm6",
                    "add {x}, 64",
                    "add {w}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{sums} + {line}], tmm0",
                    x = inout(reg) x.add(from) => _,
                    w = inout(reg) w.as_ptr().add(from) => _,
                    steps = inout(reg) steps => _,
                    width = in(reg) width * size_of::<u32>(),
                    line = in(reg) LINE,
                    sums = in(reg) sums.0.as_mut_ptr(),
                    out("tmm0") _, out("tmm4") _, out("tmm6") _,
                    options(nostack),
                );
            }
        }
    }

    /// [`add`](Self::add) for 16 rows of `x` and `below` rows after them, and for two panels: each load is used twice.
    ///
    /// # Safety
    /// As there, with `below` (1..=16) rows more, both panels of the same length, and four sums: two for each tile of `x`.
    unsafe fn add_four(
        &mut self,
        x: *const u32,
        width: usize,
        below: usize,
        w: [&[Block]; 2],
        sums: &mut [Sums],
    ) {
        let (whole, rest) = (w[0].len() / STEP, w[0].len() % STEP);
        for (from, steps, blocks) in [(0, whole, STEP), (whole * STEP, usize::from(rest > 0), rest)] {
            if steps == 0 {
                continue;
            }
            self.shape([TILE as u8, below as u8, blocks as u8]);
            // SAFETY: the shape bounds every load by what the caller promises.
            unsafe {
                asm!(
                    "tileloadd tmm0, [{sums} + {line}]",
                    "tileloadd tmm1, [{sums} + {line} + 1024]",
                    "tileloadd tmm2, [{sums} + {line} + 2048]",
                    "tileloadd tmm3, [{sums} + {line} + 3072]",
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
                    x = inout(reg) x.add(from) => _,
                    below = inout(reg) x.add(TILE * width + from) => _,
                    w0 = inout(reg) w[0].as_ptr().add(from) => _,
                    w1 = inout(reg) w[1].as_ptr().add(from) => _,
                    steps = inout(reg) steps => _,
                    width = in(reg) width * size_of::<u32>(),
                    line = in(reg) LINE,
                    sums = in(reg) sums.as_mut_ptr(),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
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
