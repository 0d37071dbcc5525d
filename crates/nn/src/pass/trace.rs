//! Every decision a switch took, and the multiply-adds that were really executed.

use serde::Serialize;
use serde_json::Value;

/// One decision: who took it, where, for which member of the batch, and what was chosen.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    /// Where in the model, such as `blocks.3`.
    pub at: String,
    /// The switch, such as `tokens` or `exit`.
    pub switch: &'static str,
    /// Member of the original batch, or `None` for the whole batch.
    pub member: Option<u32>,
    /// The choice as plain data.
    pub choice: Value,
}

/// Record of one forward pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Trace {
    /// Decisions in order.
    pub decisions: Vec<Decision>,
    /// Multiply-adds executed by projections, patch embeddings and attention products.
    pub macs: u64,
    /// Multiply-adds spent on deciding (token ranking).
    pub decision_macs: u64,
}

impl Trace {
    /// Records a decision.
    pub fn decide(
        &mut self,
        at: impl Into<String>,
        switch: &'static str,
        member: Option<u32>,
        choice: impl Into<Value>,
    ) {
        self.decisions.push(Decision { at: at.into(), switch, member, choice: choice.into() });
    }
}
