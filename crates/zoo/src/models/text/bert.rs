//! BERT - a post-norm Transformer encoder over word pieces.
//!
//! Paper: "BERT: Pre-training of Deep Bidirectional Transformers", arXiv 1810.04805. Code: google-research/bert.
//! Weights: google-bert/bert-base-uncased and kin, sentence-transformers/all-MiniLM-L6-v2.
//! Idea: word, position and segment vectors are summed and normed; blocks `x = LN(x + Attn(x)); x = LN(x + MLP(x))`.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, pooler_output [b, dim], or a head's logits.`
//! Departs from the reference: packed rows, no padding; absolute positions only.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, BlockSpec, Embedding, EncoderBlock, LayerNorm, check_heads};
use switchformer_nn::names::Names;
use switchformer_nn::staged::State;
use switchformer_nn::{AttentionNames, Ctx, Input, InputSpec, Model, Output, Result, Staged, Tensor, Weights};

use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{HeadSizes, MaskedLmNames, TextHead, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "bert",
    paper: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, arXiv 1810.04805",
    summary: "post-norm Transformer encoder over word pieces",
    architectures: &[
        ("BertModel", HeadKind::Encoder),
        ("BertForMaskedLM", HeadKind::MaskedLm),
        ("BertForSequenceClassification", HeadKind::SequenceClassification),
        ("BertForTokenClassification", HeadKind::TokenClassification),
        ("BertForQuestionAnswering", HeadKind::QuestionAnswering),
        ("BertForMultipleChoice", HeadKind::MultipleChoice),
        ("BertForNextSentencePrediction", HeadKind::NextSentence),
        ("BertForPreTraining", HeadKind::PreTraining),
    ],
    published: Published::new(include_str!("../../../variants/bert.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "bert.",
    heads: &["cls", "classifier", "qa_outputs"],
    traits: &[],
    toy: r#"{"model_type":"bert","architectures":["BertForSequenceClassification"],"vocab_size":50,"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,"max_position_embeddings":32,
        "num_labels":3}"#,
    load: |config, w| Ok(Box::new(Bert::load(config, w)?)),
};

/// Old LayerNorm names, the task prefix, and buffers.
const NAMES: Names = Names::new(
    &[("bert.**", "**"), ("**.gamma", "**.weight"), ("**.beta", "**.bias")],
    &["embeddings.position_ids", "embeddings.token_type_ids"],
);

/// Sizes of a text encoder, checked.
pub(crate) struct Config {
    pub(crate) vocab: usize,
    pub(crate) dim: usize,
    pub(crate) depth: usize,
    pub(crate) heads: usize,
    pub(crate) mlp_dim: usize,
    pub(crate) act: Activation,
    pub(crate) eps: f64,
    pub(crate) positions: usize,
    pub(crate) types: usize,
}

impl Config {
    pub(crate) fn read(c: &ConfigMap) -> Result<Self> {
        c.only("position_embedding_type", &["absolute".into()])?;
        c.only("is_decoder", &[false.into()])?;
        c.only("add_cross_attention", &[false.into()])?;
        let config = Config {
            vocab: c.size("vocab_size", Some(30_522), MAX_VOCAB)?,
            dim: c.size("hidden_size", Some(768), MAX_DIM)?,
            depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
            heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
            mlp_dim: c.size("intermediate_size", Some(3072), MAX_DIM)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
            positions: c.size("max_position_embeddings", Some(512), MAX_POSITIONS)?,
            types: c.size("type_vocab_size", Some(2), 1 << 16)?,
        };
        check_heads(config.dim, config.heads)?;
        Ok(config)
    }

    /// What heads need of it.
    pub(crate) fn head_sizes(&self) -> HeadSizes {
        HeadSizes { dim: self.dim, act: self.act, eps: self.eps }
    }

    /// A block under the names of BERT and its kin.
    fn block_spec(&self) -> BlockSpec<'static> {
        BlockSpec {
            dim: self.dim,
            heads: self.heads,
            mlp_dim: self.mlp_dim,
            act: self.act,
            eps: self.eps,
            qkv_bias: true,
            norm_first: false,
            attention: AttentionNames::new(
                ["attention.self.query", "attention.self.key", "attention.self.value"],
                "attention.output.dense",
            ),
            norm1: "attention.output.LayerNorm",
            norm2: "output.LayerNorm",
            fc: ["intermediate.dense", "output.dense"],
        }
    }
}

/// Summed and normed embeddings of text.
pub(crate) struct Embeddings {
    pub(crate) words: Embedding,
    /// None where places come otherwise.
    positions: Option<Embedding>,
    types: Option<Embedding>,
    norm: LayerNorm,
}

impl Embeddings {
    /// Loads tables of width `dim`; `types` of 0 means no segment table.
    pub(crate) fn load(w: &Weights, c: &Config, dim: usize, types: usize) -> Result<Self> {
        let positions = w.embedding("position_embeddings", c.positions, dim)?;
        let norm = w.layer_norm("LayerNorm", dim, c.eps)?;
        Ok(Embeddings { positions: Some(positions), ..Embeddings::unplaced(w, c, dim, types, norm)? })
    }

    /// The same without a table of positions.
    pub(crate) fn unplaced(w: &Weights, c: &Config, dim: usize, types: usize, norm: LayerNorm) -> Result<Self> {
        Ok(Embeddings {
            words: w.embedding("word_embeddings", c.vocab, dim)?,
            positions: None,
            types: (types > 0).then(|| w.embedding("token_type_embeddings", types, dim)).transpose()?,
            norm,
        })
    }

    /// Shapes: ids, types and positions `[total]` -> `[total, dim]`.
    pub(crate) fn forward(&self, ids: &[u32], types: &[u32], positions: &[u32]) -> Result<Tensor> {
        let mut x = self.words.forward(ids)?;
        if let Some(table) = &self.positions {
            x = (x + table.forward(positions)?)?;
        }
        if let Some(table) = &self.types {
            x = (x + table.forward(types)?)?;
        }
        self.norm.forward(&x)
    }
}

/// The model.
pub struct Bert {
    config: Config,
    embeddings: Embeddings,
    blocks: Vec<EncoderBlock>,
    head: TextHead,
}

impl Bert {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let dim = config.dim;
        HEADS.lm.find_words(c, w)?;
        let embeddings = Embeddings::load(&w.at("embeddings"), &config, dim, config.types)?;
        let blocks = load_blocks(&config, &w.at("encoder.layer"))?;
        let head = HEADS.load(ENTRY.head_of(c)?, c, w, config.head_sizes(), &embeddings.words)?;
        Ok(Bert { config, embeddings, blocks, head })
    }
}

/// Blocks under BERT's names from the path of `w`.
pub(crate) fn load_blocks(config: &Config, w: &Weights) -> Result<Vec<EncoderBlock>> {
    let spec = config.block_spec();
    (0..config.depth).map(|i| EncoderBlock::load(&w.at(i), &spec)).collect()
}

const HEADS: TextHeads = TextHeads {
    lm: MaskedLmNames {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder",
        bias: "cls.predictions.bias",
        words: "embeddings.word_embeddings",
    },
    lm_act: None,
    pooler: Some("pooler.dense"),
    pooled_by: ("pooler.dense", Activation::Tanh),
    classifier: "classifier",
    next: Some("cls.seq_relationship"),
};

impl Staged for Bert {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let x = self.embeddings.forward(&text.ids, &input.token_types()?, &text.columns)?;
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

impl Model for Bert {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.config.positions).with_types(self.config.types)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
