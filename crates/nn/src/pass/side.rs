//! Named streams that travel beside the rows that a block works on.

use switchformer_tensor::Tensor;

use crate::error::{Error, Result};
use crate::ops;
use crate::rows::Rows;

/// Packed rows and whom they belong to.
#[derive(Clone, Debug)]
pub struct Stream {
    /// `[rows.total(), dim]`.
    pub x: Tensor,
    /// Which rows belong to which member.
    pub rows: Rows,
}

impl Stream {
    /// Keeps the named segments (ascending).
    pub fn select(&self, segments: &[usize]) -> Result<Stream> {
        let (gather, rows) = self.rows.select(segments);
        Ok(Stream { x: gather_rows(&self.x, gather)?, rows })
    }
}

/// Streams by name, in the order they were put there. A name may stand several times (the skips of a U-Net); the latest
/// comes back first. Members leave all streams at once.
#[derive(Clone, Debug, Default)]
pub struct Side {
    streams: Vec<(&'static str, Stream)>,
}

impl Side {
    /// One stream.
    pub fn of(name: &'static str, stream: Stream) -> Side {
        Side { streams: vec![(name, stream)] }
    }

    /// Adds a stream.
    pub fn push(&mut self, name: &'static str, stream: Stream) {
        self.streams.push((name, stream));
    }

    /// Takes the latest stream of a name out, if there is one.
    pub fn pop(&mut self, name: &str) -> Option<Stream> {
        let at = self.streams.iter().rposition(|(n, _)| *n == name)?;
        Some(self.streams.remove(at).1)
    }

    /// Takes the latest stream of a name out. Errors where the state has none: it did not come from the stem.
    pub fn take(&mut self, name: &str) -> Result<Stream> {
        self.pop(name).ok_or_else(|| Error::input(format!("a block met no stream `{name}`"), "start at the stem"))
    }

    /// The latest stream of a name.
    pub fn get(&self, name: &str) -> Option<&Stream> {
        self.streams.iter().rev().find(|(n, _)| *n == name).map(|(_, s)| s)
    }

    /// Names of the streams, in the order they were put there.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.streams.iter().map(|(n, _)| *n)
    }

    /// Keeps the named segments (ascending) of every stream.
    pub fn select(&self, segments: &[usize]) -> Result<Side> {
        let streams = self.streams.iter().map(|(n, s)| Ok((*n, s.select(segments)?))).collect::<Result<_>>()?;
        Ok(Side { streams })
    }
}

/// The named rows of a tensor.
pub(crate) fn gather_rows(x: &Tensor, index: Vec<u32>) -> Result<Tensor> {
    let n = index.len();
    ops::gather(x, &Tensor::from_vec(index, n)?)
}
