//! A folder of sentence-transformers: its modules in their order, its settings, and one embedding per text.

mod file;
mod keys;
mod layers;
mod pooling;
mod settings;
pub mod similarity;

use std::collections::BTreeSet;

use serde_json::Value as Json;
use switchformer_nn::{Error, Folder, Output, Result, Value};
use switchformer_zoo::HeadKind;
use switchformer_zoo::open::MAX_CONFIG;

pub use keys::KEYS;
pub use similarity::Similarity;

use file::{ModuleFile, account};
use keys::{DENSE, DROPOUT, LAYER_NORM, MODULES, NORMALIZE, POOLING, SPLADE};
use layers::Layer;
use pooling::{Pooling, Splade, TextRows};
use settings::{Kind, Reading, Settings};

/// Most entries of `modules.json`.
const MAX_MODULES: usize = 16;
/// What `modules.json` may name.
const SUPPORTED: &str = "Transformer, MLMTransformer, Pooling, SpladePooling, Dense, LayerNorm, Normalize, Dropout (of sentence_transformers)";

/// What becomes of the rows of a text.
enum Pool {
    /// One vector of them.
    Rows(Pooling),
    /// A weight per token of the vocabulary, from scores over it.
    Vocabulary(Splade),
}

/// A folder of sentence-transformers.
pub struct Sentence {
    /// Folder of the Transformer below the model's; empty for the same.
    transformer: String,
    reading: Reading,
    settings: Settings,
    pool: Option<Pool>,
    layers: Vec<Layer>,
    notes: Vec<String>,
}

/// What a request says of its embeddings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Tokens of the prompt, which are left out of the pooling where the folder says so.
    pub prompt: usize,
    /// How many numbers are kept, in place of what the folder says.
    pub dim: Option<usize>,
}

/// One entry of `modules.json`.
struct Module {
    kind: String,
    path: String,
}

