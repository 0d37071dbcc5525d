//! A dry run: operations on weights give shapes without numbers, and the bytes of the weights they would read add up.
//!
//! Inside [`dry`] a weight ([`crate::Tensor::weight`]) counts as hollow: it has a shape and its numbers are not looked at. What an
//! operation makes of something hollow is hollow. So a forward pass runs as it is written, costs next to nothing, and leaves
//! behind what it would have read.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Something that is read: a stretch of a storage, or what holds its numbers in another way. It stays the same when the
/// numbers move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    pub(crate) home: usize,
    pub(crate) from: usize,
    pub(crate) len: usize,
}

impl Source {
    /// One that is no tensor.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Source {
        Source { home: fresh(), from: 0, len: 0 }
    }
}

/// A number that nothing else has.
pub(crate) fn fresh() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

thread_local! {
    static READ: RefCell<Option<HashMap<Source, u64>>> = const { RefCell::new(None) };
}

/// Goes back to what was before, also after a panic.
struct Before(Option<HashMap<Source, u64>>);

impl Drop for Before {
    fn drop(&mut self) {
        READ.set(self.0.take());
    }
}

/// Runs `f` dry on this thread. Gives the bytes of the weights that it read too, each counted once.
pub fn dry<T>(f: impl FnOnce() -> T) -> (T, u64) {
    let before = Before(READ.replace(Some(HashMap::new())));
    let value = f();
    let bytes = READ.with_borrow(|read| read.iter().flat_map(HashMap::values).sum());
    drop(before);
    (value, bytes)
}

/// Runs `f` with numbers, also inside [`dry`]: for what is made of weights once and kept.
pub fn wet<T>(f: impl FnOnce() -> T) -> T {
    let _before = Before(READ.take());
    f()
}

/// Whether this thread runs dry.
pub fn is_dry() -> bool {
    READ.with_borrow(Option::is_some)
}

/// Takes down that so many bytes of weights were read, where this thread runs dry.
pub fn read(source: Source, bytes: u64) {
    READ.with_borrow_mut(|read| {
        if let Some(read) = read {
            read.insert(source, bytes);
        }
    });
}
