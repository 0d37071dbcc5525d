//! GTE as its authors publish it: their configs call it "new".
//!
//! Paper: "mGTE: Generalized Long-Context Text Representation and Reranking Models for Multilingual Text Retrieval",
//! arXiv 2407.19669. Code: Alibaba-NLP/new-impl. Weights: Alibaba-NLP/gte-base-en-v1.5, gte-large-en-v1.5,
//! gte-multilingual-base, gte-multilingual-reranker-base.
//! Idea, shapes and departures: those of `gte.rs`.

use super::gte::{Defaults, NAMES, load};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "new",
    paper: "mGTE: Generalized Long-Context Text Representation and Reranking Models for Multilingual Text Retrieval, arXiv \
            2407.19669",
    summary: "GTE as its authors publish it",
    architectures: &[
        ("NewModel", HeadKind::Encoder),
        ("NewForMaskedLM", HeadKind::MaskedLm),
        ("NewForSequenceClassification", HeadKind::SequenceClassification),
        ("NewForTokenClassification", HeadKind::TokenClassification),
        ("NewForQuestionAnswering", HeadKind::QuestionAnswering),
        ("NewForMultipleChoice", HeadKind::MultipleChoice),
    ],
    published: Published::new(include_str!("../../../variants/new.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "new.",
    heads: &["lm_head", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"new","architectures":["NewForSequenceClassification"],"vocab_size":50,"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":48,"max_position_embeddings":64,
        "rope_theta":1000,"rope_scaling":{"type":"ntk","factor":2.0},"type_vocab_size":2,"num_labels":3}"#,
    load: |c, w| {
        let defaults = Defaults { vocab: 30_528, positions: 2048, theta: 10_000.0 };
        Ok(Box::new(load(c, w, &ENTRY, &defaults, None)?))
    },
};
