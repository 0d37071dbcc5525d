//! Convolutions whose channels are split into groups.

use candle_core::Tensor;

use super::Places;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::leaf::LeafCost;
use crate::ops;
use crate::rows::Rows;
use crate::weights::{ParamKind, Weights};

/// A convolution with an odd square kernel in which every group of channels sees its own group alone; the map keeps its
/// size.
#[derive(Clone, Debug)]
pub struct Grouped {
    weight: Tensor,
    bias: Option<Tensor>,
    groups: usize,
    kernel: usize,
}

impl Grouped {
    /// Loads `weight [out, channels / groups, k, k]` and perhaps `bias [out]` at the path of `w`; `shape` is
    /// `[out, channels, kernel]`.
    pub fn load(w: &Weights, shape: [usize; 3], groups: usize, bias: bool) -> Result<Grouped> {
        let [out, channels, kernel] = shape;
        if groups == 0 || !channels.is_multiple_of(groups) || !out.is_multiple_of(groups) {
            let what = format!("{groups} groups divide {channels} to {out} channels");
            return Err(Error::shape(w.name("weight"), what, &[channels, out]));
        }
        Ok(Grouped {
            weight: w.conv_matrix("weight", &[out, channels / groups, kernel, kernel])?,
            bias: if bias { Some(w.tensor("bias", &[out], ParamKind::Vector)?) } else { None },
            groups,
            kernel,
        })
    }

    /// Shapes: x `[total, channels]` -> `[total, out]`.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let ((total, channels), (out, inner)) = (x.dims2()?, self.weight.dims2()?);
        cx.count(total * out * inner);
        let patches = if self.kernel == 1 { x.clone() } else { self.patches(x, rows)? };
        if self.groups == 1 && self.kernel == 1 {
            return ops::linear(&patches, &self.weight, self.bias.as_ref());
        }
        let (places, width) = (self.kernel * self.kernel, channels / self.groups);
        // Published kernels have the channel before the place: [groups, total, width, places].
        let patches = patches.reshape((total, places, self.groups, width))?.permute((2, 0, 3, 1))?.contiguous()?;
        let weight = self.weight.reshape((self.groups, out / self.groups, inner))?.transpose(1, 2)?.contiguous()?;
        let y = patches.reshape((self.groups, total, inner))?.matmul(&weight)?;
        let y = y.transpose(0, 1)?.contiguous()?.reshape((total, out))?;
        Ok(match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        })
    }

    /// What the kernel sees around every place. Shapes: x `[total, channels]` -> `[total * k * k, channels]`.
    fn patches(&self, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let (k, half) = (self.kernel, self.kernel / 2);
        let mut places = Places::new(rows.total(), rows.total() * k * k);
        for (i, (h, w)) in rows.sizes()?.iter().copied().enumerate() {
            let first = rows.range(i).start;
            for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                for (dy, dx) in (0..k).flat_map(|dy| (0..k).map(move |dx| (dy, dx))) {
                    let at = (y + dy).checked_sub(half).zip((x + dx).checked_sub(half));
                    places.push(at.filter(|(y, x)| *y < h && *x < w).map(|(y, x)| first + y * w + x));
                }
            }
        }
        places.gather(x)
    }

    /// Cost for a number of rows.
    pub fn cost(&self, rows: usize) -> LeafCost {
        let n = self.weight.elem_count();
        let biases = self.bias.as_ref().map_or(0, Tensor::elem_count);
        LeafCost { macs: (rows * n) as u64, bytes: 4 * (n + biases) as u64 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Device, Point, Taps, Trace};

    /// Against the tensor library's own convolution over `[b, c, h, w]`.
    #[test]
    fn groups_agree_with_the_library() {
        let (b, c, h, w, out) = (2, 6, 5, 4, 9);
        let pixels = Tensor::rand(-1f32, 1.0, (b, c, h, w), &Device::Cpu).unwrap();
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let (x, rows) = super::super::pixel_rows(&pixels).unwrap();
        for (kernel, groups) in [(1, 1), (1, 3), (3, 1), (3, 3)] {
            let w = Weights::seeded().at(kernel).at(groups);
            let conv = Grouped::load(&w, [out, c, kernel], groups, true).unwrap();
            let kernels = conv.weight.reshape((out, c / groups, kernel, kernel)).unwrap();
            let want = pixels.conv2d(&kernels, kernel / 2, 1, 1, groups).unwrap();
            let want = want.broadcast_add(&conv.bias.clone().unwrap().reshape((1, out, 1, 1)).unwrap()).unwrap();
            let want = want.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().reshape((b * h * w, out)).unwrap();
            let got = conv.forward(&mut cx, &x, &rows).unwrap();
            let off = (got - want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-5, "{kernel}x{kernel} in {groups} groups: {off:e}");
        }
        assert!(Grouped::load(&Weights::seeded(), [8, 6, 1], 4, false).is_err());
    }
}
