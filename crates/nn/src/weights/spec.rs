//! What a model file asks the loader for, and who decides the form that it gets.

use super::Weights;
use crate::attention::AttentionSpec;
use crate::error::Result;
use crate::layers::{Activation, Embedding, GateSide};
use crate::leaf::{Attention, Ffn, Linear};
use crate::rows::Size;

/// The projection a model file asks for; the loader decides its form.
#[derive(Clone, Copy, Debug)]
pub struct LinearSpec<'a> {
    /// Published names of the parts, stacked along the output (`["query", "key", "value"]`).
    pub parts: &'a [&'a str],
    /// Name under which another generation stores all parts in one tensor.
    pub fused: Option<&'a str>,
    /// Input width.
    pub in_dim: usize,
    /// Output width of each part.
    pub out_dim: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

/// The feed-forward network a model file asks for; the loader decides its form.
#[derive(Clone, Copy, Debug)]
pub struct FfnSpec<'a> {
    /// Published name of the projection to the hidden width; two where the network is gated. Two of one name are stored as
    /// one tensor, one part behind the other.
    pub inner: &'a [&'a str],
    /// Which of the two parts is the gate.
    pub gate: GateSide,
    /// Published name of the projection back.
    pub outer: &'a str,
    /// Width of the rows.
    pub dim: usize,
    /// Hidden width.
    pub hidden: usize,
    /// Activation.
    pub act: Activation,
    /// Whether the projections to the hidden width and back have biases.
    pub bias: [bool; 2],
}

impl<'a> FfnSpec<'a> {
    /// A network of rows of `dim` and hidden rows of `hidden` numbers, with biases; where it is gated, the gate comes first.
    pub const fn new(inner: &'a [&'a str], outer: &'a str, [dim, hidden]: [usize; 2], act: Activation) -> Self {
        FfnSpec { inner, gate: GateSide::First, outer, dim, hidden, act, bias: [true; 2] }
    }

    /// The projection to the hidden width, as it is stored.
    pub fn stored(&self) -> LinearSpec<'a> {
        let one = matches!(self.inner, [gate, value] if gate == value);
        let (parts, out_dim) = if one { (&self.inner[..1], 2 * self.hidden) } else { (self.inner, self.hidden) };
        LinearSpec { parts, fused: None, in_dim: self.dim, out_dim, bias: self.bias[0] }
    }

    /// The projection back, as it is stored.
    pub fn back(&'a self) -> LinearSpec<'a> {
        let parts = std::slice::from_ref(&self.outer);
        LinearSpec { parts, fused: None, in_dim: self.hidden, out_dim: self.dim, bias: self.bias[1] }
    }
}

/// The projection of the patches of an image, stored as a convolution `[dim, channels, height, width]`; the loader decides
/// its form.
#[derive(Clone, Copy, Debug)]
pub struct PatchSpec<'a> {
    /// Published name of the convolution.
    pub name: &'a str,
    /// Channels of the image.
    pub channels: usize,
    /// Height and width of a patch.
    pub patch: Size,
    /// Output width.
    pub dim: usize,
    /// Whether there is a bias.
    pub bias: bool,
}

/// The product with a table that a model also looks up (a tied head); the loader decides its form.
#[derive(Clone, Copy, Debug)]
pub struct TiedSpec<'a> {
    /// Published name that the product has where a file repeats the table.
    pub name: &'a str,
    /// The table.
    pub table: &'a Embedding,
    /// Published name of the bias.
    pub bias: Option<&'a str>,
}

/// Decides the form of leaves (dense, nested integers, experts, ...). Lives in the plan of a checkpoint.
pub trait LeafMaker: Send + Sync {
    /// The leaf for a projection, or `None` for the dense default.
    fn linear(&self, w: &Weights, spec: &LinearSpec) -> Result<Option<Box<dyn Linear>>>;
    /// The leaf for a feed-forward network, or `None` for the dense default.
    fn ffn(&self, w: &Weights, spec: &FfnSpec) -> Result<Option<Box<dyn Ffn>>> {
        let _ = (w, spec);
        Ok(None)
    }
    /// The leaf for a projection of patches, or `None` for the dense default.
    fn patches(&self, w: &Weights, spec: &PatchSpec) -> Result<Option<Box<dyn Linear>>> {
        let _ = (w, spec);
        Ok(None)
    }
    /// The leaf for a tied head, or `None` for the product with the table itself.
    fn tied(&self, w: &Weights, spec: &TiedSpec) -> Result<Option<Box<dyn Linear>>> {
        let _ = (w, spec);
        Ok(None)
    }
    /// The leaf for an attention, or `None` for softmax attention between projections that are leaves themselves.
    fn attention(&self, w: &Weights, spec: &AttentionSpec) -> Result<Option<Box<dyn Attention>>> {
        let _ = (w, spec);
        Ok(None)
    }
}
