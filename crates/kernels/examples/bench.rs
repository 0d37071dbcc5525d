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

/// Products of BERT-base on packed weights, as one JSON object of least seconds: what `scripts/peers_gemm.py` reads.
fn gemm() {
    let one = |(m, i, o): (usize, usize, usize)| {
        let (x, packed, mut y) = (floats(m * i), PackedMatrix::new(i, o, &floats(o * i)), vec![0.0; m * o]);
        let t = time(|| linear_packed(m, &x, &packed, &Epilogue::default(), black_box(&mut y)));
        format!("\"{m}x{i}x{o}\": {t:e}")
    };
    let shapes = [(768, 768), (768, 3072), (3072, 768)];
    let all = [2458, 128, 16, 1].into_iter().flat_map(|m| shapes.map(|(i, o)| one((m, i, o))));
    println!("{{{}}}", all.collect::<Vec<_>>().join(", "));
}

/// The feed-forward networks of twelve layers one after the other: 226 MB of weights, which come from memory each time.
fn streamed() {
    let layers: Vec<[PackedMatrix; 2]> =
        (0..12).map(|_| [(768, 3072), (3072, 768)].map(|(i, o)| PackedMatrix::new(i, o, &floats(i * o)))).collect();
    let weights = (12 * 2 * 768 * 3072) as f64;
    for m in [1, 4, 16, 64, 128, 256] {
        let x = floats(m * 768);
        let (mut hidden, mut y) = (vec![0.0; m * 3072], vec![0.0; m * 768]);
        let t = time(|| {
            for [up, down] in &layers {
                linear_packed(m, &x, up, &Epilogue::default(), &mut hidden);
                linear_packed(m, &hidden, down, &Epilogue::default(), black_box(&mut y));
            }
        });
        show(&format!("12 networks 768 x 3072, {m} rows"), t, 4.0 * weights, "GB/s");
        show("  the same in work", t, 2.0 * weights * m as f64, "GFLOP/s");
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

/// The options of attention: name, queries, keys, heads of keys, causal, bias.
fn options() {
    let (segments, heads, head_dim) = (8usize, 12usize, 64usize);
    let dense = floats(heads * 256 * 256);
    let table = floats(heads * 511);
    for (name, n_q, n_k, heads_kv, causal, bias) in [
        ("plain", 256, 256, 12, false, Bias::None),
        ("causal", 256, 256, 12, true, Bias::None),
        ("relative bias", 256, 256, 12, false, Bias::Relative(&table)),
        ("dense bias", 256, 256, 12, false, Bias::Dense(&dense)),
        ("4 heads of keys", 256, 256, 4, false, Bias::None),
        ("decoding", 1, 512, 12, true, Bias::None),
        ("decoding, 4 heads of keys", 1, 512, 4, true, Bias::None),
    ] {
        let cu = |n: u32| -> Vec<u32> { (0..=segments as u32).map(|i| i * n).collect() };
        let (cu_q, cu_k) = (cu(n_q), cu(n_k));
        let plain = Packed { cu: &cu_q, heads, head_dim, scale: 0.125 }.attend();
        let spec = Attend { cu_k: &cu_k, heads_kv, causal, bias, ..plain };
        let (dim, kv) = (spec.dim(), spec.dim_kv());
        let (x, y) = (floats(spec.queries() * dim), floats(spec.keys() * kv));
        let (q, k) = (Rows::packed(&x, dim), Rows::packed(&y, kv));
        let (mut out, mut lse) = (vec![0.0; x.len()], vec![0.0; heads * spec.queries()]);
        let flops = 2.0 * (segments * dim) as f64 * f64::from(n_q) * f64::from(n_k);
        let t = time(|| attend(&spec, q, k, k, black_box(&mut out), Some(&mut lse)));
        show(&format!("attend {segments} x {n_q} x {n_k}, {name}"), t, 2.0 * flops, "GFLOP/s");
        let [mut dq, mut dk, mut dv] = [x.len(), y.len(), y.len()].map(|n| vec![0.0; n]);
        let mut dbias = match bias {
            Bias::None => None,
            Bias::Dense(b) | Bias::Relative(b) => Some(vec![0.0; b.len()]),
        };
        let t = time(|| {
            let (dq, dk) = (RowsMut::packed(&mut dq, dim), RowsMut::packed(&mut dk, kv));
            let grad = QkvGrad::Split { dq, dk, dv: RowsMut::packed(&mut dv, kv) };
            attend_backward(&spec, q, k, k, &out, &lse, &x, grad, dbias.as_deref_mut());
        });
        show("  backward", t, 5.0 * flops, "GFLOP/s");
    }
}

fn convolutions() {
    const CASES: [(usize, usize, usize, usize); 6] =
        [(56, 96, 3, 1), (56, 512, 3, 1), (14, 1280, 3, 1), (28, 192, 7, 1), (56, 96, 3, 2), (14, 384, 9, 1)];
    for (side, channels, kernel, stride) in CASES {
        let d = Depthwise { batch: 8, height: side, width: side, channels, kernel, stride, padding: kernel / 2 };
        let (x, w) = (floats(8 * side * side * channels), floats(kernel * kernel * channels));
        let (oh, ow) = d.output();
        let n = 8 * oh * ow * channels;
        let (mut y, dy) = (vec![0.0; n], floats(n));
        let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
        let flops = (2 * n * kernel * kernel) as f64;
        let t = time(|| depthwise(&d, &x, &w, &Epilogue::default(), black_box(&mut y)));
        show(&format!("depthwise 8 x {side} x {side} x {channels}, {kernel} / {stride}"), t, flops, "GFLOP/s");
        let t = time(|| depthwise_backward(&d, &x, &w, &dy, Some(black_box(&mut dx)), None, None));
        show("  dx", t, flops, "GFLOP/s");
        let t = time(|| depthwise_backward(&d, &x, &w, &dy, None, Some(black_box(&mut dw)), None));
        show("  dw", t, flops, "GFLOP/s");
    }
}

fn groups() {
    let (k, n, total) = (384, 768, 512);
    for experts in [1usize, 8, 64] {
        let w: Vec<PackedMatrix> = (0..experts).map(|_| PackedMatrix::new(k, n, &floats(k * n))).collect();
        let cu: Vec<u32> = (0..=experts).map(|i| (i * total / experts) as u32).collect();
        let then = vec![Epilogue::default(); experts];
        let (x, mut y) = (floats(total * k), vec![0.0; total * n]);
        let w: Vec<&PackedMatrix> = w.iter().collect();
        let t = time(|| linear_grouped(&x, &cu, &w, &then, black_box(&mut y)));
        show(&format!("grouped {total} x {k} x {n}, {experts} experts"), t, (2 * total * k * n) as f64, "GFLOP/s");
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
        let mut sum = vec![0.0; n];
        let t = time(|| layer_norm_residual(rows, dim, &x, &dy, &g, &g, 1e-5, &mut sum, black_box(&mut y)));
        show("  with a residual", t, (16 * n) as f64, "GB/s");
        let t = time(|| {
            let dx = black_box(&mut y);
            layer_norm_residual_backward(rows, dim, &x, &g, 1e-5, &dy, Some(&dy), dx, &mut dg, &mut db);
        });
        show("  with a residual, backward", t, (16 * n) as f64, "GB/s");
        let t = time(|| rms_norm(rows, dim, &x, &g, 1e-5, black_box(&mut y)));
        show("  rms norm", t, (8 * n) as f64, "GB/s");
        let t = time(|| rms_norm_backward(rows, dim, &x, &g, 1e-5, &dy, black_box(&mut y), &mut dg));
        show("  rms norm, backward", t, (12 * n) as f64, "GB/s");
        let t = time(|| add(&x, &dy, black_box(&mut y)));
        show("  sum", t, (12 * n) as f64, "GB/s");
        let t = time(|| add_in_place(black_box(&mut y), &x));
        show("  sum in place", t, (12 * n) as f64, "GB/s");
        let (cos, sin, positions) = (floats(100 * 32), floats(100 * 32), vec![7; rows]);
        for pairs in [Pairs::Halves, Pairs::Neighbours] {
            let table = Rotary { cos: &cos, sin: &sin, half: 32, pairs };
            let t = time(|| rotary(RowsMut::packed(black_box(&mut y), dim), dim / 64, 64, &table, &positions));
            show(&format!("  rotary, {pairs:?}"), t, (8 * n) as f64, "GB/s");
        }
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
    let parts: [(&str, fn()); 9] = [
        ("gemm", gemm),
        ("products", products),
        ("streamed", streamed),
        ("groups", groups),
        ("attentions", attentions),
        ("options", options),
        ("convolutions", convolutions),
        ("rows", rows),
        ("elementwise", elementwise),
    ];
    let only = std::env::args().nth(3);
    for (name, part) in parts {
        // What another program reads is not for people.
        if only.as_deref().map_or(name != "gemm", |o| o == name) {
            part();
        }
    }
}
