//! The settings file of one module: keys accounted for, errors that name it.

use serde_json::{Map, Value as Json};
use switchformer_nn::account::unknown_keys;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Error, Folder, Result};
use switchformer_zoo::open::MAX_CONFIG;

use super::keys::KEYS;

/// A settings file. A file that may be missing is empty then.
pub(crate) struct ModuleFile {
    /// Where it is, below the model's folder.
    pub(crate) path: String,
    /// Its content.
    pub(crate) map: ConfigMap,
}

impl ModuleFile {
    /// Reads `path`, whose keys are those of `table`; what is not known is noted.
    pub(crate) fn read(
        folder: &Folder,
        path: &str,
        table: &'static str,
        notes: &mut Vec<String>,
    ) -> Result<ModuleFile> {
        let map = match folder.json(path, MAX_CONFIG)? {
            Json::Object(map) => map,
            _ => return Err(Error::config(path, "must be an object")),
        };
        account(&map, path, table, notes)?;
        Ok(ModuleFile { path: path.into(), map: ConfigMap::new(Json::Object(map))? })
    }

    /// A file that is not there.
    pub(crate) fn absent(path: &str) -> Result<ModuleFile> {
        Ok(ModuleFile { path: path.into(), map: ConfigMap::new(Json::Object(Map::new()))? })
    }

    /// A value of the file; errors name the file too.
    pub(crate) fn get<T>(&self, read: impl FnOnce(&ConfigMap) -> Result<T>) -> Result<T> {
        read(&self.map).map_err(|e| match e {
            Error::Config { field, what } => Error::Config { field: format!("{}: {field}", self.path), what },
            e => e,
        })
    }

    /// A value that cannot be.
    pub(crate) fn wrong(&self, field: &str, what: impl Into<String>) -> Error {
        Error::config(format!("{}: {field}", self.path), what)
    }

    /// A value that is not supported.
    pub(crate) fn refused(&self, field: &str, value: impl ToString, supported: &str) -> Error {
        Error::unsupported(format!("{}: {field}", self.path), value, supported)
    }
}

/// Refuses values that change the answer and are not computed; notes keys that nobody knows.
pub(crate) fn account(map: &Map<String, Json>, path: &str, table: &'static str, notes: &mut Vec<String>) -> Result<()> {
    let unknown = unknown_keys(map, table, KEYS).map_err(|e| match e {
        Error::Unsupported { field, value, supported } => {
            Error::Unsupported { field: field.replacen(table, path, 1), value, supported }
        }
        e => e,
    })?;
    notes.extend(unknown.iter().map(|key| format!("{path}: `{key}` is not a known setting and has no effect")));
    Ok(())
}
