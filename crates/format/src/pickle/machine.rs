//! The stack machine of a pickle, without the half that runs code: a call is noted down and never made.
//!
//! Values lie in one list and refer to each other by number, so that nothing is ever copied: memory is at most linear in the
//! bytes read, whatever they say.

use std::collections::HashMap;

use crate::error::{Error, Result};

/// Most values of one pickle.
const MAX_VALUES: usize = 8_000_000;
/// Longest name that a message repeats.
const SHOWN: usize = 100;

/// Number of a value.
pub(super) type Id = u32;

/// A value.
#[derive(Debug)]
pub(super) enum Obj {
    None,
    Bool(bool),
    Int(i64),
    /// A number of more than 64 bits, little-endian.
    Big(Vec<u8>),
    Float,
    Text(String),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Set(Vec<Id>),
    /// Module and name.
    Global(String, String),
    /// What would be called, with what, and what would be put into the result.
    Call(Id, Id, Vec<Id>),
    /// What the file keeps outside of the pickle.
    Outside(Id),
}

/// Module and names that may occur; an empty list allows any name of the module and of those below it. None of them is run:
/// the first are what tensors are made of, the rest is harmless by-catch of training scripts.
const KNOWN: &[(&str, &[&str])] = &[
    (
        "torch._utils",
        &[
            "_rebuild_tensor",
            "_rebuild_tensor_v2",
            "_rebuild_tensor_v3",
            "_rebuild_parameter",
            "_rebuild_parameter_with_state",
            // Named in a message and left out.
            "_rebuild_sparse_tensor",
            "_rebuild_sparse_csr_tensor",
            "_rebuild_qtensor",
            "_rebuild_meta_tensor_no_storage",
            "_rebuild_nested_tensor",
            "_rebuild_wrapper_subclass",
        ],
    ),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch.storage", &["TypedStorage", "UntypedStorage"]),
    ("torch.nn.parameter", &["Parameter"]),
    ("torch.serialization", &["_get_layout"]),
    ("collections", &["OrderedDict", "defaultdict", "Counter"]),
    ("argparse", &["Namespace"]),
    ("types", &["SimpleNamespace"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("_codecs", &["encode"]),
    ("pathlib", &["PosixPath", "WindowsPath", "Path", "PurePath"]),
    ("datetime", &["datetime", "timedelta", "date"]),
    ("yacs.config", &["CfgNode"]),
    ("omegaconf", &[]),
    ("typing", &["Any"]),
    ("builtins", PLAIN),
    ("__builtin__", PLAIN),
];
const PLAIN: &[&str] = &[
    "set",
    "frozenset",
    "list",
    "dict",
    "tuple",
    "int",
    "float",
    "bool",
    "str",
    "bytes",
    "bytearray",
    "complex",
    "slice",
    "long",
    "unicode",
];

fn known(module: &str, name: &str) -> bool {
    // Types of elements and of their storage: `FloatStorage`, `float32`, `Size`, `device`.
    let types = matches!(module, "torch" | "torch.cuda")
        && (name.ends_with("Storage") || matches!(name, "Size" | "device" | "Tensor") || dtype_name(name));
    types
        || KNOWN.iter().any(|(m, names)| {
            (*m == module && (names.is_empty() || names.contains(&name)))
                || (names.is_empty() && module.strip_prefix(m).is_some_and(|rest| rest.starts_with('.')))
        })
}

/// Whether a function of this name makes a tensor.
pub(super) fn rebuilds(name: &str) -> bool {
    name.starts_with("_rebuild_")
}

fn dtype_name(name: &str) -> bool {
    let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
    // The formats of 8 and 4 bits end in a letter or in digits: float8_e4m3fn, float4_e2m1fn_x2.
    let narrow = name.starts_with("float8_") || name.starts_with("float4_");
    let layout = matches!(name, "strided" | "sparse_coo" | "sparse_csr" | "sparse_csc" | "sparse_bsr" | "sparse_bsc");
    let quantized = matches!(letters, "qint" | "quint" | "per_tensor_affine" | "per_channel_affine");
    narrow
        || layout
        || quantized
        || matches!(letters, "float" | "bfloat" | "int" | "uint" | "bool" | "half" | "double" | "long" | "complex")
}

/// One pickle, read.
pub(super) struct Pickle {
    values: Vec<Obj>,
    /// The value it stands for.
    pub(super) root: Id,
    /// Bytes it took.
    pub(super) len: usize,
}

impl Pickle {
    /// The value of a number.
    pub(super) fn get(&self, id: Id) -> &Obj {
        &self.values[id as usize]
    }

    /// Numbers of all values.
    pub(super) fn ids(&self) -> impl Iterator<Item = Id> {
        0..self.values.len() as Id
    }

    /// Items of a tuple; none for anything else.
    pub(super) fn tuple(&self, id: Id) -> &[Id] {
        if let Obj::Tuple(items) = self.get(id) { items } else { &[] }
    }

    /// A text.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        if let Obj::Text(t) = self.get(id) { Some(t) } else { None }
    }

    /// A whole number that is not negative.
    pub(super) fn size(&self, id: Id) -> Option<usize> {
        if let Obj::Int(n) = self.get(id) { usize::try_from(*n).ok() } else { None }
    }

    /// Reads the pickle that `bytes` begin with; `fail` makes an error of a code and a text.
    pub(super) fn read(bytes: &[u8], fail: &dyn Fn(&'static str, String) -> Error) -> Result<Pickle> {
        let mut m =
            Machine { bytes, at: 0, values: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new() };
        loop {
            match m.step() {
                Ok(false) => {}
                Ok(true) => break,
                Err((code, what)) => return Err(fail(code, format!("{what} (byte {})", m.at))),
            }
        }
        match m.stack.pop() {
            Some(root) => Ok(Pickle { values: m.values, root, len: m.at }),
            None => Err(fail("pickle.stack", "the pickle ends without a value".into())),
        }
    }
}

type Step<T> = std::result::Result<T, (&'static str, String)>;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Obj>,
    stack: Vec<Id>,
    /// Heights of the stack at open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

fn broken<T>(what: &str) -> Step<T> {
    Err(("pickle.stack", what.to_string()))
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Step<&[u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(("pickle.truncated", "the pickle ends too early".into())) };
        let from = std::mem::replace(&mut self.at, end);
        Ok(&self.bytes[from..end])
    }

    fn number<const N: usize>(&mut self) -> Step<u64> {
        let mut le = [0u8; 8];
        le[..N].copy_from_slice(self.take(N)?);
        Ok(u64::from_le_bytes(le))
    }

    fn length<const N: usize>(&mut self) -> Step<usize> {
        Ok(usize::try_from(self.number::<N>()?).unwrap_or(usize::MAX))
    }

    fn text(&mut self, n: usize) -> Step<String> {
        // Names of Python 2 may hold any byte.
        Ok(String::from_utf8_lossy(self.take(n)?).into_owned())
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.at..];
        let Some(n) = rest.iter().take(4096).position(|b| *b == b'\n') else {
            return Err(("pickle.truncated", "a name does not end".into()));
        };
        let line = self.text(n)?;
        self.at += 1;
        Ok(line.trim_end_matches('\r').to_string())
    }

    fn push(&mut self, value: Obj) -> Step<()> {
        if self.values.len() == MAX_VALUES {
            return Err(("limit", format!("the pickle holds more than {MAX_VALUES} values")));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    /// Takes one value off the stack, never through a mark.
    fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return broken("a value is taken from an empty stack");
        }
        self.stack.pop().map_or_else(|| broken("a value is taken from an empty stack"), Ok)
    }

    /// Everything above the last mark.
    fn above(&mut self) -> Step<Vec<Id>> {
        match self.marks.pop() {
            Some(height) => Ok(self.stack.split_off(height)),
            None => broken("a mark is missing"),
        }
    }

    fn last(&mut self) -> Step<&mut Obj> {
        match self.stack.last() {
            Some(id) => Ok(&mut self.values[*id as usize]),
            None => broken("a value is taken from an empty stack"),
        }
    }

    fn global(&mut self, module: String, name: String) -> Step<()> {
        if !known(&module, &name) {
            let shown: String = format!("{module}.{name}").chars().take(SHOWN).collect();
            return Err(("pickle.global", format!("refers to {shown}, which no tensor is made of; nothing was run")));
        }
        self.push(Obj::Global(module, name))
    }

    fn call(&mut self) -> Step<()> {
        let (args, what) = (self.pop()?, self.pop()?);
        let value = match &self.values[what as usize] {
            Obj::Global(module, name) if module == "collections" || (name == "dict" && module.contains("builtin")) => {
                Obj::Dict(Vec::new())
            }
            Obj::Global(..) => Obj::Call(what, args, Vec::new()),
            _ => return broken("something is called that is no name"),
        };
        self.push(value)
    }

    fn tuple(&mut self, n: usize) -> Step<()> {
        let mut items = (0..n).map(|_| self.pop()).collect::<Step<Vec<Id>>>()?;
        items.reverse();
        self.push(Obj::Tuple(items))
    }

    fn append(&mut self, items: Vec<Id>) -> Step<()> {
        match self.last()? {
            Obj::List(list) | Obj::Set(list) | Obj::Call(_, _, list) => list.extend(items),
            _ => return broken("an item is added to something that is no list"),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Step<()> {
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return broken("a key has no value");
        }
        match self.last()? {
            Obj::Dict(dict) => dict.extend(pairs.iter().map(|[k, v]| (*k, *v))),
            Obj::Call(_, _, list) => list.extend(items),
            _ => return broken("a key is set in something that is no dictionary"),
        }
        Ok(())
    }

    /// The state of an object: dictionaries have only notes on versions, and a tensor's would replace its elements.
    fn build(&mut self) -> Step<()> {
        let state = self.pop()?;
        let tensor = |m: &Self, what: Id| matches!(&m.values[what as usize], Obj::Global(_, n) if rebuilds(n));
        match self.stack.last().map(|id| &self.values[*id as usize]) {
            Some(Obj::Call(what, _, _)) if tensor(self, *what) => {
                Err(("pickle.tensor", "a tensor is given a state of its own, which is not read".into()))
            }
            _ => {
                if let Obj::Call(_, _, list) = self.last()? {
                    list.push(state);
                }
                Ok(())
            }
        }
    }

    fn recall(&mut self, slot: u32) -> Step<()> {
        match self.memo.get(&slot) {
            Some(id) => self.stack.push(*id),
            None => return broken("a value is recalled that was never kept"),
        }
        Ok(())
    }

    fn keep(&mut self, slot: u32) -> Step<()> {
        match self.stack.last() {
            Some(id) => {
                self.memo.insert(slot, *id);
            }
            None => return broken("an empty stack is kept"),
        }
        Ok(())
    }

    /// One instruction. Returns whether it was the last.
    fn step(&mut self) -> Step<bool> {
        let op = self.number::<1>()? as u8;
        match op {
            0x80 => match self.number::<1>()? {
                0..=5 => {}
                v => return Err(("pickle.opcode", format!("protocol {v} is not known"))),
            },
            0x95 => {
                // A frame says how much follows.
                self.take(8)?;
            }
            b'.' => return Ok(true),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'1' => {
                self.above()?;
            }
            b'2' => {
                let id = self.pop()?;
                self.stack.extend([id, id]);
            }
            b'N' => self.push(Obj::None)?,
            0x88 | 0x89 => self.push(Obj::Bool(op == 0x88))?,
            b'J' => {
                let n = self.number::<4>()? as u32;
                self.push(Obj::Int(i64::from(n as i32)))?;
            }
            b'K' => {
                let n = self.number::<1>()?;
                self.push(Obj::Int(n as i64))?;
            }
            b'M' => {
                let n = self.number::<2>()?;
                self.push(Obj::Int(n as i64))?;
            }
            0x8a => {
                let n = self.length::<1>()?;
                let bytes = self.take(n)?.to_vec();
                self.push(long(bytes))?;
            }
            b'G' => {
                self.take(8)?;
                self.push(Obj::Float)?;
            }
            b'X' | b'U' | b'T' | 0x8c | 0x8d => {
                let n = match op {
                    b'U' | 0x8c => self.length::<1>()?,
                    0x8d => self.length::<8>()?,
                    _ => self.length::<4>()?,
                };
                let text = self.text(n)?;
                self.push(Obj::Text(text))?;
            }
            b'B' | b'C' | 0x8e | 0x96 => {
                let n = match op {
                    b'C' => self.length::<1>()?,
                    b'B' => self.length::<4>()?,
                    _ => self.length::<8>()?,
                };
                self.take(n)?;
                self.push(Obj::Bytes)?;
            }
            b')' => self.push(Obj::Tuple(Vec::new()))?,
            b't' => {
                let items = self.above()?;
                self.push(Obj::Tuple(items))?;
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b']' => self.push(Obj::List(Vec::new()))?,
            b'l' => {
                let items = self.above()?;
                self.push(Obj::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.above()?;
                self.append(items)?;
            }
            0x8f => self.push(Obj::Set(Vec::new()))?,
            0x91 => {
                let items = self.above()?;
                self.push(Obj::Set(items))?;
            }
            b'}' => self.push(Obj::Dict(Vec::new()))?,
            b'd' => {
                let items = self.above()?;
                self.push(Obj::Dict(Vec::new()))?;
                self.set(&items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.above()?;
                self.set(&items)?;
            }
            b'q' => {
                let slot = self.number::<1>()?;
                self.keep(slot as u32)?;
            }
            b'r' => {
                let slot = self.number::<4>()?;
                self.keep(slot as u32)?;
            }
            0x94 => self.keep(self.memo.len() as u32)?,
            b'h' => {
                let slot = self.number::<1>()?;
                self.recall(slot as u32)?;
            }
            b'j' => {
                let slot = self.number::<4>()?;
                self.recall(slot as u32)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.values[module as usize], &self.values[name as usize]) {
                    (Obj::Text(module), Obj::Text(name)) => {
                        let (module, name) = (module.clone(), name.clone());
                        self.global(module, name)?;
                    }
                    _ => return broken("a name is no text"),
                }
            }
            b'R' | 0x81 => self.call()?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Obj::Outside(id))?;
            }
            _ => return Err(("pickle.opcode", format!("instruction 0x{op:02x} is not part of any checkpoint"))),
        }
        Ok(false)
    }
}

/// A number in two's complement, little-endian.
fn long(bytes: Vec<u8>) -> Obj {
    if bytes.len() > 8 {
        return Obj::Big(bytes);
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut le = [if negative { 0xff } else { 0 }; 8];
    le[..bytes.len()].copy_from_slice(&bytes);
    Obj::Int(i64::from_le_bytes(le))
}
