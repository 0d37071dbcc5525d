//! Tokenizers of transformers' Python classes, which cut a text at added tokens first: bytes (ByT5), characters (CANINE) and
//! SentencePiece's pieces under ids of their own (Marian).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use tokenizers::{AddedToken, TruncationDirection};

use super::class::Class;
use super::marian::Vocabulary;
use super::pipeline::{MAX_SENTINELS, SENTINELS, unordered};
use super::settings::{Mark, NAMED, Settings};
use crate::error::{Error, Result};
use crate::text::Encoding;

/// Ids of ByT5 that stand before the bytes: padding, end, unknown.
const SHIFT: u32 = 3;
/// Ids of CANINE's special characters that are written by name.
const CANINE_NAMES: [(u32, &str); 6] =
    [(0, "[PAD]"), (0xE000, "[CLS]"), (0xE001, "[SEP]"), (0xE002, "[BOS]"), (0xE003, "[MASK]"), (0xE004, "[RESERVED]")];

/// What a text between added tokens is made of.
enum Unit {
    Byte,
    Character,
    Piece(Box<Vocabulary>),
}

/// A tokenizer of bytes, characters or pieces.
pub(crate) struct Units {
    unit: Unit,
    added: BTreeMap<u32, AddedToken>,
    by_text: HashMap<String, u32>,
    /// Added tokens by their first byte, longest first.
    starts: HashMap<u8, Vec<String>>,
    special: HashSet<u32>,
    /// The tokens before and behind a text.
    front: Option<u32>,
    end: u32,
    whole: bool,
}

/// Ids with their places in a text.
type Ids = Vec<(u32, (usize, usize))>;

