//! MPNet - BERT's network, trained to predict permuted tokens that know all positions.
//!
//! Paper: "MPNet: Masked and Permuted Pre-training for Language Understanding", arXiv 2004.09297. Code: microsoft/MPNet.
//! Weights: microsoft/mpnet-base, sentence-transformers/all-mpnet-base-v2.
//! Idea: the blocks are BERT's; one table adds a number by the distance of query and key to the scores of all blocks.
//! Positions and heads are RoBERTa's, the vocabulary is BERT's behind four special tokens, and there are no segments.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, pooler_output [b, dim], or a head's logits.`
//! Departs from the reference: packed rows, no padding. The reference computes 32 buckets and pads with id 1 whatever
//! the config says; other values are refused.

use switchformer_nn::attention::{DistanceBias, Positions};
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, check_heads};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{AttentionNames, AttentionSpec, Ctx, Input, InputSpec, Model, Output, Result, Staged, Weights};

use super::bert::{Config, Embeddings};
use super::roberta::{HEADS, Positions as AfterPadding, load_head};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::TextHead;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "mpnet",
    paper: "MPNet: Masked and Permuted Pre-training for Language Understanding, arXiv 2004.09297",
    summary: "post-norm Transformer encoder over word pieces, scores with a bias by distance",
    architectures: &[
        ("MPNetModel", HeadKind::Encoder),
        ("MPNetForMaskedLM", HeadKind::MaskedLm),
        ("MPNetForSequenceClassification", HeadKind::SequenceClassification),
        ("MPNetForTokenClassification", HeadKind::TokenClassification),
        ("MPNetForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/mpnet.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "mpnet.",
    heads: &["lm_head", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"mpnet","architectures":["MPNetForSequenceClassification"],"vocab_size":50,"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,"max_position_embeddings":34,
        "num_labels":3}"#,
    load: |config, w| Ok(Box::new(MpNet::load(config, w)?)),
};

const NAMES: Names = Names::new(&[("mpnet.**", "**")], &["embeddings.position_ids"]);

/// Rows of the table of biases by distance.
const BUCKETS: usize = 32;
/// Distances from here on share a bucket.
const MAX_DISTANCE: usize = 128;
/// Id of the padding.
const PAD: usize = 1;

/// Reads the family's fields into BERT's sizes.
fn read(c: &ConfigMap) -> Result<Config> {
    c.only("relative_attention_num_buckets", &[BUCKETS.into()])?;
    c.only("pad_token_id", &[PAD.into()])?;
    let config = Config {
        vocab: c.size("vocab_size", Some(30_527), MAX_VOCAB)?,
        dim: c.size("hidden_size", Some(768), MAX_DIM)?,
        depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
        heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
        mlp_dim: c.size("intermediate_size", Some(3072), MAX_DIM)?,
        act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
        eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
        positions: c.size("max_position_embeddings", Some(512), MAX_POSITIONS)?,
        types: 0,
    };
    check_heads(config.dim, config.heads)?;
    Ok(config)
}

/// The model.
pub struct MpNet {
    config: Config,
    positions: AfterPadding,
    embeddings: Embeddings,
    blocks: Vec<EncoderBlock>,
    head: TextHead,
}

impl MpNet {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = read(c)?;
        let positions = AfterPadding::read(PAD, config.positions)?;
        HEADS.lm.find_words(c, w)?;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, config.dim, 0)?;
        let encoder = w.at("encoder");
        let distances = encoder.embedding("relative_attention_bias", BUCKETS, config.heads)?;
        let spec = BlockSpec {
            dim: config.dim,
            heads: config.heads,
            mlp_dim: config.mlp_dim,
            act: config.act,
            eps: config.eps,
            qkv_bias: true,
            norm_first: false,
            attention: AttentionNames::new(
                ["attention.attn.q", "attention.attn.k", "attention.attn.v"],
                "attention.attn.o",
            ),
            norm1: "attention.LayerNorm",
            norm2: "output.LayerNorm",
            fc: ["intermediate.dense", "output.dense"],
        };
        let attention = AttentionSpec {
            positions: Positions::Distance(DistanceBias {
                table: distances.table().clone(),
                max_distance: MAX_DISTANCE,
                bidirectional: true,
            }),
            ..spec.attention_spec()
        };
        let block = |i| EncoderBlock::load_around(&encoder.at("layer").at(i), &spec, &attention);
        let blocks = (0..config.depth).map(block).collect::<Result<_>>()?;
        let head = load_head(ENTRY.head_of(c)?, c, w, &config, &embeddings.words)?;
        Ok(MpNet { config, positions, embeddings, blocks, head })
    }
}

impl Staged for MpNet {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let x = self.embeddings.forward(&text.ids, &[], &self.positions.of(&text.ids, &text.rows))?;
        // Distances are those of columns, so that gaps in the mask keep theirs.
        Ok(State::new(x, text.rows.clone().at_positions(&text.columns)?))
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

impl Model for MpNet {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.positions.max_len())
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
