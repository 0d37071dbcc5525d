//! `points`: the switches of a checkpoint and its named points.

use serde_json::json;
use switchformer_switch::FULL;

use super::table::aligned;
use super::{open, print, print_json};
use crate::fail::Fail;

/// `points MODEL`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  switchformer points default
  switchformer points vit-tiny-patch16-224 --nested")]
pub(crate) struct Args {
    /// `default`, a model folder, or a published size
    model: String,
    /// Quantise dense projections to nested 8-bit codes on opening, so that `bits` can be switched
    #[arg(long)]
    nested: bool,
}

/// Prints axes and points.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let opened = open(&a.model, a.nested)?.opened;
    let axes = opened.switches.axes();
    let (points, planned) = (opened.points(), &opened.plan.points);
    let measured = |name: &str| planned.get(name).map(|p| &p.measured);
    if json {
        let all: serde_json::Map<String, serde_json::Value> = points
            .iter()
            .map(|p| {
                let doc = json!({"point": p.point, "about": p.about, "measured": measured(&p.name)});
                (p.name.clone(), doc)
            })
            .collect();
        return print_json(&json!({
            "model": a.model, "params": opened.n_params, "switches": axes, "points": all,
            "default_point": opened.plan.default_point, "provenance": opened.plan.provenance,
        }));
    }
    let rows: Vec<Vec<String>> = axes
        .iter()
        .map(|x| vec![x.name.into(), if x.available { "yes" } else { "no" }.into(), x.values.clone()])
        .collect();
    let mut text = aligned(&["switch", "available", "values"], &rows, 3);
    let rows: Vec<Vec<String>> = points.iter().map(|p| vec![p.name.clone(), p.about.clone()]).collect();
    text.push('\n');
    text.push_str(&aligned(&["point", "what it does"], &rows, 2));
    if let Some(p) = points.iter().find(|p| p.name != FULL) {
        text.push_str(&format!("\n--point {} is short for --point '{}'; --json shows all in full\n", p.name, p.point));
    }
    if !planned.is_empty() {
        let share = |v: &serde_json::Value| v.as_f64().map_or("-".into(), |x| format!("{:.2}", 100.0 * x));
        let ms = |v: &serde_json::Value| v.as_f64().map_or("-".into(), |x| format!("{x:.3}"));
        let rows: Vec<Vec<String>> = planned
            .iter()
            .map(|(name, p)| {
                let m = &p.measured;
                vec![name.clone(), share(&m["accuracy"]), ms(&m["ms_batch1"]), ms(&m["ms_batch32"])]
            })
            .collect();
        text.push('\n');
        text.push_str(&aligned(&["measured", "accuracy %", "ms, batch 1", "ms/image, batch 32"], &rows, 1));
    }
    print(&text)
}
