//! Settings of the whole model and of its Transformer.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use switchformer_nn::{Error, Folder, Result};
use switchformer_zoo::HeadKind;

use super::file::ModuleFile;
use super::keys::{MODEL, TRANSFORMER};
use super::similarity::Similarity;

/// Above this a number of tokens means that none are cut.
const ENDLESS: f64 = 1e6;
/// Most numbers that an embedding may be cut to.
const MAX_DIM: usize = 1 << 20;

/// What a folder is saved as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One dense vector per text.
    Dense,
    /// A weight per token of the vocabulary.
    Sparse,
    /// A score per pair of texts; opened as the classifier that it is.
    Pairs,
}

/// Settings of the whole model, of `config_sentence_transformers.json`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) kind: Option<Kind>,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
    pub(crate) similarity: Option<Similarity>,
    pub(crate) dim: Option<usize>,
    /// What the scores of a reranker go through, by its Python path.
    pub(crate) activation_fn: Option<String>,
}

impl Settings {
    pub(crate) fn read(folder: &Folder, notes: &mut Vec<String>) -> Result<Settings> {
        let file = match folder.has(MODEL) {
            true => ModuleFile::read(folder, MODEL, MODEL, notes)?,
            false => ModuleFile::absent(MODEL)?,
        };
        let kind = match file.get(|c| c.text("model_type", ""))?.as_str() {
            "" => None,
            "SentenceTransformer" => Some(Kind::Dense),
            "SparseEncoder" => Some(Kind::Sparse),
            "CrossEncoder" => Some(Kind::Pairs),
            other => return Err(file.refused("model_type", other, "SentenceTransformer, SparseEncoder, CrossEncoder")),
        };
        // Known to every model, whatever a folder names.
        let mut prompts: BTreeMap<String, String> =
            ["query", "document"].map(|name| (name.into(), String::new())).into();
        match file.map.get("prompts") {
            None => {}
            Some(Json::Object(all)) => {
                for (name, text) in all {
                    match text {
                        Json::Null => drop(prompts.insert(name.clone(), String::new())),
                        Json::String(text) => drop(prompts.insert(name.clone(), text.clone())),
                        _ => return Err(file.wrong("prompts", format!("`{name}` must be a text"))),
                    }
                }
            }
            Some(_) => return Err(file.wrong("prompts", "must be an object of texts")),
        }
        let default_prompt = Some(file.get(|c| c.text("default_prompt_name", ""))?).filter(|name| !name.is_empty());
        if let Some(name) = default_prompt.as_ref().filter(|name| !prompts.contains_key(*name)) {
            let what = format!("is `{name}`, and `prompts` has no such name; it has: {}", known(&prompts));
            return Err(file.wrong("default_prompt_name", what));
        }
        let similarity = match file.get(|c| c.text("similarity_fn_name", ""))?.as_str() {
            "" => None,
            name => {
                let found = Similarity::ALL.into_iter().find(|s| s.name() == name);
                let all = Similarity::ALL.map(Similarity::name).join(", ");
                Some(found.ok_or_else(|| file.refused("similarity_fn_name", name, &all))?)
            }
        };
        let dim = match file.map.get("truncate_dim") {
            None => None,
            Some(_) => Some(file.get(|c| c.size("truncate_dim", None, MAX_DIM))?),
        };
        let activation_fn = Some(file.get(|c| c.text("activation_fn", ""))?).filter(|path| !path.is_empty());
        Ok(Settings { kind, prompts, default_prompt, similarity, dim, activation_fn })
    }

    /// The prompt that is put in front of texts where a request says nothing.
    pub(crate) fn default_prompt(&self) -> Option<(&str, &str)> {
        let name = self.default_prompt.as_deref()?;
        Some((name, self.prompts.get(name)?))
    }

    /// A prompt by its name. Errors list the names that there are.
    pub(crate) fn prompt(&self, name: &str) -> Result<&str> {
        self.prompts.get(name).map(String::as_str).ok_or_else(|| {
            Error::input(format!("no prompt is named `{name}`"), format!("known here: {}", known(&self.prompts)))
        })
    }
}

fn known(prompts: &BTreeMap<String, String>) -> String {
    prompts.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// How the Transformer reads texts and what it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// The head whose output the next module reads; none where the one of the config answers.
    pub(crate) head: Option<HeadKind>,
    /// Most tokens of a text.
    pub(crate) max_tokens: Option<usize>,
    /// Whether texts are lower-cased before all other steps of the tokenizer.
    pub(crate) lower_case: bool,
}

impl Reading {
    /// Reads the settings of the Transformer in a folder; `mlm`: of one that scores words where no task is named.
    pub(crate) fn read(folder: &Folder, mlm: bool, notes: &mut Vec<String>) -> Result<Reading> {
        let mut file = ModuleFile::absent(TRANSFORMER[0])?;
        for name in TRANSFORMER.into_iter().filter(|name| folder.has(name)) {
            file = ModuleFile::read(folder, name, TRANSFORMER[0], notes)?;
            // As the reference, which takes an empty file for none.
            if !file.map.as_map().is_empty() {
                break;
            }
        }
        let task = file.get(|c| c.text("transformer_task", if mlm { "fill-mask" } else { "feature-extraction" }))?;
        let (head, output, name) = match task.as_str() {
            "feature-extraction" => (Some(HeadKind::Encoder), "last_hidden_state", "token_embeddings"),
            "fill-mask" => (Some(HeadKind::MaskedLm), "logits", "token_embeddings"),
            "sequence-classification" => (None, "logits", "scores"),
            _ => {
                let known = "feature-extraction, fill-mask, sequence-classification";
                return Err(file.refused("transformer_task", task, known));
            }
        };
        if let Some(given) = file.map.get("modality_config") {
            let usual = |output: Json| json!({"text": {"method": "forward", "method_output_name": output}});
            if *given != usual(output.into()) && *given != usual(json!([output])) {
                return Err(file.refused("modality_config", given, &usual(output.into()).to_string()));
            }
            let given = file.get(|c| c.text("module_output_name", name))?;
            if given != name {
                return Err(file.refused("module_output_name", given, name));
            }
        }
        let max_tokens = match file.map.get("max_seq_length") {
            None => None,
            Some(v) => match v.as_f64() {
                Some(n) if n >= 1.0 => Some(n).filter(|n| *n <= ENDLESS).map(|n| n as usize),
                _ => return Err(file.wrong("max_seq_length", format!("is {v}, must be a number of tokens"))),
            },
        };
        Ok(Reading { head, max_tokens, lower_case: file.get(|c| c.flag("do_lower_case", false))? })
    }
}
