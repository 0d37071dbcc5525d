//! What switches do in training: which operating points a step trains, and which answers it draws together.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use switchformer_nn::init::Stream;
use switchformer_nn::{Ctx, Error, Point, Result, Site, State, Tensor};

use crate::host::Host;
use crate::plan::Plan;

/// A pull between the answers of two of a step's points, named by their index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pull {
    /// The answer at `from`, fixed, teaches the one at `to`; `weight` of its loss, the labels have the rest.
    Distill {
        /// The teacher.
        from: usize,
        /// The taught.
        to: usize,
        /// Share, 0 to 1.
        weight: f64,
    },
    /// Both answers are drawn to each other by their symmetric divergence.
    Mutual {
        /// One.
        a: usize,
        /// The other.
        b: usize,
        /// Factor.
        weight: f64,
    },
}

/// The points of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// Each is one pass over the batch.
    pub points: Vec<Point>,
    /// Between them.
    pub pulls: Vec<Pull>,
}

/// Where a step's random draws come from: pure functions of the recipe's seed, the step and the part of its batch.
#[derive(Clone, Debug)]
pub struct Draws {
    /// Seed of the recipe.
    pub seed: u64,
    /// Number of the step.
    pub step: u64,
    /// Part of the step, where gradients of several batches are averaged.
    pub part: u64,
    /// The point that the run trains at rest.
    pub rest: Point,
}

impl Draws {
    /// The resting point with the seed of the `i`-th pass.
    pub fn point(&self, i: u64) -> Point {
        let place = Stream::named("draw").fork(self.seed).fork(self.step).fork(self.part);
        self.rest.clone().with("seed", place.fork(i).next_u64())
    }
}

/// The part of a recipe that says what is trained: its table `[switch]`.
pub type Table = Map<String, Value>;

/// What a switch does in training. Tensors of its own need nothing here: what [`crate::Switch::load`] asks of
/// `switch.safetensors` is trained with the model.
pub trait TrainSwitch: Send + Sync {
    /// Adds to the plan of the trained checkpoint what the recipe asks for.
    fn plan(&self, table: &Table, plan: &mut Plan) -> Result<()> {
        let _ = (table, plan);
        Ok(())
    }
    /// Setting of its axis in training and at rest; the default where there is none.
    fn rest(&self, table: &Table) -> Option<Value> {
        let _ = table;
        None
    }
    /// Another answer to train, read from the state after the block at a site. Shapes: -> `[n, classes]`.
    fn answer(&self, host: &Host, cx: &mut Ctx, site: Site, state: &State) -> Result<Option<Tensor>> {
        let _ = (host, cx, site, state);
        Ok(None)
    }
    /// The points of a step in the place of those that would be trained without it.
    fn sample(&self, table: &Table, draws: &Draws, sampled: Sampled) -> Result<Sampled> {
        let _ = (table, draws);
        Ok(sampled)
    }
}

/// A key of a recipe's `[switch]`, its default where it is absent. Errors name the key.
pub fn key<T: DeserializeOwned + Default>(table: &Table, name: &str) -> Result<T> {
    let read = |v: &Value| {
        T::deserialize(v).map_err(|e: serde_json::Error| Error::config(format!("switch.{name}"), e.to_string()))
    };
    table.get(name).map_or_else(|| Ok(T::default()), read)
}
