//! The fine print: faults that were put into the code on purpose and that no law noticed, each with its test.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{batch, bits, classifies, flat, plan, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_nn::init::Stream;
use switchformer_nn::ops::{nested_codes, nested_view};
use switchformer_nn::staged::lens;
use switchformer_nn::{Error, Input, Point, Taps, Trace};
use switchformer_switch::leaf::bits::VIEWS;
use switchformer_tensor::{Tensor, Var};
use switchformer_zoo::{Entry, OpenOptions, Opened, ZOO};

/// The classifier of an entry with exit heads after the given depths.
fn with_exits(entry: &Entry, depths: &[usize]) -> Opened {
    Opened::random_with(toy(entry, &toy_architecture(entry)), plan(false, depths)).unwrap()
}

fn plain(entry: &Entry) -> Opened {
    Opened::random(toy(entry, &toy_architecture(entry)), OpenOptions::default()).unwrap()
}

/// Classifiers that may drop rows.
fn prunable() -> impl Iterator<Item = &'static Entry> {
    ZOO.iter().copied().filter(|e| plain(e).switches.host().prefix_rows.is_some())
}

fn point(text: Json) -> Point {
    Point::parse(&text.to_string()).unwrap()
}

fn members_at(trace: &Trace, switch: &str, at: &str) -> Vec<u32> {
    trace.decisions.iter().filter(|d| d.switch == switch && d.at == at).filter_map(|d| d.member).collect()
}

#[test]
fn rows_that_stay_in_front_are_all_that_are_not_patches() {
    let mut models = 0;
    for entry in prunable() {
        let opened = plain(entry);
        let Ok((_, size, patch)) = opened.model.spec().image_size() else { continue };
        let patches = (size.0 / patch.0) * (size.1 / patch.1);
        let len = lens(opened.model.trunk(), &batch(opened.model.as_ref(), 1)).unwrap()[0];
        assert_eq!(opened.switches.host().prefix_rows, Some(len - patches), "{}", entry.name);
        models += 1;
    }
    assert!(models >= 2, "{models}");
}

#[test]
fn choices_name_the_member_and_not_its_place_among_those_who_stayed() {
    for entry in prunable() {
        let opened = with_exits(entry, &[1]);
        let input = batch(opened.model.as_ref(), 8);
        let (_, all) = opened.run(&point(json!({"exit": {"confidence": 0.0}})), &input).unwrap();
        let sure: Vec<f64> = all.decisions.iter().map(|d| d.choice["confidence"].as_f64().unwrap()).collect();
        // Member 0 leaves, so everybody behind moves up by one place at least.
        let threshold = sure[0].min(sure.iter().sum::<f64>() / 8.0);
        let tokens = json!({"method": "class-attention", "keep": 0.5, "after": [2]});
        let p = point(json!({"exit": {"confidence": threshold - 1e-6}, "tokens": tokens}));
        let (_, trace) = opened.run(&p, &input).unwrap();
        let gone: BTreeSet<u32> = members_at(&trace, "exit", "blocks.0").into_iter().collect();
        let pruned = members_at(&trace, "tokens", "blocks.1");
        assert!(gone.contains(&0) && !pruned.is_empty(), "{}: {gone:?} left of {sure:?}", entry.name);
        assert_eq!(pruned, (0..8).filter(|m| !gone.contains(m)).collect::<Vec<u32>>(), "{}", entry.name);
    }
}

#[test]
fn every_depth_answers_with_its_own_head() {
    for entry in ZOO {
        if !classifies(entry, plain(entry).model.trunk()) {
            continue;
        }
        let blocks = plain(entry).model.trunk().n_blocks();
        let depths: Vec<usize> = (1..blocks).collect();
        let all = with_exits(entry, &depths);
        let input = batch(all.model.as_ref(), 3);
        for k in depths {
            let p = Point::new().with("exit", k);
            let own = with_exits(entry, &[k]).run(&p, &input).unwrap().0;
            assert_eq!(bits(&all.run(&p, &input).unwrap().0), bits(&own), "{} after {k}", entry.name);
            // Without a trained head there the model's own answers.
            let other: Vec<usize> = (1..blocks).filter(|d| *d != k).collect();
            let (out, trace) = with_exits(entry, &other).run(&p, &input).unwrap();
            assert_eq!(bits(&out), bits(&plain(entry).run(&p, &input).unwrap().0), "{} after {k}", entry.name);
            assert_eq!(trace.decisions[0].choice["own_head"], json!(true));
        }
    }
}

#[test]
fn random_choices_of_equal_size_differ_from_place_to_place() {
    for entry in prunable() {
        let opened = plain(entry);
        let input = batch(opened.model.as_ref(), 1);
        let kept = |after: usize| {
            let tokens = json!({"method": "random", "keep": 0.5, "after": [after]});
            let (_, trace) = opened.run(&point(json!({"tokens": tokens})), &input).unwrap();
            trace.decisions[0].choice.clone()
        };
        assert_eq!(kept(1)["kept"].as_array().unwrap().len(), kept(2)["kept"].as_array().unwrap().len());
        assert_ne!(kept(1), kept(2), "{}", entry.name);
    }
}

