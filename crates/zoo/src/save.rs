//! Writing a model as a folder that Hugging Face tools read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use switchformer_nn::store::{SavedMap, safetensors_bytes, split_param};
use switchformer_nn::{Error, Param, Result};

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

/// Files of a checkpoint that is made of the one in `dir`: its companions, a new config and new tensors in one file.
pub fn remade(dir: &Path, config: &Map<String, Value>, tensors: &SavedMap) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = copies(dir, &["json", "txt", "md"])?;
    files.retain(|name, _| !name.ends_with(".index.json"));
    files.insert("config.json".into(), json_bytes(&Value::Object(config.clone())));
    files.insert("model.safetensors".into(), safetensors_bytes(tensors)?);
    Ok(files)
}

/// Most files of a checkpoint folder that are copied.
const MAX_FILES: usize = 1_000;

/// Files of the folder that other tools read, by extension, its licence, and the small ones of its subfolders (`1_Pooling/config.json`).
pub fn copies(dir: &Path, kinds: &[&str]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    copy_into(&mut files, dir, "", kinds)?;
    for (name, path) in entries(dir)? {
        if path.is_dir() && !name.starts_with('.') {
            copy_into(&mut files, &path, &format!("{name}/"), &["json", "txt"])?;
        }
    }
    Ok(files)
}

fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let io = |e| Error::io(dir, e);
    let list = std::fs::read_dir(dir).map_err(io)?.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
    if list.len() > MAX_FILES {
        let (got, max) = (list.len() as u64, MAX_FILES as u64);
        return Err(Error::Limit { what: format!("files in {}", dir.display()), got, max, hint: "clear it up".into() });
    }
    Ok(list.into_iter().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect())
}

fn copy_into(files: &mut BTreeMap<String, Vec<u8>>, dir: &Path, prefix: &str, kinds: &[&str]) -> Result<()> {
    for (name, path) in entries(dir)? {
        let known = path.extension().and_then(|e| e.to_str()).is_some_and(|e| kinds.contains(&e));
        if (known || name.starts_with("LICENSE")) && path.is_file() && !name.starts_with('.') {
            files.insert(format!("{prefix}{name}"), std::fs::read(&path).map_err(|e| Error::io(&path, e))?);
        }
    }
    Ok(())
}
