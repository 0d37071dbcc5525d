//! A text model cut down to part of its vocabulary: rows of its tables, its head and that head's bias, and the ids in its
//! config. The body stays as it is, so rows of kept tokens are the rows of the whole model, bit for bit. (Method: idT5,
//! arXiv 2302.00856, after D. Dale, 2021.)

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::store::{Saved, SavedMap};
use switchformer_nn::weights::Files;
use switchformer_nn::{Error, Folder, Model, Result, Weights};

use switchformer_zoo::Entry;
use switchformer_zoo::open::{MAX_CONFIG, read_config};
use switchformer_zoo::save::{json_bytes, remade};

/// Families and their tensors with one row per token, by canonical name. What else a family may store is not cut.
const TABLES: &[(&[&str], &[&str])] = &[
    (
        &["bert"],
        &[
            "embeddings.word_embeddings.weight",
            "cls.predictions.bias",
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
        ],
    ),
    (
        &["roberta"],
        &["embeddings.word_embeddings.weight", "lm_head.bias", "lm_head.decoder.weight", "lm_head.decoder.bias"],
    ),
    (&["distilbert"], &["embeddings.word_embeddings.weight", "vocab_projector.weight", "vocab_projector.bias"]),
    (
        &["albert"],
        &[
            "embeddings.word_embeddings.weight",
            "predictions.bias",
            "predictions.decoder.weight",
            "predictions.decoder.bias",
        ],
    ),
    (
        &["t5", "mt5", "switch_transformers"],
        &["shared.weight", "lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
    ),
];

/// Files that name ids.
const CONFIGS: [&str; 2] = ["config.json", "generation_config.json"];
/// Lists of ids that do not say so in their name.
const LISTS: [&str; 2] = ["suppress_tokens", "begin_suppress_tokens"];
/// Fields that hold ids in a form that is not rewritten.
const NESTED: [&str; 3] = ["bad_words_ids", "force_words_ids", "forced_decoder_ids"];
/// Files of a tokenizer that `tokenizer.json` replaces: they would still tell of the whole vocabulary.
const REPLACED: [&str; 5] = ["vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"];

/// A model cut down.
pub(super) struct Trimmed {
    /// Files to write, by name; those of the tokenizer are as they were.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Rows of the word table before and after.
    pub rows: [usize; 2],
    /// Parameters before and after.
    pub params: [u64; 2],
    /// Files of the folder that are left out because they tell of the whole vocabulary.
    pub left_out: Vec<String>,
}

/// Ids that the configs of a folder name (padding, end, start, ...): they must be kept.
pub(super) fn named_ids(dir: &Path) -> Result<BTreeSet<u32>> {
    let folder = Folder::disk(dir)?;
    let mut all = BTreeSet::new();
    for name in CONFIGS.iter().filter(|n| folder.has(n)) {
        if let Json::Object(mut map) = folder.json(name, MAX_CONFIG)? {
            renumber(&mut map, &mut |id| {
                all.insert(id);
                Some(id)
            })?;
        }
    }
    Ok(all)
}

/// Applies `new` to every id of a config. Errors where an id is not known, or in a form that is not rewritten.
fn renumber(config: &mut Map<String, Json>, new: &mut dyn FnMut(u32) -> Option<u32>) -> Result<()> {
    for (field, value) in config.iter_mut() {
        if NESTED.contains(&field.as_str()) && !value.is_null() {
            return Err(Error::unsupported(field.clone(), "a list of lists of ids", "null, when a vocabulary is cut"));
        }
        if !(field.ends_with("_token_id") || field.ends_with("_token_ids") || LISTS.contains(&field.as_str())) {
            continue;
        }
        let ids = match value {
            Json::Array(list) => list.iter_mut().collect(),
            one => vec![one],
        };
        // What is negative or null means that there is none.
        for value in ids {
            let Some(id) = value.as_u64() else { continue };
            let moved = u32::try_from(id).ok().and_then(&mut *new);
            *value = json!(moved.ok_or_else(|| Error::config(field, format!("names id {id}, which no token has")))?);
        }
    }
    Ok(())
}

/// Cuts the model of `dir` to the tokens `kept` (ascending old ids; new ids are their ranks). Nothing is written.
pub(super) fn trim(dir: &Path, kept: &[u32]) -> Result<Trimmed> {
    let folder = Folder::disk(dir)?;
    let (entry, config) = read_config(&folder)?;
    let (model, before) = shape(entry, &config)?;
    let vocab = match model.spec().text_size() {
        Ok((vocab, _)) => vocab,
        Err(_) => {
            let what = format!("{} reads images and has no vocabulary", entry.name);
            return Err(Error::input(what, "name a model that reads text"));
        }
    };
    let Some((_, tables)) = TABLES.iter().find(|(families, _)| families.contains(&entry.name)) else {
        let known: Vec<&str> = TABLES.iter().flat_map(|(families, _)| *families).copied().collect();
        return Err(Error::unsupported("model_type", entry.name, known.join(", ")));
    };
    match kept.last() {
        Some(last) if (*last as usize) < vocab => {}
        last => {
            let what = format!("is {vocab}, and the tokenizer has id {}", last.map_or("none".into(), u32::to_string));
            return Err(Error::config("vocab_size", what));
        }
    }
    let new = |id: u32| kept.binary_search(&id).ok().map(|rank| rank as u32);
    let pad = |c: &ConfigMap| c.int("pad_token_id", Some(1), vocab);
    let mut fields = config.as_map().clone();
    fields.insert("vocab_size".into(), json!(kept.len()));
    renumber(&mut fields, &mut |id| new(id))?;
    let cut = ConfigMap::new(Json::Object(fields))?;
    if entry.name == "roberta" && pad(&cut)? != pad(&config)? {
        return Err(Error::config("pad_token_id", "would move, and positions count from it: keep all ids below it"));
    }

    let mut files = remade(dir, cut.as_map(), &slices(&folder, entry, tables, vocab, kept)?)?;
    let left_out: Vec<String> = REPLACED.iter().filter(|f| folder.has(f)).map(|f| (*f).to_string()).collect();
    files.retain(|name, _| !left_out.contains(name));
    let extras = "switch.safetensors";
    if folder.has(extras) {
        files.insert(extras.into(), folder.blob(extras)?.bytes().to_vec());
    }
    if let Some(Json::Object(mut generation)) =
        folder.has(CONFIGS[1]).then(|| folder.json(CONFIGS[1], MAX_CONFIG)).transpose()?
    {
        renumber(&mut generation, &mut |id| new(id))?;
        files.insert(CONFIGS[1].into(), json_bytes(&Json::Object(generation)));
    }
    Ok(Trimmed { files, rows: [vocab, kept.len()], params: [before, shape(entry, &cut)?.1], left_out })
}

/// A model of a config without its values, and its number of parameters.
fn shape(entry: &Entry, config: &ConfigMap) -> Result<(Box<dyn Model>, u64)> {
    let w = Weights::shapes_only();
    let model = entry.build(config, &w)?;
    Ok((model, w.n_elements()))
}

/// Every tensor under its name on disk, those of the vocabulary cut, in the types they are stored in.
fn slices(folder: &Folder, entry: &Entry, tables: &[&str], vocab: usize, kept: &[u32]) -> Result<SavedMap> {
    let files = Files::open(folder, &Names::default())?;
    let names = entry.names.among(files.entries().keys().map(String::as_str));
    let mut out = SavedMap::new();
    for (name, stored) in files.entries() {
        let bytes = files.bytes(stored);
        let mut saved = Saved { dtype: stored.dtype, shape: stored.shape.clone(), bytes: Vec::new() };
        if tables.contains(&names.canonical(name).as_str()) {
            match saved.shape.first_mut() {
                Some(rows) if *rows == vocab => *rows = kept.len(),
                _ => return Err(Error::shape(name, format!("one row for each of {vocab} tokens"), &stored.shape)),
            }
            let row = bytes.len() / vocab;
            saved.bytes = kept.iter().flat_map(|id| &bytes[*id as usize * row..][..row]).copied().collect();
        } else {
            saved.bytes = bytes.to_vec();
        }
        out.insert(name.clone(), saved);
    }
    Ok(out)
}
