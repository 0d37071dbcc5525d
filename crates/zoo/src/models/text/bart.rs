//! BART - an encoder that reads a damaged text and a decoder that writes it whole.
//!
//! Paper: "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
//! Comprehension", arXiv 1910.13461. Code: facebookresearch/fairseq. Weights: facebook/bart-base, bart-large-cnn and kin.
//! Idea: the Transformer of 2017, norm last, with learned positions and normed embeddings; all tables of words are one.
//! A classifier and a reader of questions let the decoder read the source once more, behind the start token, and answer
//! from its rows: the classifier from the last end token.
//! Shapes: `source ids, target ids -> rows [total, dim] -> last_hidden_state or logits, encoder_last_hidden_state.`
//! The chain: blocks 0..E read, E.. write.
//! Departs from the reference: packed rows, no padding; a text to classify that has no end token is read at its last.

use serde_json::json;
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, BlockSpec, Embedding, EncoderBlock, LayerNorm, check_heads};
use switchformer_nn::leaf::Dense;
use switchformer_nn::names::Names;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, DType, Decode, Error, Ffn, FfnSpec, Input, InputSpec, Linear, Model,
    Output, Result, Rows, Staged, State, Stream, Tensor, Weights, dry,
};

use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;
use crate::seq2seq::{Seq2Seq, Stack, beside_source, shared_table};
use crate::text_head::TextHead;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "bart",
    paper: "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and \
            Comprehension, arXiv 1910.13461",
    summary: "encoder-decoder over byte-level pieces, learned positions, norm last",
    architectures: &[
        ("BartModel", HeadKind::EncoderDecoder),
        ("BartForConditionalGeneration", HeadKind::Generation),
        ("BartForSequenceClassification", HeadKind::SequenceClassification),
        ("BartForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/bart.json")),
    names: NAMES,
    blocks: &["layers."],
    prefix: "model.",
    heads: &["final_logits_bias", "lm_head", "classification_head", "qa_outputs"],
    traits: &[Trait::NoExitHeads],
    toy: r#"{"model_type":"bart","architectures":["BartForConditionalGeneration"],"vocab_size":50,"d_model":32,
        "encoder_layers":2,"decoder_layers":2,"encoder_attention_heads":4,"decoder_attention_heads":4,
        "encoder_ffn_dim":48,"decoder_ffn_dim":64,"max_position_embeddings":64,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(Bart::load(config, w, &ENTRY, &DEFAULTS)?)),
};

/// Counters that early files carry.
pub(crate) const NAMES: Names = Names::new(&[("model.**", "**")], &["encoder.version", "decoder.version"]);

/// Where the members of the family differ.
pub(crate) struct Defaults {
    pub(crate) vocab: usize,
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// Tables of positions and norms behind the embeddings; sines and no norms otherwise.
    pub(crate) learned: bool,
}

const DEFAULTS: Defaults = Defaults { vocab: 50_265, start: 2, end: 2, learned: true };

/// The reference hard-codes it.
const EPS: f64 = 1e-5;
/// Rows of a learned table in front of the first place.
const OFFSET: u32 = 2;

struct Config {
    vocab: usize,
    dim: usize,
    depths: [usize; 2],
    heads: [usize; 2],
    ff: [usize; 2],
    act: Activation,
    positions: usize,
    /// Factor of the word vectors.
    scale: f64,
    tied: bool,
    decode: Decode,
}

impl Config {
    fn read(c: &ConfigMap, d: &Defaults) -> Result<Self> {
        c.only("is_decoder", &[false.into()])?;
        let vocab = c.size("vocab_size", Some(d.vocab), MAX_VOCAB)?;
        c.only("share_encoder_decoder_embeddings", &[true.into()])?;
        c.only("decoder_vocab_size", &[vocab.into()])?;
        let dim = c.size("d_model", Some(1024), MAX_DIM)?;
        let both = |what: &str, default: usize, max: usize| -> Result<[usize; 2]> {
            Ok([
                c.size(&format!("encoder_{what}"), Some(default), max)?,
                c.size(&format!("decoder_{what}"), Some(default), max)?,
            ])
        };
        let config = Config {
            vocab,
            dim,
            depths: both("layers", 12, MAX_DEPTH)?,
            heads: both("attention_heads", 16, MAX_HEADS)?,
            ff: both("ffn_dim", 4096, MAX_DIM)?,
            act: Activation::parse("activation_function", &c.text("activation_function", "gelu")?)?,
            positions: c.size("max_position_embeddings", Some(1024), MAX_POSITIONS)?,
            scale: if c.flag("scale_embedding", false)? { (dim as f64).sqrt() } else { 1.0 },
            tied: c.flag("tie_word_embeddings", true)?,
            decode: Decode {
                start: c.int("decoder_start_token_id", Some(d.start.min(vocab - 1)), vocab - 1)? as u32,
                ends: c.ids("eos_token_id", d.end.min(vocab - 1), vocab - 1)?,
            },
        };
        config.heads.iter().try_for_each(|heads| check_heads(dim, *heads))?;
        Ok(config)
    }
}

