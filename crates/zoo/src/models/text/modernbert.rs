//! ModernBERT - an encoder of rotary positions and gated feed-forwards that looks far in every third block only.
//!
//! Paper: "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder", arXiv 2412.13663. Code:
//! AnswerDotAI/ModernBERT. Weights: answerdotai/ModernBERT-base and kin.
//! Idea: norm first, but for block 0, whose rows come normed; no biases; block 0 and every third one see the whole text
//! and turn by a slow angle, the others see `local_attention` tokens around and turn by a fast one.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, or a head's logits.`
//! Departs from the reference: packed rows, no padding.

use std::sync::Arc;

use serde_json::Value;
use switchformer_nn::attention::{Pairs, Rotary};
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, Embedding, LayerNorm, check_heads};
use switchformer_nn::maps::mean_rows;
use switchformer_nn::names::Names;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, DType, Error, Ffn, FfnSpec, Input, InputSpec, Linear, Model, Output,
    ParamKind, Result, Rows, Staged, State, Tensor, Weights,
};

use crate::entry::{Entry, HeadKind};
use crate::published::Published;
use crate::text_head::{MaskedLmNames, TextHead};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "modernbert",
    paper: "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder, arXiv 2412.13663",
    summary: "norm-first encoder with rotary positions, gated feed-forwards and local attention",
    architectures: &[
        ("ModernBertModel", HeadKind::Encoder),
        ("ModernBertForMaskedLM", HeadKind::MaskedLm),
        ("ModernBertForSequenceClassification", HeadKind::SequenceClassification),
        ("ModernBertForTokenClassification", HeadKind::TokenClassification),
        ("ModernBertForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/modernbert.json")),
    names: Names::new(&[("model.**", "**")], &[]),
    blocks: &["layers."],
    prefix: "model.",
    heads: &["head", "decoder", "classifier"],
    traits: &[],
    toy: r#"{"model_type":"modernbert","architectures":["ModernBertForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":48,"local_attention":4,
        "global_attn_every_n_layers":2,"max_position_embeddings":64,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(ModernBert::load(config, w)?)),
};

/// How far a block looks, and how its queries and keys turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Full,
    Sliding,
}

struct Config {
    vocab: usize,
    dim: usize,
    heads: usize,
    mlp_dim: usize,
    act: Activation,
    eps: f64,
    /// The bias of every norm, zeros, where norms have none.
    no_bias: Option<Tensor>,
    attention_bias: bool,
    mlp_bias: bool,
    positions: usize,
    /// Tokens that a sliding block sees, both sides together.
    local: usize,
    reach: Vec<Reach>,
    /// Bases of the angles of full and of sliding blocks.
    theta: [f64; 2],
}

impl Config {
    fn read(c: &ConfigMap) -> Result<Self> {
        let depth = c.size("num_hidden_layers", Some(22), MAX_DEPTH)?;
        let every = c.size("global_attn_every_n_layers", Some(3), MAX_DEPTH)?;
        let words = ["full_attention", "sliding_attention"];
        let types =
            c.list("layer_types", depth..=depth, "full_attention or sliding_attention", |v| match v.as_str() {
                Some("full_attention") => Some(Reach::Full),
                Some("sliding_attention") => Some(Reach::Sliding),
                _ => None,
            })?;
        // Fields of recent files stand before those of older ones.
        let ropes = c.sub("rope_parameters")?;
        c.only("rope_scaling", &[Value::Null])?;
        let theta = |i: usize, older: &str, default: f64| -> Result<f64> {
            let older = c.float(older, default, 1.0, 1e12)?;
            let Some(own) = ropes.as_ref().map(|r| r.sub(words[i])).transpose()?.flatten() else { return Ok(older) };
            own.only("rope_type", &["default".into()])?;
            own.float("rope_theta", older, 1.0, 1e12)
        };
        let dim = c.size("hidden_size", Some(768), MAX_DIM)?;
        let no_bias = !c.flag("norm_bias", false)?;
        let config = Config {
            vocab: c.size("vocab_size", Some(50_368), MAX_VOCAB)?,
            dim,
            heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
            mlp_dim: c.size("intermediate_size", Some(1152), MAX_DIM)?,
            act: Activation::parse("hidden_activation", &c.text("hidden_activation", "gelu")?)?,
            eps: c.float("norm_eps", 1e-5, 0.0, 1.0)?,
            no_bias: no_bias.then(|| Tensor::zeros(dim, DType::F32)).transpose()?,
            attention_bias: c.flag("attention_bias", false)?,
            mlp_bias: c.flag("mlp_bias", false)?,
            positions: c.size("max_position_embeddings", Some(8192), MAX_POSITIONS)?,
            local: c.size("local_attention", Some(128), MAX_POSITIONS)?,
            reach: types.unwrap_or_else(|| {
                (0..depth).map(|i| if i % every == 0 { Reach::Full } else { Reach::Sliding }).collect()
            }),
            theta: [theta(0, "global_rope_theta", 160_000.0)?, theta(1, "local_rope_theta", 10_000.0)?],
        };
        check_heads(config.dim, config.heads)?;
        c.only("head_dim", &[(config.dim / config.heads).into()])?;
        Ok(config)
    }

