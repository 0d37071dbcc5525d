//! Toy checkpoint folders to damage, and the loader as a stranger's file meets it. Also the body of the fuzz target.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_infer::Sentence;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::Stream;
use switchformer_nn::ops::nested_codes;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes};
use switchformer_nn::{Error, Folder, Input, Param, Point, Result, Weights};
use switchformer_switch::leaf::bits::{Bits, NestedInt, absmax_scale};
use switchformer_switch::{Loading, Plan, Switches};
use switchformer_tensor::Tensor;
use switchformer_zoo::save::{json_bytes, published_tensors};
use switchformer_zoo::{OpenOptions, Opened, find};

/// Files of a folder by relative path.
pub type Files = BTreeMap<String, Vec<u8>>;

pub const CONFIG: &str = "config.json";
pub const MODEL: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
pub const SHARDS: [&str; 2] = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
pub const PLAN: &str = "switch.json";
pub const EXITS: &str = "switch.safetensors";
pub const MODULES: &str = "modules.json";
pub const POOLING: &str = "1_Pooling/config.json";

/// What a fuzz input may name.
pub const NAMES: [&str; 10] =
    [CONFIG, MODEL, INDEX, SHARDS[0], SHARDS[1], PLAN, EXITS, MODULES, POOLING, "pytorch_model.bin"];

/// Config and f32 tensors of a toy model, under the published names.
pub fn toy(model: &str, changes: &Json) -> (Json, SavedMap) {
    let entry = find(model).unwrap();
    let mut config: Json = serde_json::from_str(entry.toy).unwrap();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    let map = ConfigMap::new(config.clone()).unwrap();
    let w = Weights::seeded().trainable();
    entry.build(&map, &w).unwrap();
    let tensors = published_tensors(entry, entry.architecture(&map).unwrap(), &w.params()).unwrap();
    (config, tensors)
}

