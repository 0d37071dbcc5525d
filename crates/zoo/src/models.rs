//! One file per model.

pub mod albert;
pub mod bert;
pub mod deit;
pub mod distilbert;
pub mod mt5;
pub mod roberta;
pub mod switch_transformers;
pub mod t5;
pub mod vit;
