//! Strict loading: every tensor the model asks for must exist with its shape, and nothing may be left over.

mod lazy;
mod source;
mod spec;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use safetensors::Dtype;
use serde_json::Value;
use switchformer_tensor::{DType, Tensor, Var};

use crate::attention::{AttentionSpec, ByHeads, HeadSite, Projections, SoftmaxAttention};
use crate::error::{Error, MissingTensor, Result};
use crate::folder::Folder;
use crate::init::Init;
use crate::layers::{BatchNorm, Embedding, LayerNorm, RmsNorm, dense_ffn};
use crate::leaf::{Attention, Dense, Ffn, Linear, Tied};
use crate::names::{Names, nearest};

pub use source::Start;
use source::{Fill, Promise, Source};
pub use spec::{FfnSpec, LeafMaker, LinearSpec, PatchSpec, TiedSpec};
pub use switchformer_format::files::{Files, Stored, inspect, inspect_folder};

/// Loading stops after this many missing or misshaped tensors: the config is of another model.
const MAX_FAULTS: usize = 1_000;
/// Most elements a random tensor may have (random weights are made, not mapped).
const MAX_RANDOM: usize = 1 << 31;

/// One trainable tensor and the published tensors it is saved as.
#[derive(Clone, Debug)]
pub struct Param {
    /// Published names with the rows (first dimension) of each; more than one for fused projections.
    pub names: Vec<(String, usize)>,
    /// The variable.
    pub var: Var,
    /// What it is, for weight decay.
    pub kind: ParamKind,
    /// Shape in the checkpoint when it differs from the variable's (a convolution kept as a matrix).
    pub saved_shape: Option<Vec<usize>>,
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// Matrix of a projection: weight decay applies.
    Matrix,
    /// Kernel of a convolution: weight decay applies, and it keeps its form when projections are quantised.
    Kernel,
    /// Table or token: no weight decay.
    Table,
    /// Norm weight or any bias: no weight decay.
    Vector,
    /// Stored and never trained: the statistics of a batch norm. It counts as no parameter.
    Buffer,
}

struct Shared {
    source: Source,
    trainable: bool,
    leaves: Option<Arc<dyn LeafMaker>>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
struct Ledger {
    used: BTreeSet<String>,
    missing: Vec<(String, Vec<usize>)>,
    shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
    params: Vec<Param>,
    elements: u64,
    notes: Vec<(&'static str, Value)>,
    attentions: Vec<HeadSite>,
    /// Full name of a tensor -> the name that it is stored under.
    aliases: BTreeMap<String, String>,
    remarks: Vec<String>,
}

/// A checkpoint seen from one dotted path. The model tree mirrors the published names:
/// `w.at("encoder.layer").at(3).linear("output.dense", ..)`.
#[derive(Clone)]
pub struct Weights {
    shared: Arc<Shared>,
    path: String,
    /// How fresh tensors at or below a path start; the last one counts.
    inits: Vec<(String, Init)>,
}

impl Weights {
    fn new(source: Source) -> Self {
        let shared = Shared { source, trainable: false, leaves: None, ledger: Mutex::default() };
        Weights { shared: Arc::new(shared), path: String::new(), inits: Vec::new() }
    }

    /// Opens `model.safetensors` or the shards of `model.safetensors.index.json` in a folder.
    pub fn open(folder: &Folder, names: &Names) -> Result<Self> {
        Ok(Weights::new(Source::Files(Arc::new(Files::open(folder, names)?))))
    }

    /// Opens one safetensors file of a folder.
    pub fn file(folder: &Folder, name: &str, names: &Names) -> Result<Self> {
        Ok(Weights::new(Source::Files(Arc::new(Files::one(folder, name, names)?))))
    }

