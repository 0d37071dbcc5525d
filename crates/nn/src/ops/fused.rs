//! The operations on our CPU kernels, forward and backward, as custom operations of `tensor`.
//!
//! Everything here takes f32 tensors. A backward pass that needs a value of the forward pass (attention's
//! log-sum-exp, in `attention`) keeps it inside the operation, which lives as long as the graph does.

use std::sync::Arc;

use switchformer_kernels::quant::{Int8Rows, PackedCodes};
use switchformer_kernels::{self as kernels, Act, Epilogue as KernelEpilogue, PackedMatrix, act, nested};
use switchformer_tensor::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::NestedWeight;
use crate::error::{Error, Result};
use crate::layers::Activation;
use crate::ops::Epilogue;
use crate::tape::{apply1, apply2, apply3};

/// The values of a contiguous f32 tensor.
pub(crate) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => switchformer_tensor::bail!("a kernel needs contiguous rows, got {:?}", layout.shape()),
    }
}

/// Calls `f` on the values of tensors, made contiguous.
pub(crate) fn with<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> Result<T> {
    let tensors: Vec<Tensor> = tensors.iter().map(|t| t.contiguous()).collect::<Result<_>>()?;
    let guards: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let mut slices: [&[f32]; N] = [&[]; N];
    for (slot, (storage, layout)) in slices.iter_mut().zip(&guards) {
        *slot = values(storage, layout)?;
    }
    Ok(f(slices))
}

pub(crate) fn tensor(data: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(data, shape)
}

pub(crate) fn answer(data: Vec<f32>, shape: &[usize]) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(data), Shape::from_dims(shape)))
}

struct LinearOp;

impl LinearOp {
    fn run(x: &[f32], lx: &Layout, w: &[f32], lw: &Layout, b: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        let ((m, inner), (out, _)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let mut y = kernels::unfilled(m * out);
        kernels::linear(m, inner, out, x, w, b, &mut y);
        answer(y, &[m, out])
    }

    fn backward(x: &Tensor, w: &Tensor, dy: &Tensor, bias: bool) -> Result<[Option<Tensor>; 3]> {
        let ((m, inner), (out, _)) = (x.dims2()?, w.dims2()?);
        let (mut dx, mut dw, mut db) = (kernels::unfilled(m * inner), vec![0f32; out * inner], vec![0f32; out]);
        with([x, w, dy], |[x, w, dy]| {
            let db = bias.then_some(&mut db[..]);
            kernels::linear_backward(m, inner, out, x, w, dy, Some(&mut dx), Some(&mut dw), db);
        })?;
        let db = if bias { Some(tensor(db, &[out])?) } else { None };
        Ok([Some(tensor(dx, &[m, inner])?), Some(tensor(dw, &[out, inner])?), db])
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> Result<(CpuStorage, Shape)> {
        LinearOp::run(values(x, lx)?, lx, values(w, lw)?, lw, None)
    }
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [dx, dw, _] = LinearOp::backward(x, w, dy, false)?;
        Ok((dx, dw))
    }
}

type Three = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        LinearOp::run(values(x, lx)?, lx, values(w, lw)?, lw, Some(values(b, lb)?))
    }
    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Three> {
        let [dx, dw, db] = LinearOp::backward(x, w, dy, true)?;
        Ok((dx, dw, db))
    }
}

/// See [`super::linear`].
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (x, w) = (x.contiguous()?, w.contiguous()?);
    match b {
        Some(b) => apply3(&x, &w, &b.contiguous()?, LinearOp),
        None => apply2(&x, &w, LinearOp),
    }
}

/// Weights `[out, in]` in panels.
pub fn pack(w: &Tensor) -> Result<PackedMatrix> {
    let (out, inner) = w.dims2()?;
    // What lies in a file is read for the panels alone.
    with([&w.fetched()], |[w]| PackedMatrix::new(inner, out, w))
}

/// Projection with packed weights and what follows it, without a backward pass. Shapes: x `[rows, in]` ->
/// `[rows, out]`.
pub fn linear_packed(x: &Tensor, w: &PackedMatrix, b: Option<&Tensor>, epilogue: &Epilogue) -> Result<Tensor> {
    let (m, out) = (x.dims()[0], w.dims().1);
    check_linear(x, w.dims(), b, epilogue)?;
    let mut y = kernels::unfilled(m * out);
    // `x` stands in for what is not there, and is not looked at.
    with_epilogue(x, b, epilogue, |x, epilogue| kernels::linear_packed(m, x, w, &epilogue, &mut y))?;
    tensor(y, &[m, out])
}

