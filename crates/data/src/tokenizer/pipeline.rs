//! The pipelines of transformers' classes, built over a vocabulary from whatever file holds it.

use std::collections::HashSet;
use std::path::Path;

use base64::Engine as _;
use serde_json::{Value, json};
use switchformer_format::json as strict;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{AddedToken, ModelWrapper};

use super::class::Class;
use super::settings::{Mark, NAMED, Settings};
use super::spm;
use crate::error::{Error, Result};

/// Most sentinels that a T5 folder may ask for.
pub(crate) const MAX_SENTINELS: usize = 10_000;
/// Longest token of `merges.txt` is bound by the file; a vocabulary in JSON may take so many times its text.
pub(crate) const GROWTH: usize = 24;

/// Where a vocabulary is.
pub(crate) enum Source {
    /// A `tokenizer.json`, read, with its normalizer.
    File(Box<tokenizers::Tokenizer>, Option<Value>),
    /// `vocab.txt`.
    Lines(Vec<u8>),
    /// `vocab.json` and `merges.txt`.
    Merges(Vec<u8>, Vec<u8>),
    /// A SentencePiece model.
    Pieces(spm::Model),
}

/// A pipeline, with what long texts are cut by.
pub(crate) struct Built {
    pub(crate) inner: tokenizers::Tokenizer,
    pub(crate) normalizer: Option<Value>,
    pub(crate) pre_tokenizer: Option<Value>,
    pub(crate) unknown: Option<u32>,
}

type Pieces = Vec<(String, f64)>;

/// One class at work on one folder.
struct Builder<'a> {
    class: Class,
    settings: &'a Settings,
    path: &'a Path,
}

/// Builds the pipeline of a class that does not take `tokenizer.json` as it is; fails with `tokenizer.*`.
pub(crate) fn build(class: Class, source: Source, settings: &Settings, path: &Path) -> Result<Built> {
    Builder { class, settings, path }.build(source)
}

/// Adds the special and added tokens of a folder to a tokenizer; `named` are those of a class that the settings do not name.
pub(crate) fn add_tokens(
    inner: &mut tokenizers::Tokenizer,
    settings: &Settings,
    named: &[(&str, Mark)],
    extra: &[Mark],
    path: &Path,
) -> Result<()> {
    let mut known: HashSet<String> = inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
    known.extend(settings.added.values().map(|t| t.content.clone()));
    let mut marks: Vec<Mark> = settings.added.values().cloned().map(Mark::Full).collect();
    let all_named: Vec<&Mark> = named.iter().map(|(_, m)| m).chain(settings.own.iter().map(|(_, m)| m)).collect();
    let own_new =
        settings.own.iter().filter(|(_, m)| !known.contains(m.text()) && inner.token_to_id(m.text()).is_none());
    if own_new.count() > 1 {
        return Err(unordered(path));
    }
    for mark in all_named.iter().copied().chain(extra) {
        if !known.contains(mark.text()) && !marks.contains(mark) {
            marks.push(mark.clone());
        }
    }
    let names: HashSet<&str> = all_named.iter().map(|m| m.text()).collect();
    let tokens: Vec<AddedToken> = marks
        .into_iter()
        .map(|mark| match mark {
            Mark::Text(text) => AddedToken::from(text, true),
            Mark::Full(token) => {
                let special = token.special || names.contains(token.content.as_str());
                token.special(special)
            }
        })
        .collect();
    inner.add_tokens(tokens).map_err(|_| Error::tokenizer(path, "its added tokens contradict each other"))?;
    Ok(())
}

/// New ids follow the order of a file, which is not kept for names of a folder's own.
pub(crate) fn unordered(path: &Path) -> Error {
    let what = "names special tokens that no vocabulary has, so that their ids would hang on the order of the file";
    Error::file(path, "tokenizer.parse", what, "list them in added_tokens_decoder")
}

/// One part of a template of special tokens.
enum Part<'a> {
    First(u32),
    Second(u32),
    Token(&'a (String, u32), u32),
}

