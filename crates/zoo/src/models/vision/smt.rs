//! SMT - convolutions of four sizes that gate, and attention where maps are small.
//!
//! Paper: "Scale-Aware Modulation Meet Transformer", arXiv 2307.08579. Code: AFeng-x/SMT; the authors' names load.
//! Idea: in the first stages a block multiplies its values by a gate made from depth-wise convolutions with kernels of
//! 3, 5, 7 and 9, one per quarter of the channels, mixed across the quarters. In stage 3 such blocks and attention take
//! turns, the last stage is attention alone.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: none known.

use switchformer_nn::attention::Scores;
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE, whole};
use switchformer_nn::init::Init;
use switchformer_nn::layers::{Activation, BatchNorm, check_heads};
use switchformer_nn::maps::{Conv, Depthwise};
use switchformer_nn::names::Names;
use switchformer_nn::ops;
use switchformer_nn::staged::State;
use switchformer_nn::{
    AttentionNames, AttentionSpec, Ctx, Error, Linear, ParamKind, Result, Rows, Size, Tensor, Weights,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{Block, BlockSpec, Downsample, Inside, Mixer, PooledHead, Pyramid, ScoreScale, Shrink, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "smt",
    paper: "Scale-Aware Modulation Meet Transformer, arXiv 2307.08579",
    summary: "pyramid of multi-kernel convolution gates and, where maps are small, attention",
    architectures: &[("SMT", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/smt.json")),
    names: Names::new(&[], &["**.num_batches_tracked"]),
    blocks: &["attn.", "mlp."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::ConvolutionalFfn],
    toy: r#"{"model_type":"smt","architectures":["SMT"],"embed_dims":[8,16,24],"depths":[1,1,2],"sa_num_heads":[1,1,3],
        "ca_num_heads":[2,4,4],"ca_attentions":[1,1,1],"mlp_ratios":[2,2,2],"head_conv":3,"img_size":32,"in_chans":1,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// The authors' factories, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "smt",
    entry: &ENTRY,
    architecture: "SMT",
    args: &[
        ("img_size", "img_size"),
        ("in_chans", "in_chans"),
        ("embed_dims", "embed_dims"),
        ("ca_num_heads", "ca_num_heads"),
        ("sa_num_heads", "sa_num_heads"),
        ("mlp_ratios", "mlp_ratios"),
        ("qkv_bias", "qkv_bias"),
        ("qk_scale", "qk_scale"),
        ("depths", "depths"),
        ("ca_attentions", "ca_attentions"),
        ("head_conv", "head_conv"),
        ("expand_ratio", "expand_ratio"),
        ("use_layerscale", "use_layerscale"),
        ("layerscale_value", "layerscale_value"),
        ("num_stages", "num_stages"),
    ],
    pool: "avg",
};

/// Epsilon of the norms of blocks and stages.
const EPS: f64 = 1e-6;
/// Epsilon of the norms behind convolutions, and of batch norms.
const CONV_EPS: f64 = 1e-5;

/// The authors' arguments, checked.
struct Config {
    stages: Stages,
    dims: Vec<usize>,
    /// Kernel sizes of a gate in each stage: 3, 5, 7, .. (0 where there is none).
    gate_heads: Vec<usize>,
    heads: Vec<usize>,
    /// Whether a stage gates; the third does in every second block only.
    gates: Vec<bool>,
    mlp_ratios: Vec<f64>,
    qkv_bias: bool,
    scale: ScoreScale,
    /// How much wider a gate is before it is mixed.
    expand: usize,
    /// What the factors of the branches start at, where there are any.
    factors: Option<f32>,
    head_conv: usize,
    channels: usize,
    image: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        c.only("head_conv", &[3.into(), 7.into()])?;
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        let _quarter = |n: usize| n.div_ceil(2) / 2;
        let stages = Stages::read(c, "depths", &[2, 2, 8, 1])?;
        let n = stages.n();
        c.only("num_stages", &[n.into()])?;
        let start = c.float("layerscale_value", 1e-4, -1e3, 1e3)? as f32;
        let config = Config {
            dims: c.stages("embed_dims", &[64, 128, 256, 512], Some(n), MAX_DIM)?,
            gate_heads: signed(c, "ca_num_heads", &[4, 4, 4, -1], n, 16)?,
            heads: signed(c, "sa_num_heads", &[-1, -1, 8, 16], n, MAX_HEADS)?,
            gates: signed(c, "ca_attentions", &[1, 1, 1, 0], n, 1)?.into_iter().map(|v| v == 1).collect(),
            mlp_ratios: c.stage_floats("mlp_ratios", &[4.0, 4.0, 4.0, 2.0], n, 0.01, 64.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            scale: ScoreScale::read(c)?,
            expand: c.size("expand_ratio", Some(2), 64)?,
            factors: c.flag("use_layerscale", false)?.then_some(start),
            head_conv: c.size("head_conv", Some(3), 7)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            stages,
        };
        for (stage, within) in config.stages.all() {
            let gate = config.gated(stage, within);
            let heads = if gate { config.gate_heads[stage] } else { config.heads[stage] };
            if heads == 0 {
                let field = if gate { "ca_num_heads" } else { "sa_num_heads" };
                return Err(Error::config(field, format!("has no heads for stage {}", stage + 1)));
            }
            check_heads(config.dims[stage], heads)?;
        }
        Ok(config)
    }

    /// Whether a block gates; else it attends.
    fn gated(&self, stage: usize, within: usize) -> bool {
        self.gates[stage] && !(stage == 2 && within % 2 == 1)
    }
}

/// One number per stage, -1 (read as 0) where a stage has no use for it.
fn signed(c: &ConfigMap, field: &str, default: &[i64], stages: usize, max: usize) -> Result<Vec<usize>> {
    let one = |v: &serde_json::Value| if *v == -1 { Some(0) } else { whole(v, 0..=max) };
    let what = format!("numbers from -1 to {max}, one for each stage");
    let list = c.list(field, stages..=stages, &what, one)?;
    let list = list.unwrap_or_else(|| default.iter().map(|n| (*n).max(0) as usize).collect());
    if list.len() == stages { Ok(list) } else { Err(Error::config(field, format!("is missing, for {stages} stages"))) }
}

/// Values times a gate that convolutions of several sizes make.
struct Modulation {
    value: Box<dyn Linear>,
    source: Box<dyn Linear>,
    convs: Vec<Depthwise>,
    /// Mixes what stands at one place of every part, `[expanded, parts]` row by row.
    mix: Tensor,
    mix_bias: Tensor,
    norm: BatchNorm,
    join: Conv,
    out: Box<dyn Linear>,
}

impl Modulation {
    fn load(c: &Config, w: &Weights, stage: usize) -> Result<Self> {
        let (dim, parts) = (c.dims[stage], c.gate_heads[stage]);
        let wide = c.expand * dim;
        let conv = |i: usize| Depthwise::load(&w.at(format!("local_conv_{}", i + 1)), dim / parts, 3 + 2 * i);
        Ok(Modulation {
            value: w.linear("v", dim, dim, c.qkv_bias)?,
            source: w.linear("s", dim, dim, c.qkv_bias)?,
            convs: (0..parts).map(conv).collect::<Result<_>>()?,
            mix: w.at("proj0").with_init(Init::FanOut(dim / parts)).conv_matrix("weight", &[wide, parts, 1, 1])?,
            mix_bias: w.at("proj0").tensor("bias", &[wide], ParamKind::Vector)?,
            norm: w.batch_norm("bn", wide, CONV_EPS)?,
            join: Conv::load(&w.at("proj1"), [dim, wide, 1], [1, 0], true)?,
            out: w.linear("proj", dim, dim, true)?,
        })
    }
}

impl Mixer for Modulation {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let parts = self.convs.len();
        let value = self.value.forward(cx, x)?;
        let source = ops::parts(&self.source.forward(cx, x)?, parts)?;
        let part = |(conv, own): (&Depthwise, &Tensor)| conv.forward(cx, own, rows);
        let seen: Vec<Tensor> = self.convs.iter().zip(&source).map(part).collect::<Result<_>>()?;
        let seen = ops::beside(&seen.iter().collect::<Vec<_>>())?;
        cx.count(rows.total() * self.mix.elem_count());
        let mixed = ops::mix_parts(&seen, &self.mix, &self.mix_bias, parts)?;
        let mixed = Activation::Gelu.forward(&self.norm.forward(cx, &mixed)?)?;
        let (gate, _) = self.join.forward(cx, &mixed, rows)?;
        self.out.forward(cx, &ops::times(&gate, &value)?)
    }
}

/// Attention over the whole map, with a convolution of the values beside it.
fn attention(c: &Config, w: &Weights, stage: usize) -> Result<Box<dyn Mixer>> {
    let (dim, heads) = (c.dims[stage], c.heads[stage]);
    Ok(w.attention(&AttentionSpec {
        bias: [c.qkv_bias; 3],
        scores: Scores::Dot(c.scale.of(dim / heads)),
        local: vec![Depthwise::load(&w.at("local_conv"), dim, 3)?],
        ..AttentionSpec::new(AttentionNames::new(["q", "kv", "kv"], "proj"), dim, heads)
    })?)
}

fn block(c: &Config, w: &Weights, stage: usize, within: usize) -> Result<Block> {
    let (dim, attn) = (c.dims[stage], w.at("attn"));
    let mixer: Box<dyn Mixer> =
        if c.gated(stage, within) { Box::new(Modulation::load(c, &attn, stage)?) } else { attention(c, &attn, stage)? };
    let hidden = (dim as f64 * c.mlp_ratios[stage]) as usize;
    let spec = BlockSpec { factors: c.factors, ..BlockSpec::of_authors(EPS, Inside::Added) };
    Block::load(w, &spec, [dim, hidden], mixer)
}

/// Pixels to the first map: a strided convolution, batch norm, ReLU, and 2x2 squares to rows.
struct Stem {
    conv: Conv,
    norm: BatchNorm,
    squares: Downsample,
}

impl Stem {
    fn load(c: &Config, w: &Weights) -> Result<Self> {
        let (dim, kernel, conv) = (c.dims[0], c.head_conv, w.at("conv"));
        Ok(Stem {
            conv: Conv::load(&conv.at(0), [dim, c.channels, kernel], [2, kernel / 2], false)?,
            norm: conv.batch_norm("1", dim, CONV_EPS)?,
            squares: Downsample {
                conv: Conv::load(&conv.at(3), [dim, dim, 2], [2, 0], true)?,
                norm: w.layer_norm("norm", dim, CONV_EPS)?,
            },
        })
    }
}

impl Shrink for Stem {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = self.conv.forward(cx, x, rows)?;
        let x = Activation::Relu.forward(&self.norm.forward(cx, &x)?)?;
        self.squares.forward(cx, &x, &rows)
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block, Stem>> {
    let config = Config::read(c)?;
    let n = config.stages.n();
    let down = |s: usize| -> Result<Downsample> {
        let w = w.at(format!("patch_embed{}", s + 1));
        let shape = [config.dims[s], config.dims[s - 1], 3];
        let norm = w.layer_norm("norm", config.dims[s], CONV_EPS)?;
        Ok(Downsample { conv: Conv::load(&w.at("proj"), shape, [2, 1], true)?, norm })
    };
    let one = |(s, i): (usize, usize)| block(&config, &w.at(format!("block{}", s + 1)).at(i), s, i);
    let norm = |s: usize| w.layer_norm(&format!("norm{}", s + 1), config.dims[s], EPS).map(Some);
    Ok(Pyramid {
        stem: Stem::load(&config, &w.at("patch_embed1"))?,
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().map(one).collect::<Result<_>>()?,
        norms: (0..n).map(norm).collect::<Result<_>>()?,
        head: PooledHead::load(c, w, Some("head"), config.dims[n - 1])?,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
        patch: 4,
    })
}
