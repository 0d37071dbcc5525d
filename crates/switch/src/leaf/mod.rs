//! Switches at the leaf seam: the form of one projection or of one feed-forward network.

pub mod bits;
pub mod experts;
pub mod heads;
