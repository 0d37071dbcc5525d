//! Models with a smaller vocabulary: rows of kept tokens are those of the whole model, bit for bit.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchformer_compress::vocab::trim_vocab;
use switchformer_data::train_tokenizer::{Bytes, Kind, Unify};
use switchformer_data::trim::Keep;
use switchformer_data::{Encoding, Tokenizer, TokenizerRecipe};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::store::{safetensors_bytes, write_folder};
use switchformer_nn::{Error, Input, Output, Point, Tensor, Weights};
use switchformer_zoo::save::{json_bytes, published_tensors};
use switchformer_zoo::{OpenOptions, Opened, find};

const ALL: Keep = Keep { min_count: 1, size: None, first: 0 };
const TEXTS: [&str; 4] =
    ["the cat sat on the mat", "a cat and a kitten sat", "the mat and the kitten", "on the mat sat a cat and the cat"];
const MORE: &str = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, sagt der Mann aus dem Norden";

/// Architectures of every family that can be cut, with what their toy configs need beside.
fn cases() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("bert", "BertModel", json!({})),
        ("bert", "BertForMaskedLM", json!({})),
        ("bert", "BertForSequenceClassification", json!({})),
        ("roberta", "RobertaForMaskedLM", json!({"pad_token_id": 0})),
        ("distilbert", "DistilBertForMaskedLM", json!({})),
        ("albert", "AlbertForMaskedLM", json!({})),
        ("t5", "T5ForConditionalGeneration", json!({"eos_token_id": 1, "decoder_start_token_id": 0})),
        ("t5", "T5EncoderModel", json!({})),
        ("mt5", "MT5ForConditionalGeneration", json!({"eos_token_id": [1, 2], "decoder_start_token_id": 0})),
        ("switch_transformers", "SwitchTransformersForConditionalGeneration", json!({})),
    ]
}

/// A toy checkpoint with a tokenizer trained on `TEXTS` and `MORE`; its table has `spare` rows that no token has.
fn publish(dir: &Path, family: &str, architecture: &str, extra: &Value, kind: Kind, spare: usize) {
    let recipe = TokenizerRecipe { bytes: Bytes::No, unify: Unify::No, min_count: 1, ..TokenizerRecipe::t5(kind, 90) };
    let texts: Vec<String> = TEXTS.iter().chain([&MORE]).map(|t| t.to_string()).collect();
    let tokenizer = recipe.train(&texts).unwrap();
    let entry = find(family).unwrap();
    let mut config: Value = serde_json::from_str(entry.toy).unwrap();
    config["architectures"] = json!([architecture]);
    config["vocab_size"] =
        json!(Tokenizer::from_bytes(&tokenizer, Path::new("toy"), None).unwrap().vocab_size() + spare);
    config.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let w = Weights::seeded().trainable();
    entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let tensors = published_tensors(entry, architecture, &w.params()).unwrap();
    let files = [
        ("config.json", json_bytes(&config)),
        ("generation_config.json", json_bytes(&json!({"eos_token_id": 1, "pad_token_id": 0}))),
        ("spiece.model", b"old".to_vec()),
        ("LICENSE", b"free".to_vec()),
        ("model.safetensors", safetensors_bytes(&tensors).unwrap()),
    ];
    write_folder(dir, &files).unwrap();
    recipe.save(&tokenizer, dir).unwrap();
}

fn open(dir: &Path) -> Opened {
    Opened::open(dir, OpenOptions::default()).unwrap()
}

