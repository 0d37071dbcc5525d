//! ALBERT - BERT whose blocks share one set of weights, with a narrow word table.
//!
//! Paper: "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations", arXiv 1909.11942.
//! Code: google-research/albert. Weights: albert/albert-base-v2 and kin.
//! Idea: word vectors of width `embedding_size` are mapped up to `hidden_size`; one block runs `num_hidden_layers` times.
//! Shapes: `ids [total] -> [total, embedding_size] -> rows [total, dim] -> last_hidden_state, pooler_output, or logits.`
//! Departs from the reference: one group of one layer (all published models); packed rows, no padding.

use serde_json::json;
use switchformer_nn::config::{ConfigMap, MAX_DIM};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{AttentionNames, Ctx, Input, InputSpec, Linear, Model, Output, Result, Staged, Weights};

use super::bert::{Config, Embeddings};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHead, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "albert",
    paper: "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations, arXiv 1909.11942",
    summary: "BERT whose blocks share one set of weights, with a narrow word table",
    architectures: &[
        ("AlbertModel", HeadKind::Encoder),
        ("AlbertForMaskedLM", HeadKind::MaskedLm),
        ("AlbertForSequenceClassification", HeadKind::SequenceClassification),
        ("AlbertForTokenClassification", HeadKind::TokenClassification),
        ("AlbertForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/albert.json")),
    names: Names::new(&[("albert.**", "**")], &["embeddings.position_ids"]),
    blocks: &["encoder.albert_layer_groups."],
    prefix: "albert.",
    heads: &["predictions", "classifier", "qa_outputs", "sop_classifier"],
    traits: &[],
    toy: r#"{"model_type":"albert","architectures":["AlbertForSequenceClassification"],"vocab_size":50,
        "embedding_size":16,"hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "hidden_act":"gelu_new","max_position_embeddings":32,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Albert::load(config, w)?)),
};

/// Path of the one layer of the one group.
const SHARED: &str = "encoder.albert_layer_groups.0.albert_layers.0";

const HEADS: TextHeads = TextHeads {
    lm: MaskedLmNames {
        dense: "predictions.dense",
        norm: "predictions.LayerNorm",
        decoder: "predictions.decoder",
        bias: "predictions.bias",
        words: "embeddings.word_embeddings",
    },
    lm_act: None,
    pooler: Some("pooler"),
    pooled_by: ("pooler", Activation::Tanh),
    classifier: "classifier",
    next: None,
};

/// The model.
pub struct Albert {
    config: Config,
    embeddings: Embeddings,
    widen: Box<dyn Linear>,
    /// The one block that runs at every depth.
    shared: EncoderBlock,
    head: TextHead,
}

/// BERT's sizes with this family's defaults, which differ (4096 wide, 64 heads, tanh GELU).
fn read(c: &ConfigMap) -> Result<Config> {
    c.only("num_hidden_groups", &[json!(1)])?;
    c.only("inner_group_num", &[json!(1)])?;
    Config::read(&c.or(&[
        ("vocab_size", json!(30_000)),
        ("hidden_size", json!(4096)),
        ("num_attention_heads", json!(64)),
        ("intermediate_size", json!(16_384)),
        ("hidden_act", json!("gelu_new")),
    ]))
}

impl Albert {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = read(c)?;
        let (dim, narrow) = (config.dim, c.size("embedding_size", Some(128), MAX_DIM)?);
        let spec = BlockSpec {
            dim,
            heads: config.heads,
            mlp_dim: config.mlp_dim,
            act: config.act,
            eps: config.eps,
            qkv_bias: true,
            norm_first: false,
            attention: AttentionNames::new(["attention.query", "attention.key", "attention.value"], "attention.dense"),
            norm1: "attention.LayerNorm",
            norm2: "full_layer_layer_norm",
            fc: ["ffn", "ffn_output"],
        };
        HEADS.lm.find_words(c, w)?;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, narrow, config.types)?;
        let widen = w.linear("encoder.embedding_hidden_mapping_in", narrow, dim, true)?;
        let shared = EncoderBlock::load(&w.at(SHARED), &spec)?;
        let head = HEADS.load(ENTRY.head_of(c)?, c, w, config.head_sizes(), &embeddings.words)?;
        Ok(Albert { config, embeddings, widen, shared, head })
    }
}

impl Staged for Albert {
    fn n_blocks(&self) -> usize {
        self.config.depth
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let x = self.embeddings.forward(&text.ids, &input.token_types()?, &text.columns)?; // [total, embedding_size]
        Ok(State::new(self.widen.forward(cx, &x)?, text.rows.clone()))
    }
    fn block(&self, cx: &mut Ctx, _: usize, state: State) -> Result<State> {
        Ok(State::new(self.shared.forward(cx, &state.x, &state.rows)?, state.rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        self.head.forward(cx, state)
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        self.head.classifier()
    }
}

impl Model for Albert {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.config.positions).with_types(self.config.types)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
