//! ResNet - convolutions on a residual, the measure of every other image model.
//!
//! Paper: "Deep Residual Learning for Image Recognition", arXiv 1512.03385. Code: KaimingHe/deep-residual-networks; the
//! stride stands in the 3x3 convolution unless `downsample_in_bottleneck` says otherwise (ResNet v1.5).
//! Weights: microsoft/resnet-18, -34, -50, -101, -152.
//! Idea: two or three convolutions with batch norms, added to what they read. The first layer of a stage halves the map,
//! and its residual goes through a convolution of its own. The mean of the last map answers.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, d0] .. [h / 32, w / 32, d3] -> logits [b, labels].`
//! Departs from the reference: `last_hidden_state` is rows, channels last, and `pooler_output` `[b, dim]`.

use switchformer_nn::config::{ConfigMap, MAX_DIM, MAX_SIDE};
use switchformer_nn::layers::{Activation, BatchNorm};
use switchformer_nn::maps::{Conv, max_windows, pixel_rows};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Error, Input, InputSpec, Model, Output, Result, Rows, Size, Staged, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;
use crate::pyramid::{MapHead, PooledHead, Stages, tap_stage};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "resnet",
    paper: "Deep Residual Learning for Image Recognition, arXiv 1512.03385",
    summary: "pyramid of convolutions with batch norms on a residual",
    architectures: &[
        ("ResNetModel", HeadKind::Encoder),
        ("ResNetForImageClassification", HeadKind::ImageClassification),
    ],
    published: Published::new(include_str!("../../../variants/resnet.json")),
    names: Names::new(&[("resnet.**", "**")], &["**.num_batches_tracked"]),
    blocks: &["encoder.stages."],
    prefix: "resnet.",
    heads: &["classifier"],
    traits: &[
        Trait::NoExitHeads,
        Trait::Pyramid,
        Trait::MapOutput,
        Trait::ConvolutionsAlone,
        Trait::NoAttention,
        Trait::Kinks,
    ],
    toy: r#"{"model_type":"resnet","architectures":["ResNetForImageClassification"],"embedding_size":8,
        "hidden_sizes":[16,24],"depths":[1,2],"layer_type":"bottleneck","hidden_act":"gelu","image_size":32,
        "num_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(ResNet::load(config, w)?)),
};

/// Epsilon of batch norms.
const EPS: f64 = 1e-5;
/// How many times narrower a bottleneck is.
const REDUCTION: usize = 4;
/// Pixels along a side that a place of the last map stands for.
const STRIDE: usize = 32;

/// What a layer consists of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// Two 3x3 convolutions.
    Basic,
    /// 1x1 to fewer channels, 3x3, 1x1 back.
    Bottleneck,
}

/// The published config, checked.
struct Config {
    stages: Stages,
    /// Channels of the stem.
    stem: usize,
    dims: Vec<usize>,
    layer: Layer,
    act: Activation,
    /// Whether the first stage halves the map too.
    first_halves: bool,
    /// Whether the first convolution of a bottleneck has the stride.
    early: bool,
    channels: usize,
    image: Size,
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let stages = Stages::read(c, "depths", &[3, 4, 6, 3])?;
        let n = Some(stages.n());
        let kinds = [("bottleneck", Layer::Bottleneck), ("basic", Layer::Basic)];
        let config = Config {
            stem: c.size("embedding_size", Some(64), MAX_DIM)?,
            dims: c.stages("hidden_sizes", &[256, 512, 1024, 2048], n, MAX_DIM)?,
            layer: c.one_of("layer_type", "bottleneck", &kinds)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "relu")?)?,
            first_halves: c.flag("downsample_in_first_stage", false)?,
            early: c.flag("downsample_in_bottleneck", false)?,
            channels: c.size("num_channels", Some(3), 64)?,
            // Configs of the reference name no size; it was trained at this one.
            image: c.pair("image_size", 224, MAX_SIDE)?,
            stages,
        };
        if config.layer == Layer::Bottleneck && config.dims.iter().any(|d| *d < REDUCTION) {
            let what = format!("is {:?}, of which a bottleneck takes one in {REDUCTION}", config.dims);
            return Err(Error::config("hidden_sizes", what));
        }
        Ok(config)
    }
}

/// A convolution without bias, its batch norm, and perhaps an activation.
struct ConvNorm {
    conv: Conv,
    norm: BatchNorm,
    act: Option<Activation>,
}

