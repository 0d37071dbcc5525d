//! Numbers that are not finite decide nothing.

#![allow(clippy::unwrap_used)]

#[path = "../../zoo/tests/common/mod.rs"]
mod common;
mod folders;

use std::path::Path;

use folders::{encoder, folder, garment, refused, texts};
use serde_json::{Value as Json, json};
use switchformer_infer::{Image, Inputs, Request, Session};
use switchformer_zoo::OpenOptions;

/// Overwrites the tensors of a folder whose name ends so with a number.
fn poison(dir: &Path, suffix: &str, value: f32) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Json = serde_json::from_slice(&bytes[8..start]).unwrap();
    let mut hit = false;
    for (_, entry) in header.as_object().unwrap().iter().filter(|(name, _)| name.ends_with(suffix)) {
        let [from, to] = [0, 1].map(|i| start + entry["data_offsets"][i].as_u64().unwrap() as usize);
        bytes[from..to].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&value.to_le_bytes()));
        hit = true;
    }
    assert!(hit, "{suffix}");
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_not_finite_decides_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let cases = [
        ("bert", "BertForSequenceClassification", "classifier.bias", "logits"),
        ("bert", "BertForMaskedLM", "cls.predictions.bias", "logits"),
        ("bert", "BertForTokenClassification", "classifier.bias", "logits"),
        ("bert", "BertForQuestionAnswering", "qa_outputs.bias", "start_logits"),
        ("bert", "BertModel", "layer.2.output.LayerNorm.bias", "sentence_embedding"),
        ("t5", "T5ForConditionalGeneration", "decoder.final_layer_norm.weight", "logits"),
        ("vit", "ViTForImageClassification", "classifier.bias", "logits"),
    ];
    for (i, (family, architecture, tensor, output)) in cases.into_iter().enumerate() {
        let dir = temp.path().join(i.to_string());
        if architecture == "BertModel" {
            encoder(&dir);
        } else {
            folder(&dir, family, architecture, json!({}));
        }
        let inputs = match (family, architecture) {
            ("vit", _) => Inputs::Images(vec![Image::new("a", garment(1))]),
            (_, "BertForQuestionAnswering") => {
                Inputs::Questions { questions: vec!["where is it".into()], passage: "it flows north".into() }
            }
            _ => texts(&["where is [MASK] river"]),
        };
        for value in [f32::NAN, f32::INFINITY] {
            poison(&dir, tensor, value);
            let session = Session::open(&dir, OpenOptions::default()).unwrap();
            let mut asked = Request::new(inputs.clone());
            let says = [format!("`{output}` of member 0"), "checkpoint".into()];
            let says: Vec<&str> = says.iter().map(String::as_str).collect();
            refused(&session, &asked, "not_finite", &says);
            if family == "t5" {
                for options in [json!({"temperature": 1.0}), json!({"beams": 2})] {
                    asked.generation = Some(serde_json::from_value(options).unwrap());
                    refused(&session, &asked, "not_finite", &says);
                }
            }
        }
    }
}
