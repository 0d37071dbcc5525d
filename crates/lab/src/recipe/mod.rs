//! Recipes: a TOML file that fully describes one training run, or a study of several (see [`study`]).

mod based;
mod identity;
pub mod study;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use switchformer_nn::{Point, objects};
use switchformer_switch::leaf::bits::VIEWS;
use switchformer_switch::leaf::experts::ExpertPlan;
use switchformer_switch::{Plan, SWITCHES};

use crate::error::{Error, Result};
use crate::prepare;
use crate::task::{Tables, TaskKind, all_hold};

/// Largest recipe file.
const MAX_RECIPE: u64 = 1 << 20;
/// What `start.frozen` was called once. Fingerprints still hold it, so that runs and results of then count.
pub(crate) const FORMER_FROZEN: &str = "still";

/// One run, fully resolved: printing it and reading it back gives the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run and of its folder.
    pub name: String,
    /// Seed of initial weights, data order, augmentation and sampled points.
    #[serde(default)]
    pub seed: u64,
    /// `config.json` of the model, less what the data set decides (classes) and what a start says already.
    #[serde(default)]
    pub model: Map<String, Value>,
    /// The checkpoint that training starts from; random weights where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    /// The task and its data.
    pub data: Data,
    /// Switches trained into the checkpoint.
    #[serde(default)]
    pub switch: Switch,
    /// Optimisation.
    pub train: Train,
    /// What is measured when the run is done.
    #[serde(default, skip_serializing_if = "Eval::is_default")]
    pub eval: Eval,
}

/// A checkpoint to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Its folder. The recipe's `[model]` is laid over its config.
    pub folder: PathBuf,
    /// First parts of the names of tensors that it may lack; these begin with random values.
    #[serde(default)]
    pub fresh: Vec<String>,
    /// First parts of the names of tensors that are not trained: they stay as they are.
    #[serde(default)]
    pub frozen: Vec<String>,
    /// Experts in the place of feed-forward networks, each a copy of the network at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertPlan>,
    /// Steps that make another folder of this one before training, by name (see `lab::prepare`); training starts from what
    /// they make.
    #[serde(flatten)]
    pub prepare: toml::Table,
}

/// `[data]`: a task by name, and what that task reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Name of the task, one of [`TASKS`](crate::task::TASKS).
    #[serde(default = "images")]
    pub task: String,
    /// Keys of the task; the task's own file says which.
    #[serde(flatten)]
    pub own: toml::Table,
}

fn images() -> String {
    "images".into()
}

impl Data {
    /// The name of the data set, where the task has a key for it.
    pub fn set(&self) -> &str {
        self.own.get("set").and_then(toml::Value::as_str).unwrap_or_default()
    }
}

/// Switches trained jointly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Exit heads after these numbers of blocks; every step trains all of them.
    #[serde(default)]
    pub exits: Vec<usize>,
    /// Bit-widths; empty trains dense f32. Every step takes the widest and one other, in turn by a seeded draw.
    #[serde(default)]
    pub bits: Vec<u8>,
    /// Weight of the distance between a narrow view's answer and the widest one's, against the labels (0..1).
    #[serde(default)]
    pub distill: f64,
    /// Passes over each batch at the point's random draws (experts, dropout), each with its own.
    #[serde(default = "one_usize")]
    pub draws: usize,
    /// Weight of the symmetric divergence between the answers of the first two draws (THOR, R-Drop).
    #[serde(default)]
    pub agree: f64,
    /// Setting of the axis `experts` in training and at rest; the model's own gate where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<Map<String, Value>>,
}

impl Default for Switch {
    fn default() -> Self {
        Switch { exits: Vec::new(), bits: Vec::new(), distill: 0.0, draws: 1, agree: 0.0, experts: None }
    }
}

impl Switch {
    /// The table as switches read it.
    pub(crate) fn table(&self) -> Map<String, Value> {
        serde_json::to_value(self).ok().and_then(|v| v.as_object().cloned()).unwrap_or_default()
    }
}

/// Measurement of the finished run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Eval {
    /// Points by name; the resting point alone where empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub points: BTreeMap<String, Map<String, Value>>,
    /// Keys of the task.
    #[serde(flatten)]
    pub own: toml::Table,
}

