//! Marian - translators between pairs of languages.
//!
//! Paper: "Marian: Fast Neural Machine Translation in C++", arXiv 1804.00344. Code: marian-nmt/marian.
//! Weights: Helsinki-NLP/opus-mt-en-de and kin.
//! Idea: the network is BART's with sines in place of learned positions and without norms behind the embeddings; writing
//! starts with the padding.
//! Shapes: those of BART.
//! Departs from the reference: as BART. One table of words for both languages; files with two are refused. The row of the
//! padding learns from the start of what is written, which the reference keeps from it.

use super::bart::{Bart, Defaults, NAMES};
use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "marian",
    paper: "Marian: Fast Neural Machine Translation in C++, arXiv 1804.00344",
    summary: "BART's network with fixed positions, for translation",
    architectures: &[("MarianModel", HeadKind::EncoderDecoder), ("MarianMTModel", HeadKind::Generation)],
    published: Published::new(include_str!("../../../variants/marian.json")),
    names: NAMES,
    blocks: &["layers."],
    prefix: "model.",
    heads: &["final_logits_bias", "lm_head"],
    traits: &[Trait::NoExitHeads],
    toy: r#"{"model_type":"marian","architectures":["MarianMTModel"],"vocab_size":50,"d_model":32,
        "encoder_layers":2,"decoder_layers":2,"encoder_attention_heads":4,"decoder_attention_heads":4,
        "encoder_ffn_dim":48,"decoder_ffn_dim":64,"max_position_embeddings":64,"activation_function":"swish",
        "scale_embedding":true,"decoder_start_token_id":49,"pad_token_id":49}"#,
    load: |config, w| Ok(Box::new(Bart::load(config, w, &ENTRY, &DEFAULTS)?)),
};

const DEFAULTS: Defaults = Defaults { vocab: 58_101, start: 58_100, end: 0, learned: false };