/// Where a token stands.
enum Places {
    /// A table, whose first rows stand for no place.
    Table(Embedding, u32),
    /// Sines in front, cosines behind, made as they are needed.
    Sines,
}

impl Places {
    /// Shapes: positions `[rows]` -> `[rows, dim]`.
    fn of(&self, positions: &[u32], dim: usize) -> Result<Tensor> {
        match self {
            Places::Table(table, offset) => {
                let at: Vec<u32> = positions.iter().map(|p| p + offset).collect();
                table.forward(&at)
            }
            Places::Sines if dry::is_dry() => Ok(Tensor::hollow((positions.len(), dim), DType::F32)),
            Places::Sines => {
                let front = dim.div_ceil(2);
                let by: Vec<f64> = (0..front).map(|k| 1.0 / 10_000f64.powf((2 * k) as f64 / dim as f64)).collect();
                let angle = |p: &u32, k: usize| f64::from(*p) * by[k];
                let row = |p: &u32| -> Vec<f32> {
                    let sines = (0..front).map(|k| angle(p, k).sin() as f32);
                    sines.chain((0..dim - front).map(|k| angle(p, k).cos() as f32)).collect()
                };
                Tensor::from_vec(positions.iter().flat_map(row).collect::<Vec<f32>>(), (positions.len(), dim))
            }
        }
    }
}

/// What stands in front of the blocks of a stack, beside the words.
struct Front {
    places: Places,
    norm: Option<LayerNorm>,
}

impl Front {
    fn load(w: &Weights, c: &Config, learned: bool) -> Result<Self> {
        const TABLE: &str = "embed_positions";
        let places = if learned {
            Places::Table(w.embedding(TABLE, c.positions + OFFSET as usize, c.dim)?, OFFSET)
        } else if w.has(&format!("{TABLE}.weight")) {
            // Files may store the sines, and what is stored is read.
            let table = w.buffer(&format!("{TABLE}.weight"), &[c.positions, c.dim])?;
            Places::Table(Embedding::new(w.name(TABLE), table), 0)
        } else {
            Places::Sines
        };
        Ok(Front { places, norm: learned.then(|| w.layer_norm("layernorm_embedding", c.dim, EPS)).transpose()? })
    }
}

/// Names of the projections of an attention.
macro_rules! names {
    ($attn:literal) => {
        AttentionNames::new(
            [concat!($attn, ".q_proj"), concat!($attn, ".k_proj"), concat!($attn, ".v_proj")],
            concat!($attn, ".out_proj"),
        )
    };
}

/// A block that writes: its own rows so far, the source, a feed-forward, a norm behind each.
struct Writer {
    attn: Box<dyn Attention>,
    norm: LayerNorm,
    cross: Box<dyn Attention>,
    cross_norm: LayerNorm,
    ffn: Box<dyn Ffn>,
    ffn_norm: LayerNorm,
}

impl Writer {
    fn load(w: &Weights, c: &Config) -> Result<Self> {
        let own = AttentionSpec::new(names!("self_attn"), c.dim, c.heads[1]);
        let cross = AttentionSpec::new(names!("encoder_attn"), c.dim, c.heads[1]);
        let norm = |name: &str| w.layer_norm(name, c.dim, EPS);
        Ok(Writer {
            attn: w.attention(&AttentionSpec { causal: true, ..own })?,
            norm: norm("self_attn_layer_norm")?,
            cross: w.attention(&AttentionSpec { source: Some(c.dim), tap: "cross", ..cross })?,
            cross_norm: norm("encoder_attn_layer_norm")?,
            ffn: w.ffn(&FfnSpec::new(&["fc1"], "fc2", [c.dim, c.ff[1]], c.act))?,
            ffn_norm: norm("final_layer_norm")?,
        })
    }

