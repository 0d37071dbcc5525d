//! Zero-TPrune against its reference: exactly the same patches survive, and the numbers that follow agree.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::staged::lens;
use switchformer_nn::{Ctx, Input, Point, Taps, Trace, Weights, staged};
use switchformer_switch::{Loading, Plan, Resolved, Switches};
use switchformer_tensor::{DType, Tensor};

fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/zero_tprune")
}

/// Names of the cases, ascending.
fn cases() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir())
        .unwrap()
        .map(|f| f.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .map(|p| p.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The plan of a case as a point. The plan counts the block itself, a point the blocks that have run.
fn point(plan: &Value) -> Point {
    let layers: Vec<Value> = plan
        .as_array()
        .unwrap()
        .iter()
        .map(|l| {
            json!({"after": l["block"].as_u64().unwrap() + 1, "keep": l["keep"], "rank_iters": l["rank_iters"],
                   "similar": l["similar"], "var_range": l["var_range"]})
        })
        .collect();
    Point::new().with("tokens", json!({"method": "zero-tprune", "layers": layers}))
}

/// Largest absolute difference; the shapes may differ only in how rows are grouped.
fn difference(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.elem_count(), want.elem_count(), "{:?} against {:?}", got.dims(), want.dims());
    let values = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values(got).iter().zip(values(want)).fold(0f32, |a, (g, w)| {
        let d = (g - w).abs();
        if d.is_nan() { f32::INFINITY } else { a.max(d) }
    })
}

/// Patches of the whole image that each member kept after a block, from the trace; all where nothing was decided.
fn kept(trace: &Trace, block: u64, members: usize, patches: usize) -> Vec<BTreeSet<i64>> {
    let at = format!("blocks.{block}");
    let decided: Vec<_> = trace.decisions.iter().filter(|d| d.at == at && d.switch == "tokens").collect();
    if decided.is_empty() {
        return vec![(0..patches as i64).collect(); members];
    }
    assert_eq!(decided.len(), members, "{at}: one decision per member");
    (0..members)
        .map(|m| {
            let d = decided.iter().find(|d| d.member == Some(m as u32)).unwrap();
            let rows: Vec<i64> = d.choice["kept"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
            assert_eq!(rows[0], 0, "{at}: the class row stays in front");
            assert!(rows.windows(2).all(|w| w[0] < w[1]), "{at}: survivors keep their order");
            rows[1..].iter().map(|r| r - 1).collect()
        })
        .collect()
}

fn check(name: &str) -> f32 {
    let doc: Value = serde_json::from_slice(&std::fs::read(dir().join(format!("{name}.json"))).unwrap()).unwrap();
    let tensors: HashMap<String, Tensor> =
        switchformer_tensor::safetensors::load(dir().join(format!("{name}.safetensors"))).unwrap();
    let entry = switchformer_zoo::find(doc["config"]["model_type"].as_str().unwrap()).unwrap();
    let manifest = doc["tensors"].as_object().unwrap().iter().map(|(name, shape)| {
        let shape = shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        (name.clone(), shape, name.clone())
    });
    let w = Weights::manifest(manifest, &entry.names).unwrap();
    let model = entry.build(&ConfigMap::new(doc["config"].clone()).unwrap(), &w).unwrap();
    assert_eq!(w.n_elements(), doc["n_params"].as_u64().unwrap(), "{name}: parameters");

    let pixels = tensors["in.pixel_values"].clone();
    let members = pixels.dims()[0];
    let input = Input::pixel_values(pixels);
    let patches = lens(model.trunk(), &input).unwrap()[0] - 1;
    let point = point(&doc["plan"]);
    let config = ConfigMap::new(doc["config"].clone()).unwrap();
    let plan = Plan::default();
    let loading = Loading { model: model.trunk(), config: &config, plan: &plan, weights: &w, added: None };
    let Resolved { point, rules } = Switches::load(&loading).unwrap().resolve(&point).unwrap();
    let stored: Vec<&str> = tensors.keys().filter_map(|k| k.strip_prefix("tap.")).collect();
    let (mut taps, mut trace) = (Taps::named(stored.iter().copied()), Trace::default());
    let out = staged::run(model.trunk(), &rules, &mut Ctx::new(&point, &mut taps, &mut trace), &input).unwrap();

    let mut compared = 0;
    for layer in doc["plan"].as_array().unwrap() {
        let block = layer["block"].as_u64().unwrap();
        let want: Vec<Vec<i64>> = tensors[&format!("kept.{block}")].to_vec2().unwrap();
        for (m, got) in kept(&trace, block, members, patches).iter().enumerate() {
            let want: BTreeSet<i64> = want[m].iter().copied().collect();
            let (extra, lost): (Vec<_>, Vec<_>) = (got.difference(&want).collect(), want.difference(got).collect());
            assert_eq!(*got, want, "{name}: block {block}, image {m}: kept {extra:?} in place of {lost:?}");
        }
        compared += 1;
    }
    assert_eq!(compared, tensors.keys().filter(|k| k.starts_with("kept.")).count(), "{name}: every stored choice");

    let tolerance = doc["tolerance"].as_f64().unwrap() as f32;
    let mut worst = 0f32;
    for tap in stored {
        let d = difference(&taps.get(tap).unwrap()[0], &tensors[&format!("tap.{tap}")]);
        assert!(d <= tolerance, "{name}: {tap} differs by {d:e}");
        worst = worst.max(d);
    }
    let d = difference(out.get("logits").unwrap(), &tensors["out.logits"]);
    assert!(d <= tolerance, "{name}: logits differ by {d:e}");
    worst.max(d)
}

#[test]
fn the_same_patches_survive_as_in_the_reference() {
    let cases = cases();
    assert!(cases.len() >= 9, "only {cases:?}");
    for name in cases {
        println!("zero_tprune/{name:<12} largest difference {:.1e}", check(&name));
    }
}
