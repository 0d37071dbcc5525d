//! Which instructions the integer kernels use.

use crate::isa::{self, Isa};
use std::cell::Cell;

/// The instructions of an integer product; all give the same sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntPath {
    /// Plain code.
    Scalar,
    /// AVX2: products of 16-bit integers, which cannot saturate.
    Avx2,
    /// AVX2 with AVX-VNNI: four products of bytes at once.
    Avx2Vnni,
    /// AVX-512 BW: products of 16-bit integers.
    Avx512,
    /// AVX-512 with AVX-512-VNNI: four products of bytes at once.
    Avx512Vnni,
}

thread_local! {
    static ALLOWED: Cell<bool> = const { Cell::new(true) };
}

/// The path that integer products called from this thread take now: by the instruction set in use
/// ([`isa::current`]) and by what the processor has beside it.
pub fn int_path() -> IntPath {
    match isa::current() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if ALLOWED.get() && is_x86_feature_detected!("avx512vnni") => IntPath::Avx512Vnni,
        Isa::Avx512 => IntPath::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if ALLOWED.get() && is_x86_feature_detected!("avxvnni") => IntPath::Avx2Vnni,
        Isa::Avx2 => IntPath::Avx2,
        Isa::Scalar => IntPath::Scalar,
    }
}

/// Test hook: whether integer products called from this thread may use the dot products of bytes.
#[doc(hidden)]
pub fn allow_vnni(allowed: bool) {
    ALLOWED.set(allowed);
}
