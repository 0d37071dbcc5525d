//! A tokenizer cut down to some of its tokens: those a corpus uses, and those without which it would not be the same.
//!
//! New ids are ranks of the old ones. A text whose tokens are all kept (and known) is cut exactly as before: that is why a
//! piece of lowest score stays with Unigram (the price of an unknown character follows from it) and every part of a kept
//! piece stays with BPE (a piece is reached through its parts).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use switchformer_format::json::parse_growing;

use crate::error::{Error, Result, read_file};
use crate::plain;
use crate::text::{MAX_TOKENIZER_BYTES, Tokenizer};
use crate::text_config::optional_json;

/// How many times its text a tokenizer may take in memory: entries of a vocabulary are short.
const GROWTH: usize = 16;

/// How often each token id occurs in a corpus.
pub type Counts = BTreeMap<u32, u64>;

/// Which tokens stay beside those that must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Least number of occurrences in the corpus.
    pub min_count: u64,
    /// Most tokens in all; the most frequent stay. `None` for no bound.
    pub size: Option<usize>,
    /// The first ids of the vocabulary that stay whatever the corpus says (published trims keep the first 1,000).
    pub first: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    WordPiece,
    WordLevel,
    Unigram,
    Bpe,
}

/// The vocabulary of a `tokenizer.json`, ready to be cut.
pub struct Vocabulary {
    doc: Value,
    path: PathBuf,
    kind: Kind,
    /// Tokens of the model and added ones, by id.
    tokens: BTreeMap<u32, String>,
    /// The same, by text.
    ids: BTreeMap<String, u32>,
    /// BPE: the parts that each piece is merged from.
    parts: BTreeMap<u32, Vec<[u32; 2]>>,
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Vocabulary({}, {:?}, {} tokens)", self.path.display(), self.kind, self.tokens.len())
    }
}

fn cannot(path: &Path, kind: &str) -> Error {
    Error::file(path, "tokenizer.trim", "cannot be trimmed", kind)
}

