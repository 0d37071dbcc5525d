//! The numbers of a tensor: raw bytes, typed fields, or a file beside the model.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path};

use bytes::Bytes;
use safetensors::Dtype;

use super::proto::{Entry, Tensor};
use super::{bad, decode};
use crate::error::{Error, Result};
use crate::files::inside;
use crate::header::MAX_RANK;
use crate::mmap::Mapped;

/// Most files that hold data beside a model.
const MAX_FILES: usize = 1_000;
/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

/// A tensor whose type and shape are checked; its numbers are read when they are asked for.
pub(super) struct Source {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    tensor: Tensor,
}

/// Files beside the model, mapped when they are first asked for.
#[derive(Default)]
pub(super) struct Beside {
    files: BTreeMap<String, Bytes>,
}

/// The type in safetensors of a `TensorProto.DataType`, else its name.
fn dtype(of: i32) -> Result<Dtype, String> {
    Ok(match of {
        1 => Dtype::F32,
        2 => Dtype::U8,
        3 => Dtype::I8,
        4 => Dtype::U16,
        5 => Dtype::I16,
        6 => Dtype::I32,
        7 => Dtype::I64,
        9 => Dtype::BOOL,
        10 => Dtype::F16,
        11 => Dtype::F64,
        12 => Dtype::U32,
        13 => Dtype::U64,
        14 => Dtype::C64,
        16 => Dtype::BF16,
        17 => Dtype::F8_E4M3,
        19 => Dtype::F8_E5M2,
        8 => return Err("STRING".into()),
        15 => return Err("COMPLEX128".into()),
        21 => return Err("UINT4".into()),
        22 => return Err("INT4".into()),
        n => return Err(format!("number {n}")),
    })
}

impl Source {
    /// Checks type and shape. The inner error is the reason to leave the tensor out.
    pub(super) fn new(tensor: Tensor, path: &Path) -> Result<Result<Source, String>> {
        let name = &tensor.name;
        if tensor.dims.len() > MAX_RANK {
            let what = format!("{name:.200} has {} dimensions, the limit is {MAX_RANK}", tensor.dims.len());
            return Err(bad(path, "onnx.tensor", what));
        }
        let shape: Option<Vec<usize>> = tensor.dims.iter().map(|d| usize::try_from(*d).ok()).collect();
        let shape = shape.filter(|s| s.iter().try_fold(64usize, |n, d| n.checked_mul(*d)).is_some());
        let shape = shape.ok_or_else(|| {
            bad(path, "onnx.tensor", format!("{name:.200} has the shape {:?}, which no tensor has", tensor.dims))
        })?;
        if tensor.segment.is_some() {
            return Ok(Err("is a segment of a tensor".into()));
        }
        match dtype(tensor.data_type) {
            Ok(dtype) => Ok(Ok(Source { dtype, shape, tensor })),
            Err(name) => Ok(Err(format!("is of the type {name}, which safetensors does not hold"))),
        }
    }

    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its size in bytes.
    pub(super) fn size(&self) -> usize {
        self.elements() * self.width()
    }

    pub(super) fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// The little-endian bytes, as many as type and shape say.
    pub(super) fn bytes(&self, path: &Path, beside: &mut Beside) -> Result<Vec<u8>> {
        let t = &self.tensor;
        let typed =
            t.float_data.len() + t.int32_data.len() + t.int64_data.len() + t.double_data.len() + t.uint64_data.len();
        let places = usize::from(t.raw_data.as_ref().is_some_and(|r| !r.is_empty()))
            + usize::from(typed > 0)
            + usize::from(t.data_location == EXTERNAL);
        if places > 1 {
            return Err(bad(path, "onnx.tensor", format!("{:.200} has its numbers in two places", t.name)));
        }
        let bytes: Cow<[u8]> = match (&t.raw_data, t.data_location) {
            (_, EXTERNAL) => return self.external(path, beside),
            (Some(raw), _) if typed == 0 => Cow::Borrowed(raw),
            _ => Cow::Owned(self.typed()),
        };
        if bytes.len() != self.size() {
            let what = format!(
                "{:.200} is {:?} {:?}, {} bytes, and holds {}",
                t.name,
                self.dtype,
                self.shape,
                self.size(),
                bytes.len()
            );
            return Err(bad(path, "onnx.tensor", what));
        }
        Ok(bytes.into_owned())
    }

