//! Swin v2 - Swin that scales: norms behind the branches, cosine scores, positions from a small network.
//!
//! Paper: "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv 2111.09883. Code: microsoft/Swin-Transformer.
//! Weights: microsoft/swinv2-tiny-patch4-window8-256 and kin; timm `swinv2_*` folders load too.
//! Idea: as `swin.rs`, where all of it is computed; a model may run at another window than it was trained with, since
//! what relative places add is a function of their distance and no table.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, dim] .. [h / 32, w / 32, 8 dim] -> logits [b, labels].`
//! Departs from the reference: see `swin.rs`.

use super::swin::{ARGS, NAMES, Swin, Version};
use crate::entry::{Entry, HeadKind, Timm, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "swinv2",
    paper: "Swin Transformer V2: Scaling Up Capacity and Resolution, arXiv 2111.09883",
    summary: "Swin with norms behind the branches, cosine scores and continuous relative positions",
    architectures: &[
        ("Swinv2Model", HeadKind::Encoder),
        ("Swinv2ForImageClassification", HeadKind::ImageClassification),
    ],
    published: Published::new(include_str!("../../../variants/swinv2.json")),
    names: NAMES,
    blocks: &["encoder.layers."],
    prefix: "swinv2.",
    heads: &["classifier"],
    traits: &[Trait::NoExitHeads, Trait::Pyramid],
    toy: r#"{"model_type":"swinv2","architectures":["Swinv2ForImageClassification"],"embed_dim":16,"depths":[1,2],
        "num_heads":[2,4],"window_size":4,"mlp_ratio":2.0,"image_size":32,"patch_size":2,"num_channels":1,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(Swin::load(&ENTRY, config, w, Version::V2)?)),
};

/// timm's form of it.
pub static TIMM: Timm =
    Timm { family: "swinv2", entry: &ENTRY, architecture: "Swinv2ForImageClassification", args: ARGS, pool: "avg" };