impl Vocabulary {
    /// Reads the tokenizer of a model folder as [`Tokenizer::load`] does; fails with `file.*`, `json.*` or `tokenizer.*`.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join("tokenizer.json");
        if path.exists() {
            return Self::from_bytes(&read_file(&path, MAX_TOKENIZER_BYTES)?, &path);
        }
        // Other files become the tokenizer.json that they stand for.
        Self::from_bytes(&Tokenizer::load(dir, None)?.to_json()?, dir)
    }

    /// Reads a `tokenizer.json` in memory; `label` stands in for the path in errors; fails with `json.*` or `tokenizer.*`.
    pub fn from_bytes(bytes: &[u8], label: &Path) -> Result<Self> {
        // Refuses whatever the tokenizer itself would refuse.
        Tokenizer::from_bytes(bytes, label, None)?;
        let doc = parse_growing(bytes, label, GROWTH)?;
        let refuse = |kind| cannot(label, kind);
        let model = &doc["model"];
        let kind = match model["type"].as_str() {
            Some("WordPiece") => Kind::WordPiece,
            Some("WordLevel") => Kind::WordLevel,
            Some("Unigram") => Kind::Unigram,
            Some("BPE") => Kind::Bpe,
            _ => return Err(refuse("its model is not WordPiece, WordLevel, Unigram or BPE")),
        };
        if model["dropout"].as_f64().is_some_and(|p| p > 0.0) {
            return Err(refuse("merges are dropped at random"));
        }
        let mut this = Vocabulary {
            kind,
            path: label.to_owned(),
            tokens: BTreeMap::new(),
            ids: BTreeMap::new(),
            parts: BTreeMap::new(),
            doc,
        };
        this.read_tokens().ok_or_else(|| refuse("an id is not a whole number or belongs to two tokens"))?;
        this.read_merges().ok_or_else(|| refuse("a merge names a piece that the vocabulary lacks"))?;
        Ok(this)
    }

    /// Number of tokens, added ones included.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn read_tokens(&mut self) -> Option<()> {
        let model = &self.doc["model"]["vocab"];
        let mut all: Vec<(u32, String)> = Vec::new();
        match model {
            Value::Array(list) => {
                for (id, piece) in list.iter().enumerate() {
                    all.push((id as u32, piece[0].as_str()?.to_owned()));
                }
            }
            Value::Object(map) => {
                for (piece, id) in map {
                    all.push((whole(id)?, piece.clone()));
                }
            }
            _ => return None,
        }
        for token in self.added() {
            all.push((whole(&token["id"])?, token["content"].as_str()?.to_owned()));
        }
        for (id, piece) in all {
            self.ids.entry(piece.clone()).or_insert(id);
            if self.tokens.insert(id, piece.clone()).is_some_and(|other| other != piece) {
                return None;
            }
        }
        Some(())
    }

    fn added(&self) -> impl Iterator<Item = &Value> {
        self.doc["added_tokens"].as_array().into_iter().flatten()
    }

    /// Left and right part of a merge, and what they become.
    fn merge(&self, merge: &Value) -> Option<(u32, u32, u32)> {
        let (left, right) = match merge {
            Value::String(both) => both.split_once(' ')?,
            Value::Array(pair) => match pair.as_slice() {
                [a, b] => (a.as_str()?, b.as_str()?),
                _ => return None,
            },
            _ => return None,
        };
        let prefix = self.doc["model"]["continuing_subword_prefix"].as_str().unwrap_or_default();
        let whole = format!("{left}{}", right.strip_prefix(prefix).unwrap_or(right));
        let id = |piece: &str| self.ids.get(piece).copied();
        Some((id(left)?, id(right)?, id(&whole)?))
    }

    fn read_merges(&mut self) -> Option<()> {
        let mut parts: BTreeMap<u32, Vec<[u32; 2]>> = BTreeMap::new();
        for merge in self.doc["model"]["merges"].as_array().into_iter().flatten() {
            let (left, right, whole) = self.merge(merge)?;
            parts.entry(whole).or_default().push([left, right]);
        }
        self.parts = parts;
        Some(())
    }

    /// Adds an id and all it is made of. Returns whether all of it is known.
    fn take(&self, kept: &mut BTreeSet<u32>, id: u32) -> bool {
        let mut open = vec![id];
        while let Some(id) = open.pop() {
            if !self.tokens.contains_key(&id) {
                return false;
            }
            if kept.insert(id) {
                open.extend(self.parts.get(&id).into_iter().flatten().flatten());
            }
        }
        true
    }

    /// Tokens that stay whatever a corpus says: added ones, the unknown token, what the last stage inserts, bytes, characters of
    /// ASCII, and with Unigram a piece of lowest score.
    fn required(&self) -> BTreeSet<u32> {
        let mut kept = BTreeSet::new();
        let model = &self.doc["model"];
        let mut want: Vec<u32> = self.added().filter_map(|t| whole(&t["id"])).collect();
        want.extend(model["unk_token"].as_str().and_then(|t| self.ids.get(t)));
        want.extend(whole(&model["unk_id"]));
        let mut post = self.doc["post_processor"].clone();
        renumber(&mut post, &mut |id| {
            want.push(id);
            Some(id)
        });
        if let Some(list) = model["vocab"].as_array() {
            let score = |id: &usize| list[*id][1].as_f64().unwrap_or(0.0);
            want.extend((0..list.len()).min_by(|a, b| score(a).total_cmp(&score(b))).map(|id| id as u32));
        }
        let level = [&self.doc["pre_tokenizer"], &self.doc["decoder"]].into_iter().any(is_byte_level);
        let stays = |piece: &str| {
            let bare = piece.trim_start_matches("##");
            let bare = bare.strip_prefix('▁').filter(|rest| !rest.is_empty()).unwrap_or(bare);
            let mut chars = bare.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => c.is_ascii_graphic() || c == '▁' || level,
                _ => piece.len() == 6 && piece.starts_with("<0x") && piece.ends_with('>'),
            }
        };
        want.extend(self.tokens.iter().filter(|(_, piece)| stays(piece)).map(|(id, _)| *id));
        for id in want {
            self.take(&mut kept, id);
        }
        kept
    }

    /// The ids to keep, ascending: what must stay, `also` (ids that a model's config names), and what `rule` takes from a
    /// corpus, the most frequent first; fails with `tokenizer.trim`.
    pub fn choose(&self, counts: &Counts, rule: &Keep, also: &BTreeSet<u32>) -> Result<Vec<u32>> {
        let refuse = |kind| cannot(&self.path, kind);
        let mut kept = self.required();
        if !also.iter().all(|id| self.take(&mut kept, *id)) {
            return Err(refuse("the model's config names an id that no token has"));
        }
        for id in self.tokens.keys().take(rule.first) {
            self.take(&mut kept, *id);
        }
        let room = rule.size.unwrap_or(usize::MAX);
        if kept.len() > room {
            return Err(refuse("more tokens must stay (special ones, bytes, ASCII characters) than the size allows"));
        }
        let mut ranked: Vec<(u64, u32)> = counts.iter().map(|(id, n)| (*n, *id)).collect();
        ranked.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        for (_, id) in ranked.into_iter().take_while(|(n, _)| *n >= rule.min_count) {
            let mut with = BTreeSet::new();
            self.take(&mut with, id);
            if kept.union(&with).count() <= room || with.is_subset(&kept) {
                kept.extend(with);
            }
            if kept.len() == room {
                break;
            }
        }
        Ok(kept.into_iter().collect())
    }

    /// The `tokenizer.json` of the kept ids, which are ascending; fails with `tokenizer.trim` where the parts cannot be
    /// renumbered without a change.
    pub fn trimmed(&self, kept: &[u32]) -> Result<Vec<u8>> {
        let refuse = |kind| cannot(&self.path, kind);
        let new = |id: u32| kept.binary_search(&id).ok().map(|rank| rank as u32);
        let mut doc = self.doc.clone();
        let model = &mut doc["model"];
        match &mut model["vocab"] {
            Value::Array(list) => {
                let mut id = 0;
                list.retain(|_| {
                    id += 1;
                    new(id - 1).is_some()
                });
                for piece in list {
                    piece[1] = steady(&piece[1]).ok_or_else(|| refuse("a score is no number that can be written"))?;
                }
            }
            Value::Object(map) => {
                map.retain(|_, id| whole(id).is_some_and(|id| new(id).is_some()));
                map.values_mut().for_each(|id| *id = json!(whole(id).and_then(new)));
            }
            _ => {}
        }
        if let Some(merges) = model["merges"].as_array_mut() {
            merges.retain(|m| self.merge(m).is_some_and(|(a, b, c)| [a, b, c].into_iter().all(|id| new(id).is_some())));
        }
        if let Some(unknown) = whole(&model["unk_id"]) {
            model["unk_id"] = json!(new(unknown));
        }
        if let Some(list) = doc["added_tokens"].as_array_mut() {
            list.iter_mut().for_each(|t| t["id"] = json!(whole(&t["id"]).and_then(new)));
        }
        let mut lost = false;
        renumber(&mut doc["post_processor"], &mut |id| {
            lost |= new(id).is_none();
            new(id)
        });
        if let Some(pad) = doc["padding"]["pad_id"].as_u64() {
            let id = u32::try_from(pad).ok().and_then(new);
            lost |= id.is_none();
            doc["padding"]["pad_id"] = json!(id);
        }
        if lost {
            return Err(refuse("a stage names an id that no token has"));
        }
        let bytes = serde_json::to_vec(&doc).map_err(|_| refuse("it cannot be written"))?;
        let made = Tokenizer::from_bytes(&bytes, &self.path, None)?;
        for (rank, old) in kept.iter().enumerate() {
            let token = self.tokens.get(old).ok_or_else(|| refuse("an id to keep has no token"))?;
            if made.token_to_id(token) != Some(rank as u32) {
                return Err(refuse("its added tokens stand between the others, so that ids cannot move up"));
            }
        }
        Ok(bytes)
    }
}

