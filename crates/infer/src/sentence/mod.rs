//! A folder of sentence-transformers: its modules in their order, its settings, and one embedding per text.

mod file;
mod keys;
mod layers;
pub(crate) mod m3;
mod modules;
mod pooling;
mod settings;
pub mod similarity;
mod tokens;

use std::collections::BTreeSet;

use switchformer_nn::{Error, Folder, Output, Result, Rows, Tensor, Value};
use switchformer_zoo::HeadKind;

pub use keys::KEYS;
pub use m3::{M3, Weighted};
pub use similarity::Similarity;
pub use tokens::{Task, TokenVectors};

use file::ModuleFile;
use keys::{DENSE, DROPOUT, LAYER_NORM, MASK, MODULES, NORMALIZE, POOLING, SPLADE};
use layers::Layer;
use modules::{Module, SUPPORTED, below};
use pooling::{Pooling, Splade, TextRows};
use settings::{Kind, Reading, Settings};
pub(crate) use tokens::Expansion;
use tokens::{Mask, Older, Tokens};

/// The names that modules have for what they read and give.
const EMBEDDING: &str = "sentence_embedding";
const TOKENS: &str = "token_embeddings";

/// What becomes of the rows of a text.
enum Pool {
    /// One vector of them.
    Rows(Pooling),
    /// A weight per token of the vocabulary, from scores over it.
    Vocabulary(Splade),
    /// A vector of each.
    Tokens(Tokens),
}

/// A folder of sentence-transformers.
pub struct Sentence {
    /// Folder of the Transformer below the model's; empty for the same.
    transformer: String,
    reading: Reading,
    settings: Settings,
    similarity: Option<Similarity>,
    pool: Option<Pool>,
    layers: Vec<Layer>,
    m3: Option<M3>,
    notes: Vec<String>,
}

/// What a request says of its embeddings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Tokens of the prompt of each text, which are left out of the pooling where the folder says so; none where it is empty.
    pub prompts: Vec<usize>,
    /// How many numbers are kept, in place of what the folder says.
    pub dim: Option<usize>,
    /// How many weights of a sparse embedding are kept, in place of what the folder says.
    pub weights: Option<usize>,
}

/// A text whose tokens have vectors.
pub(crate) struct Text<'a> {
    /// Its tokens, those included that it was filled up with.
    pub(crate) ids: &'a [u32],
    /// How many of them it has of its own.
    pub(crate) own: usize,
    pub(crate) task: Task,
}

/// Errors unless a module reads `name` and gives it again.
fn reads(file: &ModuleFile, usual: &str, name: &str) -> Result<()> {
    let input = file.get(|c| c.text("module_input_name", usual))?;
    let output = file.get(|c| c.text("module_output_name", &input))?;
    for (key, given) in [("module_input_name", &input), ("module_output_name", &output)] {
        if given != name {
            return Err(file.refused(key, given, name));
        }
    }
    Ok(())
}

impl Sentence {
    /// Reads `modules.json` and what it names, or what other layouts have in its place (ColBERT's own, BGE-M3's); `None` for
    /// other folders. Errors name a module or setting that is not supported.
    pub fn read(folder: &Folder) -> Result<Option<Sentence>> {
        let mut notes = Vec::new();
        let listed = modules::list(folder, &mut notes)?;
        let colbert = Older::colbert(folder, &mut notes)?;
        let mut this = match (listed, colbert) {
            (Some(list), colbert) => Sentence::listed(folder, &list, colbert.is_some(), notes)?,
            (None, Some(older)) => {
                let mut this = Sentence::plain(folder, notes)?;
                this.settings.mark(older);
                this.tokens(Some(this.settings.older.mask(true)));
                this.layers = vec![Layer::projection(folder)?, Layer::Normalize];
                this
            }
            (None, None) if M3::is_here(folder)? => {
                let mut this = Sentence::plain(folder, notes)?;
                this.pool = Some(Pool::Rows(Pooling::cls()));
                this.layers = vec![Layer::Normalize];
                this
            }
            // A reranker has no modules.
            (None, None) if folder.has(keys::MODEL) => match Sentence::plain(folder, notes)? {
                this if this.scores_pairs() => this,
                _ => return Ok(None),
            },
            (None, None) => return Ok(None),
        };
        if matches!(this.pool, Some(Pool::Rows(_))) && M3::is_here(folder)? {
            this.m3 = Some(M3::read(folder)?);
        }
        this.agree()?;
        notes_once(&mut this.notes);
        Ok(Some(this))
    }

