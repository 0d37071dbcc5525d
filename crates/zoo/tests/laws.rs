//! Properties that every model and every switch satisfies, checked at toy sizes over the whole registry.

#![allow(clippy::unwrap_used)]

mod common;
#[path = "laws/refusals.rs"]
mod refusals;

use std::path::Path;

use common::{
    batch, bits, classifies, distance, everything, far, has_heads, mixed_lens, offer, pair_sequences, plan, prunes,
    sequences, singles, task_count, toy, toy_architecture, values, views,
};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::ops::{NestedWeight, nested_codes};
use switchformer_nn::staged::lens;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, write_folder};
use switchformer_nn::{Decision, Error, Folder, Input, Output, Param, ParamKind, Point, Taps, Trace, Weights};
use switchformer_switch::Sites;
use switchformer_switch::leaf::bits::{VIEWS, absmax_scale, group_scale};
use switchformer_tensor::Tensor;
use switchformer_zoo::save::{json_bytes, published_tensors};
use switchformer_zoo::timm::canonical;
use switchformer_zoo::{Entry, OpenOptions, Opened, Trait, ZOO};

/// Members of a batch.
const N: usize = 5;
/// What may change with the shape of a batch, relative to the largest value: the matrix product adds in an order that
/// depends on the number of rows.
const ROUNDING: f32 = 1e-5;
const METHODS: [&str; 3] = ["zero-tprune", "random", "class-attention"];

/// How a toy model is equipped.
#[derive(Clone, Copy, PartialEq)]
enum With {
    Nothing,
    Nested,
    /// Exit heads at every depth.
    Exits,
    All,
}

fn open(entry: &Entry, architecture: &str, with: With) -> Opened {
    let nested = matches!(with, With::Nested | With::All) && !entry.is(Trait::ConvolutionsAlone);
    let opened = Opened::random(toy(entry, architecture), OpenOptions { nested }).unwrap();
    // Where an answer is no row per member there are no exit heads; the rest of `All` still holds.
    if matches!(with, With::Exits | With::All) && classifies(entry, opened.model.trunk()) {
        let depths: Vec<usize> = (1..opened.model.trunk().n_blocks()).collect();
        return Opened::random_with(toy(entry, architecture), plan(nested, &depths)).unwrap();
    }
    opened
}

/// Every model under its toy architecture: a classifier, but for those with `Trait::NoExitHeads`. Where weights are nested,
/// those that have any to nest.
fn classifiers(with: With) -> impl Iterator<Item = (&'static Entry, Opened)> {
    let all = ZOO.iter().filter(move |e| with != With::Nested || !e.is(Trait::ConvolutionsAlone));
    all.map(move |e| (*e, open(e, &toy_architecture(e), with)))
}

fn run(opened: &Opened, point: &Point, input: &Input) -> (Output, Trace) {
    opened.run(point, input).unwrap_or_else(|e| panic!("{} at {point}: {e}", opened.entry.name))
}

fn point(text: Json) -> Point {
    Point::parse(&text.to_string()).unwrap()
}

/// Chances of the exits at depth 1, ascending: what a threshold can be chosen from.
fn first_confidences(opened: &Opened, input: &Input) -> Vec<f64> {
    let (_, trace) = run(opened, &point(json!({"exit": {"confidence": 0.0}})), input);
    let mut sure: Vec<f64> = trace.decisions.iter().map(|d| d.choice["confidence"].as_f64().unwrap()).collect();
    assert_eq!(sure.len(), input.n(), "{}: everybody is sure enough for 0", opened.entry.name);
    sure.sort_by(f64::total_cmp);
    sure
}

/// A confidence at which the surest members leave at the first exit and the others stay. It lies in the widest gap, so
/// that rounding decides nothing.
fn splitting_confidence(opened: &Opened, input: &Input) -> f64 {
    let sure = first_confidences(opened, input);
    let widest = sure.windows(2).max_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0]))).unwrap();
    assert!(widest[1] - widest[0] > 1e-3, "{}: {sure:?}", opened.entry.name);
    (widest[0] + widest[1]) / 2.0
}

