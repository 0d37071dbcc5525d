//! From trained parameters to a folder that opens anywhere: a Hugging Face folder plus `switch.json`.

use std::path::Path;

use serde_json::{Value, json};
use switchformer_nn::Param;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::store::{safetensors_bytes, write_folder};
use switchformer_switch::Plan;
use switchformer_zoo::Entry;
use switchformer_zoo::save::{json_bytes, published_tensors};

use crate::error::Result;

/// What to export.
pub struct Export<'a> {
    /// Registry entry of the model.
    pub entry: &'static Entry,
    /// `config.json` as trained.
    pub config: &'a ConfigMap,
    /// Parameters of the model.
    pub model: &'a [Param],
    /// Parameters of exit heads and added experts, which have a file of their own.
    pub added: &'a [Param],
    /// Content of `switch.json`.
    pub plan: &'a Plan,
    /// Other files: how inputs are prepared.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Writes the folder, all or nothing; weights are stored in the forms that the plan names.
pub fn write(dir: &Path, e: &Export) -> Result<()> {
    let architecture = e.entry.architecture(e.config)?;
    let mut tensors = published_tensors(e.entry, architecture, e.model)?;
    for used in &e.plan.forms {
        used.form()?.save(&mut tensors)?;
    }
    let mut config = e.config.as_map().clone();
    config.insert("architectures".into(), json!([architecture]));
    let plan = e.plan.write(&mut config)?;
    let mut files = vec![
        ("config.json", json_bytes(&Value::Object(config))),
        ("model.safetensors", safetensors_bytes(&tensors)?),
        ("switch.json", json_bytes(&plan)),
    ];
    if !e.added.is_empty() {
        let added = published_tensors(e.entry, e.entry.bare(), e.added)?;
        files.push(("switch.safetensors", safetensors_bytes(&added)?));
    }
    files.extend(e.files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    Ok(write_folder(dir, &files)?)
}
