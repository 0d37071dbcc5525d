//! Every row of the tables of settings: what is applied answers as the reference does when the key says something else
//! (`golden/settings/make.py`, `golden/sentence_transformers`), what is refused says so, and what has no effect has none.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde_json::{Map, Value as Json, json};
use switchformer_data::text::{KEYS, TOKENIZER_KEYS};
use switchformer_data::{IMAGE_KEYS, Preprocessor, Tokenizer, image};
use switchformer_infer::account::{TABLES, account};
use switchformer_infer::generate::SETTINGS;
use switchformer_infer::{GenerationOptions, Request, Session, sentence};
use switchformer_nn::account::{Handling, Key};
use switchformer_nn::files::INDEX;
use switchformer_nn::init::seeded;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes};
use switchformer_nn::{Folder, Input, Point};
use switchformer_zoo::account::{NO_EFFECT, TIMM};
use switchformer_zoo::{OpenOptions, Opened};
use tempfile::TempDir;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> Json {
    serde_json::from_slice(&std::fs::read(root().join(path)).unwrap()).unwrap()
}

fn put(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// Writes files: text, JSON, or bytes in base 64.
fn lay(dir: &Path, files: &Json) {
    for (name, content) in files.as_object().into_iter().flatten() {
        match content {
            Json::String(text) => put(dir, name, text),
            Json::Object(map) if map.contains_key("base64") => {
                let text = map["base64"].as_str().unwrap();
                put(dir, name, base64::engine::general_purpose::STANDARD.decode(text).unwrap());
            }
            other => put(dir, name, other.to_string()),
        }
    }
}

/// Tensors of `expected.json`, filled by their names.
fn tensors(of: &Json) -> SavedMap {
    let one = |(name, t): (&String, &Json)| {
        let shape: Vec<usize> = serde_json::from_value(t["shape"].clone()).unwrap();
        (name.clone(), Saved::f32(&shape, &seeded(t["same_as"].as_str().unwrap_or(name), &shape)))
    };
    of.as_object().unwrap().iter().map(one).collect()
}

/// The folder that writes, with its settings.
fn writer(settings: &Json) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let of = "golden/folders/generation";
    put(dir.path(), "config.json", read(&format!("{of}/config.json")).to_string());
    let all = tensors(&read(&format!("{of}/expected.json"))["tensors"]);
    put(dir.path(), "model.safetensors", safetensors_bytes(&all).unwrap());
    put(dir.path(), "generation_config.json", settings.to_string());
    dir
}

/// A folder that makes embeddings, with further files over it.
fn sentences(files: &Json) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        put(dir.path(), name, std::fs::read(root().join("golden/sentence_transformers/base").join(name)).unwrap());
    }
    lay(dir.path(), files);
    dir
}

fn open(dir: &Path) -> Result<Session, String> {
    Session::open(dir, OpenOptions::default()).map_err(|e| e.to_string())
}

/// Whether two JSON values are alike: numbers to a tolerance.
fn alike(want: &Json, got: &Json, tolerance: f64) -> bool {
    match (want, got) {
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| alike(a, b, tolerance)),
        (Json::Number(a), Json::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= tolerance * a.abs().max(1.0)
        }
        _ => want == got,
    }
}

fn ids(v: &Json) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|n| n.as_f64().unwrap() as u32).collect()
}

/// What is written to the sources of the cases.
fn written(dir: &Path, all: &Json) -> Json {
    let session = open(dir).unwrap();
    assert!(session.notes().is_empty(), "{:?}", session.notes());
    let write = |source: &Json| session.write_tokens(&ids(source), &GenerationOptions::default()).unwrap();
    json!(all["source"].as_array().unwrap().iter().map(write).collect::<Vec<_>>())
}

