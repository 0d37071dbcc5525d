//! Upcycled checkpoints: with copies for experts, every router gives the dense model's answer.

#![allow(clippy::unwrap_used)]

#[path = "../../zoo/tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::{batch, bits, distance, everything, publish, toy};
use serde_json::{Value as Json, json};
use switchformer_compress::upcycle::upcycle;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, saved};
use switchformer_nn::{Error, Output, Point};
use switchformer_switch::leaf::experts::ExpertPlan;
use switchformer_tensor::Tensor;
use switchformer_zoo::{OpenOptions, Opened, Trait, find};

/// Relative: shares that sum to one up to rounding, and products with stored integers, which add in an order that depends
/// on the number of rows.
const ROUNDING: f32 = 1e-5;
const PLAN: ExpertPlan = ExpertPlan::copies(3, 1);

fn open(dir: &Path, nested: bool) -> Opened {
    Opened::open(dir, OpenOptions { nested }).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn at(setting: Json) -> Point {
    Point::new().with("experts", setting).with("seed", 5)
}

#[test]
fn copies_are_the_dense_model_under_every_router() {
    let temp = tempfile::tempdir().unwrap();
    let mut models = 0;
    for (entry, architecture) in everything().filter(|(e, _)| !e.is(Trait::OwnExperts)) {
        let (dense, out) = (temp.path().join(architecture), temp.path().join(format!("{architecture}-3")));
        publish(&dense, entry, toy(entry, architecture));
        if entry.is(Trait::ConvolutionalFfn) || entry.is(Trait::ConvolutionsAlone) {
            let refused = upcycle(&dense, &out, &PLAN, 1).unwrap_err().to_string();
            assert!(refused.contains("convolution"), "{refused}");
            continue;
        }
        let made = upcycle(&dense, &out, &PLAN, 1).unwrap();
        for nested in [false, true] {
            let (plain, wide) = (open(&dense, nested), open(&out, nested));
            assert_eq!([plain.n_params, wide.n_params], made.params, "{architecture}");
            let input = batch(plain.model.as_ref(), 4);
            let (want, _) = plain.run(&Point::new(), &input).unwrap();
            let (rest, trace) = wide.run(&Point::new(), &input).unwrap();
            let check = |got: &Output, exact: bool, what: &str| {
                let off = distance(got, &want);
                assert!(off < ROUNDING && (!exact || bits(got) == bits(&want)), "{architecture} {what}: {off:e}");
            };
            check(&rest, !nested, "at rest");
            assert!(!trace.decisions.is_empty() && made.banks > 0, "{architecture}");
            let grains = ["batch", "sentence", "token"].map(|g| json!({"router": "random", "grain": g}));
            let one = [json!({"router": "learned", "top_k": 1}), json!({"router": "fixed", "expert": 2})];
            for setting in one.into_iter().chain(grains) {
                check(&wide.run(&at(setting.clone()), &input).unwrap().0, !nested, &setting.to_string());
            }
            for setting in [json!({"router": "all"}), json!({"router": "learned", "top_k": 2})] {
                check(&wide.run(&at(setting.clone()), &input).unwrap().0, false, &setting.to_string());
            }
            for p in [Point::new(), at(json!({"router": "all"})), at(json!({"router": "fixed", "expert": 1}))] {
                let (_, trace) = wide.run(&p, &input).unwrap();
                assert_eq!(wide.cost(&p, &input).unwrap().macs, trace.macs, "{architecture} at {p}");
            }
        }
        // What others read is as it was.
        for same in ["model.safetensors", "vocab.txt", "1_Pooling/config.json"] {
            assert!(std::fs::read(dense.join(same)).unwrap() == std::fs::read(out.join(same)).unwrap(), "{same}");
        }
        models += 1;
    }
    assert!(models >= 20, "{models}");
}

#[test]
fn experts_that_differ_are_told_apart() {
    let temp = tempfile::tempdir().unwrap();
    let entry = find("bert").unwrap();
    let (dense, out) = (temp.path().join("bert"), temp.path().join("wide"));
    publish(&dense, entry, toy(entry, "BertForSequenceClassification"));
    upcycle(&dense, &out, &PLAN, 1).unwrap();
    // Expert 1 of the first bank forgets what it knew.
    let file = out.join("switch.safetensors");
    let mut tensors: SavedMap = switchformer_tensor::safetensors::load(&file)
        .unwrap()
        .iter()
        .map(|(n, t)| (n.clone(), saved(t).unwrap()))
        .collect();
    let name = tensors.keys().find(|n| n.contains("layer.0.") && n.ends_with("expert_1.output.dense.weight")).unwrap();
    let (name, shape) = (name.clone(), tensors[name].shape.clone());
    let zeros = Tensor::zeros(shape, switchformer_tensor::DType::F32).unwrap();
    tensors.insert(name.clone(), saved(&zeros).unwrap());
    std::fs::write(&file, safetensors_bytes(&tensors).unwrap()).unwrap();
    let wide = open(&out, false);
    let input = batch(wide.model.as_ref(), 4);
    let (want, _) = open(&dense, false).run(&Point::new(), &input).unwrap();
    for e in 0..3 {
        let (got, _) = wide.run(&at(json!({"router": "fixed", "expert": e})), &input).unwrap();
        assert_eq!(bits(&got) == bits(&want), e != 1, "expert {e}");
    }
    // Strict here, too: a tensor that is gone or left over is named.
    for change in [true, false] {
        let mut broken = tensors.clone();
        if change {
            broken.remove(&name);
        } else {
            broken.insert("stray.weight".into(), Saved::f32(&[1], &[0.0]));
        }
        std::fs::write(&file, safetensors_bytes(&broken).unwrap()).unwrap();
        let e = Opened::open(&out, OpenOptions::default()).err().unwrap();
        assert!(matches!(e, Error::Tensors { .. }), "{e}");
        assert!(e.to_string().contains(if change { name.as_str() } else { "stray.weight" }), "{e}");
    }
}

#[test]
fn what_cannot_be_upcycled_is_refused_by_name() {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join(name);
    let toy_of = |name: &str, architecture: &str| toy(find(name).unwrap(), architecture);
    publish(&dir("bert"), find("bert").unwrap(), toy_of("bert", "BertModel"));
    let switch = toy_of("switch_transformers", "SwitchTransformersEncoderModel");
    publish(&dir("switch"), find("switch_transformers").unwrap(), switch);
    let refused = |from: &str, to: &str, count: usize, top_k: usize, word: &str| {
        let e = upcycle(&dir(from), &dir(to), &ExpertPlan::copies(count, top_k), 0).err().unwrap();
        assert!(e.to_string().contains(word), "{e}");
    };
    refused("bert", "new", 0, 1, "count");
    refused("bert", "new", 5_000, 1, "count");
    refused("bert", "new", 2, 3, "top_k");
    refused("bert", "bert", 2, 1, "exists");
    refused("switch", "new", 2, 1, "experts already");
    upcycle(&dir("bert"), &dir("wide"), &PLAN, 0).unwrap();
    refused("wide", "new", 2, 1, "experts already");
    for (plan, word) in [
        (json!({"count": 0, "top_k": 1}), "count"),
        (json!({"count": 1_000_000_000, "top_k": 1}), "count"),
        (json!({"count": 3, "top_k": 4}), "top_k"),
        (json!({"count": 3, "top_k": 0}), "top_k"),
        (json!({"count": 3, "top_k": 1, "router": "x"}), "router"),
        (json!({"count": 4, "top_k": 1}), "expert_3"),
        (json!({"count": 2, "top_k": 1}), "expert_2"),
    ] {
        let doc = json!({"schema": 1, "experts": plan});
        std::fs::write(dir("wide").join("switch.json"), doc.to_string()).unwrap();
        let e = Opened::open(&dir("wide"), OpenOptions::default()).err().unwrap_or_else(|| panic!("{doc} is accepted"));
        assert!(e.to_string().contains(word), "{doc}: {e}");
    }
}
