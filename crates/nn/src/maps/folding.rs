//! Layers with batch norms that fold: sums of convolutions while they are trained, one convolution once they are folded.

use serde::{Deserialize, Serialize};
use switchformer_tensor::Tensor;

use super::{Conv, mean_rows};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::layers::BatchNorm;
use crate::leaf::Linear;
use crate::ops;
use crate::ops::Epilogue;
use crate::rows::Rows;
use crate::weights::Weights;

/// Under this name layers note down ([`Weights::note`]) what may be folded: a [`Fold`] each.
pub const FOLDS: &str = "fold";

/// Something that folds, with the names of its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fold {
    /// A [`Folding`] layer.
    Layer {
        /// Path of the layer.
        path: String,
        /// What it computes.
        spec: FoldSpec,
    },
    /// A [`FoldingHead`].
    Head {
        /// Path of the batch norm.
        norm: String,
        /// Path of the projection.
        linear: String,
        /// Epsilon of the batch norm.
        eps: f64,
    },
}

/// A folded tensor: name, shape, values.
pub type Folded = (String, Vec<usize>, Vec<f32>);

impl Fold {
    /// Whether a tensor is no more once this is folded.
    pub fn takes(&self, name: &str) -> bool {
        let below = |path: &str| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
        match self {
            Fold::Layer { path, .. } => below(path),
            Fold::Head { norm, linear, .. } => below(norm) || below(linear),
        }
    }

    /// The tensors that stand for those it takes; `read` gives these by name. Sums are f64.
    pub fn tensors(&self, read: impl Fn(&str) -> Result<Vec<f32>>) -> Result<Vec<Folded>> {
        let (path, weight, shape, bias) = match self {
            Fold::Layer { path, spec } => {
                let [weight, bias] = spec.sums(|part| read(&format!("{path}.{part}")))?;
                (path, weight, spec.shape(), bias)
            }
            Fold::Head { norm, linear, eps } => {
                let norm = factors(*eps, |part| read(&format!("{norm}.{part}")))?;
                let bias = read(&format!("{linear}.bias"))?;
                let mut weight: Vec<f64> = read(&format!("{linear}.weight"))?.into_iter().map(f64::from).collect();
                let mut sums: Vec<f64> = bias.into_iter().map(f64::from).collect();
                for (row, sum) in weight.chunks_exact_mut(norm.len()).zip(&mut sums) {
                    for (w, (factor, shift)) in row.iter_mut().zip(&norm) {
                        *sum += *w * shift;
                        *w *= factor;
                    }
                }
                let shape = vec![sums.len(), norm.len()];
                (linear, weight, shape, sums)
            }
        };
        let narrow = |v: Vec<f64>| v.into_iter().map(|v| v as f32).collect::<Vec<f32>>();
        let n = bias.len();
        Ok(vec![(format!("{path}.weight"), shape, narrow(weight)), (format!("{path}.bias"), vec![n], narrow(bias))])
    }
}

/// What a batch norm at rest multiplies every channel by, and what it then adds.
fn factors(eps: f64, read: impl Fn(&str) -> Result<Vec<f32>>) -> Result<Vec<(f64, f64)>> {
    let [gain, shift] = [read("weight")?, read("bias")?];
    let [mean, variance] = [read("running_mean")?, read("running_var")?];
    let all = gain.into_iter().zip(shift).zip(mean.into_iter().zip(variance));
    Ok(all
        .map(|((gain, shift), (mean, variance))| {
            let factor = f64::from(gain) / (f64::from(variance) + eps).sqrt();
            (factor, f64::from(shift) - f64::from(mean) * factor)
        })
        .collect())
}

/// One branch of a [`Folding`] layer; a batch norm of its own follows each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Branch {
    /// A convolution with this odd kernel, no wider than the layer's, in so many groups, a multiple of the layer's.
    Conv {
        /// Side of its kernel.
        kernel: usize,
        /// Groups of its channels.
        groups: usize,
    },
    /// The rows themselves.
    Same,
}

