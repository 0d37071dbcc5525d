#![doc = include_str!("../README.md")]

pub mod answer;
pub mod error;
pub mod generate;
pub mod named;
pub mod pooling;
pub mod request;
pub mod session;
pub mod tasks;

pub use answer::{Answer, Decision, Label, Reply, Shape, Span, TokenLabel};
pub use error::{Error, Misfit, Result};
pub use named::NamedTensors;
pub use pooling::Pooling;
pub use request::{GenerationOptions, Image, Inputs, Request};
pub use session::{Listener, Session};
