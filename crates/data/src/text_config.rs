//! What surrounds a tokenizer: maximum lengths, a BERT tokenizer from `vocab.txt`, and checks on hostile files.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result, read_json};

const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// transformers writes 1e30 where no maximum is known; anything above this is no maximum.
const ABSURD_LENGTH: f64 = 1e6;
/// How many times longer normalising may make a text.
const MAX_GROWTH: usize = 1024;
/// BERT's own bound is 100; the search is cubic in it.
const MAX_WORD_CHARS: u64 = 1000;
const MAX_TEMPLATE: usize = 64;
const MAX_NODES: usize = 20_000;

/// Where a long text may be cut without changing a single token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Nowhere that could be relied on.
    Never,
    /// Before a space that follows something else: byte-level patterns bind a space to the next word.
    BeforeSpace,
    /// Before any space, tab or line break: the pre-tokenizer drops it.
    AnyWhite,
}

/// The parts of `tokenizer.json` that are checked; the vocabulary is skipped over.
#[derive(Deserialize)]
pub(crate) struct Shape {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelShape,
}

#[derive(Deserialize)]
struct Added {
    #[serde(default)]
    content: String,
    #[serde(default)]
    rstrip: bool,
}

#[derive(Deserialize)]
struct ModelShape {
    max_input_chars_per_word: Option<Value>,
    /// The token of what is not in the vocabulary: by name, or by id in Unigram models.
    #[serde(default)]
    unk_token: Option<Value>,
    #[serde(default)]
    unk_id: Option<Value>,
}

impl Shape {
    /// The token that stands for what is not in the vocabulary, by name or by id.
    pub(crate) fn unknown(&self) -> (Option<&str>, Option<u32>) {
        let id = self.model.unk_id.as_ref().and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
        (self.model.unk_token.as_ref().and_then(Value::as_str), id)
    }

    /// Refuses tokenizers that could take unbounded time or memory on a short text.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let refuse = |kind| Err(Error::unsafe_tokenizer(path, kind));
        for part in [&self.normalizer, &self.pre_tokenizer, &self.post_processor, &self.decoder].into_iter().flatten() {
            // The precompiled character map is one long string and counts as one node.
            if nodes(part) > MAX_NODES {
                return refuse("a stage has too many parts");
            }
        }
        for part in [&self.normalizer, &self.decoder].into_iter().flatten() {
            if growth(part) > MAX_GROWTH {
                return refuse("replacements could make a text a thousand times longer");
            }
        }
        if self.post_processor.as_ref().is_some_and(|p| longest_template(p) > MAX_TEMPLATE) {
            return refuse("the template of special tokens is too long");
        }
        let word = self.model.max_input_chars_per_word.as_ref();
        if word.is_some_and(|v| v.as_u64().is_none_or(|v| v > MAX_WORD_CHARS)) {
            return refuse("max_input_chars_per_word is above 1000");
        }
        Ok(())
    }

    /// Where long texts may be cut. Only stages known to work word by word are trusted.
    pub(crate) fn cut(&self) -> Cut {
        // An added token that spans or swallows white space could straddle the cut.
        let straddles = |t: &Added| t.rstrip || t.content.contains(char::is_whitespace);
        if self.added_tokens.iter().any(straddles) || !self.normalizer.as_ref().is_none_or(keeps_words) {
            return Cut::Never;
        }
        match self.pre_tokenizer.as_ref() {
            Some(p) => match kind(p) {
                "BertPreTokenizer" | "Whitespace" | "WhitespaceSplit" => Cut::AnyWhite,
                "ByteLevel" if p.get("use_regex") != Some(&Value::Bool(false)) => Cut::BeforeSpace,
                _ => Cut::Never,
            },
            None => Cut::Never,
        }
    }
}

fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

fn keeps_words(normalizer: &Value) -> bool {
    match kind(normalizer) {
        "BertNormalizer" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Lowercase" | "StripAccents" => true,
        "Sequence" => {
            normalizer.get("normalizers").and_then(Value::as_array).is_some_and(|list| list.iter().all(keeps_words))
        }
        _ => false,
    }
}

fn nodes(value: &Value) -> usize {
    match value {
        Value::Array(a) => 1 + a.iter().map(nodes).sum::<usize>(),
        Value::Object(o) => 1 + o.values().map(nodes).sum::<usize>(),
        _ => 1,
    }
}

