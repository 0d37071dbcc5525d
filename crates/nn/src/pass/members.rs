//! Who is in a batch: what belongs to a member itself and stays with it, whoever else is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One member of a batch.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Its place in its own request, from 0. Requests that share a batch each count from 0.
    pub place: u32,
    /// Seed of its random choices; the point's where absent.
    pub seed: Option<u64>,
    /// Raised by whoever wants no answer for it any more.
    pub cancelled: Option<Arc<AtomicBool>>,
}

/// The members of a batch, in the order of its rows. The default is one request: member `i` is at place `i`, has the
/// point's seed and cannot be cancelled.
#[derive(Clone, Debug, Default)]
pub struct Members(Arc<[Member]>);

impl Members {
    /// Members in the order of the batch.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Members {
        Members(members.into_iter().collect())
    }

    /// Number of members; `None` by default, where any number is meant.
    pub fn n(&self) -> Option<usize> {
        (!self.0.is_empty()).then(|| self.0.len())
    }

    /// Place of a member in its own request.
    pub fn place(&self, member: u32) -> u32 {
        self.0.get(member as usize).map_or(member, |m| m.place)
    }

    /// Seed of a member, where it has one of its own.
    pub fn seed(&self, member: u32) -> Option<u64> {
        self.0.get(member as usize).and_then(|m| m.seed)
    }

    /// Whether a member was cancelled. It stays so: a flag that is lowered again has no effect on a pass that saw it.
    pub fn cancelled(&self, member: u32) -> bool {
        let flag = self.0.get(member as usize).and_then(|m| m.cancelled.as_ref());
        flag.is_some_and(|f| f.load(Ordering::Relaxed))
    }

    /// Whether anyone could be cancelled.
    pub fn can_cancel(&self) -> bool {
        self.0.iter().any(|m| m.cancelled.is_some())
    }

    /// One member alone.
    pub(crate) fn one(&self, member: usize) -> Members {
        let own = self.0.get(member).cloned();
        Members::new([own.unwrap_or_else(|| Member { place: member as u32, ..Member::default() })])
    }
}
