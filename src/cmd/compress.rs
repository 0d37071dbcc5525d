//! `compress`: another form of a checkpoint.

use std::path::PathBuf;

use serde_json::json;
use switchformer::switch::leaf::experts::ExpertPlan;
use switchformer::zoo::upcycle::upcycle;

use super::{print, print_json};
use crate::fail::Fail;

/// `compress MODEL`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A model folder
    model: PathBuf,
    /// Copy every feed-forward network N times and add a router: at first each router gives the dense model's answer
    #[arg(long, value_name = "N", required = true)]
    upcycle: usize,
    /// Experts per row at rest
    #[arg(long, value_name = "K", default_value_t = 1)]
    top_k: usize,
    /// Seed of the fresh routers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes the folder and says what it holds.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    let plan = ExpertPlan { count: a.upcycle, top_k: a.top_k };
    let made = upcycle(&a.model, &a.out, &plan, a.seed)?;
    let [before, after] = made.params;
    if as_json {
        return print_json(&json!({
            "out": a.out, "banks": made.banks, "experts": plan.count, "top_k": plan.top_k,
            "params_before": before, "params": after,
        }));
    }
    let out = a.out.display();
    print(&format!(
        "{out}: {} banks of {} experts, {before} parameters before, {after} now\n\
         routers: switchformer points {out}\n",
        made.banks, plan.count
    ))
}
