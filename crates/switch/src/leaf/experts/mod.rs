//! Experts - a bank of feed-forward networks of one shape, and a router that says which of them a row meets.
//!
//! Papers: "Switch Transformers", arXiv 2101.03961 (learned gate, top-1, balance); "ST-MoE", arXiv 2202.08906 (z-loss);
//! "Taming Sparsely Activated Transformer with Stochastic Experts" (THOR), arXiv 2110.04260 (random choice); "M3ViT",
//! arXiv 2210.14793 (a gate per task, top-k not renormalised); "Switch-DiT", arXiv 2403.09176 (choice by step).
//! Idea: total weights grow with the number of experts, work per row with `top_k` alone. Whatever chose, one executor
//! runs: rows grouped by expert, one product per active expert, factors applied, rows put back; see `group`.
//! The gate is f32 in every form of the experts and reads the rows as they are, in training with jitter; a factor is
//! the raw probability, or its share among the chosen.
//! Departs from the papers: no row is dropped unless the point sets a capacity, so that a result does not depend on
//! other samples; then the rule is Hugging Face's (a fixed number per member and expert, in order of position). Balance
//! is per bank, over the choices before any drop.

mod group;
mod leaves;
mod load;
mod setting;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use switchformer_nn::layers::dense_ffn;
use switchformer_nn::{Aux, Ctx, Error, Ffn, FfnSpec, ParamKind, Point, Result, Rows, Weights, dry, ops};
use switchformer_tensor::{D, Tensor};

use crate::task::task_of;
use group::{Assignment, run};
pub use leaves::{ADDED, Added, ExpertPlan, dense_twin};
pub use load::Loads;
pub(crate) use setting::{AXIS, gate_task};
pub use setting::{Experts, Grain, Offer, Setting};

/// Most experts of a bank.
pub const MAX_EXPERTS: usize = 4_096;

/// Factor of an expert that was chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Factor {
    /// The gate's probability (Switch Transformer, M3ViT).
    Probability,
    /// Its share among the chosen: they sum to one, and a lone one is exactly one.
    #[default]
    Share,
}

/// What balance means in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BalanceLoss {
    /// `n * sum f_e P_e` with the share of choices f and the mean probability P (Switch Transformer).
    Shares,
    /// Squared variation of the sums of kept probabilities, plus that of the counts of choices (V-MoE, M3ViT).
    Variation,
}

/// How a bank's gate works, in running and in training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gating {
    /// Experts per row at rest.
    pub top_k: usize,
    /// Factor of a chosen expert.
    pub factor: Factor,
    /// In training the gate's input is multiplied by numbers from `1 - jitter` to `1 + jitter`.
    pub jitter: f64,
    /// What the balance loss measures.
    pub balance_loss: BalanceLoss,
    /// Share of the balance loss in training.
    pub balance: f64,
    /// Share of the router z-loss in training.
    pub z: f64,
    /// Chosen experts whose probability is not above this do not run.
    pub prune: Option<f32>,
}

impl Gating {
    /// No noise and no losses in training, no floor.
    pub const fn plain(top_k: usize, factor: Factor) -> Gating {
        Gating { top_k, factor, jitter: 0.0, balance_loss: BalanceLoss::Shares, balance: 0.0, z: 0.0, prune: None }
    }
}

/// Something that a gate reads beside every row, `[1, n]`.
pub type Beside = Arc<dyn Fn() -> Result<Tensor> + Send + Sync>;

/// A linear map from rows to scores of experts.
#[derive(Clone)]
pub struct Gate {
    weight: Tensor,
    bias: Option<Tensor>,
    /// Whether the weight is stored as `[dim, experts]`.
    columns: bool,
    beside: Option<Beside>,
    /// The only experts that this gate can choose, as (first, number).
    window: Option<(usize, usize)>,
}

