#![doc = include_str!("../README.md")]

pub mod account;
pub mod answer;
pub mod error;
pub mod generate;
pub mod named;
pub mod request;
pub mod sentence;
pub mod session;
pub mod tasks;

pub use answer::{Answer, Decision, Entity, Label, Number, Ranked, Reply, Shape, Span, TokenLabel, TokenVector};
pub use error::{Error, Misfit, Result};
pub use named::NamedTensors;
pub use request::{Aggregation, GenerationOptions, Image, Inputs, Request};
pub use sentence::{Sentence, Similarity, Task};
pub use session::{Listener, Session};
