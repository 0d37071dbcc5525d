//! Times the packed low-bit products: `quant_bench gemv|int8 [THREADS [avx2|scalar]]`.
//!
//! `gemv`: few rows through distinct 768x3072 layers, 200 MB and more of codes and scales in all, beside a plain
//! sum over as many bytes, and one layer whose codes are made floats first. `int8`: integer products at transformer shapes, by every set of instructions there is.

use std::hint::black_box;
use std::time::Instant;
use switchformer_kernels::nested::linear_nested;
use switchformer_kernels::pool::Pool;
use switchformer_kernels::quant::{Int8Rows, PackedCodes, WIDTHS, force_int_path, int_paths};
use switchformer_kernels::{Epilogue, isa, set_threads};

/// As in the programs that run models: large blocks lie on huge pages.
#[global_allocator]
static POOL: Pool = Pool;

const D_IN: usize = 768;
const D_OUT: usize = 3072;

/// The least seconds of some calls of `f`, at least three, for about half a second.
fn best(mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let (mut least, mut calls) = (f64::INFINITY, 0);
    while calls < 3 || start.elapsed().as_secs_f64() < 0.5 {
        let at = Instant::now();
        f();
        least = least.min(at.elapsed().as_secs_f64());
        calls += 1;
    }
    least
}

/// The middle seconds of `a`, of `b`, and of `a` over `b`, of calls in turn for a second, at least five: what memory gives swings.
fn turns(mut a: impl FnMut(), mut b: impl FnMut()) -> [f64; 3] {
    let start = Instant::now();
    let mut seen: [Vec<f64>; 3] = Default::default();
    while seen[0].len() < 5 || start.elapsed().as_secs_f64() < 1.0 {
        let at = Instant::now();
        a();
        let first = at.elapsed().as_secs_f64();
        let at = Instant::now();
        b();
        let second = at.elapsed().as_secs_f64();
        for (seen, value) in seen.iter_mut().zip([first, second, first / second]) {
            seen.push(value);
        }
    }
    seen.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

/// The sum of `words`, as fast as the compiler makes it, on `threads` threads.
fn read(words: &[u64], threads: usize) -> u64 {
    let sum = |part: &[u64]| part.iter().fold(0u64, |a, &w| a.wrapping_add(w));
    std::thread::scope(|s| {
        let parts: Vec<_> =
            words.chunks(words.len().div_ceil(threads)).map(|part| s.spawn(move || sum(part))).collect();
        parts.into_iter().filter_map(|p| p.join().ok()).fold(0, u64::wrapping_add)
    })
}

/// A layer with a scale for each `group` inputs.
fn layer(seed: u64, group: usize) -> PackedCodes {
    let mut state = seed | 1;
    let codes: Vec<i8> = (0..D_IN * D_OUT)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as i8
        })
        .collect();
    PackedCodes::new(D_IN, D_OUT, &codes, &vec![0.01; D_OUT * D_IN / group])
}

fn gemv(threads: usize) {
    let layers: Vec<PackedCodes> = (1..=360).map(|seed| layer(seed, 64)).collect();
    let (codes, scale) = (layers[0].codes(8), vec![0.01; D_OUT * D_IN / 64]);
    let scales = D_OUT * D_IN / 64 * 4;
    let words = vec![1u64; layers.len() * (D_IN * D_OUT + scales) / 8];
    let x: Vec<f32> = (0..32 * D_IN).map(|i| (i % 17) as f32 - 8.0).collect();
    let mut y = vec![0.0; 32 * D_OUT];
    let mut rates = Vec::new();
    for bits in WIDTHS {
        // All the layers at two bits are 200 MB; wider ones take fewer.
        let used = layers.len() * 2 / usize::from(bits);
        let bytes = used * (D_IN * D_OUT * usize::from(bits) / 8 + scales);
        let at = Instant::now();
        layers[..used].iter().for_each(|l| l.prepare(bits));
        let pack = at.elapsed().as_secs_f64() / (used * D_IN * D_OUT) as f64 * 1e9;
        rates.push(format!("{bits} bits, packed in {pack:.2} ns a weight;"));
        for m in [1, 2, 4, 8, 16, 32] {
            let plain = || _ = black_box(read(&words[..bytes / 8], threads));
            let [plain, time, share] = turns(plain, || {
                for l in &layers[..used] {
                    l.linear(m, &x[..m * D_IN], bits, None, &mut y[..m * D_OUT]);
                }
            });
            let (plain, rate, share) = (bytes as f64 / plain / 1e9, bytes as f64 / time / 1e9, 100.0 * share);
            let us = time / used as f64 * 1e6;
            let (x, y) = (&x[..m * D_IN], &mut y[..m * D_OUT]);
            let dense = best(|| linear_nested(m, D_IN, D_OUT, x, &codes, &scale, bits, None, y)) * 1e6;
            rates.push(format!(
                "  m {m}: {rate:.1} GB/s ({share:.0} % of {plain:.1}), {us:.0} us a layer; made floats {dense:.0} us"
            ));
        }
    }
    println!("gemv {D_IN}x{D_OUT}, {:?}, {threads} threads\n{}", isa::current(), rates.join("\n"));
}

fn int8(threads: usize) {
    for group in [D_IN, 192, 64] {
        let w = layer(1, group);
        for (m, bits) in [(2458, 8), (2458, 4), (128, 8), (16, 8), (1, 8)] {
            let x: Vec<f32> = (0..m * D_IN).map(|i| (i % 251) as f32 - 125.0).collect();
            let mut y = vec![0.0; m * D_OUT];
            w.prepare(bits);
            let mut line = format!("int8 {m}x{D_IN}x{D_OUT}, {bits} bits, groups of {group}, {threads} threads:");
            let round = best(|| _ = black_box(Int8Rows::quantize(m, D_IN, group, &x)));
            let rows = Int8Rows::quantize(m, D_IN, group, &x);
            for path in int_paths() {
                force_int_path(Some(path));
                let time = best(|| w.linear_int8(&rows, bits, &Epilogue::default(), &mut y));
                let rate = 2.0 * (m * D_IN * D_OUT) as f64 / time / 1e9;
                line += &format!(" {path:?} {rate:.0} Gop/s, {:.3} ms;", time * 1e3);
                force_int_path(None);
            }
            println!("{line} rounding {:.3} ms", round * 1e3);
        }
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.get(1).and_then(|t| t.parse().ok()).unwrap_or(1);
    set_threads(threads);
    match args.get(2).map(String::as_str) {
        Some("avx2") => isa::force(Some(isa::Isa::Avx2)),
        Some("scalar") => isa::force(Some(isa::Isa::Scalar)),
        _ => {}
    }
    match args.first().map(String::as_str) {
        Some("gemv") => gemv(threads),
        Some("int8") => int8(threads),
        _ => println!("usage: quant_bench gemv|int8 [THREADS [avx2|scalar]]"),
    }
}
