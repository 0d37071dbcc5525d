//! The binary as a user meets it: real processes, exit codes, one JSON document, errors that help.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use switchformer::nn::Weights;
use switchformer::nn::store::{Saved, SavedMap, safetensors_bytes, write_folder};
use switchformer::zoo::find;
use switchformer::zoo::save::{json_bytes, published_tensors};

fn run_in(dir: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_switchformer")).args(args).current_dir(dir).output().unwrap()
}

fn run(args: &[&str]) -> Output {
    run_in(Path::new("."), args)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Standard output as exactly one JSON document.
fn document(out: &Output) -> Value {
    assert!(out.status.success(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&out.stdout)))
}

#[track_caller]
fn fails(args: &[&str], code: i32, says: &[&str]) {
    let out = run(args);
    let err = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
    for s in says {
        assert!(err.contains(s), "{args:?} must say {s:?}: {err}");
    }
}

/// A folder with a small seeded model of a family.
fn toy(dir: &Path, family: &str) {
    let entry = find(family).unwrap();
    let mut config: Value = serde_json::from_str(entry.toy).unwrap();
    let w = Weights::seeded().trainable();
    (entry.load)(&switchformer::nn::config::ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let architecture = config["architectures"][0].as_str().unwrap().to_string();
    let tensors = published_tensors(entry, &architecture, &w.params()).unwrap();
    config["architectures"] = json!([architecture]);
    let files = [("config.json", json_bytes(&config)), ("model.safetensors", safetensors_bytes(&tensors).unwrap())];
    write_folder(dir, &files).unwrap();
}

#[test]
fn help_and_version_are_no_errors() {
    let help = run(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("tour"));
    assert!(run(&["--version"]).status.success());
}

#[test]
fn wrong_use_says_what_would_be_right() {
    fails(&["--frobnicate"], 1, &["--frobnicate"]);
    fails(&["tuor"], 1, &["tour"]);
    fails(&["run", "default"], 1, &["--text", "--image", "--tensors"]);
    fails(&["run", "default", "--text", "x"], 1, &["reads images"]);
    fails(&["describe", "bret"], 1, &["bert"]);
    fails(&["bench", "no-such-size"], 1, &["no-such-size", "list"]);
    fails(&["bench", "default", "--point", "fastest"], 1, &["fastest", "JSON"]);
    fails(&["bench", "default", "--point", "{\"bit\":4}"], 1, &["bit", "bits", "tokens", "exit"]);
    fails(&["bench", "default", "--point", "{\"bits\":5}"], 1, &["5", "[8, 6, 4, 2]"]);
    fails(&["bench", "default", "--point", "{\"exit\":9}"], 1, &["9", "6 blocks"]);
    fails(&["train", "no-such.toml"], 2, &["no-such.toml"]);
}

#[test]
fn bad_files_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let missing = temp.path().join("missing");
    fails(&["points", missing.to_str().unwrap()], 2, &["missing"]);
    fails(&["inspect", missing.to_str().unwrap()], 2, &["missing"]);
    fails(&["points", temp.path().to_str().unwrap()], 2, &["config.json"]);
    let picture = temp.path().join("x.png");
    std::fs::write(&picture, b"not a picture").unwrap();
    fails(&["run", "default", "--image", picture.to_str().unwrap()], 2, &["x.png"]);
}