/// Points that exercise everything this model offers, the default first.
fn points(opened: &Opened, input: &Input) -> Vec<Point> {
    let host = opened.switches.host();
    let mut list = vec![json!({})];
    list.extend((1..task_count(opened)).map(|t| json!({"task": t})));
    list.extend((host.first_exit..=host.n_blocks).map(|k| json!({"exit": k})));
    list.extend(views(opened).iter().map(|b| json!({"bits": b})));
    list.extend(views(opened).iter().map(|b| json!({"bits": b, "activation_bits": 8})));
    if host.prefix_rows.is_some() {
        for method in METHODS {
            list.push(json!({"tokens": {"method": method, "keep": 0.6, "after": [1, 2]}, "seed": 3}));
            list.push(json!({"tokens": {"method": method, "keep": 0.6}, "exit": 2}));
        }
    }
    if let Some(offer) = offer(opened) {
        list.extend((1..offer.gates).map(|t| json!({"experts": {"router": "task", "task": t}})));
        list.extend((1..task_count(opened)).map(|t| json!({"task": t, "experts": {"router": "learned", "top_k": 2}})));
        list.push(json!({"experts": {"router": "learned", "top_k": 2}}));
        list.push(json!({"experts": {"router": "fixed", "expert": 1}}));
        list.push(json!({"experts": {"router": "random", "grain": "token"}, "seed": 4}));
        list.push(json!({"experts": {"router": "random", "grain": "sentence"}, "seed": 4}));
        list.push(json!({"experts": {"router": "random", "grain": "batch"}}));
        list.push(json!({"experts": {"router": "all"}, "exit": host.n_blocks}));
    }
    if prunes(opened) {
        list.push(json!({"heads": {"keep": 0.5}}));
        list.push(json!({"heads": {"keep": 0.1}, "exit": host.n_blocks}));
        list.extend(views(opened).iter().map(|b| json!({"heads": {"keep": 0.5}, "bits": b, "activation_bits": 8})));
        if host.prefix_rows.is_some() {
            list.push(json!({"heads": {"keep": 0.5}, "tokens": {"method": "zero-tprune", "keep": 0.6, "after": [1]}}));
        }
    }
    if has_heads(opened) {
        let sure = splitting_confidence(opened, input);
        list.push(json!({"exit": {"confidence": sure}}));
        if host.prefix_rows.is_some() {
            let tokens = json!({"method": "zero-tprune", "keep": 0.5, "after": [1]});
            list.push(json!({"exit": {"confidence": sure}, "tokens": tokens}));
        }
    }
    list.into_iter().map(point).collect()
}

/// Decisions of one member (or of the whole batch), as if the member had been alone.
fn decisions_of(trace: &Trace, member: u32) -> Vec<Decision> {
    let own = trace.decisions.iter().filter(|d| d.member.is_none_or(|m| m == member));
    own.map(|d| Decision { member: d.member.map(|_| 0), ..d.clone() }).collect()
}

/// Equal decisions; a confidence or an entropy may differ by rounding.
fn same_decisions(a: &[Decision], b: &[Decision], what: &str) {
    let split = |d: &Decision| {
        let mut d = d.clone();
        let sure = d.choice.as_object_mut().and_then(|c| c.remove("confidence").or_else(|| c.remove("entropy")));
        (d, sure.and_then(|v| v.as_f64()).unwrap_or(0.0))
    };
    assert_eq!(a.len(), b.len(), "{what}: {a:?} against {b:?}");
    for ((a, sure), (b, sure_b)) in a.iter().map(split).zip(b.iter().map(split)) {
        assert_eq!(a, b, "{what}");
        assert!((sure - sure_b).abs() < f64::from(ROUNDING), "{what}: {sure} against {sure_b}");
    }
}

fn equal(a: &Output, b: &Output, what: &str) {
    assert!(!a.values().is_empty(), "{what}: no output");
    assert!(bits(a) == bits(b), "{what}: differs by {:e}", distance(a, b));
}

// ---------------------------------------------------------------------------------------------- the batch

