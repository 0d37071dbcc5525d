//! The tensors of an ONNX file, under the names that they had before it was exported. The graph is read for names alone.

mod data;
mod graph;
mod proto;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;
use prost::Message;

use crate::contents;
use crate::error::{Error, Result};
use crate::header::{MAX_TENSORS, check_name};
use crate::mmap::Mapped;
use crate::pickle::Left;
use crate::store::{Saved, SavedMap};
use data::{Beside, Map, Source};
use graph::{Claim, Uses, made_up};
use proto::{Graph, Model, Node, Tensor};

/// Most nodes of a graph.
const MAX_NODES: usize = 1_000_000;
/// What tensors may take together, in sizes of the files: one that has many names is written many times.
const MAX_GROWTH: usize = 8;
/// Without a name, as many numbers in a row or fewer are arithmetic of the graph and no weights.
const FEW: usize = 16;

/// What is asked of a file beside its tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted<'a> {
    /// The module whose tensors are meant: others are left out, and its name is taken off.
    pub key: Option<&'a str>,
    /// New names, and the tensors of the file that stand for them, joined along the dimension in which they differ.
    pub named: &'a [(String, Vec<String>)],
}

/// What was read.
#[derive(Debug)]
pub struct Onnx {
    /// The tensors, in the types they are stored in.
    pub tensors: SavedMap,
    /// Names that the graph gave, and the tensor of the file behind each.
    pub recovered: Vec<(String, String)>,
    /// Constants of the graph's arithmetic, which are no weights.
    pub constants: usize,
    /// Tensors that were not read.
    pub left: Vec<Left>,
}

/// Whether a file is to be read as ONNX, by the ending of its name: the format has no other mark.
pub fn is_named_so(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
}

fn bad(path: &Path, code: &'static str, what: String) -> Error {
    let hint = match code {
        "onnx.external" => "fetch all files of the model, into one folder",
        "onnx.key" => "name another module with --key, or leave it out",
        "onnx.name" => "name tensors of the file as they are listed without --tensor",
        "onnx.unsupported" => "export the model again without branches and loops",
        _ => "the file is damaged or no ONNX model; fetch or export it again",
    };
    Error::format(path, code, what, hint)
}

/// A message of a file.
fn decode<M: Message + Default>(bytes: &Bytes, path: &Path) -> Result<M> {
    M::decode(bytes.clone()).map_err(|e| bad(path, "onnx.protobuf", format!("cannot be read: {e}")))
}

/// Reads a model.
pub fn read(path: &Path, wanted: Wanted) -> Result<Onnx> {
    let mapped = Mapped::open(path)?;
    if let Some(other) = contents::instead(mapped.bytes(), path, "onnx.format", "an ONNX model") {
        return Err(other);
    }
    let bytes = Bytes::from_owner(Map(mapped));
    let model: Model = decode(&bytes, path)?;
    let [graph] = model.graph.as_slice() else {
        return Err(bad(path, "onnx.format", format!("holds {} graphs, must hold one", model.graph.len())));
    };
    let graph: Graph = decode(graph, path)?;
    for (what, got, max) in [
        ("nodes of the graph", graph.node.len(), MAX_NODES),
        ("tensors of the graph", graph.initializer.len(), MAX_TENSORS),
    ] {
        if got > max {
            let what = format!("{}: {what}", path.display());
            let hint = "no real model has so many".into();
            return Err(Error::Limit { what, got: got as u64, max: max as u64, hint });
        }
    }
    let mut file = File {
        path,
        size: bytes.len(),
        tensors: BTreeMap::new(),
        beside: Beside::default(),
        constants: 0,
        left: Vec::new(),
    };
    for tensor in &graph.initializer {
        let tensor: Tensor = decode(tensor, path)?;
        file.add(tensor, None)?;
    }
    for i in 0..graph.sparse_initializer.len() {
        file.left.push(Left { name: format!("sparse_initializer {i}"), why: "is sparse".into() });
    }
    let mut uses = Uses::default();
    for node in &graph.node {
        let node: Node = decode(node, path)?;
        uses.add(&node, path)?;
        if node.op_type == "Constant" {
            match graph::constant(&node, path)? {
                Some(t) => file.add(decode(&t, path)?, node.output.first())?,
                None => file.constants += 1,
            }
        }
    }
    file.choose(&uses, wanted)
}

