//! Texts said again by way of another language (back translation; used for questions in arXiv 2204.09598).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use switchformer_data::Tokenizer;
use switchformer_infer::generate::greedy;
use switchformer_nn::store::write_atomic;
use switchformer_nn::{Folder, Input, Point, json};
use switchformer_zoo::{OpenOptions, Opened};

use crate::error::{Error, Result};
use crate::recipe::hex;

/// Most bytes of a piece of text that is translated at once, as in the paper.
const PIECE: usize = 100;
/// Pieces that are translated at once.
const AT_ONCE: usize = 64;
/// Most tokens that are written for a piece.
const LONGEST: usize = 64;
/// Largest file of translations.
const MAX_KNOWN: u64 = 64 << 20;

/// Two models for a translation there and back.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackTranslation {
    /// Folder of the model from English.
    there: PathBuf,
    /// Folder of the model into English.
    home: PathBuf,
}

/// Pieces of text and what they are after a translation there and back.
#[derive(Debug, Default)]
pub(super) struct Paraphrases(BTreeMap<String, String>);

impl Paraphrases {
    /// Translates all pieces of `texts` by both models of a recipe; what was translated before by the same models is read
    /// from the folder that a study shares.
    pub(super) fn of<'a>(
        models: &BackTranslation,
        shared: &Path,
        texts: impl Iterator<Item = &'a str>,
    ) -> Result<Paraphrases> {
        let pieces: BTreeSet<&str> = texts.flat_map(|text| pieces(text).map(|range| &text[range])).collect();
        let mut hash = Sha256::new();
        for (variant, folder) in [("there", &models.there), ("home", &models.home)] {
            let path = folder.join("model.safetensors");
            hash.update(std::fs::read(&path).map_err(|e| no_model(variant, folder, &e))?);
        }
        let name = format!("said-again-{}.json", &hex(&hash.finalize())[..16]);
        let mut known: BTreeMap<String, String> = BTreeMap::new();
        if shared.join(&name).exists() {
            known = json::typed(Folder::disk(shared)?.json(&name, MAX_KNOWN)?, &shared.join(&name))?;
        }
        let new: Vec<String> = pieces.iter().filter(|p| !known.contains_key(**p)).map(|p| (*p).to_string()).collect();
        if !new.is_empty() {
            let there = Translator::open(&models.there)?.translate(&new)?;
            let home = Translator::open(&models.home)?.translate(&there)?;
            known.extend(new.into_iter().zip(home));
            write_atomic(&shared.join(&name), &serde_json::to_vec(&known).unwrap_or_default())?;
        }
        Ok(Paraphrases(known))
    }

    /// A text said again, but for the pieces that a stretch is in; and where the stretch is then.
    pub(super) fn around(&self, text: &str, stretch: &Range<usize>) -> (String, Range<usize>) {
        let (mut out, mut at) = (String::new(), stretch.clone());
        for piece in pieces(text) {
            if !out.is_empty() {
                out.push(' ');
            }
            let own = &text[piece.clone()];
            let touches = piece.start < stretch.end && stretch.start < piece.end;
            if touches {
                if piece.contains(&stretch.start) {
                    at.start = out.len() + stretch.start - piece.start;
                }
                at.end = out.len() + stretch.end.min(piece.end) - piece.start;
            }
            let again = self.0.get(own).filter(|again| !touches && !again.is_empty());
            out.push_str(again.map_or(own, String::as_str));
        }
        (out, at)
    }

    /// A whole text said again.
    pub(super) fn whole(&self, text: &str) -> String {
        self.around(text, &(0..0)).0
    }
}

/// Stretches of a text of whole words and at most [`PIECE`] bytes, unless one word is longer: sentences, or what of a
/// longer one ends with a mark, where there is one.
fn pieces(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    for word in text.split_whitespace() {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        words.push(start..start + word.len());
    }
    let mut from = 0;
    std::iter::from_fn(move || {
        let first = words.get(from)?.clone();
        let fits = words[from..].iter().take_while(|w| w.end - first.start <= PIECE).count().max(1);
        let ends = |i: &usize, marks: &[char]| text[words[from + i].clone()].ends_with(marks);
        let sentence = (0..fits).find(|i| ends(i, &['.', '!', '?']));
        let all = from + fits == words.len();
        let mark = || (0..fits).rev().find(|i| !all && ends(i, &[',', ';', ':']));
        let n = sentence.or_else(mark).map_or(fits, |i| i + 1);
        let last = words[from + n - 1].end;
        from += n;
        Some(first.start..last)
    })
}

/// A model that translates, with its words.
struct Translator {
    opened: Opened,
    words: Tokenizer,
}

impl Translator {
    fn open(folder: &Path) -> Result<Translator> {
        Ok(Translator {
            opened: Opened::open(folder, OpenOptions::default())?,
            words: Tokenizer::of_model(folder, None)?,
        })
    }

    /// Translations of texts, in their order; texts of like length together.
    fn translate(&self, texts: &[String]) -> Result<Vec<String>> {
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|i| (texts[*i].len(), *i));
        let mut out = vec![String::new(); texts.len()];
        for part in order.chunks(AT_ONCE) {
            let encoded = self.words.encode(&part.iter().map(|i| texts[*i].as_str()).collect::<Vec<_>>())?;
            let source = Input::tokens(&encoded.into_iter().map(|e| e.ids).collect::<Vec<_>>())?;
            for (i, ids) in part.iter().zip(greedy(&self.opened, &Point::new(), &source, LONGEST)?.0) {
                out[*i] = self.words.decode(&ids, true)?.trim().to_string();
            }
        }
        Ok(out)
    }
}

fn no_model(variant: &str, folder: &Path, e: &std::io::Error) -> Error {
    let what = format!("data.back names a model that is not there: {}: {e}", folder.display());
    let out = folder.parent().unwrap_or(folder).display();
    let hint = format!("train it: switchformer train recipes/back-translation.toml --variant {variant} --out {out}");
    Error::input(what, hint)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<&str> {
        pieces(text).map(|r| &text[r]).collect()
    }

    #[test]
    fn pieces_are_whole_words_up_to_a_mark() {
        assert_eq!(cut(""), [""; 0]);
        assert_eq!(cut("  one  two "), ["one  two"]);
        assert_eq!(cut("One two. Three four, five"), ["One two.", "Three four, five"]);
        let long = "word ".repeat(19) + "end, " + &"more ".repeat(30);
        let cuts = cut(&long);
        assert!(cuts[0].ends_with("end,") && cuts.iter().all(|c| c.len() <= PIECE), "{cuts:?}");
        let one = "é".repeat(80);
        assert_eq!(cut(&format!("a {one} b")), ["a", &one, "b"]);
    }

    #[test]
    fn what_is_said_again_keeps_the_stretch() {
        let text = "The old town lies by the river. It is very old, they say. Nobody knows.";
        let again = Paraphrases(BTreeMap::from(
            [("The old town lies by the river.", "An ancient city is on a stream."), ("Nobody knows.", "")]
                .map(|(a, b)| (a.to_string(), b.to_string())),
        ));
        let at = text.find("very old").unwrap();
        let (said, range) = again.around(text, &(at..at + 8));
        assert_eq!(said, "An ancient city is on a stream. It is very old, they say. Nobody knows.");
        assert_eq!(&said[range], "very old");
        // A stretch over two pieces keeps both.
        let at = text.find("river. It").unwrap();
        let (said, range) = again.around(text, &(at..at + 9));
        assert_eq!((&said[..7], &said[range]), ("The old", "river. It"));
        assert_eq!(again.whole("Nobody knows."), "Nobody knows.");
    }
}
