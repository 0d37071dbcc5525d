//! Which instructions the integer kernels use.

#[cfg(target_arch = "x86_64")]
use super::amx;
#[cfg(target_arch = "x86_64")]
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
    /// AMX: products of whole tiles of bytes.
    Amx,
}

thread_local! {
    static FORCED: Cell<Option<IntPath>> = const { Cell::new(None) };
}

/// Paths of the instruction set in use ([`isa::current`]), slowest first, and whether the processor has what each
/// needs beside it.
fn candidates() -> [(IntPath, bool); 3] {
    #[cfg(target_arch = "x86_64")]
    match isa::current() {
        Isa::Scalar => {}
        Isa::Avx2 => {
            let vnni = is_x86_feature_detected!("avxvnni");
            return [(IntPath::Avx2, true), (IntPath::Avx2Vnni, vnni), (IntPath::Amx, false)];
        }
        Isa::Avx512 => {
            let vnni = is_x86_feature_detected!("avx512vnni");
            return [(IntPath::Avx512, true), (IntPath::Avx512Vnni, vnni), (IntPath::Amx, amx::ready())];
        }
    }
    [(IntPath::Scalar, true), (IntPath::Avx2, false), (IntPath::Avx512, false)]
}

/// The paths that integer products called from this thread may take, slowest first.
pub fn int_paths() -> Vec<IntPath> {
    candidates().into_iter().filter_map(|(path, there)| there.then_some(path)).collect()
}

/// The path that integer products called from this thread take now: the best there is.
pub fn int_path() -> IntPath {
    let best = || candidates().into_iter().rev().find(|(_, there)| *there);
    FORCED.get().or_else(|| Some(best()?.0)).unwrap_or(IntPath::Scalar)
}

/// Test hook: integer products called from this thread take `path` until told otherwise (`None`: the best).
///
/// # Panics
/// If `path` is not among [`int_paths`]. Instruction sets are to be forced first.
#[doc(hidden)]
pub fn force_int_path(path: Option<IntPath>) {
    // This check is what makes `int_path` a proof that the instructions exist.
    assert!(path.is_none_or(|p| int_paths().contains(&p)), "this processor cannot take {path:?}");
    FORCED.set(path);
}

/// Defines `fn $name(path, args)`, which runs the generic `$body::<D>(token, args)` compiled for `path`, and `$amx` for AMX.
/// As `dispatch` does for instruction sets; the bodies must be `#[inline(always)]`.
macro_rules! on_path {
    (fn $name:ident = $($body:ident)::+ | $($amx:ident)::+ ($($arg:ident : $ty:ty),* $(,)?)) => {
        fn $name(path: $crate::quant::IntPath, $($arg: $ty),*) {
            #[cfg(target_arch = "x86_64")]
            macro_rules! compiled {
                ($features:literal, $token:ty, $run:path) => {{
                    #[target_feature(enable = $features)]
                    fn compiled($($arg: $ty),*) {
                        // SAFETY: this function's own features are those the token stands for.
                        $run(unsafe { <$token>::new() }, $($arg),*);
                    }
                    // SAFETY: `path` was found by asking the processor for these features.
                    unsafe { compiled($($arg),*) }
                }};
            }
            #[cfg(target_arch = "x86_64")]
            use $crate::{quant::dots_x86::{Avx2Vnni, Avx512Vnni}, simd_x86::{Avx2, Avx512}};
            match path {
                #[cfg(target_arch = "x86_64")]
                $crate::quant::IntPath::Amx => compiled!(
                    "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni", Avx512Vnni, $($amx)::+),
                #[cfg(target_arch = "x86_64")]
                $crate::quant::IntPath::Avx512Vnni => compiled!(
                    "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq,avx512vnni", Avx512Vnni, $($body)::+),
                #[cfg(target_arch = "x86_64")]
                $crate::quant::IntPath::Avx512 => compiled!(
                    "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq", Avx512, $($body)::+),
                #[cfg(target_arch = "x86_64")]
                $crate::quant::IntPath::Avx2Vnni => compiled!("avx2,fma,avxvnni", Avx2Vnni, $($body)::+),
                #[cfg(target_arch = "x86_64")]
                $crate::quant::IntPath::Avx2 => compiled!("avx2,fma", Avx2, $($body)::+),
                _ => $($body)::+($crate::simd::Scalar, $($arg),*),
            }
        }
    };
}

pub(super) use on_path;
