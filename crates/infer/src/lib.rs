//! Requests and answers: what a model is asked, and what it says.
//!
//! Nothing here prints or reads arguments, so that the command line, a server and bindings answer alike.

pub mod error;
pub mod generate;
pub mod tasks;

pub use error::{Error, Result};
