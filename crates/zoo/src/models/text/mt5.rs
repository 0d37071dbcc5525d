//! mT5 - T5 v1.1 over a hundred languages.
//!
//! Paper: "mT5: A massively multilingual pre-trained text-to-text transformer", arXiv 2010.11934. Code:
//! google-research/multilingual-t5. Weights: google/mt5-small and kin.
//! Idea: the network is T5's with a gated feed-forward, a vocabulary of 250 thousand pieces and a head of its own.
//! Shapes: those of T5.
//! Departs from the reference: as T5. Rows are never scaled before the head, whatever the config says of ties.

use super::t5::{Defaults, NAMES, T5, dense};
use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "mt5",
    paper: "mT5: A massively multilingual pre-trained text-to-text transformer, arXiv 2010.11934",
    summary: "T5 v1.1 over a hundred languages",
    architectures: &[
        ("MT5ForConditionalGeneration", HeadKind::Generation),
        ("MT5Model", HeadKind::EncoderDecoder),
        ("MT5EncoderModel", HeadKind::Encoder),
    ],
    published: Published::new(include_str!("../../../variants/mt5.json")),
    names: NAMES,
    blocks: &["block."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads],
    toy: r#"{"model_type":"mt5","architectures":["MT5ForConditionalGeneration"],"vocab_size":50,"d_model":32,"d_kv":4,
        "d_ff":48,"num_layers":2,"num_decoder_layers":1,"num_heads":6,"relative_attention_num_buckets":8,
        "relative_attention_max_distance":16,"tie_word_embeddings":false}"#,
    load: |config, w| Ok(Box::new(T5::load(config, w, &ENTRY, &DEFAULTS, &dense)?)),
};

const DEFAULTS: Defaults = Defaults {
    vocab: 250_112,
    dim: 512,
    ff: 1024,
    depth: 8,
    heads: 6,
    act: "gated-gelu",
    act_field: "feed_forward_proj",
    tied: false,
    scales: false,
};
