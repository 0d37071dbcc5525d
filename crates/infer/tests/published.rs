//! Folders as people publish them, against what the reference answers (`golden/folders`).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use switchformer_infer::account::account;
use switchformer_infer::{GenerationOptions, Inputs, NamedTensors, Request, Session};
use switchformer_nn::Folder;
use switchformer_nn::init::seeded;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes};
use switchformer_tensor::Tensor;
use switchformer_zoo::OpenOptions;

const TOLERANCE: f64 = 3e-5;

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/folders")
}

/// What a case expects, and its folder with tensors filled by their names.
fn folder(case: &Path) -> (tempfile::TempDir, Json) {
    let temp = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(case).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, temp.path().join(path.file_name().unwrap())).unwrap();
    }
    let want: Json = serde_json::from_slice(&fs::read(case.join("expected.json")).unwrap()).unwrap();
    let mut all = SavedMap::new();
    for (name, t) in want["tensors"].as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(t["shape"].clone()).unwrap();
        let seed = t["same_as"].as_str().unwrap_or(name);
        all.insert(name.clone(), Saved::f32(&shape, &seeded(seed, &shape)));
    }
    fs::write(temp.path().join("model.safetensors"), safetensors_bytes(&all).unwrap()).unwrap();
    (temp, want)
}

/// Errors unless all that is wanted is there: keys of objects, items of lists, numbers to the tolerance.
fn compare(at: &str, want: &Json, got: &Json) {
    match (want, got) {
        (Json::Object(want), Json::Object(got)) => {
            for (key, value) in want {
                compare(&format!("{at}.{key}"), value, got.get(key).unwrap_or_else(|| panic!("{at} has no {key}")));
            }
        }
        (Json::Array(want), Json::Array(got)) => {
            assert_eq!(want.len(), got.len(), "{at}: {want:?} and {got:?}");
            want.iter().zip(got).enumerate().for_each(|(i, (w, g))| compare(&format!("{at}[{i}]"), w, g));
        }
        (Json::Number(want), Json::Number(got)) => {
            let (want, got) = (want.as_f64().unwrap(), got.as_f64().unwrap());
            assert!((want - got).abs() <= TOLERANCE * want.abs().max(1.0), "{at}: {got}, and {want} in the reference");
        }
        _ => assert_eq!(want, got, "{at}"),
    }
}

