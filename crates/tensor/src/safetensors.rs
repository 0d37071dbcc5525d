//! Files of named tensors, read whole.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::storage::{CpuStorage, DType, WithDType, each};
use crate::{Error, Result, Tensor, bail};

/// The type that a tensor of a file is held in; `None` where there is none.
fn dtype(of: Dtype) -> Option<DType> {
    Some(match of {
        Dtype::U8 => DType::U8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::U32 => DType::U32,
        Dtype::I64 => DType::I64,
        Dtype::BF16 => DType::BF16,
        Dtype::F16 => DType::F16,
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        _ => return None,
    })
}

/// A tensor of a file. Types without one of their own are held in the next wider one; truth values are 0 and 1.
fn tensor(name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let (bytes, shape) = (view.data(), view.shape());
    match view.dtype() {
        Dtype::BOOL => Tensor::from_vec(bytes.iter().map(|b| u8::from(*b != 0)).collect::<Vec<u8>>(), shape),
        Dtype::I8 => Tensor::from_vec(bytes.iter().map(|b| i16::from(*b as i8)).collect::<Vec<i16>>(), shape),
        Dtype::U16 => {
            let values = bytes.as_chunks().0.iter().map(|b| i32::from(u16::from_le_bytes(*b)));
            Tensor::from_vec(values.collect::<Vec<i32>>(), shape)
        }
        Dtype::U64 => {
            let values = bytes.as_chunks().0.iter().map(|b| i64::try_from(u64::from_le_bytes(*b)));
            match values.collect::<std::result::Result<Vec<i64>, _>>() {
                Ok(values) => Tensor::from_vec(values, shape),
                Err(_) => bail!("`{name}` of U64 holds a number beyond {}", i64::MAX),
            }
        }
        other => match dtype(other) {
            Some(dtype) => Tensor::from_raw_buffer(bytes, dtype, shape),
            None => bail!(
                "`{name}` is of {other:?}, which is not read; give BOOL, U8, I8, U16, I16, U32, I32, U64, I64, BF16, F16, \
                 F32 or F64"
            ),
        },
    }
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
        all.insert(name.to_string(), tensor(name, &view)?);
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
