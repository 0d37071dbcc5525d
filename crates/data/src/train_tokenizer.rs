//! Tokenizers trained on a corpus: BPE and Unigram, written as a `tokenizer.json` that others load.
//!
//! The models are trained by the `tokenizers` library. What it leaves to chance (the order of its hash maps, the order
//! in which threads add up) is taken from it: words are counted here and sorted, training runs on one thread, and ties
//! are broken by the text of a piece. So a tokenizer depends on corpus and recipe alone.

use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::{AddedToken, NormalizedString, Normalizer, OffsetReferential, OffsetType, PreTokenizedString};
use tokenizers::{NormalizerWrapper, PreTokenizer, PreTokenizerWrapper};

use switchformer_format::store::write_atomic;

use crate::error::{Error, Result};
use crate::text::Tokenizer;

/// Largest corpus, in bytes; the trainers count in 32 bits.
pub const MAX_CORPUS_BYTES: usize = 1 << 30;
/// Largest vocabulary.
pub const MAX_VOCAB: usize = 1 << 20;
/// Most special tokens.
const MAX_SPECIAL: usize = 1024;
/// Longest special token, in bytes.
const MAX_SPECIAL_BYTES: usize = 256;
/// Words are cut after so many characters, as the time to train is not linear in their length.
const MAX_WORD_CHARS: usize = 512;
/// What a piece for a byte scores, so that text which spells `<0x41>` is never taken for the byte.
const BYTE_SCORE: f64 = -1000.0;
/// Scores keep so many decimals: fewer than any parser rounds, more than any segmentation hangs on.
const DECIMALS: f64 = 1e6;
/// What `tokenizers` adds for each character that its model has lost.
const LOST_STEP: f64 = 0.0001;

/// The kind of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pairs merged by frequency (Sennrich et al. 2016).
    Bpe,
    /// The likeliest pieces (Kudo 2018).
    Unigram,
}

/// What becomes of characters outside the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bytes {
    /// They are the unknown token.
    No,
    /// They are spelt in 256 pieces for bytes.
    Fallback,
    /// There are none: the alphabet is bytes from the start, white space included.
    Level,
}

/// How characters are unified first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unify {
    /// Not at all.
    No,
    /// Unicode NFC.
    Nfc,
    /// Unicode NFKC.
    Nfkc,
}

/// Everything that decides a tokenizer but the corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenizerRecipe {
    /// Kind of model.
    pub kind: Kind,
    /// Number of tokens, special ones and bytes included; a small corpus may give fewer.
    pub vocab: usize,
    /// What becomes of rare characters.
    pub bytes: Bytes,
    /// How characters are unified.
    pub unify: Unify,
    /// How many characters, the most frequent ones, are in the vocabulary; `None` for all (not with [`Bytes::Level`]).
    pub alphabet: Option<usize>,
    /// How often a pair must occur to be merged (BPE only).
    pub min_count: u64,
    /// Special tokens; their ids count from 0.
    pub special: Vec<String>,
    /// Which special token pads.
    pub pad: Option<String>,
    /// Which special token stands for what is unknown.
    pub unknown: Option<String>,
    /// Which special token is put before a text.
    pub begin: Option<String>,
    /// Which special token is put after a text.
    pub end: Option<String>,
}

impl TokenizerRecipe {
    /// A recipe with T5's special tokens `<pad>`, `</s>` (put after a text) and `<unk>`, NFKC, and byte fallback.
    pub fn t5(kind: Kind, vocab: usize) -> Self {
        let [pad, end, unknown] = ["<pad>", "</s>", "<unk>"].map(str::to_string);
        TokenizerRecipe {
            kind,
            vocab,
            bytes: Bytes::Fallback,
            unify: Unify::Nfkc,
            alphabet: None,
            min_count: 2,
            special: vec![pad.clone(), end.clone(), unknown.clone()],
            pad: Some(pad),
            unknown: Some(unknown),
            begin: None,
            end: Some(end),
        }
    }

