//! Every model against its reference: taps in order of computation, outputs, loss and gradients.
//!
//! Weights are not stored: both sides draw each tensor from its published name, so a pass also proves the layout.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::io::unpack;
use switchformer_nn::{Ctx, Input, Output, Point, Rows, Taps, Trace, Weights, staged};
use switchformer_zoo::{Entry, ZOO};

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

struct Case {
    name: String,
    doc: Value,
    tensors: HashMap<String, Tensor>,
}

fn cases(model: &str) -> Vec<Case> {
    let dir = golden_dir().join(model);
    let mut found = Vec::new();
    for file in std::fs::read_dir(&dir).unwrap_or_else(|_| panic!("no goldens for {model} in {}", dir.display())) {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let doc: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        // Another generation of names over the numbers of another case.
        let numbers = doc["alias_of"].as_str().map_or(stem.clone(), |a| a.rsplit('/').next().unwrap().to_string());
        let tensors = candle_core::safetensors::load(dir.join(format!("{numbers}.safetensors")), &Device::Cpu).unwrap();
        found.push(Case { name: format!("{model}/{stem}"), doc, tensors });
    }
    assert!(!found.is_empty());
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

impl Case {
    fn weights(&self, entry: &Entry) -> Weights {
        let manifest = self.doc["tensors"].as_object().unwrap().iter().map(|(name, shape)| {
            let shape = shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
            let seed = self.doc["seed_as"][name].as_str().unwrap_or(name).to_string();
            (name.clone(), shape, seed)
        });
        Weights::manifest(manifest, &entry.names).unwrap()
    }

    fn input(&self) -> Input {
        match self.tensors.get("in.pixel_values") {
            Some(p) => Input::Pixels(p.clone()),
            None => Input::padded(
                &self.tensors["in.input_ids"],
                self.tensors.get("in.attention_mask"),
                self.tensors.get("in.token_type_ids"),
            )
            .unwrap(),
        }
    }

    /// Length of the padded side.
    fn width(&self, rows: &Rows) -> usize {
        self.tensors.get("in.input_ids").map_or(rows.max_len(), |t| t.dims()[1])
    }
}

/// Columns of the packed rows in the padded tensors.
fn columns(input: &Input, rows: &Rows) -> Vec<u32> {
    match input {
        Input::Tokens { columns, .. } => columns.clone(),
        Input::Pixels(_) => rows.positions().to_vec(),
    }
}

/// Largest difference relative to the largest magnitude of the reference.
fn error(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let want = want.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let top = want.iter().fold(1e-6f32, |a, v| a.max(v.abs()));
    got.iter().zip(&want).fold(0f32, |a, (g, w)| {
        let d = (g - w).abs() / top;
        if d.is_nan() { f32::INFINITY } else { a.max(d) }
    })
}

fn padded(out: &Output, name: &str, columns: &[u32], width: usize) -> Tensor {
    match out.get_rows(name) {
        Some((t, rows)) => unpack(t, rows, columns, width).unwrap(),
        None => out.get(name).unwrap().clone(),
    }
}

fn check(entry: &Entry, case: &Case) -> f32 {
    let config = ConfigMap::new(case.doc["config"].clone()).unwrap();
    let w = case.weights(entry);
    let model = entry.build(&config, &w).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    assert_eq!(w.n_elements(), case.doc["n_params"].as_u64().unwrap(), "{}: parameters", case.name);

    let input = case.input();
    let (point, mut taps, mut trace) = (Point::new(), Taps::all(), Trace::default());
    let out = staged::run(model.trunk(), &[], &mut Ctx::new(&point, &mut taps, &mut trace), &input)
        .unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let rows = Rows::new(&model.lens(&input).unwrap()).unwrap();
    let (cols, width) = (columns(&input, &rows), case.width(&rows));
    let tolerance = case.doc["tolerance"].as_f64().unwrap() as f32;
    let mut worst = 0f32;
    let mut seen = 0;
    for (name, values) in taps.recorded() {
        let Some(want) = case.tensors.get(&format!("tap.{name}")) else { continue };
        seen += 1;
        let e = if name.ends_with("attn.probs") {
            probs_error(values, want, &rows, &cols)
        } else {
            error(&unpack(&values[0], &rows, &cols, width).unwrap(), want)
        };
        assert!(e <= tolerance, "{}: FIRST difference at {name}: {e:e} of the reference's largest value", case.name);
        worst = worst.max(e);
    }
    let taps_stored = case.tensors.keys().filter(|k| k.starts_with("tap.")).count();
    assert_eq!(seen, taps_stored, "{}: every stored tap is compared", case.name);
    for (key, want) in case.tensors.iter().filter(|(k, _)| k.starts_with("out.") && *k != "out.loss") {
        // On left-padded input the reference pools a padding row; packed rows have none, ours pools the first token.
        if key == "out.pooler_output" && case.name.ends_with("left_pad") {
            continue;
        }
        let e = error(&padded(&out, &key[4..], &cols, width), want);
        assert!(e <= tolerance, "{}: {key} differs by {e:e}", case.name);
        worst = worst.max(e);
    }
    worst.max(check_gradients(entry, case, &config, tolerance))
}

/// Attention maps, packed `[heads, n, n]` per member against padded `[b, heads, n, n]`.
fn probs_error(got: &[Tensor], want: &Tensor, rows: &Rows, cols: &[u32]) -> f32 {
    let mut worst = 0f32;
    for (i, map) in got.iter().enumerate() {
        let at: Vec<u32> = cols[rows.range(i)].to_vec();
        let at = Tensor::from_slice(&at, at.len(), &Device::Cpu).unwrap();
        let w = want.get(i).unwrap().index_select(&at, 1).unwrap().index_select(&at, 2).unwrap();
        worst = worst.max(error(map, &w));
    }
    worst
}

fn loss(case: &Case, out: &Output, cols: &[u32], width: usize) -> Tensor {
    if let Some(probe) = case.tensors.get("in.probe") {
        // The mean runs over the padded tensor; padded places hold zero.
        let (x, rows) = out.get_rows("last_hidden_state").unwrap();
        let dim = x.dims()[1];
        let packed: Vec<u32> =
            (0..rows.n()).flat_map(|i| cols[rows.range(i)].iter().map(move |c| i as u32 * width as u32 + c)).collect();
        let index = Tensor::from_slice(&packed, packed.len(), &Device::Cpu).unwrap();
        let flat = probe.to_dtype(DType::F32).unwrap().reshape(((), dim)).unwrap();
        let probe_rows = flat.index_select(&index, 0).unwrap();
        let total = (x * probe_rows).unwrap().sum_all().unwrap();
        return (total / probe.elem_count() as f64).unwrap();
    }
    let labels =
        case.tensors["in.labels"].to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1::<i64>().unwrap();
    let (logits, labels): (Tensor, Vec<i64>) = match out.get_rows("logits") {
        Some((t, rows)) => {
            let places = (0..rows.n()).flat_map(|i| rows.range(i).map(move |r| i * width + cols[r] as usize));
            (t.clone(), places.map(|p| labels[p]).collect())
        }
        None => (out.get("logits").unwrap().clone(), labels),
    };
    let used: Vec<u32> = (0..labels.len() as u32).filter(|i| labels[*i as usize] >= 0).collect();
    let classes: Vec<u32> = used.iter().map(|i| labels[*i as usize] as u32).collect();
    let n = used.len();
    let logits = logits.index_select(&Tensor::from_vec(used, n, &Device::Cpu).unwrap(), 0).unwrap();
    let log =
        (&logits - logits.log_sum_exp(1).unwrap().unsqueeze(1).unwrap().broadcast_as(logits.shape()).unwrap()).unwrap();
    let picked = log.gather(&Tensor::from_vec(classes, (n, 1), &Device::Cpu).unwrap(), 1).unwrap();
    picked.mean_all().unwrap().neg().unwrap()
}

fn check_gradients(entry: &Entry, case: &Case, config: &ConfigMap, tolerance: f32) -> f32 {
    let Some(want_loss) = case.tensors.get("out.loss") else { return 0.0 };
    let w = case.weights(entry).trainable();
    let model = entry.build(config, &w).unwrap();
    let input = case.input();
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.train = true;
    let out = staged::run(model.trunk(), &[], &mut cx, &input).unwrap();
    let rows = Rows::new(&model.lens(&input).unwrap()).unwrap();
    let loss = loss(case, &out, &columns(&input, &rows), case.width(&rows));
    let e = error(&loss.reshape(want_loss.shape()).unwrap(), want_loss);
    assert!(e <= tolerance, "{}: loss differs by {e:e}", case.name);
    let grads = loss.backward().unwrap();
    let mut by_name = BTreeMap::new();
    for p in w.params() {
        // A loss on the hidden states does not reach the pooler; the all-gradients law covers every tensor.
        let Some(g) = grads.get(p.var.as_tensor()) else { continue };
        let mut from = 0;
        for (name, rows) in &p.names {
            by_name.insert(name.clone(), g.narrow(0, from, *rows).unwrap());
            from += rows;
        }
    }
    let mut worst = e;
    for (key, want) in case.tensors.iter().filter(|(k, _)| k.starts_with("grad.")) {
        let name = case.doc["seed_as"]
            .as_object()
            .and_then(|m| m.iter().find(|(_, v)| v.as_str() == Some(&key[5..])).map(|(k, _)| k.as_str()))
            .unwrap_or(&key[5..]);
        let canonical = entry.names.canonical(name);
        let got = match by_name.get(&canonical) {
            Some(g) => g.clone(),
            // A fused tensor of another layout: its parts, stacked.
            None if canonical.contains(".qkv.") => {
                let part = |p: &str| by_name[&canonical.replace("qkv", p)].clone();
                Tensor::cat(&[part("query"), part("key"), part("value")], 0).unwrap()
            }
            None => panic!("{}: no parameter {canonical}", case.name),
        };
        let e = error(&got.reshape(want.shape()).unwrap(), want);
        assert!(e <= tolerance, "{}: {key} differs by {e:e}", case.name);
        worst = worst.max(e);
    }
    worst
}

#[test]
fn every_model_matches_its_reference() {
    let mut report = String::new();
    for entry in ZOO {
        for case in cases(entry.name) {
            let worst = check(entry, &case);
            report.push_str(&format!("{:<28} max relative error {worst:.1e}\n", case.name));
        }
    }
    println!("{report}");
}

#[test]
fn parameter_counts_equal_the_published_ones() {
    for entry in ZOO {
        for v in entry.variants {
            let config = ConfigMap::new(switchformer_zoo::Opened::preset(v.name).unwrap()).unwrap();
            let w = Weights::shapes_only();
            (entry.load)(&config, &w).unwrap();
            assert_eq!(w.n_elements(), v.params, "{}", v.name);
        }
    }
    let doc: Value = serde_json::from_slice(&std::fs::read(golden_dir().join("params.json")).unwrap()).unwrap();
    let mut checked = 0;
    for row in doc.as_array().unwrap() {
        let Ok(entry) = switchformer_zoo::find(row["model"].as_str().unwrap()) else { continue };
        let mut config = row["config"].clone();
        config["architectures"] = serde_json::json!([row["architecture"]]);
        let w = Weights::shapes_only();
        (entry.load)(&ConfigMap::new(config).unwrap(), &w).unwrap_or_else(|e| panic!("{}: {e}", row["variant"]));
        assert_eq!(w.n_elements(), row["n_params"].as_u64().unwrap(), "{}", row["variant"]);
        checked += 1;
    }
    assert!(checked >= 10, "only {checked} counted");
}
