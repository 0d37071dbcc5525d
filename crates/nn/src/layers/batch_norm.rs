//! Batch norm: fixed statistics at rest, those of the batch in training.

use switchformer_kernels as kernels;
use switchformer_tensor::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::ctx::{Ctx, Moments};
use crate::error::{Error, Result};
use crate::ops;
use crate::ops::fused::{answer, tensor, values, with};
use crate::tape::apply3;

/// Batch norm over rows: a factor and a shift per channel, from kept statistics, or from those of the rows at hand where
/// the context gathers them ([`Ctx::moments`]).
#[derive(Clone, Debug)]
pub struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: f64,
}

impl BatchNorm {
    /// Weight and bias, mean and variance. Shapes: all `[dim]`.
    pub fn new([weight, bias]: [Tensor; 2], [mean, variance]: [Tensor; 2], eps: f64) -> Self {
        BatchNorm { weight, bias, mean, variance, eps }
    }

    /// Shapes: x `[rows, dim]` -> `[rows, dim]`. Errors where statistics of the batch are asked for and there are fewer
    /// than two rows.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        if let Some(gathered) = &mut cx.moments {
            let (rows, dim) = x.dims2()?;
            if rows < 2 {
                return Err(Error::input(
                    format!("a batch norm met {rows} rows and needs two to have a variance"),
                    "train with larger batches",
                ));
            }
            let x = x.contiguous()?;
            let (mean, variance) = with([&x], |[x]| statistics(x, rows, dim))?;
            let unbiased = rows as f32 / (rows - 1) as f32;
            gathered.push(Moments {
                of: [self.mean.id(), self.variance.id()],
                values: [mean.clone(), variance.iter().map(|v| v * unbiased).collect()],
            });
            let scale = variance.iter().map(|v| 1.0 / (v + self.eps as f32).sqrt()).collect();
            return apply3(&x, &self.weight.contiguous()?, &self.bias.contiguous()?, BatchNormOp { mean, scale });
        }
        let factor = (&self.weight / (&self.variance + self.eps)?.sqrt()?)?;
        let shift = (&self.bias - (&self.mean * &factor)?)?;
        ops::affine_columns(x, &factor, &shift)
    }
}

/// Rows that are summed in f32 before their sum goes on in f64.
const BLOCK: usize = 32;

/// The sum of `f(channel, x, y)` over all rows of two maps, for each channel.
fn sums(x: &[f32], y: &[f32], dim: usize, f: impl Fn(usize, f32, f32) -> f32) -> Vec<f64> {
    let mut sums = vec![0f64; dim];
    let mut block = vec![0f32; dim];
    for (x, y) in x.chunks(BLOCK * dim).zip(y.chunks(BLOCK * dim)) {
        block.fill(0.0);
        for (x, y) in x.chunks_exact(dim).zip(y.chunks_exact(dim)) {
            block.iter_mut().zip(x).zip(y).enumerate().for_each(|(c, ((sum, x), y))| *sum += f(c, *x, *y));
        }
        sums.iter_mut().zip(&block).for_each(|(sum, part)| *sum += f64::from(*part));
    }
    sums
}

/// Mean and population variance of every channel. Shapes: x `[rows, dim]` -> `[dim]` each.
fn statistics(x: &[f32], rows: usize, dim: usize) -> (Vec<f32>, Vec<f32>) {
    let by_row = |sums: Vec<f64>| -> Vec<f32> { sums.iter().map(|s| (s / rows as f64) as f32).collect() };
    let mean = by_row(sums(x, x, dim, |_, v, _| v));
    let at = &mean[..dim];
    let variance = by_row(sums(x, x, dim, |c, v, _| (v - at[c]) * (v - at[c])));
    (mean, variance)
}

/// `(x - mean) * scale * weight + bias`, where mean and scale are functions of x.
struct BatchNormOp {
    mean: Vec<f32>,
    scale: Vec<f32>,
}

