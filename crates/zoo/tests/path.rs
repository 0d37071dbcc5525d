//! Paths of published networks: split, looped and stitched, with switches and with a memory.

#![allow(clippy::unwrap_used)]

mod common;

use common::{batch, bits, everything, far, pair_sequences, plan, prunes, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_nn::{
    Adapter, Cost, Ctx, Error, Input, LinearAdapter, Memory, Output, Path, Point, Segment, Staged, Taps, Trace,
    Weights, cost_path, run_path,
};
use switchformer_switch::Resolved;
use switchformer_zoo::{OpenOptions, Opened, find};

fn point(text: Json) -> Point {
    Point::parse(&text.to_string()).unwrap()
}

/// A toy with changes to its config, and exit heads after the given depths.
fn open(family: &str, changes: &Json, depths: &[usize]) -> Opened {
    let entry = find(family).unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    Opened::random_with(config, plan(false, depths)).unwrap()
}

/// A pass along a path at a point that the switches of its first network resolve.
fn pass(opened: &Opened, path: &Path, p: &Point, input: &Input, taps: &mut Taps) -> Result<(Output, Trace), Error> {
    let Resolved { point, rules } = opened.switches.on(path).resolve(p)?;
    let mut trace = Trace::default();
    let out = run_path(path, &rules, &mut Ctx::new(&point, taps, &mut trace), input)?;
    Ok((out, trace))
}

fn cost(opened: &Opened, path: &Path, p: &Point, input: &Input) -> Cost {
    let Resolved { point, rules } = opened.switches.on(path).resolve(p).unwrap();
    cost_path(path, &rules, &point, input).unwrap()
}

fn recorded(taps: &Taps) -> Vec<(String, usize)> {
    taps.recorded().iter().map(|(n, all)| (n.clone(), all.iter().map(|t| t.elem_count()).sum())).collect()
}

#[test]
fn every_model_in_two_segments_is_the_model() {
    for (entry, architecture) in everything() {
        let opened = Opened::random(toy(entry, architecture), OpenOptions::default()).unwrap();
        let (trunk, input) = (opened.model.trunk(), batch(opened.model.as_ref(), 3));
        let n = trunk.n_blocks();
        let mut points = vec![json!({}), json!({"exit": opened.switches.host().first_exit})];
        if opened.switches.host().prefix_rows.is_some() {
            points.push(json!({"tokens": {"method": "random", "keep": 0.5}, "seed": 3}));
        }
        if prunes(&opened) {
            points.push(json!({"heads": {"keep": 0.5}}));
        }
        for p in points.into_iter().map(point) {
            let mut all = Taps::all();
            let (whole, trace) = opened.run_tapped(&p, &input, &mut all).unwrap();
            for at in 1..n {
                let halves = [Segment::once(0, 0..at), Segment::once(0, at..n)];
                let path = Path::new(&[trunk], &halves).unwrap();
                let mut taps = Taps::all();
                let (out, again) = pass(&opened, &path, &p, &input, &mut taps).unwrap();
                assert!(bits(&out) == bits(&whole), "{architecture} at {p}, split before {at}");
                assert_eq!((again, recorded(&taps)), (trace.clone(), recorded(&all)), "{architecture} at {p}");
                assert_eq!(cost(&opened, &path, &p, &input), opened.cost(&p, &input).unwrap(), "{architecture} at {p}");
            }
        }
    }
}

/// Rows after each block that ran, by the names of their sites.
fn rows(taps: &Taps, path: &Path) -> Vec<Option<usize>> {
    path.sites().map(|s| taps.get(&s.to_string()).map(|t| t[0].dims()[0])).collect()
}

fn linear(from: usize, to: usize) -> LinearAdapter {
    LinearAdapter(Weights::seeded().linear("adapter", from, to, true).unwrap())
}

#[test]
fn rules_act_on_stitches_and_loops_where_they_say() {
    let a = open("vit", &json!({}), &[1, 2]);
    let b = open("vit", &json!({"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 4}), &[]);
    let to_b = linear(32, 48);
    let segments = [
        Segment { times: 2, ..Segment::once(0, 0..2) },
        Segment { adapter: Some(&to_b as &dyn Adapter), ..Segment::once(1, 2..4) },
    ];
    let models = [a.model.trunk(), b.model.trunk()];
    let path = Path::new(&models, &segments).unwrap();
    let sites: Vec<String> = path.sites().map(|s| s.to_string()).collect();
    let laps = ["blocks.0", "blocks.1", "laps.1.blocks.0", "laps.1.blocks.1", "models.1.blocks.2", "models.1.blocks.3"];
    assert_eq!(sites, laps);
    let input = batch(a.model.as_ref(), 4);
    let run = |p: &Point, taps: &mut Taps| pass(&a, &path, p, &input, taps).unwrap();
    let counted = |p: &Point| {
        let (_, trace) = run(p, &mut Taps::none());
        assert_eq!(cost(&a, &path, p, &input).macs, trace.macs, "{p}");
    };
    counted(&Point::new());

    // Token pruning counts steps, in whatever network and lap, and reads the taps of that place.
    for method in ["zero-tprune", "random", "class-attention"] {
        let p = point(json!({"tokens": {"method": method, "keep": 0.5, "after": [2, 3, 5]}, "seed": 3}));
        let mut taps = Taps::named(sites.iter().map(String::as_str));
        let (_, trace) = run(&p, &mut taps);
        let decided: Vec<&str> = trace.decisions.iter().filter(|d| d.member == Some(0)).map(|d| &*d.at).collect();
        assert_eq!(decided, ["blocks.1", "laps.1.blocks.0", "models.1.blocks.2"], "{method}");
        // 16 patches and a class token: a tap shows the rows that a block gave, before its rule dropped some.
        assert_eq!(rows(&taps, &path), [17, 17, 9, 5, 5, 3].map(|n| Some(4 * n)), "{method}");
        counted(&p);
        counted(&p.clone().with("exit", 4));
    }
    // A fixed exit counts steps; the head there is the trained one of the first lap of the first network, or the own one
    // of the network that runs.
    for k in 1..=path.n_steps() {
        let p = Point::new().with("exit", k);
        let mut taps = Taps::named(sites.iter().map(String::as_str));
        let (out, trace) = run(&p, &mut taps);
        assert_eq!(rows(&taps, &path).iter().flatten().count(), k);
        counted(&p);
        let own: Vec<_> =
            trace.decisions.iter().map(|d| (d.at.as_str(), d.choice["own_head"] == json!(true))).collect();
        if k == path.n_steps() {
            assert!(own.is_empty(), "the whole path is no exit");
            continue;
        }
        assert_eq!(own, [(laps[k - 1], k > 2)]);
        let cut =
            [Segment::once(0, 0..k.min(2)), Segment::once(0, 0..k.clamp(2, 4) - 2), Segment::once(1, 2..k.max(4) - 2)];
        let mut cut: Vec<Segment> = cut.into_iter().filter(|s| !s.blocks.is_empty()).collect();
        if let Some(last) = cut.last_mut().filter(|s| s.model == 1) {
            last.adapter = Some(&to_b);
        }
        let cut = Path::new(&models[..cut.last().unwrap().model + 1], &cut).unwrap();
        let (want, _) = pass(&a, &cut, &Point::new(), &input, &mut Taps::none()).unwrap();
        assert_eq!(bits(&out) == bits(&want), k > 2, "exit {k}");
    }

    // A confidence exit asks trained heads alone, each once.
    let p = point(json!({"exit": {"confidence": 1.0}}));
    let (asked, trace) = (cost(&a, &path, &p, &input).macs, run(&p, &mut Taps::none()).1);
    assert_eq!((asked, trace.macs), (trace.macs, cost(&a, &path, &Point::new(), &input).macs + 2 * 4 * 32 * 5));
    let (out, trace) = run(&point(json!({"exit": {"confidence": 0.0}})), &mut Taps::none());
    assert!(trace.decisions.iter().all(|d| d.at == "blocks.0") && trace.decisions.len() == 4);
    assert_eq!(out.get("logits").unwrap().dims(), [4, 5]);
}

#[test]
fn what_a_path_does_not_allow_is_refused_by_name() {
    let refuses = |opened: &Opened, path: &Path, p: Json, says: &str| {
        let e = opened.switches.on(path).resolve(&point(p)).err().unwrap().to_string();
        assert!(e.contains(says), "{e}");
    };
    let a = open("vit", &json!({}), &[1, 2]);
    let b = open("vit", &json!({"hidden_size": 48, "num_labels": 7}), &[]);
    let (to_b, to_words) = (linear(32, 48), linear(32, 32));
    let stitch = |other: &'_ Opened, adapter: &'_ LinearAdapter, f: &dyn Fn(&Path)| {
        let models: [&dyn Staged; 2] = [a.model.trunk(), other.model.trunk()];
        let onto = Segment { adapter: Some(adapter), ..Segment::once(1, 1..3) };
        f(&Path::new(&models, &[Segment::once(0, 0..2), onto]).unwrap());
    };
    stitch(&b, &to_b, &|path| {
        refuses(&a, path, json!({"exit": 5}), "exit = 5 of 4 blocks");
        refuses(&a, path, json!({"tokens": {"method": "random", "keep": 0.5, "after": [5]}}), "out of range for 4");
        refuses(&a, path, json!({"exit": {"confidence": 0.5}}), "different classes");
        refuses(&a, path, json!({"heads": {"keep": 0.5}}), "heads is a setting of layers");
        // The same point, resolved for the first network alone.
        let Resolved { point, rules } = a.switches.resolve(&point(json!({"heads": {"keep": 0.5}}))).unwrap();
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let input = batch(a.model.as_ref(), 2);
        let e = run_path(path, &rules, &mut Ctx::new(&point, &mut taps, &mut trace), &input).unwrap_err();
        assert!(e.to_string().contains("one network"), "{e}");
        assert!(cost_path(path, &rules, &point, &input).is_err());
    });
    // One that answers per token may come behind, but no token may be dropped before it.
    let words = open("bert", &json!({"architectures": ["BertForTokenClassification"]}), &[]);
    stitch(&words, &to_words, &|path| {
        refuses(&a, path, json!({"tokens": {"method": "random", "keep": 0.5}}), "answers per token");
    });
    // A loop is one network: its layers may read settings.
    let twice = Path::new(&[a.model.trunk()], &[Segment { times: 2, ..Segment::once(0, 0..3) }]).unwrap();
    let (p, input) = (point(json!({"heads": {"keep": 0.5}, "exit": 5})), batch(a.model.as_ref(), 2));
    let (_, trace) = pass(&a, &twice, &p, &input, &mut Taps::none()).unwrap();
    assert_eq!(trace.macs, cost(&a, &twice, &p, &input).macs);
    assert!(trace.decisions.iter().any(|d| d.at == "laps.1.blocks.1.attn" && d.switch == "heads"));
    // A path of an encoder-decoder must end where it writes, and may exit from there on.
    let pair = open("t5", &json!({}), &[]);
    let trunk = pair.model.trunk();
    let e = Path::new(&[trunk], &[Segment::once(0, 0..2)]).err().unwrap().to_string();
    assert!(e.contains("nothing to answer from"), "{e}");
    let looped = [Segment { times: 2, ..Segment::once(0, 0..2) }, Segment::once(0, 2..4)];
    refuses(&pair, &Path::new(&[trunk], &looped).unwrap(), json!({"exit": 4}), "exit = 4 of 6 blocks");
}

#[test]
fn loops_of_an_encoder_decoder_write_with_a_memory() {
    let opened = open("t5", &json!({}), &[]);
    let trunk = opened.model.trunk();
    let looped = [Segment { times: 2, ..Segment::once(0, 0..2) }, Segment { times: 3, ..Segment::once(0, 2..4) }];
    let path = Path::new(&[trunk], &looped).unwrap();
    let [source, target] = pair_sequences(50, &[7, 3]);
    let target: Vec<Vec<u32>> = target.iter().map(|t| t.iter().cycle().take(6).copied().collect()).collect();
    let source = Input::tokens(&source).unwrap();
    for p in [json!({}), json!({"exit": 7})].map(point) {
        let write = |memory: Option<&mut Memory>, input: &Input| -> (Vec<Vec<f32>>, u64, Vec<String>) {
            let Resolved { point, rules } = opened.switches.on(&path).resolve(&p).unwrap();
            let (mut taps, mut trace) = (Taps::all(), Trace::default());
            let mut cx = Ctx::new(&point, &mut taps, &mut trace);
            cx.memory = memory;
            let out = run_path(&path, &rules, &mut cx, input).unwrap();
            let names =
                taps.recorded().iter().map(|(n, _)| n.clone()).filter(|n| n.ends_with(|c: char| c.is_numeric()));
            (out.get_rows("logits").unwrap().0.to_vec2().unwrap(), trace.macs, names.collect())
        };
        let all = Input::pair(source.clone(), Input::tokens(&target).unwrap()).unwrap();
        let (whole, macs, names) = write(None, &all);
        assert_eq!(macs, cost(&opened, &path, &p, &all).macs);
        let mut memory = Memory::new(2).unwrap();
        for (from, to) in [(0, 2), (2, 3), (3, 6)] {
            let tokens = Input::tokens(&target.iter().map(|t| &t[from..to]).collect::<Vec<_>>()).unwrap();
            let input = if from == 0 { Input::pair(source.clone(), tokens).unwrap() } else { tokens };
            let (got, _, ran) = write(Some(&mut memory), &input);
            let want: Vec<f32> = (0..2).flat_map(|m| whole[6 * m + from..6 * m + to].concat()).collect();
            let off = far(&got.concat(), &want);
            assert!(off < 1e-5, "tokens {from}..{to} at {p}: {off:e}");
            // Both laps of the encoder have read the source, once.
            assert_eq!(ran, if from == 0 { &names[..] } else { &names[4..] }, "{p}");
        }
    }
}
