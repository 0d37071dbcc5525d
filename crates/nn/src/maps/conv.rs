//! Convolutions over maps.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use switchformer_tensor::{Tensor, dry};

use super::Places;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::init::Init;
use crate::ops::Epilogue;
use crate::ops::{self, Beside, DenseWeight};
use crate::rows::{Rows, Size};
use crate::weights::{ParamKind, Weights};

/// A convolution with a square kernel: rows of a map to rows of a smaller one. Its channels may be split into groups, each
/// of which sees its own alone.
#[derive(Debug)]
pub struct Conv {
    kernels: RwLock<Kernels>,
    out: usize,
    bias: Option<Tensor>,
    channels: usize,
    groups: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
}

/// The weights of a convolution, held once.
#[derive(Clone, Debug)]
enum Kernels {
    /// As published, `[out, channels / groups * k * k]`: not used yet, or they change from step to step.
    Published(Tensor),
    /// Those of each group as [`arranged`], from the first use on.
    Fixed(Arc<[DenseWeight]>),
}

/// The kernels of one of several groups in the order of the rows that they meet: published kernels have the channel before
/// the place, rows have it behind. Shapes: weight `[groups * out, c * places]` -> `[out, places * c]`.
fn arranged(weight: &Tensor, groups: usize, g: usize, places: usize) -> Result<Tensor> {
    let (out, all) = (weight.dims2()?.0 / groups, weight.dims2()?.1);
    let own = weight.narrow(0, g * out, out)?.reshape((out, all / places, places))?;
    own.transpose(1, 2)?.contiguous()?.reshape((out, all))
}

impl Conv {
    /// Loads `weight [out, channels, k, k]` and perhaps `bias [out]` at the path of `w`; `shape` is
    /// `[out, channels, kernel]`, `step` is `[stride, pad]`.
    pub fn load(w: &Weights, shape: [usize; 3], step: [usize; 2], bias: bool) -> Result<Conv> {
        Conv::grouped(w, shape, step, 1, bias)
    }

    /// The same in groups: `weight [out, channels / groups, k, k]`. Errors where the groups do not divide the channels on
    /// both sides.
    pub fn grouped(w: &Weights, shape: [usize; 3], step: [usize; 2], groups: usize, bias: bool) -> Result<Conv> {
        let [out, channels, kernel] = shape;
        if groups == 0 || !channels.is_multiple_of(groups) || !out.is_multiple_of(groups) {
            let what = format!("{channels} channels to {out} that divide into {groups} groups");
            return Err(Error::shape(w.name("weight"), what, &[out, channels]));
        }
        let kernels = [out, channels / groups, kernel, kernel];
        let weight = w.with_init(Init::FanOut(groups)).conv_matrix("weight", &kernels)?;
        Ok(Conv {
            kernels: RwLock::new(Kernels::Published(weight)),
            out,
            bias: if bias { Some(w.tensor("bias", &[out], ParamKind::Vector)?) } else { None },
            channels,
            groups,
            kernel,
            stride: step[0],
            pad: step[1],
        })
    }

    /// Size of what comes out. A map smaller than the kernel gives nothing.
    pub fn size(&self, map: Size) -> Size {
        slid(map, [self.kernel, self.stride, self.pad])
    }

