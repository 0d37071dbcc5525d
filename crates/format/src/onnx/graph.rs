//! Names that the graph gives to weights whose own an exporter dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;

use super::data::Source;
use super::proto::{Attribute, Entry, Node};
use super::{bad, decode};
use crate::error::{Error, Result};

/// Where exporters of recent PyTorch note the modules that a node stands in.
const SCOPES: &str = "pkg.torch.onnx.name_scopes";
/// Operators with a graph of their own inside.
const NESTED: [&str; 4] = ["If", "Loop", "Scan", "SequenceMap"];

/// What the nodes say of the values between them.
#[derive(Default)]
pub(super) struct Uses {
    products: Vec<Product>,
    /// What is added to a value.
    added: BTreeMap<String, Vec<String>>,
    /// Values that are another one under a second name.
    same: BTreeMap<String, String>,
    /// The first node that reads a value, in words.
    reader: BTreeMap<String, String>,
}

/// A product with something that may be a weight.
struct Product {
    weight: String,
    /// The third input of a Gemm.
    bias: Option<String>,
    output: String,
    /// The module that the node stands in, in the dotted names of PyTorch.
    module: Option<String>,
    /// Whether the weight is `[in, out]`, the other way round than a linear layer stores it.
    turned: bool,
}

/// A tensor under a new name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// The tensor of the file.
    pub(super) of: String,
    pub(super) turned: bool,
}

/// Whether a name is one that an exporter made up: no dotted path of modules has such characters.
pub(super) fn made_up(name: &str) -> bool {
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    let numbered = |prefix: &str| name.strip_prefix(prefix).is_some_and(digits);
    name.is_empty()
        || name.contains(['/', ':', ' '])
        || digits(name)
        || ["val_", "_val_", "_v_", "const_", "constant_", "tensor_"].iter().any(|p| numbered(p))
}

/// The bytes of `value` of a Constant node, where that is a tensor.
pub(super) fn constant(node: &Node, path: &Path) -> Result<Option<Bytes>> {
    for a in &node.attribute {
        let a: Attribute = decode(a, path)?;
        if a.name == "value" {
            return Ok(a.t);
        }
    }
    Ok(None)
}