/// Whether the shapes of a projection and of what follows it fit.
fn check_linear(x: &Tensor, (inner, out): (usize, usize), b: Option<&Tensor>, epilogue: &Epilogue) -> Result<()> {
    let wanted = |t: Option<&Tensor>, dims: &[usize]| t.is_none_or(|t| t.dims() == dims);
    let m = x.dims()[0];
    let results = wanted(epilogue.gate, &[m, out]) && wanted(epilogue.residual, &[m, out]);
    if x.dims() == [m, inner] && wanted(b, &[out]) && results {
        return Ok(());
    }
    Err(Error::shape("linear", format!("[rows, {inner}] and results [rows, {out}]"), x.dims()))
}

/// Calls `f` on the values of `x` and on what follows a product with them.
fn with_epilogue(
    x: &Tensor,
    b: Option<&Tensor>,
    epilogue: &Epilogue,
    f: impl FnOnce(&[f32], KernelEpilogue),
) -> Result<()> {
    // `x` stands in for what is not there, and is not looked at.
    let parts = [x, b.unwrap_or(x), epilogue.gate.unwrap_or(x), epilogue.residual.unwrap_or(x)];
    with(parts, |[x, bias, gate, residual]| {
        let epilogue = KernelEpilogue {
            bias: b.map(|_| bias),
            act: epilogue.act.map(kernel_act),
            gate: epilogue.gate.map(|_| gate),
            residual: epilogue.residual.map(|_| residual),
        };
        f(x, epilogue);
    })
}

/// See [`super::linear_grouped`].
pub(super) fn linear_grouped(
    x: &Tensor,
    counts: &[usize],
    w: &[Arc<PackedMatrix>],
    biases: &[Option<&Tensor>],
    act: Option<Activation>,
) -> Result<Tensor> {
    let out = w.first().map_or(0, |w| w.dims().1);
    let total: usize = counts.iter().sum();
    let mut cu = vec![0u32];
    cu.extend(counts.iter().scan(0, |at, n| {
        *at += *n as u32;
        Some(*at)
    }));
    let biases = biases.iter().map(|b| b.map(Tensor::to_vec1).transpose()).collect::<Result<Vec<_>>>()?;
    let act = act.map(kernel_act);
    let epilogue: Vec<_> =
        biases.iter().map(|b| KernelEpilogue { bias: b.as_deref(), act, ..KernelEpilogue::default() }).collect();
    let w: Vec<&PackedMatrix> = w.iter().map(Arc::as_ref).collect();
    let mut y = kernels::unfilled(total * out);
    with([x], |[x]| kernels::linear_grouped(x, &cu, &w, &epilogue, &mut y))?;
    tensor(y, &[total, out])
}

/// Neighbouring groups of rows, each through weights of its own. Shapes: x `[sum of counts, in]`, w `[out, in]` each ->
/// `[sum of counts, out]`; `dims` are `(in, out)`.
pub(super) fn grouped(
    x: &Tensor,
    counts: &[usize],
    w: &[Tensor],
    biases: &[Option<&Tensor>],
    (inner, out): (usize, usize),
) -> Result<(Vec<f32>, Vec<usize>)> {
    let total: usize = counts.iter().sum();
    let mut y = kernels::unfilled(total * out);
    let mut from = 0;
    for ((n, w), b) in counts.iter().zip(w).zip(biases) {
        let range = from..from + n;
        with([x, w, b.unwrap_or(w)], |[x, w, bias]| {
            let (x, y) = (&x[range.start * inner..range.end * inner], &mut y[range.start * out..range.end * out]);
            kernels::linear(*n, inner, out, x, w, b.map(|_| bias), y);
        })?;
        from += n;
    }
    Ok((y, vec![total, out]))
}

