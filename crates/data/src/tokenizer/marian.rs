//! Marian's vocabulary: SentencePiece cuts a text into pieces, and `vocab.json` has the ids.
//!
//! The cutting is SentencePiece's own (normalizer, and the best path of a Unigram model in f32), as transformers calls it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;
use switchformer_format::json as strict;

use super::cut::MAX_RUN_BYTES;
use super::pipeline::{GROWTH, check_characters, check_pieces, ids_of};
use super::settings::Settings;
use super::spm::{Kind, Model, UNKNOWN_SURFACE};
use crate::error::{Error, Result, read_file};
use crate::text::MAX_TOKENIZER_BYTES;

/// What stands for a space.
const SPACE: &str = "\u{2581}";
/// Longest text that is cut, in bytes once it is normalized: the best path is kept for every one.
const MAX_NORMAL: usize = 4 << 20;
/// How much worse than the worst piece an unknown character is.
const PENALTY: f32 = 10.0;

/// The vocabulary of a folder.
pub(crate) struct Vocabulary {
    ids: HashMap<String, u32>,
    /// Tokens of the language that is written.
    tokens: HashMap<u32, String>,
    source: Cutter,
    /// Where both languages have their own: that of the target.
    target: Option<Cutter>,
    unknown: u32,
}

/// A token's id with its place in the text.
type Ids = Vec<(u32, (usize, usize))>;

impl Vocabulary {
    /// Reads `source.spm`, `vocab.json` and, of two vocabularies, those of the target; fails with `file.*`, `json.*` or
    /// `tokenizer.*`.
    pub(crate) fn load(dir: &Path, unknown: &str, settings: &Settings) -> Result<Self> {
        match settings.values.get("sp_model_kwargs") {
            None | Some(Value::Null) => {}
            Some(Value::Object(said)) if said.is_empty() => {}
            Some(_) => {
                return Err(settings.wrong("sp_model_kwargs", "holds settings, which are not supported; empty it"));
            }
        }
        let separate = settings.flag("separate_vocabs", false)?;
        let ids = read_ids(&dir.join("vocab.json"))?;
        let Some(own) = ids.get(unknown).copied() else {
            return Err(Error::tokenizer(&dir.join("vocab.json"), "it lacks the token for what is unknown"));
        };
        let written = if separate { read_ids(&dir.join("target_vocab.json"))? } else { ids.clone() };
        let tokens = written.into_iter().map(|(text, id)| (id, text)).collect();
        let source = Cutter::load(&dir.join("source.spm"))?;
        let target = separate.then(|| Cutter::load(&dir.join("target.spm"))).transpose()?;
        Ok(Vocabulary { ids, tokens, source, target, unknown: own })
    }

    /// Number of ids of the language that is read.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    pub(crate) fn unknown(&self) -> u32 {
        self.unknown
    }

    fn writer(&self) -> &Cutter {
        self.target.as_ref().unwrap_or(&self.source)
    }

    /// The token of an id; SentencePiece's where the vocabulary has none.
    pub(crate) fn token(&self, id: u32) -> Option<String> {
        let piece = || self.writer().model.pieces.get(id as usize).map(|(text, ..)| text.clone());
        self.tokens.get(&id).cloned().or_else(piece)
    }

    /// The ids of a text without special tokens; `None` where it is too long. A language code such as `>>fra<<` at its start
    /// is one token.
    pub(crate) fn encode(&self, text: &str) -> Option<Ids> {
        if text.len() > MAX_RUN_BYTES {
            return None;
        }
        let mut out = Ids::new();
        let mut id = |token: &str, place| out.push((self.id(token).unwrap_or(self.unknown), place));
        let code = text.strip_prefix(">>").and_then(|rest| rest.find("<<")).map_or(0, |at| at + 4);
        if code > 0 {
            id(&text[..code], (0, code));
        }
        for (piece, (from, to)) in self.source.cut(&text[code..])? {
            id(&piece, (code + from, code + to));
        }
        Some(out)
    }

    /// The text of tokens, those of `special` as they are.
    pub(crate) fn write<'a>(&self, tokens: impl Iterator<Item = (String, bool)> + 'a) -> String {
        let (mut out, mut pieces) = (String::new(), Vec::new());
        for (token, special) in tokens {
            if special {
                out += &self.writer().join(&std::mem::take(&mut pieces));
                out += &token;
                out.push(' ');
            } else {
                pieces.push(token);
            }
        }
        out += &self.writer().join(&pieces);
        out.replace(SPACE, " ").trim_matches(super::units::is_white).to_owned()
    }
}

