//! What only pyramids have: maps of several sizes in one batch, feature maps by name, and timm's folders.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::{batch, far, flat, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::staged::{Left, State};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, write_folder};
use switchformer_nn::{Ctx, Input, Output, Point, Rows, Size, Taps, Trace, Weights, init, path, walk};
use switchformer_tensor::Tensor;
use switchformer_zoo::save::json_bytes;
use switchformer_zoo::{Entry, OpenOptions, Opened, Trait, ZOO, find};

fn pyramids() -> impl Iterator<Item = (&'static Entry, Opened)> {
    ZOO.iter()
        .filter(|e| e.is(Trait::Pyramid))
        .map(|entry| (*entry, Opened::random(toy(entry, &toy_architecture(entry)), OpenOptions::default()).unwrap()))
}

fn pixels(shape: (usize, usize, usize, usize)) -> Input {
    let n = shape.0 * shape.1 * shape.2 * shape.3;
    Input::pixel_values(Tensor::from_vec(init::seeded("pyramid.pixels", &[n, 1]), shape).unwrap())
}

/// Blocks and head from a state on.
fn finish(opened: &Opened, state: State) -> Output {
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    let trunk = opened.model.trunk();
    let state = walk(&path::Path::of(trunk), &[], &mut cx, 0..trunk.n_blocks(), state, &mut Left::new()).unwrap();
    trunk.head(&mut cx, state).unwrap()
}

#[test]
fn images_of_different_size_share_a_batch() {
    for (entry, opened) in pyramids() {
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let states: Vec<State> = [(1, 1, 32, 32), (1, 1, 48, 32), (1, 1, 32, 64)]
            .map(|shape| opened.model.trunk().stem(&mut cx, &pixels(shape)).unwrap())
            .into();
        let sizes: Vec<Size> = states.iter().map(|s| s.rows.sizes().unwrap()[0]).collect();
        let x = Tensor::cat(&states.iter().map(|s| &s.x).collect::<Vec<_>>(), 0).unwrap();
        let together = finish(&opened, State::new(x, Rows::maps(&sizes).unwrap()));
        let alone: Vec<f32> =
            states.into_iter().flat_map(|s| flat(finish(&opened, s).get("logits").unwrap())).collect();
        let off = far(&flat(together.get("logits").unwrap()), &alone);
        assert!(off < 1e-5, "{}: {sizes:?} differ by {off:e}", entry.name);
    }
}

#[test]
fn feature_maps_have_names_and_halve() {
    for (entry, opened) in pyramids() {
        let mut taps = Taps::all();
        opened.run_tapped(&Point::new(), &batch(opened.model.as_ref(), 2), &mut taps).unwrap();
        let maps: Vec<&[Tensor]> = (0..).map_while(|s| taps.get(&format!("stages.{s}"))).collect();
        assert!(maps.len() >= 2, "{}: {} maps", entry.name, maps.len());
        for pair in maps.windows(2) {
            let [(h, w, c), (h2, w2, c2)] = [&pair[0][1], &pair[1][1]].map(|t| t.dims3().unwrap());
            assert_eq!((pair[0].len(), h2, w2), (2, h.div_ceil(2), w.div_ceil(2)), "{}", entry.name);
            assert!(c2 > c, "{}", entry.name);
        }
    }
}

#[test]
fn exits_lie_in_the_last_stage_and_rows_of_maps_stay() {
    for (entry, opened) in pyramids() {
        let input = batch(opened.model.as_ref(), 2);
        let first = opened.switches.host().first_exit;
        assert!(first > 1, "{}", entry.name);
        for (setting, words) in [
            (json!({"exit": first - 1}), vec!["exit".to_string(), first.to_string()]),
            (json!({"exit": {"confidence": 0.9}}), vec!["heads".into()]),
            (json!({"tokens": {"method": "random", "keep": 0.5}}), vec!["tokens".into(), "none may be dropped".into()]),
        ] {
            let error = opened.run(&Point::parse(&setting.to_string()).unwrap(), &input).unwrap_err().to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{}: {error}", entry.name);
        }
        assert!(opened.run(&Point::new().with("exit", first), &input).is_ok(), "{}", entry.name);
    }
}

