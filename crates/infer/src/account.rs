//! What becomes of every key in the settings files of a folder, and the page that lists them all.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use switchformer_nn::account::{Handling, Key};
use switchformer_nn::{Folder, Result};
use switchformer_zoo::open::MAX_CONFIG;

use crate::generate::SETTINGS;
use crate::session::Session;

/// Tables of all files but `config.json`, whose keys a family's file applies or refuses one by one.
pub static TABLES: &[&[Key]] = &[SETTINGS, switchformer_data::text::KEYS, crate::sentence::KEYS];

/// What becomes of a key of a file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The file.
    pub file: String,
    /// The key.
    pub key: String,
    /// `applied`, `no effect`, `default` (it says what is done anyway), or `unknown`.
    pub handling: &'static str,
    /// What it does, or why nothing depends on it.
    pub why: String,
}

/// Every key of the settings files of an open folder. Errors where a file cannot be read.
pub fn account(folder: &Folder, session: &Session) -> Result<Vec<Account>> {
    let mut all = Vec::new();
    let config = &session.opened.config;
    let unread = config.unread();
    let none = switchformer_zoo::account::NO_EFFECT;
    for key in config.as_map().keys().filter(|key| config.as_map().get(*key).is_some_and(|v| !v.is_null())) {
        let (handling, why) = match none.iter().find(|row| row.key == key) {
            _ if !unread.contains(&key.as_str()) => ("applied", String::new()),
            Some(row) => ("no effect", row.why.to_string()),
            None if SETTINGS.iter().any(|row| row.key == key) => ("no effect", "of models that write".into()),
            None if switchformer_zoo::account::drops(key) => ("no effect", "of training alone".into()),
            None => ("unknown", String::new()),
        };
        all.push(Account { file: "config.json".into(), key: key.clone(), handling, why });
    }
    let mut files: Vec<&str> = TABLES.iter().flat_map(|t| t.iter()).map(|row| row.file).collect();
    files.sort_unstable();
    files.dedup();
    for file in files.into_iter().filter(|file| folder.has(file)) {
        match folder.json(file, MAX_CONFIG)? {
            Value::Object(map) => all.extend(of_file(file, file, &map)),
            // The list of modules, each with settings in a folder of its own.
            Value::Array(entries) => {
                for entry in entries.iter().filter_map(Value::as_object) {
                    all.extend(of_file(file, file, entry));
                    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
                    let kind = text("type").rsplit('.').next().unwrap_or_default();
                    let (table, path) = (format!("{kind}/config.json"), format!("{}/config.json", text("path")));
                    let known = TABLES.iter().flat_map(|t| t.iter()).any(|row| row.file == table);
                    if known
                        && folder.has(&path)
                        && let Value::Object(map) = folder.json(&path, MAX_CONFIG)?
                    {
                        all.extend(of_file(&table, &path, &map));
                    }
                }
            }
            _ => {}
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|a| seen.insert((a.file.clone(), a.key.clone())));
    Ok(all)
}

/// Keys of one file by the tables; `at` is where it lies.
fn of_file(file: &str, at: &str, map: &Map<String, Value>) -> Vec<Account> {
    let rows: BTreeMap<&str, &Key> =
        TABLES.iter().flat_map(|t| t.iter()).filter(|row| row.file == file).map(|row| (row.key, row)).collect();
    map.keys()
        .map(|key| {
            let (handling, why) = match rows.get(key.as_str()) {
                Some(row) => (word(row.handling), row.why),
                None if file == "added_tokens.json" => ("applied", "a token and its id"),
                None => ("unknown", ""),
            };
            Account { file: at.into(), key: key.clone(), handling, why: why.into() }
        })
        .collect()
}

fn word(handling: Handling) -> &'static str {
    match handling {
        Handling::Applied => "applied",
        Handling::NoEffect => "no effect",
        Handling::OnlyDefault(_) => "default",
    }
}

/// The page that lists all keys of all files, in Markdown.
pub fn page() -> String {
    let mut text = String::from(
        "# Settings in the files of a folder\n\nWhat becomes of every key that the reference reads. *applied*: the answer \
         follows it. *no effect*: no answer depends on it. *only*: accepted with this value alone, anything else is an error. \
         A key that is not listed is named in a note when a folder is opened. `switchformer inspect FOLDER` tells what \
         becomes of the keys of a folder.\n\nThis page is made from the tables in the code (`cargo run -p \
         switchformer-infer --example settings`). In `config.json` each family's file applies or refuses what it reads; the keys \
         listed here have no effect in families and heads that do not read them, and so has everything with `dropout` or `drop_path` in its \
         name. `preprocessor_config.json` is not listed: its reader refuses by name what would change the pixels and is not known.\n",
    );
    let tables = std::iter::once(switchformer_zoo::account::NO_EFFECT).chain(TABLES.iter().copied());
    let mut files: Vec<(&str, Vec<&Key>)> = Vec::new();
    for row in tables.flat_map(|t| t.iter()) {
        match files.iter_mut().find(|(file, _)| *file == row.file) {
            Some((_, rows)) => rows.push(row),
            None => files.push((row.file, vec![row])),
        }
    }
    for (file, rows) in files {
        text.push_str(&format!("\n## `{file}`\n\n| key | what becomes of it | |\n|---|---|---|\n"));
        for row in rows {
            let what = match row.handling {
                Handling::OnlyDefault(value) => format!("only `{value}`"),
                other => word(other).to_string(),
            };
            text.push_str(&format!("| `{}` | {what} | {} |\n", row.key, row.why));
        }
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_that_of_the_tables() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text == page(), "write docs/settings.md anew: cargo run -p switchformer-infer --example settings");
    }

    #[test]
    fn no_key_stands_twice() {
        let mut all: Vec<(&str, &str)> = TABLES.iter().flat_map(|t| t.iter()).map(|row| (row.file, row.key)).collect();
        let n = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), n);
    }
}
