//! `bench`: how long a forward pass takes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchformer_lab::measure::{gemm_rate, peak_memory, reset_peak, time};
use switchformer_nn::init::Stream;
use switchformer_nn::json::{parse, read_capped};
use switchformer_nn::{Input, Point, machine};
use switchformer_zoo::Opened;

use super::table::aligned;
use super::{bench_zoo, open, print, print_json};
use crate::fail::Fail;
use crate::say;

/// `bench MODEL`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  switchformer bench default --point exit-3 --batch 1,32
  switchformer bench MiniLM-L6-H384 --batch 1 --seq 128 --threads 2
  switchformer bench zoo --models vit-tiny-patch16-224,pvt-v2-b0")]
pub(crate) struct Args {
    /// `default`, a model folder, a published size (random weights), or `zoo`: the smallest size of every vision family
    model: String,
    /// Operating point: a name such as bits-4 (`points MODEL` lists them), or JSON such as '{"bits": 4}'
    #[arg(long)]
    point: Option<String>,
    /// Batch sizes [default: 1,8; of `zoo` 1,16]
    #[arg(long, value_delimiter = ',')]
    batch: Vec<usize>,
    /// Tokens per text [default: 16,128]
    #[arg(long, value_delimiter = ',')]
    seq: Vec<usize>,
    /// Sides of square images, in pixels, instead of the model's own
    #[arg(long, value_delimiter = ',', value_name = "N")]
    side: Vec<usize>,
    /// File of sequence lengths, one per line or a JSON list: one ragged batch instead of --batch and --seq
    #[arg(long, value_name = "FILE", conflicts_with_all = ["batch", "seq"])]
    lengths: Option<PathBuf>,
    /// Sizes that `zoo` times, by name, instead of the smallest of each vision family
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    models: Vec<String>,
    /// Runs before timing
    #[arg(long, default_value_t = 2)]
    pub(crate) warmup: usize,
    /// Timed runs
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) iters: u32,
    /// Quantise dense layers to 8-bit weights while opening
    #[arg(long)]
    nested: bool,
}

/// One timed case.
struct Timed {
    name: String,
    /// Tokens or images.
    items: usize,
    macs: u64,
    /// Energy by the forecast, of f32.
    millijoules: Option<f64>,
    /// Median, fastest, slowest.
    ms: [f64; 3],
    peak: u64,
}

/// Times every case and prints median, fastest, slowest and throughput.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    if a.model == "zoo" && !Path::new("zoo").exists() {
        let batch = if a.batch.is_empty() { vec![1, 16] } else { a.batch.clone() };
        if a.lengths.is_some() || a.point.is_some() || a.nested || !a.side.is_empty() || !a.seq.is_empty() {
            return Err(Fail::Usage(
                "`bench zoo` times images of each model's own size at full precision: leave --lengths, --point, --seq, --side \
                 and --nested out"
                    .into(),
            ));
        }
        return bench_zoo::run(a, &a.models, &bounded(&batch, 4096, "--batch")?, as_json);
    }
    if !a.models.is_empty() {
        return Err(Fail::Usage("--models is for `bench zoo`".into()));
    }
    let opened = open(&a.model, a.nested)?.opened;
    let point = opened.point(a.point.as_deref())?;
    let decides = point.axes().any(|axis| axis == "exit") && point.to_string().contains("confidence");
    if decides {
        let what =
            "inputs are random, and how long a sample stays in the model depends on it: `tour` measures real ones";
        say::note(&format!("{point}: {what}"));
    }
    let results = timed(a, &opened, &point)?;
    let limit = gemm_rate()?;
    // The model of energy is one of f32.
    let floats = !point.axes().any(|axis| axis.ends_with("bits"));
    if as_json {
        let rows: Vec<Value> = results
            .iter()
            .map(|t| {
                json!({
                    "case": t.name, "items": t.items, "macs": t.macs, "ms_median": t.ms[0], "ms_min": t.ms[1],
                    "ms_max": t.ms[2], "items_per_s": t.per_second(), "gemm_share": t.rate() / limit,
                    "peak_memory": t.peak, "millijoules": t.millijoules.filter(|_| floats),
                })
            })
            .collect();
        return print_json(&json!({
            "model": a.model, "point": point, "threads": machine::threads(), "iters": a.iters,
            "params": opened.n_params, "gemm_macs_per_s": limit, "cases": rows,
        }));
    }
    let rows: Vec<Vec<String>> = results
        .iter()
        .map(|t| {
            let [mid, min, max] = t.ms;
            vec![
                t.name.clone(),
                format!("{mid:.3}"),
                format!("{min:.3}"),
                format!("{max:.3}"),
                format!("{:.1}", t.per_second()),
                format!("{:.2}", t.macs as f64 / 1e9),
                format!("{:.1}", t.rate() / 1e9),
                format!("{:.0}", 100.0 * t.rate() / limit),
                format!("{:.0}", t.peak as f64 / 1e6),
            ]
        })
        .collect();
    let unit = if opened.model.spec().image_size().is_ok() { "images/s" } else { "tokens/s" };
    let header = ["case", "ms median", "min", "max", unit, "GMAC", "GMAC/s", "% of f32 GEMM", "peak MB"];
    print(&format!(
        "{} at {}, {} threads; a dense product runs at {:.1} GMAC/s\n{}",
        a.model,
        a.point.as_deref().unwrap_or("its default point"),
        machine::threads(),
        limit / 1e9,
        aligned(&header, &rows, 1)
    ))
}

