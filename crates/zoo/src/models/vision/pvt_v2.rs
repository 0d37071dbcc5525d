//! PVT v2 - a pyramid whose queries look at a reduced map.
//!
//! Paper: "PVT v2: Improved Baselines with Pyramid Vision Transformer", arXiv 2106.13797. Code: whai362/PVT.
//! Weights: OpenGVLab/pvt_v2_b0 and kin; timm `pvt_v2_*` folders and the authors' names load too.
//! Idea: overlapping patches make the maps, attention is global but keys and values come from a map that a strided
//! convolution (or, in the linear variant, a 7x7 mean) made small, and a 3x3 depth-wise convolution inside the
//! feed-forward knows the place, so there are no positions.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: none known. timm and transformers differ in the epsilon of some norms (`reduced_eps`).

use std::sync::Arc;

use switchformer_nn::attention::Scores;
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::layers::{Activation, check_heads};
use switchformer_nn::maps::{Conv, mean_cells};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::{AttentionNames, AttentionSpec, Ctx, Error, Result, Rows, Size, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{Block, BlockSpec, Downsample, Inside, Mixer, PooledHead, Pyramid, ScoreScale, Shrink, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "pvt_v2",
    paper: "PVT v2: Improved Baselines with Pyramid Vision Transformer, arXiv 2106.13797",
    summary: "pyramid with attention to a reduced map and convolutions for positions",
    architectures: &[("PvtV2Model", HeadKind::Encoder), ("PvtV2ForImageClassification", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/pvt_v2.json")),
    names: Names::new(RULES, &[]),
    blocks: &["blocks."],
    prefix: "pvt_v2.",
    heads: &["classifier"],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::MapOutput, Trait::ConvolutionalFfn],
    toy: r#"{"model_type":"pvt_v2","architectures":["PvtV2ForImageClassification"],"hidden_sizes":[16,32],
        "depths":[1,2],"num_attention_heads":[2,4],"sr_ratios":[2,1],"mlp_ratios":[2,2],"patch_sizes":[3,3],
        "strides":[2,2],"num_encoder_blocks":2,"image_size":32,"num_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// timm's form of it.
pub static TIMM: Timm = Timm {
    family: "pvt_v2",
    entry: &ENTRY,
    architecture: "PvtV2ForImageClassification",
    args: &[
        ("img_size", "image_size"),
        // Without effect in the authors' code.
        ("patch_size", "patch_size"),
        ("in_chans", "num_channels"),
        ("depths", "depths"),
        ("embed_dims", "hidden_sizes"),
        ("num_heads", "num_attention_heads"),
        ("sr_ratios", "sr_ratios"),
        ("mlp_ratios", "mlp_ratios"),
        ("qkv_bias", "qkv_bias"),
        ("qk_scale", "qk_scale"),
        ("num_stages", "num_encoder_blocks"),
        ("linear", "linear_attention"),
    ],
    pool: "avg",
};

/// The authors' names and timm's onto those of transformers.
pub(super) const RULES: &[Rename] = &[
    ("pvt_v2.**", "**"),
    ("patch_embed1.**", "patch_embed.**"),
    ("patch_embed2.**", "stages.1.downsample.**"),
    ("patch_embed3.**", "stages.2.downsample.**"),
    ("patch_embed4.**", "stages.3.downsample.**"),
    ("block1.**", "stages.0.blocks.**"),
    ("block2.**", "stages.1.blocks.**"),
    ("block3.**", "stages.2.blocks.**"),
    ("block4.**", "stages.3.blocks.**"),
    ("norm1.*", "stages.0.norm.*"),
    ("norm2.*", "stages.1.norm.*"),
    ("norm3.*", "stages.2.norm.*"),
    ("norm4.*", "stages.3.norm.*"),
    ("patch_embed.**", "stages.0.downsample.**"),
    ("stages.*.downsample.proj.*", "encoder.layers.*.patch_embedding.proj.*"),
    ("stages.*.downsample.norm.*", "encoder.layers.*.patch_embedding.layer_norm.*"),
    ("stages.*.norm.*", "encoder.layers.*.layer_norm.*"),
    ("stages.*.blocks.**", "encoder.layers.*.blocks.**"),
    ("encoder.layers.*.blocks.*.norm1.*", "encoder.layers.*.blocks.*.layer_norm_1.*"),
    ("encoder.layers.*.blocks.*.norm2.*", "encoder.layers.*.blocks.*.layer_norm_2.*"),
    ("encoder.layers.*.blocks.*.attn.**", "encoder.layers.*.blocks.*.attention.**"),
    ("encoder.layers.*.blocks.*.attention.q.*", "encoder.layers.*.blocks.*.attention.query.*"),
    ("encoder.layers.*.blocks.*.attention.sr.*", "encoder.layers.*.blocks.*.attention.spatial_reduction.*"),
    ("encoder.layers.*.blocks.*.attention.norm.*", "encoder.layers.*.blocks.*.attention.layer_norm.*"),
    ("encoder.layers.*.blocks.*.mlp.fc1.*", "encoder.layers.*.blocks.*.mlp.dense1.*"),
    ("encoder.layers.*.blocks.*.mlp.fc2.*", "encoder.layers.*.blocks.*.mlp.dense2.*"),
    ("encoder.layers.*.blocks.*.mlp.dwconv.weight", "encoder.layers.*.blocks.*.mlp.dwconv.dwconv.weight"),
    ("encoder.layers.*.blocks.*.mlp.dwconv.bias", "encoder.layers.*.blocks.*.mlp.dwconv.dwconv.bias"),
    ("head.*", "classifier.*"),
];

/// Side of the map that the linear variant looks at.
const CELLS: usize = 7;

/// The published config, checked.
pub(super) struct Config {
    pub(super) stages: Stages,
    pub(super) dims: Vec<usize>,
    pub(super) heads: Vec<usize>,
    reductions: Vec<usize>,
    mlp_ratios: Vec<f64>,
    patches: Vec<usize>,
    /// Pixels a row of the first map stands for; 2 rows become one in every further stage.
    stride: usize,
    linear: bool,
    pub(super) qkv_bias: bool,
    pub(super) scale: ScoreScale,
    act: Activation,
    eps: f64,
    /// Epsilon of the norms behind convolutions.
    reduced_eps: f64,
    channels: usize,
    image: Size,
}

impl Config {
    pub(super) fn read(c: &ConfigMap) -> Result<Self> {
        let image = c.pair("image_size", 224, MAX_SIDE)?;
        let strides = c.stages("strides", &[4, 2, 2, 2], None, 32)?;
        if strides[1..].iter().any(|s| *s != 2) {
            return Err(Error::unsupported("strides", format!("{strides:?}"), "2 from the second stage on"));
        }
        let _trained = (image.0.div_ceil(strides[0]), image.1.div_ceil(strides[0]));
        let stages = Stages::read(c, "depths", &[2, 2, 2, 2])?;
        let n = Some(stages.n());
        c.only("num_encoder_blocks", &[stages.n().into()])?;
        let eps = c.float("layer_norm_eps", 1e-6, 0.0, 1.0)?;
        let config = Config {
            dims: c.stages("hidden_sizes", &[32, 64, 160, 256], n, MAX_DIM)?,
            heads: c.stages("num_attention_heads", &[1, 2, 5, 8], n, MAX_HEADS)?,
            reductions: c.stages("sr_ratios", &[8, 4, 2, 1], n, 64)?,
            mlp_ratios: c.stage_floats("mlp_ratios", &[8.0, 8.0, 4.0, 4.0], stages.n(), 0.01, 64.0)?,
            patches: c.stages("patch_sizes", &[7, 3, 3, 3], n, 63)?,
            stride: strides[0],
            linear: c.flag("linear_attention", false)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            scale: ScoreScale::read(c)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps,
            reduced_eps: c.float("reduced_eps", eps, 0.0, 1.0)?,
            channels: c.size("num_channels", Some(3), 64)?,
            image,
            stages,
        };
        if strides.len() != config.stages.n() {
            return Err(Error::config("strides", format!("has {} entries", strides.len())));
        }
        if config.patches.iter().any(|p| p % 2 == 0) {
            return Err(Error::unsupported("patch_sizes", format!("{:?}", config.patches), "odd sizes"));
        }
        config.dims.iter().zip(&config.heads).try_for_each(|(d, h)| check_heads(*d, *h))?;
        Ok(config)
    }
}

/// Overlapping patches of a map as rows of a smaller one.
fn patch_embedding(c: &Config, w: &Weights, stage: usize) -> Result<Downsample> {
    let (kernel, stride) = (c.patches[stage], if stage == 0 { c.stride } else { 2 });
    let from = if stage == 0 { c.channels } else { c.dims[stage - 1] };
    Ok(Downsample {
        conv: Conv::load(&w.at("proj"), [c.dims[stage], from, kernel], [stride, kernel / 2], true)?,
        norm: w.layer_norm("layer_norm", c.dims[stage], c.reduced_eps)?,
    })
}

/// Means over cells of a map, projected: what the linear variant looks at.
struct Cells(Downsample);

impl Shrink for Cells {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (cells, rows) = mean_cells(x, rows, CELLS)?;
        let State { x, rows, .. } = self.0.forward(cx, &cells, &rows)?;
        Ok(State::new(Activation::Gelu.forward(&x)?, rows))
    }
}

/// Attention of all rows to a reduced map.
fn attention(c: &Config, w: &Weights, stage: usize) -> Result<Box<dyn Mixer>> {
    let (dim, heads, ratio) = (c.dims[stage], c.heads[stage], if c.linear { 1 } else { c.reductions[stage] });
    let reduction = || -> Result<Downsample> {
        let conv = Conv::load(&w.at("spatial_reduction"), [dim, dim, ratio], [ratio, 0], true)?;
        Ok(Downsample { conv, norm: w.layer_norm("layer_norm", dim, c.reduced_eps)? })
    };
    let reduce: Option<Arc<dyn Shrink>> = match (c.linear, ratio > 1) {
        (true, _) => Some(Arc::new(Cells(reduction()?))),
        (false, true) => Some(Arc::new(reduction()?)),
        (false, false) => None,
    };
    let names = AttentionNames { kv: Some("kv"), ..AttentionNames::new(["query", "key", "value"], "proj") };
    Ok(w.attention(&AttentionSpec {
        bias: [c.qkv_bias; 3],
        scores: Scores::Dot(c.scale.of(dim / heads)),
        reduce,
        ..AttentionSpec::new(names, dim, heads)
    })?)
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block>> {
    let config = Config::read(c)?;
    let head = match ENTRY.architecture(c)? {
        "PvtV2Model" => PooledHead::Rows,
        _ => PooledHead::load(c, w, Some("classifier"), config.dims[config.stages.n() - 1])?,
    };
    build(config, w, head, attention)
}

/// The model with what `mixer` loads, from its path, for the blocks of a stage.
pub(super) fn build(
    config: Config,
    w: &Weights,
    head: PooledHead,
    mixer: impl Fn(&Config, &Weights, usize) -> Result<Box<dyn Mixer>>,
) -> Result<Pyramid<Block>> {
    let layer = |s: usize| w.at("encoder.layers").at(s);
    let n = config.stages.n();
    let patches = |s: usize| patch_embedding(&config, &layer(s).at("patch_embedding"), s);
    let spec = BlockSpec {
        norms: ["layer_norm_1", "layer_norm_2"],
        eps: config.eps,
        fc: ["dense1", "dense2"],
        act: config.act,
        factors: None,
        inside: if config.linear { Inside::BehindRelu } else { Inside::Plain },
    };
    let block = |(s, i): (usize, usize)| -> Result<Block> {
        let (w, dim) = (layer(s).at("blocks").at(i), config.dims[s]);
        let mixer = mixer(&config, &w.at("attention"), s)?;
        Block::load(&w, &spec, [dim, (dim as f64 * config.mlp_ratios[s]) as usize], mixer)
    };
    let norm = |s: usize| layer(s).layer_norm("layer_norm", config.dims[s], config.eps).map(Some);
    Ok(Pyramid {
        stem: patches(0)?,
        downs: (1..n).map(patches).collect::<Result<_>>()?,
        blocks: config.stages.all().map(block).collect::<Result<_>>()?,
        norms: (0..n).map(norm).collect::<Result<_>>()?,
        head,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
        patch: config.stride,
    })
}
