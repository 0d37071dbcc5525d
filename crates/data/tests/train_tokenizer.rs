//! Tokenizers trained here. `fixtures/trained.json` holds the ids that the Python packages `tokenizers` 0.23.3 and
//! `transformers` 5.23.0 (`AutoTokenizer`, fast) gave for the saved folders; both gave the same.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Scratch, fixture};
use serde_json::Value;
use switchformer_data::train_tokenizer::{Bytes, Kind, Unify};
use switchformer_data::{Rng, Tokenizer, TokenizerRecipe};

/// Invented words of a few syllables, the first of them the most frequent, in three alphabets.
fn corpus() -> Vec<String> {
    let syllables = ["ka", "to", "ri", "sen", "mu", "é", "la", "ча", "йо", "мир", "猫", "の", "lo", "an", "ber", "ß"];
    let mut rng = Rng::of(&[41]);
    let words: Vec<String> =
        (0..300).map(|_| (0..1 + rng.pick(4)).map(|_| syllables[rng.pick(16) as usize]).collect::<String>()).collect();
    (0..800)
        .map(|_| {
            let line: Vec<&str> =
                (0..3 + rng.pick(12)).map(|_| words[(300.0 * rng.unit64().powi(3)) as usize].as_str()).collect();
            line.join(" ") + [".", "!", " - 12", ""][rng.pick(4) as usize]
        })
        .collect()
}

fn recipes() -> Vec<(&'static str, TokenizerRecipe)> {
    let t5 = TokenizerRecipe::t5;
    let level = |kind| TokenizerRecipe {
        bytes: Bytes::Level,
        unify: Unify::No,
        special: vec!["<s>".into(), "</s>".into()],
        pad: None,
        unknown: None,
        begin: Some("<s>".into()),
        end: Some("</s>".into()),
        ..t5(kind, 700)
    };
    vec![
        ("bpe", TokenizerRecipe { bytes: Bytes::No, unify: Unify::Nfc, ..t5(Kind::Bpe, 300) }),
        ("bpe-fallback", TokenizerRecipe { alphabet: Some(20), ..t5(Kind::Bpe, 600) }),
        ("bpe-level", level(Kind::Bpe)),
        ("unigram", TokenizerRecipe { bytes: Bytes::No, end: None, ..t5(Kind::Unigram, 200) }),
        ("unigram-fallback", TokenizerRecipe { alphabet: Some(20), ..t5(Kind::Unigram, 500) }),
        ("unigram-level", level(Kind::Unigram)),
    ]
}

fn load(json: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(json, std::path::Path::new("trained"), None).unwrap()
}

#[test]
fn ids_are_those_of_the_python_packages() {
    let expected: Value = serde_json::from_slice(&std::fs::read(fixture("trained.json")).unwrap()).unwrap();
    let texts: Vec<&str> = expected["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    for (name, recipe) in recipes() {
        let tokenizer = load(&recipe.train(&corpus()).unwrap());
        assert!(tokenizer.vocab_size() <= recipe.vocab, "{name}: {}", tokenizer.vocab_size());
        assert_eq!(tokenizer.vocab_size() as u64, expected[name]["size"].as_u64().unwrap(), "{name}");
        for (i, encoding) in tokenizer.encode(&texts).unwrap().iter().enumerate() {
            let ids: Vec<u64> = encoding.ids.iter().map(|&id| u64::from(id)).collect();
            assert_eq!(Value::from(ids), expected[name]["ids"][i], "{name}: {:?}", texts[i]);
            let back = tokenizer.decode(&encoding.ids, true).unwrap();
            assert_eq!(back, expected[name]["back"][i].as_str().unwrap(), "{name}: {:?}", texts[i]);
        }
    }
}

#[test]
fn training_twice_gives_the_same_bytes() {
    // Every hash map has a seed of its own, so within a process the order of the second run is another.
    for (name, recipe) in recipes() {
        assert!(recipe.train(&corpus()).unwrap() == recipe.train(&corpus()).unwrap(), "{name}");
    }
    // The order of the texts does not matter either.
    let mut turned = corpus();
    turned.reverse();
    for (name, recipe) in recipes() {
        assert!(recipe.train(&corpus()).unwrap() == recipe.train(&turned).unwrap(), "{name}");
    }
}