/// Members as padded tensors with a mask, `filler` in the padding.
fn padded(members: &[Vec<u32>], filler: u32) -> Input {
    let width = members.iter().map(Vec::len).max().unwrap() + 2;
    let spread = |f: &dyn Fn(Option<&u32>) -> u32| -> Tensor {
        let all: Vec<u32> = members.iter().flat_map(|m| (0..width).map(|c| f(m.get(c)))).collect();
        Tensor::from_vec(all, (members.len(), width)).unwrap()
    };
    let (ids, mask) = (spread(&|id| id.copied().unwrap_or(filler)), spread(&|id| u32::from(id.is_some())));
    Input::padded(&ids, Some(&mask), None).unwrap()
}

#[test]
fn packed_equals_padded() {
    for (entry, architecture) in everything() {
        let opened = open(entry, architecture, With::Nothing);
        let pad = opened.config.as_map().get("pad_token_id").and_then(Json::as_u64).unwrap_or(0) as u32;
        let packed = |members: &[Vec<u32>]| Input::tokens(members).unwrap();
        // What stands in the padding must not matter either.
        for filler in [pad, 9] {
            let padded = |members: &[Vec<u32>]| padded(members, filler);
            let spec = opened.model.spec();
            let Ok((vocab, max_len)) = spec.text_size() else { continue };
            let [s, t] = pair_sequences(vocab, &mixed_lens(N, max_len));
            let (a, b) = if spec.takes("decoder_input_ids") {
                let pair = |s, t| Input::pair(s, t).unwrap();
                (pair(padded(&s), padded(&t)), pair(packed(&s), packed(&t)))
            } else {
                (padded(&s), packed(&s))
            };
            let run = |input: &Input| run(&opened, &Point::new(), input).0;
            equal(&run(&a), &run(&b), architecture);
        }
    }
}

#[test]
fn a_batch_equals_its_members_alone() {
    let all = everything().map(|(e, a)| open(e, a, With::Nothing));
    for opened in all.chain(classifiers(With::Nested).map(|c| c.1)).chain(classifiers(With::Exits).map(|c| c.1)) {
        let input = batch(opened.model.as_ref(), N);
        for point in points(&opened, &input) {
            let at = format!("{:?} at {point}", opened.config.architecture());
            let (whole, trace) = run(&opened, &point, &input);
            let alone: Vec<_> = singles(&input).iter().map(|one| run(&opened, &point, one)).collect();
            for (name, whole) in values(&whole) {
                // Members are in order, so the parts one after another are the whole.
                let parts: Vec<f32> = alone.iter().flat_map(|(o, _)| values(o).remove(&name).unwrap()).collect();
                let off = far(&whole, &parts);
                assert!(off < ROUNDING, "{at}: {name} depends on other samples ({off:e})");
            }
            assert!(!whole.values().is_empty(), "{at}: no output");
            assert_eq!(trace.macs, alone.iter().map(|(_, t)| t.macs).sum::<u64>(), "{at}: multiply-adds");
            for (m, (_, t)) in alone.iter().enumerate() {
                same_decisions(&decisions_of(&trace, m as u32), &t.decisions, &format!("{at}: member {m}"));
            }
        }
    }
}

#[test]
fn a_member_without_rows_never_gets_the_answer_of_its_neighbour() {
    for (entry, architecture) in everything() {
        let opened = open(entry, architecture, With::Nothing);
        // Of a pair both sides are empty at once, or the source alone.
        let inputs = |lens: &[usize]| -> Vec<Input> {
            let spec = opened.model.spec();
            let Ok((vocab, _)) = spec.text_size() else { return Vec::new() };
            let text = |lens: &[usize]| Input::tokens(&sequences(vocab, lens)).unwrap();
            if !spec.takes("decoder_input_ids") {
                return vec![text(lens)];
            }
            let pair = |t: &[usize]| Input::pair(text(lens), text(t)).unwrap();
            vec![pair(lens), pair(&vec![3; lens.len()])]
        };
        for (lens, kind) in [([0, 3], 0), ([3, 0], 0), ([0, 3], 1), ([3, 0], 1)] {
            let (Some(input), Some(one)) = (inputs(&lens).into_iter().nth(kind), inputs(&[3]).into_iter().nth(kind))
            else {
                continue;
            };
            let (alone, _) = run(&opened, &Point::new(), &one);
            match opened.run(&Point::new(), &input) {
                // Heads that answer per token have nothing to say about it.
                Ok((out, _)) => assert!(distance(&out, &alone) < ROUNDING, "{architecture}: {lens:?}"),
                Err(e) => {
                    assert!(matches!(e, Error::Input { .. }), "{architecture}: {e}");
                    let empty = lens.iter().position(|l| *l == 0).unwrap();
                    assert!(e.to_string().contains(&format!("member {empty}")), "{architecture}: {e}");
                }
            }
        }
    }
}

