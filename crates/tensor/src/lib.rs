//! A small tensor: shared storage, strided views, and reverse-mode gradients of the operations that the models use.
//!
//! A tensor may be hollow: a shape without numbers, which operations pass on; see [`dry`].
//!
//! It is no framework. What is hot has a kernel and a backward pass of its own in `nn::ops`; here are the type that carries
//! numbers between them, views that copy nothing, and plain operations, each with a gradient or none to ask for: an
//! operation on whole numbers, a comparison and a largest place have no gradient and take none.

mod custom;
pub mod dry;
mod elementwise;
mod graph;
mod index;
mod product;
mod reduce;
pub mod safetensors;
mod shape;
mod storage;
mod tensor;
mod var;

pub use custom::{CustomOp1, CustomOp2, CustomOp3};
pub use graph::GradStore;
pub use shape::{D, Dim, Dims, Layout, Shape, ShapeWithHole};
pub use storage::{CpuStorage, DType, WithDType};
pub use switchformer_format::{Error, Result};
pub use tensor::{Elsewhere, NdArray, Tensor, TensorId};
pub use var::Var;

/// Leaves a function with an error about tensors.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => {
        return Err($crate::Error::tensor(format!($($arg)*)))
    };
}