/// Tokens of texts and pairs, as a case wants them.
fn rows(dir: &Path, texts: &Json) -> (Json, Vec<String>) {
    let tokenizer = Tokenizer::load(dir, None).unwrap_or_else(|e| panic!("{e}"));
    let row = |text: &Json| {
        let text: Vec<&str> = text.as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        let e = match text.as_slice() {
            [one] => tokenizer.encode(&[one]),
            [a, b] => tokenizer.encode_pairs(&[(a, b)]),
            _ => unreachable!(),
        };
        let e = e.unwrap().remove(0);
        json!({"ids": e.ids, "types": e.type_ids, "decoded": tokenizer.decode(&e.ids, true).unwrap(), "offsets": e.offsets})
    };
    (json!(texts.as_array().unwrap().iter().map(row).collect::<Vec<_>>()), tokenizer.notes().to_vec())
}

fn pixels(case: &Json) -> Json {
    let (name, doc) = case["put"].as_object().unwrap().iter().next().unwrap();
    let (bytes, label) = (doc.to_string(), Path::new(name));
    let steps = match name.as_str() {
        "preprocessor_config.json" => Preprocessor::from_bytes(bytes.as_bytes(), label, None).unwrap(),
        "processor_config.json" => Preprocessor::from_joint(bytes.as_bytes(), label, None).unwrap().unwrap(),
        _ => Preprocessor::from_timm(bytes.as_bytes(), label).unwrap().unwrap(),
    };
    assert!(steps.notes.is_empty(), "{:?}", steps.notes);
    let picture = image::open(root().join(case["ask"].as_str().unwrap())).unwrap();
    let got = steps.apply(&picture, 3).unwrap();
    let at: Vec<usize> = serde_json::from_value(case["want"]["at"].clone()).unwrap();
    let values: Vec<f32> = at.iter().map(|i| got.data[*i]).collect();
    json!({"shape": [got.channels, got.height, got.width], "at": at, "values": values})
}

/// Size, channels, classes and parameters of a folder's model.
fn model(doc: &Json) -> Json {
    let opened = Opened::random(doc.clone(), OpenOptions::default()).unwrap();
    let (channels, (h, w), _) = opened.model.spec().image_size().unwrap();
    let classes = opened.config.n_labels().unwrap();
    json!({"image": [h, w], "channels": channels, "classes": classes, "params": opened.n_params})
}

/// Rows whose cases are not here: no reference reads what is our own, the others are special.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("config.json: quantization_config", "form", "crates/zoo/tests/plan.rs"),
    ("config.json: quantization_config", "views", "crates/zoo/tests/plan.rs"),
    ("model.safetensors.index.json", "weight_map", "shards_are_where_the_list_says"),
    ("config.json of timm", "global_pool", "crates/zoo/src/timm.rs"),
    ("tokenizer_config.json", "separate_vocabs", "crates/data/tests/tokenizer_folders.rs"),
];

fn of_sentences(row: &Key) -> bool {
    sentence::KEYS.iter().any(|k| k == row)
}

