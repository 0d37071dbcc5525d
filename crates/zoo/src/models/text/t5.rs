//! T5 - an encoder that reads and a decoder that writes, with learned scores for distances.
//!
//! Paper: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", arXiv 1910.10683. Code:
//! google-research/text-to-text-transfer-transformer. Weights: google-t5/t5-small and kin, google/t5-v1_1-small and kin.
//! Idea: norm first with RMS norms, no biases anywhere, scores not scaled; each stack adds to its scores a number by
//! distance, in a table that stands in its block 0 and serves all its blocks. v1.1 gates the feed-forward and has a
//! head of its own; v1.0 reads the word table again, on rows scaled by `dim^-1/2`.
//! Shapes: `source ids, target ids -> rows [total, dim] -> last_hidden_state or logits, encoder_last_hidden_state.`
//! The chain: blocks 0..E read, E.. write; block E norms what was read and changes streams.
//! Departs from the reference: packed rows, no padding; a source without any token is refused.

use switchformer_nn::attention::{DistanceBias, Positions, Scores};
use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::init::Init;
use switchformer_nn::layers::{Activation, Embedding, RmsNorm};
use switchformer_nn::leaf::Dense;
use switchformer_nn::names::Names;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Decode, Error, Ffn, FfnSpec, Input, InputSpec, Linear, Model,
    Output, Result, Rows, Staged, State, Stream, Tensor, Weights,
};

use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;
use crate::seq2seq::{self, Seq2Seq, beside_source, shared_table};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "t5",
    paper: "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer, arXiv 1910.10683",
    summary: "encoder-decoder over word pieces, relative positions, RMS norms",
    architectures: &[
        ("T5ForConditionalGeneration", HeadKind::Generation),
        ("T5Model", HeadKind::EncoderDecoder),
        ("T5EncoderModel", HeadKind::Encoder),
    ],
    published: Published::new(include_str!("../../../variants/t5.json")),
    names: NAMES,
    blocks: &["block."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads],
    toy: r#"{"model_type":"t5","architectures":["T5ForConditionalGeneration"],"vocab_size":50,"d_model":32,"d_kv":8,
        "d_ff":64,"num_layers":2,"num_decoder_layers":2,"num_heads":4,"relative_attention_num_buckets":8,
        "relative_attention_max_distance":16,"feed_forward_proj":"gelu"}"#,
    load: |config, w| Ok(Box::new(T5::load(config, w, &ENTRY, &T5_DEFAULTS, &dense)?)),
};

/// A table that early files carry for a place without distances.
pub(crate) const NAMES: Names =
    Names::new(&[], &["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"]);

/// What a config that leaves a field out means; the members of the family differ.
pub(crate) struct Defaults {
    pub(crate) vocab: usize,
    pub(crate) dim: usize,
    pub(crate) ff: usize,
    pub(crate) depth: usize,
    pub(crate) heads: usize,
    pub(crate) act: &'static str,
    /// The field that names the activation.
    pub(crate) act_field: &'static str,
    /// Whether the head reads the word table.
    pub(crate) tied: bool,
    /// Whether rows are scaled before a tied head; mT5 never does.
    pub(crate) scales: bool,
}

const T5_DEFAULTS: Defaults = Defaults {
    vocab: 32_128,
    dim: 512,
    ff: 2048,
    depth: 6,
    heads: 8,
    act: "relu",
    act_field: "feed_forward_proj",
    tied: true,
    scales: true,
};

/// Where a feed-forward network stands.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    /// Block of its stack.
    pub(crate) block: usize,
    pub(crate) decoder: bool,
}

/// Sizes and kind of a feed-forward network.
#[derive(Clone, Copy)]
pub(crate) struct Ff {
    pub(crate) dim: usize,
    pub(crate) hidden: usize,
    pub(crate) act: Activation,
    pub(crate) gated: bool,
}

/// Makes the feed-forward network of a block from the path of its sublayer: where the family's members differ.
pub(crate) type Feed<'a> = &'a dyn Fn(&Weights, Site, Ff) -> Result<Box<dyn Ffn>>;

/// T5's own feed-forward network.
pub(crate) fn dense(w: &Weights, _: Site, f: Ff) -> Result<Box<dyn Ffn>> {
    let inner: &[&str] = if f.gated { &["wi_0", "wi_1"] } else { &["wi"] };
    w.at("DenseReluDense").ffn(&FfnSpec { bias: [false; 2], ..FfnSpec::new(inner, "wo", [f.dim, f.hidden], f.act) })
}

