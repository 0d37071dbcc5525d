//! What a switch is, and how its parts with types of their own stand in one list.

use std::any::Any;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::point::Setting;
use switchformer_nn::{BlockRule, Error, Point, Result, Staged, Weights};

use crate::host::Host;
use crate::plan::Plan;
use crate::train::TrainSwitch;

/// One axis of the operating point, as this checkpoint offers it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Axis {
    /// Name of the axis in a point.
    pub name: &'static str,
    /// Values it takes here, or why it takes none.
    pub values: String,
    /// Whether it can be set on this checkpoint.
    pub available: bool,
    /// Cost of changing it at run time: `free`, `repack` or `load`.
    pub change: &'static str,
}

/// What a switch may read when a checkpoint is loaded. The model has been built.
#[derive(Clone, Copy)]
pub struct Loading<'a> {
    /// The model.
    pub model: &'a dyn Staged,
    /// Its `config.json`.
    pub config: &'a ConfigMap,
    /// Its plan.
    pub plan: &'a Plan,
    /// The model's own weights; layers noted on them what they offer.
    pub weights: &'a Weights,
    /// Tensors of `switch.safetensors`, where there are any.
    pub added: Option<&'a Weights>,
}

impl Loading<'_> {
    /// Tensors of `switch.safetensors`. Errors where the checkpoint has none.
    pub fn added(&self) -> Result<&Weights> {
        self.added.ok_or_else(|| Error::config("switch.json", "names parts that switch.safetensors must hold"))
    }
}

/// A point of an axis with a short name, for tables of what a checkpoint can do.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedSetting {
    /// Name, such as `bits-4`.
    pub name: String,
    /// What it does, as a phrase such as "4-bit weights".
    pub about: String,
    /// Value of the axis.
    pub value: Value,
    /// Whether it stands in the table alone; else it only serves in combinations.
    pub alone: bool,
}

impl NamedSetting {
    /// A setting that stands alone and in combinations.
    pub fn new(name: impl Into<String>, about: impl Into<String>, value: impl Into<Value>) -> Self {
        NamedSetting { name: name.into(), about: about.into(), value: value.into(), alone: true }
    }
}

/// A switch: one axis of the point.
pub trait Switch: Send + Sync + 'static {
    /// What a checkpoint holds for it (exit heads, banks of experts, bit-widths).
    type Capability: Send + Sync + 'static;
    /// A checked setting. Layers read it with [`Point::setting`], so every switch has a type of its own.
    type Setting: Send + Sync + 'static;

    /// Name of its axis.
    fn axis(&self) -> &'static str;
    /// The name that its axis had in earlier versions.
    fn former_name(&self) -> Option<&'static str> {
        None
    }
    /// What a checkpoint holds; `None` where the axis cannot be set.
    fn load(&self, from: &Loading) -> Result<Option<Self::Capability>>;
    /// Whether the axis can be set to anything but its default.
    fn available(&self, can: Option<&Self::Capability>) -> bool {
        can.is_some()
    }
    /// The values that the axis takes, or why it takes none.
    fn values(&self, host: &Host, can: Option<&Self::Capability>) -> String;
    /// The point's setting, checked; `None` where the point leaves it at its default. Errors name the value and what this
    /// checkpoint accepts.
    fn resolve(&self, point: &Point, host: &Host, can: &Self::Capability) -> Result<Option<Self::Setting>>;
    /// The rule to apply between blocks, if any.
    fn rule(&self, setting: &Self::Setting, host: &Host, can: &Arc<Self::Capability>) -> Option<Box<dyn BlockRule>> {
        let _ = (setting, host, can);
        None
    }
    /// Settings that show what the axis does.
    fn points(&self, host: &Host, can: &Self::Capability) -> Vec<NamedSetting> {
        let _ = (host, can);
        Vec::new()
    }
    /// Bytes of tensors that it holds beside those that the default point reads.
    fn bytes(&self, can: &Self::Capability) -> u64 {
        let _ = can;
        0
    }
    /// Whether what a plan stores for it comes with tensors in `switch.safetensors`.
    fn adds(&self) -> bool {
        true
    }
    /// What changing its setting costs at run time: see [`Axis::change`].
    fn change(&self) -> &'static str {
        "free"
    }
    /// Checks what a plan stores for it, before anything is loaded; `place` is where that stands, for errors.
    fn check_plan(&self, stored: &Value, place: &str) -> Result<()> {
        let _ = stored;
        Err(Error::config(place, format!("`{}` stores nothing in a plan", self.axis())))
    }
    /// What it does in training, where it takes part.
    fn train(&self) -> Option<&dyn TrainSwitch> {
        None
    }
}

