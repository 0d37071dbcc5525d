//! One vector for every token (ColBERT): how queries are filled up, which tokens count, and the layouts that say it.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use switchformer_nn::{Error, Folder, Result};
use switchformer_zoo::open::MAX_CONFIG;

use super::file::ModuleFile;

/// The architecture of ColBERT's own folders, whose `config.json` names it.
const HF_COLBERT: &str = "HF_ColBERT";
/// What ColBERT's own folders say beside their config.
const METADATA: &str = "artifact.metadata";
/// Tokens of a query where a folder says nothing.
const QUERY: usize = 32;
/// Most tokens that a file may ask for.
const MAX_LENGTH: usize = 1 << 20;
/// Most words of a list in a file.
const MAX_WORDS: usize = 10_000;
/// What does not count in documents where a folder says nothing.
const PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// What a text is to an embedding model: its author may give queries and documents a prompt and a length of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// What is looked for.
    Query,
    /// What is looked through.
    Document,
}

impl Task {
    /// Its name, which is also that of its prompt.
    pub fn name(self) -> &'static str {
        match self {
            Task::Query => "query",
            Task::Document => "document",
        }
    }
}

/// How queries are filled up with masks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expansion {
    /// Whether longer queries are cut to the length.
    pub(crate) fixed: bool,
    /// Whether other tokens look at the masks.
    pub(crate) attend: bool,
    /// The token, where it is not the tokenizer's mask.
    pub(crate) token: Option<String>,
    /// How many tokens a query has then, at least.
    pub(crate) length: usize,
}

impl Expansion {
    /// The value of `query_expansion` in a file.
    pub(crate) fn read(file: &ModuleFile, value: &Json) -> Result<Option<Expansion>> {
        let wrong = |what: &str| Err(file.wrong("query_expansion", what));
        let map = match value {
            Json::Null => return Ok(None),
            Json::Object(map) => map,
            _ => return wrong("must be null or an object"),
        };
        if let Some(other) = map.keys().find(|k| !["strategy", "attend", "token", "length"].contains(&k.as_str())) {
            return Err(file.refused("query_expansion", other, "strategy, attend, token, length"));
        }
        let fixed = match map.get("strategy").and_then(Json::as_str) {
            Some("fixed") => true,
            Some("min") => false,
            other => return Err(file.refused("query_expansion: strategy", format!("{other:?}"), "fixed, min")),
        };
        let attend = match map.get("attend") {
            None => false,
            Some(Json::Bool(yes)) => *yes,
            Some(_) => return wrong("attend must be true or false"),
        };
        let token = match map.get("token") {
            None | Some(Json::Null) => None,
            Some(Json::String(token)) => Some(token.clone()),
            Some(_) => return wrong("token must be a text"),
        };
        match map.get("length").and_then(Json::as_u64) {
            Some(n) if (1..=MAX_LENGTH as u64).contains(&n) => {
                Ok(Some(Expansion { fixed, attend, token, length: n as usize }))
            }
            _ => wrong("length must be a number of tokens"),
        }
    }
}

/// Which tokens count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mask {
    /// Tokens that do not count.
    pub(crate) skip: Vec<String>,
    /// Whether they do not count in queries, and in documents.
    pub(crate) skips: [bool; 2],
    /// The ids that count alone in documents, where there are any.
    pub(crate) only: Vec<u32>,
}

impl Mask {
    /// A mask that leaves out tokens of documents.
    pub(crate) fn skipping(skip: Vec<String>) -> Mask {
        Mask { skip, skips: [false, true], only: Vec::new() }
    }

    /// The settings of a `MultiVectorMask`.
    pub(crate) fn read(file: &ModuleFile) -> Result<Mask> {
        let skip = words(file, "skiplist_words")?.unwrap_or_default();
        let tasks = match file.map.get("skiplist_tasks") {
            Some(Json::String(one)) => vec![one.clone()],
            _ => words(file, "skiplist_tasks")?.unwrap_or_else(|| vec![Task::Document.name().into()]),
        };
        let skips = [Task::Query, Task::Document].map(|task| tasks.iter().any(|t| t == task.name()));
        let only = match file.map.get("keep_only_token_ids") {
            None => Vec::new(),
            Some(Json::Array(list)) if list.len() <= MAX_WORDS => {
                let id = |v: &Json| v.as_u64().and_then(|id| u32::try_from(id).ok());
                let all = list.iter().map(id).collect::<Option<_>>();
                all.ok_or_else(|| file.wrong("keep_only_token_ids", "must be a list of token ids"))?
            }
            Some(_) => return Err(file.wrong("keep_only_token_ids", "must be a list of token ids")),
        };
        Ok(Mask { skip, skips, only })
    }

    /// Whether a token of a text counts; `skipped` are the ids of what does not.
    pub(crate) fn counts(&self, task: Task, id: u32, skipped: &[u32]) -> bool {
        let query = task == Task::Query;
        let skips = self.skips[usize::from(!query)];
        !(skips && skipped.contains(&id)) && (query || self.only.is_empty() || self.only.contains(&id))
    }
}

