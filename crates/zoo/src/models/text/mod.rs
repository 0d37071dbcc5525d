//! Models that read or write text.

pub mod albert;
pub mod bert;
pub mod distilbert;
pub mod mpnet;
pub mod mt5;
pub mod roberta;
pub mod switch_transformers;
pub mod t5;