impl Uses {
    /// Notes what a node does. Errors on quantised weights, which stand for other numbers than they are.
    pub(super) fn add(&mut self, node: &Node, path: &Path) -> Result<()> {
        let op = node.op_type.as_str();
        if quantised(op) {
            let what = format!("holds quantised weights ({op:.60} at node {:.200?})", node.name);
            let hint = "convert the float model that it was made from; `run --nested` quantises here";
            return Err(Error::format(path, "onnx.quantised", what, hint));
        }
        if NESTED.contains(&op) {
            let what = format!("has a graph inside a node ({op} at {:.200?}), which is not read", node.name);
            return Err(bad(path, "onnx.unsupported", what));
        }
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            let words = || format!("{op:.60} at {:.200?}", node.name);
            self.reader.entry(input.clone()).or_insert_with(words);
        }
        let output = node.output.first().cloned().unwrap_or_default();
        match (op, node.input.as_slice()) {
            ("Identity", [from]) => drop(self.same.insert(output, from.clone())),
            ("Add", [a, b]) => {
                self.added.entry(a.clone()).or_default().push(b.clone());
                self.added.entry(b.clone()).or_default().push(a.clone());
            }
            ("MatMul" | "Gemm", [_, weight, rest @ ..]) => {
                let turned = op == "MatMul" || !flag(node, "transB", path)?;
                let bias = rest.first().filter(|b| !b.is_empty()).cloned();
                let module = module(node, path)?;
                self.products.push(Product { weight: weight.clone(), bias, output, module, turned });
            }
            _ => {}
        }
        Ok(())
    }

    /// The node that reads a value first, in words.
    pub(super) fn reader(&self, value: &str) -> Option<&str> {
        self.reader.get(value).map(String::as_str)
    }

    /// The tensor that a value is, through nodes that change nothing.
    fn resolve<'a>(&'a self, value: &'a str, tensors: &BTreeMap<String, Source>) -> Option<&'a str> {
        let mut at = value;
        // A chain that bites its tail ends too.
        for _ in 0..=self.same.len().min(64) {
            if tensors.contains_key(at) {
                return Some(at);
            }
            at = self.same.get(at)?;
        }
        None
    }

    /// Names for tensors that have none, and second names; each with all tensors that would have it.
    pub(super) fn names(&self, tensors: &BTreeMap<String, Source>) -> BTreeMap<String, BTreeSet<Claim>> {
        let mut claims: BTreeMap<String, BTreeSet<Claim>> = BTreeMap::new();
        for value in self.same.keys().filter(|v| !made_up(v) && !tensors.contains_key(*v)) {
            if let Some(of) = self.resolve(value, tensors) {
                let claim = Claim { of: of.to_string(), turned: false };
                claims.entry(value.clone()).or_default().insert(claim);
            }
        }
        let nameless: Vec<(&Product, Claim)> = self.products.iter().filter_map(|p| self.nameless(p, tensors)).collect();
        let mut by_place = Vec::new();
        for (product, claim) in nameless {
            match self.by_bias(product, &claim, tensors) {
                Some(name) => drop(claims.entry(name).or_default().insert(claim)),
                None => by_place.extend(product.module.as_deref().map(|m| (m, claim))),
            }
        }
        // A module with modules inside is no linear layer: its products are with something else.
        let known = tensors.keys().filter(|n| !made_up(n)).chain(claims.keys());
        let parents: BTreeSet<&str> = known.flat_map(|n| parents(n)).collect();
        let named: Vec<(String, Claim)> = by_place
            .into_iter()
            .filter(|(module, _)| !parents.contains(module))
            .map(|(module, claim)| (format!("{module}.weight"), claim))
            .collect();
        for (name, claim) in named {
            claims.entry(name).or_default().insert(claim);
        }
        claims
    }

    /// The matrix of a product, where it has no name.
    fn nameless<'a>(&self, p: &'a Product, tensors: &BTreeMap<String, Source>) -> Option<(&'a Product, Claim)> {
        let of = self.resolve(&p.weight, tensors)?;
        let matrix = tensors.get(of).is_some_and(|t| t.shape.len() == 2);
        (made_up(&p.weight) && made_up(of) && matrix).then(|| (p, Claim { of: of.to_string(), turned: p.turned }))
    }

    /// The name beside that of the one bias that is added to a product, and is as wide.
    fn by_bias(&self, p: &Product, claim: &Claim, tensors: &BTreeMap<String, Source>) -> Option<String> {
        let shape = &tensors.get(&claim.of)?.shape;
        let width = if claim.turned { shape[1] } else { shape[0] };
        let others = self.added.get(&p.output).into_iter().flatten().chain(&p.bias);
        let names: BTreeSet<String> = others
            .filter(|o| {
                let tensor = self.resolve(o, tensors).and_then(|of| tensors.get(of));
                !made_up(o) && tensor.is_some_and(|t| t.shape == [width])
            })
            .filter_map(|bias| bias.strip_suffix("bias").map(|front| format!("{front}weight")))
            .collect();
        let mut names = names.into_iter();
        names.next().filter(|_| names.next().is_none())
    }
}

/// The modules that hold the module of a tensor.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    let module = name.rsplit_once('.').map_or("", |(module, _)| module);
    module.match_indices('.').map(|(at, _)| &module[..at])
}

/// Whether an operator reads weights of another scale than their numbers.
fn quantised(op: &str) -> bool {
    let known = ["QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"];
    let starts =
        ["QLinear", "MatMulNBits", "MatMulBnb4", "MatMulIntegerToFloat", "DynamicQuantize", "GatherBlockQuantized"];
    let contrib = ["QAttention", "QGemm", "QMoE", "QEmbedLayerNormalization", "QOrderedMatMul", "QOrderedAttention"];
    known.contains(&op) || contrib.contains(&op) || starts.iter().any(|s| op.starts_with(s))
}

/// Whether a whole-number attribute is there and not 0.
fn flag(node: &Node, name: &str, path: &Path) -> Result<bool> {
    for a in &node.attribute {
        let a: Attribute = decode(a, path)?;
        if a.name == name {
            return Ok(a.i != 0);
        }
    }
    Ok(false)
}

/// The module of a node: by the path in its name (`/encoder/layer.0/query/MatMul`), or by the scopes that are noted beside it.
fn module(node: &Node, path: &Path) -> Result<Option<String>> {
    if let Some(inner) = node.name.strip_prefix('/') {
        return Ok(inner.rsplit_once('/').map(|(module, _)| module.replace('/', ".")));
    }
    for entry in &node.metadata_props {
        let Entry { key, value } = decode(entry, path)?;
        if key == SCOPES {
            // A list as Python writes it: the model, the modules from the outermost, the node.
            let scopes: Vec<&str> = value.split('\'').skip(1).step_by(2).collect();
            let module = scopes.len().checked_sub(2).map(|i| scopes[i]).filter(|m| !m.is_empty());
            return Ok(module.map(str::to_string));
        }
    }
    Ok(None)
}
