//! Losses over logits.

use std::ops::Range;

use switchformer_nn::Rows;
use switchformer_tensor::{CpuStorage, CustomOp1, CustomOp2, D, DType, Layout, Shape, Tensor};

use crate::error::{Error, Result};

/// A weighted sum of losses.
#[derive(Default)]
pub(crate) struct Sum(Option<Tensor>);

impl Sum {
    /// Adds a scalar times a weight.
    pub(crate) fn add(&mut self, term: Tensor, weight: f64) -> Result<()> {
        let term = if weight == 1.0 { term } else { (term * weight)? };
        self.0 = Some(match self.0.take() {
            Some(sum) => (sum + term)?,
            None => term,
        });
        Ok(())
    }

    /// The sum, where something was added.
    pub(crate) fn take(self) -> Option<Tensor> {
        self.0
    }
}

/// Logarithm of the softmax over classes. Shapes: `[n, classes]` -> the same.
pub fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let shifted = logits.broadcast_sub(&top)?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
    Ok(shifted.broadcast_sub(&sum)?)
}

/// Softmax without gradient. Shapes: `[n, classes]` -> the same.
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    Ok(log_softmax(&logits.detach())?.exp()?)
}

/// Label-smoothed one-hot targets: `1 - smoothing` on the label plus `smoothing / classes` everywhere.
/// Shapes: -> `[n, classes]`.
pub fn targets(labels: &[u8], classes: usize, smoothing: f64) -> Result<Tensor> {
    let rest = (smoothing / classes as f64) as f32;
    let mut t = vec![rest; labels.len() * classes];
    for (i, label) in labels.iter().enumerate() {
        t[i * classes + *label as usize] += (1.0 - smoothing) as f32;
    }
    Ok(Tensor::from_vec(t, (labels.len(), classes))?.to_dtype(DType::F32)?)
}

/// Mean cross-entropy against a distribution over classes. Shapes: both `[n, classes]` -> scalar.
pub fn cross_entropy(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let n = logits.dims()[0] as f64;
    Ok(((log_softmax(logits)? * target)?.sum_all()? / -n)?)
}

/// Mean cross-entropy against labels of which a share is spread over all classes: [`cross_entropy`] of [`targets`],
/// without a table of targets. Shapes: logits `[n, classes]`, labels `[n]` -> scalar.
pub fn label_loss(logits: &Tensor, labels: &[u32], smoothing: f64) -> Result<Tensor> {
    let (n, classes) = logits.dims2()?;
    if labels.len() != n || labels.iter().any(|l| *l as usize >= classes) || n == 0 {
        let what = format!("{n} rows of {classes} classes and {} labels", labels.len());
        return Err(Error::config("labels", what));
    }
    Ok(logits.apply_op1(LabelLoss { probs: probabilities(logits)?, labels: labels.to_vec(), smoothing })?)
}

/// Mean cross-entropy of the first and last row of an answer among the rows of its member. Shapes: logits `[total, 2]`,
/// labels `[2 * members]` (first and last row of each member in turn) -> scalar.
pub fn span_loss(logits: &Tensor, rows: &Rows, labels: &[u32]) -> Result<Tensor> {
    let beyond = |(i, label): (usize, &u32)| *label as usize >= rows.len(i / 2);
    if logits.dims2()? != (rows.total(), 2) || labels.len() != 2 * rows.n() || labels.iter().enumerate().any(beyond) {
        let what = format!("{:?} scores of rows {:?} and {} labels", logits.dims(), rows.lens(), labels.len());
        return Err(Error::config("labels", what));
    }
    Ok(logits.apply_op1(SpanLoss { rows: rows.clone(), labels: labels.to_vec() })?)
}

/// Symmetric divergence `1/2 sum (p - q) (ln p - ln q)` of two answers, mean over rows; the gradient flows into both.
/// Shapes: both `[n, classes]` -> scalar.
pub fn symmetric_kl(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims2()? != b.dims2()? {
        return Err(Error::shape("agree", format!("{:?}", a.dims()), b.dims()));
    }
    Ok(a.apply_op2(b, SymmetricKl { p: probabilities(a)?, q: probabilities(b)? })?)
}

/// Softmax as values. Shapes: `[n, classes]` -> `n * classes` values.
fn probabilities(logits: &Tensor) -> Result<Vec<f32>> {
    Ok(switchformer_nn::ops::softmax(&logits.detach())?.flatten_all()?.to_vec1()?)
}

/// The values of a contiguous tensor of f32.
fn values<'a>(s: &'a CpuStorage, l: &Layout) -> switchformer_tensor::Result<&'a [f32]> {
    match (s, l.contiguous_offsets()) {
        (CpuStorage::F32(v), Some((from, to))) => Ok(&v[from..to]),
        _ => switchformer_tensor::bail!("a loss reads contiguous f32"),
    }
}

