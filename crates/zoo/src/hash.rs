//! Fitting the hash of EcoFormer: a PVT v2 whose softmax attention sees the whole map becomes an EcoFormer whose codes
//! say which rows that attention holds alike.
//!
//! Queries become the shared projection of queries and keys, values stay, keys are dropped in all stages but the last.
//! Block after block, on rows that came through the hashed blocks before it: anchors are rows of the first image drawn by
//! seed, and every bit of the code is fitted to what the bits before it left of the similarities, by gradient descent on
//! smooth signs. What is written is a folder like any other, to be trained on. (Method: arXiv 2209.09004.)

mod fit;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::staged::Left;
use switchformer_nn::store::{SavedMap, unused, write_folder};
use switchformer_nn::{Ctx, Error, Folder, Input, Model, Param, Point, Result, Taps, Trace, Weights, walk};
use switchformer_switch::Quantization;

pub use fit::{Fitted, Sample, fit, places};

use crate::entry::find;
use crate::open::read_config;
use crate::save::{published_tensors, remade};

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

/// Writes to `out` an EcoFormer of the PVT v2 in `dir`, its hash fitted to images. Errors where the model's attention
/// sees a reduced map, where a map has fewer rows than the fit needs, and where `out` exists.
/// Shapes: pixels `[b, c, h, w]`.
pub fn hash_attention(dir: &Path, out: &Path, pixels: &Tensor, how: &HashFit) -> Result<Hashed> {
    unused(out)?;
    let (source, config, before) = whole_attention(dir)?;
    let mut fields = config.as_map().clone();
    let name = "ecoformer_pvt_v2";
    let entry = find(name)?;
    fields.insert("model_type".into(), json!(name));
    fields.insert("architectures".into(), json!([entry.architectures[0]]));
    fields.insert("nbits".into(), json!(how.bits));
    fields.insert("m".into(), json!(how.anchors));
    fields.remove("switch");
    let config = ConfigMap::new(Json::Object(fields.clone()))?;
    let w = Weights::fresh(how.seed, 1.0).trainable();
    let model = entry.build(&config, &w)?;
    let params = w.params();
    take_over(&params, &source)?;
    let mut made = Hashed { errors: Vec::new(), improved: [0; 2], params: [before, w.n_elements()] };
    fit_blocks(model.as_ref(), &params, pixels, how, &mut made)?;

    let mut files = remade(dir, &fields, &published_tensors(entry, entry.architectures[0], &params)?)?;
    files.remove("switch.json");
    write_folder(out, &files.into_iter().collect::<Vec<_>>())?;
    Ok(made)
}

/// Tensors by name, config and parameters of a PVT v2 that attends to whole maps.
fn whole_attention(dir: &Path) -> Result<(BTreeMap<String, Vec<f32>>, ConfigMap, u64)> {
    let folder = Folder::disk(dir)?;
    let (entry, config) = read_config(&folder)?;
    if entry.name != "pvt_v2" {
        return Err(Error::unsupported("model_type", entry.name, "pvt_v2, whose attention a hash can stand in for"));
    }
    let architecture = "PvtV2ForImageClassification";
    if entry.architecture(&config)? != architecture {
        return Err(Error::unsupported("architectures", entry.architecture(&config)?, architecture));
    }
    let ratios = config.get("sr_ratios").and_then(Json::as_array).cloned().unwrap_or_default();
    if ratios.is_empty() || ratios.iter().any(|r| r.as_u64() != Some(1)) || config.flag("linear_attention", false)? {
        let got = if ratios.is_empty() { "those of PVT v2".to_string() } else { Json::Array(ratios).to_string() };
        return Err(Error::unsupported("sr_ratios", got, "1 everywhere: train the model with whole attention first"));
    }
    if Quantization::read(&config)? != Quantization::None {
        return Err(Error::unsupported("quantization_config", "stored integers", "a checkpoint of plain floats"));
    }
    let w = Weights::open(&folder, &entry.names)?.trainable();
    entry.build(&config, &w)?;
    let tensors: SavedMap = published_tensors(entry, entry.architectures[0], &w.params())?;
    let floats = |bytes: &[u8]| bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let tensors = tensors.iter().map(|(name, saved)| (name.clone(), floats(&saved.bytes))).collect();
    Ok((tensors, config, w.n_elements()))
}

