//! What a forward call may need; passed first, never global, never stored.

use switchformer_tensor::{Tensor, TensorId};

use crate::error::Result;
use crate::init::Stream;
use crate::members::Members;
use crate::memory::Memory;
use crate::ops;
use crate::path::Site;
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
    /// Who the members of the batch are, by [`crate::Rows::members`]. [`crate::run`] takes them from the input; with a
    /// memory whoever runs a step sets them, as the memory's members are those of the input that was read first.
    pub members: Members,
    /// Whether gradients are wanted: leaves then take their differentiable path.
    pub train: bool,
    /// Where the block being run stands on its path, set by [`crate::walk`]; names what its layers tap and remember.
    pub site: Site,
    /// Losses that leaves ask for in training (the balance of experts).
    pub aux: Vec<Aux>,
    /// Share of the numbers that [`Ctx::drop`] sets to zero in training.
    pub dropout: f64,
    /// What batch norms saw in training; `None` leaves them at their kept statistics, gradients or not.
    pub moments: Option<Vec<Moments>>,
    /// What is remembered of the passes before, where a text is written bit by bit.
    pub memory: Option<&'a mut Memory>,
    /// Multiply-adds counted that multiply by a sign, and additions counted beside multiply-adds.
    pub(crate) signs: u64,
    pub(crate) sums: u64,
    /// How often [`Ctx::drop`] dropped: places of one name in one block draw apart.
    drops: usize,
}

/// Statistics of one batch norm over the rows of a training pass. The caller takes them into the kept ones.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The kept mean and variance.
    pub of: [TensorId; 2],
    /// Mean and unbiased variance of the rows, `[dim]` each.
    pub values: [Vec<f32>; 2],
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
        Ctx {
            point,
            taps,
            trace,
            members: Members::default(),
            train: false,
            site: Site::default(),
            aux: Vec::new(),
            dropout: 0.0,
            moments: None,
            memory: None,
            signs: 0,
            sums: 0,
            drops: 0,
        }
    }

    /// A random stream of a training pass, which depends on the point's seed and the place in the model alone.
    pub fn rng(&self, place: &str) -> Stream {
        Stream::named(place).fork(self.point.seed())
    }

    /// A random stream for what is chosen for one member, which depends on its seed (the point's where it has none of its
    /// own) and the place in the model alone: not on other samples or threads.
    pub fn rng_of(&self, member: u32, place: &str) -> Stream {
        Stream::named(place).fork(self.members.seed(member).unwrap_or_else(|| self.point.seed()))
    }

    /// Dropout of a sublayer's answer in training: each number is zero with the chance [`Ctx::dropout`], the others grow
    /// so that the mean stays. What is dropped is a function of the point's seed, the site, `place`, how many answers were
    /// dropped from before in this pass, and the number's index. Shapes: `x` -> the same.
    pub fn drop(&mut self, x: Tensor, place: &str) -> Result<Tensor> {
        if !self.drops_here() {
            return Ok(x);
        }
        let mut draw = self.rng(&format!("{}.{place}.dropout.{}", self.site, self.drops));
        self.drops += 1;
        let keep = (1.0 / (1.0 - self.dropout)) as f32;
        let chance = self.dropout as f32;
        let mask: Vec<f32> = (0..x.elem_count()).map(|_| if draw.unit() < chance { 0.0 } else { keep }).collect();
        ops::times(&x, &Tensor::from_vec(mask, x.shape())?)
    }

    /// A sublayer's answer on its residual, after [`Ctx::drop`]. Shapes: both `[rows, dim]` -> the same.
    pub fn onto(&mut self, residual: &Tensor, answer: Tensor, place: &str) -> Result<Tensor> {
        ops::add(residual, &self.drop(answer, place)?)
    }

    /// Whether [`Ctx::drop`] would drop anything; what knows that it would not may take a road that is fused.
    pub fn drops_here(&self) -> bool {
        self.train && self.dropout > 0.0
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

    /// Counts multiply-adds by a sign, which multiply nothing, and additions beside multiply-adds.
    pub fn count_additions(&mut self, signs: usize, sums: usize) {
        self.trace.macs += signs as u64;
        self.signs += signs as u64;
        self.sums += sums as u64;
    }

    /// Counts multiply-adds.
    pub fn count(&mut self, macs: usize) {
        self.trace.macs += macs as u64;
    }
}
