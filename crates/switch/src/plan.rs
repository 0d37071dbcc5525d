//! `switch.json`: what a checkpoint stores beyond the published model, and named points.
//!
//! Version 2 lists forms of layers and what switches keep, by name. Version 1 had a field per switch; it is read into
//! the same structure. A form whose tensors stand in `model.safetensors` itself is named by `quantization_config` in
//! `config.json`, where other tools look before they read.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use switchformer_nn::account::{Handling, Key};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Error, Folder, Point, Result, json, objects};

use crate::SWITCHES;
use crate::form::{Form, FormUse};
use crate::switch::AnySwitch;

/// Largest `switch.json`.
const MAX_PLAN: u64 = 4 << 20;
/// Version that is written.
const SCHEMA: u32 = 2;
/// Most forms of a plan.
const MAX_FORMS: usize = 64;
/// Name of this program in a `quantization_config`.
const METHOD: &str = "switchformer";
/// File of the plan.
const FILE: &str = "switch.json";

/// Every key of `quantization_config` in `config.json`, and what is done about it. Others are errors.
pub static QUANTIZATION_KEYS: &[Key] = &[
    Key::new(QUANTIZATION, "quant_method", Handling::OnlyDefault("\"switchformer\""), "export others as plain floats"),
    Key::new(QUANTIZATION, "form", Handling::Applied, "how weights are stored"),
    Key::new(QUANTIZATION, "stored_bits", Handling::OnlyDefault("8"), "the width that is stored"),
    Key::new(QUANTIZATION, "views", Handling::Applied, "the widths that a point may choose"),
];
const QUANTIZATION: &str = "config.json: quantization_config";

/// What a checkpoint stores beyond the published model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Forms of layers. Where several fit a layer the first that has one to give makes it.
    pub forms: Vec<FormUse>,
    /// What switches keep, by axis; their tensors are in `switch.safetensors`.
    pub switches: BTreeMap<String, Value>,
    /// The point used when a request names none.
    pub default_point: Point,
    /// Named points.
    pub points: BTreeMap<String, NamedPoint>,
    /// Recipe, data, seeds and tool version of a trained checkpoint.
    pub provenance: Value,
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

/// The key `switch` of `config.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    /// Version of the file, which says it again.
    schema: Option<u32>,
    #[serde(rename = "file")]
    _file: String,
}

/// Version 2.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanFile {
    schema: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forms: Vec<FormUse>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    switches: BTreeMap<String, Value>,
    #[serde(default, skip_serializing_if = "is_default")]
    default_point: Point,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    points: BTreeMap<String, NamedPoint>,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    provenance: Value,
}

/// Version 1.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    #[serde(rename = "schema")]
    _schema: u32,
    #[serde(default)]
    exits: Vec<usize>,
    #[serde(default)]
    experts: Option<Value>,
    #[serde(default)]
    default_point: Point,
    #[serde(default)]
    points: BTreeMap<String, NamedPoint>,
    #[serde(default)]
    provenance: Value,
}

fn is_default(p: &Point) -> bool {
    *p == Point::new()
}

impl First {
    /// The same in version 2, and where its parts stand in the old file, for errors.
    fn upgraded(self) -> Result<Plan> {
        let (experts, exit) = (&crate::leaf::experts::Added, &crate::rule::exit::Exit);
        let mut plan = Plan { points: self.points, provenance: self.provenance, ..Plan::default() };
        if let Some(params) = self.experts {
            experts.check(&params, "switch.experts")?;
            plan.forms.push(FormUse::new(experts, params));
        }
        if !self.exits.is_empty() {
            let stored = json!({"after": self.exits});
            AnySwitch::check_plan(exit, &stored, "switch.exits")?;
            plan.switches.insert(AnySwitch::axis(exit).to_string(), stored);
        }
        plan.default_point = renamed(self.default_point);
        plan.points.values_mut().for_each(|p| p.point = renamed(std::mem::take(&mut p.point)));
        Ok(plan)
    }
}