/// The other files of a tokenizer folder that speak of ids, for the kept ids (ascending): `vocab.txt`, `added_tokens.json`,
/// `tokenizer_config.json`; fails with `file.*` or `json.*`.
pub fn companions(dir: &Path, kept: &[u32]) -> Result<BTreeMap<String, Vec<u8>>> {
    let new = |id: u32| kept.binary_search(&id).ok();
    let mut files = BTreeMap::new();
    let mut put = |name: &str, doc: &Value| {
        // A parsed document can always be written.
        let mut bytes = serde_json::to_vec_pretty(doc).unwrap_or_default();
        bytes.push(b'\n');
        files.insert(name.to_owned(), bytes);
    };
    if let Some(Value::Object(map)) = optional_json(&dir.join("added_tokens.json"))? {
        let moved = map.iter().filter_map(|(text, id)| Some((text.clone(), json!(new(whole(id)?)?))));
        put("added_tokens.json", &Value::Object(moved.collect()));
    }
    if let Some(mut config) = optional_json(&dir.join("tokenizer_config.json"))? {
        if let Some(map) = config.get_mut("added_tokens_decoder").and_then(Value::as_object_mut) {
            let old = std::mem::take(map);
            map.extend(old.into_iter().filter_map(|(id, t)| Some((new(id.parse().ok()?)?.to_string(), t))));
        }
        put("tokenizer_config.json", &config);
    }
    let path = dir.join("vocab.txt");
    if path.exists() {
        let text = String::from_utf8(read_file(&path, MAX_TOKENIZER_BYTES)?)
            .map_err(|_| Error::tokenizer(&path, "not UTF-8"))?;
        let lines: Vec<&str> = text.lines().collect();
        let left: String =
            kept.iter().filter_map(|id| lines.get(*id as usize)).map(|line| format!("{line}\n")).collect();
        files.insert("vocab.txt".into(), left.into_bytes());
    }
    Ok(files)
}

