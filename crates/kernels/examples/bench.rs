//! Times the kernels at the shapes that training and serving use: `cargo run --release -p
//! switchformer-kernels --example bench [threads [scalar|avx2|best [part]]]`.

use std::hint::black_box;
use std::time::Instant;
use switchformer_kernels::nested::linear_nested;
use switchformer_kernels::optim::{adamw_step, sum_squares};
use switchformer_kernels::*;

/// The least time of a call of `f` over several tries, in seconds: what other work on the machine
/// disturbs least.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let start = Instant::now();
    f();
    let once = start.elapsed().as_secs_f64().max(1e-7);
    let inner = ((0.005 / once) as usize).clamp(1, 10_000);
    let samples: Vec<f64> = (0..25)
        .map(|_| {
            let start = Instant::now();
            (0..inner).for_each(|_| f());
            start.elapsed().as_secs_f64() / inner as f64
        })
        .collect();
    samples.into_iter().fold(f64::INFINITY, f64::min)
}

fn show(name: &str, seconds: f64, amount: f64, unit: &str) {
    println!("{name:<44} {:>10.1} us {:>9.2} {unit}", seconds * 1e6, amount / seconds / 1e9);
}

fn floats(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn products() {
    for (m, i, o) in [
        (3200, 64, 192),
        (3200, 96, 384),
        (3200, 384, 96),
        (2458, 768, 3072),
        (2458, 3072, 768),
        (128, 768, 3072),
        (128, 3072, 768),
        (16, 768, 768),
        (1, 768, 3072),
    ] {
        let (x, w, b, dy) = (floats(m * i), floats(o * i), floats(o), floats(m * o));
        let (mut y, mut dx) = (vec![0.0; m * o], vec![0.0; m * i]);
        let (mut dw, mut db) = (vec![0.0; o * i], vec![0.0; o]);
        let flops = (2 * m * i * o) as f64;
        let t = time(|| linear(m, i, o, &x, &w, Some(&b), black_box(&mut y)));
        show(&format!("linear {m} x {i} x {o}"), t, flops, "GFLOP/s");
        let packed = PackedMatrix::new(i, o, &w);
        let t = time(|| linear_packed(m, &x, &packed, &Epilogue::default(), black_box(&mut y)));
        show("  packed", t, flops, "GFLOP/s");
        let fused = Epilogue { bias: Some(&b), act: Some(Act::GeluErf), ..Default::default() };
        let t = time(|| linear_packed(m, &x, &packed, &fused, black_box(&mut y)));
        show("  packed, bias and gelu", t, flops, "GFLOP/s");
        let t = time(|| linear_backward(m, i, o, &x, &w, &dy, Some(black_box(&mut dx)), None, None));
        show("  dx", t, flops, "GFLOP/s");
        let t = time(|| linear_backward(m, i, o, &x, &w, &dy, None, Some(black_box(&mut dw)), None));
        show("  dw", t, flops, "GFLOP/s");
        let t = time(|| linear_backward(m, i, o, &x, &w, &dy, None, None, Some(black_box(&mut db))));
        show("  db", t, (4 * m * o) as f64, "GB/s");
        let codes: Vec<i8> = x.iter().chain(&w).map(|v| (v * 128.0) as i8).take(o * i).collect();
        for bits in [8, 4] {
            let t = time(|| linear_nested(m, i, o, &x, &codes[..o * i], &b, bits, None, black_box(&mut y)));
            show(&format!("  nested, {bits} bits"), t, flops, "GFLOP/s");
        }
    }
}

fn attentions() {
    let cases =
        [(64, 50, 4, 16), (64, 50, 4, 24), (64, 50, 4, 32), (64, 50, 4, 64), (12, 197, 12, 64), (4, 512, 12, 64)];
    for (segments, n, heads, head_dim) in cases {
        let cu: Vec<u32> = (0..=segments).map(|i| i * n).collect();
        let packed = Packed { cu: &cu, heads, head_dim, scale: 0.2 };
        let (total, dim) = (packed.total(), packed.dim());
        let qkv = floats(total * 3 * dim);
        let [q, k, v] = Rows::fused_qkv(&qkv, dim);
        let (mut out, mut lse) = (vec![0.0; total * dim], vec![0.0; heads * total]);
        let dout = floats(total * dim);
        let mut grad = vec![0.0; total * 3 * dim];
        let flops = 2.0 * f64::from(n).powi(2) * f64::from(segments) * dim as f64;
        let t = time(|| attention(&packed, q, k, v, black_box(&mut out), Some(&mut lse)));
        show(&format!("attention {segments} x {n} rows, {heads} x {head_dim}"), t, 2.0 * flops, "GFLOP/s");
        let t = time(|| {
            let grad = QkvGrad::fused(black_box(&mut grad), dim);
            attention_backward(&packed, q, k, v, &out, &lse, &dout, grad);
        });
        show("  backward", t, 5.0 * flops, "GFLOP/s");
    }
}

fn rows() {
    for dim in [64, 192, 768] {
        let rows = 3200;
        let n = rows * dim;
        let (x, g, dy) = (floats(n), floats(dim), floats(n));
        let (mut y, mut dg, mut db) = (vec![0.0; n], vec![0.0; dim], vec![0.0; dim]);
        let t = time(|| layer_norm(rows, dim, &x, &g, &g, 1e-5, black_box(&mut y)));
        show(&format!("layer norm {rows} x {dim}"), t, (8 * n) as f64, "GB/s");
        let t = time(|| layer_norm_backward(rows, dim, &x, &g, 1e-5, &dy, black_box(&mut y), &mut dg, &mut db));
        show("  backward", t, (12 * n) as f64, "GB/s");
    }
    let (rows, dim) = (3200, 50);
    let x = floats(rows * dim);
    let mut y = vec![0.0; rows * dim];
    let t = time(|| softmax(rows, dim, &x, black_box(&mut y)));
    show(&format!("softmax {rows} x {dim}"), t, (rows * dim) as f64, "G/s");
}

fn elementwise() {
    let n = 3200 * 256;
    let (x, dy, mut y) = (floats(n), floats(n), vec![0.0; n]);
    let t = time(|| act::gelu_erf(&x, black_box(&mut y)));
    show("gelu (erf)", t, n as f64, "G/s");
    let t = time(|| act::gelu_erf_backward(&x, &dy, black_box(&mut y)));
    show("  backward", t, n as f64, "G/s");
    let t = time(|| act::gelu_tanh(&x, black_box(&mut y)));
    show("gelu (tanh)", t, n as f64, "G/s");
    let t = time(|| act::exp(&x, black_box(&mut y)));
    show("exp", t, n as f64, "G/s");
    let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
    let t = time(|| adamw_step(&mut y, &x, 1.0, &mut m, &mut v, 1e-3, 0.9, 0.999, 1e-8, 0.01, 10));
    show("adamw", t, (28 * n) as f64, "GB/s");
    let t = time(|| {
        black_box(sum_squares(&x));
    });
    show("sum of squares", t, (4 * n) as f64, "GB/s");
}

fn main() {
    if let Some(n) = std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        set_threads(n);
    }
    match std::env::args().nth(2).as_deref() {
        Some("scalar") => isa::force(Some(isa::Isa::Scalar)),
        Some("avx2") => isa::force(Some(isa::Isa::Avx2)),
        _ => {}
    }
    println!("{:?}, {} threads", isa::current(), threads());
    let parts: [(&str, fn()); 4] =
        [("products", products), ("attentions", attentions), ("rows", rows), ("elementwise", elementwise)];
    let only = std::env::args().nth(3);
    for (name, part) in parts {
        if only.as_deref().is_none_or(|o| o == name) {
            part();
        }
    }
}
