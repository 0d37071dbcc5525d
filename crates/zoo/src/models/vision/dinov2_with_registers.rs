//! DINOv2 with registers - rows without a place that take what the model would else write into patches.
//!
//! Paper: "Vision Transformers Need Registers", arXiv 2309.16588. Code: facebookresearch/dinov2. Weights:
//! facebook/dinov2-with-registers-small, -base, -large, -giant; the names of the authors load too.
//! Idea: DINOv2, with a few learned rows behind the class row that have no position and are not read at the end.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + registers + gh * gw), dim] -> last_hidden_state, or logits [b, labels].`
//! Departs from the reference: as DINOv2.

use super::dinov2::{NAMES, Registers, load};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "dinov2_with_registers",
    paper: "Vision Transformers Need Registers, arXiv 2309.16588",
    summary: "DINOv2 with learned rows that have no place",
    architectures: &[
        ("Dinov2WithRegistersModel", HeadKind::Encoder),
        ("Dinov2WithRegistersForImageClassification", HeadKind::ImageClassification),
    ],
    published: Published::new(include_str!("../../../variants/dinov2_with_registers.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "dinov2_with_registers.",
    heads: &["classifier"],
    traits: &[],
    toy: r#"{"model_type":"dinov2_with_registers","architectures":["Dinov2WithRegistersForImageClassification"],
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"mlp_ratio":2,"image_size":16,"patch_size":4,
        "num_channels":1,"num_register_tokens":3,"num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(&ENTRY, config, w, Registers::Always)?)),
};
