//! The training loop: each step trains several operating points of one set of weights.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use candle_core::{Device, Tensor};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use switchformer_data::batch::{Draw, Norm, permutation};
use switchformer_data::fashion::{Dataset, FashionMnist, LABELS};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::{INITIALIZER_RANGE, Stream};
use switchformer_nn::store::write_atomic;
use switchformer_nn::{Ctx, Input, Model, Param, Point, Taps, Trace, Weights, record, staged};
use switchformer_switch::Plan;
use switchformer_switch::between::exit::Exits;
use switchformer_switch::leaf::bits::NestedLeaves;
use switchformer_zoo::Entry;
use switchformer_zoo::entry::find;
use switchformer_zoo::open::load_exits;

use crate::error::{Error, Result};
use crate::export::{self, Export};
use crate::loss::{cross_entropy, softmax, targets};
use crate::optim::{AdamW, warmup_cosine};
use crate::recipe::Recipe;
use crate::state;

/// How to run a recipe.
#[derive(Clone, Debug)]
pub struct TrainOptions {
    /// Folder of the run: state, metrics, and the trained checkpoint in `model`.
    pub out: PathBuf,
    /// Folder of the data set, when it is not in a usual place.
    pub data: Option<PathBuf>,
    /// Stop after this many steps of this call, saved (the run goes on with the same command).
    pub stop_after: Option<u64>,
    /// Whether to print progress.
    pub quiet: bool,
}

/// What a finished run leaves.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct TrainReport {
    /// Folder of the trained checkpoint.
    pub model: PathBuf,
    /// Steps done.
    pub steps: u64,
    /// Seconds trained, over all calls.
    pub seconds: f64,
    /// Mean loss of the last hundred steps.
    pub loss: f64,
}

/// Set by the interrupt handler of the binary; the loop saves and returns [`Error::Interrupted`].
pub static INTERRUPT: AtomicBool = AtomicBool::new(false);

/// Model, exits and optimiser of a run.
struct Run {
    entry: &'static Entry,
    config: ConfigMap,
    model: Box<dyn Model>,
    model_params: Vec<Param>,
    exits: Option<Exits>,
    exit_params: Vec<Param>,
    optimiser: AdamW,
}

impl Run {
    fn new(recipe: &Recipe) -> Result<Self> {
        let config = recipe.config()?;
        let entry = find(&config.text("model_type", "")?)?;
        let deviation = config.float("initializer_range", f64::from(INITIALIZER_RANGE), 1e-4, 1.0)? as f32;
        let mut w = Weights::fresh(recipe.seed, deviation).trainable();
        if !recipe.switch.bits.is_empty() {
            w = w.with_leaves(NestedLeaves::shared(entry.blocks));
        }
        let model = entry.build(&config, &w)?;
        let we = Weights::fresh(recipe.seed, deviation).trainable();
        let exits = match recipe.switch.exits.as_slice() {
            [] => None,
            depths => Some(load_exits(model.trunk(), &config, &we, depths)?),
        };
        let (model_params, exit_params) = (w.params(), we.params());
        let all = model_params.iter().chain(&exit_params).cloned().collect();
        let optimiser = AdamW::new(all, recipe.train.beta2, recipe.train.weight_decay);
        Ok(Run { entry, config, model, model_params, exits, exit_params, optimiser })
    }

    /// Logits after every exit, shallow first, the model's own last. Shapes: each `[b, classes]`.
    fn all_logits(&self, point: &Point, input: &Input) -> Result<Vec<Tensor>> {
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let mut cx = Ctx::new(point, &mut taps, &mut trace);
        cx.train = true;
        let trunk = self.model.trunk();
        let mut state = trunk.stem(&mut cx, input)?;
        let mut all = Vec::new();
        for idx in 0..trunk.n_blocks() {
            state = staged::walk(trunk, &[], &mut cx, idx..idx + 1, state, &mut Vec::new())?;
            if let Some(exits) = &self.exits {
                all.extend(exits.logits(&mut cx, idx + 1, &state)?);
            }
        }
        all.push(trunk.head(&mut cx, state)?.get("logits")?.clone());
        Ok(all)
    }

