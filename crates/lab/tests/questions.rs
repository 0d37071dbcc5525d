//! Questions about passages: a start from a checkpoint, experts on top and inside, tensors that stay, measurement.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchformer_data::Squad;
use switchformer_data::squad::Offsets;
use switchformer_infer::tasks::extract_answer as reading;
use switchformer_lab::Error;
use switchformer_lab::net::Net;
use switchformer_lab::recipe::Recipe;
use switchformer_lab::recipe::study::Study;
use switchformer_lab::study::{StudyOptions, run_all};
use switchformer_lab::task::{self, Places};
use switchformer_lab::train::{TrainOptions, run};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::store::safetensors_bytes;
use switchformer_nn::{Point, Weights};
use switchformer_zoo::save::published_tensors;
use switchformer_zoo::{OpenOptions, Opened, find};

const NAMES: [&str; 6] = ["anna", "bert", "carl", "dora", "emil", "fred"];
const PLACES: [&str; 6] = ["berlin", "cairo", "delhi", "lima", "oslo", "paris"];

/// A BERT of two blocks with random weights, and its tokenizer.
fn checkpoint(dir: &Path, model_type: &str) -> PathBuf {
    let config = json!({
        "model_type": model_type, "vocab_size": 32, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 96, "initializer_range": 0.2,
    });
    let entry = find(model_type).unwrap();
    let w = Weights::fresh(5, 0.2).trainable();
    entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let tensors = published_tensors(entry, entry.architectures[0], &w.params()).unwrap();
    let home = dir.join(model_type);
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("config.json"), config.to_string()).unwrap();
    std::fs::write(home.join("model.safetensors"), safetensors_bytes(&tensors).unwrap()).unwrap();
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "does", "live", "?", "lives", "in", "and", "."];
    let vocab: Vec<&str> = words.into_iter().chain(NAMES).chain(PLACES).collect();
    std::fs::write(home.join("vocab.txt"), vocab.join("\n")).unwrap();
    home
}

/// Sets in which it must be found out who lives where.
fn squad(dir: &Path) -> PathBuf {
    let home = dir.join("squad");
    std::fs::create_dir_all(&home).unwrap();
    let files = ["squaddev_v1.1", "new_wiki_v1.0", "nyt_v1.0", "amazon_reviews_v1.0", "reddit_v1.0"];
    for (f, file) in files.iter().enumerate() {
        let article = |a: usize| {
            let text: Vec<String> =
                (0..3).map(|i| format!("{} lives in {} .", NAMES[(a + i) % 6], PLACES[(a * 5 + f + i) % 6])).collect();
            let text = text.join(" and ");
            let qas = |i: usize| {
                let place = PLACES[(a * 5 + f + i) % 6];
                let answer = json!({"text": place, "answer_start": text.find(place).unwrap()});
                json!({"id": format!("{a}-{i}"), "question": format!("where does {} live ?", NAMES[(a + i) % 6]),
                       "answers": [answer]})
            };
            let qas: Vec<Value> = (0..3).map(qas).collect();
            json!({"title": format!("t{a}"), "paragraphs": [{"context": text, "qas": qas}]})
        };
        let data: Vec<Value> = (0..30).map(article).collect();
        std::fs::write(home.join(format!("{file}.json")), json!({"data": data}).to_string()).unwrap();
    }
    home
}

/// The recipe at toy sizes: three blocks at most, experts in the last one.
fn study(start: &Path, overrides: &[&str]) -> Study {
    let text = std::fs::read_to_string(common::recipe_file("robust-qa.toml")).unwrap();
    // Variants are out of reach of overrides.
    let text = text
        .replace("models/all-MiniLM-L6-v2", &start.display().to_string())
        .replace("\"encoder.layer.0\", \"encoder.layer.1\", \"encoder.layer.2\"", "\"encoder.layer.0\"")
        .replace("encoder.layer.6", "encoder.layer.2")
        .replace("num_hidden_layers = 7", "num_hidden_layers = 3")
        .replace("from = 6", "from = 2")
        .replace("from = 4", "from = 1")
        .replace("\"runs/", &format!("\"{}/", start.with_file_name("runs").display()));
    let copy = start.with_extension("toml");
    std::fs::write(&copy, text).unwrap();
    let small = [
        "seeds=[1,2]",
        "data.max_len=80",
        "data.overlap=8",
        "data.valid=6",
        "train.steps=6",
        "train.batch=200",
        "train.warmup=2",
        "train.save_every=2",
        "train.valid_every=3",
        "eval.questions=8",
    ];
    let all: Vec<String> = small.iter().chain(overrides).map(|s| s.to_string()).collect();
    Study::read(&copy, &all).unwrap()
}

fn one(study: &Study, variant: &str) -> Recipe {
    study.variant(variant, Path::new("x")).unwrap().recipe.clone()
}

