//! Head pruning against its reference, its order, its work, and what it refuses.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use common::{batch, bits, everything, far, flat, prunes, publish, tensor, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Ctx, Grads, Input, Output, ParamKind, Point, Taps, Trace, Weights, record, staged};
use switchformer_switch::{Plan, Resolved};
use switchformer_tensor::{DType, Tensor};
use switchformer_zoo::assemble::{Assembled, Source, assemble};
use switchformer_zoo::{OpenOptions, Opened, Trait, ZOO, find};

/// Largest difference to the reference, relative to its largest value.
const TOLERANCE: f32 = 2e-6;

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/head_pruning")
}

/// A case: its description and its numbers.
fn case(name: &str) -> (Json, HashMap<String, Tensor>) {
    let doc = serde_json::from_slice(&std::fs::read(dir().join(format!("{name}.json"))).unwrap()).unwrap();
    (doc, switchformer_tensor::safetensors::load(dir().join(format!("{name}.safetensors"))).unwrap())
}

/// The model of a case with an order of heads in its plan, or none.
fn assembled(doc: &Json, order: Option<&Json>) -> switchformer_nn::Result<Assembled> {
    let config = ConfigMap::new(doc["config"].clone()).unwrap();
    let entry = find(&config.text("model_type", "").unwrap()).unwrap();
    let tensors = doc["tensors"].as_object().unwrap().iter();
    let seeded = tensors.map(|(n, s)| (n.clone(), serde_json::from_value(s.clone()).unwrap(), n.clone()));
    let weights = Weights::manifest(seeded, &entry.names).unwrap().trainable();
    let mut plan = Plan::default();
    plan.switches.extend(order.map(|order| ("heads".to_string(), json!({"order": order}))));
    assemble(entry, &config, &plan, Source::plain(weights))
}

