//! Rows picked, put back and added by index; embedding tables are the same thing.

use crate::threads::{PARALLEL_FLOATS, Shared, run, run_chunks, threads};

/// An index that names no row: it reads zeros, and what is added to it is dropped.
pub const NONE: u32 = u32::MAX;

fn check(dim: usize, rows: usize, index: &[u32]) {
    let top = index.iter().filter(|i| **i != NONE).max().map_or(0, |&i| i as usize + 1);
    assert!(top <= rows, "row {} of {rows} rows of {dim}", top - 1);
}

/// Rows in `len` floats.
fn rows_in(len: usize, dim: usize, name: &str) -> usize {
    if dim == 0 {
        // Rows of nothing: as many as one likes.
        return usize::MAX;
    }
    assert_eq!(len % dim, 0, "{name} must be whole rows");
    len / dim
}

/// `out[index.len(), dim]`: row `i` is row `index[i]` of `src[_, dim]`, zeros for [`NONE`].
///
/// # Panics
/// If a length does not match or an index is out of range.
pub fn gather(dim: usize, src: &[f32], index: &[u32], out: &mut [f32]) {
    check(dim, rows_in(src.len(), dim, "src"), index);
    assert_eq!(out.len(), index.len() * dim, "length of out");
    if dim == 0 {
        return;
    }
    let chunk = (8192 / dim).max(1) * dim;
    run_chunks(out, chunk, |at, out| {
        if dim == 1 {
            // A copy of one number would be a call of its own.
            let own = out.iter_mut().zip(&index[at..]);
            return own.for_each(|(o, &i)| *o = if i == NONE { 0.0 } else { src[i as usize] });
        }
        for (row, &i) in out.chunks_exact_mut(dim).zip(&index[at / dim..]) {
            match i {
                NONE => row.fill(0.0),
                i => row.copy_from_slice(&src[i as usize * dim..][..dim]),
            }
        }
    });
}

/// `out[rows, width]`: the columns from `from` on of `src[rows, dim]`.
///
/// # Panics
/// If a length does not match.
pub fn columns(dim: usize, src: &[f32], from: usize, width: usize, out: &mut [f32]) {
    assert!(from + width <= dim, "columns {from}..{} of {dim}", from + width);
    if width == 0 {
        return assert!(out.is_empty(), "length of out");
    }
    assert_eq!(out.len(), rows_in(src.len(), dim, "src") * width, "length of out");
    run_chunks(out, (8192 / width).max(1) * width, |at, out| {
        let rows = src[at / width * dim..].chunks_exact(dim);
        out.chunks_exact_mut(width).zip(rows).for_each(|(out, row)| out.copy_from_slice(&row[from..from + width]));
    });
}

/// Puts `src[rows, width]` in the columns from `from` on of `out[rows, dim]`; other columns stay.
///
/// # Panics
/// If a length does not match.
pub fn put_columns(dim: usize, src: &[f32], from: usize, width: usize, out: &mut [f32]) {
    assert!(from + width <= dim, "columns {from}..{} of {dim}", from + width);
    if width == 0 {
        return assert!(src.is_empty(), "length of src");
    }
    assert_eq!(src.len(), rows_in(out.len(), dim, "out") * width, "length of src");
    run_chunks(out, (8192 / dim).max(1) * dim, |at, out| {
        let rows = src[at / dim * width..].chunks_exact(width);
        out.chunks_exact_mut(dim).zip(rows).for_each(|(out, row)| out[from..from + width].copy_from_slice(row));
    });
}

/// `out[segments, dim]`: the mean of the rows `cu[i]..cu[i + 1]` of `src`; zeros where a segment has no row.
///
/// # Panics
/// If a length does not match.
pub fn mean_rows(dim: usize, src: &[f32], cu: &[u32], out: &mut [f32]) {
    assert_eq!(src.len(), cu.last().map_or(0, |n| *n as usize) * dim, "length of src");
    assert_eq!(out.len(), cu.len().saturating_sub(1) * dim, "length of out");
    let shared = Shared::new(out);
    run(cu.len().saturating_sub(1), src.len() >= PARALLEL_FLOATS, |i| {
        // SAFETY: each task has a row of its own.
        let out = unsafe { shared.slice(i * dim, dim) };
        let (from, to) = (cu[i] as usize, cu[i + 1] as usize);
        out.fill(0.0);
        for row in src[from * dim..to * dim].chunks_exact(dim.max(1)) {
            out.iter_mut().zip(row).for_each(|(a, b)| *a += b);
        }
        let n = (to - from).max(1) as f32;
        out.iter_mut().for_each(|a| *a /= n);
    });
}

