//! DeBERTa v2 and v3 - attention that scores contents and places apart.
//!
//! Papers: "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", arXiv 2006.03654; "DeBERTaV3", arXiv 2111.09543.
//! Code: microsoft/DeBERTa. Weights: microsoft/deberta-v3-base and kin.
//! Idea: a score is query by key, plus query by the key of their distance, plus key by the query of their distance. A table
//! of distances, exact nearby and by logarithm further on, serves all blocks, through their own projections or
//! (`share_att_key`) through those of the contents.
//! Shapes: `ids [total] -> rows [total, dim] -> last_hidden_state, or a head's logits.`
//! Departs from the reference: packed rows, no padding; the convolution of v2-xlarge, attention without distances and
//! narrow word tables are refused.

use std::sync::Arc;

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS, MAX_POSITIONS, MAX_VOCAB};
use switchformer_nn::layers::{Activation, Embedding, LayerNorm, check_heads, project_onto};
use switchformer_nn::names::Names;
use switchformer_nn::ops::{self, AttendSpec, ScoreBias};
use switchformer_nn::{
    Ctx, Error, Ffn, FfnSpec, Input, InputSpec, Linear, Mixer, Model, Output, Result, Rows, Staged, State, Tensor,
    Weights,
};

use super::bert::{Config, Embeddings};
use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;
use crate::text_head::{MaskedLm, MaskedLmNames, Pooler, TextHead};

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "deberta-v2",
    paper: "DeBERTa: Decoding-enhanced BERT with Disentangled Attention, arXiv 2006.03654",
    summary: "post-norm encoder whose attention scores contents and places apart",
    architectures: &[
        ("DebertaV2Model", HeadKind::Encoder),
        ("DebertaV2ForMaskedLM", HeadKind::MaskedLm),
        ("DebertaV2ForSequenceClassification", HeadKind::SequenceClassification),
        ("DebertaV2ForTokenClassification", HeadKind::TokenClassification),
        ("DebertaV2ForQuestionAnswering", HeadKind::QuestionAnswering),
    ],
    published: Published::new(include_str!("../../../variants/deberta-v2.json")),
    // Pre-training files hold a head of the discriminator that no architecture here reads.
    names: Names::new(&[("deberta.**", "**")], &["embeddings.position_ids", "mask_predictions.**"]),
    blocks: &["encoder.layer."],
    prefix: "deberta.",
    heads: &["cls", "lm_predictions", "pooler", "classifier", "qa_outputs"],
    traits: &[Trait::NoAttention],
    toy: r#"{"model_type":"deberta-v2","architectures":["DebertaV2ForSequenceClassification"],"vocab_size":50,
        "hidden_size":32,"num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,
        "max_position_embeddings":32,"relative_attention":true,"position_buckets":8,"pos_att_type":"p2c|c2p",
        "norm_rel_ebd":"layer_norm","share_att_key":true,"position_biased_input":false,"num_labels":3}"#,
    load: |config, w| Ok(Box::new(DebertaV2::load(config, w)?)),
};

/// The head of most files, as BERT names it, and the one of v3, which reads the word table whatever the config says.
const LM: [MaskedLmNames; 2] = [
    MaskedLmNames {
        dense: "cls.predictions.transform.dense",
        norm: "cls.predictions.transform.LayerNorm",
        decoder: "cls.predictions.decoder",
        bias: "cls.predictions.bias",
        words: "embeddings.word_embeddings",
    },
    MaskedLmNames {
        dense: "lm_predictions.lm_head.dense",
        norm: "lm_predictions.lm_head.LayerNorm",
        decoder: "lm_predictions.lm_head.decoder",
        bias: "lm_predictions.lm_head.bias",
        words: "embeddings.word_embeddings",
    },
];

