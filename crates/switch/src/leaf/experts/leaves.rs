//! Experts added to a dense checkpoint: which feed-forward networks become banks, and where their tensors are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use switchformer_nn::weights::{LeafMaker, LinearSpec};
use switchformer_nn::{Error, Ffn, FfnSpec, Linear, Result, Weights};

use super::{Bank, BankSpec, Factor, Gating, MAX_EXPERTS};
use crate::form::{Form, FormUse};
use crate::plan::typed;
use crate::sites::Sites;

/// Parameters of the form [`Added`] in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertPlan {
    /// Experts of every bank.
    pub count: usize,
    /// Experts per row at rest.
    pub top_k: usize,
    /// The first block that has experts, as counted in the names of its tensors.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub from: usize,
    /// Factor of a chosen expert.
    #[serde(default, skip_serializing_if = "is_share")]
    pub factor: Factor,
}

fn is_zero(n: &usize) -> bool {
    *n == 0
}

fn is_share(factor: &Factor) -> bool {
    *factor == Factor::Share
}

impl ExpertPlan {
    /// Copies of every network, so that the model answers as it did.
    pub const fn copies(count: usize, top_k: usize) -> ExpertPlan {
        ExpertPlan { count, top_k, from: 0, factor: Factor::Share }
    }

    /// Whether the feed-forward network at a path is a bank.
    pub fn takes(&self, sites: &Sites, path: &str) -> bool {
        self.from == 0 || sites.block_of(path).is_some_and(|i| i >= self.from)
    }

    /// Refuses counts out of bounds by name; `place` is where they stand.
    pub fn check(&self, place: &str) -> Result<()> {
        if !(1..=MAX_EXPERTS).contains(&self.count) {
            let what = format!("is {}, must be 1 to {MAX_EXPERTS}", self.count);
            return Err(Error::config(format!("{place}.count"), what));
        }
        if !(1..=self.count).contains(&self.top_k) {
            return Err(Error::config(format!("{place}.top_k"), format!("is {} of {}", self.top_k, self.count)));
        }
        Ok(())
    }

    /// The form with these parameters, in all blocks.
    pub fn used(&self) -> FormUse {
        FormUse::new(&Added, json!(self))
    }

    /// Where factors are shares, equal experts are the dense network whoever chooses.
    fn bank(&self) -> BankSpec {
        let gating = Gating { jitter: 0.01, balance: 0.01, z: 0.001, ..Gating::plain(self.top_k, self.factor) };
        BankSpec { experts: self.count, bias: false, gating }
    }
}

/// Name, below the path of a feed-forward network, under which an added bank is stored.
pub const ADDED: &str = "ffn";

/// The tensor that a tensor of an added expert is a copy of at first.
pub fn dense_twin(name: &str) -> Option<String> {
    let (path, rest) = name.split_once(&format!("{ADDED}.experts.expert_"))?;
    Some(format!("{path}{}", rest.split_once('.')?.1))
}

/// The form `experts`: a bank in the place of every feed-forward network that the plan takes. Its tensors are in a file of
/// their own, below the network's own path and [`ADDED`], each expert under the network's own names; the dense network
/// stays in the main file for other readers and is left alone.
pub struct Added;

impl Form for Added {
    fn name(&self) -> &'static str {
        "experts"
    }
    fn check(&self, params: &Value, place: &str) -> Result<()> {
        typed::<ExpertPlan>(params, place)?.check(place)
    }
    fn adds(&self) -> bool {
        true
    }
    fn leaves(&self, sites: Sites, params: &Value, added: Option<&Weights>) -> Result<Arc<dyn LeafMaker>> {
        let plan: ExpertPlan = typed(params, self.name())?;
        let extras = added.cloned().ok_or_else(|| Error::config("experts", "need switch.safetensors"))?;
        Ok(Arc::new(ExpertLeaves { extras, plan, sites }))
    }
}

struct ExpertLeaves {
    extras: Weights,
    plan: ExpertPlan,
    sites: Sites,
}

impl LeafMaker for ExpertLeaves {
    fn linear(&self, _: &Weights, _: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        Ok(None)
    }
    fn ffn(&self, w: &Weights, spec: &FfnSpec) -> Result<Option<Box<dyn Ffn>>> {
        if !self.plan.takes(&self.sites, &w.name(spec.outer)) {
            return Ok(None);
        }
        for part in spec.inner.iter().chain([&spec.outer]) {
            ["weight", "bias"].iter().for_each(|suffix| w.skip(&format!("{part}.{suffix}")));
        }
        let bank = Bank::load(&self.extras.at(w.name(ADDED)), &self.plan.bank(), spec)?;
        bank.note(w);
        Ok(Some(Box::new(bank)))
    }
}