    /// Name-seeded values for exactly the tensors of a manifest: `(name on disk, shape, name to seed with)`.
    pub fn manifest<I>(tensors: I, names: &Names) -> Result<Self>
    where
        I: IntoIterator<Item = (String, Vec<usize>, String)>,
    {
        let tensors: Vec<_> = tensors.into_iter().collect();
        let names = names.among(tensors.iter().map(|(name, ..)| name.as_str()));
        let mut map = BTreeMap::new();
        for (name, shape, seed) in tensors {
            let canonical = names.canonical(&name);
            if names.ignored(&canonical) {
                continue;
            }
            let n = shape.first().copied().unwrap_or(0);
            match Names::parts(&canonical, n) {
                Some(parts) => map.extend(parts.into_iter().enumerate().map(|(i, name)| {
                    (name, Promise { shape: shape[1..].to_vec(), seed: seed.clone(), part: Some((i, n)) })
                })),
                None => drop(map.insert(canonical, Promise { shape, seed, part: None })),
            }
        }
        Ok(Weights::new(Source::Manifest(map)))
    }

    /// Name-seeded values for whatever is asked for (benchmarks and laws by preset name).
    pub fn seeded() -> Self {
        Weights::new(Source::Open(Fill::Seeded))
    }

    /// A fresh start for training: truncated normal matrices of the given deviation (`initializer_range` of a
    /// configuration), unit norms, zero biases.
    pub fn fresh(seed: u64, deviation: f32) -> Self {
        Weights::new(Source::Open(Fill::Fresh(seed, deviation)))
    }

    /// Another model's tensors as the start of this one's training; see [`Start`].
    pub fn start(files: Files, start: Start) -> Self {
        Weights::new(Source::Start(Arc::new(files), start))
    }

    /// No values at all: for counting the parameters of sizes that would not fit.
    pub fn shapes_only() -> Self {
        Weights::new(Source::Open(Fill::Shapes))
    }

    /// Makes every tensor a variable, recorded in [`Weights::params`].
    pub fn trainable(self) -> Self {
        let Weights { shared, path, inits } = self;
        let s = Arc::try_unwrap(shared).unwrap_or_else(|s| Shared {
            source: s.source.share(),
            trainable: true,
            leaves: s.leaves.clone(),
            ledger: Mutex::default(),
        });
        Weights { shared: Arc::new(Shared { trainable: true, ..s }), path, inits }
    }

    /// Lets a plan decide the form of projections.
    pub fn with_leaves(self, leaves: Arc<dyn LeafMaker>) -> Self {
        let Weights { shared, path, inits } = self;
        let s = Arc::try_unwrap(shared).unwrap_or_else(|s| Shared {
            source: s.source.share(),
            trainable: s.trainable,
            leaves: None,
            ledger: Mutex::default(),
        });
        Weights { shared: Arc::new(Shared { leaves: Some(leaves), ..s }), path, inits }
    }

    /// The same checkpoint one part deeper.
    pub fn at(&self, part: impl Display) -> Weights {
        Weights { path: self.name(&part.to_string()), ..self.clone() }
    }

    /// The same place, whose tensors start otherwise when a model is made afresh. What a file holds is not touched.
    pub fn with_init(&self, init: Init) -> Weights {
        let mut w = self.clone();
        w.inits.push((w.path.clone(), init));
        w
    }

    /// As [`Weights::with_init`], for what is at or below `part` only.
    pub fn with_init_at(&self, part: &str, init: Init) -> Weights {
        let mut w = self.clone();
        w.inits.push((self.name(part), init));
        w
    }

    /// How a tensor starts.
    fn init_of(&self, name: &str) -> Init {
        let found = self.inits.iter().rev().find(|(path, _)| path.is_empty() || source::below(name, path));
        found.map_or(Init::Range, |(_, init)| *init)
    }

    /// Full dotted name of a tensor below this path.
    pub fn name(&self, part: &str) -> String {
        if self.path.is_empty() { part.to_string() } else { format!("{}.{part}", self.path) }
    }

    /// Whether tensors become variables.
    pub fn is_trainable(&self) -> bool {
        self.shared.trainable
    }

