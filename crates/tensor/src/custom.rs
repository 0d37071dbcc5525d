//! Operations made elsewhere: a forward pass on storage and a backward pass on tensors.

use std::sync::Arc;

use crate::graph::Node;
use crate::{CpuStorage, Layout, Result, Shape, Tensor, bail};

/// An operation on one tensor.
pub trait CustomOp1 {
    /// Its name, for errors.
    fn name(&self) -> &'static str;
    /// The result and its shape.
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)>;
    /// From what was read, the result and its gradient to the gradient at what was read.
    fn bwd(&self, _x: &Tensor, _res: &Tensor, _grad: &Tensor) -> Result<Option<Tensor>> {
        bail!("{} has no backward pass", self.name())
    }
}

/// An operation on two tensors.
pub trait CustomOp2 {
    /// Its name, for errors.
    fn name(&self) -> &'static str;
    /// The result and its shape.
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, y: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)>;
    /// See [`CustomOp1::bwd`].
    fn bwd(&self, _x: &Tensor, _y: &Tensor, _res: &Tensor, _grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        bail!("{} has no backward pass", self.name())
    }
}

/// Gradients of three tensors.
type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

/// An operation on three tensors.
pub trait CustomOp3 {
    /// Its name, for errors.
    fn name(&self) -> &'static str;
    /// The result and its shape.
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        y: &CpuStorage,
        ly: &Layout,
        z: &CpuStorage,
        lz: &Layout,
    ) -> Result<(CpuStorage, Shape)>;
    /// See [`CustomOp1::bwd`].
    fn bwd(&self, _x: &Tensor, _y: &Tensor, _z: &Tensor, _res: &Tensor, _grad: &Tensor) -> Result<Three> {
        bail!("{} has no backward pass", self.name())
    }
}

impl Tensor {
    /// Applies an operation, with its gradient where one may be asked for.
    pub fn apply_op1(&self, op: impl CustomOp1 + Send + Sync + 'static) -> Result<Tensor> {
        let (storage, shape) = {
            let (s, l) = self.storage_and_layout();
            op.cpu_fwd(&s, l)?
        };
        let (op, x) = (Arc::new(op), self.detach());
        let node = Node::of([self], move |res, g| Ok(vec![op.bwd(&x, res, g)?]));
        Ok(Tensor::made(storage, shape, node))
    }

    /// See [`Tensor::apply_op1`].
    pub fn apply_op2(&self, y: &Tensor, op: impl CustomOp2 + Send + Sync + 'static) -> Result<Tensor> {
        let (storage, shape) = {
            let ((s, l), (t, m)) = (self.storage_and_layout(), y.storage_and_layout());
            op.cpu_fwd(&s, l, &t, m)?
        };
        let (op, own, other) = (Arc::new(op), self.detach(), y.detach());
        let node = Node::of([self, y], move |res, g| {
            let (a, b) = op.bwd(&own, &other, res, g)?;
            Ok(vec![a, b])
        });
        Ok(Tensor::made(storage, shape, node))
    }

    /// See [`Tensor::apply_op1`].
    pub fn apply_op3(&self, y: &Tensor, z: &Tensor, op: impl CustomOp3 + Send + Sync + 'static) -> Result<Tensor> {
        let (storage, shape) = {
            let ((s, l), (t, m), (u, n)) = (self.storage_and_layout(), y.storage_and_layout(), z.storage_and_layout());
            op.cpu_fwd(&s, l, &t, m, &u, n)?
        };
        let (op, a, b, c) = (Arc::new(op), self.detach(), y.detach(), z.detach());
        let node = Node::of([self, y, z], move |res, g| {
            let (x, y, z) = op.bwd(&a, &b, &c, res, g)?;
            Ok(vec![x, y, z])
        });
        Ok(Tensor::made(storage, shape, node))
    }
}
