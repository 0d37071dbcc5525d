//! The binary: the command line of `switchformer-cli`.

use std::process::ExitCode;

/// Large buffers are kept from one pass to the next.
#[global_allocator]
static POOL: switchformer::nn::machine::Pool = switchformer::nn::machine::Pool;

fn main() -> ExitCode {
    switchformer_cli::main()
}
