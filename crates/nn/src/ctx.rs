//! What a forward call may need; passed first, never global, never stored.

use candle_core::Tensor;

use crate::error::Result;
use crate::init::Stream;
use crate::point::Point;
use crate::taps::Taps;
use crate::trace::Trace;

/// Context of one forward pass.
///
/// The shape of the batch travels with the rows in [`crate::State`], because rules change it between blocks; there is
/// no second copy here that could disagree.
#[derive(Debug)]
pub struct Ctx<'a> {
    /// The setting of every switch.
    pub point: &'a Point,
    /// Listeners for intermediate values.
    pub taps: &'a mut Taps,
    /// Decisions and counted work.
    pub trace: &'a mut Trace,
    /// Whether gradients are wanted: leaves then take their differentiable path.
    pub train: bool,
    /// Index of the block being run, set by [`crate::walk`]; names the taps of its layers.
    pub block: usize,
    /// Losses that leaves ask for in training (the balance of experts).
    pub aux: Vec<Aux>,
}

/// A loss that a leaf adds to the task's own in training.
#[derive(Clone, Debug)]
pub struct Aux {
    /// Where in the model, such as `blocks.3.ffn`.
    pub at: String,
    /// What it is, such as `balance`.
    pub kind: &'static str,
    /// The loss, a scalar, not yet weighted.
    pub value: Tensor,
    /// Its share in the total.
    pub weight: f64,
}

impl<'a> Ctx<'a> {
    /// A context for inference.
    pub fn new(point: &'a Point, taps: &'a mut Taps, trace: &'a mut Trace) -> Self {
        Ctx { point, taps, trace, train: false, block: 0, aux: Vec::new() }
    }

    /// A random stream that depends on the request's seed and the place alone: not on batch mates or threads.
    pub fn rng(&self, place: &str) -> Stream {
        Stream::named(place).fork(self.point.seed())
    }

    /// Weighted sum of the losses that leaves asked for, if any did.
    pub fn aux_loss(&self) -> Result<Option<Tensor>> {
        let mut total: Option<Tensor> = None;
        for aux in &self.aux {
            let term = (&aux.value * aux.weight)?;
            total = Some(match total {
                Some(sum) => (sum + term)?,
                None => term,
            });
        }
        Ok(total)
    }

    /// Counts multiply-adds.
    pub fn count(&mut self, macs: usize) {
        self.trace.macs += macs as u64;
    }
}
