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
const KEYS: [&str; 15] = [
    "state_dict",
    "model",
    "model_state_dict",
    "module",
    "net",
    "network",
    "params",
    "model_state",
    "weights",
    // Averages of the weights, where there is nothing else.
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema_model",
    "params_ema",
    "ema",
];
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
    let mut visits = 0;
    let (root, key) = match key {
        Some(key) => {
            let found = key.split('.').try_fold(p.root, entry);
            let what = || fail("pickle.key", format!("has no entry {key}; it has {}", listed()));
            (found.ok_or_else(what)?, Some(key.to_string()))
        }
        None => usual(p, &mut visits, fail)?,
    };
    if key.is_none() && !pairs.iter().any(|(_, v)| is_tensor(p, *v)) {
        return Err(fail("pickle.key", format!("holds no tensors under a usual name; it has {}", listed())));
    }
    let mut found = Found { places: BTreeMap::new(), key, prefix: None, skipped: Vec::new(), left: Vec::new(), visits };
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
                let why = "lies beside what was taken (--key names another entry)".into();
                found.left.push(Left { name: shown(p, *k), why });
            }
        }
    }
    Ok(found)
}

/// The dictionary of the model where nobody named it, and its keys: the usual entry of a checkpoint, though tensors such as the
/// best accuracy stand beside it; below it another one, where nothing else there holds tensors; else the outermost.
fn usual(p: &Pickle, visits: &mut usize, fail: Fail) -> Result<(Id, Option<String>)> {
    let (mut root, mut path): (Id, Vec<&str>) = (p.root, Vec::new());
    while path.len() < MAX_DEPTH {
        let Obj::Dict(pairs) = p.get(root) else { break };
        let mut found = None;
        for key in KEYS {
            // As in Python, the last of equal keys counts.
            let value = pairs.iter().rev().find(|(k, _)| p.text(*k) == Some(key)).map(|(_, v)| *v);
            if let Some(value) = value.filter(|v| matches!(p.get(*v), Obj::Dict(_)))
                && holds(p, value, visits, fail)?
            {
                found = Some((value, key));
                break;
            }
        }
        let Some((value, key)) = found else { break };
        if !path.is_empty() {
            let mut others = pairs.iter().filter(|(_, v)| *v != value);
            if others.try_fold(false, |any, (_, v)| Ok::<_, Error>(any || holds(p, *v, visits, fail)?))? {
                break;
            }
        }
        path.push(key);
        root = value;
    }
    Ok((root, (!path.is_empty()).then(|| path.join("."))))
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
            let place = match place(p, *v, 0) {
                Ok(place) => place,
                Err(Unread::Kind(why)) => {
                    found.left.push(Left { name, why });
                    continue;
                }
                Err(Unread::Broken(what)) => return Err(fail("pickle.tensor", format!("{name}: {what}"))),
            };
            if found.places.contains_key(&name) {
                return Err(fail("pickle.tensor", format!("two tensors are called {name}, one would be lost")));
            }
            found.places.insert(name, place);
        } else if text && matches!(p.get(*v), Obj::Dict(_)) {
            collect(p, *v, &name, depth + 1, found, fail)?;
        } else if holds(p, *v, &mut found.visits, fail)? {
            let why = if text { "is a list or an object that holds tensors" } else { "has a key that is no text" };
            found.left.push(Left { name, why: why.into() });
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

/// Why a tensor is not read.
enum Unread {
    /// Safetensors has no such kind; the others can still be written.
    Kind(String),
    /// The file contradicts itself.
    Broken(String),
}

impl From<&str> for Unread {
    fn from(what: &str) -> Self {
        Unread::Broken(what.into())
    }
}

impl From<String> for Unread {
    fn from(what: String) -> Self {
        Unread::Broken(what)
    }
}

fn place(p: &Pickle, id: Id, depth: usize) -> std::result::Result<Place<'_>, Unread> {
    let (name, args) = maker(p, id).ok_or("is no tensor")?;
    match (name, args) {
        ("_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..]) if depth < 4 => {
            place(p, *inner, depth + 1)
        }
        ("_rebuild_from_type_v2", [what, _, inner, ..]) => match p.get(*what) {
            Obj::Global(_, name) => strided(p, name, p.tuple(*inner)),
            _ => Err("is made by something that is no name".into()),
        },
        ("_rebuild_sparse_tensor" | "_rebuild_sparse_csr_tensor", _) => {
            Err(Unread::Kind("is sparse, which safetensors cannot hold (save .to_dense())".into()))
        }
        ("_rebuild_qtensor", _) => {
            Err(Unread::Kind("is quantized, which safetensors cannot hold (save .dequantize())".into()))
        }
        ("_rebuild_meta_tensor_no_storage", _) => Err(Unread::Kind("is on the meta device and has no elements".into())),
        ("_rebuild_nested_tensor" | "_rebuild_wrapper_subclass", _) => {
            Err(Unread::Kind("is of a tensor class of its own, which safetensors cannot hold".into()))
        }
        _ => strided(p, name, args),
    }
}

