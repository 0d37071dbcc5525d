//! DistilBERT - BERT at half depth, taught by BERT.
//!
//! Paper: "DistilBERT, a distilled version of BERT", arXiv 1910.01108. Code: huggingface/transformers.
//! Weights: distilbert/distilbert-base-uncased and kin.
//! Idea: BERT's blocks without segments and without a pooler.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, or a head's logits.`
//! Departs from the reference: packed rows, no padding.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, check_heads};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{AttentionNames, Ctx, Input, InputSpec, Model, Output, Result, Staged, Weights};

use super::bert::{Config, Embeddings};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHead, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "distilbert",
    paper: "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter, arXiv 1910.01108",
    summary: "BERT at half depth, without segments and pooler",
    architectures: &[
        ("DistilBertModel", HeadKind::Encoder),
        ("DistilBertForMaskedLM", HeadKind::MaskedLm),
        ("DistilBertForSequenceClassification", HeadKind::SequenceClassification),
        ("DistilBertForTokenClassification", HeadKind::TokenClassification),
        ("DistilBertForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/distilbert.json")),
    names: Names::new(
        &[("distilbert.**", "**"), ("**.gamma", "**.weight"), ("**.beta", "**.bias")],
        &["embeddings.position_ids"],
    ),
    blocks: &["transformer.layer."],
    prefix: "distilbert.",
    heads: &["vocab_transform", "vocab_layer_norm", "vocab_projector", "pre_classifier", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"distilbert","architectures":["DistilBertForSequenceClassification"],"vocab_size":50,"dim":32,
        "n_layers":3,"n_heads":4,"hidden_dim":64,"max_position_embeddings":32,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(DistilBert::load(config, w)?)),
};

/// The reference hard-codes it.
const EPS: f64 = 1e-12;

const HEADS: TextHeads = TextHeads {
    lm: MaskedLmNames {
        dense: "vocab_transform",
        norm: "vocab_layer_norm",
        decoder: "vocab_projector",
        bias: "vocab_projector.bias",
        words: "embeddings.word_embeddings",
    },
    lm_act: None,
    pooler: None,
    pooled_by: ("pre_classifier", Activation::Relu),
    classifier: "classifier",
    next: None,
};

/// Reads the family's own field names into BERT's sizes.
fn read(c: &ConfigMap) -> Result<Config> {
    let config = Config {
        vocab: c.size("vocab_size", Some(30_522), MAX_VOCAB)?,
        dim: c.size("dim", Some(768), MAX_DIM)?,
        depth: c.size("n_layers", Some(6), MAX_DEPTH)?,
        heads: c.size("n_heads", Some(12), MAX_HEADS)?,
        mlp_dim: c.size("hidden_dim", Some(3072), MAX_DIM)?,
        act: Activation::parse("activation", &c.text("activation", "gelu")?)?,
        eps: EPS,
        positions: c.size("max_position_embeddings", Some(512), MAX_POSITIONS)?,
        types: 0,
    };
    check_heads(config.dim, config.heads)?;
    Ok(config)
}

/// The model.
pub struct DistilBert {
    config: Config,
    embeddings: Embeddings,
    blocks: Vec<EncoderBlock>,
    head: TextHead,
}

impl DistilBert {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = read(c)?;
        let dim = config.dim;
        let spec = BlockSpec {
            dim,
            heads: config.heads,
            mlp_dim: config.mlp_dim,
            act: config.act,
            eps: EPS,
            qkv_bias: true,
            norm_first: false,
            attention: AttentionNames::new(
                ["attention.q_lin", "attention.k_lin", "attention.v_lin"],
                "attention.out_lin",
            ),
            norm1: "sa_layer_norm",
            norm2: "output_layer_norm",
            fc: ["ffn.lin1", "ffn.lin2"],
        };
        HEADS.lm.find_words(c, w)?;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, dim, 0)?;
        let layers = w.at("transformer.layer");
        let blocks = (0..config.depth).map(|i| EncoderBlock::load(&layers.at(i), &spec)).collect::<Result<_>>()?;
        let head = HEADS.load(ENTRY.head_of(c)?, c, w, config.head_sizes(), &embeddings.words)?;
        Ok(DistilBert { config, embeddings, blocks, head })
    }
}

impl Staged for DistilBert {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        Ok(State::new(self.embeddings.forward(&text.ids, &[], &text.columns)?, text.rows.clone()))
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

impl Model for DistilBert {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.config.positions)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
