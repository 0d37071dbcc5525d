//! Activator - gated linear units in the place of attention.
//!
//! Paper: "Activator: GLU Activation Function as the Core Component of a Vision Transformer", arXiv 2405.15953. Code:
//! Abdullah-88/Activator; the authors' names load. Weights: none published.
//! Idea: every patch goes through a gated unit, `W3 (LN(GELU(W1 x)) * LN(W2 x))`, where a Transformer attends, and then
//! through a feed-forward, or through nothing more. Patches first meet in the mean in front of the classifier, and have
//! no place: the model sees a bag of them.
//! Shapes: `pixels [b, c, h, w] -> rows [b * gh * gw, dim] -> logits [b, labels].`
//! Departs from the reference: none known. Both norms of a block are one, and so are both of a gated unit, as there.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_SIDE};
use switchformer_nn::layers::{Activation, LayerNorm, project_onto};
use switchformer_nn::maps::{Conv, mean_rows, pixel_rows};
use switchformer_nn::names::Names;
use switchformer_nn::ops::Epilogue;
use switchformer_nn::staged::State;
use switchformer_nn::{
    Ctx, Error, Ffn, FfnSpec, Input, InputSpec, Linear, Model, Output, Result, Rows, Size, Staged, Tensor, Weights, ops,
};

use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "activator",
    paper: "Activator: GLU Activation Function as the Core Component of a Vision Transformer, arXiv 2405.15953",
    summary: "gated linear units in the place of attention; a bag of image patches",
    architectures: &[("ACTIVATORImageClassification", HeadKind::ImageClassification)],
    published: Published::new(include_str!("../../../variants/activator.json")),
    names: Names::new(&[], &[]),
    blocks: &["model."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::NoAttention],
    toy: r#"{"model_type":"activator","architectures":["ACTIVATORImageClassification"],"d_model":32,"d_ffn":48,
        "num_layers":3,"image_size":16,"patch_size":4,"in_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(Activator::load(config, w)?)),
};

/// The authors' constructor, in the same folder form as timm's.
pub static TIMM: Timm = Timm {
    family: "activator",
    entry: &ENTRY,
    architecture: "ACTIVATORImageClassification",
    args: &[
        ("image_size", "image_size"),
        ("patch_size", "patch_size"),
        ("in_channels", "in_channels"),
        ("d_model", "d_model"),
        ("d_ffn", "d_ffn"),
        ("num_layers", "num_layers"),
        ("only_geglu", "only_geglu"),
        ("dropout", "dropout"),
    ],
    pool: "avg",
};

/// All norms.
const EPS: f64 = 1e-5;

/// `W3 (LN(GELU(W1 x)) * LN(W2 x))` with one norm.
struct GatedUnit {
    gate: Box<dyn Linear>,
    value: Box<dyn Linear>,
    norm: LayerNorm,
    out: Box<dyn Linear>,
}

impl GatedUnit {
    fn load(w: &Weights, dim: usize, hidden: usize) -> Result<Self> {
        Ok(GatedUnit {
            gate: w.linear("proj_1", dim, hidden, true)?,
            value: w.linear("proj_2", dim, hidden, true)?,
            norm: w.layer_norm("norm", hidden, EPS)?,
            out: w.linear("proj_3", hidden, dim, true)?,
        })
    }

    /// Shapes: x and residual `[rows, dim]` -> `[rows, dim]`.
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        let gate = self.gate.forward_with(cx, x, &Epilogue { act: Some(Activation::Gelu), ..Epilogue::default() })?;
        let value = self.value.forward(cx, x)?;
        let both = ops::times(&self.norm.forward(&gate)?, &self.norm.forward(&value)?)?;
        project_onto(cx, self.out.as_ref(), &both, residual, "unit")
    }
}

struct Block {
    /// In front of both parts.
    norm: LayerNorm,
    unit: GatedUnit,
    ffn: Option<Box<dyn Ffn>>,
}

impl Block {
    fn load(w: &Weights, dim: usize, hidden: usize, only: bool) -> Result<Self> {
        let act = Activation::Gelu;
        let ffn = FfnSpec::new(&["ffn.net.0"], "ffn.net.3", [dim, hidden], act);
        Ok(Block {
            norm: w.layer_norm("norm", dim, EPS)?,
            unit: GatedUnit::load(&w.at("actgu"), dim, hidden)?,
            ffn: if only { None } else { Some(w.ffn(&ffn)?) },
        })
    }

    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.unit.forward_onto(cx, &self.norm.forward(x)?, x)?;
        match &self.ffn {
            Some(ffn) => ffn.forward_onto(cx, &self.norm.forward(&x)?, rows, &x),
            None => Ok(x),
        }
    }
}

/// The model.
pub struct Activator {
    channels: usize,
    image: Size,
    patch: usize,
    patcher: Conv,
    blocks: Vec<Block>,
    classifier: Box<dyn Linear>,
}

impl Activator {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let (dim, hidden) = (c.size("d_model", Some(256), MAX_DIM)?, c.size("d_ffn", Some(512), MAX_DIM)?);
        let (channels, patch) = (c.size("in_channels", Some(3), 64)?, c.size("patch_size", Some(4), MAX_SIDE)?);
        let image = c.pair("image_size", 32, MAX_SIDE)?;
        let only = c.flag("only_geglu", false)?;
        if image.0.min(image.1) < patch {
            return Err(Error::config("image_size", format!("is smaller than a patch of {patch}x{patch}")));
        }
        let block = |i: usize| Block::load(&w.at("model").at(i), dim, hidden, only);
        Ok(Activator {
            patcher: Conv::load(&w.at("patcher"), [dim, channels, patch], [patch, 0], true)?,
            blocks: (0..c.size("num_layers", Some(4), MAX_DEPTH)?).map(block).collect::<Result<_>>()?,
            classifier: w.linear("classifier", dim, c.n_labels()?, true)?,
            channels,
            image,
            patch,
        })
    }
}

impl Staged for Activator {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let (x, rows) = pixel_rows(input.pixels(self.channels)?)?;
        let (x, rows) = self.patcher.forward(cx, &x, &rows)?;
        Ok(State::new(x, rows))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State::new(self.blocks[idx].forward(cx, &state.x, &state.rows)?, state.rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        Ok(Output::new().member("logits", self.classifier.forward(cx, &mean_rows(&state.x, &state.rows)?)?))
    }
}

impl Model for Activator {
    fn spec(&self) -> InputSpec {
        InputSpec::images(self.channels, self.image, (self.patch, self.patch))
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
