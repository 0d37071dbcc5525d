//! RMT - attention that fades with Manhattan distance, along rows and columns where maps are large.
//!
//! Paper: "RMT: Retentive Networks Meet Vision Transformers", arXiv 2309.11523. Code: qhfan/RMT; the authors' names load.
//! Idea: every head subtracts its own multiple of the distance `|dy| + |dx|` from the scores, so heads look from very
//! near to almost everywhere. On large maps each row attends within itself, then each column over what the rows gave;
//! on small maps all places attend at once. Queries and keys are turned by their place (rotary), and convolutions of the
//! values, the block's input and the feed-forward's hidden rows add what is next to a place.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: none known.

use std::sync::Arc;

use switchformer_nn::attention::{PairBias, Pairs, Positions, Rotary};
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE};
use switchformer_nn::layers::{Activation, BatchNorm, LayerNorm, LayerScale, check_heads};
use switchformer_nn::maps::{Conv, Cut, Depthwise, Windows, mean_rows};
use switchformer_nn::names::Names;
use switchformer_nn::ops::Epilogue;
use switchformer_nn::ops::{AttendSpec, Beside, ScoreBias};
use switchformer_nn::staged::State;
use switchformer_nn::weights::LinearSpec;
use switchformer_nn::{AttentionNames, AttentionSpec, Ctx, Linear, Output, Result, Rows, Size, Tensor, Weights, ops};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{FACTORS, MapHead, Mixer, Pyramid, Shrink, Stages, by_size};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "rmt",
    paper: "RMT: Retentive Networks Meet Vision Transformers, arXiv 2309.11523",
    summary: "pyramid with attention that fades with Manhattan distance, along rows and columns on large maps",
    architectures: &[("VisRetNet", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/rmt.json")),
    // What depends on no weight is stored too.
    names: Names::new(&[], &["**.num_batches_tracked", "**.Relpos.angle", "**.Relpos.decay"]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::ConvolutionalFfn],
    toy: r#"{"model_type":"rmt","architectures":["VisRetNet"],"embed_dims":[8,24],"depths":[1,2],"num_heads":[2,3],
        "mlp_ratios":2,"init_values":2,"heads_ranges":[4,6],"chunkwise_recurrents":[true,false],
        "layerscales":[false,true],"projection":16,"img_size":32,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// The authors' constructor, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "rmt",
    entry: &ENTRY,
    architecture: "VisRetNet",
    args: &[
        ("in_chans", "in_chans"),
        ("embed_dims", "embed_dims"),
        ("depths", "depths"),
        ("num_heads", "num_heads"),
        ("init_values", "init_values"),
        ("heads_ranges", "heads_ranges"),
        ("mlp_ratios", "mlp_ratios"),
        ("chunkwise_recurrents", "chunkwise_recurrents"),
        ("projection", "projection"),
        ("layerscales", "layerscales"),
        // Has no effect in the authors' code.
        ("patch_norm", "patch_norm"),
    ],
    pool: "avg",
};

/// Epsilon of layer norms.
const EPS: f64 = 1e-6;
/// Epsilon of batch norms.
const BATCH_EPS: f64 = 1e-5;
/// Base of the angles that turn queries and keys.
const BASE: f32 = 1e4;

/// The authors' arguments, checked.
struct Config {
    stages: Stages,
    dims: Vec<usize>,
    heads: Vec<usize>,
    /// What a head subtracts per step of distance: `ln(1 - 2^(-initial - range * head / heads))`.
    initial: Vec<f64>,
    ranges: Vec<f64>,
    mlp_ratios: Vec<f64>,
    /// Whether a stage attends along rows and columns.
    split: Vec<bool>,
    scaled: Vec<bool>,
    projection: usize,
    channels: usize,
    image: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        let _quarter = |n: usize| n.div_ceil(2).div_ceil(2);
        let stages = Stages::read(c, "depths", &[2, 2, 6, 2])?;
        let n = stages.n();
        let split = match c.get("chunkwise_recurrents") {
            None => (0..n).map(|s| s < 2).collect(),
            Some(_) => c.stage_flags("chunkwise_recurrents", true, n)?,
        };
        let config = Config {
            dims: c.stages("embed_dims", &[96, 192, 384, 768], Some(n), MAX_DIM)?,
            heads: c.stages("num_heads", &[3, 6, 12, 24], Some(n), MAX_HEADS)?,
            initial: c.stage_floats("init_values", &[1.0], n, 0.01, 64.0)?,
            ranges: c.stage_floats("heads_ranges", &[3.0], n, 0.0, 64.0)?,
            mlp_ratios: c.stage_floats("mlp_ratios", &[3.0], n, 0.01, 64.0)?,
            split,
            scaled: c.stage_flags("layerscales", false, n)?,
            projection: c.size("projection", Some(1024), MAX_DIM)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            stages,
        };
        for (dim, heads) in config.dims.iter().zip(&config.heads) {
            check_heads(*dim, *heads)?;
            // Two numbers turn together.
            check_heads(*dim, 2 * heads)?;
        }
        check_heads(config.dims[0], 2)?;
        Ok(config)
    }
}

