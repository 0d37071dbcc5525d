//! What follows a product while its rows are still in the cache.

use switchformer_tensor::Tensor;

use super::{Activation, activation, add};
use crate::error::Result;

/// What follows a projection: `act(projection) * gate + residual`, each part only where given. A leaf may apply it
/// while the result is still in the cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Applied first.
    pub act: Option<Activation>,
    /// Multiplied element by element, `[rows, out]`.
    pub gate: Option<&'a Tensor>,
    /// Added last, `[rows, out]`.
    pub residual: Option<&'a Tensor>,
}

impl Epilogue<'_> {
    /// One operation after the other. Shapes: y `[rows, out]` -> `[rows, out]`.
    pub fn apply(&self, mut y: Tensor) -> Result<Tensor> {
        if let Some(act) = self.act {
            y = activation(&y, act)?;
        }
        if let Some(gate) = self.gate {
            y = (y * gate)?;
        }
        if let Some(residual) = self.residual {
            y = add(residual, &y)?;
        }
        Ok(y)
    }
}
