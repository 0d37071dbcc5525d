//! Heads of text encoders, for the families that answer as BERT does.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::layers::{Activation, Embedding, LayerNorm};
use switchformer_nn::leaf::Dense;
use switchformer_nn::staged::State;
use switchformer_nn::weights::TiedSpec;
use switchformer_nn::{Ctx, Linear, Output, ParamKind, Result, Tensor, Weights};

/// The masked-LM head of the BERT family: dense, activation, norm, then the word table, or a projection of its own where
/// the config says `"tie_word_embeddings": false`.
pub(crate) struct MaskedLm {
    dense: Box<dyn Linear>,
    act: Activation,
    norm: LayerNorm,
    /// The product with the word table or its own.
    decoder: Box<dyn Linear>,
}

/// Published names of a masked-LM head.
pub(crate) struct MaskedLmNames {
    pub(crate) dense: &'static str,
    pub(crate) norm: &'static str,
    /// Projection onto the vocabulary; some files repeat the tied table under it.
    pub(crate) decoder: &'static str,
    /// Bias over the vocabulary; some files repeat it as that of the projection.
    pub(crate) bias: &'static str,
    /// Word table.
    pub(crate) words: &'static str,
}

impl MaskedLmNames {
    /// Marks the whole head as known: a pre-training file that is opened for something else.
    pub(crate) fn skip(&self, w: &Weights) {
        w.skip(self.bias);
        for part in [self.dense, self.norm, self.decoder] {
            ["weight", "bias"].iter().for_each(|suffix| w.skip(&format!("{part}.{suffix}")));
        }
    }

    /// The projection onto the vocabulary from rows as wide as the word table.
    fn load_decoder(&self, c: &ConfigMap, w: &Weights, words: &Embedding) -> Result<Box<dyn Linear>> {
        let (weight, bias) = (format!("{}.weight", self.decoder), format!("{}.bias", self.decoder));
        if bias != self.bias {
            w.repeats(&bias, self.bias, "remove from the file the one that is not meant")?;
        }
        if c.flag("tie_word_embeddings", true)? {
            let or = "set \"tie_word_embeddings\" to false in config.json to read it, or remove it from the file";
            w.repeats(&weight, &format!("{}.weight", self.words), or)?;
            return w.tied(&TiedSpec { name: self.decoder, table: words, bias: Some(self.bias) });
        }
        let (vocab, dim) = words.table().dims2()?;
        let weight = w.tensor(&weight, &[vocab, dim], ParamKind::Matrix)?;
        let bias = w.tensor(self.bias, &[vocab], ParamKind::Vector)?;
        Ok(Box::new(Dense::new(w.name(self.decoder), weight, Some(bias))))
    }
}

impl MaskedLm {
    /// Loads a head that maps `dim` to the width of the word table, then to the vocabulary.
    pub(crate) fn load(
        c: &ConfigMap,
        w: &Weights,
        n: &MaskedLmNames,
        dim: usize,
        words: &Embedding,
        act: Activation,
        eps: f64,
    ) -> Result<Self> {
        let table_dim = words.table().dims2()?.1;
        Ok(MaskedLm {
            dense: w.linear(n.dense, dim, table_dim, true)?,
            act,
            norm: w.layer_norm(n.norm, table_dim, eps)?,
            decoder: n.load_decoder(c, w, words)?,
        })
    }

    /// Shapes: x `[total, dim]` -> `[total, vocab]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let x = self.norm.forward(&self.act.forward(&self.dense.forward(cx, x)?)?)?;
        self.decoder.forward(cx, &x)
    }
}

/// The first row through a dense layer and an activation.
pub(crate) struct Pooler {
    dense: Box<dyn Linear>,
    act: Activation,
}

impl Pooler {
    pub(crate) fn load(w: &Weights, name: &str, dim: usize, act: Activation) -> Result<Self> {
        Ok(Pooler { dense: w.linear(name, dim, dim, true)?, act })
    }
    /// Shapes: state -> `[members, dim]`.
    fn forward(&self, cx: &mut Ctx, state: &State) -> Result<Tensor> {
        self.act.forward(&self.dense.forward(cx, &state.first_rows()?)?)
    }
}

/// What a text encoder answers with.
pub(crate) enum TextHead {
    /// All rows, and the pooled first one where the family pools.
    Encoder(Option<Pooler>),
    /// Logits over the vocabulary for every row.
    MaskedLm(MaskedLm),
    /// Logits of the pooled first row.
    Sequence(Pooler, Box<dyn Linear>),
    /// Logits of every row.
    Token(Box<dyn Linear>),
    /// Where an answer begins and ends: two scores for every row.
    Question(Box<dyn Linear>),
}

impl TextHead {
    pub(crate) fn forward(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        let out = Output::new();
        Ok(match self {
            TextHead::Encoder(pooler) => {
                let pooled = pooler.as_ref().map(|p| p.forward(cx, &state)).transpose()?;
                let out = out.rows("last_hidden_state", state.x, &state.rows);
                match pooled {
                    Some(pooled) => out.member("pooler_output", pooled),
                    None => out,
                }
            }
            TextHead::MaskedLm(lm) => out.rows("logits", lm.forward(cx, &state.x)?, &state.rows),
            TextHead::Sequence(pooler, classifier) => {
                let pooled = pooler.forward(cx, &state)?;
                out.member("logits", classifier.forward(cx, &pooled)?)
            }
            TextHead::Token(classifier) => out.rows("logits", classifier.forward(cx, &state.x)?, &state.rows),
            TextHead::Question(both) => {
                let both = both.forward(cx, &state.x)?; // [total, 2]
                let column = |i: usize| -> Result<Tensor> { both.narrow(1, i, 1)?.flatten_all() };
                out.rows("start_logits", column(0)?, &state.rows).rows("end_logits", column(1)?, &state.rows)
            }
        })
    }

    /// See [`switchformer_nn::Staged::classifier`].
    pub(crate) fn classifier(&self) -> Option<(usize, usize)> {
        match self {
            TextHead::Sequence(_, c) => Some(c.dims()),
            _ => None,
        }
    }
}