    /// Shapes: x `[total, channels]` -> `[total', out]`.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<(Tensor, Rows)> {
        let (seen, after) = self.patches(x, rows)?;
        let (places, c, n) = (self.kernel * self.kernel, self.channels / self.groups, after.total());
        let out = self.out / self.groups;
        cx.count(self.groups * n * places * c * out);
        let kernels = self.kernels()?;
        let seen = match (self.groups, places) {
            (1, _) => vec![seen],
            (_, 1) => ops::parts(&seen, self.groups)?,
            _ => {
                let own = ops::parts(&ops::reshape(&seen, &[n * places, self.channels])?, self.groups)?;
                own.iter().map(|own| ops::reshape(own, &[n, places * c])).collect::<Result<_>>()?
            }
        };
        // A group at a time, as one product: its rows then have the same bits in any batch.
        let group = |g: usize| -> Result<Tensor> {
            let bias = self.bias.as_ref().map(|b| b.narrow(0, g * out, out)?.contiguous()).transpose()?;
            match &kernels {
                Kernels::Published(weight) => {
                    ops::linear(&seen[g], &arranged(weight, self.groups, g, places)?, bias.as_ref())
                }
                Kernels::Fixed(all) => all[g].linear(&seen[g], bias.as_ref(), &Epilogue::default()),
            }
        };
        if self.groups == 1 {
            return Ok((group(0)?, after));
        }
        let parts = (0..self.groups).map(group).collect::<Result<Vec<_>>>()?;
        Ok((ops::beside(&parts.iter().collect::<Vec<_>>())?, after))
    }

    /// The weights, arranged now if they are there to be read and were not yet.
    fn kernels(&self) -> Result<Kernels> {
        // The lock guards one assignment, so a panic elsewhere leaves nothing half done.
        let now = self.kernels.read().unwrap_or_else(PoisonError::into_inner).clone();
        let weight = match now {
            Kernels::Published(weight) if !weight.track_op() => weight,
            _ => return Ok(now),
        };
        let places = self.kernel * self.kernel;
        // They stay, so they are made of numbers, also for a pass that looks at none.
        let group = |g| Ok(DenseWeight::new(dry::wet(|| arranged(&weight, self.groups, g, places))?));
        let fixed = Kernels::Fixed((0..self.groups).map(group).collect::<Result<Vec<_>>>()?.into());
        *self.kernels.write().unwrap_or_else(PoisonError::into_inner) = fixed.clone();
        Ok(fixed)
    }

    /// What the kernel sees at each of its places. Shapes: x `[total, channels]` -> `[total', k * k * channels]`.
    fn patches(&self, x: &Tensor, rows: &Rows) -> Result<(Tensor, Rows)> {
        let k = self.kernel;
        if (k, self.stride, self.pad) == (1, 1, 0) {
            return Ok((x.clone(), rows.clone()));
        }
        let (places, after) = slide(rows, [k, self.stride, self.pad], Beyond::Nothing)?;
        Ok((ops::reshape(&places.gather(x)?, &[after.total(), k * k * self.channels])?, after))
    }
}

/// Size of what a window of `kernel` gives that moves by `stride` over a map with `pad` places around it.
fn slid((h, w): Size, [kernel, stride, pad]: [usize; 3]) -> Size {
    let side = |n: usize| (n + 2 * pad).checked_sub(kernel).map_or(0, |n| n / stride + 1);
    (side(h), side(w))
}

/// What a window sees beyond the edge of a map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beyond {
    /// Zeros.
    Nothing,
    /// The nearest place of the map, which the window sees too as long as the padding is narrower than it.
    Nearest,
}

/// What a window of `kernel` sees that moves by `stride` over maps with `pad` places around them, and the maps of its stops.
fn slide(rows: &Rows, window: [usize; 3], beyond: Beyond) -> Result<(Places, Rows)> {
    let [kernel, stride, pad] = window;
    let sizes = rows.sizes()?;
    let small: Vec<Size> = sizes.iter().map(|s| slid(*s, window)).collect();
    let after = rows.resized(&small)?;
    let mut places = Places::new(after.total() * kernel * kernel);
    let along = |at: usize, n: usize| match beyond {
        Beyond::Nothing => at.checked_sub(pad).filter(|at| *at < n),
        Beyond::Nearest => Some(at.saturating_sub(pad).min(n.saturating_sub(1))),
    };
    for (i, (h, w)) in sizes.iter().copied().enumerate() {
        let first = rows.range(i).start;
        for (y, x) in (0..small[i].0).flat_map(|y| (0..small[i].1).map(move |x| (y * stride, x * stride))) {
            for (dy, dx) in (0..kernel).flat_map(|dy| (0..kernel).map(move |dx| (dy, dx))) {
                places.push(along(y + dy, h).zip(along(x + dx, w)).map(|(y, x)| first + y * w + x));
            }
        }
    }
    Ok((places, after))
}

