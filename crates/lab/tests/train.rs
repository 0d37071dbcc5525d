//! The training loop on a few real images: resume, export, and every view of the exported file.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use switchformer_data::batch::Norm;
use switchformer_lab::recipe::Recipe;
use switchformer_lab::recipe::study::Study;
use switchformer_lab::train::{TrainOptions, run};
use switchformer_lab::{Error, recipe};
use switchformer_nn::{Input, Point};
use switchformer_switch::leaf::bits::Bits;
use switchformer_tensor::Tensor;
use switchformer_zoo::{OpenOptions, Opened};

/// A recipe of a few steps, and a folder with the first embedded images as the data set.
fn tiny(dir: &Path, overrides: &[&str]) -> (Recipe, PathBuf) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/fashion-vit.toml");
    let small = [
        "model.hidden_size=16",
        "model.intermediate_size=32",
        "model.num_hidden_layers=3",
        "model.patch_size=7",
        "switch.exits=[1,2]",
        "train.steps=6",
        "train.batch=8",
        "train.warmup=2",
        "train.save_every=3",
    ];
    let all: Vec<String> = small.iter().chain(overrides).map(|s| s.to_string()).collect();
    (Recipe::read(&path, &all).unwrap(), common::write_set(dir))
}

fn options(dir: &Path, name: &str, data: &Path, stop_after: Option<u64>) -> TrainOptions {
    TrainOptions {
        out: dir.join(name),
        data: Some(data.to_path_buf()),
        stop_after,
        quiet: true,
        ..TrainOptions::default()
    }
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|f| f.unwrap())
        .map(|f| (f.file_name().to_string_lossy().into_owned(), std::fs::read(f.path()).unwrap()))
        // Provenance holds the minutes trained.
        .filter(|(name, _)| name != "switch.json")
        .collect();
    all.sort();
    all
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let temp = tempfile::tempdir().unwrap();
    let (recipe, data) = tiny(temp.path(), &[]);
    let whole = run(&recipe, &options(temp.path(), "whole", &data, None)).unwrap();
    // Stop on and off the saving interval.
    for stop in [1, 3, 4] {
        let name = format!("stopped-{stop}");
        let stopped = run(&recipe, &options(temp.path(), &name, &data, Some(stop)));
        assert!(matches!(stopped, Err(Error::Interrupted { step, .. }) if step == stop));
        let resumed = run(&recipe, &options(temp.path(), &name, &data, None)).unwrap();
        assert_eq!(files(&whole.model), files(&resumed.model), "stopped after {stop}");
    }
}

#[test]
fn another_recipe_or_a_damaged_state_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (recipe, data) = tiny(temp.path(), &[]);
    let o = options(temp.path(), "run", &data, Some(2));
    assert!(run(&recipe, &o).is_err());
    let (other, _) = tiny(temp.path(), &["seed=9"]);
    let error = run(&other, &o).unwrap_err();
    assert!(error.code() == "checkpoint" && error.to_string().contains("seed is 1 there and 9 here"), "{error}");
    let file = o.out.join("checkpoints/step-0000000002/state.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let error = run(&recipe, &o).unwrap_err();
    assert!(error.code() == "checkpoint" && error.to_string().contains("hash"), "{error}");
}

#[test]
fn the_exported_file_offers_every_trained_point() {
    let temp = tempfile::tempdir().unwrap();
    let (recipe, data) = tiny(temp.path(), &[]);
    let report = run(&recipe, &options(temp.path(), "run", &data, None)).unwrap();
    let opened = Opened::open(&report.model, OpenOptions::default()).unwrap();
    assert_eq!(opened.switches.host().capability(&Bits).unwrap().0, [8, 6, 4, 2]);
    let set = switchformer_data::embedded_fashion().unwrap();
    let mut pixels = vec![0f32; 4 * 784];
    set.fill_batch(&[0, 1, 2, 3], Norm::FASHION, None, &mut pixels).unwrap();
    let input = Input::pixel_values(Tensor::from_vec(pixels, (4, 1, 28, 28)).unwrap());
    let mut seen = Vec::new();
    for bits in [8, 6, 4, 2] {
        for exit in [1, 2, 3] {
            let point = Point::new().with("bits", bits).with("exit", exit);
            let (out, trace) = opened.run(&point, &input).unwrap();
            let logits = out.get("logits").unwrap().to_vec2::<f32>().unwrap();
            assert!(logits.iter().flatten().all(|v| v.is_finite()));
            assert_eq!(opened.cost(&point, &input).unwrap().macs, trace.macs);
            assert!(!seen.contains(&logits), "{point} gives the same numbers as another point");
            seen.push(logits);
        }
    }
}

