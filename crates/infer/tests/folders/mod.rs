//! Toy folders and what they are asked.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_infer::{Inputs, Request, Session};
use switchformer_zoo::{OpenOptions, find};

use crate::common::{publish, toy};

/// Special tokens and a few words.
pub const WORDS: [&str; 14] =
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "is", "the", "river", "it", "flows", "north", "to", "sea"];

/// A toy folder of an architecture with changes to its config, and for texts a vocabulary.
pub fn folder(dir: &Path, family: &str, architecture: &str, changes: Json) -> Session {
    let entry = find(family).unwrap();
    let mut config = toy(entry, architecture);
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    publish(dir, entry, config);
    let words = WORDS.iter().map(|w| w.to_string()).chain((WORDS.len()..50).map(|i| format!("w{i}")));
    std::fs::write(dir.join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
    // Every family reads these words, not the files of its own tokenizer.
    std::fs::write(dir.join("tokenizer_config.json"), r#"{"tokenizer_class": "BertTokenizer"}"#).unwrap();
    Session::open(dir, OpenOptions::default()).unwrap()
}

pub fn texts(all: &[&str]) -> Inputs {
    Inputs::Texts(all.iter().map(|t| t.to_string()).collect())
}

/// Errors unless the request is refused with this code and these words.
#[track_caller]
pub fn refused(session: &Session, request: &Request, code: &str, says: &[&str]) {
    let e = session.answer(request).map(|a| panic!("{a:?}")).unwrap_err();
    assert_eq!(e.code(), code, "{e}");
    says.iter().for_each(|s| assert!(e.to_string().contains(s), "must say {s:?}: {e}"));
}

/// A sentence encoder: mean of the rows, of length one.
pub fn encoder(dir: &Path) -> Session {
    folder(dir, "bert", "BertModel", json!({}));
    let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
    let modules =
        json!([module("Transformer", ""), module("Pooling", "1_Pooling"), module("Normalize", "2_Normalize")]);
    std::fs::write(dir.join("modules.json"), modules.to_string()).unwrap();
    std::fs::write(dir.join("1_Pooling/config.json"), r#"{"pooling_mode_mean_tokens": true}"#).unwrap();
    Session::open(dir, OpenOptions::default()).unwrap()
}

/// A picture of a garment as a PNG file.
pub fn garment(i: usize) -> Vec<u8> {
    let pixels = switchformer_data::embedded_fashion().unwrap().image(i).unwrap().to_vec();
    let mut png = std::io::Cursor::new(Vec::new());
    image::GrayImage::from_raw(28, 28, pixels).unwrap().write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}
