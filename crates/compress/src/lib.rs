#![doc = include_str!("../README.md")]

pub mod error;
pub mod fold;
pub mod hash;
pub mod upcycle;
pub mod vocab;

pub use error::{Error, Result};