    /// A Transformer at the root of a folder, without any module.
    fn plain(folder: &Folder, mut notes: Vec<String>) -> Result<Sentence> {
        let reading = Reading::read(folder, false, &mut notes)?;
        let settings = Settings::read(folder, &mut notes)?;
        Ok(Sentence {
            transformer: String::new(),
            reading,
            settings,
            similarity: None,
            pool: None,
            layers: Vec::new(),
            m3: None,
            notes,
        })
    }

    /// The modules of a list; `colbert`: of a folder whose config names ColBERT's own architecture.
    fn listed(folder: &Folder, list: &[Module], colbert: bool, mut notes: Vec<String>) -> Result<Sentence> {
        let (first, rest) = list.split_first().ok_or_else(|| Error::config(MODULES, "is empty"))?;
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
        let pools = |m: &Module| matches!(m.kind.as_str(), "Pooling" | "SpladePooling");
        let marked = colbert || settings.older.marked || list.iter().any(|m| m.pylate);
        // How the last steps are said: by the modules, by PyLate's name, or not at all.
        let tokens = match settings.kind {
            Some(Kind::Tokens { pylate }) => Some(pylate),
            None if colbert => Some(false),
            None | Some(Kind::Dense) if marked && !list.iter().any(pools) => Some(true),
            _ => None,
        };
        let mut this = Sentence {
            transformer: first.path.clone(),
            reading,
            settings,
            similarity: None,
            pool: None,
            layers: Vec::new(),
            m3: None,
            notes,
        };
        if let Some(unsaid) = tokens {
            let older = std::mem::take(&mut this.settings.older);
            this.settings.mark(older);
            let named = this.settings.kind == Some(Kind::Tokens { pylate: true });
            this.tokens(unsaid.then(|| this.settings.older.mask(named)));
            for module in rest {
                this.add_to_tokens(folder, module)?;
            }
            if unsaid {
                this.layers.push(Layer::Normalize);
            }
        } else {
            for module in rest {
                this.add(folder, module)?;
            }
        }
        Ok(this)
    }

    /// Makes the folder one of vectors of tokens.
    fn tokens(&mut self, mask: Option<Mask>) {
        let older = &self.settings.older;
        let expansion = self.reading.expansion.clone().or_else(|| older.expansion.clone()).flatten();
        let markers = older.markers.iter().flatten().cloned().collect();
        for (length, other) in self.reading.lengths.iter_mut().zip(older.lengths) {
            *length = length.or(other);
        }
        self.pool = Some(Pool::Tokens(Tokens { mask, expansion, markers }));
    }

