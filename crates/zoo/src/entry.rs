//! What the registry knows of a model family.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::{Error, Model, Result, Weights};

use crate::published::{Constructor, Published, Variant};

/// What the head of an architecture answers. Tasks are chosen by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// Rows, and often a pooled one: no head.
    Encoder,
    /// Rows of an encoder and a decoder: no head.
    EncoderDecoder,
    /// Scores over the vocabulary for every token.
    MaskedLm,
    /// Scores of classes for a text.
    SequenceClassification,
    /// One score for each way to go on.
    MultipleChoice,
    /// Whether one text follows another.
    NextSentence,
    /// Scores over the vocabulary for every token, and whether one text follows another.
    PreTraining,
    /// Scores of classes for every token.
    TokenClassification,
    /// Scores of every token as first and as last of an answer.
    QuestionAnswering,
    /// Scores over the vocabulary for the next token.
    Generation,
    /// Scores of classes for an image.
    ImageClassification,
    /// Maps over an image.
    Dense,
}

/// A model family, found by the `model_type` of its config.
pub struct Entry {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// Paper title and arXiv id.
    pub paper: &'static str,
    /// One line: what it is.
    pub summary: &'static str,
    /// Accepted `architectures` and the heads they have; the first is used where the config names none.
    pub architectures: &'static [(&'static str, HeadKind)],
    /// Published sizes; [`Entry::variants`] reads them.
    pub published: Published,
    /// Other generations of tensor names.
    pub names: Names,
    /// Paths of the blocks, such as `encoder.layer.`, from the root or any part of it: where forms of layers apply.
    pub blocks: &'static [&'static str],
    /// Prefix that published files put before every tensor outside the heads, such as `bert.`.
    pub prefix: &'static str,
    /// First parts of tensor names that belong to a head and carry no prefix.
    pub heads: &'static [&'static str],
    /// What sets the family apart from a plain stack of equal blocks.
    pub traits: &'static [Trait],
    /// A small config for laws and gradient tests, as JSON.
    pub toy: &'static str,
    /// Builds the model from a config and weights.
    pub load: fn(&ConfigMap, &Weights) -> Result<Box<dyn Model>>,
}

/// What sets a family apart from a plain stack of equal blocks; tests and tools ask for it instead of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// No exit head can answer in the model's stead: it answers per token or pixel, or its rows change their width.
    NoExitHeads,
    /// Maps shrink and widen from stage to stage.
    Pyramid,
    /// The reference gives the rows of the last map as a map, `[b, c, h, w]`.
    MapOutput,
    /// Feed-forwards hold a convolution, so no bank of experts can take their place.
    ConvolutionalFfn,
    /// Convolutions alone up to the head: no projection that other forms of weights could stand in for, and no feed-forward.
    ConvolutionsAlone,
    /// The published layout has experts of its own.
    OwnExperts,
    /// No softmax attention that a plan or a switch could take the place of: rows never attend to each other, or scores are
    /// more than the attention leaf knows.
    NoAttention,
    /// ReLUs over few numbers: the loss has a kink within every step that is not lost in rounding.
    Kinks,
    /// The reference reads images of another size than the trained one only where a caller asks it to stretch the positions.
    OneSize,
    /// Computes with signs: the loss jumps where one changes, and the gradient passes straight through.
    Signs,
}

/// How a timm family reads here; the config fields of its form are in the file of the family
/// ([`Entry::constructor`]).
pub struct Timm {
    /// Name of the family (`swin`); variants are those of the entry, with `_` for `-`.
    pub family: &'static str,
    /// The model that computes it.
    pub entry: &'static Entry,
    /// Architecture of the entry.
    pub architecture: &'static str,
    /// Constructor arguments and the config fields they are.
    pub args: &'static [(&'static str, &'static str)],
    /// The one `global_pool` that is computed.
    pub pool: &'static str,
}

impl Entry {
    /// Published sizes, read from the file of the family when they are first asked for.
    pub fn variants(&self) -> Result<&[Variant]> {
        Ok(&self.published.sizes(self.name)?.variants)
    }

    /// Config fields of timm's form of the family.
    pub fn constructor(&self) -> Result<&Constructor> {
        Ok(&self.published.sizes(self.name)?.timm)
    }

    /// The architecture of a config that names none.
    pub fn bare(&self) -> &'static str {
        self.architectures[0].0
    }

    /// Names of all architectures.
    pub fn architecture_names(&self) -> Vec<&'static str> {
        self.architectures.iter().map(|(name, _)| *name).collect()
    }

    /// The head of an architecture, `None` where this model does not have it.
    pub fn head(&self, architecture: &str) -> Option<HeadKind> {
        self.architectures.iter().find(|(name, _)| *name == architecture).map(|(_, head)| *head)
    }

    /// The head that a config asks for. Errors on an architecture that this model does not have.
    pub fn head_of(&self, config: &ConfigMap) -> Result<HeadKind> {
        let name = self.architecture(config)?;
        self.head(name).ok_or_else(|| self.without(name))
    }

    fn without(&self, architecture: &str) -> Error {
        Error::unsupported("architectures", architecture, self.architecture_names().join(", "))
    }

    /// Whether the family has a trait.
    pub fn is(&self, t: Trait) -> bool {
        self.traits.contains(&t)
    }

    /// The architecture a config asks for. Errors on one that this model does not have.
    pub fn architecture<'a>(&self, config: &'a ConfigMap) -> Result<&'a str> {
        let name = config.architecture().unwrap_or(self.bare());
        if self.head(name).is_some() {
            return Ok(name);
        }
        Err(self.without(name))
    }

    /// Builds the model, strictly: every tensor used, none missing.
    pub fn build(&self, config: &ConfigMap, w: &Weights) -> Result<Box<dyn Model>> {
        self.architecture(config)?;
        let model = (self.load)(config, w)?;
        // Files of several heads are usual: what belongs to another one is no fault.
        w.pass_over(self.heads);
        w.finish()?;
        Ok(model)
    }

    /// The name under which published files of an architecture store a tensor.
    pub fn published(&self, architecture: &str, canonical: &str) -> String {
        let bare = architecture == self.bare();
        let head = canonical.split('.').next().is_some_and(|first| self.heads.contains(&first));
        if bare || head { canonical.to_string() } else { format!("{}{canonical}", self.prefix) }
    }
}
