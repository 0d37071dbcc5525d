//! The command line: parse, call, print, write files. Everything else lives in the library crates.

mod cmd;
mod fail;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use switchformer_nn::error::visible;
use switchformer_nn::machine::{self, Isa};

use crate::fail::Fail;

/// Transformers that switch. One checkpoint, many operating points, chosen at run time.
#[derive(Parser)]
#[command(name = "switchformer", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Threads of the kernels [default: all the process may use]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Keep the kernels to an instruction set that this processor has, to see what a lesser one would take
    #[arg(long, global = true, value_name = "ISA", value_parser = isa)]
    isa: Option<Isa>,
    /// Print one JSON document instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

fn isa(name: &str) -> Result<Isa, String> {
    let all = machine::available();
    let known = || all.iter().map(Isa::to_string).collect::<Vec<_>>().join(", ");
    all.iter().find(|i| i.to_string() == name).copied().ok_or_else(|| format!("this processor has {}", known()))
}

#[derive(Subcommand)]
enum Verb {
    /// Measure the embedded model at many operating points on real images, and write report.html
    Tour(cmd::tour::Args),
    /// List the model families and their published sizes
    List,
    /// Describe a model family
    Describe(cmd::list::Describe),
    /// Show the tensors of a checkpoint without loading it
    Inspect(cmd::inspect::Args),
    /// Run a model on text, images or tensors
    Run(cmd::run::Args),
    /// Show the switches and named points of a checkpoint
    Points(cmd::points::Args),
    /// Time a model at a point
    Bench(cmd::bench::Args),
    /// Score answers in files as the public scorers do, with an interval
    Eval(cmd::eval::Args),
    /// Train a recipe, or resume it
    Train(cmd::train::Args),
    /// Write another form of a checkpoint: folded norms, a smaller vocabulary, experts, hashed attention
    Compress(cmd::compress::Args),
    /// Turn an old PyTorch checkpoint into safetensors; nothing in it is run
    Convert(cmd::convert::Args),
    /// Check this machine and the embedded model
    Doctor,
    /// Print shell completions
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
}

/// Parses the arguments of the process, runs the command and prints. Returns the exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        eprintln!("error[bug]: {info}\nThis is a bug in Switchformer; please report it with the command you ran.");
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors; everything else is a usage error.
            let code = if e.use_stderr() { 1 } else { 0 };
            let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
            match cmd::compress::moved(&args).filter(|_| e.use_stderr()) {
                Some(hint) => eprintln!("error[usage]: {hint}"),
                None => drop(e.print()),
            }
            return ExitCode::from(code);
        }
    };
    machine::share_out(cli.threads.map(usize::from));
    if let Some(isa) = cli.isa {
        machine::limit_isa(isa);
    }
    let outcome = std::panic::catch_unwind(|| run(&cli));
    match outcome {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(fail)) => {
            if !fail.quiet() {
                eprintln!("error[{}]: {}", fail.code(), visible(&fail.to_string()));
            }
            ExitCode::from(fail.exit())
        }
        Err(_) => ExitCode::from(70),
    }
}

fn run(cli: &Cli) -> Result<(), Fail> {
    match &cli.verb {
        Verb::Tour(a) => cmd::tour::run(a, cli.json),
        Verb::List => cmd::list::list(cli.json),
        Verb::Describe(a) => cmd::list::describe(a, cli.json),
        Verb::Inspect(a) => cmd::inspect::run(a, cli.json),
        Verb::Run(a) => cmd::run::run(a, cli.json),
        Verb::Points(a) => cmd::points::run(a, cli.json),
        Verb::Bench(a) => cmd::bench::run(a, cli.json),
        Verb::Eval(a) => cmd::eval::run(a, cli.json),
        Verb::Train(a) => cmd::train::run(a, cli.json),
        Verb::Compress(a) => cmd::compress::run(a, cli.json),
        Verb::Convert(a) => cmd::convert::run(a, cli.json),
        Verb::Doctor => cmd::doctor::run(cli.json),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "switchformer", &mut script);
            cmd::print_raw(&String::from_utf8_lossy(&script))
        }
    }
}
