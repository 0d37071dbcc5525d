//! The loop on text: spans and translations, experts, dropout, studies.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{debian, recipe_file};
use sha2::Digest;
use switchformer_lab::Error;
use switchformer_lab::checkpoint::Checkpoints;
use switchformer_lab::recipe::Recipe;
use switchformer_lab::recipe::study::Study;
use switchformer_lab::run_lock::RunLock;
use switchformer_lab::study::{StudyOptions, run_all};
use switchformer_lab::task::{self, Places};
use switchformer_lab::train::{TrainOptions, run};
use switchformer_zoo::{OpenOptions, Opened};

const SMALL: &[&str] = &[
    "model.d_model=16",
    "model.d_kv=8",
    "model.d_ff=32",
    "model.num_heads=2",
    "data.vocab=400",
    "data.valid=4",
    "data.max_len=40",
    "train.steps=6",
    "train.batch=120",
    "train.warmup=2",
    "train.save_every=2",
    "train.valid_every=3",
    "seeds=[1,2]",
];

#[test]
fn a_translator_learns_either_way() {
    let temp = tempfile::tempdir().unwrap();
    let data = debian(temp.path());
    let sources = |variant: &str| {
        let recipe = one("back-translation.toml", variant, &[]);
        let places = Places { data: Some(data.clone()), shared: temp.path().to_path_buf(), ..Places::default() };
        let mut task = task::open(&recipe, &places).unwrap();
        let batch = task.batch(0).unwrap();
        let model = run(&recipe, &options(temp.path(), variant, &data, None)).unwrap().model;
        let words = switchformer_data::Tokenizer::load(&model, None).unwrap();
        words.decode(batch.target.class_ids().unwrap(), true).unwrap()
    };
    assert!(sources("there").contains(" per il ") && !sources("there").contains(" for the "));
    assert!(sources("home").contains(" for the ") && !sources("home").contains(" per il "));
}

fn study(file: &str, overrides: &[&str]) -> Study {
    let all: Vec<String> = SMALL.iter().chain(overrides).map(|s| s.to_string()).collect();
    Study::read(&recipe_file(file), &all).unwrap()
}

fn one(file: &str, variant: &str, overrides: &[&str]) -> Recipe {
    study(file, overrides).variant(variant, Path::new(file)).unwrap().recipe.clone()
}

fn options(dir: &Path, name: &str, data: &Path, stop_after: Option<u64>) -> TrainOptions {
    TrainOptions {
        out: dir.join(name),
        data: Some(data.to_path_buf()),
        shared: Some(dir.to_path_buf()),
        stop_after,
        quiet: true,
    }
}

