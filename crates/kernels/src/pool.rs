//! An allocator that keeps large blocks for the next caller.
//!
//! A forward pass allocates the same dozens of buffers each time, of many megabytes each. The system's allocator gives
//! such blocks back to the kernel, which then clears and maps every page again: up to a fifth of the time of a training
//! step. This one cuts them from one region of addresses, and what was given back lies ready for blocks of any size: passes
//! whose layers have maps of many sizes need no more memory than the most that is in use at once, and a little between.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;

/// Smaller blocks go to the system.
const LEAST: usize = 64 * 1024;
/// Blocks start and end at multiples of this, a page.
const GRAIN: usize = 4096;
/// A huge page of the usual processors; memory goes back to the system in whole ones.
const HUGE: usize = 2 << 20;
/// Addresses of the region. Only what is written to takes memory; blocks past the end come from the system.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
const REGION: usize = 256 << 30;
/// Most gaps between blocks; address space of more is lost, their memory is not.
const MOST_GAPS: usize = 4096;

/// Addresses of the region that are not in use, between two blocks.
#[derive(Clone, Copy)]
struct Gap {
    at: usize,
    len: usize,
    /// Bytes of it that hold memory, counted as if they lay at its start; the others must be mapped again.
    held: usize,
}

struct Region {
    /// Its first address; 0 before the first large block is asked for, and for good where the system refuses.
    base: usize,
    asked: bool,
    /// Bytes from its start that were ever in use.
    top: usize,
    /// By address; no two touch.
    gaps: [Gap; MOST_GAPS],
    gap_count: usize,
    count: PoolCount,
    /// Most bytes that were in use at once.
    peak: usize,
}

static POOL: Mutex<Region> = Mutex::new(Region {
    base: 0,
    asked: false,
    top: 0,
    gaps: [Gap { at: 0, len: 0, held: 0 }; MOST_GAPS],
    gap_count: 0,
    count: PoolCount { fresh: 0, reused: 0, live: 0, kept: 0 },
    peak: 0,
});

/// The system's allocator with large blocks kept for reuse. A binary installs it:
/// `#[global_allocator] static POOL: Pool = Pool;`.
///
/// Blocks in use and kept memory are together never more than 1.25 times the most that was in use at once. Where the system
/// has no such region of addresses to give (other systems than 64-bit Linux, or a limit on addresses), all blocks are its.
#[derive(Clone, Copy, Debug)]
pub struct Pool;

/// What the pool has done since the program started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolCount {
    /// Large blocks for which the system had to give memory.
    pub fresh: usize,
    /// Large blocks made of memory that was there.
    pub reused: usize,
    /// Bytes of large blocks in use.
    pub live: usize,
    /// Bytes kept for reuse.
    pub kept: usize,
}

impl Pool {
    /// Counts so far; all zero where the program has not installed the pool.
    pub fn count() -> PoolCount {
        lock().count
    }
}

/// Nothing in here can panic half-way, so a poisoned lock is as good as any.
fn lock() -> std::sync::MutexGuard<'static, Region> {
    POOL.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Bytes of the region that a block takes; `None` for what the system serves.
fn large(layout: Layout) -> Option<usize> {
    (layout.size() >= LEAST && layout.align() <= GRAIN).then(|| layout.size().checked_next_multiple_of(GRAIN))?
}

impl Region {
    /// Asks for the addresses, once.
    fn base(&mut self) -> usize {
        if !self.asked {
            self.asked = true;
            self.base = reserve().unwrap_or(0);
        }
        self.base
    }

    /// `size` bytes, and whether they were never written to; `None` where there is no room.
    fn take(&mut self, size: usize) -> Option<(*mut u8, bool)> {
        let base = self.base();
        if base == 0 {
            return None;
        }
        // The least gap that is wide enough, so that wide ones last.
        let gaps = &self.gaps[..self.gap_count];
        let best = (0..gaps.len()).filter(|&i| gaps[i].len >= size).min_by_key(|&i| gaps[i].len);
        let (at, held) = match best {
            Some(i) => {
                let gap = &mut self.gaps[i];
                let (at, held) = (gap.at, gap.held.min(size));
                *gap = Gap { at: at + size, len: gap.len - size, held: gap.held - held };
                if gap.len == 0 {
                    self.close(i);
                }
                (at, held)
            }
            None => {
                // From the last gap on, where it ends at the top.
                let last = self.gaps[..self.gap_count].last().copied().filter(|g| g.at + g.len == self.top);
                let at = last.map_or(self.top, |g| g.at);
                if size > region() - at {
                    return None;
                }
                if last.is_some() {
                    self.close(self.gap_count - 1);
                }
                (at, last.map_or(0, |g| g.held))
            }
        };
        let untouched = at >= self.top;
        self.top = self.top.max(at + size);
        self.count.kept -= held;
        self.count.live += size;
        self.peak = self.peak.max(self.count.live);
        *(if held < size { &mut self.count.fresh } else { &mut self.count.reused }) += 1;
        Some(((base + at) as *mut u8, untouched))
    }

