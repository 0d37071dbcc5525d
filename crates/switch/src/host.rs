//! What a checkpoint offers to the switches, and how a point becomes rules.

use std::sync::Arc;

use serde::Serialize;
use switchformer_nn::{Between, Error, Point, Result, Staged};

use crate::SWITCHES;
use crate::between::exit::Exits;
use crate::leaf::experts::Offer;

/// What a loaded model offers to switches.
#[derive(Clone, Default)]
pub struct Host {
    /// Number of blocks.
    pub n_blocks: usize,
    /// Fewest blocks after which the model can answer.
    pub first_exit: usize,
    /// Rows that token switches must keep at the front of each member; `None` where rows may not be dropped.
    pub prefix_rows: Option<usize>,
    /// Trained exit heads.
    pub exits: Option<Arc<Exits>>,
    /// Bit-widths at which the weights can be viewed, widest first; empty for dense weights.
    pub views: Vec<u8>,
    /// What the banks of experts offer, where there are any.
    pub experts: Option<Offer>,
    /// Tasks that the model has an answer for.
    pub tasks: usize,
}

/// One axis of the operating point, as this checkpoint offers it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Axis {
    /// Name of the axis in a point.
    pub name: &'static str,
    /// Values it takes here, or why it takes none.
    pub values: String,
    /// Whether it can be set on this checkpoint.
    pub available: bool,
    /// Cost of changing it at run time: `free`, `repack` or `load`.
    pub change: &'static str,
}

/// A switch: one axis of the point.
pub trait Switch: Send + Sync {
    /// Name of its axis.
    fn axis(&self) -> &'static str;
    /// What the axis offers on a checkpoint.
    fn describe(&self, host: &Host) -> Axis;
    /// Checks the point's setting against the checkpoint and gives the rule to apply between blocks, if any.
    fn rule(&self, point: &Point, host: &Host) -> Result<Option<Box<dyn Between>>>;
}

/// The switches of one loaded checkpoint.
#[derive(Clone, Default)]
pub struct Switches {
    host: Host,
}

impl Switches {
    /// Switches of a model with the given extras.
    pub fn new(model: &dyn Staged, exits: Option<Arc<Exits>>, views: Vec<u8>) -> Self {
        let (n_blocks, first_exit) = (model.n_blocks(), model.first_exit());
        let host =
            Host { n_blocks, first_exit, prefix_rows: model.prefix_rows(), exits, views, experts: None, tasks: 1 };
        Switches { host }
    }

    /// These switches with banks of experts.
    pub fn with_experts(mut self, experts: Option<Offer>) -> Self {
        self.host.experts = experts;
        self
    }

    /// These switches for a model of several tasks.
    pub fn with_tasks(mut self, tasks: usize) -> Self {
        self.host.tasks = tasks;
        self
    }

    /// What the checkpoint offers.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The axes a point may set here.
    pub fn axes(&self) -> Vec<Axis> {
        SWITCHES.iter().map(|s| s.describe(&self.host)).collect()
    }

    /// Rules for a point. Errors name the axis, the value and what this checkpoint accepts.
    pub fn rules(&self, point: &Point) -> Result<Vec<Box<dyn Between>>> {
        if let Some(unknown) = point.axes().find(|a| SWITCHES.iter().all(|s| s.axis() != *a)) {
            let known: Vec<_> = SWITCHES.iter().map(|s| s.axis()).collect();
            return Err(Error::point(format!("no axis `{unknown}`"), format!("axes: {}, seed", known.join(", "))));
        }
        let mut rules = Vec::new();
        for switch in SWITCHES {
            rules.extend(switch.rule(point, &self.host)?);
        }
        Ok(rules)
    }
}