#[test]
fn every_applied_key_answers_as_the_reference() {
    let all = read("golden/settings/cases.json");
    let mut seen = BTreeSet::new();
    let mut far = Vec::new();
    for case in all["cases"].as_array().unwrap() {
        let (file, key) = (case["file"].as_str().unwrap(), case["key"].as_str().unwrap());
        let what = format!("{file}: {key} in {}", case.get("put").unwrap_or(&case["ask"]));
        seen.insert((file.to_string(), key.to_string()));
        let (got, tolerance) = match case["kind"].as_str().unwrap() {
            "write" => (written(writer(&case["ask"]).path(), &all), 0.0),
            "chances" => {
                let dir = writer(&case["ask"]);
                let session = open(dir.path()).unwrap();
                assert!(session.settings().sample);
                let row: Vec<f32> = serde_json::from_value(all["row"].clone()).unwrap();
                (json!(session.settings().sampling.chances(&row)), 1e-6)
            }
            "tokens" => {
                let dir = tempfile::tempdir().unwrap();
                lay(dir.path(), &all["bases"][case["base"].as_str().unwrap()]);
                lay(dir.path(), &case["put"]);
                let (got, notes) = rows(dir.path(), &case["ask"]);
                if !notes.is_empty() {
                    far.push(format!("{what}\n  notes {notes:?}"));
                }
                // Only what the reference tells is compared.
                let mut got = got;
                for (got, want) in got.as_array_mut().unwrap().iter_mut().zip(case["want"].as_array().unwrap()) {
                    got.as_object_mut().unwrap().retain(|name, _| want.get(name).is_some());
                }
                (got, 0.0)
            }
            "pixels" => {
                let (got, want) = (pixels(case), &case["want"]);
                // The values are compared below.
                assert_eq!(got["shape"], want["shape"], "{what}");
                (got["values"].clone(), 2e-6)
            }
            "model" => (model(&case["put"]["config.json"]), 0.0),
            other => panic!("{other}"),
        };
        let want = if case["kind"] == "pixels" { &case["want"]["values"] } else { &case["want"] };
        if !alike(want, &got, tolerance) {
            far.push(format!("{what}\n  want {want}\n  got  {got}"));
        }
    }
    assert!(far.is_empty(), "{}\n{} differ", far.join("\n"), far.len());
    let missing: Vec<_> = TABLES
        .iter()
        .flat_map(|table| table.iter())
        .filter(|row| row.handling == Handling::Applied && !of_sentences(row))
        .filter(|row| !seen.contains(&(row.file.to_string(), row.key.to_string())))
        .filter(|row| !ELSEWHERE.iter().any(|(file, key, _)| (*file, *key) == (row.file, row.key)))
        .map(|row| format!("{}: {}", row.file, row.key))
        .collect();
    assert!(missing.is_empty(), "applied keys without a case: {missing:#?}");
}

/// What a key may say in place of what it says.
fn others(value: &Json) -> Vec<Json> {
    let mut all = vec![
        json!(true),
        json!(false),
        json!(3),
        json!(1),
        json!("other"),
        json!("0"),
        json!(["cls"]),
        json!({"a": 1}),
    ];
    all.retain(|other| other != value);
    all
}

/// The answer of a folder to texts, or its error.
fn embedded(dir: &Path, ask: &Json) -> Json {
    let answer = open(dir).and_then(|session| {
        let request: Request = serde_json::from_value(ask.clone()).unwrap();
        let alike = session.sentence().map(|s| s.similarity().name());
        let answer = session.answer(&request).map_err(|e| e.to_string())?;
        Ok(json!([answer.results, alike]))
    });
    answer.unwrap_or_else(|e| json!({"error": e}))
}

/// All cases of sentence-transformers.
fn recorded() -> Json {
    let files = ["golden/sentence_transformers/cases.json", "golden/sentence_transformers/tokens.json"];
    files.iter().flat_map(|file| read(file).as_array().unwrap().clone()).collect()
}

/// Places of a module's file in a folder, by the table's name: `Pooling/config.json` -> `1_Pooling/config.json`.
fn is_of(path: &str, table: &str) -> bool {
    let kind = table.trim_end_matches("config.json");
    path == table || (kind.ends_with('/') && path.ends_with(&format!("_{table}")))
}

/// Every case of sentence-transformers whose file of this table has the key, with the path of the file and that value.
fn holders<'a>(cases: &'a Json, row: &Key) -> Vec<(&'a Json, String, Json)> {
    let mut found = Vec::new();
    for case in cases.as_array().unwrap() {
        for (path, doc) in case["files"].as_object().unwrap() {
            let map: Option<&Map<String, Json>> = doc.as_object().or_else(|| doc[1].as_object());
            if let Some(value) = map.and_then(|map| map.get(row.key))
                && is_of(path, row.file)
                && case["prefix"] == ""
            {
                found.push((case, path.clone(), value.clone()));
            }
        }
    }
    found
}