/// Gradients of [`grouped`] at the rows, at each weight, and at the biases that there are.
pub(super) fn grouped_backward(
    x: &Tensor,
    dy: &Tensor,
    counts: &[usize],
    w: &[Tensor],
    biased: &[bool],
    (inner, out): (usize, usize),
) -> Result<Vec<Option<Tensor>>> {
    let mut dx = kernels::unfilled(x.elem_count());
    let (mut weights, mut biases) = (Vec::with_capacity(w.len()), Vec::new());
    let mut from = 0;
    for ((n, w), biased) in counts.iter().zip(w).zip(biased) {
        let range = from..from + n;
        let (mut dw, mut db) = (vec![0f32; out * inner], vec![0f32; out]);
        with([x, w, dy], |[x, w, dy]| {
            let (x, dy) = (&x[range.start * inner..range.end * inner], &dy[range.start * out..range.end * out]);
            let dx = &mut dx[range.start * inner..range.end * inner];
            kernels::linear_backward(*n, inner, out, x, w, dy, Some(dx), Some(&mut dw), biased.then_some(&mut db[..]));
        })?;
        weights.push(Some(tensor(dw, &[out, inner])?));
        if *biased {
            biases.push(Some(tensor(db, &[out])?));
        }
        from += n;
    }
    let mut all = vec![Some(tensor(dx, x.dims())?)];
    all.extend(weights);
    all.extend(biases);
    Ok(all)
}

pub(super) fn kernel_act(act: Activation) -> Act {
    match act {
        Activation::Gelu => Act::GeluErf,
        Activation::GeluTanh => Act::GeluTanh,
        Activation::GeluQuick => Act::GeluQuick,
        Activation::Relu => Act::Relu,
        Activation::Silu => Act::Silu,
        Activation::Tanh => Act::Tanh,
    }
}

struct LayerNormOp {
    eps: f32,
}

impl CustomOp3 for LayerNormOp {
    fn name(&self) -> &'static str {
        "layer-norm"
    }
    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        gamma: &CpuStorage,
        lg: &Layout,
        beta: &CpuStorage,
        lb: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, dim) = lx.shape().dims2()?;
        let mut y = kernels::unfilled(rows * dim);
        kernels::layer_norm(rows, dim, values(x, lx)?, values(gamma, lg)?, values(beta, lb)?, self.eps, &mut y);
        answer(y, &[rows, dim])
    }
    fn bwd(&self, x: &Tensor, gamma: &Tensor, _: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Three> {
        let (rows, dim) = x.dims2()?;
        let (mut dx, mut dg, mut db) = (kernels::unfilled(rows * dim), vec![0f32; dim], vec![0f32; dim]);
        with([x, gamma, dy], |[x, gamma, dy]| {
            kernels::layer_norm_backward(rows, dim, x, gamma, self.eps, dy, &mut dx, &mut dg, &mut db);
        })?;
        Ok((Some(tensor(dx, &[rows, dim])?), Some(tensor(dg, &[dim])?), Some(tensor(db, &[dim])?)))
    }
}

/// See [`super::layer_norm`].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let op = LayerNormOp { eps: eps as f32 };
    apply3(&x.contiguous()?, &weight.contiguous()?, &bias.contiguous()?, op)
}

struct RmsNormOp {
    eps: f32,
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms-norm"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, g: &CpuStorage, lg: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, dim) = lx.shape().dims2()?;
        let mut y = kernels::unfilled(rows * dim);
        kernels::rms_norm(rows, dim, values(x, lx)?, values(g, lg)?, self.eps, &mut y);
        answer(y, &[rows, dim])
    }
    fn bwd(&self, x: &Tensor, gamma: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, dim) = x.dims2()?;
        let (mut dx, mut dg) = (kernels::unfilled(rows * dim), vec![0f32; dim]);
        with([x, gamma, dy], |[x, gamma, dy]| {
            kernels::rms_norm_backward(rows, dim, x, gamma, self.eps, dy, &mut dx, &mut dg);
        })?;
        Ok((Some(tensor(dx, &[rows, dim])?), Some(tensor(dg, &[dim])?)))
    }
}

/// See [`super::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    apply2(&x.contiguous()?, &weight.contiguous()?, RmsNormOp { eps: eps as f32 })
}

struct AddOp;

impl CustomOp2 for AddOp {
    fn name(&self) -> &'static str {
        "add"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, y: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, y) = (values(x, lx)?, values(y, ly)?);
        let mut sum = kernels::unfilled(x.len());
        kernels::elementwise::add(x, y, &mut sum);
        answer(sum, lx.dims())
    }
    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Some(g.clone()), Some(g.clone())))
    }
}

