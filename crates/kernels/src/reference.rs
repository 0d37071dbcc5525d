//! Naive twins of the fast kernels, in f64 where it matters: what the tests compare with.
//!
//! Shapes and meanings are those of the kernels of the same names; arguments are not checked.

use crate::attention::{Attend, Bias, Packed, Rows};
use crate::conv::Depthwise;

/// `A B` with element functions: `c[i,j] = sum over p of a(i,p) b(p,j)`.
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    a: impl Fn(usize, usize) -> f32,
    b: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|p| f64::from(a(i, p)) * f64::from(b(p, j))).sum();
            c[i * n + j] = sum as f32;
        }
    }
    c
}

/// `y[m,out] = x[m,in] w^T + bias`.
pub fn linear(m: usize, d_in: usize, d_out: usize, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut y = gemm(m, d_out, d_in, |i, p| x[i * d_in + p], |p, j| w[j * d_in + p]);
    for (i, y) in y.iter_mut().enumerate() {
        *y += bias.map_or(0.0, |b| b[i % d_out]);
    }
    y
}

/// Layer normalisation of `x[rows,dim]`.
pub fn layer_norm(dim: usize, x: &[f32], gamma: &[f32], beta: &[f32], eps: f32) -> Vec<f32> {
    let mut y = Vec::with_capacity(x.len());
    for row in x.chunks_exact(dim) {
        let mean = row.iter().map(|&v| f64::from(v)).sum::<f64>() / dim as f64;
        let var = row.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / dim as f64;
        let rstd = 1.0 / (var + f64::from(eps)).sqrt();
        for ((&v, &g), &b) in row.iter().zip(gamma).zip(beta) {
            y.push(((f64::from(v) - mean) * rstd * f64::from(g) + f64::from(b)) as f32);
        }
    }
    y
}

/// RMS normalisation of `x[rows,dim]`.
pub fn rms_norm(dim: usize, x: &[f32], gamma: &[f32], eps: f32) -> Vec<f32> {
    let norm = |row: &[f32]| -> Vec<f32> {
        let square = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / dim as f64;
        let r = 1.0 / (square + f64::from(eps)).sqrt();
        row.iter().zip(gamma).map(|(&v, &g)| (f64::from(v) * r * f64::from(g)) as f32).collect()
    };
    x.chunks_exact(dim).flat_map(norm).collect()
}

/// The error function: a series near zero, a continued fraction away from it.
pub fn erf(x: f64) -> f64 {
    if x.abs() < 2.5 { erf_series(x) } else { x.signum() * (1.0 - erfc_fraction(x.abs())) }
}

/// `1 - erf(x)`, accurate in the tail.
pub fn erfc(x: f64) -> f64 {
    if x >= 2.5 { erfc_fraction(x) } else { 1.0 - erf(x) }
}

fn erf_series(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * std::f64::consts::FRAC_2_SQRT_PI
}

fn erfc_fraction(x: f64) -> f64 {
    let mut f = 0.0;
    for n in (1..=200).rev() {
        f = f64::from(n) / 2.0 / (x + f);
    }
    (-x * x).exp() / (x + f) / std::f64::consts::PI.sqrt()
}

/// GELU with the exact distribution function.
pub fn gelu_erf(x: f64) -> f64 {
    0.5 * x * erfc(-x / std::f64::consts::SQRT_2)
}

/// GELU by its tanh approximation.
pub fn gelu_tanh(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    // x sigmoid(2u), which does not cancel.
    x / (1.0 + (-2.0 * u).exp())
}

/// GELU as `x sigmoid(1.702 x)`.
pub fn gelu_quick(x: f64) -> f64 {
    // The slope as f32 holds it.
    x / (1.0 + (-f64::from(1.702f32) * x).exp())
}

/// `max(x, 0)`.
pub fn relu(x: f64) -> f64 {
    x.max(0.0)
}

/// `x sigmoid(x)`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Softmax of each row of `x[rows,n]`.
pub fn softmax(n: usize, x: &[f32]) -> Vec<f32> {
    x.chunks_exact(n).flat_map(softmax_row).collect()
}

fn softmax_row(row: &[f32]) -> Vec<f32> {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let e: Vec<f64> = row.iter().map(|&v| (f64::from(v) - f64::from(top)).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| (v / sum) as f32).collect()
}

/// The attention map of a segment, `[heads, n, n]`.
pub fn attention_probs(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, segment: usize) -> Vec<f32> {
    let (first, end) = (packed.cu[segment] as usize, packed.cu[segment + 1] as usize);
    let mut probs = Vec::new();
    for head in 0..packed.heads {
        for i in first..end {
            let scores: Vec<f32> = (first..end).map(|j| score(packed, q, k, head, i, j) as f32).collect();
            probs.extend(softmax_row(&scores));
        }
    }
    probs
}

fn at(r: Rows<'_>, row: usize, col: usize) -> f64 {
    f64::from(r.data[row * r.stride + r.offset + col])
}

fn score(p: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, head: usize, i: usize, j: usize) -> f64 {
    let cols = head * p.head_dim..(head + 1) * p.head_dim;
    cols.map(|c| at(q, i, c) * at(k, j, c)).sum::<f64>() * f64::from(p.scale)
}

