//! Recipes: a TOML file that fully describes one training run, or a study of several (see [`study`]).

mod based;
pub mod study;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use switchformer_compress::hash::HashFit;
use switchformer_data::IMAGE_SETS;
use switchformer_data::batch::Augment;
use switchformer_nn::Point;
use switchformer_switch::leaf::bits::VIEWS;
use switchformer_switch::leaf::experts::ExpertPlan;

use crate::error::{Error, Result};

/// Largest recipe file.
const MAX_RECIPE: u64 = 1 << 20;

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
    /// Data.
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

/// What a batch is and what its loss is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Classify images.
    #[default]
    Images,
    /// Write the spans that were cut out of a text (T5).
    SpanCorruption,
    /// Write the translation of a sentence.
    Translate,
    /// Find the answer to a question in a passage.
    Questions,
    /// Say of every pixel of a scene what it shows, or whether a piece ends there: one task or several (M3ViT).
    Scenes,
}

/// A checkpoint to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// Its folder. The recipe's `[model]` is laid over its config.
    pub folder: PathBuf,
    /// First parts of the names of tensors that it may lack; these begin with random values.
    #[serde(default)]
    pub fresh: Vec<String>,
    /// First parts of the names of tensors that stay as they are.
    #[serde(default)]
    pub still: Vec<String>,
    /// Experts in the place of feed-forward networks, each a copy of the network at first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertPlan>,
    /// EcoFormer's hash in the place of softmax: the folder holds a PVT v2 that attends to whole maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashPlan>,
}

/// A hash that is fitted to the first training batch, before the first step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HashPlan {
    /// Bits of a code.
    #[serde(default = "hash_bits")]
    pub bits: usize,
    /// Steps of descent per bit; 0 leaves the bits as they were drawn.
    #[serde(default = "hash_steps")]
    pub steps: usize,
}

fn hash_bits() -> usize {
    HashFit::default().bits
}
fn hash_steps() -> usize {
    HashFit::default().steps
}

/// Data set and augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// What is learned from the data.
    #[serde(default)]
    pub task: TaskKind,
    /// `fashion-mnist` for images and scenes, `cifar-10` for images; `debian` (descriptions of packages) for text, `text` (files of one's own) for span
    /// corruption; `multiemo` (sentences of opinions) for translation; `squad` for questions.
    pub set: String,
    /// Probability of a mirror image.
    #[serde(default)]
    pub flip: f32,
    /// Zero padding before a random crop.
    #[serde(default)]
    pub pad: usize,
    /// Probability of erasing a rectangle.
    #[serde(default)]
    pub erase: f32,
    /// Side that pictures are resized to; 0 leaves them as they are.
    #[serde(default)]
    pub side: usize,
    /// Train on the first this many images, documents, pairs or questions only (0 = all).
    #[serde(default)]
    pub limit: usize,
    /// Images kept from training, or texts or questions of the validation split, that the validation loss is over.
    #[serde(default)]
    pub valid: usize,
    /// The other language of a translation, as Debian or MultiEmo names it.
    #[serde(default)]
    pub language: String,
    /// Languages of the texts that spans are cut out of, as Debian names them; English alone where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Pieces of the tokenizer that is trained on the training split.
    #[serde(default = "vocab")]
    pub vocab: usize,
    /// Most tokens of a text; longer ones are cut into pieces, longer pairs left out, longer passages read in windows.
    #[serde(default = "max_len")]
    pub max_len: usize,
    /// Share of the tokens that are cut out.
    #[serde(default = "noise")]
    pub noise: f64,
    /// Mean length of what is cut out at one place.
    #[serde(default = "span")]
    pub span: f64,
    /// Tokens that neighbouring windows of a passage share.
    #[serde(default = "overlap")]
    pub overlap: usize,
    /// Variations of every question and passage that are trained on beside them.
    #[serde(default)]
    pub eda: usize,
    /// Models that say every question and passage again, to be trained on beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back: Option<BackTranslation>,
    /// Translate into English, not from it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reverse: bool,
}

/// Two models for a translation there and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackTranslation {
    /// Folder of the model from English.
    pub there: PathBuf,
    /// Folder of the model into English.
    pub home: PathBuf,
}