struct SoftmaxOp;

impl CustomOp1 for SoftmaxOp {
    fn name(&self) -> &'static str {
        "softmax"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, lx)?;
        let n = lx.dims().last().copied().unwrap_or(1);
        let mut y = kernels::unfilled(x.len());
        kernels::softmax(x.len().checked_div(n).unwrap_or(0), n, x, &mut y);
        answer(y, lx.dims())
    }
    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let n = x.dims().last().copied().unwrap_or(1);
        let mut dx = kernels::unfilled(x.elem_count());
        let rows = dx.len().checked_div(n).unwrap_or(0);
        with([y, dy], |[y, dy]| kernels::softmax_backward(rows, n, y, dy, &mut dx))?;
        tensor(dx, x.dims()).map(Some)
    }
}

/// See [`super::softmax`].
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    apply1(&x.contiguous()?, SoftmaxOp)
}

/// See [`super::add`].
pub fn add(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    apply2(&x.contiguous()?, &y.contiguous()?, AddOp)
}

struct ActivationOp(Activation);

impl CustomOp1 for ActivationOp {
    fn name(&self) -> &'static str {
        "activation"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(x, lx)?;
        let mut y = kernels::unfilled(x.len());
        match self.0 {
            Activation::Gelu => act::gelu_erf(x, &mut y),
            Activation::GeluTanh => act::gelu_tanh(x, &mut y),
            Activation::GeluQuick => act::gelu_quick(x, &mut y),
            Activation::Relu => act::relu(x, &mut y),
            Activation::Silu => act::silu(x, &mut y),
            Activation::Tanh => act::tanh(x, &mut y),
        }
        answer(y, lx.dims())
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let mut dx = kernels::unfilled(x.elem_count());
        with([x, dy], |[x, dy]| match self.0 {
            Activation::Gelu => act::gelu_erf_backward(x, dy, &mut dx),
            Activation::GeluTanh => act::gelu_tanh_backward(x, dy, &mut dx),
            Activation::GeluQuick => act::gelu_quick_backward(x, dy, &mut dx),
            Activation::Relu => act::relu_backward(x, dy, &mut dx),
            Activation::Silu => act::silu_backward(x, dy, &mut dx),
            Activation::Tanh => act::tanh_backward(x, dy, &mut dx),
        })?;
        tensor(dx, x.dims()).map(Some)
    }
}

/// See [`super::activation`].
pub fn activation(x: &Tensor, act: Activation) -> Result<Tensor> {
    apply1(&x.contiguous()?, ActivationOp(act))
}

struct GatherOp {
    index: Vec<u32>,
}

impl CustomOp1 for GatherOp {
    fn name(&self) -> &'static str {
        "gather"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> Result<(CpuStorage, Shape)> {
        let (n, dim) = lx.shape().dims2()?;
        if let Some(bad) = self.index.iter().find(|i| **i as usize >= n && **i != super::NO_ROW) {
            switchformer_tensor::bail!("row {bad} of {n} rows");
        }
        let mut out = kernels::unfilled(self.index.len() * dim);
        kernels::rows::gather(dim, values(x, lx)?, &self.index, &mut out);
        answer(out, &[self.index.len(), dim])
    }
    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let (n, dim) = x.dims2()?;
        let mut dx = vec![0f32; n * dim];
        with([g], |[g]| kernels::rows::scatter_add(dim, g, &self.index, &mut dx))?;
        tensor(dx, &[n, dim]).map(Some)
    }
}

/// See [`super::gather`]. Shapes: x `[n, dim]`, index `[m]` -> `[m, dim]`.
pub fn gather(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    apply1(&x.contiguous()?, GatherOp { index: index.to_vec1()? })
}

struct NestedOp<'a> {
    weight: &'a NestedWeight,
    bits: u8,
}

impl NestedOp<'_> {
    fn run(&self, x: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
        let (m, inner) = x.dims2()?;
        let out = self.weight.out;
        let mut y = kernels::unfilled(m * out);
        let w = self.weight;
        let mut call = |x: &[f32], b: Option<&[f32]>| {
            nested::linear_nested(m, inner, out, x, &w.codes, &w.scale, self.bits, b, &mut y);
        };
        match b {
            Some(b) => with([x, b], |[x, b]| call(x, Some(b)))?,
            None => with([x], |[x]| call(x, None))?,
        }
        tensor(y, &[m, out])
    }
}

