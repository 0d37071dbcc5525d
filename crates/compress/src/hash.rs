//! Fitting the hash of EcoFormer: a PVT v2 or Twins whose softmax attention sees the whole map becomes one whose codes
//! say which rows that attention holds alike.
//!
//! Queries become the shared projection of queries and keys, values stay, keys are dropped in all stages that are hashed.
//! Block after block, on rows that came through the hashed blocks before it: anchors are rows of the first image drawn by
//! seed, and every bit of the code is fitted to what the bits before it left of the similarities, by gradient descent on
//! smooth signs. What is written is a folder like any other, to be trained on. (Method: arXiv 2209.09004.)

mod fit;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::staged::Left;
use switchformer_nn::store::{SavedMap, unused, write_folder};
use switchformer_nn::{Ctx, Error, Folder, Input, Model, Param, Point, Result, Taps, Trace, Weights, path, walk};
use switchformer_switch::Plan;
use switchformer_tensor::Tensor;

pub use fit::{Fitted, Sample, fit, places};

use switchformer_zoo::assemble::{Source, assemble};
use switchformer_zoo::open::read_config;
use switchformer_zoo::save::{published_tensors, remade};
use switchformer_zoo::{Entry, find};

/// How a hash is fitted; the published numbers by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashFit {
    /// Seed of anchors and of the bits' first values.
    pub seed: u64,
    /// Bits of a code.
    pub bits: usize,
    /// Rows that others are compared with.
    pub anchors: usize,
    /// Rows that each row is held alike with, and as many that it is held unlike.
    pub top_k: usize,
    /// Steps of descent per bit.
    pub steps: usize,
}

