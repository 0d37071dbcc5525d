//! ELECTRA - BERT that learned to tell which words another model had replaced.
//!
//! Paper: "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", arXiv 2003.10555.
//! Code: google-research/electra. Weights: google/electra-small-discriminator and kin.
//! Idea: the blocks are BERT's; word vectors of width `embedding_size` are mapped up to `hidden_size` where the two differ,
//! and there is no pooler. The discriminator says of every token whether it was replaced; the generator fills masks.
//! Shapes: `ids [total] -> [total, embedding_size] -> rows [total, dim] -> last_hidden_state, or a head's logits
//! ([total] of the discriminator).`
//! Departs from the reference: packed rows, no padding; absolute positions only.

use serde_json::json;
use switchformer_nn::config::{ConfigMap, MAX_DIM};
use switchformer_nn::layers::{Activation, EncoderBlock};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Input, InputSpec, Linear, Model, Output, Result, Staged, Weights};

use super::bert::{Config, Embeddings, load_blocks};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHead, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "electra",
    paper: "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators, arXiv 2003.10555",
    summary: "BERT's network, trained to find replaced words",
    architectures: &[
        ("ElectraModel", HeadKind::Encoder),
        ("ElectraForPreTraining", HeadKind::TokenClassification),
        ("ElectraForMaskedLM", HeadKind::MaskedLm),
        ("ElectraForSequenceClassification", HeadKind::SequenceClassification),
        ("ElectraForTokenClassification", HeadKind::TokenClassification),
        ("ElectraForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/electra.json")),
    names: Names::new(
        &[("electra.**", "**"), ("**.gamma", "**.weight"), ("**.beta", "**.bias")],
        &["embeddings.position_ids", "embeddings.token_type_ids"],
    ),
    blocks: &["encoder.layer."],
    prefix: "electra.",
    heads: &["discriminator_predictions", "generator_predictions", "generator_lm_head", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"electra","architectures":["ElectraForSequenceClassification"],"vocab_size":50,
        "embedding_size":16,"hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "max_position_embeddings":32,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Electra::load(config, w)?)),
};

const HEADS: TextHeads = TextHeads {
    lm: MaskedLmNames {
        dense: "generator_predictions.dense",
        norm: "generator_predictions.LayerNorm",
        decoder: "generator_lm_head",
        bias: "generator_lm_head.bias",
        words: "embeddings.word_embeddings",
    },
    // The reference fixes the activations of heads to the exact GELU.
    lm_act: Some(Activation::Gelu),
    pooler: None,
    pooled_by: ("classifier.dense", Activation::Gelu),
    classifier: "classifier.out_proj",
    next: None,
};

const DISCRIMINATOR: &str = "discriminator_predictions";

/// BERT's sizes with this family's defaults, which differ.
fn read(c: &ConfigMap) -> Result<Config> {
    Config::read(&c.or(&[
        ("hidden_size", json!(256)),
        ("num_attention_heads", json!(4)),
        ("intermediate_size", json!(1024)),
    ]))
}

/// Says of every token whether it was replaced.
struct Discriminator {
    dense: Box<dyn Linear>,
    act: Activation,
    prediction: Box<dyn Linear>,
}

enum Head {
    Text(TextHead),
    Replaced(Discriminator),
}

/// The model.
pub struct Electra {
    config: Config,
    embeddings: Embeddings,
    /// From the width of the word table to that of the blocks, where they differ.
    widen: Option<Box<dyn Linear>>,
    blocks: Vec<EncoderBlock>,
    head: Head,
}

impl Electra {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = read(c)?;
        let (dim, narrow) = (config.dim, c.size("embedding_size", Some(128), MAX_DIM)?);
        HEADS.lm.find_words(c, w)?;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, narrow, config.types)?;
        let widen = (narrow != dim).then(|| w.linear("embeddings_project", narrow, dim, true)).transpose()?;
        let blocks = load_blocks(&config, &w.at("encoder.layer"))?;
        let architecture = ENTRY.architecture(c)?;
        let head = if architecture == "ElectraForPreTraining" {
            let own = w.at(DISCRIMINATOR);
            Head::Replaced(Discriminator {
                dense: own.linear("dense", dim, dim, true)?,
                act: config.act,
                prediction: own.linear("dense_prediction", dim, 1, true)?,
            })
        } else {
            Head::Text(HEADS.load(ENTRY.head_of(c)?, c, w, config.head_sizes(), &embeddings.words)?)
        };
        Ok(Electra { config, embeddings, widen, blocks, head })
    }
}

impl Staged for Electra {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let x = self.embeddings.forward(&text.ids, &input.token_types()?, &text.columns)?; // [total, embedding_size]
        let x = match &self.widen {
            Some(widen) => widen.forward(cx, &x)?,
            None => x,
        };
        Ok(State::new(x, text.rows.clone()))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State::new(self.blocks[idx].forward(cx, &state.x, &state.rows)?, state.rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        match &self.head {
            Head::Text(head) => head.forward(cx, state),
            Head::Replaced(d) => {
                let x = d.act.forward(&d.dense.forward(cx, &state.x)?)?;
                let one = d.prediction.forward(cx, &x)?.flatten_all()?; // [total]
                Ok(Output::new().rows("logits", one, &state.rows))
            }
        }
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        match &self.head {
            Head::Text(head) => head.classifier(),
            Head::Replaced(_) => None,
        }
    }
}

impl Model for Electra {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.config.positions).with_types(self.config.types)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