#[test]
fn every_kind_of_text_run_goes_on_bit_for_bit() {
    let temp = tempfile::tempdir().unwrap();
    let data = debian(temp.path());
    let adafactor = ["train.optimizer=adafactor", "train.schedule=inverse-sqrt", "train.accumulate=2"];
    let averaged = ["train.ema=0.9", "train.export_ema=true", "train.schedule=linear"];
    for (i, (file, variant, overrides)) in [
        ("switch-lm.toml", "experts-4", adafactor.as_slice()),
        ("switch-lm.toml", "experts-1", averaged.as_slice()),
        ("thor-translate.toml", "thor-5", &[]),
        ("thor-translate.toml", "dense-rdrop", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let recipe = one(file, variant, overrides);
        let weights = |name: String, stop: Option<u64>| {
            let o = options(temp.path(), &name, &data, stop);
            if stop.is_some() {
                assert!(matches!(run(&recipe, &o), Err(Error::Interrupted { .. })), "{variant}");
            }
            let report = run(&recipe, &TrainOptions { stop_after: None, ..o }).unwrap();
            assert!(report.loss.unwrap().is_finite());
            std::fs::read(report.model.join("model.safetensors")).unwrap()
        };
        assert!(weights(format!("{i}-whole"), None) == weights(format!("{i}-stopped"), Some(3)), "{variant}");
    }
}

#[test]
fn training_lowers_the_loss_and_the_export_writes() {
    let temp = tempfile::tempdir().unwrap();
    let data = debian(temp.path());
    let recipe = one("switch-lm.toml", "experts-2", &["train.steps=60", "train.lr=0.01", "train.keep_best=1"]);
    let o = options(temp.path(), "run", &data, None);
    run(&recipe, &o).unwrap();
    let curves = switchformer_lab::curves::Curves::read(&o.out).unwrap();
    let (first, last) = (curves.valid[0].1, curves.valid[curves.valid.len() - 1].1);
    assert!(last < first - 0.5, "{first} {last}");
    assert!(o.out.join("report.html").exists());
    assert!(Checkpoints::of(&o.out).best().unwrap().is_some());
    let opened = Opened::open(&o.out.join("model"), OpenOptions::default()).unwrap();
    let words = switchformer_data::Tokenizer::load(o.out.join("model"), None).unwrap();
    let ids = words.encode(&["editor for the game"]).unwrap().remove(0).ids;
    let source = switchformer_nn::Input::tokens(&[ids]).unwrap();
    assert_eq!(
        switchformer_infer::generate::greedy(&opened, &switchformer_nn::Point::new(), &source, 5).unwrap().0.len(),
        1
    );
}

#[test]
fn a_study_is_trained_measured_and_continued() {
    let temp = tempfile::tempdir().unwrap();
    let data = debian(temp.path());
    let study = study("thor-translate.toml", &["train.steps=4", "eval.sentences=2"]);
    assert_eq!(study.runs.len(), 10);
    let o = StudyOptions {
        out: temp.path().join("runs"),
        results: temp.path().join("results"),
        data: Some(data),
        only: Some("thor-5".into()),
        quiet: true,
    };
    // One run is half done already.
    let first = study.variant("thor-5", Path::new("x")).unwrap();
    let half = TrainOptions {
        out: o.out.join(&first.recipe.name),
        data: o.data.clone(),
        shared: Some(o.out.clone()),
        stop_after: Some(2),
        quiet: true,
    };
    assert!(run(&first.recipe, &half).is_err());
    let report = run_all(&study, &o).unwrap();
    assert_eq!((report.done.len(), report.runs), (2, 10));
    let figures = &report.done[0].figures;
    assert_eq!(figures.keys().collect::<Vec<_>>(), ["all", "random-0", "random-1", "random-2"]);
    assert!(figures["all"]["loss"].is_finite() && figures["all"].contains_key("BLEU"));
    assert_ne!(figures["random-0"]["loss"], figures["random-1"]["loss"], "seeds choose experts");
    let text = std::fs::read_to_string(&report.table).unwrap();
    assert!(text.contains("| thor-5 | random-2 | 2 |"), "{text}");
    // What is done is not done again: the run's files are left alone.
    let file = o.out.join("thor-5-s1/model/model.safetensors");
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(run_all(&study, &o).unwrap(), report);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before);
    // The record is enough to know it, and results of other recipes stay in it.
    std::fs::remove_dir_all(&o.out).unwrap();
    assert_eq!(run_all(&study, &o).unwrap(), report);
    assert!(!o.out.exists());
    let record = || std::fs::read_to_string(o.results.join("thor-translate.json")).unwrap();
    let (before, other) = (record(), self::study("thor-translate.toml", &["train.steps=3", "eval.sentences=2"]));
    assert_eq!(run_all(&other, &StudyOptions { only: Some("dense".into()), ..o.clone() }).unwrap().done.len(), 2);
    assert!(record().contains(before.trim_matches(['[', ']', '\n'])) && record().len() > before.len());
    assert_eq!(run_all(&study, &o).unwrap(), report);
}

#[test]
fn two_processes_share_the_runs_of_a_study() {
    let temp = tempfile::tempdir().unwrap();
    let overrides = ["train.steps=3", "eval.sentences=2", "seeds=[1]"];
    let study = study("thor-translate.toml", &overrides);
    let o = StudyOptions {
        out: temp.path().join("runs"),
        results: temp.path().join("results"),
        data: Some(debian(temp.path())),
        only: None,
        quiet: true,
    };
    // A run in other hands is left to them, and refused where it alone is asked for.
    let first = &study.runs[0].recipe;
    let held = RunLock::take(&o.out.join(&first.name)).unwrap().unwrap();
    let alone = TrainOptions { out: o.out.join(&first.name), data: o.data.clone(), ..TrainOptions::default() };
    assert!(matches!(run(first, &alone), Err(Error::InUse { .. })));
    let [one, two] =
        std::thread::scope(|s| [(); 2].map(|()| s.spawn(|| run_all(&study, &o).unwrap())).map(|t| t.join().unwrap()));
    drop(held);
    assert!(one.elsewhere >= 1 && two.elsewhere >= 1);
    let last = run_all(&study, &o).unwrap();
    assert_eq!((last.done.len(), last.elsewhere), (last.runs, 0));
    for r in &study.runs {
        let lines = std::fs::read_to_string(o.out.join(&r.recipe.name).join("metrics.jsonl")).unwrap();
        let steps = lines.lines().filter(|l| l.contains("\"lr\"") && l.contains("\"step\":3")).count();
        assert_eq!(steps, 1, "{} was trained twice: {lines}", r.recipe.name);
    }
}