    /// Trains on texts; the result is the bytes of a `tokenizer.json`; fails with `tokenizer.train`.
    pub fn train<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<u8>> {
        self.check()?;
        let words = self.words(texts)?;
        // One thread: sums of floats depend on how they are shared out.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|_| refuse("no thread can be started; free some memory"))?;
        let model = catch_unwind(AssertUnwindSafe(|| pool.install(|| self.model(words))));
        let model = model.map_err(|_| refuse("the trainer failed; give it more or other text"))??;
        let mut whole = self.frame();
        whole["model"] = model;
        let bytes = serde_json::to_vec(&whole).map_err(|_| refuse("the result cannot be written"))?;
        // What could not be read again is not handed out.
        Tokenizer::from_bytes(&bytes, Path::new("(trained tokenizer)"), None)?;
        Ok(bytes)
    }

    /// Writes `tokenizer.json` (from [`train`](Self::train)) and `tokenizer_config.json` into a folder; fails with `file.write`.
    pub fn save(&self, tokenizer: &[u8], dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
        for (role, token) in [("pad", &self.pad), ("unk", &self.unknown), ("bos", &self.begin), ("eos", &self.end)] {
            if let Some(token) = token {
                config[format!("{role}_token")] = json!(token);
            }
        }
        std::fs::create_dir_all(dir).map_err(|e| {
            let what = format!("cannot be written ({})", e.kind());
            Error::file(dir, "file.write", what, "check the folder and the space left")
        })?;
        for (name, bytes) in [("tokenizer.json", tokenizer), ("tokenizer_config.json", config.to_string().as_bytes())] {
            let path = dir.join(name);
            write_atomic(&path, bytes)
                .map_err(|e| Error::file(&path, "file.write", e.to_string(), "check the folder and the space left"))?;
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let roles = [&self.pad, &self.unknown, &self.begin, &self.end];
        let distinct: HashSet<&String> = self.special.iter().collect();
        let bad = |token: &String| token.is_empty() || token.len() > MAX_SPECIAL_BYTES || is_byte(token);
        if self.special.len() > MAX_SPECIAL || self.special.iter().any(bad) {
            return Err(refuse("give at most 1,024 special tokens of 1 to 256 bytes, and none like <0x41>"));
        }
        if distinct.len() != self.special.len() {
            return Err(refuse("a special token occurs twice; name each once"));
        }
        if roles.into_iter().flatten().any(|token| !distinct.contains(token)) {
            return Err(refuse("pad, unknown, begin and end must be among the special tokens; add them there"));
        }
        let covered = match self.kind {
            Kind::Bpe => self.bytes != Bytes::No,
            // It also needs an unknown token to tell what to spell in bytes.
            Kind::Unigram => self.bytes == Bytes::Level,
        };
        if !covered && self.unknown.is_none() {
            return Err(refuse("there must be an unknown token for what is outside the vocabulary; name one"));
        }
        if self.bytes == Bytes::Level && self.alphabet.is_some() {
            return Err(refuse("an alphabet of bytes cannot be limited; leave `alphabet` out"));
        }
        if self.vocab > MAX_VOCAB || self.room() == 0 {
            return Err(refuse("the vocabulary must hold more than special tokens and bytes, and at most 2^20 tokens"));
        }
        Ok(())
    }

    /// How many tokens are left to be learned (or characters).
    fn room(&self) -> usize {
        let bytes = if self.bytes == Bytes::No { 0 } else { 256 };
        self.vocab.saturating_sub(self.special.len() + bytes)
    }

    /// Everything of `tokenizer.json` but the model.
    fn frame(&self) -> Value {
        let added = self.special.iter().enumerate().map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        });
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let space = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        let decoder = match self.bytes {
            Bytes::Level => level.clone(),
            Bytes::No => space.clone(),
            Bytes::Fallback => json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, space]}),
        };
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added.collect::<Vec<_>>(),
            "normalizer": self.normalizer(),
            "pre_tokenizer": if self.bytes == Bytes::Level { level } else { space },
            "post_processor": self.template(),
            "decoder": decoder,
            "model": null,
        })
    }

    fn normalizer(&self) -> Value {
        let mut stages = match self.unify {
            Unify::No => vec![],
            Unify::Nfc => vec![json!({"type": "NFC"})],
            Unify::Nfkc => vec![json!({"type": "NFKC"})],
        };
        if self.bytes != Bytes::Level {
            // Words are parted by one space; a text neither begins nor ends with one.
            stages.push(json!({"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}));
            stages.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        }
        if stages.is_empty() { Value::Null } else { json!({"type": "Sequence", "normalizers": stages}) }
    }

    fn template(&self) -> Value {
        let special = |token: &String| json!({"SpecialToken": {"id": token, "type_id": 0}});
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let around = |name: &str| {
            let (begin, end) = (self.begin.iter().map(special), self.end.iter().map(special));
            begin.chain([text(name)]).chain(end).collect::<Vec<Value>>()
        };
        let mut pair = around("A");
        // The second text has an end of its own and no beginning.
        pair.push(text("B"));
        pair.extend(self.end.iter().map(special));
        let ids: BTreeMap<&String, Value> = [&self.begin, &self.end]
            .into_iter()
            .flatten()
            .filter_map(|token| Some((token, self.special.iter().position(|s| s == token)?)))
            .map(|(token, id)| (token, json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        if ids.is_empty() {
            return Value::Null;
        }
        json!({"type": "TemplateProcessing", "single": around("A"), "pair": pair, "special_tokens": ids})
    }

    /// How often each word occurs, in the order of words; characters outside the alphabet part words.
    fn words<S: AsRef<str>>(&self, texts: &[S]) -> Result<BTreeMap<String, u32>> {
        if texts.iter().map(|t| t.as_ref().len()).sum::<usize>() > MAX_CORPUS_BYTES {
            return Err(refuse("the corpus is larger than 1 GiB; train on a part of it"));
        }
        let frame = self.frame();
        let part = |_| refuse("a stage cannot be made");
        let normalizer: Option<NormalizerWrapper> =
            serde_json::from_value(frame["normalizer"].clone()).map_err(part)?;
        let splitter: PreTokenizerWrapper = serde_json::from_value(frame["pre_tokenizer"].clone()).map_err(part)?;
        let failed = |_| refuse("a text could not be split into words; check it");
        let mut words: BTreeMap<String, u32> = BTreeMap::new();
        for text in texts {
            let mut text = NormalizedString::from(text.as_ref());
            if let Some(normalizer) = &normalizer {
                normalizer.normalize(&mut text).map_err(failed)?;
            }
            let mut text = PreTokenizedString::from(text);
            splitter.pre_tokenize(&mut text).map_err(failed)?;
            for (word, ..) in text.get_splits(OffsetReferential::Original, OffsetType::Byte) {
                let mut rest = word;
                while !rest.is_empty() {
                    let end = rest.char_indices().nth(MAX_WORD_CHARS).map_or(rest.len(), |(at, _)| at);
                    *words.entry(rest[..end].to_owned()).or_default() += 1;
                    rest = &rest[end..];
                }
            }
        }
        if let Some(most) = self.alphabet {
            words = within(words, most);
        }
        if words.is_empty() { Err(refuse("the corpus holds no text; give some")) } else { Ok(words) }
    }

    /// The trained model as JSON.
    fn model(&self, words: BTreeMap<String, u32>) -> Result<Value> {
        let model = match self.kind {
            Kind::Bpe => self.bpe(words),
            Kind::Unigram => self.unigram(words),
        };
        model
            .map_err(|_| refuse("the trainer refused the corpus; a larger vocabulary or a smaller alphabet may help"))?
    }

    fn bpe(&self, words: BTreeMap<String, u32>) -> tokenizers::Result<Result<Value>> {
        let first = self.special.iter().cloned().chain(self.byte_pieces());
        let mut trainer = BpeTrainer::builder()
            .show_progress(false)
            .vocab_size(self.vocab)
            .min_frequency(self.min_count)
            .special_tokens(first.map(|token| AddedToken::from(token, true)).collect());
        if self.bytes == Bytes::Level {
            trainer = trainer
                .initial_alphabet(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect());
        }
        let mut model = BPE::default();
        let counts = words.into_iter().map(|(word, count)| (word.into(), u64::from(count))).collect();
        trainer.build().do_train(&counts, &mut model)?;
        model.unk_token = if self.bytes == Bytes::Level { None } else { self.unknown.clone() };
        model.fuse_unk = model.unk_token.is_some();
        model.byte_fallback = self.bytes == Bytes::Fallback;
        let model = serde_json::to_value(&model)?;
        let tokens = model["vocab"].as_object().map_or(0, |v| v.len());
        if tokens > self.vocab {
            return Ok(Err(refuse("the vocabulary is smaller than the alphabet; raise it, or limit the alphabet")));
        }
        Ok(Ok(model))
    }

    fn unigram(&self, words: BTreeMap<String, u32>) -> tokenizers::Result<Result<Value>> {
        let bytes: Vec<String> = self.byte_pieces().collect();
        let room = self.vocab - self.special.len() - bytes.len();
        let mut trainer = UnigramTrainer::builder();
        trainer.show_progress(false).vocab_size(room as u32);
        if self.bytes == Bytes::Level {
            trainer.initial_alphabet(tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet());
        }
        let mut model = Unigram::default();
        let trainer = trainer.build()?;
        trainer.do_train(words.into_iter().collect(), &mut model)?;
        let mut pieces: Vec<(String, f64)> = model.iter().cloned().collect();
        settle(&mut pieces);
        let fixed = self.special.iter().map(|token| (token.clone(), 0.0));
        let fixed: Vec<(String, f64)> = fixed.chain(bytes.into_iter().map(|token| (token, BYTE_SCORE))).collect();
        // A corpus may spell a special token.
        let taken: HashSet<&str> = fixed.iter().map(|(token, _)| token.as_str()).collect();
        pieces.retain(|(piece, _)| !taken.contains(piece.as_str()));
        let unknown = self.unknown.as_ref().and_then(|token| self.special.iter().position(|s| s == token));
        let vocab: Vec<(String, f64)> = fixed.iter().cloned().chain(pieces).collect();
        let fallback = self.bytes == Bytes::Fallback;
        Ok(Ok(json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": fallback})))
    }

    /// The pieces that bytes are spelt in, where they are.
    fn byte_pieces(&self) -> impl Iterator<Item = String> + use<> {
        let some = self.bytes == Bytes::Fallback;
        (0..=255u8).filter(move |_| some).map(|byte| format!("<0x{byte:02X}>"))
    }
}

fn refuse(hint: &'static str) -> Error {
    Error::input("tokenizer.train", "the tokenizer cannot be trained", hint)
}

/// Whether a token would be read as a byte.
fn is_byte(token: &str) -> bool {
    token.len() == 6 && token.starts_with("<0x") && token.ends_with('>')
}

/// Words of the `most` frequent characters alone, parted where others stood; of equally frequent ones the lower stay.
fn within(words: BTreeMap<String, u32>, most: usize) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<char, u64> = BTreeMap::new();
    for (word, &count) in &words {
        word.chars().for_each(|c| *counts.entry(c).or_default() += u64::from(count));
    }
    let mut order: Vec<(char, u64)> = counts.into_iter().collect();
    order.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    let kept: HashSet<char> = order.into_iter().take(most).map(|(c, _)| c).collect();
    let mut out = BTreeMap::new();
    for (word, count) in words {
        for part in word.split(|c| !kept.contains(&c)).filter(|part| !part.is_empty()) {
            *out.entry(part.to_owned()).or_default() += count;
        }
    }
    out
}

/// Takes chance out of trained pieces: rounds scores and orders them. Characters that the model had lost get scores
/// from the lowest upwards, in steps, in the order of a hash map; they are given the same scores in their own order.
fn settle(pieces: &mut [(String, f64)]) {
    let lowest = pieces.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let mut steps = HashSet::new();
    let mut penalty = 0.0;
    for _ in 0..pieces.len() {
        steps.insert((lowest + penalty).to_bits());
        penalty += LOST_STEP;
    }
    let mut lost: Vec<&mut (String, f64)> = pieces
        .iter_mut()
        .filter(|(piece, score)| steps.contains(&score.to_bits()) && piece.chars().nth(1).is_none())
        .collect();
    let mut scores: Vec<f64> = lost.iter().map(|p| p.1).collect();
    scores.sort_by(f64::total_cmp);
    lost.sort_by(|a, b| a.0.cmp(&b.0));
    lost.iter_mut().zip(scores).for_each(|(piece, score)| piece.1 = score);
    for piece in pieces.iter_mut() {
        piece.1 = (piece.1 * DECIMALS).round() / DECIMALS;
    }
    pieces.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
}
