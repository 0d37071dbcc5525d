//! Real checkpoints: what a published folder answers equals what the reference computed with it.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use common::{far, flat};
use switchformer_infer::Sentence;
use switchformer_nn::{Folder, Input, Point, Taps};
use switchformer_tensor::{DType, Tensor};
use switchformer_zoo::{OpenOptions, Opened};

/// Largest difference to the reference, relative to its largest value. Both sides compute in f32.
const TOLERANCE: f32 = 1e-4;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// What the reference computed.
fn expected(fixture: &str) -> HashMap<String, Tensor> {
    let path = root("fixtures").join(fixture).join("expected.safetensors");
    switchformer_tensor::safetensors::load(path).unwrap()
}

/// A checkpoint of `models/`, which is fetched and not stored; without it the test says so and passes.
fn fetched(model: &str) -> Option<Opened> {
    fetched_as(model, OpenOptions::default())
}

fn fetched_as(model: &str, options: OpenOptions) -> Option<Opened> {
    let dir = root("models").join(model);
    if !dir.join("model.safetensors").exists() {
        println!("skipped: {} is not here; scripts/fetch-models.sh fetches it", dir.display());
        return None;
    }
    Some(Opened::open(&dir, options).unwrap())
}

fn close(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    let off = far(&flat(got), &flat(want));
    assert!(off <= TOLERANCE, "{what} differs by {off:e}");
    println!("{what}: {off:.1e}");
}

fn ids(t: &Tensor) -> Vec<i64> {
    t.to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn rxnmapper_reads_reactions_as_the_reference_does() {
    let want = expected("rxnmapper-albert");
    let opened = Opened::open(&root("fixtures/rxnmapper-albert"), OpenOptions::default()).unwrap();
    let input = Input::padded(&want["input_ids"], Some(&want["attention_mask"]), None).unwrap();
    let mut taps = Taps::named(["blocks.10.attn.probs", "blocks.11"]);
    let (out, _) = opened.run_tapped(&Point::new(), &input, &mut taps).unwrap();

    let (logits, rows) = out.get_rows("logits").unwrap();
    let first = |t: &Tensor| t.narrow(0, 0, rows.len(0)).unwrap();
    close("rxnmapper logits of the first reaction", &first(logits), &want["logits.0"]);
    // The last hidden state: this family has no norm after its blocks.
    close("rxnmapper hidden state", &first(&taps.get("blocks.11").unwrap()[0]), &want["last_hidden_state.0"]);
    let map = taps.get("blocks.10.attn.probs").unwrap()[0].get(5).unwrap();
    close("rxnmapper map of block 10, head 5", &map, &want["attn.probs.10.head.5.0"]);

    let best = input.unpack("logits", &logits.max(1).unwrap().unsqueeze(1).unwrap(), rows).unwrap();
    close("rxnmapper largest logit of every atom", &best.squeeze(2).unwrap(), &want["logits.max"]);
    // The reference marks padding by -1; the least gap between the two best is 0.01, far over the tolerance.
    let chosen: Vec<i64> = ids(&want["logits.argmax"]).into_iter().filter(|i| *i >= 0).collect();
    assert_eq!(ids(&logits.argmax(1).unwrap()), chosen);
}

/// The sentences of the fixture as the reference's tokenizer gave them.
fn minilm_sentences(want: &HashMap<String, Tensor>) -> Input {
    let (all, mut from) = (ids(&want["input_ids"]), 0);
    let take = |n: &i64| {
        from += *n as usize;
        all[from - *n as usize..from].iter().map(|i| *i as u32).collect::<Vec<u32>>()
    };
    Input::tokens(&ids(&want["lens"]).iter().map(take).collect::<Vec<_>>()).unwrap()
}

/// Embeddings of the sentences of the fixture, `[n, dim]`.
fn minilm_embeds(opened: &Opened, point: &Point, want: &HashMap<String, Tensor>) -> Tensor {
    let pooling = Sentence::read(&Folder::disk(&root("models/all-MiniLM-L6-v2")).unwrap()).unwrap().unwrap();
    let input = minilm_sentences(want);
    let (out, _) = opened.run(point, &input).unwrap();
    let all = pooling.embed(&out, input.n(), &Default::default()).unwrap().into_iter().collect::<Option<Vec<_>>>();
    let all = all.unwrap();
    Tensor::from_vec(all.concat(), (all.len(), all[0].len())).unwrap()
}

#[test]
fn minilm_embeds_sentences_as_the_reference_does() {
    let Some(opened) = fetched("all-MiniLM-L6-v2") else { return };
    let want = expected("minilm");
    close("MiniLM embeddings", &minilm_embeds(&opened, &Point::new(), &want), &want["embeddings"]);
}

#[test]
fn minilm_in_integers_stays_near_the_reference() {
    let Some(opened) = fetched_as("all-MiniLM-L6-v2", OpenOptions { nested: true }) else {
        return;
    };
    let want = expected("minilm");
    let point = Point::parse(r#"{"bits": 8, "activation_bits": 8}"#).unwrap();
    let got = minilm_embeds(&opened, &point, &want).to_vec2::<f32>().unwrap();
    let want = want["embeddings"].to_vec2::<f32>().unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
    let cosine = |(a, b): (&Vec<f32>, &Vec<f32>)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt();
    let all: Vec<f64> = got.iter().zip(&want).map(cosine).collect();
    let (least, mean) = (all.iter().copied().fold(1.0, f64::min), all.iter().sum::<f64>() / all.len() as f64);
    println!("MiniLM with 8-bit weights and activations: cosine {mean:.5} in the mean, {least:.5} at least");
    // Scales for 64 inputs, and the four values farthest out of each row apart (decision 32). With one scale a row
    // and the range up to its largest value it was 0.9956 and 0.9857.
    assert!(mean > 0.9995 && least > 0.999, "{mean} {least}");
}

#[test]
fn splade_weighs_words_as_the_reference_does() {
    let Some(opened) = fetched("splade-tiny") else { return };
    let want = expected("splade");
    let input = Input::padded(&want["input_ids"], Some(&want["attention_mask"]), None).unwrap();
    let (out, _) = opened.run(&Point::new(), &input).unwrap();
    let (logits, rows) = out.get_rows("logits").unwrap();
    let first = Tensor::from_vec(rows.firsts(), rows.n()).unwrap();
    close("SPLADE logits of the first row", &logits.index_select(&first, 0).unwrap(), &want["cls.logits"]);
}

#[test]
fn dinov2_from_onnx_sees_as_the_reference_and_as_its_graph_do() {
    let Some(opened) = fetched("dinov2-small") else { return };
    let want = expected("dinov2-small");
    let (out, _) = opened.run(&Point::new(), &Input::pixel_values(want["pixel_values"].clone())).unwrap();
    let (rows, _) = out.get_rows("last_hidden_state").unwrap();
    close("DINOv2 rows", rows, &want["last_hidden_state"]);
    close("DINOv2 rows of the exported graph", rows, &want["graph"]);
    close("DINOv2 class row", &out.of("pooler_output", 0).unwrap(), &want["pooler_output"].squeeze(0).unwrap());
}
