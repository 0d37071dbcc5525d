//! The macro that compiles a kernel once per instruction set.

/// Defines `fn $name(args)`, which runs the generic `$body::<S>(token, args)` compiled for the
/// current instruction set. `$body` must be `#[inline(always)]`: only then does its code take on
/// the features of the function it is inlined into.
macro_rules! dispatch {
    ($(#[$meta:meta])* $vis:vis fn $name:ident = $($body:ident)::+
     ( $($arg:ident : $ty:ty),* $(,)? ) $(-> $ret:ty)?) => {
        $(#[$meta])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's own features are those the token stands for.
                $($body)::+(unsafe { $crate::simd_x86::Avx2::new() }, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,avx512f,avx512vl,avx512bw,avx512dq")]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: this function's own features are those the token stands for.
                $($body)::+(unsafe { $crate::simd_x86::Avx512::new() }, $($arg),*)
            }
            match $crate::isa::current() {
                // SAFETY: `current` returns only what this processor was found to have.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => $($body)::+($crate::simd::Scalar, $($arg),*),
            }
        }
    };
}

pub(crate) use dispatch;
