//! `list` and `describe`: what the registry holds.

use serde_json::{Value, json};
use switchformer::zoo::{Entry, ZOO, find};

use super::table::{aligned, thousands};
use super::{print, print_json};
use crate::fail::Fail;

/// `describe NAME`.
#[derive(clap::Args)]
pub(crate) struct Describe {
    /// Model family, as in `model_type`
    name: String,
}

fn as_json(e: &Entry) -> Value {
    json!({
        "name": e.name,
        "summary": e.summary,
        "paper": e.paper,
        "architectures": e.architectures,
        "variants": e.variants.iter().map(|v| json!({
            "name": v.name, "architecture": v.architecture, "params": v.params,
        })).collect::<Vec<_>>(),
    })
}

fn variants(entries: &[&Entry]) -> String {
    let rows: Vec<Vec<String>> = entries
        .iter()
        .flat_map(|e| e.variants.iter().map(|v| (e.name, v)))
        .map(|(family, v)| vec![family.into(), v.name.into(), v.architecture.into(), thousands(v.params)])
        .collect();
    aligned(&["family", "published size", "architecture", "parameters"], &rows, 3)
}

/// Lists every family and size.
pub(crate) fn list(json: bool) -> Result<(), Fail> {
    if json {
        return print_json(&json!({"models": ZOO.iter().map(|e| as_json(e)).collect::<Vec<_>>()}));
    }
    let families: Vec<Vec<String>> = ZOO.iter().map(|e| vec![e.name.into(), e.summary.into()]).collect();
    print(&format!("{}\n{}", aligned(&["family", "what it is"], &families, 2), variants(ZOO)))
}

/// Describes one family.
pub(crate) fn describe(a: &Describe, json: bool) -> Result<(), Fail> {
    let e = find(&a.name).map_err(|e| Fail::Usage(e.to_string()))?;
    if json {
        return print_json(&as_json(e));
    }
    print(&format!(
        "{}: {}\npaper: {}\narchitectures: {}\n\n{}",
        e.name,
        e.summary,
        e.paper,
        e.architectures.join(", "),
        variants(&[e])
    ))
}
