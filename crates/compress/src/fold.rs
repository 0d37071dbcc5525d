//! A checkpoint whose batch norms are folded into the convolutions and products beside them: the same function at rest,
//! with less to compute. There is no way back.

use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::maps::{FOLDS, Fold};
use switchformer_nn::store::{Saved, SavedMap, unused, write_folder};
use switchformer_nn::weights::Files;
use switchformer_nn::{Error, Folder, Result, Weights};
use switchformer_switch::Plan;

use switchformer_zoo::Entry;
use switchformer_zoo::assemble::{Source, assemble};
use switchformer_zoo::open::read_config;
use switchformer_zoo::save::remade;

/// Field of a config that says whether norms are folded; every family that folds reads it.
const FIELD: &str = "deploy";

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// Layers that were folded.
    pub layers: usize,
    /// Parameters of the model before and after.
    pub params: [u64; 2],
}

/// Writes to `out` the checkpoint of `dir` with all norms folded. Errors on models that do not fold or are folded already,
/// on stored integers, on checkpoints with experts or exits, and where `out` exists.
pub fn fold(dir: &Path, out: &Path) -> Result<Made> {
    unused(out)?;
    let folder = Folder::disk(dir)?;
    let (entry, config) = read_config(&folder)?;
    let plain = "fold the plain model of floats first, then add switches";
    Plan::read(&folder, &config)?.check_plain(plain)?;
    let source = Source::plain(Weights::open(&folder, &entry.names)?);
    let w = assemble(entry, &config, &Plan::default(), source)?.source.model;
    let folds: Vec<Fold> = w
        .notes(FOLDS)
        .into_iter()
        .map(serde_json::from_value)
        .collect::<serde_json::Result<_>>()
        .map_err(|e| Error::config(FOLDS, e.to_string()))?;
    if folds.is_empty() {
        return Err(if config.flag(FIELD, false).unwrap_or(false) {
            Error::input("this model is folded already", "open it as it is")
        } else {
            let what = format!("{} has no layer whose batch norm folds", entry.name);
            Error::input(what, "fmvit has; see `switchformer list`")
        });
    }
    let mut fields = config.as_map().clone();
    fields.insert(FIELD.into(), json!(true));
    let folded = ConfigMap::new(Json::Object(fields.clone()))?;
    let after = Weights::shapes_only();
    entry.build(&folded, &after)?;

    let files = remade(dir, &fields, &tensors(&folder, entry, &config, &folds)?)?;
    write_folder(out, &files.into_iter().collect::<Vec<_>>())?;
    Ok(Made { layers: folds.len(), params: [w.n_elements(), after.n_elements()] })
}

/// Every tensor of the folded model by its published name: those that stay as they are stored, the others in f32.
fn tensors(folder: &Folder, entry: &Entry, config: &ConfigMap, folds: &[Fold]) -> Result<SavedMap> {
    let files = Files::open(folder, &entry.names)?;
    let architecture = entry.architecture(config)?;
    let mut all = SavedMap::new();
    for (name, stored) in files.entries().iter().filter(|(name, _)| !folds.iter().any(|f| f.takes(name))) {
        let saved = Saved { dtype: stored.dtype, shape: stored.shape.clone(), bytes: files.bytes(stored).to_vec() };
        all.insert(entry.published(architecture, name), saved);
    }
    for fold in folds {
        for (name, shape, values) in fold.tensors(|name| files.read(name))? {
            all.insert(entry.published(architecture, &name), Saved::f32(&shape, &values));
        }
    }
    Ok(all)
}
