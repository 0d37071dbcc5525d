//! Tensors in the values of a pickle.

use std::collections::{BTreeMap, BTreeSet};

use safetensors::Dtype;

use super::machine::{Id, Obj, Pickle, rebuilds};
use super::{Left, Pickled};
use crate::error::{Error, Result};
use crate::header::{MAX_NAME, MAX_RANK, MAX_TENSORS, check_name};
use crate::store::{Saved, SavedMap};

type Fail<'a> = &'a dyn Fn(&'static str, String) -> Error;

/// Keys under which scripts keep the tensors of a model, the likeliest first.
const KEYS: [&str; 8] =
    ["state_dict", "model", "model_state_dict", "module", "net", "network", "params", "model_state"];
/// What wrappers for several devices and for compilation put before every name.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];
/// Deepest dictionary within dictionaries.
const MAX_DEPTH: usize = 16;
/// Most entries that are looked at: dictionaries may share others.
const MAX_VISITS: usize = 4_000_000;

/// Where the elements of a tensor are.
struct Place<'a> {
    storage: &'a str,
    dtype: Dtype,
    /// Elements of the storage.
    elements: usize,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
    /// Whether the elements are stored with the other sign.
    negative: bool,
}

/// The tensors of a checkpoint, not read yet.
pub(super) struct Found<'a> {
    places: BTreeMap<String, Place<'a>>,
    key: Option<String>,
    prefix: Option<&'static str>,
    skipped: Vec<String>,
    left: Vec<Left>,
    visits: usize,
}

/// Finds the dictionary of tensors and what is in it.
pub(super) fn find<'a>(p: &'a Pickle, key: Option<&str>, fail: Fail) -> Result<Found<'a>> {
    let entry = |dict: Id, name: &str| match p.get(dict) {
        // As in Python, the last of equal keys counts.
        Obj::Dict(pairs) => pairs.iter().rev().find(|(k, _)| p.text(*k) == Some(name)).map(|(_, v)| *v),
        _ => None,
    };
    let Obj::Dict(pairs) = p.get(p.root) else {
        return Err(fail("pickle.format", "holds no dictionary of tensors".into()));
    };
    let listed = || {
        let names: Vec<&str> = pairs.iter().filter_map(|(k, _)| p.text(*k)).take(12).collect();
        names.join(", ")
    };
    let (root, key) = match key {
        Some(key) => {
            let found = key.split('.').try_fold(p.root, entry);
            let what = || fail("pickle.key", format!("has no entry {key}; it has {}", listed()));
            (found.ok_or_else(what)?, Some(key.to_string()))
        }
        None if pairs.iter().any(|(_, v)| is_tensor(p, *v)) => (p.root, None),
        None => {
            let found = KEYS
                .iter()
                .find_map(|k| entry(p.root, k).filter(|v| matches!(p.get(*v), Obj::Dict(_))).map(|v| (v, k)));
            let what = || fail("pickle.key", format!("holds no tensors under a usual name; it has {}", listed()));
            found.map(|(v, k)| (v, Some((*k).to_string()))).ok_or_else(what)?
        }
    };
    let mut found =
        Found { places: BTreeMap::new(), key, prefix: None, skipped: Vec::new(), left: Vec::new(), visits: 0 };
    collect(p, root, "", 0, &mut found, fail)?;
    if found.places.is_empty() {
        let what = match found.left.first() {
            Some(Left { name, why }) => format!("holds no tensors that could be written: {name} {why}"),
            None => format!("holds no tensors there; it has {}", listed()),
        };
        return Err(fail("pickle.key", what));
    }
    for prefix in PREFIXES {
        if found.places.keys().all(|n| n.len() > prefix.len() && n.starts_with(prefix)) {
            let bare = std::mem::take(&mut found.places);
            found.places = bare.into_iter().map(|(n, v)| (n[prefix.len()..].to_string(), v)).collect();
            found.prefix = Some(prefix);
        }
    }
    for name in found.places.keys() {
        check_name(name).map_err(|what| fail("pickle.tensor", format!("{name}: {what}")))?;
    }
    if let Some(taken) = &found.key {
        let taken = taken.split('.').next().unwrap_or_default().to_string();
        for (k, v) in pairs.iter().filter(|(k, _)| p.text(*k) != Some(&taken)) {
            if holds(p, *v, &mut found.visits, fail)? {
                found
                    .left
                    .push(Left { name: shown(p, *k), why: "lies beside what was taken (--key names another entry)" });
            }
        }
    }
    Ok(found)
}

