//! Trimmed tokenizers: a text whose tokens are all kept is cut as before, for every kind of model.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::{Scratch, fixture};
use serde_json::{Value, json};
use switchformer_data::train_tokenizer::{Bytes, Kind, Unify};
use switchformer_data::trim::{Counts, Keep, companions, count};
use switchformer_data::{Rng, Tokenizer, TokenizerRecipe, Vocabulary};

const ALL: Keep = Keep { min_count: 1, size: None, first: 0 };

/// Lines of invented words; `shift` decides which of them are frequent.
fn lines(n: usize, shift: u64) -> Vec<String> {
    let syllables = ["ka", "to", "ri", "sen", "mu", "é", "la", "ча", "йо", "мир", "猫", "の", "lo", "an", "ber", "ß"];
    let mut rng = Rng::of(&[41]);
    let words: Vec<String> =
        (0..300).map(|_| (0..1 + rng.pick(4)).map(|_| syllables[rng.pick(16) as usize]).collect::<String>()).collect();
    let mut rng = Rng::of(&[42, shift]);
    (0..n)
        .map(|_| {
            let word = |rng: &mut Rng| ((300.0 * rng.unit64().powi(3)) as usize + 37 * shift as usize) % 300;
            let line: Vec<&str> = (0..3 + rng.pick(6)).map(|_| words[word(&mut rng)].as_str()).collect();
            line.join(" ") + [".", "!", " - 12", " ☃"][rng.pick(4) as usize]
        })
        .collect()
}

