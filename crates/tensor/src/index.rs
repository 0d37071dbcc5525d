//! Putting together, picking and padding.

use std::ops::AddAssign;

use crate::graph::Node;
use crate::shape::{Dim, Shape};
use crate::storage::{CpuStorage, DType, WithDType, each};
use crate::tensor::gathered;
use crate::{Result, Tensor, bail};

fn index(i: i64) -> Result<usize> {
    match usize::try_from(i) {
        Ok(i) => Ok(i),
        Err(_) => bail!("an index of {i}"),
    }
}

/// Zeros of a shape, and stretches of `len` elements of `g` added from the given places on.
fn scattered(g: &Tensor, shape: &Shape, starts: impl Iterator<Item = usize>, len: usize) -> Result<Tensor> {
    fn add<T: WithDType + AddAssign + Default>(
        g: &[T],
        n: usize,
        starts: impl Iterator<Item = usize>,
        len: usize,
    ) -> CpuStorage {
        let mut out = vec![T::default(); n];
        for (from, to) in g.chunks_exact(len.max(1)).zip(starts) {
            out[to..to + len].iter_mut().zip(from).for_each(|(a, b)| *a += *b);
        }
        T::store(out)
    }
    let n = shape.elem_count();
    let storage = match g.dtype() {
        DType::F32 => add(&g.values::<f32>()?, n, starts, len),
        DType::F64 => add(&g.values::<f64>()?, n, starts, len),
        other => bail!("a gradient of {other:?}"),
    };
    Ok(Tensor::made(storage, shape.clone(), None))
}

impl Tensor {
    /// Tensors one behind the other along a dimension; other sizes and types are equal.
    pub fn cat<A: AsRef<Tensor>>(parts: &[A], dim: impl Dim) -> Result<Tensor> {
        let Some(first) = parts.first().map(AsRef::as_ref) else { bail!("nothing to put together") };
        let at = dim.at(first.shape())?;
        let same = |t: &Tensor| {
            let (a, b) = (t.dims(), first.dims());
            t.dtype() == first.dtype() && a.len() == b.len() && a[..at] == b[..at] && a[at + 1..] == b[at + 1..]
        };
        if let Some(odd) = parts.iter().map(AsRef::as_ref).find(|t| !same(t)) {
            bail!("{:?} {:?} does not go behind {:?} {:?}", odd.dims(), odd.dtype(), first.dims(), first.dtype());
        }
        let sizes: Vec<usize> = parts.iter().map(|t| t.as_ref().dims()[at]).collect();
        let read: Vec<&Tensor> = parts.iter().map(AsRef::as_ref).collect();
        let mut dims = first.dims().to_vec();
        dims[at] = sizes.iter().sum();
        let shape = Shape::from(dims);
        if let Some(hollow) = Tensor::hollow_of(&read, &shape, first.dtype()) {
            return Ok(hollow);
        }
        let outer: usize = first.dims()[..at].iter().product();
        let whole: Vec<Tensor> = parts.iter().map(|t| t.as_ref().detach().contiguous()).collect::<Result<_>>()?;
        let guards: Vec<_> = whole.iter().map(Tensor::storage_and_layout).collect();
        fn join<T: WithDType>(all: &[(&CpuStorage, (usize, usize))], outer: usize, n: usize) -> Result<CpuStorage> {
            let slices = all.iter().map(|(s, (a, b))| Ok(&s.as_slice::<T>()?[*a..*b])).collect::<Result<Vec<_>>>()?;
            let mut out = Vec::with_capacity(n);
            for o in 0..outer {
                for s in &slices {
                    let each = s.len() / outer;
                    out.extend_from_slice(&s[o * each..(o + 1) * each]);
                }
            }
            Ok(T::store(out))
        }
        let mut all = Vec::with_capacity(guards.len());
        for (s, l) in &guards {
            let Some(span) = l.contiguous_offsets() else { bail!("parts lie out of order") };
            all.push((&**s, span));
        }
        let n = shape.elem_count();
        let storage = match first.dtype() {
            DType::U8 => join::<u8>(&all, outer, n),
            DType::I16 => join::<i16>(&all, outer, n),
            DType::I32 => join::<i32>(&all, outer, n),
            DType::U32 => join::<u32>(&all, outer, n),
            DType::I64 => join::<i64>(&all, outer, n),
            DType::BF16 => join::<half::bf16>(&all, outer, n),
            DType::F16 => join::<half::f16>(&all, outer, n),
            DType::F32 => join::<f32>(&all, outer, n),
            DType::F64 => join::<f64>(&all, outer, n),
        }?;
        let node = Node::of_all(&read, move |_, g| {
            let mut from = 0;
            sizes
                .iter()
                .map(|n| {
                    from += n;
                    g.narrow(at, from - n, *n).map(Some)
                })
                .collect()
        });
        Ok(Tensor::made(storage, shape, node))
    }

    /// Tensors of one shape along a new dimension.
    pub fn stack<A: AsRef<Tensor>>(parts: &[A], dim: impl Dim) -> Result<Tensor> {
        let Some(first) = parts.first().map(AsRef::as_ref) else { bail!("nothing to put together") };
        let at = dim.at(&Shape::from([first.dims(), &[1]].concat()))?;
        let parts: Vec<Tensor> = parts.iter().map(|t| t.as_ref().unsqueeze(at)).collect::<Result<_>>()?;
        Tensor::cat(&parts, at)
    }

