//! `bench zoo`: the vision families side by side, each in a process of its own, so that its peak memory is its own.

use std::process::Command;

use serde_json::{Value, json};
use switchformer_nn::machine;
use switchformer_zoo::{Entry, OpenOptions, Opened, Variant, ZOO, find};

use super::bench::Args;
use super::table::aligned;
use super::{print, print_json};
use crate::fail::Fail;
use crate::model::{Named, named};

/// The smallest published size of every family that reads pictures.
fn smallest() -> Result<Vec<(&'static Entry, &'static Variant)>, Fail> {
    let mut all = Vec::new();
    for entry in ZOO {
        let toy = serde_json::from_str(entry.toy).map_err(|e| Fail::Usage(format!("{}: {e}", entry.name)))?;
        let spec = Opened::random(toy, OpenOptions::default())?.model.spec();
        if let (Ok(_), Some(v)) = (spec.image_size(), entry.variants()?.iter().min_by_key(|v| v.params)) {
            all.push((*entry, v));
        }
    }
    Ok(all)
}

/// Times each size and prints one table.
pub(crate) fn run(a: &Args, names: &[String], batch: &[usize], as_json: bool) -> Result<(), Fail> {
    let names: Vec<String> = match names {
        [] => smallest()?.iter().map(|(_, v)| v.name.clone()).collect(),
        some => some.to_vec(),
    };
    for name in &names {
        // A name that does not exist is said before anything is timed.
        let Named::Size(config) = named(name)? else {
            return Err(Fail::Input(format!("`{name}` is no published size; `switchformer list` shows them")));
        };
        let family = find(config["model_type"].as_str().unwrap_or_default())?;
        if smallest()?.iter().all(|(entry, _)| entry.name != family.name) {
            return Err(Fail::Usage(format!(
                "`bench zoo` times models of images, and {name} reads text: `bench {name}`"
            )));
        }
    }
    let mut models = Vec::new();
    for name in &names {
        crate::say::progress(&format!("{name} ..."));
        models.push(one(a, name, batch)?);
    }
    let threads = machine::threads();
    if as_json {
        return print_json(&json!({"threads": threads, "iters": a.iters, "batch": batch, "models": models}));
    }
    let mut header = vec!["model".to_string(), "M params".into(), "GMAC".into()];
    for b in batch {
        header.extend([format!("images/s {b}"), format!("% of GEMM {b}"), format!("peak MB {b}")]);
    }
    let rows: Vec<Vec<String>> = models.iter().map(row).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    print(&format!(
        "random weights, {threads} threads, {} runs; % of GEMM: multiply-adds per second as a share of a dense product's in the \
         same process; GMAC: of one picture\n{}",
        a.iters,
        aligned(&header, &rows, 1)
    ))
}

fn row(m: &Value) -> Vec<String> {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let cases = m["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let gmac = cases.first().map_or(0.0, |c| number(&c["macs"]) / number(&c["items"]) / 1e9);
    let mut row = vec![
        m["model"].as_str().unwrap_or_default().to_string(),
        format!("{:.1}", number(&m["params"]) / 1e6),
        format!("{gmac:.2}"),
    ];
    for c in cases {
        row.push(format!("{:.1}", number(&c["items_per_s"])));
        row.push(format!("{:.0}", 100.0 * number(&c["gemm_share"])));
        row.push(format!("{:.0}", number(&c["peak_memory"]) / 1e6));
    }
    row
}

/// `bench NAME --json` of this program.
fn one(a: &Args, name: &str, batch: &[usize]) -> Result<Value, Fail> {
    let failed = |e: std::io::Error| Fail::Io(format!("bench {name}"), e);
    let batch: Vec<String> = batch.iter().map(usize::to_string).collect();
    let out = Command::new(std::env::current_exe().map_err(failed)?)
        .args(["bench", name, "--json", "--batch", &batch.join(",")])
        .args(["--threads", &machine::threads().to_string()])
        .args(["--iters", &a.iters.to_string(), "--warmup", &a.warmup.to_string()])
        .output()
        .map_err(failed)?;
    if !out.status.success() {
        let said = String::from_utf8_lossy(&out.stderr);
        return Err(Fail::Gate(format!("{name} could not be timed: {}", said.trim())));
    }
    serde_json::from_slice(&out.stdout).map_err(|e| Fail::Gate(format!("{name} could not be timed: {e}")))
}
