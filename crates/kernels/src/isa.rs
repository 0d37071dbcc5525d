//! Which instruction set the kernels run with: found out once, at run time.

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

/// An instruction set the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain code for the build's target; works on every architecture.
    Scalar,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, VL, BW and DQ.
    Avx512,
}

impl Isa {
    /// All, slowest first.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

static LIMIT: OnceLock<Isa> = OnceLock::new();

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// The best instruction set this processor has.
pub fn detect() -> Isa {
    static FOUND: OnceLock<Isa> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq");
            return if wide { Isa::Avx512 } else { Isa::Avx2 };
        }
        Isa::Scalar
    })
}

/// The instruction set that kernels called from this thread use now.
pub fn current() -> Isa {
    FORCED.get().or_else(|| LIMIT.get().copied()).unwrap_or_else(detect)
}

/// Keeps the whole process to an instruction set, to measure what a lesser processor would take; the first call counts.
/// Says whether it is so: not where this processor lacks it, nor after another choice.
pub fn limit(isa: Isa) -> bool {
    // This check is what makes `current` a proof that the instructions exist.
    isa <= detect() && *LIMIT.get_or_init(|| isa) == isa
}

/// Every instruction set this processor can run, slowest first.
pub fn available() -> Vec<Isa> {
    let best = detect();
    Isa::ALL.into_iter().filter(|&isa| isa <= best).collect()
}

/// Test hook: kernels called from this thread use `isa` until told otherwise (`None`: the best).
///
/// # Panics
/// If this processor cannot run `isa`.
#[doc(hidden)]
pub fn force(isa: Option<Isa>) {
    // This check is what makes `current` a proof that the instructions exist.
    assert!(isa.is_none_or(|i| i <= detect()), "this processor cannot run {isa:?}");
    FORCED.set(isa);
}

/// Runs `f` with `isa` on this thread, then goes back to what was set before.
pub(crate) fn with<R>(isa: Isa, f: impl FnOnce() -> R) -> R {
    let before = FORCED.replace(Some(isa));
    let r = f();
    FORCED.set(before);
    r
}
