//! Early exits: heads after chosen blocks, at a fixed depth or when a member is confident.
//!
//! The exits of ECO-M2F (arXiv 2404.15244) and of every early-exit encoder: a head after block k answers for members
//! that need no more. A fixed exit is the truncated model; a confidence exit sends each member home on its own, and the
//! batch really shrinks. With no trained head at a depth the model's own head reads the state there.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, json};
use switchformer_nn::config::{MAX_DIM, MAX_LABELS};
use switchformer_nn::layers::LayerNorm;
use switchformer_nn::staged::Left;
use switchformer_nn::{
    BlockRule, Ctx, Error, Linear, Output, Point, Result, Site, Staged, State, Tensor, Weights, json, objects,
};

use crate::host::Host;
use crate::plan::{Plan, typed};
use crate::switch::{Loading, NamedSetting, Switch};
use crate::train::{Table, TrainSwitch, key};

/// Trained heads by the number of blocks that run before each, in the first network of a path and on its first lap;
/// with none, the own head of the network that runs reads everywhere.
#[derive(Default)]
pub struct Exits {
    heads: BTreeMap<usize, Head>,
    bytes: u64,
}

/// One exit head: norm and classifier on the first row of each member.
struct Head {
    norm: LayerNorm,
    classifier: Box<dyn Linear>,
}

impl Exits {
    /// Loads `exits.{k}.norm` and `exits.{k}.classifier` for each depth. Shapes: dim wide, `n_labels` classes.
    pub fn load(w: &Weights, depths: &[usize], dim: usize, n_labels: usize, eps: f64) -> Result<Self> {
        if dim > MAX_DIM || n_labels > MAX_LABELS {
            return Err(Error::config("exits", "sizes out of bounds"));
        }
        let (mut heads, before) = (BTreeMap::new(), w.n_elements());
        for k in depths {
            let at = w.at("exits").at(k);
            let head = Head {
                norm: at.layer_norm("norm", dim, eps)?,
                classifier: at.linear("classifier", dim, n_labels, true)?,
            };
            heads.insert(*k, head);
        }
        Ok(Exits { heads, bytes: 4 * (w.n_elements() - before) })
    }

    /// Depths that have a head.
    pub fn depths(&self) -> Vec<usize> {
        self.heads.keys().copied().collect()
    }

    fn at(&self, site: Site) -> Option<&Head> {
        self.heads.get(&site.depth()?)
    }

    /// Logits of the head at a site, if there is one. Shapes: state -> `[members, n_labels]`.
    pub fn logits(&self, cx: &mut Ctx, site: Site, state: &State) -> Result<Option<Tensor>> {
        let Some(head) = self.at(site) else { return Ok(None) };
        let x = head.norm.forward(&state.first_rows()?)?;
        head.classifier.forward(cx, &x).map(Some)
    }

    /// Bytes of all heads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Setting of the axis `exit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Setting {
    /// After this many steps of the path, everyone; each lap of a block is one, in whatever network.
    At(usize),
    /// Each member as soon as an exit head is this sure: only blocks of the first network have one, on their first lap.
    Confidence(Confidence),
}

/// A confidence exit.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Confidence {
    /// Probability of the likeliest class from which a member leaves, 0 to 1.
    pub confidence: f32,
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let value = json::value(d)?;
        let setting = match &value {
            Value::Object(_) => objects::read(value).map(Setting::Confidence),
            _ => objects::read(value).map(Setting::At),
        };
        setting.map_err(de::Error::custom)
    }
}

/// The axis `exit`.
pub struct Exit;

impl Switch for Exit {
    type Capability = Exits;
    type Setting = Setting;