/// Attention's `(out[total, dim], lse[heads, total])`.
pub fn attention(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>) -> (Vec<f32>, Vec<f32>) {
    let (total, dim) = (packed.total(), packed.dim());
    let (mut out, mut lse) = (vec![0.0; total * dim], vec![0.0; packed.heads * total]);
    for w in packed.cu.windows(2) {
        for head in 0..packed.heads {
            for i in w[0] as usize..w[1] as usize {
                let keys = w[0] as usize..w[1] as usize;
                let scores: Vec<f64> = keys.clone().map(|j| score(packed, q, k, head, i, j)).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                lse[head * total + i] = (top + sum.ln()) as f32;
                for c in head * packed.head_dim..(head + 1) * packed.head_dim {
                    let weighted = keys.clone().zip(&scores).map(|(j, s)| (s - top).exp() * at(v, j, c));
                    out[i * dim + c] = (weighted.sum::<f64>() / sum) as f32;
                }
            }
        }
    }
    (out, lse)
}

/// AdamW's step on one element: `(param, m, v)`.
pub fn adamw(
    (param, m, v): (f64, f64, f64),
    grad: f64,
    lr: f64,
    (beta1, beta2): (f64, f64),
    eps: f64,
    weight_decay: f64,
    step: i32,
) -> (f64, f64, f64) {
    let param = param - lr * weight_decay * param;
    let m = beta1 * m + (1.0 - beta1) * grad;
    let v = beta2 * v + (1.0 - beta2) * grad * grad;
    let m_hat = m / (1.0 - beta1.powi(step));
    let v_hat = v / (1.0 - beta2.powi(step));
    (param - lr * m_hat / (v_hat.sqrt() + eps), m, v)
}

/// The `bits`-bit code of `code`, from the definition in real numbers.
pub fn nested_code(code: i8, bits: u8) -> i8 {
    let step = f64::from(1u32 << (8 - bits));
    let half_up = (f64::from(code) / step + 0.5).floor();
    let top = f64::from((1u32 << (bits - 1)) - 1);
    half_up.clamp(-top - 1.0, top) as i8
}

/// Attention's gradients `[dq, dk, dv]`, each `[total, dim]`, from `dout[total, dim]`.
pub fn attention_backward(packed: &Packed<'_>, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, dout: &[f32]) -> [Vec<f32>; 3] {
    let (total, dim) = (packed.total(), packed.dim());
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0f64; total * dim]);
    for w in packed.cu.windows(2) {
        let keys = w[0] as usize..w[1] as usize;
        for head in 0..packed.heads {
            let cols = head * packed.head_dim..(head + 1) * packed.head_dim;
            for i in keys.clone() {
                let scores: Vec<f64> = keys.clone().map(|j| score(packed, q, k, head, i, j)).collect();
                let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                let probs: Vec<f64> = scores.iter().map(|s| (s - top).exp() / sum).collect();
                let dprob =
                    |j: usize| -> f64 { cols.clone().map(|c| f64::from(dout[i * dim + c]) * at(v, j, c)).sum() };
                let mean: f64 = keys.clone().zip(&probs).map(|(j, p)| p * dprob(j)).sum();
                for (j, p) in keys.clone().zip(&probs) {
                    let ds = p * (dprob(j) - mean) * f64::from(packed.scale);
                    for c in cols.clone() {
                        dv[j * dim + c] += p * f64::from(dout[i * dim + c]);
                        dq[i * dim + c] += ds * at(k, j, c);
                        dk[j * dim + c] += ds * at(q, i, c);
                    }
                }
            }
        }
    }
    [dq, dk, dv].map(|g| g.iter().map(|&v| v as f32).collect())
}

/// What [`attend`] and its backward give, all in f64.
#[derive(Clone, Debug, Default)]
pub struct Attended {
    /// `[queries, dim_out]`.
    pub out: Vec<f64>,
    /// `[heads, queries]`.
    pub lse: Vec<f64>,
    /// For each segment, `[heads, n_q, n_k]`.
    pub probs: Vec<Vec<f64>>,
    /// `[queries, dim]`.
    pub dq: Vec<f64>,
    /// `[keys, dim_kv]`.
    pub dk: Vec<f64>,
    /// `[keys, dim_values]`.
    pub dv: Vec<f64>,
    /// As the bias.
    pub dbias: Vec<f64>,
}

