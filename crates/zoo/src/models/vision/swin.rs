//! Swin - attention inside windows that move, over a pyramid of maps.
//!
//! Paper: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", arXiv 2103.14030. Code:
//! microsoft/Swin-Transformer. Weights: microsoft/swin-tiny-patch4-window7-224 and kin; timm `swin_*` folders load too.
//! Idea: attention stays inside small windows, and every second block moves the map by half a window so that neighbours
//! meet. Between stages 2x2 squares of rows become one row, twice as wide. The mean of the last map answers.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, dim] .. [h / 32, w / 32, 8 dim] -> logits [b, labels].`
//! Departs from the reference: any image size, as both references have it behind a flag; where they differ on maps
//! that are no whole number of windows, each config form follows its own (`pad_after_shift`, and
//! `square_windows` for the authors' constructor on maps that are small and not square).

use std::sync::{Arc, OnceLock};

use switchformer_nn::attention::{PairBias, Partition, Positions, Scores};
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE, MAX_STAGES, whole};
use switchformer_nn::dry;
use switchformer_nn::init::Init;
use switchformer_nn::layers::{Activation, LayerNorm, check_heads};
use switchformer_nn::leaf::Ffn;
use switchformer_nn::maps::PatchEmbed;
use switchformer_nn::maps::{Cut, PadOrder, halved, joined, merge_squares, pad_to_patches, pair_biases};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::weights::{FfnSpec, PatchSpec};
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Input, InputSpec, Linear, Model, Output, ParamKind, Result,
    Rows, Size, Staged, Tensor, Weights, ops,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{MapHead, MapPositions, PooledHead, ScoreScale, Stages, tap_stage};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "swin",
    paper: "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows, arXiv 2103.14030",
    summary: "pyramid with attention inside shifted windows and relative positions",
    architectures: &[("SwinModel", HeadKind::Encoder), ("SwinForImageClassification", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/swin.json")),
    names: NAMES,
    blocks: &["encoder.layers."],
    prefix: "swin.",
    heads: &["classifier"],
    traits: &[Trait::NoExitHeads, Trait::Pyramid],
    toy: r#"{"model_type":"swin","architectures":["SwinForImageClassification"],"embed_dim":16,"depths":[1,2],
        "num_heads":[2,4],"window_size":4,"mlp_ratio":2.0,"image_size":32,"patch_size":2,"num_channels":1,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(Swin::load(&ENTRY, config, w, Version::V1)?)),
};

/// timm's form of it.
pub static TIMM: Timm =
    Timm { family: "swin", entry: &ENTRY, architecture: "SwinForImageClassification", args: ARGS, pool: "avg" };

/// Arguments of both versions, timm's and those of the authors of Swin.
pub(crate) const ARGS: &[(&str, &str)] = &[
    ("img_size", "image_size"),
    ("patch_size", "patch_size"),
    ("in_chans", "num_channels"),
    ("embed_dim", "embed_dim"),
    ("depths", "depths"),
    ("num_heads", "num_heads"),
    ("window_size", "window_size"),
    ("mlp_ratio", "mlp_ratio"),
    ("qkv_bias", "qkv_bias"),
    ("pretrained_window_sizes", "pretrained_window_sizes"),
    ("always_partition", "always_partition"),
    ("act_layer", "hidden_act"),
    ("qk_scale", "qk_scale"),
    ("ape", "use_absolute_embeddings"),
    ("patch_norm", "patch_norm"),
    // How the authors' kernel moves rows; the numbers are the same.
    ("fused_window_process", "fused_window_process"),
];

/// Names of both versions: timm's, the authors' and those that transformers 5 has in memory onto the published ones. timm
/// counts a patch merge to the stage behind it; the authors, whose other names are timm's, and the published names to the
/// stage before.
pub(crate) const NAMES: Names =
    Names::new(RULES, &["**.relative_position_index", "**.relative_coords_table", "**.attn_mask"])
        .or("layers.0.downsample.reduction.weight", &[("layers.*.downsample.**", "encoder.layers.*.downsample.**")]);