/// A point whose axes have the names of today.
fn renamed(point: Point) -> Point {
    SWITCHES.iter().fold(point, |point, s| match s.former_name() {
        Some(former) => point.renamed(former, s.axis()),
        None => point,
    })
}

impl Plan {
    /// Reads the plan that `config.json` names with its key `switch`, and the form that it names with
    /// `quantization_config`; an empty plan where there is neither. A `switch.json` that is not named is refused: whoever put
    /// it there means it.
    pub fn read(folder: &Folder, config: &ConfigMap) -> Result<Plan> {
        let mut plan = match config.get("switch") {
            None if folder.has(FILE) => {
                let (what, hint) = (
                    "lies in the folder, and config.json does not name it",
                    "add \"switch\": {\"schema\": 2, \"file\": \"switch.json\"} to config.json, or remove the file",
                );
                return Err(Error::format(folder.path(FILE), "plan.unnamed", what, hint));
            }
            None => Plan::default(),
            Some(reference) if reference.get("file").and_then(Value::as_str) != Some(FILE) => {
                return Err(Error::unsupported("switch.file", reference, "\"switch.json\""));
            }
            Some(reference) => {
                let Reference { schema, .. } = typed(reference, "switch")?;
                if let Some(other) = schema.filter(|v| !(1..=SCHEMA).contains(v)) {
                    return Err(Error::unsupported("switch.schema", other, "1, 2"));
                }
                Plan::parse(folder.json(FILE, MAX_PLAN)?, folder)?
            }
        };
        if let Some(used) = quantization(config)? {
            if plan.forms.iter().any(|f| f.form == used.form) {
                let what = format!("{} is in switch.json too", used.form);
                return Err(Error::config("quantization_config.form", what));
            }
            plan.forms.push(used);
        }
        Ok(plan)
    }

    fn parse(doc: Value, folder: &Folder) -> Result<Plan> {
        let path = folder.path(FILE);
        match doc.get("schema").and_then(Value::as_u64) {
            Some(1) => json::typed::<First>(doc, &path)?.upgraded(),
            Some(2) | None => {
                let w: PlanFile = json::typed(doc, &path)?;
                let plan = Plan {
                    forms: w.forms,
                    switches: w.switches,
                    default_point: w.default_point,
                    points: w.points,
                    provenance: w.provenance,
                };
                plan.check()?;
                Ok(plan)
            }
            Some(other) => Err(Error::unsupported("switch.schema", other, "1, 2")),
        }
    }

    fn check(&self) -> Result<()> {
        if self.forms.len() > MAX_FORMS {
            return Err(Error::config(
                "switch.forms",
                format!("has {} entries, at most {MAX_FORMS}", self.forms.len()),
            ));
        }
        for used in &self.forms {
            used.form()?.check(&used.params, &format!("switch.forms.{}", used.form))?;
        }
        for (axis, stored) in &self.switches {
            let Some(switch) = SWITCHES.iter().find(|s| s.axis() == axis) else {
                let known: Vec<_> = SWITCHES.iter().map(|s| s.axis()).collect();
                return Err(Error::unsupported("switch.switches", axis, known.join(", ")));
            };
            switch.check_plan(stored, &format!("switch.switches.{axis}"))?;
        }
        Ok(())
    }

    /// Its points with where they stand: the default one and the named ones.
    pub fn all_points(&self) -> impl Iterator<Item = (String, &Point)> {
        let named = self.points.iter().map(|(name, p)| (format!("points.{name}"), &p.point));
        std::iter::once(("default_point".to_string(), &self.default_point)).chain(named)
    }