/// The folder of a case of sentence-transformers, with another value of a key of a file, or none.
fn with(case: &Json, path: &str, key: &str, value: Option<&Json>) -> TempDir {
    let mut files = case["files"].clone();
    let doc = &mut files[path];
    let map = if doc.is_array() { doc[1].as_object_mut() } else { doc.as_object_mut() }.unwrap();
    match value {
        Some(value) => drop(map.insert(key.into(), value.clone())),
        None => drop(map.remove(key)),
    }
    let dir = sentences(&files);
    for (name, tensors) in case["tensors"].as_object().unwrap() {
        let one = |t: &Json| {
            let shape: Vec<usize> = serde_json::from_value(t["shape"].clone()).unwrap();
            Saved::f32(&shape, &serde_json::from_value::<Vec<f32>>(t["values"].clone()).unwrap())
        };
        let map: SavedMap = tensors.as_object().unwrap().iter().map(|(name, t)| (name.clone(), one(t))).collect();
        put(dir.path(), name, safetensors_bytes(&map).unwrap());
    }
    dir
}

/// The recorded answers themselves are compared in `sentence_transformers.rs`.
#[test]
fn every_applied_key_of_modules_is_in_a_recorded_case_and_changes_it() {
    let cases = recorded();
    let mut idle = Vec::new();
    for row in sentence::KEYS.iter().filter(|row| row.handling == Handling::Applied) {
        let changes = holders(&cases, row).into_iter().any(|(case, path, value)| {
            let texts = json!({"texts": case["texts"]});
            let mut asks = vec![json!({"inputs": texts})];
            if case.get("documents").is_some() {
                asks.push(json!({"inputs": texts, "task": "query"}));
            }
            let mut tried = vec![with(case, &path, row.key, None)];
            tried.extend(others(&value).iter().map(|other| with(case, &path, row.key, Some(other))));
            asks.iter().any(|ask| {
                let is = embedded(with(case, &path, row.key, Some(&value)).path(), ask);
                tried.iter().any(|dir| embedded(dir.path(), ask) != is)
            })
        });
        if !changes {
            idle.push(format!("{}: {}", row.file, row.key));
        }
    }
    // Rerankers are in `golden/folders`; the last two are other words for what is recorded under PyLate's own.
    let elsewhere = ["activation_fn", "query_expansion", "attend_to_mask_tokens"];
    idle.retain(|row| !elsewhere.iter().any(|key| *row == format!("config_sentence_transformers.json: {key}")));
    assert!(idle.is_empty(), "{idle:#?}");
}

/// The folder in which keys of a table can be set, and the file there.
fn base(file: &str) -> Option<(TempDir, String)> {
    let module = |kind: &str, i: usize| {
        let path = if i == 0 { String::new() } else { format!("{i}_{kind}") };
        json!({"type": format!("sentence_transformers.models.{kind}"), "path": path, "name": i.to_string(), "idx": i})
    };
    let pooling = json!({"word_embedding_dimension": 12, "pooling_mode": "mean"});
    if let Some(kind) = file.strip_suffix("/config.json") {
        let kinds =
            if kind == "SpladePooling" { vec!["MLMTransformer", kind] } else { vec!["Transformer", "Pooling", kind] };
        let at = if kind == "Pooling" { 1 } else { kinds.len() - 1 };
        let kinds = if kind == "Pooling" { vec!["Transformer", "Pooling"] } else { kinds };
        let list: Vec<Json> = kinds.iter().enumerate().map(|(i, kind)| module(kind, i)).collect();
        let mut files = json!({"modules.json": list, "1_Pooling/config.json": pooling});
        let path = format!("{at}_{kind}/config.json");
        if kind != "Pooling" {
            files[&path] = match kind {
                "Dense" => json!({"in_features": 12, "out_features": 2, "bias": false}),
                "LayerNorm" => json!({"dimension": 12}),
                _ => json!({}),
            };
        }
        let dir = sentences(&files);
        let weights: &[(&str, &[usize])] = match kind {
            "Dense" => &[("linear.weight", &[2, 12])],
            "LayerNorm" => &[("norm.weight", &[12]), ("norm.bias", &[12])],
            _ => &[],
        };
        let map: SavedMap = weights
            .iter()
            .map(|(name, shape)| ((*name).to_string(), Saved::f32(shape, &seeded(name, shape))))
            .collect();
        if !map.is_empty() {
            put(dir.path(), &path.replace("config.json", "model.safetensors"), safetensors_bytes(&map).unwrap());
        }
        return Some((dir, path));
    }
    let modules = json!([module("Transformer", 0), module("Pooling", 1)]);
    let files = json!({"modules.json": modules, "1_Pooling/config.json": pooling});
    Some(match file {
        "generation_config.json" => (writer(&json!({"max_new_tokens": 6})), file.into()),
        "modules.json" => return None,
        "config.json of timm"
        | "config.json: pretrained_cfg"
        | "preprocessor_config.json"
        | "processor_config.json"
        | "config.json: quantization_config"
        | "model.safetensors.index.json"
        | "tokenizer.json" => return None,
        _ => (sentences(&files), file.into()),
    })
}

