//! The model of a run: its parameters, a pass over a batch, and the loss of a step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::INITIALIZER_RANGE;
use switchformer_nn::staged::Left;
use switchformer_nn::weights::{Files, Start};
use switchformer_nn::{
    BlockRule, Ctx, Folder, Input, Model, Moments, Output, Param, Point, Site, Staged, State, Taps, Trace, Weights,
    staged,
};
use switchformer_switch::leaf::experts::{ADDED, dense_twin};
use switchformer_switch::train::{Pull, Sampled};
use switchformer_switch::{Plan, Resolved, SWITCHES, Switches};
use switchformer_tensor::Tensor;
use switchformer_zoo::assemble::{Assembled, Source, assemble};
use switchformer_zoo::open::read_config;
use switchformer_zoo::{Entry, find};

use crate::error::{Error, Result};
use crate::loss::{Sum, cross_entropy, softmax, symmetric_kl};
use crate::optim::key;
use crate::recipe::{self, Recipe};
use crate::task::{Batch, Task};

/// A model and its exit heads, ready to be trained.
pub struct Net {
    /// Registry entry.
    pub entry: &'static Entry,
    /// `config.json`, with what the data decides.
    pub config: ConfigMap,
    model: Box<dyn Model>,
    /// Parameters of the model.
    pub model_params: Vec<Param>,
    switches: Switches,
    /// Parameters of what `switch.safetensors` holds: exit heads, and experts added to the model.
    pub added_params: Vec<Param>,
    /// Names of parameters that are not trained.
    frozen: Vec<String>,
    dropout: f64,
}

/// What one pass gave.
struct Passed {
    /// The answer of every exit head, shallow first, the model's own last.
    answers: Vec<Output>,
    /// Weighted sum of the losses that leaves asked for (the balance of experts).
    aux: Option<Tensor>,
    /// What batch norms saw.
    moments: Vec<Moments>,
}

/// The loss of a batch.
pub struct Loss {
    /// A scalar, to be differentiated.
    pub value: Tensor,
    /// The task's own terms in it, weighted, by name.
    pub terms: BTreeMap<&'static str, f64>,
    /// What batch norms saw, for [`Net::keep`] once the step is done.
    pub moments: Vec<Moments>,
}

/// A rule that asks on the way for every other answer that switches train (exit heads), and lets nobody leave.
struct Answers {
    switches: Switches,
    heard: Arc<Mutex<Vec<Output>>>,
}

impl BlockRule for Answers {
    fn wants(&self, _: Site) -> &[&'static str] {
        &[]
    }
    fn after(
        &self,
        cx: &mut Ctx,
        _: &dyn Staged,
        site: Site,
        state: State,
        _: &mut Left,
    ) -> switchformer_nn::Result<State> {
        for switch in SWITCHES.iter().filter_map(|s| s.train()) {
            if let Some(logits) = switch.answer(self.switches.host(), cx, site, &state)? {
                let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push(Output::new().member("logits", logits));
            }
        }
        Ok(state)
    }
}

/// Share of a batch's statistics in the kept ones, per pass (PyTorch's default).
const MOMENTUM: f32 = 0.1;

