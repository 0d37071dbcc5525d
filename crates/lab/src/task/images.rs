//! Pictures with one label each.

use candle_core::Tensor;
use serde_json::{Map, Value, json};
use switchformer_data::batch::{Draw, permutation};
use switchformer_data::{Dataset, ImageSet};
use switchformer_nn::Point;
use switchformer_nn::config::ConfigMap;
use switchformer_zoo::Opened;

use super::{Batch, Figures, Places, Task, preprocessor};
use crate::error::{Error, Result};
use crate::loss::{cross_entropy, targets};
use crate::measure::{answer, fitted, pixels, time, wilson};
use crate::recipe::{Data, Eval, Recipe};

/// Images of a validation batch.
const BATCH: usize = 64;
/// Batches that are timed after the test.
const TIMED: usize = 15;

pub(super) struct Images {
    data: Dataset,
    settings: Data,
    seed: u64,
    batch: usize,
    order: Order,
    source: ImageSet,
}

impl Images {
    pub(super) fn open(recipe: &Recipe, places: &Places) -> Result<Self> {
        let source = ImageSet::open(&recipe.data.set, places.data.as_deref())?;
        let data = source.train()?;
        let data = if recipe.data.limit > 0 { data.head(recipe.data.limit) } else { data };
        let data = if recipe.data.side > 0 { data.resized(recipe.data.side)? } else { data };
        let n = data.len().saturating_sub(recipe.data.valid);
        if n == 0 {
            let what = format!("data.valid leaves nothing of {} images to train on", data.len());
            return Err(Error::Nn(switchformer_nn::Error::config("data.valid", what)));
        }
        let order = Order { seed: recipe.seed, n, epoch: u64::MAX, permutation: Vec::new() };
        Ok(Images { data, settings: recipe.data.clone(), seed: recipe.seed, batch: recipe.train.batch, order, source })
    }

    fn labels(&self, indices: &[u32]) -> Result<Vec<u32>> {
        Ok(self.data.labels_at(indices)?.into_iter().map(u32::from).collect())
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
        let draw = Draw { augment: self.settings.augment(), seed: self.seed, epoch };
        let input = pixels(&self.data, &indices, Some(&draw))?;
        Ok(Batch { input, labels: self.labels(&indices)?, size: self.batch, task: None })
    }

    fn loss(&self, logits: &Tensor, batch: &Batch, smoothing: f64) -> Result<Tensor> {
        let labels: Vec<u8> = batch.labels.iter().map(|l| *l as u8).collect();
        cross_entropy(logits, &targets(&labels, self.source.classes().len(), smoothing)?)
    }

    fn valid(&self) -> Result<Vec<Batch>> {
        let held: Vec<u32> = (self.order.n as u32..self.data.len() as u32).collect();
        let one = |part: &[u32]| {
            Ok(Batch {
                input: pixels(&self.data, part, None)?,
                labels: self.labels(part)?,
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

    /// Accuracy with its 95 % interval, work of an image, and images a second in batches of 64.
    fn measure(&self, opened: &Opened, point: &Point, _: &Eval) -> Result<Figures> {
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
            ("images a second", first.len() as f64 / ms * 1e3),
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
