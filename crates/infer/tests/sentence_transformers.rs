//! Folders as sentence-transformers saves them, with what it makes of the same texts (golden/sentence_transformers/make.py).

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use switchformer_infer::{Error, Listener, Request, Session};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes};
use switchformer_zoo::OpenOptions;

/// Largest difference to the reference, relative to a number above 1.
const TOLERANCE: f32 = 1e-5;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/sentence_transformers")
}

fn read<T: serde::de::DeserializeOwned>(doc: &Json) -> T {
    serde_json::from_value(doc.clone()).unwrap()
}

/// The cases of the reference by name.
fn cases() -> BTreeMap<String, Json> {
    let all: Vec<Json> = serde_json::from_slice(&std::fs::read(golden().join("cases.json")).unwrap()).unwrap();
    all.into_iter().map(|case| (read(&case["name"]), case)).collect()
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Writes the folder of a case.
fn folder(case: &Json) -> tempfile::TempDir {
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
        let map: SavedMap = tensors.as_object().unwrap().iter().map(|(name, t)| (name.clone(), one(t))).collect();
        put(dir.path(), name, safetensors_bytes(&map).unwrap());
    }
    dir
}

fn open(dir: &Path) -> Result<Session, Error> {
    Session::open(dir, OpenOptions::default())
}

/// A request for the texts of a case.
fn request(case: &Json, ask: &Json) -> Request {
    let mut doc = json!({"inputs": {"texts": case["texts"]}});
    doc.as_object_mut().unwrap().extend(ask.as_object().unwrap().clone());
    read(&doc)
}

#[track_caller]
fn near(got: &[f32], want: &[f32], what: &str) -> f32 {
    assert_eq!(got.len(), want.len(), "{what}");
    let far = got.iter().zip(want).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
    assert!(far < TOLERANCE, "{what}: {far}");
    far
}

/// Hears what is said.
#[derive(Default)]
struct Heard(Vec<String>);

impl Listener for Heard {
    fn note(&mut self, text: &str) {
        self.0.push(text.into());
    }
}

#[test]
fn every_module_order_prompt_and_layout_answers_as_the_reference() {
    let (all, mut far) = (cases(), 0f32);
    for (name, case) in &all {
        let dir = folder(case);
        let session = open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let similarity = session.sentence().unwrap().similarity();
        assert_eq!(similarity.name(), case["similarity"], "{name}");
        for answer in case["answers"].as_array().unwrap() {
            let what = format!("{name} {}", answer["ask"]);
            let got = session.answer(&request(case, &answer["ask"])).unwrap_or_else(|e| panic!("{what}: {e}")).results;
            let vectors: Vec<Vec<f32>> = if let Some(want) = answer.get("embeddings") {
                let vectors: Vec<Vec<f32>> = got.iter().map(|r| r.sentence_embedding.clone().unwrap()).collect();
                for (i, (got, want)) in vectors.iter().zip(read::<Vec<Vec<f32>>>(want)).enumerate() {
                    far = far.max(near(got, &want, &format!("{what}, text {i}")));
                }
                vectors
            } else {
                let want: Vec<BTreeMap<String, f32>> = read(&answer["sparse"]);
                let got: Vec<_> = got.into_iter().map(|r| r.sparse_embedding.unwrap()).collect();
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let what = format!("{what}, text {i}");
                    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}");
                    let values = |m: &BTreeMap<String, f32>| m.values().copied().collect::<Vec<_>>();
                    far = far.max(near(&values(got), &values(want), &what));
                }
                // Tokens that several texts have count once.
                let tokens: BTreeSet<&String> = got.iter().flat_map(BTreeMap::keys).collect();
                got.iter().map(|m| tokens.iter().map(|t| m.get(*t).copied().unwrap_or(0.0)).collect()).collect()
            };
            let alike: Vec<f32> = vectors.iter().map(|v| similarity.of(&vectors[0], v) as f32).collect();
            // A distance is the root of a small difference, of which f32 holds fewer digits.
            let want: Vec<f32> = read(&answer["similarity"]);
            let far = alike.iter().zip(&want).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f32::max);
            assert!(far < 1e-3, "{what}: {far}");
        }
    }
    assert_eq!(all.len(), 52);
    println!("largest difference {far:e}");
}

/// The error of a case whose folder was changed.
#[track_caller]
fn refused(name: &str, change: impl FnOnce(&Path), says: &[&str]) {
    let dir = folder(&cases()[name]);
    change(dir.path());
    let e = open(dir.path()).err().expect("must be refused").to_string();
    says.iter().for_each(|s| assert!(e.contains(s), "must say {s:?}: {e}"));
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let entry = |kind: &str, path: &str| json!({"type": kind, "path": path});
    let modules = |kind: &str| json!([entry("sentence_transformers.models.Transformer", ""), entry(kind, "1_Pooling")]);
    for kind in ["Router", "CNN", "LSTM", "WordWeights", "WeightedLayerPooling"] {
        let list = modules(&format!("sentence_transformers.models.{kind}")).to_string();
        refused("pooling mean", |d| put(d, "modules.json", &list), &["modules.json type", kind, "Pooling"]);
    }
    let own = modules("modeling.Pooling").to_string();
    refused("pooling mean", |d| put(d, "modules.json", &own), &["modeling.Pooling"]);
    refused(
        "pooling mean",
        |d| std::fs::remove_dir_all(d.join("1_Pooling")).unwrap(),
        &["1_Pooling", "fetch the whole folder"],
    );
    let gone =
        |d: &Path| std::fs::rename(d.join("2_Dense/model.safetensors"), d.join("2_Dense/pytorch_model.bin")).unwrap();
    refused("dense as published", gone, &["2_Dense", "convert"]);
    let act = json!({"in_features": 12, "out_features": 8, "activation_function": "my.Act"}).to_string();
    refused("dense as published", |d| put(d, "2_Dense/config.json", &act), &["2_Dense/config.json", "my.Act", "Tanh"]);
    let bert = "sentence_bert_config.json";
    refused("pooling mean", |d| put(d, bert, r#"{"query_length": 3}"#), &[bert, "query_length"]);
    refused("pooling mean", |d| put(d, bert, r#"{"transformer_task": "retrieval"}"#), &[bert, "retrieval"]);
    let model = "config_sentence_transformers.json";
    refused("pooling mean", |d| put(d, model, r#"{"default_prompt_name": "x"}"#), &[model, "query"]);
    refused("pooling mean", |d| put(d, model, r#"{"model_type": "MultiVectorEncoder"}"#), &[model, "SparseEncoder"]);
}

#[test]
fn notes_tell_unknown_settings_and_the_default_prompt() {
    let case = &cases()["a default prompt"];
    let dir = folder(case);
    put(dir.path(), "1_Pooling/config.json", r#"{"pooling_mode": "mean", "colour": 1}"#);
    let session = open(dir.path()).unwrap();
    let hear = || {
        let mut heard = Heard::default();
        session.answer_to(&request(case, &json!({})), &mut heard).unwrap();
        heard.0.iter().filter(|n| n.contains("default prompt `query`")).count()
    };
    assert_eq!((hear(), hear()), (1, 1));
    assert_eq!(session.notes().iter().filter(|n| n.contains("`colour`")).count(), 1);
    let fails = |ask: Json| session.answer(&request(case, &ask)).unwrap_err().to_string();
    assert!(fails(json!({"prompt_name": "nobody"})).contains("passage, query"));
    assert!(fails(json!({"prompt_name": "query", "prompt": "x"})).contains("leave out"));
    assert!(fails(json!({"dim": 0})).contains("at least 1"));
}