impl Net {
    /// A fresh model for a recipe.
    pub fn new(recipe: &Recipe, task: &dyn Task) -> Result<Self> {
        let start = recipe.start.as_ref().map(StartFrom::read).transpose()?;
        let mut map = start.as_ref().map(|s| s.config.as_map().clone()).unwrap_or_default();
        map.remove("switch"); // the export has a plan of its own
        map.extend(recipe.model.clone());
        task.complete(&mut map);
        let config = ConfigMap::new(Value::Object(map))?;
        let entry = find(&config.text("model_type", "")?)?;
        let deviation = config.float("initializer_range", f64::from(INITIALIZER_RANGE), 1e-4, 1.0)? as f32;
        let fresh = || Weights::fresh(recipe.seed, deviation).trainable();
        let fitting = start.as_ref().is_none_or(|s| s.entry.name == entry.name);
        if let Some(start) = start.as_ref().filter(|_| !fitting) {
            let what = format!("is a {}, the recipe's model a {}", start.entry.name, entry.name);
            return Err(Error::config("start.folder", what));
        }
        let plan = recipe.plan()?;
        let of_start = |added: bool| start.as_ref().map(|s| s.weights(recipe.seed, deviation, added).trainable());
        let copies = start.as_ref().is_some_and(|s| s.start.experts.is_some());
        let added = if copies { of_start(true) } else { None }.unwrap_or_else(fresh);
        let source = Source { model: of_start(false).unwrap_or_else(fresh), added: plan.adds().then_some(added) };
        let made = assemble(entry, &config, &plan, source)?;
        let (model_params, added_params) = (made.source.model.params(), made.added_params());
        let Assembled { model, switches, .. } = made;
        let frozen = start.map_or_else(Vec::new, |s| s.frozen(&model_params, &added_params));
        Ok(Net { entry, config, model, model_params, switches, added_params, frozen, dropout: recipe.train.dropout })
    }

    /// All parameters that are trained.
    pub fn params(&self) -> Vec<Param> {
        let all = self.model_params.iter().chain(&self.added_params);
        all.filter(|p| !self.frozen.iter().any(|s| s == key(p))).cloned().collect()
    }

    /// A pass with gradients, under the rules of the point.
    fn pass(&self, point: &Point, input: &Input) -> Result<Passed> {
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let Resolved { point, mut rules } = self.switches.resolve(point)?;
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        (cx.train, cx.dropout, cx.moments) = (true, self.dropout, Some(Vec::new()));
        let heard = Arc::new(Mutex::new(Vec::new()));
        rules.push(Box::new(Answers { switches: self.switches.clone(), heard: heard.clone() }));
        let out = staged::run(self.model.trunk(), &rules, &mut cx, input)?;
        let mut answers = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        answers.push(out);
        Ok(Passed { answers, aux: cx.aux_loss()?, moments: cx.moments.take().unwrap_or_default() })
    }

    /// The loss of a batch: the mean over its points of the task's loss, pulls between answers, and what leaves ask for.
    pub fn loss(&self, task: &dyn Task, batch: &Batch, sampled: &Sampled) -> Result<Loss> {
        let passes: Vec<Passed> =
            sampled.points.iter().map(|p| self.pass(&batch.at(p), &batch.input)).collect::<Result<_>>()?;
        let (mut total, mut terms) = (Sum::default(), BTreeMap::new());
        for (i, pass) in passes.iter().enumerate() {
            let taught: f64 = sampled.pulls.iter().map(|p| share_taught(p, i)).sum();
            if taught < 1.0 {
                let own = over_exits(&pass.answers, |out, share| {
                    let losses = task.loss(out, batch)?;
                    for t in losses.terms() {
                        let share = share * (1.0 - taught) * t.weight / passes.len() as f64;
                        *terms.entry(t.name).or_default() += share * f64::from(t.value.to_scalar::<f32>()?);
                    }
                    losses.total()
                })?;
                total.add(own, 1.0 - taught)?;
            }
            if let Some(aux) = &pass.aux {
                total.add(aux.clone(), 1.0)?;
            }
        }
        for pull in &sampled.pulls {
            match *pull {
                Pull::Distill { weight: 0.0, .. } | Pull::Mutual { weight: 0.0, .. } => {}
                Pull::Distill { from, to, weight } => {
                    let teacher: Vec<Tensor> =
                        task.scores(own(&passes[from])?)?.iter().map(softmax).collect::<Result<_>>()?;
                    let taught = |out: &Output, _| {
                        let scores = task.scores(out)?;
                        summed(scores.iter().zip(&teacher).map(|(own, teacher)| cross_entropy(own, teacher)))
                    };
                    total.add(over_exits(&passes[to].answers, taught)?, weight)?;
                }
                Pull::Mutual { a, b, weight } => {
                    let (a, b) = (task.scores(own(&passes[a])?)?, task.scores(own(&passes[b])?)?);
                    total.add(summed(a.iter().zip(&b).map(|(a, b)| symmetric_kl(a, b)))?, weight)?;
                }
            }
        }
        let value = (total.take().ok_or_else(nothing)? / passes.len() as f64)?;
        Ok(Loss { value, terms, moments: passes.into_iter().flat_map(|p| p.moments).collect() })
    }

