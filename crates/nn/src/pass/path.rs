//! The way of a pass: which blocks of which networks run, how often and in what order.
//!
//! A whole model is a path of one segment. A range of blocks that runs several times is a loop, ranges of two networks
//! with an adapter between them are a stitch, and a rank of a pipeline walks some of the steps of any path.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::input::Input;
use crate::leaf::{Linear, rows_of};
use crate::output::Output;
use crate::point::Point;
use crate::staged::{BlockRule, Left, Staged, State};

/// Most steps of a path.
pub const MAX_STEPS: usize = 4096;

/// A place on a path. No two steps of a path share one, and its name is that of everything tapped, remembered or sampled
/// there: `blocks.3` for the first network the first time, `laps.1.blocks.3`, `models.1.blocks.3` and
/// `models.1.laps.1.blocks.3` for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Which network of the path, from 0.
    pub model: usize,
    /// Which block of the network, from 0.
    pub block: usize,
    /// How often this block ran before on the path.
    pub lap: usize,
    /// How many blocks come before it on the path, those that a memory stands for included.
    pub step: usize,
}

impl Site {
    /// A block in a pass over one whole model.
    pub fn of(block: usize) -> Site {
        Site { block, step: block, ..Site::default() }
    }

    /// The name here of something that belongs to no single block, such as `stages.0`.
    pub fn named(&self, place: &str) -> String {
        format!("{}{place}", Turn(self))
    }

    /// The number of blocks of the first network up to this one, the first time they run; `None` elsewhere. What was
    /// trained behind a block of one network (an exit head) belongs there and nowhere else.
    pub fn depth(&self) -> Option<usize> {
        (self.model == 0 && self.lap == 0).then_some(self.block + 1)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}blocks.{}", Turn(self), self.block)
    }
}

/// What stands before every name of a network and a lap: nothing for the first of both.
struct Turn<'a>(&'a Site);

impl fmt::Display for Turn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Site { model, lap, .. } = self.0;
        if *model > 0 {
            write!(f, "models.{model}.")?;
        }
        if *lap > 0 {
            write!(f, "laps.{lap}.")?;
        }
        Ok(())
    }
}

/// What stands between two segments: it makes rows of the network before into rows of the next.
pub trait Adapter: Send + Sync {
    /// The state as the next block takes it; [`Ctx::site`] is that block's. Errors where the widths do not fit.
    fn forward(&self, cx: &mut Ctx, state: State) -> Result<State>;
}

/// A projection of every row, for networks with one stream of rows.
pub struct LinearAdapter(pub Box<dyn Linear>);

impl Adapter for LinearAdapter {
    /// Shapes: x `[rows, in]` -> `[rows, out]`. Errors where rows are not `in` wide, or other streams wait beside them.
    fn forward(&self, cx: &mut Ctx, state: State) -> Result<State> {
        let at = format!("the adapter before {}", cx.site);
        if let Some(name) = state.side.names().next() {
            let hint = "stitch networks with one stream, or give an adapter that knows this one";
            return Err(Error::input(format!("{at} met the stream `{name}`"), hint));
        }
        rows_of(&state.x, self.0.dims().0, &at)?;
        Ok(State { x: self.0.forward(cx, &state.x)?, ..state })
    }
}

/// A range of blocks of one network of a path.
#[derive(Clone)]
pub struct Segment<'a> {
    /// Which network, by its place in the list of the path.
    pub model: usize,
    /// Its blocks.
    pub blocks: Range<usize>,
    /// How many times they run, one after another.
    pub times: usize,
    /// What brings the rows here from the segment before, once. Needed where that is of another network.
    pub adapter: Option<&'a dyn Adapter>,
}

impl Segment<'_> {
    /// Blocks of a network, once, with nothing before them.
    pub fn once(model: usize, blocks: Range<usize>) -> Self {
        Segment { model, blocks, times: 1, adapter: None }
    }
}

/// One block on a path.
#[derive(Clone, Copy)]
struct Step<'a> {
    site: Site,
    /// What acts before it.
    adapter: Option<&'a dyn Adapter>,
}

/// A checked list of segments: the stem of the first one's network, all their blocks, the head of the last one's.
pub struct Path<'a> {
    models: Vec<&'a dyn Staged>,
    steps: Vec<Step<'a>>,
}

