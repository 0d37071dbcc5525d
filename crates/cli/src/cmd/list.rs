//! `list` and `describe`: what the registry holds.

use serde_json::{Value, json};
use switchformer_nn::Cost;
use switchformer_zoo::open::TEXT;
use switchformer_zoo::open::read_config;
use switchformer_zoo::{Entry, OpenOptions, Opened, Variant, ZOO, find};

use super::table::{aligned, thousands};
use super::{print, print_json};
use crate::fail::Fail;
use crate::model::{Named, named};

/// `describe NAME`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  switchformer describe vit
  switchformer describe vit-small-patch16-224
  switchformer describe default")]
pub(crate) struct Describe {
    /// A family (`vit`), a published size (`vit-small-patch16-224`), `default` or a model folder
    name: String,
}

fn as_json(e: &Entry) -> Result<Value, Fail> {
    Ok(json!({
        "name": e.name,
        "summary": e.summary,
        "paper": e.paper,
        "architectures": e.architecture_names(),
        "variants": e.variants()?.iter().map(|v| json!({
            "name": v.name, "architecture": v.architecture, "params": v.params,
        })).collect::<Vec<_>>(),
    }))
}

fn variants(entries: &[&Entry]) -> Result<String, Fail> {
    let mut rows = Vec::new();
    for e in entries {
        let row = |v: &Variant| vec![e.name.into(), v.name.clone(), v.architecture.clone(), thousands(v.params)];
        rows.extend(e.variants()?.iter().map(row));
    }
    Ok(aligned(&["family", "published size", "architecture", "parameters"], &rows, 3))
}

/// Lists every family and size.
pub(crate) fn list(json: bool) -> Result<(), Fail> {
    if json {
        let models = ZOO.iter().map(|e| as_json(e)).collect::<Result<Vec<_>, Fail>>()?;
        return print_json(&json!({"models": models}));
    }
    let families: Vec<Vec<String>> = ZOO.iter().map(|e| vec![e.name.into(), e.summary.into()]).collect();
    print(&format!("{}\n{}", aligned(&["family", "what it is"], &families, 2), variants(ZOO)?))
}

/// A row of costs: its name, and a forward pass counted from the config alone.
struct Forecast {
    name: String,
    architecture: String,
    params: u64,
    cost: Cost,
}

/// Describes a family with all its sizes, one size, or a folder: what a forward pass costs by the config alone.
pub(crate) fn describe(a: &Describe, json: bool) -> Result<(), Fail> {
    let of = |v: &Variant| -> Result<Forecast, Fail> {
        let cost = Opened::forecast(&v.name)?;
        Ok(Forecast { name: v.name.clone(), architecture: v.architecture.clone(), params: v.params, cost })
    };
    let (entry, rows) = match named(&a.name)? {
        Named::Family(entry) => (entry, entry.variants()?.iter().map(of).collect::<Result<Vec<_>, Fail>>()?),
        Named::Size(config) => {
            let entry = find(config["model_type"].as_str().unwrap_or_default())?;
            let name = |v: &&Variant| v.name.replace('_', "-") == a.name.replace('_', "-");
            (entry, entry.variants()?.iter().filter(name).map(of).collect::<Result<Vec<_>, Fail>>()?)
        }
        Named::Folder(folder) => {
            let (entry, config) = read_config(&folder)?;
            let cost = Opened::forecast_of(&config)?;
            let params = Opened::folder(&folder, OpenOptions::default())?.n_params;
            let architecture = config.architecture().unwrap_or_default().to_owned();
            (entry, vec![Forecast { name: a.name.clone(), architecture, params, cost }])
        }
    };
    if json {
        let mut doc = as_json(entry)?;
        doc["costs"] = rows
            .iter()
            .map(|r| {
                json!({
                    "name": r.name, "architecture": r.architecture, "params": r.params, "macs": r.cost.macs,
                    "multiplications": r.cost.muls(), "additions": r.cost.adds(), "millijoules": r.cost.millijoules(),
                    "weight_bytes": r.cost.bytes,
                })
            })
            .collect();
        return print_json(&doc);
    }
    let table: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let giga = |n: u64| format!("{:.2}", n as f64 / 1e9);
            vec![
                r.name.clone(),
                r.architecture.clone(),
                thousands(r.params),
                giga(r.cost.macs),
                giga(r.cost.muls()),
                giga(r.cost.adds()),
                format!("{:.1}", r.cost.millijoules()),
            ]
        })
        .collect();
    print(&format!(
        "{}: {}\npaper: {}\narchitectures: {}\n\n{}\nPer image at the model's own resolution, or per {TEXT} input tokens (and as \
         many output tokens, where it writes); computed from the config, not measured.\nmJ: {} pJ per multiplication and {} pJ per \
         addition (f32 at 45 nm), a model of a chip.\n",
        entry.name,
        entry.summary,
        entry.paper,
        entry.architecture_names().join(", "),
        aligned(&["name", "architecture", "parameters", "GMAC", "G mul", "G add", "mJ"], &table, 2),
        Cost::PJ_MUL,
        Cost::PJ_ADD,
    ))
}
