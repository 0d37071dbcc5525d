//! The side files of a tokenizer: settings and special tokens, gathered as transformers 5.23 gathers them.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use switchformer_format::account::unknown_keys;
use tokenizers::AddedToken;

use super::class::object;
use super::keys::KEYS;
use crate::error::{Error, Result};
use crate::text_config::optional_json;

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";
/// Special tokens with a name of their own, in the order in which they are added.
pub(crate) const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A special token: bare text, or text with how it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Text(String),
    Full(AddedToken),
}

impl Mark {
    pub(crate) fn text(&self) -> &str {
        match self {
            Mark::Text(text) => text,
            Mark::Full(token) => &token.content,
        }
    }
}

/// What the side files of a folder say.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    /// Settings by name; special tokens are not among them.
    pub(crate) values: Map<String, Value>,
    /// Special tokens by name; `None` where a file says null.
    pub(crate) named: BTreeMap<String, Option<Mark>>,
    /// Special tokens of other names, in the order of the files.
    pub(crate) own: Vec<(String, Mark)>,
    /// Further special tokens.
    pub(crate) extra: Option<Vec<Mark>>,
    /// The same where a class reads them from its own setting.
    pub(crate) additional: Option<Vec<Mark>>,
    /// Added tokens by id.
    pub(crate) added: BTreeMap<u32, AddedToken>,
    /// What is passed over, in words.
    pub(crate) notes: Vec<String>,
    path: std::path::PathBuf,
}

/// The added tokens of a `tokenizer.json`.
pub(crate) type Listed<'a> = Option<&'a [(u32, AddedToken)]>;

impl Settings {
    /// Reads the side files of a folder; `listed` are the added tokens of its `tokenizer.json`, if it has one. Fails with
    /// `file.*`, `json.*`, `config.unsupported` or `tokenizer.parse`.
    pub(crate) fn read(dir: &Path, listed: Listed) -> Result<Self> {
        let read = |name: &str| optional_json(&dir.join(name));
        Self::gather(read(CONFIG)?, read(MAP)?, read(ADDED)?, listed, &dir.join(CONFIG))
    }

    /// The settings of a `tokenizer_config.json` alone.
    pub(crate) fn of(config: &Value, label: &Path) -> Result<Self> {
        Self::gather(Some(config.clone()), None, None, None, label)
    }

    fn gather(
        config: Option<Value>,
        map: Option<Value>,
        added: Option<Value>,
        listed: Listed,
        path: &Path,
    ) -> Result<Self> {
        let mut this = Settings { path: path.to_owned(), ..Settings::default() };
        let whole = object(config.as_ref().unwrap_or(&Value::Null));
        let map = object(map.as_ref().unwrap_or(&Value::Null));
        this.account(&whole, CONFIG)?;
        this.account(&map, MAP)?;
        let mut values = whole;
        if listed.is_some() {
            values.remove("add_bos_token");
            values.remove("add_eos_token");
        }
        let filled = |v: Option<&Value>| v.is_some_and(|v| !v.is_null() && *v != Value::Array(Vec::new()));
        if values.contains_key("additional_special_tokens") && !filled(values.get("extra_special_tokens")) {
            let list = values.remove("additional_special_tokens").unwrap_or_default();
            values.insert("extra_special_tokens".into(), list);
        }
        let is_own = |(key, value): &(&String, &Value)| {
            key.ends_with("_token") && !NAMED.contains(&key.as_str()) && (value.is_string() || is_token(value))
        };
        let own: Vec<String> = values.iter().filter(is_own).map(|(key, _)| key.clone()).collect();
        let mut named_own = Map::new();
        for key in own {
            let value = values.remove(&key).unwrap_or_default();
            named_own.insert(key, value);
        }
        let described = values.remove("added_tokens_decoder");
        if described.is_none() {
            for (key, value) in map {
                match (key.as_str(), values.get_mut("extra_special_tokens")) {
                    ("extra_special_tokens", Some(Value::Array(have))) => {
                        let list = value.as_array().cloned().unwrap_or_default();
                        let new: Vec<Value> = list.into_iter().filter(|t| !have.contains(t)).collect();
                        have.extend(new);
                    }
                    _ => drop(values.insert(key, special(value))),
                }
            }
        }
        for key in ["extra_special_tokens", "model_specific_special_tokens"] {
            if matches!(values.get(key), Some(Value::Object(_))) {
                named_own.extend(object(&values.remove(key).unwrap_or_default()));
            }
        }
        for (key, value) in named_own {
            let mark = this.mark(&value)?;
            this.own.push((key, mark));
        }
        this.extra = this.marks(values.remove("extra_special_tokens"))?;
        this.additional = this.marks(values.remove("additional_special_tokens"))?;
        for name in NAMED {
            if let Some(value) = values.remove(name) {
                let mark = if value.is_null() { None } else { Some(this.mark(&value)?) };
                this.named.insert(name.to_owned(), mark);
            }
        }
        this.values = values;
        match described {
            Some(tokens) => this.describe(&tokens)?,
            None => this.legacy(added, listed)?,
        }
        // A token that is described is that token, wherever it is named.
        let by_text: BTreeMap<&str, &AddedToken> = this.added.values().map(|t| (t.content.as_str(), t)).collect();
        for mark in this.named.values_mut().flatten() {
            if let Some(token) = by_text.get(mark.text()) {
                *mark = Mark::Full((*token).clone());
            }
        }
        Ok(this)
    }

