//! From a checkpoint folder to a model that runs at any operating point.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::names::Names;
use switchformer_nn::{
    Ctx, Error, Folder, Input, LeafCost, Model, Output, Point, Result, Rows, Taps, Trace, Weights, staged,
};
use switchformer_switch::between::cancel::Cancel;
use switchformer_switch::leaf::bits::NestedInt;
use switchformer_switch::{Form, Plan, Resolved, Switches};
use switchformer_tensor::{DType, Tensor};

use crate::assemble::{Assembled, Source, assemble};
use crate::entry::{Entry, HeadKind};
use crate::registry::find;
use crate::timm;

/// Largest `config.json` and its small companions.
pub const MAX_CONFIG: u64 = 1 << 20;

/// Tokens that [`Opened::forecast`] counts.
pub const TEXT: usize = 128;

/// Most entries of `modules.json`.
const MAX_MODULES: usize = 16;

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
    /// How sentence-transformers pools its rows, if the folder says so.
    pub pooling: Option<Pooling>,
    /// Number of parameters, exits included.
    pub n_params: u64,
    /// Bytes of the weight files.
    pub file_bytes: u64,
}

impl Opened {
    /// Opens a folder on disk.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Opened> {
        Opened::folder(&Folder::disk(dir)?, options)
    }

    /// Opens a folder, strictly.
    pub fn folder(folder: &Folder, options: OpenOptions) -> Result<Opened> {
        let (entry, config) = read_config(folder)?;
        let mut plan = Plan::read(folder, &config)?;
        if options.nested && !plan.forms.iter().any(|f| f.form == NestedInt.name()) {
            plan.forms.push(NestedInt::everywhere());
        }
        let model = Weights::open(folder, &entry.names)?;
        let added = plan.adds().then(|| Weights::file(folder, "switch.safetensors", &Names::default())).transpose()?;
        let made = assemble(entry, &config, &plan, Source { model, added })?;
        let pooling = Pooling::read(folder)?;
        let file_bytes = ["model.safetensors", "switch.safetensors"]
            .iter()
            .filter(|f| folder.has(f))
            .map(|f| folder.blob(f).map(|b| b.bytes().len() as u64))
            .sum::<Result<u64>>()?;
        let n_params = made.n_params();
        let Assembled { model, switches, .. } = made;
        Ok(Opened { entry, config, model, switches, plan, pooling, n_params, file_bytes })
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
        Ok(Opened { entry, config, model, switches, plan, pooling: None, n_params, file_bytes: 0 })
    }

    /// The full config of a published variant, with `-` or timm's `_` in its name. Errors list the known names.
    pub fn preset(name: &str) -> Result<Json> {
        let slug = name.replace('_', "-");
        for entry in crate::ZOO {
            if let Some(v) = entry.variants.iter().find(|v| v.name.replace('_', "-") == slug) {
                let mut config: Json = serde_json::from_str(v.config)
                    .map_err(|e| Error::config(name, format!("bad variant table: {e}")))?;
                config["model_type"] = entry.name.into();
                config["architectures"] = serde_json::json!([v.architecture]);
                if entry.head(v.architecture) == Some(HeadKind::ImageClassification)
                    && config.get("num_labels").is_none()
                {
                    config["num_labels"] = 1000.into();
                }
                return Ok(config);
            }
        }
        let known: Vec<_> = crate::ZOO.iter().flat_map(|e| e.variants).map(|v| v.name).collect();
        Err(Error::unsupported("preset", name, known.join(", ")))
    }

    /// Cost of a published size, decided from its config alone: one image of the trained size, or [`TEXT`] tokens (read,
    /// and written where it writes).
    pub fn forecast(name: &str) -> Result<LeafCost> {
        let config = ConfigMap::new(Opened::preset(name)?)?;
        Opened::forecast_of(&config)
    }

    /// Cost of the model of a config, as [`Opened::forecast`].
    pub fn forecast_of(config: &ConfigMap) -> Result<LeafCost> {
        let model = find(&config.text("model_type", "")?)?.build(config, &Weights::shapes_only())?;
        let spec = model.spec();
        let len = spec.text_size().map_or(TEXT, |(_, max_len)| TEXT.min(max_len));
        let lens = model.lens(&Input::sample(&spec, &[len], None, None)?)?;
        staged::cost(model.trunk(), &[], &Point::new(), &lens)
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

    /// Cost of a point for members of the given lengths, without running it.
    pub fn cost(&self, point: &Point, lens: &[usize]) -> Result<LeafCost> {
        let Resolved { point, rules } = self.switches.resolve(point)?;
        staged::cost(self.model.trunk(), &rules, &point, lens)
    }

    /// Sentence embeddings of an output, as the folder's pooling says. Shapes: -> `[b, dim]`.
    pub fn embed(&self, out: &Output) -> Result<Option<Tensor>> {
        match (&self.pooling, out.get_rows("last_hidden_state")) {
            (Some(p), Some((x, rows))) => p.pool(x, rows).map(Some),
            _ => Ok(None),
        }
    }

    /// Point by name or JSON; an empty text is the checkpoint's default.
    pub fn point(&self, text: Option<&str>) -> Result<Point> {
        let point = match text {
            None => self.plan.default_point.clone(),
            Some(t) => self.plan.point(t)?,
        };
        self.switches.resolve(&point)?;
        Ok(point)
    }
}

