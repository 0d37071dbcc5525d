//! The load of experts over many steps of one request.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchformer_nn::{Decision, Trace};

use super::setting::AXIS;

/// Sums of what banks recorded, by place and member: a text of a thousand tokens takes no more room than one of ten.
#[derive(Debug, Default)]
pub struct Loads(BTreeMap<(String, Option<u32>), Sum>);

#[derive(Debug, Default)]
struct Sum {
    load: BTreeMap<String, u64>,
    dropped: u64,
    /// Sum over rows, and those rows.
    entropy: Option<(f64, u64)>,
}

impl Loads {
    /// Moves the records of banks out of a trace into the sums.
    pub fn take(&mut self, trace: &mut Trace) {
        let (own, others) = std::mem::take(&mut trace.decisions).into_iter().partition(|d| d.switch == AXIS);
        trace.decisions = others;
        let own: Vec<Decision> = own;
        for d in own {
            let sum = self.0.entry((d.at, d.member)).or_default();
            let mut picks = 0;
            for (expert, n) in d.choice["load"].as_object().into_iter().flatten() {
                let n = n.as_u64().unwrap_or(0);
                *sum.load.entry(expert.clone()).or_default() += n;
                picks += n;
            }
            let dropped = d.choice["dropped"].as_u64().unwrap_or(0);
            sum.dropped += dropped;
            if let Some(mean) = d.choice["entropy"].as_f64() {
                // Every row makes equally many picks, so their number weighs as well as that of rows.
                let (total, n) = sum.entropy.get_or_insert_default();
                *total += mean * (picks + dropped) as f64;
                *n += picks + dropped;
            }
        }
    }

    /// Puts one record per place and member back.
    pub fn give(self, trace: &mut Trace) {
        for ((at, member), sum) in self.0 {
            let mut choice: Value = json!({"load": sum.load, "dropped": sum.dropped});
            if let Some((total, n)) = sum.entropy.filter(|(_, n)| *n > 0) {
                choice["entropy"] = json!(total / n as f64);
            }
            trace.decide(at, AXIS, member, choice);
        }
    }
}