impl Gate {
    /// Shapes: weight `[experts, dim]`, bias `[experts]`.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Gate {
        Gate { weight, bias, columns: false, beside: None, window: None }
    }

    /// A gate stored the other way round, which may read something beside every row and be held to a window of experts.
    /// Shapes: weight `[dim + beside, experts]`.
    pub fn of_columns(weight: Tensor, beside: Option<Beside>, window: Option<(usize, usize)>) -> Gate {
        Gate { weight, bias: None, columns: true, beside, window }
    }

    /// Whether its shape is for rows of width `dim` and `n` experts.
    fn fits(&self, n: usize, dim: usize) -> bool {
        let window = self.window.is_none_or(|(from, some)| some > 0 && from.checked_add(some).is_some_and(|e| e <= n));
        let shape = match self.weight.dims() {
            [wide, e] if self.columns => *e == n && (*wide == dim || (self.beside.is_some() && *wide > dim)),
            shape => *shape == [n, dim],
        };
        window && shape
    }

    /// Shapes: x `[rows, dim]` -> `[rows, experts of the window]`.
    fn scores(&self, x: &Tensor) -> Result<Tensor> {
        let weight = if self.columns { self.weight.t()?.contiguous()? } else { self.weight.clone() };
        let weight = match self.window {
            Some((from, n)) => weight.narrow(0, from, n)?,
            None => weight,
        };
        let dim = x.dims2()?.1;
        let Some(beside) = &self.beside else { return ops::linear(x, &weight, self.bias.as_ref()) };
        let extra = weight.dims2()?.1 - dim;
        let told = ops::linear(&beside()?, &weight.narrow(1, dim, extra)?.contiguous()?, None)?.flatten_all()?;
        ops::linear(x, &weight.narrow(1, 0, dim)?.contiguous()?, Some(&told))
    }

    /// First expert that it can choose, and how many there are.
    fn reach(&self, n: usize) -> (usize, usize) {
        self.window.unwrap_or((0, n))
    }
}

/// What a bank holds to choose with; fixed and random choices and the mean of all need nothing.
#[derive(Default)]
pub struct Choosers {
    /// Trained gates: none, one, or one per task.
    pub gates: Vec<Gate>,
    /// Experts and factors of each step of a schedule; every step names equally many.
    pub steps: Vec<Vec<(usize, f32)>>,
}

/// A bank of experts.
pub struct Bank {
    experts: Vec<Box<dyn Ffn>>,
    choosers: Choosers,
    gating: Gating,
    offer: Offer,
    dim: usize,
}

/// Sizes of a bank in the layout that Switch Transformers publish.
#[derive(Clone, Copy, Debug)]
pub struct BankSpec {
    /// Number of experts.
    pub experts: usize,
    /// Whether the gate has a bias.
    pub bias: bool,
    /// How the gate works.
    pub gating: Gating,
}

impl Bank {
    /// Experts over rows of width `dim`. Errors where a chooser names an expert that is not there.
    pub fn new(dim: usize, experts: Vec<Box<dyn Ffn>>, choosers: Choosers, gating: Gating) -> Result<Bank> {
        let n = experts.len();
        if !(1..=MAX_EXPERTS).contains(&n) {
            return Err(Error::config("experts", format!("is {n}, must be 1 to {MAX_EXPERTS}")));
        }
        if let Some(bad) = choosers.gates.iter().find(|g| !g.fits(n, dim)) {
            return Err(Error::shape("router", format!("[{n}, {dim}]"), bad.weight.dims()));
        }
        let reach = choosers.gates.iter().map(|g| g.reach(n).1).min().unwrap_or(n);
        if !(1..=reach).contains(&gating.top_k) {
            return Err(Error::config("top_k", format!("is {} of {reach} experts", gating.top_k)));
        }
        let slots = choosers.steps.first().map_or(1, Vec::len);
        if slots == 0 || choosers.steps.iter().any(|s| s.len() != slots || s.iter().any(|(e, _)| *e >= n)) {
            return Err(Error::config("steps", format!("must each name {slots} of {n} experts")));
        }
        let (gates, steps) = (choosers.gates.len(), choosers.steps.len());
        let offer = Offer { experts: n, gates, steps, top_k: gating.top_k, reach };
        Ok(Bank { experts, choosers, gating, offer, dim })
    }

    /// Loads `router.classifier` and `experts.expert_0..` below a path. The experts take the form that the plan names;
    /// the gate stays f32.
    pub fn load(w: &Weights, spec: &BankSpec, ffn: &FfnSpec) -> Result<Bank> {
        let gate = w.at("router.classifier");
        let weight = gate.tensor("weight", &[spec.experts, ffn.dim], ParamKind::Table)?;
        let bias = spec.bias.then(|| gate.tensor("bias", &[spec.experts], ParamKind::Vector)).transpose()?;
        let one = |e: usize| dense_ffn(&w.at("experts").at(format!("expert_{e}")), ffn);
        let experts = (0..spec.experts).map(one).collect::<Result<_>>()?;
        let choosers = Choosers { gates: vec![Gate::new(weight, bias)], steps: Vec::new() };
        let bank = Bank::new(ffn.dim, experts, choosers, spec.gating)?;
        bank.note(w);
        Ok(bank)
    }

