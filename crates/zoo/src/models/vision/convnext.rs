//! ConvNeXt - a pyramid of wide depth-wise convolutions and feed-forwards, built like a Transformer without attention.
//!
//! Paper: "A ConvNet for the 2020s", arXiv 2201.03545. Code: facebookresearch/ConvNeXt. Weights: facebook/convnext-*;
//! timm `convnext_*` folders and the names of the authors load too.
//! Idea: a 7x7 convolution of every channel mixes places, a norm and a feed-forward mix channels; learned factors stand
//! before the residual. Stages halve the map by a norm and a convolution.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: `last_hidden_state` is rows, channels last.

use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_SIDE, MAX_STAGES};
use switchformer_nn::layers::{Activation, LayerNorm, LayerScale};
use switchformer_nn::leaf::Ffn;
use switchformer_nn::maps::{Conv, Depthwise, mean_rows};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::staged::State;
use switchformer_nn::weights::FfnSpec;
use switchformer_nn::{Ctx, Error, Linear, Output, Result, Rows, Size, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;
use crate::pyramid::{Downsample, MapHead, Mixer, Pyramid, Shrink, Stages};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "convnext",
    paper: "A ConvNet for the 2020s, arXiv 2201.03545",
    summary: "pyramid of wide depth-wise convolutions and feed-forwards, without attention",
    architectures: &[
        ("ConvNextModel", HeadKind::Encoder),
        ("ConvNextForImageClassification", HeadKind::ImageClassification),
    ],
    published: Published::new(include_str!("../../../variants/convnext.json")),
    names: Names::new(RULES, &[]),
    blocks: &["encoder.stages."],
    prefix: "convnext.",
    heads: &["classifier"],
    traits: &[Trait::NoExitHeads, Trait::Pyramid, Trait::MapOutput, Trait::NoAttention],
    toy: r#"{"model_type":"convnext","architectures":["ConvNextForImageClassification"],"hidden_sizes":[8,16],
        "depths":[1,2],"num_stages":2,"image_size":32,"patch_size":2,"num_channels":1,"layer_scale_init_value":0.5,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// timm's form of it.
pub static TIMM: Timm = Timm {
    family: "convnext",
    entry: &ENTRY,
    architecture: "ConvNextForImageClassification",
    args: &[
        ("in_chans", "num_channels"),
        ("depths", "depths"),
        ("dims", "hidden_sizes"),
        ("act_layer", "hidden_act"),
        ("norm_eps", "layer_norm_eps"),
        ("ls_init_value", "layer_scale_init_value"),
    ],
    pool: "avg",
};

/// timm's names and those of the authors onto the published ones.
const RULES: &[Rename] = &[
    ("convnext.**", "**"),
    ("stem.0.*", "embeddings.patch_embeddings.*"),
    ("stem.1.*", "embeddings.layernorm.*"),
    ("downsample_layers.0.0.*", "embeddings.patch_embeddings.*"),
    ("downsample_layers.0.1.*", "embeddings.layernorm.*"),
    ("downsample_layers.*.**", "encoder.stages.*.downsampling_layer.**"),
    ("stages.*.downsample.**", "encoder.stages.*.downsampling_layer.**"),
    ("stages.*.blocks.*.**", "encoder.stages.*.layers.*.**"),
    ("stages.*.*.**", "encoder.stages.*.layers.*.**"),
    ("encoder.stages.*.layers.*.conv_dw.*", "encoder.stages.*.layers.*.dwconv.*"),
    ("encoder.stages.*.layers.*.norm.*", "encoder.stages.*.layers.*.layernorm.*"),
    ("encoder.stages.*.layers.*.mlp.fc1.*", "encoder.stages.*.layers.*.pwconv1.*"),
    ("encoder.stages.*.layers.*.mlp.fc2.*", "encoder.stages.*.layers.*.pwconv2.*"),
    ("encoder.stages.*.layers.*.gamma", "encoder.stages.*.layers.*.layer_scale_parameter"),
    ("norm.*", "layernorm.*"),
    ("head.norm.*", "layernorm.*"),
    ("head.fc.*", "classifier.*"),
    ("head.*", "classifier.*"),
];

/// Epsilon of the norms of the stem and of stages.
const EPS: f64 = 1e-6;
/// Side of the depth-wise convolutions.
const KERNEL: usize = 7;

/// The published config, checked.
struct Config {
    stages: Stages,
    dims: Vec<usize>,
    act: Activation,
    /// Epsilon of the last norm.
    eps: f64,
    /// Epsilon of the others.
    inner_eps: f64,
    /// What factors start at, where there are any.
    scale: Option<f32>,
    channels: usize,
    image: Size,
    patch: usize,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let stages = Stages::read(c, "depths", &[3, 3, 9, 3])?;
        let n = stages.n();
        if c.size("num_stages", Some(n), MAX_STAGES)? != n {
            return Err(Error::config("num_stages", format!("is not the {n} entries of depths")));
        }
        let scale = c.float("layer_scale_init_value", 1e-6, -1e3, 1e3)?;
        let eps = c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?;
        Ok(Config {
            dims: c.stages("hidden_sizes", &[96, 192, 384, 768], Some(n), MAX_DIM)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps,
            // timm has one for all.
            inner_eps: if c.flag("one_norm_eps", false)? { eps } else { EPS },
            scale: (scale > 0.0).then_some(scale as f32),
            channels: c.size("num_channels", Some(3), 64)?,
            image: c.pair("image_size", 224, MAX_SIDE)?,
            patch: c.size("patch_size", Some(4), MAX_SIDE)?,
            stages,
        })
    }
}