impl Module {
    /// Entry `i`. Its kind is the last part of the type.
    fn read(i: usize, entry: &Json, notes: &mut Vec<String>) -> Result<Module> {
        let map = entry.as_object().ok_or_else(|| Error::config(MODULES, format!("entry {i} must be an object")))?;
        account(map, MODULES, MODULES, notes)?;
        let text = |key: &str| map.get(key).and_then(Json::as_str).unwrap_or_default();
        let (kind, path) = (text("type"), text("path"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if path.len() > 64 || !path.chars().all(plain) {
            return Err(Error::config("modules.json path", format!("{path:?} must be a plain folder name")));
        }
        let own = kind.strip_prefix("sentence_transformers.").and_then(|rest| rest.rsplit('.').next());
        let own = own.ok_or_else(|| Error::unsupported("modules.json type", kind, SUPPORTED))?;
        Ok(Module { kind: own.into(), path: path.into() })
    }

    /// Its settings, of a file that must be there.
    fn file(&self, folder: &Folder, table: &'static str, notes: &mut Vec<String>) -> Result<ModuleFile> {
        if self.path.is_empty() {
            return Err(Error::config(
                "modules.json path",
                format!("of {} is empty; it must be a plain folder name", self.kind),
            ));
        }
        let path = format!("{}/config.json", self.path);
        if !folder.has(&path) {
            let what = format!("is named in modules.json as {} and has no config.json", self.kind);
            let hint = "a download may have left out its subfolders: fetch the whole folder again";
            return Err(Error::format(folder.path(&self.path), "checkpoint.module", what, hint));
        }
        ModuleFile::read(folder, &path, table, notes)
    }

    /// Accounts for the keys of a file that need not be there.
    fn optional(&self, folder: &Folder, table: &'static str, notes: &mut Vec<String>) -> Result<()> {
        let path = format!("{}/config.json", self.path);
        if !self.path.is_empty() && folder.has(&path) {
            ModuleFile::read(folder, &path, table, notes)?;
        }
        Ok(())
    }
}

/// A folder below another.
fn below(folder: &Folder, path: &str) -> Result<Folder> {
    match folder {
        folder if path.is_empty() => Ok(folder.clone()),
        Folder::Disk(dir) if dir.join(path).is_dir() => Ok(Folder::Disk(dir.join(path))),
        _ => {
            let hint = "a download may have left out its subfolders: fetch the whole folder again";
            Err(Error::format(
                folder.path(path),
                "checkpoint.module",
                "is named in modules.json and is no folder",
                hint,
            ))
        }
    }
}

impl Sentence {
    /// Reads `modules.json` and what it names; `None` where there is no such file. Errors name a module or setting that is
    /// not supported.
    pub fn read(folder: &Folder) -> Result<Option<Sentence>> {
        if !folder.has(MODULES) {
            return Ok(None);
        }
        let doc = folder.json(MODULES, MAX_CONFIG)?;
        let entries = doc.as_array().ok_or_else(|| Error::config(MODULES, "must be a list"))?;
        if entries.len() > MAX_MODULES {
            return Err(Error::config(MODULES, format!("has {} entries, at most {MAX_MODULES}", entries.len())));
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = entries.iter().filter_map(|e| e.get("name")?.as_str()).find(|name| !names.insert(*name)) {
            return Err(Error::config(
                MODULES,
                format!("has two modules named `{twice}`; one would replace the other"),
            ));
        }
        let mut notes = Vec::new();
        let all: Vec<Module> =
            entries.iter().enumerate().map(|(i, e)| Module::read(i, e, &mut notes)).collect::<Result<_>>()?;
        let Some((first, rest)) = all.split_first() else {
            return Err(Error::config(MODULES, "is empty; it must begin with a Transformer"));
        };
        let mlm = match first.kind.as_str() {
            "Transformer" => false,
            "MLMTransformer" => true,
            kind => {
                return Err(Error::unsupported(
                    "modules.json type of the first module",
                    kind,
                    "Transformer, MLMTransformer",
                ));
            }
        };
        let reading = Reading::read(&below(folder, &first.path)?, mlm, &mut notes)?;
        let settings = Settings::read(folder, &mut notes)?;
        let mut this =
            Sentence { transformer: first.path.clone(), reading, settings, pool: None, layers: Vec::new(), notes };
        for module in rest {
            this.add(folder, module)?;
        }
        this.agree()?;
        notes_once(&mut this.notes);
        Ok(Some(this))
    }

    /// Adds a module behind the others.
    fn add(&mut self, folder: &Folder, module: &Module) -> Result<()> {
        let notes = &mut self.notes;
        let pools = matches!(module.kind.as_str(), "Pooling" | "SpladePooling");
        if pools && self.pool.is_some() {
            return Err(Error::config(MODULES, "has two modules that pool; one must be removed"));
        }
        let layer = match module.kind.as_str() {
            "Pooling" => {
                self.pool = Some(Pool::Rows(Pooling::read(&module.file(folder, POOLING, notes)?)?));
                return Ok(());
            }
            "SpladePooling" => {
                self.pool = Some(Pool::Vocabulary(Splade::read(&module.file(folder, SPLADE, notes)?)?));
                return Ok(());
            }
            "Dropout" => return module.optional(folder, DROPOUT, notes),
            "Normalize" => {
                module.optional(folder, NORMALIZE, notes)?;
                if self.pool.is_none() {
                    notes.push("modules.json: Normalize comes before Pooling, where it has no effect".into());
                    return Ok(());
                }
                Layer::Normalize
            }
            "Dense" | "LayerNorm" if self.pool.is_none() => {
                return Err(Error::config(MODULES, format!("{} comes before Pooling", module.kind)));
            }
            "Dense" => Layer::dense(&module.file(folder, DENSE, notes)?, &below(folder, &module.path)?)?,
            "LayerNorm" => Layer::norm(&module.file(folder, LAYER_NORM, notes)?, &below(folder, &module.path)?)?,
            kind => return Err(Error::unsupported("modules.json type", kind, SUPPORTED)),
        };
        self.layers.push(layer);
        Ok(())
    }

    /// Errors where the parts of a folder contradict each other.
    fn agree(&self) -> Result<()> {
        let needs = match (&self.pool, self.reading.head) {
            (Some(Pool::Vocabulary(_)), Some(HeadKind::MaskedLm)) | (None, _) => None,
            (Some(Pool::Vocabulary(_)), _) => Some("SpladePooling needs a Transformer of the task fill-mask"),
            (Some(Pool::Rows(_)), Some(HeadKind::Encoder)) => None,
            (Some(Pool::Rows(_)), _) => Some("Pooling needs a Transformer of the task feature-extraction"),
        };
        if let (Some(Kind::Pairs), Some((_, text))) = (self.settings.kind, self.settings.default_prompt())
            && !text.is_empty()
        {
            let what = "prompts of rerankers are not supported; set default_prompt_name to null";
            return Err(Error::config("config_sentence_transformers.json: default_prompt_name", what));
        }
        needs.map_or(Ok(()), |what| Err(Error::config(MODULES, what)))
    }

    /// The folder of the Transformer in the model's.
    pub fn transformer(&self, folder: &Folder) -> Result<Folder> {
        below(folder, &self.transformer)
    }

    /// The head whose output the modules read, whatever the config says; `None` for that of the config.
    pub fn head(&self) -> Option<HeadKind> {
        self.reading.head
    }

    /// What the scores of a reranker go through, by its Python path, where the folder says.
    pub(crate) fn activation_fn(&self) -> Option<&str> {
        self.settings.activation_fn.as_deref()
    }

    /// Most tokens of a text, where the folder says.
    pub fn max_tokens(&self) -> Option<usize> {
        self.reading.max_tokens
    }

    /// Whether texts are lower-cased before all other steps of the tokenizer.
    pub fn lower_case(&self) -> bool {
        self.reading.lower_case
    }

    /// What there is to say about the folder, such as settings that nobody knows.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the folder says how rows become embeddings.
    pub fn embeds(&self) -> bool {
        self.pool.is_some()
    }

    /// Whether an embedding is a weight for each token of the vocabulary.
    pub fn is_sparse(&self) -> bool {
        matches!(self.pool, Some(Pool::Vocabulary(_)))
    }

    /// How embeddings are compared.
    pub fn similarity(&self) -> Similarity {
        self.settings.similarity.unwrap_or(match self.is_sparse() || self.settings.kind == Some(Kind::Sparse) {
            true => Similarity::Dot,
            false => Similarity::Cosine,
        })
    }

    /// Whether tokens of the prompt are left out of the pooling.
    pub fn leaves_out_prompt(&self) -> bool {
        matches!(&self.pool, Some(Pool::Rows(p)) if !p.include_prompt)
    }

    /// A prompt by its name. Errors list the names that there are.
    pub fn prompt(&self, name: &str) -> Result<&str> {
        self.settings.prompt(name)
    }

    /// Name and text of the prompt that is put in front of texts where a request says nothing.
    pub fn default_prompt(&self) -> Option<(&str, &str)> {
        self.settings.default_prompt()
    }

    /// The embedding of each member of an output; `None` for one without rows of its own in it (it left the batch, or the
    /// output lacks what is pooled).
    pub fn embed(&self, out: &Output, members: usize, ask: &Ask) -> Result<Vec<Option<Vec<f32>>>> {
        let mut all = vec![None; members];
        let (Some(pool), Some(Value::PerRow(x, rows))) = (&self.pool, self.pooled(out)) else { return Ok(all) };
        let dim = x.dims2()?.1;
        for (i, member) in rows.members().iter().enumerate() {
            let range = rows.range(i);
            let values: Vec<f32> = x.narrow(0, range.start, range.len())?.flatten_all()?.to_vec1()?;
            let text = TextRows { values: &values, dim, positions: &rows.positions()[range] };
            let mut v = match pool {
                Pool::Rows(pooling) => pooling.pool(&text, ask.prompt)?,
                Pool::Vocabulary(splade) => splade.pool(&text),
            };
            for layer in &self.layers {
                v = layer.apply(v)?;
            }
            // Last of all: what is cut is not scaled again.
            v.truncate(ask.dim.or(self.settings.dim).filter(|_| !self.is_sparse()).unwrap_or(usize::MAX));
            let of = all.get_mut(*member as usize);
            *of.ok_or_else(|| Error::shape("embeddings", format!("{members} members"), &[rows.n()]))? = Some(v);
        }
        Ok(all)
    }

    /// What is pooled: one entry per row.
    fn pooled<'a>(&self, out: &'a Output) -> Option<&'a Value> {
        let name = if self.is_sparse() { "logits" } else { "last_hidden_state" };
        out.values().get(name).filter(|v| matches!(v, Value::PerRow(..)))
    }

    /// Whether an output holds what is pooled.
    pub(crate) fn reads(&self, out: &Output) -> bool {
        self.embeds() && self.pooled(out).is_some()
    }
}

/// Keeps the first of equal notes.
fn notes_once(notes: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    notes.retain(|note| seen.insert(note.clone()));
}