/// Backward of [`mean_rows`]: each row of `dx` becomes its segment's row of `dy[segments, dim]` over the segment's length.
///
/// # Panics
/// As [`mean_rows`].
pub fn mean_rows_backward(dim: usize, dy: &[f32], cu: &[u32], dx: &mut [f32]) {
    assert_eq!(dx.len(), cu.last().map_or(0, |n| *n as usize) * dim, "length of dx");
    assert_eq!(dy.len(), cu.len().saturating_sub(1) * dim, "length of dy");
    for (segment, dy) in cu.windows(2).zip(dy.chunks_exact(dim.max(1))) {
        let (from, to) = (segment[0] as usize, segment[1] as usize);
        let share = 1.0 / (to - from).max(1) as f32;
        for row in dx[from * dim..to * dim].chunks_exact_mut(dim) {
            row.iter_mut().zip(dy).for_each(|(a, g)| *a = g * share);
        }
    }
}

/// `out[_, dim]`: row `index[i]` becomes row `i` of `src[index.len(), dim]`; other rows stay. Of
/// equal indices the last wins; those of [`NONE`] are dropped.
///
/// # Panics
/// If a length does not match or an index is out of range.
pub fn scatter(dim: usize, src: &[f32], index: &[u32], out: &mut [f32]) {
    check(dim, rows_in(out.len(), dim, "out"), index);
    assert_eq!(src.len(), index.len() * dim, "length of src");
    if dim == 0 {
        return;
    }
    for (row, &i) in src.chunks_exact(dim).zip(index).filter(|(_, i)| **i != NONE) {
        out[i as usize * dim..][..dim].copy_from_slice(row);
    }
}

/// `out[_, dim]`: row `i` of `src[index.len(), dim]` is added to row `index[i]`. Indices may repeat;
/// their rows are added in order. Those of [`NONE`] are dropped.
///
/// # Panics
/// If a length does not match or an index is out of range.
pub fn scatter_add(dim: usize, src: &[f32], index: &[u32], out: &mut [f32]) {
    let rows = rows_in(out.len(), dim, "out");
    check(dim, rows, index);
    assert_eq!(src.len(), index.len() * dim, "length of src");
    if dim == 0 || rows == 0 {
        return;
    }
    // Each task owns a range of output rows and looks through all indices, so that every row gets
    // its additions in order however many tasks there are.
    let parallel = src.len() >= PARALLEL_FLOATS;
    let per_task = if parallel { rows.div_ceil(threads() * 4) } else { rows };
    let shared = Shared::new(out);
    run(rows.div_ceil(per_task), parallel, |task| {
        let first = task * per_task;
        let n = per_task.min(rows - first);
        // SAFETY: the tasks' ranges of rows do not overlap.
        let out = unsafe { shared.slice(first * dim, n * dim) };
        for (row, &i) in src.chunks_exact(dim).zip(index) {
            let i = (i as usize).wrapping_sub(first);
            if i < n {
                let to = &mut out[i * dim..][..dim];
                to.iter_mut().zip(row).for_each(|(a, b)| *a += b);
            }
        }
    });
}

/// `out[ids.len(), dim]`: the rows of `table[vocab, dim]` that `ids` names.
///
/// # Panics
/// If a length does not match or an id is out of range.
pub fn embedding(dim: usize, table: &[f32], ids: &[u32], out: &mut [f32]) {
    gather(dim, table, ids, out);
}

/// Backward of [`embedding`]: each row of `dy[ids.len(), dim]` is added to its id's row of
/// `dtable[vocab, dim]`, in order.
///
/// # Panics
/// If a length does not match or an id is out of range.
pub fn embedding_backward(dim: usize, ids: &[u32], dy: &[f32], dtable: &mut [f32]) {
    scatter_add(dim, dy, ids, dtable);
}
