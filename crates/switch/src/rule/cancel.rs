//! Cancellation: a member that nobody waits for any more leaves the batch after the block it is in, without an output.

use serde_json::json;
use switchformer_nn::staged::Left;
use switchformer_nn::{BlockRule, Ctx, Result, Site, Staged, State};

/// Lets cancelled members go, after any block of any network on any lap. It must be the last rule of a pass: the others read taps of the members that a block saw.
pub struct Cancel;

impl BlockRule for Cancel {
    fn wants(&self, _: Site) -> &[&'static str] {
        &[]
    }
    fn after(&self, cx: &mut Ctx, _: &dyn Staged, site: Site, state: State, _: &mut Left) -> Result<State> {
        let members = state.rows.members().iter().enumerate();
        let (gone, stay): (Vec<_>, Vec<_>) = members.partition(|(_, member)| cx.members.cancelled(**member));
        if gone.is_empty() {
            return Ok(state);
        }
        for (_, member) in gone {
            cx.trace.decide(site.to_string(), "cancel", Some(*member), json!({"after": site.step + 1}));
        }
        state.select(&stay.into_iter().map(|(segment, _)| segment).collect::<Vec<_>>())
    }
}
