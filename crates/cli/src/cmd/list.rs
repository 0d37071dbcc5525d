//! `list` and `describe`: what the registry holds.

use std::path::Path;

use serde_json::{Value, json};
use switchformer_nn::Cost;
use switchformer_zoo::open::TEXT;
use switchformer_zoo::{Entry, Opened, Variant, ZOO, find};

use super::table::{aligned, thousands};
use super::{print, print_json};
use crate::fail::Fail;

/// `describe NAME`.
#[derive(clap::Args)]
pub(crate) struct Describe {
    /// Model family, as in `model_type`
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

/// Describes one family: its sizes, and what a forward pass of each costs by its config alone.
pub(crate) fn describe(a: &Describe, json: bool) -> Result<(), Fail> {
    if Path::new(&a.name).is_dir() {
        let what = format!("{} is a folder, and describe takes a family: `switchformer list` names them", a.name);
        return Err(Fail::Usage(format!("{what}; `switchformer inspect` and `bench` take folders")));
    }
    let e = find(&a.name).map_err(|e| Fail::Usage(e.to_string()))?;
    let costs = e.variants()?.iter().map(|v| Ok((v, Opened::forecast(&v.name)?)));
    let costs = costs.collect::<Result<Vec<(&Variant, Cost)>, Fail>>()?;
    if json {
        let mut doc = as_json(e)?;
        doc["costs"] = costs
            .iter()
            .map(|(v, c)| {
                json!({
                    "name": v.name, "macs": c.macs, "multiplications": c.muls(), "additions": c.adds(),
                    "millijoules": c.millijoules(), "weight_bytes": c.bytes,
                })
            })
            .collect();
        return print_json(&doc);
    }
    let rows: Vec<Vec<String>> = costs
        .iter()
        .map(|(v, c)| {
            let giga = |n: u64| format!("{:.2}", n as f64 / 1e9);
            let energy = format!("{:.1}", c.millijoules());
            vec![v.name.clone(), giga(c.macs), giga(c.muls()), giga(c.adds()), energy]
        })
        .collect();
    print(&format!(
        "{}: {}\npaper: {}\narchitectures: {}\n\n{}\n{}\nOne image of the trained size, or {TEXT} tokens (read, and written \
         where it writes), by the config alone.\nmJ: {} pJ a multiplication and {} pJ an addition (f32 at 45 nm): a model of a \
         chip, not measured.\n",
        e.name,
        e.summary,
        e.paper,
        e.architecture_names().join(", "),
        variants(&[e])?,
        aligned(&["published size", "GMAC", "G mul", "G add", "mJ"], &rows, 1),
        Cost::PJ_MUL,
        Cost::PJ_ADD,
    ))
}