/// What a [`Folding`] layer computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoldSpec {
    /// Channels that come out.
    pub out: usize,
    /// Channels that go in.
    pub dim: usize,
    /// Side of the odd kernel that all branches fit into.
    pub kernel: usize,
    /// Groups of channels of the folded convolution.
    pub groups: usize,
    /// Step of the kernel over the map.
    pub stride: usize,
    /// What is summed.
    pub branches: Vec<Branch>,
    /// Epsilon of the batch norms.
    pub eps: f64,
}

impl FoldSpec {
    /// A kernel of `kernel` in groups, beside it one of a single place, and the rows themselves where they fit.
    pub fn wide([out, dim, kernel]: [usize; 3], groups: usize, stride: usize, eps: f64) -> FoldSpec {
        let mut branches = vec![Branch::Conv { kernel, groups }, Branch::Conv { kernel: 1, groups }];
        if out == dim && stride == 1 {
            branches.push(Branch::Same);
        }
        FoldSpec { out, dim, kernel, groups, stride, branches, eps }
    }

    /// One product for each number of groups in `all`; folded they are a dense one.
    pub fn point(out: usize, dim: usize, all: &[usize], eps: f64) -> FoldSpec {
        let branches = all.iter().map(|groups| Branch::Conv { kernel: 1, groups: *groups }).collect();
        FoldSpec { out, dim, kernel: 1, groups: 1, stride: 1, branches, eps }
    }

    /// Whether the folded layer is a projection of rows, stored as `[out, dim]`.
    fn is_point(&self) -> bool {
        (self.kernel, self.groups, self.stride) == (1, 1, 1)
    }

    /// Shape of the folded weight.
    fn shape(&self) -> Vec<usize> {
        let (out, width) = (self.out, self.dim / self.groups);
        if self.is_point() { vec![out, width] } else { vec![out, width, self.kernel, self.kernel] }
    }

    /// Weight and bias of the folded layer from the tensors of its branches, which `read` gives by their names below the
    /// layer.
    fn sums(&self, read: impl Fn(&str) -> Result<Vec<f32>>) -> Result<[Vec<f64>; 2]> {
        let (out, width, kernel) = (self.out, self.dim / self.groups, self.kernel);
        let (mut weight, mut bias) = (vec![0f64; out * width * kernel * kernel], vec![0f64; out]);
        for (j, branch) in self.branches.iter().enumerate() {
            let norm = factors(self.eps, |part| read(&format!("branches.{j}.bn.{part}")))?;
            // What stays as it is sees one channel at one place.
            let (k, groups, values) = match branch {
                Branch::Conv { kernel, groups } => (*kernel, *groups, read(&format!("branches.{j}.conv.weight"))?),
                Branch::Same => (1, self.dim, vec![1.0; out]),
            };
            let (own, margin) = (self.dim / groups, (kernel - k) / 2);
            for (o, (factor, shift)) in norm.into_iter().enumerate() {
                bias[o] += shift;
                // First channel that this branch sees, counted within those that the whole layer sees.
                let first = (o * groups / out * own) % width;
                for (i, y, x) in (0..own).flat_map(|i| (0..k).flat_map(move |y| (0..k).map(move |x| (i, y, x)))) {
                    let at = ((o * width + first + i) * kernel + y + margin) * kernel + x + margin;
                    weight[at] += factor * f64::from(values[((o * own + i) * k + y) * k + x]);
                }
            }
        }
        Ok([weight, bias])
    }
}

enum Form {
    /// Convolution, where there is one, and batch norm of every branch.
    Branches(Vec<(Option<Conv>, BatchNorm)>),
    Conv(Conv),
    Point(Box<dyn Linear>),
}

/// A sum of convolutions with a batch norm each, or the one convolution that they fold into: the same function at rest.
pub struct Folding {
    form: Form,
}

