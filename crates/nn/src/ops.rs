//! Tensor operations, each with two doors: in f32 a kernel with a hand-written backward pass
//! ([`fused`]), in other types the plain operations of `tensor` ([`composed`]), which have gradients too.

mod activation;
mod arrange;
pub mod attend;
mod attention;
pub mod composed;
mod conv;
mod dense;
mod epilogue;
pub mod fused;
mod maps;
mod nested;
pub mod optim;
mod pairs;
mod slab;
pub mod tape;

use switchformer_tensor::{DType, Tensor};

use crate::error::{Error, Result};
use crate::rows::Rows;

pub use activation::{Activation, GateSide};
pub use arrange::{
    Angles, affine_columns, beside, columns, columns_at, mean_rows, mix_parts, parts, reshape, rotate, rows_at,
    scale_columns, scale_rows, split, times,
};
pub use attend::{AttendSpec, RelativeBias, ScoreBias, Zones};
pub(crate) use conv::WIDEST;
pub use conv::{Beside, depthwise};
pub use dense::{DenseWeight, linear_grouped};
pub use epilogue::Epilogue;
pub use maps::AttentionMaps;
pub use nested::{FEW_ROWS, NestedWeight, PackedNested, nested_linear};
pub use pairs::pair_scores;
pub(crate) use slab::{KeyValueSlab, attend_slabs, extend_slabs, packed_keys};

/// Whether the kernels can take these tensors.
pub(crate) fn on_kernels(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && !t.is_hollow())
}

/// `x w^T + b`. Shapes: x `[rows, in]`, w `[out, in]`, b `[out]` -> `[rows, out]`.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    if on_kernels(&[x, w]) && x.dims().len() == 2 { fused::linear(x, w, b) } else { composed::linear(x, w, b) }
}

/// Errors where rows are not as wide as the norm over them.
fn check_norm(x: &Tensor, weights: &[&Tensor], at: &str) -> Result<()> {
    let width = x.dims().last().copied().unwrap_or(0);
    match weights.iter().find(|w| w.dims() != [width]) {
        None => Ok(()),
        Some(w) => Err(Error::shape(at, format!("[.., {}]", w.elem_count()), x.dims())),
    }
}

/// Layer norm over the last dimension, population variance. Shapes: x `[rows, dim]`, weight and bias `[dim]`.
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    check_norm(x, &[weight, bias], "layer norm")?;
    if on_kernels(&[x, weight, bias]) && x.dims().len() == 2 {
        fused::layer_norm(x, weight, bias, eps)
    } else {
        composed::layer_norm(x, weight, bias, eps)
    }
}

/// Root-mean-square norm over the last dimension: no centring, no bias. Shapes: x `[rows, dim]`, weight `[dim]`.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    check_norm(x, &[weight], "rms norm")?;
    if on_kernels(&[x, weight]) && x.dims().len() == 2 {
        fused::rms_norm(x, weight, eps)
    } else {
        composed::rms_norm(x, weight, eps)
    }
}

/// Attention with everything that [`AttendSpec`] names: other keys than queries, shared heads, causality, relative
/// positions. Shapes: q `[queries, heads * d]`, k `[keys, kv_heads * d]`, v `[keys, kv_heads * e]` -> `[queries, heads * e]`.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttendSpec) -> Result<Tensor> {
    spec.check(q, k, Some(v))?;
    if let Some(hollow) = spec.hollow_of(&[q, k, v], v.dims()[1]) {
        return Ok(hollow);
    }
    if on_kernels(&[q, k, v]) && spec.on_kernels() {
        attention::attend(q, k, v, spec)
    } else {
        composed::attend(q, k, v, spec)
    }
}

