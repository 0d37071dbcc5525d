//! Heads of text encoders, for the families that answer as BERT does.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::layers::{Activation, Embedding, LayerNorm};
use switchformer_nn::leaf::Dense;
use switchformer_nn::staged::State;
use switchformer_nn::weights::TiedSpec;
use switchformer_nn::{Ctx, Linear, Output, ParamKind, Result, Tensor, Weights};

use crate::entry::HeadKind;

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
    /// Finds a word table that the writer of a file kept under the name of the projection tied to it. To be called before the
    /// table is loaded.
    pub(crate) fn find_words(&self, c: &ConfigMap, w: &Weights) -> Result<()> {
        if c.flag("tie_word_embeddings", true)? {
            w.stored_as(&format!("{}.weight", self.words), &format!("{}.weight", self.decoder));
        }
        Ok(())
    }

    /// The projection onto the vocabulary from rows as wide as the word table.
    pub(crate) fn load_decoder(&self, c: &ConfigMap, w: &Weights, words: &Embedding) -> Result<Box<dyn Linear>> {
        let (weight, mut bias) = (format!("{}.weight", self.decoder), self.bias.to_string());
        let own_bias = format!("{}.bias", self.decoder);
        if own_bias != bias && w.has(&own_bias) {
            // The reference adds the projection's own where one is stored; most files repeat the head's.
            if w.is_copy(&own_bias, &bias) {
                w.skip(&own_bias);
            } else {
                w.skip(&bias);
                bias = own_bias;
            }
        }
        let table = format!("{}.weight", self.words);
        let tied = c.flag("tie_word_embeddings", true)?;
        let copy = w.is_copy(&weight, &table);
        if tied && (copy || !w.has(&weight) || !w.has(&table)) {
            w.skip(&weight);
            return w.tied(&TiedSpec { name: self.decoder, table: words, bias: Some(&bias) });
        }
        if tied {
            w.remark(format!(
                "config.json ties `{weight}` to the word table, and the file stores another tensor under it: that one is used"
            ));
        }
        let (vocab, dim) = words.table().dims2()?;
        let weight = w.tensor(&weight, &[vocab, dim], ParamKind::Matrix)?;
        let bias = w.tensor(&bias, &[vocab], ParamKind::Vector)?;
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
    /// The pooler of a bare encoder; none where the folder was saved without one.
    pub(crate) fn if_stored(w: &Weights, name: &str, dim: usize, act: Activation) -> Result<Option<Self>> {
        let stored = ["weight", "bias"].iter().any(|part| w.has(&format!("{name}.{part}")));
        if stored || w.is_open() {
            return Pooler::load(w, name, dim, act).map(Some);
        }
        w.remark("the folder stores no pooler, so there is no pooler_output".into());
        Ok(None)
    }

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
    /// Both heads of pre-training: logits over the vocabulary, and whether a text follows the other.
    PreTraining(MaskedLm, Pooler, Box<dyn Linear>),
}

/// The heads of a family that answers as BERT does, by their published names.
pub(crate) struct TextHeads {
    /// The masked-LM head.
    pub(crate) lm: MaskedLmNames,
    /// Its activation; that of the blocks where absent.
    pub(crate) lm_act: Option<Activation>,
    /// The pooler of the bare encoder, where the family has one.
    pub(crate) pooler: Option<&'static str>,
    /// What pools for the classifier: the dense layer and its activation.
    pub(crate) pooled_by: (&'static str, Activation),
    /// The classifier of texts.
    pub(crate) classifier: &'static str,
    /// Whether one text follows another.
    pub(crate) next: Option<&'static str>,
}

/// Sizes that a head needs.
#[derive(Clone, Copy)]
pub(crate) struct HeadSizes {
    /// Width of a row.
    pub(crate) dim: usize,
    /// Activation of the blocks.
    pub(crate) act: Activation,
    /// Epsilon of the norms.
    pub(crate) eps: f64,
}

impl TextHeads {
    /// Loads the head of a kind. Tensors of other heads may be in the file; the loader passes over them.
    pub(crate) fn load(
        &self,
        kind: HeadKind,
        c: &ConfigMap,
        w: &Weights,
        sizes: HeadSizes,
        words: &Embedding,
    ) -> Result<TextHead> {
        let HeadSizes { dim, act, eps } = sizes;
        let lm = || MaskedLm::load(c, w, &self.lm, dim, words, self.lm_act.unwrap_or(act), eps);
        let (dense, pool) = self.pooled_by;
        let pooler = || Pooler::load(w, dense, dim, pool);
        let next = || w.linear(self.next.unwrap_or_default(), dim, 2, true);
        let head = match kind {
            HeadKind::MaskedLm => TextHead::MaskedLm(lm()?),
            HeadKind::SequenceClassification => {
                TextHead::Sequence(pooler()?, w.linear(self.classifier, dim, c.n_labels()?, true)?)
            }
            HeadKind::MultipleChoice => TextHead::Sequence(pooler()?, w.linear(self.classifier, dim, 1, true)?),
            HeadKind::NextSentence => TextHead::Sequence(pooler()?, next()?),
            HeadKind::PreTraining => TextHead::PreTraining(lm()?, pooler()?, next()?),
            HeadKind::TokenClassification => TextHead::Token(w.linear("classifier", dim, c.n_labels()?, true)?),
            HeadKind::QuestionAnswering => {
                c.only("num_labels", &[2.into()])?;
                TextHead::Question(w.linear("qa_outputs", dim, 2, true)?)
            }
            _ => {
                let pooler = self.pooler.map(|name| Pooler::if_stored(w, name, dim, Activation::Tanh)).transpose()?;
                TextHead::Encoder(pooler.flatten())
            }
        };
        // Published pre-training files carry a pooler that some heads do not read.
        if let Some(pooler) = self.pooler {
            ["weight", "bias"].iter().for_each(|part| w.skip(&format!("{pooler}.{part}")));
        }
        Ok(head)
    }
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
            TextHead::PreTraining(lm, pooler, next) => {
                let pooled = pooler.forward(cx, &state)?;
                let out = out.member("seq_relationship_logits", next.forward(cx, &pooled)?);
                out.rows("prediction_logits", lm.forward(cx, &state.x)?, &state.rows)
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