#[test]
fn folders_answer_as_the_reference() {
    let mut n = 0;
    for entry in fs::read_dir(cases()).unwrap() {
        let case = entry.unwrap().path();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if !case.is_dir() || name == "generation" || name.starts_with('_') {
            continue;
        }
        let (temp, want) = folder(&case);
        let session = Session::open(temp.path(), OpenOptions::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let request: Request = serde_json::from_value(want["request"].clone()).unwrap();
        let answer = session.answer(&request).unwrap_or_else(|e| panic!("{name}: {e}"));
        compare(&name, &want["answer"], &serde_json::to_value(&answer).unwrap());
        n += 1;
    }
    assert!(n >= 28, "{n} cases");
}

#[test]
fn pairs_of_one_text_are_put_in_order() {
    let (temp, want) = folder(&cases().join("reranker-prompt"));
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    let ranking = &want["request"]["inputs"]["ranking"];
    let pairs: Vec<Json> =
        ranking["documents"].as_array().unwrap().iter().map(|d| json!([ranking["query"], d])).collect();
    let ask = |inputs: Json, more: Json| -> Request {
        let mut doc = json!({"inputs": inputs});
        doc.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(doc).unwrap()
    };
    let answer = |request: &Request| serde_json::to_value(session.answer(request).unwrap()).unwrap();
    let got = answer(&ask(json!({"pairs": pairs}), json!({})));
    compare("pairs", &want["answer"], &got);
    // One pair has no order, and pairs of several texts have none either.
    for few in [json!([pairs[0]]), json!([pairs[0], ["other", "text"]])] {
        assert!(answer(&ask(json!({"pairs": few}), json!({}))).get("ranking").is_none());
    }
    let fails = |inputs: Json, more: Json| session.answer(&ask(inputs, more)).unwrap_err().to_string();
    assert!(fails(json!({"pairs": pairs}), json!({"dim": 2})).contains("dim is for embeddings"));
    assert!(fails(json!({"pairs": pairs}), json!({"prompt_name": "nobody"})).contains("document, query, web"));
    // Several scores of a pair have no order.
    let (temp, _) = folder(&cases().join("multi-label"));
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    let e = session.answer(&ask(want["request"]["inputs"].clone(), json!({}))).unwrap_err();
    assert!(e.to_string().contains("cannot put documents in order"), "{e}");
}

#[test]
fn texts_are_written_as_the_folder_says() {
    let (temp, want) = folder(&cases().join("generation"));
    let source: Vec<Vec<f64>> = serde_json::from_value(want["request"]["source"].clone()).unwrap();
    let file = temp.path().join("generation_config.json");
    let all = want["answer"].as_object().unwrap();
    assert!(all.len() >= 20);
    for (name, case) in all {
        fs::write(&file, case["settings"].to_string()).unwrap();
        let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
        assert!(session.notes().is_empty(), "{name}: {:?}", session.notes());
        let options =
            GenerationOptions { max_tokens: case["max_tokens"].as_u64().map(|n| n as usize), ..Default::default() };
        for (ids, written) in source.iter().zip(case["written"].as_array().unwrap()) {
            let ids: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
            let got = session.write_tokens(&ids, &options).unwrap();
            assert_eq!(json!(got), *written, "{name}");
        }
    }
}

#[test]
fn keys_that_nothing_knows_are_named_and_others_refused() {
    let (temp, _) = folder(&cases().join("generation"));
    let open = || Session::open(temp.path(), OpenOptions::default());
    let file = temp.path().join("generation_config.json");
    fs::write(&file, r#"{"telepathy": 1, "use_cache": false}"#).unwrap();
    let session = open().unwrap();
    assert!(session.notes().iter().any(|n| n.contains("telepathy") && n.contains("generation_config.json")));
    for (settings, says) in [
        (r#"{"penalty_alpha": 0.6}"#, "penalty_alpha"),
        (r#"{"num_beam_groups": 2}"#, "num_beam_groups"),
        (r#"{"bad_words_ids": [[-1]]}"#, "bad_words_ids"),
        (r#"{"early_stopping": 3}"#, "early_stopping"),
        (r#"{"repetition_penalty": "x"}"#, "repetition_penalty"),
        (r#"{"max_length": -3}"#, "max_length"),
        (r#"[]"#, "object"),
    ] {
        fs::write(&file, settings).unwrap();
        let e = open().map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(says), "{settings}: {e}");
    }
    // What belongs to a search goes with a folder that searches.
    let long = GenerationOptions { length_penalty: Some(2.0), ..Default::default() };
    fs::write(&file, "{}").unwrap();
    assert_eq!(open().unwrap().write_tokens(&[3, 1], &long).unwrap_err().code(), "request");
    fs::write(&file, r#"{"num_beams": 3}"#).unwrap();
    open().unwrap().write_tokens(&[3, 1], &long).unwrap();
    // Tokens beyond the vocabulary are told when a text is written.
    fs::write(&file, r#"{"suppress_tokens": [999]}"#).unwrap();
    let e = open().unwrap().write_tokens(&[3, 1], &GenerationOptions::default()).unwrap_err().to_string();
    assert!(e.contains("999"), "{e}");
    fs::remove_file(&file).unwrap();
    let config = temp.path().join("config.json");
    let mut doc: Json = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    doc["hidden_feelings"] = json!(2);
    doc["no_repeat_ngram_size"] = json!(1);
    fs::write(&config, doc.to_string()).unwrap();
    let session = open().unwrap();
    assert!(session.notes().iter().any(|n| n.contains("hidden_feelings") && !n.contains("no_repeat")));
    // Settings of an old config.json count where there is no other file.
    let written = session.write_tokens(&[8, 26, 1], &GenerationOptions::default()).unwrap();
    let mut once = written.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), written.len(), "{written:?}");
}

#[test]
fn modules_and_their_settings_are_accounted_for() {
    let (temp, _) = folder(&cases().join("no-pooler"));
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path, "name": path});
    fs::write(
        temp.path().join("modules.json"),
        json!([module("Transformer", ""), module("Pooling", "1_Pooling")]).to_string(),
    )
    .unwrap();
    fs::create_dir(temp.path().join("1_Pooling")).unwrap();
    fs::write(temp.path().join("1_Pooling/config.json"), r#"{"pooling_mode": "mean", "colour": 1}"#).unwrap();
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    let told = account(&Folder::disk(temp.path()).unwrap(), &session).unwrap();
    let handling = |file: &str, key: &str| told.iter().find(|a| a.file == file && a.key == key).map(|a| a.handling);
    assert_eq!(handling("modules.json", "path"), Some("applied"));
    assert_eq!(handling("1_Pooling/config.json", "pooling_mode"), Some("applied"));
    assert_eq!(handling("1_Pooling/config.json", "colour"), Some("unknown"));
}

#[test]
fn a_problem_type_is_read_where_classes_are_scored() {
    let (temp, _) = folder(&cases().join("regression"));
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    let told = account(&Folder::disk(temp.path()).unwrap(), &session).unwrap();
    assert!(told.iter().any(|a| a.key == "problem_type" && a.handling == "applied"));
    let config = temp.path().join("config.json");
    let mut doc: Json = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    doc["problem_type"] = json!("guesswork");
    fs::write(&config, doc.to_string()).unwrap();
    let e = Session::open(temp.path(), OpenOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("guesswork") && e.contains("multi_label_classification"), "{e}");
    // What a reranker says of its scores goes before it.
    doc["sbert_ce_default_activation_function"] = json!("torch.nn.modules.activation.Tanh");
    fs::write(&config, doc.to_string()).unwrap();
    let e = Session::open(temp.path(), OpenOptions::default()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("Tanh") && e.contains("Identity"), "{e}");
}

#[test]
fn what_belongs_to_no_head_is_named() {
    let (temp, _) = folder(&cases().join("other-heads"));
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    assert!(session.notes().iter().any(|n| n.contains("belong to another head")), "{:?}", session.notes());
    let (temp, _) = folder(&cases().join("no-pooler"));
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    assert!(session.notes().iter().any(|n| n.contains("no pooler")));
    let (temp, _) = folder(&cases().join("tied-but-other"));
    assert!(Session::open(temp.path(), OpenOptions::default()).unwrap().notes()[0].contains("ties"));
    // A word that no rule takes for a head is still left over.
    let mut all = BTreeMap::new();
    all.insert("input_ids".to_string(), Tensor::from_vec(vec![2i64, 3], (1, 2)).unwrap());
    let (temp, _) = folder(&cases().join("single-label"));
    let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
    let answer = session.answer(&Request::new(Inputs::Tensors(NamedTensors::new(all)))).unwrap();
    assert_eq!(answer.results[0].logits.as_ref().map(Vec::len), Some(4));
}