/// A BERT classifier with mean pooling, in one file.
pub fn bert(changes: &Json) -> Files {
    let (config, tensors) = toy("bert", changes);
    let module = |i: u32, kind: &str, path: &str| json!({"idx": i, "name": i.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    Files::from([
        (CONFIG.into(), json_bytes(&config)),
        (MODEL.into(), safetensors_bytes(&tensors).unwrap()),
        (
            MODULES.into(),
            json_bytes(&json!([
                module(0, "Transformer", ""),
                module(1, "Pooling", "1_Pooling"),
                module(2, "Normalize", "2_Normalize")
            ])),
        ),
        (POOLING.into(), json_bytes(&json!({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": true}))),
    ])
}

/// The same without pooling, in two shards.
pub fn sharded(changes: &Json) -> Files {
    let (config, tensors) = toy("bert", changes);
    let (mut parts, mut map) = ([SavedMap::new(), SavedMap::new()], serde_json::Map::new());
    for (i, (name, saved)) in tensors.into_iter().enumerate() {
        map.insert(name.clone(), SHARDS[i % 2].into());
        parts[i % 2].insert(name, saved);
    }
    Files::from([
        (CONFIG.into(), json_bytes(&config)),
        (INDEX.into(), json_bytes(&json!({"metadata": {"total_size": 0}, "weight_map": map}))),
        (SHARDS[0].into(), safetensors_bytes(&parts[0]).unwrap()),
        (SHARDS[1].into(), safetensors_bytes(&parts[1]).unwrap()),
    ])
}

/// A ViT with nested 8-bit weights and exit heads after every block but the last.
pub fn vit(changes: &Json) -> Files {
    let (mut config, tensors) = toy("vit", changes);
    let mut stored = SavedMap::new();
    for (name, saved) in tensors {
        if saved.shape.len() != 2 || !name.contains("encoder.layer.") {
            stored.insert(name, saved);
            continue;
        }
        let values: Vec<f32> = saved.bytes.as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
        let w = Tensor::from_vec(values, saved.shape.as_slice()).unwrap();
        let nested = nested_codes(&w, &absmax_scale(&w).unwrap()).unwrap();
        stored.insert(format!("{name}_scale"), Saved::f32(&saved.shape[..1], &nested.scale));
        stored.insert(name, Saved::i8(&saved.shape, &nested.codes));
    }
    Plan { forms: vec![NestedInt::everywhere()], ..Plan::default() }.write(config.as_object_mut().unwrap()).unwrap();
    config["switch"] = json!({"schema": 1, "file": PLAN});
    let depths: Vec<usize> = (1..config["num_hidden_layers"].as_u64().unwrap() as usize).collect();
    let we = Weights::seeded().trainable();
    let parsed = ConfigMap::new(config.clone()).unwrap();
    let model = (find("vit").unwrap().load)(&parsed, &Weights::seeded()).unwrap();
    let heads_at = Plan { switches: BTreeMap::from([("exit".into(), json!({"after": depths}))]), ..Plan::default() };
    let plain = Weights::seeded();
    let loading = Loading { model: model.trunk(), config: &parsed, plan: &heads_at, weights: &plain, added: Some(&we) };
    Switches::load(&loading).unwrap();
    let heads = |params: &[Param]| published_tensors(find("vit").unwrap(), "ViTModel", params).unwrap();
    let plan = json!({
        "schema": 1,
        "exits": depths,
        "default_point": {"bits": 8},
        "points": {"half": {"point": {"bits": 4, "exit": 1}, "measured": {"accuracy": 0.5}}},
    });
    Files::from([
        (CONFIG.into(), json_bytes(&config)),
        (MODEL.into(), safetensors_bytes(&stored).unwrap()),
        (PLAN.into(), json_bytes(&plan)),
        (EXITS.into(), safetensors_bytes(&heads(&we.params())).unwrap()),
    ])
}

/// Sizes at which a whole folder takes a few KiB.
pub fn tiny() -> Json {
    json!({"hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4,
        "vocab_size": 8, "max_position_embeddings": 4, "image_size": 4, "patch_size": 2})
}

pub fn write(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Header and data of a safetensors file.
pub fn split(file: &[u8]) -> (&[u8], &[u8]) {
    let len = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    file[8..].split_at(len)
}

/// A safetensors file of header and data.
pub fn join(head: &[u8], data: &[u8]) -> Vec<u8> {
    [&(head.len() as u64).to_le_bytes(), head, data].concat()
}

/// Opens a folder and, if it opens, runs a small input at every kind of point. Errors are answers; panics are bugs.
pub fn open_and_run(dir: &Path, options: OpenOptions) -> Result<()> {
    let folder = Folder::disk(dir)?;
    let opened = Opened::folder(&folder, options)?;
    let pooling = Sentence::read(&folder)?;
    let Some(input) = small_input(&opened)? else { return Ok(()) };
    let mut points = vec![opened.point(None)?, Point::new()];
    points.extend(opened.plan.points.values().map(|p| p.point.clone()).take(4));
    let views = opened.switches.host().capability(&Bits).map_or_else(Vec::new, |v| v.0.clone());
    points.extend(views.iter().map(|bits| Point::new().with("bits", *bits)));
    points.push(Point::new().with("exit", json!({"confidence": 0.3})));
    points.push(Point::new().with("exit", 1));
    for method in ["zero-tprune", "random", "class-attention"] {
        points.push(Point::new().with("tokens", json!({"method": method, "keep": 0.5, "after": [1]})));
    }
    let mut first = None;
    for point in points {
        let cost = opened.cost(&point, &input);
        // A point may be refused; the first one that is decides the code.
        match opened.run(&point, &input) {
            Ok((out, _)) => {
                drop(cost.and(pooling.as_ref().map(|p| p.embed(&out, input.n(), &Default::default())).transpose())?)
            }
            Err(Error::Point { .. }) => {}
            Err(e) => first = first.or(Some(e)),
        }
    }
    first.map_or(Ok(()), Err)
}

/// Two members that fit the model; nothing where even one would be large.
fn small_input(opened: &Opened) -> Result<Option<Input>> {
    let spec = opened.model.spec();
    if spec.image_size().is_ok_and(|(channels, (h, w), _)| channels * h * w > 1 << 14) {
        return Ok(None);
    }
    Input::sample(&spec, &[3, 1], None, Some(&Stream::named("trust"))).map(Some)
}

/// A folder as one fuzz input: per file the number of its name, its length (u32, little endian) and its bytes.
pub fn pack(files: &Files) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, bytes) in files {
        out.push(NAMES.iter().position(|n| n == name).unwrap() as u8);
        out.extend((bytes.len() as u32).to_le_bytes());
        out.extend(bytes);
    }
    out
}

/// The reverse of [`pack`] for any input: numbers wrap, lengths are cut.
pub fn unpack(mut data: &[u8]) -> Files {
    let mut files = Files::new();
    while let Some((head, rest)) = data.split_first_chunk::<5>() {
        let [name, len @ ..] = *head;
        let (bytes, rest) = rest.split_at(rest.len().min(u32::from_le_bytes(len) as usize));
        files.insert(NAMES[usize::from(name) % NAMES.len()].into(), bytes.to_vec());
        data = rest;
    }
    files
}

/// The fuzz target: a packed folder is written to `dir`, opened both ways and run. Returns the codes of the answers.
pub fn loader(dir: &Path, data: &[u8]) -> [&'static str; 2] {
    let files = unpack(data);
    write(dir, &files);
    let codes = [false, true].map(|nested| {
        open_and_run(dir, OpenOptions { nested }).map_or_else(
            |e| {
                assert_readable(&e);
                e.code()
            },
            |()| "ok",
        )
    });
    files.keys().for_each(|name| std::fs::remove_file(dir.join(name)).unwrap());
    codes
}

/// A message must be fit for a terminal: bounded, and without control characters but its own line breaks.
pub fn assert_readable(e: &Error) {
    let text = e.to_string();
    assert!(text.len() < 64 << 10, "a message of {} bytes", text.len());
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "control characters in {text:?}");
}
