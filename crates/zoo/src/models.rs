//! One file per model.

pub mod albert;
pub mod bert;
pub mod deit;
pub mod distilbert;
pub mod roberta;
pub mod vit;
