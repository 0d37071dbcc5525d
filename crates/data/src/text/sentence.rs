//! How sentence-transformers prepares texts for a tokenizer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokenizers::normalizers::{Lowercase, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use super::{Engine, Tokenizer};
use crate::error::{Error, Result};
use crate::text_config::optional_json;

/// The list of modules, in a model's folder.
const MODULES: &str = "modules.json";

/// Settings of the Transformer of sentence-transformers: the first of these files that a folder has and that says anything.
pub const SETTINGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Whether sentence-transformers lower-cases the texts of a Transformer: a folder with a list of modules, or one below it.
/// Fails with `file.*` or `json.*`.
pub fn lower_cases(dir: &Path) -> Result<bool> {
    let listed = |dir: &Path| dir.join(MODULES).exists();
    if !listed(dir) && !dir.parent().is_some_and(listed) {
        return Ok(false);
    }
    for name in SETTINGS {
        let path = dir.join(name);
        let Some(Value::Object(map)) = optional_json(&path)?.filter(|v| v.as_object().is_none_or(|m| !m.is_empty()))
        else {
            continue;
        };
        return match map.get("do_lower_case") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(_) => Err(Error::tokenizer(&path, "do_lower_case must be true or false")),
        };
    }
    Ok(false)
}

/// The files of a tokenizer that lower-cases texts itself, for a folder that is made of one whose texts sentence-transformers
/// lower-cases and that has no such settings; none where nothing is lower-cased. Fails as [`Tokenizer::load`] does.
pub fn lower_cased_files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    if !lower_cases(dir)? {
        return Ok(Vec::new());
    }
    let mut tokenizer = Tokenizer::of_model(dir, None)?;
    tokenizer.set_max_length(None)?;
    let mut config = optional_json(&dir.join("tokenizer_config.json"))?.unwrap_or_else(|| json!({}));
    if let Some(map) = config.as_object_mut() {
        // A class of its own would build its stages anew.
        map.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        if tokenizer.types {
            map.insert("model_input_names".into(), json!(["input_ids", "token_type_ids", "attention_mask"]));
        }
    }
    let config = serde_json::to_vec_pretty(&config).unwrap_or_default();
    Ok(vec![("tokenizer.json".into(), tokenizer.to_json()?), ("tokenizer_config.json".into(), config)])
}

impl Tokenizer {
    /// As [`load`](Self::load), for texts as the folder's author prepares them: lower-cased where the settings of
    /// sentence-transformers beside it say so.
    pub fn of_model(dir: impl AsRef<Path>, cap: Option<usize>) -> Result<Self> {
        let mut this = Self::load(dir.as_ref(), cap)?;
        if lower_cases(dir.as_ref())? {
            this.lower_case()?;
        }
        Ok(this)
    }

    /// Lower-cases texts before all other steps, unless a step of its own does; special tokens are found as they are. As
    /// `do_lower_case` of sentence-transformers.
    pub fn lower_case(&mut self) -> Result<()> {
        let refused = Error::tokenizer(&self.path, "it cannot lower-case texts");
        let Engine::Pipe(pipe) = &mut self.engine else { return Err(refused) };
        let own: Vec<NormalizerWrapper> = match pipe.inner.get_normalizer() {
            None => Vec::new(),
            Some(NormalizerWrapper::Sequence(all)) => all.as_ref().to_vec(),
            Some(one) => vec![one.clone()],
        };
        if own.iter().any(|n| matches!(n, NormalizerWrapper::Lowercase(_))) {
            return Ok(());
        }
        let all = std::iter::once(Lowercase.into()).chain(own).collect();
        pipe.inner.with_normalizer(Some(Sequence::new(all))).map_err(|_| refused)?;
        pipe.bare = OnceLock::new();
        Ok(())
    }

    /// Whether texts are searched for a token of the vocabulary as it is written, after this: a marker such as `[unused0]`
    /// stays in one piece. A token that is not in the vocabulary is left alone. Fails with `tokenizer.parse`.
    pub fn keep_whole(&mut self, token: &str) -> Result<bool> {
        let refused = Error::tokenizer(&self.path, "its added tokens contradict each other");
        let Engine::Pipe(pipe) = &mut self.engine else { return Ok(false) };
        let Some(id) = pipe.inner.token_to_id(token).filter(|_| !token.is_empty()) else { return Ok(false) };
        let run = AssertUnwindSafe(|| -> tokenizers::Result<bool> {
            if pipe.inner.encode(token, false)?.get_ids() == [id] {
                return Ok(false);
            }
            pipe.inner.add_special_tokens([AddedToken::from(token, true).normalized(false)])?;
            Ok(true)
        });
        if catch_unwind(run).ok().and_then(std::result::Result::ok).ok_or(refused)? {
            pipe.settle();
        }
        Ok(true)
    }
}
