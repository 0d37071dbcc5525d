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
    // A file of one's own answers alike, and lines tell of every window.
    let file = temp.path().join("passage.txt");
    std::fs::write(&file, format!("{passage}\n")).unwrap();
    let file = file.to_str().unwrap();
    let asked = ["run", home, "--text", "where is it", "--text", "is it"];
    let same = document(&[&asked[..], &["--context-file", file, "--json"]].concat());
    assert_eq!(same["results"], doc["results"]);
    let told = run(&[&asked[..], &["--context-file", file, "--trace"]].concat());
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("decision windows.0 window member 0: {")
            && told.contains("decision windows.1 window member 1: {")
    );
    fails(&["run", home, "--text", "where is it", "--context", file], "--context-file");
    fails(&["run", home, "--text", "where is it", "--context", " "], "the passage is empty");
    fails(&["run", home, "--text", "", "--context", "the river"], "question 1 is empty");
    fails(&["run", home, "--text", "where is it", "--rank", "the river"], "cannot put documents in order");
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

/// A folder of sentence-transformers whose Transformer lies below it, with the base of the goldens.
fn encoder(dir: &Path) {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/sentence_transformers/base");
    for folder in ["0_Transformer", "1_Pooling"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for entry in std::fs::read_dir(base).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.join("0_Transformer").join(path.file_name().unwrap())).unwrap();
    }
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let modules = json!([module("Transformer", "0_Transformer"), module("Pooling", "1_Pooling")]);
    std::fs::write(dir.join("modules.json"), modules.to_string()).unwrap();
    std::fs::write(dir.join("1_Pooling/config.json"), r#"{"pooling_mode": "mean"}"#).unwrap();
}

#[test]
fn documents_are_put_in_order_and_a_transformer_below_is_quantised() {
    let temp = tempfile::tempdir().unwrap();
    encoder(temp.path());
    let home = temp.path().to_str().unwrap();
    let documents = temp.path().join("documents.txt");
    std::fs::write(&documents, "a dog runs\nthe river\n").unwrap();
    let ask =
        ["run", home, "--text", "the river", "--rank", "Hello World", "--rank-lines", documents.to_str().unwrap()];
    let doc = document(&[&ask[..], &["--json"]].concat());
    let ranking = doc["ranking"].as_array().unwrap();
    assert_eq!((ranking.len(), &ranking[0]["text"], &ranking[0]["document"]), (3, &json!("the river"), &json!(2)));
    assert!((ranking[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-6);
    let told = String::from_utf8(run(&ask).stdout).unwrap();
    assert!(told.starts_with("the river\n  1. 1.0000 the river\n  2. 0.") && told.lines().count() == 4, "{told}");
    fails(&["run", home, "--text", "a", "the", "--rank", "cat"], "one --text");
    fails(&["run", home, "--text", "a", "--top", "3"], "--top");
    fails(&["run", home, "--text", "a", "--dim", "13"], "has 12 numbers");
    let point = r#"{"bits": 8}"#;
    let plain = document(&["run", home, "--text", "the river", "--json"]);
    let nested = document(&["run", home, "--text", "the river", "--nested", "--point", point, "--json"]);
    let numbers =
        |doc: &Value| -> Vec<f64> { serde_json::from_value(doc["results"][0]["sentence_embedding"].clone()).unwrap() };
    let far = numbers(&plain).iter().zip(numbers(&nested)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far > 0.0 && far < 0.1, "{far}");
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
