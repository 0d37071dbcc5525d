//! Models that read or write text.

pub mod albert;
pub mod bart;
pub mod bert;
pub mod camembert;
pub mod deberta_v2;
pub mod distilbert;
pub mod electra;
pub mod gte;
pub mod marian;
pub mod modernbert;
pub mod mpnet;
pub mod mt5;
pub mod new;
pub mod nomic_bert;
pub mod roberta;
pub mod switch_transformers;
pub mod t5;
pub mod xlm_roberta;