impl<'a> Path<'a> {
    /// All blocks of one model, once.
    pub fn of(model: &'a dyn Staged) -> Path<'a> {
        let steps = (0..model.n_blocks()).map(|block| Step { site: Site::of(block), adapter: None }).collect();
        Path { models: vec![model], steps }
    }

    /// A path over networks, numbered as the segments meet them. Errors name the segment that does not fit.
    pub fn new(models: &[&'a dyn Staged], segments: &[Segment<'a>]) -> Result<Path<'a>> {
        let mut path = Path { models: models.to_vec(), steps: Vec::new() };
        let mut runs: BTreeMap<(usize, usize), usize> = BTreeMap::new();
        let mut met = 0;
        for (i, segment) in segments.iter().enumerate() {
            let Segment { model, blocks, times, adapter } = segment;
            let wrong = |what: String, hint: &str| Err(Error::input(format!("segment {i} of the path {what}"), hint));
            let Some(network) = models.get(*model).filter(|_| *model <= met) else {
                let what = format!("is of network {model}, of {}, where {met} is the next new one", models.len());
                return wrong(what, "number the networks from 0 in the order in which segments meet them");
            };
            met = met.max(model + 1);
            let n = network.n_blocks();
            if blocks.is_empty() || blocks.end > n {
                return wrong(format!("is blocks {blocks:?} of {n}"), "give a range inside the network, not empty");
            }
            let room = MAX_STEPS - path.steps.len();
            if *times == 0 || blocks.len().checked_mul(*times).is_none_or(|more| more > room) {
                let what = format!("runs {} blocks {times} times", blocks.len());
                return wrong(what, &format!("once at least, and {MAX_STEPS} blocks at most in the whole path"));
            }
            match (path.steps.last().map(|last| last.site.model), adapter) {
                (None, Some(_)) => return wrong("has an adapter".into(), "nothing comes before the first segment"),
                (Some(before), None) if before != *model => {
                    return wrong(
                        format!("follows network {before} without an adapter"),
                        "give one: rows of one network mean nothing to another",
                    );
                }
                _ => {}
            }
            let mut adapter = *adapter;
            for block in (0..*times).flat_map(|_| blocks.clone()) {
                let runs = runs.entry((*model, block)).or_default();
                let site = Site { model: *model, block, lap: *runs, step: path.steps.len() };
                *runs += 1;
                path.steps.push(Step { site, adapter: adapter.take() });
            }
        }
        if segments.is_empty() || met < models.len() {
            let what = format!("a path of {} segments, and network {met} of {} in none", segments.len(), models.len());
            return Err(Error::input(what, "give a segment to every network"));
        }
        let (first, n) = (path.first_exit(), path.n_steps());
        if first > n {
            let what = format!("a path of {n} blocks ends where its last network has nothing to answer from");
            return Err(Error::input(what, "end it behind the first block after which that network may exit"));
        }
        Ok(path)
    }

    /// Number of blocks that run, each time they run.
    pub fn n_steps(&self) -> usize {
        self.steps.len()
    }

    /// Where they run, in order.
    pub fn sites(&self) -> impl Iterator<Item = Site> {
        self.steps.iter().map(|step| step.site)
    }

    /// Its networks.
    pub fn models(&self) -> &[&'a dyn Staged] {
        &self.models
    }

    /// The network whose head answers.
    pub fn last(&self) -> &'a dyn Staged {
        self.models[self.steps.last().map_or(0, |step| step.site.model)]
    }

    /// Fewest steps from which on a head always has something to read: see [`Staged::first_exit`].
    pub fn first_exit(&self) -> usize {
        let reads = |site: Site| site.block + 1 >= self.models[site.model].first_exit();
        self.steps.iter().rposition(|step| !reads(step.site)).map_or(1, |last| last + 2)
    }

    /// First step that runs where a memory holds what the steps before it gave: see [`Staged::resume`]. Errors where a
    /// network keeps no memory, or the steps that read do not all come before those that write.
    fn resume(&self) -> Result<usize> {
        let none = |i| match self.models.len() {
            1 => Error::input("this model keeps no memory", "give it to a model that writes"),
            _ => Error::input(format!("network {i} of the path keeps no memory"), "stitch models that write"),
        };
        let each = self.models.iter().enumerate().map(|(i, model)| model.resume().ok_or_else(|| none(i)));
        let each = each.collect::<Result<Vec<usize>>>()?;
        let reads = |step: &Step| step.site.block < each[step.site.model];
        let first = self.steps.iter().take_while(|step| reads(step)).count();
        if let Some(again) = self.steps[first..].iter().find(|step| reads(step)) {
            let what = format!("a memory on a path that reads again at {}, after it began to write", again.site);
            return Err(Error::input(what, "put every block that reads the source before those that write"));
        }
        // A pass that goes on has no source, so that it would adapt other rows than the first one did.
        if let Some(step) = self.steps.get(first).filter(|step| first > 0 && step.adapter.is_some()) {
            let what = format!("a memory on a path with an adapter before {}, the first block that writes", step.site);
            return Err(Error::input(what, "put the adapter between blocks that write, or run without a memory"));
        }
        Ok(first)
    }

    /// Errors where layers of several networks would read settings that were checked against one of them.
    fn check(&self, point: &Point) -> Result<()> {
        point.check_resolved()?;
        if self.models.len() > 1 && point.has_settings() {
            return Err(Error::point(
                format!("{point} has settings of layers of one network, and the path has {}", self.models.len()),
                "resolve it with the switches of the first network on this path",
            ));
        }
        Ok(())
    }
}

