//! What can go wrong while a request is answered.

/// Result of calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failures of requests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From a model, a point or a file of the checkpoint.
    #[error(transparent)]
    Nn(#[from] switchformer_nn::Error),
    /// From a tokenizer, an image or a text.
    #[error(transparent)]
    Data(#[from] switchformer_data::Error),
    /// The request asks for something that the model does not do, or contradicts itself.
    #[error(transparent)]
    Request(#[from] Misfit),
}

/// Why a request cannot be answered by a model. Each names what would do; a front end may say it in the words of its own
/// options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// No text, question or image.
    #[error("the request holds nothing to read; give at least one text, question or image")]
    Nothing,
    /// Texts for a model of images.
    #[error("this model reads images; give images or pixel_values")]
    ReadsImages,
    /// Images for a model of texts.
    #[error("this model reads text; give texts or input_ids")]
    ReadsText,
    /// Texts where no tokenizer is known.
    #[error("this model has no tokenizer; open a folder that holds one, or give tensors")]
    NoTokenizer,
    /// Questions where no tokenizer is known.
    #[error("answers need a model folder with a tokenizer; open one")]
    NoReader,
    /// Texts without a passage for a model that extracts answers.
    #[error("this model finds answers in a passage; give questions and their passage")]
    NeedsPassage,
    /// A passage without a word.
    #[error("the passage is empty; give the text that holds the answer")]
    EmptyPassage,
    /// A question without a word.
    #[error("question {number} is empty; leave it out, or ask something")]
    EmptyQuestion {
        /// Its number, from 1.
        number: usize,
    },
    /// A ranking by a model that compares nothing.
    #[error(
        "this model cannot put documents in order: it neither gives pairs one score nor makes embeddings; use a reranker or a folder with a modules.json"
    )]
    CannotRank,
    /// An option of single vectors for vectors of tokens, or of one kind of embedding for another.
    #[error("{option} is for {of}, and this folder makes none; leave it out")]
    OtherEmbeddings {
        /// The option.
        option: &'static str,
        /// What it is for.
        of: &'static str,
    },
    /// Pairs for a model that writes.
    #[error("this model writes an answer to one text; give texts instead of pairs")]
    WritesToOneText,
    /// Entities of a model that classifies no tokens.
    #[error("entities are joined from classes of tokens, and this model has none; leave the aggregation out")]
    NoTokenClasses,
    /// Options of generation for anything else than texts to a model that generates.
    #[error("generation options are for texts to a model that writes, such as t5; leave them out")]
    NothingToGenerate,
    /// Options of embeddings where the folder makes none.
    #[error(
        "{option} is for embeddings, and this folder says nothing of how texts become one (modules.json); leave it out"
    )]
    NoEmbeddings {
        /// The option.
        option: &'static str,
    },
    /// A prompt for what is no text.
    #[error("{option} is for texts; leave it out, or give texts")]
    OptionOfTexts {
        /// The option.
        option: &'static str,
    },
    /// A prompt and the name of one.
    #[error("a prompt is given by its text or by its name; leave out prompt or prompt_name")]
    TwoPrompts,
    /// An embedding of no numbers.
    #[error("dim is how many numbers of a dense embedding are kept, at least 1; change it or leave it out")]
    NoSuchDim,
    /// A sparse embedding of no weights.
    #[error(
        "max_active_dims is how many weights of a sparse embedding are kept, at least 1; change it or leave it out"
    )]
    NoSuchWeights,
    /// Weights that make no mean.
    #[error("weights are three numbers from 0 on, for the dense, the sparse and the colbert score, and not all 0")]
    BadWeights,
    /// Raw outputs of a task that takes many passes.
    #[error("raw outputs are those of one pass, and this takes several; give tensors in place of texts")]
    ManyPasses,
    /// Maps of anything else than images.
    #[error("maps show what a model makes of images; give images")]
    MapsOfImages,
    /// A model without maps.
    #[error(
        "{model} exposes neither maps of stages nor attention over whole pictures; vit, deit, tnt, m3vit (attention), \
         swin, swinv2, pvt_v2, cswin and smt (stages) do"
    )]
    NoMaps {
        /// Family of the model.
        model: &'static str,
    },
    /// An empty stop text.
    #[error("a stop text is empty and would end every text before it starts; leave it out")]
    EmptyStop,
    /// An option of sampling beside beam search.
    #[error("{option} is for sampling, and beam search samples nothing; leave out one of them")]
    BesideBeams {
        /// The option.
        option: &'static str,
    },
    /// An option of beam search without beams.
    #[error("{option} is for beam search; give beams too, or leave it out")]
    WithoutBeams {
        /// The option.
        option: &'static str,
    },
    /// A tensor under a name that the model does not take.
    #[error("{origin}: {what}")]
    UnknownTensor {
        /// Where the tensors come from.
        origin: String,
        /// Which name, and those that the model takes.
        what: String,
    },
}

impl Error {
    /// A request that cannot be answered: what, and what to do.
    pub fn input(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Nn(switchformer_nn::Error::input(what, hint))
    }

    /// Stable machine-readable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Nn(e) => e.code(),
            Error::Data(e) => e.code(),
            Error::Request(_) => "request",
        }
    }
}