#[test]
fn a_batch_shrinks_when_members_leave() {
    for (entry, opened) in classifiers(With::Exits).filter(|(_, o)| has_heads(o)) {
        let input = batch(opened.model.as_ref(), N);
        let lens = lens(opened.model.trunk(), &input).unwrap();
        let blocks = opened.model.trunk().n_blocks();
        let rows_at = |point: &Point| -> (Vec<usize>, Trace) {
            let mut taps = Taps::named((0..blocks).map(|i| format!("blocks.{i}")));
            let (_, trace) = opened.run_tapped(point, &input, &mut taps).unwrap();
            let rows = |i: usize| taps.get(&format!("blocks.{i}")).map_or(0, |t| t[0].dims()[0]);
            ((0..blocks).map(rows).collect(), trace)
        };
        let (full, full_trace) = rows_at(&Point::new());
        assert_eq!(full, vec![lens.iter().sum::<usize>(); blocks], "{}", entry.name);

        let (rows, trace) = rows_at(&point(json!({"exit": {"confidence": splitting_confidence(&opened, &input)}})));
        let mut stay: Vec<u32> = (0..N as u32).collect();
        for (i, seen) in rows.iter().enumerate() {
            let expected: usize = stay.iter().map(|m| lens[*m as usize]).sum();
            assert_eq!(*seen, expected, "{}: rows of block {i}", entry.name);
            let gone: Vec<u32> =
                trace.decisions.iter().filter(|d| d.at == format!("blocks.{i}")).filter_map(|d| d.member).collect();
            stay.retain(|m| !gone.contains(m));
        }
        assert!(rows[1] > 0 && rows[1] < rows[0], "{}: {rows:?}", entry.name);
        assert!(trace.macs < full_trace.macs, "{}: no work was saved", entry.name);

        // When all are gone nothing runs.
        let (rows, trace) = rows_at(&point(json!({"exit": {"confidence": 0.0}})));
        assert_eq!(rows[1..], vec![0; blocks - 1], "{}", entry.name);
        assert_eq!(trace.decisions.len(), N);
    }
}

