//! Layers that several models share: norm, table, activation, feed-forward, encoder block.

use switchformer_tensor::Tensor;

use crate::attention::{AttentionNames, AttentionSpec};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::init::Init;
use crate::leaf::{Attention, Ffn, Linear, PlainMlp};
use crate::ops;
use crate::ops::Epilogue;
use crate::rows::Rows;
use crate::weights::{FfnSpec, ParamKind, Weights};

pub mod attention;
mod batch_norm;
pub mod leaf;

pub use crate::ops::{Activation, GateSide};
pub use batch_norm::BatchNorm;

/// Layer norm over the last dimension with weight and bias.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl LayerNorm {
    /// Shapes: weight and bias `[dim]`.
    pub fn new(weight: Tensor, bias: Tensor, eps: f64) -> Self {
        LayerNorm { weight, bias, eps }
    }

    /// Shapes: x `[rows, dim]` -> `[rows, dim]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

/// Root-mean-square norm over the last dimension with a weight.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f64,
}

impl RmsNorm {
    /// Shapes: weight `[dim]`.
    pub fn new(weight: Tensor, eps: f64) -> Self {
        RmsNorm { weight, eps }
    }

    /// Shapes: x `[rows, dim]` -> `[rows, dim]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps)
    }
}

/// A table of vectors looked up by id.
#[derive(Clone, Debug)]
pub struct Embedding {
    at: String,
    table: Tensor,
}

impl Embedding {
    /// Shapes: table `[n, dim]`.
    pub fn new(at: String, table: Tensor) -> Self {
        Embedding { at, table }
    }

    /// Shapes: ids `[rows]` -> `[rows, dim]`. Errors when an id is outside the table.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let n = self.table.dims()[0];
        if let Some(bad) = ids.iter().find(|id| **id as usize >= n) {
            return Err(Error::input(
                format!("id {bad} is outside {} ({n} entries)", self.at),
                "use the tokenizer of this checkpoint and shorten long input",
            ));
        }
        match self.table.fetched_rows(ids)? {
            Some(rows) => Ok(rows),
            None => ops::gather(&self.table, &Tensor::from_slice(ids, ids.len())?),
        }
    }

    /// The table `[n, dim]`.
    pub fn table(&self) -> &Tensor {
        &self.table
    }
}

/// `fc2(act(fc1(x)))`.
pub struct Mlp {
    fc1: Box<dyn Linear>,
    act: Activation,
    fc2: Box<dyn Linear>,
}

impl Mlp {
    /// Two projections with an activation between.
    pub fn new(fc1: Box<dyn Linear>, act: Activation, fc2: Box<dyn Linear>) -> Self {
        Mlp { fc1, act, fc2 }
    }

    /// Shapes: x `[rows, dim]` -> `[rows, mlp_dim]`.
    fn hidden(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        self.fc1.forward_with(cx, x, &Epilogue { act: Some(self.act), ..Epilogue::default() })
    }
}

impl Ffn for Mlp {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, _: &Rows) -> Result<Tensor> {
        let hidden = self.hidden(cx, x)?;
        self.fc2.forward(cx, &hidden)
    }
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, _: &Rows, residual: &Tensor) -> Result<Tensor> {
        let hidden = self.hidden(cx, x)?;
        project_onto(cx, self.fc2.as_ref(), &hidden, residual, "ffn")
    }
    fn plain(&self) -> Option<PlainMlp<'_>> {
        Some(PlainMlp { inner: self.fc1.plain()?, act: self.act, gate: None, outer: self.fc2.plain()? })
    }
}

/// `out(act(gate(x)) * value(x))`, gate and value as one projection.
pub struct GatedMlp {
    both: Box<dyn Linear>,
    act: Activation,
    gate: GateSide,
    out: Box<dyn Linear>,
}

impl GatedMlp {
    /// Shapes: both `[2 * hidden, dim]`, of which `gate` tells the parts, out `[dim, hidden]`.
    pub fn new(both: Box<dyn Linear>, act: Activation, gate: GateSide, out: Box<dyn Linear>) -> Self {
        GatedMlp { both, act, gate, out }
    }
}

impl Ffn for GatedMlp {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, _: &Rows) -> Result<Tensor> {
        let both = self.both.forward(cx, x)?; // [rows, 2 * hidden]
        self.out.forward(cx, &self.act.gate(&both, self.gate)?)
    }
    fn plain(&self) -> Option<PlainMlp<'_>> {
        Some(PlainMlp { inner: self.both.plain()?, act: self.act, gate: Some(self.gate), outer: self.out.plain()? })
    }
}

/// The dense form of a feed-forward network: plain where there is one inner projection, gated where there are two.
pub fn dense_ffn(w: &Weights, s: &FfnSpec) -> Result<Box<dyn Ffn>> {
    let (inner, outer) = (w.linear_of(&s.stored())?, w.linear_of(&s.back())?);
    Ok(if s.inner.len() == 2 {
        Box::new(GatedMlp::new(inner, s.act, s.gate, outer))
    } else {
        Box::new(Mlp::new(inner, s.act, outer))
    })
}

/// A sublayer's last projection on its residual, as one product; in training, places of its answer drop out.
/// Shapes: x `[rows, in]`, residual `[rows, out]` -> `[rows, out]`.
pub fn project_onto(cx: &mut Ctx, out: &dyn Linear, x: &Tensor, residual: &Tensor, place: &str) -> Result<Tensor> {
    if cx.drops_here() {
        let y = out.forward(cx, x)?;
        return cx.onto(residual, y, place);
    }
    out.forward_with(cx, x, &Epilogue { residual: Some(residual), ..Epilogue::default() })
}

