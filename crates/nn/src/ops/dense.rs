//! Dense weights: a tensor while they are trained or moved, panels for the kernels once they are only read.

use std::sync::{Arc, PoisonError, RwLock};

use candle_core::{Device, Tensor};
use switchformer_kernels::PackedMatrix;

use super::{composed, fused, on_kernels};
use crate::error::Result;
use crate::leaf::Then;

/// The weights `[out, in]` of a projection, packed at the first product that tracks no gradient.
///
/// They are held once: packing lets go of the tensor, and [`DenseWeight::rows`] makes it again.
#[derive(Debug)]
pub struct DenseWeight {
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
        DenseWeight { dims: (d[1], d[0]), form: RwLock::new(Form::Rows(weight)) }
    }

    /// `(in, out)`.
    pub fn dims(&self) -> (usize, usize) {
        self.dims
    }

    /// The matrix `[out, in]`.
    pub fn rows(&self) -> Result<Tensor> {
        Ok(match self.form() {
            Form::Rows(w) => w,
            Form::Packed(w) => Tensor::from_vec(w.unpack(), (self.dims.1, self.dims.0), &Device::Cpu)?,
        })
    }

    /// `x w^T + b` and what follows. Shapes: x `[rows, in]`, b `[out]` -> `[rows, out]`.
    pub fn linear(&self, x: &Tensor, b: Option<&Tensor>, then: &Then) -> Result<Tensor> {
        let tracked = |t: &Tensor| t.track_op();
        let learning = tracked(x) || [b, then.gate, then.residual].into_iter().flatten().any(tracked);
        let here = |t: &Tensor| on_kernels(&[t]);
        let fits = here(x) && [b, then.gate, then.residual].into_iter().flatten().all(here);
        let packed = match self.form() {
            Form::Packed(w) if fits && !learning => w,
            Form::Rows(w) if fits && !learning && !w.track_op() && here(&w) => self.pack(&w)?,
            // A backward pass needs the matrix as a tensor.
            _ => {
                let w = self.rows()?;
                let y = if here(x) && here(&w) { fused::linear(x, &w, b)? } else { composed::linear(x, &w, b)? };
                return then.apply(y);
            }
        };
        fused::linear_packed(x, &packed, b, then)
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
