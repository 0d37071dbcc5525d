//! Modules behind the pooling: each maps one vector to another.

use switchformer_nn::layers::Activation;
use switchformer_nn::names::Names;
use switchformer_nn::{Error, Folder, ParamKind, Result, Tensor, Weights};

use super::file::ModuleFile;

/// Largest width of a module.
const MAX_WIDTH: usize = 65_536;
/// Epsilon of PyTorch's layer norm where none is given.
const NORM_EPS: f64 = 1e-5;
/// Least length that a vector is divided by.
const LEAST_LENGTH: f64 = 1e-12;

/// A module behind the pooling.
pub(crate) enum Layer {
    Dense(Box<Dense>),
    Norm(Norm),
    /// Scales to length one.
    Normalize,
}

/// A projection, what its numbers go through, and what is added then.
pub(crate) struct Dense {
    path: String,
    weight: Matrix,
    bias: Option<Vec<f32>>,
    act: Act,
    residual: Option<Residual>,
}

enum Residual {
    /// What was read.
    Same,
    /// A projection of it.
    Projected(Matrix),
}

pub(super) struct Matrix {
    values: Vec<f32>,
    width: usize,
}

impl Matrix {
    fn load(w: &Weights, name: &str, out: usize, width: usize) -> Result<Matrix> {
        Ok(Matrix { values: w.tensor(name, &[out, width], ParamKind::Matrix)?.flatten_all()?.to_vec1()?, width })
    }

    /// A matrix of rows of `width` numbers.
    pub(super) fn new(values: Vec<f32>, width: usize) -> Matrix {
        Matrix { values, width }
    }

    pub(super) fn times(&self, x: &[f32]) -> Vec<f64> {
        let product = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
        self.values.chunks_exact(self.width).map(product).collect()
    }
}

/// An activation function by its place in PyTorch.
enum Act {
    Identity,
    Known(Activation),
    Each(fn(f64) -> f64),
}

/// Names of the activation functions, all of them classes of `torch.nn` that take no argument.
const ACTS: &str = "Identity, Tanh, GELU, ReLU, Sigmoid, SiLU, ELU, LeakyReLU, ReLU6, Mish, Softplus (of torch.nn)";

impl Act {
    fn read(file: &ModuleFile) -> Result<Act> {
        let path = file.get(|c| c.text("activation_function", "torch.nn.modules.activation.Tanh"))?;
        let name = ["torch.nn.modules.activation.", "torch.nn.modules.linear.", "torch.nn."]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix));
        Ok(match name {
            Some("Identity") => Act::Identity,
            Some("Tanh") => Act::Known(Activation::Tanh),
            Some("GELU") => Act::Known(Activation::Gelu),
            Some("ReLU") => Act::Known(Activation::Relu),
            Some("SiLU") => Act::Known(Activation::Silu),
            Some("Sigmoid") => Act::Each(|x| 1.0 / (1.0 + (-x).exp())),
            Some("ELU") => Act::Each(|x| if x > 0.0 { x } else { x.exp_m1() }),
            Some("LeakyReLU") => Act::Each(|x| if x > 0.0 { x } else { 0.01 * x }),
            Some("ReLU6") => Act::Each(|x| x.clamp(0.0, 6.0)),
            Some("Mish") => Act::Each(|x| x * softplus(x).tanh()),
            Some("Softplus") => Act::Each(softplus),
            _ => return Err(file.refused("activation_function", path, ACTS)),
        })
    }

    fn apply(&self, x: Vec<f64>) -> Result<Vec<f32>> {
        let single = |x: Vec<f64>| -> Vec<f32> { x.into_iter().map(|x| x as f32).collect() };
        Ok(match self {
            Act::Identity => single(x),
            Act::Known(known) => {
                let n = x.len();
                known.forward(&Tensor::from_vec(single(x), n)?)?.to_vec1()?
            }
            Act::Each(f) => single(x.into_iter().map(f).collect()),
        })
    }
}