#[test]
fn pruned_rows_are_gone_and_every_choice_is_in_the_trace() {
    let mut models = 0;
    for (entry, architecture) in everything() {
        let opened = open(entry, architecture, With::Nothing);
        let input = batch(opened.model.as_ref(), N);
        let (_, trace) = run(&opened, &Point::new(), &input);
        // Gates of experts decide at rest, too.
        let own: Vec<_> = trace.decisions.iter().filter(|d| d.switch != "experts").collect();
        assert!(own.is_empty(), "{architecture}: the default decides nothing");
        assert_eq!(own.len() < trace.decisions.len(), offer(&opened).is_some(), "{architecture}");
        let Some(prefix) = opened.switches.host().prefix_rows else { continue };
        models += 1;
        let patches = lens(opened.model.trunk(), &input).unwrap()[0] - prefix;
        for method in METHODS {
            let layers = json!([{"after": 1, "keep": 0.5}, {"after": 2, "keep": 0.5}]);
            let point = point(json!({"tokens": {"method": method, "layers": layers}}));
            let mut taps = Taps::named(["blocks.0", "blocks.1", "blocks.2"]);
            let (_, trace) = opened.run_tapped(&point, &input, &mut taps).unwrap();
            let rows = |i: usize| taps.get(&format!("blocks.{i}")).unwrap()[0].dims()[0];
            let left = [patches, patches.div_ceil(2), patches.div_ceil(2).div_ceil(2)];
            assert_eq!([rows(0), rows(1), rows(2)], left.map(|p| N * (prefix + p)), "{architecture} {method}");
            assert_eq!(taps.recorded().len(), 3, "{architecture}: maps that only the rule asked for are not kept");
            assert_eq!(trace.decisions.len(), 2 * N, "{architecture} {method}");
            for member in 0..N as u32 {
                let kept: Vec<Vec<u64>> = trace
                    .decisions
                    .iter()
                    .filter(|d| d.member == Some(member))
                    .map(|d| serde_json::from_value(d.choice["kept"].clone()).unwrap())
                    .collect();
                assert_eq!(kept[0].len(), prefix + left[1]);
                assert_eq!(kept[1].len(), prefix + left[2]);
                assert!(kept[1].iter().all(|r| kept[0].contains(r)), "{architecture}: a dropped row came back");
                assert!((0..prefix as u64).all(|p| kept[1].contains(&p)), "{architecture}: prefix rows stay");
            }
        }
    }
    assert!(models > 0);
}

// ---------------------------------------------------------------------------------------------- the switches

#[test]
fn resting_positions_equal_the_plain_model() {
    for with in [With::Nothing, With::All] {
        for (entry, opened) in classifiers(with) {
            let input = batch(opened.model.as_ref(), N);
            let (plain, trace) = run(&opened, &Point::new(), &input);
            let blocks = opened.model.trunk().n_blocks();
            let mut rest = vec![json!({"exit": blocks}), json!({"seed": 9})];
            if !views(&opened).is_empty() {
                rest.push(json!({"bits": 8}));
            }
            if prunes(&opened) {
                rest.push(json!({"heads": {"keep": 1.0}}));
            }
            if opened.switches.host().prefix_rows.is_some() {
                rest.extend(METHODS.map(|m| json!({"tokens": {"method": m, "keep": 1.0}})));
            }
            for r in rest {
                let (out, same) = run(&opened, &point(r.clone()), &input);
                equal(&out, &plain, &format!("{} at {r}", entry.name));
                assert_eq!(same, trace, "{} at {r}", entry.name);
            }
        }
    }
}

#[test]
fn going_there_and_back_changes_nothing() {
    for (entry, opened) in classifiers(With::All) {
        let input = batch(opened.model.as_ref(), N);
        let points = points(&opened, &input);
        let homes: Vec<_> = points.iter().map(|p| run(&opened, p, &input)).collect();
        let full = &homes[0].0;
        for (p, (out, trace)) in points.iter().zip(&homes).rev() {
            let (again, trace_again) = run(&opened, p, &input);
            equal(&again, out, &format!("{} at {p} again", entry.name));
            assert_eq!(&trace_again, trace, "{} at {p} again", entry.name);
            let rests = *p == Point::new()
                || *p == point(json!({"bits": 8}))
                || *p == point(json!({"exit": opened.model.trunk().n_blocks()}));
            // Exit heads give logits alone.
            let same = bits(out).get("logits") == bits(full).get("logits")
                && (bits(full).contains_key("logits") || bits(out) == bits(full));
            assert_eq!(same, rests, "{}: {p} must move the answer unless it is the default", entry.name);
        }
    }
}

#[test]
fn random_choices_follow_the_seed() {
    for (entry, opened) in classifiers(With::Nothing) {
        if opened.switches.host().prefix_rows.is_none() {
            continue;
        }
        let input = batch(opened.model.as_ref(), N);
        let at = |seed: u64, method: &str| {
            let tokens = json!({"method": method, "keep": 0.5, "after": [1, 2]});
            run(&opened, &point(json!({"tokens": tokens, "seed": seed})), &input)
        };
        let ((a, ta), (b, tb), (c, tc)) = (at(1, "random"), at(1, "random"), at(2, "random"));
        equal(&a, &b, entry.name);
        assert_eq!(ta, tb, "{}: one seed, one trace", entry.name);
        assert_ne!(ta.decisions, tc.decisions, "{}: another seed, another choice", entry.name);
        assert_ne!(bits(&a), bits(&c), "{}", entry.name);
        let kept = |t: &Trace, at: &str| t.decisions.iter().find(|d| d.at == at).unwrap().choice.clone();
        assert_ne!(kept(&ta, "blocks.0"), kept(&ta, "blocks.1"), "{}: places draw on their own", entry.name);
        // Other methods read no seed.
        assert_eq!(at(1, "zero-tprune").1, at(2, "zero-tprune").1, "{}", entry.name);
    }
}

