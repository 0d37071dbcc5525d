//! Sums, means and extremes.

use crate::graph::Node;
use crate::shape::{Dim, Dims, Shape};
use crate::storage::{CpuStorage, DType};
use crate::{Result, Tensor, bail};

/// Sums of `inner` neighbours in `LANES` chains, so that they vectorise.
fn sum_f32(v: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut acc = [0f32; LANES];
    let (whole, rest) = v.as_chunks::<LANES>();
    for c in whole {
        for (a, x) in acc.iter_mut().zip(c) {
            *a += x;
        }
    }
    acc.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Reduces dimension `mid` of `[outer, mid, inner]` by adding.
fn sum_middle<T: Copy + std::ops::AddAssign + Default>(
    v: &[T],
    (outer, mid, inner): (usize, usize, usize),
    own: impl Fn(&[T]) -> T,
) -> Vec<T> {
    if inner == 1 {
        return (0..outer).map(|o| own(&v[o * mid..(o + 1) * mid])).collect();
    }
    let mut out = vec![T::default(); outer * inner];
    for o in 0..outer {
        let sums = &mut out[o * inner..(o + 1) * inner];
        for m in 0..mid {
            let row = &v[(o * mid + m) * inner..][..inner];
            sums.iter_mut().zip(row).for_each(|(s, x)| *s += *x);
        }
    }
    out
}

impl Tensor {
    fn three(&self, at: usize) -> (usize, usize, usize) {
        let d = self.dims();
        (d[..at].iter().product(), d[at], d[at + 1..].iter().product())
    }

    fn sum_one(&self, at: usize) -> Result<Tensor> {
        let mut dims = self.dims().to_vec();
        dims[at] = 1;
        if let Some(hollow) = Tensor::hollow_of(&[self], dims.as_slice(), self.dtype()) {
            return Ok(hollow);
        }
        let x = self.detach().contiguous()?;
        let sizes = x.three(at);
        let storage = {
            let (s, l) = x.storage_and_layout();
            let Some((from, to)) = l.contiguous_offsets() else { bail!("a sum needs its numbers in order") };
            match &*s {
                CpuStorage::F32(v) => CpuStorage::F32(sum_middle(&v[from..to], sizes, sum_f32)),
                CpuStorage::F64(v) => CpuStorage::F64(sum_middle(&v[from..to], sizes, |v| v.iter().sum())),
                CpuStorage::U32(v) => CpuStorage::U32(sum_middle(&v[from..to], sizes, |v| v.iter().sum())),
                CpuStorage::I64(v) => CpuStorage::I64(sum_middle(&v[from..to], sizes, |v| v.iter().sum())),
                other => bail!("a sum of {:?}; give f32, f64, u32 or i64", other.dtype()),
            }
        };
        Ok(Tensor::made(storage, dims.into(), None))
    }

    /// Sums over dimensions, which stay with size one.
    pub fn sum_keepdim(&self, dims: impl Dims) -> Result<Tensor> {
        let at = dims.all(self.shape())?;
        let mut sum = self.detach();
        for d in &at {
            sum = sum.sum_one(*d)?;
        }
        let from = self.shape().clone();
        let node = Node::of([self], move |_, g| Ok(vec![Some(g.broadcast_as(&from)?)]));
        Ok(Tensor::made_of(&sum, node))
    }

    /// Sums over dimensions, which go.
    pub fn sum(&self, dims: impl Dims) -> Result<Tensor> {
        let at = dims.all(self.shape())?;
        let left = without(self.shape(), &at);
        self.sum_keepdim(at)?.reshape(left)
    }

    /// The sum of all elements, without dimensions.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.flatten_all()?.sum(0)
    }

    /// Means over dimensions, which stay with size one.
    pub fn mean_keepdim(&self, dims: impl Dims) -> Result<Tensor> {
        let at = dims.all(self.shape())?;
        let n: usize = at.iter().map(|d| self.dims()[*d]).product();
        self.sum_keepdim(at)? * (1.0 / n as f64)
    }

    /// Means over dimensions, which go.
    pub fn mean(&self, dims: impl Dims) -> Result<Tensor> {
        let at = dims.all(self.shape())?;
        let left = without(self.shape(), &at);
        self.mean_keepdim(at)?.reshape(left)
    }

    /// The mean of all elements, without dimensions.
    pub fn mean_all(&self) -> Result<Tensor> {
        self.sum_all()? / self.elem_count() as f64
    }

    /// Index and value of the extreme along a dimension; the first of equals.
    fn extreme(&self, at: usize, better: impl Fn(f64, f64) -> bool) -> Result<(Tensor, Tensor)> {
        let (outer, mid, inner) = self.three(at);
        if mid == 0 {
            bail!("the extreme of no numbers, in {:?}", self.dims());
        }
        let mut dims = self.dims().to_vec();
        dims[at] = 1;
        if let Some(best) = Tensor::hollow_of(&[self], dims.as_slice(), self.dtype()) {
            return Ok((Tensor::hollow(dims, DType::U32), best));
        }
        let v = self.detach().to_dtype(DType::F64)?.values::<f64>()?;
        let mut places = Vec::with_capacity(outer * inner);
        let mut best = Vec::with_capacity(outer * inner);
        for o in 0..outer {
            for i in 0..inner {
                let value = |m: usize| v[(o * mid + m) * inner + i];
                let mut top = 0;
                for m in 1..mid {
                    if better(value(m), value(top)) {
                        top = m;
                    }
                }
                places.push(top as u32);
                best.push(value(top));
            }
        }
        Ok((Tensor::from_vec(places, dims.as_slice())?, Tensor::from_vec(best, dims)?.to_dtype(self.dtype())?))
    }

    /// Largest along a dimension, which stays with size one. The gradient goes to every place that is as large, shared.
    pub fn max_keepdim(&self, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        let (_, best) = self.extreme(at, |a, b| a > b)?;
        let x = self.detach();
        let node = Node::of([self], move |y, g| {
            let hit = x.eq(y)?.to_dtype(g.dtype())?;
            let share = hit.broadcast_div(&hit.sum_keepdim(at)?)?;
            Ok(vec![Some(share.broadcast_mul(g)?)])
        });
        Ok(Tensor::made_of(&best, node))
    }

    /// Largest along a dimension, which goes.
    pub fn max(&self, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        self.max_keepdim(at)?.reshape(without(self.shape(), &[at]))
    }

    /// The largest of all elements, without dimensions.
    pub fn max_all(&self) -> Result<Tensor> {
        self.flatten_all()?.max(0)
    }

    /// `log(sum(exp(x)))` along a dimension, which goes.
    pub fn log_sum_exp(&self, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        let top = self.detach().max_keepdim(at)?;
        let sum = self.broadcast_sub(&top)?.exp()?.sum_keepdim(at)?.log()?;
        sum.broadcast_add(&top)?.reshape(without(self.shape(), &[at]))
    }

    /// The place of the largest along a dimension, which goes; the first of equals.
    pub fn argmax(&self, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        self.extreme(at, |a, b| a > b)?.0.reshape(without(self.shape(), &[at]))
    }

    /// The numbers of `t`, a result that nobody else has, with a history.
    pub(crate) fn made_of(t: &Tensor, node: Option<Node>) -> Tensor {
        match node {
            None => t.clone(),
            some => t.view(t.layout().clone(), some),
        }
    }
}

fn without(shape: &Shape, gone: &[usize]) -> Vec<usize> {
    shape.dims().iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, d)| *d).collect()
}
