//! The registry: one static slice. Golden tests, laws, `list`, `describe`, `run` and `bench` all read it.

use switchformer_nn::{Error, Result};

use crate::entry::{Entry, Timm};
use crate::models::{text, vision};

/// Every model.
pub static ZOO: &[&Entry] = &[
    &vision::activator::ENTRY,
    &text::albert::ENTRY,
    &text::bert::ENTRY,
    &vision::crossformer::ENTRY,
    &vision::crossvit::ENTRY,
    &vision::cswin::ENTRY,
    &vision::deit::ENTRY,
    &text::distilbert::ENTRY,
    &vision::ecoformer_pvt_v2::ENTRY,
    &vision::fmvit::ENTRY,
    &vision::m3vit::ENTRY,
    &text::mpnet::ENTRY,
    &text::mt5::ENTRY,
    &vision::pvt_v2::ENTRY,
    &vision::rmt::ENTRY,
    &text::roberta::ENTRY,
    &vision::smt::ENTRY,
    &vision::svt::ENTRY,
    &vision::swin::ENTRY,
    &vision::swinv2::ENTRY,
    &text::switch_transformers::ENTRY,
    &text::t5::ENTRY,
    &vision::tnt::ENTRY,
    &vision::twins::ENTRY,
    &vision::vit::ENTRY,
];

/// Every family whose timm folders open, by the names of timm.
pub static TIMM: &[&Timm] = &[
    &vision::activator::TIMM,
    &vision::crossformer::TIMM,
    &vision::crossvit::TIMM,
    &vision::cswin::TIMM,
    &vision::ecoformer_pvt_v2::TIMM,
    &vision::fmvit::TIMM,
    &vision::m3vit::TIMM,
    &vision::pvt_v2::TIMM,
    &vision::rmt::TIMM,
    &vision::smt::TIMM,
    &vision::svt::TIMM,
    &vision::swin::TIMM,
    &vision::swinv2::TIMM,
    &vision::tnt::TIMM,
    &vision::twins::TIMM,
];

/// The entry for a `model_type`. Errors list what exists.
pub fn find(model_type: &str) -> Result<&'static Entry> {
    ZOO.iter().find(|e| e.name == model_type).copied().ok_or_else(|| {
        let known: Vec<_> = ZOO.iter().map(|e| e.name).collect();
        Error::unsupported("model_type", model_type, known.join(", "))
    })
}
