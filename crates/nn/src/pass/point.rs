//! The operating point: one setting of every switch, plus a seed. Plain data.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::objects;

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
#[derive(Clone, Debug, Default, Serialize)]
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
        let value = crate::json::parse_text(text).map_err(bad)?;
        Point::of(value).map_err(bad)
    }

    /// The point that a JSON object describes; else what is wrong with it.
    fn of(value: Value) -> Result<Self, String> {
        let Value::Object(map) = value else { return Err("not a JSON object".into()) };
        let axes: BTreeMap<_, _> = map.into_iter().collect();
        if let Some((name, _)) = axes.iter().find(|(_, v)| v.is_null()) {
            return Err(format!("`{name}` is null; leave it out for its default"));
        }
        if axes.get(SEED).is_some_and(|s| s.as_u64().is_none()) {
            return Err("seed must be a whole number".into());
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
                objects::read(v).map_err(|e: serde_json::Error| {
                    let what = format!("axis `{axis}`: {}", objects::words(&e.to_string()));
                    Error::point(what, "see `switchformer points MODEL`")
                })
            })
            .transpose()
    }

    /// Names of the axes that are set, `seed` excluded.
    pub fn axes(&self) -> impl Iterator<Item = &str> {
        self.axes.keys().map(String::as_str).filter(|k| *k != SEED)
    }

    /// Every axis that is set, and its value, `seed` excluded.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.axes.iter().map(|(axis, value)| (axis.as_str(), value)).filter(|(axis, _)| *axis != SEED)
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

impl<'de> Deserialize<'de> for Point {
    /// By the rules of [`Point::parse`]: no key twice, a whole seed.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Point::of(crate::json::value(d)?).map_err(|what| de::Error::custom(format!("point: {what}")))
    }
}

impl fmt::Display for Point {
    /// Canonical JSON: keys sorted, no spaces.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.axes).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_is_no_json_is_told_where() {
        for (text, says) in [
            ("{\"a\":}", "line 1 column 6"),
            ("{bits:4}", "key must be a string"),
            ("{\"a\":1,\"a\":2}", "duplicate key"),
            ("[8]", "not a JSON object"),
            ("{\"seed\":-1}", "seed must be a whole number"),
            ("{\"bits\":null}", "`bits` is null"),
        ] {
            let e = Point::parse(text).unwrap_err().to_string();
            assert!(e.contains(says) && !e.contains("download") && e.matches("point").count() == 1, "{e}");
        }
    }

    #[test]
    fn a_setting_is_an_object_where_its_type_is_one() {
        #[derive(Debug, Deserialize)]
        struct Share {
            #[expect(dead_code, reason = "only that it is read matters")]
            keep: f64,
        }
        let point = Point::parse("{\"heads\":[0.5]}").unwrap();
        let e = point.axis::<Share>("heads").unwrap_err().to_string();
        assert!(e.contains("axis `heads`") && e.contains("an object with the keys keep"), "{e}");
        assert!(Point::parse("{\"heads\":{\"keep\":0.5}}").unwrap().axis::<Share>("heads").is_ok());
    }
}
