//! The blocking around the tile kernel.

use super::epilogue::apply;
use super::pack::{Aligned, PackedMatrix, View, pack_panels, pack_tile};
use super::tile::{Tile, tile_of};
use super::{Epilogue, Geometry, Layout};
use crate::dispatch::dispatch;
use crate::isa;
use crate::simd::Simd;
use crate::threads::{self, Shared, threads};
use std::cell::Cell;

/// Depth at which a chain of multiply-adds is cut: a strip of rows of this depth stays in the first-level cache while
/// panels stream past it from the second.
const DEPTH: usize = 768;
/// Floats of packed panels one task works through for every strip of its rows: they, those that come next, and the rows
/// stay in the second-level cache.
const BLOCK: usize = 96 * 1024;
/// Rows of one task, at most: enough to use the block of panels many times, few enough to stay in the second-level cache
/// while one block of panels after the other passes by.
const ROWS: usize = 192;
/// Rows of its own panel that a strip asks for ahead of their use, where it does not ask for the next panel.
const AHEAD: usize = 64;
/// Multiply-adds below which one thread is quicker.
const PARALLEL_MACS: usize = 96 * 1024;
/// One product with a packed right factor.
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: View<'a>,
    /// `[n / nr][k][nr]`.
    panels: &'a [f32],
    add: bool,
    c: Shared<'a>,
    c_rs: usize,
    then: &'a Epilogue<'a>,
}

thread_local! {
    static PANELS: Cell<Option<Aligned>> = const { Cell::new(None) };
    static STRIP: Cell<Option<Aligned>> = const { Cell::new(None) };
}

/// A thread's buffer, of `len` floats of unknown content, kept between calls.
fn lend(place: &'static std::thread::LocalKey<Cell<Option<Aligned>>>, len: usize) -> Aligned {
    let mut buffer = place.take().unwrap_or_else(|| Aligned::zeros(0));
    buffer.grow(len);
    buffer
}

/// See [`super::gemm`]; `c`'s rows are `c_rs` apart.
pub(crate) fn gemm_into(
    m: usize,
    n: usize,
    k: usize,
    a: &[f32],
    a_layout: Layout,
    b: &[f32],
    b_layout: Layout,
    beta: f32,
    c: &mut [f32],
    c_rs: usize,
) {
    assert_eq!(a.len(), m * k, "length of a");
    assert_eq!(b.len(), k * n, "length of b");
    assert!(beta == 0.0 || beta == 1.0, "beta must be 0 or 1, not {beta}");
    let view = |data, layout, rows, cols| match layout {
        Layout::Normal => View { data, rs: cols, cs: 1 },
        Layout::Transposed => View { data, rs: 1, cs: rows },
    };
    let (a, b) = (view(a, a_layout, m, k), view(b, b_layout, k, n));
    product(m, n, k, a, b, beta == 1.0, &Epilogue::default(), c, c_rs);
}

/// See [`super::linear_fused`].
pub(super) fn linear(m: usize, d_in: usize, d_out: usize, x: &[f32], w: &[f32], then: &Epilogue<'_>, y: &mut [f32]) {
    assert_eq!(x.len(), m * d_in, "length of x");
    assert_eq!(w.len(), d_out * d_in, "length of w");
    let (a, b) = (View { data: x, rs: d_in, cs: 1 }, View { data: w, rs: 1, cs: d_in });
    product(m, d_out, d_in, a, b, false, then, y, d_out);
}

/// See [`super::linear_packed`].
pub(super) fn linear_packed(m: usize, x: &[f32], w: &PackedMatrix, then: &Epilogue<'_>, y: &mut [f32]) {
    let (k, n) = w.dims();
    assert_eq!(x.len(), m * k, "length of x");
    assert_eq!(y.len(), m * n, "length of y");
    then.check(m, n);
    let (a, c) = (View { data: x, rs: k, cs: 1 }, Shared::new(y));
    isa::with(w.isa(), || run(&Product { m, n, k, a, panels: w.panels(), add: false, c, c_rs: n, then }));
}