/// Tokenizers of every model and way of spelling bytes, with two tokens added behind the vocabulary as T5's sentinels are.
fn all() -> Vec<(String, Vec<u8>)> {
    let t5 = TokenizerRecipe::t5;
    let level = |kind| TokenizerRecipe { bytes: Bytes::Level, unify: Unify::No, unknown: None, ..t5(kind, 700) };
    let recipes = vec![
        ("bpe", TokenizerRecipe { bytes: Bytes::No, unify: Unify::Nfc, ..t5(Kind::Bpe, 400) }),
        ("bpe-fallback", TokenizerRecipe { alphabet: Some(20), ..t5(Kind::Bpe, 600) }),
        ("bpe-level", level(Kind::Bpe)),
        ("unigram", TokenizerRecipe { bytes: Bytes::No, end: None, ..t5(Kind::Unigram, 300) }),
        ("unigram-fallback", TokenizerRecipe { alphabet: Some(20), ..t5(Kind::Unigram, 600) }),
        ("unigram-level", level(Kind::Unigram)),
    ];
    let corpus: Vec<String> = (0..8).flat_map(|s| lines(100, s)).collect();
    let mut out: Vec<(String, Vec<u8>)> = Vec::new();
    for (name, recipe) in recipes {
        let mut doc: Value = serde_json::from_slice(&recipe.train(&corpus).unwrap()).unwrap();
        let n = Vocabulary::from_bytes(&serde_json::to_vec(&doc).unwrap(), Path::new(name)).unwrap().len();
        for i in 0..2 {
            let token = json!({"id": n + i, "content": format!("<extra_{i}>"), "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true});
            doc["added_tokens"].as_array_mut().unwrap().push(token);
        }
        out.push((name.to_owned(), serde_json::to_vec(&doc).unwrap()));
    }
    let words = corpus.iter().flat_map(|l| l.split(' ')).collect::<BTreeSet<_>>();
    let mut pieces: BTreeSet<String> = words.iter().filter(|w| w.len() % 3 > 0).map(|w| w.to_string()).collect();
    pieces.extend(words.iter().flat_map(|w| w.chars()).flat_map(|c| [c.to_string(), format!("##{c}")]));
    pieces.extend(["##ka", "##to", "se", "##мир", "##ber"].map(String::from));
    let vocab: Vec<String> =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from).into_iter().chain(pieces).collect();
    let bert = Scratch::new("trim-bert");
    bert.put("vocab.txt", vocab.join("\n").as_bytes());
    bert.put("tokenizer_config.json", br#"{"do_lower_case": false}"#);
    out.push((
        "wordpiece".into(),
        Vocabulary::load(&bert.0).unwrap().trimmed(&(0..vocab.len() as u32).collect::<Vec<_>>()).unwrap(),
    ));
    out
}

fn tokenizer(json: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(json, Path::new("trim"), None).unwrap()
}

fn counts(t: &Tokenizer, lines: &[String], name: &str) -> Counts {
    let scratch = Scratch::new(name);
    let file = scratch.put("corpus.txt", lines.join("\n").as_bytes());
    let mut counts = Counts::new();
    count(t, &file, &mut counts).unwrap();
    counts
}

#[test]
fn texts_of_kept_tokens_are_cut_as_before() {
    let texts: Vec<String> = (0..4).flat_map(|s| lines(300, s)).chain([" <extra_1> kato".into(), "~".into()]).collect();
    for (name, json) in all() {
        let whole = tokenizer(&json);
        let vocabulary = Vocabulary::from_bytes(&json, Path::new(&name)).unwrap();
        let counts = counts(&whole, &lines(300, 0), &name);
        for rule in [ALL, Keep { min_count: 3, ..ALL }, Keep { size: Some(vocabulary.len() * 4 / 5), ..ALL }] {
            let kept = vocabulary.choose(&counts, &rule, &BTreeSet::new()).unwrap();
            assert!(kept.len() < vocabulary.len(), "{name}: nothing was cut");
            assert!(rule.size.is_none_or(|n| kept.len() <= n), "{name}");
            let cut = tokenizer(&vocabulary.trimmed(&kept).unwrap());
            assert_eq!(cut.vocab_size(), kept.len(), "{name}");
            let unknown = whole.token_to_id("[UNK]");
            let (mut same, mut other) = (0, 0);
            for text in &texts {
                let (a, b) = (whole.encode(&[text]).unwrap(), cut.encode(&[text]).unwrap());
                let moved: Option<Vec<u32>> =
                    a[0].ids.iter().map(|id| kept.binary_search(id).ok().map(|rank| rank as u32)).collect();
                match moved.filter(|_| !unknown.is_some_and(|u| a[0].ids.contains(&u))) {
                    Some(moved) => {
                        same += 1;
                        assert_eq!(b[0].ids, moved, "{name}: {text}");
                        assert_eq!(b[0].offsets, a[0].offsets, "{name}: {text}");
                        assert_eq!(cut.decode(&moved, false).unwrap(), whole.decode(&a[0].ids, false).unwrap());
                    }
                    None => other += 1,
                }
            }
            println!("{name} {rule:?}: {} of {}, {same} texts covered, {other} not", kept.len(), vocabulary.len());
            assert!(same >= 100 && other >= 50, "{name}: {same} texts are covered, {other} are not");
        }
    }
}

#[test]
fn what_must_stay_stays() {
    for (name, json) in all() {
        let vocabulary = Vocabulary::from_bytes(&json, Path::new(&name)).unwrap();
        let least = vocabulary.choose(&Counts::new(), &ALL, &BTreeSet::new()).unwrap();
        let cut = tokenizer(&vocabulary.trimmed(&least).unwrap());
        let special = if name == "wordpiece" { "[SEP]" } else { "<extra_1>" };
        assert!(cut.token_to_id(special).is_some(), "{name}");
        if name.ends_with("fallback") || name.ends_with("level") {
            // Every text can still be written, in bytes.
            let text = "Ω kato ☃ мир".to_owned();
            let ids = &cut.encode(&[&text]).unwrap()[0].ids;
            assert!(cut.decode(ids, true).unwrap().contains("Ω"), "{name}");
        }
        let first = vocabulary.choose(&Counts::new(), &Keep { first: 250, ..ALL }, &BTreeSet::from([270])).unwrap();
        assert!((0..250).chain([270]).all(|id| first.contains(&id)), "{name}");
    }
}

#[test]
fn what_cannot_be_cut_is_said() {
    let (name, json) = all().remove(0);
    let vocabulary = Vocabulary::from_bytes(&json, Path::new(&name)).unwrap();
    let refused = |rule: Keep, also: &[u32]| {
        let e = vocabulary.choose(&Counts::new(), &rule, &also.iter().copied().collect()).unwrap_err();
        assert_eq!(e.code(), "tokenizer.trim");
        e.to_string()
    };
    assert!(refused(Keep { size: Some(3), ..ALL }, &[]).contains("size"));
    assert!(refused(ALL, &[1_000_000]).contains("config"));
    let mut doc: Value = serde_json::from_slice(&json).unwrap();
    doc["model"]["dropout"] = json!(0.1);
    let e = Vocabulary::from_bytes(&serde_json::to_vec(&doc).unwrap(), Path::new("x")).unwrap_err();
    assert!(e.code() == "tokenizer.trim" && e.to_string().contains("random"), "{e}");
}

#[test]
fn the_other_files_follow() {
    let dir = Scratch::new("trim-files");
    dir.put("vocab.txt", &std::fs::read(fixture("bert/vocab.txt")).unwrap());
    dir.put("added_tokens.json", br#"{"[X]": 7, "[Y]": 2}"#);
    dir.put("tokenizer_config.json", br#"{"added_tokens_decoder": {"7": {"content": "[X]"}, "5": {"content": "z"}}}"#);
    let files = companions(&dir.0, &[0, 1, 2, 3, 4, 7]).unwrap();
    assert_eq!(files["vocab.txt"].iter().filter(|b| **b == b'\n').count(), 6);
    let json = |name: &str| serde_json::from_slice::<Value>(&files[name]).unwrap();
    assert_eq!(json("added_tokens.json"), json!({"[X]": 5, "[Y]": 2}));
    assert_eq!(json("tokenizer_config.json"), json!({"added_tokens_decoder": {"5": {"content": "[X]"}}}));
}