/// Reads the family's fields into BERT's sizes.
fn read(c: &ConfigMap) -> Result<Config> {
    if !c.flag("relative_attention", false)? {
        return Err(Error::unsupported("relative_attention", "false", "true"));
    }
    c.only("conv_kernel_size", &[0.into()])?;
    let config = Config {
        vocab: c.size("vocab_size", Some(128_100), MAX_VOCAB)?,
        dim: c.size("hidden_size", Some(1536), MAX_DIM)?,
        depth: c.size("num_hidden_layers", Some(24), MAX_DEPTH)?,
        heads: c.size("num_attention_heads", Some(24), MAX_HEADS)?,
        mlp_dim: c.size("intermediate_size", Some(6144), MAX_DIM)?,
        act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
        eps: c.float("layer_norm_eps", 1e-7, 0.0, 1.0)?,
        positions: c.size("max_position_embeddings", Some(512), MAX_POSITIONS)?,
        types: c.int("type_vocab_size", Some(0), 1 << 16)?,
    };
    check_heads(config.dim, config.heads)?;
    for (field, value) in [
        ("embedding_size", config.dim),
        ("pooler_hidden_size", config.dim),
        ("attention_head_size", config.dim / config.heads),
    ] {
        c.only(field, &[value.into()])?;
    }
    Ok(config)
}

/// How distances are told apart, and which scores they give.
struct Distances {
    /// Rows of the table are those of the distances `-span..span`.
    span: usize,
    /// Buckets, and the distance that reaches the last; without them every distance is its own.
    buckets: Option<(usize, usize)>,
    /// Whether queries meet the keys of distances, and keys their queries.
    c2p: bool,
    p2c: bool,
}

impl Distances {
    fn read(c: &ConfigMap, positions: usize) -> Result<Self> {
        // Numbers below 1 stand for none.
        let some = |field: &str| match c.get(field).and_then(|v| v.as_i64()) {
            Some(n) if n < 1 => Ok(None),
            _ if c.get(field).is_none() => Ok(None),
            _ => c.size(field, None, MAX_POSITIONS).map(Some),
        };
        let farthest = some("max_relative_positions")?.unwrap_or(positions);
        let buckets = some("position_buckets")?.map(|n| (n, farthest));
        if let Some((n, farthest)) = buckets
            && (n < 2 || farthest < n / 2 + 2)
        {
            let what = format!("is {n}, must be at least 2 and less than twice the farthest distance, {farthest}");
            return Err(Error::config("position_buckets", what));
        }
        let kinds: Vec<String> = match c.get("pos_att_type").and_then(|v| v.as_array()) {
            None => c.text("pos_att_type", "")?.to_lowercase().split('|').map(|k| k.trim().to_string()).collect(),
            Some(list) => list.iter().map(|k| k.as_str().unwrap_or_default().to_string()).collect(),
        };
        if kinds.is_empty() || kinds.iter().any(|k| !["c2p", "p2c"].contains(&k.as_str())) {
            return Err(Error::unsupported("pos_att_type", kinds.join("|"), "c2p, p2c, p2c|c2p"));
        }
        let has = |kind: &str| kinds.iter().any(|k| k == kind);
        let span = buckets.map_or(farthest, |(n, _)| n);
        Ok(Distances { span, buckets, c2p: has("c2p"), p2c: has("p2c") })
    }

    /// Row of the table for a distance `query - key`, in the arithmetic of the reference.
    fn row(&self, distance: i64) -> u32 {
        let (far, span) = (distance.unsigned_abs(), self.span as i64);
        let near = match self.buckets {
            Some((n, farthest)) if far > n as u64 / 2 => {
                let mid = (n / 2) as f32;
                let whole = ((farthest - 1) as f64 / (n / 2) as f64) as f32;
                let log = (far as f32 / mid).ln() / whole.ln() * (mid - 1.0);
                (log.ceil() + mid) as i64 * distance.signum()
            }
            _ => distance,
        };
        (near + span).clamp(0, 2 * span - 1) as u32
    }

    /// Rows of the table for every pair of a query and a key, query by query.
    fn rows(&self, positions: &[u32]) -> Vec<u32> {
        let (least, most) = positions.iter().fold((u32::MAX, 0), |(a, b), p| (a.min(*p), b.max(*p)));
        let far = i64::from(most.saturating_sub(least));
        let known: Vec<u32> = (-far..=far).map(|distance| self.row(distance)).collect();
        let of = |q: &u32, k: &u32| known[(i64::from(*q) - i64::from(*k) + far) as usize];
        positions.iter().flat_map(|q| positions.iter().map(move |k| of(q, k))).collect()
    }
}

