//! The operating point: one setting of every switch, plus a seed. Plain data.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// Key of the seed of random decisions, which is no axis.
const SEED: &str = "seed";

/// One setting of every switch of a model, plus the seed of its random decisions.
///
/// A point is a JSON object: one key per axis (`bits`, `exit`, `tokens`, ...) and `seed`. An absent axis means the
/// checkpoint's default. The contract does not know the axes: each switch reads its own with [`Point::axis`], so a
/// new switch does not change this type. Equal points print equally and hash equally.
///
/// A point that sets an axis must be resolved by the switches of a checkpoint before anything runs at it: it then
/// carries every setting in the type of its switch, and layers read that with [`Point::setting`].
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Point {
    axes: BTreeMap<String, Value>,
    #[serde(skip)]
    settings: Option<Settings>,
}

/// Settings of a point, checked against a checkpoint, each in the type of its switch.
#[derive(Clone)]
pub struct Settings(Arc<[Setting]>);

/// A setting of one axis in the type that its switch and its layers read.
pub type Setting = Arc<dyn Any + Send + Sync>;

impl Settings {
    /// One setting for each axis that the point sets, each of a type of its own.
    pub fn new(settings: Vec<Setting>) -> Self {
        Settings(settings.into())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Settings({})", self.0.len())
    }
}

impl PartialEq for Point {
    fn eq(&self, other: &Point) -> bool {
        self.axes == other.axes
    }
}

impl Eq for Point {}

impl Hash for Point {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.axes.hash(state);
    }
}

impl Point {
    /// The default point: every switch at its resting position, seed 0.
    pub fn new() -> Self {
        Point::default()
    }

    /// Reads a JSON object.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |what: String| Error::point(what, "write a JSON object such as {\"bits\":4,\"exit\":3}");
        let value =
            crate::json::parse(text.as_bytes(), std::path::Path::new("point")).map_err(|e| bad(e.to_string()))?;
        let Value::Object(map) = value else { return Err(bad("not a JSON object".into())) };
        let axes: BTreeMap<_, _> = map.into_iter().filter(|(_, v)| !v.is_null()).collect();
        if axes.get(SEED).is_some_and(|s| s.as_u64().is_none()) {
            return Err(bad("seed must be a whole number".into()));
        }
        Ok(Point { axes, settings: None })
    }

    /// This point with one axis (or the seed) set. A changed axis must be resolved again.
    pub fn with(mut self, axis: &str, value: impl Into<Value>) -> Self {
        self.axes.insert(axis.to_string(), value.into());
        self.changed(axis)
    }

    /// This point with one axis back at its default.
    pub fn without(mut self, axis: &str) -> Self {
        self.axes.remove(axis);
        self.changed(axis)
    }

    /// This point with an axis under another name.
    pub fn renamed(self, from: &str, to: &str) -> Self {
        match self.axes.get(from).cloned() {
            Some(value) => self.without(from).with(to, value),
            None => self,
        }
    }

    fn changed(mut self, axis: &str) -> Self {
        if axis != SEED {
            self.settings = None;
        }
        self
    }

    /// This point with its settings resolved.
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Whether it carries settings that layers read.
    pub fn has_settings(&self) -> bool {
        self.settings.as_ref().is_some_and(|all| !all.0.is_empty())
    }

    /// The resolved setting of a type; `None` where its axis is at the default.
    pub fn setting<T: Any>(&self) -> Option<&T> {
        debug_assert!(self.check_resolved().is_ok(), "{self} is not resolved");
        self.settings.as_ref()?.0.iter().find_map(|s| s.downcast_ref())
    }

    /// Errors where the point sets an axis and no switch has checked it: such a point would act as the default.
    pub fn check_resolved(&self) -> Result<()> {
        if self.settings.is_some() || self.axes().next().is_none() {
            return Ok(());
        }
        Err(Error::point(format!("{self} is not resolved"), "resolve it with the switches of the checkpoint first"))
    }

    /// The setting of an axis, or `None` at its default. Errors name the axis.
    pub fn axis<T: for<'de> Deserialize<'de>>(&self, axis: &str) -> Result<Option<T>> {
        self.axes
            .get(axis)
            .map(|v| {
                T::deserialize(v)
                    .map_err(|e| Error::point(format!("axis `{axis}`: {e}"), "see `switchformer points MODEL`"))
            })
            .transpose()
    }

    /// Names of the axes that are set, `seed` excluded.
    pub fn axes(&self) -> impl Iterator<Item = &str> {
        self.axes.keys().map(String::as_str).filter(|k| *k != SEED)
    }

    /// Seed of every random decision of a request.
    pub fn seed(&self) -> u64 {
        self.axes.get(SEED).and_then(Value::as_u64).unwrap_or(0)
    }

    /// What must be equal among requests that share a batch: everything but the seed.
    pub fn batch_key(&self) -> String {
        self.clone().without(SEED).to_string()
    }
}

impl fmt::Display for Point {
    /// Canonical JSON: keys sorted, no spaces.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.axes).map_err(|_| fmt::Error)?)
    }
}