    /// Tells the axis `experts` what this bank offers.
    pub fn note(&self, w: &Weights) {
        w.note(setting::AXIS, json!(self.offer));
    }

    /// What the axis `experts` can be set to here.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The setting of a resolved point, or the bank's own.
    fn setting(&self, point: &Point) -> Setting {
        point.setting::<Setting>().cloned().unwrap_or(match self.offer.gates {
            0 => Setting::Random { grain: Grain::Batch },
            _ => Setting::Learned { top_k: None, capacity: None },
        })
    }

    /// The gate of a setting: that of the point's task, where there is one for each; `None` where no gate chooses.
    fn gate(&self, point: &Point, setting: &Setting) -> Option<&Gate> {
        let gates = &self.choosers.gates;
        match setting {
            Setting::Learned { .. } | Setting::Task { .. } if gates.len() > 1 => gates.get(task_of(point)),
            Setting::Learned { .. } | Setting::Task { .. } => gates.first(),
            _ => None,
        }
    }

    /// Experts per row at a setting.
    fn slots(&self, setting: &Setting) -> usize {
        match setting {
            Setting::Learned { top_k, .. } | Setting::Task { top_k, .. } => top_k.unwrap_or(self.gating.top_k),
            Setting::Step { .. } => self.choosers.steps.first().map_or(0, Vec::len),
            Setting::Random { .. } | Setting::Fixed { .. } => 1,
            Setting::All {} => self.experts.len(),
        }
    }

    /// The gate's choice. Shapes: x `[rows, dim]`.
    fn learned(&self, cx: &mut Ctx, x: &Tensor, at: &str, gate: &Gate, slots: usize) -> Result<Chosen> {
        let (rows, (first, n)) = (x.dims()[0], gate.reach(self.experts.len()));
        cx.count(rows * n * self.dim);
        let seen = if cx.train && self.gating.jitter > 0.0 { self.jittered(cx, x, at)? } else { x.clone() };
        let logits = gate.scores(&seen)?; // [rows, experts]
        let probs = ops::softmax(&logits)?;
        let values = probs.to_vec2::<f32>()?;
        let ids: Vec<u32> = values.iter().flat_map(|row| likeliest(row, slots)).collect();
        if cx.train {
            self.losses(cx, at, &ids, &logits, &probs)?;
        }
        let kept = self.gating.prune.map(|floor| {
            let chances = ids.iter().enumerate().map(|(place, e)| values[place / slots][*e as usize]);
            chances.map(|p| p > floor).collect()
        });
        // A lone share is one, whatever the gate says.
        let weights = match (self.gating.factor, slots) {
            (Factor::Share, 1) => None,
            (factor, _) => {
                let picked = probs.gather(&Tensor::from_slice(&ids, (rows, slots))?, 1)?;
                Some(match factor {
                    Factor::Probability => picked,
                    Factor::Share => picked.broadcast_div(&picked.sum_keepdim(D::Minus1)?)?,
                })
            }
        };
        let entropy = Some(values.iter().map(|row| entropy(row)).collect());
        Ok(Chosen { ids: ids.into_iter().map(|e| e + first as u32).collect(), weights, kept, entropy })
    }

    /// The gate's input in training: each number of a row times its own draw, by (seed, block, row).
    fn jittered(&self, cx: &Ctx, x: &Tensor, at: &str) -> Result<Tensor> {
        let place = cx.rng(&format!("{at}.jitter"));
        let one = |row: usize| {
            let mut draw = place.fork(row as u64);
            (0..self.dim).map(move |_| 1.0 + self.gating.jitter as f32 * (2.0 * draw.unit() - 1.0)).collect::<Vec<_>>()
        };
        let noise: Vec<f32> = (0..x.dims()[0]).flat_map(one).collect();
        x * Tensor::from_vec(noise, x.shape())?
    }