/// The largest number of every channel under a window of `kernel` that moves by `stride` over a map with `pad` places around
/// it, fewer than the window has; `window` is the three. Shapes: x `[total, dim]` -> `[total', dim]`.
pub fn max_windows(x: &Tensor, rows: &Rows, window: [usize; 3]) -> Result<(Tensor, Rows)> {
    let (places, after) = slide(rows, window, Beyond::Nearest)?;
    let dim = x.dims2()?.1;
    if after.total() == 0 {
        return Ok((x.narrow(0, 0, 0)?, after));
    }
    let seen = ops::reshape(&places.gather(x)?, &[after.total(), window[0] * window[0], dim])?;
    Ok((seen.max(1)?, after))
}

/// A convolution of every channel with its own odd square kernel; the map keeps its size.
#[derive(Clone, Debug)]
pub struct Depthwise {
    weight: Tensor,
    bias: Tensor,
    kernel: usize,
}

impl Depthwise {
    /// Loads `weight [dim, 1, k, k]` and `bias [dim]` at the path of `w`.
    pub fn load(w: &Weights, dim: usize, kernel: usize) -> Result<Depthwise> {
        let weight = w.with_init(Init::FanOut(dim)).conv_matrix("weight", &[dim, 1, kernel, kernel])?;
        Ok(Depthwise { weight, bias: w.tensor("bias", &[dim], ParamKind::Vector)?, kernel })
    }

    /// The convolution of some channels, in order.
    pub(crate) fn part(&self, channels: &[Range<usize>]) -> Result<Depthwise> {
        let (weight, bias) = (ops::rows_at(&self.weight, channels)?, ops::rows_at(&self.bias, channels)?);
        Ok(Depthwise { weight: weight.weight(), bias: bias.weight(), kernel: self.kernel })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        self.forward_beside(cx, x, rows, Beside::default())
    }

    /// [`forward`](Self::forward) and what is to be done beside it.
    pub fn forward_beside(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, beside: Beside) -> Result<Tensor> {
        let (total, dim) = x.dims2()?;
        let (k, half) = (self.kernel, self.kernel / 2);
        cx.count(total * dim * k * k);
        if let Some(hollow) = Tensor::hollow_of(&[x, &self.weight, &self.bias], (total, dim), x.dtype()) {
            return Ok(hollow);
        }
        if ops::on_kernels(&[x, &self.weight, &self.bias]) && k <= ops::WIDEST {
            return ops::depthwise(x, &self.weight, &self.bias, rows, k, beside);
        }
        let taps = self.weight.t()?.contiguous()?; // [k * k, dim]
        let mut sum = self.bias.broadcast_as((total, dim))?.contiguous()?;
        for tap in 0..k * k {
            let (dy, dx) = (tap / k, tap % k);
            let mut places = Places::new(total);
            for (i, (h, w)) in rows.sizes()?.iter().copied().enumerate() {
                let first = rows.range(i).start;
                for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                    let at = (y + dy).checked_sub(half).zip((x + dx).checked_sub(half));
                    places.push(at.filter(|(y, x)| *y < h && *x < w).map(|(y, x)| first + y * w + x));
                }
            }
            if places.index.iter().all(|p| *p == ops::NO_ROW) {
                continue; // Beyond the edge for every place of a small map.
            }
            sum = (sum + places.gather(x)?.broadcast_mul(&taps.narrow(0, tap, 1)?)?)?;
        }
        if beside.input {
            sum = (sum + x)?;
        }
        beside.act.map_or(Ok(sum.clone()), |act| ops::activation(&sum, act))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::layers::Activation;
    use crate::{Point, Taps, Trace};
    use switchformer_tensor::Var;

