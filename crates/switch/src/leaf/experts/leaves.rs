//! Experts added to a dense checkpoint: which feed-forward networks become banks, and where their tensors are.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use switchformer_nn::weights::{LeafMaker, LinearSpec};
use switchformer_nn::{Error, Ffn, FfnSpec, Linear, Result, Weights};

use super::{Bank, BankSpec, Factor, Gating, MAX_EXPERTS};

/// What `switch.json` says of added experts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertPlan {
    /// Experts of every bank.
    pub count: usize,
    /// Experts per row at rest.
    pub top_k: usize,
}

impl ExpertPlan {
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

    /// Factors are shares, so that equal experts are the dense network whoever chooses.
    fn bank(&self) -> BankSpec {
        let gating = Gating { jitter: 0.01, balance: 0.01, z: 0.001, ..Gating::plain(self.top_k, Factor::Share) };
        BankSpec { experts: self.count, bias: false, gating }
    }
}

/// Name, below the path of a feed-forward network, under which an added bank is stored.
pub const ADDED: &str = "ffn";

/// Puts a bank in the place of every feed-forward network. Its tensors are in a file of their own, below the network's
/// own path and [`ADDED`], each expert under the network's own names; the dense network stays in the main file for
/// other readers and is left alone.
pub struct ExpertLeaves {
    /// Where the banks are.
    pub extras: Weights,
    /// Sizes.
    pub plan: ExpertPlan,
    /// Form of single projections.
    pub inner: Option<Arc<dyn LeafMaker>>,
}

impl LeafMaker for ExpertLeaves {
    fn linear(&self, w: &Weights, spec: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        self.inner.as_ref().map_or(Ok(None), |inner| inner.linear(w, spec))
    }
    fn ffn(&self, w: &Weights, spec: &FfnSpec) -> Result<Option<Box<dyn Ffn>>> {
        for part in spec.inner.iter().chain([&spec.outer]) {
            ["weight", "bias"].iter().for_each(|suffix| w.skip(&format!("{part}.{suffix}")));
        }
        let bank = Bank::load(&self.extras.at(w.name(ADDED)), &self.plan.bank(), spec)?;
        bank.note(w);
        Ok(Some(Box::new(bank)))
    }
}
