//! The list of modules, `modules.json`, and where their files are.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use switchformer_nn::{Error, Folder, Result};
use switchformer_zoo::open::MAX_CONFIG;

use super::file::{ModuleFile, account};
use super::keys::MODULES;

/// Most entries of `modules.json`.
const MAX_MODULES: usize = 16;
/// What `modules.json` may name.
pub(super) const SUPPORTED: &str = "Transformer, MLMTransformer, Pooling, SpladePooling, MultiVectorMask, Dense, LayerNorm, Normalize, \
     Dropout (of sentence_transformers)";
/// The class of PyLate that is the one of sentence-transformers too.
const PYLATE_DENSE: &str = "pylate.models.Dense.Dense";

/// One entry of `modules.json`.
pub(super) struct Module {
    pub(super) kind: String,
    pub(super) path: String,
    /// Whether it is one of PyLate's.
    pub(super) pylate: bool,
}

impl Module {
    /// Entry `i`. Its kind is the last part of the type.
    pub(super) fn read(i: usize, entry: &Json, notes: &mut Vec<String>) -> Result<Module> {
        let map = entry.as_object().ok_or_else(|| Error::config(MODULES, format!("entry {i} must be an object")))?;
        account(map, MODULES, MODULES, notes)?;
        let text = |key: &str| map.get(key).and_then(Json::as_str).unwrap_or_default();
        let (kind, path) = (text("type"), text("path"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if path.len() > 64 || !path.chars().all(plain) {
            return Err(Error::config("modules.json path", format!("{path:?} must be a plain folder name")));
        }
        let pylate = kind == PYLATE_DENSE;
        let kind = if pylate { "sentence_transformers.Dense" } else { kind };
        let own = kind.strip_prefix("sentence_transformers.").and_then(|rest| rest.rsplit('.').next());
        let own = own.ok_or_else(|| Error::unsupported("modules.json type", kind, SUPPORTED))?;
        Ok(Module { kind: own.into(), path: path.into(), pylate })
    }

    /// Its settings, of a file that must be there.
    pub(super) fn file(&self, folder: &Folder, table: &'static str, notes: &mut Vec<String>) -> Result<ModuleFile> {
        if self.path.is_empty() {
            return Err(Error::config(
                "modules.json path",
                format!("of {} is empty; it must be a plain folder name", self.kind),
            ));
        }
        let path = format!("{}/config.json", self.path);
        if !folder.has(&path) {
            let what = format!("is named in modules.json as {} and has no config.json", self.kind);
            let hint = "a download may have left out its subfolders: fetch the whole folder again";
            return Err(Error::format(folder.path(&self.path), "checkpoint.module", what, hint));
        }
        ModuleFile::read(folder, &path, table, notes)
    }

    /// Its settings, of a file that need not be there.
    pub(super) fn optional(&self, folder: &Folder, table: &'static str, notes: &mut Vec<String>) -> Result<ModuleFile> {
        let path = format!("{}/config.json", self.path);
        if !self.path.is_empty() && folder.has(&path) {
            return ModuleFile::read(folder, &path, table, notes);
        }
        ModuleFile::absent(&path)
    }
}

/// A folder below another.
pub(super) fn below(folder: &Folder, path: &str) -> Result<Folder> {
    match folder {
        folder if path.is_empty() => Ok(folder.clone()),
        Folder::Disk(dir) if dir.join(path).is_dir() => Ok(Folder::Disk(dir.join(path))),
        _ => {
            let hint = "a download may have left out its subfolders: fetch the whole folder again";
            Err(Error::format(
                folder.path(path),
                "checkpoint.module",
                "is named in modules.json and is no folder",
                hint,
            ))
        }
    }
}

/// The modules of a folder in their order, at least one; `None` where there is no list.
pub(super) fn list(folder: &Folder, notes: &mut Vec<String>) -> Result<Option<Vec<Module>>> {
    if !folder.has(MODULES) {
        return Ok(None);
    }
    let doc = folder.json(MODULES, MAX_CONFIG)?;
    let entries = doc.as_array().ok_or_else(|| Error::config(MODULES, "must be a list"))?;
    if entries.len() > MAX_MODULES {
        return Err(Error::config(MODULES, format!("has {} entries, at most {MAX_MODULES}", entries.len())));
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = entries.iter().filter_map(|e| e.get("name")?.as_str()).find(|name| !names.insert(*name)) {
        return Err(Error::config(MODULES, format!("has two modules named `{twice}`; one would replace the other")));
    }
    let all: Vec<Module> = entries.iter().enumerate().map(|(i, e)| Module::read(i, e, notes)).collect::<Result<_>>()?;
    if all.is_empty() {
        return Err(Error::config(MODULES, "is empty; it must begin with a Transformer"));
    }
    Ok(Some(all))
}
