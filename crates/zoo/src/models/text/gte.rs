//! GTE - BERT with rotary positions, biases and gated feed-forwards, over many languages.
//!
//! Paper: "mGTE: Generalized Long-Context Text Representation and Reranking Models for Multilingual Text Retrieval",
//! arXiv 2407.19669. Code: Alibaba-NLP/new-impl. Weights: alibaba-nlp-community/gte-multilingual-base,
//! Snowflake/snowflake-arctic-embed-m-v2.0.
//! Idea: the network is Nomic BERT's, whose projections have biases but for the gated one. Angles are stretched so that texts
//! may be longer than those of training.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, or a head's logits.`
//! Departs from the reference: packed rows, no padding; rotary positions and layer norms only.

use std::sync::Arc;

use serde_json::{Value, json};
use switchformer_nn::attention::Rotary;
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, GateSide, check_heads};
use switchformer_nn::names::Names;
use switchformer_nn::{AttentionNames, Error, FfnSpec, Result, Weights};

use super::bert::Config;
use super::modernbert::stretched;
use super::nomic_bert::{Layout, NomicBert};
use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHeads};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "gte",
    paper: "mGTE: Generalized Long-Context Text Representation and Reranking Models for Multilingual Text Retrieval, arXiv \
            2407.19669",
    summary: "BERT with rotary positions, biases and gated feed-forwards",
    architectures: &[
        ("GteModel", HeadKind::Encoder),
        ("GteForMaskedLM", HeadKind::MaskedLm),
        ("GteForSequenceClassification", HeadKind::SequenceClassification),
        ("GteForTokenClassification", HeadKind::TokenClassification),
    ],
    published: Published::new(include_str!("../../../variants/gte.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "gte.",
    heads: &["lm_head", "classifier"],
    traits: &[],
    toy: r#"{"model_type":"gte","architectures":["GteForSequenceClassification"],"vocab_size":50,"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":48,"max_position_embeddings":64,
        "rope_parameters":{"rope_type":"linear","factor":1.1,"rope_theta":1000.0},"num_labels":3}"#,
    load: |c, w| {
        let defaults = Defaults { vocab: 250_048, positions: 8192, theta: 160_000.0 };
        Ok(Box::new(load(c, w, &ENTRY, &defaults, Some(Activation::Gelu))?))
    },
};

/// The names of transformers' modules onto those of files, which are the authors' there too, prefixes, and buffers that follow from the config.
pub(crate) const NAMES: Names = Names::new(
    &[
        ("new.**", "**"),
        ("gte.**", "**"),
        ("layers.**", "encoder.layer.**"),
        ("encoder.layer.*.self_attn.**", "encoder.layer.*.attention.**"),
        ("encoder.layer.*.post_attention_layernorm.*", "encoder.layer.*.attn_ln.*"),
        ("encoder.layer.*.post_mlp_layernorm.*", "encoder.layer.*.mlp_ln.*"),
        ("lm_head.layer_norm.*", "lm_head.norm.*"),
    ],
    &["embeddings.position_ids", "rotary_emb.*", "embeddings.rotary_emb.*"],
);

const OUT: &str = "attention.o_proj";
const PACKED: AttentionNames = AttentionNames::new(["attention.qkv_proj"; 3], OUT);
const APART: AttentionNames = AttentionNames::new(["attention.q_proj", "attention.k_proj", "attention.v_proj"], OUT);