impl Eval {
    fn is_default(&self) -> bool {
        *self == Eval::default()
    }
}

/// Update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// AdamW (arXiv 1711.05101).
    #[default]
    Adamw,
    /// Adafactor (arXiv 1804.04235), steps relative to the size of a tensor, no first moment.
    Adafactor,
}

/// Course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Half a cosine down to `final_lr`.
    #[default]
    Cosine,
    /// `lr * sqrt(warmup / step)`, never below `final_lr`.
    InverseSqrt,
    /// A straight line down to `final_lr`.
    Linear,
}

/// Optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u64,
    /// Images, or tokens of text read and written, per batch.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up; then `schedule`.
    pub warmup: u64,
    /// Learning rate at the end.
    #[serde(default)]
    pub final_lr: f64,
    /// Weight decay of matrices.
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW second-moment decay.
    #[serde(default = "beta2")]
    pub beta2: f64,
    /// Share of the target spread over all classes.
    #[serde(default)]
    pub label_smoothing: f64,
    /// Largest norm of the gradient.
    #[serde(default = "one")]
    pub clip: f64,
    /// Steps between checkpoints.
    #[serde(default = "every")]
    pub save_every: u64,
    /// Update rule.
    #[serde(default)]
    pub optimizer: OptimizerKind,
    /// Course of the learning rate.
    #[serde(default)]
    pub schedule: Schedule,
    /// Batches whose gradients are averaged into one step.
    #[serde(default = "one_usize")]
    pub accumulate: usize,
    /// Decay of a running mean of the weights (0 = none is kept).
    #[serde(default)]
    pub ema: f64,
    /// Whether the running mean is what is validated and exported.
    #[serde(default)]
    pub export_ema: bool,
    /// Share of the numbers that sublayers drop in training.
    #[serde(default)]
    pub dropout: f64,
    /// Steps between validations (0 = none).
    #[serde(default)]
    pub valid_every: u64,
    /// Newest checkpoints that are kept.
    #[serde(default = "two")]
    pub keep_last: usize,
    /// Checkpoints of the lowest validation loss that are kept beside them.
    #[serde(default)]
    pub keep_best: usize,
}

fn beta2() -> f64 {
    0.999
}
fn one() -> f64 {
    1.0
}
fn one_usize() -> usize {
    1
}
fn two() -> usize {
    2
}
fn every() -> u64 {
    200
}
impl Recipe {
    /// The table of a file with `key.sub=value` overrides (TOML values).
    fn table(path: &Path, overrides: &[String]) -> Result<toml::Table> {
        let bad = |what: String| Error::Recipe { path: path.to_path_buf(), what };
        let mut table = based::read(path)?;
        for o in overrides {
            set(&mut table, o).map_err(bad)?;
        }
        Ok(table)
    }

