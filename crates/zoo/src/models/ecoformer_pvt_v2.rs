//! EcoFormer on PVT v2 - attention over binary codes, linear in the number of rows.
//!
//! Paper: "EcoFormer: Energy-Saving Attention with Linear Complexity", arXiv 2209.09004. Code: ziplab/EcoFormer (pvt).
//! Weights: the releases there; the authors' names load, folders are written in those of PVT v2.
//! Idea: queries and keys are one projection. A hash that was fitted to the similarities of the trained model turns every
//! row into 16 signs per head: kernels around 25 anchors, minus their mean, times a matrix. The product of two codes plus
//! 17 is the weight of a pair, always positive, so sums over keys come first and no pair is ever formed. The last stage
//! attends as usual, without the reduced map of PVT v2.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: the hash is read from the file and never fitted. As there, the constant part of a weight
//! counts the row's own value and not the sum of all (`own_value`, true unless the config says otherwise).

use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::Draw;
use switchformer_nn::names::Names;
use switchformer_nn::weights::LinearSpec;
use switchformer_nn::{Ctx, LeafCost, Linear, Point, Result, Rows, Size, Tensor, Weights, ops};

use crate::entry::{Entry, Variant};
use crate::models::pvt_v2::{Config, RULES, build};
use crate::pyramid::{Block, Mixer, PooledHead, Pyramid, rows_in};
use crate::timm::Timm;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "ecoformer_pvt_v2",
    paper: "EcoFormer: Energy-Saving Attention with Linear Complexity, arXiv 2209.09004",
    summary: "PVT v2 with attention over binary codes, linear in the number of rows",
    architectures: &["EcoFormerPvtV2"],
    variants: VARIANTS,
    // Left over from another kind of attention.
    names: Names { rules: RULES, ignore: &["**.fast_attention.projection_matrix"] },
    blocks: "blocks.",
    prefix: "",
    heads: &[],
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
    fixed: r#"{"reduced_eps":1e-5}"#,
    args: &[
        ("img_size", "image_size"),
        ("in_chans", "num_channels"),
        ("depths", "depths"),
        ("embed_dims", "hidden_sizes"),
        ("num_heads", "num_attention_heads"),
        ("mlp_ratios", "mlp_ratios"),
        ("sr_ratios", "sr_ratios"),
        ("qkv_bias", "qkv_bias"),
        ("linear", "linear_attention"),
        ("nbits", "nbits"),
        ("m", "m"),
    ],
    pool: "avg",
};