/// [`attend()`] of rows to their own segment, with queries, keys and values as one. Shapes: qkv `[rows, 3 * heads * d]`
/// -> `[rows, heads * d]`.
pub fn attend_fused(qkv: &Tensor, spec: &AttendSpec) -> Result<Tensor> {
    check_qkv(qkv, spec.q_rows, spec.heads)?;
    let dim = qkv.dims()[1] / 3;
    let part = |i: usize| qkv.narrow(1, i * dim, dim);
    let (q, k, v) = (part(0)?, part(1)?, part(2)?);
    spec.check(&q, &k, Some(&v))?;
    if let Some(hollow) = spec.hollow_of(&[qkv], dim) {
        return Ok(hollow);
    }
    if on_kernels(&[qkv]) && spec.on_kernels() {
        attention::attend_fused(qkv, spec)
    } else {
        composed::attend(&q, &k, &v, spec)
    }
}

/// Maps of [`attend()`], rows summing to one. Shapes: q `[queries, heads * d]`, k `[keys, kv_heads * d]` -> per segment
/// `[heads, n, m]`.
pub fn attend_probs(q: &Tensor, k: &Tensor, spec: &AttendSpec) -> Result<Vec<Tensor>> {
    spec.check(q, k, None)?;
    spec.check_maps()?;
    if spec.hollow_of(&[q, k], 0).is_some() {
        let sizes = (0..spec.q_rows.n()).map(|i| (spec.heads, spec.q_rows.len(i), spec.k_rows.len(i)));
        return Ok(sizes.map(|size| Tensor::hollow(size, q.dtype())).collect());
    }
    if on_kernels(&[q, k]) && spec.on_kernels() {
        return attention::attend_probs(q, k, spec);
    }
    (0..spec.q_rows.n()).map(|i| composed::attend_map(q, k, spec, i)).collect()
}

/// Sum of two tensors of one shape.
pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if on_kernels(&[a, b]) && a.dims() == b.dims() { fused::add(a, b) } else { Ok((a + b)?) }
}

/// [`add`] of two gradients, outside of any tape.
pub(crate) fn sum_into(a: Tensor, b: &Tensor) -> Result<Tensor> {
    add(&a.detach(), &b.detach())
}

/// Softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    if on_kernels(&[x]) { fused::softmax(x) } else { composed::softmax(x) }
}

/// Activation, element by element.
pub fn activation(x: &Tensor, act: Activation) -> Result<Tensor> {
    if on_kernels(&[x]) { fused::activation(x, act) } else { composed::activation(x, act) }
}

/// An index of [`gather`] that names no row: it gives zeros.
pub const NO_ROW: u32 = switchformer_kernels::rows::NONE;

/// Rows by index, zeros for [`NO_ROW`]. Shapes: x `[n, ..]`, index `[m]` (u32) -> `[m, ..]`.
pub fn gather(x: &Tensor, index: &Tensor) -> Result<Tensor> {
    if on_kernels(&[x]) && x.dims().len() == 2 { fused::gather(x, index) } else { Ok(x.index_select(index, 0)?) }
}

fn check_qkv(qkv: &Tensor, rows: &Rows, heads: usize) -> Result<()> {
    match qkv.dims() {
        [t, d] if *t == rows.total() && d.is_multiple_of(3 * heads) => Ok(()),
        other => Err(Error::shape("attention", format!("[{}, 3 * {heads} * head_dim]", rows.total()), other)),
    }
}

/// Straight-through view of trained weights at `bits`: `scale * round_l(round_8(w / scale))`, with LSQ gradients for
/// the scale. Shapes: w `[out, in]`, scale `[out]` -> `[out, in]`.
pub fn nested_view(w: &Tensor, scale: &Tensor, bits: u8) -> Result<Tensor> {
    if let Some(hollow) = Tensor::hollow_of(&[w, scale], w.shape(), w.dtype()) {
        return Ok(hollow);
    }
    fused::nested_view(w, scale, bits)
}

/// Nearest codes of a matrix at the given scales of rows or of groups of inputs. Shapes: w `[out, in]`, scale `[out]` or
/// `[out, groups]`.
pub fn nested_codes(w: &Tensor, scale: &Tensor) -> Result<NestedWeight> {
    let (out, _) = w.dims2()?;
    let (w, scale) = (w.flatten_all()?.to_vec1::<f32>()?, scale.flatten_all()?.to_vec1::<f32>()?);
    Ok(fused::nested_codes(&w, scale, out))
}
