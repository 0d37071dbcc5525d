//! `inspect`: headers of a checkpoint, nothing loaded.

use std::path::PathBuf;

use serde_json::json;
use switchformer_nn::weights::inspect;

use super::table::{aligned, thousands};
use super::{print, print_json};
use crate::fail::Fail;

/// `inspect PATH`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Model folder or safetensors file
    path: PathBuf,
}

/// Prints names, types and shapes.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let tensors = inspect(&a.path)?;
    let elements: u64 = tensors.iter().map(|t| t.elements()).sum();
    if json {
        let list: Vec<_> = tensors
            .iter()
            .map(|t| json!({"name": t.name, "dtype": format!("{:?}", t.dtype), "shape": t.shape}))
            .collect();
        return print_json(&json!({"tensors": list, "elements": elements}));
    }
    let rows: Vec<Vec<String>> =
        tensors.iter().map(|t| vec![t.name.clone(), format!("{:?}", t.dtype), format!("{:?}", t.shape)]).collect();
    print(&format!(
        "{}\n{} tensors, {} elements\n",
        aligned(&["tensor", "type", "shape"], &rows, 2),
        tensors.len(),
        thousands(elements)
    ))
}
