//! The step seam: a decoder that writes one token per member and remembers keys and values.

use candle_core::{Device, Tensor};

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::io::Input;
use crate::ops;
use crate::rows::Rows;

/// Keys and values, both `[rows, width]`.
pub type KeyValue = (Tensor, Tensor);

/// A model that writes.
pub trait Decode: Send + Sync {
    /// The token that stands before the first written one.
    fn start(&self) -> u32;
    /// Tokens that end a text.
    fn ends(&self) -> &[u32];
    /// Reads the source. Nothing is written yet.
    fn begin(&self, cx: &mut Ctx, source: &Input) -> Result<Cache>;
    /// Writes one token per member and tells what could follow. Shapes: tokens `[members]` -> `[members, vocab]`.
    fn step(&self, cx: &mut Ctx, cache: &mut Cache, tokens: &[u32]) -> Result<Tensor>;
}

/// What the blocks of a decoder remember between steps.
#[derive(Clone, Debug)]
pub struct Cache {
    /// What was written so far.
    pub written: Rows,
    /// What was read.
    pub source: Rows,
    /// Per block, of what was written; `None` before the first step.
    pub own: Vec<Option<KeyValue>>,
    /// Per block, of what was read.
    pub read: Vec<KeyValue>,
}

impl Cache {
    /// Nothing written yet for the members of `source`.
    pub fn new(source: Rows, read: Vec<KeyValue>) -> Result<Cache> {
        let written = Rows::new(&vec![0; source.n()])?;
        Ok(Cache { written, source, own: vec![None; read.len()], read })
    }

    /// Rows of the step about to be taken: one per member, at the position after the last.
    pub fn next_rows(&self) -> Result<Rows> {
        let at: Vec<u32> = self.written.lens().iter().map(|n| *n as u32).collect();
        Rows::equal(at.len(), 1)?.at_positions(&at)?.of_members(self.written.members())
    }

    /// Rows after the step.
    pub fn grown_rows(&self) -> Result<Rows> {
        let lens: Vec<usize> = self.written.lens().iter().map(|n| n + 1).collect();
        Rows::new(&lens)?.of_members(self.written.members())
    }

    /// Adds one key and value per member to what a block remembers, and gives all of them, packed as
    /// [`Cache::grown_rows`].
    pub fn push(&mut self, block: usize, (k, v): KeyValue) -> Result<KeyValue> {
        let all = match &self.own[block] {
            None => (k, v),
            // A lone member's new row is behind its old ones as it is.
            Some((old_k, old_v)) if self.written.n() == 1 => {
                (Tensor::cat(&[old_k, &k], 0)?, Tensor::cat(&[old_v, &v], 0)?)
            }
            Some((old_k, old_v)) => {
                // The old rows come first, then the new ones: each member's new row moves behind its old ones.
                let old = self.written.total() as u32;
                let order: Vec<u32> = (0..self.written.n())
                    .flat_map(|i| self.written.range(i).map(|r| r as u32).chain([old + i as u32]))
                    .collect();
                let order = Tensor::from_vec(order, self.written.total() + self.written.n(), &Device::Cpu)?;
                let join = |a: &Tensor, b: &Tensor| ops::gather(&Tensor::cat(&[a, b], 0)?, &order);
                (join(old_k, &k)?, join(old_v, &v)?)
            }
        };
        self.own[block] = Some(all.clone());
        Ok(all)
    }

    /// Segment `i` goes on as the old `segments[i]`; the others are forgotten. One may be named several times, and then
    /// goes on in several ways (beams).
    pub fn select(&mut self, segments: &[usize]) -> Result<()> {
        if let Some(bad) = segments.iter().find(|s| **s >= self.written.n()) {
            return Err(Error::shape("cache segments", format!("below {}", self.written.n()), &[*bad]));
        }
        if segments.iter().copied().eq(0..self.written.n()) {
            return Ok(());
        }
        // Beams that change places within a member read what they read before.
        let source = segments.iter().map(|s| self.source.members()[*s]);
        let same_source = source.eq(self.source.members().iter().copied());
        let pick = |rows: &Rows, (k, v): &KeyValue| -> Result<KeyValue> {
            let index = rows.select(segments).0;
            let index = Tensor::from_slice(&index, index.len(), &Device::Cpu)?;
            Ok((ops::gather(k, &index)?, ops::gather(v, &index)?))
        };
        for own in self.own.iter_mut().flatten() {
            *own = pick(&self.written, own)?;
        }
        if !same_source {
            for read in &mut self.read {
                *read = pick(&self.source, read)?;
            }
            self.source = self.source.select(segments).1;
        }
        self.written = self.written.select(segments).1;
        Ok(())
    }
}
