//! Text to token ids and back, with bounds on size and time.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::{PostProcessor, PostProcessorWrapper, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::{Error, Result, read_file};
use crate::text_config::{Cut, Shape, bert_json, optional_json, stated_mask, stated_max_length};

/// Largest tokenizer file that is read, in bytes.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Longest text that is encoded, in bytes.
pub const MAX_TEXT_BYTES: usize = 1 << 20;
/// Longest piece that a pattern stage sees, in bytes.
pub const MAX_PIECE_BYTES: usize = 64 << 10;
/// Most token ids that are decoded at once.
pub const MAX_DECODE_IDS: usize = 1 << 20;
/// Names of the mask in published vocabularies.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];
/// Most special tokens that may be added to a text.
const MAX_ADDED: usize = 256;

/// One encoded text or pair of texts; all lists have the same length (the number of tokens, never padded).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Segment of each token (0, or 1 for the second text of a pair).
    pub type_ids: Vec<u32>,
    /// 1 for tokens that were added, such as `[CLS]`; else 0.
    pub special_mask: Vec<u32>,
    /// Byte range of each token in its own text; (0, 0) for added tokens.
    pub offsets: Vec<(usize, usize)>,
    /// Whether tokens were dropped to stay within the maximum length.
    pub truncated: bool,
}