const VARIANTS: &[Variant] = &[
    variant("ecoformer-pvt-v2-b0", 3_136_328, r#"{"hidden_sizes":[32,64,160,256],"num_labels":1000}"#),
    variant("ecoformer-pvt-v2-b1", 11_891_368, r#"{"hidden_sizes":[64,128,320,512],"num_labels":1000}"#),
    variant(
        "ecoformer-pvt-v2-b2",
        20_367_528,
        r#"{"hidden_sizes":[64,128,320,512],"depths":[3,4,6,3],"num_labels":1000}"#,
    ),
    variant(
        "ecoformer-pvt-v2-b3",
        34_084_008,
        r#"{"hidden_sizes":[64,128,320,512],"depths":[3,4,18,3],"num_labels":1000}"#,
    ),
    variant(
        "ecoformer-pvt-v2-b4",
        45_665_704,
        r#"{"hidden_sizes":[64,128,320,512],"depths":[3,8,27,3],"num_labels":1000}"#,
    ),
];

const fn variant(name: &'static str, params: u64, config: &'static str) -> Variant {
    Variant { name, architecture: "EcoFormerPvtV2", config, params }
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
    /// `[heads, anchors, bits]`.
    matrix: Tensor,
    heads: usize,
    own_value: bool,
}

impl HashAttention {
    fn load(c: &Config, w: &Weights, stage: usize, [bits, anchors]: [usize; 2], own_value: bool) -> Result<Self> {
        let (dim, heads) = (c.dims[stage], c.heads[stage]);
        let (own, hash) = (dim / heads, w.at("fast_attention.ksh"));
        // A hash that nothing was fitted to: anchors among the unit rows, and the kernel of a row at the mean distance.
        let start = |deviation: f32| hash.drawn(Draw::Normal(deviation));
        let mean = hash.drawn(Draw::Constant((-0.5f32).exp()));
        let parts = LinearSpec { parts: &["to_qk", "to_v"], fused: None, in_dim: dim, out_dim: dim, bias: c.qkv_bias };
        Ok(HashAttention {
            qk_v: w.linear_of(&parts)?,
            out: w.linear("proj", dim, dim, true)?,
            anchors: start(1.0 / (own as f32).sqrt()).buffer("anchor", &[1, heads, anchors, own])?.squeeze(0)?,
            means: mean.buffer("mvec", &[1, heads, 1, anchors])?.squeeze(0)?,
            matrix: start(1.0).buffer("A", &[heads, bits, anchors])?.transpose(1, 2)?.contiguous()?,
            heads,
            own_value,
        })
    }

    /// Signs of every row of one map; their gradient is that of a value cut to -1..1.
    /// Shapes: x `[heads, n, head_dim]` -> `[heads, n, bits]`.
    fn codes(&self, x: &Tensor) -> Result<Tensor> {
        let unit = x.broadcast_div(&x.sqr()?.sum_keepdim(2)?.sqrt()?)?;
        let apart = unit.unsqueeze(2)?.broadcast_sub(&self.anchors.unsqueeze(1)?)?.sqr()?.sum(3)?; // [h, n, anchors]
        let width = (apart.mean_keepdim(2)?.mean_keepdim(1)? * -2.0)?;
        let kernels = apart.broadcast_div(&width)?.exp()?.broadcast_sub(&self.means)?;
        let y = kernels.contiguous()?.matmul(&self.matrix)?;
        let sign = (y.gt(0.0)?.to_dtype(y.dtype())? - y.lt(0.0)?.to_dtype(y.dtype())?)?;
        let inside = y.abs()?.lt(1.0)?.to_dtype(y.dtype())?.detach();
        let slope = (&y * inside)?;
        Ok((&slope + (sign - &slope)?.detach())?)
    }

    /// Multiply-adds of hash and sums for `rows` rows.
    fn macs(&self, rows: usize) -> usize {
        let (dim, [heads, anchors, bits]) = (self.out.dims().0, self.sizes());
        rows * (anchors * dim + heads * anchors * bits + 2 * bits * dim + heads * bits)
    }

    /// Heads, anchors, bits.
    fn sizes(&self) -> [usize; 3] {
        let d = self.matrix.dims();
        [d[0], d[1], d[2]]
    }
}

impl Mixer for HashAttention {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let dim = self.out.dims().0;
        let always = (self.sizes()[2] + 1) as f64;
        let qk_v = self.qk_v.forward(cx, x)?; // [total, 2 * dim]
        cx.count(self.macs(rows.total()));
        let mut parts = Vec::with_capacity(rows.n());
        for i in (0..rows.n()).filter(|i| rows.len(*i) > 0) {
            let n = rows.len(i);
            let part = |k: usize| -> Result<Tensor> {
                let one = qk_v.narrow(0, rows.range(i).start, n)?.narrow(1, k * dim, dim)?;
                Ok(one.reshape((n, self.heads, dim / self.heads))?.transpose(0, 1)?.contiguous()?)
            };
            let (codes, v) = (self.codes(&part(0)?)?, part(1)?);
            let context = codes.t()?.contiguous()?.matmul(&v)?; // [h, bits, d]
            let constant = if self.own_value { v } else { v.sum_keepdim(1)? };
            let above = codes.matmul(&context)?.broadcast_add(&(constant * always)?)?;
            let below = (codes.broadcast_mul(&codes.sum_keepdim(1)?)?.sum_keepdim(2)? + n as f64 * always)?;
            let mixed = above.broadcast_div(&below)?; // [h, n, d]
            parts.push(mixed.transpose(0, 1)?.contiguous()?.reshape((n, dim))?);
        }
        let mixed = if parts.is_empty() { x.clone() } else { Tensor::cat(&parts, 0)? };
        self.out.forward(cx, &mixed)
    }

    fn cost(&self, point: &Point, sizes: &[Size]) -> LeafCost {
        let rows = rows_in(sizes);
        self.qk_v.cost(point, rows) + self.out.cost(point, rows) + LeafCost { macs: self.macs(rows) as u64, bytes: 0 }
    }
}

/// Attention of all rows to all rows, in the last stage.
struct FullAttention {
    qkv: Box<dyn Linear>,
    out: Box<dyn Linear>,
    heads: usize,
}

impl Mixer for FullAttention {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let qkv = self.qkv.forward(cx, x)?;
        cx.count(rows.lens().iter().map(|n| 2 * n * n * self.out.dims().0).sum());
        self.out.forward(cx, &ops::attention(&qkv, rows, self.heads)?)
    }

    fn cost(&self, point: &Point, sizes: &[Size]) -> LeafCost {
        let rows = rows_in(sizes);
        let macs: usize = sizes.iter().map(|(h, w)| 2 * h * w * h * w * self.out.dims().0).sum();
        self.qkv.cost(point, rows) + self.out.cost(point, rows) + LeafCost { macs: macs as u64, bytes: 0 }
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block>> {
    c.only("linear_attention", &[false.into()])?;
    let config = Config::read(c)?;
    let hash = [c.size("nbits", Some(16), 256)?, c.size("m", Some(25), 4096)?];
    let own_value = c.flag("own_value", true)?;
    let last = config.stages.n() - 1;
    let head = PooledHead::load(c, w, Some("classifier"), config.dims[last])?;
    build(config, w, head, |config, w, stage| {
        if stage < last {
            return Ok(Box::new(HashAttention::load(config, w, stage, hash, own_value)?));
        }
        let dim = config.dims[stage];
        Ok(Box::new(FullAttention {
            qkv: w.linear_of(&LinearSpec {
                parts: &["qkv"],
                fused: None,
                in_dim: dim,
                out_dim: 3 * dim,
                bias: config.qkv_bias,
            })?,
            out: w.linear("proj", dim, dim, true)?,
            heads: config.heads[stage],
        }))
    })
}