/// Outputs and trace of a pass in training at a share of the heads.
fn run(made: &Assembled, keep: f64, input: &Input) -> (Output, Trace) {
    let point = Point::new().with("heads", json!({"keep": keep}));
    let Resolved { point, rules } = made.switches.resolve(&point).unwrap();
    let (mut taps, mut trace) = (Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.train = true;
    let out = staged::run(made.model.trunk(), &rules, &mut cx, input).unwrap();
    (out, trace)
}

/// The heads that each attention kept.
fn kept(trace: &Trace) -> Json {
    let own = trace.decisions.iter().filter(|d| d.switch == "heads");
    own.map(|d| d.choice["kept"].clone()).collect()
}

/// Logits of members, or of packed rows where each has its own.
fn logits(out: &Output) -> &Tensor {
    out.get_rows("logits").map_or_else(|| out.get("logits").unwrap(), |(rows, _)| rows)
}

fn loss(out: &Output, labels: &Tensor) -> Tensor {
    let logits = logits(out);
    let labels = labels.to_dtype(DType::U32).unwrap().unsqueeze(1).unwrap();
    let log = logits.broadcast_sub(&logits.log_sum_exp(1).unwrap().unsqueeze(1).unwrap()).unwrap();
    log.gather(&labels, 1).unwrap().mean_all().unwrap().neg().unwrap()
}

#[test]
fn fewer_heads_give_the_logits_and_gradients_of_the_reference() {
    for name in ["bert", "mpnet", "t5"] {
        let (doc, tensors) = case(name);
        let made = assembled(&doc, Some(&doc["order"])).unwrap();
        let given = ["input_ids", "attention_mask", "token_type_ids", "decoder_input_ids"].iter();
        let given = given.filter_map(|n| Some((n.to_string(), tensors.get(&format!("in.{n}"))?.clone())));
        let input = Input::from_tensors(&given.collect(), &made.model.spec()).unwrap();
        let names = find(name).unwrap().names.among(doc["tensors"].as_object().unwrap().keys().map(String::as_str));
        for (keep, heads) in doc["kept"].as_object().unwrap() {
            let of = |what: &str| &tensors[&format!("out.{keep}.{what}")];
            let pass = || -> Result<_, ()> {
                let (out, trace) = run(&made, keep.parse().unwrap(), &input);
                Ok((loss(&out, &tensors["in.labels"]), out, trace))
            };
            let ((total, out, trace), tape) = record(pass).unwrap();
            assert_eq!(kept(&trace), *heads, "{name} at {keep}");
            let off = far(&flat(logits(&out)), &flat(of("logits")));
            assert!(off <= TOLERANCE, "{name} at {keep}: logits differ by {off:e}");
            let off = far(&[total.to_scalar().unwrap()], &flat(of("loss")));
            assert!(off <= TOLERANCE, "{name} at {keep}: the loss differs by {off:e}");
            if keep != "0.5" {
                continue;
            }
            let graph = Grads::of(&pass().unwrap().0).unwrap();
            for (grads, which) in [(tape.backward(&total).unwrap(), "tape"), (graph, "graph")] {
                let mut compared = 0;
                for p in made.source.model.params() {
                    let mut from = 0;
                    for (own, rows) in &p.names {
                        let key = tensors.keys().filter_map(|k| k.strip_prefix("grad."));
                        if let Some(key) = key.into_iter().find(|k| names.canonical(k) == *own) {
                            let got = grads.get(p.var.as_tensor()).unwrap().narrow(0, from, *rows).unwrap();
                            let off = far(&flat(&got), &flat(&tensors[&format!("grad.{key}")]));
                            assert!(off <= 1e-5, "{name}: {key} differs by {off:e} on the {which}");
                            compared += 1;
                        }
                        from += rows;
                    }
                }
                assert_eq!(compared, tensors.keys().filter(|k| k.starts_with("grad.")).count(), "{name}");
            }
        }
    }
}

#[test]
fn without_an_order_norms_of_weights_decide() {
    for name in ["bert", "mpnet", "t5"] {
        let (doc, _) = case(name);
        let made = assembled(&doc, None).unwrap();
        let input = batch(made.model.as_ref(), 2);
        for (keep, heads) in doc["derived"].as_object().unwrap() {
            assert_eq!(kept(&run(&made, keep.parse().unwrap(), &input).1), *heads, "{name} at {keep}");
        }
    }
}

#[test]
fn an_order_that_does_not_fit_is_refused() {
    let (doc, _) = case("bert");
    for (order, words) in [
        (json!([[0, 1, 2, 3]]), ["1 lists", "2 attentions"]),
        (json!([[0, 1, 2, 3], [0, 1, 2]]), ["heads 0 to 3", "layer.1"]),
        (json!([[0, 1, 2, 4], [0, 1, 2, 3]]), ["heads 0 to 3", "layer.0"]),
    ] {
        let e = assembled(&doc, Some(&order)).err().unwrap().to_string();
        assert!(words.iter().all(|w| e.contains(w)), "{order}: {e}");
    }
}

/// An order needs no tensors beside those of the model.
#[test]
fn a_folder_with_an_order_opens() {
    let temp = tempfile::tempdir().unwrap();
    let entry = find("bert").unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    publish(temp.path(), entry, config.clone());
    let mut plan = Plan::default();
    plan.switches.insert("heads".into(), json!({"order": [[3, 2, 1, 0], [0, 1, 2, 3], [2, 0, 1, 3]]}));
    let written = plan.write(config.as_object_mut().unwrap()).unwrap();
    std::fs::write(temp.path().join("config.json"), config.to_string()).unwrap();
    std::fs::write(temp.path().join("switch.json"), written.to_string()).unwrap();
    let opened = Opened::open(temp.path(), OpenOptions::default()).unwrap();
    assert_eq!(opened.plan, plan);
    let point = Point::new().with("heads", json!({"keep": 0.5}));
    let (_, trace) = opened.run(&point, &batch(opened.model.as_ref(), 2)).unwrap();
    assert_eq!(kept(&trace), json!([[2, 3], [0, 1], [0, 2]]));
}

#[test]
fn half_of_the_heads_are_half_of_the_work() {
    let entry = find("bert").unwrap();
    let opened = Opened::random(toy(entry, &toy_architecture(entry)), OpenOptions::default()).unwrap();
    let (dim, depth) = (32u64, 3);
    let input = Input::tokens(&[vec![5u32; 7], vec![5; 3]]).unwrap();
    let at = |keep: f64| opened.cost(&Point::new().with("heads", json!({"keep": keep})), &input).unwrap();
    let (rows, pairs) = (10, 7 * 7 + 3 * 3);
    let attention = depth * (4 * rows * dim * dim + 2 * pairs * dim);
    assert_eq!(at(1.0).macs - at(0.5).macs, attention / 2);
    // Of each attention: three matrices and an output matrix, and the biases of three.
    assert_eq!(at(1.0).bytes - at(0.5).bytes, depth * 4 * (4 * dim * dim + 3 * dim) / 2);
}

/// The same where a decoder looks at what was read: its heads are left out at both places.
#[test]
fn half_of_the_heads_of_an_encoder_decoder_are_half_of_its_attention() {
    let entry = find("t5").unwrap();
    let opened = Opened::random(toy(entry, &toy_architecture(entry)), OpenOptions::default()).unwrap();
    let texts = |lens: [usize; 2]| Input::tokens(&lens.map(|n| vec![5u32; n])).unwrap();
    let input = Input::pair(texts([7, 3]), texts([5, 2])).unwrap();
    let at = |keep: f64| opened.cost(&Point::new().with("heads", json!({"keep": keep})), &input).unwrap();
    // Two members: seven and three rows are read, five and two written, by two blocks each.
    let (dim, read, written) = (32, 7 + 3, 5 + 2);
    let own = |rows: u64, pairs: u64| 4 * rows * dim * dim + 2 * pairs * dim;
    let cross = 2 * (read + written) * dim * dim + 2 * (5 * 7 + 2 * 3) * dim;
    let attention = 2 * (own(read, 7 * 7 + 3 * 3) + own(written, 5 * 5 + 2 * 2) + cross);
    assert_eq!(at(1.0).macs - at(0.5).macs, attention / 2);
    // Of six attentions: four matrices each.
    assert_eq!(at(1.0).bytes - at(0.5).bytes, 6 * 4 * 4 * dim * dim / 2);
}

/// More choices than an attention holds at once, there and back.
#[test]
fn every_choice_gives_its_answer_again() {
    let config = json!({"model_type": "bert", "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 8, "intermediate_size": 64, "max_position_embeddings": 32});
    let opened = Opened::random(config, OpenOptions::default()).unwrap();
    let input = batch(opened.model.as_ref(), 3);
    let at = |keep: usize| {
        let point = Point::new().with("heads", json!({"keep": keep as f64 / 8.0}));
        bits(&opened.run(&point, &input).unwrap().0)
    };
    let first: Vec<_> = (1..=8).map(at).collect();
    assert!((1..8).all(|i| first[i] != first[i - 1]));
    (1..=8).rev().for_each(|keep| assert_eq!(at(keep), first[keep - 1], "{keep} of 8 heads"));
}

/// Who can leave heads out, nested or not.
#[test]
fn every_family_on_the_leaf_takes_part_and_the_others_say_why_not() {
    for (entry, architecture) in everything() {
        let opened = Opened::random(toy(entry, architecture), OpenOptions::default()).unwrap();
        let axis = opened.switches.axes().into_iter().find(|a| a.name == "heads").unwrap();
        let why = match entry.name {
            _ if entry.is(Trait::NoAttention) => "no attention that offers its heads",
            "fmvit" => "cannot be divided",
            _ => "keep",
        };
        assert_eq!(axis.available, why == "keep", "{architecture}: {}", axis.values);
        assert!(axis.values.contains(why), "{architecture}: {}", axis.values);
        if entry.is(Trait::ConvolutionsAlone) {
            continue;
        }
        let nested = Opened::random(toy(entry, architecture), OpenOptions { nested: true }).unwrap();
        assert_eq!(prunes(&nested), axis.available, "{architecture}, nested");
    }
}

/// Heads that stay learn as before, and those that went get no gradient.
#[test]
fn heads_that_stay_learn_and_the_others_do_not() {
    for entry in ZOO {
        let source = Source::plain(Weights::seeded().trainable());
        let config = ConfigMap::new(toy(entry, &toy_architecture(entry))).unwrap();
        let made = assemble(entry, &config, &Plan::default(), source).unwrap();
        let axis = made.switches.axes().into_iter().find(|a| a.name == "heads").unwrap();
        if !axis.available {
            continue;
        }
        let input = batch(made.model.as_ref(), 3);
        let pass = || -> Result<Tensor, ()> {
            let out = run(&made, 0.5, &input).0;
            let squares = out.values().values().map(|v| tensor(v).sqr().unwrap().sum_all().unwrap());
            Ok(squares.reduce(|a, b| (a + b).unwrap()).unwrap())
        };
        let (total, tape) = record(pass).unwrap();
        let (grads, graph) = (tape.backward(&total).unwrap(), Grads::of(&pass().unwrap()).unwrap());
        let (mut silent, mut params) = (0, made.source.model.params());
        params.retain(|p| p.kind != ParamKind::Buffer);
        for p in &params {
            let at = format!("{}: {:?}", entry.name, p.names);
            // Heads of other tasks are not read at all.
            let Some(g) = grads.get(p.var.as_tensor()).map(flat) else { continue };
            assert!(g.iter().all(|v| v.is_finite()) && g.iter().any(|v| *v != 0.0), "{at}");
            silent += g.iter().filter(|v| **v == 0.0).count();
            let off = far(&g, &flat(graph.get(p.var.as_tensor()).unwrap()));
            assert!(off <= 1e-4, "{at}: the tape is {off:e} off the graph's gradient");
        }
        assert!(silent > 0, "{}: heads that went have gradients", entry.name);
    }
}