    /// A layer norm, often without biases.
    fn norm(&self, w: &Weights, name: &str) -> Result<LayerNorm> {
        let Some(zeros) = &self.no_bias else { return w.layer_norm(name, self.dim, self.eps) };
        let weight = w.tensor(&format!("{name}.weight"), &[self.dim], ParamKind::Vector)?;
        Ok(LayerNorm::new(weight, zeros.clone(), self.eps))
    }
}

/// The angles of heads of `width` numbers for a base, pair by pair over both halves of a head. Errors where the width is
/// odd.
pub(crate) fn rotary(width: usize, theta: f64) -> Result<Arc<Rotary>> {
    stretched(width, theta, 1.0)
}

/// The same, each a `by`-th of it.
pub(crate) fn stretched(width: usize, theta: f64, by: f64) -> Result<Arc<Rotary>> {
    if !width.is_multiple_of(2) {
        let what = format!("leaves heads of width {width}, which rotary positions cannot halve");
        return Err(Error::config("num_attention_heads", what));
    }
    let turn = |k| 1.0 / theta.powf(f64::from(2.0 * k as f32 / width as f32)) as f32 / by as f32;
    Ok(Arc::new(Rotary::new((0..width / 2).map(turn).collect(), Pairs::Halves)))
}

struct Block {
    /// Block 0 reads rows that are normed already.
    norm: Option<LayerNorm>,
    attn: Box<dyn Attention>,
    ffn_norm: LayerNorm,
    ffn: Box<dyn Ffn>,
}

impl Block {
    fn load(w: &Weights, c: &Config, first: bool, reach: Reach, rotary: &Arc<Rotary>) -> Result<Self> {
        let attention = AttentionSpec {
            bias: [c.attention_bias; 3],
            out_bias: c.attention_bias,
            rotary: Some(rotary.clone()),
            // Half of the window to either side, and the token itself.
            window: (reach == Reach::Sliding).then_some(c.local / 2 + 1),
            ..AttentionSpec::new(AttentionNames::new(["attn.Wqkv"; 3], "attn.Wo"), c.dim, c.heads)
        };
        Ok(Block {
            norm: (!first).then(|| c.norm(w, "attn_norm")).transpose()?,
            attn: w.attention(&attention)?,
            ffn_norm: c.norm(w, "mlp_norm")?,
            ffn: w.ffn(&FfnSpec {
                bias: [c.mlp_bias; 2],
                ..FfnSpec::new(&["mlp.Wi"; 2], "mlp.Wo", [c.dim, c.mlp_dim], c.act)
            })?,
        })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = match &self.norm {
            Some(norm) => self.attn.forward_onto(cx, &norm.forward(x)?, rows, x)?,
            None => self.attn.forward_onto(cx, x, rows, x)?,
        };
        self.ffn.forward_onto(cx, &self.ffn_norm.forward(&x)?, rows, &x)
    }
}

/// What every head does first: dense, activation, norm.
struct Prediction {
    dense: Box<dyn Linear>,
    act: Activation,
    norm: LayerNorm,
}

impl Prediction {
    fn load(c: &ConfigMap, w: &Weights, config: &Config) -> Result<Self> {
        let act = c.text("classifier_activation", "gelu")?;
        Ok(Prediction {
            dense: w.linear("head.dense", config.dim, config.dim, c.flag("classifier_bias", false)?)?,
            act: Activation::parse("classifier_activation", &act)?,
            norm: config.norm(w, "head.norm")?,
        })
    }

