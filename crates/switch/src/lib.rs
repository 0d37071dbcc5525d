#![doc = include_str!("../README.md")]

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
