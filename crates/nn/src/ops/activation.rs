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

/// Which half of a gated projection goes through the activation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GateSide {
    /// The gate, then the value.
    #[default]
    First,
    /// The value, then the gate.
    Second,
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

    /// `act(gate) * value` of the two side by side. Shapes: both `[rows, 2 * hidden]` -> `[rows, hidden]`.
    pub fn gate(self, both: &Tensor, gate: GateSide) -> Result<Tensor> {
        let [first, second] = split(both)?;
        match gate {
            GateSide::First => times(&self.forward(&first)?, &second),
            GateSide::Second => times(&self.forward(&second)?, &first),
        }
    }
}
