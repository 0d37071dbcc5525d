//! `points`: the switches of a checkpoint and its named points.

use serde_json::json;

use super::table::aligned;
use super::{open, print, print_json};
use crate::fail::Fail;

/// `points MODEL`.
#[derive(clap::Args)]
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
    let points = &opened.plan.points;
    if json {
        return print_json(&json!({
            "model": a.model, "params": opened.n_params, "axes": axes, "points": points,
            "default_point": opened.plan.default_point, "provenance": opened.plan.provenance,
        }));
    }
    let rows: Vec<Vec<String>> = axes
        .iter()
        .map(|x| vec![x.name.into(), if x.available { "yes" } else { "no" }.into(), x.change.into(), x.values.clone()])
        .collect();
    let mut text = aligned(&["axis", "here", "change costs", "values"], &rows, 4);
    if !points.is_empty() {
        let share = |v: &serde_json::Value| v.as_f64().map_or("-".into(), |x| format!("{:.2}", 100.0 * x));
        let ms = |v: &serde_json::Value| v.as_f64().map_or("-".into(), |x| format!("{x:.3}"));
        let rows: Vec<Vec<String>> = points
            .iter()
            .map(|(name, p)| {
                let m = &p.measured;
                vec![
                    name.clone(),
                    p.point.to_string(),
                    share(&m["accuracy"]),
                    ms(&m["ms_batch1"]),
                    ms(&m["ms_batch32"]),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&aligned(&["point", "setting", "accuracy %", "ms b1", "ms/image b32"], &rows, 2));
    }
    print(&text)
}
