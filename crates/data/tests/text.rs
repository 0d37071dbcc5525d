//! Tokenizers: ids against the reference, bounds, and hostile files.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{MANIFEST, Scratch, fixture};
use serde_json::{Value, json};
use switchformer_data::text::{MAX_PIECE_BYTES, MAX_RUN_BYTES, MAX_TEXT_BYTES};
use switchformer_data::{Encoding, Tokenizer};

fn vocab() -> Vec<u8> {
    std::fs::read(fixture("bert/vocab.txt")).unwrap()
}

fn bert(max: Option<usize>) -> Tokenizer {
    Tokenizer::from_vocab(&vocab(), &Value::Null, Path::new("vocab.txt"), max).unwrap()
}

fn list(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

#[test]
fn vocab_txt_gives_the_reference_ids() {
    let mut rows = 0;
    for group in MANIFEST["bert"].as_array().unwrap() {
        let settings = &group["settings"];
        let tokenizer = Tokenizer::from_vocab(&vocab(), settings, Path::new("v"), Some(16)).unwrap();
        for row in group["rows"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let one = tokenizer.encode(&[text]).unwrap().remove(0);
            assert_eq!(one.ids, list(&row["ids"]), "{settings} {text:?}");
            let pair = tokenizer.encode_pairs(&[(text, row["pair"].as_str().unwrap())]).unwrap().remove(0);
            assert_eq!(pair.ids, list(&row["pair_ids"]), "{settings} {text:?}");
            assert_eq!(pair.type_ids, list(&row["pair_types"]), "{settings} {text:?}");
            assert_eq!(tokenizer.decode(&one.ids, true).unwrap(), row["decoded"].as_str().unwrap(), "{text:?}");
            rows += 1;
        }
    }
    assert_eq!(rows, 60);
}

#[test]
fn encodings_are_truncated_and_never_padded() {
    let tokenizer = bert(Some(6));
    let long = "dog ".repeat(40);
    let out = tokenizer.encode(&["the", &long, ""]).unwrap();
    assert_eq!(out.iter().map(|e| e.ids.len()).collect::<Vec<_>>(), [3, 6, 2]);
    assert_eq!(out.iter().map(|e| e.truncated).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(out[1].special_mask, [1, 0, 0, 0, 0, 1]);
    assert_eq!(out[1].offsets, [(0, 0), (0, 3), (4, 7), (8, 11), (12, 15), (0, 0)]);
    for e in &out {
        let n = e.ids.len();
        assert_eq!([e.type_ids.len(), e.special_mask.len(), e.offsets.len()], [n; 3]);
    }
    assert!(tokenizer.encode(&[]).unwrap().is_empty());
}

/// A tokenizer.json with padding and truncation switched on.
fn padded() -> Value {
    json!({
        "version": "1.0",
        "truncation": {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                    "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "a": 1, "b": 2, "c": 3, "d": 4}, "unk_token": "[UNK]"},
    })
}

fn from_value(value: &Value, max: Option<usize>) -> Result<Tokenizer, switchformer_data::Error> {
    Tokenizer::from_bytes(value.to_string().as_bytes(), Path::new("tokenizer.json"), max)
}

#[test]
fn padding_and_truncation_sections_are_replaced() {
    let ids = |max| from_value(&padded(), max).unwrap().encode(&["A b c d zz"]).unwrap().remove(0).ids;
    assert_eq!(ids(None), [1, 2, 3, 4, 0]);
    // The side that is dropped is the file's, as transformers has it.
    assert_eq!(ids(Some(2)), [4, 0]);
}

#[test]
fn the_maximum_length_comes_from_the_right_file() {
    let dir = Scratch::new("max");
    dir.put("vocab.txt", &vocab());
    let load = |cap| Tokenizer::load(&dir.0, cap).unwrap().max_length();
    assert_eq!(load(None), None);
    assert_eq!(load(Some(512)), Some(512));
    dir.put("tokenizer_config.json", br#"{"model_max_length": 1000000000000000019884624838656}"#);
    assert_eq!(load(Some(512)), Some(512));
    assert_eq!(load(None), None);
    dir.put("tokenizer_config.json", br#"{"model_max_length": 128}"#);
    assert_eq!(load(Some(512)), Some(128));
    assert_eq!(load(Some(64)), Some(64));
    dir.put("sentence_bert_config.json", br#"{"max_seq_length": 256, "do_lower_case": false}"#);
    assert_eq!(load(Some(512)), Some(256));
    dir.put("sentence_bert_config.json", br#"{"max_seq_length": null}"#);
    assert_eq!(load(Some(512)), Some(128));
    dir.put("sentence_bert_config.json", b"{");
    assert_eq!(Tokenizer::load(&dir.0, None).unwrap_err().code(), "json.syntax");
}

#[test]
fn tokenizer_json_goes_before_vocab_txt() {
    let dir = Scratch::new("order");
    assert_eq!(Tokenizer::load(&dir.0, None).unwrap_err().code(), "tokenizer.missing");
    dir.put("vocab.txt", &vocab());
    assert_eq!(Tokenizer::load(&dir.0, None).unwrap().token_to_id("[CLS]"), Some(2));
    dir.put("tokenizer.json", padded().to_string().as_bytes());
    let tokenizer = Tokenizer::load(&dir.0, None).unwrap();
    assert_eq!((tokenizer.token_to_id("d"), tokenizer.vocab_size()), (Some(4), 6));
    // The token that the file pads with is added where no vocabulary has it.
    assert_eq!(tokenizer.token_to_id("[PAD]"), Some(5));
    assert_eq!(tokenizer.id_to_token(3).as_deref(), Some("c"));
    assert_eq!(tokenizer.id_to_token(77), None);
}

#[test]
fn a_maximum_without_room_is_refused() {
    for max in [0, 1, 2] {
        let e = Tokenizer::from_vocab(&vocab(), &Value::Null, Path::new("v"), Some(max)).unwrap_err();
        assert_eq!(e.code(), "tokenizer.max_length");
    }
    let tokenizer = bert(Some(3));
    assert_eq!(tokenizer.encode(&["dog fox"]).unwrap()[0].ids.len(), 3);
    assert_eq!(tokenizer.encode_pairs(&[("dog", "fox")]).unwrap_err().code(), "tokenizer.max_length");
}

#[test]
fn special_token_names_and_windows_line_ends_are_read() {
    let text = String::from_utf8(vocab()).unwrap().replace("[CLS]", "<s>").replace('\n', "\r\n");
    let named = json!({"cls_token": {"content": "<s>", "lstrip": false}});
    let tokenizer = Tokenizer::from_vocab(text.as_bytes(), &named, Path::new("v"), None).unwrap();
    let plain = bert(None).encode(&["hello world"]).unwrap();
    assert_eq!(tokenizer.encode(&["hello world"]).unwrap(), plain);
    // A special token that the vocabulary lacks comes behind it, as transformers has it.
    let lacks = Tokenizer::from_vocab(text.as_bytes(), &Value::Null, Path::new("v"), None).unwrap();
    assert_eq!(lacks.token_to_id("[CLS]"), Some(lacks.vocab_size() as u32 - 1));
    let odd = Tokenizer::from_vocab(&vocab(), &json!({"do_lower_case": "yes"}), Path::new("v"), None);
    assert_eq!(odd.unwrap_err().code(), "tokenizer.parse");
    assert_eq!(
        Tokenizer::from_vocab(&[0xFF], &Value::Null, Path::new("v"), None).unwrap_err().code(),
        "tokenizer.parse"
    );
}

#[test]
fn malformed_tokenizers_are_refused() {
    let code = |bytes: &[u8]| Tokenizer::from_bytes(bytes, Path::new("t"), None).unwrap_err().code();
    for bytes in [&b"[]"[..], b"null", b"{}", b"{\"model\": 3}", b"{\"model\": {\"type\": \"BPE\"}}"] {
        assert_eq!(code(bytes), "tokenizer.parse", "{bytes:?}");
    }
    for bytes in [&b""[..], b"{", b"\xFF\xFE"] {
        assert_eq!(code(bytes), "json.syntax", "{bytes:?}");
    }
    assert_eq!(code("[".repeat(200_000).as_bytes()), "json.depth");
    assert_eq!(code(format!("{{\"model\": {}", "{\"a\":".repeat(100_000)).as_bytes()), "json.depth");
    let twice = padded().to_string().replacen('{', "{\"version\":\"1.0\",", 1);
    assert_eq!(code(twice.as_bytes()), "json.duplicate");
    // Every cut of a good file.
    let good = padded().to_string();
    for cut in 0..good.len() {
        assert_eq!(code(&good.as_bytes()[..cut]), "json.syntax");
    }
    // A kind that is not known is named, with those that are.
    let e = Tokenizer::from_bytes(b"{\"model\": {\"type\": \"EVIL\"}}", Path::new("t"), None).unwrap_err();
    assert!(e.code() == "tokenizer.unsupported" && e.to_string().contains("`EVIL`"), "{e}");
    assert!(e.to_string().contains("WordPiece"), "{e}");
}

fn bpe(vocab: Value, merges: Value) -> Value {
    let mut value = padded();
    value["model"] = json!({"type": "BPE", "vocab": vocab, "merges": merges});
    value["pre_tokenizer"] = Value::Null;
    value
}

#[test]
fn hostile_merges_end() {
    // A merge of a token that does not exist.
    let e = from_value(&bpe(json!({"a": 0, "b": 1}), json!(["a b"])), None).unwrap_err();
    assert_eq!(e.code(), "tokenizer.parse");
    for merges in [json!(["a"]), json!(["a b c"]), json!([["a"]]), json!([[]]), json!([1]), json!("a b"), json!([""])] {
        assert_eq!(
            from_value(&bpe(json!({"a": 0, "b": 1, "ab": 2}), merges), None).unwrap_err().code(),
            "tokenizer.parse"
        );
    }
    // Merges that lead into each other, share one id, and repeat: each still makes the word shorter.
    let cyclic = bpe(
        json!({"a": 0, "b": 1, "ab": 2, "ba": 2, "aba": 0, "bab": 1}),
        json!(["a b", "b a", "ab a", "ba b", "a ba", "b ab", "a b", "a b"]),
    );
    // Refused or read, it must not hang or panic.
    if let Ok(tokenizer) = from_value(&cyclic, Some(32)) {
        let out = tokenizer.encode(&["ab".repeat(2000).as_str()]).unwrap();
        assert!(out[0].ids.len() <= 32);
        let _ = tokenizer.decode(&out[0].ids, false);
    }
}

#[test]
fn hostile_settings_are_refused() {
    let mut growing = padded();
    let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(60)});
    growing["normalizer"] = json!({"type": "Sequence", "normalizers": [step, step]});
    assert_eq!(from_value(&growing, None).unwrap_err().code(), "tokenizer.unsafe");
    growing["normalizer"] = json!({"type": "Sequence", "normalizers": [step]});
    assert!(from_value(&growing, None).is_ok());
    growing["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x".repeat(5000)});
    assert_eq!(from_value(&growing, None).unwrap_err().code(), "tokenizer.unsafe");

    let mut words = padded();
    words["model"] = json!({"type": "WordPiece", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]",
                            "continuing_subword_prefix": "##", "max_input_chars_per_word": 1_000_000});
    assert_eq!(from_value(&words, None).unwrap_err().code(), "tokenizer.unsafe");

    let mut template = padded();
    let piece = json!({"Sequence": {"id": "A", "type_id": 0}});
    template["post_processor"] =
        json!({"type": "TemplateProcessing", "single": vec![piece; 500], "pair": [], "special_tokens": {}});
    assert_eq!(from_value(&template, None).unwrap_err().code(), "tokenizer.unsafe");

    // A missing unknown token shows only when a text needs it.
    let mut lacking = padded();
    lacking["model"] = json!({"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"});
    let e = from_value(&lacking, None).unwrap().encode(&["a", "zz"]).unwrap_err();
    assert_eq!(e.code(), "tokenizer.encode");
    assert!(e.to_string().contains("text 2"), "{e}");
}

#[test]
fn decoding_bears_any_ids() {
    let tokenizer = bert(None);
    assert_eq!(tokenizer.decode(&[], true).unwrap(), "");
    let _ = tokenizer.decode(&[u32::MAX, 5, 9_999_999], false).unwrap();
    let many = vec![5; (1 << 20) + 1];
    assert_eq!(tokenizer.decode(&many, true).unwrap_err().code(), "tokenizer.decode");
}

/// Byte-level BPE over ASCII, as GPT-2 has it.
fn byte_level() -> Value {
    let mut vocab = serde_json::Map::new();
    for c in (b'!'..=b'~').map(char::from).chain(['\u{120}', '\u{10A}', '\u{109}']) {
        vocab.insert(c.to_string(), json!(vocab.len()));
    }
    for word in ["ab", "\u{120}a", "\u{120}ab", "\u{120}\u{120}"] {
        vocab.insert(word.to_owned(), json!(vocab.len()));
    }
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", "\u{120} a", "\u{120}a b", "\u{120} \u{120}"]},
    })
}

/// The same file read by `tokenizers` alone, text in one piece.
fn whole(json: &[u8], text: &str, special: bool) -> Encoding {
    let mut inner = tokenizers::Tokenizer::from_bytes(json).unwrap();
    inner.with_truncation(None).unwrap();
    let e = inner.encode(text, special).unwrap();
    Encoding {
        ids: e.get_ids().to_vec(),
        type_ids: e.get_type_ids().to_vec(),
        sequence_ids: e.get_special_tokens_mask().iter().map(|s| (*s == 0).then_some(0)).collect(),
        special_mask: e.get_special_tokens_mask().to_vec(),
        offsets: e.get_offsets().to_vec(),
        truncated: false,
    }
}

/// About `bytes` of words, blanks of every kind and marks, without order.
fn jumble(bytes: usize, parts: &[&str]) -> String {
    let mut text = String::new();
    let mut state = 7u64;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(parts[(state >> 33) as usize % parts.len()]);
    }
    text
}