/// Entry and config of a folder.
pub fn read_config(folder: &Folder) -> Result<(&'static Entry, ConfigMap)> {
    let config = ConfigMap::new(timm::canonical(folder.json("config.json", MAX_CONFIG)?)?)?;
    let model_type = config.text("model_type", "")?;
    if model_type.is_empty() {
        return Err(Error::config("model_type", "is missing; it names the model family, such as \"bert\""));
    }
    Ok((find(&model_type)?, config))
}

/// How sentence-transformers turns rows into one vector per text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// Mean over all rows (else the first row).
    pub mean: bool,
    /// Scale to unit length.
    pub normalize: bool,
}

impl Pooling {
    /// Reads `modules.json` and the pooling folder it names; other modules and modes are refused by name.
    pub fn read(folder: &Folder) -> Result<Option<Pooling>> {
        if !folder.has("modules.json") {
            return Ok(None);
        }
        let doc = folder.json("modules.json", MAX_CONFIG)?;
        let modules = doc.as_array().ok_or_else(|| Error::config("modules.json", "must be a list"))?;
        if modules.len() > MAX_MODULES {
            return Err(Error::config("modules.json", format!("has {} entries, at most {MAX_MODULES}", modules.len())));
        }
        let mut pooling = None;
        for m in modules {
            let kind = m.get("type").and_then(Json::as_str).unwrap_or_default();
            let path = m.get("path").and_then(Json::as_str).unwrap_or_default();
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => pooling = Some(Pooling { mean: read_mode(folder, path)?, normalize: false }),
                "Normalize" => match &mut pooling {
                    Some(p) => p.normalize = true,
                    None => return Err(Error::config("modules.json", "Normalize comes before Pooling")),
                },
                _ => return Err(Error::unsupported("modules.json type", kind, "Transformer, Pooling, Normalize")),
            }
        }
        Ok(pooling)
    }

    /// Shapes: x `[total, dim]` -> `[members, dim]`; a member without rows gives zeros.
    pub fn pool(&self, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let (_, dim) = x.dims2()?;
        let mut out = Vec::with_capacity(rows.n());
        for i in 0..rows.n() {
            let take = if self.mean { rows.len(i) } else { rows.len(i).min(1) };
            let v = if take == 0 {
                Tensor::zeros(dim, DType::F32)?
            } else {
                x.narrow(0, rows.range(i).start, take)?.mean(0)?
            };
            out.push(if self.normalize {
                let norm = v.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
                (v / f64::from(norm.max(1e-12)))?
            } else {
                v
            });
        }
        Tensor::stack(&out, 0)
    }
}

/// Whether the pooling module takes the mean (true) or the first row (false).
fn read_mode(folder: &Folder, path: &str) -> Result<bool> {
    let plain = !path.is_empty() && path.len() < 64 && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain {
        return Err(Error::config("modules.json path", format!("{path:?} must be a plain folder name")));
    }
    let file = PathBuf::from(path).join("config.json");
    let doc = folder.json(&file.to_string_lossy(), MAX_CONFIG)?;
    let on: Vec<&str> = doc
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| k.starts_with("pooling_mode_") && v.as_bool() == Some(true))
        .map(|(k, _)| k.as_str())
        .collect();
    // Newer files name the mode in one field.
    let named = doc.get("pooling_mode").and_then(Json::as_str);
    match (named, on.as_slice()) {
        (Some("mean"), []) | (None, ["pooling_mode_mean_tokens"]) => Ok(true),
        (Some("cls"), []) | (None, ["pooling_mode_cls_token"]) => Ok(false),
        (named, on) => {
            let value = named.map_or_else(|| on.join("+"), str::to_string);
            Err(Error::unsupported(format!("{path}/config.json pooling_mode"), value, "mean, cls"))
        }
    }
}
