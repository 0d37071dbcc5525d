//! Runs of a study one after the other: trained, measured, and put into one table.
//!
//! Beside the table, `<name>.md`, lies its record, `<name>.json`: what the table is made of. A run that is in the record
//! is not done again, wherever the record came from, so a table can be filled on several machines, and by several
//! processes on one: each run is trained by the process that [holds](RunLock) its folder.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchformer_compress::vocab::trim_vocab;
use switchformer_data::trim::Keep;
use switchformer_nn::store::write_atomic;
use switchformer_nn::{Folder, Point, json};
use switchformer_zoo::{OpenOptions, Opened};

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::recipe::study::{Study, StudyRun};
use crate::run_lock::RunLock;
use crate::task::{self, Figures, Places, Trims};
use crate::train::{self, TrainOptions};

const RESULT: &str = "result.json";
/// Largest file of results.
const MAX_RECORD: u64 = 4 << 20;
/// Name of the point that a recipe without `eval.points` is measured at.
const DEFAULT: &str = "default";

/// Ends of the names of figures that are the ends of another's interval.
const ENDS: [&str; 2] = [" low", " high"];

/// How to run a study.
#[derive(Clone, Debug, Default)]
pub struct StudyOptions {
    /// Folder of the study: one folder a run.
    pub out: PathBuf,
    /// Folder of the table and its record.
    pub results: PathBuf,
    /// Folder of the data set, when it is not in a usual place.
    pub data: Option<PathBuf>,
    /// Only the runs of this variant.
    pub only: Option<String>,
    /// Whether to print no progress.
    pub quiet: bool,
}

/// What a finished run is remembered by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunResult {
    /// Variant.
    pub variant: String,
    /// Seed.
    pub seed: u64,
    /// Fingerprint of its recipe.
    pub recipe: String,
    /// Parameters.
    pub params: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Seconds of training, all calls.
    pub seconds: f64,
    /// Point by name -> figure by name.
    pub figures: BTreeMap<String, Figures>,
}

/// What a study has so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyReport {
    /// The table's file.
    pub table: PathBuf,
    /// Finished runs.
    pub done: Vec<RunResult>,
    /// All runs of the study.
    pub runs: usize,
    /// Runs that were asked for and are not done, as other processes had them.
    pub elsewhere: usize,
}

/// Trains and measures every run that is neither finished nor in the hands of another process, in order; the table is
/// written anew after each. A run that fails does not keep the others from their turn.
///
/// # Errors
/// [`Error::Runs`] once all others are done; at once when interrupted.
pub fn run_all(study: &Study, o: &StudyOptions) -> Result<StudyReport> {
    let (table, mut failed) = (o.results.join(format!("{}.md", study.name)), Vec::new());
    let mut done = write_table(study, o)?;
    let is_done = |done: &[RunResult], r: &StudyRun| done.iter().any(|d| d.is_of(r));
    let asked = || study.runs.iter().filter(|r| o.only.as_ref().is_none_or(|v| *v == r.variant));
    for r in asked() {
        if is_done(&done, r) {
            continue;
        }
        let out = o.out.join(&r.recipe.name);
        let Some(held) = RunLock::take(&out)? else { continue };
        // Another process may have finished it since the table was written.
        done = write_table(study, o)?;
        if is_done(&done, r) {
            continue;
        }
        if !o.quiet {
            eprintln!("{} of {}", r.recipe.name, study.name);
        }
        let options = TrainOptions {
            out: out.clone(),
            data: o.data.clone(),
            shared: Some(o.out.clone()),
            quiet: o.quiet,
            ..TrainOptions::default()
        };
        let result = train::run_in(&held, &r.recipe, &options)
            .and_then(|report| measure(&r.variant, &r.recipe, &options, &report));
        match result {
            Ok(result) => {
                let text = serde_json::to_vec_pretty(&result).unwrap_or_default();
                write_atomic(&out.join(RESULT), &text)?;
                done = write_table(study, o)?;
            }
            Err(e @ Error::Interrupted { .. }) => return Err(e),
            Err(e) => {
                if !o.quiet {
                    eprintln!("{} failed, the next run follows: {e}", r.recipe.name);
                }
                failed.push((r.recipe.name.clone(), e));
            }
        }
    }
    // Others may have finished what was passed over.
    done = write_table(study, o)?;
    let missing = asked().filter(|r| !is_done(&done, r)).count();
    let (n, mut failed) = (failed.len(), failed.into_iter());
    if let Some((run, e)) = failed.next() {
        return Err(Error::Runs { failed: n, run, first: Box::new(e), table });
    }
    Ok(StudyReport { table, done, runs: study.runs.len(), elsewhere: missing })
}

