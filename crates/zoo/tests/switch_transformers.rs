//! What is Switch Transformer's own: which blocks are sparse, capacity, losses of the routers, refusals.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{toy, toy_architecture, values};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Ctx, Error, Input, Point, Taps, Trace, Weights, staged};
use switchformer_zoo::{OpenOptions, Opened, find};

fn golden(name: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/switch_transformers/generate").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn ids(v: &Json) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

fn changed(changes: Json) -> Json {
    let entry = find("switch_transformers").unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    config
}

/// Blocks of the whole chain that have experts.
fn sparse_blocks(changes: Json) -> Vec<String> {
    let opened = Opened::random(changed(changes), OpenOptions::default()).unwrap();
    let text = |t: &[u32]| Input::tokens(&[t]).unwrap();
    let (_, trace) = opened.run(&Point::new(), &Input::pair(text(&[5, 6, 7]), text(&[0, 8])).unwrap()).unwrap();
    trace.decisions.iter().map(|d| d.at.clone()).collect()
}

#[test]
fn the_steps_say_which_blocks_are_sparse() {
    let at = |blocks: &[usize]| blocks.iter().map(|b| format!("blocks.{b}.ffn")).collect::<Vec<_>>();
    let sizes = |more: Json| {
        let mut all = json!({"num_layers": 6, "num_decoder_layers": 4, "num_sparse_encoder_layers": 3,
            "num_sparse_decoder_layers": 4});
        more.as_object().unwrap().iter().for_each(|(k, v)| all[k] = v.clone());
        all
    };
    // Step 2 in the encoder, step 1 in the decoder.
    assert_eq!(sparse_blocks(sizes(json!({}))), at(&[1, 3, 5, 6, 7, 8, 9]));
    // A step in the config wins, as in the decoder of switch-c-2048; none asked for leaves block 1.
    assert_eq!(sparse_blocks(sizes(json!({"decoder_sparse_step": 0, "encoder_sparse_step": 3}))), at(&[1, 4]));
    assert_eq!(sparse_blocks(sizes(json!({"num_sparse_encoder_layers": 0}))), at(&[1, 6, 7, 8, 9]));
}

#[test]
fn router_losses_are_those_of_the_reference() {
    let doc = golden("losses.json");
    let config = ConfigMap::new(doc["config"].clone()).unwrap();
    let w = Weights::seeded();
    let model = find("switch_transformers").unwrap().build(&config, &w).unwrap();
    let text = |v: &Json| Input::tokens(&[ids(v)]).unwrap();
    let input = Input::pair(text(&doc["source"]), text(&doc["target"])).unwrap();
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.train = true;
    staged::run(model.trunk(), &[], &mut cx, &input).unwrap();
    let want = doc["losses"].as_array().unwrap();
    assert_eq!((cx.aux.len(), want.len()), (8, 4));
    for (i, aux) in cx.aux.iter().enumerate() {
        let (got, want) = (aux.value.to_scalar::<f32>().unwrap(), want[i / 2][aux.kind].as_f64().unwrap());
        assert!((f64::from(got) - want).abs() < 1e-5, "{} {}: {got} against {want}", aux.at, aux.kind);
        assert_eq!(aux.weight, 0.001);
    }
}

#[test]
fn a_capacity_that_is_never_reached_changes_nothing() {
    let opened = Opened::random(changed(json!({})), OpenOptions::default()).unwrap();
    let text = |t: &[u32]| Input::tokens(&[t]).unwrap();
    let input = Input::pair(text(&[5, 6, 7, 8, 9, 10]), text(&[0, 8, 9])).unwrap();
    let at = |c: usize| {
        let p = Point::new().with("experts", json!({"router": "learned", "capacity": c}));
        values(&opened.run(&p, &input).unwrap().0)
    };
    let plain = values(&opened.run(&Point::new(), &input).unwrap().0);
    assert_eq!(at(6), plain);
    assert_ne!(at(1), plain);
    assert!(at(0).values().flatten().all(|v| v.is_finite()));
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, value) in [
        ("is_gated_act", json!(true)),
        ("router_type", json!("experts_masked")),
        ("num_selected_experts", json!(2)),
        ("num_experts", json!(0)),
        ("num_experts", json!(4097)),
        ("router_jitter_noise", json!(2)),
        ("dense_act_fn", json!("mish")),
        ("num_sparse_encoder_layers", json!(-1)),
        ("encoder_sparse_step", json!("two")),
    ] {
        let e = Opened::random(changed(json!({field: value})), OpenOptions::default()).err();
        let e = e.unwrap_or_else(|| panic!("{field} = {value} is accepted"));
        assert!(matches!(e, Error::Config { .. } | Error::Unsupported { .. }), "{e}");
        assert!(e.to_string().contains(field), "{field}: {e}");
    }
}
