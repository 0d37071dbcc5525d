//! The operating point: one setting of every switch, plus a seed. Plain data.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};

/// One setting of every switch of a model, plus the seed of its random decisions.
///
/// A point is a JSON object: one key per axis (`bits`, `exit`, `tokens`, ...) and `seed`. An absent axis means the
/// checkpoint's default. The contract does not know the axes: each switch reads its own with [`Point::axis`], so a
/// new switch does not change this type. Equal points print equally and hash equally.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Point {
    axes: BTreeMap<String, Value>,
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
        if axes.get("seed").is_some_and(|s| s.as_u64().is_none()) {
            return Err(bad("seed must be a whole number".into()));
        }
        Ok(Point { axes })
    }

    /// This point with one axis set.
    pub fn with(mut self, axis: &str, value: impl Into<Value>) -> Self {
        self.axes.insert(axis.to_string(), value.into());
        self
    }

    /// This point with one axis back at its default.
    pub fn without(mut self, axis: &str) -> Self {
        self.axes.remove(axis);
        self
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
        self.axes.keys().map(String::as_str).filter(|k| *k != "seed")
    }

    /// Seed of every random decision of a request.
    pub fn seed(&self) -> u64 {
        self.axes.get("seed").and_then(Value::as_u64).unwrap_or(0)
    }

    /// What must be equal among requests that share a batch: everything but the seed.
    pub fn batch_key(&self) -> String {
        self.clone().without("seed").to_string()
    }
}

impl fmt::Display for Point {
    /// Canonical JSON: keys sorted, no spaces.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&serde_json::to_string(&self.axes).map_err(|_| fmt::Error)?)
    }
}