fn strided<'a>(p: &'a Pickle, name: &str, args: &[Id]) -> std::result::Result<Place<'a>, Unread> {
    let mut untyped = None;
    let (storage, offset, shape, strides, negative) = match (name, args) {
        ("_rebuild_tensor", [s, o, n, by]) => (s, o, n, by, false),
        // What follows is whether it is trained, its hooks and its notes.
        ("_rebuild_tensor_v2", [s, o, n, by] | [s, o, n, by, _] | [s, o, n, by, _, _]) => (s, o, n, by, false),
        ("_rebuild_tensor_v2", [s, o, n, by, _, _, notes]) => (s, o, n, by, negated(p, *notes)?),
        // Elements of types without a storage class of their own: bytes, and the type beside them.
        ("_rebuild_tensor_v3", [s, o, n, by, _, _, dtype] | [s, o, n, by, _, _, dtype, _]) => {
            let notes = args.get(7).map_or(Ok(false), |notes| negated(p, *notes))?;
            untyped = Some(*dtype);
            (s, o, n, by, notes)
        }
        _ => return Err(format!("is made by {name} of {} values, which is not read", args.len()).into()),
    };
    let (storage, mut dtype, mut elements) = outside(p, *storage)?;
    if let Some(id) = untyped {
        let Obj::Global(_, name) = p.get(id) else { return Err("its type is no name".into()) };
        let bytes = elements.checked_mul(dtype.bitsize() / 8).ok_or("its storage has no size")?;
        dtype =
            element(name).ok_or_else(|| Unread::Kind(format!("is of {name:.60}, which safetensors cannot hold")))?;
        let width = dtype.bitsize() / 8;
        if bytes % width != 0 {
            return Err("its storage ends inside an element".into());
        }
        elements = bytes / width;
    }
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
        return Err(format!("{shape:?} reaches beyond the {elements} elements of its storage").into());
    }
    let floats = matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64);
    if negative && !floats {
        return Err(format!("has the negative bit, which {dtype:?} cannot have").into());
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

/// The type that torch calls by a name and has no storage class for.
fn element(name: &str) -> Option<Dtype> {
    Some(match name {
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "float8_e5m2" => Dtype::F8_E5M2,
        "float8_e8m0fnu" => Dtype::F8_E8M0,
        "float8_e4m3fnuz" => Dtype::F8_E4M3FNUZ,
        "float8_e5m2fnuz" => Dtype::F8_E5M2FNUZ,
        _ => return None,
    })
}

/// Class, name and number of elements of a storage.
fn described(p: &Pickle, id: Id) -> std::result::Result<(&str, &str, Id), &'static str> {
    let Obj::Outside(what) = p.get(id) else { return Err("its storage is not kept outside of the pickle") };
    let [kind, class, name, _, elements, rest @ ..] = p.tuple(*what) else {
        return Err("its storage is not described as usual");
    };
    let (Some("storage"), Obj::Global(_, class), Some(name)) = (p.text(*kind), p.get(*class), p.text(*name)) else {
        return Err("its storage is not described as usual");
    };
    if rest.iter().any(|r| !matches!(p.get(*r), Obj::None)) {
        return Err("its storage is a view of another one");
    }
    Ok((class, name, *elements))
}

/// The type of the elements of a storage of this class.
fn stored(class: &str) -> Option<Dtype> {
    Some(match class {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        "ComplexFloatStorage" => Dtype::C64,
        _ => return None,
    })
}

/// Name, type and number of elements of a storage.
fn outside(p: &Pickle, id: Id) -> std::result::Result<(&str, Dtype, usize), Unread> {
    let (class, name, elements) = described(p, id)?;
    let unknown = || Unread::Kind(format!("is of {class:.60}, which safetensors cannot hold"));
    Ok((name, stored(class).ok_or_else(unknown)?, p.size(elements).ok_or("its storage has no size")?))
}

/// Every storage that any value mentions, with the bytes of an element.
pub(super) fn storages(p: &Pickle) -> BTreeMap<&str, usize> {
    let width = |class: &str| match class {
        "ComplexDoubleStorage" => Some(16),
        "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" => Some(1),
        "QInt32Storage" => Some(4),
        _ => stored(class).map(|dtype| dtype.bitsize() / 8),
    };
    p.ids().filter_map(|id| described(p, id).ok()).filter_map(|(c, name, _)| Some((name, width(c)?))).collect()
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