#[test]
fn what_cannot_be_trained_is_refused_and_a_run_that_diverges_keeps_its_state() {
    let temp = tempfile::tempdir().unwrap();
    let data = debian(temp.path());
    let path = recipe_file("switch-lm.toml");
    assert!(Recipe::read(&path, &[]).unwrap_err().to_string().contains("--all"));
    let refuse = |o: &str| Study::read(&path, &[o.to_string()]).unwrap_err().to_string();
    assert!(refuse("switch.agree=1.0").contains("switch.draws"));
    assert!(refuse("data.set=text8").contains("data.set"));
    assert!(refuse("seeds=[]").contains("seed"));
    assert!(refuse("seeds=[1,1]").contains("twice"));
    let missing = run(&one("switch-lm.toml", "experts-1", &[]), &options(temp.path(), "none", temp.path(), None));
    assert!(missing.unwrap_err().to_string().contains("Translation-en"));
    // Packages of alike names are one family, and a family is in one split.
    let alike = temp.path().join("alike");
    std::fs::create_dir(&alike).unwrap();
    let text = std::fs::read_to_string(data.join("Translation-en")).unwrap();
    let text: Vec<String> = (0..)
        .zip(text.lines())
        .map(|(i, line)| match line.starts_with("Package: ") {
            true => format!("Package: p{i}"),
            false => line.to_string(),
        })
        .collect();
    std::fs::write(alike.join("Translation-en"), text.join("\n")).unwrap();
    let empty =
        run(&one("switch-lm.toml", "experts-1", &["train.valid_every=1"]), &options(temp.path(), "e", &alike, None));
    let empty = empty.unwrap_err().to_string();
    assert!(empty.contains("validation split") && empty.contains("train.valid_every = 0"), "{empty}");
    // A state that has gone bad: one weight is no number.
    let recipe = one("switch-lm.toml", "experts-2", &[]);
    let o = options(temp.path(), "bad", &data, Some(2));
    assert!(run(&recipe, &o).is_err());
    let home = o.out.join("checkpoints/step-0000000002");
    let mut bytes = std::fs::read(home.join("state.safetensors")).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(home.join("state.safetensors"), &bytes).unwrap();
    let manifest = std::fs::read_to_string(home.join("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    manifest["sha256"] = switchformer_lab::recipe::hex(&sha2::Sha256::digest(&bytes)).into();
    std::fs::write(home.join("manifest.json"), manifest.to_string()).unwrap();
    let e = run(&recipe, &TrainOptions { stop_after: None, ..o.clone() }).unwrap_err();
    let Error::Diverged { what: "loss", step: 2, saved: Some(saved) } = &e else { panic!("{e}") };
    assert!(saved.ends_with("step-0000000002") && e.to_string().contains("last good state"), "{e}");
    assert!(std::fs::read(home.join("state.safetensors")).unwrap() == bytes, "nothing is saved over it");
    assert!(std::fs::read_dir(o.out.join("checkpoints")).unwrap().count() == 1 && !o.out.join("model").exists());
}

#[test]
fn a_vocabulary_is_cut_to_one_language_and_measured_beside_the_whole() {
    let temp = tempfile::tempdir().unwrap();
    let data = debian(temp.path());
    let overrides = ["data.languages=[\"en\",\"de\"]", "seeds=[1]", "train.steps=30", "train.lr=0.01"];
    let study = study("idt5-trim.toml", &overrides);
    let o = StudyOptions {
        out: temp.path().join("runs"),
        results: temp.path().join("results"),
        data: Some(data.clone()),
        only: None,
        quiet: true,
    };
    let figures = run_all(&study, &o).unwrap().done.remove(0).figures;
    assert_eq!(figures.keys().collect::<Vec<_>>(), ["default", "german", "german-8"]);
    let of = |point: &str, name: &str| figures[point][name];
    for name in ["vocabulary", "million parameters", "MB"] {
        let [rest, german, few] = ["default", "german", "german-8"].map(|point| of(point, name));
        assert!(german < rest && few <= german, "{name}: {rest} {german} {few}");
    }
    // Rows and special tokens are all that is gone: the parameters say so.
    let rows = of("default", "vocabulary") - of("german", "vocabulary");
    let gone = 1e6 * (of("default", "million parameters") - of("german", "million parameters"));
    assert!((gone - rows * 2.0 * 16.0).abs() < 0.5, "two tables of 16: {gone} for {rows} rows");
    // German test texts use no token that German training texts lack here, so they are the same tokens, with fewer rivals.
    assert_eq!(of("german", "tokens/kB"), of("default", "tokens/kB"));
    assert!(of("german", "nats/kB") <= of("default", "nats/kB") + 1e-3);
    let words = switchformer_data::Tokenizer::load(o.out.join("idt5-trim-s1/model-german"), None).unwrap();
    assert!(words.token_to_id("<extra_id_31>").is_some());
    let text = std::fs::read_to_string(o.results.join("idt5-trim.md")).unwrap();
    assert!(text.contains("| idt5-trim | german-8 | 1 |"), "{text}");
    let path = recipe_file("idt5-trim.toml");
    let refuse = |o: &str| Study::read(&path, &[o.to_string()]).unwrap_err().to_string();
    assert!(refuse("eval.language=\"pl\"").contains("eval.language"));
    assert!(refuse("data.set=text").contains("data.languages"));
}