/// Counts the ids of every line of a file, or of every document of a folder; fails as the readers and the tokenizer do.
pub fn count(tokenizer: &Tokenizer, corpus: &Path, counts: &mut Counts) -> Result<()> {
    let folder = corpus.is_dir();
    let texts = if folder { plain::documents(corpus)? } else { plain::lines(corpus)? };
    for text in &texts {
        let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
        for e in tokenizer.encode(&lines)? {
            for (id, special) in e.ids.iter().zip(&e.special_mask) {
                *counts.entry(*id).or_default() += u64::from(*special == 0);
            }
        }
    }
    counts.retain(|_, n| *n > 0);
    Ok(())
}

fn whole(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|id| u32::try_from(id).ok())
}

/// A score as it must be written to be read as it is now: the reader is a unit in the last place off for some.
fn steady(score: &Value) -> Option<Value> {
    let Some(want) = score.as_f64() else { return Some(score.clone()) };
    let near = [want, want.next_up(), want.next_down(), want.next_up().next_up(), want.next_down().next_down()];
    near.into_iter().map(|near| json!(near)).find(|text| {
        let read: Option<f64> = serde_json::from_str(&text.to_string()).ok();
        read.map(f64::to_bits) == Some(want.to_bits())
    })
}

fn is_byte_level(stage: &Value) -> bool {
    match stage {
        Value::Array(list) => list.iter().any(is_byte_level),
        Value::Object(map) => stage["type"] == "ByteLevel" || map.values().any(is_byte_level),
        _ => false,
    }
}

/// Replaces every id that a stage after the model inserts; an id that `new` does not know becomes null.
fn renumber(stage: &mut Value, new: &mut dyn FnMut(u32) -> Option<u32>) {
    let mut put = |v: &mut Value| {
        if let Some(id) = whole(v) {
            *v = json!(new(id));
        }
    };
    match stage["type"].as_str() {
        Some("BertProcessing" | "RobertaProcessing") => {
            for field in ["sep", "cls"] {
                stage.get_mut(field).and_then(|pair| pair.get_mut(1)).into_iter().for_each(&mut put);
            }
        }
        Some("TemplateProcessing") => {
            let tokens = stage.get_mut("special_tokens").and_then(Value::as_object_mut);
            let lists = tokens.into_iter().flat_map(Map::values_mut).filter_map(|t| t.get_mut("ids"));
            lists.filter_map(Value::as_array_mut).flatten().for_each(put);
        }
        _ => {
            if let Some(list) = stage.get_mut("processors").and_then(Value::as_array_mut) {
                list.iter_mut().for_each(|s| renumber(s, new));
            }
        }
    }
}
