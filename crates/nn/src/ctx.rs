//! What a forward call may need; passed first, never global, never stored.

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
}

impl<'a> Ctx<'a> {
    /// A context for inference.
    pub fn new(point: &'a Point, taps: &'a mut Taps, trace: &'a mut Trace) -> Self {
        Ctx { point, taps, trace, train: false, block: 0 }
    }

    /// A random stream that depends on the request's seed and the place alone: not on batch mates or threads.
    pub fn rng(&self, place: &str) -> Stream {
        Stream::named(place).fork(self.point.seed())
    }

    /// Counts multiply-adds.
    pub fn count(&mut self, macs: usize) {
        self.trace.macs += macs as u64;
    }
}
