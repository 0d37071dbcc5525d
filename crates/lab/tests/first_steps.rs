//! The first steps of every recipe, at toy sizes: the losses are those that were recorded.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::{checkpoint, debian, questions_recipe, recipe_file, squad, write_set};
use switchformer_lab::recipe::study::{Study, StudyRun};
use switchformer_lab::train::{TrainOptions, run};

const TEXT: &[&str] = &[
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "data.vocab=400",
    "data.valid=4",
    "data.max_len=40",
    "train.batch=120",
    "train.valid_every=3",
];
const IMAGES: &[&str] = &["train.batch=4"];
const SCENES: &[&str] = &["train.batch=4", "train.valid_every=3", "data.valid=5"];
const BITS: &[&str] = &[
    "model.hidden_size=16",
    "model.intermediate_size=32",
    "model.num_hidden_layers=3",
    "model.patch_size=7",
    "switch.exits=[1,2]",
    "train.batch=8",
];

/// Study, variant, mean loss of three steps, validation loss (0 where there is none).
const RECORDED: &str = include_str!("first_steps.txt");

#[test]
fn first_steps_of_every_recipe_have_the_losses_they_had() {
    let temp = tempfile::tempdir().unwrap();
    let home = temp.path().canonicalize().unwrap();
    let start = checkpoint(&home, "bert");
    let [images, texts, questions] = [write_set(&home), debian(&home), squad(&home)];
    let fitted = home.join("ecoformer-fitted.toml");
    let text = std::fs::read_to_string(recipe_file("ecoformer-fitted.toml")).unwrap();
    std::fs::write(&fitted, text.replace("runs/ecoformer-fitted", &home.join("runs").display().to_string())).unwrap();
    let german = [TEXT, &["data.languages=[\"en\",\"de\"]"]].concat();
    let cases: [(PathBuf, &[&str], &Path); 9] = [
        (recipe_file("fashion-vit.toml"), BITS, &images),
        (recipe_file("vision-fashion.toml"), IMAGES, &images),
        (fitted, IMAGES, &images),
        (recipe_file("m3vit-scenes.toml"), SCENES, &images),
        (recipe_file("switch-lm.toml"), TEXT, &texts),
        (recipe_file("thor-translate.toml"), TEXT, &texts),
        (recipe_file("back-translation.toml"), TEXT, &texts),
        (recipe_file("idt5-trim.toml"), &german, &texts),
        (questions_recipe(&start), &common::SMALL_QUESTIONS, &questions),
    ];
    let mut seen = String::new();
    for (file, overrides, data) in cases {
        let short = ["train.steps=3", "train.warmup=2", "train.save_every=9"];
        let all: Vec<String> = overrides.iter().chain(&short).map(|s| s.to_string()).collect();
        let mut study = Study::read(&file, &all).unwrap();
        for of in study.runs.iter_mut().filter(|r| r.recipe.seed == 1 && r.variant != "back") {
            // Variants are out of reach of overrides.
            (of.recipe.train.steps, of.recipe.train.warmup) = (3, 2);
            let name = if study.name == "ecoformer-fitted" {
                of.recipe.name.clone()
            } else {
                format!("{}-{}", study.name, of.variant)
            };
            let shared = home.join("shared");
            std::fs::create_dir_all(&shared).unwrap();
            let o = TrainOptions {
                out: home.join("runs").join(&name),
                data: Some(data.into()),
                shared: Some(shared),
                stop_after: None,
                quiet: true,
            };
            let report = run(&of.recipe, &o).unwrap();
            let curves = switchformer_lab::curves::Curves::read(&o.out).unwrap();
            let valid = curves.valid.last().map_or(0.0, |v| v.1);
            seen.push_str(&format!("{} {} {:.6} {valid:.6}\n", study.name, of.variant, report.loss.unwrap()));
        }
    }
    let number = |text: Option<&str>| text.unwrap().parse::<f64>().unwrap();
    for (got, want) in seen.lines().zip(RECORDED.lines()) {
        let (mut g, mut w) = (got.split(' '), want.split(' '));
        assert_eq!([g.next(), g.next()], [w.next(), w.next()]);
        for _ in 0..2 {
            // Kernels of other processors round otherwise.
            let (g, w) = (number(g.next()), number(w.next()));
            assert!((g - w).abs() <= 1e-3 * w.abs(), "got: {got}\nrecorded: {want}");
        }
    }
    assert_eq!(seen.lines().count(), RECORDED.lines().count(), "{seen}");
}

#[test]
fn finished_runs_of_the_repository_are_those_of_its_recipes() {
    let mut known = 0;
    for name in ["back-translation", "ecoformer-fitted", "m3vit-scenes", "robust-qa", "switch-lm", "thor-translate"] {
        let study = Study::read(&recipe_file(&format!("{name}.toml")), &[]).unwrap();
        let record = recipe_file(&format!("../results/{name}.json"));
        let done: serde_json::Value = serde_json::from_slice(&std::fs::read(record).unwrap()).unwrap();
        for result in done.as_array().unwrap() {
            let of = |r: &&StudyRun| r.variant == result["variant"] && r.recipe.seed == result["seed"];
            let run = study.runs.iter().find(of).unwrap();
            assert_eq!(run.recipe.fingerprint(), result["recipe"].as_str().unwrap(), "{name} {}", run.variant);
            known += 1;
        }
    }
    assert!(known >= 64, "{known}");
}
