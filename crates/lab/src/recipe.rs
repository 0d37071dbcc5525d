//! Recipes: a TOML file that fully describes one training run.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use switchformer_data::batch::Augment;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::json::read_capped;
use switchformer_switch::leaf::bits::VIEWS;

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
    /// `config.json` of the model, less what the data set decides (classes).
    pub model: Map<String, Value>,
    /// Data.
    pub data: Data,
    /// Switches trained into the checkpoint.
    #[serde(default)]
    pub switch: Switch,
    /// Optimisation.
    pub train: Train,
}

/// Data set and augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// `fashion-mnist`.
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
    /// Train on the first this many images only (0 = all).
    #[serde(default)]
    pub limit: usize,
}

impl Data {
    /// The augmentation part.
    pub fn augment(&self) -> Augment {
        Augment { flip: self.flip, pad: self.pad, erase: self.erase }
    }
}

/// Switches trained jointly.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
}

/// Optimisation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Optimiser steps.
    pub steps: u64,
    /// Images per step.
    pub batch: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// Steps of linear warm-up; then cosine to `final_lr`.
    pub warmup: u64,
    /// Learning rate at the end.
    #[serde(default)]
    pub final_lr: f64,
    /// AdamW weight decay of matrices.
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
}

fn beta2() -> f64 {
    0.999
}
fn one() -> f64 {
    1.0
}
fn every() -> u64 {
    200
}

impl Recipe {
    /// Reads a recipe and applies `key.sub=value` overrides (TOML values). Errors name file, key and value.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Recipe> {
        let bad = |what: String| Error::Recipe { path: path.to_path_buf(), what };
        let bytes = read_capped(path, MAX_RECIPE)?;
        let text = String::from_utf8(bytes).map_err(|_| bad("is not UTF-8 text".into()))?;
        let mut table: toml::Table = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
        for o in overrides {
            set(&mut table, o).map_err(bad)?;
        }
        let recipe: Recipe = table.try_into().map_err(|e: toml::de::Error| bad(e.to_string()))?;
        recipe.check().map_err(bad)?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        let t = &self.train;
        let named = !self.name.is_empty() && self.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let checks = [
            (named, "name must be letters, digits, - _ ."),
            (self.data.set == "fashion-mnist", "data.set must be \"fashion-mnist\""),
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
            (self.switch.bits.iter().all(|b| VIEWS.contains(b)), "switch.bits must be among 8, 6, 4, 2"),
        ];
        checks.iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, why)| Err((*why).to_string()))
    }

    /// `config.json` of the model: the recipe's, with the classes of the data set.
    pub fn config(&self) -> Result<ConfigMap> {
        let mut map = self.model.clone();
        let labels: Map<String, Value> = switchformer_data::fashion::LABELS
            .iter()
            .enumerate()
            .map(|(i, name)| (i.to_string(), json!(name)))
            .collect();
        map.insert("id2label".into(), Value::Object(labels));
        Ok(ConfigMap::new(Value::Object(map))?)
    }

    /// The recipe as TOML, with every default written out.
    pub fn resolved(&self) -> String {
        toml::to_string_pretty(self).unwrap_or_default()
    }

    /// Identity of everything that decides the course of the run: all but name and saving interval.
    pub fn fingerprint(&self) -> String {
        use sha2::Digest;
        let mut same = self.clone();
        same.name = String::new();
        same.train.save_every = 1;
        hex(&sha2::Sha256::digest(same.resolved().as_bytes()))
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
