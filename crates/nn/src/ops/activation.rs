//! Activations.

use switchformer_tensor::Tensor;

use super::{activation, split, times};
use crate::error::{Error, Result};

/// Activations by their Hugging Face names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `gelu`: the exact error function.
    Gelu,
    /// `gelu_new`, `gelu_pytorch_tanh`: the tanh approximation.
    GeluTanh,
    /// `quick_gelu`: `x sigmoid(1.702 x)`.
    GeluQuick,
    /// `relu`.
    Relu,
    /// `silu`, `swish`.
    Silu,
    /// `tanh`.
    Tanh,
}

impl Activation {
    /// Reads a config value; others are refused by name.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        Ok(match name {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
            "quick_gelu" => Activation::GeluQuick,
            "relu" => Activation::Relu,
            "silu" | "swish" => Activation::Silu,
            "tanh" => Activation::Tanh,
            other => {
                return Err(Error::unsupported(
                    field,
                    other,
                    "gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu, silu, swish, tanh",
                ));
            }
        })
    }

    /// Element by element.
    pub fn forward(self, x: &Tensor) -> Result<Tensor> {
        activation(x, self)
    }

    /// `act(gate) * up` of the two side by side. Shapes: both `[rows, 2 * hidden]` -> `[rows, hidden]`.
    pub fn gate(self, both: &Tensor) -> Result<Tensor> {
        let [gate, up] = split(both)?;
        times(&self.forward(&gate)?, &up)
    }
}
