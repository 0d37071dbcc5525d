//! CSWin - attention inside vertical and horizontal stripes at once.
//!
//! Paper: "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows", arXiv 2107.00652. Code:
//! microsoft/CSWin-Transformer; the authors' names load.
//! Idea: half of the channels attend inside stripes as high as the map, the other half inside stripes as wide as it, so
//! one block sees a cross; stripes grow from stage to stage. Place comes from a 3x3 depth-wise convolution of the values
//! of each stripe, so nothing is tied to a size.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, dim] .. [h / 32, w / 32, 8 dim] -> logits [b, labels].`
//! Departs from the reference: maps need not be square; sides that stripes do not divide are refused, as there.

use std::sync::Arc;

use switchformer_nn::attention::{Partition, Scores};
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_HEADS, MAX_SIDE, MAX_STAGES};
use switchformer_nn::layers::{Activation, LayerNorm, check_heads};
use switchformer_nn::leaf::Ffn;
use switchformer_nn::maps::{Conv, Cut, Depthwise};
use switchformer_nn::names::Names;
use switchformer_nn::weights::FfnSpec;
use switchformer_nn::{Attention, AttentionNames, AttentionSpec, Ctx, Error, Result, Rows, Size, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{Downsample, Mixer, PooledHead, Pyramid, ScoreScale, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "cswin",
    paper: "CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows, arXiv 2107.00652",
    summary: "pyramid with attention inside vertical and horizontal stripes",
    architectures: &[("CSWinTransformer", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/cswin.json")),
    names: Names::new(&[], &[]),
    blocks: &["stage1.", "stage2.", "stage3.", "stage4.", "stage5.", "stage6.", "stage7.", "stage8."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid],
    toy: r#"{"model_type":"cswin","architectures":["CSWinTransformer"],"embed_dim":16,"depth":[1,2],"split_size":[2,4],
        "num_heads":[2,4],"mlp_ratio":2.0,"img_size":32,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// The authors' factories, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "cswin",
    entry: &ENTRY,
    architecture: "CSWinTransformer",
    args: &[
        ("img_size", "img_size"),
        // Without effect in the authors' code, as is `hybrid_backbone`.
        ("patch_size", "patch_size"),
        ("hybrid_backbone", "hybrid_backbone"),
        ("in_chans", "in_chans"),
        ("embed_dim", "embed_dim"),
        ("depth", "depth"),
        ("split_size", "split_size"),
        ("num_heads", "num_heads"),
        ("mlp_ratio", "mlp_ratio"),
        ("qkv_bias", "qkv_bias"),
        ("qk_scale", "qk_scale"),
    ],
    pool: "avg",
};

/// All norms have this epsilon.
const EPS: f64 = 1e-5;

/// The authors' arguments, checked.
struct Config {
    stages: Stages,
    dim: usize,
    heads: Vec<usize>,
    /// Width of the stripes of a stage; `None` where one window is the whole map.
    stripes: Vec<Option<usize>>,
    mlp_ratio: f64,
    qkv_bias: bool,
    scale: ScoreScale,
    channels: usize,
    image: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        // The first convolution: 7 pixels, 4 apart, 2 beyond the edge.
        let _side = |n: usize| n.saturating_sub(3) / 4 + 1;
        let stages = Stages::read(c, "depth", &[1, 2, 21, 1])?;
        let n = stages.n();
        // The last stage has no stripes, so its number may be left out.
        let short = c.get("split_size").and_then(|v| v.as_array()).is_some_and(|list| list.len() + 1 == n);
        let split = c.stages("split_size", &[1, 2, 7, 7], (!short).then_some(n), MAX_SIDE)?;
        let whole = |s: usize| s + 1 == n || (image.0 / 4) >> s == split[s];
        let config = Config {
            dim: c.size("embed_dim", Some(96), MAX_DIM >> MAX_STAGES)?,
            heads: c.stages("num_heads", &[2, 4, 8, 16], Some(n), MAX_HEADS)?,
            stripes: (0..n).map(|s| (!whole(s)).then(|| split[s])).collect(),
            mlp_ratio: c.float("mlp_ratio", 4.0, 0.01, 64.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            scale: ScoreScale::read(c)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            stages,
        };
        for s in 0..n {
            let branches = if config.stripes[s].is_some() { 2 } else { 1 };
            check_heads(config.width(s), config.heads[s])?;
            check_heads(config.heads[s], branches)?;
        }
        Ok(config)
    }

    /// Width of a stage.
    fn width(&self, stage: usize) -> usize {
        self.dim << stage
    }
}

/// Stripes of a map: as wide as given and as long as the map, upright or lying; `None` is the whole map.
fn stripes(stripe: Option<(usize, bool)>) -> Partition {
    Arc::new(move |(h, w)| {
        let window = match stripe {
            None => (h, w),
            Some((wide, false)) => (h, wide),
            Some((wide, true)) => (wide, w),
        };
        if !h.is_multiple_of(window.0) || !w.is_multiple_of(window.1) {
            return Err(Error::input(
                format!("a map of {h}x{w} does not divide into stripes of {}x{}", window.0, window.1),
                "resize the image so that the map of every stage divides by its split_size",
            ));
        }
        Ok(Cut::plain(window))
    })
}

struct Block {
    norm1: LayerNorm,
    attn: Box<dyn Attention>,
    norm2: LayerNorm,
    ffn: Box<dyn Ffn>,
}

impl Block {
    fn load(c: &Config, w: &Weights, stage: usize) -> Result<Self> {
        let (dim, heads) = (c.width(stage), c.heads[stage]);
        let hidden = (dim as f64 * c.mlp_ratio) as usize;
        let directions = match c.stripes[stage] {
            None => vec![None],
            Some(wide) => vec![Some((wide, false)), Some((wide, true))],
        };
        // Every stripe is a picture of its own to the convolution of its values.
        let conv = |i: usize| Depthwise::load(&w.at("attns").at(i).at("get_v"), dim / directions.len(), 3);
        let spec = AttentionSpec {
            bias: [c.qkv_bias; 3],
            scores: Scores::Dot(c.scale.of(dim / heads)),
            local: (0..directions.len()).map(conv).collect::<Result<_>>()?,
            cuts: directions.into_iter().map(stripes).collect(),
            ..AttentionSpec::new(AttentionNames::new(["qkv"; 3], "proj"), dim, heads)
        };
        Ok(Block {
            norm1: w.layer_norm("norm1", dim, EPS)?,
            attn: w.attention(&spec)?,
            norm2: w.layer_norm("norm2", dim, EPS)?,
            ffn: w.ffn(&FfnSpec::new(&["mlp.fc1"], "mlp.fc2", [dim, hidden], Activation::Gelu))?,
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.attn.forward_onto(cx, &self.norm1.forward(x)?, rows, x)?;
        self.ffn.forward_onto(cx, &self.norm2.forward(&x)?, rows, &x)
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block>> {
    let config = Config::read(c)?;
    let n = config.stages.n();
    let embed = w.at("stage1_conv_embed");
    let down = |s: usize| -> Result<Downsample> {
        let (w, dim) = (w.at(format!("merge{s}")), config.width(s));
        let conv = Conv::load(&w.at("conv"), [dim, config.width(s - 1), 3], [2, 1], true)?;
        Ok(Downsample { conv, norm: w.layer_norm("norm", dim, EPS)? })
    };
    let block = |(s, i): (usize, usize)| Block::load(&config, &w.at(format!("stage{}", s + 1)).at(i), s);
    let last = config.width(n - 1);
    let mut norms = vec![None; n - 1];
    norms.push(Some(w.layer_norm("norm", last, EPS)?));
    Ok(Pyramid {
        stem: Downsample {
            conv: Conv::load(&embed.at(0), [config.dim, config.channels, 7], [4, 2], true)?,
            norm: embed.layer_norm("2", config.dim, EPS)?,
        },
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().map(block).collect::<Result<_>>()?,
        norms,
        head: PooledHead::load(c, w, Some("head"), last)?,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
        patch: 4,
    })
}
