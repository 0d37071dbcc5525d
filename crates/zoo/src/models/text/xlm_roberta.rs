//! XLM-RoBERTa - RoBERTa over a hundred languages.
//!
//! Paper: "Unsupervised Cross-lingual Representation Learning at Scale", arXiv 1911.02116. Code: facebookresearch/XLM.
//! Weights: FacebookAI/xlm-roberta-base and kin, BAAI/bge-m3, intfloat/multilingual-e5-base.
//! Idea: the network is RoBERTa's; the vocabulary has 250 thousand pieces of SentencePiece.
//! Shapes and departures: those of RoBERTa.

use super::roberta::{NAMES, Roberta};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "xlm-roberta",
    paper: "Unsupervised Cross-lingual Representation Learning at Scale, arXiv 1911.02116",
    summary: "RoBERTa over a hundred languages",
    architectures: &[
        ("XLMRobertaModel", HeadKind::Encoder),
        ("XLMRobertaForMaskedLM", HeadKind::MaskedLm),
        ("XLMRobertaForSequenceClassification", HeadKind::SequenceClassification),
        ("XLMRobertaForTokenClassification", HeadKind::TokenClassification),
        ("XLMRobertaForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/xlm-roberta.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "roberta.",
    heads: &["lm_head", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"xlm-roberta","architectures":["XLMRobertaForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "max_position_embeddings":34,"type_vocab_size":2,"layer_norm_eps":1e-5,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Roberta::load(config, w, &ENTRY)?)),
};
