//! A text model for one language or field: its vocabulary cut to what a corpus uses (idT5, arXiv 2302.00856).

mod tables;

use std::path::{Path, PathBuf};

use switchformer_data::trim::{Counts, Keep, companions, count};
use switchformer_data::{Tokenizer, Vocabulary};
use switchformer_nn::store::{unused, write_folder};
use switchformer_zoo::{OpenOptions, Opened};

use self::tables::{named_ids, trim};
use crate::error::Result;

/// What was cut.
#[derive(Clone, Debug, PartialEq)]
pub struct Trimmed {
    /// Tokens of the tokenizer before and after.
    pub tokens: [usize; 2],
    /// Rows of the word table before and after (some published tables have more rows than tokens).
    pub rows: [usize; 2],
    /// Parameters before and after.
    pub params: [u64; 2],
    /// Bytes of the weights before and after.
    pub bytes: [u64; 2],
    /// Share of the corpus's tokens that are still there.
    pub covered: f64,
    /// Tokens that the corpus used.
    pub used: usize,
    /// Files of the folder that were left out because they tell of the whole vocabulary.
    pub left_out: Vec<String>,
}

/// Writes to `out` the checkpoint of `dir` with the tokens that `corpora` (files of lines, folders of documents) use and
/// `rule` keeps. Errors where `out` exists, and on what cannot be cut, by name.
pub fn trim_vocab(dir: &Path, out: &Path, corpora: &[PathBuf], rule: &Keep) -> Result<Trimmed> {
    unused(out)?;
    let also = named_ids(dir)?;
    let vocabulary = Vocabulary::load(dir)?;
    let mut tokenizer = Tokenizer::of_model(dir, None)?;
    tokenizer.set_max_length(None)?;
    let mut counts = Counts::new();
    for corpus in corpora {
        count(&tokenizer, corpus, &mut counts)?;
    }
    let kept = vocabulary.choose(&counts, rule, &also)?;
    let json = vocabulary.trimmed(&kept)?;
    let model = trim(dir, &kept)?;
    let mut files = model.files;
    files.extend(companions(dir, &kept)?);
    files.insert("tokenizer.json".into(), json);
    let before = weights(dir)?;
    write_folder(out, &files.into_iter().collect::<Vec<_>>())?;
    // What does not open again is not left behind.
    let after = weights(out).inspect_err(|_| drop(std::fs::remove_dir_all(out)))?;
    let total: u64 = counts.values().sum();
    let still: u64 = kept.iter().filter_map(|id| counts.get(id)).sum();
    Ok(Trimmed {
        tokens: [vocabulary.len(), kept.len()],
        rows: model.rows,
        params: model.params,
        bytes: [before, after],
        covered: still as f64 / total.max(1) as f64,
        used: counts.len(),
        left_out: model.left_out,
    })
}

/// Bytes of the weights of a folder, which must open.
fn weights(dir: &Path) -> Result<u64> {
    Opened::open(dir, OpenOptions::default())?;
    let stored = switchformer_nn::weights::inspect(dir)?;
    Ok(stored.iter().map(|t| t.elements() * t.dtype.bitsize() as u64 / 8).sum())
}
