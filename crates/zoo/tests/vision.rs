//! What single vision models promise beyond the laws: tasks of M3ViT, the bag of Activator, extreme arguments.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{batch, bits, far, flat, toy, toy_architecture, typed};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, write_folder};
use switchformer_nn::{
    Ctx, DType, Error, Input, Model, Output, Point, Rows, State, Taps, Trace, Weights, cost, init, run,
};
use switchformer_tensor::Tensor;
use switchformer_zoo::save::{json_bytes, published_tensors};
use switchformer_zoo::{OpenOptions, Opened, find};

fn config(name: &str, changes: Json) -> Json {
    let entry = find(name).unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    config
}

fn build(config: &Json) -> (Box<dyn Model>, Weights) {
    let w = Weights::seeded().trainable();
    let entry = find(config["model_type"].as_str().unwrap()).unwrap();
    (entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap(), w)
}

fn saved(config: &Json) -> SavedMap {
    let entry = find(config["model_type"].as_str().unwrap()).unwrap();
    published_tensors(entry, config["architectures"][0].as_str().unwrap(), &build(config).1.params()).unwrap()
}

fn open(config: &Json, tensors: &SavedMap) -> Result<Opened, Error> {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("model");
    written(&dir, config, tensors);
    Opened::open(&dir, OpenOptions::default())
}

fn task(n: usize) -> Point {
    Point::new().with("task", n)
}

fn answer(model: &dyn Model, point: &Point, input: &Input) -> (Output, Trace) {
    let (point, mut taps, mut trace) = (typed(point), Taps::none(), Trace::default());
    let out = run(model.trunk(), &[], &mut Ctx::new(&point, &mut taps, &mut trace), input).unwrap();
    (out, trace)
}

#[test]
fn sizes_that_the_reference_does_not_have_are_refused_when_they_are_opened() {
    for family in ["tnt", "m3vit"] {
        let config = config(family, json!({"img_size": [24, 22]}));
        let entry = find(family).unwrap();
        let e = entry.build(&ConfigMap::new(config).unwrap(), &Weights::seeded()).map(drop).unwrap_err();
        let says = ["img_size", "24x22", "does not divide into patches"];
        assert!(e.code() == "config.value" && says.iter().all(|s| e.to_string().contains(s)), "{family}: {e}");
    }
}

#[test]
fn a_task_touches_the_experts_that_its_gate_picks_and_no_others() {
    let config = config("m3vit", json!({"moe_experts": 24, "depth": 4}));
    let (model, _) = build(&config);
    let input = batch(model.as_ref(), 1);
    let mut picks = Vec::new();
    for point in [task(0), task(1)] {
        let (want, trace) = answer(model.as_ref(), &point, &input);
        // Names of the experts that ran, `blocks.<i>.mlp.experts.<e>.`.
        let ran = trace.decisions.iter().flat_map(|d| {
            let block = d.at.strip_suffix(".ffn").unwrap();
            let load = d.choice["load"].as_object().unwrap();
            load.keys().map(move |e| format!("{block}.mlp.experts.{e}.")).collect::<Vec<_>>()
        });
        let ran: BTreeSet<String> = ran.collect();
        let (broken, w) = build(&config);
        let idle = w.params().into_iter().filter(|p| {
            let name = &p.names[0].0;
            name.contains(".experts.") && !ran.iter().any(|r| name.starts_with(r))
        });
        let mut n = 0;
        for p in idle {
            p.var.set(&Tensor::full(f32::NAN, p.var.shape()).unwrap()).unwrap();
            n += 1;
        }
        assert!(n > 4 * 24, "{n} tensors of 2 x 24 experts are idle");
        assert_eq!(bits(&answer(broken.as_ref(), &point, &input).0), bits(&want), "{point}");
        picks.push(ran);
    }
    assert_ne!(picks[0], picks[1], "tasks pick their own experts");
}

#[test]
fn tasks_switch_without_a_trace() {
    let opened = Opened::random(config("m3vit", json!({})), OpenOptions::default()).unwrap();
    let input = batch(opened.model.as_ref(), 2);
    let at = |n: usize| opened.run(&task(n), &input).unwrap().0;
    let (parts, depth) = (at(0), at(1));
    assert_eq!(parts.get("logits").unwrap().dims(), [2, 3, 8, 12]);
    assert_eq!(depth.get("logits").unwrap().dims(), [2, 2, 8, 12]);
    assert_eq!(bits(&at(0)), bits(&parts));
    assert_eq!(bits(&at(1)), bits(&depth));
    assert_eq!(bits(&opened.run(&Point::new(), &input).unwrap().0), bits(&parts), "rest is the first task");
    let error = opened.run(&task(2), &input).unwrap_err().to_string();
    assert!(error.contains("no task 2") && error.contains("0..1"), "{error}");
}