/// Scores that fade with the Manhattan distance of two places.
struct Fading(Tensor);

impl Fading {
    /// Logarithms of how much of the attention stays per step, `[heads, 1, 1]`: in f32, as the tables that published weights
    /// were trained with.
    fn new(c: &Config, stage: usize) -> Result<Self> {
        let (initial, range, heads) = (c.initial[stage] as f32, c.ranges[stage] as f32, c.heads[stage]);
        let fading = |h: usize| (1.0 - (-initial - range * h as f32 / heads as f32).exp2()).ln();
        Ok(Fading(Tensor::from_vec((0..heads).map(fading).collect::<Vec<_>>(), (heads, 1, 1))?))
    }
}

impl PairBias for Fading {
    fn of(&self, (h, w): Size) -> Result<Tensor> {
        let len = h * w;
        let apart = |q: usize, k: usize| ((q / w).abs_diff(k / w) + (q % w).abs_diff(k % w)) as f32;
        let apart: Vec<f32> = (0..len).flat_map(|q| (0..len).map(move |k| apart(q, k))).collect();
        self.0.broadcast_mul(&Tensor::from_vec(apart, (1, len, len))?)
    }
}

/// How far a step turns each pair of a head; places count row by row.
fn rotary(head_dim: usize) -> Rotary {
    let pairs = head_dim / 2;
    let angle = |k: usize| 1.0 / BASE.powf(k as f32 / (pairs.max(2) - 1) as f32);
    Rotary::new((0..pairs).map(angle).collect(), Pairs::Neighbours)
}

/// The attention of a stage, at the path of `w`.
fn retention(c: &Config, w: &Weights, stage: usize) -> Result<Box<dyn Mixer>> {
    if c.split[stage] {
        return Ok(Box::new(Separable::load(c, w, stage)?));
    }
    let (dim, heads) = (c.dims[stage], c.heads[stage]);
    Ok(w.attention(&AttentionSpec {
        positions: Positions::Pairs(Arc::new(Fading::new(c, stage)?)),
        rotary: Some(Arc::new(rotary(dim / heads))),
        cuts: vec![Arc::new(|size| Ok(Cut::plain(size)))],
        local: vec![Depthwise::load(&w.at("lepe.conv"), dim, 5)?],
        ..AttentionSpec::new(AttentionNames::new(PARTS, OUT), dim, heads)
    })?)
}

const PARTS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];
const OUT: &str = "out_proj";

/// Attention along rows, whose results attend along columns with the same queries and keys: two maps in turn, so it is no
/// [`AttentionSpec`].
struct Separable {
    qkv: Box<dyn Linear>,
    conv: Depthwise,
    out: Box<dyn Linear>,
    heads: usize,
    fading: Fading,
    rotary: Rotary,
}

impl Separable {
    fn load(c: &Config, w: &Weights, stage: usize) -> Result<Self> {
        let (dim, heads) = (c.dims[stage], c.heads[stage]);
        let parts = LinearSpec { parts: &PARTS, fused: None, in_dim: dim, out_dim: dim, bias: true };
        Ok(Separable {
            qkv: w.linear_of(&parts)?,
            conv: Depthwise::load(&w.at("lepe.conv"), dim, 5)?,
            out: w.linear(OUT, dim, dim, true)?,
            heads,
            fading: Fading::new(c, stage)?,
            rotary: rotary(dim / heads),
        })
    }

    /// The windows that attend one after the other on a map.
    fn passes((h, w): Size) -> [Size; 2] {
        [(1, w), (h, 1)]
    }
}

impl Mixer for Separable {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let dim = self.out.dims().0;
        let qkv = self.qkv.forward(cx, x)?;
        let [q, k, v] = ops::split(&qkv)?;
        let turn = |x: &Tensor| self.rotary.rotate(x, self.heads, rows.positions());
        let (q, k) = (turn(&q)?, turn(&k)?);
        let scale = ((dim / self.heads) as f64).powf(-0.5);
        let near = self.conv.forward(cx, &v, rows)?;
        let mixed = by_size(&ops::beside(&[&q, &k, &v])?, rows, dim, |qkv, rows, size| {
            let (qk, mut v) = (ops::columns(qkv, 0, 2 * dim)?, ops::columns(qkv, 2 * dim, dim)?);
            for window in Separable::passes(size) {
                let windows = Windows::new(rows, &Cut::plain(window))?;
                cx.count(windows.macs(dim));
                let fades = self.fading.of(window)?;
                let plain = AttendSpec::new(windows.rows(), windows.rows(), self.heads, scale);
                let spec = AttendSpec { bias: Some(ScoreBias::Pairs(&fades)), ..plain };
                v = windows.join(&ops::attend_fused(&windows.cut(&ops::beside(&[&qk, &v])?)?, &spec)?)?;
            }
            Ok(v)
        })?;
        self.out.forward(cx, &ops::add(&mixed, &near)?)
    }
}

