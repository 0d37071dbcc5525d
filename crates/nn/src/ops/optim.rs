//! Steps of an optimiser on parameters in place.

use switchformer_kernels::optim;
use switchformer_tensor::{Tensor, Var};

use super::fused::with;
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

/// AdamW (arXiv 1711.05101) on one parameter, in place. Shapes: grad as the parameter, `m` and `v` as many values.
pub fn adamw(param: &Var, grad: &Tensor, m: &mut [f32], v: &mut [f32], numbers: AdamWStep) -> Result<()> {
    let n = numbers;
    if [grad.elem_count(), m.len(), v.len()].iter().any(|len| *len != param.elem_count()) {
        switchformer_tensor::bail!("moments of another size: {} for {} values", m.len(), param.elem_count());
    }
    with([grad], |[g]| {
        param.change(|w: &mut [f32]| {
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
        })
    })??;
    Ok(())
}

/// Sum of squares of a tensor, in f64; the same on any number of threads.
pub fn sum_squares(t: &Tensor) -> Result<f64> {
    with([t], |[t]| optim::sum_squares(t))
}