    /// Takes what batch norms saw into their kept statistics; those of frozen tensors stay.
    pub fn keep(&self, moments: &[Moments]) -> Result<()> {
        let of = |id| self.model_params.iter().find(|p| p.var.as_tensor().id() == id);
        for (id, new) in moments.iter().flat_map(|m| m.of.iter().zip(&m.values)) {
            let Some(p) = of(*id) else { continue };
            let mut kept: Vec<f32> = p.var.flatten_all()?.to_vec1()?;
            kept.iter_mut().zip(new).for_each(|(k, n)| *k += MOMENTUM * (n - *k));
            p.var.set(&Tensor::from_vec(kept, p.var.dims())?)?;
        }
        Ok(())
    }

    /// The task's loss at a point without gradients: mean over batches by their weight.
    pub fn valid(&self, task: &dyn Task, batches: &[Batch], point: &Point) -> Result<f64> {
        let (mut sum, mut weight) = (0f64, 0f64);
        for batch in batches {
            let (mut taps, mut trace) = (Taps::none(), Trace::default());
            let Resolved { point, rules } = self.switches.resolve(&batch.at(point))?;
            let mut cx = Ctx::new(&point, &mut taps, &mut trace);
            let out = staged::run(self.model.trunk(), &rules, &mut cx, &batch.input)?;
            let loss = task.loss(&out, batch)?.total()?;
            sum += f64::from(loss.to_scalar::<f32>()?) * batch.weight;
            weight += batch.weight;
        }
        Ok(sum / if weight > 0.0 { weight } else { 1.0 })
    }
}

/// A checkpoint that training starts from.
struct StartFrom<'a> {
    start: &'a recipe::Start,
    entry: &'static Entry,
    config: ConfigMap,
    files: Files,
}

impl<'a> StartFrom<'a> {
    fn read(start: &'a recipe::Start) -> Result<Self> {
        let folder = Folder::disk(&start.folder)?;
        let (entry, config) = read_config(&folder)?;
        let plan = Plan::read(&folder, &config)?;
        // Points and provenance change no tensor.
        if !plan.stored().is_empty() {
            let what = format!("{} has switches of its own; start from a plain checkpoint", start.folder.display());
            return Err(Error::config("start.folder", what));
        }
        let files = Files::open(&folder, &entry.names)?;
        Ok(StartFrom { start, entry, config, files })
    }

    /// The model's tensors, or those of the experts that are added to it.
    fn weights(&self, seed: u64, deviation: f32, experts: bool) -> Weights {
        let mut fresh = self.start.fresh.clone();
        if experts {
            fresh.extend([format!(".{ADDED}.router"), "exits".into()]);
        }
        let copy_of = experts.then_some(dense_twin as fn(&str) -> Option<String>);
        let frozen = self.start.frozen.clone();
        Weights::start(self.files.clone(), Start { fresh, frozen, seed, deviation, copy_of })
    }

    /// Names of the parameters that stay as they are.
    fn frozen(&self, model: &[Param], added: &[Param]) -> Vec<String> {
        let start = Start { frozen: self.start.frozen.clone(), ..Start::default() };
        let names = model.iter().chain(added).map(key);
        names.filter(|n| start.is_frozen(n)).map(str::to_string).collect()
    }
}

