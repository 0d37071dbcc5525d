//! The training loop: each step trains several operating points of one set of weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;
use switchformer_nn::record;
use switchformer_nn::store::write_atomic;
use switchformer_switch::Plan;

use crate::checkpoint::{Checkpoints, Keep, Manifest};
use crate::curves::write_page;
use crate::error::{Error, Result};
use crate::export::{self, Export};
use crate::log::{Log, Step};
use crate::net::{Loss, Net};
use crate::optim::{Ema, Gathered, Optimiser, rate};
use crate::points::sample;
use crate::prepare::prepared;
use crate::recipe::Recipe;
use crate::run_lock::RunLock;
use crate::task::{self, Batch, Places, Task};

/// How to run a recipe.
#[derive(Clone, Debug, Default)]
pub struct TrainOptions {
    /// Folder of the run: checkpoints, metrics, and the trained model in `model`.
    pub out: PathBuf,
    /// Folder of the data set, when it is not in a usual place.
    pub data: Option<PathBuf>,
    /// Folder that runs of a study share; the run's own where absent.
    pub shared: Option<PathBuf>,
    /// Stop after this many steps of this call, saved (the run goes on with the same command).
    pub stop_after: Option<u64>,
    /// Whether to print no progress.
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
    /// Mean loss of the last hundred steps of this call; nothing where the run was finished before.
    pub loss: Option<f64>,
}

/// Set by the interrupt handler of the binary; the loop saves and returns [`Error::Interrupted`].
pub static INTERRUPT: AtomicBool = AtomicBool::new(false);

impl TrainOptions {
    /// Where the task finds its data.
    pub fn places(&self) -> Places {
        Places { data: self.data.clone(), shared: self.shared.clone().unwrap_or_else(|| self.out.clone()), words: None }
    }
}

/// A run between two steps.
struct Run<'a> {
    recipe: &'a Recipe,
    task: Box<dyn Task>,
    net: Net,
    optimiser: Optimiser,
    ema: Option<Ema>,
    checkpoints: Checkpoints,
    /// Where the run stands.
    at: Manifest,
    held: Vec<Batch>,
}

impl<'a> Run<'a> {
    /// Starts a run, or takes it up where its newest checkpoint left it.
    fn begin(recipe: &'a Recipe, options: &TrainOptions) -> Result<Self> {
        // What runs of a study share is made by the first that needs it; others wait. A lone run's folder is held already.
        let making = options.shared.as_deref().map(RunLock::wait).transpose()?;
        let mut task = task::open(recipe, &options.places())?;
        let net = Net::new(&*prepared(recipe, task.as_mut(), &options.places())?, task.as_ref())?;
        drop(making);
        let mut optimiser = Optimiser::new(net.params(), &recipe.train);
        let mut ema = match recipe.train.ema {
            0.0 => None,
            decay => Some(Ema::new(optimiser.params(), decay)?),
        };
        let checkpoints = Checkpoints::of(&options.out);
        let fingerprint = recipe.fingerprint();
        for home in checkpoints.lacking()? {
            eprintln!("note: {} is no whole checkpoint and is passed over", home.display());
        }
        let at = match checkpoints.newest()? {
            Some(home) => {
                let Manifest { recipe: begun_by, step, .. } = checkpoints.manifest(&home)?;
                if step > recipe.train.steps {
                    let what = format!("says step {step}, and the recipe ends at step {}", recipe.train.steps);
                    return Err(Error::Checkpoint { path: home, what });
                }
                recipe
                    .admits(&begun_by, &options.out)
                    .map_err(|what| Error::Checkpoint { path: home.clone(), what })?;
                Manifest { recipe: fingerprint, ..checkpoints.load(&home, &mut optimiser, ema.as_mut())? }
            }
            None => Manifest { recipe: fingerprint, ..Manifest::default() },
        };
        let held = if recipe.train.valid_every > 0 { task.valid()? } else { Vec::new() };
        if recipe.train.valid_every > 0 && held.is_empty() {
            let what =
                "train.valid_every asks for a validation loss, and no sample of the data is in the validation split";
            let hint = "give more data (splits are cut by families of names, so few or alike names may all be in one), or \
                        set train.valid_every = 0";
            return Err(Error::input(what, hint));
        }
        Ok(Run { recipe, task, net, optimiser, ema, checkpoints, at, held })
    }