/// Vectors of distances, which serve all blocks.
struct Table {
    distances: Distances,
    vectors: Embedding,
    norm: Option<LayerNorm>,
}

impl Table {
    fn load(c: &ConfigMap, w: &Weights, config: &Config) -> Result<Self> {
        let distances = Distances::read(c, config.positions)?;
        let normed = c.text("norm_rel_ebd", "none")?.to_lowercase();
        let normed = normed.split('|').any(|kind| kind.trim() == "layer_norm");
        Ok(Table {
            vectors: w.embedding("rel_embeddings", 2 * distances.span, config.dim)?,
            norm: normed.then(|| w.layer_norm("LayerNorm", config.dim, config.eps)).transpose()?,
            distances,
        })
    }

    /// The vectors of a stretch of rows. Shapes: -> `[len, dim]`.
    fn stretch(&self, from: usize, len: usize) -> Result<Tensor> {
        let own: Vec<u32> = (from as u32..(from + len) as u32).collect();
        let own = self.vectors.forward(&own)?;
        match &self.norm {
            Some(norm) => norm.forward(&own),
            None => Ok(own),
        }
    }
}

/// Attention whose scores know distances by content: no number that a table could hold, so it is a mixer of its own.
struct Disentangled {
    query: Box<dyn Linear>,
    key: Box<dyn Linear>,
    value: Box<dyn Linear>,
    /// Key and query of a distance, where they have projections of their own.
    of_distance: [Option<Box<dyn Linear>>; 2],
    out: Box<dyn Linear>,
    table: Arc<Table>,
    heads: usize,
    scale: f64,
}

impl Disentangled {
    fn load(w: &Weights, c: &Config, shared: bool, table: &Arc<Table>) -> Result<Self> {
        let d = &table.distances;
        let linear = |name: &str| w.linear(name, c.dim, c.dim, true);
        let own = |name: &str, has: bool| (has && !shared).then(|| linear(name)).transpose();
        let kinds = 1 + usize::from(d.c2p) + usize::from(d.p2c);
        Ok(Disentangled {
            query: linear("self.query_proj")?,
            key: linear("self.key_proj")?,
            value: linear("self.value_proj")?,
            of_distance: [own("self.pos_key_proj", d.c2p)?, own("self.pos_query_proj", d.p2c)?],
            out: linear("output.dense")?,
            table: table.clone(),
            heads: c.heads,
            scale: ((c.dim / c.heads * kinds) as f64).powf(-0.5),
        })
    }

