//! Tensors of a checkpoint that stay in its mapped files until they are needed.
//!
//! A projection reads its matrix once, into panels, and the pages of the file are let go; a table reads the rows that are
//! asked for. So opening takes no memory for them, and half-precision files are never held in single precision beside
//! their panels.

use std::sync::Arc;

use switchformer_format::files::Stored;
use switchformer_tensor::{Elsewhere, Tensor};

use super::Files;
use crate::error::Result;

/// Smaller tensors are read at once.
const LEAST: usize = 1 << 14;

/// Tensors of a checkpoint, one behind the other.
struct InFiles {
    files: Arc<Files>,
    parts: Vec<Stored>,
}

impl Elsewhere for InFiles {
    fn read(&self) -> Vec<f32> {
        let all = self.parts.iter().map(|p| p.elements() as usize).sum();
        let mut out = Vec::with_capacity(all);
        self.append(0, all, &mut out);
        out
    }

    fn append(&self, from: usize, len: usize, out: &mut Vec<f32>) {
        let (mut from, mut left) = (from, len);
        for part in &self.parts {
            let n = part.elements() as usize;
            if from >= n {
                from -= n;
                continue;
            }
            let take = left.min(n - from);
            self.files.append(part, from, take, out);
            if take == n {
                self.files.release(part);
            }
            (from, left) = (0, left - take);
            if left == 0 {
                return;
            }
        }
    }
}

/// The tensor of the given parts, each of a whole number of rows; `None` where it is small. Errors on integers.
pub(super) fn tensor(files: &Arc<Files>, names: &[String], shape: &[usize]) -> Result<Option<Tensor>> {
    if super::elements(shape)? < LEAST {
        return Ok(None);
    }
    let parts = names.iter().map(|name| files.floats(name).cloned()).collect::<Result<_>>()?;
    Ok(Some(Tensor::elsewhere(Arc::new(InFiles { files: files.clone(), parts }), shape)))
}
