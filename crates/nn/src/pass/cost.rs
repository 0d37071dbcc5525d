//! What a pass costs, told by the pass itself: it runs dry, counts its work as it always does, and takes down what it reads.

use switchformer_tensor::dry;

use crate::ctx::Ctx;
use crate::error::Result;
use crate::input::Input;
use crate::path::{Path, run_path};
use crate::point::Point;
use crate::staged::{BlockRule, Staged};
use crate::taps::Taps;
use crate::trace::Trace;

/// What a part costs at a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Multiply-adds.
    pub macs: u64,
    /// Bytes of weights that the point needs (a 4-bit view of stored 8-bit weights counts 4 bits).
    pub bytes: u64,
    /// Those of the multiply-adds that multiply by a sign, which is an addition and nothing more.
    pub signs: u64,
    /// Additions beside the multiply-adds, where a part has many of them.
    pub sums: u64,
}

impl Cost {
    /// Energy of a multiplication in f32 at 45 nm, picojoules (M. Horowitz, ISSCC 2014).
    pub const PJ_MUL: f64 = 3.7;
    /// Energy of an addition in f32 at 45 nm, picojoules.
    pub const PJ_ADD: f64 = 0.9;

    /// Multiplications.
    pub fn muls(&self) -> u64 {
        self.macs.saturating_sub(self.signs)
    }

    /// Additions.
    pub fn adds(&self) -> u64 {
        self.macs + self.sums
    }

    /// Energy of all multiplications and additions in f32 at 45 nm, in millijoules: a model of a chip, no measurement.
    /// Norms, activations and what memory takes are not in it.
    pub fn millijoules(&self) -> f64 {
        (self.muls() as f64 * Cost::PJ_MUL + self.adds() as f64 * Cost::PJ_ADD) / 1e9
    }
}

/// Cost of a pass of one model: [`cost_path`] along all its blocks.
pub fn cost(model: &dyn Staged, rules: &[Box<dyn BlockRule>], point: &Point, input: &Input) -> Result<Cost> {
    cost_path(&Path::of(model), rules, point, input)
}

/// Cost of a pass along a path, without computing it: the forward pass on shapes alone ([`switchformer_tensor::dry`]). A
/// choice that depends on numbers counts as if nobody left, and as if experts shared the rows. Weights that are met again
/// are read once. Errors where the pass itself would, but for what its numbers decide.
pub fn cost_path(path: &Path, rules: &[Box<dyn BlockRule>], point: &Point, input: &Input) -> Result<Cost> {
    of(point, |cx| run_path(path, rules, cx, input))
}

/// Cost of what `f` computes, which runs dry.
pub fn of<T>(point: &Point, f: impl FnOnce(&mut Ctx) -> Result<T>) -> Result<Cost> {
    let (mut taps, mut trace) = (Taps::none(), Trace::default());
    let mut cx = Ctx::new(point, &mut taps, &mut trace);
    let (done, bytes) = dry::dry(|| f(&mut cx));
    done?;
    let (signs, sums) = (cx.signs, cx.sums);
    Ok(Cost { macs: trace.macs, bytes, signs, sums })
}
