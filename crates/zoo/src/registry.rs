//! The registry: one static slice. Golden tests, laws, `list`, `describe`, `run` and `bench` all read it.

use switchformer_nn::{Error, Result};

use crate::entry::{Entry, Timm};
use crate::models::{text, vision};

/// Every model.
pub static ZOO: &[&Entry] = &[
    &vision::activator::ENTRY,
    &text::albert::ENTRY,
    &text::bart::ENTRY,
    &vision::beit::ENTRY,
    &text::bert::ENTRY,
    &text::camembert::ENTRY,
    &vision::clip_vision_model::ENTRY,
    &vision::convnext::ENTRY,
    &vision::crossformer::ENTRY,
    &vision::crossvit::ENTRY,
    &vision::cswin::ENTRY,
    &text::deberta_v2::ENTRY,
    &vision::deit::ENTRY,
    &vision::dinov2::ENTRY,
    &vision::dinov2_with_registers::ENTRY,
    &text::distilbert::ENTRY,
    &vision::ecoformer_pvt_v2::ENTRY,
    &text::electra::ENTRY,
    &vision::fmvit::ENTRY,
    &text::gte::ENTRY,
    &vision::m3vit::ENTRY,
    &text::marian::ENTRY,
    &text::modernbert::ENTRY,
    &text::mpnet::ENTRY,
    &text::mt5::ENTRY,
    &text::new::ENTRY,
    &text::nomic_bert::ENTRY,
    &vision::pvt_v2::ENTRY,
    &vision::resnet::ENTRY,
    &vision::rmt::ENTRY,
    &text::roberta::ENTRY,
    &vision::siglip_vision_model::ENTRY,
    &vision::smt::ENTRY,
    &vision::svt::ENTRY,
    &vision::swin::ENTRY,
    &vision::swinv2::ENTRY,
    &text::switch_transformers::ENTRY,
    &text::t5::ENTRY,
    &vision::tnt::ENTRY,
    &vision::twins::ENTRY,
    &vision::vit::ENTRY,
    &text::xlm_roberta::ENTRY,
];

/// Every family whose timm folders open, by the names of timm.
pub static TIMM: &[&Timm] = &[
    &vision::activator::TIMM,
    &vision::beit::TIMM,
    &vision::convnext::TIMM,
    &vision::crossformer::TIMM,
    &vision::crossvit::TIMM,
    &vision::cswin::TIMM,
    &vision::deit::TIMM,
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
    &vision::vit::TIMM,
];

/// Folders of an image and a text tower, the family of the first, and the class of transformers that saves it alone.
const TOWERS: &[(&str, &str, &str)] = &[
    ("clip", "clip_vision_model", "CLIPVisionModelWithProjection"),
    ("siglip", "siglip_vision_model", "SiglipVisionModel"),
];

/// The entry for a `model_type`. Errors list what exists.
pub fn find(model_type: &str) -> Result<&'static Entry> {
    ZOO.iter().find(|e| e.name == model_type).copied().ok_or_else(|| {
        if let Some((_, tower, class)) = TOWERS.iter().find(|(whole, ..)| *whole == model_type) {
            let how = format!("{class}.from_pretrained(FOLDER).save_pretrained(NEW) of transformers");
            return Error::unsupported("model_type", model_type, format!("its image tower alone ({tower}): {how}"));
        }
        let known: Vec<_> = ZOO.iter().map(|e| e.name).collect();
        Error::unsupported("model_type", model_type, known.join(", "))
    })
}
