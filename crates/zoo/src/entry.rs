//! The registry: one static slice. Golden tests, laws, `list`, `describe`, `run` and `bench` all read it.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::{Error, Model, Result, Weights};

use crate::models;
use crate::timm::Timm;

/// A model family, found by the `model_type` of its config.
pub struct Entry {
    /// `model_type` in `config.json`.
    pub name: &'static str,
    /// Paper title and arXiv id.
    pub paper: &'static str,
    /// One line: what it is.
    pub summary: &'static str,
    /// Accepted `architectures`; the first is used where the config names none.
    pub architectures: &'static [&'static str],
    /// Published sizes.
    pub variants: &'static [Variant],
    /// Other generations of tensor names.
    pub names: Names,
    /// Path of the blocks, such as `encoder.layer.`, from the root or any part of it: where nested weights apply.
    pub blocks: &'static str,
    /// Prefix that published files put before every tensor outside the heads, such as `bert.`.
    pub prefix: &'static str,
    /// First parts of tensor names that belong to a head and carry no prefix.
    pub heads: &'static [&'static str],
    /// A small config for laws and gradient tests, as JSON.
    pub toy: &'static str,
    /// Builds the model from a config and weights.
    pub load: fn(&ConfigMap, &Weights) -> Result<Box<dyn Model>>,
}

/// A published size of a model.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// Published name.
    pub name: &'static str,
    /// Architecture that the count is for.
    pub architecture: &'static str,
    /// Config fields that differ from the family's defaults, as JSON.
    pub config: &'static str,
    /// Published or reference parameter count.
    pub params: u64,
}

/// Every model.
pub static ZOO: &[&Entry] = &[
    &models::activator::ENTRY,
    &models::albert::ENTRY,
    &models::bert::ENTRY,
    &models::crossformer::ENTRY,
    &models::crossvit::ENTRY,
    &models::cswin::ENTRY,
    &models::deit::ENTRY,
    &models::distilbert::ENTRY,
    &models::ecoformer_pvt_v2::ENTRY,
    &models::fmvit::ENTRY,
    &models::m3vit::ENTRY,
    &models::mt5::ENTRY,
    &models::pvt_v2::ENTRY,
    &models::rmt::ENTRY,
    &models::roberta::ENTRY,
    &models::smt::ENTRY,
    &models::svt::ENTRY,
    &models::swin::ENTRY,
    &models::swinv2::ENTRY,
    &models::switch_transformers::ENTRY,
    &models::t5::ENTRY,
    &models::tnt::ENTRY,
    &models::twins::ENTRY,
    &models::vit::ENTRY,
];

/// Every family whose timm folders open, by the names of timm.
pub static TIMM: &[&Timm] = &[
    &models::activator::TIMM,
    &models::crossformer::TIMM,
    &models::crossvit::TIMM,
    &models::cswin::TIMM,
    &models::ecoformer_pvt_v2::TIMM,
    &models::fmvit::TIMM,
    &models::m3vit::TIMM,
    &models::pvt_v2::TIMM,
    &models::rmt::TIMM,
    &models::smt::TIMM,
    &models::svt::TIMM,
    &models::swin::TIMM,
    &models::swinv2::TIMM,
    &models::tnt::TIMM,
    &models::twins::TIMM,
];

/// The entry for a `model_type`. Errors list what exists.
pub fn find(model_type: &str) -> Result<&'static Entry> {
    ZOO.iter().find(|e| e.name == model_type).copied().ok_or_else(|| {
        let known: Vec<_> = ZOO.iter().map(|e| e.name).collect();
        Error::unsupported("model_type", model_type, known.join(", "))
    })
}

impl Entry {
    /// The architecture a config asks for. Errors on one that this model does not have.
    pub fn architecture<'a>(&self, config: &'a ConfigMap) -> Result<&'a str> {
        let name = config.architecture().unwrap_or(self.architectures[0]);
        if self.architectures.contains(&name) {
            return Ok(name);
        }
        Err(Error::unsupported("architectures", name, self.architectures.join(", ")))
    }

    /// Builds the model, strictly: every tensor used, none missing.
    pub fn build(&self, config: &ConfigMap, w: &Weights) -> Result<Box<dyn Model>> {
        self.architecture(config)?;
        let model = (self.load)(config, w)?;
        w.finish()?;
        Ok(model)
    }

    /// The name under which published files of an architecture store a tensor.
    pub fn published(&self, architecture: &str, canonical: &str) -> String {
        let bare = architecture == self.architectures[0];
        let head = canonical.split('.').next().is_some_and(|first| self.heads.contains(&first));
        if bare || head { canonical.to_string() } else { format!("{}{canonical}", self.prefix) }
    }
}
