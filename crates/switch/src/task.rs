//! Tasks: which one a model answers that has an answer for each of several (M3ViT, arXiv 2210.14793).
//!
//! The axis `task` is a number, 0 where a point names none. Models read it with [`task_of`] and say with [`note`] how many
//! there are; a bank of experts that has a gate for each task takes the gate of the point's.

use serde_json::json;
use switchformer_nn::{Between, Error, Point, Result, Weights};

use crate::host::{Axis, Host, Switch};
use crate::leaf::experts::gate_task;

/// Name of the axis, and of the notes that models leave for it.
const AXIS: &str = "task";

/// The task that a point names, the first where it names none. Points of earlier versions name it among the experts:
/// `{"experts": {"router": "task", "task": 1}}`. Errors where both are named and differ.
pub fn task_of(point: &Point) -> Result<usize> {
    match (point.axis::<usize>(AXIS)?, gate_task(point)?) {
        (Some(task), Some(gate)) if task != gate => {
            let what = format!("task: the point names task {task}, and task {gate} among the experts");
            Err(Error::point(what, format!("name it once: {{\"task\": {task}}}")))
        }
        (task, gate) => Ok(task.or(gate).unwrap_or(0)),
    }
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

impl Switch for Task {
    fn axis(&self) -> &'static str {
        AXIS
    }
    fn describe(&self, host: &Host) -> Axis {
        let available = host.tasks > 1;
        let values = match host.tasks {
            0 | 1 => "this model has one task".to_string(),
            n => format!("0..{} (rests at 0)", n - 1),
        };
        Axis { name: AXIS, values, available, change: "free" }
    }
    /// Heads and gates read their task themselves; between blocks nothing happens.
    fn rule(&self, point: &Point, host: &Host) -> Result<Option<Box<dyn Between>>> {
        if let Some(task) = point.axis::<usize>(AXIS)?.filter(|t| *t >= host.tasks.max(1)) {
            let last = host.tasks.max(1) - 1;
            return Err(Error::point(format!("task: no task {task}"), format!("here: 0..{last}")));
        }
        task_of(point).map(|_| None)
    }
}
