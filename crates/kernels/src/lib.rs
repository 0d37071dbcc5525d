#![doc = include_str!("../README.md")]
#![allow(unsafe_code)]
#![allow(clippy::too_many_arguments)]

pub mod act;
pub mod attention;
pub mod axis;
pub mod buffer;
pub mod conv;
mod dispatch;
pub mod elementwise;
pub mod gemm;
pub mod isa;
mod math;
pub mod mix;
pub mod nested;
pub mod norm;
pub mod optim;
pub mod pool;
pub mod quant;
pub mod reference;
pub mod rotary;
pub mod rows;
mod simd;
#[cfg(target_arch = "x86_64")]
mod simd_x86;
pub mod softmax;
pub mod threads;

pub use attention::{
    Attend, Bias, Keys, Packed, PairPlaces, Positions, QkvGrad, Rows, RowsMut, Slab, Zones, attend, attend_backward,
    attend_probs, attend_probs_mean, attention, attention_backward, attention_probs, pair_scores, pair_scores_backward,
};
pub use buffer::unfilled;
pub use conv::{Depthwise, depthwise, depthwise_backward};
pub use elementwise::{add, add_in_place, mul};
pub use gemm::{
    Act, Epilogue, Layout, PackedMatrix, gemm, linear, linear_backward, linear_fused, linear_grouped, linear_packed,
    packed_bytes,
};
pub use norm::{
    layer_norm, layer_norm_backward, layer_norm_residual, layer_norm_residual_backward, rms_norm, rms_norm_backward,
    rms_norm_residual, rms_norm_residual_backward,
};
pub use rotary::{Pairs, Rotary, rotary, rotary_backward};
pub use softmax::{softmax, softmax_backward};
pub use threads::{set_threads, threads};
