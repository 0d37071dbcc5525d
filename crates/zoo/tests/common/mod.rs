//! Toy models and inputs for tests that run over the whole registry.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::Stream;
use switchformer_nn::point::{Setting, Settings};
use switchformer_nn::store::{safetensors_bytes, write_folder};
use switchformer_nn::{Input, InputSpec, Model, Output, Part, Point, Staged, Value, Weights};
use switchformer_switch::Plan;
use switchformer_switch::leaf::bits::{Bits, NestedInt, Width};
use switchformer_switch::leaf::experts::{self, Experts, Offer};
use switchformer_switch::rule::exit::Exit;
use switchformer_switch::task::{Number, Task};
use switchformer_tensor::Tensor;
use switchformer_zoo::save::{json_bytes, published_tensors};
use switchformer_zoo::{Entry, Opened, Trait, ZOO};

/// The toy config of a model under one of its architectures.
pub fn toy(entry: &Entry, architecture: &str) -> Json {
    let mut config: Json = serde_json::from_str(entry.toy).unwrap();
    config["architectures"] = json!([architecture]);
    if architecture.ends_with("QuestionAnswering") {
        // A start and an end.
        config["num_labels"] = 2.into();
    }
    config
}

/// A plan with nested weights, and exit heads after the given depths.
pub fn plan(nested: bool, depths: &[usize]) -> Plan {
    let mut plan = Plan::default();
    if nested {
        plan.forms.push(NestedInt::everywhere());
    }
    if !depths.is_empty() {
        plan.switches.insert("exit".into(), json!({"after": depths}));
    }
    plan
}

/// Bit-widths that a checkpoint offers.
pub fn views(opened: &Opened) -> Vec<u8> {
    opened.switches.host().capability(&Bits).map_or_else(Vec::new, |v| v.0.clone())
}

/// What its banks offer.
pub fn offer(opened: &Opened) -> Option<Offer> {
    opened.switches.host().capability(&Experts).map(|o| (*o).clone())
}

/// Tasks that it has an answer for.
pub fn task_count(opened: &Opened) -> usize {
    opened.switches.host().capability(&Task).unwrap().0
}

/// Whether heads of its attentions may be left out.
pub fn prunes(opened: &Opened) -> bool {
    opened.switches.axes().iter().any(|a| a.name == "heads" && a.available)
}

/// Whether it has trained exit heads.
pub fn has_heads(opened: &Opened) -> bool {
    opened.switches.host().capability(&Exit).is_some_and(|e| !e.depths().is_empty())
}

/// A point with the settings that layers read, for models without switches: nothing is checked.
pub fn typed(point: &Point) -> Point {
    let mut all: Vec<Setting> = Vec::new();
    if let Some(s) = point.axis::<experts::Setting>("experts").unwrap() {
        all.push(Arc::new(s));
    }
    if let Some(b) = point.axis::<u8>("bits").unwrap() {
        all.push(Arc::new(Width(b)));
    }
    if let Some(t) = point.axis::<usize>("task").unwrap() {
        all.push(Arc::new(Number(t)));
    }
    point.clone().with_settings(Settings::new(all))
}

/// A toy checkpoint as others would publish it.
pub fn publish(dir: &Path, entry: &'static Entry, config: Json) {
    let w = Weights::seeded().trainable();
    let parsed = ConfigMap::new(config.clone()).unwrap();
    entry.build(&parsed, &w).unwrap();
    let tensors = published_tensors(entry, entry.architecture(&parsed).unwrap(), &w.params()).unwrap();
    let files = [
        ("config.json", json_bytes(&config)),
        ("model.safetensors", safetensors_bytes(&tensors).unwrap()),
        ("vocab.txt", b"a\n".to_vec()),
        ("1_Pooling/config.json", b"{}\n".to_vec()),
    ];
    write_folder(dir, &files).unwrap();
}

/// The architecture of the toy config itself.
pub fn toy_architecture(entry: &Entry) -> String {
    let config: Json = serde_json::from_str(entry.toy).unwrap();
    config["architectures"][0].as_str().unwrap().to_string()
}

/// Every model under every architecture.
pub fn everything() -> impl Iterator<Item = (&'static Entry, &'static str)> {
    ZOO.iter().flat_map(|e| e.architectures.iter().map(move |(a, _)| (*e, *a)))
}

