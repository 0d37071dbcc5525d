//! Folders of sentence-transformers as `golden/sentence_transformers` describes them.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use switchformer_infer::{Error, Listener, NamedTensors, Session};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, saved};
use switchformer_zoo::OpenOptions;

/// Largest difference to the reference, relative to a number above 1.
const TOLERANCE: f32 = 1e-5;

pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/sentence_transformers")
}

pub fn read<T: serde::de::DeserializeOwned>(doc: &Json) -> T {
    serde_json::from_value(doc.clone()).unwrap()
}

/// The cases of a file of the reference by name.
pub fn cases_of(file: &str) -> BTreeMap<String, Json> {
    let all: Vec<Json> = serde_json::from_slice(&std::fs::read(golden().join(file)).unwrap()).unwrap();
    all.into_iter().map(|case| (read(&case["name"]), case)).collect()
}

pub fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Writes the folder of a case.
pub fn folder(case: &Json) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let prefix = case["prefix"].as_str().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        put(&dir.path().join(prefix), name, std::fs::read(golden().join("base").join(name)).unwrap());
    }
    for (name, doc) in case["files"].as_object().unwrap() {
        put(dir.path(), name, doc.to_string());
    }
    for (name, tensors) in case["tensors"].as_object().unwrap() {
        let one = |t: &Json| Saved::f32(&read::<Vec<usize>>(&t["shape"]), &read::<Vec<f32>>(&t["values"]));
        let mut map: SavedMap = tensors.as_object().unwrap().iter().map(|(name, t)| (name.clone(), one(t))).collect();
        // Tensors of the model's own file stand beside those of the base.
        if dir.path().join(name).exists() {
            let base = NamedTensors::read(&dir.path().join(name)).unwrap().map;
            map.extend(base.into_iter().map(|(name, t)| (name, saved(&t).unwrap())));
        }
        put(dir.path(), name, safetensors_bytes(&map).unwrap());
    }
    dir
}

pub fn open(dir: &Path) -> Result<Session, Error> {
    Session::open(dir, OpenOptions::default())
}

#[track_caller]
pub fn near(got: &[f32], want: &[f32], what: &str) -> f32 {
    assert_eq!(got.len(), want.len(), "{what}");
    let far = got.iter().zip(want).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
    assert!(far < TOLERANCE, "{what}: {far}");
    far
}

/// Hears what is said.
#[derive(Default)]
pub struct Heard(pub Vec<String>);

impl Listener for Heard {
    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}
