//! Failures of the command line and their exit codes.

use std::fmt;

use switchformer_infer::Misfit;

/// What ends a command.
#[derive(Debug)]
pub(crate) enum Fail {
    /// From the contract or the zoo.
    Nn(switchformer_nn::Error),
    /// From the data room.
    Data(switchformer_data::Error),
    /// From a request.
    Infer(switchformer_infer::Error),
    /// From a tool that makes another form of a checkpoint.
    Compress(switchformer_compress::Error),
    /// From the lab.
    Lab(switchformer_lab::Error),
    /// What was named is not there, or is of another kind.
    Input(String),
    /// Wrong use that clap cannot see.
    Usage(String),
    /// A check was not passed.
    Gate(String),
    /// The reader of our output went away.
    Pipe,
    /// Writing failed.
    Io(String, std::io::Error),
}

impl Fail {
    /// Stable machine-readable code.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Fail::Nn(e) => e.code(),
            Fail::Data(e) => e.code(),
            Fail::Infer(e) => e.code(),
            Fail::Compress(e) => e.code(),
            Fail::Lab(e) => e.code(),
            Fail::Input(_) => "input",
            Fail::Usage(_) => "usage",
            Fail::Gate(_) => "gate",
            Fail::Pipe => "pipe",
            Fail::Io(..) => "io",
        }
    }

    /// Exit code: 1 bad input or a failed run, 2 usage, 3 a check was not passed, 4 resource limit, 5 interrupted but saved,
    /// 70 bug. `switchformer help exit-codes` says the same.
    pub(crate) fn exit(&self) -> u8 {
        match self.code() {
            "pipe" => 0,
            "usage" | "point" | "request" => 2,
            "gate" => 3,
            "limit" => 4,
            "train.interrupted" => 5,
            "tensor" | "report" => 70,
            _ => 1,
        }
    }

    /// Whether to say nothing.
    pub(crate) fn quiet(&self) -> bool {
        matches!(self, Fail::Pipe)
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Fail::Nn(e) => e.fmt(f),
            Fail::Data(e) => e.fmt(f),
            Fail::Infer(e) => e.fmt(f),
            Fail::Compress(e) => e.fmt(f),
            Fail::Lab(e) => e.fmt(f),
            Fail::Input(text) | Fail::Usage(text) | Fail::Gate(text) => f.write_str(text),
            Fail::Pipe => f.write_str("output closed"),
            Fail::Io(what, e) => write!(f, "{what}: {e}"),
        }
    }
}

impl From<switchformer_nn::Error> for Fail {
    fn from(e: switchformer_nn::Error) -> Self {
        Fail::Nn(e)
    }
}

impl From<switchformer_data::Error> for Fail {
    fn from(e: switchformer_data::Error) -> Self {
        Fail::Data(e)
    }
}

impl From<switchformer_infer::Error> for Fail {
    fn from(e: switchformer_infer::Error) -> Self {
        match e {
            switchformer_infer::Error::Request(misfit) => Fail::Usage(in_flags(misfit)),
            e => Fail::Infer(e),
        }
    }
}

/// The flag of an option of requests.
fn flag_of(option: &str) -> String {
    match option {
        "max_active_dims" => "--top".into(),
        other => format!("--{}", other.replace('_', "-")),
    }
}

/// Why a request cannot be answered, in the words of the flags that made it.
fn in_flags(misfit: Misfit) -> String {
    match misfit {
        Misfit::ReadsImages => "this model reads images: use --image".into(),
        Misfit::ReadsText => "this model reads text: use --text".into(),
        Misfit::NoTokenizer => "--text needs a model folder with a tokenizer; use --tensors here".into(),
        Misfit::NoReader => "answers need a model folder with a tokenizer".into(),
        Misfit::NeedsPassage => "this model finds answers in a passage: give it with --context".into(),
        Misfit::ManyPasses => "--out holds the outputs of one pass: give decoder_input_ids with --tensors".into(),
        Misfit::WithoutBeams { option } => {
            format!(
                "--{} is for beam search, and the folder asks for none: give --beams 2 or more",
                option.replace('_', "-")
            )
        }
        Misfit::NoMaps { .. } => format!("--save-maps: {misfit}"),
        Misfit::EmptyStop => "--stop \"\" would end every text before it starts".into(),
        Misfit::WritesToOneText => "this model writes an answer to one text: leave --pair out".into(),
        Misfit::NoTokenClasses => "--aggregate is for models that classify tokens".into(),
        Misfit::NoEmbeddings { option } | Misfit::OptionOfTexts { option } => {
            format!("{}: {misfit}", flag_of(option))
        }
        Misfit::TwoPrompts => "a prompt is given by --prompt or by --prompt-name, not by both".into(),
        Misfit::NoSuchDim => "--dim N keeps N numbers of a dense embedding, at least 1".into(),
        Misfit::NoSuchWeights => "--top N keeps N weights of a sparse embedding, at least 1".into(),
        Misfit::OtherEmbeddings { option, .. } => format!("{}: {misfit}", flag_of(option)),
        Misfit::EmptyPassage => {
            "the passage is empty: give the text that holds the answer with --context or --context-file".into()
        }
        Misfit::Nothing
        | Misfit::EmptyQuestion { .. }
        | Misfit::CannotRank
        | Misfit::BadWeights
        | Misfit::NothingToGenerate
        | Misfit::MapsOfImages
        | Misfit::BesideBeams { .. }
        | Misfit::UnknownTensor { .. } => misfit.to_string(),
    }
}

impl From<switchformer_compress::Error> for Fail {
    fn from(e: switchformer_compress::Error) -> Self {
        Fail::Compress(e)
    }
}

impl From<switchformer_lab::Error> for Fail {
    fn from(e: switchformer_lab::Error) -> Self {
        Fail::Lab(e)
    }
}
