//! Nomic BERT - BERT with rotary positions and gated feed-forwards, for long texts.
//!
//! Paper: "Nomic Embed: Training a Reproducible Long Context Text Embedder", arXiv 2402.01613. Code: nomic-ai/contrastors.
//! Weights: nomic-ai/nomic-embed-text-v1.5 and kin.
//! Idea: the blocks are BERT's, without biases in their projections; queries and keys turn with their places in place of a
//! table of positions, and there is no pooler but in front of a classifier.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, or a head's logits.`
//! Departs from the reference: packed rows, no padding; experts (v2-moe) and stretched angles are refused.

use std::sync::Arc;

use serde_json::{Value, json};
use switchformer_nn::attention::Rotary;
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, LayerNorm, check_heads};
use switchformer_nn::names::Names;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Error, Ffn, FfnSpec, Input, InputSpec, Model, Output, Result, Rows,
    Staged, State, Tensor, Weights,
};

use super::bert::{Config, Embeddings};
use super::modernbert::rotary;
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHead, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "nomic_bert",
    paper: "Nomic Embed: Training a Reproducible Long Context Text Embedder, arXiv 2402.01613",
    summary: "BERT with rotary positions and gated feed-forwards",
    architectures: &[
        ("NomicBertModel", HeadKind::Encoder),
        ("NomicBertForMaskedLM", HeadKind::MaskedLm),
        ("NomicBertForSequenceClassification", HeadKind::SequenceClassification),
        ("NomicBertForTokenClassification", HeadKind::TokenClassification),
    ],
    published: Published::new(include_str!("../../../variants/nomic_bert.json")),
    names: Names::new(&[("nomic_bert.**", "**"), ("bert.**", "**")], &["embeddings.position_ids"]),
    blocks: &["encoder.layers."],
    prefix: "nomic_bert.",
    heads: &["cls", "classifier"],
    traits: &[],
    toy: r#"{"model_type":"nomic_bert","architectures":["NomicBertForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":48,
        "max_position_embeddings":64,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(NomicBert::load(config, w)?)),
};

/// Fields of this generation and what they are in the first, which speaks of GPT-2's sizes.
const OLDER: [(&str, &str); 7] = [
    ("hidden_size", "n_embd"),
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("intermediate_size", "n_inner"),
    ("max_position_embeddings", "n_positions"),
    ("layer_norm_eps", "layer_norm_epsilon"),
    ("rope_theta", "rotary_emb_base"),
];

/// Reads both generations of fields into BERT's sizes, and the base of the angles.
fn read(c: &ConfigMap) -> Result<(Config, f64)> {
    // What published files could say and these blocks do not do.
    for (field, value) in [
        ("prenorm", json!(false)),
        ("parallel_block", json!(false)),
        ("use_rms_norm", json!(false)),
        ("causal", json!(false)),
        ("qkv_proj_bias", json!(false)),
        ("mlp_fc1_bias", json!(false)),
        ("mlp_fc2_bias", json!(false)),
        ("scale_attn_weights", json!(true)),
        ("rotary_emb_interleaved", json!(false)),
        ("rotary_emb_scale_base", Value::Null),
        ("rotary_scaling_factor", Value::Null),
        ("rope_scaling", Value::Null),
    ] {
        c.only(field, &[value])?;
    }
    c.only("rotary_emb_fraction", &[json!(1.0), json!(1)])?;
    c.only("moe_every_n_layers", &[json!(0)])?;
    let older: Vec<_> = OLDER.iter().filter_map(|(new, old)| c.get(old).map(|value| (*new, value.clone()))).collect();
    let c = &c.or(&older);
    let act = match c.text("activation_function", "swiglu")?.as_str() {
        "swiglu" => c.text("hidden_act", "silu")?,
        other => return Err(Error::unsupported("activation_function", other, "swiglu")),
    };
    let mut theta = c.float("rope_theta", 1000.0, 1.0, 1e12)?;
    if let Some(rope) = c.sub("rope_parameters")? {
        rope.only("rope_type", &["default".into()])?;
        theta = rope.float("rope_theta", theta, 1.0, 1e12)?;
    }
    let config = Config {
        vocab: c.size("vocab_size", Some(30_528), MAX_VOCAB)?,
        dim: c.size("hidden_size", Some(768), MAX_DIM)?,
        depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
        heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
        mlp_dim: c.size("intermediate_size", Some(3072), MAX_DIM)?,
        act: Activation::parse("hidden_act", &act)?,
        eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
        positions: c.size("max_position_embeddings", Some(2048), MAX_POSITIONS)?,
        types: c.int("type_vocab_size", Some(2), 1 << 16)?,
    };
    check_heads(config.dim, config.heads)?;
    c.only("head_dim", &[(config.dim / config.heads).into()])?;
    Ok((config, theta))
}