struct Config {
    vocab: usize,
    dim: usize,
    head_dim: usize,
    ff: usize,
    depth: usize,
    decoder_depth: usize,
    heads: usize,
    buckets: usize,
    max_distance: usize,
    eps: f64,
    act: Activation,
    gated: bool,
    tied: bool,
    scale: bool,
    max_len: usize,
    decode: Decode,
    /// `initializer_factor`: scale of a fresh model's tensors.
    factor: f32,
}

impl Config {
    fn read(c: &ConfigMap, d: &Defaults) -> Result<Self> {
        // A lone decoder and other shapes of the family have no published files of these architectures.
        c.only("is_decoder", &[false.into()])?;
        let depth = c.size("num_layers", Some(d.depth), MAX_DEPTH)?;
        let vocab = c.size("vocab_size", Some(d.vocab), MAX_VOCAB)?;
        let proj = c.text(d.act_field, d.act)?;
        let (gated, act) = match proj.strip_prefix("gated-") {
            // The family's name for the tanh approximation.
            Some("gelu") => (true, "gelu_new"),
            Some(act) => (true, act),
            None => (false, proj.as_str()),
        };
        // What the reference derives from the name goes behind what a file says of it.
        let (gated, act, act_field) = match d.act_field {
            "feed_forward_proj" if c.get("dense_act_fn").is_some() => {
                (c.flag("is_gated_act", gated)?, c.text("dense_act_fn", act)?, "dense_act_fn")
            }
            "feed_forward_proj" => (c.flag("is_gated_act", gated)?, act.to_string(), d.act_field),
            field => (gated, act.to_string(), field),
        };
        let tied = c.flag("tie_word_embeddings", d.tied)?;
        let id = |field: &str, default: usize| c.int(field, Some(default), vocab - 1).map(|id| id as u32);
        let config = Config {
            vocab,
            dim: c.size("d_model", Some(d.dim), MAX_DIM)?,
            head_dim: c.size("d_kv", Some(64), MAX_DIM)?,
            ff: c.size("d_ff", Some(d.ff), MAX_DIM)?,
            depth,
            decoder_depth: c.size("num_decoder_layers", Some(depth), MAX_DEPTH)?,
            heads: c.size("num_heads", Some(d.heads), MAX_HEADS)?,
            buckets: c.size("relative_attention_num_buckets", Some(32), MAX_DIM)?,
            max_distance: c.size("relative_attention_max_distance", Some(128), MAX_POSITIONS)?,
            eps: c.float("layer_norm_epsilon", 1e-6, 0.0, 1.0)?,
            act: Activation::parse(act_field, &act)?,
            gated,
            tied,
            scale: d.scales && c.flag("scale_decoder_outputs", tied)?,
            max_len: c.size("n_positions", Some(512), MAX_POSITIONS)?,
            decode: Decode {
                start: match c.get("decoder_start_token_id") {
                    Some(_) => id("decoder_start_token_id", 0)?,
                    None => id("pad_token_id", 0)?,
                },
                ends: c.ids("eos_token_id", 1.min(vocab - 1), vocab - 1)?,
            },
            factor: c.float("initializer_factor", 1.0, 0.0, 1e3)? as f32,
        };
        if config.heads.saturating_mul(config.head_dim) > MAX_DIM {
            return Err(Error::config("num_heads", format!("times d_kv exceeds {MAX_DIM}")));
        }
        // Each side needs exact and growing buckets; the encoder splits the table between the sides.
        if config.buckets < 4 {
            let what = format!("is {}, must be at least 4", config.buckets);
            return Err(Error::config("relative_attention_num_buckets", what));
        }
        if config.max_distance <= config.buckets / 2 {
            let what = format!("is {}, must exceed half of the buckets, {}", config.max_distance, config.buckets / 2);
            return Err(Error::config("relative_attention_max_distance", what));
        }
        Ok(config)
    }

    /// Attention of any kind: no biases, no scale of the scores.
    fn attention(&self) -> AttentionSpec {
        AttentionSpec {
            head_dim: self.head_dim,
            value_dim: self.head_dim,
            bias: [false; 3],
            out_bias: false,
            scores: Scores::Dot(1.0),
            ..AttentionSpec::new(AttentionNames::new(["q", "k", "v"], "o"), self.dim, self.heads)
        }
    }

