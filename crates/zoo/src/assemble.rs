//! From an entry, a config, a plan and a source of weights to a model with its switches: the one way in, for opening,
//! training and making checkpoints.

use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Error, Model, Param, Result, Weights};
use switchformer_switch::{Loading, Plan, Switches, equip};

use crate::entry::{Entry, Trait};

/// Where the weights of a model come from.
pub struct Source {
    /// Those of the published model.
    pub model: Weights,
    /// Those of `switch.safetensors`, where the plan needs them.
    pub added: Option<Weights>,
}

impl Source {
    /// Weights of a model to which nothing is added.
    pub fn plain(model: Weights) -> Self {
        Source { model, added: None }
    }
}

/// A model with its switches.
pub struct Assembled {
    /// The model.
    pub model: Box<dyn Model>,
    /// What it offers.
    pub switches: Switches,
    /// The source it was made from, as used.
    pub source: Source,
}

impl Assembled {
    /// Number of parameters, added ones included.
    pub fn n_params(&self) -> u64 {
        self.source.model.n_elements() + self.source.added.as_ref().map_or(0, Weights::n_elements)
    }

    /// Trainable parameters that `switch.safetensors` holds.
    pub fn added_params(&self) -> Vec<Param> {
        self.source.added.as_ref().map_or_else(Vec::new, Weights::params)
    }
}

/// Builds a model in the forms that the plan names, strictly: every tensor used, none missing.
pub fn assemble(entry: &Entry, config: &ConfigMap, plan: &Plan, source: Source) -> Result<Assembled> {
    if let Some(stored) = plan.forms.first().filter(|_| entry.is(Trait::ConvolutionsAlone)) {
        let accepted = "a model with projections between its blocks";
        return Err(Error::unsupported(&stored.form, format!("{}, which is convolutions alone", entry.name), accepted));
    }
    let (weights, added) = equip(&plan.forms, entry.blocks, source.model, source.added)?;
    let model = entry.build(config, &weights)?;
    let loading = Loading { model: model.trunk(), config, plan, weights: &weights, added: added.as_ref() };
    let switches = Switches::load(&loading)?;
    added.as_ref().map_or(Ok(()), Weights::finish)?;
    Ok(Assembled { model, switches, source: Source { model: weights, added } })
}
