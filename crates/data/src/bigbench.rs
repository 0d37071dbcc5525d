//! Task files as BIG-bench writes them: questions, and a score for each answer.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use switchformer_format::json;

use crate::error::{Error, Result, read_file};

/// A task file's name.
pub(crate) const FILE: &str = "task.json";
/// Largest file, in bytes.
const MAX_BYTES: u64 = 128 << 20;
/// Most questions of a file.
const MAX_EXAMPLES: usize = 1_000_000;

#[derive(Deserialize)]
struct Task {
    examples: Vec<Example>,
}

/// A question.
#[derive(Deserialize)]
pub(crate) struct Example {
    /// What is asked: text, or a picture in base64.
    pub(crate) input: String,
    /// Answer -> 1 for the right one.
    pub(crate) target_scores: BTreeMap<String, f64>,
}

/// The questions of a file, at least one; fails with `file.*`, `json.*` or `dataset.invalid`.
pub(crate) fn examples(path: &Path) -> Result<Vec<Example>> {
    let bad = |kind| Error::dataset(path, kind);
    let bytes = read_file(path, MAX_BYTES)?;
    json::check(&bytes, path)?;
    let task: Task = json::typed_text(&bytes)
        .map_err(|_| bad("it is not a list of questions with scores for each answer, as BIG-bench writes it"))?;
    if task.examples.is_empty() || task.examples.len() > MAX_EXAMPLES {
        return Err(bad("it has no question, or more than 1,000,000"));
    }
    Ok(task.examples)
}