/// A tokenizer that truncates and never pads.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The same without its last stages, made when a text first has to be cut into pieces.
    bare: OnceLock<tokenizers::Tokenizer>,
    max_length: Option<usize>,
    mask: Option<String>,
    unknown: Option<u32>,
    cut: Cut,
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
    /// Loads `tokenizer.json` from a model folder, else builds a BERT tokenizer from `vocab.txt`; `cap` bounds the maximum length (pass the position table's); fails with `file.*`, `json.*` or `tokenizer.*`.
    pub fn load(dir: impl AsRef<Path>, cap: Option<usize>) -> Result<Self> {
        let dir = dir.as_ref();
        let stated = stated_max_length(dir)?;
        let max_length = match (stated, cap) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let (json, vocab) = (dir.join("tokenizer.json"), dir.join("vocab.txt"));
        let mut this = if json.exists() {
            Self::from_bytes(&read_file(&json, MAX_TOKENIZER_BYTES)?, &json, max_length)?
        } else if vocab.exists() {
            let config = optional_json(&dir.join("tokenizer_config.json"))?.unwrap_or(Value::Null);
            Self::from_vocab(&read_file(&vocab, MAX_TOKENIZER_BYTES)?, &config, &vocab, max_length)?
        } else {
            return Err(Error::no_tokenizer(dir));
        };
        if let Some(stated) = stated_mask(dir)? {
            this.mask = Some(stated);
        }
        Ok(this)
    }

    /// Builds a BERT WordPiece tokenizer from a `vocab.txt` and the parsed `tokenizer_config.json` (JSON null for none); fails with `tokenizer.parse` or `tokenizer.max_length`.
    pub fn from_vocab(vocab: &[u8], config: &Value, label: &Path, max_length: Option<usize>) -> Result<Self> {
        Self::from_bytes(&bert_json(vocab, config, label)?, label, max_length)
    }

    /// Reads a `tokenizer.json` in memory; `label` stands in for the path in errors; fails with `file.too_large` or `tokenizer.*`.
    pub fn from_bytes(json: &[u8], label: &Path, max_length: Option<usize>) -> Result<Self> {
        // What vocab.txt becomes is longer than the file itself; hence the slack.
        if json.len() as u64 > MAX_TOKENIZER_BYTES * 4 {
            return Err(Error::too_large(label, MAX_TOKENIZER_BYTES));
        }
        let parse = |kind| Error::tokenizer(label, kind);
        // Neither the shape nor the tokenizer keeps a second value of a key, and both would go deep.
        switchformer_format::json::check(json, label)?;
        let shape: Shape =
            switchformer_format::json::typed_text(json).map_err(|_| parse("not a tokenizer description"))?;
        shape.check(label)?;
        // The parser indexes into lists it just read; a malformed file has made it panic before.
        let mut inner = catch_unwind(AssertUnwindSafe(|| tokenizers::Tokenizer::from_bytes(json)))
            .map_err(|_| parse("the parser failed"))?
            .map_err(|_| parse("a part is missing or contradicts another"))?;
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|_| parse("the truncation section cannot be removed"))?;
        let mut this = Self {
            inner,
            bare: OnceLock::new(),
            max_length: None,
            mask: None,
            unknown: None,
            cut: shape.cut(),
            path: label.to_owned(),
        };
        let (name, id) = shape.unknown();
        this.unknown = id.or_else(|| this.token_to_id(name?));
        this.mask = MASKS.iter().find(|m| this.token_to_id(m).is_some()).map(|m| (*m).to_string());
        if this.added(false).max(this.added(true)) > MAX_ADDED {
            return Err(Error::unsafe_tokenizer(label, "too many special tokens are added"));
        }
        this.set_max_length(max_length)?;
        Ok(this)
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
            direction: TruncationDirection::Right,
            max_length,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        });
        let added = self.added(false);
        self.inner.with_truncation(params).map_err(|_| Error::max_length(max_length.unwrap_or(0), added))?;
        self.max_length = max_length;
        Ok(())
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token that stands for one to be guessed: what the folder says, else a usual name that is a token.
    pub fn mask_token(&self) -> Option<&str> {
        self.mask.as_deref()
    }

    /// How many tokens of an encoding stand for something that is not in the vocabulary.
    pub fn unknown_tokens(&self, encoding: &Encoding) -> usize {
        encoding.ids.iter().filter(|id| Some(**id) == self.unknown).count()
    }

    /// The id of a token, if there is one.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The token of an id, if there is one.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Encodes each text with special tokens, one encoding per text; fails with `tokenizer.too_long`, `tokenizer.long_run` or `tokenizer.encode`, naming the text by its index.
    pub fn encode(&self, texts: &[&str]) -> Result<Vec<Encoding>> {
        texts.iter().enumerate().map(|(index, text)| self.encode_one(index, text, None)).collect()
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
        catch_unwind(AssertUnwindSafe(|| self.inner.decode(ids, skip_special)))
            .map_err(|_| decode_error("the tokenizer failed"))?
            .map_err(|_| decode_error("the decoder refused them"))
    }

    /// Special tokens that are added to a text or a pair.
    pub(crate) fn added(&self, pair: bool) -> usize {
        self.inner.get_post_processor().map_or(0, |p| p.added_tokens(pair))
    }

    /// Fails unless at least one token of text fits.
    fn room(&self, max: usize, pair: bool) -> Result<()> {
        let added = self.added(pair);
        if max <= added { Err(Error::max_length(max, added)) } else { Ok(()) }
    }

    fn encode_one(&self, index: usize, text: &str, pair: Option<&str>) -> Result<Encoding> {
        let first = self.pieces(index, text)?;
        let second = pair.map(|t| self.pieces(index, t)).transpose()?;
        let run = || -> tokenizers::Result<tokenizers::Encoding> {
            if first.len() == 1 && second.as_ref().is_none_or(|p| p.len() == 1) {
                return match pair {
                    None => self.inner.encode(text, true),
                    Some(pair) => self.inner.encode((text, pair), true),
                };
            }
            let a = self.join(text, &first)?;
            let b = match (pair, &second) {
                (Some(text), Some(pieces)) => {
                    let mut b = self.join(text, pieces)?;
                    b.set_type_ids(vec![1; b.len()]);
                    Some(b)
                }
                _ => None,
            };
            self.inner.post_process(a, b, true)
        };
        let encoding = catch_unwind(AssertUnwindSafe(run))
            .map_err(|_| Error::encode(index, "the tokenizer failed"))?
            .map_err(|_| Error::encode(index, "the tokenizer refused it"))?;
        Ok(Encoding {
            ids: encoding.get_ids().to_vec(),
            type_ids: encoding.get_type_ids().to_vec(),
            special_mask: encoding.get_special_tokens_mask().to_vec(),
            offsets: encoding.get_offsets().to_vec(),
            truncated: !encoding.get_overflowing().is_empty(),
        })
    }

    /// Encodes pieces one by one and joins them as if the text had been encoded whole.
    fn join(&self, text: &str, pieces: &[Range<usize>]) -> tokenizers::Result<tokenizers::Encoding> {
        // The last stages (special tokens, offsets trimmed) must run once, on the whole.
        let bare = self.bare.get_or_init(|| {
            let mut bare = self.inner.clone();
            bare.with_post_processor(None::<PostProcessorWrapper>);
            // Removing truncation cannot fail; were it to, pieces would be truncated a second time to the same length.
            let _ = bare.with_truncation(None);
            bare
        });
        let mut parts = Vec::with_capacity(pieces.len());
        let mut tokens = 0;
        for piece in pieces {
            let mut part = bare.encode(&text[piece.clone()], false)?;
            for offset in part.get_offsets_mut() {
                *offset = (offset.0 + piece.start, offset.1 + piece.start);
            }
            tokens += part.len();
            parts.push(part);
            // What truncation would drop anyway need not be encoded; one more shows that it drops.
            if self.max_length.is_some_and(|max| tokens > max) {
                break;
            }
        }
        Ok(tokenizers::Encoding::merge(parts, false))
    }

    /// Cuts a text into pieces of at most [`MAX_PIECE_BYTES`]; most texts are one piece.
    fn pieces(&self, index: usize, text: &str) -> Result<Vec<Range<usize>>> {
        let limit = if self.cut == Cut::Never { MAX_PIECE_BYTES } else { MAX_TEXT_BYTES };
        if text.len() > limit {
            let what =
                format!("text {} has {} bytes, more than the {limit} that this tokenizer takes", index + 1, text.len());
            return Err(Error::input("tokenizer.too_long", what, "split the text"));
        }
        let mut out = Vec::new();
        let mut start = 0;
        loop {
            // A later piece begins with the white space it was cut at, which is no part of a run.
            let most = MAX_PIECE_BYTES + usize::from(start > 0);
            if text.len() - start <= most {
                break;
            }
            let end = text.floor_char_boundary(start + most);
            let found = text[start..=end_inclusive(text, end)]
                .char_indices()
                .rev()
                .map(|(i, c)| (start + i, c))
                .take_while(|&(i, _)| i > start)
                .find(|&(i, c)| match self.cut {
                    Cut::Never => false,
                    // Not every white space: BERT's cleaning removes rarer ones and joins what they part.
                    Cut::AnyWhite => matches!(c, ' ' | '\t' | '\n' | '\r'),
                    Cut::BeforeSpace => c == ' ' && !text[..i].chars().next_back().is_some_and(char::is_whitespace),
                });
            let Some((cut, _)) = found else {
                let what = format!(
                    "text {} has more than {MAX_PIECE_BYTES} bytes without a white space to cut at (from byte {start})",
                    index + 1
                );
                return Err(Error::input("tokenizer.long_run", what, "insert spaces or split the text"));
            };
            out.push(start..cut);
            start = cut;
        }
        out.push(start..text.len());
        Ok(out)
    }
}

/// The last byte of the character that begins at `at`.
fn end_inclusive(text: &str, at: usize) -> usize {
    at + text[at..].chars().next().map_or(0, |c| c.len_utf8() - 1)
}