    /// Writes the plan: the content of `switch.json`, and its entries of `config.json`.
    pub fn write(&self, config: &mut Map<String, Value>) -> Result<Value> {
        let mut forms = self.forms.clone();
        config.remove("quantization_config");
        if let Some(i) = forms.iter().position(|f| f.form().is_ok_and(|form| !form.adds())) {
            let used = forms.remove(i);
            let mut fields = json!({"quant_method": METHOD, "form": used.form});
            if let (Value::Object(all), Value::Object(params)) = (&mut fields, used.params) {
                all.extend(params);
            }
            config.insert("quantization_config".into(), fields);
        }
        config.insert("switch".into(), json!({"schema": SCHEMA, "file": FILE}));
        let plan = self.clone();
        let written = PlanFile {
            schema: SCHEMA,
            forms,
            switches: plan.switches,
            default_point: plan.default_point,
            points: plan.points,
            provenance: plan.provenance,
        };
        serde_json::to_value(written).map_err(|e| Error::config(FILE, e.to_string()))
    }

    /// Names of the forms and axes that the checkpoint stores something for; empty for a plain checkpoint.
    pub fn stored(&self) -> Vec<&str> {
        self.forms.iter().map(|f| f.form.as_str()).chain(self.switches.keys().map(String::as_str)).collect()
    }

    /// Errors where the checkpoint stores anything for switches; `hint` says what to do.
    pub fn check_plain(&self, hint: &str) -> Result<()> {
        match self.stored().as_slice() {
            [] => Ok(()),
            stored => Err(Error::input(format!("this checkpoint stores {}", stored.join(", ")), hint)),
        }
    }

    /// Whether anything that it names is in `switch.safetensors`.
    pub fn adds(&self) -> bool {
        let with_tensors = |axis: &String| SWITCHES.iter().any(|s| s.axis() == axis && s.adds());
        self.switches.keys().any(with_tensors) || self.forms.iter().any(|f| f.form().is_ok_and(Form::adds))
    }

    /// Parameters of a form, where the plan has it.
    pub fn form<T: DeserializeOwned>(&self, form: &dyn Form) -> Result<Option<T>> {
        let used = self.forms.iter().find(|f| f.form == form.name());
        used.map(|f| typed(&f.params, &format!("switch.forms.{}", f.form))).transpose()
    }

    /// What the plan stores for an axis.
    pub fn switch<T: DeserializeOwned>(&self, axis: &str) -> Result<Option<T>> {
        self.switches.get(axis).map(|v| typed(v, &format!("switch.switches.{axis}"))).transpose()
    }
}

/// A value of a plan in its own type; `place` is where it stands.
pub(crate) fn typed<T: DeserializeOwned>(value: &Value, place: &str) -> Result<T> {
    objects::read(value).map_err(|e: serde_json::Error| Error::config(place, objects::words(&e.to_string())))
}

/// The form that `quantization_config` names; other methods are refused by name.
fn quantization(config: &ConfigMap) -> Result<Option<FormUse>> {
    const PLACE: &str = "quantization_config";
    let Some(stored) = config.get(PLACE) else { return Ok(None) };
    let Some(mut params) = stored.as_object().cloned() else {
        return Err(Error::config(PLACE, "must be an object"));
    };
    let method = params.remove("quant_method").unwrap_or_default();
    if method.as_str() != Some(METHOD) {
        let hint = "\"switchformer\"; or export the model as plain floats";
        return Err(Error::unsupported(format!("{PLACE}.quant_method"), method, hint));
    }
    let form = params.remove("form").unwrap_or_default();
    let known = |f: &&&'static dyn Form| !f.adds() && Some(f.name()) == form.as_str();
    let Some(found) = crate::FORMS.iter().find(known) else {
        let all: Vec<_> = crate::FORMS.iter().filter(|f| !f.adds()).map(|f| format!("\"{}\"", f.name())).collect();
        return Err(Error::unsupported(format!("{PLACE}.form"), form, all.join(", ")));
    };
    let params = Value::Object(params);
    found.check(&params, PLACE)?;
    Ok(Some(FormUse::new(*found, params)))
}