    fn account(&mut self, object: &Map<String, Value>, file: &str) -> Result<()> {
        for key in unknown_keys(object, file, KEYS)? {
            // Any `*_token` with a text names a special token of the model's own.
            if !(key.ends_with("_token") && object.get(&key).is_some_and(|v| v.is_string() || is_token(v))) {
                self.notes.push(format!("`{key}` in {file} is not known and changes nothing"));
            }
        }
        Ok(())
    }

    fn describe(&mut self, tokens: &Value) -> Result<()> {
        let parse = |kind| Error::tokenizer(&self.path, kind);
        let map = match tokens {
            Value::Null => return Ok(()),
            Value::Object(map) => map,
            _ => return Err(parse("added_tokens_decoder is no object")),
        };
        let mut added = BTreeMap::new();
        for (id, token) in map {
            let id: u32 = id.parse().map_err(|_| parse("an id in added_tokens_decoder is no whole number"))?;
            let token = read_token(token, false).ok_or(parse("added_tokens_decoder does not describe a token"))?;
            added.insert(id, token);
        }
        self.added = added;
        Ok(())
    }

    /// Added tokens where `tokenizer_config.json` has no list of them.
    fn legacy(&mut self, added: Option<Value>, listed: Listed) -> Result<()> {
        if let Some(added) = added {
            let named = self.named.values().flatten().map(Mark::text);
            let special: HashSet<String> =
                named.chain(self.extra.iter().flatten().map(Mark::text)).map(str::to_owned).collect();
            let parse = |kind| Error::tokenizer(&self.path.with_file_name(ADDED), kind);
            let map = added.as_object().ok_or(parse("not an object of tokens and their ids"))?;
            for (text, id) in map {
                let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                let id = id.ok_or(parse("an id is no whole number"))?;
                self.added.insert(id, AddedToken::from(text.as_str(), special.contains(text)));
            }
        }
        self.added.extend(listed.into_iter().flatten().cloned());
        Ok(())
    }

    fn mark(&self, value: &Value) -> Result<Mark> {
        let bad = Error::tokenizer(&self.path, "a special token is neither text nor a description of a token");
        match value {
            Value::String(text) => Ok(Mark::Text(text.clone())),
            // It is made special in the end, which decides where nothing is said of `normalized`.
            other => read_token(other, other.get("normalized").is_none()).map(Mark::Full).ok_or(bad),
        }
    }

    fn marks(&self, list: Option<Value>) -> Result<Option<Vec<Mark>>> {
        match list {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(Vec::new())),
            Some(Value::Array(list)) => list.iter().map(|v| self.mark(v)).collect::<Result<_>>().map(Some),
            Some(_) => Err(Error::tokenizer(&self.path, "special tokens are neither a list nor an object")),
        }
    }

    /// A setting that is true or false.
    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.choice(key)?.unwrap_or(default))
    }

    /// A setting that is true, false or null.
    pub(crate) fn choice(&self, key: &str) -> Result<Option<bool>> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong(key, "is not true or false")),
        }
    }

    /// A setting that is a whole number.
    pub(crate) fn count(&self, key: &str, default: usize, most: usize) -> Result<usize> {
        match self.values.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(v) => match v.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n <= most => Ok(n),
                _ => Err(self.wrong(key, &format!("is no whole number up to {most}"))),
            },
        }
    }

    /// An error about one key of `tokenizer_config.json`.
    pub(crate) fn wrong(&self, key: &str, what: &str) -> Error {
        Error::file(&self.path, "tokenizer.parse", format!("holds a `{key}` that {what}"), "correct it")
    }

    /// Whether a model is given the segment of each token; `None` where the files do not say.
    pub(crate) fn types(&self) -> Option<bool> {
        let names = self.values.get("model_input_names")?.as_array()?;
        Some(names.iter().any(|n| n == "token_type_ids"))
    }
}

/// Whether a value is a token as transformers 4 and 5 write one among settings.
fn is_token(value: &Value) -> bool {
    value.get("__type").and_then(Value::as_str) == Some("AddedToken")
}

/// A token of `special_tokens_map.json`, which is special whatever it says.
fn special(mut value: Value) -> Value {
    if let Some(map) = value.as_object_mut().filter(|map| map.contains_key("content")) {
        map.insert("special".into(), true.into());
    }
    value
}

/// A described token; `None` where the description is none.
pub(crate) fn read_token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = value.get("content")?.as_str()?;
    let flag = |key: &str, default: bool| match value.get(key) {
        None | Some(Value::Null) => Some(default),
        Some(v) => v.as_bool(),
    };
    let special = special || flag("special", false)?;
    let token = AddedToken::from(content, special).normalized(flag("normalized", !special)?);
    Some(token.single_word(flag("single_word", false)?).lstrip(flag("lstrip", false)?).rstrip(flag("rstrip", false)?))
}