    /// Balance as [`Even`] says; z-loss, the mean square of the log-sum-exp of a row's scores. Shapes: logits and probs
    /// `[rows, experts]`.
    fn losses(&self, cx: &mut Ctx, at: &str, ids: &[u32], logits: &Tensor, probs: &Tensor) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let (rows, n) = probs.dims2()?;
        let mut counts = vec![0f32; n];
        ids.iter().for_each(|e| counts[*e as usize] += 1.0);
        let counts = Tensor::from_vec(counts, n)?;
        let balance = match self.gating.balance_loss {
            BalanceLoss::Shares => ((probs.mean(0)? * (counts / ids.len() as f64)?)?.sum_all()? * n as f64)?,
            BalanceLoss::Variation => {
                let mut kept = vec![0f32; rows * n];
                ids.iter().enumerate().for_each(|(place, e)| kept[place / (ids.len() / rows) * n + *e as usize] = 1.0);
                let kept = Tensor::from_vec(kept, (rows, n))?;
                (variation(&(probs * kept)?.sum(0)?)? + variation(&counts)?)?
            }
        };
        let z = logits.log_sum_exp(D::Minus1)?.sqr()?.mean_all()?;
        for (kind, value, weight) in [("balance", balance, self.gating.balance), ("router-z", z, self.gating.z)] {
            cx.aux.push(Aux { at: at.into(), kind, value, weight });
        }
        Ok(())
    }

    /// The expert of each row by a seeded draw.
    fn drawn(&self, cx: &Ctx, at: &str, grain: Grain, rows: &Rows) -> Vec<u32> {
        let n = self.experts.len() as u64;
        let mut ids = Vec::with_capacity(rows.total());
        for (i, member) in rows.members().iter().copied().enumerate() {
            let stream = cx.rng_of(member, at);
            let draw = |key: u32| stream.fork(u64::from(key)).below(n) as u32;
            match grain {
                Grain::Batch => ids.resize(ids.len() + rows.len(i), draw(0)),
                Grain::Sentence => ids.resize(ids.len() + rows.len(i), draw(cx.members.place(member))),
                Grain::Token => ids.extend(rows.positions()[rows.range(i)].iter().map(|p| draw(*p))),
            }
        }
        ids
    }

    /// Experts of every row, in order of likelihood. Shapes: x `[total, dim]`.
    fn choose(&self, cx: &mut Ctx, x: &Tensor, at: &str, setting: &Setting, rows: &Rows) -> Result<Chosen> {
        let (total, n) = (rows.total(), self.experts.len());
        let same = |ids: Vec<u32>, weights: Option<Vec<f32>>| -> Result<Chosen> {
            let k = ids.len();
            let spread =
                |w: Vec<f32>| -> Result<Tensor> { Tensor::from_vec(w, (1, k))?.broadcast_as((total, k))?.contiguous() };
            let ids = std::iter::repeat_n(ids, total).flatten().collect();
            Ok(Chosen { ids, weights: weights.map(spread).transpose()?, kept: None, entropy: None })
        };
        let slots = self.slots(setting);
        match setting {
            Setting::Learned { .. } | Setting::Task { .. } => match self.gate(cx.point, setting) {
                Some(gate) => self.learned(cx, x, at, gate, slots),
                None => Err(Error::point(
                    format!("experts: no gate for task {}", task_of(cx.point)),
                    "choose another task or router",
                )),
            },
            Setting::Step { step } => {
                let (ids, weights) = self.choosers.steps[*step].iter().map(|(e, w)| (*e as u32, *w)).unzip();
                same(ids, Some(weights))
            }
            Setting::Random { grain } => {
                Ok(Chosen { ids: self.drawn(cx, at, *grain, rows), weights: None, kept: None, entropy: None })
            }
            Setting::Fixed { expert } => same(vec![*expert as u32], None),
            Setting::All {} => same((0..n as u32).collect(), Some(vec![1.0 / n as f32; n])),
        }
    }
}

/// What a router chose.
struct Chosen {
    /// Experts of each row, row by row.
    ids: Vec<u32>,
    /// `[rows, slots]`; all one where absent.
    weights: Option<Tensor>,
    /// Which choices run; all where absent.
    kept: Option<Vec<bool>>,
    /// Entropy of the gate's distribution for each row, in nats.
    entropy: Option<Vec<f64>>,
}

/// Variance over squared mean; zero of one number. Shapes: x `[n]` -> `[]`.
fn variation(x: &Tensor) -> Result<Tensor> {
    let n = x.dims1()?;
    if n == 1 {
        return x.zeros_like()?.sum_all();
    }
    let mean = x.mean_all()?;
    let variance = (x.broadcast_sub(&mean)?.sqr()?.sum_all()? / (n - 1) as f64)?;
    variance / (mean.sqr()? + 1e-10)?
}

/// The `k` largest, the first of equals first.
fn likeliest(row: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    let before = |a: &u32, b: &u32| row[*b as usize].total_cmp(&row[*a as usize]).then(a.cmp(b));
    if k < order.len() {
        order.select_nth_unstable_by(k, before);
        order.truncate(k);
    }
    order.sort_unstable_by(before);
    order
}

