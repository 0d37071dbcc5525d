//! From a checkpoint folder to a model that runs at any operating point.

use std::path::Path;

use serde_json::Value as Json;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::{
    Cost, Ctx, Error, Folder, Input, Model, Output, Point, Result, Taps, Trace, Weights, cost, staged,
};
use switchformer_switch::leaf::bits::NestedInt;
use switchformer_switch::rule::cancel::Cancel;
use switchformer_switch::{Form, NamedPoint, Plan, Resolved, Switches};

use crate::account;
use crate::assemble::{Assembled, Source, assemble};
use crate::entry::{Entry, HeadKind};
use crate::registry::find;
use crate::timm;

/// Largest `config.json` and its small companions.
pub const MAX_CONFIG: u64 = 1 << 20;

/// Tensors of what a plan adds to a model.
const ADDED: &str = "switch.safetensors";

/// The architecture that ColBERT's own folders name, and the projection that lies beside the encoder's tensors.
const COLBERT: &str = "HF_ColBERT";
const PROJECTION: &str = "linear.weight";

/// Tokens that [`Opened::forecast`] counts.
pub const TEXT: usize = 128;

/// How to open a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Quantise dense projections of the blocks to nested 8-bit codes, so that `bits` can be switched.
    pub nested: bool,
}

/// A loaded checkpoint.
pub struct Opened {
    /// Its registry entry.
    pub entry: &'static Entry,
    /// Its `config.json`.
    pub config: ConfigMap,
    /// The model.
    pub model: Box<dyn Model>,
    /// The switches it offers.
    pub switches: Switches,
    /// Named points and provenance.
    pub plan: Plan,
    /// Number of parameters, exits included.
    pub n_params: u64,
    /// Bytes of the weight files.
    pub file_bytes: u64,
    /// What a user should know of how the folder was read.
    pub notes: Vec<String>,
}

