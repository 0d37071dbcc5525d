//! Text to token ids and back, with bounds on size and time.

mod sentence;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokenizers::{ModelWrapper, PostProcessor, PostProcessorWrapper};
use tokenizers::{TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::{Error, Result, read_file};
use crate::text_config::{Shape, optional_json, stated_max_length};
use crate::tokenizer::class::Class;
use crate::tokenizer::cut::Cut;
pub use crate::tokenizer::cut::{MAX_PIECE_BYTES, MAX_RUN_BYTES};
pub use crate::tokenizer::keys::KEYS;
use crate::tokenizer::parts::check_kinds;
pub use crate::tokenizer::parts::{TOKENIZER_KEYS, contents, handling_in};
use crate::tokenizer::pipeline::{self, Source};
use crate::tokenizer::settings::{Mark, NAMED, Settings};
use crate::tokenizer::spm;
use crate::tokenizer::units::Units;
pub use sentence::{SETTINGS as SENTENCE_SETTINGS, lower_cased_files, lower_cases};

/// Largest tokenizer file that is read, in bytes.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Longest text that is encoded, in bytes.
pub const MAX_TEXT_BYTES: usize = 16 << 20;
/// Most token ids that are decoded at once.
pub const MAX_DECODE_IDS: usize = 1 << 20;
/// Names of the mask in published vocabularies.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];
/// Most special tokens that may be added to a text.
const MAX_ADDED: usize = 256;
/// Where CANINE's texts are cut off if no file says so.
const CANINE_LENGTH: usize = 2048;

/// One encoded text or pair of texts; all lists have the same length (the number of tokens, never padded).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token as the model is given it: 0, or for some families 1 for the second text of a pair.
    pub type_ids: Vec<u32>,
    /// Which text each token is of, 0 or 1; `None` for added tokens.
    pub sequence_ids: Vec<Option<u8>>,
    /// 1 for tokens that were added, such as `[CLS]`; else 0.
    pub special_mask: Vec<u32>,
    /// Byte range of each token in its own text; (0, 0) for added tokens.
    pub offsets: Vec<(usize, usize)>,
    /// Whether tokens were dropped to stay within the maximum length.
    pub truncated: bool,
}

impl Encoding {
    /// Appends a token: of a text, with its place, or added.
    pub(crate) fn add(&mut self, id: u32, place: Option<(u8, (usize, usize))>) {
        self.ids.push(id);
        self.type_ids.push(0);
        self.sequence_ids.push(place.map(|(text, _)| text));
        self.special_mask.push(u32::from(place.is_none()));
        self.offsets.push(place.map_or((0, 0), |(_, range)| range));
    }
}

/// What does the work.
enum Engine {
    /// The stages of the `tokenizers` library.
    Pipe(Box<Pipe>),
    /// Bytes or characters.
    Units(Units),
}

struct Pipe {
    inner: tokenizers::Tokenizer,
    /// The same without its last stages, made when a text first has to be cut into pieces.
    bare: OnceLock<tokenizers::Tokenizer>,
    cut: Cut,
}

impl Pipe {
    /// Added tokens decide where a text may be cut.
    fn settle(&mut self) {
        let added = self.inner.get_added_tokens_decoder();
        let value = |v: Option<serde_json::Result<Value>>| v.and_then(std::result::Result::ok);
        let normalizer = value(self.inner.get_normalizer().map(serde_json::to_value));
        let pre_tokenizer = value(self.inner.get_pre_tokenizer().map(serde_json::to_value));
        self.cut = Cut::of(normalizer.as_ref(), pre_tokenizer.as_ref(), added.values());
        self.bare = OnceLock::new();
    }
}

/// A tokenizer that truncates and never pads.
pub struct Tokenizer {
    engine: Engine,
    max_length: Option<usize>,
    direction: TruncationDirection,
    /// Whether the model is given the segment of each token.
    types: bool,
    /// Whether decoded text loses the spaces in front of punctuation.
    tidy: bool,
    mask: Option<String>,
    /// The token that a `tokenizer.json` pads with.
    pad: Option<String>,
    unknown: Option<u32>,
    notes: Vec<String>,
    /// Whether the class builds its own stages over the vocabulary of a `tokenizer.json`.
    rebuilt: bool,
    path: PathBuf,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({}, max_length {:?})", self.path.display(), self.max_length)
    }
}

