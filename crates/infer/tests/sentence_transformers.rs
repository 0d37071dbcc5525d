//! Folders as sentence-transformers saves them, with what it makes of the same texts (golden/sentence_transformers/make.py).

#![allow(clippy::unwrap_used)]

mod sentence;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_infer::Request;

use sentence::{Heard, cases_of, folder, near, open, put, read};

fn cases() -> BTreeMap<String, Json> {
    cases_of("cases.json")
}

/// A request for the texts of a case.
fn request(case: &Json, ask: &Json) -> Request {
    let mut doc = json!({"inputs": {"texts": case["texts"]}});
    doc.as_object_mut().unwrap().extend(ask.as_object().unwrap().clone());
    read(&doc)
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
    assert_eq!(all.len(), 54);
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
    let filled = r#"{"query_expansion": {"strategy": "fixed", "length": 8}}"#;
    refused("pooling mean", |d| put(d, bert, filled), &["query_expansion", "vectors of tokens"]);
    for kind in ["Router", "SparseStaticEmbedding"] {
        let list = modules(&format!("sentence_transformers.sparse_encoder.models.{kind}")).to_string();
        refused("pooling mean", |d| put(d, "modules.json", &list), &["modules.json type", kind, "SpladePooling"]);
    }
    refused("pooling mean", |d| put(d, bert, r#"{"transformer_task": "retrieval"}"#), &[bert, "retrieval"]);
    let model = "config_sentence_transformers.json";
    refused("pooling mean", |d| put(d, model, r#"{"default_prompt_name": "x"}"#), &[model, "query"]);
    refused("pooling mean", |d| put(d, model, r#"{"model_type": "Oracle"}"#), &[model, "SparseEncoder"]);
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
    assert!(fails(json!({"dim": 13})).contains("dim is 13, and an embedding of this model has 12 numbers"));
    assert!(fails(json!({"max_active_dims": 3})).contains("sparse embeddings"));
}
