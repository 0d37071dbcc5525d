//! The parts of a `tokenizer.json`: which there are, of which kinds, and what becomes of each.

use std::path::Path;

use serde_json::Value;
use switchformer_format::account::{Handling, Key};

use crate::error::{Error, Result};
use crate::text_config::Shape;

use Handling::{Applied, NoEffect, OnlyDefault};

/// The file.
pub(crate) const FILE: &str = "tokenizer.json";

const fn part(key: &'static str, why: &'static str) -> Key {
    Key::new(FILE, key, Applied, why)
}

const STAGE: &str = "by its kinds below; a class that builds its own stages passes it over";
const CHANGES: &str = "changes the text";
const PARTS: &str = "cuts the text";
const ENDS: &str = "adds special tokens";
const WRITES: &str = "joins tokens to text";
const PIECES: &str = "finds the tokens";

/// Every top-level key of `tokenizer.json`, and behind the name of a stage its kinds. Others are refused by name, as the
/// reference refuses them.
pub static TOKENIZER_KEYS: &[Key] = &[
    Key::new(FILE, "version", OnlyDefault("\"1.0\""), "there is no other"),
    part("truncation", "its direction alone, where tokenizer_config.json says none; lengths belong to a call"),
    part("padding", "its token alone, which is added where it is none; texts are never padded here"),
    part("added_tokens", "tokens beside the vocabulary, with how they are found in texts"),
    part("normalizer", STAGE),
    part("pre_tokenizer", STAGE),
    part("model", "by its kinds below; a class that builds its own stages takes its vocabulary"),
    part("post_processor", STAGE),
    part("decoder", STAGE),
    part("normalizer: BertNormalizer", CHANGES),
    part("normalizer: Strip", CHANGES),
    part("normalizer: StripAccents", CHANGES),
    part("normalizer: NFC", CHANGES),
    part("normalizer: NFD", CHANGES),
    part("normalizer: NFKC", CHANGES),
    part("normalizer: NFKD", CHANGES),
    part("normalizer: Sequence", "several in their order"),
    part("normalizer: Lowercase", CHANGES),
    part("normalizer: Nmt", CHANGES),
    part("normalizer: Precompiled", "a character map, with replacements of up to 1024 bytes"),
    part("normalizer: Replace", "as long as a text does not become a thousand times longer"),
    part("normalizer: Prepend", CHANGES),
    part("normalizer: ByteLevel", CHANGES),
    part("pre_tokenizer: BertPreTokenizer", PARTS),
    part("pre_tokenizer: ByteLevel", PARTS),
    part("pre_tokenizer: CharDelimiterSplit", PARTS),
    part("pre_tokenizer: Metaspace", PARTS),
    part("pre_tokenizer: Whitespace", PARTS),
    part("pre_tokenizer: Sequence", "several in their order"),
    part("pre_tokenizer: Split", PARTS),
    part("pre_tokenizer: Punctuation", PARTS),
    part("pre_tokenizer: WhitespaceSplit", PARTS),
    part("pre_tokenizer: Digits", PARTS),
    part("pre_tokenizer: UnicodeScripts", PARTS),
    part("pre_tokenizer: FixedLength", PARTS),
    part("model: BPE", PIECES),
    part("model: WordPiece", "words of up to 1000 characters"),
    part("model: WordLevel", PIECES),
    part("model: Unigram", PIECES),
    part("post_processor: RobertaProcessing", ENDS),
    part("post_processor: BertProcessing", ENDS),
    part("post_processor: ByteLevel", "trims the places of tokens"),
    part("post_processor: TemplateProcessing", ENDS),
    part("post_processor: Sequence", "several in their order"),
    part("decoder: BPEDecoder", WRITES),
    part("decoder: ByteLevel", WRITES),
    part("decoder: WordPiece", WRITES),
    part("decoder: Metaspace", WRITES),
    part("decoder: CTC", WRITES),
    part("decoder: Sequence", "several in their order"),
    part("decoder: Replace", "as long as a text does not become a thousand times longer"),
    part("decoder: Fuse", WRITES),
    part("decoder: Strip", WRITES),
    part("decoder: ByteFallback", WRITES),
];

/// Whether a name is a key at the top of the file.
fn is_top(name: &str) -> bool {
    !name.contains(':') && TOKENIZER_KEYS.iter().any(|row| row.key == name)
}

/// The kinds of a stage, those inside a sequence behind it.
pub(crate) fn kinds<'a>(stage: &'a Value, found: &mut Vec<&'a str>) {
    found.extend(stage.get("type").and_then(Value::as_str));
    for list in ["normalizers", "pretokenizers", "processors", "decoders"] {
        for inner in stage.get(list).and_then(Value::as_array).into_iter().flatten() {
            kinds(inner, found);
        }
    }
}

/// Refuses keys, versions and kinds of stages that are not known, by name.
pub(crate) fn check_kinds(shape: &Shape, path: &Path) -> Result<()> {
    if let Some(key) = shape.others.iter().find(|key| !is_top(key)) {
        let key: String = key.chars().take(60).collect();
        let what = format!("has a key `{key}`, which no version of the file has");
        return Err(Error::file(path, "tokenizer.unsupported", what, "remove it"));
    }
    if let Some(other) = shape.version.as_ref().filter(|v| **v != "1.0") {
        let other: String = other.to_string().chars().take(60).collect();
        let what = format!("has `version` as {other}, which is not supported");
        return Err(Error::file(path, "tokenizer.unsupported", what, "there is \"1.0\" alone"));
    }
    for (stage, all) in shape.kinds() {
        for kind in all {
            let row = TOKENIZER_KEYS.iter().find(|row| row.key.strip_prefix(stage) == Some(&format!(": {kind}")));
            if row.is_none() {
                let start = format!("{stage}: ");
                let known: Vec<&str> = TOKENIZER_KEYS.iter().filter_map(|row| row.key.strip_prefix(&start)).collect();
                let kind: String = kind.chars().take(60).collect();
                let what = format!("has `{kind}` as its {stage}, which is not supported");
                return Err(Error::file(path, "tokenizer.unsupported", what, format!("known: {}", known.join(", "))));
            }
        }
    }
    Ok(())
}

/// What a `tokenizer.json` holds: key, and its kinds or nothing; for those who show it. Fails with `json.*` or
/// `tokenizer.parse`.
pub fn contents(json: &[u8], label: &Path) -> Result<Vec<(String, String)>> {
    switchformer_format::json::check(json, label)?;
    let shape: Shape = switchformer_format::json::typed_text(json)
        .map_err(|_| Error::tokenizer(label, "not a tokenizer description"))?;
    let all = shape.kinds();
    let mut out: Vec<(String, String)> =
        all.into_iter().map(|(stage, kinds)| (stage.to_string(), kinds.join(", "))).collect();
    out.extend(shape.others.iter().map(|key| (key.clone(), String::new())));
    Ok(out)
}

/// How a key of the file is handled where `rebuilt` says that the class of the tokenizer builds its own stages; with a reason
/// that goes before the table's. The character map of a normalizer is kept.
pub fn handling_in(key: &str, kinds: &str, rebuilt: bool) -> Option<(Handling, &'static str)> {
    let passed =
        matches!(key, "normalizer" | "pre_tokenizer" | "decoder" | "padding") && !kinds.contains("Precompiled");
    (rebuilt && passed).then_some((NoEffect, "the class of the tokenizer has its own"))
}
