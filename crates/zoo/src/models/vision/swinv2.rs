//! Swin v2 - Swin that scales: norms behind the branches, cosine scores, positions from a small network.
//!
//! Paper: "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv 2111.09883. Code: microsoft/Swin-Transformer.
//! Weights: microsoft/swinv2-tiny-patch4-window8-256 and kin; timm `swinv2_*` folders load too.
//! Idea: as `swin.rs`, where all of it is computed; a model may run at another window than it was trained with, since
//! what relative places add is a function of their distance and no table.
//! Shapes: `pixels [b, c, h, w] -> maps [h / 4, w / 4, dim] .. [h / 32, w / 32, 8 dim] -> logits [b, labels].`
//! Departs from the reference: see `swin.rs`.

use super::swin::{ARGS, NAMES, Swin, Version};
use crate::entry::{Entry, HeadKind, Timm, Trait, Variant};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "swinv2",
    paper: "Swin Transformer V2: Scaling Up Capacity and Resolution, arXiv 2111.09883",
    summary: "Swin with norms behind the branches, cosine scores and continuous relative positions",
    architectures: &[
        ("Swinv2Model", HeadKind::Encoder),
        ("Swinv2ForImageClassification", HeadKind::ImageClassification),
    ],
    variants: VARIANTS,
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
pub static TIMM: Timm = Timm {
    family: "swinv2",
    entry: &ENTRY,
    architecture: "Swinv2ForImageClassification",
    fixed: r#"{"pad_after_shift":true}"#,
    bare: "{}",
    args: ARGS,
    pool: "avg",
};

const VARIANTS: &[Variant] = &[
    variant("swinv2-tiny-window8-256", 28_347_154, r#"{"image_size":256,"window_size":8}"#),
    variant("swinv2-tiny-window16-256", 28_347_154, r#"{"image_size":256,"window_size":16}"#),
    variant("swinv2-small-window8-256", 49_728_418, r#"{"image_size":256,"window_size":8,"depths":[2,2,18,2]}"#),
    variant("swinv2-small-window16-256", 49_728_418, r#"{"image_size":256,"window_size":16,"depths":[2,2,18,2]}"#),
    variant(
        "swinv2-base-window8-256",
        87_918_816,
        r#"{"image_size":256,"window_size":8,"embed_dim":128,"depths":[2,2,18,2],"num_heads":[4,8,16,32]}"#,
    ),
    variant(
        "swinv2-base-window16-256",
        87_918_816,
        r#"{"image_size":256,"window_size":16,"embed_dim":128,"depths":[2,2,18,2],"num_heads":[4,8,16,32]}"#,
    ),
    variant(
        "swinv2-base-window12-192",
        109_280_841,
        r#"{"image_size":192,"window_size":12,"embed_dim":128,"depths":[2,2,18,2],
            "num_heads":[4,8,16,32],"num_labels":21841}"#,
    ),
    variant(
        "swinv2-base-window12to16-192to256",
        87_918_816,
        r#"{"image_size":256,"window_size":16,"embed_dim":128,"depths":[2,2,18,2],
            "num_heads":[4,8,16,32],"pretrained_window_sizes":[12,12,12,6]}"#,
    ),
    variant(
        "swinv2-base-window12to24-192to384",
        87_918_816,
        r#"{"image_size":384,"window_size":24,"embed_dim":128,"depths":[2,2,18,2],
            "num_heads":[4,8,16,32],"pretrained_window_sizes":[12,12,12,6]}"#,
    ),
    variant(
        "swinv2-large-window12-192",
        228_772_549,
        r#"{"image_size":192,"window_size":12,"embed_dim":192,"depths":[2,2,18,2],
            "num_heads":[6,12,24,48],"num_labels":21841}"#,
    ),
    variant(
        "swinv2-large-window12to16-192to256",
        196_739_932,
        r#"{"image_size":256,"window_size":16,"embed_dim":192,"depths":[2,2,18,2],
            "num_heads":[6,12,24,48],"pretrained_window_sizes":[12,12,12,6]}"#,
    ),
    variant(
        "swinv2-large-window12to24-192to384",
        196_739_932,
        r#"{"image_size":384,"window_size":24,"embed_dim":192,"depths":[2,2,18,2],
            "num_heads":[6,12,24,48],"pretrained_window_sizes":[12,12,12,6]}"#,
    ),
];

const fn variant(name: &'static str, params: u64, config: &'static str) -> Variant {
    Variant { name, architecture: "Swinv2ForImageClassification", config, params }
}
