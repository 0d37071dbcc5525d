//! Questions about passages: a start from a checkpoint, experts on top and inside, tensors that stay, measurement.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{checkpoint, questions_recipe, squad};
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
use switchformer_nn::{Member, Point};
use switchformer_zoo::{OpenOptions, Opened};

/// The recipe at toy sizes: three blocks at most, experts in the last one.
fn study(start: &Path, overrides: &[&str]) -> Study {
    let small = ["seeds=[1,2]", "train.steps=6", "train.save_every=2", "train.valid_every=3"];
    let all: Vec<String> =
        common::SMALL_QUESTIONS.iter().chain(&small).chain(overrides).map(|s| s.to_string()).collect();
    Study::read(&questions_recipe(start), &all).unwrap()
}

fn one(study: &Study, variant: &str) -> Recipe {
    study.variant(variant, Path::new("x")).unwrap().recipe.clone()
}

fn options(dir: &Path, name: &str, data: &Path, stop_after: Option<u64>) -> TrainOptions {
    TrainOptions { out: dir.join(name), data: Some(data.to_path_buf()), shared: None, stop_after, quiet: true }
}

fn tensors(file: &Path) -> BTreeMap<String, Vec<f32>> {
    let all = switchformer_tensor::safetensors::load(file).unwrap();
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
        let found = reading::answers(
            &opened,
            &Point::new(),
            &reader,
            ("where does anna live ?", text),
            &Member::default(),
            &mut (),
        )
        .unwrap()
        .0;
        assert!(text.contains(&text[found[0].range.clone()]) && found[0].probability > 0.0);
    }
}

#[test]
fn texts_are_lower_cased_as_the_start_lower_cases_them() {
    let temp = tempfile::tempdir().unwrap();
    let (start, data) = (checkpoint(temp.path(), "bert"), squad(temp.path()));
    let cased = r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#;
    std::fs::write(start.join("tokenizer_config.json"), cased).unwrap();
    std::fs::write(start.join("modules.json"), "[]").unwrap();
    std::fs::write(start.join("sentence_bert_config.json"), r#"{"do_lower_case": true}"#).unwrap();
    let recipe = one(&study(&start, &[]), "dense");
    let model = run(&recipe, &options(temp.path(), "lower", &data, None)).unwrap().model;
    let opened = Opened::open(&model, OpenOptions::default()).unwrap();
    let reader = reading::reader(&opened, &model).unwrap();
    let ids = |question: &str| reader.windows(question, "anna lives in oslo").unwrap().remove(0).ids;
    assert_eq!(ids("WHERE does Anna live"), ids("where does anna live"));
    assert!(!ids("WHERE").contains(&1), "no word is unknown");
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
        (0..40).map(|i| task.batch(i).unwrap().target.ids("spans").unwrap().to_vec()).collect::<Vec<_>>()
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
    assert!(
        run(&recipe, &TrainOptions { shared: Some(temp.path().to_path_buf()), ..o }).unwrap().loss.unwrap().is_finite()
    );
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
    let figures = &report.done[0].figures["default"];
    assert_eq!(figures.len(), 5 * 2 * 3);
    for name in ["squad", "new-wiki", "nyt", "amazon", "reddit"] {
        let [low, own, high] = ["F1 {} low", "F1 {}", "F1 {} high"].map(|f| figures[&f.replace("{}", name)]);
        assert!(low <= own && own <= high && (0.0..=100.0).contains(&own), "{name}: {low} {own} {high}");
    }
    let text = std::fs::read_to_string(&report.table).unwrap();
    assert!(text.contains("training split was not available") && text.contains("| F1 squad |"), "{text}");
    assert!(!text.contains(" low") && text.contains(" ["), "{text}");
    // The same answers, one question at a time and all at once.
    let home = o.out.join("dense-s1/model");
    let opened = Opened::open(&home, OpenOptions::default()).unwrap();
    let reader = reading::reader(&opened, &home).unwrap();
    let set = Squad::open(data.join("nyt_v1.0.json"), Offsets::Exact).unwrap();
    let given = reading::answer_all(&opened, &Point::new(), &reader, &set, &[4, 0, 17], &mut ()).unwrap();
    for (i, given) in [4, 0, 17].into_iter().zip(given) {
        let (q, text) = (&set.questions[i], &set.passages[set.questions[i].passage].text);
        let found =
            reading::answers(&opened, &Point::new(), &reader, (&q.text, text), &Member::default(), &mut ()).unwrap().0;
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
    assert!(text.contains("12 of 14 runs") && text.contains("| eda | default | 2 |"), "{text}");
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
