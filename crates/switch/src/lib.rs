//! The switches. Each is one file at a seam and one line in [`SWITCHES`]; none knows a model by name.
//!
//! A switch owns one axis of the operating point. [`Switches`] holds what a loaded checkpoint offers and resolves a
//! point against it, once: typed settings that layers read, and the rules that [`switchformer_nn::run`] applies. A
//! [`Form`] is another form of a layer; a [`Plan`] says which forms a checkpoint has and what its switches keep.

pub mod form;
pub mod host;
pub mod leaf;
pub mod plan;
pub mod rule;
pub mod sites;
pub mod switch;
pub mod task;
pub mod train;

pub use form::{Form, FormUse, equip};
pub use host::{FULL, Host, NamedPoint, Resolved, Switches};
pub use plan::Plan;
pub use sites::Sites;
pub use switch::{AnySwitch, Axis, Loading, NamedSetting, Switch};

/// Every switch, in the order in which their rules act between blocks.
pub static SWITCHES: &[&dyn AnySwitch] = &[
    &leaf::bits::Bits,
    &leaf::bits::ActivationBits,
    &task::Task,
    &leaf::experts::Experts,
    &leaf::heads::Heads,
    &rule::tokens::Tokens,
    &rule::exit::Exit,
];

/// Every form of layers that a plan may name.
pub static FORMS: &[&dyn Form] = &[&leaf::experts::Added, &leaf::bits::NestedInt];

/// Settings of several switches that show well what a checkpoint can do together, by the names of their parts.
pub static COMBINATIONS: &[&[&str]] = &[
    &["tprune-0.8", "bits-4"],
    &["tprune-0.8", "int8"],
    &["tprune-0.8", "sure-0.9"],
    &["tprune-0.8", "sure-0.8", "bits-4"],
];