    /// Against the plain convolution of `tensor` over `[b, c, h, w]`.
    #[test]
    fn convolutions_agree_with_the_plain_one() {
        let (b, c, h, w) = (2, 6, 7, 5);
        let pixels = Tensor::from_vec(crate::init::seeded("pixels", &[b * c * h * w, 1]), (b, c, h, w)).unwrap();
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let (x, rows) = super::super::pixel_rows(std::slice::from_ref(&pixels)).unwrap();
        let apart = |rows: &Tensor, map: &Tensor| {
            let map = map.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap().reshape(rows.shape()).unwrap();
            (rows - map).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
        };
        let (source, learning) = (Weights::seeded(), Weights::seeded().trainable());
        let layers = [(3, 2, 1, 1), (7, 4, 3, 1), (2, 2, 0, 1), (3, 1, 1, 3), (3, 2, 1, 2), (1, 1, 0, 3), (1, 2, 0, 1)];
        for (kernel, stride, pad, groups) in layers {
            let (out, step) = (4 * groups, [stride, pad]);
            let load =
                |w: &Weights| Conv::grouped(&w.at(kernel).at(stride), [out, c, kernel], step, groups, true).unwrap();
            let (fixed, learnt) = (load(&source), load(&learning));
            let Kernels::Published(weight) = learnt.kernels().unwrap() else { panic!("{:?}", learnt.kernels) };
            let kernels = weight.detach().reshape((out, c / groups, kernel, kernel)).unwrap();
            let want = pixels.conv2d(&kernels, pad, stride, groups).unwrap();
            let want = want.broadcast_add(&fixed.bias.as_ref().unwrap().reshape((1, out, 1, 1)).unwrap()).unwrap();
            for conv in [fixed, learnt] {
                let (got, after) = conv.forward(&mut cx, &x, &rows).unwrap();
                assert_eq!(after.sizes().unwrap()[0], (want.dims()[2], want.dims()[3]));
                assert!(apart(&got, &want) < 1e-5);
            }
        }
        for kernel in [3, 5] {
            let conv = Depthwise::load(&source.at("depthwise").at(kernel), c, kernel).unwrap();
            let kernels = conv.weight.reshape((c, 1, kernel, kernel)).unwrap();
            let want = pixels.conv2d(&kernels, kernel / 2, 1, c).unwrap();
            let want = want.broadcast_add(&conv.bias.reshape((1, c, 1, 1)).unwrap()).unwrap();
            assert!(apart(&conv.forward(&mut cx, &x, &rows).unwrap(), &want) < 1e-5);
            let want = (&want + &pixels).unwrap().silu().unwrap();
            let beside = Beside { input: true, act: Some(Activation::Silu) };
            assert!(apart(&conv.forward_beside(&mut cx, &x, &rows, beside).unwrap(), &want) < 1e-5);
            // Where gradients are tracked, the same values, and the gradients of plain operations.
            let x = Var::from_tensor(&x).unwrap();
            let (a, b) = (x.as_tensor(), conv.forward(&mut cx, x.as_tensor(), &rows).unwrap());
            let want = (a + b).unwrap().silu().unwrap();
            let got = conv.forward_beside(&mut cx, a, &rows, beside).unwrap();
            assert!((&got - &want).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() < 1e-5);
            let grad = |y: &Tensor| y.sqr().unwrap().sum_all().unwrap().backward().unwrap().get(&x).unwrap().clone();
            let apart = (grad(&got) - grad(&want)).unwrap().abs().unwrap().max_all().unwrap();
            assert!(apart.to_scalar::<f32>().unwrap() < 1e-4);
        }
    }

    /// Negative numbers at the edge: what lies beyond it must not count as zero.
    #[test]
    fn the_largest_of_a_window_is_one_of_the_map() {
        let rows = Rows::maps(&[(3, 4), (1, 2)]).unwrap();
        let values: Vec<f32> = (0..14).map(|v| -1.0 - (v * 5 % 14) as f32).collect();
        let x = Var::from_vec(values, (14, 1)).unwrap();
        let (y, after) = max_windows(x.as_tensor(), &rows, [3, 2, 1]).unwrap();
        assert_eq!(after.sizes().unwrap(), [(2, 2), (1, 1)]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        // Rows: -1 -6 -11 -2 / -7 -12 -3 -8 / -13 -4 -9 -14, and -5 -10.
        assert_eq!(flat(&y), [-1.0, -2.0, -4.0, -3.0, -5.0]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        let hit = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0];
        assert_eq!(flat(grads.get(&x).unwrap()), hit);
    }
}
