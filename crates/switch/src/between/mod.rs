//! Switches at the block seam: rules that act between blocks.

pub mod exit;
pub mod rank;
pub mod tokens;
