//! Factors rearranged for the tile kernel: the right factor in panels of a few vectors' width, once per weight.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Geometry;
use crate::dispatch::dispatch;
use crate::isa::{self, Isa};
use crate::simd::Simd;
use crate::threads::{self, PARALLEL_FLOATS, Shared};

/// A cache line of floats: a buffer of them starts at a line, so that no vector load straddles two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Floats that start at a cache line.
#[derive(Clone)]
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

impl Aligned {
    pub(crate) fn zeros(len: usize) -> Self {
        Aligned { lines: vec![Line([0.0; 16]); len.div_ceil(16)], len }
    }

    /// Makes room for `len` floats of unknown content.
    pub(crate) fn grow(&mut self, len: usize) {
        if self.lines.len() * 16 < len {
            self.lines = vec![Line([0.0; 16]); len.div_ceil(16)];
        }
        self.len = len;
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is sixteen floats without padding, and `len` floats were made room for.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

/// A matrix in memory: element (i, j) is at `data[i * rs + j * cs]`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rs: usize,
    pub(crate) cs: usize,
}

impl View<'_> {
    /// Whether a matrix of this shape lies inside the slice.
    pub(crate) fn holds(&self, rows: usize, cols: usize) -> bool {
        rows == 0 || cols == 0 || (rows - 1) * self.rs + (cols - 1) * self.cs < self.data.len()
    }
}

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that packed weights take in this process now.
pub fn packed_bytes() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Bytes that count towards [`packed_bytes`] while it lives.
struct PanelBytes(usize);

impl PanelBytes {
    fn new(bytes: usize) -> PanelBytes {
        HELD.fetch_add(bytes, Ordering::Relaxed);
        PanelBytes(bytes)
    }
}

impl Clone for PanelBytes {
    fn clone(&self) -> PanelBytes {
        PanelBytes::new(self.0)
    }
}

impl Drop for PanelBytes {
    fn drop(&mut self) {
        HELD.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The weights `[out, in]` of a projection, packed once for [`linear_packed`](super::linear_packed).
///
/// Costs as much memory as the weights, `out` rounded up to whole panels.
#[derive(Clone)]
pub struct PackedMatrix {
    data: Aligned,
    d_in: usize,
    d_out: usize,
    isa: Isa,
    held: PanelBytes,
}

impl std::fmt::Debug for PackedMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedMatrix [{}, {}] for {:?}", self.d_out, self.d_in, self.isa)
    }
}

impl PackedMatrix {
    /// Packs `w[out, in]` for the current instruction set.
    ///
    /// # Panics
    /// If a length does not match.
    pub fn new(d_in: usize, d_out: usize, w: &[f32]) -> Self {
        assert_eq!(w.len(), d_in * d_out, "length of w");
        let isa = isa::current();
        let nr = Geometry::of(isa).nr;
        let mut data = Aligned::zeros(d_out.div_ceil(nr) * nr * d_in);
        pack_panels(View { data: w, rs: 1, cs: d_in }, 0, d_in, d_out, nr, &mut data);
        let held = PanelBytes::new(4 * data.len());
        PackedMatrix { data, d_in, d_out, isa, held }
    }

    /// The weights `[out, in]` as they were.
    pub fn unpack(&self) -> Vec<f32> {
        let nr = Geometry::of(self.isa).nr;
        let mut w = vec![0.0; self.d_in * self.d_out];
        for (row, w) in w.chunks_exact_mut(self.d_in.max(1)).enumerate() {
            let panel = &self.data[row / nr * nr * self.d_in..];
            w.iter_mut().enumerate().for_each(|(k, v)| *v = panel[k * nr + row % nr]);
        }
        w
    }

    /// `(in, out)`.
    pub fn dims(&self) -> (usize, usize) {
        (self.d_in, self.d_out)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.held.0
    }

    pub(super) fn panels(&self) -> &[f32] {
        &self.data
    }

    pub(super) fn isa(&self) -> Isa {
        self.isa
    }
}

/// Packs rows `first..first + k` and all `n` columns of `b` into panels: `[n / nr][k][nr]`, zeros past the last column.
pub(super) fn pack_panels(b: View<'_>, first: usize, k: usize, n: usize, nr: usize, out: &mut [f32]) {
    let panels = n.div_ceil(nr);
    let (len, shared) = (k * nr, Shared::new(out));
    // Narrow panels of a short factor are grouped, so that a task is worth handing out.
    let group = (PARALLEL_FLOATS / 2 / len.max(1)).max(1);
    threads::run(panels.div_ceil(group), panels * len >= PARALLEL_FLOATS, |task| {
        for p in task * group..((task + 1) * group).min(panels) {
            // SAFETY: panel p is this task's own.
            let panel = unsafe { shared.slice(p * len, len) };
            pack_panel(b, first, p * nr, nr.min(n - p * nr), k, nr, panel);
        }
    });
}

dispatch!(fn pack_panel = panel_body(b: View<'_>, first: usize, col: usize, cols: usize, k: usize, nr: usize,
    out: &mut [f32]));

#[inline(always)]
fn panel_body<S: Simd>(s: S, b: View<'_>, first: usize, col: usize, cols: usize, k: usize, nr: usize, out: &mut [f32]) {
    if b.cs == 1 {
        for (p, line) in out.chunks_exact_mut(nr).enumerate() {
            // Vectors and not `copy_from_slice`, whose call costs more than so short a copy.
            let mut from = b.data[(first + p) * b.rs + col..][..cols].chunks_exact(S::LANES);
            let mut to = line.chunks_exact_mut(S::LANES);
            // `from` first: `zip` takes one from its left side before it finds the right one empty.
            for (from, to) in (&mut from).zip(&mut to) {
                s.store(to, s.load(from));
            }
            if let Some(to) = to.next() {
                s.store(to, s.load_part(from.remainder()));
            }
            to.for_each(|to| to.fill(0.0));
        }
        return;
    }
    if b.rs != 1 || cols < nr {
        for (p, line) in out.chunks_exact_mut(nr).enumerate() {
            for (j, v) in line.iter_mut().enumerate() {
                *v = if j < cols { b.data[(first + p) * b.rs + (col + j) * b.cs] } else { 0.0 };
            }
        }
        return;
    }
    // A transposition, eight columns by one vector of rows at a time: read along the columns, which are contiguous.
    const BLOCK: usize = 16;
    for p in (0..k).step_by(BLOCK) {
        let depth = BLOCK.min(k - p);
        for j in (0..nr).step_by(8) {
            let lines: [&[f32]; 8] = std::array::from_fn(|r| &b.data[(col + j + r) * b.cs + first + p..][..depth]);
            for d in 0..depth {
                let to = &mut out[(p + d) * nr + j..][..8];
                for (slot, line) in to.iter_mut().zip(&lines) {
                    *slot = line[d];
                }
            }
        }
    }
}

/// Packs `rows` rows and `k` columns of a transposed `a` (its rows one float apart) as `[k][MR]`, zeros past the last
/// row.
#[inline(always)]
pub(super) fn pack_tile<const MR: usize>(a: View<'_>, row: usize, rows: usize, col: usize, k: usize, out: &mut [f32]) {
    for (p, line) in out.as_chunks_mut::<MR>().0[..k].iter_mut().enumerate() {
        let from = &a.data[(col + p) * a.cs + row..][..rows];
        match from.first_chunk::<MR>() {
            Some(whole) => *line = *whole,
            None => {
                *line = [0.0; MR];
                line.iter_mut().zip(from).for_each(|(to, v)| *to = *v);
            }
        }
    }
}