/// Runs some steps of a path under `rules`: all of them, or the share of a rank of a pipeline.
pub fn walk(
    path: &Path,
    rules: &[Box<dyn BlockRule>],
    cx: &mut Ctx,
    steps: Range<usize>,
    mut state: State,
    left: &mut Left,
) -> Result<State> {
    path.check(cx.point)?;
    let n = path.n_steps();
    let Some(steps) = path.steps.get(steps.clone()) else {
        return Err(Error::input(format!("steps {steps:?} of a path of {n}"), "walk steps that it has"));
    };
    for Step { site, adapter } in steps {
        if state.rows.n() == 0 {
            break;
        }
        let model = path.models[site.model];
        cx.site = *site;
        if let Some(adapter) = adapter {
            state = adapter.forward(cx, state)?;
            if cx.taps.active() {
                cx.taps.put(&format!("{site}.adapter"), &state.x);
            }
        }
        let asked: Vec<String> =
            rules.iter().flat_map(|r| r.wants(*site)).map(|suffix| format!("{site}.{suffix}")).collect();
        asked.iter().for_each(|name| cx.taps.listen(name));
        state = model.block(cx, site.block, state).map_err(|e| match e {
            // The block knows its width and not where its rows came from.
            Error::Shape { at, want, got } if adapter.is_some() => {
                Error::Shape { at: format!("{at} of {site}, behind its adapter"), want, got }
            }
            e => e,
        })?;
        if cx.taps.active() {
            cx.taps.put(&site.to_string(), &state.x);
        }
        for rule in rules {
            if state.rows.n() > 0 {
                state = rule.after(cx, model, *site, state, left)?;
            }
        }
        asked.iter().for_each(|name| cx.taps.drop_listener(name));
    }
    Ok(state)
}

/// A full forward pass along a path: stem, all steps under the rules, head, and the members that left early put back in
/// place. A member that a rule let go without an output has none. With a memory that holds a text, the pass goes on with
/// it: only the steps run that meet the new rows.
pub fn run_path(path: &Path, rules: &[Box<dyn BlockRule>], cx: &mut Ctx, input: &Input) -> Result<Output> {
    let first = match &cx.memory {
        None => 0,
        Some(_) if cx.train => return Err(Error::input("a memory in training", "train on whole texts, without one")),
        Some(memory) => {
            let resume = path.resume()?;
            if memory.is_empty() { 0 } else { resume }
        }
    };
    // The steps of a text belong to the members that it was begun for.
    if cx.memory.is_none() {
        cx.members = input.members().clone();
    }
    let state = path.models[0].stem(cx, input)?;
    cx.taps.put("stem", &state.x);
    let mut left = Left::new();
    let state = walk(path, rules, cx, first..path.n_steps(), state, &mut left)?;
    // A batch that everybody left may be anywhere in the model, where its head cannot read.
    if state.rows.n() > 0 || input.n() == 0 {
        let members = state.rows.members().to_vec();
        let out = path.last().head(cx, state)?;
        left.push((members, out));
    }
    if let Some(memory) = &cx.memory {
        for (members, out) in &mut left {
            let segments: Vec<u32> = memory.segments(members)?.into_iter().map(|s| s as u32).collect();
            *out = std::mem::take(out).of_segments(members, &segments)?;
            *members = segments;
        }
    }
    let merged = Output::merge(left, input.n())?;
    Ok(rules.iter().filter_map(|r| r.outputs()).fold(merged, |out, names| out.only(names)))
}
