//! BGE-M3 (arXiv 2402.03216): beside the embedding of a text a weight for each of its tokens, and a vector for each.

use std::collections::BTreeMap;

use switchformer_nn::pickle;
use switchformer_nn::store::Saved;
use switchformer_nn::{DType, Error, Folder, Result, Tensor};

use super::layers::{Layer, Matrix};
use super::similarity::Similarity;
use super::tokens::TokenVectors;

/// The two projections, as FlagEmbedding publishes them beside the encoder.
const FILES: [&str; 2] = ["sparse_linear.pt", "colbert_linear.pt"];
/// Largest width of a vector.
const MAX_WIDTH: usize = 65_536;

/// The projections behind the encoder.
pub struct M3 {
    sparse: Linear,
    colbert: Linear,
}

/// What becomes of the tokens of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Weighted {
    /// The largest weight of each token that has one, by id.
    pub weights: BTreeMap<u32, f32>,
    /// A vector of length one for each token but the first.
    pub vectors: TokenVectors,
}

/// How the three scores become one: the mean, or weighted.
pub(crate) const EQUAL: [f64; 3] = [1.0; 3];

/// A projection with its bias.
struct Linear {
    weight: Matrix,
    bias: Vec<f32>,
    width: usize,
}

impl M3 {
    /// Whether a folder holds both projections.
    /// Errors where one is missing.
    pub(super) fn is_here(folder: &Folder) -> Result<bool> {
        match FILES.map(|file| folder.has(file)) {
            [true, true] => Ok(true),
            [false, false] => Ok(false),
            [sparse, _] => {
                let [there, missing] = if sparse { FILES } else { [FILES[1], FILES[0]] };
                Err(bad(folder, missing, &format!("is missing, and {there} is there: BGE-M3 has both")))
            }
        }
    }

    /// Reads both projections. Nothing in their files is executed: see [`pickle`].
    pub(super) fn read(folder: &Folder) -> Result<M3> {
        let [sparse, colbert] = [Linear::read(folder, FILES[0])?, Linear::read(folder, FILES[1])?];
        if sparse.bias.len() != 1 {
            let what = format!("gives {} numbers for a token, not one", sparse.bias.len());
            return Err(bad(folder, FILES[0], &what));
        }
        Ok(M3 { sparse, colbert })
    }

    /// What becomes of a text whose tokens are `ids`. Shapes: values `[rows, dim]`.
    pub(super) fn of(&self, values: &[f32], dim: usize, positions: &[u32], ids: &[u32]) -> Result<Weighted> {
        let mut of = Weighted { weights: BTreeMap::new(), vectors: TokenVectors::new() };
        for (row, place) in values.chunks_exact(dim.max(1)).zip(positions) {
            let place = *place as usize;
            let weight = self.sparse.of(row)?.first().copied().unwrap_or(0.0);
            if let Some(id) = ids.get(place).filter(|_| weight > 0.0 || weight.is_nan()) {
                let best = of.weights.entry(*id).or_insert(weight);
                *best = if weight > *best { weight } else { *best };
            }
            if place > 0 {
                of.vectors.push((place, Layer::Normalize.apply(self.colbert.of(row)?)?));
            }
        }
        Ok(of)
    }
}

impl Linear {
    fn read(folder: &Folder, file: &str) -> Result<Linear> {
        let all = pickle::read(&folder.path(file), None)?.tensors;
        let part = |name: &str| -> Result<(Vec<f32>, Vec<usize>)> {
            let t = all.get(name).ok_or_else(|| bad(folder, file, &format!("has no tensor `{name}`")))?;
            Ok((
                numbers(t).ok_or_else(|| bad(folder, file, &format!("holds `{name}` as {:?}", t.dtype)))??,
                t.shape.clone(),
            ))
        };
        let ((weight, shape), (bias, _)) = (part("weight")?, part("bias")?);
        match shape.as_slice() {
            [out, width] if bias.len() == *out && (1..=MAX_WIDTH).contains(width) => {
                Ok(Linear { weight: Matrix::new(weight, *width), bias, width: *width })
            }
            _ => Err(bad(folder, file, &format!("holds a weight of shape {shape:?} and {} biases", bias.len()))),
        }
    }

    /// Shapes: x `[width]` -> `[out]`.
    fn of(&self, x: &[f32]) -> Result<Vec<f32>> {
        if x.len() != self.width {
            let what = format!("read {} numbers, and the encoder gives {}", self.width, x.len());
            return Err(Error::config(FILES.join(" and "), what));
        }
        let y = self.weight.times(x).into_iter().zip(&self.bias);
        Ok(y.map(|(y, b)| (y + f64::from(*b)) as f32).collect())
    }
}

/// The numbers of a tensor of floats.
fn numbers(t: &Saved) -> Option<Result<Vec<f32>>> {
    let dtype = match format!("{:?}", t.dtype).as_str() {
        "F32" => DType::F32,
        "F16" => DType::F16,
        "BF16" => DType::BF16,
        _ => return None,
    };
    let read =
        |t: &Saved| Tensor::from_raw_buffer(&t.bytes, dtype, &t.shape)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1();
    Some(read(t))
}

fn bad(folder: &Folder, file: &str, what: &str) -> Error {
    Error::format(folder.path(file), "checkpoint.module", what, "fetch the file again")
}

/// The three scores of a query and a document, in the order in which they are weighted: dense, sparse, colbert.
pub(crate) fn scores(dense: [&[f32]; 2], sparse: [&BTreeMap<String, f32>; 2], vectors: [&[Vec<f32>]; 2]) -> [f64; 3] {
    let both = sparse[0].iter().filter_map(|(token, a)| Some(f64::from(*a) * f64::from(*sparse[1].get(token)?)));
    [
        Similarity::Dot.of(dense[0], dense[1]),
        both.fold(0.0, |sum, product| sum + product),
        Similarity::MeanMaxSim.of_tokens(vectors[0], vectors[1]),
    ]
}