/// Whether exit heads can answer in this toy's stead.
pub fn classifies(entry: &Entry, model: &dyn Staged) -> bool {
    let yes = model.classifier().is_some();
    assert_ne!(yes, entry.is(Trait::NoExitHeads), "{}: are its traits right?", entry.name);
    yes
}

/// Points that together use every tensor of a model: its rest, or one for each task where there are several.
pub fn tasks(w: &Weights) -> Vec<Point> {
    match Offer::of(w).unwrap() {
        Some(offer) if offer.gates > 1 => {
            let at = |task: usize| Point::new().with("experts", json!({"router": "task", "task": task}));
            (0..offer.gates).map(at).collect()
        }
        _ => vec![Point::new()],
    }
}

/// Token sequences of the given lengths. The lowest ids are left out: they are special tokens in some vocabularies.
pub fn sequences(vocab: usize, lens: &[usize]) -> Vec<Vec<u32>> {
    let mut stream = Stream::named("toy.ids");
    lens.iter().map(|n| (0..*n).map(|_| 5 + stream.below(vocab as u64 - 5) as u32).collect()).collect()
}

/// Lengths of `n` members that differ from their neighbours, within `max`.
pub fn mixed_lens(n: usize, max: usize) -> Vec<usize> {
    [7, 3, 12, 1, 9].iter().cycle().take(n).map(|l| *l.min(&max)).collect()
}

/// `n` members for a model: text of mixed lengths, or images.
pub fn batch(model: &dyn Model, n: usize) -> Input {
    let spec = model.spec();
    match text(&spec, &mixed_lens(n, spec.text_size().map_or(1, |(_, max_len)| max_len))) {
        Some(input) => input,
        None => Input::sample(&spec, &vec![1; n], None, Some(&Stream::named("toy.pixels"))).unwrap(),
    }
}

/// Text of the given lengths for a model that reads it, and text to write for one that writes.
pub fn text(spec: &InputSpec, lens: &[usize]) -> Option<Input> {
    let (vocab, _) = spec.text_size().ok()?;
    let [source, target] = pair_sequences(vocab, lens);
    let read = Input::tokens(&source).unwrap();
    let target = Part::tokens(&target).unwrap();
    Some(if spec.takes("decoder_input_ids") { read.with("decoder_input_ids", target).unwrap() } else { read })
}

/// Sequences to read of the given lengths, and sequences to write whose lengths differ from them.
pub fn pair_sequences(vocab: usize, lens: &[usize]) -> [Vec<Vec<u32>>; 2] {
    let target: Vec<usize> = lens.iter().map(|n| n / 2 + 2).collect();
    let mut all = sequences(vocab, &[lens, &target].concat());
    let target = all.split_off(lens.len());
    [all, target]
}

/// The members of a batch, each as an input of its own.
pub fn singles(input: &Input) -> Vec<Input> {
    (0..input.n()).map(|i| input.member(i).unwrap()).collect()
}

/// Values of a tensor.
pub fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

/// The tensor behind a named output.
pub fn tensor(v: &Value) -> &Tensor {
    match v {
        Value::PerMember(t) | Value::PerRow(t, _) => t,
        Value::Each(all) => panic!("{} tensors of their own", all.len()),
    }
}

/// The numbers behind a named output.
pub fn numbers(v: &Value) -> Vec<f32> {
    match v {
        Value::PerMember(t) | Value::PerRow(t, _) => flat(t),
        Value::Each(all) => all.iter().flatten().flat_map(flat).collect(),
    }
}

/// The numbers of every output, by name.
pub fn values(out: &Output) -> BTreeMap<String, Vec<f32>> {
    out.values().iter().map(|(k, v)| (k.clone(), numbers(v))).collect()
}

/// The bits of every output, by name: equal maps are equal answers.
pub fn bits(out: &Output) -> BTreeMap<String, Vec<u32>> {
    values(out).into_iter().map(|(k, v)| (k, v.iter().map(|x| x.to_bits()).collect())).collect()
}

/// Largest difference relative to the largest value of `b`.
pub fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let top = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0f32, |m, (x, y)| {
        let d = (x - y).abs() / top;
        if d.is_nan() { f32::INFINITY } else { m.max(d) }
    })
}

/// [`far`] over all outputs of `a`, each against the same output of `b`.
pub fn distance(a: &Output, b: &Output) -> f32 {
    assert!(!a.values().is_empty());
    let b = values(b);
    values(a).iter().fold(0f32, |worst, (name, v)| worst.max(far(v, &b[name])))
}
