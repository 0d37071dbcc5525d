//! One file per model.

pub mod activator;
pub mod albert;
pub mod bert;
pub mod crossformer;
pub mod crossvit;
pub mod cswin;
pub mod deit;
pub mod distilbert;
pub mod ecoformer_pvt_v2;
pub mod fmvit;
pub mod m3vit;
pub mod mt5;
pub mod pvt_v2;
pub mod rmt;
pub mod roberta;
pub mod smt;
pub mod svt;
pub mod swin;
pub mod swinv2;
pub mod switch_transformers;
pub mod t5;
pub mod tnt;
pub mod twins;
pub mod vit;
