//! The stored inputs of the fuzz target, replayed through the same function.

#![allow(clippy::unwrap_used)]

mod trust;

use std::path::{Path, PathBuf};

use serde_json::json;
use trust::{CONFIG, EXITS, Files, INDEX, MODEL, PLAN, join, pack, split};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/loader")
}

#[test]
fn every_stored_input_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus is gone");
    for file in files {
        let codes = trust::loader(dir.path(), &std::fs::read(&file).unwrap());
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        println!("{name}: {codes:?}");
        // Seeds say what they should give: `valid-...` opens, others may not.
        assert!(!name.starts_with("valid-") || codes == ["ok", "ok"], "{name} gives {codes:?}");
    }
}

/// Writes the seeds again; run it after a change of the toys: `cargo test --test fuzz_corpus -- --ignored`.
#[test]
#[ignore = "writes into the source tree"]
fn write_seeds() {
    let tiny = trust::tiny();
    let (bert, shards, vit) = (trust::bert(&tiny), trust::sharded(&tiny), trust::vit(&tiny));
    let seed = |name: &str, files: &Files| std::fs::write(corpus().join(name), pack(files)).unwrap();
    let text = |f: &mut Files, name: &str, from: &str, to: &str| {
        let old = String::from_utf8(f[name].clone()).unwrap();
        assert!(old.contains(from), "{name} holds no {from}");
        f.insert(name.into(), old.replacen(from, to, 1).into_bytes());
    };
    std::fs::create_dir_all(corpus()).unwrap();
    seed("valid-bert", &bert);
    seed("valid-shards", &shards);
    seed("valid-vit", &vit);
    let mut f = bert.clone();
    text(&mut f, CONFIG, "\"hidden_size\": 4", "\"hidden_size\": 65536");
    seed("wide", &f);
    let mut f = vit.clone();
    text(&mut f, CONFIG, "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 4096");
    seed("deep", &f);
    let mut f = shards.clone();
    text(&mut f, INDEX, "model-00001", "../model-00001");
    seed("shard-path", &f);
    let mut f = bert.clone();
    let (head, data) = split(&bert[MODEL]);
    f.insert(MODEL.into(), join(head, &data[..data.len() / 2]));
    seed("cut-data", &f);
    let mut f = bert.clone();
    f.insert(MODEL.into(), bert[MODEL][..40].to_vec());
    seed("cut-header", &f);
    let mut f = vit.clone();
    text(&mut f, PLAN, "\"bits\": 8", "\"bits\": 9");
    seed("bad-point", &f);
    let mut f = vit.clone();
    f.remove(EXITS);
    seed("no-exits", &f);
    let mut f = vit.clone();
    f.insert(CONFIG.into(), format!("{}{}", "[".repeat(100), "]".repeat(100)).into_bytes());
    seed("nested-json", &f);
    let mut f = vit;
    let (config, _) = trust::toy("vit", &tiny);
    f.insert(CONFIG.into(), json!({"model_type": "vit", "x": config}).to_string().into_bytes());
    seed("defaults", &f);
}