/// Published names of a family with these blocks, and which of its projections have biases.
pub(crate) struct Layout {
    /// The norm of the embeddings.
    pub(crate) norm: &'static str,
    /// Path of the blocks.
    pub(crate) blocks: &'static str,
    pub(crate) attention: AttentionNames,
    /// Whether all projections of the attention have biases.
    pub(crate) attention_bias: bool,
    /// Norms behind attention and feed-forward.
    pub(crate) norms: [&'static str; 2],
    /// The feed-forward, whose sizes and activation come from the config.
    pub(crate) ffn: FfnSpec<'static>,
    pub(crate) heads: TextHeads,
}

const LAYOUT: Layout = Layout {
    norm: "emb_ln",
    blocks: "encoder.layers",
    attention: AttentionNames::new(["attn.Wqkv"; 3], "attn.out_proj"),
    attention_bias: false,
    norms: ["norm1", "norm2"],
    ffn: FfnSpec { bias: [false; 2], ..FfnSpec::new(&["mlp.fc12", "mlp.fc11"], "mlp.fc2", [0, 0], Activation::Silu) },
    heads: TextHeads {
        lm: MaskedLmNames {
            dense: "cls.predictions.transform.dense",
            norm: "cls.predictions.transform.layer_norm",
            decoder: "cls.predictions.decoder",
            bias: "cls.predictions.bias",
            words: "embeddings.word_embeddings",
        },
        lm_act: None,
        pooler: None,
        pooled_by: ("pooler.dense", Activation::Tanh),
        classifier: "classifier",
        next: None,
    },
};

/// Attention among turned rows and a gated feed-forward, a norm behind each.
struct Block {
    attn: Box<dyn Attention>,
    norm: LayerNorm,
    ffn: Box<dyn Ffn>,
    ffn_norm: LayerNorm,
}

impl Block {
    fn load(w: &Weights, c: &Config, rotary: &Arc<Rotary>, layout: &Layout) -> Result<Self> {
        let attention = AttentionSpec {
            bias: [layout.attention_bias; 3],
            out_bias: layout.attention_bias,
            rotary: Some(rotary.clone()),
            ..AttentionSpec::new(layout.attention, c.dim, c.heads)
        };
        Ok(Block {
            attn: w.attention(&attention)?,
            norm: w.layer_norm(layout.norms[0], c.dim, c.eps)?,
            ffn: w.ffn(&FfnSpec { dim: c.dim, hidden: c.mlp_dim, act: c.act, ..layout.ffn })?,
            ffn_norm: w.layer_norm(layout.norms[1], c.dim, c.eps)?,
        })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.norm.forward(&self.attn.forward_onto(cx, x, rows, x)?)?;
        self.ffn_norm.forward(&self.ffn.forward_onto(cx, &x, rows, &x)?)
    }
}

/// The model.
pub struct NomicBert {
    config: Config,
    embeddings: Embeddings,
    blocks: Vec<Block>,
    head: TextHead,
}

impl NomicBert {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let (config, theta) = read(c)?;
        let rotary = rotary(config.dim / config.heads, theta)?;
        NomicBert::laid_out(c, w, config, rotary, &LAYOUT, ENTRY.head_of(c)?)
    }

    /// The network of a family of this kind.
    pub(crate) fn laid_out(
        c: &ConfigMap,
        w: &Weights,
        config: Config,
        rotary: Arc<Rotary>,
        layout: &Layout,
        kind: HeadKind,
    ) -> Result<Self> {
        let dim = config.dim;
        let norm = w.layer_norm(layout.norm, dim, config.eps)?;
        layout.heads.lm.find_words(c, w)?;
        let embeddings = Embeddings::unplaced(&w.at("embeddings"), &config, dim, config.types, norm)?;
        let block = |i| Block::load(&w.at(layout.blocks).at(i), &config, &rotary, layout);
        let blocks = (0..config.depth).map(block).collect::<Result<_>>()?;
        let head = layout.heads.load(kind, c, w, config.head_sizes(), &embeddings.words)?;
        w.pass_over(&["pooler"]);
        Ok(NomicBert { config, embeddings, blocks, head })
    }
}

impl Staged for NomicBert {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let x = self.embeddings.forward(&text.ids, &input.token_types()?, &[])?;
        // Places are those of columns, so that gaps in the mask keep their distance.
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

impl Model for NomicBert {
    fn spec(&self) -> InputSpec {
        let text = InputSpec::text(self.config.vocab, self.config.positions);
        if self.config.types > 0 { text.with_types(self.config.types) } else { text }
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
