//! RoBERTa - BERT trained longer on more text, over byte-level pieces.
//!
//! Paper: "RoBERTa: A Robustly Optimized BERT Pretraining Approach", arXiv 1907.11692. Code: facebookresearch/fairseq.
//! Weights: FacebookAI/roberta-base and kin, distilroberta-base.
//! Idea: the network is BERT's; positions start after the padding id, and heads differ.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, pooler_output [b, dim], or a head's logits.`
//! Departs from the reference: packed rows, no padding; absolute positions only.

use switchformer_nn::config::{ConfigMap, MAX_POSITIONS};
use switchformer_nn::layers::{Activation, EncoderBlock};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{Ctx, Error, Input, InputSpec, LeafCost, Model, Output, Point, Result, Rows, Staged, Weights};

use super::bert::{Config, Embeddings, load_blocks};
use crate::entry::{Entry, HeadKind, Variant};
use crate::text_head::{MaskedLm, MaskedLmNames, Pooler, TextHead};

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
    ],
    variants: VARIANTS,
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "roberta.",
    heads: &["lm_head", "classifier"],
    traits: &[],
    toy: r#"{"model_type":"roberta","architectures":["RobertaForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "max_position_embeddings":34,"type_vocab_size":1,"layer_norm_eps":1e-5,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Roberta::load(config, w)?)),
};

const VARIANTS: &[Variant] = &[
    variant("roberta-base", 124_645_632, r#"{"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1}"#),
    variant(
        "roberta-large",
        355_359_744,
        r#"{"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1,"hidden_size":1024,
        "num_hidden_layers":24,"num_attention_heads":16,"intermediate_size":4096}"#,
    ),
    variant(
        "distilroberta-base",
        82_118_400,
        r#"{"vocab_size":50265,"max_position_embeddings":514,"type_vocab_size":1,"num_hidden_layers":6}"#,
    ),
];

const fn variant(name: &'static str, params: u64, config: &'static str) -> Variant {
    Variant { name, architecture: "RobertaModel", config, params }
}

const NAMES: Names = Names::new(
    &[("roberta.**", "**"), ("**.gamma", "**.weight"), ("**.beta", "**.bias")],
    &["embeddings.position_ids", "embeddings.token_type_ids"],
);

const LM: MaskedLmNames = MaskedLmNames {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder",
    bias: "lm_head.bias",
    copies: &["lm_head.decoder.weight", "lm_head.decoder.bias"],
};

/// Tensors of the masked-LM head, known and unused when a pre-training file is opened as a bare encoder.
const LM_TENSORS: [&str; 5] = [
    "lm_head.dense.weight",
    "lm_head.dense.bias",
    "lm_head.layer_norm.weight",
    "lm_head.layer_norm.bias",
    "lm_head.bias",
];

/// The model.
pub struct Roberta {
    config: Config,
    pad: usize,
    embeddings: Embeddings,
    blocks: Vec<EncoderBlock>,
    head: TextHead,
}

impl Roberta {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let pad = c.int("pad_token_id", Some(1), MAX_POSITIONS)?;
        if config.positions <= pad + 1 {
            return Err(Error::config(
                "max_position_embeddings",
                format!("must exceed pad_token_id + 1 = {}", pad + 1),
            ));
        }
        let dim = config.dim;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, dim, config.types)?;
        let blocks = load_blocks(&config, &w.at("encoder.layer"))?;
        let architecture = ENTRY.architecture(c)?;
        if architecture != "RobertaModel" {
            ["pooler.dense.weight", "pooler.dense.bias"].iter().for_each(|t| w.skip(t));
        }
        let head = match architecture {
            // The reference fixes the activation of this head to the exact GELU.
            "RobertaForMaskedLM" => {
                TextHead::MaskedLm(MaskedLm::load(w, &LM, dim, &embeddings.words, Activation::Gelu, config.eps)?)
            }
            "RobertaForSequenceClassification" => TextHead::Sequence(
                Pooler::load(w, "classifier.dense", dim, Activation::Tanh)?,
                w.linear("classifier.out_proj", dim, c.n_labels()?, true)?,
            ),
            "RobertaForTokenClassification" => TextHead::Token(w.linear("classifier", dim, c.n_labels()?, true)?),
            _ => {
                LM.copies.iter().chain(&LM_TENSORS).for_each(|t| w.skip(t));
                TextHead::Encoder(Some(Pooler::load(w, "pooler.dense", dim, Activation::Tanh)?))
            }
        };
        Ok(Roberta { config, pad, embeddings, blocks, head })
    }

    /// Positions count from `pad + 1` over the ids that are not padding; a padding id sits at `pad`.
    fn positions(&self, ids: &[u32], rows: &Rows) -> Vec<u32> {
        let pad = self.pad as u32;
        let mut out = Vec::with_capacity(ids.len());
        for i in 0..rows.n() {
            let mut seen = pad;
            for id in &ids[rows.range(i)] {
                seen += u32::from(*id != pad);
                out.push(if *id == pad { pad } else { seen });
            }
        }
        out
    }
}

impl Staged for Roberta {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let positions = self.positions(&text.ids, &text.rows);
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
    fn cost_stem(&self, _: &Point, _: &[usize]) -> LeafCost {
        self.embeddings.cost()
    }
    fn cost_block(&self, idx: usize, point: &Point, lens: &[usize]) -> LeafCost {
        self.blocks[idx].cost(point, lens)
    }
    fn cost_head(&self, point: &Point, lens: &[usize]) -> LeafCost {
        self.head.cost(point, lens)
    }
}

impl Model for Roberta {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.config.positions - self.pad - 1).with_types(self.config.types)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
    fn lens(&self, input: &Input) -> Result<Vec<usize>> {
        Ok(input.ids("input_ids")?.rows.lens())
    }
}