/// What a checkpoint holds for a switch, of the type that the switch knows.
pub(crate) type Capability = Arc<dyn Any + Send + Sync>;

/// A checked setting, and what acts between blocks at it.
pub type Checked = (Setting, Option<Box<dyn BlockRule>>);

/// A [`Switch`] without its types, for the list of all.
pub trait AnySwitch: Send + Sync {
    /// See [`Switch::axis`].
    fn axis(&self) -> &'static str;
    /// See [`Switch::former_name`].
    fn former_name(&self) -> Option<&'static str>;
    /// See [`Switch::load`].
    fn load(&self, from: &Loading) -> Result<Option<Capability>>;
    /// The axis as a checkpoint offers it.
    fn describe(&self, host: &Host) -> Axis;
    /// The setting of a point and its rule; `None` at the default. Errors where the axis cannot be set to that here.
    fn resolve(&self, point: &Point, host: &Host) -> Result<Option<Checked>>;
    /// See [`Switch::points`].
    fn points(&self, host: &Host) -> Vec<NamedSetting>;
    /// See [`Switch::bytes`].
    fn bytes(&self, host: &Host) -> u64;
    /// See [`Switch::adds`].
    fn adds(&self) -> bool;
    /// See [`Switch::check_plan`].
    fn check_plan(&self, stored: &Value, place: &str) -> Result<()>;
    /// See [`Switch::train`].
    fn train(&self) -> Option<&dyn TrainSwitch>;
}

impl<S: Switch> AnySwitch for S {
    fn axis(&self) -> &'static str {
        Switch::axis(self)
    }
    fn former_name(&self) -> Option<&'static str> {
        Switch::former_name(self)
    }
    fn load(&self, from: &Loading) -> Result<Option<Capability>> {
        Ok(Switch::load(self, from)?.map(|can| Arc::new(can) as Capability))
    }
    fn describe(&self, host: &Host) -> Axis {
        let can = host.capability(self);
        let values = self.values(host, can.as_deref());
        Axis { name: Switch::axis(self), values, available: self.available(can.as_deref()), change: self.change() }
    }
    fn resolve(&self, point: &Point, host: &Host) -> Result<Option<Checked>> {
        let axis = Switch::axis(self);
        if !point.axes().any(|a| a == axis) {
            return Ok(None);
        }
        let Some(can) = host.capability(self) else {
            return Err(Error::point(format!("{axis} cannot be set here"), self.values(host, None)));
        };
        let Some(setting) = Switch::resolve(self, point, host, &can)? else { return Ok(None) };
        let rule = self.rule(&setting, host, &can);
        Ok(Some((Arc::new(setting), rule)))
    }
    fn points(&self, host: &Host) -> Vec<NamedSetting> {
        host.capability(self).map_or_else(Vec::new, |can| Switch::points(self, host, &can))
    }
    fn bytes(&self, host: &Host) -> u64 {
        host.capability(self).map_or(0, |can| Switch::bytes(self, &can))
    }
    fn adds(&self) -> bool {
        Switch::adds(self)
    }
    fn check_plan(&self, stored: &Value, place: &str) -> Result<()> {
        Switch::check_plan(self, stored, place)
    }
    fn train(&self) -> Option<&dyn TrainSwitch> {
        Switch::train(self)
    }
}