const RULES: &[Rename] = &[
    ("swin.**", "**"),
    ("swinv2.**", "**"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("patch_embed.norm.*", "embeddings.norm.*"),
    ("layers.*.downsample.**", "encoder.layers.*-1.downsample.**"),
    ("layers.*.blocks.*.**", "encoder.layers.*.blocks.*.**"),
    ("encoder.layers.*.blocks.*.norm1.*", "encoder.layers.*.blocks.*.layernorm_before.*"),
    ("encoder.layers.*.blocks.*.norm2.*", "encoder.layers.*.blocks.*.layernorm_after.*"),
    ("encoder.layers.*.blocks.*.mlp.fc1.*", "encoder.layers.*.blocks.*.intermediate.dense.*"),
    ("encoder.layers.*.blocks.*.mlp.fc2.*", "encoder.layers.*.blocks.*.output.dense.*"),
    ("encoder.layers.*.blocks.*.attn.proj.*", "encoder.layers.*.blocks.*.attention.output.dense.*"),
    ("encoder.layers.*.blocks.*.attn.q_bias", "encoder.layers.*.blocks.*.attention.self.query.bias"),
    ("encoder.layers.*.blocks.*.attn.v_bias", "encoder.layers.*.blocks.*.attention.self.value.bias"),
    (
        "encoder.layers.*.blocks.*.attn.cpb_mlp.**",
        "encoder.layers.*.blocks.*.attention.self.continuous_position_bias_mlp.**",
    ),
    ("encoder.layers.*.blocks.*.attn.**", "encoder.layers.*.blocks.*.attention.self.**"),
    ("encoder.layers.*.blocks.*.attention.q_proj.*", "encoder.layers.*.blocks.*.attention.self.query.*"),
    ("encoder.layers.*.blocks.*.attention.k_proj.*", "encoder.layers.*.blocks.*.attention.self.key.*"),
    ("encoder.layers.*.blocks.*.attention.v_proj.*", "encoder.layers.*.blocks.*.attention.self.value.*"),
    ("encoder.layers.*.blocks.*.attention.o_proj.*", "encoder.layers.*.blocks.*.attention.output.dense.*"),
    ("encoder.layers.*.blocks.*.attention.relative_position_bias.*", "encoder.layers.*.blocks.*.attention.self.*"),
    ("absolute_pos_embed", "embeddings.position_embeddings"),
    ("norm.*", "layernorm.*"),
    ("head.fc.*", "classifier.*"),
    ("head.*", "classifier.*"),
];

/// Swin, or Swin v2: norms behind the branches, cosine scores, positions from a small network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// The published config, checked.
struct Config {
    version: Version,
    /// timm's way with maps that are no whole number of windows, else that of transformers.
    timm: bool,
    stages: Stages,
    dim: usize,
    heads: Vec<usize>,
    windows: Vec<usize>,
    /// Windows that the positions of Swin v2 were trained for; 0 is the own window.
    pretrained: Vec<usize>,
    mlp_ratio: f64,
    qkv_bias: bool,
    scale: ScoreScale,
    /// Learned positions of the first map.
    absolute: bool,
    patch_norm: bool,
    /// Whether windows keep their size and move on maps that are no larger (timm).
    always_partition: bool,
    /// Whether the shorter side of a map decides for both whether a window shrinks and moves (the authors of Swin).
    square_windows: bool,
    act: Activation,
    eps: f64,
    channels: usize,
    image: Size,
    patch: Size,
}

impl Config {
    fn read(c: &ConfigMap, version: Version) -> Result<Self> {
        if version == Version::V2 {
            // Scores are cosines with a learned factor.
            c.only("qk_scale", &[0.into()])?;
        }
        let (image, patch) = (c.pair("image_size", 224, MAX_SIDE)?, c.pair("patch_size", 4, MAX_SIDE)?);
        let _trained = (image.0.div_ceil(patch.0), image.1.div_ceil(patch.1));
        let stages = Stages::read(c, "depths", &[2, 2, 6, 2])?;
        let n = Some(stages.n());
        let config = Config {
            version,
            timm: c.flag("pad_after_shift", false)?,
            dim: c.size("embed_dim", Some(96), MAX_DIM >> MAX_STAGES)?,
            heads: c.stages("num_heads", &[3, 6, 12, 24], n, MAX_HEADS)?,
            windows: match c.get("window_size") {
                None => vec![7; stages.n()],
                Some(_) => c.stages("window_size", &[7], n, MAX_WINDOW)?,
            },
            pretrained: pretrained(c, stages.n())?,
            mlp_ratio: c.float("mlp_ratio", 4.0, 0.01, 64.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            scale: ScoreScale::read(c)?,
            absolute: c.flag("use_absolute_embeddings", false)?,
            patch_norm: c.flag("patch_norm", true)?,
            always_partition: c.flag("always_partition", false)?,
            square_windows: c.flag("square_windows", false)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps: c.float("layer_norm_eps", 1e-5, 0.0, 1.0)?,
            channels: c.size("num_channels", Some(3), 64)?,
            image,
            patch,
            stages,
        };
        (0..config.stages.n()).try_for_each(|s| check_heads(config.width(s), config.heads[s]))?;
        Ok(config)
    }

    /// Width of a stage.
    fn width(&self, stage: usize) -> usize {
        self.dim << stage
    }

    /// Map of the first stage at the trained image size, in whole patches.
    fn trained(&self) -> Size {
        (self.image.0 / self.patch.0, self.image.1 / self.patch.1)
    }

    /// Map of a stage at the trained image size, as the reference counts it.
    fn resolution(&self, stage: usize) -> Size {
        let grid = self.trained();
        if self.timm { (0..stage).fold(grid, |s, _| halved(s)) } else { (grid.0 >> stage, grid.1 >> stage) }
    }

    /// Sides of that map that a window is compared with.
    fn looked_at(&self, stage: usize) -> Size {
        let (h, w) = self.resolution(stage);
        if self.square_windows { (h.min(w), h.min(w)) } else { (h, w) }
    }

    /// Window of a stage. It shrinks to a small map, but for version 1 in transformers, where the table decides.
    fn window(&self, stage: usize) -> Size {
        let (w, (h, wide)) = (self.windows[stage], self.looked_at(stage));
        if !self.always_partition && (self.timm || self.version == Version::V2) {
            (w.min(h).max(1), w.min(wide).max(1))
        } else {
            (w, w)
        }
    }
}

/// Widest window.
const MAX_WINDOW: usize = 256;

/// `pretrained_window_sizes`, zeros where the config has none.
fn pretrained(c: &ConfigMap, stages: usize) -> Result<Vec<usize>> {
    let (field, what) = ("pretrained_window_sizes", "whole numbers, one for each stage");
    let sizes = c.list(field, 0..=MAX_STAGES, what, |v| whole(v, 0..=MAX_WINDOW))?.unwrap_or_default();
    // transformers writes four zeros whatever the number of stages.
    if sizes.iter().all(|s| *s == 0) {
        return Ok(vec![0; stages]);
    }
    let n = sizes.len();
    if n == stages { Ok(sizes) } else { Err(Error::config(field, format!("has {n} numbers for {stages} stages"))) }
}

/// Where the numbers come from that are added to the scores.
enum Places {
    /// One per relative place and head, `[(2 h - 1) * (2 w - 1), heads]`.
    Table(Tensor),
    /// A network over relative places (Swin v2).
    Network { places: Tensor, fc1: Tensor, bias: Tensor, fc2: Tensor },
}

/// What relative places add to the scores of a window.
struct PlaceBias {
    window: Size,
    positions: Places,
    /// What it gave, kept where no training can change it.
    fixed: Option<OnceLock<Tensor>>,
}

impl PairBias for PlaceBias {
    fn of(&self, _: Size) -> Result<Tensor> {
        // A dry run gives no numbers to keep.
        let fixed = self.fixed.as_ref().filter(|_| !dry::is_dry());
        if let Some(bias) = fixed.and_then(OnceLock::get) {
            return Ok(bias.clone());
        }
        let table = match &self.positions {
            Places::Table(table) => table.clone(),
            Places::Network { places, fc1, bias, fc2 } => {
                let hidden = Activation::Relu.forward(&ops::linear(places, fc1, Some(bias))?)?;
                let raw = ops::linear(&hidden, fc2, None)?; // [places, heads]
                ((raw.neg()?.exp()? + 1.0)?.recip()? * 16.0)?
            }
        };
        let bias = pair_biases(&table, self.window)?;
        if let Some(cell) = fixed {
            let _ = cell.set(bias.clone());
        }
        Ok(bias)
    }
}

/// How the maps of a block are cut: moved by half a window in every second block.
fn windows(c: &Config, stage: usize, within: usize) -> Partition {
    let (window, v2) = (c.window(stage), c.version == Version::V2);
    let half = if within % 2 == 1 { c.windows[stage] / 2 } else { 0 };
    let resolution = c.looked_at(stage);
    let by_side = |side: usize, window: usize| if side <= window && !c.always_partition { 0 } else { half };
    let moved = match (c.timm, v2) {
        (true, _) => (by_side(resolution.0, window.0), by_side(resolution.1, window.1)),
        (false, true) => (by_side(resolution.0, window.0), by_side(resolution.0, window.0)),
        (false, false) => (half, half),
    };
    // Whether a map no larger than a window stays where it is, whatever the block.
    let rests_when_small = !c.timm && !v2;
    let order = if c.timm { PadOrder::ShiftThenPad } else { PadOrder::PadThenShift };
    // Swin v2 in transformers adds its mask twice.
    let far = if v2 && !c.timm { -200.0 } else { -100.0 };
    Arc::new(move |(h, w)| {
        let shift = if rests_when_small && h.min(w) <= window.0 { (0, 0) } else { moved };
        Ok(Cut::Shifted { window, shift, order, far })
    })
}

/// The attention of a block, at the path of `w`.
fn attention(c: &Config, w: &Weights, stage: usize, within: usize) -> Result<Box<dyn Attention>> {
    let (dim, heads, window) = (c.width(stage), c.heads[stage], c.window(stage));
    let own = w.at("self");
    let n_places = (2 * window.0 - 1) * (2 * window.1 - 1);
    let names = AttentionNames {
        fused: Some("self.qkv"),
        ..AttentionNames::new(["self.query", "self.key", "self.value"], "output.dense")
    };
    let plain = AttentionSpec::new(names, dim, heads);
    let (positions, bias, scores) = if c.version == Version::V2 {
        let net = own.at("continuous_position_bias_mlp");
        let positions = Places::Network {
            places: log_places(window, c.pretrained[stage])?,
            fc1: net.tensor("0.weight", &[NETWORK, 2], ParamKind::Table)?,
            bias: net.tensor("0.bias", &[NETWORK], ParamKind::Vector)?,
            fc2: net.tensor("2.weight", &[heads, NETWORK], ParamKind::Table)?,
        };
        let log = own.with_init(Init::Constant(10f32.ln())).tensor("logit_scale", &[heads, 1, 1], ParamKind::Table)?;
        // Keys have no bias.
        (positions, [c.qkv_bias, false, c.qkv_bias], Scores::Cosine(log))
    } else {
        let table = own.tensor("relative_position_bias_table", &[n_places, heads], ParamKind::Table)?;
        (Places::Table(table), [c.qkv_bias; 3], Scores::Dot(c.scale.of(dim / heads)))
    };
    let places = PlaceBias { window, positions, fixed: (!w.is_trainable()).then(OnceLock::new) };
    w.attention(&AttentionSpec {
        bias,
        scores,
        positions: Positions::Pairs(Arc::new(places)),
        cuts: vec![windows(c, stage, within)],
        ..plain
    })
}

/// Width of the network over relative places.
const NETWORK: usize = 512;

/// Relative places of a window on a logarithmic scale, `[(2 h - 1) * (2 w - 1), 2]`. With a pretrained window (0 is
/// the own one) a place keeps the coordinates it was trained at.
fn log_places((h, w): Size, pretrained: usize) -> Result<Tensor> {
    let unit = |side: usize| (if pretrained > 0 { pretrained } else { side }).saturating_sub(1).max(1) as f32;
    let log = |at: usize, side: usize| {
        let far = (at as f32 - (side as f32 - 1.0)) / unit(side) * 8.0;
        far.signum() * (far.abs() + 1.0).log2() / 3.0
    };
    let (tall, wide) = (2 * h - 1, 2 * w - 1);
    let places: Vec<f32> = (0..tall).flat_map(|y| (0..wide).flat_map(move |x| [log(y, h), log(x, w)])).collect();
    Tensor::from_vec(places, (tall * wide, 2))
}

struct Block {
    version: Version,
    attn: Box<dyn Attention>,
    norm1: LayerNorm,
    ffn: Box<dyn Ffn>,
    norm2: LayerNorm,
}

impl Block {
    fn load(c: &Config, w: &Weights, stage: usize, within: usize) -> Result<Self> {
        let dim = c.width(stage);
        let hidden = (dim as f64 * c.mlp_ratio) as usize;
        Ok(Block {
            version: c.version,
            attn: attention(c, &w.at("attention"), stage, within)?,
            norm1: w.layer_norm("layernorm_before", dim, c.eps)?,
            ffn: w.ffn(&FfnSpec::new(&["intermediate.dense"], "output.dense", [dim, hidden], c.act))?,
            norm2: w.layer_norm("layernorm_after", dim, c.eps)?,
        })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        Ok(match self.version {
            Version::V1 => {
                let x = self.attn.forward_onto(cx, &self.norm1.forward(x)?, rows, x)?;
                self.ffn.forward_onto(cx, &self.norm2.forward(&x)?, rows, &x)?
            }
            Version::V2 => {
                let mixed = self.norm1.forward(&self.attn.forward(cx, x, rows)?)?;
                let x = cx.onto(x, mixed, "attn")?;
                let fed = self.norm2.forward(&self.ffn.forward(cx, &x, rows)?)?;
                cx.onto(&x, fed, "ffn")?
            }
        })
    }
}

/// 2x2 squares of rows become one row of twice the width.
struct Merge {
    version: Version,
    norm: LayerNorm,
    reduction: Box<dyn Linear>,
}

impl Merge {
    fn load(c: &Config, w: &Weights, stage: usize) -> Result<Self> {
        let dim = c.width(stage);
        let normed = if c.version == Version::V1 { 4 * dim } else { 2 * dim };
        Ok(Merge {
            version: c.version,
            // transformers fixes the epsilon of these.
            norm: w.layer_norm("norm", normed, 1e-5)?,
            reduction: w.linear("reduction", 4 * dim, 2 * dim, false)?,
        })
    }

    fn forward(&self, cx: &mut Ctx, state: State) -> Result<State> {
        let (squares, rows) = merge_squares(&state.x, &state.rows)?;
        let x = match self.version {
            Version::V1 => self.reduction.forward(cx, &self.norm.forward(&squares)?)?,
            Version::V2 => self.norm.forward(&self.reduction.forward(cx, &squares)?)?,
        };
        Ok(State::new(x, rows))
    }
}

/// The model, of either version.
pub struct Swin {
    config: Config,
    patches: PatchEmbed,
    patch_norm: Option<LayerNorm>,
    positions: Option<MapPositions>,
    /// In front of every stage but the first.
    merges: Vec<Merge>,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: PooledHead,
}

impl Swin {
    pub(crate) fn load(entry: &Entry, c: &ConfigMap, w: &Weights, version: Version) -> Result<Self> {
        let config = Config::read(c, version)?;
        let last = config.width(config.stages.n() - 1);
        let (e, layers) = (w.at("embeddings"), w.at("encoder.layers"));
        let classifier = entry.architecture(c)?.ends_with("ForImageClassification").then_some("classifier");
        Ok(Swin {
            patches: PatchEmbed::load(
                &e,
                &PatchSpec {
                    name: "patch_embeddings.projection",
                    channels: config.channels,
                    patch: config.patch,
                    dim: config.dim,
                    bias: true,
                },
            )?,
            patch_norm: config.patch_norm.then(|| e.layer_norm("norm", config.dim, 1e-5)).transpose()?,
            positions: config
                .absolute
                .then(|| MapPositions::load(&e, "position_embeddings", config.trained(), config.dim))
                .transpose()?,
            merges: (0..config.stages.n() - 1)
                .map(|s| Merge::load(&config, &layers.at(s).at("downsample"), s))
                .collect::<Result<_>>()?,
            blocks: config
                .stages
                .all()
                .map(|(s, i)| Block::load(&config, &layers.at(s).at("blocks").at(i), s, i))
                .collect::<Result<_>>()?,
            norm: w.layer_norm("layernorm", last, config.eps)?,
            head: PooledHead::load(c, w, classifier, last)?,
            config,
        })
    }

    /// Patches along height and width of every image.
    fn grids(&self, input: &Input) -> Result<Vec<Size>> {
        let (ph, pw) = self.config.patch;
        Ok(input.image_sizes(self.config.channels)?.iter().map(|(h, w)| (h.div_ceil(ph), w.div_ceil(pw))).collect())
    }
}

impl Staged for Swin {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let embed = |pixels: &Tensor| self.patches.forward(cx, &pad_to_patches(pixels, self.config.patch)?);
        let parts = input.pixels(self.config.channels)?.iter().map(embed).collect::<Result<_>>()?;
        let x = joined(parts)?; // [total, dim]
        let x = self.patch_norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))?;
        let rows = Rows::maps(&self.grids(input)?)?;
        let x = self.positions.as_ref().map_or(Ok(x.clone()), |p| p.forward(&x, &rows))?;
        Ok(State::new(x, rows))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        let (stage, within) = self.config.stages.of(idx);
        let State { x, rows, .. } =
            if stage > 0 && within == 0 { self.merges[stage - 1].forward(cx, state)? } else { state };
        let x = self.blocks[idx].forward(cx, &x, &rows)?;
        if self.config.stages.ends((stage, within)) {
            tap_stage(cx, stage, &x, &rows)?;
        }
        Ok(State::new(x, rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        self.head.forward(cx, self.norm.forward(&state.x)?, &state)
    }
    fn first_exit(&self) -> usize {
        self.config.stages.first_exit()
    }
}

impl Model for Swin {
    fn spec(&self) -> InputSpec {
        InputSpec::images(self.config.channels, self.config.image, self.config.patch)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