/// A list of texts of a file.
fn words(file: &ModuleFile, key: &str) -> Result<Option<Vec<String>>> {
    let wrong = || file.wrong(key, format!("must be a list of at most {MAX_WORDS} texts"));
    match file.map.get(key) {
        None => Ok(None),
        Some(Json::Array(list)) if list.len() <= MAX_WORDS => {
            let all = list.iter().map(|v| v.as_str().map(str::to_string)).collect::<Option<Vec<String>>>();
            all.map(Some).ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

fn punctuation() -> Vec<String> {
    PUNCTUATION.chars().map(String::from).collect()
}

/// What folders say of vectors of tokens outside the modules: those of PyLate in `config_sentence_transformers.json`, and
/// ColBERT's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Older {
    /// Whether anything is said.
    pub(crate) marked: bool,
    /// Markers in front of queries and documents; where a marker is a token, it stays one.
    pub(crate) markers: [Option<String>; 2],
    /// Most tokens of queries and documents.
    pub(crate) lengths: [Option<usize>; 2],
    /// How queries are filled up; the inner `None` says that they are not.
    pub(crate) expansion: Option<Option<Expansion>>,
    /// Words that do not count.
    pub(crate) skip: Option<Vec<String>>,
}

impl Older {
    /// The keys of PyLate in a file.
    pub(crate) fn pylate(file: &ModuleFile) -> Result<Older> {
        let map = file.map.as_map();
        let keys = [
            "query_length",
            "document_length",
            "query_expansion",
            "do_query_expansion",
            "attend_to_expansion_tokens",
            "attend_to_mask_tokens",
            "query_prefix",
            "document_prefix",
            "skiplist_words",
        ];
        let mut this = Older { marked: keys.iter().any(|key| map.contains_key(*key)), ..Older::default() };
        let marker = |key: &str| -> Result<Option<String>> {
            map.contains_key(key).then(|| file.get(|c| c.text(key, ""))).transpose()
        };
        this.markers = [marker("query_prefix")?, marker("document_prefix")?];
        let length = |key: &str| -> Result<Option<usize>> {
            file.map.get(key).is_some().then(|| file.get(|c| c.size(key, None, MAX_LENGTH))).transpose()
        };
        this.lengths = [length("query_length")?, length("document_length")?];
        this.skip = words(file, "skiplist_words")?;
        this.expansion = match map.get("query_expansion") {
            Some(value) => Some(Expansion::read(file, value)?),
            None if !this.marked => None,
            None if !file.get(|c| c.flag("do_query_expansion", true))? => Some(None),
            None => {
                let older = file.get(|c| c.flag("attend_to_mask_tokens", false))?;
                let attend = file.get(|c| c.flag("attend_to_expansion_tokens", older))?;
                // The length of queries is what they are filled up to.
                let length = this.lengths[0].take().unwrap_or(QUERY);
                Some(Some(Expansion { fixed: true, attend, token: None, length }))
            }
        };
        Ok(this)
    }

    /// What a folder of ColBERT's own layout says; `None` for others.
    pub(crate) fn colbert(folder: &Folder, notes: &mut Vec<String>) -> Result<Option<Older>> {
        if !folder.has("config.json") || !is_colbert(&folder.json("config.json", MAX_CONFIG)?) {
            return Ok(None);
        }
        let file = match folder.has(METADATA) {
            true => ModuleFile::read(folder, METADATA, METADATA, notes)?,
            false => {
                notes.push(format!("no {METADATA}: queries of {QUERY} tokens, markers [unused0] and [unused1]"));
                ModuleFile::absent(METADATA)?
            }
        };
        let marker = |key: &str, usual: &str| -> Result<Option<String>> {
            let token = file.get(|c| c.text(key, usual))?;
            Ok(Some(format!("{} ", if token.is_empty() { usual } else { &token })))
        };
        let length = |key: &str| -> Result<Option<usize>> {
            file.map.get(key).is_some().then(|| file.get(|c| c.size(key, None, MAX_LENGTH))).transpose()
        };
        let attend = file.get(|c| c.flag("attend_to_mask_tokens", false))?;
        let expansion =
            Expansion { fixed: true, attend, token: None, length: length("query_maxlen")?.unwrap_or(QUERY) };
        Ok(Some(Older {
            marked: true,
            markers: [marker("query_token_id", "[unused0]")?, marker("doc_token_id", "[unused1]")?],
            lengths: [None, length("doc_maxlen")?],
            expansion: Some(Some(expansion)),
            skip: Some(if file.get(|c| c.flag("mask_punctuation", true))? { punctuation() } else { Vec::new() }),
        }))
    }

    /// The mask of a folder whose modules have none; `named`: it says that it is one of PyLate's.
    pub(crate) fn mask(&self, named: bool) -> Mask {
        let marked = named || self.markers.iter().any(Option::is_some);
        Mask::skipping(self.skip.clone().unwrap_or_else(|| if marked { punctuation() } else { Vec::new() }))
    }
}

/// Whether a `config.json` names ColBERT's own architecture.
fn is_colbert(config: &Json) -> bool {
    config["architectures"].as_array().is_some_and(|all| all.iter().any(|name| name == HF_COLBERT))
}

/// Vectors of the tokens of a text that count, each with its place in it.
pub type TokenVectors = Vec<(usize, Vec<f32>)>;

/// How a folder makes vectors of tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    /// Which tokens count; without one all that are looked at do.
    pub(crate) mask: Option<Mask>,
    /// How queries are filled up.
    pub(crate) expansion: Option<Expansion>,
    /// Markers that stay one token.
    pub(crate) markers: Vec<String>,
}

impl Tokens {
    /// Errors where the parts contradict each other; notes what has no effect.
    pub(crate) fn check(&self, length: Option<usize>, notes: &mut Vec<String>) -> Result<()> {
        let Some(expansion) = &self.expansion else { return Ok(()) };
        if let Some(length) = length.filter(|n| *n < expansion.length) {
            let what = format!("is {length}, less than the {} tokens that queries are filled up to", expansion.length);
            return Err(Error::config("query_length", what));
        }
        if self.mask.is_none() && !expansion.attend {
            notes.push("queries are filled up, and without a MultiVectorMask the filling does not count".into());
        }
        Ok(())
    }
}
