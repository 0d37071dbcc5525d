//! Models that read images.

pub mod activator;
pub mod beit;
pub mod clip_vision_model;
pub mod convnext;
pub mod crossformer;
pub mod crossvit;
pub mod cswin;
pub mod deit;
pub mod dinov2;
pub mod dinov2_with_registers;
pub mod ecoformer_pvt_v2;
pub mod fmvit;
pub mod m3vit;
pub mod pvt_v2;
pub mod resnet;
pub mod rmt;
pub mod siglip_vision_model;
pub mod smt;
pub mod svt;
pub mod swin;
pub mod swinv2;
pub mod tnt;
pub mod twins;
pub mod vit;