    /// Queries of a fresh model are small in place of a scale of the scores.
    fn queries(&self) -> Init {
        Init::Normal(self.factor / ((self.dim * self.head_dim) as f32).sqrt())
    }
}

/// Attention of what is written to what was read.
struct Cross {
    norm: RmsNorm,
    attn: Box<dyn Attention>,
}

impl Cross {
    fn load(w: &Weights, c: &Config) -> Result<Self> {
        let spec = AttentionSpec { source: Some(c.dim), tap: "cross", ..c.attention() };
        Ok(Cross {
            norm: w.rms_norm("layer_norm", c.dim, c.eps)?,
            attn: w.at("EncDecAttention").with_init_at("q", c.queries()).attention(&spec)?,
        })
    }
}

/// Self-attention, in decoders attention to the source, and a feed-forward.
struct Block {
    norm: RmsNorm,
    attn: Box<dyn Attention>,
    cross: Option<Cross>,
    ffn_norm: RmsNorm,
    ffn: Box<dyn Ffn>,
}

impl Block {
    fn load(w: &Weights, c: &Config, site: Site, distances: &DistanceBias, feed: Feed) -> Result<Self> {
        let (w, cross) = (w.at("layer"), site.decoder);
        let ff = w.at(if cross { 2 } else { 1 });
        let own =
            AttentionSpec { positions: Positions::Distance(distances.clone()), causal: site.decoder, ..c.attention() };
        let sizes = Ff { dim: c.dim, hidden: c.ff, act: c.act, gated: c.gated };
        Ok(Block {
            norm: w.rms_norm("0.layer_norm", c.dim, c.eps)?,
            attn: w.at("0.SelfAttention").with_init_at("q", c.queries()).attention(&own)?,
            cross: cross.then(|| Cross::load(&w.at(1), c)).transpose()?,
            ffn_norm: ff.rms_norm("layer_norm", c.dim, c.eps)?,
            ffn: feed(&ff, site, sizes)?,
        })
    }

    /// Shapes: x `[rows, dim]`, source `[source, dim]` -> `[rows, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, source: Option<&Stream>) -> Result<Tensor> {
        let normed = self.norm.forward(x)?;
        let mut x = self.attn.forward_onto(cx, &normed, rows, x)?;
        if let Some(cross) = &self.cross {
            let normed = cross.norm.forward(&x)?;
            x = cross.attn.attend_source(cx, &normed, rows, source, Some(&x))?;
        }
        let normed = self.ffn_norm.forward(&x)?;
        self.ffn.forward_onto(cx, &normed, rows, &x)
    }
}

/// Blocks that share their scores by distance, and the norm after the last.
struct Stack {
    blocks: Vec<Block>,
    norm: RmsNorm,
}

impl Stack {
    fn load(w: &Weights, c: &Config, depth: usize, decoder: bool, feed: Feed) -> Result<Self> {
        let table = "block.0.layer.0.SelfAttention.relative_attention_bias";
        let distances = w.with_init(Init::Normal(c.factor / (c.dim as f32).sqrt()));
        let distances = distances.embedding(table, c.buckets, c.heads)?;
        let bias =
            DistanceBias { table: distances.table().clone(), max_distance: c.max_distance, bidirectional: !decoder };
        let block = |block| Block::load(&w.at("block").at(block), c, Site { block, decoder }, &bias, feed);
        Ok(Stack {
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: w.rms_norm("final_layer_norm", c.dim, c.eps)?,
        })
    }
}

enum Head {
    /// The encoder alone.
    Encoder,
    /// The decoder's rows.
    Rows(Stack),
    /// Words.
    Words(Stack, Box<dyn Linear>),
}

/// The model.
pub struct T5 {
    config: Config,
    shared: Embedding,
    encoder: Stack,
    head: Head,
}