/// `c = A B (+ c)`, then the epilogue. Packs blocks of `b` as it goes.
fn product(
    m: usize,
    n: usize,
    k: usize,
    a: View<'_>,
    b: View<'_>,
    add: bool,
    then: &Epilogue<'_>,
    c: &mut [f32],
    c_rs: usize,
) {
    then.check(m, n);
    if m == 0 || n == 0 {
        return;
    }
    assert!(n <= c_rs, "c's rows overlap");
    assert!(c.len() >= (m - 1) * c_rs + n, "length of c");
    assert!(a.holds(m, k) && b.holds(k, n), "a factor is too short");
    let nr = Geometry::of(isa::current()).nr;
    let none = Epilogue::default();
    // A short factor is packed whole; a deep one (the gradient of a weight) depth by depth.
    let mut panels = lend(&PANELS, n.div_ceil(nr) * nr * k.min(DEPTH));
    let c = Shared::new(c);
    let mut first = 0;
    loop {
        let depth = DEPTH.min(k - first);
        let packed = &mut panels[..n.div_ceil(nr) * nr * depth];
        pack_panels(b, first, depth, n, nr, packed);
        let last = first + depth == k;
        let a = View { data: &a.data[(first * a.cs).min(a.data.len())..], ..a };
        let then = if last { then } else { &none };
        run(&Product { m, n, k: depth, a, panels: packed, add: add || first > 0, c, c_rs, then });
        first += depth;
        if last {
            break;
        }
    }
    PANELS.set(Some(panels));
}

