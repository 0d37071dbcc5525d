//! The arrows between rooms never turn back, and every rule of the tree that a machine can check.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Room -> rooms it may use. A crate that is not listed may not exist.
const ARROWS: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("format", &[]),
    ("tensor", &["kernels", "format"]),
    ("nn", &["tensor", "kernels", "format"]),
    ("switch", &["nn", "tensor"]),
    ("zoo", &["switch", "nn", "tensor"]),
    ("data", &["format"]),
    ("compress", &["zoo", "switch", "nn", "tensor", "data"]),
    ("infer", &["zoo", "switch", "nn", "tensor", "data"]),
    ("lab", &["compress", "infer", "zoo", "switch", "nn", "tensor", "data"]),
    ("cli", &["lab", "compress", "infer", "zoo", "switch", "nn", "tensor", "data"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    serde_json::from_slice(&out.stdout).unwrap()
}

#[test]
fn arrows_between_rooms_never_turn_back() {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let Some(room) = package["name"].as_str().unwrap().strip_prefix("switchformer-") else { continue };
        let Some(may) = allowed.get(room) else {
            wrong.push(format!("crate {room} is not in the table of rooms"));
            continue;
        };
        for dep in package["dependencies"].as_array().unwrap() {
            // Tests may look at anything.
            if dep["kind"].as_str() == Some("dev") {
                continue;
            }
            let name = dep["name"].as_str().unwrap();
            if let Some(target) = name.strip_prefix("switchformer-")
                && !may.contains(&target)
            {
                wrong.push(format!("{room} -> {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    ["src", "crates", "tests"].iter().for_each(|d| rust_files(&root().join(d), &mut files));
    files
        .into_iter()
        .map(|f| {
            let text = std::fs::read_to_string(&f).unwrap();
            (f.strip_prefix(root()).unwrap().to_string_lossy().into_owned(), text)
        })
        .collect()
}

#[test]
fn unsafe_lives_in_the_kernels_and_in_the_mapping() {
    let allowed =
        |f: &str| f.starts_with("crates/kernels/") || f == "crates/format/src/mmap.rs" || f.contains("/tests/");
    let marks = ["unsafe ", "allow(unsafe_code)"];
    let wrong: Vec<_> = sources()
        .into_iter()
        .filter(|(f, _)| !allowed(f) && f != "tests/structure.rs")
        .filter(|(_, text)| {
            text.lines().map(str::trim_start).any(|l| !l.starts_with("//") && marks.iter().any(|m| l.contains(m)))
        })
        .map(|(f, _)| f)
        .collect();
    assert!(wrong.is_empty(), "unsafe outside its two homes: {wrong:?}");
}

#[test]
fn files_keep_to_their_size() {
    let wrong: Vec<_> =
        sources().into_iter().map(|(f, text)| (f, text.lines().count())).filter(|(_, lines)| *lines > 700).collect();
    assert!(wrong.is_empty(), "files over 700 lines: {wrong:?}");
}

#[test]
fn every_room_has_its_page() {
    for (room, _) in ARROWS {
        let dir = root().join("crates").join(room);
        let page = std::fs::read_to_string(dir.join("README.md")).unwrap_or_default();
        assert!(page.starts_with(&format!("# {room}\n")), "crates/{room}/README.md");
        let lib = std::fs::read_to_string(dir.join("src/lib.rs")).unwrap();
        assert!(lib.contains("#![doc = include_str!(\"../README.md\")]"), "the page of {room} is not its front page");
    }
}

#[test]
fn results_open_with_what_to_conclude() {
    for entry in std::fs::read_dir(root().join("results")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            let text = std::fs::read_to_string(&path).unwrap();
            let second = text.lines().find(|l| !l.is_empty() && !l.starts_with('#'));
            assert!(second.is_some_and(|l| l.starts_with("**In short.** ")), "{}", path.display());
        }
    }
}

/// A family is one file, or one folder whose files share its name, in the folder of its field.
#[test]
fn every_model_file_is_registered_and_has_goldens() {
    let models = root().join("crates/zoo/src/models");
    let list = |dir: &Path| std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
    let mut count = 0;
    for file in list(&models).iter().filter(|p| p.is_dir()).flat_map(|field| list(field)) {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        if name == "mod" {
            continue;
        }
        let registered = switchformer::zoo::ZOO.iter().find(|e| e.name.replace('-', "_") == name);
        let Some(entry) = registered else { panic!("{} has no line in the registry", file.display()) };
        let name = entry.name;
        assert!(root().join("golden").join(name).join("make.py").exists(), "{name} has no golden/{name}/make.py");
        count += 1;
    }
    assert_eq!(count, switchformer::zoo::ZOO.len(), "one file per registry entry");
}
