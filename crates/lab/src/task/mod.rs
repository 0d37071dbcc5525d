//! What a batch is, what its loss is, and what is measured at the end: the seam between the loop and the data.

mod back_translation;
mod batch;
mod corpus;
mod images;
mod kind;
mod questions;
mod scenes;
mod spans;
mod translate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Output, Point, Size, Trace};
use switchformer_switch::leaf::experts::Experts;
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;
use switchformer_zoo::save::json_bytes;

pub use batch::{Batch, Losses, Target, Term, logits};
pub use kind::{TASKS, Tables, TaskKind};

use crate::error::{Error, Result};
use crate::loss::label_loss;
use crate::metric::{Stats, bootstrap};
use crate::recipe::Recipe;

/// Where a task finds its data.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Folder of the data set, when it is not in a usual place.
    pub data: Option<PathBuf>,
    /// Folder for what runs of one study share, such as a trained tokenizer.
    pub shared: PathBuf,
    /// Folder of the tokenizer, in the place of one that is trained on the texts.
    pub words: Option<PathBuf>,
}

/// Rows that each expert took, bank by bank.
type Loads = BTreeMap<String, BTreeMap<String, f64>>;

/// Figures of a measurement, by name.
pub type Figures = BTreeMap<String, f64>;

/// A task. Batches are pure functions of the recipe and their number.
pub trait Task {
    /// What a batch counts.
    fn unit(&self) -> &'static str;
    /// Adds to `config.json` what the data decides (classes, vocabulary).
    fn complete(&self, model: &mut Map<String, Value>);
    /// A training batch; batches count from 0.
    fn batch(&mut self, index: u64) -> Result<Batch>;
    /// Loss of one answer: cross-entropy of its logits unless a task has another.
    fn loss(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        class_loss(logits(out)?, &batch.target)
    }
    /// Scores that two passes over a batch are drawn together by, one tensor a head: the logits unless a task has others.
    /// Shapes: each `[n, classes]`.
    fn scores(&self, out: &Output) -> Result<Vec<Tensor>> {
        Ok(vec![logits(out)?.clone()])
    }
    /// The batches of the validation loss.
    fn valid(&self) -> Result<Vec<Batch>>;
    /// Files that the exported folder needs beside the model.
    fn files(&self, config: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>>;
    /// Vocabularies that the trained model is cut to and measured with, where a recipe asks for some.
    fn trims(&self) -> Option<Trims<'_>> {
        None
    }
    /// Measures an exported model on the test split.
    fn measure(&self, opened: &Opened, point: &Point) -> Result<Figures>;
}

/// Vocabularies to cut a model to.
pub struct Trims<'a> {
    /// Language of the texts.
    pub language: &'a str,
    /// The texts whose tokens stay.
    pub texts: Vec<&'a str>,
    /// How often a token must occur to stay, by the name of the vocabulary.
    pub min_counts: &'a BTreeMap<String, u64>,
}

/// The task of a recipe.
pub fn open(recipe: &Recipe, places: &Places) -> Result<Box<dyn Task>> {
    let kind = TaskKind::find(&recipe.data.task).map_err(|what| Error::config("data.task", what))?;
    kind.open(recipe, places)
}

/// The `[eval]` of a task that reads nothing there.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NoEval {}

/// The first of the checks that fails.
pub(crate) fn all_hold(checks: &[(bool, &str)]) -> Result<(), String> {
    checks.iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, why)| Err((*why).to_string()))
}

/// Cross-entropy of the classes of a target. Shapes: logits `[n, classes]`.
fn class_loss(logits: &Tensor, target: &Target) -> Result<Losses> {
    Ok(Losses::of("classes", label_loss(logits, target.class_ids()?, target.smoothing())?))
}

/// Resamples of an interval, its level, and their seed.
const INTERVAL: (usize, f64, u64) = (1_000, 0.95, 12_345);

/// Puts in the score of all samples, and the ends of its 95 % interval as `<name> low` and `<name> high`.
fn with_interval(figures: &mut Figures, name: &str, stats: &Stats, score: impl Fn(&[f64]) -> f64) -> Result<()> {
    let (samples, level, seed) = INTERVAL;
    let interval = bootstrap(stats, &score, samples, level, seed)?;
    figures.insert(name.to_string(), score(&stats.total()));
    figures.insert(format!("{name} low"), interval.low);
    figures.insert(format!("{name} high"), interval.high);
    Ok(())
}

/// Mean loss over batches, and how evenly experts were met: 1 where each took an equal share of the rows
/// of its bank, 0 where one took all; absent without experts.
fn mean_loss(opened: &Opened, point: &Point, batches: &[Batch]) -> Result<Figures> {
    let (mut sum, mut weight) = (0f64, 0f64);
    let mut loads = Loads::new();
    for batch in batches {
        let (out, trace) = opened.run(point, &batch.input)?;
        let loss = class_loss(logits(&out)?, &batch.target)?.total()?.to_scalar::<f32>()?;
        sum += f64::from(loss) * batch.weight;
        weight += batch.weight;
        gather_loads(&trace, &mut loads);
    }
    let mut figures = Figures::from([("loss".to_string(), sum / weight.max(1.0))]);
    let experts = opened.switches.host().capability(&Experts).map_or(1, |o| o.experts);
    if experts > 1 && !loads.is_empty() {
        let even: f64 = loads.values().map(|load| evenness(load.values().copied(), experts)).sum();
        figures.insert("evenness".to_string(), even / loads.len() as f64);
    }
    Ok(figures)
}

/// Adds the rows that each expert of each bank took.
fn gather_loads(trace: &Trace, loads: &mut Loads) {
    for d in trace.decisions.iter().filter(|d| d.switch == "experts") {
        let bank = loads.entry(d.at.clone()).or_default();
        for (expert, rows) in d.choice["load"].as_object().into_iter().flatten() {
            *bank.entry(expert.clone()).or_default() += rows.as_f64().unwrap_or(0.0);
        }
    }
}

/// Entropy of the shares over that of equal shares.
fn evenness(load: impl Iterator<Item = f64> + Clone, experts: usize) -> f64 {
    let total: f64 = load.clone().sum();
    let entropy: f64 = load.filter(|l| *l > 0.0).map(|l| -(l / total) * (l / total).ln()).sum();
    entropy / (experts as f64).ln()
}

/// The file that says how pictures become a model's input.
fn preprocessor((height, width): Size, channels: usize, [mean, deviation]: [f32; 2]) -> (String, Vec<u8>) {
    let steps = json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": {"height": height, "width": width},
        "resample": 2,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": vec![mean; channels],
        "image_std": vec![deviation; channels],
    });
    ("preprocessor_config.json".into(), json_bytes(&steps))
}

/// A folder that was named, or Debian's own for lists of packages.
fn text_folder(places: &Places) -> &Path {
    places.data.as_deref().unwrap_or(Path::new("/var/lib/apt/lists"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evenness_runs_from_one_expert_to_all_alike() {
        assert!((evenness([5.0; 4].into_iter(), 4) - 1.0).abs() < 1e-12);
        assert!((evenness([5.0, 5.0].into_iter(), 4) - 0.5).abs() < 1e-12);
        assert_eq!(evenness([9.0].into_iter(), 4), 0.0);
    }
}