/// A key for a message.
fn shown(p: &Pickle, key: Id) -> String {
    match p.get(key) {
        Obj::Text(t) => t.clone(),
        Obj::Int(n) => n.to_string(),
        Obj::Bool(b) => b.to_string(),
        Obj::None => "None".into(),
        Obj::Tuple(items) => {
            let items: Vec<String> =
                items.iter().take(4).map(|i| p.text(*i).map_or_else(|| "..".into(), str::to_string)).collect();
            format!("({})", items.join(", "))
        }
        _ => "a key".into(),
    }
}

/// Counts one more entry that is looked at.
fn visit(visits: &mut usize, fail: Fail) -> Result<()> {
    *visits += 1;
    match *visits > MAX_VISITS {
        true => Err(fail("limit", format!("more than {MAX_VISITS} entries"))),
        false => Ok(()),
    }
}

/// Whether a tensor is anywhere in a value.
fn holds(p: &Pickle, value: Id, visits: &mut usize, fail: Fail) -> Result<bool> {
    let (mut todo, mut seen) = (vec![value], BTreeSet::new());
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        visit(visits, fail)?;
        if is_tensor(p, id) {
            return Ok(true);
        }
        match p.get(id) {
            Obj::Tuple(items) | Obj::List(items) | Obj::Set(items) => todo.extend(items),
            Obj::Dict(pairs) => todo.extend(pairs.iter().flat_map(|(k, v)| [k, v])),
            Obj::Call(_, args, items) => {
                todo.push(*args);
                todo.extend(items);
            }
            _ => {}
        }
    }
    Ok(false)
}

fn collect<'a>(p: &'a Pickle, dict: Id, path: &str, depth: usize, found: &mut Found<'a>, fail: Fail) -> Result<()> {
    let Obj::Dict(pairs) = p.get(dict) else { return Ok(()) };
    if depth > MAX_DEPTH {
        return Err(fail("pickle.format", format!("nests dictionaries deeper than {MAX_DEPTH}")));
    }
    for (k, v) in pairs {
        visit(&mut found.visits, fail)?;
        let part = shown(p, *k);
        let name = if path.is_empty() { part } else { format!("{path}.{part}") };
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(fail("pickle.tensor", format!("a name has {} bytes, must have 1 to {MAX_NAME}", name.len())));
        }
        let text = p.text(*k).is_some();
        if text && is_tensor(p, *v) {
            let place = place(p, *v, 0).map_err(|what| fail("pickle.tensor", format!("{name}: {what}")))?;
            if found.places.contains_key(&name) {
                return Err(fail("pickle.tensor", format!("two tensors are called {name}, one would be lost")));
            }
            found.places.insert(name, place);
        } else if text && matches!(p.get(*v), Obj::Dict(_)) {
            collect(p, *v, &name, depth + 1, found, fail)?;
        } else if holds(p, *v, &mut found.visits, fail)? {
            let why = if text { "is a list or an object that holds tensors" } else { "has a key that is no text" };
            found.left.push(Left { name, why });
        } else {
            found.skipped.push(name);
        }
        if found.places.len() + found.skipped.len() + found.left.len() > MAX_TENSORS {
            return Err(fail("limit", format!("more than {MAX_TENSORS} tensors")));
        }
    }
    Ok(())
}

/// What a value would be made by.
fn maker(p: &Pickle, id: Id) -> Option<(&str, &[Id])> {
    match p.get(id) {
        Obj::Call(what, args, _) => match p.get(*what) {
            Obj::Global(_, name) => Some((name, p.tuple(*args))),
            _ => None,
        },
        _ => None,
    }
}