#[test]
fn forecast_cost_equals_counted_work() {
    let all = everything().map(|(e, a)| open(e, a, With::Nothing));
    for opened in all.chain(classifiers(With::All).map(|c| c.1)) {
        let input = batch(opened.model.as_ref(), N);
        let full = opened.cost(&Point::new(), &input).unwrap();
        for point in points(&opened, &input) {
            let at = format!("{:?} at {point}", opened.config.architecture());
            let (_, trace) = run(&opened, &point, &input);
            let cost = opened.cost(&point, &input).unwrap();
            if point.to_string().contains("confidence") {
                // A forecast cannot know who leaves.
                assert!(trace.macs < cost.macs, "{at}: {} against {}", trace.macs, cost.macs);
                continue;
            }
            assert_eq!(cost.macs, trace.macs, "{at}");
            assert!(cost.bytes > 0 && cost.bytes <= full.bytes, "{at}");
        }
        if views(&opened).is_empty() {
            // A point has one task: the gates and heads of the others are not read.
            let own = offer(&opened).is_none_or(|offer| offer.gates == 1);
            let all = 4 * opened.n_params;
            assert!(
                if own { full.bytes == all } else { full.bytes < all },
                "{:?}: bytes",
                opened.config.architecture()
            );
        } else {
            let bytes = VIEWS.map(|b| opened.cost(&Point::new().with("bits", b), &input).unwrap().bytes);
            assert!(bytes.windows(2).all(|w| w[0] > w[1]), "narrower views read less: {bytes:?}");
        }
    }
}

// ---------------------------------------------------------------------------------------------- the weights

/// Published tensors of a toy model and its parameters.
fn weights_of(entry: &'static Entry, architecture: &str) -> (SavedMap, Vec<Param>) {
    let w = Weights::seeded().trainable();
    entry.build(&ConfigMap::new(toy(entry, architecture)).unwrap(), &w).unwrap();
    (published_tensors(entry, architecture, &w.params()).unwrap(), w.params())
}

fn write_model(dir: &Path, config: &Json, tensors: &SavedMap) {
    let files = [("config.json", json_bytes(config)), ("model.safetensors", safetensors_bytes(tensors).unwrap())];
    write_folder(dir, &files).unwrap();
}

#[test]
fn saving_and_loading_is_stable_to_the_byte() {
    let temp = tempfile::tempdir().unwrap();
    for (entry, architecture) in everything() {
        let config = toy(entry, architecture);
        let (tensors, _) = weights_of(entry, architecture);
        let dir = temp.path().join(architecture);
        write_model(&dir, &config, &tensors);
        let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();

        let w = Weights::file(&Folder::disk(&dir).unwrap(), "model.safetensors", &entry.names).unwrap().trainable();
        entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
        let again = published_tensors(entry, architecture, &w.params()).unwrap();
        assert_eq!(tensors, again, "{architecture}: values");
        assert!(bytes == safetensors_bytes(&again).unwrap(), "{architecture}: bytes");

        let read = Opened::open(&dir, OpenOptions::default()).unwrap();
        let made = open(entry, architecture, With::Nothing);
        assert_eq!(read.n_params, made.n_params, "{architecture}");
        let input = batch(made.model.as_ref(), N);
        equal(&run(&read, &Point::new(), &input).0, &run(&made, &Point::new(), &input).0, architecture);
    }
}

