//! Every model against its reference: taps in order of computation, outputs, loss and gradients.
//!
//! Weights are not stored: both sides draw each tensor from its published name, so a pass also proves the layout.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use common::typed;
use serde_json::Value;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::output::unpack;
use switchformer_nn::staged::lens;
use switchformer_nn::{Ctx, Input, InputSpec, Model, Output, Point, Rows, Taps, Trace, Weights, staged};
use switchformer_tensor::{DType, Tensor};
use switchformer_zoo::timm::canonical;
use switchformer_zoo::{Entry, Opened, ZOO};

/// How far our multiply-adds may be from those counted on the reference, and from the published figure.
const COUNTED: f64 = 0.025;
const PUBLISHED: f64 = 0.08;

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
        let tensors = switchformer_tensor::safetensors::load(dir.join(format!("{numbers}.safetensors"))).unwrap();
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

    /// A case may be recorded at a point of its own.
    fn point(&self) -> Point {
        self.doc.get("point").map_or(Point::new(), |p| typed(&Point::parse(&p.to_string()).unwrap()))
    }

    fn input(&self, spec: &InputSpec) -> Input {
        // What the loss is made of is no input.
        let name = |key: &str| key.strip_prefix("in.").filter(|n| !["labels", "probe"].contains(n)).map(String::from);
        let given = self.tensors.iter().filter_map(|(key, t)| Some((name(key)?, t.clone())));
        Input::from_tensors(&given.collect(), spec).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    /// What the outputs stand for: what is written, where the model writes.
    fn answered(&self, input: &Input, model: &dyn Model) -> Side {
        let writes = model.spec().takes("decoder_input_ids");
        self.side(if writes { "decoder_input_ids" } else { "input_ids" }, input, model)
    }

    /// Where the rows of one part of the input are in the padded tensors.
    fn side(&self, name: &str, input: &Input, model: &dyn Model) -> Side {
        match input.ids(name) {
            Ok(text) => {
                let width = self.tensors[&format!("in.{name}")].dims()[1];
                Side { rows: text.rows.clone(), columns: text.columns.clone(), width }
            }
            Err(_) => {
                let rows = Rows::new(&lens(model.trunk(), input).unwrap()).unwrap();
                Side { columns: rows.positions().to_vec(), width: rows.max_len(), rows }
            }
        }
    }
}

/// Packed rows and their columns in padded tensors of a width.
struct Side {
    rows: Rows,
    columns: Vec<u32>,
    width: usize,
}

impl Side {
    /// Packed rows at their places. A pyramid has fewer rows from stage to stage, and no padding.
    fn unpack(&self, t: &Tensor, want: &Tensor) -> Tensor {
        if t.dims()[0] != self.rows.total() {
            return t.reshape(want.dims()).unwrap();
        }
        unpack(t, &self.rows, &self.columns, self.width).unwrap()
    }