    /// Whether the source holds this tensor (never true for open sources, which hold anything).
    pub fn has(&self, part: &str) -> bool {
        let name = self.name(part);
        match &self.shared.source {
            Source::Files(f) | Source::Start(f, _) => f.entries().contains_key(&name),
            Source::Manifest(m) => m.contains_key(&name),
            Source::Open(_) => false,
        }
    }

    /// Shape of a tensor in the checkpoint; `None` where there is none, or no checkpoint.
    pub fn shape_of(&self, part: &str) -> Option<&[usize]> {
        let (Source::Files(f) | Source::Start(f, _)) = &self.shared.source else { return None };
        f.entries().get(&self.name(part)).map(|e| e.shape.as_slice())
    }

    /// Whether tensors are made on request.
    pub fn is_open(&self) -> bool {
        matches!(self.shared.source, Source::Open(_))
    }

    /// Marks a tensor that this model does not read (the head of another task) as known. A tensor that it reads under
    /// another name too is one for [`Weights::repeats`].
    pub fn skip(&self, part: &str) {
        if self.has(part) {
            self.ledger().used.insert(self.name(part));
        }
    }

    /// Reads `part` from `other`, where only the latter is stored: tensors that share memory are stored once, under a name of
    /// the writer's choice.
    pub fn stored_as(&self, part: &str, other: &str) {
        if !self.has(part) && self.has(other) {
            let (part, other) = (self.name(part), self.name(other));
            self.ledger().aliases.insert(part, other);
        }
    }

    /// Notes down what a user should know of how the checkpoint was read.
    pub fn remark(&self, text: String) {
        self.ledger().remarks.push(text);
    }

    /// What was noted down with [`Weights::remark`].
    pub fn remarks(&self) -> Vec<String> {
        self.ledger().remarks.clone()
    }

    /// Marks what is left over below these first parts of names as known, with a remark: heads that the model does not have.
    pub fn pass_over(&self, heads: &[&str]) {
        let of_head = |name: &&String| heads.iter().any(|h| name.split('.').next() == Some(*h));
        let mut ledger = self.ledger();
        let names: Vec<String> = self.unused(&ledger).filter(of_head).cloned().collect();
        if let Some(first) = names.first() {
            let more = if names.len() > 1 { format!(" and {} more tensors", names.len() - 1) } else { String::new() };
            ledger.remarks.push(format!("`{first}`{more} belong to another head and are not read"));
        }
        ledger.used.extend(names);
    }

    /// Marks `part` as known where it repeats `other`. Errors where both are stored and differ, with what to do, `or`.
    pub fn repeats(&self, part: &str, other: &str, or: &str) -> Result<()> {
        if self.has(part) && self.has(other) && !self.is_copy(part, other) {
            let supported = format!("a copy of `{}`; {or}", self.name(other));
            return Err(Error::unsupported(self.name(part), "a tensor of its own", supported));
        }
        self.skip(part);
        Ok(())
    }

    /// Marks every tensor below a path as known and unused (the decoder of a file opened as an encoder).
    pub fn skip_tree(&self, part: &str) {
        let path = format!("{}.", self.name(part));
        let below = |n: &&String| n.starts_with(&path);
        let names: Vec<String> = match &self.shared.source {
            Source::Files(f) | Source::Start(f, _) => f.entries().keys().filter(below).cloned().collect(),
            Source::Manifest(m) => m.keys().filter(below).cloned().collect(),
            Source::Open(_) => Vec::new(),
        };
        self.ledger().used.extend(names);
    }