fn is_tensor(p: &Pickle, id: Id) -> bool {
    maker(p, id).is_some_and(|(name, _)| rebuilds(name))
}

/// Sizes or strides: a tuple, or a `torch.Size` of one.
fn sizes(p: &Pickle, id: Id) -> Option<Vec<usize>> {
    let id = match maker(p, id) {
        Some(("Size", [inner])) => *inner,
        _ => id,
    };
    match p.get(id) {
        Obj::Tuple(items) | Obj::List(items) if items.len() <= MAX_RANK => items.iter().map(|i| p.size(*i)).collect(),
        _ => None,
    }
}

fn place(p: &Pickle, id: Id, depth: usize) -> std::result::Result<Place<'_>, String> {
    let (name, args) = maker(p, id).ok_or("is no tensor")?;
    match (name, args) {
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..]) if depth < 4 => {
            place(p, *inner, depth + 1)
        }
        ("_rebuild_from_type_v2", [what, _, inner, ..]) => match p.get(*what) {
            Obj::Global(_, name) => strided(p, name, p.tuple(*inner)),
            _ => Err("is made by something that is no name".into()),
        },
        _ => strided(p, name, args),
    }
}

fn strided<'a>(p: &'a Pickle, name: &str, args: &[Id]) -> std::result::Result<Place<'a>, String> {
    let (storage, offset, shape, strides, negative) = match (name, args) {
        ("_rebuild_tensor", [s, o, n, by]) => (s, o, n, by, false),
        // What follows is whether it is trained, its hooks and its notes.
        ("_rebuild_tensor_v2", [s, o, n, by] | [s, o, n, by, _] | [s, o, n, by, _, _]) => (s, o, n, by, false),
        ("_rebuild_tensor_v2", [s, o, n, by, _, _, notes]) => (s, o, n, by, negated(p, *notes)?),
        _ => return Err(format!("is made by {name} of {} values, which is not read", args.len())),
    };
    let (storage, dtype, elements) = outside(p, *storage)?;
    let offset = p.size(*offset).ok_or("its offset is not a whole number")?;
    let shape = sizes(p, *shape).ok_or("its shape is not a list of whole numbers")?;
    let strides = sizes(p, *strides).ok_or("its strides are not a list of whole numbers")?;
    if shape.len() != strides.len() {
        return Err("its shape and strides differ in length".into());
    }
    let last = shape
        .iter()
        .zip(&strides)
        .try_fold(offset, |at, (n, s)| n.saturating_sub(1).checked_mul(*s).and_then(|step| at.checked_add(step)));
    if !shape.contains(&0) && last.is_none_or(|last| last >= elements) {
        return Err(format!("{shape:?} reaches beyond the {elements} elements of its storage"));
    }
    let floats = matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
    if negative && !floats {
        return Err(format!("has the negative bit, which {dtype:?} cannot have"));
    }
    Ok(Place { storage, dtype, elements, offset, shape, strides, negative })
}

/// Whether the notes of a tensor hold the negative bit (of `x.conj().imag`); others would change its elements too.
fn negated(p: &Pickle, notes: Id) -> std::result::Result<bool, String> {
    let pairs = match p.get(notes) {
        Obj::None => return Ok(false),
        Obj::Dict(pairs) => pairs,
        _ => return Err("has notes that are no dictionary".into()),
    };
    let mut negative = false;
    for (k, v) in pairs {
        match (shown(p, *k).as_str(), p.get(*v)) {
            ("neg", Obj::Bool(on)) => negative = *on,
            ("conj", Obj::Bool(false)) => {}
            (key, _) => {
                return Err(format!("has the note `{key}`, which is not read; save it after .resolve_conj().clone()"));
            }
        }
    }
    Ok(negative)
}

