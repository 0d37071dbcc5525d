//! Batches of texts: members of about one length, a bound on their tokens, every sample once an epoch.
//!
//! The engine packs rows and pads nothing, so a batch costs the *sum* of its lengths; members are still alike in length,
//! as attention costs the square. The order of lengths is blurred before batches are cut, so that a sample meets others
//! in every epoch.

use crate::batch::shuffle;
use crate::error::{Error, Result};
use switchformer_format::Rng;

/// Four buckets of lengths to a doubling: `2^(k/4)` in 1/1024. Members of a bucket differ by 19 % at most.
const QUARTERS: [u64; 3] = [1218, 1448, 1722];

/// The batches of one epoch: a pure function of lengths, budget, seed and epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batches {
    /// Samples, batch by batch, `[n]`.
    order: Vec<u32>,
    /// Where each batch ends in `order`.
    ends: Vec<usize>,
}

impl Batches {
    /// Batches samples of `lengths` `[n]` tokens so that none holds more than `budget` tokens; fails with `batch.budget`, naming a sample that is longer, or `batch.invalid`.
    pub fn new(lengths: &[u32], budget: u32, seed: u64, epoch: u64) -> Result<Self> {
        let n = u32::try_from(lengths.len()).map_err(|_| Error::batch("there are more than 2^32 samples"))?;
        if let Some((index, &len)) = lengths.iter().enumerate().find(|&(_, &len)| len > budget) {
            let what = format!("sample {index} has {len} tokens, more than the {budget} of a batch");
            return Err(Error::input("batch.budget", what, "raise the budget or truncate"));
        }
        let mut order: Vec<u32> = (0..n).collect();
        shuffle(&mut order, &mut Rng::of(&[5, seed, epoch]));
        // A stable sort keeps the random order within a bucket.
        order.sort_by_key(|&i| bucket(lengths[i as usize]));
        let mut batches: Vec<&[u32]> = Vec::new();
        let (mut start, mut tokens) = (0, 0u64);
        for (at, &sample) in order.iter().enumerate() {
            let len = u64::from(lengths[sample as usize]);
            if tokens + len > u64::from(budget) {
                batches.push(&order[start..at]);
                (start, tokens) = (at, 0);
            }
            tokens += len;
        }
        if start < order.len() {
            batches.push(&order[start..]);
        }
        shuffle(&mut batches, &mut Rng::of(&[6, seed, epoch]));
        let mut out = Batches { order: Vec::with_capacity(order.len()), ends: Vec::with_capacity(batches.len()) };
        for batch in batches {
            out.order.extend_from_slice(batch);
            out.ends.push(out.order.len());
        }
        Ok(out)
    }

    /// Number of batches.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no batch.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The samples of the batch at a position of the epoch, `[b]`; `None` beyond the end.
    pub fn get(&self, position: usize) -> Option<&[u32]> {
        let end = *self.ends.get(position)?;
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.order[start..end])
    }

    /// All batches in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u32]> {
        (0..self.len()).filter_map(|i| self.get(i))
    }
}

/// The bucket of a length, in whole numbers alone.
fn bucket(len: u32) -> u32 {
    let len = u64::from(len.max(1));
    let doubling = len.ilog2();
    let part = QUARTERS.iter().filter(|&&q| len << 10 >= q << doubling).count();
    doubling * 4 + part as u32
}
