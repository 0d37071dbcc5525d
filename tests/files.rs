//! The binary and the files it is given: what it overwrites, what of a file reaches a terminal, and how a bad point is told.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use switchformer::nn::store::{Saved, SavedMap, safetensors_bytes};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_switchformer")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn fails(args: &[&str], code: i32, says: &[&str]) -> String {
    let out = run(args);
    let err = text(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{args:?}: {err}");
    says.iter().for_each(|s| assert!(err.contains(s), "{args:?} must say {s:?}: {err}"));
    err
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The embedded checkpoint as a folder, its config changed.
fn checkpoint(dir: &Path, change: impl FnOnce(&mut Value)) {
    std::fs::create_dir_all(dir).unwrap();
    for entry in std::fs::read_dir(repository("assets/default")).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, dir.join(from.file_name().unwrap())).unwrap();
    }
    let file = dir.join("config.json");
    let mut config = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(file, config.to_string()).unwrap();
}

fn image() -> String {
    repository("crates/data/tests/fixtures/cat.png").display().to_string()
}

#[test]
fn what_a_command_reads_stays() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    checkpoint(&temp.path().join("model"), |_| {});
    let weights = std::fs::read(at("model/model.safetensors")).unwrap();
    std::fs::copy(image(), at("cat.png")).unwrap();
    for out in ["model/model.safetensors", "model/config.json", "cat.png"] {
        let args = ["run", &at("model"), "--image", &at("cat.png"), "--out", &at(out)];
        fails(&args, 1, &["is read by this command", out.rsplit('/').next().unwrap()]);
    }
    fails(&["tour", "--model", &at("model"), "--out", &at("model/switch.json")], 1, &["is read by this command"]);
    assert_eq!(std::fs::read(at("model/model.safetensors")).unwrap(), weights);
    // What is not read is replaced, and a folder is refused.
    let args = ["run", &at("model"), "--image", &at("cat.png"), "--out", &at("out.safetensors")];
    assert!(run(&args).status.success() && run(&args).status.success());
    fails(
        &["run", &at("model"), "--image", &at("cat.png"), "--out", temp.path().to_str().unwrap()],
        1,
        &["is a folder"],
    );
}

#[test]
#[cfg(unix)]
fn outputs_go_through_links_and_pipes() {
    use std::os::unix::fs::FileTypeExt;
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = at("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    assert!(run(&["run", "default", "--image", &image(), "--out", &at("pipe")]).status.success());
    let through = reader.join().unwrap();
    assert!(std::fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
    std::os::unix::fs::symlink("real", at("link")).unwrap();
    assert!(run(&["run", "default", "--image", &image(), "--out", &at("link")]).status.success());
    assert!(std::fs::symlink_metadata(at("link")).unwrap().is_symlink());
    assert_eq!(std::fs::read(at("real")).unwrap(), through);
}

#[test]
fn a_terminal_obeys_nothing_of_a_file() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).display().to_string();
    let evil = "a\u{1b}[31m\nb\u{202e}\u{9b}2J";
    let map: SavedMap = [(evil.to_string(), Saved::f32(&[1], &[0.0]))].into();
    std::fs::write(at("x.safetensors"), safetensors_bytes(&map).unwrap()).unwrap();
    let clean = |s: &str| !s.contains(['\u{1b}', '\u{202e}', '\u{9b}']);
    let shown = text(&run(&["inspect", &at("x.safetensors")]).stdout);
    assert!(clean(&shown) && shown.contains("a\\u{1b}[31m\\nb"), "{shown:?}");
    let told: Value = serde_json::from_slice(&run(&["inspect", &at("x.safetensors"), "--json"]).stdout).unwrap();
    assert_eq!(told["tensors"][0]["name"], json!(evil));
    let err = text(&run(&["run", "default", "--tensors", &at("x.safetensors")]).stderr);
    assert!(clean(&err) && err.contains("a\\u{1b}"), "{err:?}");
    // Labels, one of them endless.
    checkpoint(&temp.path().join("model"), |config| {
        let label = |i: usize| if i.is_multiple_of(2) { format!("{evil}{i}") } else { "b".repeat(100_000) };
        config["id2label"] =
            (0..10).map(|i| (i.to_string(), json!(label(i)))).collect::<serde_json::Map<_, _>>().into();
    });
    let out = run(&["run", &at("model"), "--image", &image()]);
    let shown = text(&out.stdout);
    assert!(out.status.success() && clean(&shown) && shown.len() < 20_000, "{}", text(&out.stderr));
    assert!(shown.contains("a\\u{1b}[31m\\nb\\u{202e}\\u{9b}2J"), "{shown}");
}

#[test]
fn a_bad_point_is_told_as_a_point() {
    let point = |model: &str, point: &str, says: &[&str]| {
        let err = fails(&["run", model, "--image", &image(), "--point", point], 2, says);
        assert!(
            !["download", "struct", "Layer {", "0..0", "usize", "expected f64"].iter().any(|w| err.contains(w)),
            "{err}"
        );
        err
    };
    point("default", "{\"a\":}", &["line 1 column 6"]);
    point("default", "{\"bits\":8,\"bits\":4}", &["duplicate key"]);
    point("default", "{\"heads\":[0.5]}", &["axis `heads`", "an object with the keys keep"]);
    point("default", "{\"exit\":[0.5]}", &["a whole number", "{\"confidence\": 0..1}"]);
    point("default", "{\"exit\":{\"confidence\":\"x\"}}", &["a number"]);
    point("default", "{\"task\":1}", &["this model has one task"]);
    let layers = "{\"tokens\":{\"method\":\"random\",\"layers\":[{\"after\":99,\"keep\":0.5}]}}";
    point("default", layers, &["\"after\":99", "out of range"]);
    let err = point("vit-tiny-patch16-224", "{\"exit\":99}", &["exit = 99 of 12 blocks", "exit is "]);
    assert!(!err.contains("confidence"), "{err}");
}