struct Block {
    place: Depthwise,
    norm1: LayerNorm,
    retention: Box<dyn Mixer>,
    norm2: LayerNorm,
    fc1: Box<dyn Linear>,
    conv: Depthwise,
    fc2: Box<dyn Linear>,
    factors: LayerScale,
}

impl Block {
    fn load(c: &Config, w: &Weights, stage: usize) -> Result<Self> {
        let (dim, ffn) = (c.dims[stage], w.at("ffn"));
        let hidden = (dim as f64 * c.mlp_ratios[stage]) as usize;
        Ok(Block {
            place: Depthwise::load(&w.at("pos.conv"), dim, 3)?,
            norm1: w.layer_norm("retention_layer_norm", dim, EPS)?,
            retention: retention(c, &w.at("retention"), stage)?,
            norm2: w.layer_norm("final_layer_norm", dim, EPS)?,
            fc1: ffn.linear("fc1", dim, hidden, true)?,
            conv: Depthwise::load(&ffn.at("dwconv.conv"), hidden, 3)?,
            fc2: ffn.linear("fc2", hidden, dim, true)?,
            factors: LayerScale::load(w, &FACTORS, &[1, 1, 1, dim], c.scaled[stage].then_some(1e-5))?,
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let added = Beside { input: true, act: None };
        let x = self.place.forward_beside(cx, x, rows, added)?;
        let mixed = self.retention.forward(cx, &self.norm1.forward(&x)?, rows)?;
        let x = cx.onto(&x, self.factors.scaled(0, mixed)?, "retention")?;
        let gelu = Epilogue { act: Some(Activation::Gelu), ..Epilogue::default() };
        let hidden = self.fc1.forward_with(cx, &self.norm2.forward(&x)?, &gelu)?;
        // The convolution is added behind the activation.
        let hidden = self.conv.forward_beside(cx, &hidden, rows, added)?;
        let hidden = self.fc2.forward(cx, &hidden)?;
        cx.onto(&x, self.factors.scaled(1, hidden)?, "ffn")
    }
}

/// A convolution with a kernel of 3 and the batch norm behind it.
struct Step {
    conv: Conv,
    norm: BatchNorm,
}

impl Step {
    fn load(w: &Weights, [conv, norm]: [&str; 2], [from, to]: [usize; 2], stride: usize) -> Result<Self> {
        let conv = Conv::load(&w.at(conv), [to, from, 3], [stride, 1], true)?;
        Ok(Step { conv, norm: w.batch_norm(norm, to, BATCH_EPS)? })
    }
}

impl Shrink for Step {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = self.conv.forward(cx, x, rows)?;
        Ok(State::new(self.norm.forward(cx, &x)?, rows))
    }
}

/// Four convolutions; the first and the third halve the map.
struct Convolutions(Vec<Step>);

impl Convolutions {
    fn load(c: &Config, w: &Weights) -> Result<Self> {
        let dim = c.dims[0];
        let widths = [c.channels, dim / 2, dim / 2, dim, dim];
        let names = [["0", "1"], ["3", "4"], ["6", "7"], ["9", "10"]];
        let step = |i: usize| Step::load(w, names[i], [widths[i], widths[i + 1]], 2 - i % 2);
        Ok(Convolutions((0..4).map(step).collect::<Result<_>>()?))
    }
}

impl Shrink for Convolutions {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let mut state = self.0[0].forward(cx, x, rows)?;
        for step in &self.0[1..] {
            state = step.forward(cx, &Activation::Gelu.forward(&state.x)?, &state.rows)?;
        }
        Ok(state)
    }
}

/// Every row to a wider one, a batch norm and SiLU, their mean to classes.
struct Head {
    projection: Box<dyn Linear>,
    norm: BatchNorm,
    classifier: Box<dyn Linear>,
}

impl MapHead for Head {
    fn forward(&self, cx: &mut Ctx, hidden: Tensor, end: &State) -> Result<Output> {
        let wide = self.projection.forward(cx, &hidden)?;
        let x = self.norm.forward(cx, &wide)?;
        let pooled = mean_rows(&Activation::Silu.forward(&x)?, &end.rows)?;
        Ok(Output::new().member("logits", self.classifier.forward(cx, &pooled)?))
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block, Convolutions, Step, Head>> {
    let config = Config::read(c)?;
    let n = config.stages.n();
    let layer = |s: usize| w.at("layers").at(s);
    let down = |s: usize| {
        Step::load(&layer(s - 1).at("downsample"), ["reduction", "norm"], [config.dims[s - 1], config.dims[s]], 2)
    };
    let block = |(s, i): (usize, usize)| Block::load(&config, &layer(s).at("blocks").at(i), s);
    let wide = config.projection;
    Ok(Pyramid {
        stem: Convolutions::load(&config, &w.at("patch_embed.proj"))?,
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().map(block).collect::<Result<_>>()?,
        norms: vec![None; n],
        head: Head {
            projection: w.linear("proj", config.dims[n - 1], wide, true)?,
            norm: w.batch_norm("norm", wide, BATCH_EPS)?,
            classifier: w.linear("head", wide, c.n_labels()?, true)?,
        },
        patch: 4,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
    })
}
