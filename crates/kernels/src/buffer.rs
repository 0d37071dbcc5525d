//! Output buffers that are not cleared first.

/// A vector of `len` floats of unknown content, for a kernel that overwrites all of it: clearing a large result costs
/// as much as writing it.
///
/// In builds with debug assertions it is full of NaN, so that a test shows a place that was not written.
pub fn unfilled(len: usize) -> Vec<f32> {
    if cfg!(debug_assertions) {
        return vec![f32::NAN; len];
    }
    let mut v = Vec::with_capacity(len);
    // SAFETY: room for `len` floats was made, and every bit pattern is a float; the callers write before they read,
    // which the NaN above proves in tests.
    #[allow(clippy::uninit_vec)]
    unsafe {
        v.set_len(len);
    }
    v
}