/// By what factor the replacements in a stage can lengthen a text, at most.
fn growth(value: &Value) -> usize {
    let product = |mut values: Box<dyn Iterator<Item = &Value> + '_>| {
        values.try_fold(1usize, |all, v| all.checked_mul(growth(v))).unwrap_or(usize::MAX)
    };
    match value {
        Value::Array(a) => product(Box::new(a.iter())),
        Value::Object(o) => {
            let length = |name: &str| o.get(name).and_then(Value::as_str).map_or(0, str::len);
            let own = match kind(value) {
                "Replace" => match value.pointer("/pattern/String").and_then(Value::as_str) {
                    Some(p) if !p.is_empty() => length("content").div_ceil(p.len()).max(1),
                    // A regular expression may match the empty string between all characters.
                    _ => length("content").saturating_add(1),
                },
                // Once for each text, but a text may be one byte.
                "Prepend" => length("prepend").max(1),
                _ => 1,
            };
            own.saturating_mul(product(Box::new(o.values())))
        }
        _ => 1,
    }
}

fn longest_template(value: &Value) -> usize {
    match value {
        Value::Array(a) => a.iter().map(longest_template).max().unwrap_or(0),
        Value::Object(o) => o
            .iter()
            .map(|(name, v)| {
                let own = match (name.as_str(), v) {
                    ("single" | "pair" | "ids", Value::Array(a)) => a.len(),
                    _ => 0,
                };
                own.max(longest_template(v))
            })
            .max()
            .unwrap_or(0),
        _ => 0,
    }
}

/// The maximum length that a model folder states: `sentence_bert_config.json`, else `tokenizer_config.json`.
pub(crate) fn stated_max_length(dir: &Path) -> Result<Option<usize>> {
    for (file, field) in
        [("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")]
    {
        let Some(config) = optional_json(&dir.join(file))? else { continue };
        let length = config.get(field).and_then(Value::as_f64);
        if let Some(length) = length.filter(|l| (1.0..=ABSURD_LENGTH).contains(l)) {
            return Ok(Some(length as usize));
        }
    }
    Ok(None)
}

/// The token that a folder names as its mask, as text or as a description of the token.
pub(crate) fn stated_mask(dir: &Path) -> Result<Option<String>> {
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(config) = optional_json(&dir.join(file))? else { continue };
        let mask = config.get("mask_token").and_then(|m| m.as_str().or_else(|| m.get("content")?.as_str()));
        if let Some(mask) = mask {
            return Ok(Some(mask.to_string()));
        }
    }
    Ok(None)
}

/// A JSON file that may be missing.
pub(crate) fn optional_json(path: &Path) -> Result<Option<Value>> {
    match read_json(path, MAX_CONFIG_BYTES) {
        Ok(value) => Ok(Some(value)),
        Err(Error::Io { kind: std::io::ErrorKind::NotFound, .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The `tokenizer.json` that transformers would make of a BERT `vocab.txt`.
pub(crate) fn bert_json(vocab: &[u8], config: &Value, path: &Path) -> Result<Vec<u8>> {
    let parse = |kind| Error::tokenizer(path, kind);
    let text = std::str::from_utf8(vocab).map_err(|_| parse("not UTF-8"))?;
    let mut ids: HashMap<&str, usize> = HashMap::new();
    // A last line break ends the last token and begins no new one.
    for (id, line) in text.strip_suffix('\n').unwrap_or(text).split('\n').enumerate() {
        ids.insert(line.strip_suffix('\r').unwrap_or(line), id);
    }

    let flag = |name: &str, default: bool| match config.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(b)) => Ok(*b),
        Some(_) => Err(parse("a setting in tokenizer_config.json is not true or false")),
    };
    let strip_accents = match config.get("strip_accents") {
        None | Some(Value::Null) => Value::Null,
        Some(Value::Bool(b)) => Value::Bool(*b),
        Some(_) => return Err(parse("strip_accents in tokenizer_config.json is not true or false")),
    };
    // A special token is a string, or an object with its text under "content".
    let name = |field: &str, default: &str| -> String {
        let value = config.get(field);
        let value = value.and_then(|v| v.get("content")).or(value);
        value.and_then(Value::as_str).unwrap_or(default).to_owned()
    };
    let special: Vec<String> = [
        ("unk_token", "[UNK]"),
        ("cls_token", "[CLS]"),
        ("sep_token", "[SEP]"),
        ("pad_token", "[PAD]"),
        ("mask_token", "[MASK]"),
    ]
    .iter()
    .map(|(field, default)| name(field, default))
    .collect();
    let id = |token: &str| ids.get(token).copied().ok_or(parse("vocab.txt lacks a special token"));
    id(&special[0])?;
    let (cls, sep) = (id(&special[1])?, id(&special[2])?);
    let mut added: Vec<(usize, &String)> = special.iter().filter_map(|t| Some((*ids.get(t.as_str())?, t))).collect();
    added.sort();
    added.dedup();
    let added: Vec<Value> = added
        .into_iter()
        .map(|(id, t)| {
            json!({"id": id, "content": t, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();

    let value = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars", true)?,
            "strip_accents": strip_accents,
            "lowercase": flag("do_lower_case", true)?,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": [special[2], sep], "cls": [special[1], cls]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": special[0],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": ids,
        },
    });
    serde_json::to_vec(&value).map_err(|_| parse("not serialisable"))
}
