//! The models by field, one file each.

pub mod text;
pub mod vision;
