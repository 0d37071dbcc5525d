//! SentencePiece models: the parts of the protocol buffer that a tokenizer is made of, read without trust.

use std::path::Path;

use crate::error::{Error, Result};

/// Most pieces of a model; published ones have up to 262,144.
const MAX_PIECES: usize = 1 << 20;
/// Longest replacement in a character map, in bytes; published ones have up to 60.
pub(crate) const MAX_REPLACEMENT: usize = 1024;

/// What is written for the unknown piece, unless a model says otherwise.
pub(crate) const UNKNOWN_SURFACE: &str = " \u{2047} ";

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A piece of text.
    Plain,
    /// Stands for what no piece has.
    Unknown,
    /// Of no use, or a byte.
    Unused,
    /// Never found in a text, such as `</s>`.
    Control,
    /// Always found as a whole.
    Defined,
}

/// A SentencePiece model.
#[derive(Debug)]
pub(crate) struct Model {
    /// Text, score and kind of each piece, by id.
    pub(crate) pieces: Vec<(String, f32, Kind)>,
    /// The id of the unknown piece.
    pub(crate) unknown: usize,
    /// The precompiled character map; empty for none.
    pub(crate) characters: Vec<u8>,
    /// What else the normalizer does.
    pub(crate) normalizer: Normalizer,
    /// What sets it apart from a plain Unigram model.
    pub(crate) unusual: Option<&'static str>,
}

/// Settings of a normalizer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalizer {
    /// A space in front of the text.
    pub(crate) dummy_prefix: bool,
    /// Spaces at both ends go, and several in a row become one.
    pub(crate) remove_extra: bool,
    /// Spaces become U+2581.
    pub(crate) escape: bool,
}

impl Model {
    /// Reads a model; fails with `tokenizer.parse` or `tokenizer.unsafe`.
    pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        let bad = |kind| Error::tokenizer(path, kind);
        let mut model = Model {
            pieces: Vec::new(),
            unknown: 0,
            characters: Vec::new(),
            normalizer: Normalizer { dummy_prefix: true, remove_extra: true, escape: true },
            unusual: None,
        };
        let cut = "it ends within a field";
        for field in Fields(bytes) {
            match field.ok_or(bad(cut))? {
                (1, Value::Bytes(piece)) => {
                    if model.pieces.len() == MAX_PIECES {
                        return Err(Error::unsafe_tokenizer(path, "it has more than a million pieces"));
                    }
                    let (mut text, mut score, mut kind) = (String::new(), 0.0, Kind::Plain);
                    for field in Fields(piece) {
                        match field.ok_or(bad(cut))? {
                            (1, Value::Bytes(b)) => {
                                text = String::from_utf8(b.to_vec()).map_err(|_| bad("a piece is not UTF-8"))?;
                            }
                            (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
                            (3, Value::Varint(3)) => kind = Kind::Control,
                            (3, Value::Varint(4)) => kind = Kind::Defined,
                            (3, Value::Varint(2)) => kind = Kind::Unknown,
                            (3, Value::Varint(5)) => kind = Kind::Unused,
                            (3, Value::Varint(6)) => kind = Kind::Unused,
                            (3, Value::Varint(_)) => kind = Kind::Plain,
                            _ => {}
                        }
                    }
                    if !score.is_finite() {
                        return Err(bad("the score of a piece is no number"));
                    }
                    model.pieces.push((text, score, kind));
                }
                (2, Value::Bytes(trainer)) => {
                    for field in Fields(trainer) {
                        match field.ok_or(bad(cut))? {
                            (3, Value::Varint(kind)) if kind != 1 => {
                                model.unusual = Some("its model is not of the Unigram type");
                            }
                            (24, Value::Varint(1)) => model.unusual = Some("its spaces stand behind words"),
                            (35, Value::Varint(1)) => model.unusual = Some("it falls back on bytes"),
                            (44, Value::Bytes(text)) if text != UNKNOWN_SURFACE.as_bytes() => {
                                model.unusual = Some("it writes a text of its own for what is unknown");
                            }
                            (40, Value::Varint(id)) => model.unknown = usize::try_from(id).unwrap_or(usize::MAX),
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in Fields(normalizer) {
                        match field.ok_or(bad(cut))? {
                            (2, Value::Bytes(map)) => model.characters = map.to_vec(),
                            (3, Value::Varint(on)) => model.normalizer.dummy_prefix = on != 0,
                            (4, Value::Varint(on)) => model.normalizer.remove_extra = on != 0,
                            (5, Value::Varint(on)) => model.normalizer.escape = on != 0,
                            _ => {}
                        }
                    }
                }
                (5, Value::Bytes(back)) => {
                    for field in Fields(back) {
                        if let (2, Value::Bytes(map)) = field.ok_or(bad(cut))?
                            && !map.is_empty()
                        {
                            model.unusual = Some("it rewrites the text that it joins");
                        }
                    }
                }
                _ => {}
            }
        }
        if model.pieces.is_empty() {
            return Err(bad("it holds no pieces"));
        }
        Ok(model)
    }
}

/// A value of a field; others than these four end the reading.
#[derive(Clone, Copy)]
enum Value<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

/// The fields of a message: number and value, or `None` where it is cut short or of no known type, which ends it.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7F) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    fn field(&mut self) -> Option<(u64, Value<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let n = usize::try_from(self.varint()?).ok()?;
                Value::Bytes(self.take(n)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

/// The longest replacement of a precompiled character map, in bytes; `None` where it is no such map.
pub(crate) fn longest_replacement(map: &[u8]) -> Option<usize> {
    let (size, rest) = map.split_first_chunk::<4>()?;
    let table = usize::try_from(u32::from_le_bytes(*size)).ok()? / 4 * 4;
    let texts = rest.get(table..)?;
    Some(texts.split(|b| *b == 0).map(<[u8]>::len).max().unwrap_or(0))
}

/// The bytes of pieces that begin at one place of a text, at most: a Unigram model reads them all there.
pub(crate) fn most_at_one_place<'a>(pieces: impl Iterator<Item = &'a str>) -> usize {
    let mut sorted: Vec<&str> = pieces.collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut open: Vec<(&str, usize)> = Vec::new();
    let mut most = 0;
    for piece in sorted {
        while open.last().is_some_and(|(p, _)| !piece.starts_with(p)) {
            open.pop();
        }
        let sum = open.last().map_or(0, |(_, sum)| *sum) + piece.len();
        most = most.max(sum);
        open.push((piece, sum));
    }
    most
}