impl CustomOp3 for BatchNormOp {
    fn name(&self) -> &'static str {
        "batch-norm"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        weight: &CpuStorage,
        lw: &Layout,
        bias: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weight, bias) = (values(weight, lw)?, values(bias, lb)?);
        let factor: Vec<f32> = weight.iter().zip(&self.scale).map(|(w, s)| w * s).collect();
        let shift: Vec<f32> = bias.iter().zip(&self.mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        let mut y = values(x, lx)?.to_vec();
        for row in y.chunks_exact_mut(factor.len()) {
            row.iter_mut().zip(&factor).zip(&shift).for_each(|((v, f), s)| *v = *v * f + s);
        }
        answer(y, lx.dims())
    }
    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (rows, dim) = x.dims2()?;
        let (mean, scale) = (&self.mean[..dim], &self.scale[..dim]);
        let (dx, dw, db) = with([x, weight, dy], |[x, weight, dy]| {
            let db = sums(dy, dy, dim, |_, g, _| g);
            let dw = sums(x, dy, dim, |c, v, g| g * (v - mean[c]) * scale[c]);
            // dx = factor * (dy - mean(dy) - normed * mean(dy * normed))
            let by_row = |s: f64| (s / rows as f64) as f32;
            let factor: Vec<f32> = weight.iter().zip(scale).map(|(w, s)| w * s).collect();
            let slope: Vec<f32> = (0..dim).map(|c| factor[c] * scale[c] * by_row(dw[c])).collect();
            let shift: Vec<f32> = (0..dim).map(|c| factor[c] * by_row(db[c])).collect();
            let (factor, slope, shift) = (&factor[..dim], &slope[..dim], &shift[..dim]);
            let mut dx = kernels::unfilled(rows * dim);
            for ((dx, x), dy) in dx.chunks_exact_mut(dim).zip(x.chunks_exact(dim)).zip(dy.chunks_exact(dim)) {
                let (dx, x, dy) = (&mut dx[..dim], &x[..dim], &dy[..dim]);
                (0..dim).for_each(|c| dx[c] = factor[c] * dy[c] - slope[c] * (x[c] - mean[c]) - shift[c]);
            }
            let narrow = |v: Vec<f64>| -> Vec<f32> { v.into_iter().map(|v| v as f32).collect() };
            (dx, narrow(dw), narrow(db))
        })?;
        Ok((Some(tensor(dx, &[rows, dim])?), Some(tensor(dw, &[dim])?), Some(tensor(db, &[dim])?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use switchformer_tensor::Var;

    use super::*;
    use crate::{Point, Taps, Trace};

    const EPS: f64 = 1e-5;

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn close(got: &[f32], want: &[f32]) {
        assert!(got.len() == want.len() && got.iter().zip(want).all(|(g, w)| (g - w).abs() < 2e-6), "{got:?} {want:?}");
    }

    struct Case {
        vars: [Var; 3],
        norm: BatchNorm,
    }

    fn case(x: Vec<f32>, dim: usize) -> Case {
        let var = |v: Vec<f32>, dims: &[usize]| Var::from_vec(v, dims).unwrap();
        let some = |from: f32| (0..dim).map(|c| from + 0.25 * c as f32).collect::<Vec<_>>();
        let rows = x.len() / dim;
        let vars = [var(x, &[rows, dim]), var(some(0.5), &[dim]), var(some(-0.25), &[dim])];
        let kept = [some(0.1), some(0.8)].map(|v| Tensor::from_vec(v, dim).unwrap());
        let norm = BatchNorm::new([vars[1].as_tensor().clone(), vars[2].as_tensor().clone()], kept, EPS);
        Case { vars, norm }
    }

    /// Answer and what was gathered.
    fn run(case: &Case, training: bool) -> (Tensor, Vec<Moments>) {
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        cx.moments = training.then(Vec::new);
        let y = case.norm.forward(&mut cx, case.vars[0].as_tensor()).unwrap();
        (y, cx.moments.unwrap_or_default())
    }

    /// Numbers of PyTorch's `BatchNorm1d` in training: answers, and statistics after one step at momentum 0.1.
    #[test]
    fn answers_and_statistics_are_pytorch_s() {
        let case = case(vec![1.0, 2.0, 0.5, -1.0, -2.0, 0.25, 3.0, 1.5], 2);
        let (y, gathered) = run(&case, true);
        close(
            &flat(&y),
            &[-0.1447208, 0.8455012, -0.28509307, -1.087073, -0.98695433, -0.28183374, 0.41676825, 0.5234055],
        );
        let [seen] = &gathered[..] else { panic!("{gathered:?}") };
        assert_eq!(seen.of, [case.norm.mean.id(), case.norm.variance.id()]);
        let after = |kept: &Tensor, new: &[f32]| -> Vec<f32> {
            flat(kept).iter().zip(new).map(|(k, n)| 0.9 * k + 0.1 * n).collect()
        };
        close(&after(&case.norm.mean, &seen.values[0]), &[0.1525, 0.38375]);
        close(&after(&case.norm.variance, &seen.values[1]), &[1.1429167, 1.1257291]);
        // At rest the kept statistics decide, and nothing is gathered.
        let (rest, none) = run(&case, false);
        assert!(none.is_empty() && (flat(&rest)[0] - (0.5 * 0.9 / 0.80001f32.sqrt() - 0.25)).abs() < 1e-6);
    }

    #[test]
    fn in_training_it_is_the_composed_norm_with_its_gradients() {
        let mut stream = crate::init::Stream::new(3);
        let case = case((0..35).map(|_| 3.0 * stream.unit() - 1.0).collect(), 5);
        let weights = Tensor::from_vec((0..35).map(|_| stream.unit()).collect(), (7, 5)).unwrap();
        let [x, weight, bias] = &case.vars;
        let centred = x.broadcast_sub(&x.mean_keepdim(0).unwrap()).unwrap();
        let variance = centred.sqr().unwrap().mean_keepdim(0).unwrap();
        let normed = centred.broadcast_div(&(variance + EPS).unwrap().sqrt().unwrap()).unwrap();
        let want = normed.broadcast_mul(weight).unwrap().broadcast_add(bias).unwrap();
        let (got, _) = run(&case, true);
        close(&flat(&got), &flat(&want));
        let slopes = |y: Tensor| (y * &weights).unwrap().sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let [got, want] = [got, want].map(slopes);
        for var in &case.vars {
            close(&flat(got.get(var).unwrap()), &flat(want.get(var).unwrap()));
        }
    }

    #[test]
    fn one_row_has_no_statistics() {
        let case = case(vec![1.0, 2.0], 2);
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        cx.moments = Some(Vec::new());
        assert!(case.norm.forward(&mut cx, case.vars[0].as_tensor()).is_err());
        cx.moments = None;
        assert!(case.norm.forward(&mut cx, case.vars[0].as_tensor()).is_ok());
    }
}
