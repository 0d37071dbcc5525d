//! Texts with their splits, the tokenizer trained on them, and batches by number.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use switchformer_data::debian::{Descriptions, Split};
use switchformer_data::pairs::Pair;
use switchformer_data::text::lower_cased_files;
use switchformer_data::train_tokenizer::Kind;
use switchformer_data::{Batches, Tokenizer, TokenizerRecipe, multiemo, plain};

use super::{Places, all_hold, text_folder};
use crate::error::{Error, Result};
use crate::recipe::hex;

/// Bytes of text that a tokenizer is trained on.
const SAMPLE: usize = 2 << 20;
/// Characters in the vocabulary; rarer ones are spelt in bytes.
const ALPHABET: usize = 120;
/// Sentinels of cut spans.
pub(super) const SENTINELS: usize = 32;
/// The start of every written text.
pub(super) const PAD: u32 = 0;

/// A Debian file of one language in the folder of the data.
fn descriptions(places: &Places, language: &str) -> Result<Descriptions> {
    let dir = text_folder(places);
    let names = [format!("Translation-{language}"), format!("Translation-{language}.gz")];
    let io = |e| Error::io(dir, e);
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if names.iter().any(|n| name.ends_with(n.as_str())) {
            found.push(path);
        }
    }
    found.sort();
    match found.as_slice() {
        [one, ..] => Ok(Descriptions::open(one)?),
        [] => Err(Error::input(
            format!("{} holds no file Translation-{language}", dir.display()),
            format!(
                "on Debian: apt-get update -o Acquire::Languages=en,{language}; then unpack with /usr/lib/apt/apt-helper \
                 cat-file and name the folder with --data"
            ),
        )),
    }
}

/// Pieces of the tokenizer that is trained on the training split, where a recipe says nothing.
pub(super) fn vocab() -> usize {
    2048
}

/// Most tokens of a text, where a recipe says nothing.
pub(super) fn max_len() -> usize {
    64
}

/// Which texts, and how many pieces they are cut into.
pub(super) struct Source<'a> {
    set: &'a str,
    /// Texts or pairs at most (0 = all).
    limit: usize,
    /// Pieces of the tokenizer.
    vocab: usize,
}

impl<'a> Source<'a> {
    pub(super) fn of(set: &'a str, limit: usize, vocab: usize) -> Source<'a> {
        Source { set, limit, vocab }
    }

    pub(super) fn check(&self, max_len: usize) -> Result<(), String> {
        all_hold(&[
            ((300..=65_536).contains(&self.vocab), "data.vocab must be 300 to 65,536"),
            ((8..=4_096).contains(&max_len), "data.max_len must be 8 to 4,096"),
        ])
    }
}

/// A text to write spans of.
pub(super) struct Text {
    pub(super) text: String,
    pub(super) split: Split,
    /// As Debian names it; empty for texts of one's own.
    pub(super) language: String,
}

/// Texts with their splits, in a fixed order that no alphabet shows in. A paragraph occurs once. Of several languages
/// each has as many texts at most as the limit says.
pub(super) fn texts(source: &Source, languages: &[String], places: &Places) -> Result<Vec<Text>> {
    let mut seen = std::collections::HashSet::new();
    let mut all: Vec<Text> = Vec::new();
    if source.set == "debian" {
        let english = ["en".to_string()];
        let languages = if languages.is_empty() { english.as_slice() } else { languages };
        for language in languages {
            let mut own = Vec::new();
            for entry in descriptions(places, language)?.entries {
                let mut parts = vec![entry.short];
                parts.extend(entry.paragraphs);
                parts.retain(|p| !p.is_empty() && seen.insert(p.clone()));
                if !parts.is_empty() {
                    let (text, split) = (parts.join(" "), Split::of(&entry.package));
                    own.push(Text { text, split, language: language.clone() });
                }
            }
            all.extend(mixed(own, source.limit));
        }
        if languages.len() == 1 {
            return Ok(all);
        }
        return Ok(mixed(all, 0));
    } else {
        for document in plain::documents(text_folder(places))? {
            for paragraph in document.split("\n\n") {
                let text = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
                if !text.is_empty() && seen.insert(text.clone()) {
                    let split = Split::of(&text);
                    all.push(Text { text, split, language: String::new() });
                }
            }
        }
    }
    Ok(mixed(all, source.limit))
}

/// Sentences and their translations.
pub(super) fn pairs(source: &Source, language: &str, places: &Places) -> Result<Vec<Pair>> {
    let aligned = if source.set == "multiemo" {
        let dir = places.data.as_deref().unwrap_or(Path::new(multiemo::PLACE));
        for language in ["en", language] {
            if !dir.join(multiemo::folder(language)).is_dir() {
                return Err(Error::input(
                    format!("{} holds no folder {}", dir.display(), multiemo::folder(language)),
                    "scripts/fetch-models.sh multiemo fetches en and it; name another folder with --data",
                ));
            }
        }
        multiemo::pairs(dir, language)?
    } else {
        descriptions(places, language)?.align(&descriptions(places, "en")?)
    };
    Ok(mixed(aligned.pairs, source.limit))
}

/// The first `limit` (0 = all) of a fixed random order.
fn mixed<T>(items: Vec<T>, limit: usize) -> Vec<T> {
    let order = switchformer_data::permutation(0, 0, items.len() as u32);
    let mut slots: Vec<Option<T>> = items.into_iter().map(Some).collect();
    let limit = if limit == 0 { usize::MAX } else { limit };
    order.into_iter().filter_map(|i| slots[i as usize].take()).take(limit).collect()
}

/// A trained tokenizer and its files.
pub(super) struct Words {
    pub(super) tokenizer: Tokenizer,
    dir: PathBuf,
    pub(super) end: u32,
}

impl Words {
    /// The tokenizer of a folder that is named; else that of the training texts, from the shared folder or trained now and
    /// kept there.
    pub(super) fn of<'a>(source: &Source, places: &Places, texts: impl Iterator<Item = &'a str>) -> Result<Words> {
        if let Some(dir) = &places.words {
            return Words::load(dir.clone());
        }
        let mut left = SAMPLE;
        let sample: Vec<&str> = texts
            .take_while(|t| {
                let fits = t.len() <= left;
                left = left.saturating_sub(t.len());
                fits
            })
            .collect();
        let mut recipe = TokenizerRecipe::t5(Kind::Bpe, source.vocab);
        recipe.alphabet = Some(ALPHABET);
        recipe.special.extend((0..SENTINELS).map(sentinel));
        let mut hash = Sha256::new();
        hash.update(format!("{recipe:?}"));
        sample.iter().for_each(|t| hash.update(t));
        let dir = places.shared.join(format!("tokenizer-{}", &hex(&hash.finalize())[..16]));
        if !dir.join("tokenizer.json").exists() {
            recipe.save(&recipe.train(&sample)?, &dir)?;
        }
        Words::load(dir)
    }

