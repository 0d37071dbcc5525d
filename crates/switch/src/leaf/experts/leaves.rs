//! Experts added to a dense checkpoint: which feed-forward networks become banks, and where their tensors are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use switchformer_nn::weights::{LeafMaker, LinearSpec, PatchSpec, TiedSpec};
use switchformer_nn::{Attention, AttentionSpec, Error, Ffn, FfnSpec, Linear, Result, Weights};

use super::{Bank, BankSpec, Factor, Gating, MAX_EXPERTS};
use crate::leaf::bits::covers;

/// What `switch.json` says of added experts.
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

    /// Whether the feed-forward network at a path is a bank; `blocks` is where the family keeps its blocks.
    pub fn takes(&self, blocks: &str, path: &str) -> bool {
        self.from == 0 || block_of(blocks, path).is_some_and(|i| i >= self.from)
    }

    /// Refuses counts out of bounds by name.
    pub fn check(&self) -> Result<()> {
        if !(1..=MAX_EXPERTS).contains(&self.count) {
            let what = format!("is {}, must be 1 to {MAX_EXPERTS}", self.count);
            return Err(Error::config("switch.experts.count", what));
        }
        if !(1..=self.count).contains(&self.top_k) {
            return Err(Error::config("switch.experts.top_k", format!("is {} of {}", self.top_k, self.count)));
        }
        Ok(())
    }

    /// Where factors are shares, equal experts are the dense network whoever chooses.
    fn bank(&self) -> BankSpec {
        let gating = Gating { jitter: 0.01, balance: 0.01, z: 0.001, ..Gating::plain(self.top_k, self.factor) };
        BankSpec { experts: self.count, bias: false, gating }
    }
}

/// The number of a block in the name of something inside it.
fn block_of(blocks: &str, path: &str) -> Option<usize> {
    let inside = blocks.split(' ').filter(|b| covers(b, path)).find_map(|b| path.split_once(b))?.1;
    inside.split('.').next()?.parse().ok()
}

/// Name, below the path of a feed-forward network, under which an added bank is stored.
pub const ADDED: &str = "ffn";

/// The tensor that a tensor of an added expert is a copy of at first.
pub fn dense_twin(name: &str) -> Option<String> {
    let (path, rest) = name.split_once(&format!("{ADDED}.experts.expert_"))?;
    Some(format!("{path}{}", rest.split_once('.')?.1))
}

/// Puts a bank in the place of every feed-forward network that the plan takes. Its tensors are in a file of their own, below the network's
/// own path and [`ADDED`], each expert under the network's own names; the dense network stays in the main file for
/// other readers and is left alone.
pub struct ExpertLeaves {
    /// Where the banks are.
    pub extras: Weights,
    /// Sizes.
    pub plan: ExpertPlan,
    /// Where the family keeps its blocks.
    pub blocks: &'static str,
    /// Form of single projections.
    pub inner: Option<Arc<dyn LeafMaker>>,
}

impl LeafMaker for ExpertLeaves {
    fn linear(&self, w: &Weights, spec: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        self.inner.as_ref().map_or(Ok(None), |inner| inner.linear(w, spec))
    }
    fn patches(&self, w: &Weights, spec: &PatchSpec) -> Result<Option<Box<dyn Linear>>> {
        self.inner.as_ref().map_or(Ok(None), |inner| inner.patches(w, spec))
    }
    fn tied(&self, w: &Weights, spec: &TiedSpec) -> Result<Option<Box<dyn Linear>>> {
        self.inner.as_ref().map_or(Ok(None), |inner| inner.tied(w, spec))
    }
    fn attention(&self, w: &Weights, spec: &AttentionSpec) -> Result<Option<Box<dyn Attention>>> {
        self.inner.as_ref().map_or(Ok(None), |inner| inner.attention(w, spec))
    }
    fn ffn(&self, w: &Weights, spec: &FfnSpec) -> Result<Option<Box<dyn Ffn>>> {
        if !self.plan.takes(self.blocks, &w.name(spec.outer)) {
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