impl RunResult {
    /// Whether this came of a run, by the same recipe.
    fn is_of(&self, run: &StudyRun) -> bool {
        self.variant == run.variant && self.seed == run.recipe.seed && self.recipe == run.recipe.fingerprint()
    }
}

/// Results that are in a file.
fn read_results<T: DeserializeOwned + Default>(dir: &Path, name: &str) -> Result<T> {
    if !dir.join(name).exists() {
        return Ok(T::default());
    }
    Ok(json::typed(Folder::disk(dir)?.json(name, MAX_RECORD)?, &dir.join(name))?)
}

/// Measures a finished run at the points of its recipe.
pub fn measure(
    variant: &str,
    recipe: &Recipe,
    options: &TrainOptions,
    report: &train::TrainReport,
) -> Result<RunResult> {
    let task = task::open(recipe, &options.places())?;
    let opened = Opened::open(&report.model, OpenOptions::default())?;
    let mut points: Vec<(&str, Point)> = Vec::new();
    for (name, axes) in &recipe.eval.points {
        points.push((name, Point::parse(&Value::Object(axes.clone()).to_string())?));
    }
    if points.is_empty() {
        points.push((DEFAULT, recipe.rest()));
    }
    let mut figures = BTreeMap::new();
    for (name, point) in points {
        figures.insert(name.to_string(), task.measure(&opened, &point)?);
    }
    if let Some(trims) = task.trims() {
        for (name, min_count) in trims.min_counts {
            let dir = trimmed(&trims, options, &report.model, name, *min_count)?;
            let places = Places { words: Some(dir.clone()), ..options.places() };
            let task = task::open(recipe, &places)?;
            let opened = Opened::open(&dir, OpenOptions::default())?;
            figures.insert(name.clone(), task.measure(&opened, &recipe.rest())?);
        }
    }
    Ok(RunResult {
        variant: variant.to_string(),
        seed: recipe.seed,
        recipe: recipe.fingerprint(),
        params: opened.n_params,
        steps: report.steps,
        seconds: report.seconds,
        figures,
    })
}

/// The model with its vocabulary cut to the training texts of one language, beside the whole one.
fn trimmed(trims: &Trims, options: &TrainOptions, model: &Path, name: &str, min_count: u64) -> Result<PathBuf> {
    let dir = options.out.join(format!("model-{name}"));
    if dir.exists() {
        // A measurement that was interrupted left it.
        fs::remove_dir_all(&dir).map_err(|e| switchformer_nn::Error::io(&dir, e))?;
    }
    let corpus = options.out.join(format!("texts-{}.txt", trims.language));
    write_atomic(&corpus, trims.texts.join("\n").as_bytes())?;
    trim_vocab(model, &dir, &[corpus], &Keep { min_count, size: None, first: 0 })?;
    Ok(dir)
}

