//! Time of a bank of experts against its dense network, in brackets as a ratio, and the bytes of weights that each reads.
//! The work is that of `top_k` networks, however many there are; the bytes are those of the experts that rows meet, so
//! that few rows over many experts take the time of reading them.
//!
//! `cargo run --release -p switchformer-switch --example experts_bench`

use std::time::Instant;

use serde_json::json;
use switchformer_nn::cost;
use switchformer_nn::init::Stream;
use switchformer_nn::layers::{Activation, dense_ffn};
use switchformer_nn::{Ctx, Ffn, FfnSpec, Point, Result, Rows, Taps, Trace, Weights};
use switchformer_switch::leaf::experts::{Bank, BankSpec, Factor, Gating};
use switchformer_tensor::Tensor;

const SPEC: FfnSpec = FfnSpec { bias: [false; 2], ..FfnSpec::new(&["wi"], "wo", [384, 1536], Activation::Relu) };

/// Median of several runs in milliseconds.
fn time(ffn: &dyn Ffn, point: &Point, x: &Tensor, rows: &Rows) -> Result<f64> {
    let mut taken = Vec::new();
    for _ in 0..9 {
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let start = Instant::now();
        ffn.forward(&mut Ctx::new(point, &mut taps, &mut trace), x, rows)?;
        taken.push(1e3 * start.elapsed().as_secs_f64());
    }
    taken.sort_by(f64::total_cmp);
    Ok(taken[taken.len() / 2])
}

fn main() -> Result<()> {
    let dense = dense_ffn(&Weights::fresh(1, 0.02), &SPEC)?;
    for n in [1usize, 64, 512, 4096] {
        let mut stream = Stream::named("rows");
        let data: Vec<f32> = (0..n * SPEC.dim).map(|_| 2.0 * stream.unit() - 1.0).collect();
        let (x, rows) = (Tensor::from_vec(data, (n, SPEC.dim))?, Rows::new(&[n])?);
        let plain = time(dense.as_ref(), &Point::new(), &x, &rows)?;
        let mb = |ffn: &dyn Ffn| -> Result<f64> {
            Ok(cost::of(&Point::new(), |cx| ffn.forward(cx, &x, &rows))?.bytes as f64 / 1e6)
        };
        println!("{n} rows: dense {plain:.3} ms, {:.1} MB", mb(dense.as_ref())?);
        for experts in [8, 64, 256] {
            let gating = Gating { balance: 0.0, z: 0.0, ..Gating::plain(1, Factor::Probability) };
            let bank = Bank::load(&Weights::fresh(1, 0.02), &BankSpec { experts, bias: false, gating }, &SPEC)?;
            let learned = time(&bank, &Point::new(), &x, &rows)?;
            let fixed = time(&bank, &Point::new().with("experts", json!({"router": "fixed", "expert": 1})), &x, &rows)?;
            let (many, one) = (learned / plain, fixed / plain);
            println!(
                "  {experts:>3} experts: learned top-1 {learned:.3} ms ({many:.2}), {:.1} MB; one fixed {fixed:.3} ms ({one:.2})",
                mb(&bank)?
            );
        }
    }
    Ok(())
}