fn options(dir: &Path, name: &str, data: &Path, stop_after: Option<u64>) -> TrainOptions {
    TrainOptions { out: dir.join(name), data: Some(data.to_path_buf()), shared: None, stop_after, quiet: true }
}

fn tensors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let all = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    all.into_iter().map(|(name, t)| (name, t.flatten_all().unwrap().to_vec1().unwrap())).collect()
}

#[test]
fn every_variant_goes_on_bit_for_bit_and_keeps_what_stays() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    let study = study(&start, &[]);
    let published = tensors(&start.join("model.safetensors"));
    for variant in ["dense", "top-dense", "top-2", "switch", "inside", "eda"] {
        let recipe = one(&study, variant);
        let trained = |name: &str, stop: Option<u64>| {
            let o = options(temp.path(), &format!("{variant}-{name}"), &data, stop);
            if stop.is_some() {
                assert!(matches!(run(&recipe, &o), Err(Error::Interrupted { .. })), "{variant}");
            }
            run(&recipe, &TrainOptions { stop_after: None, ..o }).unwrap().model
        };
        let (whole, stopped) = (trained("whole", None), trained("stopped", Some(3)));
        let own = tensors(&whole.join("model.safetensors"));
        assert!(own == tensors(&stopped.join("model.safetensors")), "{variant}");
        let experts = whole.join("switch.safetensors");
        assert_eq!(experts.exists(), ["top-2", "switch", "inside"].contains(&variant), "{variant}");
        if experts.exists() {
            let added = tensors(&experts);
            assert!(added == tensors(&stopped.join("switch.safetensors")), "{variant}");
            assert!(added.keys().all(|n| n.contains(".ffn.router.") || n.contains(".ffn.experts.")), "{variant}");
        }
        for (name, values) in &own {
            let bare = name.strip_prefix("bert.").unwrap_or(name);
            let still = bare.starts_with("embeddings.") || bare.starts_with("encoder.layer.0.");
            let same = published.get(bare) == Some(values);
            assert!(same == still || name.ends_with("key.bias"), "{variant}: {name}");
        }
        let opened = Opened::open(&whole, OpenOptions::default()).unwrap();
        let reader = reading::reader(&opened, &whole).unwrap();
        let text = "anna lives in oslo .";
        let found = reading::answers(&opened, &Point::new(), &reader, "where does anna live ?", text).unwrap().0;
        assert!(text.contains(&text[found[0].range.clone()]) && found[0].probability > 0.0);
    }
}

#[test]
fn questions_are_said_again_by_models_of_ones_own() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    let recipe = one(&study(&start, &[]), "back");
    let o = options(temp.path(), "back", &data, None);
    let missing = run(&recipe, &o).unwrap_err().to_string();
    assert!(missing.contains("data.back") && missing.contains("back-translation.toml"), "{missing}");
    let small = ["d_model=16", "d_kv=8", "d_ff=32", "num_heads=2"].map(|s| format!("model.{s}"));
    let short = ["data.vocab=400", "train.steps=2", "train.batch=200", "train.warmup=1", "eval.sentences=2"];
    let all: Vec<String> = small.into_iter().chain(short.map(String::from)).collect();
    let translators = Study::read(&common::recipe_file("back-translation.toml"), &all).unwrap();
    let places = StudyOptions {
        out: start.with_file_name("runs").join("back-translation"),
        results: temp.path().join("results"),
        data: Some(common::debian(temp.path())),
        only: None,
        quiet: true,
    };
    assert_eq!(run_all(&translators, &places).unwrap().done.len(), 2);
    // What was translated once is not translated again.
    let count = |recipe: &Recipe| {
        let shared = temp.path().to_path_buf();
        let mut task = task::open(recipe, &Places { data: Some(data.clone()), shared, words: None }).unwrap();
        (0..40).map(|i| task.batch(i).unwrap().labels).collect::<Vec<_>>()
    };
    let first = count(&recipe);
    let again = || {
        let names = std::fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().path());
        names.filter(|p| p.to_string_lossy().contains("said-again")).collect::<Vec<_>>()
    };
    let file = again().pop().unwrap();
    let known: BTreeMap<String, String> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert!(known.keys().any(|k| k.starts_with("where does")), "{known:?}");
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(count(&recipe), first);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), before);
    assert_ne!(count(&one(&study(&start, &[]), "dense")), first);
    assert!(run(&recipe, &TrainOptions { shared: Some(temp.path().to_path_buf()), ..o }).unwrap().loss.is_finite());
}

