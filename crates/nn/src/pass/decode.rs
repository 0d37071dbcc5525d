//! The step seam: what a text that is written token by token starts and ends with.
//!
//! Writing is the pass itself with a [`crate::Memory`]: the first pass reads the source and the first tokens, the next
//! ones bring the tokens that follow, any number of a member.

/// How a model writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decode {
    /// The token that stands before the first written one.
    pub start: u32,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}
