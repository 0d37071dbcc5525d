//! What surrounds a tokenizer: maximum lengths, and checks on hostile files.

use std::path::Path;

use base64::Engine as _;
use serde::de::{self, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::error::{Error, Result, read_json};
use crate::tokenizer::parts::kinds;
use crate::tokenizer::spm::longest_replacement;

const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// transformers writes 1e30 where no maximum is known; anything above this is no maximum.
const ABSURD_LENGTH: f64 = 1e6;
/// How many times longer normalising may make a text.
const MAX_GROWTH: usize = 1024;
/// BERT's own bound is 100; the search is cubic in it.
const MAX_WORD_CHARS: u64 = 1000;
const MAX_TEMPLATE: usize = 64;
const MAX_NODES: usize = 20_000;

/// The parts of `tokenizer.json` that are checked; the vocabulary is skipped over.
#[derive(Default)]
pub(crate) struct Shape {
    pub(crate) normalizer: Option<Value>,
    pub(crate) pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: ModelShape,
    pub(crate) version: Option<Value>,
    /// Names of the keys whose values are skipped over, known or not.
    pub(crate) others: Vec<String>,
}

/// Most keys that are named.
const MAX_NAMED: usize = 16;

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Shape;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Shape, A::Error> {
                let (mut shape, mut model) = (Shape::default(), None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "normalizer" => shape.normalizer = map.next_value()?,
                        "pre_tokenizer" => shape.pre_tokenizer = map.next_value()?,
                        "post_processor" => shape.post_processor = map.next_value()?,
                        "decoder" => shape.decoder = map.next_value()?,
                        "model" => model = Some(map.next_value()?),
                        "version" => shape.version = map.next_value()?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            if shape.others.len() < MAX_NAMED {
                                shape.others.push(key);
                            }
                        }
                    }
                }
                let model = model.ok_or_else(|| <A::Error as de::Error>::missing_field("model"))?;
                Ok(Shape { model, ..shape })
            }
        }
        d.deserialize_map(Parts)
    }
}

#[derive(Default, Deserialize)]
struct ModelShape {
    #[serde(default, rename = "type")]
    kind: Option<Value>,
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

    /// The stages that there are, each with its kinds.
    pub(crate) fn kinds(&self) -> Vec<(&'static str, Vec<&str>)> {
        let stages = [
            ("normalizer", &self.normalizer),
            ("pre_tokenizer", &self.pre_tokenizer),
            ("post_processor", &self.post_processor),
            ("decoder", &self.decoder),
        ];
        let mut all = Vec::new();
        for (name, stage) in stages.into_iter().filter_map(|(name, stage)| Some((name, stage.as_ref()?))) {
            let mut found = Vec::new();
            kinds(stage, &mut found);
            all.push((name, found));
        }
        all.push(("model", self.model.kind.as_ref().and_then(Value::as_str).into_iter().collect()));
        all
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
}

fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
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
                "Precompiled" => longest_of(value).unwrap_or(1).max(1),
                // Once for each text, but a text may be one byte.
                "Prepend" => length("prepend").max(1),
                _ => 1,
            };
            own.saturating_mul(product(Box::new(o.values())))
        }
        _ => 1,
    }
}

/// The longest replacement of a character map; `None` where it is no such map, which the parser refuses.
fn longest_of(stage: &Value) -> Option<usize> {
    let map = stage.get("precompiled_charsmap")?.as_str()?;
    longest_replacement(&base64::engine::general_purpose::STANDARD.decode(map).ok()?)
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
    let own = "tokenizer_config.json";
    for (file, field) in [("sentence_bert_config.json", "max_seq_length"), (own, "model_max_length"), (own, "max_len")]
    {
        let Some(config) = optional_json(&dir.join(file))? else { continue };
        let length = config.get(field).and_then(Value::as_f64);
        if let Some(length) = length.filter(|l| (1.0..=ABSURD_LENGTH).contains(l)) {
            return Ok(Some(length as usize));
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