fn template(single: &[Part], pair: &[Part]) -> Value {
    let part = |p: &Part| match p {
        Part::First(t) => json!({"Sequence": {"id": "A", "type_id": t}}),
        Part::Second(t) => json!({"Sequence": {"id": "B", "type_id": t}}),
        Part::Token((text, _), t) => json!({"SpecialToken": {"id": text, "type_id": t}}),
    };
    let list = |parts: &[Part]| parts.iter().map(part).collect::<Vec<Value>>();
    let mut tokens = serde_json::Map::new();
    for p in single.iter().chain(pair) {
        if let Part::Token((text, id), _) = p {
            tokens.insert(text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}));
        }
    }
    json!({"type": "TemplateProcessing", "single": list(single), "pair": list(pair), "special_tokens": tokens})
}

impl Builder<'_> {
    fn bad(&self, kind: &str) -> Error {
        Error::tokenizer(self.path, kind)
    }

    /// A named special token: what the files say, else the class.
    fn mark(&self, name: &str) -> Option<Mark> {
        match self.settings.named.get(name) {
            Some(said) => said.clone(),
            None => {
                let (_, text) = self.class.tokens().iter().find(|(n, _)| *n == name)?;
                Some(Mark::Text((*text).to_owned()))
            }
        }
    }

    fn text(&self, name: &str) -> Result<String> {
        let mark =
            self.mark(name).ok_or_else(|| self.settings.wrong(name, "is null, where this tokenizer needs one"))?;
        Ok(mark.text().to_owned())
    }

    /// Every named special token that is set, in the order in which they are added.
    fn named(&self) -> Vec<(&'static str, Mark)> {
        let mut out = Vec::new();
        for name in NAMED {
            let Some(mark) = self.mark(name) else { continue };
            // MPNet and CamemBERT describe what is bare text.
            let mark = match (self.class, mark) {
                (Class::Mpnet, Mark::Text(t)) => Mark::Full(AddedToken::from(t, true).lstrip(name == "mask_token")),
                (Class::Camembert, Mark::Text(t)) if name == "mask_token" => {
                    Mark::Full(AddedToken::from(t, true).lstrip(true))
                }
                (_, mark) => mark,
            };
            out.push((name, mark));
        }
        out
    }

    fn build(&self, source: Source) -> Result<Built> {
        let from_file = matches!(source, Source::File(..));
        let listed: Vec<Mark> = match &source {
            Source::Pieces(model) => {
                let own =
                    model.pieces.iter().filter(|(_, _, kind)| matches!(kind, spm::Kind::Control | spm::Kind::Defined));
                let mark = |(text, _, kind): &(String, f32, spm::Kind)| {
                    let special = *kind == spm::Kind::Control;
                    Mark::Full(AddedToken::from(text.as_str(), special).normalized(false))
                };
                own.map(mark).collect()
            }
            _ => Vec::new(),
        };
        let from_spm = matches!(source, Source::Pieces(_));
        let additional = if from_spm { Some(listed) } else { self.settings.additional.clone() };
        let extra = self.extra(additional)?;
        let post = match &source {
            Source::File(inner, _) => inner.get_post_processor().cloned(),
            _ => None,
        };
        let characters = match &source {
            Source::File(_, normalizer) => normalizer.as_ref().and_then(characters),
            Source::Pieces(model) if !model.characters.is_empty() => {
                check_characters(&model.characters, self.path)?;
                Some(base64::engine::general_purpose::STANDARD.encode(&model.characters))
            }
            _ => None,
        };
        let (model, unknown) = self.model(source)?;
        let [normalizer, pre_tokenizer, decoder] = self.stages(characters)?;
        let stage = |_| self.bad("a stage cannot be built");
        let mut inner = tokenizers::Tokenizer::new(model);
        if !normalizer.is_null() {
            let normalizer: tokenizers::NormalizerWrapper =
                serde_json::from_value(normalizer.clone()).map_err(stage)?;
            inner.with_normalizer(Some(normalizer)).map_err(|_| self.bad("a stage cannot be built"))?;
        }
        let pre: tokenizers::PreTokenizerWrapper = serde_json::from_value(pre_tokenizer.clone()).map_err(stage)?;
        let decoder: tokenizers::DecoderWrapper = serde_json::from_value(decoder).map_err(stage)?;
        inner.with_pre_tokenizer(Some(pre)).with_decoder(Some(decoder));
        // ALBERT names its template before its tokens are added, so they must be in the vocabulary.
        let early = ["cls_token", "sep_token"].map(|name| self.text(name).ok().and_then(|t| inner.token_to_id(&t)));
        add_tokens(&mut inner, self.settings, &self.named(), &extra, self.path)?;
        if self.settings.flag("split_special_tokens", false)? {
            inner.set_encode_special_tokens(true);
        }
        let post = match self.post_processor(&inner, early, post.is_some(), from_file)? {
            Some(value) => Some(serde_json::from_value(value).map_err(stage)?),
            None => post,
        };
        inner.with_post_processor(post);
        Ok(Built {
            inner,
            normalizer: Some(normalizer).filter(|n| !n.is_null()),
            pre_tokenizer: Some(pre_tokenizer),
            unknown,
        })
    }

    /// The special tokens without a name.
    fn extra(&self, additional: Option<Vec<Mark>>) -> Result<Vec<Mark>> {
        let own = match self.class {
            Class::T5 => {
                let n = self.settings.count("extra_ids", 100, MAX_SENTINELS)?;
                Some(sentinels(additional, n).ok_or_else(|| self.settings.wrong("extra_ids", SENTINELS))?)
            }
            Class::Camembert => Some(additional.unwrap_or_else(|| {
                ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"].map(|t| Mark::Text(t.to_owned())).to_vec()
            })),
            _ => additional,
        };
        Ok(self.settings.extra.clone().or(own).unwrap_or_default())
    }

    fn model(&self, source: Source) -> Result<(ModelWrapper, Option<u32>)> {
        match self.class {
            Class::Bert | Class::DistilBert | Class::Mpnet => self.word_piece(source),
            Class::Roberta | Class::Gpt2 | Class::Deberta => Ok((self.bpe(source)?, None)),
            _ => self.unigram(source),
        }
    }

    fn word_piece(&self, source: Source) -> Result<(ModelWrapper, Option<u32>)> {
        let unknown = self.text("unk_token")?;
        let vocab: std::collections::HashMap<String, u32> = match source {
            Source::File(inner, _) => match inner.get_model() {
                ModelWrapper::Unigram(_) => return Err(self.bad("its class wants words, and it holds scored pieces")),
                _ => inner.get_vocab(false),
            },
            Source::Lines(bytes) => {
                let text = std::str::from_utf8(&bytes).map_err(|_| self.bad("not UTF-8"))?;
                // A last line break ends the last token and begins no new one.
                let lines = text.strip_suffix('\n').unwrap_or(text).split('\n').enumerate();
                lines.map(|(id, line)| (line.trim_end().to_owned(), id as u32)).collect()
            }
            _ => return Err(self.bad("its class wants a list of words")),
        };
        let id = vocab.get(&unknown).copied();
        let model = WordPiece::builder().vocab(vocab.into_iter().collect::<tokenizers::models::bpe::Vocab>());
        let model = model.unk_token(unknown).build().map_err(|_| self.bad("its words cannot be used"))?;
        Ok((model.into(), id))
    }

    fn bpe(&self, source: Source) -> Result<ModelWrapper> {
        let mut model = match source {
            Source::File(inner, _) => match inner.get_model() {
                ModelWrapper::BPE(bpe) => bpe.clone(),
                _ => return Err(self.bad("its class wants pieces that are merged, and it holds others")),
            },
            Source::Merges(vocab, merges) => {
                let vocab = strict::parse_growing(&vocab, self.path, GROWTH)?;
                let vocab: tokenizers::models::bpe::Vocab = ids_of(&vocab, self.path)?;
                let text = std::str::from_utf8(&merges).map_err(|_| self.bad("merges.txt is not UTF-8"))?;
                let lines = text.lines().filter(|l| !l.starts_with("#version"));
                let pair = |line: &str| match line.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Some((a.to_owned(), b.to_owned())),
                    _ => None,
                };
                let merges = lines.map(pair).collect::<Option<Vec<_>>>();
                let merges = merges.ok_or(self.bad("a line of merges.txt is not two pieces with a space between"))?;
                let built = BPE::builder().vocab_and_merges(vocab, merges).build();
                built.map_err(|_| self.bad("a merge names a piece that the vocabulary lacks"))?
            }
            _ => return Err(self.bad("its class wants vocab.json and merges.txt")),
        };
        model.dropout = None;
        model.unk_token = None;
        model.continuing_subword_prefix = Some(String::new());
        model.end_of_word_suffix = Some(String::new());
        model.fuse_unk = false;
        model.byte_fallback = false;
        model.ignore_merges = false;
        Ok(model.into())
    }

    fn unigram(&self, source: Source) -> Result<(ModelWrapper, Option<u32>)> {
        let (pieces, given): (Pieces, Option<usize>) = match source {
            Source::File(inner, _) => match inner.get_model() {
                ModelWrapper::Unigram(model) => (model.iter().cloned().collect(), None),
                _ => return Err(self.bad("its class wants scored pieces, and it holds others")),
            },
            Source::Pieces(model) => {
                let pieces = model.pieces.into_iter().map(|(text, score, _)| (text, f64::from(score)));
                (self.shifted(pieces.collect())?, Some(model.unknown))
            }
            _ => return Err(self.bad("its class wants a SentencePiece model")),
        };
        check_pieces(pieces.iter().map(|(text, _)| text.as_str()), self.path)?;
        let unknown = match self.class {
            Class::Albert => 1,
            Class::T5 => 2,
            Class::XlmRoberta => 3,
            Class::Camembert => {
                let text = self.text("unk_token")?;
                pieces.iter().position(|(t, _)| *t == text).unwrap_or(0)
            }
            _ => {
                let text = self.text("unk_token")?;
                let said = self.settings.count("unk_id", 1, u32::MAX as usize)?;
                let exact = pieces.iter().position(|(t, score)| *t == text && *score == 0.0);
                exact.or(given).unwrap_or(said)
            }
        };
        let model = Unigram::from(pieces, Some(unknown), false);
        let model = model.map_err(|_| self.bad("it has too few pieces for its unknown token"))?;
        Ok((model.into(), u32::try_from(unknown).ok()))
    }

    /// The pieces of a SentencePiece model where the class has them: fairseq's stand further on, T5's are followed by sentinels.
    fn shifted(&self, pieces: Pieces) -> Result<Pieces> {
        let one = |text: String, score: f64| std::iter::once((text, score));
        Ok(match self.class {
            Class::T5 => {
                let n = self.settings.count("extra_ids", 100, MAX_SENTINELS)?;
                pieces.into_iter().chain((0..n).rev().map(|i| (format!("<extra_id_{i}>"), 0.0))).collect()
            }
            Class::XlmRoberta => {
                let front = ["bos_token", "pad_token", "eos_token", "unk_token"];
                let front: Pieces = front.iter().map(|name| Ok((self.text(name)?, 0.0))).collect::<Result<_>>()?;
                front.into_iter().chain(pieces.into_iter().skip(3)).chain(one(self.text("mask_token")?, 0.0)).collect()
            }
            Class::Camembert => one("<s>NOTUSED".into(), 0.0)
                .chain(one(self.text("pad_token")?, 0.0))
                .chain(one("</s>NOTUSED".into(), 0.0))
                .chain(one(self.text("unk_token")?, 0.0))
                .chain(one("<unk>NOTUSED".into(), -100.0))
                .chain(pieces.into_iter().skip(1))
                .chain(one(self.text("mask_token")?, 0.0))
                .collect(),
            _ => pieces,
        })
    }

    /// Normalizer (null for none), pre-tokenizer and decoder.
    fn stages(&self, characters: Option<String>) -> Result<[Value; 3]> {
        let flag = |name, default| self.settings.flag(name, default);
        let charsmap = characters.map(|map| json!({"type": "Precompiled", "precompiled_charsmap": map}));
        let sequence = |list: Vec<Value>| json!({"type": "Sequence", "normalizers": list});
        let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
        let pair = |first: Value, second: Value| json!({"type": "Sequence", "pretokenizers": [first, second]});
        let white = || json!({"type": "WhitespaceSplit"});
        Ok(match self.class {
            Class::Bert | Class::DistilBert | Class::Mpnet => [
                json!({
                    "type": "BertNormalizer",
                    "clean_text": true,
                    "handle_chinese_chars": flag("tokenize_chinese_chars", true)?,
                    "strip_accents": self.settings.choice("strip_accents")?,
                    "lowercase": flag("do_lower_case", true)?,
                }),
                json!({"type": "BertPreTokenizer"}),
                json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
            ],
            Class::Roberta | Class::Gpt2 | Class::Deberta => {
                let level = |space: bool| json!({"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true});
                [Value::Null, level(flag("add_prefix_space", false)?), level(true)]
            }
            Class::DebertaV2 => {
                let mut list = Vec::new();
                if flag("do_lower_case", false)? {
                    list.push(json!({"type": "Lowercase"}));
                }
                let blanks = json!({"Regex": "\\s{2,}|[\\n\\r\\t]"});
                list.push(json!({"type": "Replace", "pattern": blanks, "content": " "}));
                list.push(json!({"type": "NFC"}));
                list.push(json!({"type": "Strip", "strip_left": false, "strip_right": true}));
                let meta = metaspace(if flag("add_prefix_space", true)? { "always" } else { "first" });
                let parts = if flag("split_by_punct", false)? {
                    vec![json!({"type": "Punctuation", "behavior": "Isolated"}), meta.clone()]
                } else {
                    vec![meta.clone()]
                };
                [sequence(list), json!({"type": "Sequence", "pretokenizers": parts}), meta]
            }
            _ => {
                let meta = metaspace(match self.class {
                    Class::T5 => "always",
                    _ if flag("add_prefix_space", true)? => "always",
                    _ => "never",
                });
                let mut list = Vec::new();
                if self.class == Class::Albert {
                    for quote in ["``", "''"] {
                        list.push(json!({"type": "Replace", "pattern": {"String": quote}, "content": "\""}));
                    }
                    if !flag("keep_accents", false)? {
                        list.push(json!({"type": "NFKD"}));
                        list.push(json!({"type": "StripAccents"}));
                    }
                    if flag("do_lower_case", true)? {
                        list.push(json!({"type": "Lowercase"}));
                    }
                    list.extend(charsmap);
                    [sequence(list), pair(white(), meta.clone()), meta]
                } else {
                    [charsmap.unwrap_or_default(), pair(white(), meta.clone()), meta]
                }
            }
        })
    }

    /// The class's own last stage; `None` to keep that of the file.
    fn post_processor(
        &self,
        inner: &tokenizers::Tokenizer,
        early: [Option<u32>; 2],
        file_has_one: bool,
        from_file: bool,
    ) -> Result<Option<Value>> {
        use Part::{First, Second, Token};
        let token = |name: &str| -> Result<(String, u32)> {
            let text = self.text(name)?;
            let id = inner.token_to_id(&text).ok_or_else(|| self.settings.wrong(name, "is empty"))?;
            Ok((text, id))
        };
        Ok(Some(match self.class {
            Class::Roberta | Class::Mpnet => {
                let (sep, cls) = (token("sep_token")?, token("cls_token")?);
                let own = self.class == Class::Roberta;
                let (trim, space) = match own {
                    true => (self.settings.flag("trim_offsets", true)?, self.settings.flag("add_prefix_space", false)?),
                    false => (true, false),
                };
                json!({"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": trim, "add_prefix_space": space})
            }
            Class::Bert | Class::DistilBert | Class::DebertaV2 => {
                let (c, s) = (token("cls_token")?, token("sep_token")?);
                template(
                    &[Token(&c, 0), First(0), Token(&s, 0)],
                    &[Token(&c, 0), First(0), Token(&s, 0), Second(1), Token(&s, 1)],
                )
            }
            Class::Deberta => {
                let (c, s) = (token("cls_token")?, token("sep_token")?);
                template(
                    &[Token(&c, 0), First(0), Token(&s, 0)],
                    &[Token(&c, 0), First(0), Token(&s, 0), Token(&s, 0), Second(0), Token(&s, 0)],
                )
            }
            Class::XlmRoberta | Class::Camembert => {
                let (b, e) = (token("bos_token")?, token("eos_token")?);
                template(
                    &[Token(&b, 0), First(0), Token(&e, 0)],
                    &[Token(&b, 0), First(0), Token(&e, 0), Token(&e, 0), Second(0), Token(&e, 0)],
                )
            }
            Class::T5 => {
                // The text of this token is fixed in transformers; its id is that of eos_token.
                let e = ("</s>".to_owned(), token("eos_token")?.1);
                template(&[First(0), Token(&e, 0)], &[First(0), Token(&e, 0), Second(0), Token(&e, 0)])
            }
            Class::Albert if file_has_one => return Ok(None),
            Class::Albert if !self.asks_for_ends(from_file) => {
                let missing = || self.bad("its vocabulary lacks the tokens that begin and end a text");
                let c = ("[CLS]".to_owned(), early[0].ok_or_else(missing)?);
                let s = ("[SEP]".to_owned(), early[1].ok_or_else(missing)?);
                template(
                    &[Token(&c, 0), First(0), Token(&s, 0)],
                    &[Token(&c, 0), First(0), Token(&s, 0), Second(1), Token(&s, 1)],
                )
            }
            Class::Gpt2 if file_has_one => return Ok(None),
            _ => {
                let end = |flag: &str, name: &str| -> Result<Option<(String, u32)>> {
                    let wanted = !from_file && self.settings.flag(flag, false)? && self.mark(name).is_some();
                    wanted.then(|| token(name)).transpose()
                };
                let (b, e) = (end("add_bos_token", "bos_token")?, end("add_eos_token", "eos_token")?);
                let parts = |pair: bool| {
                    let mut list = Vec::new();
                    list.extend(b.as_ref().map(|b| Token(b, 0)));
                    list.push(First(0));
                    list.extend(e.as_ref().map(|e| Token(e, 0)));
                    if pair {
                        list.extend(b.as_ref().map(|b| Token(b, 1)));
                        list.push(Second(1));
                        list.extend(e.as_ref().map(|e| Token(e, 1)));
                    }
                    list
                };
                template(&parts(false), &parts(true))
            }
        }))
    }

    /// Whether the settings say which ends a text gets, which sets the class's template aside.
    fn asks_for_ends(&self, from_file: bool) -> bool {
        !from_file && ["add_bos_token", "add_eos_token"].iter().any(|key| self.settings.values.contains_key(*key))
    }
}

/// What is wrong where the numbers of sentinels differ.
pub(crate) const SENTINELS: &str = "differs from the number of sentinels in additional_special_tokens";

/// T5's further special tokens, with its sentinels; `None` where their number contradicts `n`.
fn sentinels(additional: Option<Vec<Mark>>, n: usize) -> Option<Vec<Mark>> {
    let own = (0..n).map(|i| Mark::Text(format!("<extra_id_{i}>")));
    let Some(mut list) = additional else { return Some(own.collect()) };
    match list.iter().filter(|m| m.text().contains("<extra_id_")).count() {
        0 => list.extend(own),
        have if n > 0 && have != n => return None,
        _ => {}
    }
    Some(list)
}

/// Refuses a precompiled character map that is damaged or lets texts grow without bound.
pub(crate) fn check_characters(map: &[u8], path: &Path) -> Result<()> {
    match spm::longest_replacement(map) {
        None => Err(Error::tokenizer(path, "its character map is cut short")),
        Some(n) if n > spm::MAX_REPLACEMENT => {
            Err(Error::unsafe_tokenizer(path, "its character map holds a replacement of over 1024 bytes"))
        }
        Some(_) => Ok(()),
    }
}

/// The ids of a `vocab.json`.
pub(crate) fn ids_of<C: FromIterator<(String, u32)>>(vocab: &Value, path: &Path) -> Result<C> {
    let vocab = vocab.as_object().ok_or(Error::tokenizer(path, "not an object of tokens and their ids"))?;
    let entry = |(text, id): (&String, &Value)| Some((text.clone(), u32::try_from(id.as_u64()?).ok()?));
    vocab.iter().map(entry).collect::<Option<C>>().ok_or(Error::tokenizer(path, "an id is no whole number"))
}

/// Refuses pieces of which so many begin at one place that a text would take too long.
pub(crate) fn check_pieces<'a>(pieces: impl Iterator<Item = &'a str>, path: &Path) -> Result<()> {
    const MOST: usize = 4096;
    if spm::most_at_one_place(pieces) > MOST {
        return Err(Error::unsafe_tokenizer(path, "too many of its pieces begin alike"));
    }
    Ok(())
}

/// The character map of a normalizer, in base 64.
fn characters(normalizer: &Value) -> Option<String> {
    let of = |v: &Value| {
        (v["type"] == "Precompiled").then(|| v["precompiled_charsmap"].as_str()).flatten().map(str::to_owned)
    };
    match normalizer["normalizers"].as_array() {
        Some(list) => list.iter().find_map(of),
        None => of(normalizer),
    }
}
