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

/// Half-precision weights are read into panels from the file and held in no other form; tables stay in the file.
#[test]
#[cfg(target_os = "linux")]
fn opening_takes_the_file_and_the_panels() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    toy(dir, "bert");
    let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    for (key, value) in [("vocab_size", 40_000), ("hidden_size", 512), ("intermediate_size", 2_048)] {
        config[key] = json!(value);
    }
    // The tensors of the larger model, all zeros in bf16.
    let w = Weights::seeded().trainable();
    let (map, entry) = (switchformer::nn::config::ConfigMap::new(config.clone()).unwrap(), find("bert").unwrap());
    (entry.load)(&map, &w).unwrap();
    let shapes: Vec<(String, Vec<usize>)> =
        published_tensors(entry, config["architectures"][0].as_str().unwrap(), &w.params())
            .unwrap()
            .into_iter()
            .map(|(name, t)| (name, t.shape))
            .collect();
    let zeros: Vec<Vec<u8>> = shapes.iter().map(|(_, s)| vec![0; 2 * s.iter().product::<usize>()]).collect();
    let views = shapes.iter().zip(&zeros).map(|((name, shape), bytes)| {
        (name.clone(), safetensors::tensor::TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let got = document(&run_in(dir, &["inspect", ".", "--memory", "--json"]));
    let of = |key: &str| got[key].as_u64().unwrap();
    let (file, panels, spare) = (of("tensor_bytes"), of("packed_bytes"), 32 << 20);
    assert!(file > 40 << 20 && panels > 10 << 20, "{got}");
    assert!(of("opening_peak_bytes") <= spare, "{got}");
    assert!(of("pass_peak_bytes") <= panels + spare, "{got}");
    fails(&["inspect", "Cargo.toml", "--memory"], 1, &["Cargo.toml"]);
}

#[test]
fn help_and_version_are_no_errors() {
    let help = run(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("tour"));
    assert!(run(&["--version"]).status.success());
}

#[test]
fn bad_files_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let missing = temp.path().join("missing");
    fails(&["points", missing.to_str().unwrap()], 1, &["missing"]);
    fails(&["inspect", missing.to_str().unwrap()], 1, &["missing"]);
    fails(&["points", temp.path().to_str().unwrap()], 1, &["config.json"]);
    let picture = temp.path().join("x.png");
    std::fs::write(&picture, b"not a picture").unwrap();
    fails(&["run", "default", "--image", picture.to_str().unwrap()], 1, &["x.png"]);
}

#[test]
fn companions_of_a_checkpoint_are_read_as_strictly_as_its_config() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("vit");
    toy(&folder, "vit");
    let cat = format!("{}/crates/data/tests/fixtures/cat.png", env!("CARGO_MANIFEST_DIR"));
    let size = r#""image_processor_type": "ViTImageProcessor", "size": {"height": 8, "width": 8}"#;
    let deep = format!("{{{size}, \"x\": {}{}}}", "[".repeat(60), "]".repeat(60));
    for (config, says) in [(deep, "nested deeper than 32"), (format!("{{{size}, {size}}}"), "duplicate key")] {
        std::fs::write(folder.join("preprocessor_config.json"), config).unwrap();
        fails(&["run", folder.to_str().unwrap(), "--image", &cat], 1, &["preprocessor_config.json", says]);
    }
}

