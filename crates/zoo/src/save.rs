//! Writing a model as a folder that Hugging Face tools read.

use serde_json::Value;
use switchformer_nn::store::{SavedMap, split_param};
use switchformer_nn::{Param, Result};

use crate::entry::Entry;

/// Published tensors of trained parameters: names with the prefix of the architecture, parts split, shapes restored.
pub fn published_tensors(entry: &Entry, architecture: &str, params: &[Param]) -> Result<SavedMap> {
    let mut map = SavedMap::new();
    for p in params {
        for (name, saved) in split_param(p)? {
            map.insert(entry.published(architecture, &name), saved);
        }
    }
    Ok(map)
}

/// A JSON document as the bytes of a file: two-space indent, keys in order, final newline.
pub fn json_bytes(value: &Value) -> Vec<u8> {
    let mut bytes = serde_json::to_vec_pretty(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}