#[test]
fn roberta_positions_do_not_count_padding_ids_among_valid_tokens() {
    let opened = plain(switchformer_zoo::find("roberta").unwrap());
    let pad = 1;
    let stem = |ids: &[u32]| -> Vec<Vec<f32>> {
        let mut taps = Taps::named(["stem"]);
        opened.run_tapped(&Point::new(), &Input::tokens(&[ids]).unwrap(), &mut taps).unwrap();
        taps.get("stem").unwrap()[0].to_vec2().unwrap()
    };
    let (mixed, without, alone) = (stem(&[7, pad, 9]), stem(&[7, 9]), stem(&[pad]));
    assert_eq!(mixed[0], without[0]);
    assert_eq!(mixed[2], without[1], "9 is the second word");
    assert_eq!(mixed[1], alone[0], "a padding id sits at the padding position wherever it stands");
    assert_ne!(without[0], stem(&[9, 7])[1]);
}

/// A matrix and row scales of which some weights lie outside the 8-bit range on both sides.
fn matrix() -> (Vec<f32>, Vec<f32>, usize) {
    let mut stream = Stream::named("fine print");
    let (rows, inner) = (3, 40);
    let w: Vec<f32> = (0..rows * inner).map(|_| 2.0 * stream.unit() - 1.0).collect();
    (w, vec![0.005, 0.0061, 0.02], inner)
}

#[test]
fn the_view_in_training_is_the_view_of_the_stored_integers() {
    let (w, s, inner) = matrix();
    let w = Tensor::from_vec(w, (s.len(), inner)).unwrap();
    let s = Tensor::from_vec(s.clone(), s.len()).unwrap();
    for b in VIEWS {
        let stored = nested_codes(&w, &s).unwrap().dense(b).unwrap();
        assert_eq!(flat(&nested_view(&w, &s, b).unwrap()), flat(&stored), "{b} bits");
    }
}

/// With the rounding error of every weight frozen, the view is `s (clip(w / s) + error)`, which has slopes: those are
/// the straight-through and LSQ gradients by definition.
#[test]
fn gradients_of_the_view_are_slopes_at_frozen_rounding() {
    let (w, s, inner) = matrix();
    let clip = |v: f64| v.clamp(-128.0, 127.0);
    let mut stream = Stream::named("probe");
    let probe: Vec<f32> = w.iter().map(|_| 2.0 * stream.unit() - 1.0).collect();
    for b in VIEWS {
        let var = |v: &[f32], dims: &[usize]| Var::from_tensor(&Tensor::from_vec(v.to_vec(), dims).unwrap()).unwrap();
        let (wv, sv) = (var(&w, &[s.len(), inner]), var(&s, &[s.len()]));
        let view = nested_view(wv.as_tensor(), sv.as_tensor(), b).unwrap();
        let weights = Tensor::from_vec(probe.clone(), view.shape()).unwrap();
        let grads = (&view * weights).unwrap().sum_all().unwrap().backward().unwrap();
        let (dw, ds) = (flat(grads.get(wv.as_tensor()).unwrap()), flat(grads.get(sv.as_tensor()).unwrap()));

        let view = flat(&view);
        let frozen = |i: usize, weight: f64, scale: f64| {
            let (w0, s0) = (f64::from(w[i]), f64::from(s[i / inner]));
            let error = f64::from(view[i]) / s0 - clip(w0 / s0);
            scale * (clip(weight / scale) + error) * f64::from(probe[i])
        };
        let h = 1e-7;
        let mut outside = 0;
        for (r, scale) in s.iter().map(|s| f64::from(*s)).enumerate() {
            let mut slope = 0.0;
            for i in r * inner..(r + 1) * inner {
                let x = f64::from(w[i]);
                let by_weight = (frozen(i, x + h, scale) - frozen(i, x - h, scale)) / (2.0 * h);
                assert!((by_weight - f64::from(dw[i])).abs() < 1e-4, "{b} bits: weight {i}: {} / {by_weight}", dw[i]);
                slope += (frozen(i, x, scale + h) - frozen(i, x, scale - h)) / (2.0 * h);
                outside += usize::from(dw[i] == 0.0);
            }
            let off = (slope - f64::from(ds[r])).abs() / slope.abs().max(1.0);
            assert!(off < 1e-3, "{b} bits: scale {r}: {} / {slope}", ds[r]);
        }
        assert!(outside > 0 && outside < w.len(), "{outside} weights are clipped");
    }
}

#[test]
fn albert_with_several_sets_of_weights_is_refused_by_name() {
    let entry = switchformer_zoo::find("albert").unwrap();
    for field in ["num_hidden_groups", "inner_group_num"] {
        let mut config = toy(entry, &toy_architecture(entry));
        config[field] = json!(2);
        let error = Opened::random(config, OpenOptions::default()).err().unwrap();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(field), "{error}");
    }
}
