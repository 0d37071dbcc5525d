//! `bench`: how long a forward pass takes.

use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde_json::json;
use switchformer::lab::measure::time;
use switchformer::nn::init::Stream;
use switchformer::nn::{Input, InputSpec, json::read_capped, machine};
use switchformer::zoo::Opened;

use super::table::aligned;
use super::{open, print, print_json};
use crate::fail::Fail;

/// `bench MODEL`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `default`, a model folder, or a published size (random weights)
    model: String,
    /// Operating point: a name of the checkpoint, or JSON
    #[arg(long)]
    point: Option<String>,
    /// Batch sizes
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8])]
    batch: Vec<usize>,
    /// Tokens per text
    #[arg(long, value_delimiter = ',', default_values_t = [16, 128])]
    seq: Vec<usize>,
    /// File with one sequence length per line: one ragged batch instead of --batch and --seq
    #[arg(long, value_name = "FILE")]
    lengths: Option<PathBuf>,
    /// Runs before timing
    #[arg(long, default_value_t = 2)]
    warmup: usize,
    /// Timed runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    iters: u32,
    /// Quantise dense projections to nested 8-bit codes on opening
    #[arg(long)]
    nested: bool,
}

/// Times every case and prints median, fastest, slowest and throughput.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    let (opened, _) = open(&a.model, a.nested)?;
    let point = opened.point(a.point.as_deref())?;
    let mut results = Vec::new();
    for (name, input, items) in cases(a, &opened)? {
        let macs = opened.run(&point, &input)?.1.macs;
        let t = time(a.warmup, a.iters as usize, || opened.run(&point, &input).map(|_| ()))?;
        results.push((name, items, macs, t));
    }
    if as_json {
        let rows: Vec<_> = results
            .iter()
            .map(|(name, items, macs, t)| {
                json!({"case": name, "items": items, "macs": macs, "ms_median": t[0], "ms_min": t[1], "ms_max": t[2]})
            })
            .collect();
        return print_json(&json!({
            "model": a.model, "point": point, "threads": machine::threads(), "iters": a.iters, "cases": rows,
        }));
    }
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|(name, items, macs, [mid, min, max])| {
            vec![
                name.clone(),
                format!("{mid:.3}"),
                format!("{min:.3}"),
                format!("{max:.3}"),
                format!("{:.1}", *items as f64 / mid * 1e3),
                format!("{:.2}", *macs as f64 / 1e9),
                format!("{:.1}", *macs as f64 / mid / 1e6),
            ]
        })
        .collect();
    let unit = if matches!(opened.model.spec(), InputSpec::Pixels { .. }) { "images/s" } else { "tokens/s" };
    let header = ["case", "ms median", "min", "max", unit, "GMAC", "GMAC/s"];
    print(&format!("{} at {point}, {} threads\n{}", a.model, machine::threads(), aligned(&header, &rows, 1)))
}

/// Name, input and number of items (tokens or images) of each case.
fn cases(a: &Args, opened: &Opened) -> Result<Vec<(String, Input, usize)>, Fail> {
    let mut all = Vec::new();
    match opened.model.spec() {
        InputSpec::Pixels { channels, size: (h, w), .. } => {
            for b in bounded(&a.batch, 4096, "--batch")? {
                let mut stream = Stream::named("bench");
                let data: Vec<f32> = (0..b * channels * h * w).map(|_| 2.0 * stream.unit() - 1.0).collect();
                let t = Tensor::from_vec(data, (b, channels, h, w), &Device::Cpu)?;
                all.push((format!("batch {b}, {h}x{w}"), Input::Pixels(t), b));
            }
        }
        spec @ (InputSpec::Tokens { vocab, max_len } | InputSpec::Pair { vocab, max_len }) => {
            let pair = matches!(spec, InputSpec::Pair { .. });
            let ids = |n: usize| -> Vec<u32> {
                let mut stream = Stream::named("bench");
                // The first ids are special in every published vocabulary.
                (0..n).map(|_| (vocab / 2) as u32 + stream.below((vocab / 2).max(1) as u64) as u32).collect()
            };
            let mut push = |name: String, lens: Vec<usize>| -> Result<(), Fail> {
                let texts: Vec<Vec<u32>> = lens.iter().map(|n| ids(*n)).collect();
                let source = Input::tokens(&texts)?;
                let items = lens.iter().sum();
                // As many tokens written as read; what is counted is what is read.
                let input = if pair { Input::pair(source.clone(), source)? } else { source };
                all.push((name, input, items));
                Ok(())
            };
            if let Some(file) = &a.lengths {
                let lens = lengths(file, max_len)?;
                push(format!("{} texts of {}", lens.len(), file.display()), lens)?;
            } else {
                for n in bounded(&a.seq, max_len, "--seq")? {
                    for b in bounded(&a.batch, 4096, "--batch")? {
                        push(format!("batch {b}, {n} tokens"), vec![n; b])?;
                    }
                }
            }
        }
    }
    Ok(all)
}

fn bounded(list: &[usize], max: usize, flag: &str) -> Result<Vec<usize>, Fail> {
    match list.iter().find(|n| !(1..=max).contains(*n)) {
        Some(bad) => Err(Fail::Usage(format!("{flag} {bad}: must be 1 to {max} for this model"))),
        None => Ok(list.to_vec()),
    }
}

fn lengths(file: &std::path::Path, max: usize) -> Result<Vec<usize>, Fail> {
    let bytes = read_capped(file, 16 << 20)?;
    let text = String::from_utf8_lossy(&bytes);
    let lens: Result<Vec<usize>, _> = text.split_whitespace().map(str::parse).collect();
    let lens = lens.map_err(|_| Fail::Usage(format!("{}: write one length per line", file.display())))?;
    bounded(&lens, max, "--lengths")
}
