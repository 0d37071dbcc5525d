//! Fashion-MNIST: one label an image.

use candle_core::{Device, Tensor};
use serde_json::{Map, Value, json};
use switchformer_data::batch::{Draw, Norm, permutation};
use switchformer_data::fashion::{Dataset, FashionMnist, LABELS};
use switchformer_nn::config::{ConfigMap, MAX_SIDE};
use switchformer_nn::{Input, Point};
use switchformer_zoo::Opened;
use switchformer_zoo::save::json_bytes;

use super::{Batch, Figures, Places, Task};
use crate::error::{Error, Result};
use crate::loss::{cross_entropy, targets};
use crate::measure::{answer, pixels};
use crate::recipe::{Data, Eval, Recipe};

/// Images of a validation batch.
const BATCH: usize = 64;

pub(super) struct Images {
    data: Dataset,
    settings: Data,
    seed: u64,
    batch: usize,
    order: Order,
    source: FashionMnist,
}

impl Images {
    pub(super) fn open(recipe: &Recipe, places: &Places) -> Result<Self> {
        let source = FashionMnist::open(places.data.as_deref())?;
        let data = source.train()?;
        let data = if recipe.data.limit > 0 { data.head(recipe.data.limit) } else { data };
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
        let labels = LABELS.iter().enumerate().map(|(i, name)| (i.to_string(), json!(name)));
        model.insert("id2label".into(), Value::Object(labels.collect()));
    }

    fn batch(&mut self, index: u64) -> Result<Batch> {
        let (b, data) = (self.batch, &self.data);
        let (epoch, indices) = self.order.take(index, b);
        let mut values = vec![0f32; b * data.height() * data.width()];
        let draw = Draw { augment: self.settings.augment(), seed: self.seed, epoch };
        data.fill_batch(&indices, Norm::FASHION, Some(&draw), &mut values)?;
        let pixels = Tensor::from_vec(values, (b, 1, data.height(), data.width()), &Device::Cpu)?;
        Ok(Batch { input: Input::Pixels(pixels), labels: self.labels(&indices)?, size: b })
    }

    fn loss(&self, logits: &Tensor, batch: &Batch, smoothing: f64) -> Result<Tensor> {
        let labels: Vec<u8> = batch.labels.iter().map(|l| *l as u8).collect();
        cross_entropy(logits, &targets(&labels, LABELS.len(), smoothing)?)
    }

    fn valid(&self) -> Result<Vec<Batch>> {
        let held: Vec<u32> = (self.order.n as u32..self.data.len() as u32).collect();
        let one =
            |part: &[u32]| Ok(Batch { input: pixels(&self.data, part)?, labels: self.labels(part)?, size: part.len() });
        held.chunks(BATCH).map(one).collect()
    }

    fn files(&self, config: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        let (h, w) = config.pair("image_size", 28, MAX_SIDE)?;
        let preprocessor = json!({
            "image_processor_type": "ViTImageProcessor",
            "do_resize": true,
            "size": {"height": h, "width": w},
            "resample": 2,
            "do_rescale": true,
            "rescale_factor": 1.0 / 255.0,
            "do_normalize": true,
            "image_mean": [Norm::FASHION.mean],
            "image_std": [Norm::FASHION.std],
        });
        Ok(vec![("preprocessor_config.json".into(), json_bytes(&preprocessor))])
    }

    fn measure(&self, opened: &Opened, point: &Point, _: &Eval) -> Result<Figures> {
        let answers = answer(opened, point, &self.source.test()?, BATCH)?;
        let right = answers.correct.iter().filter(|c| **c).count();
        Ok(Figures::from([("accuracy".to_string(), right as f64 / answers.correct.len().max(1) as f64)]))
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
