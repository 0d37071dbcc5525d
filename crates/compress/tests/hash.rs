//! The fit of EcoFormer's hash: against the numbers of the reference, better than what it starts with, the same by seed.

#![allow(clippy::unwrap_used)]

#[path = "../../zoo/tests/common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{batch, far, flat, publish, toy};
use serde_json::{Value as Json, json};
use switchformer_compress::hash::{HashFit, Sample, fit, hash_attention, places};
use switchformer_nn::{Input, Point, Taps};
use switchformer_tensor::Tensor;
use switchformer_zoo::{OpenOptions, Opened, find};

#[test]
fn a_fit_is_the_reference_s() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/ecoformer_pvt_v2/fit.safetensors");
    let numbers = switchformer_tensor::safetensors::load(golden).unwrap();
    let [heads, bits, anchors] = numbers["in.start"].dims() else { panic!() };
    let sample = Sample::of(&numbers["in.rows"], 2, *heads).unwrap();
    let start = flat(&numbers["in.start"]);
    let at: Vec<usize> = (0..*anchors).map(|i| i * 3 % sample.rows()).collect();
    let how = HashFit { bits: *bits, anchors: *anchors, ..HashFit::default() };
    let fitted = fit(&sample, &start, &at, &how).unwrap();
    for (name, got) in [("anchor", &fitted.anchors), ("means", &fitted.means), ("matrix", &fitted.matrix)] {
        let off = far(got, &flat(&numbers[&format!("out.{name}")]));
        assert!(off < 1e-5, "{name}: {off:e}");
    }
    assert!(far(&fitted.matrix, &start) > 0.1);
    let better = numbers["out.better"].to_vec1::<i32>().unwrap();
    assert_eq!(fitted.improved, better.iter().filter(|b| **b == 1).count());
    let [drawn, now] = fitted.errors;
    assert!(now < drawn, "{drawn} {now}");
    // Without a step nothing moves.
    let still = fit(&sample, &start, &at, &HashFit { steps: 0, ..how }).unwrap();
    assert!(still.matrix == start && still.improved == 0 && still.errors == [drawn; 2]);
}

/// The toy PVT v2 with whole attention, and images for it.
fn whole(dir: &Path) -> Input {
    let entry = find("pvt_v2").unwrap();
    let mut config = toy(entry, "PvtV2ForImageClassification");
    config["sr_ratios"] = json!([1, 1]);
    publish(dir, entry, config);
    batch(Opened::open(dir, OpenOptions::default()).unwrap().model.as_ref(), 3)
}

/// A family's toy with softmax in place of codes, its config, and images for it.
fn softmax(dir: &Path, family: &str) -> (Json, Input) {
    let entry = find(family).unwrap();
    let mut config = toy(entry, entry.bare());
    config["attn_type"] = json!("msa");
    publish(dir, entry, config.clone());
    (config, batch(Opened::open(dir, OpenOptions::default()).unwrap().model.as_ref(), 3))
}

fn tensors(dir: &Path) -> HashMap<String, Tensor> {
    switchformer_tensor::safetensors::load(dir.join("model.safetensors")).unwrap()
}

