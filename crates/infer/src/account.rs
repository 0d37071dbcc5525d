//! What becomes of every key in the settings files of a folder, and the page that lists them all.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};
use switchformer_data::IMAGE_KEYS;
use switchformer_data::text::{self, TOKENIZER_KEYS};
use switchformer_nn::account::{Handling, Key, unknown_keys};
use switchformer_nn::files::{INDEX, INDEX_KEYS};
use switchformer_nn::{Error, Folder, Result};
use switchformer_switch::plan::QUANTIZATION_KEYS;
use switchformer_zoo::account::{TIMM, TIMM_KEYS};
use switchformer_zoo::open::MAX_CONFIG;

use crate::generate::SETTINGS;
use crate::sentence::KEYS as SENTENCE_KEYS;
use crate::session::Session;

/// Tables of all files but `config.json`, whose keys a family's file applies or refuses one by one.
pub static TABLES: &[&[Key]] =
    &[SETTINGS, text::KEYS, TOKENIZER_KEYS, SENTENCE_KEYS, IMAGE_KEYS, TIMM_KEYS, QUANTIZATION_KEYS, INDEX_KEYS];

/// What becomes of a key of a file that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The file.
    pub file: String,
    /// The key.
    pub key: String,
    /// Its value as JSON; of the parts of a tokenizer their kinds.
    pub value: String,
    /// `applied`, `no effect`, `default` (it says what is done anyway), or `unknown`.
    pub handling: &'static str,
    /// What it does, or why nothing depends on it.
    pub why: String,
}

/// Rows of the tables of a file.
fn rows(file: &str) -> impl Iterator<Item = &'static Key> {
    TABLES.iter().flat_map(|table| table.iter()).filter(move |row| row.file == file)
}

/// Whether the whole of a config is timm's.
fn of_timm(config: &Map<String, Value>) -> bool {
    config.contains_key("architecture") && !config.contains_key("model_type")
}

/// What is to be noted of keys that nothing knows in the files that no other reader accounts for: timm's `config.json`, and the
/// list of shards.
pub(crate) fn notes(folder: &Folder) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let mut add = |at: &str, unknown: Vec<String>| {
        notes.extend(unknown.into_iter().map(|key| format!("{at}: `{key}` is not known here and has no effect")));
    };
    if let Value::Object(config) = folder.json("config.json", MAX_CONFIG)?
        && of_timm(&config)
    {
        let unknown = unknown_keys(&config, TIMM, TIMM_KEYS)?;
        // Older files are their own `pretrained_cfg`.
        let older = !config.contains_key("pretrained_cfg");
        add(
            "config.json",
            unknown.into_iter().filter(|key| !(older && rows(PRETRAINED).any(|row| row.key == key))).collect(),
        );
    }
    if folder.has(INDEX) && !folder.has("model.safetensors") {
        add(INDEX, shards(folder)?.map_or_else(|| Ok(Vec::new()), |map| unknown_keys(&map, INDEX, INDEX_KEYS))?);
    }
    Ok(notes)
}

/// The table of what timm keeps of a checkpoint.
const PRETRAINED: &str = "config.json: pretrained_cfg";
/// The table of stored forms.
const QUANTIZATION: &str = "config.json: quantization_config";
/// Largest list of shards that is shown.
const MAX_SHARDS: u64 = 16 << 20;

/// The list of shards; `None` where it is no object, which opening the weights refuses.
fn shards(folder: &Folder) -> Result<Option<Map<String, Value>>> {
    match folder.json(INDEX, MAX_SHARDS)? {
        Value::Object(map) => Ok(Some(map)),
        _ => Ok(None),
    }
}

/// Every key of the settings files of an open folder. Errors where a file cannot be read.
pub fn account(folder: &Folder, session: &Session) -> Result<Vec<Account>> {
    let mut all = Vec::new();
    let inner = session.model_folder().unwrap_or(folder);
    config(inner, session, &mut all)?;
    let mut places = vec![folder];
    if inner.path("") != folder.path("") {
        places.push(inner);
    }
    for place in places {
        files(place, session, &mut all)?;
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|a| seen.insert((a.file.clone(), a.key.clone())));
    Ok(all)
}