impl Units {
    /// Whether a token is a special one.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// The tokenizer of ByT5 or CANINE with the tokens of a folder; fails with `tokenizer.parse`.
    pub(crate) fn new(class: Class, settings: &Settings, path: &Path) -> Result<Self> {
        let bytes = class == Class::ByT5;
        let describe = |name: &str, text: &str| match bytes {
            true => AddedToken::from(text, false).lstrip(true).rstrip(true),
            false => AddedToken::from(text, false).lstrip(name == "mask_token"),
        };
        let mut named: Vec<(&str, AddedToken)> = Vec::new();
        for name in NAMED {
            let own = class.tokens().iter().find(|(n, _)| *n == name).map(|(_, text)| Mark::Text((*text).to_owned()));
            let mark = settings.named.get(name).cloned().unwrap_or(own);
            // Only the class's own tokens get its way of being found.
            let known = class.tokens().iter().any(|(n, _)| *n == name);
            match mark {
                Some(Mark::Full(token)) => named.push((name, token)),
                Some(Mark::Text(text)) if known => named.push((name, describe(name, &text))),
                Some(Mark::Text(text)) => named.push((name, AddedToken::from(text, true))),
                None => {}
            }
        }
        let text = |name: &str| {
            let token = named.iter().find(|(n, _)| *n == name).map(|(_, t)| t.content.clone());
            token.ok_or_else(|| settings.wrong(name, "is null, where this tokenizer needs one"))
        };
        let unit = match class {
            Class::ByT5 => Unit::Byte,
            Class::Marian => {
                let dir = path.parent().unwrap_or(path);
                Unit::Piece(Box::new(Vocabulary::load(dir, &text("unk_token")?, settings)?))
            }
            _ => Unit::Character,
        };
        let mut added: BTreeMap<u32, AddedToken> = BTreeMap::new();
        if bytes {
            for (id, name) in ["pad_token", "eos_token", "unk_token"].iter().enumerate() {
                let token = named.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
                let token = token.ok_or_else(|| settings.wrong(name, "is null, where this tokenizer needs one"))?;
                added.insert(id as u32, token);
            }
        }
        added.extend(settings.added.iter().map(|(id, t)| (*id, t.clone())));
        let mut by_text: HashMap<String, u32> = added.iter().map(|(id, t)| (t.content.clone(), *id)).collect();
        let extra = match (&settings.extra, bytes) {
            (Some(extra), _) => extra.clone(),
            (None, true) => {
                let n = settings.count("extra_ids", 125, MAX_SENTINELS)?;
                let own = (0..n).map(|i| Mark::Text(format!("<extra_id_{i}>"))).collect();
                let given = settings.additional.clone().unwrap_or(own);
                if n > 0 && !given.is_empty() && given.iter().filter(|m| m.text().contains("extra_id")).count() != n {
                    return Err(settings.wrong("extra_ids", SENTINELS));
                }
                given
            }
            (None, false) => settings.additional.clone().unwrap_or_default(),
        };
        // New ids follow the number of tokens that have different texts.
        let base = unit.base();
        let texts: HashSet<&str> = by_text.keys().map(String::as_str).collect();
        let mut next = base + texts.iter().filter(|t| unit.id(t).is_none()).count() as u32;
        if bytes {
            // An added token in the place of a byte takes its text out, and those in front have none of their own.
            next -= added.keys().filter(|id| **id < base).count() as u32;
        }
        let own = settings.own.iter().map(|(_, m)| m);
        let mut all: Vec<String> = named.iter().map(|(_, t)| t.content.clone()).collect();
        all.extend(own.chain(&extra).map(|m| m.text().to_owned()));
        let is_new = |m: &Mark| !by_text.contains_key(m.text()) && unit.id(m.text()).is_none();
        if settings.own.iter().filter(|(_, m)| is_new(m)).count() > 1 {
            return Err(unordered(path));
        }
        for text in &all {
            if text.is_empty() || by_text.contains_key(text) {
                continue;
            }
            let id = match unit.id(text) {
                Some(id) => id,
                None => {
                    next += 1;
                    next - 1
                }
            };
            by_text.insert(text.clone(), id);
            added.insert(id, AddedToken::from(text.as_str(), true));
        }
        let special = all.iter().filter_map(|text| by_text.get(text).copied()).collect();
        let mut starts: HashMap<u8, Vec<String>> = HashMap::new();
        for token in added.values() {
            if let Some(first) = token.content.as_bytes().first() {
                starts.entry(*first).or_default().push(token.content.clone());
            }
        }
        starts.values_mut().for_each(|list| list.sort_by_key(|t| std::cmp::Reverse(t.len())));
        let id = |name: &str| -> Result<u32> {
            by_text.get(&text(name)?).copied().ok_or_else(|| Error::tokenizer(path, "a special token is empty"))
        };
        let front = if class == Class::Canine { Some(id("cls_token")?) } else { None };
        let end = id(if class == Class::Canine { "sep_token" } else { "eos_token" })?;
        let whole = settings.flag("split_special_tokens", false)?;
        Ok(Units { unit, added, by_text, starts, special, front, end, whole })
    }

    /// Number of ids.
    pub(crate) fn len(&self) -> usize {
        let base = self.unit.base();
        base as usize + self.added.keys().filter(|id| **id >= base).count()
    }

    pub(crate) fn token_to_id(&self, token: &str) -> Option<u32> {
        self.by_text.get(token).copied().or_else(|| self.unit.id(token))
    }

    pub(crate) fn id_to_token(&self, id: u32) -> Option<String> {
        if let Some(token) = self.added.get(&id) {
            return Some(token.content.clone());
        }
        match &self.unit {
            Unit::Byte => char::from_u32(id.checked_sub(SHIFT).filter(|b| *b < 256)?).map(String::from),
            Unit::Piece(vocabulary) => vocabulary.token(id),
            Unit::Character => {
                let name = CANINE_NAMES.iter().find(|(n, _)| *n == id).map(|(_, name)| (*name).to_owned());
                name.or_else(|| char::from_u32(id).map(String::from))
            }
        }
    }