impl Folding {
    /// Loads the layer `part` below the path of `w`: `branches.{j}.conv.weight` and `branches.{j}.bn`, or, `folded`,
    /// `weight` and `bias` alone.
    pub fn load(w: &Weights, part: &str, spec: &FoldSpec, folded: bool) -> Result<Folding> {
        let at = w.at(part);
        let fits = |branch: &Branch| match branch {
            Branch::Conv { kernel, groups } => {
                *kernel <= spec.kernel && kernel % 2 == 1 && groups.is_multiple_of(spec.groups)
            }
            Branch::Same => spec.out == spec.dim && spec.stride == 1,
        };
        if spec.kernel.is_multiple_of(2) || spec.branches.is_empty() || !spec.branches.iter().all(fits) {
            return Err(Error::shape(at.name("branches"), "branches that fit into one kernel", &[spec.kernel]));
        }
        let conv = |w: &Weights, kernel: usize, groups: usize, bias: bool| {
            Conv::grouped(w, [spec.out, spec.dim, kernel], [spec.stride, kernel / 2], groups, bias)
        };
        let form = if folded && spec.is_point() {
            Form::Point(w.linear(part, spec.dim, spec.out, true)?)
        } else if folded {
            Form::Conv(conv(&at, spec.kernel, spec.groups, true)?)
        } else {
            note(w, &Fold::Layer { path: w.name(part), spec: spec.clone() });
            let branch = |(j, branch): (usize, &Branch)| -> Result<(Option<Conv>, BatchNorm)> {
                let at = at.at("branches").at(j);
                let conv = match branch {
                    Branch::Conv { kernel, groups } => Some(conv(&at.at("conv"), *kernel, *groups, false)?),
                    Branch::Same => None,
                };
                Ok((conv, at.batch_norm("bn", spec.out, spec.eps)?))
            };
            Form::Branches(spec.branches.iter().enumerate().map(branch).collect::<Result<_>>()?)
        };
        Ok(Folding { form })
    }

    /// The layer and what follows it. Shapes: x `[total, dim]` -> `[total', out]`.
    pub fn forward_with(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, epilogue: &Epilogue) -> Result<(Tensor, Rows)> {
        let branches = match &self.form {
            Form::Point(linear) => return Ok((linear.forward_with(cx, x, epilogue)?, rows.clone())),
            Form::Conv(conv) => {
                let (y, rows) = conv.forward(cx, x, rows)?;
                return Ok((epilogue.apply(y)?, rows));
            }
            Form::Branches(branches) => branches,
        };
        let mut sum: Option<(Tensor, Rows)> = None;
        for (conv, norm) in branches {
            let (y, after) = match conv {
                Some(conv) => conv.forward(cx, x, rows)?,
                None => (x.clone(), rows.clone()),
            };
            let y = norm.forward(cx, &y)?;
            sum = Some(match sum {
                Some((sum, after)) => (ops::add(&sum, &y)?, after),
                None => (y, after),
            });
        }
        let (y, after) = sum.ok_or_else(|| Error::shape("branches", "at least one branch", &[0]))?;
        Ok((epilogue.apply(y)?, after))
    }

    /// The same for a layer that keeps the map. Shapes: x `[total, dim]` -> `[total, out]`.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        Ok(self.forward_with(cx, x, rows, &Epilogue::default())?.0)
    }
}

/// A batch norm, the mean of each member's rows, and a projection of it; folded, the mean and the projection.
pub struct FoldingHead {
    norm: Option<BatchNorm>,
    linear: Box<dyn Linear>,
}

impl FoldingHead {
    /// Loads the batch norm and the projection at these parts of the path of `w`; `dims` are `[out, dim]`.
    pub fn load(
        w: &Weights,
        [norm, linear]: [&str; 2],
        [out, dim]: [usize; 2],
        eps: f64,
        folded: bool,
    ) -> Result<FoldingHead> {
        let norm = if folded {
            None
        } else {
            note(w, &Fold::Head { norm: w.name(norm), linear: w.name(linear), eps });
            Some(w.batch_norm(norm, dim, eps)?)
        };
        Ok(FoldingHead { norm, linear: w.linear(linear, dim, out, true)? })
    }

    /// Shapes: x `[total, dim]` -> `[members, out]`.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let mean = match &self.norm {
            Some(norm) => mean_rows(&norm.forward(cx, x)?, rows)?,
            None => mean_rows(x, rows)?,
        };
        self.linear.forward(cx, &mean)
    }
}

fn note(w: &Weights, fold: &Fold) {
    w.note(FOLDS, serde_json::to_value(fold).unwrap_or_default());
}
