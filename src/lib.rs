//! Switchformer: Transformers that switch. One checkpoint, many operating points, chosen at run time.
//!
//! This crate is the facade: each room of the workspace under its own name.

pub use switchformer_compress as compress;
pub use switchformer_data as data;
pub use switchformer_infer as infer;
pub use switchformer_lab as lab;
pub use switchformer_nn as nn;
pub use switchformer_switch as switch;
pub use switchformer_zoo as zoo;