/// Keys of `config.json`.
fn config(folder: &Folder, session: &Session, all: &mut Vec<Account>) -> Result<()> {
    let Value::Object(stored) = folder.json("config.json", MAX_CONFIG)? else { return Ok(()) };
    if of_timm(&stored) {
        all.extend(of_file(TIMM, "config.json", &stored));
        for part in ["pretrained_cfg", "model_args"] {
            let Some(Value::Object(map)) = stored.get(part) else { continue };
            let at = format!("config.json: {part}");
            match part {
                "pretrained_cfg" => all.extend(of_file(PRETRAINED, &at, map)),
                _ => all.extend(map.iter().map(|(key, value)| Account {
                    file: at.clone(),
                    key: key.clone(),
                    value: brief(value),
                    handling: "applied",
                    why: "an argument of the constructor".into(),
                })),
            }
        }
        if !stored.contains_key("pretrained_cfg") {
            all.retain(|a| a.handling != "unknown" || rows(PRETRAINED).all(|row| row.key != a.key));
            all.extend(of_file(PRETRAINED, "config.json", &stored).into_iter().filter(|a| a.handling != "unknown"));
        }
        return Ok(());
    }
    let config = &session.opened.config;
    let unread = config.unread();
    let none = switchformer_zoo::account::NO_EFFECT;
    for (key, value) in stored.iter().filter(|(_, v)| !v.is_null()) {
        let (handling, why) = match none.iter().find(|row| row.key == key) {
            _ if !unread.contains(&key.as_str()) => ("applied", String::new()),
            Some(row) => ("no effect", row.why.to_string()),
            None if SETTINGS.iter().any(|row| row.key == key) => ("no effect", "of models that write".into()),
            None if switchformer_zoo::account::drops(key) => ("no effect", "of training alone".into()),
            None => ("unknown", String::new()),
        };
        all.push(Account { file: "config.json".into(), key: key.clone(), value: brief(value), handling, why });
    }
    if let Some(Value::Object(map)) = stored.get("quantization_config") {
        all.extend(of_file(QUANTIZATION, QUANTIZATION, map));
    }
    Ok(())
}

/// Keys of the other files in a folder.
fn files(folder: &Folder, session: &Session, all: &mut Vec<Account>) -> Result<()> {
    let mut names: Vec<&str> = TABLES.iter().flat_map(|t| t.iter()).map(|row| row.file).collect();
    names.sort_unstable();
    names.dedup();
    for file in names.into_iter().filter(|file| folder.has(file)) {
        if file == "tokenizer.json" {
            let Ok(tokenizer) = session.tokenizer() else { continue };
            all.extend(of_tokenizer(folder, tokenizer.builds_own_stages())?);
            continue;
        }
        if file == INDEX {
            all.extend(shards(folder)?.iter().flat_map(|map| of_file(INDEX, INDEX, map)));
            continue;
        }
        match folder.json(file, MAX_SETTINGS)? {
            Value::Object(map) => {
                all.extend(of_file(file, file, &map));
                if let Some(Value::Object(part)) = map.get("image_processor") {
                    let table = "preprocessor_config.json";
                    all.extend(of_file(table, &format!("{file}: image_processor"), part));
                }
            }
            // The list of modules, each with settings in a folder of its own.
            Value::Array(entries) => {
                for entry in entries.iter().filter_map(Value::as_object) {
                    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
                    let at = format!("{file}: {}", text("path"));
                    all.extend(of_file(file, if text("path").is_empty() { file } else { &at }, entry));
                    let kind = text("type").rsplit('.').next().unwrap_or_default();
                    let (table, path) = (format!("{kind}/config.json"), format!("{}/config.json", text("path")));
                    if rows(&table).next().is_some()
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
    Ok(())
}

/// Largest settings file that is shown.
const MAX_SETTINGS: u64 = 16 << 20;

/// The parts of a `tokenizer.json`.
fn of_tokenizer(folder: &Folder, rebuilt: bool) -> Result<Vec<Account>> {
    const FILE: &str = "tokenizer.json";
    let path = folder.path(FILE);
    let label = Path::new(FILE);
    let parts = text::contents(&folder.read(FILE, text::MAX_TOKENIZER_BYTES)?, label)
        .map_err(|e| Error::format(&path, "tokenizer.parse", e.to_string(), "download it again"))?;
    let one = |(key, kinds): (String, String)| {
        let (handling, why) = match (text::handling_in(&key, &kinds, rebuilt), rows(FILE).find(|row| row.key == key)) {
            (Some((handling, why)), _) => (word(handling), why),
            (None, Some(row)) => (word(row.handling), row.why),
            (None, None) => ("unknown", ""),
        };
        Account { file: FILE.into(), key, value: kinds, handling, why: why.into() }
    };
    Ok(parts.into_iter().map(one).collect())
}

/// Keys of one file by the tables; `at` is where it lies.
fn of_file(file: &str, at: &str, map: &Map<String, Value>) -> Vec<Account> {
    let rows: BTreeMap<&str, &Key> = rows(file).map(|row| (row.key, row)).collect();
    map.iter()
        .map(|(key, value)| {
            let (handling, why) = match rows.get(key.as_str()).or_else(|| rows.get("*")) {
                Some(row) => (word(row.handling), row.why),
                None => ("unknown", ""),
            };
            Account { file: at.into(), key: key.clone(), value: brief(value), handling, why: why.into() }
        })
        .collect()
}

/// A value in a few characters.
fn brief(value: &Value) -> String {
    let text = match value {
        Value::Object(map) if map.len() > 3 => format!("{} entries", map.len()),
        Value::Array(list) if list.len() > 8 => format!("{} entries", list.len()),
        value => json!(value).to_string(),
    };
    match text.char_indices().nth(40) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
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
         name. Folders of timm have a `config.json` of their own kind, whose keys are listed apart. Each key is tested: \
         `crates/infer/tests/settings.rs`.\n",
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
