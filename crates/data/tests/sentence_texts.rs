//! Texts as sentence-transformers prepares them for a tokenizer, and markers that stay one token.

#![allow(clippy::unwrap_used)]

mod common;

use common::Scratch;
use switchformer_data::Tokenizer;
use switchformer_data::text::{lower_cased_files, lower_cases};

const WORDS: [&str; 10] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "the", "cat", "The", "é"];
const SETTINGS: &str = "sentence_roberta_config.json";

/// A folder whose tokenizer tells upper case from lower.
fn folder(name: &str) -> Scratch {
    let dir = Scratch::new(name);
    dir.put("vocab.txt", WORDS.join("\n").as_bytes());
    dir.put("tokenizer_config.json", br#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#);
    dir
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(&[text]).unwrap().remove(0).ids
}

#[test]
fn texts_are_lower_cased_where_the_modules_say_so() {
    let dir = folder("lower-cased");
    let (text, plain, lower) = ("The CAT [MASK] \u{c9}", [2, 8, 1, 4, 1, 3], [2, 6, 7, 4, 9, 3]);
    dir.put(SETTINGS, br#"{"do_lower_case": true}"#);
    let load = |dir: &Scratch| Tokenizer::of_model(&dir.0, None);
    assert_eq!(ids(&load(&dir).unwrap(), text), plain, "no list of modules");
    dir.put("modules.json", b"[]");
    assert_eq!(ids(&load(&dir).unwrap(), text), lower);
    assert_eq!(ids(&Tokenizer::load(&dir.0, None).unwrap(), text), plain, "a bare tokenizer is as it is");
    // An empty file in front says nothing, and another one counts first.
    dir.put("sentence_bert_config.json", b"{}");
    assert_eq!(ids(&load(&dir).unwrap(), text), lower);
    dir.put("sentence_bert_config.json", br#"{"max_seq_length": 9}"#);
    assert_eq!(ids(&load(&dir).unwrap(), text), plain);
    dir.put("sentence_bert_config.json", br#"{"do_lower_case": "yes"}"#);
    let e = load(&dir).unwrap_err().to_string();
    assert!(e.contains("do_lower_case") && e.contains("sentence_bert_config.json"), "{e}");
}

#[test]
fn a_folder_below_the_modules_counts_too() {
    let dir = folder("below");
    std::fs::create_dir(dir.0.join("0_Transformer")).unwrap();
    for (name, bytes) in [("vocab.txt", WORDS.join("\n")), (SETTINGS, r#"{"do_lower_case": true}"#.into())] {
        dir.put(&format!("0_Transformer/{name}"), bytes.as_bytes());
    }
    assert!(!lower_cases(&dir.0.join("0_Transformer")).unwrap());
    dir.put("modules.json", b"[]");
    assert!(lower_cases(&dir.0.join("0_Transformer")).unwrap() && !lower_cases(&dir.0).unwrap());
}

#[test]
fn a_folder_made_of_one_lower_cases_by_itself() {
    let dir = folder("made-of");
    assert!(lower_cased_files(&dir.0).unwrap().is_empty());
    dir.put("modules.json", b"[]");
    dir.put(SETTINGS, br#"{"do_lower_case": true}"#);
    let made = Scratch::new("made");
    lower_cased_files(&dir.0).unwrap().iter().for_each(|(name, bytes)| drop(made.put(name, bytes)));
    let (own, other) = (Tokenizer::of_model(&dir.0, None).unwrap(), Tokenizer::load(&made.0, None).unwrap());
    for text in ["The CAT", "[MASK] \u{c9} THE [unused0]"] {
        let [a, b] = [&own, &other].map(|t| t.encode_pairs(&[(text, "Cat")]).unwrap().remove(0));
        assert_eq!((a.ids, a.type_ids), (b.ids, b.type_ids), "{text}");
    }
    assert!(!lower_cases(&made.0).unwrap(), "nothing is lower-cased twice");
}

#[test]
fn a_marker_stays_one_token() {
    let dir = folder("marker");
    let mut tokenizer = Tokenizer::load(&dir.0, None).unwrap();
    assert_eq!(ids(&tokenizer, "[unused0] the"), [2, 1, 1, 1, 6, 3]);
    assert!(!tokenizer.keep_whole("[unused0] ").unwrap(), "no token is called so");
    assert!(tokenizer.keep_whole("[unused0]").unwrap());
    assert_eq!(ids(&tokenizer, "[unused0] the"), [2, 5, 6, 3]);
    let long = "[unused0] the cat ".repeat(8_000);
    assert_eq!(ids(&tokenizer, &long).len(), 24_002, "in pieces too");
    assert_eq!(tokenizer.vocab_size(), WORDS.len(), "no token is made");
    assert!(tokenizer.keep_whole("the").unwrap() && !tokenizer.keep_whole("").unwrap());
}
