//! Switches at the leaf seam: the form of one projection.

pub mod bits;