#[test]
fn long_texts_cut_into_pieces_keep_every_id_and_offset() {
    let text = jumble(400_000, &["ab", "a", " ", "  ", "   ", "\n", ".\n", "\t", " ab", "!", "don't", " 12", "\n\n "]);
    let json = byte_level().to_string();
    let tokenizer = Tokenizer::from_bytes(json.as_bytes(), Path::new("t"), None).unwrap();
    assert!(text.len() > 5 * MAX_PIECE_BYTES);
    assert_eq!(tokenizer.encode(&[&text]).unwrap()[0], whole(json.as_bytes(), &text, true));

    let text = jumble(
        300_000,
        &[
            "the",
            " quick",
            "\n",
            "\t",
            "fox",
            " ",
            "caf\u{e9}",
            "\u{4e2d}",
            ", ",
            "[MASK]",
            "\u{b}",
            "\u{a0}",
            "e\u{301}",
        ],
    );
    let tokenizer = bert(None);
    let got = tokenizer.encode(&[&text]).unwrap().remove(0);
    assert!(got.ids.len() > 50_000);
    // Short pieces go the plain way; the whole must be their sum.
    let plain = {
        let dir = Scratch::new("bert-json");
        dir.put("vocab.txt", &vocab());
        let mut inner = tokenizers::Tokenizer::new(
            tokenizers::models::wordpiece::WordPiece::from_file(dir.0.join("vocab.txt").to_str().unwrap())
                .build()
                .unwrap(),
        );
        inner.with_normalizer(Some(tokenizers::normalizers::BertNormalizer::default())).unwrap();
        inner.with_pre_tokenizer(Some(tokenizers::pre_tokenizers::bert::BertPreTokenizer));
        let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(|t| tokenizers::AddedToken::from(t, true));
        inner.add_special_tokens(special).unwrap();
        inner.encode(text.as_str(), false).unwrap()
    };
    assert_eq!(got.ids[1..got.ids.len() - 1], *plain.get_ids());
    assert_eq!(got.offsets[1..got.ids.len() - 1], *plain.get_offsets());
    assert_eq!((got.ids[0], got.ids.last()), (2, Some(&3)));

    // With a maximum, the same beginning; and pairs keep their segments.
    let short = bert(Some(40)).encode(&[&text]).unwrap().remove(0);
    assert!(short.truncated);
    assert_eq!(short.ids[..39], got.ids[..39]);
    let pair = bert(Some(41)).encode_pairs(&[("the fox", &text)]).unwrap().remove(0);
    assert_eq!(pair.ids.len(), 41);
    assert_eq!(pair.type_ids, [vec![0; 4], vec![1; 37]].concat());
    assert_eq!(pair.ids[4..40], got.ids[1..37]);
}