/// Linear from 20 on, as in PyTorch.
fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// Centred and scaled to variance one, then by weights of its own.
pub(crate) struct Norm {
    path: String,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// The weights of a module in a folder of its own.
fn weights(folder: &Folder) -> Result<Weights> {
    Weights::open(folder, &Names::default())
}

impl Layer {
    /// A dense module with its weights, which are in `folder`.
    pub(crate) fn dense(file: &ModuleFile, folder: &Folder) -> Result<Layer> {
        let width = |field: &'static str| file.get(|c| c.size(field, None, MAX_WIDTH));
        let (width, out) = (width("in_features")?, width("out_features")?);
        let (act, w) = (Act::read(file)?, weights(folder)?);
        let weight = Matrix::load(&w, "linear.weight", out, width)?;
        let bias = match file.get(|c| c.flag("bias", true))? {
            true => Some(w.tensor("linear.bias", &[out], ParamKind::Vector)?.to_vec1()?),
            false => None,
        };
        let residual = match file.get(|c| c.flag("use_residual", false))? {
            true if width == out => Some(Residual::Same),
            true => Some(Residual::Projected(Matrix::load(&w, "residual.weight", out, width)?)),
            false => None,
        };
        w.finish()?;
        Ok(Layer::Dense(Box::new(Dense { path: file.path.clone(), weight, bias, act, residual })))
    }

    /// The projection of ColBERT, which lies beside the encoder.
    pub(crate) fn projection(folder: &Folder) -> Result<Layer> {
        let (w, name) = (weights(folder)?, "linear.weight");
        let dims = w.shape_of(name).and_then(|dims| dims.first_chunk::<2>().copied());
        let [out, width] = dims.filter(|dims| dims.iter().all(|n| (1..=MAX_WIDTH).contains(n))).ok_or_else(|| {
            let what = "names HF_ColBERT and has no projection `linear.weight`";
            Error::format(folder.path("model.safetensors"), "checkpoint.module", what, "fetch the whole folder again")
        })?;
        let weight = Matrix::load(&w, name, out, width)?;
        let dense = Dense { path: name.into(), weight, bias: None, act: Act::Identity, residual: None };
        Ok(Layer::Dense(Box::new(dense)))
    }

    /// A layer norm with its weights, which are in `folder`.
    pub(crate) fn norm(file: &ModuleFile, folder: &Folder) -> Result<Layer> {
        let width = file.get(|c| c.size("dimension", None, MAX_WIDTH))?;
        let w = weights(folder)?;
        let vector = |name: &str| w.tensor(name, &[width], ParamKind::Vector)?.to_vec1();
        let norm = Norm { path: file.path.clone(), weight: vector("norm.weight")?, bias: vector("norm.bias")? };
        w.finish()?;
        Ok(Layer::Norm(norm))
    }

    /// The next vector. Errors where this one is not as wide as the module reads.
    pub(crate) fn apply(&self, x: Vec<f32>) -> Result<Vec<f32>> {
        match self {
            Layer::Dense(dense) => dense.apply(&x),
            Layer::Norm(norm) => norm.apply(&x),
            Layer::Normalize => {
                let length = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(LEAST_LENGTH);
                Ok(x.into_iter().map(|x| (f64::from(x) / length) as f32).collect())
            }
        }
    }
}

/// Errors unless a vector has as many numbers as the module that `path` describes reads.
fn fits(path: &str, field: &str, wants: usize, x: &[f32]) -> Result<()> {
    if x.len() == wants {
        return Ok(());
    }
    let what = format!("is {wants}, and the embedding in front of it has {} numbers", x.len());
    Err(Error::config(format!("{path}: {field}"), what))
}

impl Dense {
    fn apply(&self, x: &[f32]) -> Result<Vec<f32>> {
        fits(&self.path, "in_features", self.weight.width, x)?;
        let mut y = self.weight.times(x);
        if let Some(bias) = &self.bias {
            y.iter_mut().zip(bias).for_each(|(y, b)| *y += f64::from(*b));
        }
        let mut y = self.act.apply(y)?;
        match &self.residual {
            None => {}
            Some(Residual::Same) => y.iter_mut().zip(x).for_each(|(y, x)| *y += x),
            Some(Residual::Projected(m)) => y.iter_mut().zip(m.times(x)).for_each(|(y, x)| *y += x as f32),
        }
        Ok(y)
    }
}

impl Norm {
    fn apply(&self, x: &[f32]) -> Result<Vec<f32>> {
        fits(&self.path, "dimension", self.weight.len(), x)?;
        let n = x.len() as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (variance + NORM_EPS).sqrt();
        let own = self.weight.iter().zip(&self.bias);
        Ok(x.iter()
            .zip(own)
            .map(|(x, (w, b))| ((f64::from(*x) - mean) * scale * f64::from(*w) + f64::from(*b)) as f32)
            .collect())
    }
}