    /// The id that stands for what is not in the vocabulary, where there is one.
    pub(crate) fn unknown(&self) -> Option<u32> {
        match &self.unit {
            Unit::Piece(vocabulary) => Some(vocabulary.unknown()),
            _ => None,
        }
    }

    pub(crate) fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let kept = ids.iter().filter(|id| !(skip_special && self.special.contains(id)));
        if let Unit::Piece(vocabulary) = &self.unit {
            let token = |id: &u32| Some((self.id_to_token(*id)?, self.special.contains(id)));
            return vocabulary.write(kept.filter_map(token));
        }
        let mut out: Vec<u8> = Vec::with_capacity(ids.len());
        for id in kept {
            match (self.added.get(id), &self.unit) {
                (Some(token), _) => out.extend(token.content.as_bytes()),
                (None, Unit::Byte) => out.extend(id.checked_sub(SHIFT).and_then(|b| u8::try_from(b).ok())),
                (None, _) => out.extend(self.id_to_token(*id).unwrap_or_default().as_bytes()),
            }
        }
        // Bytes that are no UTF-8 are left out.
        out.utf8_chunks().map(|chunk| chunk.valid()).collect()
    }

    /// Special tokens that are added to a text or a pair.
    pub(crate) fn ends(&self, pair: bool) -> usize {
        // Marian ends a pair once.
        let ends = if matches!(self.unit, Unit::Piece(_)) { 1 } else { 1 + usize::from(pair) };
        ends + usize::from(self.front.is_some())
    }

    /// Encodes a text or a pair, cut to `max` tokens; `None` where a text is too long to be cut into pieces.
    pub(crate) fn encode(
        &self,
        text: &str,
        pair: Option<&str>,
        max: Option<usize>,
        direction: TruncationDirection,
    ) -> Option<Encoding> {
        let mut first = self.ids(text)?;
        let mut second = match pair {
            Some(pair) => Some(self.ids(pair)?),
            None => None,
        };
        let total = first.len() + second.as_ref().map_or(0, Vec::len) + self.ends(pair.is_some());
        let surplus = max.map_or(0, |max| total.saturating_sub(max));
        cut(&mut first, second.as_mut(), surplus, direction);
        let mut out = Encoding { truncated: surplus > 0, ..Encoding::default() };
        if let Some(front) = self.front {
            out.add(front, None);
        }
        for (number, ids) in std::iter::once(first).chain(second).enumerate() {
            let ended = match self.unit {
                // ByT5 adds no end behind an end.
                Unit::Byte => ids.last().is_some_and(|(id, _)| *id == self.end),
                Unit::Piece(_) => pair.is_some() && number == 0,
                Unit::Character => false,
            };
            for (id, place) in ids {
                out.add(id, Some((number as u8, place)));
            }
            if !ended {
                out.add(self.end, None);
            }
        }
        Some(out)
    }

    /// The ids of a text, cut at added tokens first.
    fn ids(&self, text: &str) -> Option<Ids> {
        let mut parts = self.parts(text);
        for i in 0..parts.len() {
            let Some(token) = self.by_text.get(&text[parts[i].clone()]).and_then(|id| self.added.get(id)) else {
                continue;
            };
            // What stands beside the token, before anything is stripped.
            let beside = |i: usize| parts.get(i).map(|p| &text[p.clone()]).filter(|t| !t.is_empty());
            let (left, right) = (i.checked_sub(1).and_then(beside), beside(i + 1));
            if let Some(right) = right.filter(|_| token.rstrip) {
                parts[i + 1].start = parts[i + 1].end - right.trim_start_matches(is_white).len();
            }
            if let Some(left) = left.filter(|_| token.lstrip) {
                parts[i - 1].end = parts[i - 1].start + left.trim_end_matches(is_white).len();
            }
            let own = parts[i].clone();
            if token.single_word && left.is_some_and(|t| !t.ends_with(' ')) {
                parts[i - 1].end = own.end;
                parts[i] = own.end..own.end;
            } else if token.single_word && right.is_some_and(|t| !t.starts_with(' ')) {
                parts[i + 1].start = own.start;
                parts[i] = own.start..own.start;
            }
        }
        let mut out = Vec::new();
        for part in parts.into_iter().filter(|p| !p.is_empty()) {
            let own = &text[part.clone()];
            match (self.by_text.get(own).filter(|_| !self.whole), &self.unit) {
                (Some(id), _) => out.push((*id, (part.start, part.end))),
                (None, Unit::Byte) => {
                    let whole =
                        own.char_indices().flat_map(|(at, c)| (0..c.len_utf8()).map(move |_| (at, c.len_utf8())));
                    let place = |(at, n)| (part.start + at, part.start + at + n);
                    out.extend(own.bytes().zip(whole).map(|(b, at)| (u32::from(b) + SHIFT, place(at))));
                }
                (None, Unit::Piece(vocabulary)) => {
                    let place = |(from, to)| (part.start + from, part.start + to);
                    out.extend(vocabulary.encode(own)?.into_iter().map(|(id, at)| (id, place(at))));
                }
                (None, Unit::Character) => out.extend(own.char_indices().map(|(at, c)| {
                    let at = part.start + at;
                    let id = self.by_text.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
                    (id.unwrap_or(u32::from(c)), (at, at + c.len_utf8()))
                })),
            }
        }
        Some(out)
    }

    /// A text parted at its added tokens, the leftmost and longest first.
    fn parts(&self, text: &str) -> Vec<std::ops::Range<usize>> {
        let mut parts = Vec::new();
        let (mut from, mut at) = (0, 0);
        while at < text.len() && !self.whole {
            let rest = &text.as_bytes()[at..];
            let token = self.starts.get(&rest[0]).and_then(|list| list.iter().find(|t| rest.starts_with(t.as_bytes())));
            let Some(token) = token else {
                at += 1;
                continue;
            };
            if from < at {
                parts.push(from..at);
            }
            parts.push(at..at + token.len());
            at += token.len();
            from = at;
        }
        if from < text.len() {
            parts.push(from..text.len());
        }
        parts
    }
}

