//! Linear maps whose weights are low-bit codes: packed once per width, read at that width.
//!
//! [`PackedCodes`] holds the nested codes of one linear map. A view of 8, 6, 4 or 2 bits is a
//! packed copy of its own, of just that many bits per weight, as the narrower code is the 8-bit
//! code *rounded*, not cut off (see [`round_to`](crate::nested::round_to)).
//!
//! Two products read the same copies, and both sum in integers, exactly: [`PackedCodes::linear`], for few rows, takes
//! activations as precise as floats, and [`PackedCodes::linear_int8`] rounds them to 8 bits row by row.

#[cfg(target_arch = "x86_64")]
mod amx;
mod codes;
mod digits;
mod dots;
#[cfg(target_arch = "x86_64")]
mod dots_x86;
mod int;
mod layout;
mod path;
pub mod reference;
mod rows;

pub use codes::PackedCodes;
pub use path::{IntPath, force_int_path, int_path, int_paths};
pub use rows::Int8Rows;

/// The widths that have a packed form.
pub const WIDTHS: [u8; 4] = [8, 6, 4, 2];

/// The longest row whose integer sums cannot overflow: 128 * 128 * this is below 2^31.
pub const MAX_INT_ROW: usize = 131_071;