    /// Whether the source stores `part` and `other` with equal content: a redundant copy of a tied tensor.
    pub fn is_copy(&self, part: &str, other: &str) -> bool {
        let (part, other) = (self.name(part), self.name(other));
        match &self.shared.source {
            Source::Files(f) | Source::Start(f, _) => match (f.entries().get(&part), f.entries().get(&other)) {
                (Some(a), Some(b)) => a.dtype == b.dtype && a.shape == b.shape && f.bytes(a) == f.bytes(b),
                _ => false,
            },
            Source::Manifest(m) => m.contains_key(&part) && m.get(&part) == m.get(&other),
            Source::Open(_) => false,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The full name of a tensor that the source has in this shape; `None` is recorded as missing or misshaped and reported
    /// by [`Weights::finish`].
    fn found(&self, part: &str, shape: &[usize]) -> Result<Option<String>> {
        let n = elements(shape)?;
        let mut ledger = self.ledger();
        let name = self.name(part);
        let name = ledger.aliases.get(&name).cloned().unwrap_or(name);
        ledger.elements += n as u64;
        let found = match &self.shared.source {
            Source::Files(f) => f.entries().get(&name).map(|e| e.shape.clone()),
            Source::Start(f, start) => start.shape(f, &name, shape),
            Source::Manifest(m) => m.get(&name).map(|p| p.shape.clone()),
            Source::Open(_) => {
                if n > MAX_RANDOM {
                    return Err(Error::Limit {
                        what: format!("elements of {name}"),
                        got: n as u64,
                        max: MAX_RANDOM as u64,
                        hint: "pick a smaller preset".into(),
                    });
                }
                Some(shape.to_vec())
            }
        };
        match found {
            None => ledger.missing.push((name, shape.to_vec())),
            Some(s) if s != shape => {
                ledger.used.insert(name.clone());
                ledger.shapes.push((name, shape.to_vec(), s));
            }
            Some(_) => {
                ledger.used.insert(name.clone());
                return Ok(Some(name));
            }
        }
        if ledger.missing.len() + ledger.shapes.len() >= MAX_FAULTS {
            return Err(self.faults(&ledger));
        }
        Ok(None)
    }

    /// Values of a tensor as f32; `None` as of [`Weights::found`], and where only shapes are wanted.
    fn values(&self, part: &str, shape: &[usize]) -> Result<Option<Vec<f32>>> {
        let Some(name) = self.found(part, shape)? else { return Ok(None) };
        self.shared.source.values(&name, shape, self.init_of(&name))
    }

    /// A tensor of any rank.
    pub fn tensor(&self, part: &str, shape: &[usize], kind: ParamKind) -> Result<Tensor> {
        self.stacked(&[part], None, shape, kind)
    }

    /// A convolution kernel `[out, in, kh, kw]` as the matrix `[out, in * kh * kw]`.
    pub fn conv_matrix(&self, part: &str, shape: &[usize; 4]) -> Result<Tensor> {
        let matrix = [shape[0], shape[1] * shape[2] * shape[3]];
        let t = match self.values(part, shape)? {
            Some(v) => Tensor::from_vec(v, matrix)?.weight(),
            None => return Ok(absent(&matrix, ParamKind::Kernel)),
        };
        self.register(t, vec![(self.name(part), shape[0])], ParamKind::Kernel, Some(shape.to_vec()))
    }

    /// Parts stacked along the first dimension; each has `shape`. A fused tensor of the same content is accepted.
    pub fn stacked(&self, parts: &[&str], fused: Option<&str>, shape: &[usize], kind: ParamKind) -> Result<Tensor> {
        let mut full = shape.to_vec();
        if let Some(first) = full.first_mut() {
            *first *= parts.len();
        }
        let fused = fused.filter(|f| self.has(f));
        let (asked, each) = match &fused {
            Some(fused) => (std::slice::from_ref(fused), full.as_slice()),
            None => (parts, shape),
        };
        let mut names = Vec::with_capacity(asked.len());
        for part in asked {
            names.extend(self.found(part, each)?);
        }
        if names.len() < asked.len() {
            return Ok(absent(&full, kind));
        }
        if let (Source::Files(files), false) = (&self.shared.source, self.shared.trainable)
            && let Some(t) = lazy::tensor(files, &names, &full)?
        {
            return Ok(t);
        }
        let mut data = Vec::new();
        for name in &names {
            match self.shared.source.values(name, each, self.init_of(name))? {
                Some(v) if names.len() == 1 => data = v,
                Some(v) => data.extend(v),
                None => return Ok(absent(&full, kind)),
            }
        }
        let t = Tensor::from_vec(data, full.as_slice())?;
        let t = part_of_model(t, kind);
        let rows = shape.first().copied().unwrap_or(1);
        self.register(t, parts.iter().map(|p| (self.name(p), rows)).collect(), kind, None)
    }

    /// Records a tensor as a trainable parameter when variables are wanted.
    pub fn register(
        &self,
        t: Tensor,
        names: Vec<(String, usize)>,
        kind: ParamKind,
        saved_shape: Option<Vec<usize>>,
    ) -> Result<Tensor> {
        if !self.shared.trainable {
            return Ok(t);
        }
        let var = Var::from_tensor(&t)?;
        // No gradient is computed for what stays; it is a parameter all the same, so that it is saved.
        let out = if self.is_frozen(&names) { var.as_tensor().detach() } else { var.as_tensor().clone() };
        self.ledger().params.push(Param { names, var, kind, saved_shape });
        Ok(out)
    }

    /// Whether a start keeps these tensors as they are.
    fn is_frozen(&self, names: &[(String, usize)]) -> bool {
        match &self.shared.source {
            Source::Start(_, start) => names.iter().all(|(name, _)| start.is_frozen(name)),
            _ => false,
        }
    }

    /// Signed bytes of an I8 tensor with the given shape, if the source stores it so.
    pub fn codes(&self, part: &str, shape: &[usize]) -> Result<Option<Vec<i8>>> {
        let name = self.name(part);
        let Source::Files(f) = &self.shared.source else { return Ok(None) };
        let Some(entry) = f.entries().get(&name).filter(|e| e.dtype == Dtype::I8) else { return Ok(None) };
        let mut ledger = self.ledger();
        ledger.used.insert(name.clone());
        ledger.elements += elements(shape)? as u64;
        if entry.shape != shape {
            ledger.shapes.push((name, shape.to_vec(), entry.shape.clone()));
            return Ok(Some(Vec::new()));
        }
        Ok(Some(f.bytes(entry).iter().map(|b| *b as i8).collect()))
    }

    /// A projection in the form that the plan names; dense f32 by default.
    pub fn linear(&self, part: &str, in_dim: usize, out_dim: usize, bias: bool) -> Result<Box<dyn Linear>> {
        self.linear_of(&LinearSpec { parts: &[part], fused: None, in_dim, out_dim, bias })
    }

    /// Several projections of the same input computed as one; see [`LinearSpec`].
    pub fn linear_of(&self, spec: &LinearSpec) -> Result<Box<dyn Linear>> {
        if let Some(maker) = &self.shared.leaves
            && let Some(leaf) = maker.linear(self, spec)?
        {
            return Ok(leaf);
        }
        let (weight, bias) = self.dense_of(spec)?;
        Ok(Box::new(Dense::new(self.name(spec.parts[0]), weight, bias)))
    }

    /// A feed-forward network in the form that the plan names; dense by default.
    pub fn ffn(&self, spec: &FfnSpec) -> Result<Box<dyn Ffn>> {
        if let Some(maker) = &self.shared.leaves
            && let Some(leaf) = maker.ffn(self, spec)?
        {
            return Ok(leaf);
        }
        dense_ffn(self, spec)
    }

    /// A projection of patches `[rows, channels * height * width]` in the form that the plan names; dense by default.
    pub fn patches(&self, spec: &PatchSpec) -> Result<Box<dyn Linear>> {
        if let Some(maker) = &self.shared.leaves
            && let Some(leaf) = maker.patches(self, spec)?
        {
            return Ok(leaf);
        }
        let (w, (height, width)) = (self.at(spec.name), spec.patch);
        let weight = w.conv_matrix("weight", &[spec.dim, spec.channels, height, width])?;
        let bias = spec.bias.then(|| w.tensor("bias", &[spec.dim], ParamKind::Vector)).transpose()?;
        Ok(Box::new(Dense::new(self.name(spec.name), weight, bias)))
    }

    /// A tied head in the form that the plan names; the product with the table by default.
    pub fn tied(&self, spec: &TiedSpec) -> Result<Box<dyn Linear>> {
        if let Some(maker) = &self.shared.leaves
            && let Some(leaf) = maker.tied(self, spec)?
        {
            return Ok(leaf);
        }
        let n = spec.table.table().dims()[0];
        let bias = spec.bias.map(|name| self.tensor(name, &[n], ParamKind::Vector)).transpose()?;
        Ok(Box::new(Tied::new(spec.table.table().clone(), bias)))
    }

    /// An attention in the form that the plan names; softmax attention by default, whose projections are leaves in turn.
    pub fn attention(&self, spec: &AttentionSpec) -> Result<Box<dyn Attention>> {
        self.attention_of(spec, |w| Projections::load(w, spec))
    }

    /// The same where a model makes the projections of the default itself: they are no plain matrices.
    pub fn attention_of(
        &self,
        spec: &AttentionSpec,
        projections: impl FnOnce(&Weights) -> Result<Projections>,
    ) -> Result<Box<dyn Attention>> {
        if let Some(maker) = &self.shared.leaves
            && let Some(leaf) = maker.attention(self, spec)?
        {
            return Ok(leaf);
        }
        let whole = SoftmaxAttention::new(spec, projections(self)?)?;
        let (name, index) = (self.name(spec.names.out), self.ledger().attentions.len());
        let attention = ByHeads::new(name, index, whole, self.is_trainable());
        self.ledger().attentions.push(attention.site());
        Ok(Box::new(attention))
    }

    /// Attentions made so far whose heads a point may leave out, in order of loading.
    pub fn attentions(&self) -> Vec<HeadSite> {
        self.ledger().attentions.clone()
    }

    /// Dense weight `[parts * out, in]` and bias of a projection.
    pub fn dense_of(&self, spec: &LinearSpec) -> Result<(Tensor, Option<Tensor>)> {
        let suffixed = |suffix: &str| -> Vec<String> { spec.parts.iter().map(|p| format!("{p}.{suffix}")).collect() };
        let fused = |suffix: &str| spec.fused.map(|f| format!("{f}.{suffix}"));
        let (names, whole) = (suffixed("weight"), fused("weight"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let weight = self.stacked(&names, whole.as_deref(), &[spec.out_dim, spec.in_dim], ParamKind::Matrix)?;
        Ok((weight, self.bias_of(spec)?))
    }

    /// Bias `[parts * out]` of a projection, if it has one.
    pub fn bias_of(&self, spec: &LinearSpec) -> Result<Option<Tensor>> {
        if !spec.bias {
            return Ok(None);
        }
        let names: Vec<String> = spec.parts.iter().map(|p| format!("{p}.bias")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let fused = spec.fused.map(|f| format!("{f}.bias"));
        self.stacked(&names, fused.as_deref(), &[spec.out_dim], ParamKind::Vector).map(Some)
    }

    /// A layer norm over `dim` with weight and bias.
    pub fn layer_norm(&self, part: &str, dim: usize, eps: f64) -> Result<LayerNorm> {
        let w = self.at(part);
        Ok(LayerNorm::new(
            w.tensor("weight", &[dim], ParamKind::Vector)?,
            w.tensor("bias", &[dim], ParamKind::Vector)?,
            eps,
        ))
    }

    /// A tensor that is in the file but is no parameter.
    pub fn buffer(&self, part: &str, shape: &[usize]) -> Result<Tensor> {
        let t = self.tensor(part, shape, ParamKind::Buffer)?;
        self.ledger().elements -= elements(shape)? as u64;
        Ok(t)
    }

    /// A batch norm over `dim` channels with the statistics of its training.
    pub fn batch_norm(&self, part: &str, dim: usize, eps: f64) -> Result<BatchNorm> {
        let w = self.at(part);
        let buffer = |name: &str| w.buffer(name, &[dim]);
        let [weight, bias] =
            [w.tensor("weight", &[dim], ParamKind::Vector)?, w.tensor("bias", &[dim], ParamKind::Vector)?];
        Ok(BatchNorm::new([weight, bias], [buffer("running_mean")?, buffer("running_var")?], eps))
    }

    /// A root-mean-square norm over `dim`.
    pub fn rms_norm(&self, part: &str, dim: usize, eps: f64) -> Result<RmsNorm> {
        Ok(RmsNorm::new(self.at(part).tensor("weight", &[dim], ParamKind::Vector)?, eps))
    }

    /// A table `[n, dim]`.
    pub fn embedding(&self, part: &str, n: usize, dim: usize) -> Result<Embedding> {
        Ok(Embedding::new(self.name(part), self.at(part).tensor("weight", &[n, dim], ParamKind::Table)?))
    }

    /// Ends loading: reports everything missing, misshaped or left over, in one error.
    pub fn finish(&self) -> Result<()> {
        let ledger = self.ledger();
        if ledger.missing.is_empty() && ledger.shapes.is_empty() && self.unused(&ledger).next().is_none() {
            return Ok(());
        }
        Err(self.faults(&ledger))
    }

    /// Stored tensors that nobody has asked for yet.
    fn unused<'a>(&'a self, ledger: &'a Ledger) -> Box<dyn Iterator<Item = &'a String> + 'a> {
        let all: Box<dyn Iterator<Item = &String>> = match &self.shared.source {
            Source::Start(_, start) if start.copy_of.is_some() => Box::new(std::iter::empty()),
            Source::Files(f) | Source::Start(f, _) => Box::new(f.entries().keys()),
            Source::Manifest(m) => Box::new(m.keys()),
            Source::Open(_) => Box::new(std::iter::empty()),
        };
        Box::new(all.filter(|n| !ledger.used.contains(*n)))
    }

    fn faults(&self, ledger: &Ledger) -> Error {
        let leftover: Vec<String> = self.unused(ledger).cloned().collect();
        let missing = ledger
            .missing
            .iter()
            .enumerate()
            .map(|(i, (name, shape))| MissingTensor {
                name: name.clone(),
                shape: shape.clone(),
                // The search is quadratic; a dozen hints are as good as a thousand.
                nearest: if i < 16 { nearest(name, leftover.iter().map(String::as_str)) } else { None },
            })
            .collect();
        Error::Tensors { missing, leftover, shapes: ledger.shapes.clone() }
    }

    /// Every variable made so far, in order of loading.
    pub fn params(&self) -> Vec<Param> {
        self.ledger().params.clone()
    }

    /// Notes down what a leaf offers to the switch of this name.
    pub fn note(&self, switch: &'static str, offer: Value) {
        self.ledger().notes.push((switch, offer));
    }

    /// What leaves made so far offer to a switch, in order of loading.
    pub fn notes(&self, switch: &str) -> Vec<Value> {
        self.ledger().notes.iter().filter(|(s, _)| *s == switch).map(|(_, v)| v.clone()).collect()
    }

    /// Number of elements asked for so far: the parameter count.
    pub fn n_elements(&self) -> u64 {
        self.ledger().elements
    }
}

/// A stand-in for a tensor that takes no memory: of a size that is only counted, or of one that is missing.
fn absent(shape: &[usize], kind: ParamKind) -> Tensor {
    part_of_model(Tensor::hollow(shape, DType::F32), kind)
}

/// A tensor whose bytes a forecast counts where it is a parameter.
fn part_of_model(t: Tensor, kind: ParamKind) -> Tensor {
    if kind == ParamKind::Buffer { t } else { t.weight() }
}

fn elements(shape: &[usize]) -> Result<usize> {
    shape.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).filter(|n| *n < 1 << 40).ok_or_else(|| Error::Limit {
        what: format!("elements of a {shape:?} tensor"),
        got: u64::MAX,
        max: 1 << 40,
        hint: "check the sizes in config.json".into(),
    })
}
