#![doc = include_str!("../README.md")]

pub mod account;
pub mod assemble;
pub mod entry;
pub mod models;
pub mod open;
mod patched;
mod pool;
pub mod published;
mod pyramid;
pub mod registry;
pub mod save;
mod seq2seq;
mod text_head;
pub mod timm;

pub use entry::{Entry, HeadKind, Trait};
pub use open::{OpenOptions, Opened};
pub use published::Variant;
pub use registry::{ZOO, find};