#[test]
fn experts_cost_a_dense_block_and_the_gate() {
    // Four of sixteen experts as wide as the rows do the work of one network four times as wide.
    let config = Opened::preset("m3vit-small-nyud").unwrap();
    let model = find("m3vit").unwrap().build(&ConfigMap::new(config).unwrap(), &Weights::shapes_only()).unwrap();
    let rows = 1 + 30 * 40;
    let x = Tensor::hollow((rows, 384), DType::F32);
    for point in [Point::new(), task(1)] {
        let point = typed(&point);
        let cost = |block: usize| {
            let state = State::new(x.clone(), Rows::maps_behind(1, &[(30, 40)]).unwrap());
            cost::of(&point, |cx| model.trunk().block(cx, block, state)).unwrap()
        };
        let (dense, sparse) = (cost(0), cost(1));
        assert_eq!(sparse.macs, dense.macs + (rows * 16 * 384) as u64);
        assert!(sparse.bytes > 2 * dense.bytes);
    }
}

#[test]
fn stacked_experts_are_those_with_names() {
    let config = config("m3vit", json!({}));
    let named = saved(&config);
    let mut stacked = SavedMap::new();
    for (name, tensor) in &named {
        let Some((front, back)) = name.split_once(".experts.") else {
            stacked.insert(name.clone(), tensor.clone());
            continue;
        };
        let (expert, rest) = back.split_once('.').unwrap();
        if expert != "0" {
            continue;
        }
        let all = (0..4).map(|e| &named[&format!("{front}.experts.{e}.{rest}")].bytes);
        let mut whole = Saved::f32(&[4], &[]);
        whole.shape.extend(&tensor.shape);
        whole.bytes = all.flatten().copied().collect();
        stacked.insert(format!("{front}.experts.{rest}"), whole);
    }
    assert!(stacked.len() < named.len());
    let (a, b) = (open(&config, &named).unwrap(), open(&config, &stacked).unwrap());
    let input = batch(a.model.as_ref(), 2);
    let at = |o: &Opened| bits(&o.run(&task(1), &input).unwrap().0);
    assert_eq!(at(&a), at(&b));
    assert_eq!(a.n_params, b.n_params);

    let (name, _) = stacked.iter().find(|(n, _)| n.ends_with("experts.htoh4.bias")).unwrap();
    let refused = |shape: &[usize], n: usize| {
        let mut bad = stacked.clone();
        bad.insert(name.clone(), Saved::f32(shape, &vec![0.0; n]));
        open(&config, &bad).err().unwrap().to_string()
    };
    assert!(refused(&[], 1).contains("htoh4.bias"));
    assert!(refused(&[0, 16], 0).contains("htoh4.bias"));
    assert!(refused(&[5000, 1], 5000).contains("4096"));
    assert!(refused(&[3, 16], 48).contains("experts.3.htoh4.bias"));
}

#[test]
fn unsupported_arguments_of_m3vit_are_named() {
    for (changes, word) in [
        (json!({"moe_gate_type": "noisy"}), "moe_gate_type"),
        (json!({"distilled": true}), "distilled"),
        (json!({"world_size": 2}), "world_size"),
        (json!({"sem_force": true}), "sem_force"),
        (json!({"gate_task_specific_dim": 4}), "gate_task_specific_dim"),
        (json!({"gate_dim": 16}), "gate_dim"),
        (json!({"tasks": ["parts"], "task_channels": [3]}), "tasks"),
        (json!({"tasks": ["parts", "a.b"]}), "tasks"),
        (json!({"task_channels": [3]}), "task_channels"),
        (json!({"regu_experts_fromtask": true}), "regu_experts_fromtask"),
        (json!({"moe_top_k": 9}), "moe_top_k"),
    ] {
        let error = Opened::random(config("m3vit", changes.clone()), OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains(word), "{changes}: {error}");
    }
}