    /// Takes a block back.
    fn give(&mut self, at: usize, size: usize) {
        self.count.live -= size;
        self.count.kept += size;
        let mut new = Gap { at, len: size, held: size };
        let i = self.gaps[..self.gap_count].partition_point(|g| g.at < at);
        let before = i > 0 && self.gaps[i - 1].at + self.gaps[i - 1].len == at;
        if i < self.gap_count && self.gaps[i].at == at + size {
            new.len += self.gaps[i].len;
            new.held += self.gaps[i].held;
            self.close(i);
        }
        if before {
            let gap = &mut self.gaps[i - 1];
            gap.len += new.len;
            gap.held += new.held;
        } else if self.gap_count < MOST_GAPS {
            self.gaps.copy_within(i..self.gap_count, i + 1);
            self.gaps[i] = new;
            self.gap_count += 1;
        } else {
            self.count.kept -= new.held;
            release(self.base + new.at, new.len);
        }
        self.trim();
    }

    /// Gives memory back to the system while too much is kept: no more than must be, from the ends of the fullest gaps, as
    /// blocks are cut from their starts.
    fn trim(&mut self) {
        let most = self.peak + self.peak / 4;
        while let Some(over) = (self.count.live + self.count.kept).checked_sub(most + 1) {
            let gaps = &mut self.gaps[..self.gap_count];
            let Some(gap) = gaps.iter_mut().filter(|g| g.held > 0).max_by_key(|g| g.held) else { break };
            // From a huge page's start on, as no part of one goes back.
            let end = gap.at + gap.held;
            let from = (end.saturating_sub(over + 1) / HUGE * HUGE).max(gap.at);
            let less = end - from;
            gap.held -= less;
            release(self.base + from, less);
            self.count.kept -= less;
        }
    }

    /// Removes a gap from the list.
    fn close(&mut self, i: usize) {
        self.gaps.copy_within(i + 1..self.gap_count, i);
        self.gap_count -= 1;
    }

    /// Where in the region an address lies.
    fn place(&self, at: *mut u8) -> Option<usize> {
        let place = (at as usize).checked_sub(self.base)?;
        (self.base != 0 && place < region()).then_some(place)
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn region() -> usize {
    REGION
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn reserve() -> Option<usize> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the system's choice touches nothing that exists.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), REGION + HUGE, access, kind, -1, 0) };
    if at == libc::MAP_FAILED {
        return None;
    }
    let base = (at as usize).next_multiple_of(HUGE);
    // Huge pages where there are such: weights are read once a pass, and with small pages the processor looks up an address
    // for every 4 KiB of them. Only advice: nothing depends on the answer.
    // SAFETY: the range is the mapping's.
    unsafe { libc::madvise(base as *mut libc::c_void, REGION, libc::MADV_HUGEPAGE) };
    Some(base)
}

/// Gives the memory of the whole huge pages of a range back; it reads as zeros when it is used again.
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
fn release(at: usize, len: usize) {
    let from = at.next_multiple_of(HUGE);
    let end = (at + len) / HUGE * HUGE;
    if end > from {
        // SAFETY: the range is the region's, and no block lies in it.
        unsafe { libc::madvise(from as *mut libc::c_void, end - from, libc::MADV_DONTNEED) };
    }
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn region() -> usize {
    0
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn reserve() -> Option<usize> {
    None
}

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
fn release(_at: usize, _len: usize) {}

// SAFETY: a block lies in the region, aligned to a page, in no gap and in no other block, until it is given back; all other
// blocks are the system's, and an address tells which.
unsafe impl GlobalAlloc for Pool {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match large(layout).and_then(|size| lock().take(size)) {
            Some((at, _)) => at,
            // SAFETY: the caller's own contract.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match large(layout).and_then(|size| lock().take(size)) {
            Some((at, untouched)) => {
                if !untouched {
                    // SAFETY: the block holds at least this many bytes.
                    unsafe { at.write_bytes(0, layout.size()) };
                }
                at
            }
            // SAFETY: the caller's own contract.
            None => unsafe { System.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if let Some(size) = large(layout) {
            let mut region = lock();
            if let Some(place) = region.place(at) {
                return region.give(place, size);
            }
        }
        // SAFETY: the caller's own contract; the system gave it.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller vouches that the new size fits the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (large(layout), large(wanted)) {
            // SAFETY: the system gave it, and it stays with the system.
            (None, None) => unsafe { System.realloc(at, layout, size) },
            (old, new) if old == new => at,
            _ => {
                // SAFETY: `wanted` is not of size zero, by the caller's contract; the two blocks are different and
                // both hold the bytes copied.
                unsafe {
                    let new = self.alloc(wanted);
                    if !new.is_null() {
                        std::ptr::copy_nonoverlapping(at, new, layout.size().min(size));
                        self.dealloc(at, layout);
                    }
                    new
                }
            }
        }
    }
}
