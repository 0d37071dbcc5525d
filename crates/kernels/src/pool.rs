//! An allocator that keeps large blocks for the next caller.
//!
//! A forward pass allocates the same dozens of buffers each time, of many megabytes each. The system's allocator gives
//! such blocks back to the kernel, which then clears and maps every page again: up to a fifth of the time of a training
//! step. This one keeps them, and starts each at a cache line.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Smaller blocks go to the system.
const LEAST: usize = 64 * 1024;
/// Sizes for each doubling: at most a quarter of a block is unused.
const STEPS: usize = 4;
/// Classes up to 2^48 bytes; larger blocks go to the system.
const CLASSES: usize = (48 - LEAST.trailing_zeros() as usize) * STEPS;
/// A cache line.
const ALIGN: usize = 64;
/// A huge page of the usual processors; blocks of two or more start at one.
const HUGE: usize = 2 << 20;

/// Blocks kept by class; each holds the address of the next in its first bytes.
struct Kept {
    heads: [*mut u8; CLASSES],
    /// When a block of the class was last asked for or given back.
    used: [u64; CLASSES],
    clock: u64,
    /// Bytes in the lists.
    free: usize,
    /// Bytes given out.
    live: usize,
    /// Most bytes that were given out at once.
    peak: usize,
}

impl Kept {
    fn touch(&mut self, class: usize) {
        self.clock += 1;
        self.used[class] = self.clock;
    }

    fn pop(&mut self, class: usize) -> Option<*mut u8> {
        let head = self.heads[class];
        if head.is_null() {
            return None;
        }
        // SAFETY: a block in a list is ours, aligned, and its first bytes hold the next address.
        self.heads[class] = unsafe { head.cast::<*mut u8>().read() };
        self.free -= size_of_class(class);
        Some(head)
    }

    /// Gives blocks back to the system while there are too many, those of the size longest unused first.
    fn trim(&mut self) {
        while self.live + self.free > self.peak + self.peak / 4 {
            let oldest = (0..CLASSES).filter(|&c| !self.heads[c].is_null()).min_by_key(|&c| self.used[c]);
            let Some((class, at)) = oldest.and_then(|c| Some((c, self.pop(c)?))) else { return };
            // SAFETY: it was allocated with the layout of its class, and nobody holds it.
            unsafe { System.dealloc(at, block(size_of_class(class))) };
        }
    }
}

// SAFETY: the blocks in the lists belong to nobody else.
unsafe impl Send for Kept {}

static KEPT: Mutex<Kept> =
    Mutex::new(Kept { heads: [ptr::null_mut(); CLASSES], used: [0; CLASSES], clock: 0, free: 0, live: 0, peak: 0 });
static FRESH: AtomicUsize = AtomicUsize::new(0);
static REUSED: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator with large blocks kept for reuse. A binary installs it:
/// `#[global_allocator] static POOL: Pool = Pool;`.
///
/// Blocks in use and kept are together never more than 1.25 times the most that was in use at once.
#[derive(Clone, Copy, Debug)]
pub struct Pool;

/// What the pool has done since the program started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolCount {
    /// Large blocks asked of the system.
    pub fresh: usize,
    /// Large blocks given out again.
    pub reused: usize,
    /// Bytes of large blocks in use.
    pub live: usize,
    /// Bytes of large blocks kept for reuse.
    pub kept: usize,
}

impl Pool {
    /// Counts so far; all zero where the program has not installed the pool.
    pub fn count() -> PoolCount {
        let kept = lock();
        PoolCount {
            fresh: FRESH.load(Ordering::Relaxed),
            reused: REUSED.load(Ordering::Relaxed),
            live: kept.live,
            kept: kept.free,
        }
    }
}

/// Nothing in here can panic half-way, so a poisoned lock is as good as any.
fn lock() -> std::sync::MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Class of a size, and the size of its blocks; `None` for what the system serves.
fn class_of(layout: Layout) -> Option<(usize, usize)> {
    let size = layout.size();
    if size < LEAST || layout.align() > ALIGN {
        return None;
    }
    // The doubling below the size, and how many quarters of it fit in between.
    let doubling = usize::BITS as usize - 1 - size.leading_zeros() as usize;
    let base = 1usize << doubling;
    let quarters = (size - base).div_ceil(base / STEPS);
    let class = (doubling - LEAST.trailing_zeros() as usize) * STEPS + quarters;
    (class < CLASSES).then(|| (class, size_of_class(class)))
}

/// Bytes of the blocks of a class.
fn size_of_class(class: usize) -> usize {
    let base = LEAST << (class / STEPS);
    base + class % STEPS * (base / STEPS)
}

fn block(size: usize) -> Layout {
    let align = if size >= 2 * HUGE { HUGE } else { ALIGN };
    // SAFETY: the alignment is a power of two, and sizes of classes are far below `isize::MAX`.
    unsafe { Layout::from_size_align_unchecked(size, align) }
}

/// A new block of a class, of unknown content; null where the system has none.
fn fresh(size: usize) -> *mut u8 {
    FRESH.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the size of a class is not zero.
    let new = unsafe { System.alloc(block(size)) };
    if new.is_null() {
        lock().live -= size;
    } else {
        huge_pages(new, size);
    }
    new
}

/// Asks for huge pages, where there are such: weights are read once a pass, and with small pages the processor looks
/// up an address for every 4 KiB of them. Only advice: nothing depends on the answer.
fn huge_pages(at: *mut u8, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= 2 * HUGE {
        // SAFETY: the range is ours and starts at a page; the advice changes no content.
        unsafe { libc::madvise(at.cast(), size, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (at, size);
}

/// A kept block of the class.
fn take(class: usize, size: usize) -> Option<*mut u8> {
    let mut kept = lock();
    kept.live += size;
    kept.peak = kept.peak.max(kept.live);
    kept.touch(class);
    let head = kept.pop(class)?;
    drop(kept);
    REUSED.fetch_add(1, Ordering::Relaxed);
    Some(head)
}

// SAFETY: every block comes from the system's allocator with the size and alignment of its class, which are at least
// those asked for; it is given out to one caller at a time and returned to the system with the same layout.
unsafe impl GlobalAlloc for Pool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some((class, size)) = class_of(layout) else {
            // SAFETY: the caller's own contract.
            return unsafe { System.alloc(layout) };
        };
        take(class, size).unwrap_or_else(|| fresh(size))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some((class, size)) = class_of(layout) else {
            // SAFETY: the caller's own contract.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let at = take(class, size).unwrap_or_else(|| fresh(size));
        if !at.is_null() {
            // SAFETY: the block holds at least this many bytes.
            unsafe { at.write_bytes(0, layout.size()) };
        }
        at
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let Some((class, size)) = class_of(layout) else {
            // SAFETY: the caller's own contract; the system gave it.
            return unsafe { System.dealloc(at, layout) };
        };
        let mut kept = lock();
        kept.live -= size;
        kept.free += size;
        // SAFETY: the block is ours again, aligned and long enough for an address.
        unsafe { at.cast::<*mut u8>().write(kept.heads[class]) };
        kept.heads[class] = at;
        kept.touch(class);
        kept.trim();
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches that the new size fits the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (class_of(layout), class_of(wanted)) {
            // SAFETY: the system gave it, and it stays with the system.
            (None, None) => unsafe { System.realloc(at, layout, size) },
            (old, new) if old == new => at,
            _ => {
                // SAFETY: `wanted` is not of size zero, by the caller's contract; the two blocks are different and
                // both hold the bytes copied.
                unsafe {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                    new
                }
            }
        }
    }
}
