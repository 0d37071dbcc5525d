//! Where the values of tensors come from.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Files;
use crate::error::Result;
use crate::init::{self, Init};

pub(super) enum Source {
    /// A checkpoint.
    Files(Arc<Files>),
    /// A checkpoint that training starts from.
    Start(Arc<Files>, Start),
    /// Name-seeded values for a manifest.
    Manifest(BTreeMap<String, Promise>),
    /// Any tensor that is asked for.
    Open(Fill),
}

/// A tensor of a manifest.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) shape: Vec<usize>,
    /// Name to seed with.
    pub(super) seed: String,
    /// Its place among the tensors that are stored as one, and their number.
    pub(super) part: Option<(usize, usize)>,
}

impl Promise {
    pub(super) fn values(&self) -> Vec<f32> {
        let Some((i, n)) = self.part else { return init::seeded(&self.seed, &self.shape) };
        let whole = init::seeded(&self.seed, &[&[n], self.shape.as_slice()].concat());
        let each = whole.len() / n;
        whole[i * each..(i + 1) * each].to_vec()
    }
}

/// What an open source answers with.
#[derive(Clone, Copy)]
pub(super) enum Fill {
    /// Values drawn from the tensor's name.
    Seeded,
    /// A fresh start for training: seed, deviation of matrices.
    Fresh(u64, f32),
    /// Stand-ins without memory: only shapes and counts are real.
    Shapes,
}

/// How a model begins its training with the tensors of another: which it may draw anew, and which stay as they are.
///
/// Only names that `fresh` allows are drawn; all others must be stored, so that a misspelt checkpoint is an error and no
/// silent start from nothing.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// First parts of the names that are drawn where they are not stored, such as `qa_outputs`; any parts where they begin
    /// with a dot.
    pub fresh: Vec<String>,
    /// First parts of the names that are not trained, such as `embeddings`.
    pub frozen: Vec<String>,
    /// Seed of what is drawn.
    pub seed: u64,
    /// Deviation of matrices that are drawn.
    pub deviation: f32,
    /// The stored tensor that one of another name begins as a copy of, if it is not stored itself. What reads by it is added
    /// to a model and need not ask for every stored tensor.
    pub copy_of: Option<fn(&str) -> Option<String>>,
}

/// Whether a name is `path` or below it; a path that begins with a dot may begin anywhere.
pub(super) fn below(name: &str, path: &str) -> bool {
    if path.starts_with('.') {
        return name.match_indices(path).any(|(at, _)| below(&name[at + 1..], &path[1..]));
    }
    name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Start {
    /// The stored tensor that a name begins with.
    fn origin(&self, files: &Files, name: &str) -> Option<String> {
        if files.entries().contains_key(name) {
            return Some(name.to_string());
        }
        self.copy_of.and_then(|of| of(name)).filter(|of| files.entries().contains_key(of))
    }

    /// The shape that a name begins with; `None` where it is neither stored nor may be drawn.
    pub(super) fn shape(&self, files: &Files, name: &str, wanted: &[usize]) -> Option<Vec<usize>> {
        match self.origin(files, name) {
            Some(of) => files.entries().get(&of).map(|e| e.shape.clone()),
            None => self.fresh.iter().any(|path| below(name, path)).then(|| wanted.to_vec()),
        }
    }

    pub(super) fn values(&self, files: &Files, name: &str, shape: &[usize], draw: Init) -> Result<Vec<f32>> {
        match self.origin(files, name) {
            Some(of) => files.read(&of),
            None => Ok(init::fresh(name, shape, self.seed, self.deviation, draw)),
        }
    }

    /// Whether a tensor is not trained.
    pub fn is_frozen(&self, name: &str) -> bool {
        self.frozen.iter().any(|path| below(name, path))
    }
}

impl Source {
    /// Values of a tensor that the source has in this shape; `None` where only shapes are wanted.
    pub(super) fn values(&self, name: &str, shape: &[usize], draw: Init) -> Result<Option<Vec<f32>>> {
        Ok(Some(match self {
            Source::Files(f) => f.read(name)?,
            Source::Start(f, start) => start.values(f, name, shape, draw)?,
            Source::Manifest(m) => m[name].values(),
            Source::Open(Fill::Seeded) => init::seeded(name, shape),
            Source::Open(Fill::Fresh(seed, deviation)) => init::fresh(name, shape, *seed, *deviation, draw),
            Source::Open(Fill::Shapes) => return Ok(None),
        }))
    }

    pub(super) fn share(&self) -> Source {
        match self {
            Source::Files(f) => Source::Files(f.clone()),
            Source::Start(f, start) => Source::Start(f.clone(), start.clone()),
            Source::Manifest(m) => Source::Manifest(m.clone()),
            Source::Open(s) => Source::Open(*s),
        }
    }
}