impl Timed {
    fn per_second(&self) -> f64 {
        self.items as f64 / self.ms[0] * 1e3
    }

    /// Multiply-adds per second.
    fn rate(&self) -> f64 {
        self.macs as f64 / self.ms[0] * 1e3
    }
}

fn timed(a: &Args, opened: &Opened, point: &Point) -> Result<Vec<Timed>, Fail> {
    let mut results = Vec::new();
    for (name, input, items) in cases(a, opened)? {
        reset_peak();
        let macs = opened.run(point, &input)?.1.macs;
        let millijoules = Some(opened.cost(point, &input)?.millijoules());
        let ms = time(a.warmup, a.iters as usize, || opened.run(point, &input).map(|_| ()))?;
        results.push(Timed { name, items, macs, millijoules, ms, peak: peak_memory() });
    }
    Ok(results)
}

/// Tokens per text where nothing is said.
const DEFAULT_SEQ: [usize; 2] = [16, 128];

/// Name, input and number of items (tokens or images) of each case.
fn cases(a: &Args, opened: &Opened) -> Result<Vec<(String, Input, usize)>, Fail> {
    let spec = opened.model.spec();
    let stream = Stream::named("bench");
    let batch = if a.batch.is_empty() { vec![1, 8] } else { a.batch.clone() };
    let mut all = Vec::new();
    if let Ok((_, size, _)) = spec.image_size() {
        if a.lengths.is_some() {
            return Err(Fail::Usage("--lengths is for models that read text".into()));
        }
        if !a.seq.is_empty() {
            return Err(Fail::Usage("--seq is for models that read text; this one reads images".into()));
        }
        let asked = bounded(&a.side, 4096, "--side")?.into_iter().map(|n| (n, n)).collect::<Vec<_>>();
        let sizes = if asked.is_empty() { vec![size] } else { asked };
        let batch = bounded(&batch, 4096, "--batch")?;
        for ((h, w), b) in sizes.into_iter().flat_map(|size| batch.iter().map(move |b| (size, *b))) {
            let input = Input::sample(&spec, &vec![1; b], Some((h, w)), Some(&stream))?;
            all.push((format!("batch {b}, {h}x{w}"), input, b));
        }
        return Ok(all);
    }
    if !a.side.is_empty() {
        return Err(Fail::Usage("--side is for models that read images".into()));
    }
    let (_, max_len) = spec.text_size()?;
    // As many tokens written as read, where a model writes; what is counted is what is read.
    let mut push = |name: String, lens: Vec<usize>| -> Result<(), Fail> {
        all.push((name, Input::sample(&spec, &lens, None, Some(&stream))?, lens.iter().sum()));
        Ok(())
    };
    if let Some(file) = &a.lengths {
        let lens = lengths(file, max_len)?;
        push(format!("{} texts of {}", lens.len(), file.display()), lens)?;
    } else {
        let seq = if a.seq.is_empty() { DEFAULT_SEQ.map(|n| n.min(max_len)).to_vec() } else { a.seq.clone() };
        for n in bounded(&seq, max_len, "--seq")? {
            for b in bounded(&batch, 4096, "--batch")? {
                push(format!("batch {b}, {n} tokens"), vec![n; b])?;
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

/// Lengths of a file, one per line or as a JSON list.
fn lengths(file: &Path, max: usize) -> Result<Vec<usize>, Fail> {
    let bytes = read_capped(file, 16 << 20)?;
    let bad = || Fail::Usage(format!("{}: write one length per line, or a JSON list of lengths", file.display()));
    let text = String::from_utf8_lossy(&bytes);
    let lens: Option<Vec<usize>> = if text.trim_start().starts_with('[') {
        let doc = parse(&bytes, file)?;
        doc.as_array().and_then(|l| l.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok())).collect())
    } else {
        text.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    match lens {
        Some(lens) if !lens.is_empty() => bounded(&lens, max, "--lengths"),
        _ => Err(bad()),
    }
}
