//! Scenes of several tasks: what every pixel shows, and where pieces end. The model's `tasks` name those it learns; batches
//! of a run take turns, so with `train.accumulate` at their number every step learns all of them on the same scenes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use switchformer_data::scenes::{CLASSES, SIDE, Scene};
use switchformer_data::{Dataset, FashionMnist};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Input, Output, Point};
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;

use super::kind::Setup;
use super::{Batch, Figures, Loads, Losses, Places, Target, Task, all_hold, class_loss, gather_loads, preprocessor};
use crate::error::{Error, Result};
use crate::metric::maps::Confusion;
use crate::recipe::Recipe;

/// Scenes of a validation or test batch.
const BATCH: usize = 32;
/// Scenes that are measured where the recipe names no number.
const MEASURED: usize = 512;
/// Seed of the scenes of test, and the first scene of validation: far from those of training.
const TEST: u64 = u64::MAX;
const HELD: u64 = 1 << 40;
/// Mean and deviation that gray values are scaled by.
const NORM: [f32; 2] = [0.35, 0.25];

/// What is learned of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Segments,
    Edges,
}

impl Kind {
    const ALL: [Kind; 2] = [Kind::Segments, Kind::Edges];

    fn name(self) -> &'static str {
        match self {
            Kind::Segments => "segments",
            Kind::Edges => "edges",
        }
    }

    fn channels(self) -> usize {
        match self {
            Kind::Segments => CLASSES,
            Kind::Edges => 2,
        }
    }

    fn labels(self, scene: &Scene) -> &[u8] {
        match self {
            Kind::Segments => &scene.classes,
            Kind::Edges => &scene.edges,
        }
    }

    /// The tasks of a model's config, in its order.
    fn all_of(config: &Map<String, Value>) -> Result<Vec<Kind>> {
        let names: Vec<&str> =
            config.get("tasks").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let known = |name: &&str| Kind::ALL.into_iter().find(|k| k.name() == *name);
        let kinds: Option<Vec<Kind>> = names.iter().map(known).collect();
        match kinds {
            Some(kinds) if !kinds.is_empty() => Ok(kinds),
            _ => {
                let what = "must name tasks of scenes: \"segments\", \"edges\"";
                Err(Error::config("model.tasks", what))
            }
        }
    }
}

/// `[data]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// Where the pieces of scenes come from: `fashion-mnist`.
    set: String,
    /// Compose of the first this many garments only (0 = all).
    #[serde(default)]
    limit: usize,
    /// Scenes that the validation loss is over.
    #[serde(default)]
    valid: usize,
}

/// `[eval]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eval {
    /// Scenes that are measured.
    #[serde(default = "measured")]
    scenes: usize,
}

fn measured() -> usize {
    MEASURED
}

pub(super) struct Scenes {
    garments: Dataset,
    source: FashionMnist,
    kinds: Vec<Kind>,
    seed: u64,
    batch: usize,
    smoothing: f64,
    held: usize,
    measured: usize,
}

impl Setup for Scenes {
    const NAME: &'static str = "scenes";
    type Data = Data;
    type Eval = Eval;

    fn check(data: &Data, _: &Eval, recipe: &Recipe) -> Result<(), String> {
        let s = &recipe.switch;
        all_hold(&[
            (data.set == "fashion-mnist", "data.set must be \"fashion-mnist\" for scenes"),
            (
                s.draws == 1 && s.bits.is_empty() && s.exits.is_empty(),
                "data.task = \"scenes\" has no draws, bits or exits",
            ),
        ])
    }

    fn validates(data: &Data) -> bool {
        data.valid > 0
    }

    fn open(data: Data, eval: Eval, recipe: &Recipe, places: &Places) -> Result<Self> {
        let source = FashionMnist::open(places.data.as_deref())?;
        let garments = source.train()?;
        let garments = if data.limit > 0 { garments.head(data.limit) } else { garments };
        let (seed, batch, smoothing) = (recipe.seed, recipe.train.batch, recipe.train.label_smoothing);
        let kinds = Kind::all_of(&recipe.model)?;
        let measured = if eval.scenes > 0 { eval.scenes } else { MEASURED };
        Ok(Scenes { garments, source, kinds, seed, batch, smoothing, held: data.valid, measured })
    }
}

/// Scenes `from` on for one task, the model's `task`-th.
fn make(garments: &Dataset, seed: u64, from: u64, n: usize, (task, kind): (usize, Kind)) -> Result<Batch> {
    let scenes: Vec<Scene> =
        (0..n as u64).map(|i| Ok(Scene::compose(garments, seed, from + i)?)).collect::<Result<_>>()?;
    let [mean, deviation] = NORM;
    let gray = scenes.iter().flat_map(|s| &s.image).map(|g| (f32::from(*g) / 255.0 - mean) / deviation).collect();
    let input = Input::pixel_values(Tensor::from_vec::<f32>(gray, (n, 1, SIDE, SIDE))?);
    let labels = scenes.iter().flat_map(|s| kind.labels(s)).map(|l| u32::from(*l)).collect();
    let weight = (n * SIDE * SIDE) as f64;
    Ok(Batch { input, target: Target::classes(labels), weight, size: n, task: Some(task) })
}