/// The share of a point's loss that a teacher has.
fn share_taught(pull: &Pull, point: usize) -> f64 {
    match pull {
        Pull::Distill { to, weight, .. } if *to == point => *weight,
        _ => 0.0,
    }
}

fn nothing() -> Error {
    Error::config("loss", "has no term")
}

/// The model's own answer.
fn own(pass: &Passed) -> Result<&Output> {
    pass.answers.last().ok_or_else(nothing)
}

/// The sum of losses, such as one for every head.
fn summed(losses: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    let mut sum = Sum::default();
    for loss in losses {
        sum.add(loss?, 1.0)?;
    }
    sum.take().ok_or_else(nothing)
}

/// Mean over exits of a loss, deeper exits weighing more (linearly, as ECO-M2F does); `loss` is told its share.
fn over_exits(answers: &[Output], mut loss: impl FnMut(&Output, f64) -> Result<Tensor>) -> Result<Tensor> {
    let total: usize = (1..=answers.len()).sum();
    let mut sum = Sum::default();
    for (i, out) in answers.iter().enumerate() {
        let share = (i + 1) as f64 / total as f64;
        sum.add(loss(out, share)?, share)?;
    }
    sum.take().ok_or_else(nothing)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Map;
    use switchformer_nn::record;
    use switchformer_zoo::Opened;

    use crate::points::sample;
    use crate::task::{Figures, Target};

    /// Two fixed pairs of texts.
    struct Fixed;

    impl Task for Fixed {
        fn unit(&self) -> &'static str {
            "tokens"
        }
        fn complete(&self, model: &mut Map<String, Value>) {
            model.insert("vocab_size".into(), 20.into());
        }
        fn batch(&mut self, _: u64) -> Result<Batch> {
            let source = Input::tokens(&[vec![5, 9, 3, 12, 7, 1], vec![8, 4, 17, 1]])?;
            let target = Input::tokens(&[vec![0, 6, 11], vec![0, 19, 2, 14]])?;
            Ok(Batch {
                input: Input::pair(source, target)?,
                target: Target::classes(vec![6, 11, 1, 19, 2, 14, 1]).smoothed(0.1),
                weight: 7.0,
                size: 17,
                task: None,
            })
        }
        fn valid(&self) -> Result<Vec<Batch>> {
            Ok(Vec::new())
        }
        fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
            Ok(Vec::new())
        }
        fn measure(&self, _: &Opened, _: &Point) -> Result<Figures> {
            Ok(Figures::new())
        }
    }

    fn recipe(model: &str, rest: &str) -> Recipe {
        let text = format!(
            "name = \"x\"\n[model]\nmodel_type = \"switch_transformers\"\nd_model = 16\nd_kv = 8\nd_ff = 24\n\
             num_heads = 2\nnum_layers = 2\nnum_decoder_layers = 2\nnum_sparse_encoder_layers = 1\n\
             num_sparse_decoder_layers = 1\nrouter_jitter_noise = 0.0\n{model}\n\
             [data]\nset = \"debian\"\n[train]\nsteps = 1\nbatch = 1\nlr = 1.0\nwarmup = 0\n{rest}"
        );
        toml::from_str(&text).unwrap()
    }

    fn loss_of(net: &Net, recipe: &Recipe, step: u64) -> f64 {
        let batch = Fixed.batch(0).unwrap();
        let loss = net.loss(&Fixed, &batch, &sample(recipe, step, 0).unwrap()).unwrap().value;
        loss.to_scalar::<f32>().unwrap().into()
    }

    /// Gradients on the tape at the routers, and by differences of the loss.
    fn router_gradients(recipe: &Recipe) -> (Vec<f64>, Vec<f64>) {
        let net = Net::new(recipe, &Fixed).unwrap();
        let batch = Fixed.batch(0).unwrap();
        let (loss, tape) =
            record(|| net.loss(&Fixed, &batch, &sample(recipe, 3, 0).unwrap()).map(|l| l.value)).unwrap();
        let grads = tape.backward(&loss).unwrap();
        let (mut exact, mut near) = (Vec::new(), Vec::new());
        let routers = net.model_params.iter().filter(|p| p.names[0].0.contains("router"));
        for p in routers {
            let g = grads.get(p.var.as_tensor()).map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
            exact.extend(g.unwrap_or_else(|| vec![0.0; p.var.elem_count()]).into_iter().map(f64::from));
            let own: Vec<f32> = p.var.flatten_all().unwrap().to_vec1().unwrap();
            for i in 0..own.len() {
                let at = |by: f32| {
                    let mut moved = own.clone();
                    moved[i] += by;
                    p.var.set(&Tensor::from_vec(moved, p.var.dims()).unwrap()).unwrap();
                    loss_of(&net, recipe, 3)
                };
                near.push((at(4e-3) - at(-4e-3)) / 8e-3);
                at(0.0);
            }
        }
        (exact, near)
    }

    #[test]
    fn the_losses_of_routers_are_differentiated() {
        let model =
            |share: f64| format!("num_experts = 3\nrouter_aux_loss_coef = {share:?}\nrouter_z_loss_coef = {share:?}");
        let (with, near) = router_gradients(&recipe(&model(0.5), ""));
        let (without, _) = router_gradients(&recipe(&model(0.0), ""));
        assert_eq!(with.len(), 2 * 3 * 16);
        with.iter().zip(&near).for_each(|(a, b)| assert!((a - b).abs() < 2e-3 + 0.02 * a.abs(), "{a} {b}"));
        let moved = with.iter().zip(&without).filter(|(a, b)| (*a - *b).abs() > 1e-3).count();
        assert!(moved > 48, "{moved} of 96 gradients depend on the losses of routers");
    }

    #[test]
    fn equal_experts_agree_and_different_ones_are_drawn_together() {
        let model = "num_experts = 4\nrouter_aux_loss_coef = 0.0\nrouter_z_loss_coef = 0.0";
        let random = "[switch]\ndraws = 2\nexperts = { router = \"random\" }\n";
        let alone = recipe(model, random);
        let drawn = recipe(model, &format!("{random}agree = 5.0\n"));
        let net = Net::new(&alone, &Fixed).unwrap();
        let gaps = |net: &Net| (0..8).map(|s| loss_of(net, &drawn, s) - loss_of(net, &alone, s)).collect::<Vec<_>>();
        assert!(gaps(&net).iter().all(|g| *g >= -1e-6) && gaps(&net).iter().any(|g| *g > 1e-3), "{:?}", gaps(&net));
        // Each expert becomes the first of its bank.
        for p in &net.model_params {
            let name = &p.names[0].0;
            if let Some((bank, rest)) = name.split_once(".expert_") {
                let first = format!("{bank}.expert_0.{}", rest.split_once('.').unwrap().1);
                let source = net.model_params.iter().find(|q| q.names[0].0 == first).unwrap();
                p.var.set(source.var.as_tensor()).unwrap();
            }
        }
        assert!(gaps(&net).iter().all(|g| g.abs() < 1e-6), "{:?}", gaps(&net));
    }

    #[test]
    fn dropout_is_drawn_by_step_and_refused_where_there_is_no_place_for_it() {
        let recipe = recipe("num_experts = 1", "dropout = 0.3");
        let net = Net::new(&recipe, &Fixed).unwrap();
        let at = |step| loss_of(&net, &recipe, step);
        assert!(at(1) == at(1) && at(1) != at(2));
        let frozen = Net { dropout: 0.0, ..Net::new(&recipe, &Fixed).unwrap() };
        assert_eq!(loss_of(&frozen, &recipe, 1), loss_of(&frozen, &recipe, 2));
    }
}
