//! Output buffers that are not cleared first.

/// A vector of `len` floats of unknown content, for a kernel that overwrites all of it: clearing a large result costs
/// as much as writing it.
///
/// In builds with debug assertions it is full of NaN, so that a test shows a place that was not written.
pub fn unfilled(len: usize) -> Vec<f32> {
    unfilled_of(len, f32::NAN)
}

/// [`unfilled`] for words; full of ones in builds with debug assertions.
pub(crate) fn unfilled_words(len: usize) -> Vec<u32> {
    unfilled_of(len, u32::MAX)
}

/// `T` is a number, of which every bit pattern is one.
fn unfilled_of<T: Copy>(len: usize, mark: T) -> Vec<T> {
    if cfg!(debug_assertions) {
        return vec![mark; len];
    }
    let mut v = Vec::with_capacity(len);
    // SAFETY: room for `len` numbers was made, and every bit pattern is one; the callers write before they read,
    // which the mark above proves in tests.
    #[allow(clippy::uninit_vec)]
    unsafe {
        v.set_len(len);
    }
    v
}
