//! Files of checkpoints, read without trust and written whole: no tensors in here.
//!
//! [`json`] is the one JSON reader of the tree; [`Folder`] and [`Files`] open a checkpoint and check every header;
//! [`Names`] maps the tensor names of other generations; [`ConfigMap`] reads bounded numbers; [`pickle`] reads PyTorch's
//! files and runs nothing; [`store`] writes and never leaves half a file. What goes wrong is an [`Error`] with a stable
//! code.

pub mod config;
pub mod error;
pub mod files;
pub mod folder;
mod header;
pub mod json;
pub mod mmap;
pub mod names;
pub mod objects;
pub mod pickle;
pub mod rng;
pub mod store;

pub use config::ConfigMap;
pub use error::{Error, Result};
pub use files::{Files, Stored, inspect, inspect_folder};
pub use folder::Folder;
pub use names::Names;
pub use rng::Rng;