    fn axis(&self) -> &'static str {
        "exit"
    }
    /// Heads of the model's width and classes, where the plan names depths.
    fn load(&self, from: &Loading) -> Result<Option<Exits>> {
        let Some(Stored { after }) = from.plan.switch("exit")? else { return Ok(Some(Exits::default())) };
        let n = from.model.n_blocks();
        if let Some(bad) = after.iter().find(|d| **d >= n) {
            let what = format!("{bad} is not below the model's {n} blocks");
            return Err(Error::config("exit heads in switch.json", what));
        }
        let (dim, classes) = from.model.classifier().ok_or_else(|| {
            Error::config(
                "exit heads",
                "need a model that classifies each input as a whole and whose rows are equally wide everywhere",
            )
        })?;
        let eps = from.config.float("layer_norm_eps", 1e-12, 0.0, 1.0)?;
        Exits::load(from.added()?, &after, dim, classes, eps).map(Some)
    }
    fn values(&self, host: &Host, can: Option<&Exits>) -> String {
        let range = format!("{}..={} (blocks that run; ", host.first_exit, host.n_blocks);
        match can.map(Exits::depths).unwrap_or_default().as_slice() {
            [] => format!("{range}the model's own head reads there)"),
            depths => format!("{range}trained heads after {depths:?}), or {{\"confidence\": 0..1}}"),
        }
    }
    fn resolve(&self, point: &Point, host: &Host, can: &Exits) -> Result<Option<Setting>> {
        let sure = if can.heads.is_empty() { "" } else { ", or {\"confidence\": 0..1}" };
        let range = match host.first_exit == host.n_blocks {
            true => format!("exit is {}, the whole model{sure}", host.n_blocks),
            false => format!("exit is {} to {}{sure}", host.first_exit, host.n_blocks),
        };
        let wrong = |what: String| Error::point(what, range.clone());
        let setting = point.axis::<Setting>("exit").map_err(|e| match e {
            Error::Point { what, .. } => wrong(what),
            e => e,
        })?;
        match setting {
            Some(Setting::At(k)) if !(host.first_exit..=host.n_blocks).contains(&k) => {
                Err(wrong(format!("exit = {k} of {} blocks", host.n_blocks)))
            }
            Some(Setting::Confidence(Confidence { confidence })) if !(0.0..=1.0).contains(&confidence) => {
                Err(wrong(format!("confidence = {confidence}")))
            }
            Some(Setting::Confidence(_)) if can.heads.is_empty() => Err(Error::point(
                "a confidence exit needs trained exit heads and this checkpoint has none",
                "use a fixed exit, or train heads with a recipe that lists `exits`",
            )),
            Some(Setting::Confidence(_)) if host.classifier.is_none() => Err(Error::point(
                "the exit heads and the last network of this path answer with different classes",
                "use a fixed exit, or end the path in a network with the same classes",
            )),
            // The whole path, which is the default.
            Some(Setting::At(k)) if k == host.n_blocks => Ok(None),
            setting => Ok(setting),
        }
    }
    fn rule(&self, setting: &Setting, _: &Host, can: &Arc<Exits>) -> Option<Box<dyn BlockRule>> {
        let exits = can.clone();
        Some(match *setting {
            Setting::At(after) => Box::new(FixedExit { after, exits }),
            Setting::Confidence(Confidence { confidence }) => Box::new(ConfidenceExit { threshold: confidence, exits }),
        })
    }
    fn points(&self, host: &Host, can: &Exits) -> Vec<NamedSetting> {
        let depths = can.depths();
        let after = |d: &usize| {
            NamedSetting::new(format!("exit-{d}"), format!("stops after {d} of {} blocks", host.n_blocks), *d)
        };
        let mut all: Vec<_> = depths.iter().map(after).collect();
        if !depths.is_empty() {
            let sure = |c: f64| {
                let about = format!("stops at the first exit head that is at least {:.0} % sure", 100.0 * c);
                NamedSetting::new(format!("sure-{c}"), about, json!({"confidence": c}))
            };
            all.extend([sure(0.9), sure(0.7), NamedSetting { alone: false, ..sure(0.8) }]);
        }
        all
    }
    fn bytes(&self, can: &Exits) -> u64 {
        can.bytes()
    }
    fn check_plan(&self, stored: &Value, place: &str) -> Result<()> {
        let Stored { after } = typed(stored, place)?;
        if after.is_empty() || after.len() > 256 || after.windows(2).any(|w| w[0] >= w[1]) || after[0] == 0 {
            return Err(Error::config(place, "must be ascending block counts from 1"));
        }
        Ok(())
    }
    fn train(&self) -> Option<&dyn TrainSwitch> {
        Some(self)
    }
}