#[test]
fn too_long_texts_are_refused_by_code() {
    let tokenizer = bert(Some(16));
    let longest = "dog ".repeat(MAX_TEXT_BYTES / 4);
    assert_eq!(tokenizer.encode(&[&longest]).unwrap()[0].ids.len(), 16);
    let e = tokenizer.encode(&["dog", &(longest + "s")]).unwrap_err();
    assert_eq!(e.code(), "tokenizer.too_long");
    assert!(e.to_string().contains("text 2"));

    // A word of any length is one word, whatever stands around it.
    let run = "x".repeat(MAX_PIECE_BYTES + 5000);
    assert_eq!(tokenizer.encode(&[&run]).unwrap()[0].ids, [2, 1, 3]);
    let e = &tokenizer.encode(&[&format!("dog {run} dog")]).unwrap()[0];
    assert_eq!(e.ids, tokenizer.encode(&["dog xxxxxxxx\u{2603} dog"]).unwrap()[0].ids);
    assert_eq!(e.offsets[2], (4, 4 + run.len()));
    let e = bert(None).encode(&[&"x".repeat(MAX_RUN_BYTES + 1)]).unwrap_err();
    assert_eq!(e.code(), "tokenizer.too_long");
    let e = bert(None).encode(&[&format!("dog {}", "x".repeat(MAX_RUN_BYTES + 1))]).unwrap_err();
    assert_eq!(e.code(), "tokenizer.long_run");

    // A pattern of the file's own, whose time may grow faster than a text, gets one piece of bounded length.
    let mut odd = byte_level();
    odd["pre_tokenizer"] =
        json!({"type": "Split", "pattern": {"Regex": "a*b"}, "behavior": "Isolated", "invert": false});
    let e = from_value(&odd, Some(16)).unwrap().encode(&[&"a ".repeat(MAX_PIECE_BYTES)]).unwrap_err();
    assert_eq!(e.code(), "tokenizer.too_long");
    assert!(e.to_string().contains("65536"), "{e}");
}