/// Gives every tensor of an EcoFormer, the hash apart, the values that the softmax model has for it.
fn take_over(params: &[Param], source: &BTreeMap<String, Vec<f32>>) -> Result<()> {
    for p in params.iter().filter(|p| !is_hash(p)) {
        let mut values: Vec<f32> = Vec::with_capacity(p.var.elem_count());
        for (name, _) in &p.names {
            let origins = match name.split_once(".qkv.") {
                Some((at, end)) => ["query", "key", "value"].map(|part| format!("{at}.{part}.{end}")).to_vec(),
                None => vec![name.replace(".to_qk.", ".query.").replace(".to_v.", ".value.")],
            };
            for origin in origins {
                let found = source.get(&origin);
                values
                    .extend(found.ok_or_else(|| Error::config(&origin, "is missing, and the hashed model needs it"))?);
            }
        }
        p.var.set(&Tensor::from_vec(values, p.var.dims(), &Device::Cpu)?)?;
    }
    Ok(())
}

/// What belongs to a hash: `[heads, bits, anchors]` and the like.
const HASH: &str = "fast_attention.ksh.";

fn is_hash(p: &Param) -> bool {
    p.names.iter().any(|(name, _)| name.contains(HASH))
}

/// Fits block after block; hashed blocks are the first of the model.
fn fit_blocks(model: &dyn Model, params: &[Param], pixels: &Tensor, how: &HashFit, made: &mut Hashed) -> Result<()> {
    let hash = |part: &str| -> Vec<&Param> {
        let end = format!("{HASH}{part}");
        params.iter().filter(|p| p.names.iter().any(|(name, _)| name.ends_with(&end))).collect()
    };
    let hashes = hash("anchor").into_iter().zip(hash("mvec")).zip(hash("A"));
    let (point, mut trace) = (Point::new(), Trace::default());
    let trunk = model.trunk();
    let mut quiet = Taps::none();
    let mut state = trunk.stem(&mut Ctx::new(&point, &mut quiet, &mut trace), &Input::Pixels(pixels.clone()))?;
    let members = pixels.dims4()?.0;
    for (idx, ((anchors, means), matrix)) in hashes.enumerate() {
        let name = format!("blocks.{idx}.attn.qk");
        let mut taps = Taps::named([name.as_str()]);
        let mut run = |taps: &mut Taps, state| {
            walk(trunk, &[], &mut Ctx::new(&point, taps, &mut trace), idx..idx + 1, state, &mut Left::new())
        };
        run(&mut taps, state.clone())?;
        let rows = taps.get(&name).and_then(|all| all.first());
        let rows = rows.ok_or_else(|| Error::input(format!("block {idx} shows no queries"), "this is a bug"))?;
        let heads = anchors.var.dims()[1];
        let sample = Sample::of(&rows.detach(), members, heads)?;
        let start: Vec<f32> = matrix.var.flatten_all()?.to_vec1()?;
        let fitted = fit(&sample, &start, &places(sample.rows(), how, idx as u64), how)?;
        for (param, values) in [(anchors, fitted.anchors), (means, fitted.means), (matrix, fitted.matrix)] {
            param.var.set(&Tensor::from_vec(values, param.var.dims(), &Device::Cpu)?)?;
        }
        made.errors.push(fitted.errors);
        made.improved = [made.improved[0] + fitted.improved, made.improved[1] + how.bits];
        state = run(&mut quiet, state)?;
        state.x = state.x.detach();
    }
    Ok(())
}