fn decode_error(kind: &str) -> Error {
    let what = format!("the token ids could not be decoded ({kind})");
    Error::input("tokenizer.decode", what, "check that they belong to this tokenizer")
}

impl Tokenizer {
    /// Loads the tokenizer of a model folder as `AutoTokenizer` of transformers 5.23 does: from `tokenizer.json`, `vocab.txt`,
    /// `vocab.json` and `merges.txt`, or a SentencePiece model, by the class that the folder's settings name; `cap` bounds the
    /// maximum length (pass the position table's). Fails with `file.*`, `json.*`, `config.unsupported` or `tokenizer.*`.
    pub fn load(dir: impl AsRef<Path>, cap: Option<usize>) -> Result<Self> {
        let dir = dir.as_ref();
        let json = dir.join("tokenizer.json");
        let config = optional_json(&dir.join("config.json"))?.unwrap_or(Value::Null);
        let own = optional_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
        let (chosen, stranger) = Class::choose(&config, &own);
        let marian = chosen == Some(Class::Marian) && (dir.join("source.spm").exists() || !json.exists());
        let units = marian || matches!(chosen, Some(Class::ByT5 | Class::Canine));
        let file = match json.exists() && !units {
            true => Some(Self::from_bytes(&read_file(&json, MAX_TOKENIZER_BYTES)?, &json, None)?),
            false => None,
        };
        let listed = file.as_ref().and_then(Self::pipe).map(|pipe| pipe.inner.get_added_tokens_decoder());
        let listed = listed.map(|tokens| tokens.into_iter().collect::<Vec<_>>());
        let settings = Settings::read(dir, listed.as_deref())?;
        let mut notes = settings.notes.clone();
        if let Some(name) = stranger {
            notes.push(format!("tokenizer_class `{name}` is not known here, so tokenizer.json is followed as it is"));
        }
        let class = match (chosen, &file) {
            (Some(Class::Marian), Some(_)) => {
                notes.push(
                    "MarianTokenizer reads source.spm, which is not in the folder; tokenizer.json is followed".into(),
                );
                Class::File
            }
            (Some(Class::File) | None, None) => match Class::of_model(&config) {
                Some(class) if class != Class::File => {
                    notes.push(
                        "transformers 5 needs a tokenizer.json here; the class of the model type is taken".into(),
                    );
                    class
                }
                _ if dir.join("vocab.txt").exists() => {
                    notes.push("no file names a class of tokenizer, so vocab.txt is read as BERT's".into());
                    Class::Bert
                }
                _ => return Err(Error::no_tokenizer(dir, "tokenizer.json")),
            },
            (class, _) => class.unwrap_or(Class::File),
        };
        let mut this = match (class, file) {
            (Class::File, Some(file)) => file.with_side_files(&settings)?,
            (Class::ByT5 | Class::Canine | Class::Marian, _) => Self::with_engine(
                Engine::Units(Units::new(class, &settings, &dir.join("tokenizer_config.json"))?),
                &dir.join("tokenizer_config.json"),
            ),
            (_, Some(file)) => {
                let side = file.direction;
                let source = file.into_source(&json)?;
                let mut this = Self::built(class, source, &settings, &json)?;
                this.direction = side;
                this.rebuilt = true;
                this
            }
            (_, None) => {
                let (source, path) = find_source(class, dir)?;
                Self::built(class, source, &settings, &path)?
            }
        };
        if let Engine::Units(units) = &this.engine {
            this.unknown = units.unknown();
        }
        this.settle(class, &settings)?;
        this.notes = notes;
        let bytes = match class == Class::Canine {
            true => Some(stated_max_length(dir)?.unwrap_or(CANINE_LENGTH)),
            false => stated_max_length(dir)?,
        };
        this.check_added()?;
        this.set_max_length(match (bytes, cap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })?;
        Ok(this)
    }