impl Data {
    /// The augmentation part.
    pub fn augment(&self) -> Augment {
        Augment { flip: self.flip, pad: self.pad, erase: self.erase }
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

/// Measurement of the finished run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Eval {
    /// Points by name; the resting point alone where empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub points: BTreeMap<String, Map<String, Value>>,
    /// Sentences that are translated for BLEU (0 = all of the test split).
    #[serde(default)]
    pub sentences: usize,
    /// Questions of each set that are answered (0 = all).
    #[serde(default)]
    pub questions: usize,
    /// The one language that is measured; all where empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub language: String,
    /// Vocabularies that the model is cut to afterwards, by name: tokens that occur in the training texts of `language` at
    /// least so often stay. Each is measured beside the whole.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub trims: BTreeMap<String, u64>,
    /// Scenes that are measured (0 = 512).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scenes: usize,
}

fn is_false(b: &bool) -> bool {
    !*b
}

fn is_zero(n: &usize) -> bool {
    *n == 0
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
fn vocab() -> usize {
    2048
}
fn max_len() -> usize {
    64
}
fn noise() -> f64 {
    0.15
}
fn span() -> f64 {
    3.0
}
fn overlap() -> usize {
    128
}

/// Keys that recipes did not always have, with the values that they had all the same: these lines are no part of a
/// fingerprint, so that runs begun before them go on.
const LATER: &[(&str, &[&str])] = &[
    (
        "[data]",
        &[
            "task = \"images\"",
            "side = 0",
            "valid = 0",
            "language = \"\"",
            "vocab = 2048",
            "max_len = 64",
            "noise = 0.15",
            "span = 3.0",
            "overlap = 128",
            "eda = 0",
        ],
    ),
    ("[switch]", &["draws = 1", "agree = 0.0"]),
    (
        "[train]",
        &[
            "optimizer = \"adamw\"",
            "schedule = \"cosine\"",
            "accumulate = 1",
            "ema = 0.0",
            "export_ema = false",
            "dropout = 0.0",
            "valid_every = 0",
            "keep_last = 2",
            "keep_best = 0",
        ],
    ),
];

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
        let mut table = Recipe::table(path, overrides)?;
        table.remove("note"); // of a study's results
        if table.contains_key("variant") {
            let what = "holds several variants; train them with --all, or one with --variant NAME".into();
            return Err(Error::Recipe { path: path.to_path_buf(), what });
        }
        Recipe::of(table, path)
    }

