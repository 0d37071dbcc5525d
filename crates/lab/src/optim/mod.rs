//! Optimisers: AdamW and Adafactor over the parameters of a model, the course of the learning rate, and a running
//! mean of the weights.

mod adafactor;
mod schedule;

use std::collections::BTreeMap;

use switchformer_nn::ops::optim::{AdamWStep, adamw, sum_squares};
use switchformer_nn::{Grads, Param, ParamKind};
use switchformer_tensor::Tensor;

use crate::error::Result;
use crate::recipe::{OptimizerKind, Train};

pub use schedule::{rate, warmup_cosine};

/// First-moment decay of AdamW.
const BETA1: f64 = 0.9;
/// Added to the root of the second moment.
const EPS: f64 = 1e-8;

/// Stable name of a parameter: its first published name.
pub fn key(p: &Param) -> &str {
    p.names.first().map_or("", |(n, _)| n)
}

/// How weights follow gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    AdamW { beta2: f64 },
    Adafactor,
}

/// What an optimiser remembers of one parameter: vectors by name (`m`, `v`, or `r`, `c`).
pub type Slots = BTreeMap<&'static str, Vec<f32>>;

/// An update rule over the parameters of a model, with decoupled weight decay.
pub struct Optimiser {
    params: Vec<Param>,
    slots: Vec<Slots>,
    rule: Rule,
    weight_decay: f64,
}

/// Gradients of several batches, averaged.
pub struct Gathered {
    sums: Vec<Option<Tensor>>,
    batches: usize,
}

impl Optimiser {
    /// The rule of a recipe, with nothing remembered yet.
    pub fn new(params: Vec<Param>, t: &Train) -> Self {
        let rule = match t.optimizer {
            OptimizerKind::Adamw => Rule::AdamW { beta2: t.beta2 },
            OptimizerKind::Adafactor => Rule::Adafactor,
        };
        Optimiser::with(params, rule, t.weight_decay)
    }

    /// AdamW (arXiv 1711.05101).
    pub fn adamw(params: Vec<Param>, beta2: f64, weight_decay: f64) -> Self {
        Optimiser::with(params, Rule::AdamW { beta2 }, weight_decay)
    }

    fn with(params: Vec<Param>, rule: Rule, weight_decay: f64) -> Self {
        let zeros = |n: usize| vec![0f32; n];
        let slots = params
            .iter()
            .map(|p| match rule {
                Rule::AdamW { .. } => Slots::from([("m", zeros(p.var.elem_count())), ("v", zeros(p.var.elem_count()))]),
                Rule::Adafactor => adafactor::slots(p.var.dims()),
            })
            .collect();
        Optimiser { params, slots, rule, weight_decay }
    }

    /// The parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// What is remembered of each parameter, in their order.
    pub fn slots(&self) -> &[Slots] {
        &self.slots
    }

    /// The same, to be restored.
    pub(crate) fn slots_mut(&mut self) -> &mut [Slots] {
        &mut self.slots
    }

    /// One update from one batch; see [`Optimiser::apply`].
    pub fn step(&mut self, grads: &Grads, lr: f64, clip: f64, step: u64) -> Result<f64> {
        let mut gathered = Gathered::new();
        gathered.add(self, grads)?;
        self.apply(&gathered, lr, clip, step)
    }

    /// One update. Gradients are scaled down together where their joint norm exceeds `clip`. Returns the norm before;
    /// where it is no number, nothing is changed. Steps count from 0.
    pub fn apply(&mut self, gathered: &Gathered, lr: f64, clip: f64, step: u64) -> Result<f64> {
        let mean = 1.0 / gathered.batches.max(1) as f64;
        let mut square = 0f64;
        for g in gathered.sums.iter().flatten() {
            square += sum_squares(g)?;
        }
        let norm = square.sqrt() * mean;
        if !norm.is_finite() {
            return Ok(norm);
        }
        let scale = if norm > clip { mean * (clip / norm) } else { mean };
        for ((p, slots), grad) in self.params.iter().zip(&mut self.slots).zip(&gathered.sums) {
            let Some(grad) = grad else { continue };
            let decays = matches!(p.kind, ParamKind::Matrix | ParamKind::Kernel);
            let weight_decay = if decays { self.weight_decay } else { 0.0 };
            match self.rule {
                Rule::AdamW { beta2 } => {
                    let numbers = AdamWStep { lr, beta1: BETA1, beta2, eps: EPS, weight_decay, scale, step: step + 1 };
                    let (mut m, mut v) = (take(slots, "m"), take(slots, "v"));
                    let done = adamw(&p.var, grad, &mut m, &mut v, numbers);
                    slots.extend([("m", m), ("v", v)]);
                    done?;
                }
                Rule::Adafactor => {
                    let numbers = adafactor::Numbers { lr, weight_decay, scale, step: step + 1 };
                    let dims = p.var.dims().to_vec();
                    let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
                    let mut w: Vec<f32> = p.var.flatten_all()?.to_vec1()?;
                    adafactor::step(&mut w, grad, &dims, slots, numbers);
                    p.var.set(&Tensor::from_vec(w, dims)?)?;
                }
            }
        }
        Ok(norm)
    }
}

fn take(slots: &mut Slots, name: &'static str) -> Vec<f32> {
    slots.remove(name).unwrap_or_default()
}