    /// Builds a BERT WordPiece tokenizer from a `vocab.txt` and the parsed `tokenizer_config.json` (JSON null for none); fails with `tokenizer.parse` or `tokenizer.max_length`.
    pub fn from_vocab(vocab: &[u8], config: &Value, label: &Path, max_length: Option<usize>) -> Result<Self> {
        let settings = Settings::of(config, label)?;
        let mut this = Self::built(Class::Bert, Source::Lines(vocab.to_vec()), &settings, label)?;
        this.settle(Class::Bert, &settings)?;
        this.set_max_length(max_length)?;
        Ok(this)
    }

    /// Reads a `tokenizer.json` in memory, as it is; `label` stands in for the path in errors; fails with `file.too_large` or `tokenizer.*`.
    pub fn from_bytes(json: &[u8], label: &Path, max_length: Option<usize>) -> Result<Self> {
        if json.len() as u64 > MAX_TOKENIZER_BYTES {
            return Err(Error::too_large(label, MAX_TOKENIZER_BYTES));
        }
        let parse = |kind| Error::tokenizer(label, kind);
        // Neither the shape nor the tokenizer keeps a second value of a key, and both would go deep.
        switchformer_format::json::check(json, label)?;
        let shape: Shape =
            switchformer_format::json::typed_text(json).map_err(|_| parse("not a tokenizer description"))?;
        shape.check(label)?;
        check_kinds(&shape, label)?;
        // The parser indexes into lists it just read; a malformed file has made it panic before.
        let mut inner = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json)))
            .map_err(|_| parse("the parser failed"))?
            .map_err(|_| parse("a part is missing or contradicts another"))?;
        if let ModelWrapper::Unigram(model) = inner.get_model() {
            pipeline::check_pieces(model.iter().map(|(text, _)| text.as_str()), label)?;
        }
        let side = inner.get_truncation().map(|t| t.direction).unwrap_or_default();
        inner.with_truncation(None).map_err(|_| parse("the truncation section cannot be removed"))?;
        let pad = inner.get_padding().map(|p| p.pad_token.clone());
        inner.with_padding(None);
        let (name, id) = shape.unknown();
        let unknown = id.or_else(|| inner.token_to_id(name?));
        let mut this = Self::piped(inner, shape.normalizer, shape.pre_tokenizer, label);
        this.unknown = unknown;
        this.direction = side;
        this.pad = pad;
        this.check_added()?;
        this.set_max_length(max_length)?;
        Ok(this)
    }

    /// A tokenizer of a pipeline that a class builds.
    fn built(class: Class, source: Source, settings: &Settings, path: &Path) -> Result<Self> {
        let run = AssertUnwindSafe(|| pipeline::build(class, source, settings, path));
        let built = catch_unwind(run).map_err(|_| Error::tokenizer(path, "the parser failed"))??;
        let mut this = Self::piped(built.inner, built.normalizer, built.pre_tokenizer, path);
        this.unknown = built.unknown;
        Ok(this)
    }

    fn piped(
        inner: tokenizers::Tokenizer,
        normalizer: Option<Value>,
        pre_tokenizer: Option<Value>,
        path: &Path,
    ) -> Self {
        let added = inner.get_added_tokens_decoder();
        let cut = Cut::of(normalizer.as_ref(), pre_tokenizer.as_ref(), added.values());
        let mut this = Self::with_engine(Engine::Pipe(Box::new(Pipe { inner, bare: OnceLock::new(), cut })), path);
        this.mask = MASKS.iter().find(|m| this.token_to_id(m).is_some()).map(|m| (*m).to_string());
        this
    }

    fn with_engine(engine: Engine, path: &Path) -> Self {
        Self {
            engine,
            max_length: None,
            direction: TruncationDirection::Right,
            types: true,
            tidy: false,
            mask: None,
            pad: None,
            unknown: None,
            notes: Vec::new(),
            rebuilt: false,
            path: path.to_owned(),
        }
    }

    fn pipe(&self) -> Option<&Pipe> {
        match &self.engine {
            Engine::Pipe(pipe) => Some(pipe),
            Engine::Units(_) => None,
        }
    }

    /// What another class takes from a `tokenizer.json`.
    fn into_source(self, path: &Path) -> Result<Source> {
        let Engine::Pipe(pipe) = self.engine else { return Err(Error::tokenizer(path, "it has no vocabulary")) };
        let normalizer = pipe.inner.get_normalizer().and_then(|n| serde_json::to_value(n).ok());
        Ok(Source::File(Box::new(pipe.inner), normalizer))
    }

    /// Adds what side files say to a `tokenizer.json` that is taken as it is.
    fn with_side_files(mut self, settings: &Settings) -> Result<Self> {
        let path = self.path.clone();
        let bad = || Error::tokenizer(&path, "the parser failed");
        let Engine::Pipe(pipe) = &mut self.engine else { return Ok(self) };
        let inner = &mut pipe.inner;
        let mut named: Vec<(&str, Mark)> = Vec::new();
        for name in NAMED {
            match (settings.named.get(name), &self.pad) {
                (Some(Some(mark)), _) => named.push((name, mark.clone())),
                (None, Some(token)) if name == "pad_token" => named.push((name, Mark::Text(token.clone()))),
                _ => {}
            }
        }
        let extra = settings.extra.clone().or_else(|| settings.additional.clone()).unwrap_or_default();
        let run = AssertUnwindSafe(|| pipeline::add_tokens(inner, settings, &named, &extra, &path));
        catch_unwind(run).map_err(|_| bad())??;
        if inner.get_post_processor().is_none() {
            let plain = json!({"type": "TemplateProcessing", "special_tokens": {},
                "single": [{"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]});
            let plain: PostProcessorWrapper = serde_json::from_value(plain).map_err(|_| bad())?;
            inner.with_post_processor(Some(plain));
        }
        inner.set_encode_special_tokens(settings.flag("split_special_tokens", false)?);
        pipe.settle();
        Ok(self)
    }

    /// Applies the settings that are no part of a pipeline.
    fn settle(&mut self, class: Class, settings: &Settings) -> Result<()> {
        self.types = settings.types().unwrap_or(class.gives_types()) && class != Class::Canine;
        self.direction = match settings.values.get("truncation_side") {
            None | Some(Value::Null) => self.direction,
            Some(side) if side == "left" => TruncationDirection::Left,
            Some(side) if side == "right" => TruncationDirection::Right,
            Some(_) => return Err(settings.wrong("truncation_side", "is neither left nor right")),
        };
        let bpe = self.pipe().is_some_and(|pipe| matches!(pipe.inner.get_model(), ModelWrapper::BPE(_)));
        self.tidy = settings.flag("clean_up_tokenization_spaces", false)?
            && (!bpe
                || settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", false)?);
        let mask = class.tokens().iter().find(|(name, _)| *name == "mask_token").map(|(_, text)| (*text).to_owned());
        match settings.named.get("mask_token") {
            Some(said) => self.mask = said.as_ref().map(|m| m.text().to_owned()),
            None => self.mask = mask.or_else(|| self.mask.take()),
        }
        Ok(())
    }

    fn check_added(&self) -> Result<()> {
        if self.added(false).max(self.added(true)) > MAX_ADDED {
            return Err(Error::unsafe_tokenizer(&self.path, "too many special tokens are added"));
        }
        Ok(())
    }

    /// What the folder says that changes nothing here, in words: one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether the class of the folder builds its own stages over the vocabulary of its `tokenizer.json`.
    pub fn builds_own_stages(&self) -> bool {
        self.rebuilt
    }

    /// Most tokens of an encoding, special tokens included; `None` for no bound.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Changes the maximum length; fails with `tokenizer.max_length` when special tokens would fill it.
    pub fn set_max_length(&mut self, max_length: Option<usize>) -> Result<()> {
        if let Some(max) = max_length {
            // `tokenizers` subtracts without looking, so this must hold before it is told.
            self.room(max, false)?;
        }
        let params = max_length.map(|max_length| TruncationParams {
            direction: self.direction,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        });
        let added = self.added(false);
        if let Engine::Pipe(pipe) = &mut self.engine {
            pipe.inner.with_truncation(params).map_err(|_| Error::max_length(max_length.unwrap_or(0), added))?;
        }
        self.max_length = max_length;
        Ok(())
    }

    /// Whether a token is a special one, such as `[SEP]`, or stands for what is not in the vocabulary.
    pub fn is_special(&self, id: u32) -> bool {
        let token = match &self.engine {
            Engine::Pipe(pipe) => pipe.inner.get_added_tokens_decoder().get(&id).map(|t| t.special),
            Engine::Units(units) => Some(units.is_special(id)),
        };
        token.unwrap_or(Some(id) == self.unknown)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        match &self.engine {
            Engine::Pipe(pipe) => pipe.inner.get_vocab_size(true),
            Engine::Units(units) => units.len(),
        }
    }

    /// The `tokenizer.json` of this tokenizer; fails with `tokenizer.parse` where it has none.
    pub(crate) fn to_json(&self) -> Result<Vec<u8>> {
        let none = || Error::tokenizer(&self.path, "it cannot be written as a tokenizer.json");
        let pipe = self.pipe().ok_or_else(none)?;
        Ok(pipe.inner.to_string(false).map_err(|_| none())?.into_bytes())
    }

    /// The token that stands for one to be guessed: what the folder says, else a usual name that is a token.
    pub fn mask_token(&self) -> Option<&str> {
        self.mask.as_deref()
    }

    /// How many tokens of an encoding stand for something that is not in the vocabulary.
    pub fn unknown_tokens(&self, encoding: &Encoding) -> usize {
        encoding.ids.iter().filter(|id| Some(**id) == self.unknown).count()
    }

    /// Whether an id stands for what is not in the vocabulary.
    pub fn is_unknown(&self, id: u32) -> bool {
        Some(id) == self.unknown
    }

    /// Whether a token goes on with the word of the one before it, where it stands at `bytes` of `text`. Tokenizers that mark
    /// such pieces say it; for others it is so where no space stands between.
    pub fn goes_on(&self, id: u32, text: &str, bytes: Range<usize>) -> bool {
        if self.is_unknown(id) {
            return false;
        }
        let from = bytes.start;
        match self.marks_pieces() {
            true => {
                let own = text.get(bytes).map_or(0, |t| t.chars().count());
                self.id_to_token(id).is_some_and(|token| token.chars().count() != own)
            }
            false => {
                let before = text.get(..from).and_then(|t| t.chars().next_back());
                let first = text.get(from..).and_then(|t| t.chars().next());
                from > 0 && before != Some(' ') && first != Some(' ')
            }
        }
    }

    /// Whether pieces inside a word begin with a mark of their own.
    fn marks_pieces(&self) -> bool {
        match self.pipe().map(|pipe| pipe.inner.get_model()) {
            Some(ModelWrapper::WordPiece(m)) => !m.continuing_subword_prefix.is_empty(),
            Some(ModelWrapper::BPE(m)) => m.continuing_subword_prefix.as_ref().is_some_and(|p| !p.is_empty()),
            _ => false,
        }
    }

    /// The id of a token, if there is one.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        match &self.engine {
            Engine::Pipe(pipe) => pipe.inner.token_to_id(token),
            Engine::Units(units) => units.token_to_id(token),
        }
    }

    /// The token of an id as the vocabulary spells it, if there is one; see [`word_of`](Self::word_of) for text to read.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        match &self.engine {
            Engine::Pipe(pipe) => pipe.inner.id_to_token(id),
            Engine::Units(units) => units.id_to_token(id),
        }
    }

    /// The text of one token, as the fill-mask pipeline of transformers shows it; empty for an id that no token has. Fails
    /// with `tokenizer.decode`.
    pub fn word_of(&self, id: u32) -> Result<String> {
        self.decode(&[id], false)
    }

    /// Encodes each text with special tokens, one encoding per text; fails with `tokenizer.too_long`, `tokenizer.long_run` or `tokenizer.encode`, naming the text by its index.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Encoding>> {
        texts.iter().enumerate().map(|(index, text)| self.encode_one(index, text, None)).collect()
    }

    /// Encodes one text as [`encode`](Self::encode) does, as number `index` of several.
    pub fn encode_as(&self, index: usize, text: &str) -> Result<Encoding> {
        self.encode_one(index, text, None)
    }

    /// Encodes each pair as one sequence, the longer text truncated first; fails as [`encode`](Self::encode) does, or with `tokenizer.max_length`.
    pub fn encode_pairs(&self, pairs: &[(&str, &str)]) -> Result<Vec<Encoding>> {
        if let Some(max) = self.max_length {
            self.room(max, true)?;
        }
        pairs.iter().enumerate().map(|(index, (a, b))| self.encode_one(index, a, Some(b))).collect()
    }

    /// The text of token ids, at most [`MAX_DECODE_IDS`]; unknown ids are left out; fails with `tokenizer.decode`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        if ids.len() > MAX_DECODE_IDS {
            return Err(decode_error("too many ids"));
        }
        let text = match &self.engine {
            Engine::Units(units) => units.decode(ids, skip_special),
            Engine::Pipe(pipe) => catch_unwind(AssertUnwindSafe(|| pipe.inner.decode(ids, skip_special)))
                .map_err(|_| decode_error("the tokenizer failed"))?
                .map_err(|_| decode_error("the decoder refused them"))?,
        };
        Ok(if self.tidy { tidied(text) } else { text })
    }

    /// Special tokens that are added to a text or a pair.
    pub(crate) fn added(&self, pair: bool) -> usize {
        match &self.engine {
            Engine::Pipe(pipe) => pipe.inner.get_post_processor().map_or(0, |p| p.added_tokens(pair)),
            Engine::Units(units) => units.ends(pair),
        }
    }

    /// Fails unless at least one token of text fits.
    fn room(&self, max: usize, pair: bool) -> Result<()> {
        let added = self.added(pair);
        if max <= added { Err(Error::max_length(max, added)) } else { Ok(()) }
    }

    fn encode_one(&self, index: usize, text: &str, pair: Option<&str>) -> Result<Encoding> {
        for text in std::iter::once(text).chain(pair) {
            if text.len() > MAX_TEXT_BYTES {
                return Err(too_long(index, text, MAX_TEXT_BYTES));
            }
        }
        let pipe = match &self.engine {
            Engine::Pipe(pipe) => pipe,
            Engine::Units(units) => {
                let done = units.encode(text, pair, self.max_length, self.direction);
                return done.ok_or_else(|| too_long(index, text, MAX_RUN_BYTES));
            }
        };
        let run = || -> Result<(tokenizers::Encoding, bool)> {
            let failed = |_| Error::encode(index, "the tokenizer refused it");
            if pair.is_none() && text.len() <= MAX_PIECE_BYTES {
                let whole = pipe.inner.encode(text, true).map_err(failed)?;
                let cut = !whole.get_overflowing().is_empty();
                return Ok((whole, cut));
            }
            // Of a pair both lengths must be known, to cut the longer text first.
            let (mut a, n) = self.join(pipe, index, text, pair.is_none())?;
            let second = pair.map(|text| self.join(pipe, index, text, false)).transpose()?;
            let most = self.max_length.map(|max| max.saturating_sub(self.added(pair.is_some())));
            let m = second.as_ref().map_or(0, |(_, m)| *m);
            let lengths = most.map_or([n, m], |most| longest_first(n, m, most));
            a.truncate(lengths[0], 0, self.direction);
            let b = second.map(|(mut b, _)| {
                b.truncate(lengths[1], 0, self.direction);
                b.set_type_ids(vec![1; b.len()]);
                b
            });
            let whole = pipe.inner.post_process(a, b, true).map_err(failed)?;
            Ok((whole, lengths != [n, m]))
        };
        let (encoding, truncated) =
            catch_unwind(AssertUnwindSafe(run)).map_err(|_| Error::encode(index, "the tokenizer failed"))??;
        let n = encoding.len();
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            type_ids: if self.types { encoding.get_type_ids().to_vec() } else { vec![0; n] },
            sequence_ids: encoding
                .get_sequence_ids()
                .into_iter()
                .zip(encoding.get_special_tokens_mask())
                .map(|(of, special)| of.filter(|_| *special == 0).map(|of| of as u8))
                .collect(),
            special_mask: encoding.get_special_tokens_mask().to_vec(),
            offsets: encoding
                .get_offsets()
                .iter()
                .zip(encoding.get_sequence_ids())
                .map(|((from, to), of)| {
                    // A space that the tokenizer puts in front may claim a part of the first character.
                    let own = if of == Some(1) { pair.unwrap_or(text) } else { text };
                    (own.floor_char_boundary(*from), own.floor_char_boundary(*to))
                })
                .collect(),
            truncated,
        })
    }

    /// Encodes a text piece by piece and joins the pieces as if it had been encoded whole, without the last stages. What is
    /// sure to be truncated is left out; -> the rest, and the number of tokens of the whole (`stop`: or at least one too many).
    fn join(&self, pipe: &Pipe, index: usize, text: &str, stop: bool) -> Result<(tokenizers::Encoding, usize)> {
        let pieces = pipe.cut.pieces(text);
        if let Some(piece) = pieces.iter().find(|p| p.len() > pipe.cut.longest) {
            return Err(if piece.len() == text.len() {
                too_long(index, text, pipe.cut.longest)
            } else {
                let (n, longest) = (index + 1, pipe.cut.longest);
                let what = format!(
                    "text {n} has more than {longest} bytes without a place to cut (from byte {})",
                    piece.start
                );
                Error::input("tokenizer.long_run", what, "insert spaces or split the text")
            });
        }
        // The last stages (special tokens, offsets trimmed) must run once, on the whole.
        let bare = pipe.bare.get_or_init(|| {
            let mut bare = pipe.inner.clone();
            bare.with_post_processor(None::<PostProcessorWrapper>);
            // Removing truncation cannot fail; were it to, pieces would be truncated a second time to the same length.
            let _ = bare.with_truncation(None);
            bare
        });
        let mut parts = Vec::with_capacity(pieces.len());
        let mut tokens = 0;
        let left = self.direction == TruncationDirection::Left;
        let mut order: Vec<_> = pieces.into_iter().collect();
        if left {
            order.reverse();
        }
        for piece in order {
            // One token too many shows that truncation drops something.
            let enough = self.max_length.is_some_and(|max| tokens > max);
            if enough && stop {
                break;
            }
            let part = bare.encode(&text[piece.clone()], false);
            let mut part = part.map_err(|_| Error::encode(index, "the tokenizer refused it"))?;
            for offset in part.get_offsets_mut() {
                *offset = (offset.0 + piece.start, offset.1 + piece.start);
            }
            tokens += part.len();
            if !enough {
                parts.push(part);
            }
        }
        if left {
            parts.reverse();
        }
        Ok((tokenizers::Encoding::merge(parts, false), tokens))
    }
}