#[test]
fn saved_names_and_shapes_are_the_published_ones() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    for entry in ZOO {
        // Written in the names of its host, PVT v2; the authors' are read.
        if entry.name == "ecoformer_pvt_v2" {
            continue;
        }
        let mut compared = 0;
        for file in std::fs::read_dir(golden.join(entry.name)).unwrap() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            let doc: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            // Other generations of names are read and not written.
            let timm = path.file_name().unwrap().to_string_lossy().starts_with("timm");
            if doc.get("alias_of").is_some() || timm || doc["read_only"] == true {
                continue;
            }
            let shape = |s: &Json| -> Vec<usize> { serde_json::from_value(s.clone()).unwrap() };
            let published = doc["tensors"].as_object().unwrap();
            let manifest = published.iter().map(|(n, s)| (n.clone(), shape(s), n.clone()));
            let w = Weights::manifest(manifest, &entry.names).unwrap().trainable();
            let config = ConfigMap::new(canonical(doc["config"].clone()).unwrap()).unwrap();
            entry.build(&config, &w).unwrap();
            let saved = published_tensors(entry, entry.architecture(&config).unwrap(), &w.params()).unwrap();
            for (name, tensor) in &saved {
                let want = published.get(name).unwrap_or_else(|| panic!("{}: nobody calls it {name}", path.display()));
                assert_eq!(tensor.shape, shape(want), "{}: {name}", path.display());
            }
            let own: Vec<String> = w.params().iter().flat_map(|p| p.names.clone()).map(|(n, _)| n).collect();
            assert_eq!(saved.len(), own.len(), "{}: two tensors under one name", path.display());
            compared += 1;
        }
        assert!(compared > 0, "{}", entry.name);
    }
}

/// Codes and scales of a matrix that a nested checkpoint stores, a scale for 16 inputs where `fine`, else as opening makes
/// them; `None` for what stays dense.
fn codes(entry: &Entry, p: &Param, fine: bool) -> Option<NestedWeight> {
    let nested = p.kind == ParamKind::Matrix && Sites::new(entry.blocks).covers(&p.names[0].0);
    nested.then(|| {
        let w = p.var.as_tensor();
        let (out, inner) = w.dims2().unwrap();
        let scale = match fine && inner % 16 == 0 {
            true => absmax_scale(&w.reshape((out * inner / 16, 16)).unwrap()).unwrap(),
            false => group_scale(w).unwrap(),
        };
        nested_codes(w, &scale).unwrap()
    })
}