impl Opened {
    /// Opens a folder on disk.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Opened> {
        Opened::folder(&Folder::disk(dir)?, options)
    }

    /// Opens a folder, strictly.
    pub fn folder(folder: &Folder, options: OpenOptions) -> Result<Opened> {
        let (entry, config) = read_config(folder)?;
        Opened::of_config(folder, entry, config, &[], options)
    }

    /// Opens a folder for one head, whatever architecture its config names: sentence-transformers reads the rows of files that
    /// were saved while another head was trained. Errors where the family has no such head.
    pub fn folder_for(folder: &Folder, head: HeadKind, options: OpenOptions) -> Result<Opened> {
        let (entry, config) = read_config(folder)?;
        if entry.head_of(&config).is_ok_and(|h| h == head) {
            return Opened::of_config(folder, entry, config, &[], options);
        }
        // What reads the rows reads this too.
        let beside: &[&str] = if config.architecture() == Some(COLBERT) { &[PROJECTION] } else { &[] };
        let Some((name, _)) = entry.architectures.iter().find(|(_, h)| *h == head) else {
            return Err(Error::unsupported("model_type", entry.name, format!("a family with the head {head:?}")));
        };
        Opened::of_config(folder, entry, config.with("architectures", serde_json::json!([name])), beside, options)
    }

    /// `beside`: tensors of the file that belong to what reads the model's outputs.
    fn of_config(
        folder: &Folder,
        entry: &'static Entry,
        config: ConfigMap,
        beside: &[&str],
        options: OpenOptions,
    ) -> Result<Opened> {
        let mut plan = Plan::read(folder, &config)?;
        if options.nested && !plan.forms.iter().any(|f| f.form == NestedInt.name()) {
            plan.forms.push(NestedInt::everywhere());
        }
        if !plan.adds() && folder.has(ADDED) {
            let what = "lies in the folder, and the plan names nothing that it holds";
            let hint = "name its parts in switch.json, or remove the file";
            return Err(Error::format(folder.path(ADDED), "plan.unnamed", what, hint));
        }
        let model = Weights::open(folder, &entry.names)?;
        beside.iter().for_each(|name| model.skip(name));
        let added = plan.adds().then(|| Weights::file(folder, ADDED, &Names::default())).transpose()?;
        let made = assemble(entry, &config, &plan, Source { model, added })?;
        let file_bytes = ["model.safetensors", ADDED]
            .iter()
            .filter(|f| folder.has(f))
            .map(|f| folder.blob(f).map(|b| b.bytes().len() as u64))
            .sum::<Result<u64>>()?;
        let n_params = made.n_params();
        let notes = made.source.model.remarks();
        let Assembled { model, switches, .. } = made;
        for (place, point) in plan.all_points() {
            switches.resolve(point).map_err(|e| match e {
                Error::Point { what, hint } => {
                    Error::point(format!("{}: {place}: {what}", folder.path("switch.json").display()), hint)
                }
                e => e,
            })?;
        }
        Ok(Opened { entry, config, model, switches, plan, n_params, file_bytes, notes })
    }

    /// A model with name-seeded random weights: a published variant by name, or any config.
    pub fn random(config: Json, options: OpenOptions) -> Result<Opened> {
        let forms = if options.nested { vec![NestedInt::everywhere()] } else { Vec::new() };
        Opened::random_with(config, Plan { forms, ..Plan::default() })
    }

    /// As [`Opened::random`], with the forms and switches of a plan.
    pub fn random_with(config: Json, plan: Plan) -> Result<Opened> {
        let config = ConfigMap::new(timm::canonical(config)?)?;
        let entry = find(&config.text("model_type", "")?)?;
        let source = Source { model: Weights::seeded(), added: plan.adds().then(Weights::seeded) };
        let made = assemble(entry, &config, &plan, source)?;
        let n_params = made.n_params();
        let Assembled { model, switches, .. } = made;
        Ok(Opened { entry, config, model, switches, plan, n_params, file_bytes: 0, notes: Vec::new() })
    }

    /// The full config of a published variant, with `-` or timm's `_` in its name. Errors list the known names.
    pub fn preset(name: &str) -> Result<Json> {
        let slug = name.replace('_', "-");
        for entry in crate::ZOO {
            if let Some(v) = entry.variants()?.iter().find(|v| v.name.replace('_', "-") == slug) {
                let mut config = Json::Object(v.config.clone());
                config["model_type"] = entry.name.into();
                config["architectures"] = serde_json::json!([v.architecture]);
                if entry.head(&v.architecture) == Some(HeadKind::ImageClassification)
                    && config.get("num_labels").is_none()
                {
                    config["num_labels"] = 1000.into();
                }
                return Ok(config);
            }
        }
        let mut known = Vec::new();
        for entry in crate::ZOO {
            known.extend(entry.variants()?.iter().map(|v| v.name.as_str()));
        }
        Err(Error::unsupported("preset", name, known.join(", ")))
    }

    /// Cost of a published size, decided from its config alone: one image of the trained size, or [`TEXT`] tokens (read,
    /// and written where it writes).
    pub fn forecast(name: &str) -> Result<Cost> {
        let config = ConfigMap::new(Opened::preset(name)?)?;
        Opened::forecast_of(&config)
    }

    /// Cost of the model of a config, as [`Opened::forecast`].
    pub fn forecast_of(config: &ConfigMap) -> Result<Cost> {
        let model = find(&config.text("model_type", "")?)?.build(config, &Weights::shapes_only())?;
        let spec = model.spec();
        let len = spec.text_size().map_or(TEXT, |(_, max_len)| TEXT.min(max_len));
        cost(model.trunk(), &[], &Point::new(), &Input::sample(&spec, &[len], None, None)?)
    }

    /// Runs an input at a point. Returns the outputs and every decision taken.
    pub fn run(&self, point: &Point, input: &Input) -> Result<(Output, Trace)> {
        self.run_tapped(point, input, &mut Taps::none())
    }

    /// Runs an input at a point with listeners.
    pub fn run_tapped(&self, point: &Point, input: &Input, taps: &mut Taps) -> Result<(Output, Trace)> {
        input.check(&self.model.spec())?;
        let Resolved { point, mut rules } = self.switches.resolve(point)?;
        if input.members().can_cancel() {
            rules.push(Box::new(Cancel));
        }
        let mut trace = Trace::default();
        let mut cx = Ctx::new(&point, taps, &mut trace);
        let out = staged::run(self.model.trunk(), &rules, &mut cx, input)?;
        Ok((out, trace))
    }

    /// Cost of an input at a point, without computing it.
    pub fn cost(&self, point: &Point, input: &Input) -> Result<Cost> {
        input.check(&self.model.spec())?;
        let Resolved { point, rules } = self.switches.resolve(point)?;
        cost(self.model.trunk(), &rules, &point, input)
    }

    /// Every point that has a name here: those of the checkpoint's plan, then those that its switches offer (`full`, `bits-4`,
    /// ...) under names that the plan does not use.
    pub fn points(&self) -> Vec<NamedPoint> {
        let planned = self.plan.points.iter().map(|(name, p)| NamedPoint {
            name: name.clone(),
            point: p.point.clone(),
            about: "of the checkpoint's switch.json".into(),
        });
        let own = self.switches.points().into_iter().filter(|p| !self.plan.points.contains_key(&p.name));
        planned.chain(own).collect()
    }

    /// A point by its name or as JSON; without one the checkpoint's default. Errors list the names that are known here.
    pub fn point(&self, text: Option<&str>) -> Result<Point> {
        let point = match text {
            None => self.plan.default_point.clone(),
            Some(t) if t.trim_start().starts_with(['{', '[', '"']) => Point::parse(t)?,
            Some(name) => self.named(name)?,
        };
        self.switches.resolve(&point)?;
        Ok(point)
    }

    fn named(&self, name: &str) -> Result<Point> {
        let name = name.trim();
        let mut all = self.points();
        if let Some(i) = all.iter().position(|p| p.name == name) {
            return Ok(all.swap_remove(i).point);
        }
        // Names joined by `+` are one point, where each sets other switches.
        let parts: Option<Vec<&NamedPoint>> = name.split('+').map(|part| all.iter().find(|p| p.name == part)).collect();
        if let Some(parts) = parts.filter(|parts| parts.len() > 1) {
            let mut point = Point::new();
            for part in parts {
                for (axis, value) in part.point.values() {
                    if point.axes().any(|a| a == axis) {
                        return Err(Error::point(format!("`{name}` sets {axis} twice"), "leave out one of the names"));
                    }
                    point = point.with(axis, value.clone());
                }
            }
            return Ok(point);
        }
        let what = match name {
            "" => "an empty name names no point".to_string(),
            name => format!("no point is named `{name}`"),
        };
        // `bits=4` and `bits:4` are JSON that misses its braces and quotes.
        let setting = self.switches.axes().into_iter().find(|axis| {
            let after = name.trim_start_matches(['\'', '{']).strip_prefix(axis.name);
            after.is_some_and(|rest| rest.trim_start().starts_with(['=', ':']))
        });
        // `exit-3` is a name where the checkpoint has a head there, and `int8` where it has integers.
        let alike = self.switches.axes().into_iter().find(|axis| {
            let number = name.strip_prefix(axis.name).and_then(|rest| rest.strip_prefix('-'));
            number.is_some() || (axis.name == "activation_bits" && name == "int8")
        });
        let json = match (setting, alike) {
            (Some(axis), _) => format!("to set {0}, write JSON: {{\"{0}\": VALUE}}", axis.name),
            (None, Some(axis)) if axis.available => {
                format!("to set {0}, write JSON: {{\"{0}\": VALUE}} with {1}", axis.name, axis.values)
            }
            (None, Some(axis)) => format!("{} cannot be set here: {}", axis.name, axis.values),
            (None, None) => "or write JSON such as {\"exit\": 3}".to_string(),
        };
        let names: Vec<&str> = all.iter().map(|p| p.name.as_str()).collect();
        Err(Error::point(what, format!("known here: {}; {json}", names.join(", "))))
    }
}