#[test]
fn the_registry_is_shown() {
    let list = document(&run(&["list", "--json"]));
    assert!(list["models"].as_array().unwrap().len() >= 6);
    assert!(text(&run(&["list"]).stdout).contains("bert-base-uncased"));
    assert_eq!(document(&run(&["describe", "vit", "--json"]))["name"], "vit");
    let points = document(&run(&["points", "default", "--json"]));
    let axes: Vec<_> = points["axes"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(axes, ["bits", "experts", "tokens", "exit"]);
    assert_eq!(document(&run(&["doctor", "--json"]))["embedded_model"]["well"], true);
    assert!(text(&run(&["completions", "bash"]).stdout).contains("switchformer"));
}

#[test]
fn tensors_go_in_and_come_out_padded() {
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("bert");
    toy(&model, "bert");
    let ints = |v: &[i64]| Saved {
        dtype: safetensors::Dtype::I64,
        shape: vec![2, 4],
        bytes: v.iter().flat_map(|x| x.to_le_bytes()).collect(),
    };
    let input = SavedMap::from([
        ("input_ids".to_string(), ints(&[5, 6, 7, 8, 9, 10, 0, 0])),
        ("attention_mask".to_string(), ints(&[1, 1, 1, 1, 1, 1, 0, 0])),
    ]);
    let file = temp.path().join("in.safetensors");
    std::fs::write(&file, safetensors_bytes(&input).unwrap()).unwrap();
    let args = ["run", "bert", "--tensors", "in.safetensors", "--out", "out.safetensors", "--json"];
    let doc = document(&run_in(temp.path(), &args));
    assert_eq!(doc["results"].as_array().unwrap().len(), 2);
    let shown = document(&run_in(temp.path(), &["inspect", "out.safetensors", "--json"]));
    assert_eq!(shown["tensors"][0]["name"], "logits");
    assert_eq!(shown["tensors"][0]["shape"], json!([2, 3]));
    // The same through nested weights at 2 bits differs; at 8 bits it is close.
    let nested = |point: &str| {
        document(&run_in(
            temp.path(),
            &["run", "bert", "--tensors", "in.safetensors", "--nested", "--point", point, "--json"],
        ))
    };
    assert_ne!(nested("{\"bits\":2}")["results"], nested("{\"bits\":8}")["results"]);

    let wrong = SavedMap::from([("inputs".to_string(), ints(&[0; 8]))]);
    std::fs::write(&file, safetensors_bytes(&wrong).unwrap()).unwrap();
    let out = run_in(temp.path(), &["run", "bert", "--tensors", "in.safetensors"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("input_ids"));
}

#[test]
fn a_picture_is_classified_at_any_point() {
    let temp = tempfile::tempdir().unwrap();
    let set = switchformer::data::embedded_fashion().unwrap();
    let file = temp.path().join("first.png");
    let pixels = image::GrayImage::from_raw(28, 28, set.image(0).unwrap().to_vec()).unwrap();
    pixels.save(&file).unwrap();
    let point = "{\"bits\":4,\"exit\":3,\"tokens\":{\"method\":\"zero-tprune\",\"keep\":0.8,\"after\":[1,2]}}";
    let doc =
        document(&run(&["run", "default", "--image", file.to_str().unwrap(), "--point", point, "--trace", "--json"]));
    let best = &doc["results"][0]["labels"][0];
    assert!(best["probability"].as_f64().unwrap() > 0.1);
    let switches: Vec<_> = doc["trace"].as_array().unwrap().iter().map(|d| d["switch"].as_str().unwrap()).collect();
    assert_eq!(switches, ["tokens", "tokens", "exit"]);
}

#[test]
fn the_tour_measures_and_reports() {
    let temp = tempfile::tempdir().unwrap();
    let doc = document(&run_in(temp.path(), &["tour", "--images", "64", "--reps", "1", "--json"]));
    let points = doc["points"].as_array().unwrap();
    assert!(points.len() >= 12);
    let fields = [
        "point",
        "accuracy",
        "accuracy_ci",
        "ms_batch1",
        "ms_batch32",
        "images_per_s",
        "flops",
        "weight_bytes",
        "pareto",
    ];
    for p in points {
        fields.iter().for_each(|f| assert!(!p[f].is_null(), "{f} is missing in {p}"));
    }
    assert!(points.iter().any(|p| p["pareto"] == true));
    let html = std::fs::read_to_string(temp.path().join("report.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("</html>"));
    let outside = ["src=\"http", "href=\"http", "@import", "url(http"];
    assert!(outside.iter().all(|o| !html.contains(o)), "the report loads something from outside");
}

#[test]
fn text_goes_through_the_real_tokenizer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rxnmapper-albert");
    let doc = document(&run(&["run", folder.to_str().unwrap(), "--text", "CC(=O)O.CCO>>CC(=O)OCC", "--json"]));
    assert_eq!(doc["outputs"]["logits"]["rows"].as_array().unwrap().len(), 1);
}

/// A word-piece tokenizer shaped as T5's: spaces become part of the words, the text ends in `</s>`.
fn unigram() -> Value {
    let special = ["<pad>", "</s>", "<unk>"];
    let mut vocab: Vec<Value> = special.iter().map(|t| json!([t, 0.0])).collect();
    vocab.extend((3..50).map(|i| json!([format!("\u{2581}w{i}"), -3.0])));
    let added = special.iter().enumerate().map(|(id, t)| {
        json!({"id": id, "content": t, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true})
    });
    let space = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let end = json!({"SpecialToken": {"id": "</s>", "type_id": 0}});
    let part = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": space, "decoder": space,
        "post_processor": {"type": "TemplateProcessing", "single": [part("A"), end], "pair": [part("A"), end, part("B"), end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "model": {"type": "Unigram", "unk_id": 2, "vocab": vocab, "byte_fallback": false},
    })
}

#[test]
fn an_encoder_decoder_writes_text_and_takes_both_tensors() {
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("t5");
    toy(&model, "t5");
    let dir = model.to_str().unwrap().to_string();
    fails(&["run", &dir, "--text", "w7"], 2, &["tokenizer"]);
    std::fs::write(model.join("tokenizer.json"), unigram().to_string()).unwrap();

    let text = |n: &str| document(&run(&["run", &dir, "--text", "w7 w9", "--text", "w3", "--max-tokens", n, "--json"]));
    let doc = text("5");
    let opened = switchformer::zoo::Opened::open(&model, Default::default()).unwrap();
    let input = switchformer::nn::Input::tokens(&[vec![7u32, 9, 1], vec![3, 1]]).unwrap();
    let (written, trace) = opened.generate(&switchformer::nn::Point::new(), &input, 5).unwrap();
    assert_eq!(doc["macs"], json!(trace.macs));
    for (answer, tokens) in doc["results"].as_array().unwrap().iter().zip(&written) {
        assert_eq!(answer["tokens"], json!(tokens));
        let words: Vec<String> = tokens.iter().filter(|t| **t > 2).map(|t| format!("w{t}")).collect();
        assert_eq!(answer["text"], json!(words.join(" ")), "{doc}");
    }
    assert!(written.iter().all(|w| w.len() == 5) && text("2")["results"][0]["tokens"].as_array().unwrap().len() == 2);

    let (tensors, out) = (temp.path().join("in.safetensors"), temp.path().join("out.safetensors"));
    let (tensors, out) = (tensors.to_str().unwrap(), out.to_str().unwrap());
    let mut map = SavedMap::new();
    let put = |map: &mut SavedMap, name: &str, shape: &[usize], v: &[f32]| {
        drop(map.insert(name.into(), Saved::f32(shape, v)))
    };
    put(&mut map, "input_ids", &[2, 3], &[7.0, 9.0, 1.0, 3.0, 1.0, 0.0]);
    put(&mut map, "attention_mask", &[2, 3], &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    std::fs::write(tensors, safetensors_bytes(&map).unwrap()).unwrap();
    fails(&["run", &dir, "--tensors", tensors], 2, &["decoder_input_ids"]);
    put(&mut map, "decoder_input_ids", &[2, 4], &[0.0, 5.0, 6.0, 8.0, 0.0, 5.0, 0.0, 0.0]);
    put(&mut map, "decoder_attention_mask", &[2, 4], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    std::fs::write(tensors, safetensors_bytes(&map).unwrap()).unwrap();
    let doc = document(&run(&["run", &dir, "--tensors", tensors, "--out", out, "--json"]));
    assert_eq!(doc["outputs"]["logits"]["rows"], json!([4, 2]));
    let shapes: Vec<_> = switchformer::nn::weights::inspect(Path::new(out)).unwrap();
    let shapes: Vec<_> = shapes.into_iter().map(|s| (s.name, s.shape)).collect();
    let want = [("encoder_last_hidden_state", vec![2, 3, 32]), ("logits", vec![2, 4, 50])];
    assert_eq!(shapes, want.map(|(n, s)| (n.to_string(), s)));

    fails(&["run", &dir, "--text", "w3", "--max-tokens", "0"], 2, &["tokens to write"]);
    fails(&["run", &dir, "--tensors", tensors, "--beams", "3"], 1, &["--beams", "--text"]);
    fails(&["run", &dir, "--text", "w3", "--out", out], 1, &["--tensors"]);
    fails(&["run", &dir, "--tensors", tensors, "--max-tokens", "3"], 1, &["--text"]);
}

#[test]
fn a_text_is_written_by_beams_by_chance_or_as_it_grows() {
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("switch");
    toy(&model, "switch_transformers");
    std::fs::write(model.join("tokenizer.json"), unigram().to_string()).unwrap();
    let dir = model.to_str().unwrap().to_string();
    let base = ["run", &dir, "--text", "w7 w9", "--max-tokens", "6"].map(str::to_string);
    let with =
        |more: &[&str]| -> Vec<String> { base.iter().cloned().chain(more.iter().map(|m| m.to_string())).collect() };
    let run_with = |more: &[&str]| run(&with(more).iter().map(String::as_str).collect::<Vec<_>>());
    let best = |more: &[&str]| document(&run_with(&[more, &["--json"]].concat()))["results"][0].clone();

    let plain = best(&[]);
    assert!(plain.get("score").is_none() && plain["end"] == json!("length"), "{plain}");
    let beams = best(&["--beams", "3", "--length-penalty", "-1.5", "--early-stopping", "never"]);
    assert!(beams["score"].as_f64().unwrap() < 0.0, "{beams}");
    let drawn = |seed: &str| best(&["--temperature", "3", "--top-k", "40", "--top-p", "0.99", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert!(["2", "3", "4"].iter().any(|s| drawn(s) != drawn("1")));

    // The text as it grows is the text; a stop text and what follows are left out.
    let words = plain["text"].as_str().unwrap();
    let shown = |more: &[&str]| text(&run_with(more).stdout);
    assert_eq!(shown(&["--stream"]), format!("{words}\n"));
    let second = words.split(' ').nth(1).unwrap();
    let cut = best(&["--stop", second]);
    assert_eq!((cut["text"].as_str().unwrap(), &cut["end"]), (&words[..words.find(second).unwrap()], &json!("stop")));
    assert_eq!(shown(&["--stop", second, "--stream"]), format!("{}\n", cut["text"].as_str().unwrap()));
    let shown = shown(&["--point", r#"{"experts":{"router":"fixed","expert":1}}"#, "--trace"]);
    assert!(shown.contains("decision blocks.1.ffn experts member 0: {\"dropped\":0,\"load\":{\"1\":3}}"), "{shown}");
    let points = text(&run(&["points", &dir]).stdout);
    for word in ["experts", "learned", "top_k", "grain"] {
        assert!(points.contains(word), "{points}");
    }

    for (flags, code, word) in [
        (&["--temperature", "0"][..], 2, "temperature"),
        (&["--top-p", "1.5"], 2, "top_p"),
        (&["--top-k", "0"], 2, "top_k"),
        (&["--beams", "1"], 2, "beams"),
        (&["--beams", "3", "--length-penalty", "inf"], 2, "length penalty"),
        (&["--beams", "3", "--early-stopping", "maybe"], 1, "early-stopping"),
        (&["--beams", "3", "--temperature", "1"], 1, "temperature"),
        (&["--length-penalty", "1"], 1, "--beams"),
        (&["--stop", ""], 1, "--stop"),
        (&["--stream", "--json"], 1, "--stream"),
        (&["--point", r#"{"exit":3}"#], 1, "every block"),
    ] {
        fails(&with(flags).iter().map(String::as_str).collect::<Vec<_>>(), code, &[word]);
    }
}

#[test]
fn a_dense_model_is_upcycled() {
    let temp = tempfile::tempdir().unwrap();
    let (dense, wide) = (temp.path().join("bert"), temp.path().join("wide"));
    toy(&dense, "bert");
    let (dense, wide) = (dense.to_str().unwrap(), wide.to_str().unwrap());
    let doc = document(&run(&["compress", dense, "--upcycle", "4", "--top-k", "2", "--out", wide, "--json"]));
    assert!(doc["params"].as_u64().unwrap() > 2 * doc["params_before"].as_u64().unwrap(), "{doc}");
    let points = text(&run(&["points", wide]).stdout);
    assert!(points.contains("top_k\":1..4} (rests at 2") && points.contains("\"expert\":0..3"), "{points}");
    assert!(text(&run(&["points", dense]).stdout).contains("--upcycle"));
    fails(&["compress", dense, "--upcycle", "4", "--out", wide], 2, &["exists"]);
    fails(&["compress", dense, "--upcycle", "0", "--out", "new"], 2, &["count"]);
    fails(&["compress", dense, "--out", "new"], 1, &["--upcycle"]);
}
