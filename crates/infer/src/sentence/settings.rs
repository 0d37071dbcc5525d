//! Settings of the whole model and of its Transformer.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use switchformer_nn::{Error, Folder, Result};
use switchformer_zoo::HeadKind;

use super::file::ModuleFile;
use super::keys::{MODEL, TRANSFORMER};
use super::similarity::Similarity;
use super::tokens::{Expansion, Older};

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
    /// A vector per token; `ColBERT` is PyLate's name of it, whose modules leave out the last steps.
    Tokens { pylate: bool },
}

/// Settings of the whole model, of `config_sentence_transformers.json`.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) kind: Option<Kind>,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
    similarity: String,
    pub(crate) dim: Option<usize>,
    /// How many weights of a sparse embedding are kept.
    pub(crate) weights: Option<usize>,
    /// What is said of vectors of tokens outside the modules.
    pub(crate) older: Older,
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
            "MultiVectorEncoder" => Some(Kind::Tokens { pylate: false }),
            "ColBERT" => Some(Kind::Tokens { pylate: true }),
            other => {
                let known = "SentenceTransformer, SparseEncoder, CrossEncoder, MultiVectorEncoder, ColBERT";
                return Err(file.refused("model_type", other, known));
            }
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
        let similarity = file.get(|c| c.text("similarity_fn_name", ""))?;
        let size = |key: &str, max: usize| -> Result<Option<usize>> {
            file.map.get(key).is_some().then(|| file.get(|c| c.size(key, None, max))).transpose()
        };
        let (dim, weights) = (size("truncate_dim", MAX_DIM)?, size("max_active_dims", MAX_DIM)?);
        let older = Older::pylate(&file)?;
        let activation_fn = Some(file.get(|c| c.text("activation_fn", ""))?).filter(|path| !path.is_empty());
        Ok(Settings { kind, prompts, default_prompt, similarity, dim, weights, older, activation_fn })
    }

    /// How embeddings are compared, of vectors of tokens where there are `tokens`; `None` where the file does not say.
    pub(crate) fn similarity(&self, tokens: bool) -> Result<Option<Similarity>> {
        let known: &[Similarity] = if tokens { &Similarity::OF_TOKENS } else { &Similarity::ALL };
        let found = known.iter().find(|s| s.name() == self.similarity);
        // A name for single vectors says nothing of vectors of tokens, as in the reference.
        if found.is_some() || self.similarity.is_empty() || tokens {
            return Ok(found.copied());
        }
        let all = known.iter().map(|s| s.name()).collect::<Vec<_>>().join(", ");
        Err(Error::unsupported(format!("{MODEL}: similarity_fn_name"), &self.similarity, all))
    }

    /// Puts the markers of queries and documents in front of their prompts.
    pub(crate) fn mark(&mut self, older: Older) {
        for (name, marker) in ["query", "document"].into_iter().zip(&older.markers) {
            let Some(marker) = marker else { continue };
            let own = self.prompts.get(name).map_or("", String::as_str);
            let prompt = format!("{marker}{}", own.strip_prefix(marker.as_str()).unwrap_or(own));
            self.prompts.insert(name.into(), prompt);
        }
        self.older = older;
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
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// The head whose output the next module reads; none where the one of the config answers.
    pub(crate) head: Option<HeadKind>,
    /// Most tokens of a text.
    pub(crate) max_tokens: Option<usize>,
    /// Most tokens of queries and of documents.
    pub(crate) lengths: [Option<usize>; 2],
    /// How queries are filled up, where the file says whether they are.
    pub(crate) expansion: Option<Option<Expansion>>,
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
        // The tokenizer reads it too.
        file.get(|c| c.flag("do_lower_case", false))?;
        let length = |key: &str| -> Result<Option<usize>> {
            file.map.get(key).is_some().then(|| file.get(|c| c.size(key, None, MAX_DIM))).transpose()
        };
        let lengths = [length("query_length")?, length("document_length")?];
        let stated = file.map.as_map().get("query_expansion");
        let expansion = stated.map(|value| Expansion::read(&file, value)).transpose()?;
        Ok(Reading { head, max_tokens, lengths, expansion })
    }
}