/// The lengths of two texts of `n` and `m` tokens that are cut to `most` together, the longer one first.
fn longest_first(n: usize, m: usize, most: usize) -> [usize; 2] {
    let (short, long) = (n.min(m), n.max(m));
    let [short, long] = match () {
        () if n + m <= most => [short, long],
        () if short <= most / 2 => [short, most - short],
        () => [most / 2, most - most / 2],
    };
    if n > m { [long, short] } else { [short, long] }
}

fn too_long(index: usize, text: &str, limit: usize) -> Error {
    let what = format!("text {} has {} bytes, more than the {limit} that this tokenizer takes", index + 1, text.len());
    Error::input("tokenizer.too_long", what, "split the text")
}

/// Text without the spaces that stand in front of English punctuation and contractions.
fn tidied(mut text: String) -> String {
    let pairs = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")];
    for (from, to) in pairs.into_iter().chain([(" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]) {
        text = text.replace(from, to);
    }
    text
}

/// The vocabulary of a folder without `tokenizer.json`, and the file it is in.
fn find_source(class: Class, dir: &Path) -> Result<(Source, PathBuf)> {
    let read = |name: &str| -> Result<Vec<u8>> {
        let path = dir.join(name);
        if !path.exists() {
            return Err(Error::no_tokenizer(dir, &format!("tokenizer.json nor {}", class.files().join(" with "))));
        }
        read_file(&path, MAX_TOKENIZER_BYTES)
    };
    let files = class.files();
    let first = files.first().copied().unwrap_or_default();
    let path = dir.join(first);
    let source = match (first, files) {
        ("vocab.txt", _) => Source::Lines(read(first)?),
        (_, [vocab, merges]) => Source::Merges(read(vocab)?, read(merges)?),
        _ => Source::Pieces(spm::Model::parse(&read(first)?, &path)?),
    };
    Ok((source, path))
}