    /// The bytes of typed fields: narrow types stand in 32 bits each. Another field than the type's counts for nothing.
    fn typed(&self) -> Vec<u8> {
        let t = &self.tensor;
        let narrow = |width: usize| {
            t.int32_data.iter().flat_map(move |v| v.to_le_bytes().into_iter().take(width)).collect::<Vec<u8>>()
        };
        match self.dtype {
            // Real and imaginary parts by turns.
            Dtype::F32 | Dtype::C64 => t.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::F64 => t.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::I64 => t.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::U64 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::U32 => t.uint64_data.iter().flat_map(|v| v.to_le_bytes().into_iter().take(4)).collect(),
            _ => narrow(self.width()),
        }
    }

    /// The bytes in a file beside the model, by `location`, `offset` and `length`.
    fn external(&self, path: &Path, beside: &mut Beside) -> Result<Vec<u8>> {
        let name = &self.tensor.name;
        let refuse = |what: String| bad(path, "onnx.external", what);
        let (mut location, mut offset, mut length) = (String::new(), 0u64, None);
        for entry in &self.tensor.external_data {
            let Entry { key, value } = decode(entry, path)?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| refuse(format!("{name:.200}: {key} of its data is {value:?}, no number")))
            };
            match key.as_str() {
                "location" => location = value,
                "offset" => offset = number()?,
                "length" => length = Some(number()?),
                _ => {}
            }
        }
        let want = self.size() as u64;
        if let Some(length) = length.filter(|l| *l != want) {
            let (dtype, shape) = (self.dtype, &self.shape);
            return Err(refuse(format!("{name:.200} is {dtype:?} {shape:?}, {want} bytes, and its data {length}")));
        }
        let file = beside.file(path, &location)?;
        let end = offset.checked_add(want).filter(|end| *end <= file.len() as u64);
        let Some(end) = end else {
            let (held, what) = (file.len(), format!("{name:.200}: {want} bytes from byte {offset} of {location:?}"));
            return Err(refuse(format!("{what}, which holds {held}")));
        };
        Ok(file[offset as usize..end as usize].to_vec())
    }
}

impl Beside {
    /// A file in the folder of the model or below it, wherever links lead.
    fn file(&mut self, model: &Path, location: &str) -> Result<Bytes> {
        if let Some(known) = self.files.get(location) {
            return Ok(known.clone());
        }
        let refuse = |what: String| {
            let hint = "data of a model must lie in its folder, or below it; fetch all files of the model";
            Error::format(model, "onnx.external", what, hint)
        };
        let plain = Path::new(location).components().all(|c| matches!(c, Component::Normal(_)));
        if location.is_empty() || location.len() > 1_024 || !plain || location.contains(['\\', ':', '\0']) {
            return Err(refuse(format!("names {location:.200?} as the file of its data")));
        }
        if self.files.len() == MAX_FILES {
            return Err(refuse(format!("names more than {MAX_FILES} files")));
        }
        let dir = model.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let at = dir.join(location);
        if !at.exists() {
            return Err(refuse(format!("has its numbers in {location:?}, which is not there")));
        }
        if !inside(dir, &at)? {
            return Err(refuse(format!("has its numbers in {location:?}, which leads out of its folder")));
        }
        let map = Bytes::from_owner(Map(Mapped::open(&at)?));
        self.files.insert(location.to_string(), map.clone());
        Ok(map)
    }

    /// Bytes of all files that were opened.
    pub(super) fn size(&self) -> usize {
        self.files.values().map(Bytes::len).sum()
    }
}

/// A mapped file that [`Bytes`] can share.
pub(super) struct Map(pub(super) Mapped);

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}