    /// Reads a recipe of one run and applies `key.sub=value` overrides (TOML values). Errors name file, key and value.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Recipe> {
        Recipe::read_one(path, overrides).map_err(|e| e.with_settings(overrides))
    }

    fn read_one(path: &Path, overrides: &[String]) -> Result<Recipe> {
        let mut table = Recipe::table(path, overrides)?;
        // Of a study's results.
        table.remove("conclusion");
        table.remove("note");
        if table.contains_key("variant") {
            let what = "holds several variants; train them with --all, or one with --variant NAME".into();
            return Err(Error::Recipe { path: path.to_path_buf(), what });
        }
        Recipe::of(table, path)
    }

    /// A recipe from its table; `path` stands in errors.
    fn of(table: toml::Table, path: &Path) -> Result<Recipe> {
        let bad = |what: String| Error::Recipe { path: path.to_path_buf(), what };
        let mut recipe: Recipe = typed(table).map_err(bad)?;
        recipe.complete().map_err(bad)?;
        recipe.check().map_err(bad)?;
        Ok(recipe)
    }

    /// The tables that the task reads.
    pub fn tables(&self) -> Tables {
        Tables { data: self.data.own.clone(), eval: self.eval.own.clone() }
    }

    /// Writes out the defaults of what the task and the preparation read.
    fn complete(&mut self) -> Result<(), String> {
        let whole = TaskKind::find(&self.data.task)?.read(&self.tables())?;
        (self.data.own, self.eval.own) = (whole.data, whole.eval);
        if let Some(start) = &mut self.start {
            start.prepare = prepare::read(&start.prepare)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let (t, s) = (&self.train, &self.switch);
        let named = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let experts = self.start.as_ref().is_some_and(|s| s.experts.is_some());
        let checks = [
            (named, "name must be letters, digits, - _ ."),
            (!experts || s.bits.is_empty(), "start.experts and switch.bits do not go together"),
            (t.steps >= 1 && t.steps <= 10_000_000, "train.steps must be 1 to 10,000,000"),
            (t.batch >= 1 && t.batch <= 65_536, "train.batch must be 1 to 65,536"),
            (t.lr > 0.0 && t.lr < 10.0, "train.lr must be between 0 and 10"),
            (t.warmup <= t.steps, "train.warmup must not exceed train.steps"),
            ((0.0..1.0).contains(&t.label_smoothing), "train.label_smoothing must be 0 to 1"),
            (t.clip > 0.0, "train.clip must be positive"),
            (t.save_every >= 1, "train.save_every must be at least 1"),
            ((0.0..1.0).contains(&t.beta2) && t.weight_decay >= 0.0 && t.final_lr >= 0.0, "train: a value is negative"),
            ((0.0..=1.0).contains(&s.distill), "switch.distill must be 0 to 1"),
            (s.exits.windows(2).all(|w| w[0] < w[1]), "switch.exits must ascend"),
            (s.draws >= 1 && s.draws <= 16, "switch.draws must be 1 to 16"),
            (s.agree >= 0.0 && (s.agree == 0.0 || s.draws >= 2), "switch.agree needs switch.draws of at least 2"),
            (s.draws == 1 || s.bits.is_empty(), "switch.draws and switch.bits do not go together"),
            ((1..=1024).contains(&t.accumulate), "train.accumulate must be 1 to 1,024"),
            ((0.0..1.0).contains(&t.ema), "train.ema must be below 1"),
            (!t.export_ema || t.ema > 0.0, "train.export_ema needs train.ema"),
            ((0.0..1.0).contains(&t.dropout), "train.dropout must be below 1"),
            (t.keep_best == 0 || t.valid_every > 0, "train.keep_best needs train.valid_every"),
            (t.keep_last >= 1, "train.keep_last must be at least 1"),
            (s.bits.iter().all(|b| VIEWS.contains(b)), "switch.bits must be among 8, 6, 4, 2"),
        ];
        all_hold(&checks)?;
        TaskKind::find(&self.data.task)?.check(self)?;
        prepare::check(self)
    }

    /// The recipe as TOML, with every default written out.
    pub fn resolved(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// The point that a run trains at rest.
    pub fn rest(&self) -> Point {
        let table = self.switch.table();
        SWITCHES.iter().fold(Point::new(), |point, s| match s.train().and_then(|t| t.rest(&table)) {
            Some(setting) => point.with(s.axis(), setting),
            None => point,
        })
    }

    /// What the trained checkpoint stores for its switches.
    pub fn plan(&self) -> Result<Plan> {
        let mut plan = Plan { default_point: self.rest(), ..Plan::default() };
        if let Some(experts) = self.start.as_ref().and_then(|s| s.experts.as_ref()) {
            experts.check("start.experts")?;
            plan.forms.push(experts.used());
        }
        let table = self.switch.table();
        for switch in SWITCHES.iter().filter_map(|s| s.train()) {
            switch.plan(&table, &mut plan)?;
        }
        Ok(plan)
    }
}

/// A table or value of TOML in its own type; a list is no table. Errors say what is wrong with which key.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(own: impl Into<toml::Value>) -> Result<T, String> {
    objects::read(own.into()).map_err(|e: toml::de::Error| objects::words(&e.to_string()))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Sets `a.b=value`, creating tables on the way; the value is TOML, or text where it is none.
fn set(table: &mut toml::Table, assignment: &str) -> Result<(), String> {
    let (key, value) = assignment.split_once('=').ok_or_else(|| format!("--set {assignment}: write key=value"))?;
    let parsed = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.to_string()));
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut at = table;
    for part in parts {
        let next = at.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = next.as_table_mut().ok_or_else(|| format!("--set {assignment}: `{part}` is not a table"))?;
    }
    at.insert(last.to_string(), parsed);
    Ok(())
}