/// The tensors of a file by their own names.
struct File<'a> {
    path: &'a Path,
    size: usize,
    tensors: BTreeMap<String, Source>,
    beside: Beside,
    constants: usize,
    left: Vec<Left>,
}

impl File<'_> {
    /// Takes a tensor, that of a Constant node under the name of its `output`.
    fn add(&mut self, mut tensor: Tensor, output: Option<&String>) -> Result<()> {
        if let Some(output) = output {
            tensor.name.clone_from(output);
        }
        let name = tensor.name.clone();
        match Source::new(tensor, self.path)? {
            Ok(source) => {
                if self.tensors.len() == MAX_TENSORS {
                    return Err(bad(self.path, "onnx.format", format!("holds more than {MAX_TENSORS} tensors")));
                }
                if self.tensors.insert(name.clone(), source).is_some() {
                    return Err(bad(self.path, "onnx.tensor", format!("holds {name:.200?} twice")));
                }
            }
            Err(why) => self.left.push(Left { name, why }),
        }
        Ok(())
    }

    /// Names and reads the tensors.
    fn choose(mut self, uses: &Uses, wanted: Wanted) -> Result<Onnx> {
        let own = self.tensors.keys().filter(|n| !made_up(n));
        let mut plan: BTreeMap<String, Claim> =
            own.map(|n| (n.clone(), Claim { of: n.clone(), turned: false })).collect();
        let mut recovered = Vec::new();
        let mut spoken: BTreeMap<String, String> = BTreeMap::new();
        for (name, claims) in uses.names(&self.tensors) {
            let taken = plan.contains_key(&name);
            let mut claims = claims.into_iter();
            match (claims.next(), claims.next()) {
                (Some(claim), None) if !taken => {
                    recovered.push((name.clone(), claim.of.clone()));
                    plan.insert(name, claim);
                }
                (first, second) => {
                    let why = if taken { "which the file has already" } else { "as others would" };
                    for claim in first.into_iter().chain(second).chain(claims) {
                        spoken.insert(claim.of, format!("would be `{name:.200}` by the graph, {why}"));
                    }
                }
            }
        }
        let mut used: BTreeSet<&str> = plan.values().map(|c| c.of.as_str()).collect();
        used.extend(wanted.named.iter().flat_map(|(_, of)| of).map(String::as_str));
        for (name, source) in self.tensors.iter().filter(|(n, _)| !used.contains(n.as_str())) {
            if !spoken.contains_key(name) && source.shape.len() < 2 && source.elements() <= FEW {
                self.constants += 1;
                continue;
            }
            let reader = uses.reader(name).map(|r| format!(" (it feeds {r})")).unwrap_or_default();
            let why = spoken.remove(name).unwrap_or_else(|| "has no name of a module".into());
            self.left.push(Left { name: name.clone(), why: format!("{why}{reader}; --tensor can name it") });
        }
        if let Some(key) = wanted.key {
            plan = self.under(key, plan)?;
            let front = format!("{key}.");
            recovered.retain_mut(|(name, _)| match name.strip_prefix(&front) {
                Some(rest) => {
                    *name = rest.to_string();
                    true
                }
                None => false,
            });
        }
        let tensors = self.read(plan, wanted.named)?;
        if tensors.is_empty() {
            let first = self.left.first().map(|l| format!(", as `{:.200}`, which {}", l.name, l.why));
            let what = format!("holds no tensor under the name of a module{}", first.unwrap_or_default());
            return Err(bad(self.path, "onnx.name", what));
        }
        Ok(Onnx { tensors, recovered, constants: self.constants, left: self.left })
    }

    /// The tensors of a module, without its name.
    fn under(&mut self, key: &str, plan: BTreeMap<String, Claim>) -> Result<BTreeMap<String, Claim>> {
        let front = format!("{key}.");
        let mut inside = BTreeMap::new();
        let mut outside: BTreeMap<String, usize> = BTreeMap::new();
        for (name, claim) in plan {
            match name.strip_prefix(&front) {
                Some(rest) => drop(inside.insert(rest.to_string(), claim)),
                None => *outside.entry(name.split('.').next().unwrap_or_default().to_string()).or_default() += 1,
            }
        }
        if inside.is_empty() {
            let roots: Vec<&str> = outside.keys().take(20).map(String::as_str).collect();
            let what = format!("holds no tensors of `{key}`; names begin with: {}", roots.join(", "));
            return Err(bad(self.path, "onnx.key", what));
        }
        let left =
            outside.into_iter().map(|(name, n)| Left { name, why: format!("({n} tensors) lies outside of `{key}`") });
        self.left.extend(left);
        Ok(inside)
    }

    /// Reads what is planned, and what is named by hand.
    fn read(&mut self, plan: BTreeMap<String, Claim>, named: &[(String, Vec<String>)]) -> Result<SavedMap> {
        let mut tensors = SavedMap::new();
        let mut total = 0usize;
        for (name, claim) in plan {
            match check_name(&name) {
                Ok(()) => {
                    let tensor = self.tensor(&claim, &mut total)?;
                    tensors.insert(name, tensor);
                }
                Err(why) => self.left.push(Left { name: claim.of, why: format!("cannot be stored: {why}") }),
            }
        }
        for (name, of) in named {
            check_name(name).map_err(|what| bad(self.path, "onnx.name", what))?;
            if tensors.contains_key(name) {
                return Err(bad(self.path, "onnx.name", format!("holds `{name:.200}` already")));
            }
            let mut parts = Vec::new();
            for of in of {
                if !self.tensors.contains_key(of) {
                    return Err(bad(self.path, "onnx.name", format!("holds no tensor `{of:.200}`")));
                }
                parts.push(self.tensor(&Claim { of: of.clone(), turned: false }, &mut total)?);
            }
            let joined = joined(&parts).map_err(|why| bad(self.path, "onnx.name", format!("`{name:.200}`: {why}")))?;
            tensors.insert(name.clone(), joined);
        }
        Ok(tensors)
    }

    /// The numbers of a tensor, turned where that is said. `total` counts the bytes of all.
    fn tensor(&mut self, claim: &Claim, total: &mut usize) -> Result<Saved> {
        let Some(source) = self.tensors.get(&claim.of) else {
            return Err(bad(self.path, "onnx.tensor", format!("holds no tensor `{:.200}`", claim.of)));
        };
        let bytes = source.bytes(self.path, &mut self.beside)?;
        *total = total.saturating_add(bytes.len());
        let max = (self.size + self.beside.size()).saturating_mul(MAX_GROWTH).saturating_add(1 << 20);
        if *total > max {
            let what = format!("what the names in {} ask for, in bytes,", self.path.display());
            let hint = "no real model repeats its weights so often".into();
            return Err(Error::Limit { what, got: *total as u64, max: max as u64, hint });
        }
        let mut saved = Saved { dtype: source.dtype, shape: source.shape.clone(), bytes };
        if let (true, [rows, columns]) = (claim.turned, saved.shape.as_slice()) {
            saved.bytes = turned(&saved.bytes, *rows, *columns, source.width());
            saved.shape.reverse();
        }
        Ok(saved)
    }
}

