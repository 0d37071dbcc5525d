//! A table of bad checkpoints and bad inputs: each is refused with its own code and a message that names the place.

#![allow(unreachable_pub, clippy::unwrap_used)]

#[path = "hostile/config.rs"]
mod config;
#[path = "hostile/table.rs"]
mod table;
mod trust;
#[path = "hostile/weights.rs"]
mod weights;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::json;
use switchformer_nn::{Error, Input, Point, Result};
use switchformer_tensor::{DType, Tensor};
use switchformer_zoo::{OpenOptions, Opened};
use table::{Bases, Table};
use trust::{assert_readable, open_and_run, write};

#[test]
fn bad_folders_are_refused_by_name() {
    let bases =
        Bases { bert: trust::bert(&json!({})), vit: trust::vit(&json!({})), shards: trust::sharded(&json!({})) };
    let mut t = Table { bases, cases: Vec::new() };
    // The table would prove nothing if the folders it damages did not open.
    for files in [&t.bases.bert, &t.bases.vit, &t.bases.shards] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), files);
        open_and_run(dir.path(), OpenOptions::default()).unwrap();
    }
    let groups: [fn(&mut Table); 7] = [
        weights::safetensors_cases,
        weights::index_cases,
        weights::tensor_cases,
        config::config_cases,
        config::plan_cases,
        config::module_cases,
        config::folder_cases,
    ];
    groups.iter().for_each(|g| g(&mut t));
    let (mut wrong, mut counts) = (Vec::new(), BTreeMap::<&str, usize>::new());
    for case in &t.cases {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a").join("model");
        std::fs::create_dir_all(&dir).unwrap();
        write(&dir, &case.files);
        (case.on_disk)(&dir);
        let open = || open_and_run(&dir, OpenOptions::default());
        wrong.extend(verdict(case.name, open, case.code, &case.says));
        *counts.entry(case.name.split('/').next().unwrap()).or_default() += 1;
    }
    println!("{} folders: {counts:?}", t.cases.len());
    assert!(wrong.is_empty(), "{} of {}:\n\n{}", wrong.len(), t.cases.len(), wrong.join("\n\n"));
}

/// What is wrong with how a bad thing was answered, if anything.
fn verdict(name: &str, act: impl FnOnce() -> Result<()>, code: &str, says: &[&str]) -> Option<String> {
    let e = match catch_unwind(AssertUnwindSafe(act)) {
        Err(_) => return Some(format!("{name}: panicked")),
        Ok(Ok(())) => return Some(format!("{name}: accepted")),
        Ok(Err(e)) => e,
    };
    assert_readable(&e);
    let text = e.to_string();
    let lost: Vec<&&str> = says.iter().filter(|s| !text.contains(**s)).collect();
    (e.code() != code || !lost.is_empty()).then(|| format!("{name}: wanted {code} {lost:?}, got {}: {text}", e.code()))
}

#[test]
fn a_path_that_is_no_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    std::fs::write(&file, b"x").unwrap();
    let cases: [(&str, &Path, &str, &[&str]); 3] = [
        ("a file", &file, "checkpoint.folder", &["model.safetensors", "not a folder"]),
        ("nothing", &dir.path().join("absent"), "io", &["absent"]),
        ("NUL in the path", Path::new("a\0b"), "io", &["NUL"]),
    ];
    for (name, path, code, says) in cases {
        let wrong = verdict(name, || Opened::open(path, OpenOptions::default()).map(drop), code, says);
        assert_eq!(wrong, None);
    }
}

/// A link into the `blobs` of a hub cache is how published models lie on disk.
#[cfg(unix)]
#[test]
fn links_into_a_hub_cache_are_followed() {
    let home = tempfile::tempdir().unwrap();
    let (snapshot, blobs) = (home.path().join("snapshots/abc"), home.path().join("blobs"));
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(&blobs).unwrap();
    for (i, (name, bytes)) in trust::sharded(&json!({})).iter().enumerate() {
        std::fs::write(blobs.join(i.to_string()), bytes).unwrap();
        std::os::unix::fs::symlink(format!("../../blobs/{i}"), snapshot.join(name)).unwrap();
    }
    open_and_run(&snapshot, OpenOptions::default()).unwrap();
}

fn ids(values: &[&[i64]]) -> Tensor {
    let width = values[0].len();
    Tensor::from_vec(values.concat(), (values.len(), width)).unwrap()
}

type Bad = (&'static str, fn() -> Result<Input>, &'static str, &'static [&'static str]);

