//! AdamW and the learning-rate schedule.

use std::collections::BTreeMap;

use switchformer_nn::ops::optim::{AdamWStep, adamw, sum_squares};
use switchformer_nn::{Grads, Param, ParamKind};

use crate::error::Result;

/// First-moment decay of AdamW.
const BETA1: f64 = 0.9;
/// Added to the root of the second moment.
const EPS: f64 = 1e-8;

/// Linear warm-up to `peak`, then cosine to `end`. Steps count from 0.
pub fn warmup_cosine(step: u64, steps: u64, warmup: u64, peak: f64, end: f64) -> f64 {
    if step < warmup {
        return peak * (step + 1) as f64 / warmup as f64;
    }
    let t = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
    end + (peak - end) * 0.5 * (1.0 + (std::f64::consts::PI * t.min(1.0)).cos())
}

/// Moments of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// First moment.
    pub m: Vec<f32>,
    /// Second moment.
    pub v: Vec<f32>,
}

/// AdamW (decoupled weight decay, arXiv 1711.05101) over the parameters of a model.
pub struct AdamW {
    params: Vec<Param>,
    moments: Vec<Moments>,
    beta2: f64,
    weight_decay: f64,
}

/// Stable name of a parameter: its first published name.
pub fn key(p: &Param) -> &str {
    p.names.first().map_or("", |(n, _)| n)
}

impl AdamW {
    /// Fresh moments for every parameter.
    pub fn new(params: Vec<Param>, beta2: f64, weight_decay: f64) -> Self {
        let moments = params
            .iter()
            .map(|p| Moments { m: vec![0.0; p.var.elem_count()], v: vec![0.0; p.var.elem_count()] })
            .collect();
        AdamW { params, moments, beta2, weight_decay }
    }

    /// The parameters.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Moments by parameter name.
    pub fn moments(&self) -> BTreeMap<String, Moments> {
        self.params.iter().zip(&self.moments).map(|(p, m)| (key(p).to_string(), m.clone())).collect()
    }

    /// Restores moments; lengths must match. Returns the name of the first that does not.
    pub fn restore(&mut self, mut saved: BTreeMap<String, Moments>) -> Result<(), String> {
        for (p, slot) in self.params.iter().zip(&mut self.moments) {
            let name = key(p).to_string();
            match saved.remove(&name) {
                Some(m) if m.m.len() == slot.m.len() && m.v.len() == slot.v.len() => *slot = m,
                _ => return Err(name),
            }
        }
        saved.into_keys().next().map_or(Ok(()), Err)
    }

    /// One update. Gradients are scaled down together where their joint norm exceeds `clip`. Returns the norm before.
    /// Steps count from 0.
    pub fn step(&mut self, grads: &Grads, lr: f64, clip: f64, step: u64) -> Result<f64> {
        let mut square = 0f64;
        for p in &self.params {
            square += Some(p)
                .filter(|p| p.kind != ParamKind::Buffer)
                .and_then(|p| grads.get(p.var.as_tensor()))
                .map(sum_squares)
                .transpose()?
                .unwrap_or(0.0);
        }
        let norm = square.sqrt();
        let scale = if norm > clip { clip / norm } else { 1.0 };
        for (p, moments) in self.params.iter().zip(&mut self.moments) {
            if p.kind == ParamKind::Buffer {
                continue;
            }
            let Some(grad) = grads.get(p.var.as_tensor()) else { continue };
            let decays = matches!(p.kind, ParamKind::Matrix | ParamKind::Kernel);
            let weight_decay = if decays { self.weight_decay } else { 0.0 };
            let (beta1, beta2, eps) = (BETA1, self.beta2, EPS);
            let numbers = AdamWStep { lr, beta1, beta2, eps, weight_decay, scale, step: step + 1 };
            adamw(&p.var, grad, &mut moments.m, &mut moments.v, numbers)?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedule_warms_up_and_falls() {
        let at = |s| warmup_cosine(s, 100, 10, 1.0, 0.1);
        assert!((at(0) - 0.1).abs() < 1e-12 && (at(9) - 1.0).abs() < 1e-12);
        assert!((at(55) - 0.55).abs() < 1e-9 && (at(100) - 0.1).abs() < 1e-12);
        assert!((10..100).all(|s| at(s + 1) <= at(s)));
    }
}
