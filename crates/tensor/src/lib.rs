#![doc = include_str!("../README.md")]

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
