//! Parts of models that work on maps: rows that are the places of a picture, row by row, channels last.
//!
//! [`Rows::maps`] carries height and width of every member, so a batch may mix sizes. Everything here is one gather of
//! rows by index (a place outside the picture is a row of zeros) around a projection or a product, and has gradients.

mod conv;
mod folding;
mod patches;
mod resize;
pub mod wavelet;
mod window;

use switchformer_tensor::Tensor;

use crate::error::{Error, Result};
use crate::ops;
use crate::rows::{Rows, Size};

pub use conv::{Conv, Depthwise, max_windows};
pub use folding::{Branch, FOLDS, Fold, FoldSpec, Folded, Folding, FoldingHead};
pub use patches::{
    ImageEmbed, PatchEmbed, PositionEmbed, Resize, patch_grid, patches_divide, patchify, positions_at, resize_images,
    resize_positions,
};
pub use resize::resize_maps;
pub use window::{Cut, PadOrder, Windows, pair_biases, pair_biases_behind};

/// Which rows to gather; `None` is a place outside the picture.
struct Places {
    index: Vec<u32>,
}

impl Places {
    fn new(capacity: usize) -> Self {
        Places { index: Vec::with_capacity(capacity) }
    }

    fn push(&mut self, row: Option<usize>) {
        self.index.push(row.map_or(ops::NO_ROW, |r| r as u32));
    }

    /// Shapes: x `[total, dim]` -> `[places, dim]`.
    fn gather(self, x: &Tensor) -> Result<Tensor> {
        let n = self.index.len();
        ops::gather(x, &Tensor::from_vec(self.index, n)?)
    }
}

/// Fills images with zeros at the right and the bottom up to whole patches.
/// Shapes: `[b, c, h, w]` -> `[b, c, ceil(h / ph) * ph, ceil(w / pw) * pw]`.
pub fn pad_to_patches(pixels: &Tensor, (ph, pw): Size) -> Result<Tensor> {
    let (_, _, h, w) = pixels.dims4()?;
    let tall = if h.is_multiple_of(ph) { pixels.clone() } else { pixels.pad_with_zeros(2, 0, ph - h % ph)? };
    Ok(if w.is_multiple_of(pw) { tall } else { tall.pad_with_zeros(3, 0, pw - w % pw)? })
}

/// Images as maps, neighbours of one size together. Shapes: `[k, c, h, w]` each -> `[total, c]`.
pub fn pixel_rows(images: &[Tensor]) -> Result<(Tensor, Rows)> {
    let (mut parts, mut sizes) = (Vec::with_capacity(images.len()), Vec::new());
    for pixels in images {
        let (b, c, h, w) = pixels.dims4()?;
        parts.push(pixels.permute((0, 2, 3, 1))?.contiguous()?.reshape((b * h * w, c))?);
        sizes.resize(sizes.len() + b, (h, w));
    }
    Ok((joined(parts)?, Rows::maps(&sizes)?))
}

/// Rows of several parts one after another; nothing is copied where there is one. Shapes: `[any, dim]` each ->
/// `[total, dim]`.
pub fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 0)? })
}

/// Half the size of a map, rounded up.
pub fn halved((h, w): Size) -> Size {
    (h.div_ceil(2), w.div_ceil(2))
}

/// Every 2x2 square of a map as one row: upper left, lower left, upper right, lower right; zeros beyond an odd edge.
/// Shapes: x `[total, dim]` -> `[about total / 4, 4 * dim]`.
pub fn merge_squares(x: &Tensor, rows: &Rows) -> Result<(Tensor, Rows)> {
    let sizes = rows.sizes()?;
    let small: Vec<Size> = sizes.iter().map(|s| halved(*s)).collect();
    let mut places = Places::new(rows.total());
    for (i, (h, w)) in sizes.iter().copied().enumerate() {
        let first = rows.range(i).start;
        for (y, x) in (0..h.div_ceil(2)).flat_map(|y| (0..w.div_ceil(2)).map(move |x| (2 * y, 2 * x))) {
            for (y, x) in [(y, x), (y + 1, x), (y, x + 1), (y + 1, x + 1)] {
                places.push((y < h && x < w).then(|| first + y * w + x));
            }
        }
    }
    let rows = rows.resized(&small)?;
    let squares = ops::reshape(&places.gather(x)?, &[rows.total(), 4 * x.dims2()?.1])?;
    Ok((squares, rows))
}

/// Size of a map of which squares of `side` x `side` became one place; those at the edge may be cut.
pub fn squared((h, w): Size, side: usize) -> Size {
    (h.div_ceil(side), w.div_ceil(side))
}

/// Means over squares of `side` x `side`; at the lower and right edge over what is there (PyTorch's average pooling with
/// `ceil_mode` and without counting padding). Shapes: x `[total, dim]` -> `[about total / side^2, dim]`.
pub fn mean_squares(x: &Tensor, rows: &Rows, side: usize) -> Result<(Tensor, Rows)> {
    if side == 1 {
        return Ok((x.clone(), rows.clone()));
    }
    let sizes = rows.sizes()?;
    let small: Vec<Size> = sizes.iter().map(|s| squared(*s, side)).collect();
    let after = rows.resized(&small)?;
    let mut places = Places::new(after.total() * side * side);
    let mut shares = Vec::with_capacity(after.total());
    for (i, (h, w)) in sizes.iter().copied().enumerate() {
        let first = rows.range(i).start;
        for (top, left) in (0..small[i].0).flat_map(|y| (0..small[i].1).map(move |x| (side * y, side * x))) {
            for (y, x) in (top..top + side).flat_map(|y| (left..left + side).map(move |x| (y, x))) {
                places.push((y < h && x < w).then(|| first + y * w + x));
            }
            shares.push(1.0 / (side.min(h - top) * side.min(w - left)) as f32);
        }
    }
    let n = after.total();
    let sums = places.gather(x)?.reshape((n, side * side, x.dims2()?.1))?.sum(1)?;
    Ok((sums.broadcast_mul(&Tensor::from_vec(shares, (n, 1))?)?, after))
}