/// See [`super::linear_grouped`].
pub(super) fn linear_grouped(x: &[f32], cu: &[u32], w: &[&PackedMatrix], then: &[Epilogue<'_>], y: &mut [f32]) {
    assert_eq!(cu.len(), w.len() + 1, "groups of rows and of weights");
    assert_eq!(then.len(), w.len(), "groups of weights and of epilogues");
    assert!(cu.first() == Some(&0) && cu.is_sorted(), "cu must rise from 0");
    let total = cu[cu.len() - 1] as usize;
    let Some(first) = w.first() else { return };
    let ((k, n), isa) = (first.dims(), first.isa());
    assert_eq!(x.len(), total * k, "length of x");
    assert_eq!(y.len(), total * n, "length of y");
    let c = Shared::new(y);
    // Only the groups that have rows cost anything.
    let busy = (0..w.len()).filter(|&g| cu[g] < cu[g + 1]);
    isa::with(isa, || {
        let macs = total * n * k;
        let mut plans = Vec::new();
        let mut tasks = 0;
        for g in busy {
            assert!(w[g].dims() == (k, n) && w[g].isa() == isa, "the weights of group {g} differ in shape");
            let (row, m) = (cu[g] as usize, (cu[g + 1] - cu[g]) as usize);
            then[g].check(m, n);
            let a = View { data: &x[row * k..(row + m) * k], rs: k, cs: 1 };
            // SAFETY: the groups' rows do not overlap.
            let c = Shared::new(unsafe { c.slice(row * n, m * n) });
            let p = Product { m, n, k, a, panels: w[g].panels(), add: false, c, c_rs: n, then: &then[g] };
            // As many pieces each as its share of the work.
            let pieces = if macs >= PARALLEL_MACS { (4 * threads() * m).div_ceil(total) } else { 1 };
            let plan = Plan::new(&p, pieces);
            let first = tasks;
            tasks += plan.tasks(&p);
            plans.push((first, p, plan));
        }
        threads::run(tasks, macs >= PARALLEL_MACS, |i| {
            let (first, p, plan) = &plans[plans.partition_point(|plan| plan.0 <= i) - 1];
            block(p, plan.part(p, i - first));
        });
    });
}

/// Shares the product out in blocks of rows and panels.
fn run(p: &Product<'_>) {
    if p.m == 0 || p.n == 0 {
        return;
    }
    let parallel = p.m * p.n * p.k >= PARALLEL_MACS;
    let plan = Plan::new(p, if parallel { 4 * threads() } else { 1 });
    threads::run(plan.tasks(p), parallel, |i| block(p, plan.part(p, i)));
}

/// How a product is cut into tasks.
#[derive(Clone, Copy)]
struct Plan {
    row_blocks: usize,
    /// Panels of a task.
    width: usize,
    geometry: Geometry,
}

impl Plan {
    /// At least about `pieces` tasks, where there is so much to share.
    fn new(p: &Product<'_>, pieces: usize) -> Self {
        let geometry = Geometry::of(isa::current());
        let Geometry { mr, nr } = geometry;
        // Rows: even strips of at most `mr`, so that no tile is much narrower than the others.
        let row_blocks = p.m.div_ceil(mr).div_ceil((ROWS / mr).max(1));
        let mut width = (BLOCK / (p.k.clamp(1, DEPTH) * nr)).max(1);
        if row_blocks < pieces {
            // Few rows: the panels are what there is to share.
            width = width.min(p.n.div_ceil(nr).div_ceil(pieces.div_ceil(row_blocks))).max(1);
        }
        Plan { row_blocks, width, geometry }
    }

    fn tasks(&self, p: &Product<'_>) -> usize {
        self.row_blocks * p.n.div_ceil(self.geometry.nr).div_ceil(self.width)
    }

    fn part(&self, p: &Product<'_>, i: usize) -> Part {
        let Plan { row_blocks, width, geometry: Geometry { mr, nr } } = *self;
        let (strips, panels) = (p.m.div_ceil(mr), p.n.div_ceil(nr));
        // Neighbours share the rows. Panels are one stretch of memory, which can be asked for ahead; rows lie on pages of
        // their own, where the processor has to find the pattern again.
        let cols = panels.div_ceil(width);
        let (row, col) = (i / cols, i % cols);
        let strip = |b: usize| (b * strips / row_blocks * p.m).div_ceil(strips);
        Part { rows: (strip(row), strip(row + 1)), panels: (col * width, ((col + 1) * width).min(panels)), mr, nr }
    }
}

/// A task: some rows and some panels.
#[derive(Clone, Copy)]
struct Part {
    rows: (usize, usize),
    panels: (usize, usize),
    mr: usize,
    nr: usize,
}

dispatch!(fn block = block_body(p: &Product<'_>, part: Part));

#[inline(always)]
fn block_body<S: Simd>(s: S, p: &Product<'_>, part: Part) {
    let Part { rows: (first, last), panels: (from, to), mr, nr } = part;
    let strips = (last - first).div_ceil(mr);
    // A transposed left factor has its depth across memory: strips are packed.
    let pack = p.a.cs != 1;
    let mut buffer = lend(&STRIP, if pack { DEPTH * mr } else { 0 });
    let cols = (from * nr, (to * nr).min(p.n));
    // The panels of the task that this thread most likely takes next: past the last panel, those that the next block of
    // rows begins with. Where no other block of rows comes, panels are not asked for a second time.
    let after = (to - from) * threads();
    let round = if last - first == p.m { usize::MAX } else { p.n.div_ceil(nr) };
    let mut done = 0;
    // At least once: a product without depth is zero, or only its epilogue.
    while done < p.k || done == 0 {
        let depth = DEPTH.min(p.k - done);
        let end = done + depth == p.k;
        for i in 0..strips {
            let row = first + i * (last - first) / strips;
            let rows = first + (i + 1) * (last - first) / strips - row;
            let (a, a_rs, a_cs) = if pack {
                match mr {
                    8 => pack_tile::<8>(p.a, row, rows, done, depth, &mut buffer),
                    6 => pack_tile::<6>(p.a, row, rows, done, depth, &mut buffer),
                    _ => pack_tile::<4>(p.a, row, rows, done, depth, &mut buffer),
                }
                (buffer.as_ptr(), 1, mr)
            } else {
                (p.a.data[row * p.a.rs + done..].as_ptr(), p.a.rs, 1)
            };
            for panel in from..to {
                let b = p.panels[(panel * p.k + done) * nr..].as_ptr();
                let (ahead, ahead_step) = if strips > 1 {
                    // This strip's share of the panel that comes next in this one's place: memory is read all the
                    // time, and not only in the first strip's.
                    let next = if end { (panel + after) % round * p.k } else { panel * p.k + done + depth };
                    (p.panels.as_ptr().wrapping_add((next + i * depth / strips) * nr), nr.div_ceil(strips))
                } else {
                    (b.wrapping_add(AHEAD * nr), nr)
                };
                let at = panel * nr;
                // SAFETY: rows row..row + rows and columns at..at + cols are this task's own and inside C, as
                // `product` checked; the strip and the panel hold `depth` columns and rows.
                unsafe {
                    let c = p.c.ptr(row * p.c_rs + at);
                    let cols = nr.min(p.n - at);
                    let add = p.add || done > 0;
                    let t =
                        Tile { k: depth, a, a_rs, a_cs, b, b_rs: nr, ahead, ahead_step, c, c_rs: p.c_rs, cols, add };
                    tile_of(s, rows, t);
                }
            }
            if end && !p.then.is_none() {
                for r in row..row + rows {
                    // SAFETY: as above.
                    let y = unsafe { p.c.slice(r * p.c_rs + cols.0, cols.1 - cols.0) };
                    apply(p.then, y, r, cols.0, p.n);
                }
            }
        }
        done += depth;
        if p.k == 0 {
            break;
        }
    }
    STRIP.set(Some(buffer));
}
