//! Training state on disk: atomic, hashed, and enough to go on bit for bit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, write_folder};
use switchformer_nn::{Device, Folder, json};

use crate::error::{Error, Result};
use crate::optim::{AdamW, Moments, key};
use crate::recipe::hex;

const TENSORS: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";

/// What a state folder says about itself. Data order and augmentation are functions of (seed, step), so the step is
/// all there is to remember of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Optimiser steps done.
    pub step: u64,
    /// Fingerprint of the recipe.
    pub recipe: String,
    /// SHA-256 of the tensors.
    pub sha256: String,
    /// Seconds trained so far.
    pub seconds: f64,
    /// Version that wrote it.
    pub version: String,
}

fn dir(run: &Path) -> PathBuf {
    run.join("state")
}

/// Writes parameters and moments: the old state stays until the new one is complete.
pub fn save(run: &Path, optimiser: &AdamW, step: u64, recipe: &str, seconds: f64) -> Result<()> {
    let mut map = SavedMap::new();
    let moments = optimiser.moments();
    for p in optimiser.params() {
        let name = key(p);
        map.insert(format!("w.{name}"), Saved::tensor(p.var.as_tensor())?);
        let m = &moments[name];
        map.insert(format!("m.{name}"), Saved::f32(&[m.m.len()], &m.m));
        map.insert(format!("v.{name}"), Saved::f32(&[m.v.len()], &m.v));
    }
    let bytes = safetensors_bytes(&map)?;
    let manifest = Manifest {
        step,
        recipe: recipe.to_string(),
        sha256: hex(&Sha256::digest(&bytes)),
        seconds,
        version: env!("CARGO_PKG_VERSION").to_string(),
    };
    let manifest = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    Ok(write_folder(&dir(run), &[(TENSORS, bytes), (MANIFEST, manifest)])?)
}

/// Whether a run has a state to resume.
pub fn exists(run: &Path) -> bool {
    dir(run).join(MANIFEST).exists()
}

/// Loads the state into parameters and optimiser. Errors when it is damaged or of another recipe.
pub fn load(run: &Path, optimiser: &mut AdamW, recipe: &str) -> Result<Manifest> {
    let home = dir(run);
    let bad = |what: String| Error::Checkpoint { path: home.clone(), what };
    let folder = Folder::disk(&home)?;
    let manifest: Manifest = json::typed(folder.json(MANIFEST, 1 << 20)?, &home.join(MANIFEST))?;
    if manifest.recipe != recipe {
        return Err(bad("was made by another recipe; name another --out or remove the folder".into()));
    }
    let blob = folder.blob(TENSORS)?;
    if hex(&Sha256::digest(blob.bytes())) != manifest.sha256 {
        return Err(bad(format!("{TENSORS} does not match its hash; remove the folder to start again")));
    }
    let tensors = safetensors::SafeTensors::deserialize(blob.bytes()).map_err(|e| bad(e.to_string()))?;
    let values = |name: &str| -> Result<Vec<f32>> {
        let view = tensors.tensor(name).map_err(|_| bad(format!("lacks {name}")))?;
        Ok(view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect())
    };
    let mut moments = BTreeMap::new();
    for p in optimiser.params() {
        let name = key(p);
        let w = values(&format!("w.{name}"))?;
        if w.len() != p.var.elem_count() {
            return Err(bad(format!("{name} has another size")));
        }
        p.var.set(&Tensor::from_vec(w, p.var.dims(), &Device::Cpu)?)?;
        moments
            .insert(name.to_string(), Moments { m: values(&format!("m.{name}"))?, v: values(&format!("v.{name}"))? });
    }
    optimiser.restore(moments).map_err(|name| bad(format!("moments of {name} do not fit")))?;
    Ok(manifest)
}
