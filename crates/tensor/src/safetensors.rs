//! Files of named tensors, read whole.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::storage::{CpuStorage, DType, WithDType, each};
use crate::{Error, Result, Tensor, bail};

fn dtype(of: Dtype) -> Result<DType> {
    Ok(match of {
        Dtype::U8 => DType::U8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        other => bail!("tensors of {other:?} are not read; give U8, I16, I32, U32, I64, BF16, F16, F32 or F64"),
    })
}

/// The type's name in a file.
fn stored(of: DType) -> Dtype {
    match of {
        DType::U8 => Dtype::U8,
        DType::I16 => Dtype::I16,
        DType::I32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::I64 => Dtype::I64,
        DType::BF16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}

/// All tensors of a file. Errors name the file.
pub fn load(path: impl AsRef<Path>) -> Result<HashMap<String, Tensor>> {
    let path = path.as_ref();
    load_bytes(&std::fs::read(path).map_err(|e| Error::io(path, e))?)
}

/// All tensors of the bytes of a file.
pub fn load_bytes(bytes: &[u8]) -> Result<HashMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes).map_err(|e| Error::tensor(e.to_string()))?;
    let mut all = HashMap::new();
    for (name, view) in file.iter() {
        all.insert(name.to_string(), Tensor::from_raw_buffer(view.data(), dtype(view.dtype())?, view.shape())?);
    }
    Ok(all)
}

/// Writes a file. Errors name the file.
pub fn save<S: AsRef<str>>(tensors: &HashMap<S, Tensor>, path: impl AsRef<Path>) -> Result<()> {
    let mut bytes = Vec::with_capacity(tensors.len());
    for (name, t) in tensors {
        let t = t.contiguous()?;
        let (storage, layout) = t.storage_and_layout();
        let Some((from, to)) = layout.contiguous_offsets() else { bail!("numbers lie out of order") };
        bytes.push((name.as_ref(), t.dtype(), t.dims().to_vec(), raw(&storage, from, to)));
    }
    let views = bytes.iter().map(|(name, dtype, shape, bytes)| {
        let view = TensorView::new(stored(*dtype), shape.clone(), bytes).map_err(|e| Error::tensor(e.to_string()))?;
        Ok((*name, view))
    });
    let views = views.collect::<Result<Vec<_>>>()?;
    let file = safetensors::serialize(views, None).map_err(|e| Error::tensor(e.to_string()))?;
    let path = path.as_ref();
    std::fs::write(path, file).map_err(|e| Error::io(path, e))
}

/// Bytes in little-endian order of elements `from..to`.
pub(crate) fn raw(storage: &CpuStorage, from: usize, to: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity((to - from) * storage.dtype().size_in_bytes());
    each!(storage, v => v[from..to].iter().for_each(|x| x.put_le(&mut out)));
    out
}
