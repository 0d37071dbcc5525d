//! Our side of timings against other programs, on work that they describe.
//!
//! `peers encoder`: a BERT-base encoder without embeddings. `PEERS_WEIGHTS` is a safetensors file under the published
//! names (`encoder.layer.N...`), `PEERS_INPUT` one with `x` `[b, n, 768]` and `lens` `[b]` (i64), `PEERS_OUTPUT`
//! receives `y` `[sum of lens, 768]`. `PEERS_POINT` is an operating point such as `{"bits": 8}`.
//! `peers text`: the text encoder in the folder `PEERS_FOLDER`; `PEERS_INPUT` has `input_ids` `[sum of lens]` and `lens`
//! `[b]` (both i64), `PEERS_OUTPUT` receives `y` `[sum of lens, dim]`, its last hidden state.
//! `peers train`: forward, backward and AdamW of a pre-norm encoder (dim 256, heads 4, depth 4, 32 x 256 tokens).
//! `peers t5`: forward, backward and AdamW of the T5 whose config `PEERS_CONFIG` is, without dropout, as
//! `scripts/peers_t5.py` asks for it. `PEERS_BATCH` is `{"source": [[ids]], "target": [[ids]], "labels": [ids]}`;
//! with `PEERS_WEIGHTS` the model begins with these. Also prints `losses`, of each step.
//!
//! `PEERS_THREADS` sets the threads, `PEERS_ISA` (`scalar`, `avx2`, `avx512`) the instruction set. The last line printed is
//! `{"seconds": [..]}`, seconds of each timed call.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use switchformer_lab::loss::label_loss;
use switchformer_lab::optim::Optimiser;
use switchformer_lab::task::logits;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock};
use switchformer_nn::names::Names;
use switchformer_nn::point::Settings;
use switchformer_nn::{
    AttentionNames, Ctx, Folder, Input, Point, Rows, Taps, Trace, Weights, machine, ops, record, staged,
};
use switchformer_switch::equip;
use switchformer_switch::leaf::bits::{EightBits, NestedInt, Width};
use switchformer_tensor::Tensor;
use switchformer_zoo::{OpenOptions, Opened};

/// Large buffers are kept from one pass to the next.
#[global_allocator]
static POOL: machine::Pool = machine::Pool;

type Done<T> = Result<T, Box<dyn Error>>;

/// Calls of at least this many seconds in all are timed, after one warm-up call.
const AT_LEAST: f64 = 0.5;

const fn block(dim: usize, heads: usize, eps: f64, norm_first: bool) -> BlockSpec<'static> {
    BlockSpec {
        dim,
        heads,
        mlp_dim: 4 * dim,
        act: Activation::Gelu,
        eps,
        qkv_bias: true,
        norm_first,
        attention: AttentionNames::new(
            ["attention.self.query", "attention.self.key", "attention.self.value"],
            "attention.output.dense",
        ),
        norm1: "attention.output.LayerNorm",
        norm2: "output.LayerNorm",
        fc: ["intermediate.dense", "output.dense"],
    }
}

fn path(var: &str) -> Done<PathBuf> {
    std::env::var_os(var).map(PathBuf::from).ok_or_else(|| format!("set {var} to a safetensors file").into())
}

/// Training steps before timing: the pool takes new pages from the system for the first three (the optimiser's state comes
/// after the first). The other side of `train` is one process for all rounds, that of `t5` begins with as many steps.
const WARM_STEPS: usize = 3;