#[test]
fn experts_begin_as_the_network_that_they_copy() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    let study = study(&start, &[]);
    let loss = |variant: &str| {
        let recipe = one(&study, variant);
        let task = task::open(&recipe, &Places { data: Some(data.clone()), ..Places::default() }).unwrap();
        let net = Net::new(&recipe, task.as_ref()).unwrap();
        net.valid(task.as_ref(), &task.valid().unwrap(), &Point::new()).unwrap()
    };
    let (dense, inside) = (loss("dense"), loss("inside"));
    assert!((dense - inside).abs() < 1e-5, "{dense} {inside}");
    assert!((dense - loss("top-2")).abs() > 1e-4);
}

#[test]
fn training_finds_who_lives_where_and_the_table_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    let long = ["seeds=[1]", "train.steps=150", "train.lr=0.005", "train.dropout=0.0", "train.valid_every=50"];
    let study = study(&start, &long);
    let o = StudyOptions {
        out: temp.path().join("runs"),
        results: temp.path().join("results"),
        data: Some(data.clone()),
        only: Some("dense".into()),
        quiet: true,
    };
    let report = run_all(&study, &o).unwrap();
    let curves = switchformer_lab::curves::Curves::read(&o.out.join("dense-s1")).unwrap();
    let (first, last) = (curves.valid[0].1, curves.valid[curves.valid.len() - 1].1);
    assert!(last < first && last < 2.0, "{first} {last}");
    let figures = &report.done[0].figures["rest"];
    assert_eq!(figures.len(), 5 * 2 * 3);
    for name in ["squad", "new-wiki", "nyt", "amazon", "reddit"] {
        let [low, own, high] = ["F1 {} low", "F1 {}", "F1 {} high"].map(|f| figures[&f.replace("{}", name)]);
        assert!(low <= own && own <= high && (0.0..=100.0).contains(&own), "{name}: {low} {own} {high}");
    }
    let text = std::fs::read_to_string(&report.table).unwrap();
    assert!(text.contains("training part was not to be had") && text.contains("| F1 squad |"), "{text}");
    assert!(!text.contains(" low") && text.contains(" ["), "{text}");
    // The same answers, one question at a time and all at once.
    let home = o.out.join("dense-s1/model");
    let opened = Opened::open(&home, OpenOptions::default()).unwrap();
    let reader = reading::reader(&opened, &home).unwrap();
    let set = Squad::open(data.join("nyt_v1.0.json"), Offsets::Exact).unwrap();
    let given = reading::answer_all(&opened, &Point::new(), &reader, &set, &[4, 0, 17]).unwrap();
    for (i, given) in [4, 0, 17].into_iter().zip(given) {
        let (q, text) = (&set.questions[i], &set.passages[set.questions[i].passage].text);
        let found = reading::answers(&opened, &Point::new(), &reader, &q.text, text).unwrap().0;
        assert_eq!(text.get(found[0].range.clone()), given.as_deref());
    }
}

#[test]
fn a_run_that_fails_does_not_keep_the_others_from_their_turn() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    // `back` asks for translators that are not there.
    let study = study(&start, &[]);
    let out = temp.path().join("runs");
    let o = StudyOptions {
        results: temp.path().join("results"),
        data: Some(data),
        only: Some("back".into()),
        quiet: true,
        out: out.clone(),
    };
    let Err(Error::Runs { failed: 2, run, first, table }) = run_all(&study, &o) else { panic!("no run can be done") };
    assert!(run == "back-s1" && first.to_string().contains("--variant there"), "{run}: {first}");
    assert!(!table.exists());
    let error = run_all(&study, &StudyOptions { only: None, ..o.clone() }).unwrap_err();
    assert!(error.to_string().contains("2 of the runs failed") && error.code() == first.code(), "{error}");
    let text = std::fs::read_to_string(table).unwrap();
    assert!(text.contains("12 of 14 runs") && text.contains("| eda | rest | 2 |"), "{text}");
}

#[test]
fn what_cannot_be_a_start_is_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    let error = |overrides: &[&str]| {
        let recipe = one(&study(&start, overrides), "dense");
        run(&recipe, &options(temp.path(), "no", &data, None)).unwrap_err().to_string()
    };
    let missing = error(&["start.fresh=[\"qa_output\"]"]);
    assert!(missing.contains("qa_outputs.weight"), "only what is named whole is drawn: {missing}");
    let left_over = error(&["model.num_hidden_layers=1"]);
    assert!(left_over.contains("encoder.layer.1"), "{left_over}");
    let other = checkpoint(temp.path(), "roberta");
    let set = format!("start.folder=\"{}\"", other.display());
    assert!(error(&[&set, "model.model_type=bert"]).contains("roberta"));
    std::fs::remove_file(data.join("nyt_v1.0.json")).unwrap();
    let path = start.with_extension("toml");
    let refuse = |o: &str| Study::read(&path, &[o.to_string()]).unwrap_err().to_string();
    assert!(refuse("train.label_smoothing=0.1").contains("label_smoothing"));
    assert!(refuse("switch.bits=[8]").contains("bits"));
    assert!(refuse("data.set=debian").contains("squad"));
}