#[test]
fn activator_sees_a_bag_of_patches() {
    let opened = Opened::random(config("activator", json!({})), OpenOptions::default()).unwrap();
    let pixels = Tensor::from_vec(init::seeded("bag", &[256, 1]), (1, 1, 16, 16)).unwrap();
    // Rows of patches in another order.
    let moved: Vec<Tensor> = [2, 0, 3, 1].iter().map(|p| pixels.narrow(2, 4 * p, 4).unwrap()).collect();
    let moved = Tensor::cat(&moved, 2).unwrap();
    let logits = |p: &Tensor| {
        let (out, _) = opened.run(&Point::new(), &Input::pixel_values(p.clone())).unwrap();
        flat(out.get("logits").unwrap())
    };
    assert!(far(&logits(&moved), &logits(&pixels)) < 1e-6);
    let turned = pixels.t().unwrap().contiguous().unwrap();
    assert!(far(&logits(&turned), &logits(&pixels)) > 1e-3, "pixels within a patch have a place");
}

fn written(dir: &std::path::Path, config: &Json, tensors: &SavedMap) {
    let files = [("config.json", json_bytes(config)), ("model.safetensors", safetensors_bytes(tensors).unwrap())];
    write_folder(dir, &files).unwrap();
}

#[test]
fn unsupported_arguments_of_fmvit_are_named() {
    for (changes, word) in [
        (json!({"mixtures": "some"}), "last, all, none"),
        (json!({"frequencies": "none"}), "mixed, low, high"),
        (json!({"group_width": 3}), "group_width"),
        (json!({"mlp_ratio": 3.3}), "mlp_ratio"),
        (json!({"head_dim": 3}), "head_dim"),
        (json!({"embed_dims": [6, 16]}), "embed_dims"),
    ] {
        let error = Opened::random(config("fmvit", changes.clone()), OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains(word), "{changes}: {error}");
    }
}

#[test]
fn extreme_arguments_are_refused_or_run() {
    let cases = [
        ("swin", json!({"use_absolute_embeddings": true, "image_size": 1, "patch_size": 4}), "smaller than a patch"),
        ("crossformer", json!({"ape": true, "img_size": 1}), "smaller than a patch"),
        ("swin", json!({"pad_after_shift": true, "always_partition": true, "window_size": 256}), "window of 256x256"),
        ("swin", json!({"window_size": 256}), "window of 256x256"),
        ("swinv2", json!({"qk_scale": 0.5}), "qk_scale"),
        ("crossvit", json!({"mlp_ratio": []}), "one number per branch"),
        ("crossvit", json!({"depth": [[1, 1, 65]]}), "0 to 64 steps"),
        ("tnt", json!({"global_pool": "max"}), "token, avg"),
        // A feed-forward without hidden channels.
        ("smt", json!({"mlp_ratios": [0.01, 0.01, 0.01]}), ""),
        ("pvt_v2", json!({"mlp_ratios": [0.01, 0.01]}), ""),
        ("crossvit", json!({"mlp_ratio": [0.01, 0.01]}), ""),
    ];
    for (name, changes, want) in cases {
        let said = format!("{name} {changes}");
        let run = || -> Result<(), Error> {
            let opened = Opened::random(config(name, changes), OpenOptions::default())?;
            opened.run(&Point::new(), &batch(opened.model.as_ref(), 1)).map(drop)
        };
        match run() {
            Ok(()) => assert_eq!(want, "", "{said}"),
            Err(e) => assert!(!want.is_empty() && e.to_string().contains(want), "{said}: {e}"),
        }
    }
}

#[test]
fn a_task_among_the_experts_is_the_task() {
    // As points were written before they had an axis for it; with a gate for each task, a vector beside one, and one for all.
    let vector = json!({"multi_gate": false, "gate_task_specific_dim": 4});
    for (extra, gates) in [(json!({}), 2), (vector, 2), (json!({"multi_gate": false}), 1)] {
        let opened = Opened::random(config("m3vit", extra), OpenOptions::default()).unwrap();
        let input = batch(opened.model.as_ref(), 2);
        let at =
            |point: Json| opened.run(&Point::parse(&point.to_string()).unwrap(), &input).map(|(out, _)| bits(&out));
        let second = at(json!({"task": 1})).unwrap();
        assert_ne!(second, at(json!({})).unwrap());
        let top = at(json!({"task": 1, "experts": {"router": "learned", "top_k": 2}})).unwrap();
        assert_ne!(top, second);
        let former = at(json!({"experts": {"router": "task", "task": 1}}));
        match gates {
            2 => {
                assert_eq!(former.unwrap(), second);
                assert_eq!(at(json!({"experts": {"router": "task", "task": 1, "top_k": 2}})).unwrap(), top);
            }
            // One gate for all tasks never was one of the second.
            _ => assert!(former.unwrap_err().to_string().contains("no gate for task 1")),
        }
    }
}