#[test]
fn characters_never_seen_survive_where_bytes_are_pieces() {
    let text = "kato 🙂 ∂x\u{0}";
    for (name, recipe) in recipes() {
        let tokenizer = load(&recipe.train(&corpus()).unwrap());
        let ids = tokenizer.encode(&[text]).unwrap().remove(0).ids;
        let back = tokenizer.decode(&ids, true).unwrap();
        let unknown = tokenizer.token_to_id("<unk>").is_some_and(|id| ids.contains(&id));
        match recipe.bytes {
            Bytes::No => assert!(unknown, "{name}: {ids:?}"),
            Bytes::Fallback | Bytes::Level => assert!(!unknown && back == text, "{name}: {back:?}"),
        }
        let (begin, end) = (recipe.begin.as_deref(), recipe.end.as_deref());
        assert!(begin.is_none_or(|t| tokenizer.token_to_id(t) == ids.first().copied()), "{name}");
        assert!(end.is_none_or(|t| tokenizer.token_to_id(t) == ids.last().copied()), "{name}");
        assert!(recipe.special.iter().enumerate().all(|(i, t)| tokenizer.token_to_id(t) == Some(i as u32)), "{name}");
    }
}

#[test]
fn a_saved_folder_is_loaded_again() {
    let dir = Scratch::new("trained");
    let (_, recipe) = recipes().remove(4);
    let json = recipe.train(&corpus()).unwrap();
    let folder = dir.0.join("new/folder");
    recipe.save(&json, &folder).unwrap();
    let tokenizer = Tokenizer::load(&folder, Some(9)).unwrap();
    assert_eq!(tokenizer.encode(&["kato kato"]).unwrap()[0].ids, load(&json).encode(&["kato kato"]).unwrap()[0].ids);
    let pair = &tokenizer.encode_pairs(&[("kato", "mula")]).unwrap()[0];
    assert_eq!(pair.ids.iter().filter(|&&id| id == 1).count(), 2, "{pair:?}");
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["tokenizer.json", "tokenizer_config.json"]);
    let error = recipe.save(&json, dir.put("file", b"")).unwrap_err();
    assert!(error.code() == "file.write" && error.to_string().contains("file"), "{error}");
}

#[test]
fn recipes_and_corpora_that_cannot_work_are_refused() {
    let refused = |change: &dyn Fn(&mut TokenizerRecipe), word: &str| {
        let mut recipe = TokenizerRecipe::t5(Kind::Unigram, 500);
        change(&mut recipe);
        let error = recipe.train(&corpus()).unwrap_err();
        assert!(error.code() == "tokenizer.train" && error.to_string().contains(word), "{error}");
    };
    refused(&|r| r.special.push("<unk>".into()), "twice");
    refused(&|r| r.special.push(String::new()), "1 to 256");
    refused(&|r| r.special.push("<0x41>".into()), "<0x41>");
    refused(&|r| r.special = (0..2000).map(|i| i.to_string()).collect(), "1,024");
    refused(&|r| r.pad = Some("[PAD]".into()), "among");
    refused(&|r| r.unknown = None, "unknown token");
    refused(&|r| (r.kind, r.bytes, r.unknown) = (Kind::Bpe, Bytes::No, None), "unknown token");
    refused(&|r| (r.bytes, r.alphabet) = (Bytes::Level, Some(9)), "limited");
    refused(&|r| r.vocab = 259, "more than special");
    refused(&|r| r.vocab = usize::MAX, "2^20");
    refused(&|r| r.alphabet = Some(0), "no text");
    for kind in [Kind::Bpe, Kind::Unigram] {
        refused(&|r| (r.kind, r.vocab) = (kind, 262), "vocabulary");
        for texts in [&[][..], &["", " \n"]] {
            let error = TokenizerRecipe::t5(kind, 500).train(texts).unwrap_err();
            assert!(error.to_string().contains("no text"), "{error}");
        }
        // Odd corpora train or are refused, but never panic, and a long run is cut.
        let long = "xy".repeat(200_000);
        for text in ["a", "\0", "\0\0 \0", "<unk> <unk> </s>", "<0x41> <0x41> <0x42>", long.as_str()] {
            match TokenizerRecipe::t5(kind, 300).train(&[text]) {
                Ok(json) => assert!(!load(&json).encode(&["a\0x"]).unwrap()[0].ids.is_empty()),
                Err(error) => assert_eq!(error.code(), "tokenizer.train"),
            }
        }
    }
}