/// Pixels as rows. Shapes: `[b, channels, h, w] -> [b * h * w, channels]`.
fn rows(logits: &Tensor) -> Result<Tensor> {
    let (b, c, h, w) = logits.dims4()?;
    Ok(logits.permute((0, 2, 3, 1))?.contiguous()?.reshape((b * h * w, c))?)
}

impl Task for Scenes {
    fn unit(&self) -> &'static str {
        "scenes"
    }

    fn complete(&self, model: &mut Map<String, Value>) {
        let channels: Vec<usize> = self.kinds.iter().map(|k| k.channels()).collect();
        model.insert("task_channels".into(), json!(channels));
    }

    fn batch(&mut self, index: u64) -> Result<Batch> {
        let tasks = self.kinds.len() as u64;
        let task = (index % tasks) as usize;
        let from = index / tasks * self.batch as u64;
        let mut batch = make(&self.garments, self.seed, from, self.batch, (task, self.kinds[task]))?;
        batch.target = batch.target.smoothed(self.smoothing);
        Ok(batch)
    }

    fn loss(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        class_loss(&rows(out.get("logits")?)?, &batch.target)
    }

    fn scores(&self, out: &Output) -> Result<Vec<Tensor>> {
        Ok(vec![rows(out.get("logits")?)?])
    }

    fn valid(&self) -> Result<Vec<Batch>> {
        let parts = |task: (usize, Kind)| {
            let one = move |from: usize| {
                make(&self.garments, self.seed, HELD + from as u64, BATCH.min(self.held - from), task)
            };
            (0..self.held).step_by(BATCH).map(one)
        };
        self.kinds.iter().copied().enumerate().flat_map(parts).collect()
    }

    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(vec![preprocessor((SIDE, SIDE), 1, NORM)])
    }

    /// Figures of every task of the model on scenes of the test garments, multiply-adds of a scene for each task, how many
    /// experts of a bank its rows met, and the share of their choices that two tasks have in common.
    fn measure(&self, opened: &Opened, point: &Point) -> Result<Figures> {
        let n = self.measured;
        let garments = self.source.test()?;
        let mut figures = Figures::new();
        let mut loads: Vec<Loads> = Vec::new();
        for (task, kind) in Kind::all_of(opened.config.as_map())?.into_iter().enumerate() {
            let (mut seen, mut macs, mut load) = (Confusion::new(kind.channels()), 0, Loads::new());
            for from in (0..n).step_by(BATCH) {
                let batch = make(&garments, TEST, from as u64, BATCH.min(n - from), (task, kind))?;
                let (out, trace) = opened.run(&batch.at(point), &batch.input)?;
                let answers: Vec<u32> = rows(out.get("logits")?)?.argmax(1)?.to_vec1()?;
                answers
                    .iter()
                    .zip(batch.target.class_ids()?)
                    .for_each(|(got, right)| seen.add(*right as usize, *got as usize));
                macs += trace.macs;
                gather_loads(&trace, &mut load);
            }
            let mut put = |name: &str, value: f64| figures.insert(name.to_string(), value);
            match kind {
                Kind::Segments => {
                    put("segments: mean IoU", seen.mean_iou());
                    put("segments: pixels right", seen.accuracy());
                }
                Kind::Edges => drop(put("edges: F1", seen.f1(1))),
            }
            put(&format!("{}: multiply-adds (M)", kind.name()), macs as f64 / n as f64 / 1e6);
            let met = load.values().map(|bank| bank.values().filter(|n| **n > 0.0).count()).sum::<usize>();
            put(&format!("{}: experts met", kind.name()), met as f64 / load.len().max(1) as f64);
            loads.push(load);
        }
        if let [a, b] = loads.as_slice() {
            figures.insert("choices in common".into(), common(a, b));
        }
        Ok(figures)
    }
}

/// Mean over banks of the overlap of two tasks' shares: 1 where both choose alike, 0 where they meet no expert in common.
fn common(a: &Loads, b: &Loads) -> f64 {
    let each = a.iter().map(|(at, one)| {
        let Some(other) = b.get(at) else { return 0.0 };
        let [all, others] = [one, other].map(|load| load.values().sum::<f64>().max(1.0));
        one.iter().map(|(e, n)| (n / all).min(other.get(e).copied().unwrap_or(0.0) / others)).sum::<f64>()
    });
    each.sum::<f64>() / a.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_in_common_are_shares() {
        let load = |pairs: &[(&str, f64)]| {
            Loads::from([("blocks.1.ffn".to_string(), pairs.iter().map(|(e, n)| (e.to_string(), *n)).collect())])
        };
        let one = load(&[("0", 3.0), ("1", 1.0)]);
        assert_eq!(common(&one, &load(&[("0", 6.0), ("1", 2.0)])), 1.0);
        assert_eq!(common(&one, &load(&[("2", 5.0)])), 0.0);
        assert_eq!(common(&one, &load(&[("1", 2.0), ("2", 2.0)])), 0.25);
    }
}