/// See [`super::nested_linear`]. Stored integers are not trained, so there is no backward pass.
pub fn nested_linear(x: &Tensor, w: &NestedWeight, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
    NestedOp { weight: w, bits }.run(x, b)
}

/// See [`super::PackedNested::linear`].
pub(super) fn linear_few(x: &Tensor, w: &PackedCodes, bits: u8, b: Option<&Tensor>) -> Result<Tensor> {
    let (m, out) = (x.dims2()?.0, w.d_out());
    let mut y = kernels::unfilled(m * out);
    // `x` stands in for a bias that is not there, and is not looked at.
    with([x, b.unwrap_or(x)], |[x, bias]| w.linear(m, x, bits, b.map(|_| bias), &mut y))?;
    tensor(y, &[m, out])
}

/// See [`super::PackedNested::linear_int8`].
pub fn linear_int8(x: &Tensor, w: &PackedCodes, bits: u8, b: Option<&Tensor>, epilogue: &Epilogue) -> Result<Tensor> {
    let (m, inner) = x.dims2()?;
    check_linear(x, (w.d_in(), w.d_out()), b, epilogue)?;
    let mut y = kernels::unfilled(m * w.d_out());
    with_epilogue(x, b, epilogue, |x, epilogue| {
        w.linear_int8(&Int8Rows::quantize(m, inner, w.group(), x), bits, &epilogue, &mut y);
    })?;
    tensor(y, &[m, w.d_out()])
}

/// Values of a view, `[out, in]` row-major.
pub fn nested_dense(w: &NestedWeight, bits: u8) -> Vec<f32> {
    let mut dense = kernels::unfilled(w.codes.len());
    nested::dequantize(&w.codes, &w.scale, bits, &mut dense);
    dense
}

/// Nearest codes of `w` `[out, in]` at the given scales `[out, groups]`.
pub fn nested_codes(w: &[f32], scale: Vec<f32>, out: usize) -> NestedWeight {
    let mut codes = vec![0i8; w.len()];
    nested::quantize_rows(w, &scale, &mut codes);
    NestedWeight { codes, scale, out }
}

struct NestedViewOp {
    bits: u8,
}

impl CustomOp2 for NestedViewOp {
    fn name(&self) -> &'static str {
        "nested-view"
    }
    fn cpu_fwd(&self, w: &CpuStorage, lw: &Layout, s: &CpuStorage, ls: &Layout) -> Result<(CpuStorage, Shape)> {
        let codes = nested_codes(values(w, lw)?, values(s, ls)?.to_vec(), ls.dims()[0]);
        answer(nested_dense(&codes, self.bits), lw.dims())
    }
    /// Straight-through inside the 8-bit range. With `v = w / s` and the view `c s`: `d/dw = 1` inside, `0` outside;
    /// `d/ds = c - v` inside, `c` outside (LSQ).
    fn bwd(&self, w: &Tensor, s: &Tensor, view: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (out, inner) = w.dims2()?;
        let (mut dw, mut ds) = (vec![0f32; out * inner], vec![0f32; out]);
        with([w, s, view, grad], |[w, s, view, grad]| {
            for r in 0..out {
                let row = r * inner..(r + 1) * inner;
                let pairs = w[row.clone()].iter().zip(&view[row.clone()]).zip(&grad[row.clone()]);
                for (slot, ((w, view), g)) in dw[row].iter_mut().zip(pairs) {
                    let (v, c) = (w / s[r], view / s[r]);
                    let inside = (-128.0..=127.0).contains(&v);
                    *slot = if inside { *g } else { 0.0 };
                    ds[r] += g * if inside { c - v } else { c };
                }
            }
        })?;
        Ok((Some(tensor(dw, &[out, inner])?), Some(tensor(ds, &[out])?)))
    }
}

/// See [`super::nested_view`].
pub fn nested_view(w: &Tensor, scale: &Tensor, bits: u8) -> Result<Tensor> {
    apply2(&w.contiguous()?, &scale.contiguous()?, NestedViewOp { bits })
}