impl Default for HashFit {
    fn default() -> Self {
        HashFit { seed: 0, bits: 16, anchors: 25, top_k: 10, steps: 100 }
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Hashed {
    /// Mean squared distance of codes' products and wanted similarities, per pair of rows: with the drawn bits and with the
    /// fitted ones, for every hashed block.
    pub errors: Vec<[f64; 2]>,
    /// Bits that the fit made better, of all.
    pub improved: [usize; 2],
    /// Parameters before and after.
    pub params: [u64; 2],
}

/// Writes to `out` the model in `dir` with codes in place of softmax, the hash fitted to images. Errors where the model's
/// attention does not see the whole map, where a map has fewer rows than the fit needs, and where `out` exists.
pub fn hash_attention(dir: &Path, out: &Path, input: &Input, how: &HashFit) -> Result<Hashed> {
    unused(out)?;
    let source = Softmax::open(dir)?;
    let mut fields = source.config.as_map().clone();
    fields.insert("nbits".into(), json!(how.bits));
    fields.insert("m".into(), json!(how.anchors));
    let entry = match source.entry.name {
        "pvt_v2" => {
            let entry = find("ecoformer_pvt_v2")?;
            fields.insert("model_type".into(), json!(entry.name));
            fields.insert("architectures".into(), json!([entry.bare()]));
            entry
        }
        _ => {
            fields.insert("attn_type".into(), json!("ecoformer"));
            source.entry
        }
    };
    fields.remove("switch");
    let config = ConfigMap::new(Json::Object(fields.clone()))?;
    let w = Weights::fresh(how.seed, 1.0).trainable();
    let made = assemble(entry, &config, &Plan::default(), Source::plain(w))?;
    let (model, w) = (made.model, made.source.model);
    let params = w.params();
    if !params.iter().any(is_hash) {
        return Err(Error::unsupported("sr_ratios", "1 in every stage", "more than 1 where codes are to stand in"));
    }
    take_over(&params, &source)?;
    let mut made = Hashed { errors: Vec::new(), improved: [0; 2], params: [source.params, w.n_elements()] };
    fit_blocks(model.as_ref(), &params, input, how, &mut made)?;

    let mut files = remade(dir, &fields, &published_tensors(entry, entry.bare(), &params)?)?;
    files.remove("switch.json");
    write_folder(out, &files.into_iter().collect::<Vec<_>>())?;
    Ok(made)
}

/// A model whose softmax attention sees the whole map.
struct Softmax {
    entry: &'static Entry,
    config: ConfigMap,
    /// By the names of the checkpoint.
    tensors: BTreeMap<String, Vec<f32>>,
    params: u64,
}

impl Softmax {
    fn open(dir: &Path) -> Result<Self> {
        let folder = Folder::disk(dir)?;
        let (entry, config) = read_config(&folder)?;
        match entry.name {
            "pvt_v2" => whole_maps(entry, &config)?,
            "ecoformer_pvt_v2" | "twins" => {
                let kind = config.text("attn_type", if entry.name == "twins" { "none" } else { "ecoformer" })?;
                if kind != "msa" {
                    let all = "msa: train the model with attention to whole maps first";
                    return Err(Error::unsupported("attn_type", kind, all));
                }
            }
            other => return Err(Error::unsupported("model_type", other, "pvt_v2, ecoformer_pvt_v2, twins")),
        }
        Plan::read(&folder, &config)?.check_plain("start from a plain checkpoint of floats")?;
        let w = Weights::open(&folder, &entry.names)?.trainable();
        let w = assemble(entry, &config, &Plan::default(), Source::plain(w))?.source.model;
        let tensors: SavedMap = published_tensors(entry, entry.bare(), &w.params())?;
        let floats =
            |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let tensors = tensors.iter().map(|(name, saved)| (name.clone(), floats(&saved.bytes))).collect();
        Ok(Softmax { entry, config, tensors, params: w.n_elements() })
    }

    /// What a tensor of the hashed model has in this one. PVT v2 keeps queries, keys and values apart; the others have
    /// them in one.
    fn of(&self, name: &str) -> Result<Vec<f32>> {
        let get = |name: &str| self.tensors.get(name).cloned();
        let third = |all: Vec<f32>, i: usize| all[i * all.len() / 3..(i + 1) * all.len() / 3].to_vec();
        let in_one = |part: &str, i| get(&name.replace(part, ".qkv.")).map(|all| third(all, i));
        let found = match [".qkv.", ".to_qk.", ".to_v."].into_iter().find(|part| name.contains(part)) {
            None => get(name),
            Some(part @ ".qkv.") => get(name).or_else(|| {
                let parts = [".query.", ".key.", ".value."].map(|own| get(&name.replace(part, own)));
                parts.into_iter().collect::<Option<Vec<_>>>().map(|all| all.concat())
            }),
            Some(part @ ".to_qk.") => get(&name.replace(part, ".query.")).or_else(|| in_one(part, 0)),
            Some(part) => get(&name.replace(part, ".value.")).or_else(|| in_one(part, 2)),
        };
        found.ok_or_else(|| Error::config(name, "has no counterpart in the model, and the hashed one needs it"))
    }
}

/// Whether a PVT v2 attends to whole maps.
fn whole_maps(entry: &Entry, config: &ConfigMap) -> Result<()> {
    let architecture = "PvtV2ForImageClassification";
    if entry.architecture(config)? != architecture {
        return Err(Error::unsupported("architectures", entry.architecture(config)?, architecture));
    }
    let ratios = config.get("sr_ratios").and_then(Json::as_array).cloned().unwrap_or_default();
    if ratios.is_empty() || ratios.iter().any(|r| r.as_u64() != Some(1)) || config.flag("linear_attention", false)? {
        let got = if ratios.is_empty() { "those of PVT v2".to_string() } else { Json::Array(ratios).to_string() };
        return Err(Error::unsupported("sr_ratios", got, "1 everywhere: train the model with whole attention first"));
    }
    Ok(())
}

/// Gives every tensor of a hashed model, the hash apart, the values that the softmax model has for it.
fn take_over(params: &[Param], source: &Softmax) -> Result<()> {
    for p in params.iter().filter(|p| !is_hash(p)) {
        let mut values: Vec<f32> = Vec::with_capacity(p.var.elem_count());
        for (name, _) in &p.names {
            values.extend(source.of(name)?);
        }
        p.var.set(&Tensor::from_vec(values, p.var.dims())?)?;
    }
    Ok(())
}

/// What belongs to a hash: `[heads, bits, anchors]` and the like.
const HASH: &str = "fast_attention.ksh.";

fn is_hash(p: &Param) -> bool {
    p.names.iter().any(|(name, _)| name.contains(HASH))
}

/// Fits block after block; a hashed one is known by the queries that it shows.
fn fit_blocks(model: &dyn Model, params: &[Param], input: &Input, how: &HashFit, made: &mut Hashed) -> Result<()> {
    let hash = |part: &str| -> Vec<&Param> {
        let end = format!("{HASH}{part}");
        params.iter().filter(|p| p.names.iter().any(|(name, _)| name.ends_with(&end))).collect()
    };
    let mut hashes = hash("anchor").into_iter().zip(hash("mvec")).zip(hash("A")).peekable();
    let (point, mut trace) = (Point::new(), Trace::default());
    let trunk = model.trunk();
    let whole = path::Path::of(trunk);
    let mut quiet = Taps::none();
    let mut state = trunk.stem(&mut Ctx::new(&point, &mut quiet, &mut trace), input)?;
    let members = input.n();
    if state.rows.lens().windows(2).any(|w| w[0] != w[1]) {
        return Err(Error::input("images of several sizes", "fit a hash to images of one size"));
    }
    for idx in 0..trunk.n_blocks() {
        let name = format!("blocks.{idx}.attn.qk");
        let mut taps = Taps::named([name.as_str()]);
        let mut run = |taps: &mut Taps, state| {
            walk(&whole, &[], &mut Ctx::new(&point, taps, &mut trace), idx..idx + 1, state, &mut Left::new())
        };
        let mut next = run(&mut taps, state.clone())?;
        if let Some(rows) = taps.get(&name).and_then(|all| all.first()) {
            let ((anchors, means), matrix) =
                hashes.next().ok_or_else(|| Error::input(format!("block {idx} has no hash"), "this is a bug"))?;
            let heads = anchors.var.dims()[1];
            let sample = Sample::of(&rows.detach(), members, heads)?;
            let start: Vec<f32> = matrix.var.flatten_all()?.to_vec1()?;
            let fitted = fit(&sample, &start, &places(sample.rows(), how, idx as u64), how)?;
            for (param, values) in [(anchors, fitted.anchors), (means, fitted.means), (matrix, fitted.matrix)] {
                param.var.set(&Tensor::from_vec(values, param.var.dims())?)?;
            }
            made.errors.push(fitted.errors);
            made.improved = [made.improved[0] + fitted.improved, made.improved[1] + how.bits];
            next = run(&mut quiet, state)?;
        }
        if hashes.peek().is_none() {
            break;
        }
        state = next;
        state.x = state.x.detach();
    }
    Ok(())
}