const TEXTS: &[Bad] = &[
    (
        "ids of rank 1",
        || Input::padded(&ids(&[&[1, 2]]).squeeze(0)?, None, None),
        "shape",
        &["input_ids", "[b, n]", "[2]"],
    ),
    (
        "ids of rank 3",
        || Input::padded(&ids(&[&[1, 2]]).unsqueeze(0)?, None, None),
        "shape",
        &["input_ids", "[1, 1, 2]"],
    ),
    (
        "mask of another shape",
        || Input::padded(&ids(&[&[1, 2]]), Some(&ids(&[&[1]])), None),
        "shape",
        &["attention_mask", "[1, 2]"],
    ),
    (
        "types of another shape",
        || Input::padded(&ids(&[&[1, 2]]), None, Some(&ids(&[&[0], &[0]]))),
        "shape",
        &["token_type_ids", "[2, 1]"],
    ),
    (
        "mask with 2",
        || Input::padded(&ids(&[&[1, 2]]), Some(&ids(&[&[1, 2]])), None),
        "input",
        &["attention_mask", "2", "1 for valid"],
    ),
    (
        "mask with -1",
        || Input::padded(&ids(&[&[1, 2]]), Some(&ids(&[&[1, -1]])), None),
        "input",
        &["attention_mask", "-1"],
    ),
    (
        "mask all zero",
        || Input::padded(&ids(&[&[1, 2], &[3, 4]]), Some(&ids(&[&[0, 0], &[1, 1]])), None),
        "input",
        &["member 0", "no valid token"],
    ),
    ("no token", || Input::tokens(&[Vec::new()]), "input", &["member 0", "no valid token"]),
    ("an empty member among others", || Input::tokens(&[vec![1], vec![], vec![2]]), "input", &["member 1"]),
    ("id negative", || Input::padded(&ids(&[&[-1]]), None, None), "input", &["input_ids", "-1"]),
    ("id over u32", || Input::padded(&ids(&[&[1 << 40]]), None, None), "input", &["input_ids", "1099511627776"]),
    (
        "id outside the vocabulary",
        || Input::padded(&ids(&[&[50]]), None, None),
        "input",
        &["id 50", "50 entries", "tokenizer"],
    ),
    ("id of 2^32 - 1", || Input::tokens(&[[u32::MAX]]), "input", &["id 4294967295", "word_embeddings"]),
    (
        "type outside its table",
        || Input::padded(&ids(&[&[1]]), None, Some(&ids(&[&[2]]))),
        "input",
        &["token_type_embeddings"],
    ),
    ("too long", || Input::tokens(&[[1; 33]]), "input", &["position_embeddings", "32 entries", "shorten"]),
    ("id not a number", || Input::padded(&Tensor::new(&[[f32::NAN, -3.0]])?, None, None), "input", &["input_ids"]),
    ("too many rows", || Input::tokens(&[vec![1; (1 << 24) + 1]]), "limit", &["rows in a batch", "16777216"]),
    (
        "pixels to a text model",
        || Ok(Input::pixel_values(Tensor::ones((1, 1, 16, 16), DType::F32)?)),
        "input",
        &["reads text"],
    ),
];

fn pixels(shape: &[usize]) -> Result<Input> {
    Ok(Input::pixel_values(Tensor::ones(shape, DType::F32)?))
}

const IMAGES: &[Bad] = &[
    ("three channels", || pixels(&[1, 3, 16, 16]), "shape", &["pixel_values", "[b, 1, h, w]", "[1, 3, 16, 16]"]),
    ("rank 3", || pixels(&[1, 16, 16]), "shape", &["pixel_values"]),
    ("rank 5", || pixels(&[1, 1, 1, 16, 16]), "shape", &["pixel_values"]),
    ("does not divide", || pixels(&[1, 1, 16, 18]), "input", &["16x18", "4x4", "16x16"]),
    ("no height", || pixels(&[1, 1, 0, 16]), "input", &["0x16"]),
    ("larger than the limit", || pixels(&[1, 1, 4, 16_388]), "input", &["4x16388"]),
    (
        "integers",
        || Ok(Input::pixel_values(Tensor::ones((1, 1, 16, 16), DType::U8)?)),
        "input",
        &["pixel_values", "F32"],
    ),
    ("text to an image model", || Input::tokens(&[[1]]), "input", &["reads images"]),
];

#[test]
fn bad_inputs_are_refused_by_name() {
    let mut wrong = Vec::new();
    for (files, table) in [(trust::bert(&json!({})), TEXTS), (trust::vit(&json!({})), IMAGES)] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files);
        let opened = Opened::open(dir.path(), OpenOptions::default()).unwrap();
        for (name, input, code, says) in table {
            let act = || opened.run(&Point::new(), &input()?).map(drop);
            wrong.extend(verdict(name, act, code, says));
        }
        // No member at all is a legal batch or an error, never a panic.
        let none = [Input::tokens::<Vec<u32>>(&[]).unwrap(), pixels(&[0, 1, 16, 16]).unwrap()];
        for input in none {
            let answer = catch_unwind(AssertUnwindSafe(|| opened.run(&Point::new(), &input).map(drop)));
            println!("no member: {:?}", answer.as_ref().map(|a| a.as_ref().map_err(Error::to_string)));
            wrong.extend(answer.err().map(|_| "no member: panicked".to_string()));
        }
    }
    println!("{} inputs", TEXTS.len() + IMAGES.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