/// Loads the network. Queries, keys and values are one tensor where the file has them so, and so are values and gate.
pub(crate) fn load(
    c: &ConfigMap,
    w: &Weights,
    entry: &Entry,
    defaults: &Defaults,
    lm_act: Option<Activation>,
) -> Result<NomicBert> {
    let (config, rotary) = read(c, defaults)?;
    let packed = c.flag("pack_qkv", true)?;
    let first = w.at("encoder.layer.0");
    let apart = first.has("attention.q_proj.weight") || (w.is_open() && !packed);
    let split = first.has("mlp.up_proj.weight");
    let inner: &'static [&'static str] =
        if split { &["mlp.up_proj", "mlp.gate_proj"] } else { &["mlp.up_gate_proj"; 2] };
    let layout = Layout {
        norm: "embeddings.LayerNorm",
        blocks: "encoder.layer",
        attention: if apart { APART } else { PACKED },
        attention_bias: true,
        norms: ["attn_ln", "mlp_ln"],
        // Values stand in front of the gate, and only the projection back has a bias.
        ffn: FfnSpec {
            gate: GateSide::Second,
            bias: [false, true],
            ..FfnSpec::new(inner, "mlp.down_proj", [0, 0], Activation::Gelu)
        },
        heads: TextHeads {
            lm: MaskedLmNames {
                dense: "lm_head.dense",
                norm: "lm_head.norm",
                decoder: "lm_head.decoder",
                bias: "lm_head.decoder.bias",
                words: "embeddings.word_embeddings",
            },
            lm_act,
            pooler: None,
            pooled_by: ("pooler.dense", Activation::Tanh),
            classifier: "classifier",
            next: None,
        },
    };
    NomicBert::laid_out(c, w, config, rotary, &layout, entry.head_of(c)?)
}

/// What a config means that does not say it.
pub(crate) struct Defaults {
    pub(crate) vocab: usize,
    pub(crate) positions: usize,
    pub(crate) theta: f64,
}

/// Reads sizes and angles.
fn read(c: &ConfigMap, defaults: &Defaults) -> Result<(Config, Arc<Rotary>)> {
    for (field, value) in [
        ("position_embedding_type", json!("rope")),
        ("layer_norm_type", json!("layer_norm")),
        ("logn_attention_scale", json!(false)),
        ("is_decoder", json!(false)),
    ] {
        c.only(field, &[value])?;
    }
    let config = Config {
        vocab: c.size("vocab_size", Some(defaults.vocab), MAX_VOCAB)?,
        dim: c.size("hidden_size", Some(768), MAX_DIM)?,
        depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
        heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
        mlp_dim: c.size("intermediate_size", Some(3072), MAX_DIM)?,
        act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
        eps: c.float("layer_norm_eps", 1e-12, 0.0, 1.0)?,
        positions: c.size("max_position_embeddings", Some(defaults.positions), MAX_POSITIONS)?,
        types: c.int("type_vocab_size", Some(1), 1 << 16)?,
    };
    check_heads(config.dim, config.heads)?;
    let width = config.dim / config.heads;
    c.only("head_dim", &[width.into()])?;
    let rotary = angles(c, width, defaults.theta)?;
    Ok((config, rotary))
}

/// The angles of heads of `width` numbers. `rope_scaling` of older configs stands before `rope_parameters`, as in the
/// reference.
fn angles(c: &ConfigMap, width: usize, theta: f64) -> Result<Arc<Rotary>> {
    let theta = c.float("rope_theta", theta, 1.0, 1e12)?;
    let (older, recent) = (c.sub("rope_scaling")?, c.sub("rope_parameters")?);
    let Some(rope) = older.or(recent) else { return stretched(width, theta, 1.0) };
    let theta = rope.float("rope_theta", theta, 1.0, 1e12)?;
    rope.only("partial_rotary_factor", &[json!(1.0), json!(1)])?;
    let factor = || rope.float("factor", 1.0, 1.0, 1e6);
    let named = ["rope_type", "type"].into_iter().find(|field| rope.get(field).is_some()).unwrap_or("rope_type");
    match rope.text(named, "default")?.as_str() {
        "default" => stretched(width, theta, 1.0),
        "linear" => stretched(width, theta, factor()?),
        "ntk" => {
            rope.only("mixed_b", &[Value::Null])?;
            let factor = factor()?;
            stretched(width, theta * factor, factor.powf(2.0 / width.max(1) as f64))
        }
        other => Err(Error::unsupported(rope.at(named), other, "default, linear, ntk")),
    }
}