/// Name, type and number of elements of a storage.
fn outside(p: &Pickle, id: Id) -> std::result::Result<(&str, Dtype, usize), String> {
    let Obj::Outside(what) = p.get(id) else { return Err("its storage is not kept outside of the pickle".into()) };
    let [kind, class, name, _, elements, rest @ ..] = p.tuple(*what) else {
        return Err("its storage is not described as usual".into());
    };
    let (Some("storage"), Obj::Global(_, class), Some(name)) = (p.text(*kind), p.get(*class), p.text(*name)) else {
        return Err("its storage is not described as usual".into());
    };
    if rest.iter().any(|r| !matches!(p.get(*r), Obj::None)) {
        return Err("its storage is a view of another one".into());
    }
    let dtype = match class.as_str() {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        other => return Err(format!("its elements are of {other:.60}, which is not read")),
    };
    Ok((name, dtype, p.size(*elements).ok_or("its storage has no size")?))
}

/// Every storage that any value mentions, with the bytes of an element.
pub(super) fn storages(p: &Pickle) -> BTreeMap<&str, usize> {
    p.ids().filter_map(|id| outside(p, id).ok()).map(|(name, dtype, _)| (name, dtype.bitsize() / 8)).collect()
}

impl Found<'_> {
    /// Name and bytes of every storage that is needed.
    pub(super) fn storages(&self) -> impl Iterator<Item = (&str, usize)> {
        let all: BTreeSet<(&str, usize)> =
            self.places.values().map(|p| (p.storage, p.elements.saturating_mul(p.dtype.bitsize() / 8))).collect();
        all.into_iter()
    }

    /// Reads every tensor, of at most `max` bytes together.
    pub(super) fn tensors<'b>(
        self,
        max: usize,
        data: &dyn Fn(&str) -> Option<&'b [u8]>,
        fail: Fail,
    ) -> Result<Pickled> {
        let mut tensors = SavedMap::new();
        let mut total = 0usize;
        for (name, place) in self.places {
            let width = place.dtype.bitsize() / 8;
            let count = place.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            let size = count.and_then(|n| n.checked_mul(width)).and_then(|n| n.checked_add(total));
            total = size.filter(|n| *n <= max).ok_or_else(|| fail("limit", format!("{name} of {:?}", place.shape)))?;
            let lost =
                || fail("pickle.storage", format!("storage {:.40} of {name} is missing or too short", place.storage));
            let bytes = data(place.storage).ok_or_else(lost)?;
            let mut bytes = gather(&place, bytes, width, count.unwrap_or(0)).ok_or_else(lost)?;
            if place.negative {
                // The sign is the highest bit of the last byte.
                bytes.iter_mut().skip(width - 1).step_by(width).for_each(|b| *b ^= 0x80);
            }
            tensors.insert(name, Saved { dtype: place.dtype, shape: place.shape, bytes });
        }
        Ok(Pickled { tensors, key: self.key, prefix: self.prefix, skipped: self.skipped, left: self.left })
    }
}

/// The elements in reading order; `None` where they are not all there.
fn gather(p: &Place, bytes: &[u8], width: usize, count: usize) -> Option<Vec<u8>> {
    if count == 0 {
        return Some(Vec::new());
    }
    let part = |at: usize, n: usize| {
        let from = at.checked_mul(width)?;
        bytes.get(from..from.checked_add(n.checked_mul(width)?)?)
    };
    let mut dense = 1;
    let contiguous = p.shape.iter().zip(&p.strides).rev().all(|(n, s)| {
        let fits = *n == 1 || *s == dense;
        dense *= n;
        fits
    });
    if contiguous {
        return part(p.offset, count).map(<[u8]>::to_vec);
    }
    let mut out = Vec::with_capacity(count * width);
    let mut index = vec![0usize; p.shape.len()];
    for _ in 0..count {
        let at = p.offset + index.iter().zip(&p.strides).map(|(i, s)| i * s).sum::<usize>();
        out.extend_from_slice(part(at, 1)?);
        for (i, n) in index.iter_mut().zip(&p.shape).rev() {
            *i += 1;
            if *i < *n {
                break;
            }
            *i = 0;
        }
    }
    Some(out)
}
