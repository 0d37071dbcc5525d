//! Upcycling: a dense checkpoint becomes one with experts, each a copy of the feed-forward network it had.
//!
//! The folder stays a plain Hugging Face folder: its own files are copied as they are, `config.json` gains a reference to
//! `switch.json`, and the banks are in `switch.safetensors`. At first every router gives the dense model's answer; the
//! experts differ once they are trained. (Method: "Sparse Upcycling", arXiv 2212.05055.)

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, saved, unused, write_folder};
use switchformer_nn::weights::{LeafMaker, LinearSpec, inspect};
use switchformer_nn::{Error, Ffn, FfnSpec, Folder, Linear, ParamKind, Result, Weights, init};
use switchformer_switch::leaf::experts::{ADDED, ExpertPlan, Experts};
use switchformer_switch::{Plan, Sites};

use switchformer_zoo::assemble::{Source, assemble};
use switchformer_zoo::open::read_config;
use switchformer_zoo::save::{copies, json_bytes};

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upcycled {
    /// Number of banks.
    pub banks: usize,
    /// Parameters of the model before and after.
    pub params: [u64; 2],
}

/// Reads the feed-forward networks of a model while it loads.
#[derive(Default)]
struct Reader {
    /// Path of the bank -> width of its rows, and the network's tensors by their names below its path.
    found: Mutex<BTreeMap<String, (usize, SavedMap)>>,
}

impl LeafMaker for Reader {
    fn linear(&self, _: &Weights, _: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        Ok(None)
    }
    fn ffn(&self, w: &Weights, s: &FfnSpec) -> Result<Option<Box<dyn Ffn>>> {
        let mut tensors = SavedMap::new();
        for LinearSpec { parts, in_dim, out_dim, bias, .. } in [s.stored(), s.back()] {
            let shape = [out_dim, in_dim];
            for name in parts {
                let mut keep = |suffix: &str, shape: &[usize]| -> Result<()> {
                    let name = format!("{name}.{suffix}");
                    // What is missing is reported when loading ends.
                    if w.has(&name) {
                        tensors.insert(name.clone(), saved(&w.tensor(&name, shape, ParamKind::Matrix)?)?);
                    }
                    Ok(())
                };
                keep("weight", &shape)?;
                if bias {
                    keep("bias", &shape[..1])?;
                }
            }
        }
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(w.name(ADDED), (s.dim, tensors));
        Ok(None)
    }
}

/// Writes to `out` the checkpoint of `dir` with `plan.count` copies of every feed-forward network and a fresh gate for
/// each bank, drawn by `seed`. Errors on stored integers, on models that have experts, and where `out` exists.
pub fn upcycle(dir: &Path, out: &Path, plan: &ExpertPlan, seed: u64) -> Result<Upcycled> {
    plan.check("experts")?;
    unused(out)?;
    let folder = Folder::disk(dir)?;
    let (entry, config) = read_config(&folder)?;
    let old = Plan::read(&folder, &config)?;
    if let Some(stored) = old.forms.first() {
        let what = format!("this checkpoint stores {} already", stored.form);
        return Err(Error::input(what, "start from its dense twin, of plain floats"));
    }
    let reader = Arc::new(Reader::default());
    let source = Source::plain(Weights::open(&folder, &entry.names)?.with_leaves(reader.clone()));
    let made = assemble(entry, &config, &Plan::default(), source)?;
    if made.switches.host().capability(&Experts).is_some() {
        return Err(Error::input("this model has experts already", "start from its dense twin"));
    }
    let found = std::mem::take(&mut *reader.found.lock().unwrap_or_else(PoisonError::into_inner));
    if found.is_empty() {
        return Err(Error::input(
            "this model has no feed-forward network that experts can stand in for",
            "a feed-forward with a convolution inside (EcoFormer, FMViT, PVT v2, RMT, SMT) and a network of convolutions (ResNet) have none; see `switchformer list`",
        ));
    }
    let dense = Weights::open(&folder, &entry.names)?;
    entry.build(&config, &dense)?; // the reader asks for some tensors twice
    let mut params = [dense.n_elements(); 2];
    let mut tensors = added(&folder, &old)?;
    let sites = Sites::new(entry.blocks);
    let taken: Vec<_> = found.iter().filter(|(path, _)| plan.takes(&sites, path)).collect();
    for (path, (dim, network)) in &taken {
        let name = format!("{path}.router.classifier.weight");
        let shape = [plan.count, *dim];
        tensors.insert(
            name.clone(),
            Saved::f32(&shape, &init::fresh(&name, &shape, seed, init::INITIALIZER_RANGE, init::Init::Range)),
        );
        params[1] += (plan.count * dim) as u64;
        for (name, tensor) in network {
            params[1] += (plan.count - 1) as u64 * tensor.shape.iter().product::<usize>() as u64;
            for e in 0..plan.count {
                tensors.insert(format!("{path}.experts.expert_{e}.{name}"), tensor.clone());
            }
        }
    }
    let mut fields = config.as_map().clone();
    let new = Plan { forms: vec![plan.used()], ..old };
    let written = new.write(&mut fields)?;
    let mut files = copies(dir, &["json", "txt", "model", "md", "safetensors"])?;
    files.insert("config.json".into(), json_bytes(&Json::Object(fields)));
    files.insert("switch.json".into(), json_bytes(&written));
    files.insert("switch.safetensors".into(), safetensors_bytes(&tensors)?);
    write_folder(out, &files.into_iter().collect::<Vec<_>>())?;
    Ok(Upcycled { banks: taken.len(), params })
}

/// What the checkpoint keeps in `switch.safetensors` already, such as exit heads.
fn added(folder: &Folder, plan: &Plan) -> Result<SavedMap> {
    if !plan.adds() {
        return Ok(SavedMap::new());
    }
    let path = folder.path("switch.safetensors");
    inspect(&path)?; // the strict reader of headers comes first
    let all = switchformer_tensor::safetensors::load(&path)?;
    all.iter().map(|(name, t)| Ok((name.clone(), saved(t)?))).collect()
}
