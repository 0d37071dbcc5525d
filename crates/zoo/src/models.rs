//! One file per model.

pub mod bert;
pub mod vit;
