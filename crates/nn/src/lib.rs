#![doc = include_str!("../README.md")]

pub mod init;
pub mod layers;
pub mod maps;
pub mod ops;
mod pass;
pub mod store;
pub mod weights;

pub use layers::{attention, leaf};
pub use ops::tape;
pub use pass::{cost, ctx, decode, input, members, memory, output, path, point, rows, side, spec, staged, taps, trace};

pub use attention::{AttentionNames, AttentionSpec, HeadSite, KeptHeads};
pub use cost::{Cost, cost, cost_path};
pub use ctx::{Aux, Ctx, Moments};
pub use decode::Decode;
pub use error::{Error, Result};
pub use folder::Folder;
pub use input::{Ids, Input, Part};
pub use leaf::{Attention, Ffn, KeyValues, Linear, Mixer, Parts};
pub use members::{Member, Members};
pub use memory::{Memory, Remember};
pub use output::{Output, Value};
pub use path::{Adapter, LinearAdapter, Path, Segment, Site, run_path, walk};
pub use point::Point;
pub use rows::{Rows, Size};
pub use side::{Side, Stream};
pub use spec::{InputSpec, Kind, Slot};
pub use staged::{BlockRule, Model, Staged, State, run};
pub use switchformer_format::{account, config, error, files, folder, json, mmap, names, objects, onnx, pickle};
pub use switchformer_tensor::{DType, Tensor, Var, dry};
pub use tape::{Grads, record};
pub use taps::Taps;
pub use trace::{Decision, Trace};
pub use weights::{FfnSpec, Param, ParamKind, Weights};

/// Threads, memory and instruction set of the kernels.
pub mod machine {
    pub use switchformer_kernels::isa::{Isa, available, current as isa, limit as limit_isa};
    pub use switchformer_kernels::packed_bytes;
    pub use switchformer_kernels::pool::{Pool, PoolCount};
    pub use switchformer_kernels::threads::{set_threads, threads};

    /// Shares out the processor at the start of a program, before any thread: the kernels and the tokenizers' pool get
    /// `threads`, or all that the process may use.
    pub fn share_out(threads: Option<usize>) {
        if let Some(n) = threads {
            switchformer_kernels::threads::preset(&[("RAYON_NUM_THREADS", &n.to_string())]);
        }
        set_threads(threads.unwrap_or(0));
    }
}