#[test]
fn stripes_that_do_not_fit_are_refused() {
    let entry = find("cswin").unwrap();
    let opened = Opened::random(toy(entry, "CSWinTransformer"), OpenOptions::default()).unwrap();
    let error = opened.run(&Point::new(), &pixels((1, 1, 36, 32))).unwrap_err().to_string();
    assert!(error.contains("9x8") && error.contains("stripes of 2x8"), "{error}");
}

/// Writes a golden case as timm publishes it: its config, and weights under its names.
fn write(dir: &Path, doc: &Json) {
    let mut tensors = SavedMap::new();
    for (name, shape) in doc["tensors"].as_object().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        tensors.insert(name.clone(), Saved::f32(&shape, &init::seeded(name, &shape)));
    }
    let files =
        [("config.json", json_bytes(&doc["config"])), ("model.safetensors", safetensors_bytes(&tensors).unwrap())];
    write_folder(dir, &files).unwrap();
}

#[test]
fn folders_of_timm_open() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden");
    let temp = tempfile::tempdir().unwrap();
    for case in [
        "swin/timm",
        "swinv2/timm",
        "pvt_v2/timm",
        "tnt/image",
        "crossvit/dagger",
        "smt/odd",
        "cswin/wide",
        "crossformer/arguments",
        "svt/odd",
    ] {
        let doc: Json = serde_json::from_slice(&std::fs::read(golden.join(format!("{case}.json"))).unwrap()).unwrap();
        let numbers = switchformer_tensor::safetensors::load(golden.join(format!("{case}.safetensors"))).unwrap();
        let dir = temp.path().join(case.replace('/', "-"));
        write(&dir, &doc);
        let opened = Opened::open(&dir, OpenOptions::default()).unwrap();
        let (out, _) = opened.run(&Point::new(), &Input::pixel_values(numbers["in.pixel_values"].clone())).unwrap();
        let off = far(&flat(out.get("logits").unwrap()), &flat(&numbers["out.logits"]));
        assert!(off < 1e-4, "{case}: {off:e}");

        // An argument that nobody knows.
        let mut other = doc.clone();
        other["config"]["model_args"]["knn_heads"] = json!(3);
        std::fs::write(dir.join("config.json"), json_bytes(&other["config"])).unwrap();
        let error = Opened::open(&dir, OpenOptions::default()).err().unwrap().to_string();
        assert!(error.contains("knn_heads") && error.contains("depth"), "{case}: {error}");
    }
}

#[test]
fn a_cosine_is_never_scaled_beyond_a_hundred() {
    let entry = find("swinv2").unwrap();
    let logits = |log: f32| {
        let w = Weights::seeded().trainable();
        let model = entry.build(&ConfigMap::new(toy(entry, &toy_architecture(entry))).unwrap(), &w).unwrap();
        for p in w.params().iter().filter(|p| p.names[0].0.ends_with("logit_scale")) {
            p.var.set(&Tensor::full(log, p.var.shape()).unwrap()).unwrap();
        }
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let out = switchformer_nn::run(model.trunk(), &[], &mut cx, &batch(model.as_ref(), 2)).unwrap();
        flat(out.get("logits").unwrap())
    };
    assert_eq!(logits(6.0), logits(100f32.ln()));
    assert_ne!(logits(4.0), logits(100f32.ln()));
}

#[test]
fn pyramids_are_the_families_whose_maps_shrink() {
    for entry in ZOO {
        let opened = Opened::random(toy(entry, &toy_architecture(entry)), OpenOptions::default()).unwrap();
        if !opened.model.spec().takes("pixel_values") {
            assert!(!entry.is(Trait::Pyramid), "{} reads no images", entry.name);
            continue;
        }
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let trunk = opened.model.trunk();
        let state = trunk.stem(&mut cx, &batch(opened.model.as_ref(), 1)).unwrap();
        let before = state.rows.total();
        let after = walk(&path::Path::of(trunk), &[], &mut cx, 0..trunk.n_blocks(), state, &mut Left::new()).unwrap();
        assert_eq!(after.rows.total() < before, entry.is(Trait::Pyramid), "{}: are its traits right?", entry.name);
    }
}
