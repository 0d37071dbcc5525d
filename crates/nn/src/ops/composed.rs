//! The operations written with the tensor library alone: any device, and the oracle of the fused path.

use candle_core::{D, Tensor};

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
    Ok(normed.broadcast_mul(weight)?.broadcast_add(bias)?)
}

/// See [`super::rms_norm`].
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok(x.broadcast_div(&(mean_square + eps)?.sqrt()?)?.broadcast_mul(weight)?)
}

/// See [`super::attend`].
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttendSpec) -> Result<Tensor> {
    let width = v.dims()[1];
    let mut parts = Vec::with_capacity(spec.q_rows.n());
    for i in (0..spec.q_rows.n()).filter(|i| spec.q_rows.len(*i) > 0) {
        let v = heads_of(v, spec.k_rows, i, spec.heads)?; // [h, m, e]
        let mixed = attend_map(q, k, spec, i)?.matmul(&v)?; // [h, n, e]
        parts.push(mixed.transpose(0, 1)?.reshape((spec.q_rows.len(i), width))?);
    }
    if parts.is_empty() {
        return Ok(Tensor::zeros((0, width), v.dtype(), v.device())?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// Map of segment `i`. Shapes: -> `[heads, n, m]`.
pub fn attend_map(q: &Tensor, k: &Tensor, spec: &AttendSpec, i: usize) -> Result<Tensor> {
    let (q, k) = (heads_of(q, spec.q_rows, i, spec.heads)?, heads_of(k, spec.k_rows, i, spec.heads)?);
    let mut logits = (q.matmul(&k.t()?)? * spec.scale)?; // [h, n, m]
    if let Some(bias) = spec.bias_of(i, logits.device())? {
        logits = (logits + bias)?;
    }
    if let Some(mask) = spec.mask_of(i, logits.device())? {
        logits = logits.broadcast_add(&mask)?;
    }
    softmax(&logits)
}

/// Segment `i` of packed rows `[total, heads * d]` as `[heads, n, d]`.
fn heads_of(x: &Tensor, rows: &Rows, i: usize, heads: usize) -> Result<Tensor> {
    let (n, width) = (rows.len(i), x.dims()[1]);
    let one = x.narrow(0, rows.range(i).start, n)?;
    Ok(one.reshape((n, heads, width / heads))?.transpose(0, 1)?.contiguous()?)
}

/// See [`super::activation`].
pub fn activation(x: &Tensor, act: Activation) -> Result<Tensor> {
    Ok(match act {
        Activation::Gelu => x.gelu_erf()?,
        Activation::GeluTanh => x.gelu()?,
        Activation::Relu => x.relu()?,
        Activation::Silu => x.silu()?,
        Activation::Tanh => x.tanh()?,
    })
}

/// See [`super::attention`].
pub fn attention(qkv: &Tensor, rows: &Rows, heads: usize) -> Result<Tensor> {
    let dim = qkv.dims()[1] / 3;
    let mut parts = Vec::with_capacity(rows.n());
    for i in 0..rows.n() {
        let (range, n) = (rows.range(i), rows.len(i));
        if n == 0 {
            continue;
        }
        let one = qkv.narrow(0, range.start, n)?; // [n, 3 * dim]
        let v = split_heads(&one, 2, heads)?; // [h, n, d]
        let mixed = probs(&one, heads)?.matmul(&v)?; // [h, n, d]
        parts.push(mixed.transpose(0, 1)?.reshape((n, dim))?);
    }
    if parts.is_empty() {
        return Ok(qkv.narrow(1, 0, dim)?);
    }
    Ok(Tensor::cat(&parts, 0)?)
}

/// See [`super::attention_probs`].
pub fn attention_probs(qkv: &Tensor, rows: &Rows, heads: usize) -> Result<Vec<Tensor>> {
    (0..rows.n()).map(|i| probs(&qkv.narrow(0, rows.range(i).start, rows.len(i))?, heads)).collect()
}

/// Part 0, 1 or 2 (q, k, v) of `[n, 3 * dim]` as `[heads, n, head_dim]`.
fn split_heads(one: &Tensor, part: usize, heads: usize) -> Result<Tensor> {
    let (n, width) = one.dims2()?;
    let dim = width / 3;
    Ok(one.narrow(1, part * dim, dim)?.reshape((n, heads, dim / heads))?.transpose(0, 1)?.contiguous()?)
}

fn probs(one: &Tensor, heads: usize) -> Result<Tensor> {
    let (q, k) = (split_heads(one, 0, heads)?, split_heads(one, 1, heads)?);
    let scale = (q.dims()[2] as f64).powf(-0.5);
    let logits = (q.matmul(&k.t()?)? * scale)?; // [h, n, n]
    softmax(&logits)
}

/// Softmax over the last dimension.
pub fn softmax(logits: &Tensor) -> Result<Tensor> {
    let e = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}