impl Default for Gathered {
    fn default() -> Self {
        Gathered::new()
    }
}

impl Gathered {
    /// No gradient yet.
    pub fn new() -> Self {
        Gathered { sums: Vec::new(), batches: 0 }
    }

    /// Adds the gradients of a batch.
    pub fn add(&mut self, optimiser: &Optimiser, grads: &Grads) -> Result<()> {
        self.sums.resize(optimiser.params.len(), None);
        self.batches += 1;
        for (p, sum) in optimiser.params.iter().zip(&mut self.sums) {
            if p.kind == ParamKind::Buffer {
                continue;
            }
            let Some(grad) = grads.get(p.var.as_tensor()) else { continue };
            *sum = Some(match sum.take() {
                Some(before) => (before + grad)?.detach(),
                None => grad.detach(),
            });
        }
        Ok(())
    }
}

/// A running mean of the weights: `mean * decay + weights * (1 - decay)` after every step, in which early steps count
/// fully (the decay is at most `(1 + step) / (10 + step)`).
pub struct Ema {
    decay: f64,
    /// One vector a parameter, in their order.
    pub(crate) values: Vec<Vec<f32>>,
}

impl Ema {
    /// Starts from the weights as they are.
    pub fn new(params: &[Param], decay: f64) -> Result<Self> {
        Ok(Ema { decay, values: snapshot(params)? })
    }

    /// Takes the weights after a step into the mean. Steps count from 1.
    pub fn follow(&mut self, params: &[Param], step: u64) -> Result<()> {
        let early = (1.0 + step as f64) / (10.0 + step as f64);
        let decay = self.decay.min(early) as f32;
        for (p, mean) in params.iter().zip(&mut self.values) {
            let w: Vec<f32> = p.var.flatten_all()?.to_vec1()?;
            mean.iter_mut().zip(w).for_each(|(m, w)| *m += (1.0 - decay) * (w - *m));
        }
        Ok(())
    }

    /// Runs `work` with the mean in the place of the weights, which return afterwards.
    pub fn instead<T>(&self, params: &[Param], work: impl FnOnce() -> Result<T>) -> Result<T> {
        let own = snapshot(params)?;
        restore(params, &self.values)?;
        let done = work();
        restore(params, &own)?;
        done
    }
}

fn snapshot(params: &[Param]) -> Result<Vec<Vec<f32>>> {
    params.iter().map(|p| Ok(p.var.flatten_all()?.to_vec1()?)).collect()
}

fn restore(params: &[Param], values: &[Vec<f32>]) -> Result<()> {
    for (p, v) in params.iter().zip(values) {
        p.var.set(&Tensor::from_vec(v.clone(), p.var.dims())?)?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use switchformer_tensor::Var;

    fn param(name: &str, values: &[f32], shape: &[usize]) -> Param {
        let var = Var::from_tensor(&Tensor::from_slice(values, shape).unwrap()).unwrap();
        Param { names: vec![(name.into(), shape[0])], var, kind: ParamKind::Matrix, saved_shape: None }
    }

    fn values(p: &Param) -> Vec<f32> {
        p.var.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn two_half_batches_are_one_whole() {
        let x = [[1f32, 2.0], [3.0, -1.0]];
        let run = |parts: &[&[[f32; 2]]]| {
            let p = param("w", &[0.5, -0.25], &[1, 2]);
            let mut o = Optimiser::adamw(vec![p.clone()], 0.999, 0.0);
            let mut gathered = Gathered::new();
            for part in parts {
                let x = Tensor::from_slice(part.as_flattened(), (part.len(), 2)).unwrap();
                let loss = x.matmul(&p.var.t().unwrap()).unwrap().sqr().unwrap().mean_all().unwrap();
                gathered.add(&o, &Grads::of(&loss).unwrap()).unwrap();
            }
            let norm = o.apply(&gathered, 0.1, 1e9, 0).unwrap();
            (values(&p), norm)
        };
        let (whole, n) = run(&[&x]);
        let (halves, m) = run(&[&x[..1], &x[1..]]);
        assert!((n - m).abs() < 1e-6);
        whole.iter().zip(&halves).for_each(|(a, b)| assert!((a - b).abs() < 1e-7, "{whole:?} {halves:?}"));
    }

    #[test]
    fn a_gradient_that_is_no_number_changes_nothing() {
        let p = param("w", &[0.5, -0.25], &[1, 2]);
        let mut o = Optimiser::adamw(vec![p.clone()], 0.999, 0.0);
        let loss = (p.var.as_tensor() * f64::NAN).unwrap().sum_all().unwrap();
        assert!(o.step(&Grads::of(&loss).unwrap(), 0.1, 1.0, 0).unwrap().is_nan());
        assert_eq!(values(&p), [0.5, -0.25]);
    }

    #[test]
    fn the_running_mean_follows_and_stands_in() {
        let p = param("w", &[1.0], &[1, 1]);
        let all = [p.clone()];
        let mut ema = Ema::new(&all, 0.5).unwrap();
        restore(&all, &[vec![3.0]]).unwrap();
        ema.follow(&all, 1_000).unwrap();
        assert_eq!(ema.values, [[2.0]]);
        assert_eq!(ema.instead(&all, || Ok(values(&p))).unwrap(), [2.0]);
        assert_eq!(values(&p), [3.0]);
    }
}
