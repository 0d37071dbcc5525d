//! The operations written with the tensor library alone: any device, and the oracle of the fused path.

use candle_core::{D, Tensor};

use crate::error::Result;
use crate::layers::Activation;
use crate::rows::Rows;

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
    let e = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(e.broadcast_div(&e.sum_keepdim(D::Minus1)?)?)
}