/// `x + scale * ffn(norm(conv(x)))`.
struct Block {
    conv: Depthwise,
    norm: LayerNorm,
    ffn: Box<dyn Ffn>,
    scale: LayerScale,
}

impl Block {
    fn load(c: &Config, w: &Weights, dim: usize) -> Result<Self> {
        Ok(Block {
            conv: Depthwise::load(&w.at("dwconv"), dim, KERNEL)?,
            norm: w.layer_norm("layernorm", dim, c.inner_eps)?,
            ffn: w.ffn(&FfnSpec::new(&["pwconv1"], "pwconv2", [dim, 4 * dim], c.act))?,
            scale: LayerScale::load(w, &["layer_scale_parameter"], &[dim], c.scale)?,
        })
    }
}

impl Mixer for Block {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let mixed = self.norm.forward(&self.conv.forward(cx, x, rows)?)?;
        if self.scale.is_none() {
            return self.ffn.forward_onto(cx, &mixed, rows, x);
        }
        let fed = self.ffn.forward(cx, &mixed, rows)?;
        cx.onto(x, self.scale.scaled(0, fed)?, "ffn")
    }
}

/// A norm, and a convolution to half the size.
struct Down {
    norm: LayerNorm,
    conv: Conv,
}

impl Shrink for Down {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = self.conv.forward(cx, &self.norm.forward(x)?, rows)?;
        Ok(State::new(x, rows))
    }
}

/// The mean of the last map behind a norm, perhaps classified.
struct Head {
    norm: LayerNorm,
    classifier: Option<Box<dyn Linear>>,
}

impl MapHead for Head {
    fn forward(&self, cx: &mut Ctx, hidden: Tensor, end: &State) -> Result<Output> {
        let pooled = self.norm.forward(&mean_rows(&hidden, &end.rows)?)?;
        Ok(match &self.classifier {
            Some(classifier) => Output::new().member("logits", classifier.forward(cx, &pooled)?),
            None => Output::new().rows("last_hidden_state", hidden, &end.rows).member("pooler_output", pooled),
        })
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Pyramid<Block, Downsample, Down, Head>> {
    let config = Config::read(c)?;
    let (n, dims) = (config.stages.n(), &config.dims);
    let (e, stages) = (w.at("embeddings"), w.at("encoder.stages"));
    let down = |s: usize| -> Result<Down> {
        let w = stages.at(s).at("downsampling_layer");
        let conv = Conv::load(&w.at(1), [dims[s], dims[s - 1], 2], [2, 0], true)?;
        Ok(Down { norm: w.layer_norm("0", dims[s - 1], config.inner_eps)?, conv })
    };
    let block = |(s, i): (usize, usize)| Block::load(&config, &stages.at(s).at("layers").at(i), dims[s]);
    let classifies = ENTRY.head_of(c)? == HeadKind::ImageClassification;
    let classes = || w.linear("classifier", dims[n - 1], c.n_labels()?, true);
    let step = [config.patch, 0];
    Ok(Pyramid {
        stem: Downsample {
            conv: Conv::load(&e.at("patch_embeddings"), [dims[0], config.channels, config.patch], step, true)?,
            norm: e.layer_norm("layernorm", dims[0], config.inner_eps)?,
        },
        downs: (1..n).map(down).collect::<Result<_>>()?,
        blocks: config.stages.all().map(block).collect::<Result<_>>()?,
        norms: (0..n).map(|_| None).collect(),
        head: Head {
            norm: w.layer_norm("layernorm", dims[n - 1], config.eps)?,
            classifier: classifies.then(classes).transpose()?,
        },
        channels: config.channels,
        image: config.image,
        patch: config.patch,
        stages: config.stages,
    })
}
