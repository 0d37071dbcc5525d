//! Time of a forward pass of published sizes with random weights, and of a token of those that write.
//!
//! `cargo run --release -p switchformer-infer --example model_bench -- swin-tiny-patch4-window7-224 t5-small`;
//! `--isa=avx2` before the names keeps to an instruction set.

use std::time::Instant;

use switchformer_infer::generate::{Choice, GenerationConfig, Streamer, write};
use switchformer_nn::init::Stream;
use switchformer_nn::machine::{self, Pool};
use switchformer_nn::{Error, Input, Point, Result};
use switchformer_zoo::{OpenOptions, Opened};

#[global_allocator]
static POOL: Pool = Pool;

/// Tokens read by models of text.
const READ: usize = 128;
/// Tokens written by those that write.
const WRITTEN: usize = 48;

/// Median of several runs in milliseconds, after one that packs weights.
fn time(mut f: impl FnMut() -> Result<()>) -> Result<f64> {
    f()?;
    let mut taken = Vec::new();
    for _ in 0..7 {
        let start = Instant::now();
        f()?;
        taken.push(1e3 * start.elapsed().as_secs_f64());
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[taken.len() / 2])
}

fn main() -> Result<()> {
    let point = Point::new();
    for name in std::env::args().skip(1) {
        if let Some(isa) = name.strip_prefix("--isa=") {
            let known = machine::available().into_iter().find(|i| i.to_string() == isa);
            if !known.is_some_and(machine::limit_isa) {
                return Err(Error::config("--isa", format!("this processor has no {isa}")));
            }
            continue;
        }
        let opened = Opened::random(Opened::preset(&name)?, OpenOptions::default())?;
        let (spec, stream) = (opened.model.spec(), Stream::named("bench"));
        let input = Input::sample(&spec, &[READ], None, Some(&stream))?;
        let pass = time(|| opened.run(&point, &input).map(drop))?;
        println!("{name}: pass {pass:.2} ms");
        if opened.model.decoder().is_some() {
            let source = Input::sample(&spec.without("decoder_input_ids"), &[READ], None, Some(&stream))?;
            let written = |max_tokens: usize| {
                time(|| {
                    let mut streamer = Streamer { stop: &|_| false, token: &mut |_, _| {} };
                    let how = GenerationConfig::new(max_tokens, Choice::Greedy);
                    write(&opened, &point, &source, &how, &mut streamer).map(drop)
                })
            };
            let (one, all) = (written(1)?, written(1 + WRITTEN)?);
            println!("  written: {:.3} ms a token", (all - one) / WRITTEN as f64);
        }
    }
    Ok(())
}