impl ConvNorm {
    /// `shape` is `[out, channels, kernel]`; the padding keeps the map where `stride` is 1.
    fn load(w: &Weights, shape: [usize; 3], stride: usize, act: Option<Activation>) -> Result<Self> {
        let conv = Conv::load(&w.at("convolution"), shape, [stride, shape[2] / 2], false)?;
        Ok(ConvNorm { conv, norm: w.batch_norm("normalization", shape[0], EPS)?, act })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<State> {
        let (x, rows) = self.conv.forward(cx, x, rows)?;
        let x = self.norm.forward(cx, &x)?;
        Ok(State::new(self.act.map_or(Ok(x.clone()), |act| act.forward(&x))?, rows))
    }
}

/// `act(shortcut(x) + layers(x))`.
struct Block {
    shortcut: Option<ConvNorm>,
    layers: Vec<ConvNorm>,
    act: Activation,
}

impl Block {
    fn load(c: &Config, w: &Weights, (stage, within): (usize, usize)) -> Result<Self> {
        let out = c.dims[stage];
        let dim = match (stage, within) {
            (0, 0) => c.stem,
            (_, 0) => c.dims[stage - 1],
            _ => out,
        };
        let stride = if within == 0 && (stage > 0 || c.first_halves) { 2 } else { 1 };
        // Whatever the activation of the config, those within a layer are ReLUs.
        let (narrow, act) = (out / REDUCTION, Some(Activation::Relu));
        let [early, late] = if c.early { [stride, 1] } else { [1, stride] };
        let shapes = match c.layer {
            Layer::Basic => vec![([out, dim, 3], stride, act), ([out, out, 3], 1, None)],
            Layer::Bottleneck => {
                vec![([narrow, dim, 1], early, act), ([narrow, narrow, 3], late, act), ([out, narrow, 1], 1, None)]
            }
        };
        let layer = |(i, (shape, stride, act)): (usize, ([usize; 3], usize, Option<Activation>))| {
            ConvNorm::load(&w.at("layer").at(i), shape, stride, act)
        };
        let changes = dim != out || stride != 1;
        Ok(Block {
            shortcut: changes.then(|| ConvNorm::load(&w.at("shortcut"), [out, dim, 1], stride, None)).transpose()?,
            layers: shapes.into_iter().enumerate().map(layer).collect::<Result<_>>()?,
            act: c.act,
        })
    }

    fn forward(&self, cx: &mut Ctx, state: &State) -> Result<State> {
        let mut end = state.clone();
        for layer in &self.layers {
            end = layer.forward(cx, &end.x, &end.rows)?;
        }
        let residual = match &self.shortcut {
            Some(shortcut) => shortcut.forward(cx, &state.x, &state.rows)?.x,
            None => state.x.clone(),
        };
        Ok(State::new(self.act.forward(&cx.onto(&residual, end.x, "mixer")?)?, end.rows))
    }
}

/// The model.
struct ResNet {
    config: Config,
    stem: ConvNorm,
    blocks: Vec<Block>,
    head: PooledHead,
}

impl ResNet {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let last = config.dims[config.stages.n() - 1];
        let classifier = (ENTRY.head_of(c)? == HeadKind::ImageClassification).then_some("classifier.1");
        let at = |(s, i): (usize, usize)| w.at("encoder.stages").at(s).at("layers").at(i);
        Ok(ResNet {
            stem: ConvNorm::load(&w.at("embedder.embedder"), [config.stem, config.channels, 7], 2, Some(config.act))?,
            blocks: config.stages.all().map(|b| Block::load(&config, &at(b), b)).collect::<Result<_>>()?,
            head: PooledHead::load(c, w, classifier, last)?,
            config,
        })
    }
}

impl Staged for ResNet {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let (x, rows) = pixel_rows(input.pixels(self.config.channels)?)?;
        let state = self.stem.forward(cx, &x, &rows)?;
        let (x, rows) = max_windows(&state.x, &state.rows, [3, 2, 1])?;
        Ok(State::new(x, rows))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        let state = self.blocks[idx].forward(cx, &state)?;
        let at = self.config.stages.of(idx);
        if self.config.stages.ends(at) {
            tap_stage(cx, at.0, &state.x, &state.rows)?;
        }
        Ok(state)
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        self.head.forward(cx, state.x.clone(), &state)
    }
    fn first_exit(&self) -> usize {
        self.config.stages.first_exit()
    }
}

impl Model for ResNet {
    fn spec(&self) -> InputSpec {
        InputSpec::images(self.config.channels, self.config.image, (STRIDE, STRIDE))
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
