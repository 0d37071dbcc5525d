//! From trained parameters to a folder that opens anywhere: a Hugging Face folder plus `switch.json`.

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Value, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::ops::nested_codes;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, write_folder};
use switchformer_nn::{Device, Param};
use switchformer_switch::Plan;
use switchformer_switch::leaf::bits::{LOG_SCALE, quantization_config};
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

/// Writes the folder, all or nothing. Nested weights are stored as 8-bit codes with one scale per row.
pub fn write(dir: &Path, e: &Export) -> Result<()> {
    let architecture = e.entry.architecture(e.config)?;
    let mut tensors = published_tensors(e.entry, architecture, e.model)?;
    let nested = fold_scales(&mut tensors)?;
    let mut config = e.config.as_map().clone();
    config.insert("architectures".into(), json!([architecture]));
    config.insert("switch".into(), json!({"schema": 1, "file": "switch.json"}));
    if nested {
        config.insert("quantization_config".into(), quantization_config());
    }
    let plan = serde_json::to_value(e.plan).unwrap_or_default();
    let mut files = vec![
        ("config.json", json_bytes(&Value::Object(config))),
        ("model.safetensors", safetensors_bytes(&tensors)?),
        ("switch.json", json_bytes(&plan)),
    ];
    if !e.added.is_empty() {
        let added = published_tensors(e.entry, e.entry.architectures[0], e.added)?;
        files.push(("switch.safetensors", safetensors_bytes(&added)?));
    }
    files.extend(e.files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())));
    Ok(write_folder(dir, &files)?)
}

/// Replaces each matrix that has a log scale by its codes and row scales. Returns whether there was any.
fn fold_scales(tensors: &mut SavedMap) -> Result<bool> {
    let suffix = format!(".{LOG_SCALE}");
    let scaled: Vec<String> = tensors.keys().filter_map(|k| k.strip_suffix(&suffix).map(str::to_string)).collect();
    for base in &scaled {
        let Some(log) = tensors.remove(&format!("{base}{suffix}")) else { continue };
        let name = format!("{base}.weight");
        let Some(weight) = tensors.remove(&name) else { continue };
        let scale = tensor(&log)?.exp()?;
        let nested = nested_codes(&tensor(&weight)?, &scale)?;
        tensors.insert(format!("{base}.weight_scale"), Saved::f32(&log.shape, &nested.scale));
        tensors.insert(name, Saved::i8(&weight.shape, &nested.codes));
    }
    Ok(!scaled.is_empty())
}

fn tensor(s: &Saved) -> Result<Tensor> {
    let values: Vec<f32> = s.bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
    Ok(Tensor::from_vec(values, s.shape.as_slice(), &Device::Cpu)?)
}