    fn load(dir: PathBuf) -> Result<Words> {
        let tokenizer = Tokenizer::of_model(&dir, None)?;
        let end = tokenizer.token_to_id("</s>").unwrap_or(1);
        Ok(Words { tokenizer, dir, end })
    }

    /// Ids of a text, the end token last.
    pub(super) fn ids(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode(&[text])?.pop().unwrap_or_default().ids)
    }

    /// What the vocabulary decides in `config.json`.
    pub(super) fn complete(&self, model: &mut Map<String, Value>) {
        model.insert("vocab_size".into(), json!(self.tokenizer.vocab_size()));
        for (name, id) in [("pad_token_id", PAD), ("decoder_start_token_id", PAD), ("eos_token_id", self.end)] {
            model.insert(name.into(), json!(id));
        }
    }

    /// The tokenizer's files, for the exported folder.
    pub(super) fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let prepared = lower_cased_files(&self.dir)?;
        if !prepared.is_empty() {
            return Ok(prepared);
        }
        let read = |name: &str| {
            let path = self.dir.join(name);
            let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
            Ok((name.to_string(), bytes))
        };
        ["tokenizer.json", "tokenizer_config.json"].into_iter().map(read).collect()
    }
}

/// Name of a sentinel.
pub(super) fn sentinel(i: usize) -> String {
    format!("<extra_id_{i}>")
}

/// What the decoder is given: the start, and all but the last token.
pub(super) fn shifted(target: &[u32]) -> Vec<u32> {
    std::iter::once(PAD).chain(target[..target.len().saturating_sub(1)].iter().copied()).collect()
}

/// Samples by batch number, epoch after epoch.
pub(super) struct Packing {
    lengths: Vec<u32>,
    budget: u32,
    seed: u64,
    epoch: u64,
    /// Number of the epoch's first batch.
    first: u64,
    batches: Batches,
}

impl Packing {
    /// Batches of at most `budget` tokens. Errors where there is no sample, or one is longer than that.
    pub(super) fn new(lengths: Vec<u32>, budget: usize, seed: u64, home: &Path) -> Result<Packing> {
        if lengths.is_empty() {
            let hint = "name another --data, a larger data.limit or data.max_len";
            let what = format!("{} gives no training sample", home.display());
            return Err(Error::input(what, hint));
        }
        let budget = budget.min(u32::MAX as usize) as u32;
        let batches = Batches::new(&lengths, budget, seed, 0)?;
        Ok(Packing { lengths, budget, seed, epoch: 0, first: 0, batches })
    }

    /// Epoch and samples of a batch.
    pub(super) fn take(&mut self, index: u64) -> Result<(u64, Vec<u32>)> {
        if index < self.first {
            (self.epoch, self.first) = (0, 0);
            self.batches = Batches::new(&self.lengths, self.budget, self.seed, 0)?;
        }
        while index - self.first >= self.batches.len() as u64 {
            self.first += self.batches.len() as u64;
            self.epoch += 1;
            self.batches = Batches::new(&self.lengths, self.budget, self.seed, self.epoch)?;
        }
        let at = (index - self.first) as usize;
        Ok((self.epoch, self.batches.get(at).unwrap_or_default().to_vec()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_a_function_of_their_number() {
        let lengths: Vec<u32> = (0..40).map(|i| 5 + i % 7).collect();
        let new = || Packing::new(lengths.clone(), 30, 3, Path::new("x")).unwrap();
        let mut all = new();
        let ordered: Vec<_> = (0..60).map(|i| all.take(i).unwrap()).collect();
        assert!(ordered.last().unwrap().0 >= 3, "several epochs");
        let mut other = new();
        for i in [59, 0, 31, 7] {
            assert_eq!(other.take(i).unwrap(), ordered[i as usize]);
        }
        let mut first: Vec<u32> = ordered.iter().filter(|(e, _)| *e == 0).flat_map(|(_, s)| s.clone()).collect();
        first.sort_unstable();
        assert_eq!(first, (0..40).collect::<Vec<_>>());
    }
}