fn input(encoded: &[Encoding], pair: bool) -> Input {
    let source = Input::tokens(&encoded.iter().map(|e| e.ids.clone()).collect::<Vec<_>>()).unwrap();
    if pair { Input::pair(source.clone(), source).unwrap() } else { source }
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

fn outputs(o: &Output) -> Vec<(String, Tensor)> {
    o.values()
        .iter()
        .map(|(name, v)| match v {
            switchformer_nn::Value::PerMember(t) | switchformer_nn::Value::PerRow(t, _) => (name.clone(), t.clone()),
            switchformer_nn::Value::Each(_) => panic!("{name} differs in size"),
        })
        .collect()
}

/// Both models on texts whose tokens are all kept: equal outputs, and equal logits of kept tokens. Returns how many texts.
fn compare(before: &Path, after: &Path, texts: &[&str]) -> usize {
    let (a, b) = (open(before), open(after));
    let (ta, tb) = (Tokenizer::load(before, None).unwrap(), Tokenizer::load(after, None).unwrap());
    let kept: Vec<u32> =
        (0..tb.vocab_size() as u32).map(|id| ta.token_to_id(&tb.id_to_token(id).unwrap()).unwrap()).collect();
    let covered: Vec<&str> =
        texts.iter().filter(|t| ta.encode(&[t]).unwrap()[0].ids.iter().all(|id| kept.contains(id))).copied().collect();
    let (ea, eb) = (ta.encode(&covered).unwrap(), tb.encode(&covered).unwrap());
    for (x, y) in ea.iter().zip(&eb) {
        assert_eq!(x.ids, y.ids.iter().map(|id| kept[*id as usize]).collect::<Vec<_>>());
    }
    let pair = a.config.architecture().unwrap().contains("ConditionalGeneration");
    let run = |o: &Opened, e: &[Encoding]| outputs(&o.run(&Point::new(), &input(e, pair)).unwrap().0);
    let mut compared = 0;
    for ((name, x), (_, y)) in run(&a, &ea).iter().zip(run(&b, &eb)) {
        let vocab = x.dims().last() != y.dims().last();
        let x = if vocab { x.index_select(&Tensor::new(kept.as_slice()).unwrap(), 1).unwrap() } else { x.clone() };
        assert_eq!(bits(&x), bits(&y), "{} {name}", before.display());
        compared += 1;
    }
    assert!(compared > 0);
    covered.len()
}

#[test]
fn kept_tokens_have_the_rows_they_had() {
    let temp = tempfile::tempdir().unwrap();
    let corpus = temp.path().join("corpus.txt");
    std::fs::write(&corpus, TEXTS.join("\n")).unwrap();
    for (i, (family, architecture, extra)) in cases().into_iter().enumerate() {
        let (before, after) = (temp.path().join(format!("{architecture}-{i}")), temp.path().join(format!("cut-{i}")));
        let kind = if i % 2 == 0 { Kind::Unigram } else { Kind::Bpe };
        publish(&before, family, architecture, &extra, kind, 3 * (i % 2));
        let made = trim_vocab(&before, &after, std::slice::from_ref(&corpus), &ALL).unwrap();
        assert!(made.tokens[1] < made.tokens[0] && made.params[1] < made.params[0], "{architecture}: {made:?}");
        assert_eq!((made.covered, &made.left_out), (1.0, &vec!["spiece.model".to_string()]));
        assert_eq!(compare(&before, &after, &[&TEXTS[..], &[MORE]].concat()), TEXTS.len(), "{architecture}");
        let config: Value = serde_json::from_slice(&std::fs::read(after.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["vocab_size"], made.tokens[1]);
        assert!(after.join("LICENSE").exists() && !after.join("spiece.model").exists());
        // A second trim to the same text changes nothing.
        let again = temp.path().join(format!("again-{i}"));
        let twice = trim_vocab(&after, &again, std::slice::from_ref(&corpus), &ALL).unwrap();
        assert_eq!(twice.tokens, [made.tokens[1]; 2]);
        let weights = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
        assert_eq!(weights(&after), weights(&again), "{architecture}");
    }
}

#[test]
fn a_corpus_is_read_as_the_folder_reads_texts() {
    let temp = tempfile::tempdir().unwrap();
    let before = temp.path().join("bert");
    publish(&before, "bert", "BertModel", &json!({}), Kind::Unigram, 0);
    let corpus = |name: &str, text: String| {
        let file = temp.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    let (plain, loud) = (corpus("plain", TEXTS.join("\n")), corpus("loud", TEXTS.join("\n").to_uppercase()));
    let used = |corpus: &PathBuf, name: &str| {
        let out = temp.path().join(name);
        let made = trim_vocab(&before, &out, std::slice::from_ref(corpus), &ALL).unwrap();
        (made.used, std::fs::read(out.join("tokenizer.json")).unwrap())
    };
    assert_ne!(used(&plain, "a").0, used(&loud, "b").0);
    std::fs::write(before.join("modules.json"), "[]").unwrap();
    std::fs::write(before.join("sentence_bert_config.json"), r#"{"do_lower_case": true}"#).unwrap();
    assert_eq!(used(&plain, "c"), used(&loud, "d"));
}

#[test]
fn what_cannot_be_trimmed_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let (before, after) = (temp.path().join("bert"), temp.path().join("out"));
    let corpus = temp.path().join("corpus.txt");
    std::fs::write(&corpus, TEXTS.join("\n")).unwrap();
    let refused = |extra: Value, code: &str, says: &str| {
        publish(&before, "bert", "BertModel", &extra, Kind::Bpe, 0);
        let e = trim_vocab(&before, &after, std::slice::from_ref(&corpus), &ALL).unwrap_err();
        assert!(e.code() == code && e.to_string().contains(says), "{}: {e}", e.code());
        assert!(!after.exists());
    };
    refused(json!({"bos_token_id": 5000}), "tokenizer.trim", "config names an id");
    refused(json!({"bad_words_ids": [[3]]}), "config.unsupported", "bad_words_ids");
    refused(json!({"vocab_size": 20}), "config.value", "vocab_size");
    let exists = trim_vocab(&before, temp.path(), std::slice::from_ref(&corpus), &ALL).unwrap_err();
    assert!(exists.to_string().contains("exists already"));
    let vit = temp.path().join("vit");
    publish(&vit, "vit", "ViTModel", &json!({}), Kind::Bpe, 0);
    let e = trim_vocab(&vit, &after, &[corpus], &ALL).unwrap_err();
    assert!(e.to_string().contains("images"), "{e}");
}

/// Parameters of mT5-base with another vocabulary, from the config alone.
fn mt5_base(vocab: usize) -> u64 {
    let mut config = Opened::preset("mt5-base").unwrap();
    config["vocab_size"] = json!(vocab);
    let w = Weights::shapes_only();
    let built: Result<_, Error> = find("mt5").unwrap().build(&ConfigMap::new(config).unwrap(), &w);
    built.unwrap();
    w.n_elements()
}

#[test]
fn mt5_base_becomes_idt5() {
    // idT5 (arXiv 2302.00856) says "up to 58 %": 250,112 rows become 30,000 in both of its tables.
    let (whole, cut) = (mt5_base(250_112), mt5_base(30_000));
    assert_eq!((whole, cut), (582_401_280, 244_309_248));
    assert_eq!(whole - 2 * 250_112 * 768, 198_229_248);
    assert_eq!(format!("{:.2}", 100.0 * (1.0 - cut as f64 / whole as f64)), "58.05");
}

#[test]
fn a_published_encoder_answers_the_same() {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/all-MiniLM-L6-v2");
    if !dir.join("model.safetensors").exists() {
        println!("SKIPPED: {} is not here; scripts/fetch-models.sh fetches it", dir.display());
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (corpus, out) = (temp.path().join("corpus.txt"), temp.path().join("minilm"));
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ARCHITECTURE.md")).unwrap();
    std::fs::write(&corpus, &readme).unwrap();
    let made = trim_vocab(&dir, &out, &[corpus], &ALL).unwrap();
    assert!(made.tokens[1] < 3000 && made.params[1] < 13_000_000, "{made:?}");
    let lines: Vec<&str> = readme.lines().filter(|l| l.len() > 40).collect();
    assert_eq!(compare(&dir, &out, &lines), lines.len());
    println!("{made:?}");
}
