#![doc = include_str!("../README.md")]

pub mod account;
pub mod config;
pub mod contents;
pub mod error;
pub mod files;
pub mod folder;
mod header;
pub mod json;
pub mod mmap;
pub mod names;
pub mod objects;
pub mod onnx;
pub mod pickle;
pub mod rng;
pub mod store;

pub use account::{Handling, Key};
pub use config::ConfigMap;
pub use error::{Error, Result};
pub use files::{Files, Stored, inspect, inspect_folder};
pub use folder::Folder;
pub use names::Names;
pub use rng::Rng;