/// Sets a key of a file in a folder.
fn set(dir: &Path, path: &str, key: &str, value: &Json) {
    let mut doc: Json =
        std::fs::read(dir.join(path)).map_or_else(|_| json!({}), |bytes| serde_json::from_slice(&bytes).unwrap());
    doc[key] = value.clone();
    put(dir, path, doc.to_string());
}

/// What a folder answers, whatever it does, with its notes.
fn outcome(dir: &Path) -> Result<Json, String> {
    let session = open(dir)?;
    let answer = if session.generates() {
        json!(session.write_tokens(&[8, 26, 34, 1], &GenerationOptions::default()).map_err(|e| e.to_string())?)
    } else {
        let request = json!({"inputs": {"texts": ["the cat sat on the mat .", "Hello World"]}});
        let answer = session.answer(&serde_json::from_value(request).unwrap()).map_err(|e| e.to_string())?;
        serde_json::to_value(answer.results).unwrap()
    };
    let notes: Vec<String> =
        session.notes().iter().chain(session.tokenizer().map_or(&[][..], |t| t.notes())).cloned().collect();
    Ok(json!([answer, notes]))
}

#[test]
fn what_is_refused_names_file_key_and_value() {
    let mut n = 0;
    for row in TABLES.iter().flat_map(|table| table.iter()) {
        let Handling::OnlyDefault(default) = row.handling else { continue };
        // Read in ColBERT's own folders alone, whose cases are in `golden/sentence_transformers/tokens.json`.
        if row.file == "artifact.metadata" {
            continue;
        }
        let value = if default == "true" { json!(false) } else { json!("otherwise") };
        let says = |error: &str| {
            let name = row.file.rsplit('/').next().unwrap().trim_start_matches("config.json: ");
            [name, row.key, "otherwise"].iter().all(|part| error.contains(part))
        };
        let error = match row.file {
            "preprocessor_config.json" => {
                let doc = json!({"image_processor_type": "ViTImageProcessor", row.key: value});
                Preprocessor::from_bytes(doc.to_string().as_bytes(), Path::new(row.file), None).unwrap_err().to_string()
            }
            "config.json: pretrained_cfg" => {
                let doc = json!({"architecture": "x", "pretrained_cfg": {row.key: value}});
                Preprocessor::from_timm(doc.to_string().as_bytes(), Path::new("config.json")).unwrap_err().to_string()
            }
            "tokenizer.json" => {
                let dir = sentences(&json!({}));
                set(dir.path(), row.file, row.key, &value);
                Tokenizer::load(dir.path(), None).unwrap_err().to_string()
            }
            "config.json: quantization_config" => {
                let mut own =
                    json!({"quant_method": "switchformer", "form": "nested_int", "stored_bits": 8, "views": [8]});
                own[row.key] = value;
                let dir = sentences(&json!({}));
                set(dir.path(), "config.json", "quantization_config", &own);
                open(dir.path()).err().unwrap()
            }
            file => {
                let (dir, path) = base(file).unwrap_or_else(|| panic!("no folder for {file}"));
                outcome(dir.path()).unwrap_or_else(|e| panic!("{file}: {e}"));
                set(dir.path(), &path, row.key, &value);
                let opened = open(dir.path());
                let error = opened.and_then(|s| s.tokenizer().map(drop).map_err(|e| e.to_string())).err();
                error.unwrap_or_else(|| panic!("{file}: {} is accepted", row.key))
            }
        };
        assert!(says(&error), "{}: {}: {error}", row.file, row.key);
        n += 1;
    }
    assert!(n >= 30, "{n} rows");
}

