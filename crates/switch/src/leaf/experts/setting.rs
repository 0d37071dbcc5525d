//! The axis `experts` of a point: who chooses among the experts of every bank, and how.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use switchformer_nn::{Error, Point, Result, Weights, json, objects};

use crate::host::Host;
use crate::switch::{Loading, Switch};
use crate::train::{Table, TrainSwitch};

/// Name of the axis, and of the notes that banks leave for it.
pub(crate) const AXIS: &str = "experts";

/// Whose choice a random draw is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grain {
    /// One expert per bank for all that is computed under a seed: a function of (seed, block).
    #[default]
    Batch,
    /// One per member: a function of (seed, block, place of the member in the request).
    Sentence,
    /// One per row: a function of (seed, block, position of the row in its member).
    Token,
}

/// A setting of the axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", tag = "router", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Setting {
    /// The trained gate, of the point's task where there is one for each, picks the likeliest experts of each row.
    Learned {
        /// Experts per row; the bank's own number where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_k: Option<usize>,
        /// Most rows of one member that an expert takes, in order of position; later ones get nothing. Absent: no
        /// row is ever dropped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        capacity: Option<usize>,
    },
    /// The gate of a task, in banks that hold one per task: `learned` at that task, as points said it before the axis `task`.
    Task {
        /// Number of the task.
        task: usize,
        /// Experts per row; the bank's own number where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        top_k: Option<usize>,
    },
    /// The bank's table of choices, one entry per step of a schedule; the same for all rows.
    Step {
        /// Number of the step.
        step: usize,
    },
    /// A seeded draw, each expert as likely as the others.
    Random {
        /// Whose choice a draw is.
        #[serde(default)]
        grain: Grain,
    },
    /// One expert for everything.
    Fixed {
        /// Number of the expert.
        expert: usize,
    },
    /// The mean of all experts.
    All {},
}

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        Setting::serialize(self, s)
    }
}

impl<'de> Deserialize<'de> for Setting {
    /// From an object alone: a tagged enum would take a list too.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        match json::value(d)? {
            object @ Value::Object(_) => Setting::deserialize(object).map_err(de::Error::custom),
            _ => Err(de::Error::custom("must be an object with the key router, such as {\"router\":\"all\"}")),
        }
    }
}

/// The task whose gate a point names on this axis, as points did before they had an axis for it.
pub(crate) fn gate_task(setting: Option<&Setting>) -> Option<usize> {
    match setting {
        Some(Setting::Task { task, .. }) => Some(*task),
        _ => None,
    }
}

/// What a bank offers to the axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Number of experts.
    pub experts: usize,
    /// Number of trained gates: none, one, or one per task.
    pub gates: usize,
    /// Entries of the table of steps.
    pub steps: usize,
    /// Experts per row at the resting position.
    pub top_k: usize,
    /// Fewest experts that a gate chooses among.
    pub reach: usize,
}

impl Offer {
    /// What every bank of a loaded model can do: settings act on all of them. `None` where there is no bank.
    pub fn of(w: &Weights) -> Result<Option<Offer>> {
        let all = w.notes(AXIS).into_iter().map(|v| {
            objects::read::<Offer, _>(v)
                .map_err(|e: serde_json::Error| Error::config("experts", format!("a bank's note: {e}")))
        });
        let all = all.collect::<Result<Vec<_>>>()?;
        Ok(all.into_iter().reduce(|a, b| Offer {
            experts: a.experts.min(b.experts),
            gates: a.gates.min(b.gates),
            steps: a.steps.min(b.steps),
            top_k: a.top_k.min(b.top_k),
            reach: a.reach.min(b.reach),
        }))
    }

    /// Refuses what a bank does not have, by name.
    pub fn check(&self, setting: &Setting) -> Result<()> {
        let refuse = |what: String| Err(Error::point(format!("experts: {what}"), format!("here: {}", self.values())));
        let few = |k: &Option<usize>| k.is_none_or(|k| (1..=self.reach).contains(&k));
        match setting {
            Setting::Learned { .. } if self.gates == 0 => refuse("these banks have no trained gate".into()),
            Setting::Learned { top_k, .. } | Setting::Task { top_k, .. } if !few(top_k) => {
                refuse(format!("top_k = {} of {} experts", top_k.unwrap_or_default(), self.reach))
            }
            Setting::Task { task, .. } if *task >= self.gates => refuse(format!("no gate for task {task}")),
            Setting::Step { step } if *step >= self.steps => refuse(format!("no entry for step {step}")),
            Setting::Fixed { expert } if *expert >= self.experts => refuse(format!("no expert {expert}")),
            _ => Ok(()),
        }
    }

    /// The values that the axis takes here.
    fn values(&self) -> String {
        let last = self.experts - 1;
        let mut list = Vec::new();
        if self.gates > 0 {
            list.push(format!(
                "{{\"router\":\"learned\",\"top_k\":1..{}}} (rests at {}; capacity: rows per member and expert)",
                self.reach, self.top_k
            ));
        }
        if self.steps > 0 {
            list.push(format!("{{\"router\":\"step\",\"step\":0..{}}}", self.steps - 1));
        }
        list.push("{\"router\":\"random\",\"grain\":\"batch|sentence|token\"}".into());
        list.push(format!("{{\"router\":\"fixed\",\"expert\":0..{last}}}"));
        list.push("{\"router\":\"all\"}".into());
        list.join(", ")
    }
}

/// The axis `experts`.
pub struct Experts;

impl Switch for Experts {
    type Capability = Offer;
    type Setting = Setting;

    fn axis(&self) -> &'static str {
        AXIS
    }
    fn load(&self, from: &Loading) -> Result<Option<Offer>> {
        Offer::of(from.weights)
    }
    fn values(&self, _: &Host, can: Option<&Offer>) -> String {
        let none = || "no experts; `switchformer compress upcycle` makes some of a dense model".into();
        can.map_or_else(none, Offer::values)
    }
    fn resolve(&self, point: &Point, _: &Host, can: &Offer) -> Result<Option<Setting>> {
        let setting = point.axis::<Setting>(AXIS)?;
        setting.iter().try_for_each(|s| can.check(s))?;
        Ok(setting)
    }
    fn train(&self) -> Option<&dyn TrainSwitch> {
        Some(self)
    }
}

/// Training at a setting of the axis; the model's own gate where there is none.
impl TrainSwitch for Experts {
    fn rest(&self, table: &Table) -> Option<Value> {
        table.get(AXIS).filter(|v| !v.is_null()).cloned()
    }
}