/// Logarithm of the sum of exponentials of a row, from its largest entry.
fn log_sum_exp(z: &[f32], p: &[f32]) -> f64 {
    let top = z.iter().enumerate().fold(0, |best, (i, v)| if *v > z[best] { i } else { best });
    f64::from(z[top]) - f64::from(p[top]).ln()
}

fn scalar(value: f64) -> (CpuStorage, Shape) {
    (CpuStorage::F32(vec![value as f32]), Shape::from(()))
}

/// See [`label_loss`].
struct LabelLoss {
    probs: Vec<f32>,
    labels: Vec<u32>,
    smoothing: f64,
}

impl CustomOp1 for LabelLoss {
    fn name(&self) -> &'static str {
        "label-loss"
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> switchformer_tensor::Result<(CpuStorage, Shape)> {
        let (n, z) = (self.labels.len(), values(s, l)?);
        let classes = z.len() / n;
        let mut sum = 0f64;
        for ((z, p), label) in z.chunks_exact(classes).zip(self.probs.chunks_exact(classes)).zip(&self.labels) {
            let mut own = (1.0 - self.smoothing) * f64::from(z[*label as usize]);
            if self.smoothing > 0.0 {
                own += self.smoothing * z.iter().map(|v| f64::from(*v)).sum::<f64>() / classes as f64;
            }
            sum += log_sum_exp(z, p) - own;
        }
        Ok(scalar(sum / n as f64))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> switchformer_tensor::Result<Option<Tensor>> {
        let (n, classes) = x.dims2()?;
        let scale = grad.to_scalar::<f32>()? / n as f32;
        let rest = (self.smoothing / classes as f64) as f32;
        let mut g: Vec<f32> = self.probs.iter().map(|p| scale * (p - rest)).collect();
        for (row, label) in g.chunks_exact_mut(classes).zip(&self.labels) {
            row[*label as usize] -= scale * (1.0 - self.smoothing) as f32;
        }
        Ok(Some(Tensor::from_vec(g, (n, classes))?))
    }
}

/// See [`span_loss`].
struct SpanLoss {
    rows: Rows,
    labels: Vec<u32>,
}

impl SpanLoss {
    /// Each label with its column, its rows, and their softmax.
    fn each<'a>(&'a self, z: &'a [f32]) -> impl Iterator<Item = (usize, Range<usize>, usize, Vec<f64>)> + 'a {
        self.labels.iter().enumerate().map(|(i, label)| {
            let (range, column) = (self.rows.range(i / 2), i % 2);
            let own = || range.clone().map(|r| f64::from(z[2 * r + column]));
            let top = own().fold(f64::MIN, f64::max);
            let total: f64 = own().map(|v| (v - top).exp()).sum();
            let probs = own().map(|v| (v - top).exp() / total).collect();
            (column, range, *label as usize, probs)
        })
    }
}

impl CustomOp1 for SpanLoss {
    fn name(&self) -> &'static str {
        "span-loss"
    }
    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> switchformer_tensor::Result<(CpuStorage, Shape)> {
        let sum: f64 = self.each(values(s, l)?).map(|(_, _, label, probs)| -probs[label].max(1e-300).ln()).sum();
        Ok(scalar(sum / self.labels.len() as f64))
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> switchformer_tensor::Result<Option<Tensor>> {
        let scale = f64::from(grad.to_scalar::<f32>()?) / self.labels.len() as f64;
        let z: Vec<f32> = x.flatten_all()?.to_vec1()?;
        let mut g = vec![0f32; z.len()];
        for (column, range, label, probs) in self.each(&z) {
            for (i, p) in probs.into_iter().enumerate() {
                let right = f64::from(u8::from(i == label));
                g[2 * (range.start + i) + column] = (scale * (p - right)) as f32;
            }
        }
        Ok(Some(Tensor::from_vec(g, x.shape())?))
    }
}

/// See [`symmetric_kl`].
struct SymmetricKl {
    p: Vec<f32>,
    q: Vec<f32>,
}

impl SymmetricKl {
    /// Gradient at the first logits: with `d = ln p - ln q`, `a = (p d + p - q) / 2`, it is `a - p sum a`.
    fn gradient(p: &[f32], q: &[f32], classes: usize, scale: f32) -> Vec<f32> {
        let mut out = Vec::with_capacity(p.len());
        for (p, q) in p.chunks_exact(classes).zip(q.chunks_exact(classes)) {
            let from = out.len();
            let mut sum = 0f32;
            for (p, q) in p.iter().zip(q) {
                let a = 0.5 * (p * (p.max(TINY).ln() - q.max(TINY).ln()) + p - q);
                sum += a;
                out.push(a);
            }
            out[from..].iter_mut().zip(p).for_each(|(a, p)| *a = scale * (*a - p * sum));
        }
        out
    }
}

/// Least probability whose logarithm is taken.
const TINY: f32 = 1e-30;

impl CustomOp2 for SymmetricKl {
    fn name(&self) -> &'static str {
        "symmetric-kl"
    }
    fn cpu_fwd(
        &self,
        s: &CpuStorage,
        l: &Layout,
        t: &CpuStorage,
        m: &Layout,
    ) -> switchformer_tensor::Result<(CpuStorage, Shape)> {
        values(s, l)?;
        values(t, m)?;
        let classes = l.dims()[1];
        let terms = self.p.iter().zip(&self.q);
        let sum: f64 = terms.map(|(p, q)| f64::from((p - q) * (p.max(TINY).ln() - q.max(TINY).ln()))).sum();
        Ok(scalar(0.5 * sum / (self.p.len() / classes.max(1)).max(1) as f64))
    }
    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> switchformer_tensor::Result<(Option<Tensor>, Option<Tensor>)> {
        let (n, classes) = x.dims2()?;
        let scale = grad.to_scalar::<f32>()? / n as f32;
        let make = |p: &[f32], q: &[f32]| Tensor::from_vec(SymmetricKl::gradient(p, q, classes, scale), (n, classes));
        Ok((Some(make(&self.p, &self.q)?), Some(make(&self.q, &self.p)?)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use switchformer_tensor::Var;

    #[test]
    fn cross_entropy_matches_the_closed_form() {
        let logits = Tensor::new(&[[1f32, 2.0, 3.0], [0.0, 0.0, 0.0]]).unwrap();
        let t = targets(&[2, 0], 3, 0.0).unwrap();
        let got = cross_entropy(&logits, &t).unwrap().to_scalar::<f32>().unwrap();
        let first = (1f64.exp() + 2f64.exp() + 3f64.exp()).ln() - 3.0;
        assert!((f64::from(got) - (first + 3f64.ln()) / 2.0).abs() < 1e-6);
    }

    #[test]
    fn smoothing_spreads_the_target() {
        let t = targets(&[1], 4, 0.2).unwrap().to_vec2::<f32>().unwrap();
        assert!((t[0][1] - 0.85).abs() < 1e-6 && (t[0][0] - 0.05).abs() < 1e-6);
    }

    #[test]
    fn gradient_is_softmax_minus_target() {
        let x = Var::new(&[[0.3f32, -0.2, 0.9]]).unwrap();
        let t = targets(&[0], 3, 0.1).unwrap();
        let grads = cross_entropy(x.as_tensor(), &t).unwrap().backward().unwrap();
        let got = grads.get(x.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
        let want = (softmax(x.as_tensor()).unwrap() - t).unwrap().to_vec2::<f32>().unwrap();
        got[0].iter().zip(&want[0]).for_each(|(g, w)| assert!((g - w).abs() < 1e-6));
    }

    fn random(seed: u64, n: usize, classes: usize) -> Var {
        let mut s = switchformer_nn::init::Stream::new(seed);
        let v: Vec<f32> = (0..n * classes).map(|_| 4.0 * s.unit() - 2.0).collect();
        Var::from_vec(v, (n, classes)).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) {
        let [a, b] = [a, b].map(|t| t.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        assert!(a.len() == b.len() && a.iter().zip(&b).all(|(x, y)| (x - y).abs() < 1e-6), "{a:?} {b:?}");
    }

    #[test]
    fn label_loss_is_cross_entropy_of_smoothed_targets() {
        let x = random(1, 3, 5);
        for smoothing in [0.0, 0.1] {
            let t = targets(&[4, 0, 2], 5, smoothing).unwrap();
            let want = cross_entropy(x.as_tensor(), &t).unwrap();
            let got = label_loss(x.as_tensor(), &[4, 0, 2], smoothing).unwrap();
            close(&got, &want);
            let [g, w] = [got, want].map(|l| l.backward().unwrap().get(x.as_tensor()).unwrap().clone());
            close(&g, &w);
        }
        assert!(label_loss(x.as_tensor(), &[4, 0, 5], 0.0).is_err());
        assert!(label_loss(x.as_tensor(), &[4, 0], 0.0).is_err());
    }

    #[test]
    fn symmetric_kl_and_its_gradients_equal_the_composed_form() {
        let (x, y) = (random(2, 3, 5), random(3, 3, 5));
        let [p, q] = [&x, &y].map(|v| log_softmax(v.as_tensor()).unwrap());
        let gap = (p.exp().unwrap() - q.exp().unwrap()).unwrap();
        let want = ((gap * (p - q).unwrap()).unwrap().sum_all().unwrap() * (0.5 / 3.0)).unwrap();
        let got = symmetric_kl(x.as_tensor(), y.as_tensor()).unwrap();
        close(&got, &want);
        let [g, w] = [got, want].map(|l| l.backward().unwrap());
        for v in [&x, &y] {
            close(g.get(v.as_tensor()).unwrap(), w.get(v.as_tensor()).unwrap());
        }
        // Of an answer with itself there is none.
        assert_eq!(symmetric_kl(x.as_tensor(), x.as_tensor()).unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }
}
