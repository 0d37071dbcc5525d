//! What can go wrong while a request is answered.

/// Result of calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Failures of requests.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From a model, a point or a file of the checkpoint.
    #[error(transparent)]
    Nn(#[from] switchformer_nn::Error),
    /// From a tokenizer, a picture or a text.
    #[error(transparent)]
    Data(#[from] switchformer_data::Error),
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
        }
    }
}
