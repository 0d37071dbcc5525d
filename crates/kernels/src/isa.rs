//! Which instruction set the kernels run with: found out once, at run time.

use std::cell::Cell;
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
    FORCED.get().unwrap_or_else(detect)
}

/// Every instruction set this processor can run, slowest first.
pub fn available() -> Vec<Isa> {
    let best = detect();
    [Isa::Scalar, Isa::Avx2, Isa::Avx512].into_iter().filter(|&isa| isa <= best).collect()
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
