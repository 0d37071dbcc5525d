//! `switch.json`: what a checkpoint offers beyond the published model, and named points.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use switchformer_nn::config::{ConfigMap, whole};
use switchformer_nn::{Error, Folder, Point, Result, json};

use crate::leaf::bits::STORED;
use crate::leaf::experts::ExpertPlan;

/// Largest `switch.json`.
const MAX_PLAN: u64 = 4 << 20;

/// Content of `switch.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Version of this layout.
    pub schema: u32,
    /// Blocks that run before each exit head of `switch.safetensors`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exits: Vec<usize>,
    /// Experts in `switch.safetensors` in the place of every feed-forward network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experts: Option<ExpertPlan>,
    /// The point used when a request names none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub default_point: Point,
    /// Named points.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub points: BTreeMap<String, NamedPoint>,
    /// Recipe, data, seeds and tool version of a trained checkpoint.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub provenance: Value,
}

fn is_default(p: &Point) -> bool {
    *p == Point::new()
}

/// A point with what was measured at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPoint {
    /// The setting.
    pub point: Point,
    /// Measured figures with device, threads, data set and n.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub measured: Value,
}

impl Plan {
    /// Reads the plan that `config.json` names with its key `switch`, or an empty plan.
    pub fn read(folder: &Folder, config: &ConfigMap) -> Result<Plan> {
        let Some(reference) = config.get("switch") else { return Ok(Plan { schema: 1, ..Plan::default() }) };
        if reference.get("file").and_then(Value::as_str) != Some("switch.json") {
            return Err(Error::unsupported("switch.file", reference, "\"switch.json\""));
        }
        let plan: Plan = json::typed(folder.json("switch.json", MAX_PLAN)?, &folder.path("switch.json"))?;
        if plan.schema != 1 {
            return Err(Error::unsupported("switch.schema", plan.schema, "1"));
        }
        if plan.exits.len() > 256 || plan.exits.windows(2).any(|w| w[0] >= w[1]) || plan.exits.first() == Some(&0) {
            return Err(Error::config("switch.exits", "must be ascending block counts from 1"));
        }
        if let Some(experts) = &plan.experts {
            experts.check()?;
        }
        Ok(plan)
    }

    /// A point by name or as JSON. Errors list the known names.
    pub fn resolve(&self, text: &str) -> Result<Point> {
        if text.trim_start().starts_with('{') {
            return Point::parse(text);
        }
        self.points.get(text).map(|p| p.point.clone()).ok_or_else(|| {
            let names: Vec<&str> = self.points.keys().map(String::as_str).collect();
            let known = if names.is_empty() { "this checkpoint names none".into() } else { names.join(", ") };
            Error::point(format!("no point named `{text}`"), format!("known: {known}; or write JSON"))
        })
    }
}

/// How the weights of a checkpoint are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// Dense floats.
    None,
    /// Our nested 8-bit codes, with the widths at which they may be viewed.
    Nested(Vec<u8>),
}

impl Quantization {
    /// Reads `quantization_config`; other methods are refused by name.
    pub fn read(config: &ConfigMap) -> Result<Self> {
        let Some(q) = config.sub("quantization_config")? else { return Ok(Quantization::None) };
        for (field, want, supported) in [
            ("quant_method", Value::from("switchformer"), "\"switchformer\"; or export the model as plain floats"),
            ("form", "nested_int".into(), "\"nested_int\""),
            ("stored_bits", STORED.into(), "8"),
        ] {
            let found = q.get(field).unwrap_or(&Value::Null);
            if *found != want {
                return Err(Error::unsupported(q.at(field), found, supported));
            }
        }
        let views = q.list("views", 1..=7, "widths from 2 to 8", |v| whole(v, 2..=8).map(|bits| bits as u8))?;
        views.map(Quantization::Nested).ok_or_else(|| Error::config(q.at("views"), "is missing"))
    }
}
