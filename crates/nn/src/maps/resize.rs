//! Maps of another size.

use switchformer_tensor::Tensor;

use crate::error::Result;
use crate::ops;
use crate::rows::{Rows, Size};

/// The two neighbours of every place along one side, and the share of the second: PyTorch's
/// `interpolate(mode="bilinear", align_corners=False)`.
fn neighbours(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f64 / to as f64;
    let one = |o: usize| {
        let at = ((o as f64 + 0.5) * scale - 0.5).max(0.0);
        let low = (at as usize).min(from - 1);
        (low, (low + 1).min(from - 1), (at - low as f64) as f32)
    };
    (0..to).map(one).collect()
}

/// Resizes the map of every member bilinearly. Shapes: x `[total, dim]` -> `[total', dim]`.
pub fn resize_maps(x: &Tensor, rows: &Rows, to: &[Size]) -> Result<(Tensor, Rows)> {
    let from = rows.sizes()?.to_vec();
    if from == to {
        return Ok((x.clone(), rows.clone()));
    }
    // One side at a time, two taps per place: first the height, then the width.
    let tall: Vec<Size> = from.iter().zip(to).map(|((_, w), (h, _))| (*h, *w)).collect();
    let tall = rows.resized(&tall)?;
    let x = blend(x, rows, &tall)?;
    let wide = rows.resized(to)?;
    Ok((blend(&x, &tall, &wide)?, wide))
}

/// Maps that differ along one side at most.
fn blend(x: &Tensor, from: &Rows, to: &Rows) -> Result<Tensor> {
    let n = to.total();
    let (mut low, mut high) = (Vec::with_capacity(n), Vec::with_capacity(n));
    let mut share = Vec::with_capacity(n);
    for (i, ((h, w), (th, tw))) in from.sizes()?.iter().zip(to.sizes()?).enumerate() {
        if *h == 0 || *w == 0 {
            continue; // A map without a place stays so.
        }
        let (first, down, across) = (from.range(i).start, neighbours(*h, *th), neighbours(*w, *tw));
        for ((y0, y1, sy), (x0, x1, sx)) in down.iter().flat_map(|d| across.iter().map(move |a| (d, a))) {
            // The side that stays has no neighbour.
            let (y, x, part) = if h == th { (y0, x1, sx) } else { (y1, x0, sy) };
            low.push((first + y0 * w + x0) as u32);
            high.push((first + y * w + x) as u32);
            share.push(*part);
        }
    }
    let row = |places: Vec<u32>| ops::gather(x, &Tensor::from_vec(places, n)?);
    let (low, high) = (row(low)?, row(high)?);
    let by = |factors: Vec<f32>| Tensor::from_vec(factors, n);
    let apart = ops::add(&high, &ops::scale_rows(&low, &by(vec![-1.0; n])?)?)?;
    ops::add(&low, &ops::scale_rows(&apart, &by(share)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn twice_and_thrice_as_large_are_as_by_hand() {
        let rows = Rows::maps(&[(1, 2), (2, 1)]).unwrap();
        let x = Tensor::from_vec(vec![0f32, 4.0, 10.0, 16.0], (4, 1)).unwrap();
        let (y, after) = resize_maps(&x, &rows, &[(1, 4), (3, 2)]).unwrap();
        assert_eq!(after.sizes().unwrap(), [(1, 4), (3, 2)]);
        let got: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!(got, [0.0, 1.0, 3.0, 4.0, 10.0, 10.0, 13.0, 13.0, 16.0, 16.0]);
    }

    #[test]
    fn both_sides_are_blended() {
        let rows = Rows::maps(&[(2, 2)]).unwrap();
        let x = Tensor::from_vec(vec![0f32, 4.0, 8.0, 12.0], (4, 1)).unwrap();
        let (y, _) = resize_maps(&x, &rows, &[(3, 4)]).unwrap();
        let want = [0.0, 1.0, 3.0, 4.0, 4.0, 5.0, 7.0, 8.0, 8.0, 9.0, 11.0, 12.0];
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), want);
    }

    #[test]
    fn a_smaller_map_takes_the_neighbours_of_the_middle() {
        let rows = Rows::maps(&[(4, 1)]).unwrap();
        let x = Tensor::from_vec(vec![0f32, 1.0, 2.0, 30.0], (4, 1)).unwrap();
        let (y, _) = resize_maps(&x, &rows, &[(2, 1)]).unwrap();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.5, 16.0]);
    }
}
