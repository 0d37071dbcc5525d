//! Pictures with one label each.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use switchformer_data::batch::{Augment, Draw, permutation};
use switchformer_data::{Dataset, IMAGE_SETS, ImageSet};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Output, Point};
use switchformer_zoo::Opened;

use super::kind::Setup;
use super::{Batch, Figures, Losses, NoEval, Places, Target, Task, all_hold, logits, preprocessor};
use crate::error::{Error, Result};
use crate::loss::{cross_entropy, targets};
use crate::measure::{answer, fitted, pixels, time, wilson};
use crate::recipe::Recipe;

/// Images of a validation batch.
const BATCH: usize = 64;
/// Batches that are timed after the test.
const TIMED: usize = 15;

/// `[data]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// `fashion-mnist` or `cifar-10`.
    set: String,
    /// Probability of a mirror image.
    #[serde(default)]
    flip: f64,
    /// Zero padding before a random crop.
    #[serde(default)]
    pad: usize,
    /// Probability of erasing a rectangle.
    #[serde(default)]
    erase: f64,
    /// Side that images are resized to; 0 leaves them as they are.
    #[serde(default)]
    side: usize,
    /// Train on the first this many images only (0 = all).
    #[serde(default)]
    limit: usize,
    /// Images kept from training for the validation loss.
    #[serde(default)]
    valid: usize,
}

pub(super) struct Images {
    data: Dataset,
    augment: Augment,
    seed: u64,
    batch: usize,
    smoothing: f64,
    order: Order,
    source: ImageSet,
}

/// Name of the wanted distributions in a target, `[n, classes]`.
const WANTED: &str = "distributions";

impl Setup for Images {
    const NAME: &'static str = "images";
    type Data = Data;
    type Eval = NoEval;

    fn check(data: &Data, _: &NoEval, _: &Recipe) -> Result<(), String> {
        if !IMAGE_SETS.contains(&data.set.as_str()) {
            return Err(format!("data.set must be one of \"{}\" for images", IMAGE_SETS.join("\", \"")));
        }
        all_hold(&[
            (data.side <= 512, "data.side must be up to 512"),
            (
                [data.flip, data.erase].iter().all(|p| (0.0..=1.0).contains(p)),
                "data.flip and data.erase must be 0 to 1",
            ),
        ])
    }

    fn validates(data: &Data) -> bool {
        data.valid > 0
    }

    fn open(settings: Data, _: NoEval, recipe: &Recipe, places: &Places) -> Result<Self> {
        let source = ImageSet::open(&settings.set, places.data.as_deref())?;
        let data = source.train()?;
        let data = if settings.limit > 0 { data.head(settings.limit) } else { data };
        let data = if settings.side > 0 { data.resized(settings.side)? } else { data };
        let n = data.len().saturating_sub(settings.valid);
        if n == 0 {
            let what = format!("leaves nothing of {} images to train on", data.len());
            return Err(Error::config("data.valid", what));
        }
        let augment = Augment { flip: settings.flip as f32, pad: settings.pad, erase: settings.erase as f32 };
        let (seed, batch, smoothing) = (recipe.seed, recipe.train.batch, recipe.train.label_smoothing);
        let order = Order { seed, n, epoch: u64::MAX, permutation: Vec::new() };
        Ok(Images { data, augment, seed, batch, smoothing, order, source })
    }
}

impl Images {
    fn target(&self, indices: &[u32], smoothing: f64) -> Result<Target> {
        let wanted = targets(&self.data.labels_at(indices)?, self.source.classes().len(), smoothing)?;
        Ok(Target::new().with_values(WANTED, wanted))
    }
}

impl Task for Images {
    fn unit(&self) -> &'static str {
        "images"
    }

    fn complete(&self, model: &mut Map<String, Value>) {
        let labels = self.source.classes().into_iter().enumerate().map(|(i, name)| (i.to_string(), json!(name)));
        model.insert("id2label".into(), Value::Object(labels.collect()));
    }

    fn batch(&mut self, index: u64) -> Result<Batch> {
        let (epoch, indices) = self.order.take(index, self.batch);
        let draw = Draw { augment: self.augment, seed: self.seed, epoch };
        let input = pixels(&self.data, &indices, Some(&draw))?;
        let target = self.target(&indices, self.smoothing)?;
        Ok(Batch { input, target, weight: self.batch as f64, size: self.batch, task: None })
    }

    fn loss(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        Ok(Losses::of("classes", cross_entropy(logits(out)?, batch.target.values(WANTED)?)?))
    }

    fn valid(&self) -> Result<Vec<Batch>> {
        let held: Vec<u32> = (self.order.n as u32..self.data.len() as u32).collect();
        let one = |part: &[u32]| {
            Ok(Batch {
                input: pixels(&self.data, part, None)?,
                target: self.target(part, 0.0)?,
                weight: part.len() as f64,
                size: part.len(),
                task: None,
            })
        };
        held.chunks(BATCH).map(one).collect()
    }

    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        let norm = self.data.norm();
        let size = (self.data.height(), self.data.width());
        Ok(vec![preprocessor(size, self.data.channels(), [norm.mean, norm.std])])
    }

    /// Accuracy with its 95 % interval, work of an image, and images/s in batches of 64.
    fn measure(&self, opened: &Opened, point: &Point) -> Result<Figures> {
        let test = self.source.test()?;
        let test = fitted(opened, &test)?;
        let answers = answer(opened, point, &test, BATCH)?;
        let (n, right) = (answers.correct.len(), answers.correct.iter().filter(|c| **c).count());
        let [low, high] = wilson(right, n);
        let first: Vec<u32> = (0..BATCH.min(n) as u32).collect();
        let input = pixels(&test, &first, None)?;
        let [ms, ..] = time(2, TIMED, || opened.run(point, &input).map(drop))?;
        let figures = [
            ("accuracy", right as f64 / n.max(1) as f64),
            ("accuracy low", low),
            ("accuracy high", high),
            ("multiply-adds (M)", answers.macs as f64 / n.max(1) as f64 / 1e6),
            ("images/s", first.len() as f64 / ms * 1e3),
        ];
        Ok(figures.map(|(name, value)| (name.to_string(), value)).into_iter().collect())
    }
}

/// Order of the data; keeps the permutation of the current epoch.
struct Order {
    seed: u64,
    n: usize,
    epoch: u64,
    permutation: Vec<u32>,
}

impl Order {
    /// Epoch and samples of a batch. A last batch that does not fit is left out of its epoch.
    fn take(&mut self, index: u64, batch: usize) -> (u64, Vec<u32>) {
        let per_epoch = (self.n / batch).max(1) as u64;
        let (epoch, at) = (index / per_epoch, (index % per_epoch) as usize * batch);
        if epoch != self.epoch {
            self.permutation = permutation(self.seed, epoch, self.n as u32);
            self.epoch = epoch;
        }
        (epoch, (0..batch).map(|i| self.permutation[(at + i) % self.n]).collect())
    }
}