    /// Shapes: x `[rows, dim]`, source `[source, dim]` -> `[rows, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, source: Option<&Stream>) -> Result<Tensor> {
        let x = self.norm.forward(&self.attn.forward_onto(cx, x, rows, x)?)?;
        let x = self.cross_norm.forward(&self.cross.attend_source(cx, &x, rows, source, Some(&x))?)?;
        self.ffn_norm.forward(&self.ffn.forward_onto(cx, &x, rows, &x)?)
    }
}

enum Head {
    /// The decoder's rows.
    Rows,
    /// Words, some likelier than others whatever was read.
    Words(Box<dyn Linear>, Option<Tensor>),
    /// Classes, by the row of the last end token.
    Classes { dense: Box<dyn Linear>, classes: Box<dyn Linear> },
    /// Where an answer begins and ends.
    Question(TextHead),
}

/// The model.
pub struct Bart {
    config: Config,
    shared: Embedding,
    fronts: [Front; 2],
    readers: Vec<EncoderBlock>,
    writers: Vec<Writer>,
    head: Head,
}

impl Bart {
    pub(crate) fn load(c: &ConfigMap, w: &Weights, entry: &Entry, defaults: &Defaults) -> Result<Self> {
        let config = Config::read(c, defaults)?;
        let dim = config.dim;
        let shared = shared_table(w, config.vocab, dim, config.tied)?;
        let stacks = [w.at("encoder"), w.at("decoder")];
        let [reads, writes] = &stacks;
        let spec = BlockSpec {
            dim,
            heads: config.heads[0],
            mlp_dim: config.ff[0],
            act: config.act,
            eps: EPS,
            qkv_bias: true,
            norm_first: false,
            attention: names!("self_attn"),
            norm1: "self_attn_layer_norm",
            norm2: "final_layer_norm",
            fc: ["fc1", "fc2"],
        };
        let fronts = [Front::load(reads, &config, defaults.learned)?, Front::load(writes, &config, defaults.learned)?];
        let reader = |i| EncoderBlock::load(&reads.at("layers").at(i), &spec);
        let readers = (0..config.depths[0]).map(reader).collect::<Result<_>>()?;
        let writer = |i| Writer::load(&writes.at("layers").at(i), &config);
        let writers = (0..config.depths[1]).map(writer).collect::<Result<_>>()?;
        let head = Bart::head(c, w, entry.head_of(c)?, &config, &shared)?;
        Ok(Bart { config, shared, fronts, readers, writers, head })
    }

    fn head(c: &ConfigMap, w: &Weights, kind: HeadKind, config: &Config, shared: &Embedding) -> Result<Head> {
        let dim = config.dim;
        if kind != HeadKind::Generation {
            ["lm_head.weight", "final_logits_bias"].iter().for_each(|t| w.skip(t));
        }
        Ok(match kind {
            HeadKind::Generation => {
                let words: Box<dyn Linear> = if config.tied {
                    let or =
                        "set \"tie_word_embeddings\" to false in config.json to read it, or remove it from the file";
                    w.repeats("lm_head.weight", "shared.weight", or)?;
                    Box::new(Dense::new("shared", shared.table().clone(), None))
                } else {
                    w.linear("lm_head", dim, config.vocab, false)?
                };
                let bias = w.has("final_logits_bias").then(|| w.buffer("final_logits_bias", &[1, config.vocab]));
                Head::Words(words, bias.transpose()?)
            }
            HeadKind::SequenceClassification => {
                let head = w.at("classification_head");
                // The reference's own number where a config names none.
                let defaults = [("num_labels", json!(3))];
                let n = c.or(if c.get("id2label").is_some() { &[] } else { &defaults }).n_labels()?;
                Head::Classes {
                    dense: head.linear("dense", dim, dim, true)?,
                    classes: head.linear("out_proj", dim, n, true)?,
                }
            }
            HeadKind::QuestionAnswering => {
                c.only("num_labels", &[2.into()])?;
                Head::Question(TextHead::Question(w.linear("qa_outputs", dim, 2, true)?))
            }
            _ => Head::Rows,
        })
    }

    /// Whether a text is written; otherwise the source is read once more.
    fn writes(&self) -> bool {
        matches!(self.head, Head::Rows | Head::Words(..))
    }

    /// The place of the last end token of every text.
    fn ends(&self, input: &Input) -> Result<Stream> {
        let text = input.ids("input_ids")?;
        let last = |i: usize| {
            let own = &text.ids[text.rows.range(i)];
            let end = own.iter().rposition(|id| self.config.decode.ends.contains(id));
            end.unwrap_or(own.len().saturating_sub(1)) as f32
        };
        let n = text.rows.n();
        let rows = Rows::equal(n, 1)?.of_members(text.rows.members())?;
        Ok(Stream { x: Tensor::from_vec((0..n).map(last).collect::<Vec<f32>>(), (n, 1))?, rows })
    }