#[test]
fn recipes_are_checked_and_print_themselves() {
    let temp = tempfile::tempdir().unwrap();
    let (recipe, _) = tiny(temp.path(), &[]);
    let path = temp.path().join("again.toml");
    std::fs::write(&path, recipe.resolved()).unwrap();
    assert_eq!(Recipe::read(&path, &[]).unwrap(), recipe);
    let refuse = |o: &str| Recipe::read(&path, &[o.to_string()]).unwrap_err().to_string();
    assert!(refuse("train.lr=0").contains("train.lr"));
    assert!(refuse("train.typo=1").contains("typo"));
    assert!(refuse("switch.bits=[8,5]").contains("switch.bits"));
    assert!(refuse("data.set=cifar").contains("data.set"));
    let unknown = refuse("data.vocab=300");
    assert!(unknown.contains("data.task = \"images\"") && unknown.contains("`flip`"), "{unknown}");
    let unknown = refuse("eval.sentences=3");
    assert!(unknown.contains("[eval] of data.task = \"images\"") && unknown.contains("sentences"), "{unknown}");
    let unknown = refuse("data.task=sing");
    assert!(unknown.contains("tasks: images, span-corruption, translate, questions, scenes"), "{unknown}");
    let (wet, data) = tiny(temp.path(), &["train.dropout=0.1"]);
    let dry = run(&recipe, &options(temp.path(), "dry", &data, None)).unwrap();
    assert_ne!(run(&wet, &options(temp.path(), "wet", &data, None)).unwrap().loss, dry.loss);
    assert_ne!(recipe.fingerprint(), Recipe::read(&path, &["seed=5".into()]).unwrap().fingerprint());
    assert_eq!(recipe::hex(&[0, 255]), "00ff");
}

#[test]
fn runs_begun_by_earlier_versions_go_on() {
    let temp = tempfile::tempdir().unwrap();
    let (recipe, data) = tiny(temp.path(), &[]);
    let whole = run(&recipe, &options(temp.path(), "whole", &data, None)).unwrap();
    let o = options(temp.path(), "old", &data, Some(3));
    assert!(run(&recipe, &o).is_err());
    // The first version's one state was a folder `state`.
    let home = o.out.join("state");
    std::fs::rename(o.out.join("checkpoints/step-0000000003"), &home).unwrap();
    std::fs::remove_dir(o.out.join("checkpoints")).unwrap();
    // Fingerprints were of all keys of all tasks, which the recipe that a run keeps had too.
    let manifest = std::fs::read_to_string(home.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["recipe"] = "3c48fbda6a9c6ce7344fc597cd859bfd163d31368f7b5adf34c8d1984453f471".into();
    std::fs::write(home.join("manifest.json"), manifest.to_string()).unwrap();
    let kept = o.out.join("recipe.toml");
    let text = std::fs::read_to_string(&kept).unwrap();
    let old = text.replace("[data]\n", "[data]\nvocab = 2048\nlanguage = \"\"\nnoise = 0.15\n");
    let refused = |text: &str| {
        std::fs::write(&kept, text).unwrap();
        let e = run(&recipe, &o).unwrap_err();
        assert_eq!(e.code(), "checkpoint");
        e.to_string()
    };
    let other = refused(&old.replace("pad = 1", "pad = 2"));
    assert!(other.contains("data.pad is 2 there and 1 here"), "{other}");
    std::fs::remove_file(&kept).unwrap();
    let gone = run(&recipe, &o).unwrap_err().to_string();
    assert!(gone.contains("earlier version") && gone.contains("recipe.toml is gone"), "{gone}");
    std::fs::write(&kept, &old).unwrap();
    let resumed = run(&recipe, &TrainOptions { stop_after: None, ..o }).unwrap();
    assert_eq!(files(&whole.model), files(&resumed.model));
}

#[test]
fn photographs_have_the_variants_of_clothes_in_colour() {
    let read = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name);
        Study::read(&path, &["train.steps=7".into(), "train.warmup=1".into()]).unwrap()
    };
    let (gray, colour) = (read("vision-fashion.toml"), read("vision-cifar.toml"));
    assert_eq!(colour.name, "vision-cifar");
    // Clothes have more seeds.
    assert!(gray.runs.len() > colour.runs.len() && colour.runs.len() >= 24);
    for (gray, colour) in gray.runs.iter().zip(&colour.runs) {
        assert_eq!(gray.variant, colour.variant);
        let channels = |model: &serde_json::Map<String, serde_json::Value>| -> Vec<u64> {
            let names = ["num_channels", "in_chans", "in_channels"];
            names.iter().filter_map(|n| model.get(*n)).map(|v| v.as_u64().unwrap()).collect()
        };
        assert_eq!((channels(&gray.recipe.model), channels(&colour.recipe.model)), (vec![1], vec![3]));
        let own = &colour.recipe.data.own;
        assert_eq!((colour.recipe.data.set(), own["valid"].as_integer()), ("cifar-10", Some(500)));
        assert_eq!((&own["flip"], colour.recipe.train.steps), (&gray.recipe.data.own["flip"], 7));
    }
}

