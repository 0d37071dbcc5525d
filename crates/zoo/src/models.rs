//! One file per model.

pub mod bert;
pub mod deit;
pub mod vit;