/// Heads must divide the width.
pub fn check_heads(dim: usize, heads: usize) -> Result<()> {
    if dim.is_multiple_of(heads) {
        return Ok(());
    }
    Err(Error::config("num_attention_heads", format!("is {heads}, which does not divide the width {dim}")))
}

/// Learned factors per channel of the branches of a block, where it has any.
#[derive(Clone, Debug, Default)]
pub struct LayerScale(Option<Vec<Tensor>>);

impl LayerScale {
    /// Factors of these names, stored in `shape`, that start at `start`; none where that is absent.
    pub fn load(w: &Weights, names: &[&str], shape: &[usize], start: Option<f32>) -> Result<Self> {
        let Some(start) = start else { return Ok(LayerScale(None)) };
        let w = w.with_init(Init::Constant(start));
        let one = |name: &str| -> Result<Tensor> { w.tensor(name, shape, ParamKind::Vector)?.reshape((1, ())) };
        names.iter().map(|name| one(name)).collect::<Result<_>>().map(|all| LayerScale(Some(all)))
    }

    /// Whether there are no factors.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// A branch times its factors. Shapes: x `[total, dim]` -> the same.
    pub fn scaled(&self, branch: usize, x: Tensor) -> Result<Tensor> {
        match &self.0 {
            Some(factors) => ops::scale_columns(&x, &factors[branch]),
            None => Ok(x),
        }
    }
}

/// A Transformer encoder block, norm first (ViT) or norm last (BERT).
pub struct EncoderBlock {
    norm_first: bool,
    attn: Box<dyn Attention>,
    norm1: LayerNorm,
    ffn: Box<dyn Ffn>,
    norm2: LayerNorm,
    scale: LayerScale,
}

/// Sizes and published names of an encoder block.
#[derive(Clone, Copy, Debug)]
pub struct BlockSpec<'a> {
    /// Width of the residual stream.
    pub dim: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward.
    pub mlp_dim: usize,
    /// Activation of the feed-forward.
    pub act: Activation,
    /// Epsilon of both norms.
    pub eps: f64,
    /// Whether query, key and value have biases.
    pub qkv_bias: bool,
    /// Whether norms come before (ViT) or after (BERT) the residual branch.
    pub norm_first: bool,
    /// Projections of the attention.
    pub attention: AttentionNames,
    /// Norm of the attention branch.
    pub norm1: &'a str,
    /// Norm of the feed-forward branch.
    pub norm2: &'a str,
    /// Feed-forward projections.
    pub fc: [&'a str; 2],
}

impl BlockSpec<'_> {
    /// The plain attention of the block, for families to build on.
    pub fn attention_spec(&self) -> AttentionSpec {
        AttentionSpec { bias: [self.qkv_bias; 3], ..AttentionSpec::new(self.attention, self.dim, self.heads) }
    }

    /// The plain feed-forward of the block.
    pub fn ffn_spec(&self) -> FfnSpec<'_> {
        FfnSpec::new(&self.fc[..1], self.fc[1], [self.dim, self.mlp_dim], self.act)
    }
}

impl EncoderBlock {
    /// Loads a block with plain attention from the path of `w`.
    pub fn load(w: &Weights, s: &BlockSpec) -> Result<Self> {
        EncoderBlock::load_around(w, s, &s.attention_spec())
    }

    /// Loads a block around another attention, made from [`BlockSpec::attention_spec`].
    pub fn load_around(w: &Weights, s: &BlockSpec, attention: &AttentionSpec) -> Result<Self> {
        EncoderBlock::load_parts(w, s, w.attention(attention)?, |w| w.ffn(&s.ffn_spec()))
    }

    /// Loads a block around another attention and another feed-forward.
    pub fn load_parts(
        w: &Weights,
        s: &BlockSpec,
        attn: Box<dyn Attention>,
        ffn: impl FnOnce(&Weights) -> Result<Box<dyn Ffn>>,
    ) -> Result<Self> {
        Ok(EncoderBlock {
            norm_first: s.norm_first,
            attn,
            norm1: w.layer_norm(s.norm1, s.dim, s.eps)?,
            ffn: ffn(w)?,
            norm2: w.layer_norm(s.norm2, s.dim, s.eps)?,
            scale: LayerScale::default(),
        })
    }

    /// The block with factors on both branches.
    pub fn with_scale(self, scale: LayerScale) -> Self {
        EncoderBlock { scale, ..self }
    }

    /// The attention of rows, on a residual.
    fn mix(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        if self.scale.is_none() {
            return self.attn.forward_onto(cx, x, rows, residual);
        }
        let mixed = self.attn.forward(cx, x, rows)?;
        cx.onto(residual, self.scale.scaled(0, mixed)?, "attn")
    }

    /// The feed-forward of rows, on a residual.
    fn feed(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        if self.scale.is_none() {
            return self.ffn.forward_onto(cx, x, rows, residual);
        }
        let fed = self.ffn.forward(cx, x, rows)?;
        cx.onto(residual, self.scale.scaled(1, fed)?, "ffn")
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    pub fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        if self.norm_first {
            let x = self.mix(cx, &self.norm1.forward(x)?, rows, x)?;
            self.feed(cx, &self.norm2.forward(&x)?, rows, &x)
        } else {
            let x = self.norm1.forward(&self.mix(cx, x, rows, x)?)?;
            self.norm2.forward(&self.feed(cx, &x, rows, &x)?)
        }
    }
}