/// Brings record and table up to what the folders of the runs hold; -> the results of this study's runs.
fn write_table(study: &Study, o: &StudyOptions) -> Result<Vec<RunResult>> {
    // Between reading the record and writing it no other process may write.
    let _held = o.out.exists().then(|| RunLock::wait(&o.out)).transpose()?;
    let record = format!("{}.json", study.name);
    let (mut done, mut others) = (Vec::new(), Vec::new());
    for result in read_results::<Vec<RunResult>>(&o.results, &record)? {
        // Results of other recipes, such as one that `--set` made, are kept: someone may come back to them.
        if study.runs.iter().any(|r| result.is_of(r)) { done.push(result) } else { others.push(result) }
    }
    let known = done.len();
    for run in &study.runs {
        let own: Option<RunResult> = read_results(&o.out.join(&run.recipe.name), RESULT)?;
        done.extend(own.filter(|r| r.is_of(run) && !done.iter().any(|d| d.is_of(run))));
    }
    done.sort_by_key(|d| study.runs.iter().position(|r| d.is_of(r)));
    if done.is_empty() {
        return Ok(done);
    }
    fs::create_dir_all(&o.results).map_err(|e| switchformer_nn::Error::io(&o.results, e))?;
    if done.len() > known {
        let all: Vec<&RunResult> = done.iter().chain(&others).collect();
        let mut text = serde_json::to_vec_pretty(&all).unwrap_or_default();
        text.push(b'\n');
        write_atomic(&o.results.join(&record), &text)?;
    }
    write_atomic(&o.results.join(format!("{}.md", study.name)), table(study, &done).as_bytes())?;
    Ok(done)
}