    /// Shapes: x `[rows, dim]` -> `[rows, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(&self.act.forward(&self.dense.forward(cx, x)?)?)
    }
}

enum Head {
    Encoder,
    /// An answer for every row; words are one too.
    Rows(Prediction, TextHead),
    /// Classes of a text, of its first row or of the mean of all.
    Sequence {
        mean: bool,
        prediction: Prediction,
        classifier: Box<dyn Linear>,
    },
}

const LM: MaskedLmNames = MaskedLmNames {
    dense: "head.dense",
    norm: "head.norm",
    decoder: "decoder",
    bias: "decoder.bias",
    words: "embeddings.tok_embeddings",
};

impl Head {
    fn load(c: &ConfigMap, w: &Weights, config: &Config, words: &Embedding) -> Result<Self> {
        let kind = ENTRY.head_of(c)?;
        if kind == HeadKind::Encoder {
            return Ok(Head::Encoder);
        }
        let classifier = |n: usize| w.linear("classifier", config.dim, n, true);
        let prediction = Prediction::load(c, w, config)?;
        Ok(match kind {
            HeadKind::SequenceClassification => Head::Sequence {
                mean: c.one_of("classifier_pooling", "cls", &[("cls", false), ("mean", true)])?,
                prediction,
                classifier: classifier(c.n_labels()?)?,
            },
            HeadKind::MaskedLm => {
                c.only("decoder_bias", &[true.into()])?;
                Head::Rows(prediction, TextHead::Token(LM.load_decoder(c, w, words)?))
            }
            HeadKind::QuestionAnswering => {
                c.only("num_labels", &[2.into()])?;
                Head::Rows(prediction, TextHead::Question(classifier(2)?))
            }
            _ => Head::Rows(prediction, TextHead::Token(classifier(c.n_labels()?)?)),
        })
    }
}

/// The model.
pub struct ModernBert {
    config: Config,
    words: Embedding,
    norm: LayerNorm,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    head: Head,
}

impl ModernBert {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = Config::read(c)?;
        let embeddings = w.at("embeddings");
        LM.find_words(c, w)?;
        let words = embeddings.embedding("tok_embeddings", config.vocab, config.dim)?;
        let norm = config.norm(&embeddings, "norm")?;
        let width = config.dim / config.heads;
        let [full, sliding] = [rotary(width, config.theta[0])?, rotary(width, config.theta[1])?];
        let block = |(i, reach): (usize, &Reach)| {
            let rotary = if *reach == Reach::Full { &full } else { &sliding };
            Block::load(&w.at("layers").at(i), &config, i == 0, *reach, rotary)
        };
        let blocks = config.reach.iter().enumerate().map(block).collect::<Result<_>>()?;
        let final_norm = config.norm(w, "final_norm")?;
        let head = Head::load(c, w, &config, &words)?;
        Ok(ModernBert { config, words, norm, blocks, final_norm, head })
    }
}

impl Staged for ModernBert {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let x = self.norm.forward(&self.words.forward(&text.ids)?)?;
        // Places are those of columns, so that gaps in the mask keep their distance.
        Ok(State::new(x, text.rows.clone().at_positions(&text.columns)?))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        Ok(State::new(self.blocks[idx].forward(cx, &state.x, &state.rows)?, state.rows))
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let state = State::new(self.final_norm.forward(&state.x)?, state.rows);
        match &self.head {
            Head::Encoder => TextHead::Encoder(None).forward(cx, state),
            Head::Rows(prediction, head) => {
                let x = prediction.forward(cx, &state.x)?;
                head.forward(cx, State::new(x, state.rows))
            }
            Head::Sequence { mean, prediction, classifier } => {
                let pooled = if *mean { mean_rows(&state.x, &state.rows)? } else { state.first_rows()? };
                let pooled = prediction.forward(cx, &pooled)?;
                Ok(Output::new().member("logits", classifier.forward(cx, &pooled)?))
            }
        }
    }
    fn classifier(&self) -> Option<(usize, usize)> {
        match &self.head {
            Head::Sequence { classifier, .. } => Some(classifier.dims()),
            _ => None,
        }
    }
}

impl Model for ModernBert {
    fn spec(&self) -> InputSpec {
        InputSpec::text(self.config.vocab, self.config.positions)
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}