/// What a plan stores for the axis.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// Blocks that run before each exit head of `switch.safetensors`.
    after: Vec<usize>,
}

/// Every step trains the heads after all of these numbers of blocks.
impl TrainSwitch for Exit {
    fn plan(&self, table: &Table, plan: &mut Plan) -> Result<()> {
        let after: Vec<usize> = key(table, "exits")?;
        if !after.is_empty() {
            plan.switches.insert(Switch::axis(self).to_string(), json!({"after": after}));
        }
        Ok(())
    }
    fn answer(&self, host: &Host, cx: &mut Ctx, site: Site, state: &State) -> Result<Option<Tensor>> {
        match host.capability(self) {
            Some(exits) => exits.logits(cx, site, state),
            None => Ok(None),
        }
    }
}

struct FixedExit {
    after: usize,
    exits: Arc<Exits>,
}

impl BlockRule for FixedExit {
    fn wants(&self, _: Site) -> &[&'static str] {
        &[]
    }
    fn after(&self, cx: &mut Ctx, model: &dyn Staged, site: Site, state: State, left: &mut Left) -> Result<State> {
        if site.step + 1 != self.after {
            return Ok(state);
        }
        let logits = self.exits.logits(cx, site, &state)?;
        let own = logits.is_none();
        cx.trace.decide(site.to_string(), "exit", None, json!({"after": self.after, "own_head": own}));
        let members = state.rows.members().to_vec();
        let rest = state.select(&[])?;
        let out = match logits {
            Some(l) => Output::new().member("logits", l),
            None => model.head(cx, state)?,
        };
        left.push((members, out));
        Ok(rest)
    }
}

struct ConfidenceExit {
    threshold: f32,
    exits: Arc<Exits>,
}

impl BlockRule for ConfidenceExit {
    fn wants(&self, _: Site) -> &[&'static str] {
        &[]
    }
    fn outputs(&self) -> Option<&[&'static str]> {
        Some(&["logits"])
    }
    fn after(&self, cx: &mut Ctx, _: &dyn Staged, site: Site, state: State, left: &mut Left) -> Result<State> {
        let Some(logits) = self.exits.logits(cx, site, &state)? else { return Ok(state) };
        // A forecast knows nobody's confidence: all stay.
        if logits.is_hollow() {
            return Ok(state);
        }
        let sure = confidences(&logits)?;
        let (mut go, mut stay) = (Vec::new(), Vec::new());
        for (segment, c) in sure.iter().enumerate() {
            if *c >= self.threshold { go.push(segment) } else { stay.push(segment) }
        }
        for s in &go {
            let choice = json!({"after": site.step + 1, "confidence": sure[*s]});
            cx.trace.decide(site.to_string(), "exit", Some(state.rows.members()[*s]), choice);
        }
        if go.is_empty() {
            return Ok(state);
        }
        let index: Vec<u32> = go.iter().map(|s| *s as u32).collect();
        let members = go.iter().map(|s| state.rows.members()[*s]).collect();
        let gone = logits.index_select(&Tensor::from_vec(index, go.len())?, 0)?;
        left.push((members, Output::new().member("logits", gone)));
        state.select(&stay)
    }
}

/// Probability of the likeliest class of each member. Shapes: logits `[members, classes]`.
pub fn confidences(logits: &Tensor) -> Result<Vec<f32>> {
    let rows = logits.to_vec2::<f32>()?;
    Ok(rows
        .iter()
        .map(|r| {
            let top = r.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            1.0 / r.iter().map(|v| (v - top).exp()).sum::<f32>()
        })
        .collect())
}
