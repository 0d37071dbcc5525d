//! EcoFormer on PVT v2 - attention over binary codes, linear in the number of rows.
//!
//! Paper: "EcoFormer: Energy-Saving Attention with Linear Complexity", arXiv 2209.09004. Code: ziplab/EcoFormer (pvt).
//! Weights: the releases there; the authors' names load, folders are written in those of PVT v2.
//! Idea: queries and keys are one projection. A hash that was fitted to the similarities of the trained model turns every
//! row into 16 signs per head: kernels around 25 anchors, minus their mean, times a matrix. The product of two codes plus
//! 17 is the weight of a pair, always positive, so sums over keys come first and no pair is ever formed. The last stage
//! attends as usual, without the reduced map of PVT v2.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: the hash is read from the file; `compress hash-attention` fits it, training does not.
//! As there, the constant part of a weight counts the row's own value and not the sum of all (`own_value`, true unless the
//! config says otherwise). `attn_type` names the controls as the authors do: `msa` (softmax) and `performer` (positive
//! random features, arXiv 2009.14794), whose keys are scaled by the largest of their own image and not of the batch.

use switchformer_nn::attention::Scores;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::Init;
use switchformer_nn::names::Names;
use switchformer_nn::weights::LinearSpec;
use switchformer_nn::{AttentionNames, AttentionSpec, Ctx, Error, Linear, Result, Rows, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::models::vision::pvt_v2::{Config, RULES, build};
use crate::published::Published;
use crate::pyramid::{Block, Mixer, PooledHead, Pyramid, ScoreScale};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "ecoformer_pvt_v2",
    paper: "EcoFormer: Energy-Saving Attention with Linear Complexity, arXiv 2209.09004",
    summary: "PVT v2 with attention over binary codes, linear in the number of rows",
    architectures: &[("EcoFormerPvtV2", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/ecoformer_pvt_v2.json")),
    names: Names::new(RULES, &[]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::ConvolutionalFfn, Trait::Signs],
    toy: r#"{"model_type":"ecoformer_pvt_v2","architectures":["EcoFormerPvtV2"],"hidden_sizes":[16,32],"depths":[1,2],
        "num_attention_heads":[2,4],"sr_ratios":[2,1],"mlp_ratios":[2,2],"patch_sizes":[3,3],"strides":[2,2],
        "nbits":8,"m":6,"image_size":32,"num_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// The authors' factories, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "ecoformer_pvt_v2",
    entry: &ENTRY,
    architecture: "EcoFormerPvtV2",
    args: &[
        ("img_size", "image_size"),
        // Without effect in the authors' code.
        ("patch_size", "patch_size"),
        ("in_chans", "num_channels"),
        ("depths", "depths"),
        ("embed_dims", "hidden_sizes"),
        ("num_heads", "num_attention_heads"),
        ("mlp_ratios", "mlp_ratios"),
        ("sr_ratios", "sr_ratios"),
        ("qkv_bias", "qkv_bias"),
        // Of softmax attention; codes and random features have none.
        ("qk_scale", "qk_scale"),
        ("num_stages", "num_encoder_blocks"),
        ("linear", "linear_attention"),
        ("attn_type", "attn_type"),
        ("nbits", "nbits"),
        ("m", "m"),
    ],
    pool: "avg",
};

/// Attention of each map on its own, from projections that lie side by side; neighbours of one size go together.
/// Shapes: x `[total, parts * dim]` -> `[total, dim]`; `mix` gets each part as `[maps, heads, n, head_dim]` and gives as
/// much.
fn by_member(
    x: &Tensor,
    rows: &Rows,
    [heads, dim]: [usize; 2],
    mix: impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Tensor> {
    let (lens, parts) = (rows.lens(), x.dims()[1] / dim);
    let mut all = Vec::new();
    let mut from = 0;
    for run in lens.chunk_by(|a, b| a == b) {
        let (m, n) = (run.len(), run[0]);
        if n > 0 {
            let own = if m * n == rows.total() { x.clone() } else { x.narrow(0, from, m * n)? };
            let own = own.reshape(&[m, n, parts, heads, dim / heads][..])?.permute([2, 0, 3, 1, 4])?.contiguous()?;
            let parts = (0..parts).map(|k| own.get(k)).collect::<Result<Vec<_>>>()?;
            all.push(mix(&parts)?.transpose(1, 2)?.contiguous()?.reshape((m * n, dim))?);
        }
        from += m * n;
    }
    Ok(match all.len() {
        0 => x.narrow(1, 0, dim)?,
        1 => all.swap_remove(0),
        _ => Tensor::cat(&all, 0)?,
    })
}

/// Values under the weights `q k`, and the sum of each row's weights, without forming a pair.
/// Shapes: q, k `[maps, heads, n, features]`, v `[maps, heads, n, d]` -> `[maps, heads, n, d]`, `[maps, heads, n, 1]`.
fn sums(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
    let context = k.t()?.contiguous()?.matmul(v)?; // [maps, heads, features, d]
    let below = q.matmul(&k.sum_keepdim(2)?.t()?.contiguous()?)?;
    Ok((q.matmul(&context)?, below))
}

/// Attention over codes.
struct HashAttention {
    /// What is hashed, and values.
    qk_v: Box<dyn Linear>,
    out: Box<dyn Linear>,
    /// `[heads, anchors, head_dim]`.
    anchors: Tensor,
    /// Mean of every kernel, `[heads, 1, anchors]`.
    means: Tensor,
    /// `[heads, bits, anchors]`.
    matrix: Tensor,
    heads: usize,
    own_value: bool,
}

impl HashAttention {
    fn load(w: &Weights, shape: &Shape, [bits, anchors]: [usize; 2], own_value: bool) -> Result<Self> {
        let Shape { dim, heads, bias, .. } = *shape;
        let (own, hash) = (dim / heads, w.at("fast_attention.ksh"));
        // A hash that nothing was fitted to: anchors among the unit rows, and the kernel of a row at the mean distance.
        let start = |deviation: f32| hash.with_init(Init::Normal(deviation));
        let mean = hash.with_init(Init::Constant((-0.5f32).exp()));
        let parts = LinearSpec { parts: &["to_qk", "to_v"], fused: None, in_dim: dim, out_dim: dim, bias };
        Ok(HashAttention {
            qk_v: w.linear_of(&parts)?,
            out: w.linear("proj", dim, dim, true)?,
            anchors: start(1.0 / (own as f32).sqrt()).buffer("anchor", &[1, heads, anchors, own])?.squeeze(0)?,
            means: mean.buffer("mvec", &[1, heads, 1, anchors])?.squeeze(0)?,
            matrix: start(1.0).buffer("A", &[heads, bits, anchors])?,
            heads,
            own_value,
        })
    }

    /// Signs of every row; their gradient is that of a value cut to -1..1.
    /// Shapes: x `[maps, heads, n, head_dim]` -> `[maps, heads, n, bits]`.
    fn codes(&self, x: &Tensor) -> Result<Tensor> {
        let unit = x.broadcast_div(&x.sqr()?.sum_keepdim(3)?.sqrt()?)?;
        // Squared distances to the anchors, [maps, heads, n, anchors].
        let along = unit.broadcast_matmul(&self.anchors.t()?.contiguous()?)?;
        let anchors = self.anchors.sqr()?.sum_keepdim(2)?.t()?.contiguous()?;
        let apart = (unit.sqr()?.sum_keepdim(3)?.broadcast_add(&anchors)? - (along * 2.0)?)?;
        let width = (apart.mean_keepdim(3)?.mean_keepdim(2)? * -2.0)?;
        let kernels = apart.broadcast_div(&width)?.exp()?.broadcast_sub(&self.means)?;
        let y = kernels.broadcast_matmul(&self.matrix.t()?.contiguous()?)?;
        let sign = (y.gt(0.0)?.to_dtype(y.dtype())? - y.lt(0.0)?.to_dtype(y.dtype())?)?;
        let inside = y.abs()?.lt(1.0)?.to_dtype(y.dtype())?.detach();
        let slope = (&y * inside)?;
        &slope + (sign - &slope)?.detach()
    }

    /// Counts hash and sums for `rows` rows. Products with a code are additions; a distance subtracts before it squares, codes
    /// are summed over rows, and the constant part of the weights is added to every row.
    fn count(&self, cx: &mut Ctx, rows: usize) {
        let (dim, [heads, anchors, bits]) = (self.out.dims().0, self.sizes());
        cx.count(rows * (anchors * dim + heads * anchors * bits));
        cx.count_additions(rows * (2 * bits * dim + heads * bits), rows * (anchors * dim + heads * bits + dim));
    }

    /// Heads, anchors, bits.
    fn sizes(&self) -> [usize; 3] {
        let d = self.matrix.dims();
        [d[0], d[2], d[1]]
    }
}

impl Mixer for HashAttention {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let dim = self.out.dims().0;
        let always = (self.sizes()[2] + 1) as f64;
        let qk_v = self.qk_v.forward(cx, x)?; // [total, 2 * dim]
        let hashed = format!("{}.attn.qk", cx.site);
        if cx.taps.wants(&hashed) {
            cx.taps.put(&hashed, &qk_v.narrow(1, 0, dim)?.contiguous()?);
        }
        self.count(cx, rows.total());
        let mixed = by_member(&qk_v, rows, [self.heads, dim], |parts| {
            let (codes, v) = (self.codes(&parts[0])?, &parts[1]);
            let (above, below) = sums(&codes, &codes, v)?;
            let constant = if self.own_value { v.clone() } else { v.sum_keepdim(2)? };
            let below = (below + v.dims()[2] as f64 * always)?;
            above.broadcast_add(&(constant * always)?)?.broadcast_div(&below)
        })?;
        self.out.forward(cx, &mixed)
    }
}

/// Attention by positive random features: softmax in the mean over draws of the matrix, linear in the number of rows.
struct Performer {
    qkv: Box<dyn Linear>,
    out: Box<dyn Linear>,
    /// `[features, head_dim]`.
    matrix: Tensor,
    heads: usize,
}

impl Performer {
    fn load(w: &Weights, shape: &Shape) -> Result<Self> {
        let Shape { dim, heads, .. } = *shape;
        let own = dim / heads;
        let features = ((own as f64 * (own as f64).ln()) as usize).max(1);
        let draw = w.at("fast_attention").with_init(Init::Orthogonal);
        Ok(Performer {
            qkv: fused(w, shape)?,
            out: w.linear("proj", dim, dim, true)?,
            matrix: draw.buffer("projection_matrix", &[features, own])?,
            heads,
        })
    }

    /// Features of rows whose logarithms are at most zero: less the largest of a row (queries), or of all (keys).
    /// Shapes: x `[maps, heads, n, head_dim]` -> `[maps, heads, n, features]`.
    fn features(&self, x: &Tensor, by_row: bool) -> Result<Tensor> {
        let (n, d) = (self.matrix.dims()[0] as f64, x.dims()[3] as f64);
        let x = (x * d.powf(-0.25))?;
        let along = x.broadcast_matmul(&self.matrix.t()?.contiguous()?)?;
        let own = (x.sqr()?.sum_keepdim(3)? / 2.0)?;
        let top = along.max_keepdim(3)?;
        let top = if by_row { top } else { top.max_keepdim(2)?.max_keepdim(1)? };
        let all = along.broadcast_sub(&own)?.broadcast_sub(&top.detach())?.exp()?;
        (all + FEATURE_EPS)? * n.powf(-0.5)
    }

    fn macs(&self, rows: usize) -> usize {
        rows * self.matrix.dims()[0] * (4 * self.out.dims().0 + self.heads)
    }
}

/// Added to every feature, so that no weight is zero.
const FEATURE_EPS: f64 = 1e-4;

impl Mixer for Performer {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let qkv = self.qkv.forward(cx, x)?;
        cx.count(self.macs(rows.total()));
        let mixed = by_member(&qkv, rows, [self.heads, self.out.dims().0], |parts| {
            let (q, k) = (self.features(&parts[0], true)?, self.features(&parts[1], false)?);
            let (above, below) = sums(&q, &k, &parts[2])?;
            above.broadcast_div(&below)
        })?;
        self.out.forward(cx, &mixed)
    }
}

/// Queries, keys and values in one projection.
fn fused(w: &Weights, shape: &Shape) -> Result<Box<dyn Linear>> {
    let (dim, bias) = (shape.dim, shape.bias);
    w.linear_of(&LinearSpec { parts: &["qkv"], fused: None, in_dim: dim, out_dim: 3 * dim, bias })
}

/// Width, heads and biases of an attention.
pub(super) struct Shape {
    pub(super) dim: usize,
    pub(super) heads: usize,
    /// Whether the projections of queries, keys and values have biases.
    pub(super) bias: bool,
    /// Factor of the scores of softmax attention.
    pub(super) scale: ScoreScale,
}

/// The attention that stands in a host in place of its own, as `attn_type` names it.
pub(super) struct Kinds {
    kind: String,
    hash: [usize; 2],
    own_value: bool,
}

impl Kinds {
    /// Reads `attn_type`, codes where absent, and the sizes of the hash.
    pub(super) fn read(c: &ConfigMap) -> Result<Kinds> {
        let kind = c.text("attn_type", "ecoformer")?;
        if !["ecoformer", "performer", "msa"].contains(&kind.as_str()) {
            return Err(Error::unsupported("attn_type", kind, "ecoformer, performer, msa"));
        }
        let hash = [c.size("nbits", Some(16), 256)?, c.size("m", Some(25), 4096)?];
        Ok(Kinds { kind, hash, own_value: c.flag("own_value", true)? })
    }

    /// Loads it from the path of an attention; `whole` is attention of all rows to all rows, whatever the name.
    pub(super) fn load(&self, w: &Weights, shape: &Shape, whole: bool) -> Result<Box<dyn Mixer>> {
        Ok(match self.kind.as_str() {
            "ecoformer" if !whole => {
                // Left over from the other kind of attention.
                w.skip("fast_attention.projection_matrix");
                Box::new(HashAttention::load(w, shape, self.hash, self.own_value)?)
            }
            "performer" if !whole => Box::new(Performer::load(w, shape)?),
            _ => w.attention(&AttentionSpec {
                bias: [shape.bias; 3],
                scores: Scores::Dot(shape.scale.of(shape.dim / shape.heads)),
                ..AttentionSpec::new(AttentionNames::new(["qkv"; 3], "proj"), shape.dim, shape.heads)
            })?,
        })
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block>> {
    c.only("linear_attention", &[false.into()])?;
    let (config, kinds) = (Config::read(c)?, Kinds::read(c)?);
    let last = config.stages.n() - 1;
    let head = PooledHead::load(c, w, Some("classifier"), config.dims[last])?;
    build(config, w, head, |config, w, stage| {
        let (dim, heads) = (config.dims[stage], config.heads[stage]);
        let shape = Shape { dim, heads, bias: config.qkv_bias, scale: config.scale };
        kinds.load(w, &shape, stage == last)
    })
}