    /// Heads in front. Shapes: x `[rows, dim]` -> `[heads, rows, head_dim]`.
    fn by_head(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, dim) = x.dims2()?;
        x.reshape((rows, self.heads, dim / self.heads))?.permute((1, 0, 2))?.contiguous()
    }

    /// What the heads gather. Shapes: x `[total, dim]` -> `[total, dim]`.
    fn mixed(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        if rows.seen().is_some() {
            let supported = "models whose attention is the usual one, or expansion tokens that are attended to";
            return Err(Error::unsupported("attention", "tokens that nobody looks at, with distances", supported));
        }
        let [q, k, v] = [&self.query, &self.key, &self.value].map(|p| p.forward(cx, x));
        let (q, k, v) = (q?, k?, v?);
        let d = &self.table.distances;
        // Distances of one segment reach to both sides alike, so that the widest holds them all.
        let reach = |positions: &[u32]| -> (usize, usize) {
            let ends = positions.iter().min().zip(positions.iter().max());
            let far = ends.map_or(0, |(least, most)| i64::from(*most) - i64::from(*least));
            let from = d.row(-far) as usize;
            (from, d.row(far) as usize + 1 - from)
        };
        let own = |i: usize| &rows.positions()[rows.range(i)];
        let (from, len) = (0..rows.n()).map(|i| reach(own(i))).max_by_key(|(_, len)| *len).unwrap_or((d.span, 1));
        let vectors = self.table.stretch(from, len)?;
        let counted = cx.trace.macs;
        let mut project = |own: &Option<Box<dyn Linear>>, content: &dyn Linear, wanted: bool| {
            wanted.then(|| own.as_deref().unwrap_or(content).forward(cx, &vectors)).transpose()
        };
        let pos_key = project(&self.of_distance[0], self.key.as_ref(), d.c2p)?;
        let pos_query = project(&self.of_distance[1], self.query.as_ref(), d.p2c)?;
        let pos_key = pos_key.map(|t| self.by_head(&t)).transpose()?;
        let pos_query = pos_query.map(|t| self.by_head(&t)).transpose()?;
        // Members share this work and each is charged for its own distances, so that its cost is that of it alone.
        let each = (cx.trace.macs - counted) as usize / len;
        cx.trace.macs = counted;
        let tap = format!("{}.attn.probs", cx.site);
        let mut probs = cx.taps.wants(&tap).then(Vec::new);
        let mut parts = Vec::with_capacity(rows.n());
        for i in 0..rows.n() {
            let n = rows.len(i);
            if n == 0 {
                continue;
            }
            self.check_size(n)?;
            let part = |t: &Tensor| t.narrow(0, rows.range(i).start, n)?.contiguous();
            let (q, k, v) = (part(&q)?, part(&k)?, part(&v)?);
            let (first, width) = reach(own(i));
            // Products of rows with the vectors of the distances that the segment has: [heads, n, width].
            let products = |x: &Tensor, vectors: &Option<Tensor>| -> Result<Option<Tensor>> {
                let Some(vectors) = vectors else { return Ok(None) };
                let nearby = vectors.narrow(1, first - from, width)?.contiguous()?;
                self.by_head(x)?.matmul(&nearby.t()?).map(Some)
            };
            let (of_queries, of_keys) = (products(&q, &pos_key)?, products(&k, &pos_query)?);
            let at = d.rows(own(i)).into_iter().map(|row| row - first as u32).collect();
            let bias = ops::pair_scores(of_queries.as_ref(), of_keys.as_ref(), at, self.scale)?;
            let kinds = usize::from(pos_key.is_some()) + usize::from(pos_query.is_some());
            cx.count(n * self.out.dims().0 * (2 * n + kinds * width) + width * each);
            let (_, one) = rows.select(&[i]);
            let spec = AttendSpec {
                bias: Some(ScoreBias::Pairs(&bias)),
                ..AttendSpec::new(&one, &one, self.heads, self.scale)
            };
            if let Some(probs) = &mut probs {
                probs.extend(ops::attend_probs(&q, &k, &spec)?);
            }
            parts.push(ops::attend(&q, &k, &v, &spec)?);
        }
        if let Some(probs) = probs {
            cx.taps.put_each_of(&tap, probs, rows);
        }
        match parts.as_slice() {
            [] => Tensor::zeros((0, self.out.dims().0), x.dtype()),
            [one] => Ok(one.clone()),
            all => Tensor::cat(all, 0),
        }
    }

    /// Scores of a segment are held at once, and twice more.
    fn check_size(&self, n: usize) -> Result<()> {
        let got = n.saturating_mul(n).saturating_mul(self.heads);
        if got <= MAX_SCORES {
            return Ok(());
        }
        let what = format!("attention scores of one member ({n} rows, {} heads)", self.heads);
        Err(Error::Limit { what, got: got as u64, max: MAX_SCORES as u64, hint: "shorten the text".into() })
    }
}

/// Most scores of one member.
const MAX_SCORES: usize = 1 << 28;

impl Mixer for Disentangled {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let mixed = self.mixed(cx, x, rows)?;
        self.out.forward(cx, &mixed)
    }
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        let mixed = self.mixed(cx, x, rows)?;
        project_onto(cx, self.out.as_ref(), &mixed, residual, "attn")
    }
}

struct Block {
    attn: Disentangled,
    norm: LayerNorm,
    ffn: Box<dyn Ffn>,
    ffn_norm: LayerNorm,
}

impl Block {
    fn load(w: &Weights, c: &Config, shared: bool, table: &Arc<Table>) -> Result<Self> {
        Ok(Block {
            attn: Disentangled::load(&w.at("attention"), c, shared, table)?,
            norm: w.layer_norm("attention.output.LayerNorm", c.dim, c.eps)?,
            ffn: w.ffn(&FfnSpec::new(&["intermediate.dense"], "output.dense", [c.dim, c.mlp_dim], c.act))?,
            ffn_norm: w.layer_norm("output.LayerNorm", c.dim, c.eps)?,
        })
    }

