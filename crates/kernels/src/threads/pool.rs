//! The resident workers: they spin for a moment after each job and then sleep, so that the many short parallel
//! sections of a forward pass cost about a microsecond each and an idle process costs nothing.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, TryLockError};
use std::thread::{self, Thread};

/// Turns of the wait loop before a worker sleeps: some tens of microseconds.
const SPIN: u32 = 20_000;
/// Turns before the caller, with nothing left to do, lets others have its processor.
const CALLER_SPIN: u32 = 4_000;

/// One parallel section. It lives on the caller's stack until no worker refers to it.
struct Job {
    /// The caller's closure, with its lifetime erased.
    call: *const (dyn Fn() + Sync),
    /// Workers that have not finished with it.
    busy: AtomicUsize,
    /// The first panic of a worker.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// A worker's letter box.
struct Slot {
    job: AtomicPtr<Job>,
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

thread_local! {
    /// Whether this thread is inside a parallel section: a section within one runs on its own thread.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// The workers, one section at a time.
static POOL: Mutex<Vec<Arc<Slot>>> = Mutex::new(Vec::new());

/// Runs `call` on this thread and on up to `helpers` workers at once; returns when all have returned.
///
/// `call` must share out its work itself. Where another thread has the workers, or a worker itself asks, this thread
/// runs it alone.
pub(super) fn fork(helpers: usize, call: &(dyn Fn() + Sync)) {
    let mut pool = match POOL.try_lock() {
        Ok(pool) if !INSIDE.get() => pool,
        // A panic in a section is passed on below and leaves the list of workers as it was.
        Err(TryLockError::Poisoned(p)) if !INSIDE.get() => p.into_inner(),
        _ => return call(),
    };
    while pool.len() < helpers {
        match spawn(pool.len()) {
            Some(slot) => pool.push(slot),
            // The system gives no more threads: fewer do the work.
            None => break,
        }
    }
    let team = &pool[..helpers.min(pool.len())];
    // SAFETY: only the lifetime changes; `Finish` keeps this frame until every worker is done with it.
    let call_ptr =
        unsafe { std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync + 'static)>(call) };
    let job = Job { call: call_ptr, busy: AtomicUsize::new(team.len()), panic: Mutex::new(None) };
    for slot in team {
        slot.job.store(ptr::from_ref(&job).cast_mut(), Ordering::SeqCst);
        if slot.asleep.load(Ordering::SeqCst)
            && let Some(thread) = slot.thread.get()
        {
            thread.unpark();
        }
    }
    let finish = Finish(&job);
    INSIDE.set(true);
    let mine = catch_unwind(AssertUnwindSafe(call));
    INSIDE.set(false);
    drop(finish);
    let theirs = job.panic.lock().map(|mut p| p.take()).unwrap_or_default();
    drop(pool);
    if let Some(panic) = mine.err().or(theirs) {
        resume_unwind(panic);
    }
}

/// Waits, when dropped, until no worker refers to the job.
struct Finish<'a>(&'a Job);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let mut turns = 0u32;
        while self.0.busy.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns < CALLER_SPIN { std::hint::spin_loop() } else { thread::yield_now() }
        }
    }
}

fn spawn(index: usize) -> Option<Arc<Slot>> {
    let slot = Arc::new(Slot {
        job: AtomicPtr::new(ptr::null_mut()),
        asleep: AtomicBool::new(false),
        thread: OnceLock::new(),
    });
    let own = slot.clone();
    let handle = thread::Builder::new().name(format!("kernels-{index}")).spawn(move || work(&own)).ok()?;
    // Set before the slot is given out, so that whoever posts a job can wake the worker.
    let _ = slot.thread.set(handle.thread().clone());
    Some(slot)
}

fn work(slot: &Slot) {
    INSIDE.set(true);
    loop {
        let job = wait(slot);
        slot.job.store(ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: `fork` keeps the job alive until `busy` is 0, and only the last lines here lower it.
        let (call, panic, busy) = unsafe { (&*(*job).call, &(*job).panic, &(*job).busy) };
        if let Err(e) = catch_unwind(AssertUnwindSafe(call))
            && let Ok(mut first) = panic.lock()
        {
            first.get_or_insert(e);
        }
        busy.fetch_sub(1, Ordering::Release);
    }
}

/// The next job: spins for a moment, then sleeps.
fn wait(slot: &Slot) -> *mut Job {
    let mut turns = 0u32;
    loop {
        let job = slot.job.load(Ordering::Acquire);
        if !job.is_null() {
            return job;
        }
        turns += 1;
        if turns < SPIN {
            std::hint::spin_loop();
            continue;
        }
        // Either the poster sees `asleep` and wakes us, or we see its job: both orders are sequentially consistent.
        slot.asleep.store(true, Ordering::SeqCst);
        while slot.job.load(Ordering::SeqCst).is_null() {
            thread::park();
        }
        slot.asleep.store(false, Ordering::Relaxed);
    }
}
