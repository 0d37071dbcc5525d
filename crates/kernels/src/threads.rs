//! How many threads the kernels use, and the helpers that split work among them.

use crate::isa;
use std::sync::atomic::{AtomicUsize, Ordering};

mod pool;

/// Floats below which a second thread costs more than it saves.
pub(crate) const PARALLEL_FLOATS: usize = 32 * 1024;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// Sets how many threads the kernels use, at least one; 0 goes back to the default.
///
/// Results do not depend on it.
pub fn set_threads(n: usize) {
    THREADS.store(n, Ordering::Relaxed);
}

/// How many threads the kernels use; by default as many as this process may run on.
pub fn threads() -> usize {
    match THREADS.load(Ordering::Relaxed) {
        0 => {
            let n = std::thread::available_parallelism().map_or(1, |n| n.get());
            // Asking the system again for each kernel would cost more than a small kernel. A
            // `set_threads` that comes in between wins.
            match THREADS.compare_exchange(0, n, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => n,
                Err(set) => set.max(1),
            }
        }
        n => n,
    }
}

/// Gives variables of the environment a value where they have none, for libraries that read their number of threads from
/// there. Does nothing in a process that has started a second thread, or where that cannot be told: says whether it
/// was done.
pub fn preset(variables: &[(&str, &str)]) -> bool {
    let alone = std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|l| l.strip_prefix("Threads:").is_some_and(|n| n.trim() == "1")));
    if alone {
        for (name, value) in variables.iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
            // SAFETY: this is the only thread, so nobody else reads or writes the environment.
            unsafe { std::env::set_var(name, value) };
        }
    }
    alone
}

/// Runs `task(0..count)`, each once, on up to [`threads`] threads when `parallel`.
///
/// Which thread runs a task, and when, is left open: tasks must not depend on one another. Tasks start in rising
/// order, so put the longest first.
pub(crate) fn run(count: usize, parallel: bool, task: impl Fn(usize) + Sync) {
    let workers = if parallel { threads().min(count) } else { 1 };
    if workers <= 1 {
        return (0..count).for_each(task);
    }
    // A forced instruction set belongs to this thread: workers use it too, and put theirs back.
    let isa = isa::current();
    let next = AtomicUsize::new(0);
    pool::fork(workers - 1, &|| {
        isa::with(isa, || {
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= count {
                    break;
                }
                task(i);
            }
        });
    });
}

/// Splits `y` into chunks of `chunk` floats (the last may be shorter) and runs
/// `task(first float, chunk)` on each.
pub(crate) fn run_chunks(y: &mut [f32], chunk: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    let len = y.len();
    let parts = Shared::new(y);
    run(len.div_ceil(chunk.max(1)), len >= PARALLEL_FLOATS, |i| {
        let start = i * chunk;
        // SAFETY: the chunks of different tasks do not overlap.
        task(start, unsafe { parts.slice(start, chunk.min(len - start)) });
    });
}

/// A mutable slice whose disjoint parts are handed to several tasks.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T = f32> {
    ptr: *mut T,
    len: usize,
    life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable slice that `slice`'s callers promise to divide without overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(data: &'a mut [T]) -> Self {
        Self { ptr: data.as_mut_ptr(), len: data.len(), life: std::marker::PhantomData }
    }

    /// The `len` elements from `start`.
    ///
    /// # Safety
    /// No two slices that are alive at once may overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start, "slice out of range");
        // SAFETY: in range by the line above; unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// Elements in all.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The place of element `at`; a task may use only what is its own from there.
    #[inline(always)]
    pub(crate) fn ptr(&self, at: usize) -> *mut T {
        debug_assert!(at <= self.len);
        self.ptr.wrapping_add(at)
    }
}

thread_local! {
    static SCRATCH: std::cell::Cell<Vec<f32>> = const { std::cell::Cell::new(Vec::new()) };
}

/// A thread's scratch buffer, given back when dropped.
///
/// A guard and not a call with a closure: a closure does not take on the instruction set of the
/// kernel around it, so its vector operations would each become a call.
pub(crate) struct Scratch {
    buf: Vec<f32>,
    start: usize,
    len: usize,
}

/// Floats in a cache line.
pub(crate) const LINE: usize = 16;

/// Lends this thread's scratch buffer of `len` floats of unknown content, kept between calls. It starts at a cache
/// line, so that vectors in it need not straddle two.
pub(crate) fn scratch(len: usize) -> Scratch {
    // Taken, not borrowed: a nested call finds an empty buffer and makes its own.
    let mut buf = SCRATCH.take();
    if buf.len() < len + LINE {
        buf.resize(len + LINE, 0.0);
    }
    let start = buf.as_ptr().align_offset(4 * LINE).min(LINE);
    Scratch { buf, start, len }
}

impl std::ops::Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buf[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buf[self.start..self.start + self.len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        /// Above this a buffer is freed after use rather than kept.
        const KEEP: usize = 4 << 20;
        if self.buf.len() <= KEEP {
            SCRATCH.set(std::mem::take(&mut self.buf));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn every_task_runs_once() {
        for count in [0, 1, 2, 7, 1000] {
            let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            run(count, true, |i| {
                // A section within a section runs on its own thread.
                run(2, true, |_| {});
                seen[i].fetch_add(1, Ordering::Relaxed);
            });
            assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1), "{count} tasks");
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_workers_live_on() {
        for bad in [0, 3, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| run(100, true, |i| assert_ne!(i, bad, "task failed"))));
            assert!(result.is_err(), "task {bad}");
        }
        let sum = AtomicUsize::new(0);
        run(100, true, |i| {
            sum.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 4950);
    }
}
