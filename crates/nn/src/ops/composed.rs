//! The operations written with the plain ones of `tensor`: for types other than f32, and the oracle of the fused path.

use switchformer_tensor::{D, Tensor};

use crate::error::Result;
use crate::layers::Activation;
use crate::rows::Rows;

use super::AttendSpec;

/// See [`super::linear`].
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&w.t()?)?;
    Ok(match b {
        Some(b) => y.broadcast_add(b)?,
        None => y,
    })
}

/// See [`super::layer_norm`].
pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> Result<Tensor> {
    let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    normed.broadcast_mul(weight)?.broadcast_add(bias)
}

/// See [`super::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)
}

/// See [`super::attend()`].
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttendSpec) -> Result<Tensor> {
    let width = v.dims()[1] / spec.kv_heads * spec.heads;
    let mut parts = Vec::with_capacity(spec.q_rows.n());
    for i in (0..spec.q_rows.n()).filter(|i| spec.q_rows.len(*i) > 0) {
        let v = shared(heads_of(v, spec.k_rows, i, spec.kv_heads)?, spec)?; // [h, m, e]
        let mixed = attend_map(q, k, spec, i)?.matmul(&v)?; // [h, n, e]
        parts.push(mixed.transpose(0, 1)?.reshape((spec.q_rows.len(i), width))?);
    }
    if parts.is_empty() {
        return Tensor::zeros((0, width), v.dtype());
    }
    Tensor::cat(&parts, 0)
}

/// Map of segment `i`. Shapes: -> `[heads, n, m]`.
pub fn attend_map(q: &Tensor, k: &Tensor, spec: &AttendSpec, i: usize) -> Result<Tensor> {
    let (q, k) = (heads_of(q, spec.q_rows, i, spec.heads)?, heads_of(k, spec.k_rows, i, spec.kv_heads)?);
    let k = shared(k, spec)?;
    let mut logits = (q.matmul(&k.t()?)? * spec.scale)?; // [h, n, m]
    if let Some(bias) = spec.bias_of(i)? {
        logits = (logits + bias)?;
    }
    if let Some(mask) = spec.mask_of(i)? {
        logits = logits.broadcast_add(&mask)?;
    }
    softmax(&logits)
}

/// Every head of keys or values for each head of queries that shares it. Shapes: `[kv_heads, m, d]` -> `[heads, m, d]`.
fn shared(x: Tensor, spec: &AttendSpec) -> Result<Tensor> {
    if spec.kv_heads == spec.heads {
        return Ok(x);
    }
    let (kv_heads, m, d) = x.dims3()?;
    let all = x.unsqueeze(1)?.broadcast_as((kv_heads, spec.heads / kv_heads, m, d))?;
    all.contiguous()?.reshape((spec.heads, m, d))
}

/// Segment `i` of packed rows `[total, heads * d]` as `[heads, n, d]`.
fn heads_of(x: &Tensor, rows: &Rows, i: usize, heads: usize) -> Result<Tensor> {
    let (n, width) = (rows.len(i), x.dims()[1]);
    let one = x.narrow(0, rows.range(i).start, n)?;
    one.reshape((n, heads, width / heads))?.transpose(0, 1)?.contiguous()
}

/// See [`super::activation`].
pub fn activation(x: &Tensor, act: Activation) -> Result<Tensor> {
    Ok(match act {
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::GeluQuick => (x * ((x * -1.702)?.exp()? + 1.0)?.recip()?)?,
        Activation::Relu => x.relu()?,
        Activation::Silu => x.silu()?,
        Activation::Tanh => x.tanh()?,
    })
}

/// See [`super::softmax`].
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    let e = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}
