//! Tasks: which one a model answers that has an answer for each of several (M3ViT, arXiv 2210.14793).
//!
//! The axis `task` is a number, 0 where a point names none. Models read it with [`task_of`] and say with [`note`] how many
//! there are; a bank of experts that has a gate for each task takes the gate of the point's.

use serde_json::json;
use switchformer_nn::{Error, Point, Result, Weights};

use crate::host::Host;
use crate::leaf::experts::{self, Experts, gate_task};
use crate::switch::{Loading, Switch};

/// Name of the axis, and of the notes that models leave for it.
const AXIS: &str = "task";

/// The task that a resolved point names, the first where it names none. Points of earlier versions name it among the
/// experts: `{"experts": {"router": "task", "task": 1}}`.
pub fn task_of(point: &Point) -> usize {
    let named = point.setting::<Number>().map(|n| n.0);
    named.or_else(|| gate_task(point.setting())).unwrap_or(0)
}

/// Says how many tasks a model has.
pub fn note(w: &Weights, tasks: usize) {
    w.note(AXIS, json!(tasks));
}

/// How many tasks a loaded model has; 1 where it says nothing.
pub fn tasks(w: &Weights) -> usize {
    let all = w.notes(AXIS).into_iter().filter_map(|n| n.as_u64());
    all.max().map_or(1, |n| n as usize)
}

/// The axis `task`.
pub struct Task;

/// Tasks that a model has an answer for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tasks(pub usize);

/// Number of a task: the setting of the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub usize);

impl Switch for Task {
    type Capability = Tasks;
    type Setting = Number;

    fn axis(&self) -> &'static str {
        AXIS
    }
    fn load(&self, from: &Loading) -> Result<Option<Tasks>> {
        Ok(Some(Tasks(tasks(from.weights).max(1))))
    }
    fn available(&self, can: Option<&Tasks>) -> bool {
        can.is_some_and(|n| n.0 > 1)
    }
    fn values(&self, _: &Host, can: Option<&Tasks>) -> String {
        match can {
            Some(Tasks(n)) if *n > 1 => format!("0..{} (rests at 0)", n - 1),
            _ => "this model has one task".to_string(),
        }
    }
    /// Errors where the point names another task among the experts, and where banks have no gate for it.
    fn resolve(&self, point: &Point, host: &Host, can: &Tasks) -> Result<Option<Number>> {
        let Some(task) = point.axis::<usize>(AXIS)? else { return Ok(None) };
        let gates = host.capability(&Experts).map_or(0, |e| e.gates);
        let n = if gates > 1 { can.0.min(gates) } else { can.0 };
        if task >= n {
            let hint = match n {
                1 => "this model has one task; leave `task` out".to_string(),
                n => format!("here: 0..{}", n - 1),
            };
            return Err(Error::point(format!("task: no task {task}"), hint));
        }
        let setting = point.axis::<experts::Setting>(experts::AXIS)?;
        match gate_task(setting.as_ref()) {
            Some(gate) if gate != task => {
                let what = format!("task: the point names task {task}, and task {gate} among the experts");
                Err(Error::point(what, format!("name it once: {{\"task\": {task}}}")))
            }
            _ => Ok(Some(Number(task))),
        }
    }
}