    /// A recipe from its table; `path` stands in errors.
    fn of(table: toml::Table, path: &Path) -> Result<Recipe> {
        let bad = |what: String| Error::Recipe { path: path.to_path_buf(), what };
        let recipe: Recipe = table.try_into().map_err(|e: toml::de::Error| bad(e.to_string()))?;
        recipe.check().map_err(bad)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let (t, d, s) = (&self.train, &self.data, &self.switch);
        let fits = match d.task {
            TaskKind::Images => IMAGE_SETS.contains(&d.set.as_str()),
            TaskKind::Scenes => d.set == "fashion-mnist",
            TaskKind::SpanCorruption => d.set == "debian" || d.set == "text",
            TaskKind::Translate => d.set == "debian" || d.set == "multiemo",
            TaskKind::Questions => d.set == "squad",
        };
        let spans = d.task == TaskKind::SpanCorruption && d.set == "debian";
        let known = self.eval.language.is_empty() || d.languages.contains(&self.eval.language);
        let asks = d.task == TaskKind::Questions;
        let scenes = d.task == TaskKind::Scenes;
        let experts = self.start.as_ref().is_some_and(|s| s.experts.is_some());
        let hash = self.start.as_ref().is_some_and(|s| s.hash.is_some());
        let named = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let checks = [
            (named, "name must be letters, digits, - _ ."),
            (
                fits,
                "data.set must be \"fashion-mnist\" for images and scenes, \"cifar-10\" for images, \"debian\" for text, \"text\" for span-corruption, \
                 \"multiemo\" for translate, or \"squad\" for questions",
            ),
            (d.side <= 512 && (d.side == 0 || d.task == TaskKind::Images), "data.side must be up to 512, for images"),
            (!asks || self.start.is_some(), "data.task = \"questions\" needs start.folder, a model with its tokenizer"),
            (
                !asks || (t.label_smoothing == 0.0 && s.draws == 1 && s.bits.is_empty() && s.exits.is_empty()),
                "data.task = \"questions\" has no label_smoothing, draws, bits or exits",
            ),
            (spans || d.languages.is_empty(), "data.languages are for span-corruption of \"debian\""),
            (known, "eval.language must be among data.languages"),
            (self.eval.trims.is_empty() || !self.eval.language.is_empty(), "eval.trims needs eval.language"),
            (
                !scenes || (s.draws == 1 && s.bits.is_empty() && s.exits.is_empty() && s.experts.is_none()),
                "data.task = \"scenes\" has no draws, bits, exits or experts setting: each batch names its task's gate",
            ),
            (asks || (d.eda == 0 && d.back.is_none()), "data.eda and data.back are for questions"),
            (!d.reverse || d.task == TaskKind::Translate, "data.reverse is for translate"),
            (d.eda <= 16, "data.eda must be at most 16"),
            (!experts || s.bits.is_empty(), "start.experts and switch.bits do not go together"),
            (!hash || (d.task == TaskKind::Images && !experts), "start.hash is for images, without start.experts"),
            ((300..=65_536).contains(&d.vocab), "data.vocab must be 300 to 65,536"),
            ((8..=4_096).contains(&d.max_len), "data.max_len must be 8 to 4,096"),
            (d.noise > 0.0 && d.noise <= 0.5 && d.span >= 1.0, "data.noise must be up to 0.5, data.span at least 1"),
            (d.task != TaskKind::Translate || !d.language.is_empty(), "data.language must name the other language"),
            (
                d.language.chars().all(|c| c.is_ascii_alphabetic() || c == '_'),
                "data.language must be letters, as in pt_BR",
            ),
            (t.steps >= 1 && t.steps <= 10_000_000, "train.steps must be 1 to 10,000,000"),
            (t.batch >= 1 && t.batch <= 65_536, "train.batch must be 1 to 65,536"),
            (t.lr > 0.0 && t.lr < 10.0, "train.lr must be between 0 and 10"),
            (t.warmup <= t.steps, "train.warmup must not exceed train.steps"),
            ((0.0..1.0).contains(&t.label_smoothing), "train.label_smoothing must be 0 to 1"),
            (t.clip > 0.0, "train.clip must be positive"),
            (t.save_every >= 1, "train.save_every must be at least 1"),
            ((0.0..1.0).contains(&t.beta2) && t.weight_decay >= 0.0 && t.final_lr >= 0.0, "train: a value is negative"),
            ((0.0..=1.0).contains(&self.switch.distill), "switch.distill must be 0 to 1"),
            (self.switch.exits.windows(2).all(|w| w[0] < w[1]), "switch.exits must ascend"),
            (s.draws >= 1 && s.draws <= 16, "switch.draws must be 1 to 16"),
            (s.agree >= 0.0 && (s.agree == 0.0 || s.draws >= 2), "switch.agree needs switch.draws of at least 2"),
            (s.draws == 1 || s.bits.is_empty(), "switch.draws and switch.bits do not go together"),
            ((1..=1024).contains(&t.accumulate), "train.accumulate must be 1 to 1,024"),
            ((0.0..1.0).contains(&t.ema), "train.ema must be below 1"),
            (!t.export_ema || t.ema > 0.0, "train.export_ema needs train.ema"),
            ((0.0..1.0).contains(&t.dropout), "train.dropout must be below 1"),
            (t.valid_every == 0 || d.valid > 0, "train.valid_every needs data.valid"),
            (t.keep_best == 0 || t.valid_every > 0, "train.keep_best needs train.valid_every"),
            (t.keep_last >= 1, "train.keep_last must be at least 1"),
            (self.switch.bits.iter().all(|b| VIEWS.contains(b)), "switch.bits must be among 8, 6, 4, 2"),
        ];
        checks.iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, why)| Err((*why).to_string()))
    }

    /// The recipe as TOML, with every default written out.
    pub fn resolved(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Identity of everything that decides the course of the run: all but its name, what is measured, and when it is
    /// validated and saved.
    pub fn fingerprint(&self) -> String {
        use sha2::Digest;
        let mut same = Recipe { name: String::new(), eval: Eval::default(), ..self.clone() };
        (same.train.save_every, same.train.valid_every, same.train.keep_last, same.train.keep_best) = (1, 0, 2, 0);
        let (mut section, mut text) = (String::new(), String::new());
        for line in same.resolved().lines() {
            if line.starts_with('[') {
                section = line.to_string();
            }
            if !LATER.iter().any(|(home, lines)| *home == section && lines.contains(&line)) {
                text.push_str(line);
                text.push('\n');
            }
        }
        hex(&sha2::Sha256::digest(text.as_bytes()))
    }

    /// The point that a run trains at rest.
    pub fn rest(&self) -> Point {
        match &self.switch.experts {
            Some(setting) => Point::new().with("experts", Value::Object(setting.clone())),
            None => Point::new(),
        }
    }
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
