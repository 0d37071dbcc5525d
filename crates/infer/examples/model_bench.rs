//! Time of a forward pass of published sizes with random weights, and of a token of those that write.
//!
//! `cargo run --release -p switchformer-infer --example model_bench -- swin-tiny-patch4-window7-224 t5-small`

use std::time::Instant;

use candle_core::{Device, Tensor};
use switchformer_infer::generate::{Choice, Watch, Writing, write};
use switchformer_nn::init::Stream;
use switchformer_nn::{Error, Input, InputSpec, Point, Result, machine::Pool};
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

fn tokens(vocab: usize, n: usize) -> Result<Input> {
    let mut stream = Stream::named("bench");
    let ids: Vec<u32> = (0..n).map(|_| (vocab / 2) as u32 + stream.below(vocab as u64 / 2) as u32).collect();
    Input::tokens(&[ids])
}

fn main() -> Result<()> {
    let point = Point::new();
    for name in std::env::args().skip(1) {
        let opened = Opened::random(Opened::preset(&name)?, OpenOptions::default())?;
        let input = match opened.model.spec() {
            InputSpec::Pixels { channels, size: (h, w), .. } => {
                Input::Pixels(Tensor::rand(-1f32, 1.0, (1, channels, h, w), &Device::Cpu)?)
            }
            InputSpec::Tokens { vocab, .. } => tokens(vocab, READ)?,
            InputSpec::Pair { vocab, .. } => Input::pair(tokens(vocab, READ)?, tokens(vocab, READ)?)?,
        };
        let pass = time(|| opened.run(&point, &input).map(drop))?;
        println!("{name}: pass {pass:.2} ms");
        if opened.model.decoder().is_some() {
            let Input::Pair { source, .. } = &input else { return Err(Error::input("no pair", "give a writer")) };
            let written = |max_tokens: usize| {
                time(|| {
                    let mut watch = Watch { stop: &|_| false, token: &mut |_, _| {} };
                    let how = Writing { max_tokens, choice: Choice::Greedy };
                    write(&opened, &point, source, &how, &mut watch).map(drop)
                })
            };
            let (one, all) = (written(1)?, written(1 + WRITTEN)?);
            println!("  written: {:.3} ms a token", (all - one) / WRITTEN as f64);
        }
    }
    Ok(())
}
