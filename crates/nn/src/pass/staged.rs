//! The block seam: a model is a stem, blocks and a head, and rules act between blocks.

use switchformer_tensor::{Tensor, dry};

use crate::ctx::Ctx;
use crate::decode::Decode;
use crate::error::{Error, Result};
use crate::input::Input;
use crate::output::Output;
use crate::path::{Path, Site, run_path};
use crate::point::Point;
use crate::rows::Rows;
use crate::side::{Side, gather_rows};
use crate::spec::InputSpec;
use crate::taps::Taps;
use crate::trace::Trace;

/// What flows from block to block.
#[derive(Clone, Debug)]
pub struct State {
    /// The residual stream, `[rows.total(), dim]`.
    pub x: Tensor,
    /// Which rows belong to which member.
    pub rows: Rows,
    /// Streams that are not being worked on. Members leave them too; rows are dropped from `x` alone.
    pub side: Side,
}

impl State {
    /// A single stream.
    pub fn new(x: Tensor, rows: Rows) -> State {
        State { x, rows, side: Side::default() }
    }

    /// Drops every row not named; `kept[i]` are ascending offsets within segment `i`.
    pub fn keep(self, kept: &[Vec<u32>]) -> Result<State> {
        let (gather, rows) = self.rows.keep(kept)?;
        Ok(State { x: gather_rows(&self.x, gather)?, rows, side: self.side })
    }

    /// Keeps the named segments (ascending) and drops the other members.
    pub fn select(&self, segments: &[usize]) -> Result<State> {
        let (gather, rows) = self.rows.select(segments);
        Ok(State { x: gather_rows(&self.x, gather)?, rows, side: self.side.select(segments)? })
    }

    /// The first row of every member, `[n, dim]` (the class token). Errors when a member has no row.
    pub fn first_rows(&self) -> Result<Tensor> {
        if let Some(i) = (0..self.rows.n()).find(|i| self.rows.len(*i) == 0) {
            let what = format!("member {} has no valid token", self.rows.members()[i]);
            return Err(Error::input(what, "give at least one token, and a mask that is not all zero"));
        }
        gather_rows(&self.x, self.rows.firsts())
    }
}

/// A model as a chain of blocks.
pub trait Staged: Send + Sync {
    /// Number of blocks.
    fn n_blocks(&self) -> usize;
    /// Input to rows.
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State>;
    /// One block, at [`Ctx::site`]; taps what is asked for below that name, such as `blocks.3.attn.probs`.
    fn block(&self, cx: &mut Ctx, idx: usize, state: State) -> Result<State>;
    /// Rows to named outputs; must accept the state after any block from [`Staged::first_exit`] on.
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output>;

    /// Rows at the front of each member that must stay when rows are dropped, or `None` where rows may not be dropped
    /// (a model that answers per token).
    fn prefix_rows(&self) -> Option<usize> {
        None
    }
    /// Fewest blocks after which the head has something to read: an encoder-decoder answers once its decoder began.
    fn first_exit(&self) -> usize {
        1
    }
    /// First block that runs where the memory holds what the blocks before it gave; `None` for models without memory. A
    /// model with one puts its rows behind the text so far with [`crate::Memory::place`] in its stem.
    fn resume(&self) -> Option<usize> {
        None
    }
    /// Width and number of classes where the answer is one row of `logits` per member: only then can exit heads answer
    /// in the model's stead.
    fn classifier(&self) -> Option<(usize, usize)> {
        None
    }
}

/// A rule that acts between blocks: it may drop rows or let members leave. What it does at a site (count steps, or know
/// one network's blocks) is its own decision.
pub trait BlockRule: Send + Sync {
    /// Tap suffixes of the block at a site that the rule reads (`attn.maps`, `attn.k`).
    fn wants(&self, site: Site) -> &[&'static str];
    /// Acts after the block at a site, which is one of `model`. Members that leave are given to `left` with their outputs.
    /// Where rows are hollow ([`Tensor::is_hollow`]) the pass is a forecast: as many rows stay as would, whichever they are,
    /// and nobody leaves for what numbers say.
    fn after(&self, cx: &mut Ctx, model: &dyn Staged, site: Site, state: State, left: &mut Left) -> Result<State>;
    /// The outputs that every member gets under this rule, where it cannot give all of the model's. Without it the
    /// outputs would depend on who else is in the batch.
    fn outputs(&self) -> Option<&[&'static str]> {
        None
    }
}

/// Outputs of members that left the batch early, with the members they belong to.
pub type Left = Vec<(Vec<u32>, Output)>;

/// A full forward pass of one model: [`run_path`] along all its blocks.
pub fn run(model: &dyn Staged, rules: &[Box<dyn BlockRule>], cx: &mut Ctx, input: &Input) -> Result<Output> {
    run_path(&Path::of(model), rules, cx, input)
}

/// Rows of every member behind the stem of a model, before any rule acts. Nothing is computed.
pub fn lens(model: &dyn Staged, input: &Input) -> Result<Vec<usize>> {
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let (state, _) = dry::dry(|| model.stem(&mut Ctx::new(&point, &mut taps, &mut trace), input));
    Ok(state?.rows.lens())
}

/// A loaded model.
pub trait Model: Send + Sync {
    /// What it accepts.
    fn spec(&self) -> InputSpec;
    /// Its chain of blocks.
    fn trunk(&self) -> &dyn Staged;
    /// How it writes, where it does.
    fn decoder(&self) -> Option<&Decode> {
        None
    }
}