/// A matrix of elements of `width` bytes, transposed.
fn turned(bytes: &[u8], rows: usize, columns: usize, width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for c in 0..columns {
        for r in 0..rows {
            let at = (r * columns + c) * width;
            out.extend_from_slice(&bytes[at..at + width]);
        }
    }
    out
}

/// Tensors as one, along the dimension in which they differ, or the only one.
fn joined(parts: &[Saved]) -> Result<Saved, String> {
    let [first, rest @ ..] = parts else { return Err("names no tensor".into()) };
    if rest.is_empty() {
        return Ok(first.clone());
    }
    let shapes = || parts.iter().map(|p| format!("{:?} {:?}", p.dtype, p.shape)).collect::<Vec<_>>().join(", ");
    let rank = first.shape.len();
    if rest.iter().any(|p| p.shape.len() != rank || p.dtype != first.dtype) {
        return Err(format!("{} cannot be joined", shapes()));
    }
    let differ: Vec<usize> = (0..rank).filter(|d| rest.iter().any(|p| p.shape[*d] != first.shape[*d])).collect();
    let along = match (differ.as_slice(), rank) {
        ([along], _) => *along,
        ([], 1) => 0,
        _ => return Err(format!("{} do not differ in one dimension, so it is not told how to join them", shapes())),
    };
    let outer: usize = first.shape[..along].iter().product();
    let mut bytes = Vec::new();
    for i in 0..outer {
        for part in parts {
            let row = part.bytes.len() / outer;
            bytes.extend_from_slice(&part.bytes[i * row..(i + 1) * row]);
        }
    }
    let mut shape = first.shape.clone();
    shape[along] = parts.iter().map(|p| p.shape[along]).sum();
    Ok(Saved { dtype: first.dtype, shape, bytes })
}
