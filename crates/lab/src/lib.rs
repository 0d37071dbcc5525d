#![doc = include_str!("../README.md")]

pub mod checkpoint;
pub mod curves;
pub mod disk;
pub mod error;
pub mod export;
pub mod log;
pub mod loss;
pub mod measure;
pub mod metric;
pub mod net;
pub mod optim;
mod page;
pub mod points;
mod prepare;
pub mod recipe;
pub mod run_lock;
pub mod study;
pub mod task;
pub mod tour;
pub mod train;

pub use error::{Error, Result};
