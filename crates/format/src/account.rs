//! What becomes of each key of a published settings file: applied, without effect, or refused unless it says what is done
//! anyway. A table of these accounts for a file, so that no setting is passed over in silence.

use serde_json::{Map, Value};

use crate::config::brief;
use crate::error::{Error, Result};

/// What is done about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// It is read, and the answer follows it.
    Applied,
    /// No answer depends on it.
    NoEffect,
    /// It is accepted with this value alone (as JSON); absent and `null` count as that value.
    OnlyDefault(&'static str),
}

/// One key of one file, what is done about it, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// File name, such as `tokenizer_config.json`.
    pub file: &'static str,
    /// Name of the key at the top of the file.
    pub key: &'static str,
    /// What is done about it.
    pub handling: Handling,
    /// What it does, or why nothing depends on it: one clause.
    pub why: &'static str,
}

impl Key {
    /// A row of a table.
    pub const fn new(file: &'static str, key: &'static str, handling: Handling, why: &'static str) -> Self {
        Key { file, key, handling, why }
    }
}

/// Accounts for every key of `object`, which was read from `file`: -> the keys that no row of `table` names, in order; fails
/// with `config.unsupported` on a key that is accepted with one value and has another.
pub fn unknown_keys(object: &Map<String, Value>, file: &str, table: &[Key]) -> Result<Vec<String>> {
    unknown_keys_at(object, file, file, table)
}

/// The same where the object lies elsewhere than the table says: `at` stands in errors.
pub fn unknown_keys_at(object: &Map<String, Value>, file: &str, at: &str, table: &[Key]) -> Result<Vec<String>> {
    let mut unknown = Vec::new();
    for (name, value) in object {
        let Some(row) = table.iter().find(|row| row.file == file && row.key == name) else {
            unknown.push(name.clone());
            continue;
        };
        let Handling::OnlyDefault(default) = row.handling else { continue };
        let same = serde_json::from_str::<Value>(default).is_ok_and(|d| d == *value);
        if !value.is_null() && !same {
            return Err(Error::Unsupported {
                field: format!("{at}: {name}"),
                value: brief(value),
                supported: format!("{default} ({})", row.why),
            });
        }
    }
    Ok(unknown)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    const TABLE: &[Key] = &[
        Key::new("a.json", "size", Handling::Applied, "the side of an image"),
        Key::new("a.json", "author", Handling::NoEffect, "a name"),
        Key::new("a.json", "stride", Handling::OnlyDefault("[1, 1.5]"), "windows do not overlap"),
        Key::new("b.json", "depth", Handling::Applied, "of the other file"),
    ];

    fn check(value: Value) -> Result<Vec<String>> {
        unknown_keys(value.as_object().unwrap(), "a.json", TABLE)
    }

    #[test]
    fn each_key_is_applied_or_named() {
        assert!(check(json!({})).unwrap().is_empty());
        assert!(check(json!({"size": 3, "author": [], "stride": [1, 1.5]})).unwrap().is_empty());
        assert!(check(json!({"stride": null})).unwrap().is_empty());
        // A key of another file, and one of none.
        assert_eq!(check(json!({"depth": 3, "size": 1, "colour": 2})).unwrap(), ["colour", "depth"]);
        let e = check(json!({"stride": 2})).unwrap_err();
        assert_eq!(e.code(), "config.unsupported");
        let text = e.to_string();
        assert!(text.contains("a.json: stride") && text.contains("windows do not overlap"), "{text}");
    }
}