    /// One step: gradients of one or several batches, and an update.
    fn step(&mut self) -> Result<Step> {
        let (t, step) = (&self.recipe.train, self.at.step);
        let mut gathered = Gathered::new();
        let (mut loss, mut size, mut seen, mut terms) = (0f64, 0, Vec::new(), BTreeMap::new());
        let parts = t.accumulate as u64;
        for part in 0..parts {
            let batch = self.task.batch(step * parts + part)?;
            let sampled = sample(self.recipe, step, part)?;
            let (net, task) = (&self.net, self.task.as_ref());
            let (Loss { value, terms: own, moments }, tape) = record(|| net.loss(task, &batch, &sampled))?;
            seen.extend(moments);
            own.into_iter().for_each(|(name, value)| *terms.entry(name).or_default() += value / parts as f64);
            loss += f64::from(value.to_scalar::<f32>()?) / parts as f64;
            size += batch.size;
            if !loss.is_finite() {
                return Err(self.diverged("loss"));
            }
            gathered.add(&self.optimiser, &tape.backward(&value)?)?;
        }
        let lr = rate(t, step);
        let norm = self.optimiser.apply(&gathered, lr, t.clip, step)?;
        if !norm.is_finite() {
            return Err(self.diverged("gradient"));
        }
        self.net.keep(&seen)?;
        self.at.step += 1;
        if let Some(ema) = &mut self.ema {
            ema.follow(self.optimiser.params(), self.at.step)?;
        }
        Ok(Step { step: self.at.step, loss, terms, lr, norm, size })
    }

    /// The error of a step that gave no number. Nothing is saved from here on.
    fn diverged(&self, what: &'static str) -> Error {
        let saved = self.checkpoints.newest().ok().flatten();
        Error::Diverged { what, step: self.at.step, saved }
    }

    /// Runs `work` on the weights that are exported: the running mean where the recipe says so.
    fn exported<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        match &self.ema {
            Some(ema) if self.recipe.train.export_ema => ema.instead(self.optimiser.params(), work),
            _ => work(),
        }
    }

    fn validate(&mut self) -> Result<f64> {
        let point = self.recipe.rest();
        let loss = self.exported(|| self.net.valid(self.task.as_ref(), &self.held, &point))?;
        self.at.valid = Some(loss);
        Ok(loss)
    }

    fn save(&self, seconds: f64) -> Result<()> {
        let t = &self.recipe.train;
        let manifest = Manifest { seconds, ..self.at.clone() };
        let keep = Keep { last: t.keep_last, best: t.keep_best };
        self.checkpoints.save(&self.optimiser, self.ema.as_ref(), manifest, keep)
    }

    fn write_model(&self, dir: &Path, seconds: f64) -> Result<()> {
        let r = self.recipe;
        let plan = Plan {
            provenance: json!({
                "recipe": r.name,
                "seed": r.seed,
                "data": r.data.set(),
                "steps": r.train.steps,
                "minutes": (seconds / 6.0).round() / 10.0,
                "version": env!("CARGO_PKG_VERSION"),
            }),
            ..r.plan()?
        };
        let net = &self.net;
        self.exported(|| {
            let (model, added) = (&net.model_params, &net.added_params);
            let files = self.task.files(&net.config)?;
            export::write(dir, &Export { entry: net.entry, config: &net.config, model, added, plan: &plan, files })
        })
    }
}

/// Trains a recipe to its end, or resumes it; writes `model/` in the run folder.
///
/// # Errors
/// [`Error::InUse`] while another process trains in the folder.
pub fn run(recipe: &Recipe, options: &TrainOptions) -> Result<TrainReport> {
    match RunLock::take(&options.out)? {
        Some(held) => run_in(&held, recipe, options),
        None => Err(Error::InUse { run: options.out.clone() }),
    }
}

/// [`run`], in a folder that the caller holds already.
pub(crate) fn run_in(_: &RunLock, recipe: &Recipe, options: &TrainOptions) -> Result<TrainReport> {
    let mut run = Run::begin(recipe, options)?;
    write_atomic(&options.out.join("recipe.toml"), recipe.resolved().as_bytes())?;
    let t = &recipe.train;
    let mut log = Log::open(&options.out, t.steps, run.at.step, run.task.unit(), options.quiet)?;
    let first = run.at.step;
    if first > 0 && !options.quiet {
        eprintln!("resuming at step {first} of {}", t.steps);
    }
    let (before, started) = (run.at.seconds, Instant::now());
    let spent = || before + started.elapsed().as_secs_f64();
    while run.at.step < t.steps {
        let stop = options.stop_after.is_some_and(|n| run.at.step - first >= n);
        if stop || INTERRUPT.load(Ordering::Relaxed) {
            run.save(spent())?;
            log.finish();
            write_page(&options.out, &recipe.name, &recipe.resolved())?;
            return Err(Error::Interrupted { step: run.at.step, saved: options.out.clone() });
        }
        log.step(run.step()?)?;
        let step = run.at.step;
        if t.valid_every > 0 && (step.is_multiple_of(t.valid_every) || step == t.steps) {
            log.valid(step, run.validate()?)?;
        }
        if step.is_multiple_of(t.save_every) || step == t.steps {
            run.save(spent())?;
        }
    }
    let seconds = spent();
    let model = options.out.join("model");
    run.write_model(&model, seconds)?;
    log.finish();
    write_page(&options.out, &recipe.name, &recipe.resolved())?;
    Ok(TrainReport { model, steps: run.at.step, seconds, loss: (run.at.step > first).then(|| log.recent()) })
}
