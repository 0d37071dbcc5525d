//! What a run says: `metrics.jsonl`, and its progress: a curve on a terminal, plain lines elsewhere.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use switchformer_nn::store::write_atomic;

use crate::curves::{Curve, Curves, sketch};
use crate::error::Result;

/// Steps between lines of the metrics file.
const EVERY: u64 = 20;
/// Steps between lines where there is no terminal.
const PLAIN_EVERY: u64 = 100;

/// Size of the curve on a terminal, in characters.
const WIDTH: u16 = 72;
const HEIGHT: u16 = 12;

/// One step, for the log.
#[derive(Clone, Debug)]
pub struct Step {
    /// Steps done.
    pub step: u64,
    /// Loss of the step.
    pub loss: f64,
    /// The task's terms in it by name, weighted.
    pub terms: BTreeMap<&'static str, f64>,
    /// Learning rate.
    pub lr: f64,
    /// Norm of the gradient.
    pub norm: f64,
    /// Images or tokens in it.
    pub size: usize,
}

/// Metrics file and progress.
pub struct Log {
    file: File,
    path: PathBuf,
    bar: Option<ProgressBar>,
    plain: bool,
    recent: VecDeque<f64>,
    /// Mean losses of a few steps each, and validation losses, for the sketch.
    curves: [Curve; 2],
    started: Instant,
    seen: usize,
    steps: u64,
    unit: &'static str,
}

impl Log {
    /// Opens the metrics file, dropping lines past the step that is resumed.
    pub fn open(run: &Path, steps: u64, from: u64, unit: &'static str, quiet: bool) -> Result<Self> {
        let path = run.join("metrics.jsonl");
        let io = |e| switchformer_nn::Error::io(&path, e);
        if path.exists() {
            let bytes = fs::read(&path).map_err(io)?;
            let text = String::from_utf8_lossy(&bytes);
            let step = |line: &&str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
            let kept: String =
                text.lines().filter(|l| step(l).is_some_and(|s| s <= from)).map(|l| format!("{l}\n")).collect();
            write_atomic(&path, kept.as_bytes())?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(io)?;
        let plain = !std::io::stderr().is_terminal();
        let bar = (!quiet && !plain).then(|| {
            let bar = ProgressBar::new(steps).with_position(from);
            if let Ok(style) = ProgressStyle::with_template("{msg}\n{bar:40} {pos}/{len} {prefix} eta {eta}") {
                bar.set_style(style);
            }
            bar
        });
        let started = Instant::now();
        let plain = plain && !quiet;
        // A run that goes on shows what it was before.
        let old = if bar.is_some() { Curves::read(run)? } else { Curves::default() };
        let curves = [old.loss, old.valid];
        Ok(Log { file, path, bar, plain, recent: VecDeque::new(), curves, started, seen: 0, steps, unit })
    }

    fn line(&mut self, line: &Value) -> Result<()> {
        Ok(writeln!(self.file, "{line}").map_err(|e| switchformer_nn::Error::io(&self.path, e))?)
    }

    /// A step was done.
    pub fn step(&mut self, s: Step) -> Result<()> {
        self.recent.push_back(s.loss);
        if self.recent.len() > 100 {
            self.recent.pop_front();
        }
        self.seen += s.size;
        if let Some(bar) = &self.bar {
            bar.set_position(s.step);
            bar.set_prefix(format!("loss {:.4}", self.recent()));
            if s.step.is_multiple_of(EVERY) {
                self.curves[0].push((s.step as f64, self.recent()));
                bar.set_message(sketch(&self.curves[0], &self.curves[1], WIDTH, HEIGHT));
            }
        }
        if s.step.is_multiple_of(EVERY) || s.step == self.steps {
            let rate = self.seen as f64 / self.started.elapsed().as_secs_f64();
            let mut line = json!({"step": s.step, "loss": s.loss, "lr": s.lr, "grad_norm": s.norm});
            line[format!("{}_per_s", self.unit)] = json!(rate.round());
            // A lone term says what the loss says.
            if s.terms.len() > 1 {
                line["terms"] = json!(s.terms);
            }
            self.line(&line)?;
            if self.plain && (s.step.is_multiple_of(PLAIN_EVERY) || s.step == self.steps) {
                eprintln!("step {}/{} loss {:.4} {rate:.0} {}/s", s.step, self.steps, self.recent(), self.unit);
            }
        }
        Ok(())
    }

    /// A validation was done.
    pub fn valid(&mut self, step: u64, loss: f64) -> Result<()> {
        self.line(&json!({"step": step, "valid": loss}))?;
        self.curves[1].push((step as f64, loss));
        if self.plain {
            eprintln!("step {step}/{} validation loss {loss:.4}", self.steps);
        }
        Ok(())
    }

    /// Mean loss of the last hundred steps.
    pub fn recent(&self) -> f64 {
        self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64
    }

    /// Takes the progress off the terminal.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
