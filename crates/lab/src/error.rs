//! What can go wrong in the lab.

use std::path::{Path, PathBuf};

/// Result of lab calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failures of training and measurement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// From the contract.
    #[error(transparent)]
    Nn(#[from] switchformer_nn::Error),
    /// From the data room.
    #[error(transparent)]
    Data(#[from] switchformer_data::Error),
    /// A model was asked for what it does not do.
    #[error(transparent)]
    Request(#[from] switchformer_infer::Misfit),
    /// The recipe is not usable.
    #[error("{}: {what}", path.display())]
    Recipe {
        /// Recipe file.
        path: PathBuf,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// A training checkpoint is damaged or belongs to another recipe.
    #[error("{}: {what}", path.display())]
    Checkpoint {
        /// Checkpoint folder.
        path: PathBuf,
        /// What is wrong and what to do.
        what: String,
    },
    /// A score cannot be computed from what was given.
    #[error("{what}")]
    Metric {
        /// What is wrong and what is allowed.
        what: String,
    },
    /// A plot could not be drawn; a bug.
    #[error("report: {what}")]
    Report {
        /// What failed.
        what: String,
    },
    /// Loss or gradient stopped being a number.
    #[error(
        "the {what} is not finite at step {step}; {}; lower train.lr or train.clip",
        saved.as_ref().map_or("nothing was saved yet".into(), |s| format!("the last good state is in {}", s.display()))
    )]
    Diverged {
        /// `loss` or `gradient`.
        what: &'static str,
        /// Step at which it happened.
        step: u64,
        /// Folder with the last good state.
        saved: Option<PathBuf>,
    },
    /// Another process trains in the same folder.
    #[error("{}: another process trains this run; wait for it, or give this one a folder of its own with --out", run.display())]
    InUse {
        /// Folder of the run.
        run: PathBuf,
    },
    /// Runs of a study failed; the others were done.
    #[error("{failed} of the runs failed, the table of the others is {}; the first, {run}: {first}", table.display())]
    Runs {
        /// How many.
        failed: usize,
        /// The first.
        run: String,
        /// Why it failed.
        first: Box<Error>,
        /// The study's table.
        table: PathBuf,
    },
    /// The user interrupted and everything is saved.
    #[error("interrupted at step {step}; resume with the same command ({} holds the state)", saved.display())]
    Interrupted {
        /// Steps done.
        step: u64,
        /// Folder with the state.
        saved: PathBuf,
    },
}

impl Error {
    /// A field of a recipe, config or batch is wrong: what it is and what it must be.
    pub fn config(field: impl Into<String>, what: impl Into<String>) -> Error {
        Error::Nn(switchformer_nn::Error::config(field, what))
    }

    /// Something that was given cannot be used: what, and what to do.
    pub fn input(what: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Nn(switchformer_nn::Error::input(what, hint))
    }

    /// A tensor has another shape than it must have.
    pub fn shape(at: impl Into<String>, want: impl Into<String>, got: &[usize]) -> Error {
        Error::Nn(switchformer_nn::Error::shape(at, want, got))
    }

    /// The same error; where a recipe is wrong, the settings that were laid over its file are named beside it.
    pub(crate) fn with_settings(self, overrides: &[String]) -> Error {
        match self {
            Error::Recipe { path, what } if !overrides.is_empty() && !what.contains("--set") => {
                let all: Vec<String> = overrides.iter().map(|o| format!("--set {o}")).collect();
                Error::Recipe { path, what: format!("{what} (with {})", all.join(" ")) }
            }
            other => other,
        }
    }

    /// A file or folder cannot be read or written.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Error {
        Error::Nn(switchformer_nn::Error::io(path, source))
    }

    /// Stable machine-readable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Nn(e) => e.code(),
            Error::Data(e) => e.code(),
            Error::Request(_) => "request",
            Error::Recipe { .. } => "recipe",
            Error::Checkpoint { .. } => "checkpoint",
            Error::Metric { .. } => "metric",
            Error::Report { .. } => "report",
            Error::Diverged { .. } => "train.diverged",
            Error::InUse { .. } => "train.in_use",
            Error::Runs { first, .. } => first.code(),
            Error::Interrupted { .. } => "train.interrupted",
        }
    }
}

impl From<switchformer_infer::Error> for Error {
    fn from(e: switchformer_infer::Error) -> Self {
        match e {
            switchformer_infer::Error::Data(e) => Error::Data(e),
            switchformer_infer::Error::Nn(e) => Error::Nn(e),
            switchformer_infer::Error::Request(e) => Error::Request(e),
        }
    }
}

impl From<switchformer_compress::Error> for Error {
    fn from(e: switchformer_compress::Error) -> Self {
        match e {
            switchformer_compress::Error::Data(e) => Error::Data(e),
            switchformer_compress::Error::Nn(e) => Error::Nn(e),
        }
    }
}