    /// Adds a module of a folder of vectors of tokens.
    fn add_to_tokens(&mut self, folder: &Folder, module: &Module) -> Result<()> {
        let notes = &mut self.notes;
        let supported = "Dense, Normalize, MultiVectorMask, Dropout (of vectors of tokens)";
        let layer = match module.kind.as_str() {
            "MultiVectorMask" => {
                let own = Mask::read(&module.file(folder, MASK, notes)?)?;
                if let Some(Pool::Tokens(tokens)) = &mut self.pool {
                    tokens.mask = Some(own);
                }
                return Ok(());
            }
            "Dropout" => return module.optional(folder, DROPOUT, notes).map(|_| ()),
            "Normalize" => {
                let file = module.optional(folder, NORMALIZE, notes)?;
                if file.get(|c| c.text("module_input_name", EMBEDDING))? == EMBEDDING {
                    notes.push("modules.json: Normalize reads a pooled embedding, and here is none".into());
                    return Ok(());
                }
                reads(&file, EMBEDDING, TOKENS)?;
                Layer::Normalize
            }
            "Dense" => {
                let file = module.file(folder, DENSE, notes)?;
                reads(&file, TOKENS, TOKENS)?;
                Layer::dense(&file, &below(folder, &module.path)?)?
            }
            kind => return Err(Error::unsupported("modules.json type", kind, supported)),
        };
        self.layers.push(layer);
        Ok(())
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
            "Dropout" => return module.optional(folder, DROPOUT, notes).map(|_| ()),
            "Normalize" => {
                reads(&module.optional(folder, NORMALIZE, notes)?, EMBEDDING, EMBEDDING)?;
                if self.pool.is_none() {
                    notes.push("modules.json: Normalize comes before Pooling, where it has no effect".into());
                    return Ok(());
                }
                Layer::Normalize
            }
            "Dense" | "LayerNorm" if self.pool.is_none() => {
                return Err(Error::config(MODULES, format!("{} comes before Pooling", module.kind)));
            }
            "Dense" => {
                let file = module.file(folder, DENSE, notes)?;
                reads(&file, EMBEDDING, EMBEDDING)?;
                Layer::dense(&file, &below(folder, &module.path)?)?
            }
            "LayerNorm" => Layer::norm(&module.file(folder, LAYER_NORM, notes)?, &below(folder, &module.path)?)?,
            kind => return Err(Error::unsupported("modules.json type", kind, SUPPORTED)),
        };
        self.layers.push(layer);
        Ok(())
    }

    /// Errors where the parts of a folder contradict each other.
    fn agree(&mut self) -> Result<()> {
        self.similarity = self.settings.similarity(self.is_multi_vector())?;
        let needs = match (&self.pool, self.reading.head) {
            (Some(Pool::Vocabulary(_)), Some(HeadKind::MaskedLm)) | (None, _) => None,
            (Some(Pool::Vocabulary(_)), _) => Some("SpladePooling needs a Transformer of the task fill-mask"),
            (Some(Pool::Rows(_) | Pool::Tokens(_)), Some(HeadKind::Encoder)) => None,
            (Some(Pool::Rows(_)), _) => Some("Pooling needs a Transformer of the task feature-extraction"),
            (Some(Pool::Tokens(_)), _) => Some("vectors of tokens need a Transformer of the task feature-extraction"),
        };
        match &self.pool {
            Some(Pool::Tokens(tokens)) => tokens.check(self.reading.lengths[0], &mut self.notes)?,
            _ if self.reading.expansion.as_ref().is_some_and(Option::is_some) => {
                let what = "fills queries up for vectors of tokens, and this folder makes none";
                return Err(Error::config("query_expansion", what));
            }
            _ => {}
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

    /// Most tokens of queries, or of documents, where the folder says.
    pub fn length(&self, task: Task) -> Option<usize> {
        let own = self.reading.lengths[usize::from(task == Task::Document)];
        match self.expansion().filter(|_| task == Task::Query) {
            Some(e) if e.fixed => Some(e.length),
            Some(e) => own.map(|n| n.max(e.length)),
            None => own,
        }
    }

    /// How queries are filled up.
    pub(crate) fn expansion(&self) -> Option<&Expansion> {
        match &self.pool {
            Some(Pool::Tokens(tokens)) => tokens.expansion.as_ref(),
            _ => None,
        }
    }

    /// Markers in front of texts, which stay one token where they are one.
    pub(crate) fn markers(&self) -> &[String] {
        match &self.pool {
            Some(Pool::Tokens(tokens)) => &tokens.markers,
            _ => &[],
        }
    }

    /// Words that do not count among the vectors of tokens.
    pub(crate) fn skipped(&self) -> &[String] {
        match &self.pool {
            Some(Pool::Tokens(Tokens { mask: Some(mask), .. })) => &mask.skip,
            _ => &[],
        }
    }

    /// Whether every token has a vector.
    pub fn is_multi_vector(&self) -> bool {
        matches!(self.pool, Some(Pool::Tokens(_)))
    }

    /// Whether the folder scores pairs of texts.
    pub fn scores_pairs(&self) -> bool {
        self.pool.is_none() && self.settings.kind == Some(Kind::Pairs)
    }

    /// What a folder of BGE-M3 answers beside the embedding.
    pub fn m3(&self) -> Option<&M3> {
        self.m3.as_ref()
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
        self.similarity.unwrap_or(match () {
            () if self.is_multi_vector() => Similarity::MaxSim,
            () if self.is_sparse() || self.settings.kind == Some(Kind::Sparse) => Similarity::Dot,
            () => Similarity::Cosine,
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
        self.each(out, members, |i, values, dim, positions| {
            let text = TextRows { values, dim, positions };
            let mut v = match &self.pool {
                Some(Pool::Rows(pooling)) => pooling.pool(&text, ask.prompts.get(i).copied().unwrap_or(0))?,
                Some(Pool::Vocabulary(splade)) => splade.pool(&text),
                Some(Pool::Tokens(_)) | None => return Ok(None),
            };
            for layer in &self.layers {
                v = layer.apply(v)?;
            }
            if self.is_sparse() {
                keep_largest(&mut v, ask.weights.or(self.settings.weights));
                return Ok(Some(v));
            }
            if let Some(dim) = ask.dim.filter(|dim| *dim > v.len()) {
                let what = format!("dim is {dim}, and an embedding of this model has {} numbers", v.len());
                return Err(Error::input(what, "ask for as many at most"));
            }
            // Last of all: what is cut is not scaled again.
            v.truncate(ask.dim.or(self.settings.dim).unwrap_or(usize::MAX));
            Ok(Some(v))
        })
    }

    /// The vectors of the tokens of each member that count; `skipped` are the ids of what does not. `None` as in
    /// [`Self::embed`], and where the folder makes none.
    pub(crate) fn embed_tokens(
        &self,
        out: &Output,
        texts: &[Text],
        skipped: &[u32],
    ) -> Result<Vec<Option<TokenVectors>>> {
        self.each(out, texts.len(), |i, values, dim, positions| {
            let Some(Pool::Tokens(tokens)) = &self.pool else { return Ok(None) };
            let text = &texts[i];
            let filling = match &tokens.mask {
                Some(_) => true,
                None => tokens.expansion.as_ref().is_some_and(|e| e.attend),
            };
            let counts = |place: usize| {
                let id = text.ids.get(place).copied().unwrap_or_default();
                (place < text.own || filling)
                    && tokens.mask.as_ref().is_none_or(|mask| mask.counts(text.task, id, skipped))
            };
            let mut all = TokenVectors::new();
            for (row, place) in values.chunks_exact(dim.max(1)).zip(positions) {
                let place = *place as usize;
                if counts(place) {
                    let v = self.layers.iter().try_fold(row.to_vec(), |v, layer| layer.apply(v))?;
                    all.push((place, v));
                }
            }
            Ok(Some(all))
        })
    }

    /// What `make` makes of the rows of each member: their values, their width, and where each stood.
    fn each<T: Clone>(
        &self,
        out: &Output,
        members: usize,
        mut make: impl FnMut(usize, &[f32], usize, &[u32]) -> Result<Option<T>>,
    ) -> Result<Vec<Option<T>>> {
        let mut all = vec![None; members];
        let Some((x, rows)) = self.pooled(out) else { return Ok(all) };
        let dim = x.dims2()?.1;
        for (i, member) in rows.members().iter().enumerate() {
            let range = rows.range(i);
            let values: Vec<f32> = x.narrow(0, range.start, range.len())?.flatten_all()?.to_vec1()?;
            let of = all.get_mut(*member as usize);
            let of = of.ok_or_else(|| Error::shape("embeddings", format!("{members} members"), &[rows.n()]))?;
            *of = make(*member as usize, &values, dim, &rows.positions()[range])?;
        }
        Ok(all)
    }

    /// What BGE-M3 makes of the tokens of each member beside its embedding; `None` as in [`Self::embed`].
    pub(crate) fn weigh(&self, out: &Output, texts: &[Text]) -> Result<Vec<Option<Weighted>>> {
        self.each(out, texts.len(), |i, values, dim, positions| {
            self.m3.as_ref().map(|m3| m3.of(values, dim, positions, texts[i].ids)).transpose()
        })
    }

    /// What is pooled: one entry per row.
    fn pooled<'a>(&self, out: &'a Output) -> Option<(&'a Tensor, &'a Rows)> {
        let name = if self.is_sparse() { "logits" } else { "last_hidden_state" };
        match out.values().get(name) {
            Some(Value::PerRow(x, rows)) => Some((x, rows)),
            _ => None,
        }
    }

    /// Whether an output holds what is pooled.
    pub(crate) fn reads(&self, out: &Output) -> bool {
        self.embeds() && self.pooled(out).is_some()
    }
}

/// Keeps the largest numbers; the first of equal ones.
fn keep_largest(v: &mut [f32], n: Option<usize>) {
    let Some(n) = n.filter(|n| *n < v.len()) else { return };
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|a, b| v[*b].total_cmp(&v[*a]).then(a.cmp(b)));
    order[n..].iter().for_each(|i| v[*i] = 0.0);
}

/// Keeps the first of equal notes.
fn notes_once(notes: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    notes.retain(|note| seen.insert(note.clone()));
}
