//! RoBERTa - BERT trained longer on more text, over byte-level pieces.
//!
//! Paper: "RoBERTa: A Robustly Optimized BERT Pretraining Approach", arXiv 1907.11692. Code: facebookresearch/fairseq.
//! Weights: FacebookAI/roberta-base and kin, distilroberta-base.
//! Idea: the network is BERT's; positions start after the padding id, and heads differ.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, pooler_output [b, dim], or a head's logits.`
//! Departs from the reference: packed rows, no padding; absolute positions only.

use switchformer_nn::config::{ConfigMap, MAX_POSITIONS};
use switchformer_nn::layers::{Activation, Embedding, EncoderBlock};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Error, Input, InputSpec, Model, Output, Result, Rows, Staged, Weights};

use super::bert::{Config, Embeddings, load_blocks};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHead, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "roberta",
    paper: "RoBERTa: A Robustly Optimized BERT Pretraining Approach, arXiv 1907.11692",
    summary: "BERT's network over byte-level pieces, trained longer",
    architectures: &[
        ("RobertaModel", HeadKind::Encoder),
        ("RobertaForMaskedLM", HeadKind::MaskedLm),
        ("RobertaForSequenceClassification", HeadKind::SequenceClassification),
        ("RobertaForTokenClassification", HeadKind::TokenClassification),
        ("RobertaForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/roberta.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "roberta.",
    heads: &["lm_head", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"roberta","architectures":["RobertaForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "max_position_embeddings":34,"type_vocab_size":2,"layer_norm_eps":1e-5,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Roberta::load(config, w, &ENTRY)?)),
};

pub(crate) const NAMES: Names = Names::new(
    &[("roberta.**", "**"), ("**.gamma", "**.weight"), ("**.beta", "**.bias")],
    &["embeddings.position_ids", "embeddings.token_type_ids"],
);

/// Heads of RoBERTa and its kin.
pub(crate) const HEADS: TextHeads = TextHeads {
    lm: MaskedLmNames {
        dense: "lm_head.dense",
        norm: "lm_head.layer_norm",
        decoder: "lm_head.decoder",
        bias: "lm_head.bias",
        words: "embeddings.word_embeddings",
    },
    // The reference fixes the activation of this head to the exact GELU.
    lm_act: Some(Activation::Gelu),
    pooler: Some("pooler.dense"),
    pooled_by: ("classifier.dense", Activation::Tanh),
    classifier: "classifier.out_proj",
    next: None,
};

/// The model.
pub struct Roberta {
    config: Config,
    positions: Positions,
    embeddings: Embeddings,
    blocks: Vec<EncoderBlock>,
    head: TextHead,
}

impl Roberta {
    pub(crate) fn load(c: &ConfigMap, w: &Weights, entry: &Entry) -> Result<Self> {
        let config = Config::read(c)?;
        let positions = Positions::read(c.int("pad_token_id", Some(1), MAX_POSITIONS)?, config.positions)?;
        HEADS.lm.find_words(c, w)?;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, config.dim, config.types)?;
        let blocks = load_blocks(&config, &w.at("encoder.layer"))?;
        let head = load_head(entry.head_of(c)?, c, w, &config, &embeddings.words)?;
        Ok(Roberta { config, positions, embeddings, blocks, head })
    }
}

/// Positions that count from `pad + 1` over the ids that are not padding; a padding id sits at `pad`.
#[derive(Clone, Copy)]
pub(crate) struct Positions {
    pad: u32,
    /// Rows of the table.
    table: usize,
}

impl Positions {
    /// Errors where the table has no row behind that of the padding.
    pub(crate) fn read(pad: usize, table: usize) -> Result<Self> {
        if table <= pad + 1 {
            let what = format!("must exceed pad_token_id + 1 = {}", pad + 1);
            return Err(Error::config("max_position_embeddings", what));
        }
        Ok(Positions { pad: pad as u32, table })
    }

    /// Shapes: ids `[total]` -> `[total]`.
    pub(crate) fn of(self, ids: &[u32], rows: &Rows) -> Vec<u32> {
        let mut out = Vec::with_capacity(ids.len());
        for i in 0..rows.n() {
            let mut seen = self.pad;
            for id in &ids[rows.range(i)] {
                seen += u32::from(*id != self.pad);
                out.push(if *id == self.pad { self.pad } else { seen });
            }
        }
        out
    }

    /// Most tokens of a text.
    pub(crate) fn max_len(self) -> usize {
        self.table - self.pad as usize - 1
    }
}

/// The head of a kind under the names of RoBERTa and its kin.
pub(crate) fn load_head(
    kind: HeadKind,
    c: &ConfigMap,
    w: &Weights,
    config: &Config,
    words: &Embedding,
) -> Result<TextHead> {
    HEADS.load(kind, c, w, config.head_sizes(), words)
}

impl Staged for Roberta {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let positions = self.positions.of(&text.ids, &text.rows);
        let x = self.embeddings.forward(&text.ids, &input.token_types()?, &positions)?;
        Ok(State::new(x, text.rows.clone()))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State::new(self.blocks[idx].forward(cx, &state.x, &state.rows)?, state.rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        self.head.forward(cx, state)
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        self.head.classifier()
    }
}

impl Model for Roberta {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.positions.max_len()).with_types(self.config.types)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
