//! Other forms of a checkpoint: each reads a folder and writes a new one that opens like any other.

pub mod error;
pub mod fold;
pub mod hash;
pub mod upcycle;
pub mod vocab;

pub use error::{Error, Result};
