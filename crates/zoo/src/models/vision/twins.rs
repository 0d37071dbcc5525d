//! Twins - attention within windows and to a reduced map in turn, with positions from a convolution.
//!
//! Paper: "Twins: Revisiting the Design of Spatial Attention in Vision Transformers", arXiv 2104.13840. Code:
//! Meituan-AutoML/Twins and timm; for codes in place of attention ziplab/EcoFormer (twins), arXiv 2209.09004. Weights:
//! twins_*.in1k on timm; the names of all three are the same.
//! Idea: PCPVT is a PVT whose positions come from a depth-wise convolution behind the first block of each stage, so that
//! images may have any size. SVT also lets every block but each second see its own window alone: attention of a block to
//! its neighbourhood and of the next to a summary of everything is nearly linear and needs no moving windows.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! As in timm, a map is filled up with zeros to whole windows, which are seen like places. `attn_type` (`ecoformer`,
//! `performer`, `msa`) puts another attention into every block, as EcoFormer's authors do: over the whole map, and softmax
//! where there is no reduction. SVT-S with codes is the smaller for it: it has no reduced maps, and one projection for
//! queries and keys.

use std::sync::Arc;

use switchformer_nn::attention::Scores;
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::layers::{Activation, LayerNorm, check_heads};
use switchformer_nn::maps::{Conv, Cut, Depthwise};
use switchformer_nn::names::Names;
use switchformer_nn::ops::Beside;
use switchformer_nn::weights::FfnSpec;
use switchformer_nn::{AttentionNames, AttentionSpec, Ctx, Error, Ffn, Result, Rows, Size, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::models::vision::ecoformer_pvt_v2::{Kinds, Shape};
use crate::published::Published;
use crate::pyramid::{Downsample, Mixer, PooledHead, Pyramid, ScoreScale, Shrink, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "twins",
    paper: "Twins: Revisiting the Design of Spatial Attention in Vision Transformers, arXiv 2104.13840",
    summary: "pyramid with windows and a reduced map in turn; also with EcoFormer's codes",
    architectures: &[("Twins", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/twins.json")),
    names: Names::new(&[], &[]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid],
    toy: r#"{"model_type":"twins","architectures":["Twins"],"embed_dims":[16,32],"depths":[2,2],"num_heads":[2,4],
        "mlp_ratios":[2,2],"sr_ratios":[2,1],"wss":[3,3],"patch_size":4,"img_size":32,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// timm's form, with the arguments of EcoFormer's authors.
pub static TIMM: Timm = Timm {
    family: "twins",
    entry: &ENTRY,
    architecture: "Twins",
    args: &[
        ("img_size", "img_size"),
        ("patch_size", "patch_size"),
        ("in_chans", "in_chans"),
        ("embed_dims", "embed_dims"),
        ("num_heads", "num_heads"),
        ("mlp_ratios", "mlp_ratios"),
        ("depths", "depths"),
        ("sr_ratios", "sr_ratios"),
        ("wss", "wss"),
        ("qkv_bias", "qkv_bias"),
        // The authors' alone.
        ("qk_scale", "qk_scale"),
        ("attn_type", "attn_type"),
        ("nbits", "nbits"),
        ("m", "m"),
    ],
    pool: "avg",
};

/// Epsilon of the norms of blocks and of the last one.
const EPS: f64 = 1e-6;
/// Epsilon of the norms behind convolutions.
const CONV_EPS: f64 = 1e-5;

/// The published config, checked.
struct Config {
    stages: Stages,
    dims: Vec<usize>,
    heads: Vec<usize>,
    mlp_ratios: Vec<f64>,
    reductions: Vec<usize>,
    /// Side of the windows of a stage, where there are any.
    windows: Option<Vec<usize>>,
    patch: usize,
    channels: usize,
    image: Size,
    bias: bool,
    scale: ScoreScale,
    kinds: Option<Kinds>,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let (image, patch) = (c.pair("img_size", 224, MAX_SIDE)?, c.size("patch_size", Some(4), 64)?);
        let stages = Stages::read(c, "depths", &[3, 4, 6, 3])?;
        let n = Some(stages.n());
        let windows = match c.get("wss") {
            None => None,
            Some(v) if v.is_null() => None,
            Some(_) => Some(c.stages("wss", &[], n, 64)?),
        };
        if windows.iter().flatten().any(|w| *w < 2) {
            return Err(Error::config("wss", "must be at least 2 in every stage"));
        }
        let config = Config {
            dims: c.stages("embed_dims", &[64, 128, 256, 512], n, MAX_DIM)?,
            heads: c.stages("num_heads", &[1, 2, 4, 8], n, MAX_HEADS)?,
            mlp_ratios: c.stage_floats("mlp_ratios", &[4.0], stages.n(), 0.01, 64.0)?,
            reductions: c.stages("sr_ratios", &[8, 4, 2, 1], n, 64)?,
            windows,
            patch,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            bias: c.flag("qkv_bias", true)?,
            scale: ScoreScale::read(c)?,
            kinds: if c.get("attn_type").is_some() { Some(Kinds::read(c)?) } else { None },
            stages,
        };
        if !config.bias && config.kinds.is_none() {
            return Err(Error::unsupported("qkv_bias", false, "true (false with attn_type)"));
        }
        config.dims.iter().zip(&config.heads).try_for_each(|(d, h)| check_heads(*d, *h))?;
        Ok(config)
    }
}

/// The attention of a block, at the path of `w`.
fn mixer(c: &Config, w: &Weights, stage: usize, within: usize) -> Result<Box<dyn Mixer>> {
    let (dim, heads, ratio) = (c.dims[stage], c.heads[stage], c.reductions[stage]);
    if let Some(kinds) = &c.kinds {
        return kinds.load(w, &Shape { dim, heads, bias: c.bias, scale: c.scale }, ratio == 1);
    }
    let scores = Scores::Dot(c.scale.of(dim / heads));
    let spec = match &c.windows {
        Some(sides) if within.is_multiple_of(2) => {
            let side = sides[stage];
            let plain = AttentionSpec::new(AttentionNames::new(["qkv"; 3], "proj"), dim, heads);
            AttentionSpec { scores, cuts: vec![Arc::new(move |_| Ok(Cut::plain((side, side))))], ..plain }
        }
        _ => {
            let reduce: Option<Arc<dyn Shrink>> = if ratio > 1 {
                let conv = Conv::load(&w.at("sr"), [dim, dim, ratio], [ratio, 0], true)?;
                Some(Arc::new(Downsample { conv, norm: w.layer_norm("norm", dim, CONV_EPS)? }))
            } else {
                None
            };
            let plain = AttentionSpec::new(AttentionNames::new(["q", "kv", "kv"], "proj"), dim, heads);
            AttentionSpec { scores, reduce, ..plain }
        }
    };
    Ok(w.attention(&spec)?)
}

struct Block {
    norm1: LayerNorm,
    mixer: Box<dyn Mixer>,
    norm2: LayerNorm,
    ffn: Box<dyn Ffn>,
    /// Behind the first block of a stage: what tells places apart.
    positions: Option<Depthwise>,
}

impl Block {
    fn load(c: &Config, w: &Weights, (stage, within): (usize, usize)) -> Result<Self> {
        let (dim, own) = (c.dims[stage], w.at("blocks").at(stage).at(within));
        Ok(Block {
            norm1: own.layer_norm("norm1", dim, EPS)?,
            mixer: mixer(c, &own.at("attn"), stage, within)?,
            norm2: own.layer_norm("norm2", dim, EPS)?,
            ffn: own.ffn(&FfnSpec::new(
                &["mlp.fc1"],
                "mlp.fc2",
                [dim, (dim as f64 * c.mlp_ratios[stage]) as usize],
                Activation::Gelu,
            ))?,
            positions: match within {
                0 => Some(Depthwise::load(&w.at("pos_block").at(stage).at("proj.0"), dim, 3)?),
                _ => None,
            },
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.mixer.forward_onto(cx, &self.norm1.forward(x)?, rows, x)?;
        let x = self.ffn.forward_onto(cx, &self.norm2.forward(&x)?, rows, &x)?;
        match &self.positions {
            Some(conv) => conv.forward_beside(cx, &x, rows, Beside { input: true, act: None }),
            None => Ok(x),
        }
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block>> {
    let config = Config::read(c)?;
    let (n, dims) = (config.stages.n(), &config.dims);
    let patches = |s: usize| -> Result<Downsample> {
        let (w, from) = (w.at("patch_embeds").at(s), if s == 0 { config.channels } else { dims[s - 1] });
        let side = if s == 0 { config.patch } else { 2 };
        Ok(Downsample {
            conv: Conv::load(&w.at("proj"), [dims[s], from, side], [side, 0], true)?,
            norm: w.layer_norm("norm", dims[s], CONV_EPS)?,
        })
    };
    let mut norms: Vec<Option<LayerNorm>> = (1..n).map(|_| None).collect();
    norms.push(Some(w.layer_norm("norm", dims[n - 1], EPS)?));
    Ok(Pyramid {
        stem: patches(0)?,
        downs: (1..n).map(patches).collect::<Result<_>>()?,
        blocks: config.stages.all().map(|at| Block::load(&config, w, at)).collect::<Result<_>>()?,
        norms,
        head: PooledHead::load(c, w, Some("head"), dims[n - 1])?,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
        patch: config.patch,
    })
}