    /// Columns of one member.
    fn at(&self, i: usize) -> Tensor {
        let at = &self.columns[self.rows.range(i)];
        Tensor::from_slice(at, at.len()).unwrap()
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

fn padded(out: &Output, name: &str, side: &Side, want: &Tensor) -> Tensor {
    match out.get_rows(name) {
        Some((t, _)) => side.unpack(t, want),
        None => out.get(name).unwrap().clone(),
    }
}

fn check(entry: &Entry, case: &Case) -> f32 {
    let config = ConfigMap::new(canonical(case.doc["config"].clone()).unwrap()).unwrap();
    let w = case.weights(entry);
    let model = entry.build(&config, &w).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    assert_eq!(w.n_elements(), case.doc["n_params"].as_u64().unwrap(), "{}: parameters", case.name);

    let input = case.input(&model.spec());
    let point = case.point();
    let (mut taps, mut trace) = (Taps::all(), Trace::default());
    let out = staged::run(model.trunk(), &[], &mut Ctx::new(&point, &mut taps, &mut trace), &input)
        .unwrap_or_else(|e| panic!("{}: {e}", case.name));
    // What is read, and what the outputs stand for; the same but for pairs.
    let source = case.side("input_ids", &input, model.as_ref());
    let side = case.answered(&input, model.as_ref());
    let tolerance = case.doc["tolerance"].as_f64().unwrap() as f32;
    let mut worst = 0f32;
    let mut seen = 0;
    // The stem and the first blocks read, the later ones write; the first exit says where that begins.
    let reads = |name: &str| {
        let block = name.strip_prefix("blocks.").and_then(|n| n.split('.').next()).map(|n| n.parse::<usize>().unwrap());
        block.is_none_or(|b| b + 1 < model.trunk().first_exit())
    };
    for (name, values) in taps.recorded() {
        let Some(want) = case.tensors.get(&format!("tap.{name}")) else { continue };
        seen += 1;
        let own = if reads(name) { &source } else { &side };
        let e = match name.rsplit_once('.') {
            Some((place, "probs")) => {
                probs_error(values, want, own, if place.ends_with("cross") { &source } else { own })
            }
            // Maps of one size: `[h, w, c]` per member against `[b, h, w, c]`.
            _ if name.starts_with("stages.") => error(&Tensor::stack(values, 0).unwrap(), want),
            _ => error(&own.unpack(&values[0], want), want),
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
        let of = if key == "out.encoder_last_hidden_state" { &source } else { &side };
        let e = error(&padded(&out, &key[4..], of, want), want);
        assert!(e <= tolerance, "{}: {key} differs by {e:e}", case.name);
        worst = worst.max(e);
    }
    worst.max(check_gradients(entry, case, &config, tolerance))
}

/// Attention maps, packed `[heads, n, m]` per member against padded `[b, heads, n, m]`.
fn probs_error(got: &[Tensor], want: &Tensor, queries: &Side, keys: &Side) -> f32 {
    let mut worst = 0f32;
    for (i, map) in got.iter().enumerate() {
        let rows = want.get(i).unwrap().index_select(&queries.at(i), 1).unwrap();
        let w = rows.index_select(&keys.at(i), 2).unwrap();
        worst = worst.max(error(map, &w));
    }
    worst
}

fn loss(case: &Case, out: &Output, side: &Side) -> Tensor {
    let (cols, width) = (&side.columns, side.width);
    if let Some(probe) = case.tensors.get("in.probe") {
        // The mean runs over the padded tensor; padded places hold zero.
        let Some((x, rows)) = out.get_rows("last_hidden_state") else {
            return (out.get("logits").unwrap() * probe).unwrap().mean_all().unwrap(); // a dense answer
        };
        let dim = x.dims()[1];
        if x.elem_count() == probe.elem_count() {
            return ((x * probe.reshape(x.dims()).unwrap()).unwrap().mean_all()).unwrap();
        }
        let packed: Vec<u32> =
            (0..rows.n()).flat_map(|i| cols[rows.range(i)].iter().map(move |c| i as u32 * width as u32 + c)).collect();
        let index = Tensor::from_slice(&packed, packed.len()).unwrap();
        let flat = probe.to_dtype(DType::F32).unwrap().reshape(((), dim)).unwrap();
        let probe_rows = flat.index_select(&index, 0).unwrap();
        let total = (x * probe_rows).unwrap().sum_all().unwrap();
        return (total / probe.elem_count() as f64).unwrap();
    }
    let labels =
        case.tensors["in.labels"].to_dtype(DType::I64).unwrap().flatten_all().unwrap().to_vec1::<i64>().unwrap();
    if let Some((_, rows)) = out.get_rows("start_logits") {
        // First and last places of answers, each among the rows of its member.
        let of = |i: usize, (kind, name): (usize, &str)| {
            let range = rows.range(i);
            let logits = out.get_rows(name).unwrap().0.narrow(0, range.start, range.len()).unwrap();
            (logits.log_sum_exp(0).unwrap() - logits.get(labels[2 * i + kind] as usize).unwrap()).unwrap()
        };
        let both = [(0, "start_logits"), (1, "end_logits")];
        let all: Vec<Tensor> = (0..rows.n()).flat_map(|i| both.map(|kind| of(i, kind))).collect();
        return Tensor::stack(&all, 0).unwrap().mean_all().unwrap();
    }
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
    let logits = logits.index_select(&Tensor::from_vec(used, n).unwrap(), 0).unwrap();
    let log =
        (&logits - logits.log_sum_exp(1).unwrap().unsqueeze(1).unwrap().broadcast_as(logits.shape()).unwrap()).unwrap();
    let picked = log.gather(&Tensor::from_vec(classes, (n, 1)).unwrap(), 1).unwrap();
    picked.mean_all().unwrap().neg().unwrap()
}

fn check_gradients(entry: &Entry, case: &Case, config: &ConfigMap, tolerance: f32) -> f32 {
    let Some(want_loss) = case.tensors.get("out.loss") else { return 0.0 };
    let w = case.weights(entry).trainable();
    let model = entry.build(config, &w).unwrap();
    let input = case.input(&model.spec());
    let (point, mut taps, mut trace) = (case.point(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.train = true;
    let out = staged::run(model.trunk(), &[], &mut cx, &input).unwrap();
    let loss = loss(case, &out, &case.answered(&input, model.as_ref()));
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
    let names = entry.names.among(case.doc["tensors"].as_object().unwrap().keys().map(String::as_str));
    let mut worst = e;
    for (key, want) in case.tensors.iter().filter(|(k, _)| k.starts_with("grad.")) {
        let name = case.doc["seed_as"]
            .as_object()
            .and_then(|m| m.iter().find(|(_, v)| v.as_str() == Some(&key[5..])).map(|(k, _)| k.as_str()))
            .unwrap_or(&key[5..]);
        let canonical = names.canonical(name);
        let got = match by_name.get(&canonical) {
            Some(g) => g.clone(),
            // Several tensors stored as one.
            None if canonical.contains(".#.") => {
                // An expert that no row met has no gradient.
                let idle = want.get(0).unwrap().zeros_like().unwrap();
                let names = Names::parts(&canonical, want.dims()[0]).unwrap();
                let parts: Vec<&Tensor> = names.iter().map(|p| by_name.get(p).unwrap_or(&idle)).collect();
                Tensor::stack(&parts, 0).unwrap()
            }
            // A fused tensor of another layout: its parts, stacked.
            None if canonical.contains(".qkv.") => {
                let part = |p: &str| by_name[&canonical.replace("qkv", p)].clone();
                Tensor::cat(&[part("query"), part("key"), part("value")], 0).unwrap()
            }
            None if canonical.contains(".kv.") => {
                let part = |p: &str| by_name[&canonical.replace(".kv.", p)].clone();
                Tensor::cat(&[part(".key."), part(".value.")], 0).unwrap()
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
        for v in entry.variants().unwrap() {
            let config = ConfigMap::new(Opened::preset(&v.name).unwrap()).unwrap();
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

/// Multiply-adds of one image of the trained size, against the count that the reference's own code gives and the figure
/// of its paper (`golden/macs.json`, in units of 10^9). Counters differ in what they leave out: norms, activations and
/// biases are no multiply-adds here.
#[test]
fn multiply_adds_agree_with_the_references() {
    let rows: Value = serde_json::from_slice(&std::fs::read(golden_dir().join("macs.json")).unwrap()).unwrap();
    for row in rows.as_array().unwrap() {
        let name = row["variant"].as_str().unwrap();
        let ours = Opened::forecast(name).unwrap().macs as f64 / 1e9;
        let off = |field: &str| row[field].as_f64().map(|theirs| ours / theirs - 1.0);
        let (counted, published) = (off("counted").unwrap(), off("published"));
        let paper = published.map(|off| format!("  {:+5.1} % of the paper", 100.0 * off)).unwrap_or_default();
        println!("{name:<28} {ours:7.3} G  {:+5.1} % of the count{paper}", 100.0 * counted);
        let near = published.is_none_or(|off| off.abs() < PUBLISHED);
        assert!(counted.abs() < COUNTED && near, "{name}: {ours} G against {row}");
    }
}