/// Attention with options, forward and (from `dout[queries, dim_out]`) backward.
pub fn attend(spec: &Attend<'_>, q: Rows<'_>, k: Rows<'_>, v: Rows<'_>, dout: &[f32]) -> Attended {
    let (hd, queries, dim, dim_kv) = (spec.head_dim, spec.queries(), spec.dim(), spec.dim_kv());
    let (vd, dim_out, dim_values) = (spec.value_dim, spec.dim_out(), spec.dim_values());
    let table = match spec.bias {
        Bias::None => &[][..],
        Bias::Dense(b) | Bias::Relative(b) => b,
    };
    let mut r = Attended {
        out: vec![0.0; queries * dim_out],
        lse: vec![f64::NEG_INFINITY; spec.heads * queries],
        dq: vec![0.0; queries * dim],
        dk: vec![0.0; spec.keys() * dim_kv],
        dv: vec![0.0; spec.keys() * dim_values],
        dbias: vec![0.0; table.len()],
        ..Attended::default()
    };
    for (wq, wk) in spec.cu_q.windows(2).zip(spec.cu_k.windows(2)) {
        let (nq, nk) = ((wq[1] - wq[0]) as usize, (wk[1] - wk[0]) as usize);
        let (fq, fk) = (wq[0] as usize, wk[0] as usize);
        let mut probs = vec![0.0; spec.heads * nq * nk];
        for head in 0..spec.heads {
            let head_kv = head / (spec.heads / spec.heads_kv);
            let (kv, vv) = (head_kv * hd, head_kv * vd);
            for i in 0..nq {
                let row = fq + i;
                // Each key's score and which number of the bias it took; `None` where it is not seen.
                let seen: Vec<Option<(f64, usize)>> = (0..nk)
                    .map(|j| {
                        let (qp, kp) = match spec.positions {
                            Some(p) => (i64::from(p.q[row]), i64::from(p.k[fk + j])),
                            None => ((i + nk) as i64 - nq as i64, j as i64),
                        };
                        let masked = spec.key_mask.is_some_and(|m| !m[fk + j]);
                        let far = spec.window.is_some_and(|w| (kp - qp).abs() >= w as i64);
                        if masked || far || (spec.causal && kp > qp) {
                            return None;
                        }
                        let entry = match spec.bias {
                            Bias::None => 0,
                            Bias::Dense(_) => (head * nq + i) * nk + j,
                            Bias::Relative(t) => {
                                let n = (t.len() / spec.heads) as i64;
                                let reach = n / 2;
                                (head as i64 * n + (kp - qp).clamp(-reach, reach) + reach) as usize
                            }
                        };
                        let dot: f64 = (0..hd).map(|c| at(q, row, head * hd + c) * at(k, fk + j, kv + c)).sum();
                        let apart = spec.zones.map_or(0.0, |z| if z.q[row] == z.k[fk + j] { 0.0 } else { z.apart });
                        let bias = table.get(entry).map_or(0.0, |&b| f64::from(b)) + f64::from(apart);
                        Some((dot * f64::from(spec.scale) + bias, entry))
                    })
                    .collect();
                let top = seen.iter().flatten().fold(f64::NEG_INFINITY, |m, s| m.max(s.0));
                let sum: f64 = seen.iter().flatten().map(|s| (s.0 - top).exp()).sum();
                if sum == 0.0 {
                    continue;
                }
                r.lse[head * queries + row] = top + sum.ln();
                let d = |c: usize| f64::from(dout[row * dim_out + head * vd + c]);
                let dprob = |j: usize| (0..vd).map(|c| d(c) * at(v, fk + j, vv + c)).sum::<f64>();
                let p = |s: f64| (s - top).exp() / sum;
                let seen = || seen.iter().enumerate().filter_map(|(j, s)| s.map(|(s, e)| (j, p(s), e)));
                let mean: f64 = seen().map(|(j, p, _)| p * dprob(j)).sum();
                for (j, p, entry) in seen() {
                    probs[(head * nq + i) * nk + j] = p;
                    let ds = p * (dprob(j) - mean);
                    if let Some(db) = r.dbias.get_mut(entry) {
                        *db += ds;
                    }
                    for c in 0..hd {
                        let (qc, kc) = (row * dim + head * hd + c, (fk + j) * dim_kv + kv + c);
                        r.dq[qc] += ds * f64::from(spec.scale) * at(k, fk + j, kv + c);
                        r.dk[kc] += ds * f64::from(spec.scale) * at(q, row, head * hd + c);
                    }
                    for c in 0..vd {
                        r.out[row * dim_out + head * vd + c] += p * at(v, fk + j, vv + c);
                        r.dv[(fk + j) * dim_values + vv + c] += p * d(c);
                    }
                }
            }
        }
        r.probs.push(probs);
    }
    r
}

/// Depth-wise convolution; see the kernel.
pub fn depthwise(d: &Depthwise, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> Vec<f64> {
    let ((oh, ow), c) = (d.output(), d.channels);
    let mut y = Vec::new();
    for i in 0..d.batch * oh * ow * c {
        let (ch, ox, oy, image) = (i % c, i / c % ow, i / c / ow % oh, i / c / ow / oh);
        let mut sum = bias.map_or(0.0, |b| f64::from(b[ch]));
        for ky in 0..d.kernel {
            for kx in 0..d.kernel {
                let (iy, ix) = (oy * d.stride + ky, ox * d.stride + kx);
                let inside = |at: usize, n: usize| at >= d.padding && at < n + d.padding;
                if inside(iy, d.height) && inside(ix, d.width) {
                    let pixel = (image * d.height + iy - d.padding) * d.width + ix - d.padding;
                    sum += f64::from(x[pixel * c + ch]) * f64::from(w[(ky * d.kernel + kx) * c + ch]);
                }
            }
        }
        y.push(sum);
    }
    y
}
