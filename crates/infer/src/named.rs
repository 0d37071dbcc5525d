//! Tensors by name, and how they are written as JSON.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use switchformer_nn::Error as NnError;
use switchformer_nn::weights::inspect;
use switchformer_nn::{json, objects};
use switchformer_tensor::{DType, Tensor};

use crate::error::Result;

/// Whole numbers up to here are exact in JSON.
const EXACT: f64 = (1u64 << 53) as f64;

/// Tensors by Hugging Face's names: `{"input_ids": {"shape": [1, 3], "data": [101, 7, 102]}}` in JSON. Whole numbers become
/// I64, others F32; the model's slots decide what is computed in.
#[derive(Clone, Debug)]
pub struct NamedTensors {
    /// Where they come from, for errors.
    pub source: String,
    /// The tensors.
    pub map: BTreeMap<String, Tensor>,
}

impl NamedTensors {
    /// Tensors of this program.
    pub fn new(map: BTreeMap<String, Tensor>) -> NamedTensors {
        NamedTensors { source: "tensors".into(), map }
    }

    /// Reads a safetensors file. Headers are checked strictly before any tensor is made.
    pub fn read(file: &Path) -> Result<NamedTensors> {
        inspect(file)?;
        let map = switchformer_tensor::safetensors::load(file).map_err(|e| {
            NnError::format(file, "safetensors.header", e.to_string(), "give each tensor in a type that is read")
        })?;
        Ok(NamedTensors { source: file.display().to_string(), map: map.into_iter().collect() })
    }
}

/// A tensor in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Serialize for NamedTensors {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let plain = |(name, t): (&String, &Tensor)| {
            let data = t.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1::<f64>());
            let data = data.map_err(ser::Error::custom)?;
            if data.iter().any(|v| !v.is_finite()) {
                let what = format!("`{name}` holds a number that JSON cannot; write a safetensors file");
                return Err(ser::Error::custom(what));
            }
            Ok((name.clone(), Plain { shape: t.dims().to_vec(), data }))
        };
        self.map.iter().map(plain).collect::<Result<BTreeMap<_, _>, S::Error>>()?.serialize(s)
    }
}

impl<'de> Deserialize<'de> for NamedTensors {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let tensor = |(name, Plain { shape, data }): (String, Plain)| {
            let n = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
            if n != Some(data.len()) {
                let what = format!("`{name}` has {} numbers for shape {shape:?}; give one for each place", data.len());
                return Err(de::Error::custom(what));
            }
            if let Some(large) = data.iter().find(|v| !(**v as f32).is_finite()) {
                return Err(de::Error::custom(format!("`{name}` holds {large:e}, beyond what f32 can hold")));
            }
            let whole = data.iter().all(|v| v.fract() == 0.0 && v.abs() <= EXACT);
            let t = if whole {
                Tensor::from_vec(data.iter().map(|v| *v as i64).collect::<Vec<_>>(), shape)
            } else {
                Tensor::from_vec(data.iter().map(|v| *v as f32).collect::<Vec<_>>(), shape)
            };
            Ok((name, t.map_err(de::Error::custom)?))
        };
        let all = objects::read_by(d, json::distinct::<_, Plain>)?.into_iter().map(tensor);
        Ok(NamedTensors::new(all.collect::<Result<_, D::Error>>()?))
    }
}