    /// Mean over exits of the cross-entropy, deeper exits weighing more (linearly, as ECO-M2F does).
    fn exits_loss(&self, logits: &[Tensor], target: &Tensor) -> Result<Tensor> {
        let total: usize = (1..=logits.len()).sum();
        let mut sum: Option<Tensor> = None;
        for (i, l) in logits.iter().enumerate() {
            let term = (cross_entropy(l, target)? * ((i + 1) as f64 / total as f64))?;
            sum = Some(match sum {
                Some(s) => (s + term)?,
                None => term,
            });
        }
        sum.ok_or_else(|| Error::Nn(switchformer_nn::Error::config("exits", "no logits to train")))
    }

    /// Loss of one step: the widest view against the labels, and one narrower view against labels and the widest
    /// view's answer.
    fn step_loss(&self, recipe: &Recipe, step: u64, input: &Input, labels: &[u8]) -> Result<Tensor> {
        let target = targets(labels, LABELS.len(), recipe.train.label_smoothing)?;
        let bits = &recipe.switch.bits;
        let Some((wide, narrow)) = bits.split_first() else {
            return self.exits_loss(&self.all_logits(&Point::new(), input)?, &target);
        };
        let full = self.all_logits(&Point::new().with("bits", *wide), input)?;
        let loss = self.exits_loss(&full, &target)?;
        if narrow.is_empty() {
            return Ok(loss);
        }
        let pick = Stream::named("bits").fork(recipe.seed).fork(step).below(narrow.len() as u64) as usize;
        let small = self.all_logits(&Point::new().with("bits", narrow[pick]), input)?;
        let d = recipe.switch.distill;
        let teacher = softmax(full.last().unwrap_or(&full[0]))?;
        let mixed = ((target * (1.0 - d))? + (teacher * d)?)?;
        Ok(((loss + self.exits_loss(&small, &mixed)?)? * 0.5)?)
    }
}

/// Trains a recipe to its end, or resumes it; writes `model/` in the run folder.
pub fn run(recipe: &Recipe, options: &TrainOptions) -> Result<TrainReport> {
    let data = FashionMnist::open(options.data.as_deref())?.train()?;
    let data = if recipe.data.limit > 0 { data.head(recipe.data.limit) } else { data };
    let mut run = Run::new(recipe)?;
    fs::create_dir_all(&options.out).map_err(|e| switchformer_nn::Error::io(&options.out, e))?;
    let fingerprint = recipe.fingerprint();
    let (mut step, mut seconds) = (0, 0.0);
    if state::exists(&options.out) {
        let manifest = state::load(&options.out, &mut run.optimiser, &fingerprint)?;
        (step, seconds) = (manifest.step, manifest.seconds);
    }
    write_atomic(&options.out.join("recipe.toml"), recipe.resolved().as_bytes())?;
    let mut log = Log::open(&options.out, recipe.train.steps, step, options.quiet)?;
    let mut order = Order::new(recipe.seed, data.len());
    let first = step;
    let started = Instant::now();
    let spent = |from: f64| from + started.elapsed().as_secs_f64();
    while step < recipe.train.steps {
        let stop = options.stop_after.is_some_and(|n| step - first >= n);
        if stop || INTERRUPT.load(Ordering::Relaxed) {
            state::save(&options.out, &run.optimiser, step, &fingerprint, spent(seconds))?;
            return Err(Error::Interrupted { step, saved: options.out.clone() });
        }
        let (input, labels) = batch(recipe, &data, &mut order, step)?;
        let (loss, tape) = record(|| run.step_loss(recipe, step, &input, &labels))?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(Error::Diverged { step, saved: options.out.clone() });
        }
        let t = &recipe.train;
        let lr = warmup_cosine(step, t.steps, t.warmup, t.lr, t.final_lr);
        let norm = run.optimiser.step(&tape.backward(&loss)?, lr, t.clip, step)?;
        step += 1;
        log.step(step, value, lr, norm, recipe.train.batch)?;
        if step.is_multiple_of(t.save_every) || step == t.steps {
            state::save(&options.out, &run.optimiser, step, &fingerprint, spent(seconds))?;
        }
    }
    seconds = spent(seconds);
    let model = options.out.join("model");
    write_model(recipe, &run, &model, seconds)?;
    log.finish();
    Ok(TrainReport { model, steps: step, seconds, loss: log.recent() })
}

/// The images and labels of a step: a pure function of (seed, step).
fn batch(recipe: &Recipe, data: &Dataset, order: &mut Order, step: u64) -> Result<(Input, Vec<u8>)> {
    let b = recipe.train.batch;
    let (epoch, indices) = order.take(step, b);
    let mut pixels = vec![0f32; b * data.height() * data.width()];
    let draw = Draw { augment: recipe.data.augment(), seed: recipe.seed, epoch };
    data.fill_batch(&indices, Norm::FASHION, Some(&draw), &mut pixels)?;
    let labels = data.labels_at(&indices)?;
    let pixels = Tensor::from_vec(pixels, (b, 1, data.height(), data.width()), &Device::Cpu)?;
    Ok((Input::Pixels(pixels), labels))
}

