//! `train`: run a recipe or a study of several runs, or resume it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use serde_json::json;
use switchformer_lab::recipe::Recipe;
use switchformer_lab::recipe::study::Study;
use switchformer_lab::study::{StudyOptions, run_all};
use switchformer_lab::train::{INTERRUPT, TrainOptions, run as train};

use super::{print, print_json, print_raw};
use crate::fail::Fail;
use crate::say;

/// `train RECIPE`.
#[derive(clap::Args)]
#[command(after_help = "Examples (with a recipe of a clone of the repository; recipes say which data set they need):
  switchformer train recipes/fashion-vit.toml --print-recipe
  switchformer train recipes/fashion-vit.toml --set train.steps=500 --out runs/short   # needs Fashion-MNIST")]
pub(crate) struct Args {
    /// Recipe file
    recipe: PathBuf,
    /// Folder of the run; a run that is found there is resumed [default: runs/<name>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Change a value of the recipe, such as train.steps=500
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder of the data set
    #[arg(long)]
    data: Option<PathBuf>,
    /// Train every variant with every seed, measure each, and write a table; what is finished is not done again
    #[arg(long, conflicts_with = "stop_after")]
    all: bool,
    /// One variant of the recipe; with --all its runs only
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Folder of the table that --all writes
    #[arg(long, value_name = "DIR", requires = "all", default_value_if("all", "true", "results"))]
    results: Option<PathBuf>,
    /// Stop, saved, after this many steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    stop_after: Option<u64>,
    /// Print the resolved recipe and stop
    #[arg(long)]
    print_recipe: bool,
}

/// Trains to the end of the recipe.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    if a.all {
        return all(a, json);
    }
    let recipe = match &a.variant {
        Some(name) => Study::read(&a.recipe, &a.sets)?.variant(name, &a.recipe)?.recipe.clone(),
        None => Recipe::read(&a.recipe, &a.sets)?,
    };
    if a.print_recipe {
        if json {
            return print_json(&json!({"recipe": recipe.resolved()}));
        }
        return print_raw(&recipe.resolved());
    }
    save_on_interrupt();
    let out = folder(a, &recipe.name);
    say::progress(&format!("recipe {} in {}; --print-recipe shows all its settings", recipe.name, out.display()));
    let options = TrainOptions { out, data: a.data.clone(), stop_after: a.stop_after, quiet: json, shared: None };
    let report = train(&recipe, &options)?;
    if json {
        return print_json(&json!(report));
    }
    let (steps, minutes, model) = (report.steps, report.seconds / 60.0, report.model.display());
    print(&match report.loss {
        Some(loss) => format!("{steps} steps in {minutes:.1} minutes, loss {loss:.4}\ntrained checkpoint: {model}\n"),
        None => format!("finished before, after {steps} steps in {minutes:.1} minutes\ntrained checkpoint: {model}\n"),
    })
}

/// Trains and measures a study.
fn all(a: &Args, json: bool) -> Result<(), Fail> {
    let study = Study::read(&a.recipe, &a.sets)?;
    if let Some(name) = &a.variant {
        study.variant(name, &a.recipe)?;
    }
    if a.print_recipe {
        return study.runs.iter().try_for_each(|r| print_raw(&format!("{}\n", r.recipe.resolved())));
    }
    save_on_interrupt();
    let options = StudyOptions {
        out: folder(a, &study.name),
        results: a.results.clone().unwrap_or_else(|| "results".into()),
        data: a.data.clone(),
        only: a.variant.clone(),
        quiet: json,
    };
    let report = run_all(&study, &options)?;
    if json {
        return print_json(&json!(report));
    }
    let elsewhere = match report.elsewhere {
        0 => String::new(),
        n => format!("; {n} in the hands of other processes"),
    };
    let table = report.table.display();
    print(&format!("{} of {} runs are done{elsewhere}\ntable: {table}\n", report.done.len(), report.runs))
}

fn folder(a: &Args, name: &str) -> PathBuf {
    a.out.clone().unwrap_or_else(|| Path::new("runs").join(name))
}

/// Lets an interrupt and a request to end (SIGTERM, as of a scheduler) save first. A hangup keeps its meaning: `nohup` asks to
/// ignore it.
fn save_on_interrupt() {
    #[cfg(not(unix))]
    let _ = ctrlc::set_handler(|| save_or_stop(130));
    #[cfg(unix)]
    {
        use signal_hook::consts::{SIGINT, SIGTERM};
        if let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]) {
            // By custom a signal's exit code is 128 and its number.
            std::thread::spawn(move || signals.forever().for_each(|signal| save_or_stop(128 + signal)));
        }
    }
}

/// The first time lets the loop save; the second ends the process the usual way, with this exit code.
fn save_or_stop(code: i32) {
    if INTERRUPT.swap(true, Ordering::Relaxed) {
        std::process::exit(code);
    }
    eprintln!("saving; interrupt again to stop at once");
}