/// Which other file's contents these are, by keys that it alone has.
fn misplaced(config: &ConfigMap) -> Option<&'static str> {
    let telling = [
        ("pre_tokenizer", "tokenizer.json"),
        ("tokenizer_class", "tokenizer_config.json"),
        ("image_processor_type", "preprocessor_config.json"),
        ("image_mean", "preprocessor_config.json"),
        ("weight_map", "model.safetensors.index.json"),
        ("word_embedding_dimension", "1_Pooling/config.json"),
        ("_from_model_config", "generation_config.json"),
    ];
    telling.iter().find(|(key, _)| config.get(key).is_some()).map(|(_, file)| *file)
}

/// Entry and config of a folder.
pub fn read_config(folder: &Folder) -> Result<(&'static Entry, ConfigMap)> {
    let config = ConfigMap::new(timm::canonical(folder.json("config.json", MAX_CONFIG)?)?)?;
    let model_type = config.text("model_type", "")?;
    if model_type.is_empty() {
        let what = match misplaced(&config) {
            Some(file) => format!("is missing: this config.json has the contents of a {file}; fetch config.json again"),
            None => "is missing; it names the model family, such as \"bert\"".into(),
        };
        return Err(Error::config("model_type", what));
    }
    let entry = find(&model_type)?;
    account::check(&config)?;
    Ok((entry, config))
}