#[test]
fn the_registry_is_shown() {
    let list = document(&run(&["list", "--json"]));
    assert!(list["models"].as_array().unwrap().len() >= 6);
    assert!(text(&run(&["list"]).stdout).contains("bert-base-uncased"));
    assert_eq!(document(&run(&["describe", "vit", "--json"]))["name"], "vit");
    let points = document(&run(&["points", "default", "--json"]));
    let axes: Vec<_> = points["switches"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
    assert_eq!(axes, ["bits", "activation_bits", "task", "experts", "heads", "tokens", "exit"]);
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
    assert_eq!(out.status.code(), Some(2));
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
fn a_request_is_answered_as_by_the_library() {
    use switchformer::infer::{Image, Inputs, Request, Session};
    let cat = format!("{}/crates/data/tests/fixtures/cat.png", env!("CARGO_MANIFEST_DIR"));
    let home = format!("{}/assets/default", env!("CARGO_MANIFEST_DIR"));
    let session = Session::open(Path::new(&home), Default::default()).unwrap();
    let mut request = Request::new(Inputs::Images(vec![Image::file(Path::new(&cat))]));
    (request.point, request.trace) = (Some(json!({"exit": 3})), true);
    // Through text, as what is printed.
    let want = json!(session.answer(&request).unwrap()).to_string();
    let want: Value = serde_json::from_str(&want).unwrap();
    let args = ["run", "default", "--image", &cat, "--point", "{\"exit\":3}", "--trace", "--json"];
    let doc = document(&run(&args));
    for field in ["point", "outputs", "results", "macs", "trace"] {
        assert_eq!(doc[field], want[field], "{field}");
    }
    fails(&["run", "default", "--image", &cat, "--beams", "3"], 2, &["--beams is for --text to a model that writes"]);
}

#[test]
fn the_tour_measures_and_reports() {
    let temp = tempfile::tempdir().unwrap();
    let albert = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/rxnmapper-albert");
    let reactions = ["CCO>>CC=O", "CC(=O)O.CCO>>CC(=O)OCC", "C=C>>CC", "CCBr.N>>CCN", "c1ccccc1>>C1CCCCC1"];
    std::fs::write(temp.path().join("texts.txt"), reactions.join("\n")).unwrap();
    std::fs::create_dir(temp.path().join("imgs")).unwrap();
    for name in ["cat.png", "gray.jpg"] {
        let from = format!("{}/crates/data/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::copy(from, temp.path().join("imgs").join(name)).unwrap();
    }
    let labelled = ["tour", "--images", "32", "--rounds", "3", "--json"];
    let texts = ["tour", "--model", albert.to_str().unwrap(), "--text", "texts.txt", "--rounds", "3", "--json"];
    let images = ["tour", "--image", "imgs", "example:3", "--rounds", "3", "--json"];
    for (args, quality, n) in [(&labelled[..], "accuracy", 32), (&texts, "agreement", 5), (&images, "agreement", 3)] {
        let doc = document(&run_in(temp.path(), args));
        let (tour, points) = (&doc["tour"], doc["tour"]["points"].as_array().unwrap());
        assert_eq!(
            (&tour["quality"], &points[0]["name"], &points[0]["n"]),
            (&json!(quality), &json!("full"), &json!(n))
        );
        assert_eq!((&points[0]["verdict"], &points[0]["speedup_batch32"]["median"]), (&json!("full"), &json!(1.0)));
        assert!(quality == "accuracy" || points[0]["quality"] == 1.0);
        assert!(points.iter().any(|p| p["front"] == true) && points.len() >= 3, "{doc}");
        for p in points {
            let (flops, ms) = (p["flops"].as_f64().unwrap(), p["ms_batch32"]["median"].as_f64().unwrap());
            assert!(flops > 0.0 && ms > 0.0 && !p["about"].as_str().unwrap().is_empty(), "{p}");
            // Every name that is printed can be used.
            let name = p["name"].as_str().unwrap();
            let model = if quality == "agreement" && n == 5 { albert.to_str().unwrap() } else { "default" };
            let shown = document(&run_in(temp.path(), &["points", model, "--json"]));
            assert_eq!(shown["points"][name]["point"], p["point"]);
        }
        assert!(doc["advice"]["headline"].as_str().unwrap().contains(&n.to_string()), "{doc}");
        assert!(n >= 30 || (doc["advice"]["command"].is_null() && doc["tour"]["recommended"].is_null()), "{doc}");
        let html = std::fs::read_to_string(temp.path().join("report.html")).unwrap();
        assert!(
            html.contains("<svg")
                && html.contains("</html>")
                && html.contains(doc["setting"]["date"].as_str().unwrap())
        );
        let outside = ["src=\"http", "href=\"http", "@import", "url(http", "<script src", "<link"];
        assert!(outside.iter().all(|o| !html.contains(o)), "the report loads something from outside");
        // A plot for wide windows and one for narrow ones, twice; light and dark by the page's own colours.
        assert_eq!(
            (html.matches("class=\"plot wide\"").count(), html.matches("class=\"plot narrow\"").count()),
            (2, 2)
        );
        assert!(html.contains("prefers-color-scheme:dark") && html.contains("fill:var(--fg)"));
    }
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
    fails(&["run", &dir, "--text", "w7"], 1, &["tokenizer"]);
    std::fs::write(model.join("tokenizer.json"), unigram().to_string()).unwrap();

    let text = |n: &str| document(&run(&["run", &dir, "--text", "w7 w9", "--text", "w3", "--max-tokens", n, "--json"]));
    let doc = text("5");
    let opened = switchformer::zoo::Opened::open(&model, Default::default()).unwrap();
    let input = switchformer::nn::Input::tokens(&[vec![7u32, 9, 1], vec![3, 1]]).unwrap();
    let (written, trace) =
        switchformer::infer::generate::greedy(&opened, &switchformer::nn::Point::new(), &input, 5).unwrap();
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
    fails(&["run", &dir, "--tensors", tensors], 1, &["decoder_input_ids"]);
    put(&mut map, "decoder_input_ids", &[2, 4], &[0.0, 5.0, 6.0, 8.0, 0.0, 5.0, 0.0, 0.0]);
    put(&mut map, "decoder_attention_mask", &[2, 4], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    std::fs::write(tensors, safetensors_bytes(&map).unwrap()).unwrap();
    let doc = document(&run(&["run", &dir, "--tensors", tensors, "--out", out, "--json"]));
    assert_eq!(doc["outputs"]["logits"]["rows"], json!([4, 2]));
    let shapes: Vec<_> = switchformer::nn::weights::inspect(Path::new(out)).unwrap();
    let shapes: Vec<_> = shapes.into_iter().map(|s| (s.name, s.shape)).collect();
    let want = [("encoder_last_hidden_state", vec![2, 3, 32]), ("logits", vec![2, 4, 50])];
    assert_eq!(shapes, want.map(|(n, s)| (n.to_string(), s)));

    fails(&["run", &dir, "--text", "w3", "--max-tokens", "0"], 1, &["tokens to write"]);
    fails(&["run", &dir, "--tensors", tensors, "--beams", "3"], 2, &["--beams", "--text"]);
    fails(&["run", &dir, "--text", "w3", "--out", out], 2, &["--tensors"]);
    fails(&["run", &dir, "--tensors", tensors, "--max-tokens", "3"], 2, &["--text"]);
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
        (&["--temperature", "0"][..], 1, "temperature"),
        (&["--top-p", "1.5"], 1, "top_p"),
        (&["--top-k", "0"], 1, "top_k"),
        (&["--beams", "0"], 1, "beams"),
        (&["--beams", "3", "--length-penalty", "inf"], 1, "length penalty"),
        (&["--beams", "3", "--early-stopping", "maybe"], 2, "early-stopping"),
        (&["--beams", "3", "--temperature", "1"], 2, "temperature"),
        (&["--length-penalty", "1"], 2, "--beams"),
        (&["--stop", ""], 2, "--stop"),
        (&["--stream", "--json"], 2, "--stream"),
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
    let doc =
        document(&run(&["compress", "upcycle", dense, "--experts", "4", "--top-k", "2", "--out", wide, "--json"]));
    assert!(doc["params"].as_u64().unwrap() > 2 * doc["params_before"].as_u64().unwrap(), "{doc}");
    let points = text(&run(&["points", wide]).stdout);
    assert!(points.contains("top_k\":1..4} (rests at 2") && points.contains("\"expert\":0..3"), "{points}");
    assert!(text(&run(&["points", dense]).stdout).contains("compress upcycle"));
    fails(&["compress", "upcycle", dense, "--experts", "4", "--out", wide], 1, &["exists"]);
    fails(&["compress", "upcycle", dense, "--experts", "0", "--out", "new"], 1, &["count"]);
    fails(&["compress", "upcycle", dense, "--out", "new"], 2, &["--experts"]);
    // What were flags names its subcommand, wherever it stands.
    for (flags, form) in [
        (&["--upcycle", "4"][..], "compress upcycle MODEL --experts N"),
        (&["--fold"], "compress fold MODEL"),
        (&["--trim-vocab=x"], "compress trim-vocab MODEL --texts PATH"),
        (&["--hash-attention"], "compress hash-attention MODEL"),
    ] {
        fails(
            &[&["compress", dense], flags, &["--out", "new"]].concat(),
            2,
            &[flags[0].split('=').next().unwrap(), form],
        );
        fails(&[&["compress"], flags, &[dense, "--out", "new"]].concat(), 2, &[form]);
    }
    fails(&["compress", "fold", dense, "--upcycle", "4", "--out", "new"], 2, &["unexpected argument '--upcycle'"]);
    fails(&["compress", "hash-attention", dense, "--out", "new"], 2, &["--image", "--tensors"]);
    assert!(
        ["fold", "trim-vocab", "upcycle", "hash-attention"]
            .iter()
            .all(|form| text(&run(&["compress", "--help"]).stdout).contains(form))
    );
}

/// The inputs of the metrics' fixture as files, and what the public scorers said.
fn scored(dir: &Path) -> Value {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/lab/tests/fixtures/metrics/metrics.json");
    let cases: Value = serde_json::from_slice(&std::fs::read(fixture).unwrap()).unwrap();
    let put = |name: &str, lines: &Value| {
        let lines: Vec<&str> = lines.as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
        std::fs::write(dir.join(name), lines.join("\n") + "\n").unwrap();
    };
    let corpus = &cases["corpora"]["two"];
    put("hyp", &corpus["hyp"]);
    put("hyp2", &cases["corpora"]["other"]["hyp"]);
    put("ref0", &corpus["refs"][0]);
    put("ref1", &corpus["refs"][1]);
    put("truth", &cases["labels"]["truth"]);
    put("labels", &cases["labels"]["systems"][0]["given"]);
    put("labels2", &cases["labels"]["systems"][1]["given"]);
    cases
}

#[test]
fn answers_in_files_are_scored_as_by_the_public_scorers() {
    let dir = tempfile::tempdir().unwrap();
    let cases = scored(dir.path());
    let eval = |args: &str| {
        let args: Vec<&str> = ["eval", "--json"].into_iter().chain(args.split(' ')).collect();
        document(&run_in(dir.path(), &args))
    };
    let near = |got: &Value, want: &Value| {
        let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
        assert!((got - want).abs() < 1e-10 * want.abs().max(1.0), "{got} {want}");
    };
    let bleu = |tok: &str, smooth: &str, lc: bool| {
        let wanted = |c: &&Value| {
            c["corpus"] == "two" && c["tok"] == tok && c["smooth"] == smooth && c["value"].is_null() && c["lc"] == lc
        };
        cases["bleu"].as_array().unwrap().iter().filter(wanted).find(|c| c["eff"] == false).unwrap().clone()
    };
    for (args, want) in
        [("", bleu("13a", "exp", false)), (" --tokenize intl --smooth add-k --lowercase", bleu("intl", "add-k", true))]
    {
        let doc = eval(&format!("--metric bleu --hyp hyp --ref ref0 ref1{args}"));
        near(&doc["scores"][0]["score"], &want["score"]);
        near(&doc["details"]["brevity_penalty"], &want["bp"]);
        let signature = doc["signature"].as_str().unwrap();
        assert!(signature.starts_with(&format!("{}|version:switchformer-", want["signature"].as_str().unwrap())));
        let [low, score, high] = ["low", "score", "high"].map(|k| doc["scores"][0][k].as_f64().unwrap());
        assert!(low < score && score < high, "{doc}");
    }
    for (metric, words) in [("chrf", 0), ("chrf++", 2)] {
        let doc = eval(&format!("--metric {metric} --hyp hyp --ref ref0 --ref ref1 --resamples 10"));
        let chrf = cases["chrf"].as_array().unwrap().iter();
        let want = chrf.filter(|c| c["corpus"] == "two" && c["words"] == words).find(|c| c["lc"] == false).unwrap();
        near(&doc["scores"][0]["score"], &want["score"]);
    }
    let doc = eval("--metric accuracy --hyp labels --against labels2 --ref truth");
    let [first, second] = [0, 1].map(|i| &cases["labels"]["systems"][i]);
    near(&doc["scores"][0]["score"], &first["accuracy"]);
    near(&doc["scores"][1]["score"], &first["macro_f1"]);
    near(&doc["scores"][0]["against"]["score"], &second["accuracy"]);
    near(&doc["scores"][1]["against"]["score"], &second["macro_f1"]);
    near(&doc["mcnemar"]["p"], &cases["labels"]["mcnemar"]);
    assert_eq!(doc, eval("--metric accuracy --hyp labels --against labels2 --ref truth"));
    let shown = run_in(dir.path(), &["eval", "--metric", "bleu", "--hyp", "hyp", "--against", "hyp2", "--ref", "ref0"]);
    let shown = text(&shown.stdout);
    for says in ["BLEU 45.2797, 95% interval", "against: ", "paired bootstrap", "signature nrefs:1|", "24 segments"] {
        assert!(shown.contains(says), "{shown}");
    }
}

#[test]
fn questions_in_files_are_scored_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let cases = scored(dir.path());
    let pairs = cases["squad"]["pairs"].as_array().unwrap();
    let (mut qas, mut context, mut given) = (Vec::new(), String::new(), serde_json::Map::new());
    for (i, pair) in pairs.iter().enumerate() {
        let answers = pair[1].as_array().unwrap().iter().map(|text| {
            let start = context.chars().count();
            context += &format!("{} ", text.as_str().unwrap());
            json!({"text": text, "answer_start": start})
        });
        qas.push(json!({"id": i.to_string(), "question": "?", "answers": answers.collect::<Vec<_>>()}));
        if pair[0].is_string() {
            given.insert(i.to_string(), pair[0].clone());
        }
    }
    given.insert("of another file".into(), json!("x"));
    let set = json!({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]});
    std::fs::write(dir.path().join("set.json"), set.to_string()).unwrap();
    std::fs::write(dir.path().join("given.json"), Value::from(given).to_string()).unwrap();
    let args = ["eval", "--json", "--metric", "squad", "--hyp", "given.json", "--ref", "set.json"];
    let doc = document(&run_in(dir.path(), &args));
    for (i, name) in ["exact", "f1"].into_iter().enumerate() {
        let (got, want) = (doc["scores"][i]["score"].as_f64().unwrap(), cases["squad"][name].as_f64().unwrap());
        assert!((got - want).abs() < 1e-10, "{name}: {got} {want}");
    }
    assert_eq!(doc["details"], json!({"unanswered": 1, "answers_to_no_question": 1}));
    std::fs::write(dir.path().join("none.json"), r#"{"nobody": "asked"}"#).unwrap();
    let out = run_in(dir.path(), &["eval", "--metric", "squad", "--hyp", "none.json", "--ref", "set.json"]);
    assert!(out.status.code() == Some(2) && text(&out.stderr).contains("answers no question"));
}

#[test]
fn files_that_cannot_be_scored_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    scored(dir.path());
    std::fs::write(dir.path().join("empty"), "").unwrap();
    std::fs::write(dir.path().join("packed"), b"\x04\x22\x4D\x18...").unwrap();
    for (args, code, says) in [
        ("--metric bleu --hyp absent --ref ref0", 1, "absent"),
        ("--metric bleu --hyp packed --ref ref0", 1, "lz4 -dk"),
        ("--metric bleu --hyp empty --ref empty", 1, "no segment"),
        ("--metric bleu --hyp hyp --ref truth", 1, "must pair up"),
        ("--metric bleu --hyp hyp --ref ref0 --tokenize 14a", 1, "intl"),
        ("--metric bleu --hyp hyp --ref ref0 --level 2", 1, "between 0 and 1"),
        ("--metric chrf --hyp hyp --ref ref0 --tokenize 13a", 2, "--metric bleu"),
        ("--metric accuracy --hyp labels --ref truth --lowercase", 2, "--lowercase"),
        ("--metric accuracy --hyp labels --ref truth truth", 2, "one --ref"),
        ("--metric squad --hyp hyp --ref ref0", 1, "JSON"),
        ("--metric bleu --hyp hyp --ref ref0 --resamples 0", 2, "resamples"),
        ("--metric rouge --hyp hyp --ref ref0", 2, "squad"),
    ] {
        let args: Vec<&str> = std::iter::once("eval").chain(args.split(' ')).collect();
        let out = run_in(dir.path(), &args);
        let err = text(&out.stderr);
        assert!(out.status.code() == Some(code) && err.contains(says), "{args:?}: {err}");
    }
}

#[test]
fn vocabularies_are_cut() {
    let temp = tempfile::tempdir().unwrap();
    let model = temp.path().join("bert");
    toy(&model, "bert");
    let words: Vec<String> = (0..45).map(|i| format!("w{i}")).collect();
    let vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(words);
    std::fs::write(model.join("vocab.txt"), vocab.collect::<Vec<_>>().join("\n")).unwrap();
    std::fs::write(temp.path().join("text.txt"), "w3 w4 w3\nw40").unwrap();
    let args = ["compress", "trim-vocab", "bert", "--texts", "text.txt", "--out", "small", "--json"];
    let made = document(&run_in(temp.path(), &args));
    assert_eq!(
        (&made["tokens_before"], &made["tokens"], &made["corpus_tokens_kept"]),
        (&json!(50), &json!(8), &json!(1.0))
    );
    let answer =
        |model: &str| document(&run_in(temp.path(), &["run", model, "--text", "w3 w40", "--json"]))["results"].clone();
    assert_eq!(answer("bert"), answer("small"));
    let again = run_in(temp.path(), &args);
    assert!(again.status.code() == Some(1) && text(&again.stderr).contains("exists already"));
    fails(&["compress", "default", "--out", "x"], 2, &["default", "--help"]);
}

#[test]
fn old_checkpoints_are_converted() {
    let temp = tempfile::tempdir().unwrap();
    let file = |name: &str| format!("{}/crates/format/tests/fixtures/pickle/{name}", env!("CARGO_MANIFEST_DIR"));
    let made = document(&run_in(temp.path(), &["convert", &file("old.pth"), "out.safetensors", "--json"]));
    assert_eq!(
        (&made["tensors"], &made["key"], &made["prefix_removed"]),
        (&json!(13), &json!("model"), &json!("module."))
    );
    let types = |name: &str| -> Vec<String> {
        let shown = document(&run_in(temp.path(), &["inspect", name, "--json"]));
        shown["tensors"].as_array().unwrap().iter().map(|t| t["dtype"].as_str().unwrap().to_string()).collect()
    };
    assert!(types("out.safetensors").contains(&"BF16".to_string()));
    let single = document(&run_in(
        temp.path(),
        &["convert", &file("zipped.pth"), "one.safetensors", "--dtype", "f32", "--json"],
    ));
    assert_eq!(single["elements"], made["elements"]);
    assert!(types("one.safetensors").iter().all(|t| !t.contains("16") && t != "F64"));
    let made = document(&run_in(temp.path(), &["convert", &file("old.pth"), "new/folder", "--json"]));
    assert_eq!(made["out"], json!("new/folder/model.safetensors"));
    assert!(types("new/folder/model.safetensors").contains(&"BF16".to_string()));
    fails(&["convert", &file("module.pth"), "x.safetensors"], 1, &["pickle.global", "state_dict"]);
}

#[test]
fn lengths_come_from_a_file() {
    let temp = tempfile::tempdir().unwrap();
    toy(&temp.path().join("bert"), "bert");
    let bench = |text: &str| {
        std::fs::write(temp.path().join("lengths"), text).unwrap();
        run_in(temp.path(), &["bench", "bert", "--lengths", "lengths", "--iters", "1", "--json"])
    };
    for form in ["3\n7\n12\n", "[3, 7, 12]"] {
        let doc = document(&bench(form));
        assert_eq!((&doc["cases"][0]["items"], doc["cases"].as_array().unwrap().len()), (&json!(22), 1));
        assert!(
            doc["cases"][0]["gemm_share"].as_f64().unwrap() > 0.0 && doc["gemm_macs_per_s"].as_f64().unwrap() > 0.0
        );
    }
    for (bad, says) in
        [("3 x", "JSON list"), ("", "JSON list"), ("[3, 1000]", "1000"), ("[3, \"a\"]", "JSON list"), ("0", "0")]
    {
        let out = bench(bad);
        assert!(out.status.code() == Some(2) && text(&out.stderr).contains(says), "{bad}: {}", text(&out.stderr));
    }
    std::fs::write(temp.path().join("lengths"), "[3").unwrap();
    assert_eq!(run_in(temp.path(), &["bench", "bert", "--lengths", "lengths"]).status.code(), Some(1));
    fails(&["bench", "default", "--lengths", "x"], 2, &["text"]);
    fails(&["bench", "zoo", "--models", "no-such-size"], 1, &["no-such-size"]);
    fails(&["bench", "bert", "--models", "smt-t"], 2, &["bench zoo"]);
}

#[test]
fn maps_become_pictures() {
    let temp = tempfile::tempdir().unwrap();
    let picture = |file: &Path| image::open(file).unwrap().into_luma8();
    image::GrayImage::from_fn(28, 28, |x, y| image::Luma([(x * y % 256) as u8]))
        .save(temp.path().join("a.png"))
        .unwrap();
    document(&run_in(temp.path(), &["run", "default", "--image", "a.png", "--save-maps", "maps", "--json"]));
    let names = |dir: &str| {
        let mut all: Vec<String> = std::fs::read_dir(temp.path().join(dir))
            .unwrap()
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        all.sort();
        all
    };
    assert_eq!(names("maps").len(), 6);
    let shown = picture(&temp.path().join("maps/blocks.5.attn.png"));
    assert!(
        shown.width() > shown.height() && shown.pixels().any(|p| p.0[0] == 255) && shown.pixels().any(|p| p.0[0] == 0)
    );
    toy(&temp.path().join("swin"), "swin");
    document(&run_in(
        temp.path(),
        &["run", "swin", "--image", "a.png", "--image", "a.png", "--save-maps", "stages", "--json"],
    ));
    assert!(names("stages").iter().any(|n| n == "1.stages.0.png"), "{:?}", names("stages"));
    // Dropped tokens leave no map over the picture.
    let point = r#"{"tokens":{"method":"random","keep":0.5,"after":[1]}}"#;
    document(&run_in(
        temp.path(),
        &["run", "default", "--image", "a.png", "--save-maps", "few", "--point", point, "--json"],
    ));
    assert_eq!(names("few").len(), 1);
    let cat = format!("{}/crates/data/tests/fixtures/cat.png", env!("CARGO_MANIFEST_DIR"));
    fails(&["run", "crossvit-tiny-240", "--image", &cat, "--save-maps", "x"], 2, &["crossvit", "exposes neither"]);
    fails(&["run", "default", "--save-maps", "x", "--tensors", "y"], 2, &["--image"]);
}

/// Most threads that a process had at once while it ran.
#[cfg(target_os = "linux")]
fn most_threads(args: &[&str]) -> usize {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchformer"));
    command.args(args).env_remove("RAYON_NUM_THREADS");
    let silent = || std::process::Stdio::null();
    let mut child = command.stdout(silent()).stderr(silent()).spawn().unwrap();
    let tasks = format!("/proc/{}/task", child.id());
    let mut most = 0;
    loop {
        most = most.max(std::fs::read_dir(&tasks).map_or(0, Iterator::count));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{args:?}: {status}");
            return most;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// A library that starts threads of its own would take the processor from the kernels.
#[test]
#[cfg(target_os = "linux")]
fn threads_are_those_asked_for() {
    let bench = |threads| ["bench", "tnt_s_legacy_patch16_224", "--batch", "1", "--iters", "1", "--threads", threads];
    assert_eq!(most_threads(&bench("1")), 1);
    assert_eq!(most_threads(&bench("2")), 2);
}