    /// The rows of the last end tokens. Shapes: -> `[members, dim]`.
    fn pooled(state: State) -> Result<Tensor> {
        let places = match state.side.get("ends") {
            Some(ends) if !dry::is_dry() => ends.x.flatten_all()?.to_vec1::<f32>()?,
            _ => vec![0.0; state.rows.n()],
        };
        if let Some(i) = (0..state.rows.n()).find(|i| state.rows.len(*i) == 0) {
            let what = format!("member {} has no valid token", state.rows.members()[i]);
            return Err(Error::input(what, "give at least one token, and a mask that is not all zero"));
        }
        let kept: Vec<Vec<u32>> = places.iter().map(|p| vec![*p as u32]).collect();
        Ok(State::new(state.x, state.rows).keep(&kept)?.x)
    }
}

impl Seq2Seq for Bart {
    fn encoder_depth(&self) -> usize {
        self.readers.len()
    }
    fn decoder_depth(&self) -> Option<usize> {
        Some(self.writers.len())
    }
    fn echoes_behind(&self) -> Option<u32> {
        (!self.writes()).then_some(self.config.decode.start)
    }
    fn embed(&self, stack: Stack, ids: &[u32], positions: &[u32]) -> Result<Tensor> {
        let front = &self.fronts[usize::from(stack == Stack::Decoder)];
        let most = self.config.positions;
        if let Some(far) = positions.iter().find(|p| **p as usize >= most) {
            let what = format!("place {far} of a text is beyond the {most} that this model knows");
            return Err(Error::input(what, "shorten the text, or write fewer tokens"));
        }
        let words = self.shared.forward(ids)?;
        let words = if self.config.scale == 1.0 { words } else { (words * self.config.scale)? };
        let x = (words + front.places.of(positions, self.config.dim)?)?;
        front.norm.as_ref().map_or(Ok(x.clone()), |norm| norm.forward(&x))
    }
    fn read(&self, cx: &mut Ctx, i: usize, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        self.readers[i].forward(cx, x, rows)
    }
    fn finish_reading(&self, x: Tensor) -> Result<Tensor> {
        Ok(x)
    }
    fn write(&self, cx: &mut Ctx, i: usize, x: &Tensor, rows: &Rows, source: Option<&Stream>) -> Result<Tensor> {
        self.writers[i].forward(cx, x, rows, source)
    }
}

impl Staged for Bart {
    fn n_blocks(&self) -> usize {
        self.blocks_of_both()
    }
    fn first_exit(&self) -> usize {
        self.first_written()
    }
    fn resume(&self) -> Option<usize> {
        if self.writes() { self.goes_on() } else { None }
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let mut state = self.stem_of(cx, input)?;
        if matches!(self.head, Head::Classes { .. }) {
            state.side.push("ends", self.ends(input)?);
        }
        Ok(state)
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        self.block_of(cx, idx, state)
    }
    fn head(&self, cx: &mut Ctx, mut state: State) -> Result<Output> {
        let side = std::mem::take(&mut state.side);
        let out = match &self.head {
            Head::Rows => Output::new().rows("last_hidden_state", state.x, &state.rows),
            Head::Words(words, bias) => {
                let logits = words.forward(cx, &state.x)?;
                let logits = match bias {
                    Some(bias) => logits.broadcast_add(bias)?,
                    None => logits,
                };
                Output::new().rows("logits", logits, &state.rows)
            }
            Head::Classes { dense, classes } => {
                let pooled = Bart::pooled(State { side: side.clone(), ..state })?;
                let pooled = Activation::Tanh.forward(&dense.forward(cx, &pooled)?)?;
                Output::new().member("logits", classes.forward(cx, &pooled)?)
            }
            Head::Question(head) => head.forward(cx, state)?,
        };
        Ok(beside_source(out, side))
    }
}

impl Model for Bart {
    fn spec(&self) -> InputSpec {
        let (vocab, max_len) = (self.config.vocab, self.config.positions);
        let text = InputSpec::text(vocab, max_len);
        if self.writes() { text.with_target(vocab, max_len) } else { text }
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
    fn decoder(&self) -> Option<&Decode> {
        matches!(self.head, Head::Words(..)).then_some(&self.config.decode)
    }
}
