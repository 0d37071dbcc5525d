//! Steps of an optimiser on parameters in place.

use std::sync::Mutex;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result as CandleResult, Tensor, Var};
use switchformer_kernels::optim;

use super::fused::{values, values_mut, with};
use crate::error::Result;

/// Numbers of one AdamW step.
#[derive(Clone, Copy, Debug)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Factor of the gradients (clipping).
    pub scale: f64,
    /// Steps from 1.
    pub step: u64,
}

struct AdamWOp<'a> {
    numbers: AdamWStep,
    moments: Mutex<(&'a mut [f32], &'a mut [f32])>,
}

impl InplaceOp2 for AdamWOp<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }
    fn cpu_fwd(&self, w: &mut CpuStorage, lw: &Layout, g: &CpuStorage, lg: &Layout) -> CandleResult<()> {
        let (n, g) = (self.numbers, values(g, lg)?);
        let Ok(mut moments) = self.moments.lock() else { candle_core::bail!("an optimiser step was interrupted") };
        let (m, v) = &mut *moments;
        let w = values_mut(w, lw)?;
        if w.len() != g.len() || w.len() != m.len() || w.len() != v.len() {
            candle_core::bail!("moments of another size: {} for {} values", m.len(), w.len());
        }
        optim::adamw_step(
            w,
            g,
            n.scale as f32,
            m,
            v,
            n.lr as f32,
            n.beta1 as f32,
            n.beta2 as f32,
            n.eps as f32,
            n.weight_decay as f32,
            n.step,
        );
        Ok(())
    }
}

/// AdamW (arXiv 1711.05101) on one parameter, in place. Shapes: grad as the parameter, `m` and `v` as many values.
pub fn adamw(param: &Var, grad: &Tensor, m: &mut [f32], v: &mut [f32], numbers: AdamWStep) -> Result<()> {
    let op = AdamWOp { numbers, moments: Mutex::new((m, v)) };
    Ok(param.as_tensor().inplace_op2(&grad.contiguous()?, &op)?)
}

/// Sum of squares of a tensor, in f64; the same on any number of threads.
pub fn sum_squares(t: &Tensor) -> Result<f64> {
    Ok(with([t], |[t]| optim::sum_squares(t))?)
}