impl T5 {
    pub(crate) fn load(c: &ConfigMap, w: &Weights, entry: &Entry, defaults: &Defaults, feed: Feed) -> Result<Self> {
        let config = Config::read(c, defaults)?;
        let w = &w.with_init(Init::FanIn(config.factor)).with_init_at("shared", Init::Normal(config.factor));
        let shared = shared_table(w, config.vocab, config.dim, config.tied)?;
        let encoder = Stack::load(&w.at("encoder"), &config, config.depth, false, feed)?;
        let decoder = || Stack::load(&w.at("decoder"), &config, config.decoder_depth, true, feed);
        let architecture = entry.architecture(c)?;
        let head = if architecture.ends_with("ForConditionalGeneration") {
            // Recent files call every head tied and store one nevertheless where it is not.
            let copy = w.is_copy("lm_head.weight", "shared.weight");
            let own = !config.tied || (w.has("lm_head.weight") && w.has("shared.weight") && !copy);
            let linear = if own {
                w.linear("lm_head", config.dim, config.vocab, false)?
            } else {
                Box::new(Dense::new("shared", shared.table().clone(), None))
            };
            w.skip("lm_head.weight");
            Head::Words(decoder()?, linear)
        } else {
            w.skip("lm_head.weight");
            if architecture.ends_with("EncoderModel") {
                w.skip_tree("decoder");
                Head::Encoder
            } else {
                Head::Rows(decoder()?)
            }
        };
        Ok(T5 { config, shared, encoder, head })
    }

    fn decoder(&self) -> Option<&Stack> {
        match &self.head {
            Head::Encoder => None,
            Head::Rows(d) | Head::Words(d, _) => Some(d),
        }
    }

    /// Words of finished rows. Shapes: x `[rows, dim]`, normed -> `[rows, vocab]`.
    fn words(&self, cx: &mut Ctx, lm: &dyn Linear, x: &Tensor) -> Result<Tensor> {
        let scaled = if self.config.scale { (x * (self.config.dim as f64).powf(-0.5))? } else { x.clone() };
        lm.forward(cx, &scaled)
    }
}

impl Seq2Seq for T5 {
    fn encoder_depth(&self) -> usize {
        self.encoder.blocks.len()
    }
    fn decoder_depth(&self) -> Option<usize> {
        self.decoder().map(|d| d.blocks.len())
    }
    fn embed(&self, _: seq2seq::Stack, ids: &[u32], _: &[u32]) -> Result<Tensor> {
        self.shared.forward(ids)
    }
    fn read(&self, cx: &mut Ctx, i: usize, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        self.encoder.blocks[i].forward(cx, x, rows, None)
    }
    fn finish_reading(&self, x: Tensor) -> Result<Tensor> {
        self.encoder.norm.forward(&x)
    }
    fn write(&self, cx: &mut Ctx, i: usize, x: &Tensor, rows: &Rows, source: Option<&Stream>) -> Result<Tensor> {
        match self.decoder() {
            Some(decoder) => decoder.blocks[i].forward(cx, x, rows, source),
            None => Err(Error::input("this architecture writes nothing", "open one with a decoder")),
        }
    }
}

impl Staged for T5 {
    fn n_blocks(&self) -> usize {
        self.blocks_of_both()
    }
    fn first_exit(&self) -> usize {
        self.first_written()
    }
    fn resume(&self) -> Option<usize> {
        self.goes_on()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        self.stem_of(cx, input)
    }
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State> {
        self.block_of(cx, idx, state)
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let (decoder, lm) = match &self.head {
            Head::Encoder => {
                let x = self.encoder.norm.forward(&state.x)?;
                return Ok(Output::new().rows("last_hidden_state", x, &state.rows));
            }
            Head::Rows(decoder) => (decoder, None),
            Head::Words(decoder, lm) => (decoder, Some(lm)),
        };
        let x = decoder.norm.forward(&state.x)?;
        let out = match lm {
            None => Output::new().rows("last_hidden_state", x, &state.rows),
            Some(lm) => Output::new().rows("logits", self.words(cx, lm.as_ref(), &x)?, &state.rows),
        };
        Ok(beside_source(out, state.side))
    }
}

impl Model for T5 {
    fn spec(&self) -> InputSpec {
        let (vocab, max_len) = (self.config.vocab, self.config.max_len);
        let text = InputSpec::text(vocab, max_len);
        if self.decoder().is_some() { text.with_target(vocab, max_len) } else { text }
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
    fn decoder(&self) -> Option<&Decode> {
        match &self.head {
            Head::Words(..) => Some(&self.config.decode),
            _ => None,
        }
    }
}