/// The table in Markdown: a row for each variant and point, mean and spread (largest less smallest) over seeds.
fn table(study: &Study, done: &[RunResult]) -> String {
    let mut names: Vec<&str> =
        done.iter().flat_map(|r| r.figures.values()).flat_map(|f| f.keys()).map(|k| &**k).collect();
    // The loss first, then by name; ends of intervals stand beside their figure.
    names.retain(|n| !ENDS.iter().any(|end| n.ends_with(end)));
    names.sort_unstable_by_key(|n| (*n != "loss", *n));
    names.dedup();
    let mut variants: Vec<&str> = study.runs.iter().map(|r| r.variant.as_str()).collect();
    let mut seen = std::collections::BTreeSet::new();
    variants.retain(|v| seen.insert(*v));
    let mut text = format!("# {}\n\n", study.name);
    if !study.conclusion.is_empty() {
        let _ = writeln!(text, "**In short.** {}\n", study.conclusion.trim());
    }
    let intervals = done.iter().flat_map(|r| r.figures.values()).flat_map(|f| f.keys()).any(|k| k.ends_with(ENDS[0]));
    let _ = writeln!(
        text,
        "{} of {} runs. Each figure: mean over seeds, and in brackets the spread, largest less smallest{}. Times \
         are those of the machine and its load at the time.\n",
        done.len(),
        study.runs.len(),
        if intervals { ", then the means of the ends of the intervals (95 %)" } else { "" }
    );
    if !study.note.is_empty() {
        let _ = writeln!(text, "{}\n", study.note.trim());
    }
    let _ = writeln!(text, "| variant | point | seeds | {} | parameters | s/step | minutes |", names.join(" | "));
    let _ = writeln!(text, "|{}", "---|".repeat(6 + names.len()));
    for variant in variants {
        let own: Vec<&RunResult> = done.iter().filter(|r| r.variant == variant).collect();
        let Some(first) = own.first() else { continue };
        for point in first.figures.keys() {
            let cells: Vec<String> = names
                .iter()
                .map(|name| {
                    let values = |name: &str| -> Vec<f64> {
                        own.iter().filter_map(|r| r.figures.get(point)?.get(name).copied()).collect()
                    };
                    let d = decimals(&values(name));
                    let [low, high] = ENDS.map(|end| mean(&values(&format!("{name}{end}"))));
                    let interval = low.zip(high).map_or_else(String::new, |(l, h)| format!(" [{l:.d$}, {h:.d$}]"));
                    mean_and_spread(&values(name)) + &interval
                })
                .collect();
            let minutes = own.iter().map(|r| r.seconds).sum::<f64>() / own.len() as f64 / 60.0;
            let pace = own.iter().map(|r| r.seconds / r.steps.max(1) as f64).sum::<f64>() / own.len() as f64;
            let _ = writeln!(
                text,
                "| {variant} | {point} | {} | {} | {} | {pace:.3} | {minutes:.1} |",
                own.len(),
                cells.join(" | "),
                first.params
            );
        }
    }
    text
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Decimal places that are worth printing of values of this size.
fn decimals(values: &[f64]) -> usize {
    match mean(values).unwrap_or_default().abs() {
        1e3.. => 0,
        10.0.. => 1,
        _ => 3,
    }
}

fn mean_and_spread(values: &[f64]) -> String {
    let Some(mean) = mean(values) else { return String::new() };
    let d = decimals(values);
    let (low, high) = values.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    if values.len() == 1 { format!("{mean:.d$}") } else { format!("{mean:.d$} ({:.d$})", high - low) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The tables of results are what their records and recipes give today.
    #[test]
    fn published_tables_are_those_of_their_records() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let temp = tempfile::tempdir().unwrap();
        let mut n = 0;
        for entry in fs::read_dir(root.join("results")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let study = Study::read(&root.join("recipes").join(format!("{name}.toml")), &[]).unwrap();
            fs::copy(&path, temp.path().join(format!("{name}.json"))).unwrap();
            let o = StudyOptions { out: temp.path().join("runs"), results: temp.path().into(), ..Default::default() };
            let done = write_table(&study, &o).unwrap();
            assert_eq!(done.len(), study.runs.len(), "{name}: results of recipes that are no more");
            let [old, new] = [path.with_extension("md"), temp.path().join(format!("{name}.md"))]
                .map(|p| fs::read_to_string(p).unwrap());
            assert!(old == new, "results/{name}.md: `switchformer train recipes/{name}.toml --all` writes it anew");
            n += 1;
        }
        assert!(n >= 8);
    }

    #[test]
    fn the_table_has_a_row_for_each_variant_and_point() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("r.toml");
        let text = "name = \"s\"\nseeds = [1, 2]\n[model]\n[data]\nset = \"fashion-mnist\"\n[train]\nsteps = 10\n\
                    batch = 1\nlr = 1.0\nwarmup = 0\n[[variant]]\nname = \"a\"\n[[variant]]\nname = \"b\"\n\
                    train = { lr = 0.5 }\n";
        std::fs::write(&path, text).unwrap();
        let study = Study::read(&path, &[]).unwrap();
        let names: Vec<&str> = study.runs.iter().map(|r| r.recipe.name.as_str()).collect();
        assert_eq!(names, ["a-s1", "b-s1", "a-s2", "b-s2"]);
        assert_eq!(study.runs.iter().map(|r| r.recipe.train.lr).collect::<Vec<_>>(), [1.0, 0.5, 1.0, 0.5]);
        let result = |variant: &str, seed: u64, loss: f64| RunResult {
            variant: variant.into(),
            seed,
            recipe: String::new(),
            params: 7,
            steps: 10,
            seconds: 5.0,
            figures: BTreeMap::from([(DEFAULT.to_string(), Figures::from([("loss".to_string(), loss)]))]),
        };
        let text = table(&study, &[result("a", 1, 2.0), result("b", 1, 3.0), result("a", 2, 2.5)]);
        assert!(text.contains("| a | default | 2 | 2.250 (0.500) | 7 | 0.500 | 0.1 |"), "{text}");
        assert!(
            text.contains("| b | default | 1 | 3.000 | 7 | 0.500 | 0.1 |") && text.contains("3 of 4 runs"),
            "{text}"
        );
        let mut alone = result("a", 1, 2.0);
        alone.figures.insert(
            DEFAULT.to_string(),
            [("share", 0.5), ("share low", 0.4), ("share high", 0.6)].map(|(k, v)| (k.to_string(), v)).into(),
        );
        let text = table(&study, &[alone]);
        assert!(text.contains("| seeds | share | parameters |"), "{text}");
        assert!(text.contains("| 1 | 0.500 [0.400, 0.600] | 7 |"), "{text}");
    }
}
