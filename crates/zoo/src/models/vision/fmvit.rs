//! FMViT-style - convolutions and attention mixed at several frequencies, in layers that fold.
//!
//! Paper: "FMViT: A multiple-frequency mixing Vision Transformer", arXiv 2311.05707. Code: none published. Weights: none.
//! **Clean-room**: the paper's abstract names the parts (convolutional multi-group re-parameterisation, a lightweight
//! attention, a convolutional fusion block, mixtures of high and low frequencies); every size, kernel and connection here
//! is our own design in the line of Next-ViT, and no number of the paper is claimed for it.
//! Idea: convolutions keep high frequencies, attention to pooled keys keeps low ones, and a third path convolves their
//! sum; the three are joined by one product. While it trains a layer is a sum of branches with a batch norm each; for
//! running all norms fold, exactly, into convolutions and products (`deploy` in the config, which `switchformer compress fold` sets).
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`

use std::sync::Arc;

use switchformer_nn::attention::{Projection, Projections};
use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_SIDE};
use switchformer_nn::layers::{Activation, project_onto};
use switchformer_nn::maps::{FoldSpec, Folding, FoldingHead, mean_squares};
use switchformer_nn::names::Names;
use switchformer_nn::ops::Epilogue;
use switchformer_nn::staged::State;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Linear, Output, Point, Result, Rows, Size, Tensor, Weights,
    ops,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{MapHead, Mixer, Pyramid, Shrink, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "fmvit",
    paper: "FMViT: A multiple-frequency mixing Vision Transformer, arXiv 2311.05707 (clean-room, in its style)",
    summary: "convolutions and attention mixed at several frequencies, in layers that fold (clean-room)",
    architectures: &[("FMViT", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/fmvit.json")),
    names: Names::new(&[], &["**.num_batches_tracked"]),
    blocks: &["blocks."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::ConvolutionalFfn],
    toy: r#"{"model_type":"fmvit","architectures":["FMViT"],"embed_dims":[8,16],"depths":[2,2],"sr_ratios":[1,2],
        "head_dim":4,"group_width":4,"hidden_act":"gelu","mlp_ratio":4,"img_size":32,"in_chans":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// Our own fields, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "fmvit",
    entry: &ENTRY,
    architecture: "FMViT",
    args: &[
        ("img_size", "img_size"),
        ("in_chans", "in_chans"),
        ("embed_dims", "embed_dims"),
        ("depths", "depths"),
        ("sr_ratios", "sr_ratios"),
        ("head_dim", "head_dim"),
        ("group_width", "group_width"),
        ("mlp_ratio", "mlp_ratio"),
        ("mixtures", "mixtures"),
        ("frequencies", "frequencies"),
        ("act_layer", "hidden_act"),
        ("deploy", "deploy"),
    ],
    pool: "avg",
};

/// Epsilon of all batch norms.
const EPS: f64 = 1e-5;
/// Numbers of groups of the branches of a product of the feed-forward.
const GROUPS: [usize; 3] = [1, 2, 4];
/// Side of the kernels.
const KERNEL: usize = 3;

/// What a mixture joins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Frequencies {
    /// Attention, convolution, and convolution of their sum.
    Mixed,
    /// Attention alone.
    Low,
    /// Convolution alone.
    High,
}

/// Our own fields, checked.
struct Config {
    stages: Stages,
    dims: Vec<usize>,
    /// Side of the squares whose means attention looks at.
    reductions: Vec<usize>,
    head_dim: usize,
    group_width: usize,
    mlp_ratio: f64,
    act: Activation,
    /// Which blocks mix frequencies; the others convolve.
    mixtures: Mixes,
    frequencies: Frequencies,
    /// Whether all norms are folded.
    deploy: bool,
    channels: usize,
    image: Size,
}

/// Which blocks mix frequencies.
type Mixes = fn(&Stages, (usize, usize)) -> bool;

const MIXTURES: &[(&str, Mixes)] = &[("last", Stages::ends), ("all", |_, _| true), ("none", |_, _| false)];
const FREQUENCIES: &[(&str, Frequencies)] =
    &[("mixed", Frequencies::Mixed), ("low", Frequencies::Low), ("high", Frequencies::High)];

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let image = c.pair("img_size", 224, MAX_SIDE)?;
        let stages = Stages::read(c, "depths", &[3, 4, 12, 3])?;
        let n = Some(stages.n());
        let config = Config {
            dims: c.stages("embed_dims", &[64, 128, 256, 512], n, MAX_DIM)?,
            reductions: c.stages("sr_ratios", &[8, 4, 2, 1], n, 64)?,
            head_dim: c.size("head_dim", Some(32), MAX_DIM)?,
            group_width: c.size("group_width", Some(32), MAX_DIM)?,
            mlp_ratio: c.float("mlp_ratio", 3.0, 0.01, 64.0)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "relu")?)?,
            mixtures: c.one_of("mixtures", "last", MIXTURES)?,
            frequencies: c.one_of("frequencies", "mixed", FREQUENCIES)?,
            deploy: c.flag("deploy", false)?,
            channels: c.size("in_chans", Some(3), 64)?,
            image,
            stages,
        };
        for dim in &config.dims {
            let hidden = config.hidden(*dim);
            if hidden == 0 || !GROUPS.iter().all(|groups| hidden.is_multiple_of(*groups)) {
                let what = format!("gives {hidden} hidden channels to {dim}, which must divide by each of {GROUPS:?}");
                return Err(Error::config("mlp_ratio", what));
            }
            let half = dim / 2;
            if half == 0 || !dim.is_multiple_of(4) || !half.is_multiple_of(config.group_width) {
                let width = config.group_width;
                let what = format!("holds {dim}, which must divide by 4 and whose half by group_width {width}");
                return Err(Error::config("embed_dims", what));
            }
            if !half.is_multiple_of(config.head_dim) {
                let what = format!("is {}, which does not divide {half}, half of embed_dims", config.head_dim);
                return Err(Error::config("head_dim", what));
            }
        }
        Ok(config)
    }

    /// Channels between the two layers of a block's feed-forward part.
    fn hidden(&self, dim: usize) -> usize {
        (dim as f64 * self.mlp_ratio) as usize
    }

    /// A convolution in groups that keeps the map.
    fn wide(&self, w: &Weights, part: &str, dim: usize) -> Result<Folding> {
        let spec = FoldSpec::wide([dim, dim, KERNEL], dim / self.group_width, 1, EPS);
        Folding::load(w, part, &spec, self.deploy)
    }

    /// A product of rows: a sum of those in `groups`.
    fn point(&self, w: &Weights, part: &str, [dim, out]: [usize; 2], groups: &[usize]) -> Result<Folding> {
        Folding::load(w, part, &FoldSpec::point(out, dim, groups, EPS), self.deploy)
    }
}

fn activated(act: Activation) -> Epilogue<'static> {
    Epilogue { act: Some(act), ..Epilogue::default() }
}

fn onto(residual: &Tensor) -> Epilogue<'_> {
    Epilogue { residual: Some(residual), ..Epilogue::default() }
}

/// `x + out(act(conv(x)))`: high frequencies.
struct Fusion {
    act: Activation,
    conv: Folding,
    out: Box<dyn Linear>,
}

impl Fusion {
    fn load(c: &Config, w: &Weights, dim: usize) -> Result<Self> {
        Ok(Fusion { act: c.act, conv: c.wide(w, "conv", dim)?, out: w.linear("out", dim, dim, true)? })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let (hidden, _) = self.conv.forward_with(cx, x, rows, &activated(self.act))?;
        self.out.forward_with(cx, &hidden, &onto(x))
    }
}

/// A product of rows that may be a sum of several with batch norms behind them.
struct Rowwise {
    folding: Folding,
    dims: (usize, usize),
}

impl Linear for Rowwise {
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        self.folding.forward(cx, x, &Rows::new(&[x.dims2()?.0])?)
    }
    fn dims(&self) -> (usize, usize) {
        self.dims
    }
    fn dense(&self, _: &Point) -> Result<Tensor> {
        Err(Error::unsupported("a dense matrix", "of a layer with batch norms", "a folded checkpoint"))
    }
}

/// Means over squares of places.
struct Squares(usize);

impl Shrink for Squares {
    fn forward(&self, _: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = mean_squares(x, rows, self.0)?;
        Ok(State::new(x, rows))
    }
}

/// Attention whose keys and values are those of means over squares: low frequencies.
fn attention(c: &Config, w: &Weights, dim: usize, stage: usize) -> Result<Box<dyn Attention>> {
    let plain = AttentionSpec::new(AttentionNames::new(["q", "kv", "kv"], "proj"), dim, dim / c.head_dim);
    let spec = AttentionSpec { reduce: Some(Arc::new(Squares(c.reductions[stage]))), ..plain };
    w.attention_of(&spec, |w| {
        let point = |part: &str, parts: usize| -> Result<Projection> {
            let dims = (dim, parts * dim);
            let folding = c.point(w, part, [dims.0, dims.1], &[1])?;
            Ok(Projection::new(Box::new(Rowwise { folding, dims }), vec![dim; parts]))
        };
        Ok(Projections { qkv: vec![point("q", 1)?, point("kv", 2)?], out: w.linear("proj", dim, dim, true)? })
    })
}

/// Paths of half the width: attention, convolution of what it gives, convolution of the sum of both.
struct Mixture {
    enter: Box<dyn Linear>,
    low: Option<Box<dyn Attention>>,
    high: Option<Fusion>,
    both: Option<Fusion>,
    join: Box<dyn Linear>,
}

impl Mixture {
    fn load(c: &Config, w: &Weights, dim: usize, stage: usize) -> Result<Self> {
        let (half, which) = (dim / 2, c.frequencies);
        let low = (which != Frequencies::High).then(|| attention(c, &w.at("attn"), half, stage)).transpose()?;
        let high = (which != Frequencies::Low).then(|| Fusion::load(c, &w.at("high"), half)).transpose()?;
        let both = (which == Frequencies::Mixed).then(|| Fusion::load(c, &w.at("both"), half)).transpose()?;
        let paths = if both.is_some() { 3 } else { 1 };
        let (enter, join) = (w.linear("enter", dim, half, true)?, w.linear("join", paths * half, dim, true)?);
        Ok(Mixture { enter, low, high, both, join })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let mut low = self.enter.forward(cx, x)?;
        if let Some(attention) = &self.low {
            low = attention.forward_onto(cx, &low, rows, &low)?;
        }
        let high = self.high.as_ref().map(|f| f.forward(cx, &low, rows)).transpose()?;
        let joined = match (high, &self.both) {
            (None, _) => low,
            (Some(high), None) => high,
            (Some(high), Some(both)) => {
                let both = both.forward(cx, &ops::add(&low, &high)?, rows)?;
                ops::beside(&[&low, &high, &both])?
            }
        };
        project_onto(cx, self.join.as_ref(), &joined, x, "mixer")
    }
}

enum Part {
    Fusion(Fusion),
    Mixture(Box<Mixture>),
}

/// Something that mixes places, and `x + fc2(act(fc1(x)))`.
struct Block {
    mixer: Part,
    fc1: Folding,
    act: Activation,
    fc2: Folding,
}

impl Block {
    fn load(c: &Config, w: &Weights, at: (usize, usize)) -> Result<Self> {
        let (dim, mlp) = (c.dims[at.0], w.at("mlp"));
        let hidden = c.hidden(dim);
        Ok(Block {
            mixer: if (c.mixtures)(&c.stages, at) {
                Part::Mixture(Box::new(Mixture::load(c, &w.at("mix"), dim, at.0)?))
            } else {
                Part::Fusion(Fusion::load(c, &w.at("fuse"), dim)?)
            },
            fc1: c.point(&mlp, "fc1", [dim, hidden], &GROUPS)?,
            act: c.act,
            fc2: c.point(&mlp, "fc2", [hidden, dim], &GROUPS)?,
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = match &self.mixer {
            Part::Fusion(fusion) => fusion.forward(cx, x, rows)?,
            Part::Mixture(mixture) => mixture.forward(cx, x, rows)?,
        };
        let (hidden, _) = self.fc1.forward_with(cx, &x, rows, &activated(self.act))?;
        if cx.drops_here() {
            let fed = self.fc2.forward(cx, &hidden, rows)?;
            return cx.onto(&x, fed, "ffn");
        }
        Ok(self.fc2.forward_with(cx, &hidden, rows, &onto(&x))?.0)
    }
}

/// Four convolutions, each with the activation behind it; the first and the last halve the map.
struct Convolutions {
    layers: Vec<Folding>,
    act: Activation,
}

impl Convolutions {
    fn load(c: &Config, w: &Weights) -> Result<Self> {
        let (half, dim) = (c.dims[0] / 2, c.dims[0]);
        let layers = [[half, c.channels, 2], [half, half, 1], [half, half, 1], [dim, half, 2]];
        let layer = |(i, [out, dim, stride]): (usize, [usize; 3])| {
            Folding::load(w, &i.to_string(), &FoldSpec::wide([out, dim, KERNEL], 1, stride, EPS), c.deploy)
        };
        Ok(Convolutions { layers: layers.into_iter().enumerate().map(layer).collect::<Result<_>>()?, act: c.act })
    }
}

impl Shrink for Convolutions {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let mut state = State::new(x.clone(), rows.clone());
        for layer in &self.layers {
            let (x, rows) = layer.forward_with(cx, &state.x, &state.rows, &activated(self.act))?;
            state = State::new(x, rows);
        }
        Ok(state)
    }
}

/// Means over squares of two by two places, and a product.
struct Down(Folding);

impl Shrink for Down {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = mean_squares(x, rows, 2)?;
        Ok(State::new(self.0.forward(cx, &x, &rows)?, rows))
    }
}

impl MapHead for FoldingHead {
    fn forward(&self, cx: &mut Ctx, hidden: Tensor, end: &State) -> Result<Output> {
        Ok(Output::new().member("logits", FoldingHead::forward(self, cx, &hidden, &end.rows)?))
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block, Convolutions, Down, FoldingHead>> {
    let config = Config::read(c)?;
    let n = config.stages.n();
    let down = |s: usize| {
        Ok(Down(config.point(&w.at("downs"), &s.to_string(), [config.dims[s - 1], config.dims[s]], &[1])?))
    };
    let block = |(k, at): (usize, (usize, usize))| Block::load(&config, &w.at("blocks").at(k), at);
    Ok(Pyramid {
        stem: Convolutions::load(&config, &w.at("stem"))?,
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().enumerate().map(block).collect::<Result<_>>()?,
        norms: vec![None; n],
        head: FoldingHead::load(w, ["norm", "head"], [c.n_labels()?, config.dims[n - 1]], EPS, config.deploy)?,
        patch: 4,
        stages: config.stages,
        channels: config.channels,
        image: config.image,
    })
}
