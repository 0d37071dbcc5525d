//! Variables: tensors whose numbers change, and at which gradients are asked for.

use std::ops::Deref;
use std::sync::PoisonError;

use crate::shape::Shape;
use crate::tensor::NdArray;
use crate::{Result, Tensor, WithDType, bail};

/// A tensor whose numbers may be set, and at which gradients are asked for.
#[derive(Clone, Debug)]
pub struct Var(Tensor);

impl Deref for Var {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.0
    }
}

impl AsRef<Tensor> for Var {
    fn as_ref(&self) -> &Tensor {
        &self.0
    }
}

impl Var {
    /// A variable of the elements of a vector. Errors when their number is not the shape's.
    pub fn from_vec<T: WithDType>(v: Vec<T>, shape: impl Into<Shape>) -> Result<Var> {
        let shape = shape.into();
        if v.len() != shape.elem_count() {
            bail!("{} values do not fill a shape of {shape:?}", v.len());
        }
        Ok(Var(Tensor::variable(T::store(v), shape)))
    }

    /// A variable that starts with a copy of a tensor's numbers.
    pub fn from_tensor(t: &Tensor) -> Result<Var> {
        let copy = {
            let (storage, layout) = t.storage_and_layout();
            crate::storage::each!(&*storage, v => WithDType::store(crate::tensor::gathered(v, layout)))
        };
        Ok(Var(Tensor::variable(copy, t.shape().clone())))
    }

    /// A variable of nested arrays.
    pub fn new<T: WithDType>(array: impl NdArray<T>) -> Result<Var> {
        let (values, shape) = array.parts();
        Var::from_vec(values, shape)
    }

    /// The variable as a tensor.
    pub fn as_tensor(&self) -> &Tensor {
        &self.0
    }

    /// The tensor, which stays a variable.
    pub fn into_inner(self) -> Tensor {
        self.0
    }

    /// Takes over a tensor's numbers. Errors at another shape or type.
    pub fn set(&self, t: &Tensor) -> Result<()> {
        if t.shape() != self.shape() || t.dtype() != self.dtype() {
            bail!("a variable of {:?} {:?} cannot take {:?} {:?}", self.dims(), self.dtype(), t.dims(), t.dtype());
        }
        let copy = {
            let (storage, layout) = t.storage_and_layout();
            crate::storage::each!(&*storage, v => WithDType::store(crate::tensor::gathered(v, layout)))
        };
        *self.0.storage().write().unwrap_or_else(PoisonError::into_inner) = copy;
        Ok(())
    }

    /// Changes its numbers in place. Errors on another type.
    pub fn change<T: WithDType, R>(&self, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        let mut storage = self.0.storage().write().unwrap_or_else(PoisonError::into_inner);
        match T::slice_mut(&mut storage) {
            Some(values) => Ok(f(values)),
            None => bail!("a variable of {:?} was changed as {:?}", self.dtype(), T::DTYPE),
        }
    }
}
