//! Attention with options against its reference, and the reference's gradients against differences.
mod common;

use common::{Rng, assert_close, dot, each_isa, numeric_grad};
use switchformer_kernels::{
    Attend, Bias, Keys, Packed, Positions, QkvGrad, Rows, RowsMut, Slab, Zones, attend, attend_backward, attend_probs,
    attend_probs_mean, reference, set_threads,
};

fn cu(lens: &[u32]) -> Vec<u32> {
    let mut all = vec![0];
    lens.iter().for_each(|n| all.push(all[all.len() - 1] + n));
    all
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum With {
    None,
    Dense,
    /// The table's `max`.
    Relative(usize),
}

#[derive(Clone, Copy, Debug)]
struct Case {
    q: &'static [u32],
    k: &'static [u32],
    /// Heads of queries, heads of keys, head size.
    heads: (usize, usize, usize),
    /// Width of a head of values; 0 is the head size.
    values: usize,
    causal: bool,
    window: Option<usize>,
    bias: With,
    mask: bool,
    positions: bool,
    zones: bool,
}

const PLAIN: Case = Case {
    q: &[],
    k: &[],
    heads: (2, 2, 8),
    values: 0,
    causal: false,
    window: None,
    bias: With::None,
    mask: false,
    positions: false,
    zones: false,
};

/// Queries and keys of each segment; heads of queries, heads of keys, head size.
type Shape = (&'static [u32], &'static [u32], (usize, usize, usize));

fn cases() -> Vec<Case> {
    let shapes: [Shape; 9] = [
        (&[0, 0], &[0, 3], (1, 1, 4)),
        (&[3, 1], &[0, 1], (2, 1, 5)),
        (&[1, 1, 1], &[1, 130, 67], (4, 2, 16)),
        (&[7, 2, 5], &[9, 1, 5], (3, 3, 1)),
        (&[17, 0, 5], &[31, 4, 33], (2, 2, 17)),
        (&[67], &[131], (6, 2, 24)),
        (&[131, 50], &[131, 50], (2, 1, 33)),
        (&[5, 40], &[257, 3], (1, 1, 100)),
        (&[66], &[300], (2, 2, 256)),
    ];
    let mut all = Vec::new();
    for (q, k, heads) in shapes {
        for bits in 0..16 {
            let bias = match bits & 3 {
                0 => With::None,
                1 => With::Relative(1 + 9 * (bits >> 2)),
                2 => With::Relative(400),
                _ => With::Dense,
            };
            // A dense bias has one shape.
            let (q, k) = if bias == With::Dense { (&q[..1], &k[..1]) } else { (q, k) };
            let rest = Case {
                causal: bits & 4 > 0,
                mask: bits & 8 > 0,
                positions: bits % 3 == 1,
                zones: bits % 5 == 1,
                values: [0, 3, 20][bits % 3],
                window: [None, Some(1 + bits), Some(70), None][bits / 2 % 4],
                ..PLAIN
            };
            all.push(Case { q, k, heads, bias, ..rest });
        }
    }
    all
}

/// A case's numbers.
struct Data {
    cu: [Vec<u32>; 2],
    rows: [Vec<f32>; 4],
    bias: Vec<f32>,
    mask: Vec<bool>,
    positions: [Vec<u32>; 2],
    zones: [Vec<u8>; 2],
}

impl Data {
    fn new(c: &Case, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (cu_q, cu_k) = (cu(c.q), cu(c.k));
        let (nq, nk) = (*cu_q.last().unwrap_or(&0) as usize, *cu_k.last().unwrap_or(&0) as usize);
        let (heads, heads_kv, hd) = c.heads;
        let vd = if c.values == 0 { hd } else { c.values };
        let widths = [hd * heads, hd * heads_kv, vd * heads_kv, vd * heads];
        let rows = [0, 1, 2, 3].map(|i| rng.floats([nq, nk, nk, nq][i] * widths[i]));
        let bias = match c.bias {
            With::None => vec![],
            With::Dense => rng.floats(heads * nq * nk),
            With::Relative(max) => rng.floats(heads * (2 * max - 1)),
        };
        let mask = (0..nk).map(|j| j < nk / 5 || rng.float() > -0.3).collect();
        // Rising with gaps for the keys; for the queries anything.
        let mut at = 0;
        let k = (0..nk).map(|_| (at += rng.bits() % 3, at).1).collect();
        let q = (0..nq).map(|i| if seed.is_multiple_of(2) { i as u32 + 3 } else { rng.bits() % 90 }).collect();
        let zones = [nq, nk].map(|n| (0..n).map(|_| (rng.bits() % 3) as u8).collect());
        Data { cu: [cu_q, cu_k], rows, bias, mask, positions: [q, k], zones }
    }

    fn spec(&self, c: &Case) -> Attend<'_> {
        Attend {
            cu_q: &self.cu[0],
            cu_k: &self.cu[1],
            heads: c.heads.0,
            heads_kv: c.heads.1,
            head_dim: c.heads.2,
            value_dim: if c.values == 0 { c.heads.2 } else { c.values },
            scale: 1.5 / (c.heads.2 as f32).sqrt(),
            causal: c.causal,
            window: c.window,
            positions: c.positions.then(|| Positions { q: &self.positions[0], k: &self.positions[1] }),
            bias: match c.bias {
                With::None => Bias::None,
                With::Dense => Bias::Dense(&self.bias),
                With::Relative(_) => Bias::Relative(&self.bias),
            },
            key_mask: c.mask.then_some(&self.mask),
            zones: c.zones.then(|| Zones { q: &self.zones[0], k: &self.zones[1], apart: -0.75 }),
        }
    }
}

fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&v| v as f32).collect()
}

/// `[out, lse, dq, dk, dv, dbias, maps..., mean maps...]`.
fn run(spec: &Attend<'_>, rows: &[Vec<f32>; 4], bias: usize) -> Vec<Vec<f32>> {
    let (dim, kv, vv) = (spec.dim(), spec.dim_kv(), spec.dim_values());
    let (q, k, v) = (Rows::packed(&rows[0], dim), Rows::packed(&rows[1], kv), Rows::packed(&rows[2], vv));
    let (mut out, mut lse) = (vec![f32::NAN; rows[3].len()], vec![f32::NAN; spec.heads * spec.queries()]);
    attend(spec, q, k, v, &mut out, Some(&mut lse));
    let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| vec![f32::NAN; rows[i].len()]);
    let grad = QkvGrad::Split {
        dq: RowsMut::packed(&mut dq, dim),
        dk: RowsMut::packed(&mut dk, kv),
        dv: RowsMut::packed(&mut dv, vv),
    };
    let mut dbias = vec![0.0; bias];
    attend_backward(spec, q, k, v, &out, &lse, &rows[3], grad, (bias > 0).then_some(&mut dbias));
    let mut all = vec![out, lse, dq, dk, dv, dbias];
    for mean in [false, true] {
        for i in 0..spec.cu_q.len() - 1 {
            let n = ((spec.cu_q[i + 1] - spec.cu_q[i]) * (spec.cu_k[i + 1] - spec.cu_k[i])) as usize;
            let mut probs = vec![f32::NAN; if mean { n } else { n * spec.heads }];
            match mean {
                true => attend_probs_mean(spec, q, k, i, &mut probs),
                false => attend_probs(spec, q, k, i, &mut probs),
            }
            all.push(probs);
        }
    }
    all
}

