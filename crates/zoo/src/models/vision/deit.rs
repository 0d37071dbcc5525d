//! DeiT - ViT trained on ImageNet alone, optionally with a second token that learns from a teacher.
//!
//! Paper: "Training data-efficient image transformers & distillation through attention", arXiv 2012.12877.
//! Code: facebookresearch/deit. Weights: facebook/deit-*-distilled-patch16-224; timm `deit_*_distilled_*` folders load too.
//! Idea: the network is ViT's. A distillation row stands beside the class row and has a head of its own; at inference the
//! two heads' logits are averaged.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (2 + gh * gw), dim] -> logits [b, labels].`
//! Departs from the reference: a checkpoint without `distillation_token` is the plain DeiT, with one prefix row.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Input, InputSpec, Linear, Model, Output, Result, Staged, Weights};

use super::vit::{Body, Config, Pooler, TIMM_ARGS};
use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "deit",
    paper: "Training data-efficient image transformers & distillation through attention, arXiv 2012.12877",
    summary: "ViT with a distillation token beside the class token",
    architectures: &[
        ("DeiTModel", HeadKind::Encoder),
        ("DeiTForImageClassification", HeadKind::ImageClassification),
        ("DeiTForImageClassificationWithTeacher", HeadKind::ImageClassification),
    ],
    published: Published::new(include_str!("../../../variants/deit.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "deit.",
    heads: &["classifier", "cls_classifier", "distillation_classifier"],
    traits: &[Trait::OneSize],
    toy: r#"{"model_type":"deit","architectures":["DeiTForImageClassificationWithTeacher"],"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,"image_size":16,"patch_size":4,
        "num_channels":1,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(Deit::load(config, w)?)),
};

/// timm's form of it, with both heads.
pub static TIMM: Timm = Timm {
    family: "deit",
    entry: &ENTRY,
    architecture: "DeiTForImageClassificationWithTeacher",
    args: TIMM_ARGS,
    pool: "token",
};

/// ViT's names, and timm's second head.
const NAMES: Names = Names::new(super::vit::RULES, &[]);

enum Head {
    /// One classifier on the class row.
    Class(Box<dyn Linear>),
    /// Classifiers on the class and the distillation row.
    Both(Box<dyn Linear>, Box<dyn Linear>),
    Pooled(Pooler),
}

/// The model.
pub struct Deit {
    body: Body,
    head: Head,
}

impl Deit {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let architecture = ENTRY.architecture(c)?;
        let teacher = architecture == "DeiTForImageClassificationWithTeacher";
        // The plain DeiT has no distillation token. Its position table is one row shorter, so a lost token is noticed.
        let distilled = teacher || w.is_open() || w.has("embeddings.distillation_token");
        let prefix: &[&str] = if distilled { &["cls_token", "distillation_token"] } else { &["cls_token"] };
        let body = Body::load(Config::read(c)?, w, prefix)?;
        let classes = |name: &str| w.linear(name, body.config.dim, c.n_labels()?, true);
        // timm calls the class head `head` in both kinds, so its name decides by what the file holds.
        let both = if w.has("classifier.weight") { "classifier" } else { "cls_classifier" };
        let head = match architecture {
            "DeiTForImageClassification" => Head::Class(classes("classifier")?),
            "DeiTForImageClassificationWithTeacher" => Head::Both(classes(both)?, classes("distillation_classifier")?),
            _ => Head::Pooled(Pooler::load(c, w, body.config.dim)?),
        };
        Ok(Deit { body, head })
    }
}

impl Staged for Deit {
    fn n_blocks(&self) -> usize {
        self.body.n_blocks()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        self.body.stem(cx, input)
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        self.body.block(cx, idx, state)
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        match &self.head {
            Head::Class(c) => Ok(Output::new().member("logits", c.forward(cx, &self.body.prefix_row(&state, 0)?)?)),
            Head::Both(class, teacher) => {
                let a = class.forward(cx, &self.body.prefix_row(&state, 0)?)?;
                let b = teacher.forward(cx, &self.body.prefix_row(&state, 1)?)?;
                let mean = ((&a + &b)? / 2.0)?;
                Ok(Output::new().member("logits", mean).member("cls_logits", a).member("distillation_logits", b))
            }
            Head::Pooled(p) => p.head(cx, &self.body, state),
        }
    }
    fn prefix_rows(&self) -> Option<usize> {
        (!matches!(self.head, Head::Pooled(_))).then_some(self.body.n_prefix())
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        match &self.head {
            Head::Class(c) | Head::Both(c, _) => Some((self.body.config.dim, c.dims().1)),
            _ => None,
        }
    }
}

impl Model for Deit {
    fn spec(&self) -> InputSpec {
        self.body.spec()
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
