//! The switches. Each is one file at a seam and one line in [`SWITCHES`]; none knows a model by name.
//!
//! A switch owns one axis of the operating point. [`Switches`] holds what a loaded checkpoint offers and turns a
//! point into the rules that [`switchformer_nn::run`] applies.

pub mod between;
pub mod host;
pub mod leaf;
pub mod plan;
pub mod task;

pub use host::{Axis, Host, Switch, Switches};
pub use plan::{Plan, Quantization};

/// Every switch, in the order in which their rules act between blocks.
pub static SWITCHES: &[&dyn Switch] = &[
    &leaf::bits::Bits,
    &leaf::bits::Acts,
    &task::Task,
    &leaf::experts::Experts,
    &between::tokens::Tokens,
    &between::exit::Exit,
];