#[test]
fn every_option_matches_on_every_instruction_set() {
    for (seed, c) in cases().iter().enumerate() {
        let d = Data::new(c, seed as u64);
        let spec = d.spec(c);
        let (dim, kv, vv) = (spec.dim(), spec.dim_kv(), spec.dim_values());
        let (q, k, v) = (Rows::packed(&d.rows[0], dim), Rows::packed(&d.rows[1], kv), Rows::packed(&d.rows[2], vv));
        let r = reference::attend(&spec, q, k, v, &d.rows[3]);
        each_isa(|isa| {
            let got = run(&spec, &d.rows, d.bias.len());
            let want = [&r.out, &r.lse, &r.dq, &r.dk, &r.dv, &r.dbias];
            let names = ["out", "lse", "dq", "dk", "dv", "dbias"];
            for (i, tol) in [5e-6, 5e-6, 2e-5, 2e-5, 2e-5, 5e-5].into_iter().enumerate() {
                assert_close(&got[i], &single(want[i]), tol, &format!("{isa:?} {c:?} {}", names[i]));
            }
            for (i, want) in r.probs.iter().enumerate() {
                assert_close(&got[6 + i], &single(want), 2e-6, &format!("{isa:?} {c:?} map {i}"));
                let n = want.len() / spec.heads;
                let mean: Vec<f32> = (0..n)
                    .map(|e| (want.iter().skip(e).step_by(n.max(1)).sum::<f64>() / spec.heads as f64) as f32)
                    .collect();
                assert_close(&got[6 + r.probs.len() + i], &mean, 2e-6, &format!("{isa:?} {c:?} mean map {i}"));
            }
        });
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let many = Case { q: &[67, 131, 50], k: &[131, 131, 200], heads: (4, 2, 24), causal: true, mask: true, ..PLAIN };
    for (i, bias) in [With::None, With::Relative(20)].into_iter().enumerate() {
        let c = Case { bias, ..many };
        let d = Data::new(&c, i as u64);
        set_threads(1);
        let one = run(&d.spec(&c), &d.rows, d.bias.len());
        for threads in [2, 3, 5] {
            set_threads(threads);
            assert_eq!(run(&d.spec(&c), &d.rows, d.bias.len()), one, "{threads} threads, {bias:?}");
        }
        set_threads(0);
    }
}

#[test]
fn gradients_by_differences() {
    let small = Case { q: &[3, 2], k: &[4, 5], heads: (4, 2, 3), causal: true, mask: true, ..PLAIN };
    let dense = Case { q: &[3], k: &[4], bias: With::Dense, causal: false, ..small };
    let near = Case { window: Some(2), values: 5, causal: false, ..small };
    for (seed, c) in [small, near, dense, Case { bias: With::Relative(3), positions: true, ..small }].iter().enumerate()
    {
        let d = Data::new(c, seed as u64);
        let value = |rows: [&[f32]; 3], bias: &[f32]| {
            let mut spec = d.spec(c);
            spec.bias = match c.bias {
                With::None => Bias::None,
                With::Dense => Bias::Dense(bias),
                With::Relative(_) => Bias::Relative(bias),
            };
            let (dim, kv, vv) = (spec.dim(), spec.dim_kv(), spec.dim_values());
            let (q, k, v) = (Rows::packed(rows[0], dim), Rows::packed(rows[1], kv), Rows::packed(rows[2], vv));
            dot(&single(&reference::attend(&spec, q, k, v, &d.rows[3]).out), &d.rows[3])
        };
        let got = run(&d.spec(c), &d.rows, d.bias.len());
        let [q, k, v, _] = &d.rows;
        for i in 0..4 {
            let x = if i < 3 { &d.rows[i] } else { &d.bias };
            let want = numeric_grad(x, |x| match i {
                0 => value([x, k, v], &d.bias),
                1 => value([q, x, v], &d.bias),
                2 => value([q, k, x], &d.bias),
                _ => value([q, k, v], x),
            });
            assert_close(&got[2 + i], &want, 5e-4, &format!("{c:?} gradient {i}"));
        }
    }
}

/// Products with numbers below the least normal one are slow, so such weights are zero; masks of -100 make them.
#[test]
fn a_weight_below_the_normal_numbers_is_zero() {
    each_isa(|isa| {
        for n in [1usize, 40] {
            let cu = [0, n as u32];
            let keys = [0, 2];
            let bias: Vec<f32> = (0..n).flat_map(|_| [0.0, -100.0]).collect();
            let spec = Attend {
                cu_q: &cu,
                cu_k: &keys,
                bias: Bias::Dense(&bias),
                ..switchformer_kernels::Packed { cu: &[0], heads: 1, head_dim: 1, scale: 1.0 }.attend()
            };
            let (q, k, v) = (vec![0.0; n], [0.0; 2], [1.0, 1e38]);
            let mut out = vec![f32::NAN; n];
            attend(&spec, Rows::packed(&q, 1), Rows::packed(&k, 1), Rows::packed(&v, 1), &mut out, None);
            assert!(out.iter().all(|y| *y == 1.0), "{isa:?}: {out:?}");
        }
    });
}

#[test]
#[should_panic(expected = "do not divide")]
fn heads_of_keys_must_divide() {
    let spec = Attend {
        heads: 4,
        heads_kv: 3,
        ..switchformer_kernels::Packed { cu: &[0], heads: 4, head_dim: 1, scale: 1.0 }.attend()
    };
    let r = Rows::packed(&[], 4);
    attend(&spec, r, r, r, &mut [], None);
}

#[test]
fn keys_in_slabs_give_what_packed_keys_give() {
    let (heads, heads_kv, hd) = (4, 2, 20);
    let (lens_q, lens_k) = ([1u32, 3, 0, 70, 2], [5u32, 130, 2, 70, 0]);
    let (cu_q, cu_k) = (cu(&lens_q), cu(&lens_k));
    let mut rng = Rng::new(7);
    let (dim, width) = (heads * hd, heads_kv * hd);
    let q = rng.floats(76 * dim);
    let kv = [(); 2].map(|()| rng.floats(207 * width));
    // Head after head, with room for more rows than there are; the room holds what no result may show.
    let slabs = kv.each_ref().map(|packed| {
        let one = |i: usize| {
            let (first, n) = (cu_k[i] as usize, lens_k[i] as usize);
            let capacity = n + 3;
            let mut data = vec![f32::NAN; heads_kv * capacity * hd];
            for (h, j) in (0..heads_kv).flat_map(|h| (0..n).map(move |j| (h, j))) {
                let from = &packed[(first + j) * width + h * hd..][..hd];
                data[(h * capacity + j) * hd..][..hd].copy_from_slice(from);
            }
            (data, capacity)
        };
        (0..lens_k.len()).map(one).collect::<Vec<_>>()
    });
    let views = slabs
        .each_ref()
        .map(|all| all.iter().map(|(data, capacity)| Slab { data, capacity: *capacity }).collect::<Vec<_>>());
    let packed = Packed { cu: &cu_q, heads, head_dim: hd, scale: 0.3 }.attend();
    let spec = Attend { cu_k: &cu_k, heads_kv, causal: true, ..packed };
    each_isa(|_| {
        let [mut want, mut got] = [(); 2].map(|()| vec![0f32; 76 * dim]);
        let q = Rows::packed(&q, dim);
        attend(&spec, q, Rows::packed(&kv[0], width), Rows::packed(&kv[1], width), &mut want, None);
        attend(&spec, q, Keys::Slabs(&views[0]), Keys::Slabs(&views[1]), &mut got, None);
        assert!(want.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()));
        let [mut want, mut got] = [(); 2].map(|()| vec![0f32; heads * 3 * 130]);
        attend_probs(&spec, q, Rows::packed(&kv[0], width), 1, &mut want);
        attend_probs(&spec, q, Keys::Slabs(&views[0]), 1, &mut got);
        assert_eq!(want, got);
    });
}