impl Unit {
    /// The id of a byte (as a character), a character or a piece.
    fn id(&self, text: &str) -> Option<u32> {
        if let Unit::Piece(vocabulary) = self {
            return vocabulary.id(text);
        }
        let mut chars = text.chars();
        let c = u32::from(chars.next()?);
        let id = if matches!(self, Unit::Byte) { Some(c).filter(|c| *c < 256).map(|c| c + SHIFT) } else { Some(c) };
        id.filter(|_| chars.next().is_none())
    }

    /// The first id that none of its own has.
    fn base(&self) -> u32 {
        match self {
            Unit::Byte => 256 + SHIFT,
            Unit::Piece(vocabulary) => vocabulary.len() as u32,
            Unit::Character => 0x11_0000,
        }
    }
}

/// What Python's `strip` takes away.
pub(super) fn is_white(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Takes `surplus` tokens away, of the longer text first and then of both, as transformers' Python classes do.
fn cut(first: &mut Ids, second: Option<&mut Ids>, surplus: usize, direction: TruncationDirection) {
    let drop = |ids: &mut Ids, n: usize| match direction {
        TruncationDirection::Right => ids.truncate(ids.len().saturating_sub(n)),
        TruncationDirection::Left => drop(ids.drain(..n.min(ids.len()))),
    };
    let Some(second) = second else { return drop(first, surplus) };
    let longer = first.len() > second.len();
    let alone = first.len().abs_diff(second.len()).min(surplus);
    let both = surplus - alone;
    let (a, b) = match longer {
        true => (alone + both / 2, both - both / 2),
        false => (both / 2, alone + both - both / 2),
    };
    drop(first, a);
    drop(second, b);
}