/// Seconds of each call of `f`, after `warm` that are not timed.
fn time(warm: usize, mut f: impl FnMut() -> Done<()>) -> Done<Vec<f64>> {
    (0..warm).try_for_each(|_| f())?;
    let (mut seconds, start) = (Vec::new(), Instant::now());
    while seconds.is_empty() || start.elapsed().as_secs_f64() < AT_LEAST {
        let at = Instant::now();
        f()?;
        seconds.push(at.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

/// Blocks one after the other. Shapes: x `[total, dim]` -> `[total, dim]`.
fn run(blocks: &[EncoderBlock], point: &Point, x: &Tensor, rows: &Rows) -> switchformer_nn::Result<Tensor> {
    let (mut taps, mut trace) = (Taps::none(), Trace::default());
    let mut cx = Ctx::new(point, &mut taps, &mut trace);
    let mut x = x.clone();
    for block in blocks {
        x = block.forward(&mut cx, &x, rows)?;
    }
    Ok(x)
}

fn encoder() -> Done<Vec<f64>> {
    const DEPTH: usize = 12;
    let file = path("PEERS_WEIGHTS")?;
    let name = file.file_name().and_then(|n| n.to_str()).ok_or("PEERS_WEIGHTS names no file")?;
    let folder = Folder::disk(file.parent().ok_or("PEERS_WEIGHTS names no file")?)?;
    let point = Point::parse(&std::env::var("PEERS_POINT").unwrap_or("{}".into()))?;
    let mut w = Weights::file(&folder, name, &Names::default())?;
    let width = point.axis::<u8>("bits")?.map(|b| Arc::new(Width(b)) as _);
    let eight = point.axis::<u8>("activation_bits")?.map(|_| Arc::new(EightBits) as _);
    let point = point.with_settings(Settings::new(width.into_iter().chain(eight).collect()));
    if point.axes().any(|a| a == "bits" || a == "activation_bits") {
        let forms = [NestedInt::everywhere()];
        w = equip(&forms, &["encoder.layer."], w, None)?.0;
    }
    let layers = w.at("encoder.layer");
    let blocks: Vec<EncoderBlock> = (0..DEPTH)
        .map(|i| EncoderBlock::load(&layers.at(i), &block(768, 12, 1e-5, false)))
        .collect::<Result<_, _>>()?;
    w.finish()?;

    let input = switchformer_tensor::safetensors::load(path("PEERS_INPUT")?)?;
    let part = |name: &str| input.get(name).ok_or_else(|| format!("PEERS_INPUT has no tensor {name}"));
    let x = part("x")?;
    let lens: Vec<usize> = part("lens")?.to_vec1::<i64>()?.into_iter().map(|n| n as usize).collect();
    let valid: Vec<Tensor> =
        lens.iter().enumerate().map(|(i, &n)| x.get(i)?.narrow(0, 0, n)).collect::<switchformer_tensor::Result<_>>()?;
    let (x, rows) = (Tensor::cat(&valid, 0)?, Rows::new(&lens)?);

    let y = run(&blocks, &point, &x, &rows)?;
    switchformer_tensor::safetensors::save(&HashMap::from([("y", y)]), path("PEERS_OUTPUT")?)?;
    time(1, || Ok(run(&blocks, &point, &x, &rows).map(drop)?))
}

/// A text encoder as its folder says, over texts without padding.
fn text() -> Done<Vec<f64>> {
    let model = Opened::open(&path("PEERS_FOLDER")?, OpenOptions::default())?;
    let input = switchformer_tensor::safetensors::load(path("PEERS_INPUT")?)?;
    let whole = |name: &str| -> Done<Vec<u32>> {
        let part = input.get(name).ok_or_else(|| format!("PEERS_INPUT has no tensor {name}"))?;
        Ok(part.to_vec1::<i64>()?.into_iter().map(u32::try_from).collect::<Result<_, _>>()?)
    };
    let (ids, mut at) = (whole("input_ids")?, 0);
    let texts = whole("lens")?.into_iter().map(|n| {
        let text = ids.get(at..at + n as usize).ok_or("lens add up to more than the input_ids there are");
        at += n as usize;
        text
    });
    let input = Input::tokens(&texts.collect::<Result<Vec<_>, _>>()?)?;
    let point = Point::parse(&std::env::var("PEERS_POINT").unwrap_or("{}".into()))?;
    let (output, _) = model.run(&point, &input)?;
    let (y, _) = output.get_rows("last_hidden_state").ok_or("the folder is no text encoder")?;
    let y = y.clone();
    switchformer_tensor::safetensors::save(&HashMap::from([("y", y)]), path("PEERS_OUTPUT")?)?;
    time(1, || Ok(model.run(&point, &input).map(drop)?))
}

fn train() -> Done<Vec<f64>> {
    const DIM: usize = 256;
    const DEPTH: usize = 4;
    const VOCAB: usize = 256;
    const B: usize = 32;
    const N: usize = 256;
    let w = Weights::fresh(0, switchformer_nn::init::INITIALIZER_RANGE).trainable();
    let (tok, pos) = (w.embedding("tok", VOCAB, DIM)?, w.embedding("pos", N, DIM)?);
    let blocks: Vec<EncoderBlock> = (0..DEPTH)
        .map(|i| EncoderBlock::load(&w.at(format!("blocks.{i}")), &block(DIM, 4, 1e-5, true)))
        .collect::<Result<_, _>>()?;
    let (norm, head) = (w.layer_norm("norm", DIM, 1e-5)?, w.linear("head", DIM, VOCAB, true)?);
    let mut optimiser = Optimiser::adamw(w.params(), 0.999, 0.01);

    let hash = |i: usize| (i * 7919 + i / 13) % VOCAB;
    let ids: Vec<u32> = (0..B * N).map(|i| hash(i) as u32).collect();
    let labels: Vec<u32> = (1..=B * N).map(|i| hash(i) as u32).collect();
    let places: Vec<u32> = (0..B * N).map(|i| (i % N) as u32).collect();
    let rows = Rows::equal(B, N)?;
    let point = Point::new();
    let mut step = 0;
    let seconds = time(WARM_STEPS, || {
        let forward = || {
            let x = ops::add(&tok.forward(&ids)?, &pos.forward(&places)?)?;
            let y = norm.forward(&run(&blocks, &point, &x, &rows)?)?;
            let (mut taps, mut trace) = (Taps::none(), Trace::default());
            let logits = head.forward(&mut Ctx::new(&point, &mut taps, &mut trace), &y)?;
            label_loss(&logits, &labels, 0.0)
        };
        let (loss, tape) = record(forward)?;
        optimiser.step(&tape.backward(&loss)?, 3e-4, f64::INFINITY, step)?;
        step += 1;
        Ok(())
    });
    eprintln!("peak memory {}", peak().unwrap_or_else(|| "unknown".into()));
    seconds
}

/// Steps of a T5; also the loss of each.
fn t5() -> Done<(Vec<f64>, Vec<f32>)> {
    #[derive(serde::Deserialize)]
    struct Batch {
        source: Vec<Vec<u32>>,
        target: Vec<Vec<u32>>,
        labels: Vec<u32>,
    }
    let config = ConfigMap::new(serde_json::from_slice(&std::fs::read(path("PEERS_CONFIG")?)?)?)?;
    let batch: Batch = serde_json::from_slice(&std::fs::read(path("PEERS_BATCH")?)?)?;
    let entry = switchformer_zoo::find(&config.text("model_type", "")?)?;
    let file = path("PEERS_WEIGHTS")?;
    let name = file.file_name().and_then(|n| n.to_str()).ok_or("PEERS_WEIGHTS names no file")?;
    let folder = Folder::disk(file.parent().ok_or("PEERS_WEIGHTS names no file")?)?;
    let w = Weights::file(&folder, name, &entry.names)?.trainable();
    let model = entry.build(&config, &w)?;
    let mut optimiser = Optimiser::adamw(w.params(), 0.999, 0.01);
    let input = Input::pair(Input::tokens(&batch.source)?, Input::tokens(&batch.target)?)?;
    let (point, mut losses) = (Point::new(), Vec::new());
    let seconds = time(WARM_STEPS, || {
        let forward = || {
            let (mut taps, mut trace) = (Taps::none(), Trace::default());
            let mut cx = Ctx::new(&point, &mut taps, &mut trace);
            cx.train = true;
            let out = staged::run(model.trunk(), &[], &mut cx, &input)?;
            label_loss(logits(&out)?, &batch.labels, 0.0)
        };
        let (loss, tape) = record(forward)?;
        optimiser.step(&tape.backward(&loss)?, 3e-4, f64::INFINITY, losses.len() as u64)?;
        losses.push(loss.to_scalar()?);
        Ok(())
    })?;
    eprintln!("peak memory {}", peak().unwrap_or_else(|| "unknown".into()));
    Ok((seconds, losses))
}

/// The most memory this process has held, as the kernel prints it.
fn peak() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.trim().to_string())
}

fn main() -> Done<()> {
    machine::share_out(std::env::var("PEERS_THREADS").ok().map(|n| n.parse()).transpose()?);
    if let Ok(name) = std::env::var("PEERS_ISA") {
        let isa = machine::available().into_iter().find(|i| i.to_string() == name);
        isa.filter(|i| machine::limit_isa(*i)).ok_or("PEERS_ISA names nothing that this processor has")?;
    }
    let (seconds, losses) = match std::env::args().nth(1).as_deref() {
        Some("encoder") => (encoder()?, Vec::new()),
        Some("text") => (text()?, Vec::new()),
        Some("train") => (train()?, Vec::new()),
        Some("t5") => t5()?,
        _ => return Err("usage: peers encoder|text|train|t5".into()),
    };
    println!("{}", serde_json::json!({ "seconds": seconds, "losses": losses, "peak": peak() }));
    Ok(())
}