#[test]
fn what_has_no_effect_has_none() {
    let mut n = 0;
    let values = [json!(true), json!(7), json!("other"), json!([1, 2]), json!({"a": 1})];
    let config = NO_EFFECT.iter().chain(TABLES.iter().flat_map(|table| table.iter()));
    for row in config.filter(|row| row.handling == Handling::NoEffect) {
        let image = |doc: Json| match row.file {
            "preprocessor_config.json" => {
                Preprocessor::from_bytes(doc.to_string().as_bytes(), Path::new(row.file), None).unwrap()
            }
            "processor_config.json" => {
                Preprocessor::from_joint(doc.to_string().as_bytes(), Path::new(row.file), None).unwrap().unwrap()
            }
            _ => Preprocessor::from_timm(doc.to_string().as_bytes(), Path::new(row.file)).unwrap().unwrap(),
        };
        let vit = json!({"image_processor_type": "ViTImageProcessor"});
        let holding = |value: Option<&Json>| {
            let mut doc = match row.file {
                "preprocessor_config.json" => vit.clone(),
                "processor_config.json" => json!({"image_processor": vit}),
                _ => json!({"architecture": "x", "pretrained_cfg": {"input_size": [3, 32, 32]}}),
            };
            let inner = if row.file == "config.json: pretrained_cfg" { &mut doc["pretrained_cfg"] } else { &mut doc };
            value.iter().for_each(|value| inner[row.key] = (*value).clone());
            doc
        };
        n += 1;
        match row.file {
            "preprocessor_config.json" | "processor_config.json" | "config.json: pretrained_cfg" => {
                let plain = image(holding(None));
                values
                    .iter()
                    .for_each(|v| assert_eq!(image(holding(Some(v))), plain, "{}: {} = {v}", row.file, row.key));
            }
            TIMM => {
                let doc =
                    json!({"architecture": "swin", "model_args": {"embed_dim": 8, "depths": [1], "num_heads": [1]}});
                let plain = switchformer_zoo::timm::canonical(doc.clone()).unwrap();
                for value in &values {
                    let mut doc = doc.clone();
                    doc[row.key] = value.clone();
                    assert_eq!(switchformer_zoo::timm::canonical(doc).unwrap(), plain, "{}", row.key);
                }
            }
            // Tested with the list of shards.
            INDEX => {}
            "modules.json" => {
                let cases = read("golden/sentence_transformers/cases.json");
                let case = &cases[0];
                let ask = json!({"inputs": {"texts": case["texts"]}});
                let plain = embedded(with(case, "modules.json", row.key, None).path(), &ask);
                for value in &values {
                    let got = embedded(with(case, "modules.json", row.key, Some(value)).path(), &ask);
                    assert_eq!(got, plain, "{} = {value}", row.key);
                }
            }
            file => {
                let (dir, path) = base(file).unwrap_or_else(|| panic!("no folder for {file}"));
                let plain = outcome(dir.path()).unwrap_or_else(|e| panic!("{file}: {e}"));
                // What the family of this folder reads is not for this test.
                let reads = file == "config.json" && {
                    set(dir.path(), &path, row.key, &json!(1));
                    open(dir.path()).map_or(true, |s| !s.opened.config.unread().contains(&row.key))
                };
                let before = std::fs::read(dir.path().join(&path)).ok();
                for value in values.iter().filter(|_| !reads) {
                    set(dir.path(), &path, row.key, value);
                    let got = outcome(dir.path());
                    assert_eq!(got.as_ref(), Ok(&plain), "{file}: {} = {value}", row.key);
                    before.iter().for_each(|bytes| put(dir.path(), &path, bytes));
                }
            }
        }
    }
    assert!(n >= 240, "{n} rows");
}

