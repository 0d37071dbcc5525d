//! Switches at the block seam: rules that act between blocks.

pub mod cancel;
pub mod exit;
pub mod rank;
pub mod tokens;