#[test]
fn a_softmax_model_becomes_a_hashed_one() {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join(name);
    let input = whole(&dir("whole"));
    let how = HashFit { bits: 8, anchors: 12, seed: 3, ..HashFit::default() };
    let make = |name: &str, how: &HashFit| hash_attention(&dir("whole"), &dir(name), &input, how).unwrap();
    let made = make("hashed", &how);
    let errors: f64 = made.errors.iter().map(|[drawn, fitted]| fitted - drawn).sum();
    assert!(errors < 0.0 && made.improved[0] > 0 && made.errors.len() == 1, "{made:?}");
    let weights = |name: &str| std::fs::read(dir(name).join("model.safetensors")).unwrap();
    make("again", &how);
    make("other", &HashFit { seed: 4, ..how });
    assert!(weights("hashed") == weights("again") && weights("hashed") != weights("other"));
    // What has its place in both models is as it was.
    let open = |name: &str| Opened::open(&dir(name), OpenOptions::default()).unwrap();
    let (whole, hashed) = (open("whole"), open("hashed"));
    assert_eq!([whole.n_params, hashed.n_params], made.params);
    let (old, new) = (tensors(&dir("whole")), tensors(&dir("hashed")));
    let at = "encoder.layers.0.blocks.0.attention";
    for (from, to) in [("query", "to_qk"), ("value", "to_v"), ("proj", "proj")] {
        let [a, b] = [(&old, "pvt_v2.", from), (&new, "", to)]
            .map(|(all, prefix, part)| flat(&all[&format!("{prefix}{at}.{part}.weight")]));
        assert!(a == b, "{from}");
    }
    // Anchors are rows of the first image, scaled to one.
    let anchors = flat(&new[&format!("{at}.fast_attention.ksh.anchor")]);
    anchors.chunks(8).for_each(|a| assert!((a.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5));
    let (out, _) = hashed.run(&Point::new(), &input).unwrap();
    assert!(flat(out.get("logits").unwrap()).iter().all(|v| v.is_finite()));
    let (_, size, _) = hashed.model.spec().image_size().unwrap();
    assert_eq!(size, (32, 32));
}

#[test]
fn twins_become_hashed_ones_too() {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join(name);
    let open = |name: &str| Opened::open(&dir(name), OpenOptions::default()).unwrap();
    let (mut config, input) = softmax(&dir("softmax"), "twins");
    let how = HashFit { bits: 8, anchors: 12, seed: 3, ..HashFit::default() };
    let made = hash_attention(&dir("softmax"), &dir("hashed"), &input, &how).unwrap();
    // Two blocks see a reduced map in Twins and are hashed; those behind keep their softmax.
    assert_eq!(made.errors.len(), 2);
    assert!(made.errors.iter().map(|[drawn, fitted]| fitted - drawn).sum::<f64>() < 0.0, "{made:?}");
    let (old, new) = (tensors(&dir("softmax")), tensors(&dir("hashed")));
    let dim = 16 * 16;
    for block in ["blocks.0.0.attn", "blocks.0.1.attn"] {
        let qkv = flat(&old[&format!("{block}.qkv.weight")]);
        let [qk, v] = ["to_qk", "to_v"].map(|part| flat(&new[&format!("{block}.{part}.weight")]));
        assert!(qk == qkv[..dim] && v == qkv[2 * dim..]);
    }
    let last = "blocks.1.0.attn.qkv.weight";
    assert!(flat(&old[last]) == flat(&new[last]));
    let hashed = open("hashed");
    assert_eq!([open("softmax").n_params, hashed.n_params], made.params);
    let (out, _) = hashed.run(&Point::new(), &input).unwrap();
    assert!(flat(out.get("logits").unwrap()).iter().all(|v| v.is_finite()));
    // Twins as published look at windows, and codes cannot stand in for attention that is over codes already, or in
    // every stage unreduced.
    let refused = |name: &str, word: &str| {
        let e = hash_attention(&dir(name), &dir("new"), &input, &how).unwrap_err().to_string();
        assert!(e.contains(word) && !dir("new").exists(), "{e}");
    };
    let entry = find("twins").unwrap();
    publish(&dir("windows"), entry, toy(entry, "Twins"));
    refused("windows", "attn_type");
    refused("hashed", "attn_type");
    config["sr_ratios"] = json!([1, 1]);
    publish(&dir("whole"), entry, config);
    refused("whole", "sr_ratios");
}

#[test]
fn a_host_s_own_softmax_becomes_its_codes() {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join(name);
    let entry = find("ecoformer_pvt_v2").unwrap();
    publish(&dir("codes"), entry, toy(entry, "EcoFormerPvtV2"));
    let open = |name: &str| Opened::open(&dir(name), OpenOptions::default()).unwrap();
    let (_, input) = softmax(&dir("softmax"), entry.name);
    let how = HashFit { bits: 8, anchors: 12, ..HashFit::default() };
    let made = hash_attention(&dir("softmax"), &dir("hashed"), &input, &how).unwrap();
    assert_eq!((made.errors.len(), made.params), (1, [open("softmax").n_params, open("hashed").n_params]));
    let (old, new) = (tensors(&dir("softmax")), tensors(&dir("hashed")));
    for (name, values) in &old {
        let own = |part: &str| flat(&new[&name.replace(".qkv.", part)]);
        match new.get(name) {
            Some(kept) => assert!(flat(kept) == flat(values), "{name}"),
            None => {
                let (all, n) = (flat(values), values.elem_count() / 3);
                assert!(own(".to_qk.") == all[..n] && own(".to_v.") == all[2 * n..], "{name}");
            }
        }
    }
    let e = hash_attention(&dir("codes"), &dir("new"), &input, &how).unwrap_err().to_string();
    assert!(e.contains("attn_type"), "{e}");
}

#[test]
fn rows_that_are_alike_have_more_bits_in_common() {
    let temp = tempfile::tempdir().unwrap();
    let input = whole(&temp.path().join("whole"));
    let how = HashFit { bits: 8, anchors: 12, seed: 3, ..HashFit::default() };
    let out = temp.path().join("hashed");
    hash_attention(&temp.path().join("whole"), &out, &input, &how).unwrap();
    // The queries that the written model shows are those that the fit met.
    let opened = Opened::open(&out, OpenOptions::default()).unwrap();
    let name = "blocks.0.attn.qk";
    let mut taps = Taps::named([name]);
    opened.run_tapped(&Point::new(), &input, &mut taps).unwrap();
    let sample = Sample::of(&taps.get(name).unwrap()[0], 3, 2).unwrap();
    let new = switchformer_tensor::safetensors::load(out.join("model.safetensors")).unwrap();
    let matrix = flat(&new["encoder.layers.0.blocks.0.attention.fast_attention.ksh.A"]);
    let rest = HashFit { steps: 0, ..how };
    let at = places(sample.rows(), &how, 0);
    let [fitted, _] = fit(&sample, &matrix, &at, &rest).unwrap().errors;
    let drawn = (0..5u64).map(|seed| {
        let start = switchformer_nn::init::fresh("A", &[2, 8, 12], seed, 1.0, switchformer_nn::init::Init::Normal(1.0));
        fit(&sample, &start, &at, &rest).unwrap().errors[0]
    });
    let mean = drawn.sum::<f64>() / 5.0;
    assert!(fitted < mean, "{fitted} against {mean} of random codes");
}

#[test]
fn what_cannot_be_hashed_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join(name);
    let input = whole(&dir("whole"));
    let reduced = find("pvt_v2").unwrap();
    publish(&dir("reduced"), reduced, toy(reduced, "PvtV2ForImageClassification"));
    publish(&dir("bare"), reduced, toy(reduced, "PvtV2Model"));
    publish(&dir("vit"), find("vit").unwrap(), toy(find("vit").unwrap(), "ViTForImageClassification"));
    let how = HashFit { bits: 8, anchors: 12, ..HashFit::default() };
    let refused = |from: &str, to: &str, how: &HashFit, word: &str| {
        let e = hash_attention(&dir(from), &dir(to), &input, how).unwrap_err().to_string();
        assert!(e.contains(word) && !dir("new").exists(), "{e}");
    };
    refused("whole", "whole", &how, "exists");
    refused("reduced", "new", &how, "sr_ratios");
    refused("bare", "new", &how, "PvtV2ForImageClassification");
    refused("vit", "new", &how, "pvt_v2");
    refused("whole", "new", &HashFit { anchors: 4_000, ..how }, "4000 anchors");
    refused("whole", "new", &HashFit { top_k: 500, ..how }, "500 neighbours");
    refused("whole", "new", &HashFit { bits: 0, ..how }, "nbits");
    let other = Tensor::zeros((1, 3, 32, 32), switchformer_tensor::DType::F32).unwrap();
    assert!(hash_attention(&dir("whole"), &dir("new"), &Input::pixel_values(other), &how).is_err());
}
