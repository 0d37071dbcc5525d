#![doc = include_str!("../README.md")]

mod cmd;
mod fail;
mod help;
mod model;
mod say;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::{ContextKind, ErrorKind};
use clap::{FromArgMatches, Parser, Subcommand};
use switchformer_nn::machine::{self, Isa};

use crate::fail::Fail;

/// Heading of the options that go with every command.
const COMMON: &str = "Common options";

/// Run, measure, shrink and train Transformers that switch: one checkpoint, many operating points, chosen at run time.
#[derive(Parser)]
#[command(name = "switchformer", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Threads to compute with [default: all that the process may use]
    #[arg(long, global = true, help_heading = COMMON, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Use no better instruction set than this one (scalar, avx2 or avx512), to see what a lesser processor would take
    #[arg(long, global = true, help_heading = COMMON, value_name = "ISA", value_parser = isa)]
    isa: Option<Isa>,
    /// Print one JSON document instead of text; errors are JSON too
    #[arg(long, global = true, help_heading = COMMON)]
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
    /// Run a model on text, images or tensors
    Run(Box<cmd::run::Args>),
    /// Measure a model at many operating points, and write report.html
    Tour(cmd::tour::Args),
    /// Time a model at one point
    Bench(cmd::bench::Args),
    /// Score predictions against references (as sacreBLEU, SQuAD and scikit-learn do), with confidence intervals
    Eval(cmd::eval::Args),
    /// Write another form of a checkpoint: folded norms, a smaller vocabulary, experts, hashed attention
    Compress(cmd::compress::Args),
    /// Convert a PyTorch checkpoint or an ONNX model to safetensors, without running what is in it
    Convert(cmd::convert::Args),
    /// Train a recipe, or resume it
    Train(cmd::train::Args),
    /// List the model families and their published sizes
    #[command(after_help = "Example:\n  switchformer list")]
    List,
    /// Describe a family, a published size or a folder: parameters and cost
    Describe(cmd::list::Describe),
    /// Show the switches of a model and the names of its points
    Points(cmd::points::Args),
    /// Show the tensors of a checkpoint without loading it, or the memory it takes
    Inspect(cmd::inspect::Args),
    /// Check this machine and the embedded model
    #[command(after_help = "Example:\n  switchformer doctor")]
    Doctor,
    /// Show help on a command or a topic
    Help(help::Args),
    /// Print shell completions
    #[command(after_help = "Example:\n  switchformer completions bash")]
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print or write the man pages
    #[command(after_help = "Example:\n  switchformer man --out man")]
    Man(help::Man),
}

/// Parses the arguments of the process, runs the command and prints. Returns the exit code.
pub fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| {
        let message = format!("{info}\nThis is a bug in Switchformer; please report it with the command you ran.");
        say::failed("bug", 70, &message);
    }));
    let args: Vec<OsString> = std::env::args_os().collect();
    say::in_json(args.iter().take_while(|a| *a != "--").any(|a| a == "--json"));
    let command = help::command::<Cli>();
    let cli = match command.try_get_matches_from(&args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(e) => return misread(e, &args),
    };
    machine::share_out(cli.threads.map(usize::from));
    let here = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
    if let Some(n) = cli.threads.map(usize::from).filter(|n| *n > here) {
        say::note(&format!("{n} threads on {here} processors: more threads than processors are slower, not faster"));
    }
    if let Some(isa) = cli.isa {
        machine::limit_isa(isa);
    }
    match std::panic::catch_unwind(|| run(&cli)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(fail)) => {
            if !fail.quiet() {
                say::failed(fail.code(), fail.exit(), &fail.to_string());
            }
            ExitCode::from(fail.exit())
        }
        Err(_) => ExitCode::from(70),
    }
}

/// Arguments that are none: help and version are no errors, everything else is wrong use.
fn misread(mut e: clap::Error, args: &[OsString]) -> ExitCode {
    if !e.use_stderr() {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    // The tip to write `-- --flag` is right for no command here.
    e.remove(ContextKind::Suggested);
    let words: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let text = match cmd::compress::moved(&words) {
        Some(hint) => hint,
        None => {
            let text = e.render().to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end().to_string();
            let greedy = words.iter().any(|w| w == "--text" || w == "--image" || w == "--ref");
            match e.kind() {
                ErrorKind::MissingRequiredArgument if greedy && text.contains("<MODEL>") => {
                    format!("{text}\n\n--text and --image take all that follows: write MODEL before them")
                }
                _ => text,
            }
        }
    };
    let fail = Fail::Usage(text);
    say::failed(fail.code(), fail.exit(), &fail.to_string());
    ExitCode::from(fail.exit())
}

fn run(cli: &Cli) -> Result<(), Fail> {
    match &cli.verb {
        Verb::Run(a) => cmd::run::run(a, cli.json),
        Verb::Tour(a) => cmd::tour::run(a, cli.json),
        Verb::Bench(a) => cmd::bench::run(a, cli.json),
        Verb::Eval(a) => cmd::eval::run(a, cli.json),
        Verb::Compress(a) => cmd::compress::run(a, cli.json),
        Verb::Convert(a) => cmd::convert::run(a, cli.json),
        Verb::Train(a) => cmd::train::run(a, cli.json),
        Verb::List => cmd::list::list(cli.json),
        Verb::Describe(a) => cmd::list::describe(a, cli.json),
        Verb::Points(a) => cmd::points::run(a, cli.json),
        Verb::Inspect(a) => cmd::inspect::run(a, cli.json),
        Verb::Doctor => cmd::doctor::run(cli.json),
        Verb::Help(a) => help::run(a, help::command::<Cli>()),
        Verb::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut help::command::<Cli>(), "switchformer", &mut script);
            cmd::print_raw(&String::from_utf8_lossy(&script))
        }
        Verb::Man(a) => help::man(a, help::command::<Cli>()),
    }
}
