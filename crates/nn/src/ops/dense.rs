//! Dense weights: a tensor while they are trained or moved, panels for the kernels once they are only read.

use std::sync::{Arc, PoisonError, RwLock};

use switchformer_kernels::PackedMatrix;
use switchformer_tensor::{Tensor, dry};

use super::{composed, fused, on_kernels};
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::leaf::Plain;
use crate::ops::Epilogue;
use crate::tape::{apply, recording};

/// The weights `[out, in]` of a projection, packed at the first product that tracks no gradient.
///
/// They are held once: packing lets go of the tensor, and [`DenseWeight::rows`] makes it again.
#[derive(Debug)]
pub struct DenseWeight {
    source: dry::Source,
    dims: (usize, usize),
    form: RwLock<Form>,
}

#[derive(Clone, Debug)]
enum Form {
    Rows(Tensor),
    Packed(Arc<PackedMatrix>),
}

impl DenseWeight {
    /// Shapes: weight `[out, in]`.
    pub fn new(weight: Tensor) -> Self {
        let d = weight.dims();
        DenseWeight { source: weight.source(), dims: (d[1], d[0]), form: RwLock::new(Form::Rows(weight)) }
    }

    /// `(in, out)`.
    pub fn dims(&self) -> (usize, usize) {
        self.dims
    }

    /// The matrix `[out, in]`.
    pub fn rows(&self) -> Result<Tensor> {
        Ok(match self.form() {
            Form::Rows(w) => w,
            Form::Packed(w) => Tensor::from_vec(w.unpack(), (self.dims.1, self.dims.0))?,
        })
    }

    /// `x w^T + b` and what follows. Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
    pub fn linear(&self, x: &Tensor, b: Option<&Tensor>, epilogue: &Epilogue) -> Result<Tensor> {
        let form = self.form();
        if let Some(y) = self.hollow_of(&form, x, b)? {
            return epilogue.apply(y);
        }
        let tracked = |t: &Tensor| t.track_op();
        let learning = tracked(x) || [b, epilogue.gate, epilogue.residual].into_iter().flatten().any(tracked);
        let here = |t: &Tensor| on_kernels(&[t]);
        let fits = here(x) && [b, epilogue.gate, epilogue.residual].into_iter().flatten().all(here);
        let packed = match form {
            Form::Packed(w) if fits && !learning => w,
            Form::Rows(w) if fits && !learning && packs(&w) => self.pack(&w)?,
            // A backward pass needs the matrix as a tensor.
            _ => {
                let w = self.rows()?;
                let y = if here(x) && here(&w) { fused::linear(x, &w, b)? } else { composed::linear(x, &w, b)? };
                return epilogue.apply(y);
            }
        };
        fused::linear_packed(x, &packed, b, epilogue)
    }

    /// The product where there are no numbers to multiply; `None` where there are.
    fn hollow_of(&self, form: &Form, x: &Tensor, b: Option<&Tensor>) -> Result<Option<Tensor>> {
        let without = matches!(form, Form::Rows(w) if w.is_hollow());
        if !x.is_hollow() && !dry::is_dry() && !without {
            return Ok(None);
        }
        let (rows, (inner, out)) = (x.dims2()?.0, self.dims);
        dry::read(self.source, 4 * (inner * out) as u64);
        [Some(x), b].into_iter().flatten().for_each(Tensor::note_read);
        Ok(Some(Tensor::hollow((rows, out), x.dtype())))
    }

    /// The panels, made now if need be; `None` where the matrix must stay a tensor.
    fn panels(&self) -> Result<Option<Arc<PackedMatrix>>> {
        Ok(match self.form() {
            Form::Packed(w) => Some(w),
            Form::Rows(w) if packs(&w) => Some(self.pack(&w)?),
            Form::Rows(_) => None,
        })
    }

