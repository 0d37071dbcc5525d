//! MultiEmo: 57,466 sentences about hotels, medicine, products and teaching in eleven languages, as BIG-bench stores them.
//!
//! Each language is a task of its own; sentences at the same place of two files are translations of each other. The
//! files carry moods, which are not read here.

use std::path::Path;

use crate::bigbench::{FILE, examples};
use crate::debian::Split;
use crate::error::{Error, Result};
use crate::pairs::{Aligned, Pairing, words};
use crate::plain::MAX_LINE_BYTES;

/// Where the folder is looked for when none is named: what scripts/fetch-models.sh makes.
pub const PLACE: &str = "models/multiemo";

/// The folder of a language, such as `it`, in that of all.
pub fn folder(language: &str) -> String {
    format!("all_sentence_{language}")
}

/// The sentences of `dir` in English and another language, split by the English sentence; fails with `file.*` or
/// `dataset.invalid`.
pub fn pairs(dir: &Path, language: &str) -> Result<Aligned> {
    let read = |language: &str| {
        let path = dir.join(folder(language)).join(FILE);
        let bad = |kind| Error::dataset(&path, kind);
        let all: Vec<String> = examples(&path)?.iter().map(|e| words(&e.input)).collect();
        if all.iter().any(|text| text.len() > MAX_LINE_BYTES) {
            return Err(bad("a sentence has more than 1 MiB"));
        }
        Ok((path, all))
    };
    let ((_, english), (path, other)) = (read("en")?, read(language)?);
    if english.len() != other.len() {
        let kind = "it has another number of sentences than the English file, so they do not answer each other";
        return Err(Error::dataset(&path, kind));
    }
    let mut out = Pairing::default();
    for (english, other) in english.iter().zip(&other) {
        out.add(english, other, Split::of(english));
    }
    Ok(out.aligned)
}