/// Mean over the rows of each member. Shapes: x `[total, dim]` -> `[members, dim]`.
pub fn mean_rows(x: &Tensor, rows: &Rows) -> Result<Tensor> {
    if let Some(i) = (0..rows.n()).find(|i| rows.len(*i) == 0) {
        return Err(Error::input(format!("member {} has no row", rows.members()[i]), "give an image"));
    }
    ops::mean_rows(x, rows)
}

/// Largest number of every channel over the rows of each member. Shapes: x `[total, dim]` -> `[members, dim]`.
pub fn max_rows(x: &Tensor, rows: &Rows) -> Result<Tensor> {
    let own = |i: usize| x.narrow(0, rows.range(i).start, rows.len(i))?.max_keepdim(0);
    let all: Vec<Tensor> = (0..rows.n()).map(own).collect::<Result<_>>()?;
    Ok(if all.is_empty() { x.narrow(0, 0, 0)? } else { Tensor::cat(&all, 0)? })
}

/// Means over a grid of `side` x `side` cells that cover a map of any size, as PyTorch's adaptive average pooling cuts
/// them. Shapes: x `[total, dim]` -> `[members * side * side, dim]`.
pub fn mean_cells(x: &Tensor, rows: &Rows, side: usize) -> Result<(Tensor, Rows)> {
    let cell = |i: usize, n: usize| i * n / side..((i + 1) * n).div_ceil(side);
    let (mut parts, mut from, dim) = (Vec::new(), 0, x.dims2()?.1);
    // Neighbours of one size go together.
    for run in rows.sizes()?.chunk_by(|a, b| a == b) {
        let (n, (h, w)) = (run.len(), run[0]);
        let mut share = vec![0f32; side * side * h * w];
        for (c, row) in share.chunks_exact_mut((h * w).max(1)).enumerate() {
            let (down, across) = (cell(c / side, h), cell(c % side, w));
            let each = 1.0 / (down.len() * across.len()) as f32;
            down.for_each(|y| across.clone().for_each(|x| row[y * w + x] = each));
        }
        let share = Tensor::from_vec(share, (side * side, h * w))?;
        let own = if n == rows.n() { x.clone() } else { x.narrow(0, from, n * h * w)? };
        parts.push(share.broadcast_matmul(&own.reshape((n, h * w, dim))?)?.reshape((n * side * side, dim))?);
        from += n * h * w;
    }
    let rows = rows.resized(&vec![(side, side); rows.n()])?;
    let all = match parts.len() {
        0 => x.narrow(0, 0, 0)?,
        1 => parts.swap_remove(0),
        _ => Tensor::cat(&parts, 0)?,
    };
    Ok((all, rows))
}

/// The maps of all members, `[h, w, dim]` each.
pub fn maps_of(x: &Tensor, rows: &Rows) -> Result<Vec<Tensor>> {
    let dim = x.dims2()?.1;
    let one = |(i, (h, w)): (usize, &Size)| x.narrow(0, rows.range(i).start, h * w)?.reshape((*h, *w, dim));
    rows.sizes()?.iter().enumerate().map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn numbered(rows: &Rows) -> Tensor {
        Tensor::from_vec((1..=rows.total()).map(|v| v as f32).collect::<Vec<_>>(), (rows.total(), 1)).unwrap()
    }

    #[test]
    fn squares_take_rows_before_columns_and_zeros_beyond_the_edge() {
        let rows = Rows::maps(&[(2, 2), (3, 1)]).unwrap();
        let (x, small) = merge_squares(&numbered(&rows), &rows).unwrap();
        assert_eq!(small.sizes().unwrap(), [(1, 1), (2, 1)]);
        let want = [[1., 3., 2., 4.], [5., 6., 0., 0.], [7., 0., 0., 0.]];
        assert_eq!(x.to_vec2::<f32>().unwrap(), want);
    }

    #[test]
    fn means_of_squares_at_the_edge_are_over_what_is_there() {
        let rows = Rows::maps(&[(2, 2), (3, 1)]).unwrap();
        let (x, small) = mean_squares(&numbered(&rows), &rows, 2).unwrap();
        assert_eq!(small.sizes().unwrap(), [(1, 1), (2, 1)]);
        assert_eq!(x.to_vec2::<f32>().unwrap(), [[2.5], [5.5], [7.0]]);
        assert_eq!(mean_squares(&x, &small, 1).unwrap().1.sizes().unwrap(), small.sizes().unwrap());
    }

    #[test]
    fn sizes_are_found_back() {}

    #[test]
    fn a_map_is_lost_when_rows_are_dropped_and_kept_when_members_leave() {
        let rows = Rows::maps(&[(2, 2), (3, 1)]).unwrap();
        assert_eq!(rows.select(&[1]).1.sizes().unwrap(), [(3, 1)]);
        assert!(rows.keep(&[vec![0], vec![1]]).unwrap().1.sizes().is_err());
    }
}