fn read_ids(path: &Path) -> Result<HashMap<String, u32>> {
    if !path.exists() {
        let dir = path.parent().unwrap_or(path);
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        return Err(Error::no_tokenizer(dir, name));
    }
    ids_of(&strict::parse_growing(&read_file(path, MAX_TOKENIZER_BYTES)?, path, GROWTH)?, path)
}

/// A SentencePiece model at work.
struct Cutter {
    model: Model,
    /// Pieces that a text may have, by their bytes: the next node of (node, byte), and the piece that ends at a node.
    next: HashMap<(u32, u8), u32>,
    ends: Vec<Option<u32>>,
    by_text: HashMap<String, u32>,
    /// Score of a character that no piece has.
    unknown: f32,
    /// Pieces that are always found as a whole, the longest first.
    defined: Vec<String>,
}

/// A place of the best path: score up to it, where its last piece starts, and that piece (none for unknown).
#[derive(Clone, Copy)]
struct Step {
    score: f32,
    from: usize,
    piece: Option<u32>,
}

impl Cutter {
    fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            return Err(Error::no_tokenizer(path.parent().unwrap_or(path), name));
        }
        let model = Model::parse(&read_file(path, MAX_TOKENIZER_BYTES)?, path)?;
        let found = model.pieces.iter().filter(|(_, _, kind)| matches!(kind, Kind::Plain | Kind::Defined));
        check_pieces(found.map(|(text, ..)| text.as_str()), path)?;
        if !model.characters.is_empty() {
            check_characters(&model.characters, path)?;
        }
        if let Some(what) = model.unusual {
            return Err(Error::tokenizer(path, what));
        }
        let mut cutter = Cutter {
            next: HashMap::new(),
            ends: vec![None],
            by_text: HashMap::new(),
            unknown: 0.0,
            defined: Vec::new(),
            model,
        };
        let mut worst = f32::MAX;
        for (id, (text, score, kind)) in cutter.model.pieces.iter().enumerate() {
            cutter.by_text.insert(text.clone(), id as u32);
            match kind {
                Kind::Plain => worst = worst.min(*score),
                Kind::Defined => cutter.defined.push(text.clone()),
                _ => continue,
            }
            let mut node = 0u32;
            for byte in text.bytes() {
                let ends = &mut cutter.ends;
                node = *cutter.next.entry((node, byte)).or_insert_with(|| {
                    ends.push(None);
                    ends.len() as u32 - 1
                });
            }
            cutter.ends[node as usize] = Some(id as u32);
        }
        cutter.unknown = worst - PENALTY;
        cutter.defined.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Ok(cutter)
    }

    /// The pieces of a text with their places; `None` where it is too long. Neighbours that no piece has are one.
    fn cut(&self, text: &str) -> Option<Vec<(String, (usize, usize))>> {
        let (normal, origin) = self.normalized(text)?;
        let bytes = normal.as_bytes();
        let mut best: Vec<Option<Step>> = vec![None; bytes.len() + 1];
        best[0] = Some(Step { score: 0.0, from: 0, piece: None });
        for (at, c) in normal.char_indices() {
            let Some(Step { score: here, .. }) = best[at] else { continue };
            let width = c.len_utf8();
            let mut reach = |to: usize, score: f32, piece: Option<u32>| {
                let better = best[to].is_none_or(|step| score > step.score);
                if better {
                    best[to] = Some(Step { score, from: at, piece });
                }
            };
            let (mut node, mut single) = (0u32, false);
            for (i, byte) in bytes[at..].iter().enumerate() {
                let Some(next) = self.next.get(&(node, *byte)) else { break };
                node = *next;
                let Some(id) = self.ends[node as usize] else { continue };
                let (_, score, kind) = &self.model.pieces[id as usize];
                // One that is always found costs next to nothing.
                let score = if *kind == Kind::Defined { -0.1 } else { *score };
                reach(at + i + 1, score + here, Some(id));
                single |= i + 1 == width;
            }
            if !single {
                reach(at + width, self.unknown + here, None);
            }
        }
        let mut path = Vec::new();
        let mut to = bytes.len();
        while to > 0 {
            let Some(step) = best[to] else { break };
            path.push((step.from, to, step.piece));
            to = step.from;
        }
        let mut out: Vec<(String, (usize, usize))> = Vec::new();
        let mut unknown = false;
        for (from, to, piece) in path.into_iter().rev() {
            let place = (origin[from], origin[to]);
            match (out.last_mut(), unknown && piece.is_none()) {
                (Some((text, old)), true) => {
                    text.push_str(&normal[from..to]);
                    old.1 = place.1;
                }
                _ => out.push((normal[from..to].to_owned(), place)),
            }
            unknown = piece.is_none();
        }
        Some(out)
    }

    /// The text that is cut, and where each of its bytes comes from; `None` where it grows too long.
    fn normalized(&self, text: &str) -> Option<(String, Vec<usize>)> {
        let options = &self.model.normalizer;
        let (mut out, mut origin) = (String::with_capacity(text.len() + 3), Vec::with_capacity(text.len() + 4));
        let mut at = 0;
        // Spaces in front are passed over.
        while options.remove_extra && at < text.len() {
            let (piece, n) = self.next_of(&text[at..]);
            if piece != " " {
                break;
            }
            at += n;
        }
        if at == text.len() {
            return Some((out, vec![at]));
        }
        let space = if options.escape { SPACE } else { " " };
        let mut push = |out: &mut String, text: &str, from: usize| {
            out.push_str(text);
            origin.resize(origin.len() + text.len(), from);
        };
        if options.dummy_prefix {
            push(&mut out, space, at);
        }
        let mut behind_space = options.remove_extra;
        while at < text.len() {
            if out.len() > MAX_NORMAL {
                return None;
            }
            let (piece, n) = self.next_of(&text[at..]);
            let rest = if behind_space { piece.trim_start_matches(' ') } else { piece };
            if !rest.is_empty() {
                for c in rest.chars() {
                    match c {
                        ' ' => push(&mut out, space, at),
                        c => push(&mut out, c.encode_utf8(&mut [0; 4]), at),
                    }
                }
                behind_space = options.remove_extra && rest.ends_with(' ');
            }
            at += n;
        }
        if options.remove_extra {
            let kept = out.trim_end_matches(space).len();
            out.truncate(kept);
        }
        let end = origin.get(out.len()).copied().unwrap_or(text.len());
        origin.truncate(out.len());
        origin.push(end);
        Some((out, origin))
    }

    /// What the start of a text becomes, and how many of its bytes.
    fn next_of<'a>(&'a self, text: &'a str) -> (&'a str, usize) {
        if let Some(own) = self.defined.iter().find(|own| !own.is_empty() && text.starts_with(own.as_str())) {
            return (&text[..own.len()], own.len());
        }
        if let Some((to, n)) =
            replaced(&self.model.characters, text.as_bytes()).filter(|(_, n)| text.is_char_boundary(*n))
        {
            return (to, n);
        }
        let n = text.chars().next().map_or(0, char::len_utf8);
        (&text[..n], n)
    }

    /// The text of pieces.
    fn join(&self, pieces: &[String]) -> String {
        let options = &self.model.normalizer;
        let mut out = String::new();
        let mut started = false;
        for piece in pieces {
            let id = self.by_text.get(piece);
            let kind = id.map_or(Kind::Unknown, |id| self.model.pieces[*id as usize].2);
            let first = !started && out.is_empty();
            started = false;
            match (kind, id) {
                (Kind::Control, _) => {}
                (Kind::Unknown, Some(_)) => out += UNKNOWN_SURFACE,
                (Kind::Unknown, None) => out += piece,
                _ => {
                    let mut rest = piece.as_str();
                    if first
                        && (options.dummy_prefix || options.remove_extra)
                        && let Some(behind) = rest.strip_prefix(SPACE)
                    {
                        rest = behind;
                        started = !options.remove_extra;
                    }
                    out += &rest.replace(SPACE, " ");
                }
            }
        }
        out
    }
}

/// The longest replacement of a precompiled character map at the start of a text, and how many bytes it replaces.
fn replaced<'a>(map: &'a [u8], text: &[u8]) -> Option<(&'a str, usize)> {
    let (size, rest) = map.split_first_chunk::<4>()?;
    let (table, texts) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
    let unit = |at: usize| -> Option<u32> {
        let bytes = table.get(4 * at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    // A double array: where the children of a unit stand, what leads to it, and whether a value stands below it.
    let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
    let mut at = offset(unit(0)?);
    let mut found = None;
    for (i, byte) in text.iter().enumerate() {
        at ^= usize::from(*byte);
        let Some(own) = unit(at) else { break };
        if own & (1 << 31 | 0xFF) != u32::from(*byte) {
            break;
        }
        at ^= offset(own);
        if (own >> 8) & 1 == 1 {
            found = unit(at).map(|value| ((value & 0x7FFF_FFFF) as usize, i + 1));
        }
    }
    let (from, n) = found?;
    let text = texts.get(from..)?;
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    Some((std::str::from_utf8(&text[..end]).ok()?, n))
}