#[test]
fn shards_are_where_the_list_says() {
    let dir = sentences(&json!({}));
    let whole = dir.path().join("model.safetensors");
    let plain = outcome(dir.path()).unwrap();
    let file = switchformer_nn::weights::inspect(&whole).unwrap();
    let names: Vec<String> = file.iter().map(|t| t.name.clone()).collect();
    let map: Map<String, Json> = names.iter().map(|name| (name.clone(), json!("one.safetensors"))).collect();
    std::fs::rename(&whole, dir.path().join("one.safetensors")).unwrap();
    let index = |doc: Json| put(dir.path(), INDEX, doc.to_string());
    for metadata in [json!(null), json!({"total_size": 3}), json!("other")] {
        index(json!({"weight_map": map, "metadata": metadata}));
        assert_eq!(outcome(dir.path()).unwrap(), plain);
    }
    index(json!({"weight_map": map, "colour": 1}));
    assert!(open(dir.path()).unwrap().notes().iter().any(|n| n.contains(INDEX) && n.contains("colour")));
    let mut other = map;
    other.insert(names[0].clone(), json!("two.safetensors"));
    index(json!({"weight_map": other}));
    assert!(open(dir.path()).err().unwrap().contains("two.safetensors"));
}

#[test]
fn keys_that_nobody_knows_are_noted_once() {
    let noted =
        |notes: &[String], file: &str| notes.iter().filter(|n| n.contains("`colour`") && n.contains(file)).count();
    let bytes = |doc: Json| doc.to_string().into_bytes();
    let vit = json!({"image_processor_type": "ViTImageProcessor", "colour": true});
    let steps = Preprocessor::from_bytes(&bytes(vit.clone()), Path::new("x"), None).unwrap();
    assert_eq!(noted(&steps.notes, "preprocessor_config.json"), 1);
    let both = json!({"image_processor": vit, "colour": 1});
    let steps = Preprocessor::from_joint(&bytes(both), Path::new("x"), None).unwrap().unwrap();
    assert_eq!((noted(&steps.notes, "processor_config.json"), steps.notes.len()), (2, 2));
    let timm = json!({"architecture": "x", "pretrained_cfg": {"colour": 1}});
    let steps = Preprocessor::from_timm(&bytes(timm), Path::new("x")).unwrap().unwrap();
    assert_eq!(noted(&steps.notes, "pretrained_cfg"), 1);
    let dir = sentences(&json!({}));
    set(dir.path(), "tokenizer_config.json", "colour", &json!([1]));
    assert_eq!(noted(Tokenizer::load(dir.path(), None).unwrap().notes(), "tokenizer_config.json"), 1);
    // Told to the first request alone.
    let session = open(dir.path()).unwrap();
    let ask = json!({"inputs": {"texts": ["the cat"]}});
    let heard = [said(&session, &ask), said(&session, &ask)].concat();
    assert_eq!(noted(&heard, "tokenizer_config.json"), 1);
    // What is read strictly is refused, in the reference too.
    for (key, value) in [("colour", json!([1])), ("normalizer", json!({"type": "Rainbow"}))] {
        let dir = sentences(&json!({}));
        set(dir.path(), "tokenizer.json", key, &value);
        let e = Tokenizer::load(dir.path(), None).unwrap_err().to_string();
        assert!(e.contains("tokenizer.json") && (e.contains("`colour`") || e.contains("`Rainbow`")), "{e}");
    }
}

/// The notes of an answer.
fn said(session: &Session, ask: &Json) -> Vec<String> {
    struct Heard(Vec<String>);
    impl switchformer_infer::Listener for Heard {
        fn note(&mut self, text: &str) {
            self.0.push(text.into());
        }
    }
    let mut heard = Heard(Vec::new());
    session.answer_to(&serde_json::from_value(ask.clone()).unwrap(), &mut heard).unwrap();
    heard.0
}