    /// Shapes: x `[total, dim]` -> `[total, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let x = self.norm.forward(&self.attn.forward_onto(cx, x, rows, x)?)?;
        self.ffn_norm.forward(&self.ffn.forward_onto(cx, &x, rows, &x)?)
    }
}

/// The model.
pub struct DebertaV2 {
    config: Config,
    embeddings: Embeddings,
    blocks: Vec<Block>,
    head: TextHead,
}

impl DebertaV2 {
    fn load(c: &ConfigMap, w: &Weights) -> Result<Self> {
        let config = read(c)?;
        let own = w.at("embeddings");
        LM.iter().try_for_each(|lm| lm.find_words(c, w))?;
        let embeddings = if c.flag("position_biased_input", true)? {
            Embeddings::load(&own, &config, config.dim, config.types)?
        } else {
            // Some files carry a table that is not read.
            own.skip("position_embeddings.weight");
            let norm = own.layer_norm("LayerNorm", config.dim, config.eps)?;
            Embeddings::unplaced(&own, &config, config.dim, config.types, norm)?
        };
        let encoder = w.at("encoder");
        let table = Arc::new(Table::load(c, &encoder, &config)?);
        let shared = c.flag("share_att_key", false)?;
        let block = |i| Block::load(&encoder.at("layer").at(i), &config, shared, &table);
        let blocks = (0..config.depth).map(block).collect::<Result<_>>()?;
        let head = DebertaV2::head(c, w, &config, &embeddings)?;
        Ok(DebertaV2 { config, embeddings, blocks, head })
    }

    fn head(c: &ConfigMap, w: &Weights, config: &Config, embeddings: &Embeddings) -> Result<TextHead> {
        let dim = config.dim;
        let kind = ENTRY.head_of(c)?;
        Ok(match kind {
            HeadKind::MaskedLm => {
                let legacy = c.flag("legacy", true)?;
                if !legacy {
                    c.only("tie_word_embeddings", &[true.into()])?;
                }
                let names = &LM[usize::from(!legacy)];
                TextHead::MaskedLm(MaskedLm::load(c, w, names, dim, &embeddings.words, config.act, config.eps)?)
            }
            HeadKind::SequenceClassification => {
                let act = Activation::parse("pooler_hidden_act", &c.text("pooler_hidden_act", "gelu")?)?;
                let pooler = Pooler::load(w, "pooler.dense", dim, act)?;
                TextHead::Sequence(pooler, w.linear("classifier", dim, c.n_labels()?, true)?)
            }
            HeadKind::TokenClassification => TextHead::Token(w.linear("classifier", dim, c.n_labels()?, true)?),
            HeadKind::QuestionAnswering => {
                c.only("num_labels", &[2.into()])?;
                TextHead::Question(w.linear("qa_outputs", dim, 2, true)?)
            }
            _ => TextHead::Encoder(None),
        })
    }
}

impl Staged for DebertaV2 {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, _: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let types = if self.config.types > 0 { input.token_types()? } else { Default::default() };
        let x = self.embeddings.forward(&text.ids, &types, &text.columns)?;
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

impl Model for DebertaV2 {
    fn spec(&self) -> InputSpec {
        let text = InputSpec::text(self.config.vocab, self.config.positions);
        if self.config.types > 0 { text.with_types(self.config.types) } else { text }
    }
    fn trunk(&self) -> &dyn Staged {
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn distances_fall_into_the_buckets_of_the_reference() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../golden/deberta-v2/far.json");
        let doc: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        let number = |v: &Value| v.as_i64().unwrap();
        for own in doc["distances"].as_array().unwrap() {
            let (n, farthest) = (number(&own["buckets"]) as usize, number(&own["farthest"]) as usize);
            let d = Distances { span: n, buckets: Some((n, farthest)), c2p: true, p2c: true };
            let (span, last) = (n as i64, 2 * n as i64 - 1);
            for (far, bucket) in own["of"].as_array().unwrap().iter().enumerate() {
                for side in [1, -1] {
                    let want = (side * number(bucket) + span).clamp(0, last);
                    assert_eq!(i64::from(d.row(side * far as i64)), want, "{n} of {farthest} at {far}");
                }
            }
        }
    }
}
