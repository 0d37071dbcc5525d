//! `run --context` and `eval --model` on a small model that answers questions.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use switchformer::nn::Weights;
use switchformer::nn::config::ConfigMap;
use switchformer::nn::store::{safetensors_bytes, write_folder};
use switchformer::zoo::find;
use switchformer::zoo::save::{json_bytes, published_tensors};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_switchformer")).args(args).output().unwrap()
}

#[track_caller]
fn document(args: &[&str]) -> Value {
    let out = run(args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

#[track_caller]
fn fails(args: &[&str], says: &str) {
    let out = run(args);
    let err = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.code() == Some(1) || out.status.code() == Some(2), "{args:?}: {err}");
    assert!(err.contains(says), "{args:?} must say {says:?}: {err}");
}

/// A folder with a seeded model of an architecture and a tokenizer of a few words.
fn model(dir: &Path, architecture: &str) {
    let entry = find("bert").unwrap();
    let mut config: Value = serde_json::from_str(entry.toy).unwrap();
    config["architectures"] = json!([architecture]);
    config["max_position_embeddings"] = json!(100);
    config.as_object_mut().unwrap().remove("num_labels");
    let w = Weights::seeded().trainable();
    (entry.load)(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhere\nis\nthe\nriver\nit\nflows\nnorth\nto\nsea\n";
    let files = [
        ("config.json", json_bytes(&config)),
        (
            "model.safetensors",
            safetensors_bytes(&published_tensors(entry, architecture, &w.params()).unwrap()).unwrap(),
        ),
        ("vocab.txt", words.as_bytes().to_vec()),
    ];
    write_folder(dir, &files).unwrap();
}

#[test]
fn answers_are_stretches_of_the_passage() {
    let temp = tempfile::tempdir().unwrap();
    let (asked, other) = (temp.path().join("qa"), temp.path().join("encoder"));
    model(&asked, "BertForQuestionAnswering");
    model(&other, "BertModel");
    let (home, encoder) = (asked.to_str().unwrap(), other.to_str().unwrap());
    // Longer than one window.
    let passage = "it flows north to the sea ".repeat(60);
    let doc = document(&["run", home, "--text", "where is it", "--text", "is it", "--context", &passage, "--json"]);
    assert_eq!(doc["results"].as_array().unwrap().len(), 2);
    for result in doc["results"].as_array().unwrap() {
        let best = &result["answers"][0];
        let [from, to] = [0, 1].map(|i| best["bytes"][i].as_u64().unwrap() as usize);
        assert_eq!(result["text"].as_str().unwrap(), &passage[from..to]);
    }
    fails(&["run", home, "--text", "where is it"], "--context");
    fails(&["run", home, "--context", "x"], "--text");
    fails(&["run", encoder, "--text", "where is it", "--context", "the river"], "BertForQuestionAnswering");

    let qas: Vec<Value> = (0..5)
        .map(|i| {
            let answers = json!([{"text": "north", "answer_start": 9}]);
            json!({"id": format!("q{i}"), "question": "where is it", "answers": answers})
        })
        .collect();
    let set = json!({"data": [{"title": "t", "paragraphs": [{"context": passage, "qas": qas}]}]});
    let file = temp.path().join("set.json");
    std::fs::write(&file, set.to_string()).unwrap();
    let set = file.to_str().unwrap();
    let doc = document(&["eval", "--metric", "squad", "--model", home, "--ref", set, "--limit", "3", "--json"]);
    assert_eq!((doc["segments"].as_u64(), doc["scores"][1]["name"].as_str()), (Some(3), Some("F1")));
    fails(&["eval", "--metric", "squad", "--ref", set], "--hyp");
    fails(&["eval", "--metric", "bleu", "--model", home, "--ref", set], "squad");
}

#[test]
fn questions_without_answers_are_scored_and_the_passage_plays_no_part() {
    // `make.py` there asked the public implementation; no answer of the set stands in its passage.
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/lab/tests/fixtures/squad_v2");
    let file = |name: &str| home.join(name).display().to_string();
    let (given, set) = (file("given.json"), file("set.json"));
    let doc = document(&["eval", "--json", "--metric", "squad", "--hyp", &given, "--ref", &set]);
    let want: Value = serde_json::from_slice(&std::fs::read(file("expected.json")).unwrap()).unwrap();
    let near = |got: &Value, name: &str| {
        let (got, want) = (got.as_f64().unwrap(), want[name].as_f64().unwrap());
        assert!((got - want).abs() < 1e-10, "{name}: {got} {want}");
    };
    near(&doc["scores"][0]["score"], "exact");
    near(&doc["scores"][1]["score"], "f1");
    for name in ["HasAns_exact", "HasAns_f1", "HasAns_total", "NoAns_exact", "NoAns_f1", "NoAns_total"] {
        near(&doc["details"][name], name);
    }
}