    fn form(&self) -> Form {
        // The lock guards one assignment, so a panic elsewhere leaves nothing half done.
        self.form.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn pack(&self, w: &Tensor) -> Result<Arc<PackedMatrix>> {
        let packed = Arc::new(fused::pack(w)?);
        *self.form.write().unwrap_or_else(PoisonError::into_inner) = Form::Packed(packed.clone());
        Ok(packed)
    }
}

/// Whether the kernels may have a matrix in panels: no gradient needs it as a tensor.
fn packs(w: &Tensor) -> bool {
    !w.track_op() && on_kernels(&[w])
}

/// Neighbouring groups of rows, each through weights of its own and then an activation, as one product that skips empty
/// groups; a row's result is that of its own product, bit for bit. `None` where another type rules that out, plain
/// operations are to track the gradient, or nothing is to be computed. Shapes: x `[sum of counts, in]`, one `[out, in]` and `[out]` per group -> `[sum of counts, out]`.
pub fn linear_grouped(
    x: &Tensor,
    counts: &[usize],
    groups: &[Plain],
    act: Option<Activation>,
) -> Result<Option<Tensor>> {
    let Some((first, _)) = groups.first() else { return Ok(None) };
    let (inner, out) = first.dims();
    let biases = groups.iter().filter_map(|(_, b)| *b);
    if dry::is_dry() || !on_kernels(&[x]) || !biases.clone().all(|b| on_kernels(&[b])) {
        return Ok(None);
    }
    let fits = x.dims() == [counts.iter().sum(), inner]
        && counts.len() == groups.len()
        && groups.iter().all(|(w, _)| w.dims() == (inner, out))
        && biases.clone().all(|b| b.dims() == [out]);
    if !fits {
        return Err(Error::shape("groups of rows", format!("[{}, {inner}]", counts.iter().sum::<usize>()), x.dims()));
    }
    let learning = [x].into_iter().chain(biases).any(Tensor::track_op)
        || groups.iter().any(|(w, _)| matches!(w.form(), Form::Rows(w) if !packs(&w)));
    if learning {
        return learn_grouped(x, counts, groups, act);
    }
    let mut panels = Vec::with_capacity(groups.len());
    for (w, _) in groups {
        match w.panels()? {
            Some(w) => panels.push(w),
            None => return Ok(None),
        }
    }
    Ok(Some(fused::linear_grouped(x, counts, &panels, &groups.iter().map(|(_, b)| *b).collect::<Vec<_>>(), act)?))
}

/// [`linear_grouped`] on a tape: rows are neither copied for their group nor put together again. `None` without a tape.
fn learn_grouped(x: &Tensor, counts: &[usize], groups: &[Plain], act: Option<Activation>) -> Result<Option<Tensor>> {
    let weights = groups.iter().map(|(w, _)| w.rows()).collect::<Result<Vec<_>>>()?;
    // What is read: the rows, all weights, and the biases that there are.
    let read: Vec<&Tensor> = [x].into_iter().chain(&weights).chain(groups.iter().filter_map(|(_, b)| *b)).collect();
    if !recording(&read) || !on_kernels(&read) {
        return Ok(None);
    }
    let dims = groups[0].0.dims();
    let biased: Vec<bool> = groups.iter().map(|(_, b)| b.is_some()).collect();
    let (counts, before, own) = (counts.to_vec(), x.clone(), weights.clone());
    let y = apply(
        &read,
        || Err(Error::shape("groups of rows", "tensors of f32", x.dims())),
        || fused::grouped(x, &counts, &weights, &groups.iter().map(|(_, b)| *b).collect::<Vec<_>>(), dims),
        {
            let counts = counts.clone();
            move |g| fused::grouped_backward(&before, g, &counts, &own, &biased, dims)
        },
    )?;
    match act {
        Some(act) => fused::activation(&y, act).map(Some),
        None => Ok(Some(y)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use switchformer_tensor::Var;

    use super::*;
    use crate::init::Stream;

    fn random(seed: u64, dims: &[usize]) -> Tensor {
        let mut stream = Stream::named(&format!("groups {seed}"));
        let data: Vec<f32> = (0..dims.iter().product()).map(|_| 2.0 * stream.unit() - 1.0).collect();
        Tensor::from_vec(data, dims).unwrap()
    }

    #[test]
    fn a_group_is_its_own_product_bit_for_bit() {
        let (inner, out, counts) = (37, 53, [3, 0, 1, 9]);
        let x = random(0, &[13, inner]);
        let weights: Vec<DenseWeight> = (1..5).map(|i| DenseWeight::new(random(i, &[out, inner]))).collect();
        let biases: Vec<Option<Tensor>> = (1..5).map(|i| (i > 1).then(|| random(9 + i, &[out]))).collect();
        let groups: Vec<Plain> = weights.iter().zip(&biases).map(|(w, b)| (w, b.as_ref())).collect();
        let act = Some(Activation::Gelu);
        let y = linear_grouped(&x, &counts, &groups, act).unwrap().unwrap();
        let mut from = 0;
        for (n, (w, b)) in counts.into_iter().zip(&groups) {
            let own = w.linear(&x.narrow(0, from, n).unwrap(), *b, &Epilogue { act, ..Epilogue::default() }).unwrap();
            let got = y.narrow(0, from, n).unwrap();
            assert_eq!(got.to_vec2::<f32>().unwrap(), own.to_vec2::<f32>().unwrap());
            from += n;
        }
        assert!(linear_grouped(&x, &[13], &groups, act).is_err());
        // What is trained needs a tape.
        let learning = DenseWeight::new(Var::from_tensor(&random(1, &[out, inner])).unwrap().into_inner());
        assert!(linear_grouped(&x, &[13], &[(&learning, None)], act).unwrap().is_none());
    }

    #[test]
    fn groups_that_learn_have_the_gradients_of_their_own_products() {
        let var = |t: Tensor| Var::from_tensor(&t).unwrap().into_inner();
        let (inner, out, counts) = (5, 7, [3, 0, 1, 9]);
        let x = var(random(0, &[13, inner]));
        let tensors: Vec<Tensor> = (1..5).map(|i| var(random(i, &[out, inner]))).collect();
        let biases: Vec<Option<Tensor>> = (1..5).map(|i| (i > 1).then(|| var(random(9 + i, &[out])))).collect();
        let weights: Vec<DenseWeight> = tensors.iter().map(|t| DenseWeight::new(t.clone())).collect();
        let groups: Vec<Plain> = weights.iter().zip(&biases).map(|(w, b)| (w, b.as_ref())).collect();
        let act = Some(Activation::Gelu);
        let slopes = random(20, &[13, out]);
        let at_once = || -> Result<Tensor> {
            let y = linear_grouped(&x, &counts, &groups, act)?.unwrap();
            (y * &slopes)?.sum_all()
        };
        let (total, tape) = crate::tape::record(at_once).unwrap();
        let mut from = 0;
        let mut parts = Vec::new();
        for (n, (w, b)) in counts.into_iter().zip(&groups) {
            let rows = x.narrow(0, from, n).unwrap();
            parts.push(w.linear(&rows, *b, &Epilogue { act, ..Epilogue::default() }).unwrap());
            from += n;
        }
        let alone = (Tensor::cat(&parts, 0).unwrap() * &slopes).unwrap().sum_all().unwrap();
        let (got, want) = (tape.backward(&total).unwrap(), crate::tape::Grads::of(&alone).unwrap());
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for t in [&x].into_iter().chain(&tensors).chain(biases.iter().flatten()) {
            let (got, want) = (flat(got.get(t).unwrap()), flat(want.get(t).unwrap()));
            assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() < 1e-5), "{got:?} {want:?}");
        }
    }
}