/// Order of the data; keeps the permutation of the current epoch.
struct Order {
    seed: u64,
    n: usize,
    epoch: u64,
    permutation: Vec<u32>,
}

impl Order {
    fn new(seed: u64, n: usize) -> Self {
        Order { seed, n, epoch: u64::MAX, permutation: Vec::new() }
    }

    /// Epoch and samples of a step. A last batch that does not fit is left out of its epoch.
    fn take(&mut self, step: u64, batch: usize) -> (u64, Vec<u32>) {
        let per_epoch = (self.n / batch).max(1) as u64;
        let (epoch, at) = (step / per_epoch, (step % per_epoch) as usize * batch);
        if epoch != self.epoch {
            self.permutation = permutation(self.seed, epoch, self.n as u32);
            self.epoch = epoch;
        }
        (epoch, (0..batch).map(|i| self.permutation[(at + i) % self.n]).collect())
    }
}

fn write_model(recipe: &Recipe, run: &Run, dir: &Path, seconds: f64) -> Result<()> {
    let plan = Plan {
        schema: 1,
        exits: recipe.switch.exits.clone(),
        provenance: json!({
            "recipe": recipe.name,
            "seed": recipe.seed,
            "data": recipe.data.set,
            "steps": recipe.train.steps,
            "minutes": (seconds / 6.0).round() / 10.0,
            "version": env!("CARGO_PKG_VERSION"),
        }),
        ..Plan::default()
    };
    let (h, w) = run.config.pair("image_size", 28, switchformer_nn::config::MAX_SIDE)?;
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
    export::write(
        dir,
        &Export {
            entry: run.entry,
            config: &run.config,
            model: &run.model_params,
            exits: &run.exit_params,
            plan: &plan,
            preprocessor: Some(preprocessor),
        },
    )
}

/// Progress bar and `metrics.jsonl`.
struct Log {
    file: fs::File,
    path: PathBuf,
    bar: Option<ProgressBar>,
    plain: bool,
    recent: std::collections::VecDeque<f64>,
    started: Instant,
    first: u64,
    steps: u64,
}

impl Log {
    /// Opens the metrics file, dropping lines past the step that is resumed.
    fn open(run: &Path, steps: u64, from: u64, quiet: bool) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let io = |e| switchformer_nn::Error::io(&path, e);
        if path.exists() {
            let text = fs::read_to_string(&path).map_err(io)?;
            let step = |line: &&str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("step")?.as_u64();
            let kept: String =
                text.lines().filter(|l| step(l).is_some_and(|s| s <= from)).map(|l| format!("{l}\n")).collect();
            write_atomic(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let plain = !std::io::stderr().is_terminal();
        let bar = (!quiet && !plain).then(|| {
            let bar = ProgressBar::new(steps).with_position(from);
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} eta {eta}") {
                bar.set_style(style);
            }
            bar
        });
        let log = Log {
            file,
            path,
            bar,
            plain: plain && !quiet,
            recent: Default::default(),
            started: Instant::now(),
            first: from,
            steps,
        };
        Ok(log)
    }

    fn step(&mut self, step: u64, loss: f64, lr: f64, norm: f64, batch: usize) -> Result<()> {
        self.recent.push_back(loss);
        if self.recent.len() > 100 {
            self.recent.pop_front();
        }
        if let Some(bar) = &self.bar {
            bar.set_position(step);
            bar.set_message(format!("loss {:.4}", self.recent()));
        }
        if step.is_multiple_of(20) || step == self.steps {
            let rate = ((step - self.first) as usize * batch) as f64 / self.started.elapsed().as_secs_f64();
            let line = json!({"step": step, "loss": loss, "lr": lr, "grad_norm": norm, "images_per_s": rate.round()});
            writeln!(self.file, "{line}").map_err(|e| switchformer_nn::Error::io(&self.path, e))?;
            if self.plain && (step.is_multiple_of(100) || step == self.steps) {
                eprintln!("step {step}/{} loss {:.4} {rate:.0} images/s", self.steps, self.recent());
            }
        }
        Ok(())
    }

    /// Mean loss of the last hundred steps.
    fn recent(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