fn entropy(probs: &[f32]) -> f64 {
    probs.iter().map(|p| f64::from(*p)).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
}

/// Drops what is over an expert's capacity: its rows of each member count in order of position.
fn within(capacity: Option<usize>, ids: &[u32], slots: usize, rows: &Rows) -> Vec<Option<u32>> {
    let Some(capacity) = capacity else { return ids.iter().map(|e| Some(*e)).collect() };
    let mut kept = Vec::with_capacity(ids.len());
    for i in 0..rows.n() {
        let range = rows.range(i);
        let mut taken: BTreeMap<u32, usize> = BTreeMap::new();
        kept.extend(ids[range.start * slots..range.end * slots].iter().map(|e| {
            let count = taken.entry(*e).or_default();
            *count += 1;
            (*count <= capacity).then_some(*e)
        }));
    }
    kept
}

/// Records the load of each member: rows per expert, dropped ones, mean entropy of the gate.
fn record(cx: &mut Ctx, at: &str, experts: &[Option<u32>], slots: usize, entropy: Option<&[f64]>, rows: &Rows) {
    for i in 0..rows.n() {
        let range = rows.range(i);
        let own = &experts[range.start * slots..range.end * slots];
        let mut load: BTreeMap<String, usize> = BTreeMap::new();
        own.iter().flatten().for_each(|e| *load.entry(e.to_string()).or_default() += 1);
        let mut choice = json!({"load": load, "dropped": own.iter().filter(|e| e.is_none()).count()});
        if let Some(all) = entropy.filter(|_| !range.is_empty()) {
            choice["entropy"] = json!(all[range.clone()].iter().sum::<f64>() / range.len() as f64);
        }
        cx.trace.decide(at, setting::AXIS, Some(rows.members()[i]), choice);
    }
}

impl Bank {
    /// [`Ffn::forward`] with a gate that looks at other rows than the experts do. Shapes: x and seen `[total, dim]` ->
    /// `[total, dim]`.
    pub fn forward_by(&self, cx: &mut Ctx, x: &Tensor, seen: &Tensor, rows: &Rows) -> Result<Tensor> {
        if let Some(bad) = [x, seen].into_iter().find(|t| t.dims() != [rows.total(), self.dim]) {
            return Err(Error::shape("experts", format!("[{}, {}]", rows.total(), self.dim), bad.dims()));
        }
        let setting = self.setting(cx.point);
        self.offer.check(&setting)?; // the point may have been resolved for another model
        let slots = self.slots(&setting);
        let dry = x.is_hollow() || dry::is_dry();
        if dry && !matches!(setting, Setting::Step { .. } | Setting::Fixed { .. } | Setting::All {}) {
            return self.forecast(cx, x, seen, &setting, slots);
        }
        let at = format!("{}.ffn", cx.site);
        let Chosen { ids, weights, kept, entropy } = self.choose(cx, seen, &at, &setting, rows)?;
        let capacity = if let Setting::Learned { capacity, .. } = setting { capacity } else { None };
        let mut experts = within(capacity, &ids, slots, rows);
        for (expert, _) in experts.iter_mut().zip(kept.into_iter().flatten()).filter(|(_, keep)| !keep) {
            *expert = None;
        }
        record(cx, &at, &experts, slots, entropy.as_deref(), rows);
        run(cx, &self.experts, x, &Assignment { experts, slots, weights })
    }
}

impl Bank {
    /// A pass that looks at no numbers: every expert that may be met is read, and each row meets as many as the setting
    /// says. A capacity drops rows that no forecast knows; they count.
    fn forecast(&self, cx: &mut Ctx, x: &Tensor, seen: &Tensor, setting: &Setting, slots: usize) -> Result<Tensor> {
        let (rows, n) = (x.dims()[0], self.experts.len());
        if let Some(gate) = self.gate(cx.point, setting) {
            cx.count(rows * gate.reach(n).1 * self.dim);
            gate.scores(seen)?;
        }
        let met = match setting {
            Setting::Random { grain: Grain::Batch } => slots,
            _ => n.min(rows * slots),
        };
        // Experts are alike: the first does the work of all.
        for (i, expert) in self.experts.iter().take(met).enumerate() {
            let own = if i == 0 { rows * slots } else { 0 };
            expert.forward(cx, &Tensor::hollow((own, self.dim), x.dtype()), &Rows::equal(1, own)?)?;
        }
        Ok(x.clone())
    }
}

impl Ffn for Bank {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        self.forward_by(cx, x, x, rows)
    }
}
