//! Several tasks on one set of pictures: gates by task, batches in turn, figures for each.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::write_set;
use switchformer_lab::Error;
use switchformer_lab::recipe::Recipe;
use switchformer_lab::recipe::study::Study;
use switchformer_lab::study::measure;
use switchformer_lab::train::{TrainOptions, TrainReport, run};
use switchformer_nn::init::Stream;
use switchformer_nn::{Input, Point};
use switchformer_zoo::{OpenOptions, Opened};

fn study(overrides: &[&str]) -> Study {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/m3vit-scenes.toml");
    let small = ["train.batch=4", "train.warmup=2", "train.save_every=2", "train.valid_every=3", "data.valid=5"];
    let all: Vec<String> = small.iter().chain(overrides).map(|s| s.to_string()).collect();
    Study::read(&path, &all).unwrap()
}

fn one(variant: &str, overrides: &[&str]) -> Recipe {
    study(overrides).variant(variant, Path::new("m3vit-scenes.toml")).unwrap().recipe.clone()
}

fn train(recipe: &Recipe, dir: &Path, name: &str, data: &Path) -> (TrainOptions, TrainReport) {
    let o = TrainOptions { out: dir.join(name), data: Some(data.into()), quiet: true, ..TrainOptions::default() };
    let report = run(recipe, &o).unwrap();
    (o, report)
}

#[test]
fn every_variant_trains_and_is_measured() {
    let temp = tempfile::tempdir().unwrap();
    let data = write_set(temp.path());
    let work =
        |figures: &std::collections::BTreeMap<String, f64>, task: &str| figures[&format!("{task}: multiply-adds (M)")];
    let mut all = std::collections::BTreeMap::new();
    for r in &study(&["train.steps=3", "eval.scenes=20"]).runs {
        let (o, report) = train(&r.recipe, temp.path(), &r.variant, &data);
        let result = measure(&r.variant, &r.recipe, &o, &report).unwrap();
        all.insert(r.variant.clone(), result.figures["default"].clone());
    }
    let [dense, experts] = ["dense", "experts"].map(|v| &all[v]);
    for task in ["segments", "edges"] {
        // Equal work but for the gate, and the same as alone.
        let [a, b, alone] = [dense, experts, &all[task]].map(|f| work(f, task));
        assert!((b / a - 1.0).abs() < 0.01 && alone == a, "{task}: {a} {b} {alone}");
        assert_eq!(dense[&format!("{task}: experts met")], 1.0);
        let met = experts[&format!("{task}: experts met")];
        assert!((2.0..=8.0).contains(&met), "{met}");
    }
    assert_eq!(dense["choices in common"], 1.0);
    assert!((0.0..1.0).contains(&experts["choices in common"]), "{experts:?}");
    assert!(experts["segments: mean IoU"] > 0.0 && experts.contains_key("edges: F1"));
    assert!(!all["segments"].contains_key("edges: F1") && !all["edges"].contains_key("choices in common"));
}

#[test]
fn both_tasks_are_learned_and_each_pass_meets_the_experts_of_its_gate() {
    let temp = tempfile::tempdir().unwrap();
    let data = write_set(temp.path());
    let recipe = one("experts", &["train.steps=30", "train.valid_every=10"]);
    let (o, report) = train(&recipe, temp.path(), "whole", &data);
    let curves = switchformer_lab::curves::Curves::read(&o.out).unwrap();
    let (first, last) = (curves.valid[0].1, curves.valid[curves.valid.len() - 1].1);
    assert!(last < first, "{first} {last}");
    let opened = Opened::open(&report.model, OpenOptions::default()).unwrap();
    let mut stream = Stream::named("scenes");
    let pixels: Vec<f32> = (0..64 * 64).map(|_| stream.unit()).collect();
    let input = Input::pixel_values(switchformer_tensor::Tensor::from_vec(pixels, (1, 1, 64, 64)).unwrap());
    let answers = [0, 1].map(|task| {
        let point = Point::new().with("task", task);
        let (out, trace) = opened.run(&point, &input).unwrap();
        let met: Vec<String> = trace.decisions.iter().map(|d| d.choice["load"].to_string()).collect();
        // Two banks, two experts for each of the 65 rows, and no expert without a row.
        let rows = |d: &switchformer_nn::trace::Decision| -> u64 {
            d.choice["load"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum()
        };
        assert_eq!(trace.decisions.iter().map(rows).collect::<Vec<_>>(), [130, 130]);
        (out.get("logits").unwrap().dims()[1], met)
    });
    assert_eq!((answers[0].0, answers[1].0), (11, 2));
    assert_ne!(answers[0].1, answers[1].1, "both gates choose alike");
}

#[test]
fn a_stopped_run_goes_on_bit_for_bit() {
    let temp = tempfile::tempdir().unwrap();
    let data = write_set(temp.path());
    let recipe = one("experts", &["train.steps=4"]);
    let (_, whole) = train(&recipe, temp.path(), "whole", &data);
    let o = TrainOptions {
        out: temp.path().join("stopped"),
        data: Some(data.clone()),
        stop_after: Some(2),
        quiet: true,
        ..TrainOptions::default()
    };
    assert!(matches!(run(&recipe, &o), Err(Error::Interrupted { .. })));
    let (_, resumed) = train(&recipe, temp.path(), "stopped", &data);
    let weights = |r: &TrainReport| std::fs::read(r.model.join("model.safetensors")).unwrap();
    assert!(weights(&whole) == weights(&resumed));
}

#[test]
fn what_scenes_cannot_do_is_refused_by_name() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/m3vit-scenes.toml");
    for (change, word) in [("switch.draws=2", "draws"), ("data.set=squad", "fashion-mnist")] {
        let error = Study::read(&path, &[change.to_string()]).unwrap_err().to_string();
        assert!(error.contains(word), "{change}: {error}");
    }
    let temp = tempfile::tempdir().unwrap();
    let data = write_set(temp.path());
    let recipe = one("dense", &["model.tasks=[\"depth\", \"edges\"]"]);
    let o = TrainOptions { out: temp.path().join("x"), data: Some(data), quiet: true, ..TrainOptions::default() };
    let error = run(&recipe, &o).unwrap_err().to_string();
    assert!(error.contains("model.tasks") && error.contains("segments"), "{error}");
}