#[test]
fn every_vision_variant_trains_and_opens_again() {
    let temp = tempfile::tempdir().unwrap();
    let (_, data) = tiny(temp.path(), &[]);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/vision-fashion.toml");
    let small = ["train.steps=2", "train.batch=4", "train.warmup=1", "seeds=[1]"].map(String::from);
    let study = Study::read(&path, &small).unwrap();
    assert!(study.runs.len() >= 19);
    let mut norms = 0;
    for run_of in &study.runs {
        let report = run(&run_of.recipe, &options(temp.path(), &run_of.variant, &data, None)).unwrap();
        Opened::open(&report.model, OpenOptions::default()).unwrap();
        let kept = switchformer_tensor::safetensors::load(report.model.join("model.safetensors")).unwrap();
        for (name, mean) in kept.iter().filter(|(name, _)| name.ends_with("running_mean")) {
            let mean = mean.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(mean.iter().any(|&v| v != 0.0), "{}: {name} has seen nothing", run_of.variant);
            norms += 1;
        }
    }
    assert!(norms > 0, "no variant has batch norms");
}

#[test]
fn a_hash_is_fitted_once_before_the_first_step() {
    let temp = tempfile::tempdir().unwrap();
    let (_, data) = tiny(temp.path(), &[]);
    let text = std::fs::read_to_string(common::recipe_file("ecoformer-fitted.toml")).unwrap();
    let path = temp.path().join("recipe.toml");
    let home = temp.path().join("runs").display().to_string();
    std::fs::write(&path, text.replace("runs/ecoformer-fitted", &home)).unwrap();
    let read = |more: &[&str]| {
        let small = ["train.batch=4", "train.warmup=1", "train.save_every=1"];
        Study::read(&path, &small.iter().chain(more).map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
    };
    let study = read(&["train.steps=2"]);
    let train = |variant: &str, name: &str, stop: Option<u64>| {
        let mut recipe = study.variant(variant, &path).unwrap().recipe.clone();
        // Variants are out of reach of overrides.
        (recipe.train.steps, recipe.train.warmup) = (2, 1);
        let shared = Some(temp.path().to_path_buf());
        run(&recipe, &TrainOptions { shared, ..options(&temp.path().join("runs"), name, &data, stop) })
    };
    train("softmax", "softmax-s1", None).unwrap();
    let hashed = || {
        let names = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().path());
        names.filter(|p| p.to_string_lossy().contains("hash-")).collect::<Vec<_>>()
    };
    let whole = train("fitted", "fitted", None).unwrap().model;
    let made = hashed();
    assert_eq!(made.len(), 1);
    let before = files(&made[0]);
    assert!(train("fitted", "stopped", Some(1)).is_err());
    let resumed = train("fitted", "stopped", None).unwrap().model;
    assert!(files(&whole) == files(&resumed) && hashed() == made && files(&made[0]) == before);
    let opened = Opened::open(&whole, OpenOptions::default()).unwrap();
    assert_eq!(opened.entry.name, "ecoformer_pvt_v2");
    // Bits as they were drawn are another folder; softmax goes on without one.
    train("drawn", "drawn", None).unwrap();
    assert_eq!(hashed().len(), 2);
    let on = train("softmax-on", "softmax-on", None).unwrap().model;
    assert_eq!(Opened::open(&on, OpenOptions::default()).unwrap().entry.name, "pvt_v2");
    assert_eq!(hashed().len(), 2);
    let refuse = |o: &[&str]| {
        let all: Vec<String> = o.iter().map(|s| s.to_string()).collect();
        Study::read(&path, &all).unwrap_err().to_string()
    };
    let images = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, images.replace("side = 32\nflip = 0.5\npad = 2\n", "")).unwrap();
    // The first variant has no start, the third one hashes.
    let questions = ["data.task=\"questions\"", "data.set=\"squad\"", "train.label_smoothing=0.0"];
    assert!(refuse(&questions).contains("start.folder"), "{}", refuse(&questions));
    let hashes = [&questions[..], &["start.folder=\"a\""]].concat();
    assert!(refuse(&hashes).contains("start.hash is for images"), "{}", refuse(&hashes));
    std::fs::write(&path, images.replace("hash = {}", "hashes = {}")).unwrap();
    assert!(refuse(&[]).contains("no key `hashes`; its keys: folder, fresh, frozen, experts, hash"), "{}", refuse(&[]));
    std::fs::write(&path, images.replace("hash = {}", "still = [\"a\"]")).unwrap();
    assert!(refuse(&[]).contains("no key `still` any more; write `frozen`"), "{}", refuse(&[]));
    std::fs::write(&path, images.replace("hash = {}", "hash = { bit = 8 }")).unwrap();
    assert!(refuse(&[]).contains("start.hash: unknown field `bit`"), "{}", refuse(&[]));
}
