//! `train`: run a recipe, or resume it.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use serde_json::json;
use switchformer::lab::recipe::Recipe;
use switchformer::lab::train::{INTERRUPT, TrainOptions, run as train};

use super::{print, print_json};
use crate::fail::Fail;

/// `train RECIPE`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Recipe file
    recipe: PathBuf,
    /// Folder of the run; a run that is found there goes on [default: runs/<name>]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Change a value of the recipe, such as train.steps=500
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Folder of the data set
    #[arg(long)]
    data: Option<PathBuf>,
    /// Stop, saved, after this many steps
    #[arg(long, value_name = "N")]
    stop_after: Option<u64>,
    /// Print the resolved recipe and stop
    #[arg(long)]
    print_recipe: bool,
}

/// Trains to the end of the recipe.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let recipe = Recipe::read(&a.recipe, &a.sets)?;
    if a.print_recipe {
        return print(&recipe.resolved());
    }
    let out = a.out.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    eprintln!("{}", recipe.resolved());
    // A second interrupt ends the process the usual way.
    let _ = ctrlc::set_handler(|| {
        if INTERRUPT.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("saving; interrupt again to stop at once");
    });
    let options = TrainOptions { out, data: a.data.clone(), stop_after: a.stop_after, quiet: json };
    let report = train(&recipe, &options)?;
    if json {
        return print_json(&json!(report));
    }
    print(&format!(
        "{} steps in {:.1} minutes, loss {:.4}\ntrained checkpoint: {}\n",
        report.steps,
        report.seconds / 60.0,
        report.loss,
        report.model.display()
    ))
}