#[test]
fn options_that_turn_settings_off_are_noted() {
    let dir = writer(&json!({}));
    let base = root().join("golden/sentence_transformers/base/tokenizer.json");
    put(dir.path(), "tokenizer.json", std::fs::read(base).unwrap());
    put(dir.path(), "tokenizer_config.json", r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#);
    let notes = |settings: Json, options: Json| {
        put(dir.path(), "generation_config.json", settings.to_string());
        let ask = json!({"inputs": {"texts": ["the cat sat on the mat ."]}, "generation": options});
        said(&open(dir.path()).unwrap(), &ask)
    };
    let beams = json!({"num_beams": 3, "max_new_tokens": 4});
    assert!(notes(beams.clone(), json!({})).is_empty());
    assert!(notes(beams.clone(), json!({"temperature": 0.5}))[0].contains("3 beams off"));
    assert!(notes(beams, json!({"beams": 2})).is_empty());
    let draws = json!({"do_sample": true, "max_new_tokens": 4});
    assert!(notes(draws.clone(), json!({})).is_empty());
    assert!(notes(draws, json!({"beams": 2}))[0].contains("do_sample"));
    let told = notes(json!({"max_new_tokens": 4}), json!({"min_tokens": 9}));
    assert!(told[0].contains("at least 9") && told[0].contains("at most 4"), "{told:?}");
    assert!(notes(json!({"max_new_tokens": 4, "min_length": 9}), json!({"min_tokens": 3})).is_empty());
    // Searches with no beam at all, and start tokens for other samples.
    put(dir.path(), "generation_config.json", r#"{"num_beams": 0}"#);
    let e = open(dir.path()).err().unwrap();
    assert!(e.contains("generation_config.json") && e.contains("num_beams") && e.contains('0'), "{e}");
    put(dir.path(), "generation_config.json", r#"{"decoder_start_token_id": [5, 6], "max_new_tokens": 4}"#);
    let session = open(dir.path()).unwrap();
    let e = session.write_tokens(&[3, 1], &GenerationOptions::default()).unwrap_err().to_string();
    assert!(e.contains("2 tokens for 1 samples"), "{e}");
    let texts = ["the cat sat on the mat .", "a dog runs"];
    let tokens = |session: &Session, texts: &[&str]| {
        let ask = serde_json::from_value(json!({"inputs": {"texts": texts}})).unwrap();
        session.answer(&ask).unwrap().results.into_iter().map(|r| r.tokens.unwrap()).collect::<Vec<_>>()
    };
    let both = tokens(&session, &texts);
    for (i, start) in [5, 6].into_iter().enumerate() {
        let own = json!({"decoder_start_token_id": [start], "max_new_tokens": 4});
        put(dir.path(), "generation_config.json", own.to_string());
        assert_eq!(tokens(&open(dir.path()).unwrap(), &texts[i..=i])[0], both[i]);
    }
    assert_ne!(both[0], both[1]);
}

#[test]
fn an_account_tells_values_and_what_a_class_passes_over() {
    let dir = sentences(&json!({}));
    let session = open(dir.path()).unwrap();
    let told = account(&Folder::disk(dir.path()).unwrap(), &session).unwrap();
    let of = |file: &str, key: &str| {
        told.iter().find(|a| a.file == file && a.key == key).map(|a| (a.value.as_str(), a.handling))
    };
    assert_eq!(of("config.json", "hidden_size"), Some(("12", "applied")));
    assert_eq!(of("tokenizer_config.json", "model_max_length"), Some(("20", "applied")));
    assert_eq!(of("tokenizer.json", "model"), Some(("WordPiece", "applied")));
    // BertTokenizer builds its own.
    assert_eq!(of("tokenizer.json", "normalizer"), Some(("BertNormalizer", "no effect")));
    set(dir.path(), "tokenizer_config.json", "tokenizer_class", &json!("PreTrainedTokenizerFast"));
    let session = open(dir.path()).unwrap();
    let told = account(&Folder::disk(dir.path()).unwrap(), &session).unwrap();
    assert!(told.iter().any(|a| a.key == "normalizer" && a.handling == "applied"));
    let kinds = [KEYS.len(), TOKENIZER_KEYS.len(), IMAGE_KEYS.len(), SETTINGS.len()];
    assert!(kinds.iter().all(|n| *n > 40));
    // A pass of a model still runs: the folder is whole.
    let input = Input::tokens(&[[2u32, 5, 3]]).unwrap();
    session.opened.run(&Point::new(), &input).unwrap();
}
