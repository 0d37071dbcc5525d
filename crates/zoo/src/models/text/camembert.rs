//! CamemBERT - RoBERTa over French.
//!
//! Paper: "CamemBERT: a Tasty French Language Model", arXiv 1911.03894. Code: facebookresearch/fairseq.
//! Weights: almanach/camembert-base and kin.
//! Idea: the network is RoBERTa's; the vocabulary has 32 thousand pieces of SentencePiece.
//! Shapes and departures: those of RoBERTa.

use super::roberta::{NAMES, Roberta};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "camembert",
    paper: "CamemBERT: a Tasty French Language Model, arXiv 1911.03894",
    summary: "RoBERTa over French",
    architectures: &[
        ("CamembertModel", HeadKind::Encoder),
        ("CamembertForMaskedLM", HeadKind::MaskedLm),
        ("CamembertForSequenceClassification", HeadKind::SequenceClassification),
        ("CamembertForTokenClassification", HeadKind::TokenClassification),
        ("CamembertForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/camembert.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "roberta.",
    heads: &["lm_head", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"camembert","architectures":["CamembertForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "max_position_embeddings":34,"type_vocab_size":2,"layer_norm_eps":1e-5,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Roberta::load(config, w, &ENTRY)?)),
};
