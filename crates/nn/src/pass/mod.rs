//! A pass: what goes in, what flows from block to block, who acts between blocks, and what comes out.

pub mod cost;
pub mod ctx;
pub mod decode;
pub mod input;
pub mod members;
pub mod memory;
pub mod output;
pub mod path;
pub mod point;
pub mod rows;
pub mod side;
pub mod spec;
pub mod staged;
pub mod taps;
pub mod trace;
