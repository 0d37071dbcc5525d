//! Tensors on their way into a checkpoint.

pub use switchformer_format::store::{Saved, SavedMap, apart, safetensors_bytes, unused, write_atomic, write_folder};
use switchformer_tensor::{DType, Tensor};

use crate::error::Result;
use crate::weights::Param;

/// A tensor as f32, to store.
pub fn saved(t: &Tensor) -> Result<Saved> {
    let values: Vec<f32> = t.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    Ok(Saved::f32(t.dims(), &values))
}

/// The tensors a parameter is saved as, split and reshaped as published.
pub fn split_param(p: &Param) -> Result<Vec<(String, Saved)>> {
    let mut from = 0;
    let mut out = Vec::with_capacity(p.names.len());
    for (name, rows) in &p.names {
        let part = if p.names.len() == 1 { p.var.as_tensor().clone() } else { p.var.narrow(0, from, *rows)? };
        let mut stored = saved(&part)?;
        if let Some(shape) = &p.saved_shape {
            stored.shape = shape.clone();
        }
        out.push((name.clone(), stored));
        from += rows;
    }
    Ok(out)
}