    /// Splits a dimension into `n` parts as equal as can be.
    pub fn chunk(&self, n: usize, dim: impl Dim) -> Result<Vec<Tensor>> {
        let at = dim.at(self.shape())?;
        let size = self.dims()[at];
        let each = size.div_ceil(n.max(1)).max(1);
        (0..size.div_ceil(each)).map(|i| self.narrow(at, i * each, each.min(size - i * each))).collect()
    }

    /// Whole numbers as indices.
    fn indices(&self) -> Result<Vec<usize>> {
        let (s, l) = self.storage_and_layout();
        Ok(match &*s {
            CpuStorage::U8(v) => gathered(v, l).into_iter().map(usize::from).collect(),
            CpuStorage::U32(v) => gathered(v, l).into_iter().map(|i| i as usize).collect(),
            CpuStorage::I32(v) => gathered(v, l).into_iter().map(|i| index(i.into())).collect::<Result<_>>()?,
            CpuStorage::I64(v) => gathered(v, l).into_iter().map(index).collect::<Result<_>>()?,
            other => bail!("indices of {:?}; give whole numbers", other.dtype()),
        })
    }

    /// Entries of a dimension by index. Shapes: index `[m]` -> that dimension has `m` entries.
    pub fn index_select(&self, index: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        let mut dims = self.dims().to_vec();
        dims[at] = index.dims1()?;
        if let Some(hollow) = Tensor::hollow_of(&[self, index], dims.as_slice(), self.dtype()) {
            return Ok(hollow);
        }
        let (ids, size) = (index.indices()?, self.dims()[at]);
        if let Some(bad) = ids.iter().find(|i| **i >= size) {
            bail!("index {bad} of {size} entries");
        }
        let outer: usize = self.dims()[..at].iter().product();
        let inner: usize = self.dims()[at + 1..].iter().product();
        let x = self.detach().contiguous()?;
        let storage = {
            let (s, l) = x.storage_and_layout();
            let Some((from, to)) = l.contiguous_offsets() else { bail!("entries lie out of order") };
            each!(&*s, v => {
                let v = &v[from..to];
                let mut out = Vec::with_capacity(outer * ids.len() * inner);
                for o in 0..outer {
                    for i in &ids {
                        out.extend_from_slice(&v[(o * size + i) * inner..][..inner]);
                    }
                }
                WithDType::store(out)
            })
        };
        let own = self.shape().clone();
        let node = Node::of([self], move |_, g| {
            // Where each stretch of the gradient is added.
            let starts = (0..outer).flat_map(|o| ids.iter().map(move |i| (o * size + i) * inner));
            Ok(vec![Some(scattered(g, &own, starts, inner)?)])
        });
        Ok(Tensor::made(storage, dims.into(), node))
    }

    /// One entry of a dimension for each index: `out[i, j] = self[i, index[i, j]]` along the last dimension of two, and so
    /// on. Shapes: index of equal rank, not larger in the other dimensions.
    pub fn gather(&self, index: &Tensor, dim: impl Dim) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        let (d, e) = (self.dims(), index.dims());
        if d.len() != e.len() || (0..d.len()).any(|i| i != at && e[i] > d[i]) {
            bail!("entries of {d:?} by indices of {e:?}");
        }
        if let Some(hollow) = Tensor::hollow_of(&[self, index], index.shape(), self.dtype()) {
            return Ok(hollow);
        }
        let ids = index.indices()?;
        if let Some(bad) = ids.iter().find(|i| **i >= d[at]) {
            bail!("index {bad} of {} entries", d[at]);
        }
        // Flat places in the contiguous tensor.
        let strides = self.shape().strides();
        let own = index.shape().strides();
        let places: Vec<usize> = ids
            .iter()
            .enumerate()
            .map(|(flat, id)| {
                let place = |i: usize| if i == at { *id } else { flat / own[i] % e[i] };
                (0..e.len()).map(|i| place(i) * strides[i]).sum()
            })
            .collect();
        let x = self.detach().contiguous()?;
        let storage = {
            let (s, l) = x.storage_and_layout();
            let Some((from, to)) = l.contiguous_offsets() else { bail!("entries lie out of order") };
            each!(&*s, v => {
                let v = &v[from..to];
                WithDType::store(places.iter().map(|p| v[*p]).collect())
            })
        };
        let shape = self.shape().clone();
        let node = Node::of([self], move |_, g| Ok(vec![Some(scattered(g, &shape, places.iter().copied(), 1)?)]));
        Ok(Tensor::made(storage, index.shape().clone(), node))
    }

    /// Zeros in front of and behind a dimension.
    pub fn pad_with_zeros(&self, dim: impl Dim, front: usize, behind: usize) -> Result<Tensor> {
        let at = dim.at(self.shape())?;
        if front == 0 && behind == 0 {
            return Ok(self.clone());
        }
        let zeros = |n: usize| {
            let mut dims = self.dims().to_vec();
            dims[at] = n;
            Tensor::zeros(dims, self.dtype())
        };
        let mut parts = Vec::with_capacity(3);
        if front > 0 {
            parts.push(zeros(front)?);
        }
        parts.push(self.clone());
        if behind > 0 {
            parts.push(zeros(behind)?);
        }
        Tensor::cat(&parts, at)
    }
}
