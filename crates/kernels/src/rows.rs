//! Rows picked, put back and added by index; embedding tables are the same thing.

use crate::threads::{PARALLEL_FLOATS, Shared, run, run_chunks, threads};

fn check(dim: usize, rows: usize, index: &[u32]) {
    let top = index.iter().max().map_or(0, |&i| i as usize + 1);
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

/// `out[index.len(), dim]`: row `i` is row `index[i]` of `src[_, dim]`.
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
        for (row, &i) in out.chunks_exact_mut(dim).zip(&index[at / dim..]) {
            row.copy_from_slice(&src[i as usize * dim..][..dim]);
        }
    });
}

/// `out[_, dim]`: row `index[i]` becomes row `i` of `src[index.len(), dim]`; other rows stay. Of
/// equal indices the last wins.
///
/// # Panics
/// If a length does not match or an index is out of range.
pub fn scatter(dim: usize, src: &[f32], index: &[u32], out: &mut [f32]) {
    check(dim, rows_in(out.len(), dim, "out"), index);
    assert_eq!(src.len(), index.len() * dim, "length of src");
    if dim == 0 {
        return;
    }
    for (row, &i) in src.chunks_exact(dim).zip(index) {
        out[i as usize * dim..][..dim].copy_from_slice(row);
    }
}

/// `out[_, dim]`: row `i` of `src[index.len(), dim]` is added to row `index[i]`. Indices may repeat;
/// their rows are added in order.
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