#[test]
fn a_view_computes_with_the_stored_integers() {
    let temp = tempfile::tempdir().unwrap();
    let mut able = 0;
    for entry in ZOO.iter().filter(|e| !e.is(Trait::ConvolutionsAlone)) {
        let architecture = toy_architecture(entry);
        let (dense, params) = weights_of(entry, &architecture);
        // Every other family whose rows are long enough has a scale for 16 inputs.
        let splits = params.iter().any(|p| codes(entry, p, true).is_some_and(|n| n.scale.len() > n.out));
        able += usize::from(splits);
        let (fine, mut grouped) = (splits && able % 2 == 1, 0);
        let mut stored = dense.clone();
        for p in &params {
            let Some(n) = codes(entry, p, fine) else { continue };
            let (inner, groups, mut row) = (n.codes.len() / n.out, n.scale.len() / n.out, 0);
            grouped += usize::from(groups > 1);
            for (name, rows) in &p.names {
                let name = entry.published(&architecture, name);
                let part = &n.codes[row * inner..(row + rows) * inner];
                let scale = &n.scale[row * groups..(row + rows) * groups];
                let shape = if groups > 1 { vec![*rows, groups] } else { vec![*rows] };
                stored.insert(format!("{name}_scale"), Saved::f32(&shape, scale));
                stored.insert(name, Saved::i8(&[*rows, inner], part));
                row += rows;
            }
        }
        assert!(stored.len() > dense.len(), "{}: nothing is nested", entry.name);
        assert!(grouped > 0 || !fine, "{}: no matrix has several groups", entry.name);
        let mut config = toy(entry, &architecture);
        let plain = config.clone();
        plan(true, &[]).write(config.as_object_mut().unwrap()).unwrap();
        config.as_object_mut().unwrap().remove("switch"); // as earlier versions wrote it
        let dir = temp.path().join(entry.name);
        write_model(&dir, &config, &stored);
        let nested = Opened::open(&dir, OpenOptions::default()).unwrap();
        assert_eq!(views(&nested), VIEWS);
        let quantised = open(entry, &architecture, With::Nested);
        let original = open(entry, &architecture, With::Nothing);
        let input = batch(original.model.as_ref(), N);
        let (reference, _) = run(&original, &Point::new(), &input);

        let mut errors = Vec::new();
        for b in VIEWS {
            // The integers written out by hand: round to nearest into b bits, times 2^(8-b) and the row's scale.
            let mut view = dense.clone();
            for p in &params {
                let Some(n) = codes(entry, p, fine) else { continue };
                let (inner, group) = (n.codes.len() / n.out, n.codes.len() / n.scale.len());
                let (step, top) = (1i32 << (8 - b), (1i32 << (b - 1)) - 1);
                let value = |(i, c): (usize, &i8)| {
                    let code = (f64::from(*c) / f64::from(step) + 0.5).floor().min(f64::from(top)) as i32;
                    (code * step) as f32 * n.scale[i / group]
                };
                let values: Vec<f32> = n.codes.iter().enumerate().map(value).collect();
                let mut row = 0;
                for (name, rows) in &p.names {
                    let part = &values[row * inner..(row + rows) * inner];
                    view.insert(entry.published(&architecture, name), Saved::f32(&[*rows, inner], part));
                    row += rows;
                }
            }
            let dir = temp.path().join(format!("{}-{b}", entry.name));
            write_model(&dir, &plain, &view);
            let by_hand = Opened::open(&dir, OpenOptions::default()).unwrap();

            let at = format!("{} at {b} bits", entry.name);
            let point = Point::new().with("bits", b);
            let (got, _) = run(&nested, &point, &input);
            let off = distance(&got, &run(&by_hand, &Point::new(), &input).0);
            assert!(off < 1e-5, "{at}: {off:e} from the integers");
            if !fine {
                equal(&got, &run(&quantised, &point, &input).0, &format!("{at}, stored against quantised when opened"));
            }
            errors.push(distance(&got, &reference));
        }
        assert!(errors[0] < 0.05, "{}: 8 bits are {} away from f32", entry.name, errors[0]);
        assert!(errors[0] < errors[2] && errors[2] < errors[3], "{}: {errors:?}", entry.name);
    }
    assert!(able >= 16, "{able} families have rows of several groups");
}

// ---------------------------------------------------------------------------------------------- the machine

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (entry, opened) in classifiers(With::All) {
        // Large enough that the kernels split their work.
        let input = batch(opened.model.as_ref(), 160);
        let rows: usize = lens(opened.model.trunk(), &input).unwrap().iter().sum();
        assert!(rows * 32 >= 32 * 1024, "{}: {rows} rows would run on one thread", entry.name);
        let mut list = vec![json!({})];
        if !views(&opened).is_empty() {
            list.push(json!({"bits": 4}));
        }
        if has_heads(&opened) {
            list.push(json!({"exit": {"confidence": 0.5}}));
        }
        if opened.switches.host().prefix_rows.is_some() {
            list.push(json!({"tokens": {"method": "zero-tprune", "keep": 0.5}}));
        }
        if prunes(&opened) {
            list.push(json!({"heads": {"keep": 0.5}}));
        }
        for p in list.into_iter().map(point) {
            let [one, two, three] = [1, 2, 3].map(|n| {
                switchformer_kernels::set_threads(n);
                run(&opened, &p, &input)
            });
            switchformer_kernels::set_threads(0);
            equal(&two.0, &one.0, &format!("{} at {p}, two threads", entry.name));
            equal(&three.0, &one.0, &format!("{} at {p}, three threads", entry.name));
            assert_eq!((&two.1, &three.1), (&one.1, &one.1), "{} at {p}", entry.name);
        }
    }
}
