//! Training, measurement and reports.

pub mod error;
pub mod export;
pub mod loss;
pub mod measure;
pub mod metric;
pub mod optim;
pub mod recipe;
pub mod report;
pub mod state;
pub mod train;
pub mod trim;

pub use error::{Error, Result};
