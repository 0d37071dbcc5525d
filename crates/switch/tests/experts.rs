//! Banks of experts: one executor for every router, against a loop over rows written out here.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value as Json, json};
use switchformer_nn::cost;
use switchformer_nn::init::Stream;
use switchformer_nn::layers::{Activation, dense_ffn};
use switchformer_nn::leaf::PlainMlp;
use switchformer_nn::point::Settings;
use switchformer_nn::{Ctx, Error, Ffn, FfnSpec, Param, Point, Result, Rows, Site, Taps, Trace, Weights};
use switchformer_switch::leaf::experts::{Bank, BankSpec, Choosers, Factor, Gate, Gating, Offer, Setting};
use switchformer_tensor::Tensor;

const DIM: usize = 12;
const N: usize = 4;
const SPEC: FfnSpec = FfnSpec { bias: [false; 2], ..FfnSpec::new(&["wi"], "wo", [DIM, 20], Activation::Relu) };

fn gating(top_k: usize, factor: Factor) -> Gating {
    Gating { balance: 0.01, z: 0.001, ..Gating::plain(top_k, factor) }
}

fn draws(name: &str, shape: (usize, usize)) -> Tensor {
    let mut s = Stream::named(name);
    let data: Vec<f32> = (0..shape.0 * shape.1).map(|_| 2.0 * s.unit() - 1.0).collect();
    Tensor::from_vec(data, shape).unwrap()
}

fn expert(name: &str) -> Box<dyn Ffn> {
    dense_ffn(&Weights::seeded().at(name), &SPEC).unwrap()
}

fn bank_of(names: &[&str], gates: Vec<Tensor>, gating: Gating) -> Bank {
    let experts = names.iter().map(|n| expert(n)).collect();
    let gates = gates.into_iter().map(|g| Gate::new(g, None)).collect();
    let steps = vec![vec![(2, 0.75), (0, -0.5)], vec![(1, 1.0), (3, 0.25)]];
    Bank::new(DIM, experts, Choosers { gates, steps }, gating).unwrap()
}

const NAMES: [&str; N] = ["e0", "e1", "e2", "e3"];

fn gate(task: usize) -> Tensor {
    (draws(&format!("gate{task}"), (N, DIM)) * 2.0).unwrap()
}

fn bank(gating: Gating) -> Bank {
    bank_of(&NAMES, vec![gate(0), gate(1)], gating)
}

fn point(setting: Json, seed: u64) -> Point {
    typed(Point::new().with("experts", setting).with("seed", seed))
}

/// A point with the setting that banks read.
fn typed(point: Point) -> Point {
    let setting = point.axis::<Setting>("experts").unwrap();
    point.with_settings(Settings::new(setting.into_iter().map(|s| Arc::new(s) as _).collect()))
}

fn flat(t: &Tensor) -> Vec<f32> {
    t.flatten_all().unwrap().to_vec1().unwrap()
}

fn forward(bank: &Bank, point: &Point, x: &Tensor, rows: &Rows) -> (Vec<f32>, Trace) {
    let (mut taps, mut trace) = (Taps::none(), Trace::default());
    let mut cx = Ctx::new(point, &mut taps, &mut trace);
    cx.site = Site::of(3);
    let y = flat(&bank.forward(&mut cx, x, rows).unwrap());
    (y, trace)
}

fn far(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0f32, |m, (a, b)| if (a - b).is_nan() { f32::INFINITY } else { m.max((a - b).abs()) })
}

/// Experts by falling probability of one row, in f64, with their probabilities.
fn top(gate: &Tensor, x: &[f32], k: usize) -> Vec<(usize, f64)> {
    let gate = gate.to_vec2::<f32>().unwrap();
    let score = |w: &Vec<f32>| -> f64 { w.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    let scores: Vec<f64> = gate.iter().map(score).collect();
    let total: f64 = scores.iter().map(|s| s.exp()).sum();
    let mut all: Vec<(usize, f64)> = scores.iter().map(|s| s.exp() / total).enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(k);
    all
}

/// What every row must get: `picks(row)` names experts and factors.
fn by_hand(x: &Tensor, picks: impl Fn(usize, &[f32]) -> Vec<(usize, f64)>) -> Vec<f32> {
    let experts = NAMES.map(expert);
    let (p, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&p, &mut taps, &mut trace);
    let mut out = Vec::new();
    for (r, row) in x.to_vec2::<f32>().unwrap().iter().enumerate() {
        let one = x.narrow(0, r, 1).unwrap();
        let mut sum = [0f64; DIM];
        for (e, w) in picks(r, row) {
            let y = flat(&experts[e].forward(&mut cx, &one, &Rows::equal(1, 1).unwrap()).unwrap());
            sum.iter_mut().zip(y).for_each(|(s, y)| *s += w * f64::from(y));
        }
        out.extend(sum.iter().map(|s| *s as f32));
    }
    out
}

#[test]
fn every_router_computes_what_a_loop_over_rows_does() {
    let (rows, x) = (Rows::new(&[7, 0, 4, 9]).unwrap(), draws("x", (20, DIM)));
    let (raw, share) = (bank(gating(1, Factor::Probability)), bank(gating(2, Factor::Share)));
    let check = |bank: &Bank, p: &Point, want: Vec<f32>| {
        let off = far(&forward(bank, p, &x, &rows).0, &want);
        assert!(off < 1e-5, "{p}: {off:e}");
        assert!(want.iter().any(|v| v.abs() > 0.05));
    };
    check(&raw, &Point::new(), by_hand(&x, |_, r| top(&gate(0), r, 1)));
    for k in 1..=N {
        let learned = point(json!({"router": "learned", "top_k": k}), 0);
        check(&raw, &learned, by_hand(&x, |_, r| top(&gate(0), r, k)));
        let shares = |_, r: &[f32]| {
            let t = top(&gate(0), r, k);
            let sum: f64 = t.iter().map(|t| t.1).sum();
            t.into_iter().map(|(e, p)| (e, p / sum)).collect()
        };
        check(&share, &learned, by_hand(&x, shares));
        let task = point(json!({"router": "task", "task": 1, "top_k": k}), 0);
        check(&raw, &task, by_hand(&x, |_, r| top(&gate(1), r, k)));
    }
    for e in 0..N {
        check(&raw, &point(json!({"router": "fixed", "expert": e}), 0), by_hand(&x, |_, _| vec![(e, 1.0)]));
    }
    check(&raw, &point(json!({"router": "step", "step": 0}), 0), by_hand(&x, |_, _| vec![(2, 0.75), (0, -0.5)]));
    check(&raw, &point(json!({"router": "step", "step": 1}), 0), by_hand(&x, |_, _| vec![(1, 1.0), (3, 0.25)]));
    let all = by_hand(&x, |_, _| (0..N).map(|e| (e, 1.0 / N as f64)).collect());
    check(&raw, &point(json!({"router": "all"}), 0), all);
}

/// Expert that a random router gave to each row, told by the output alone.
fn drawn(grain: &str, seed: u64, block: usize, x: &Tensor, rows: &Rows) -> Vec<usize> {
    let p = point(json!({"router": "random", "grain": grain}), seed);
    let (mut taps, mut trace) = (Taps::none(), Trace::default());
    let mut cx = Ctx::new(&p, &mut taps, &mut trace);
    cx.site = Site::of(block);
    let y = flat(&bank(gating(1, Factor::Probability)).forward(&mut cx, x, rows).unwrap());
    let each: Vec<Vec<f32>> = (0..N).map(|e| by_hand(x, |_, _| vec![(e, 1.0)])).collect();
    let row = |v: &[f32], r: usize| v[r * DIM..(r + 1) * DIM].to_vec();
    (0..rows.total()).map(|r| (0..N).find(|e| row(&y, r) == row(&each[*e], r)).unwrap()).collect()
}

#[test]
fn random_choices_are_functions_of_seed_block_and_place() {
    let (lens, x) = ([5, 3, 6], draws("x", (14, DIM)));
    let rows = Rows::new(&lens).unwrap();
    let of = |grain: &str, seed, block| drawn(grain, seed, block, &x, &rows);
    for seed in 0..6 {
        let batch = of("batch", seed, 1);
        assert!(batch.iter().all(|e| *e == batch[0]));
        let sentence = of("sentence", seed, 1);
        for (f, len) in [0, 5, 8].into_iter().zip(lens) {
            assert!(sentence[f..f + len].iter().all(|e| *e == sentence[f]));
        }
        // Rows at one position of their members share a draw, so other samples move nothing.
        let token = of("token", seed, 1);
        assert_eq!(token[0..3], token[5..8]);
        assert_eq!(token[0..5], token[8..13]);
        let alone = drawn("token", seed, 1, &x.narrow(0, 8, 6).unwrap(), &Rows::new(&[6]).unwrap());
        assert_eq!(alone, token[8..14]);
    }
    for grain in ["batch", "sentence", "token"] {
        assert_eq!(of(grain, 2, 1), of(grain, 2, 1));
        let by = |f: &dyn Fn(u64) -> Vec<usize>| (0..8).map(f).collect::<Vec<_>>();
        let (seeds, blocks) = (by(&|s| of(grain, s, 1)), by(&|b| of(grain, 1, b as usize)));
        assert!(seeds.iter().any(|d| *d != seeds[0]), "{grain}: the seed moves nothing");
        assert!(blocks.iter().any(|d| *d != blocks[0]), "{grain}: the block moves nothing");
    }
}

#[test]
fn random_choices_are_even() {
    let n = 4000;
    let x = Tensor::zeros((n, DIM), switchformer_tensor::DType::F32).unwrap();
    for (grain, rows) in [("token", Rows::new(&[n]).unwrap()), ("sentence", Rows::equal(n, 1).unwrap())] {
        let p = point(json!({"router": "random", "grain": grain}), 0);
        let (_, trace) = forward(&bank(gating(1, Factor::Probability)), &p, &x, &rows);
        let mut counts = [0u64; N];
        for d in &trace.decisions {
            let load = d.choice["load"].as_object().unwrap();
            load.iter().for_each(|(e, c)| counts[e.parse::<usize>().unwrap()] += c.as_u64().unwrap());
        }
        let mean = n as f64 / N as f64;
        let chi: f64 = counts.iter().map(|c| (*c as f64 - mean).powi(2) / mean).sum();
        assert_eq!(counts.iter().sum::<u64>(), n as u64);
        // 16.27 is the 0.999 quantile with three degrees of freedom.
        assert!(chi < 16.27, "{grain}: {counts:?}, chi-square {chi}");
    }
}

#[test]
fn equal_experts_are_the_dense_network() {
    let (rows, x) = (Rows::new(&[5, 4]).unwrap(), draws("x", (9, DIM)));
    let same = bank_of(&["e0"; N], vec![gate(0), gate(1)], gating(1, Factor::Share));
    let dense = by_hand(&x, |_, _| vec![(0, 1.0)]);
    let at = |s: Json| forward(&same, &point(s, 5), &x, &rows).0;
    for grain in ["batch", "sentence", "token"] {
        assert_eq!(at(json!({"router": "random", "grain": grain})), dense);
    }
    assert_eq!(forward(&same, &Point::new(), &x, &rows).0, dense);
    assert_eq!(at(json!({"router": "fixed", "expert": 2})), dense);
    assert_eq!(at(json!({"router": "task", "task": 1})), dense);
    assert!(far(&at(json!({"router": "all"})), &dense) < 1e-6);
    assert!(far(&at(json!({"router": "learned", "top_k": 3})), &dense) < 1e-6);
}

#[test]
fn experts_and_their_gate_rows_may_change_places() {
    let (rows, x) = (Rows::new(&[9]).unwrap(), draws("x", (9, DIM)));
    let order = [2u32, 0, 3, 1];
    let moved = order.map(|e| NAMES[e as usize]);
    let index = Tensor::from_slice(&order, N).unwrap();
    let turned = bank_of(&moved, vec![gate(0).index_select(&index, 0).unwrap()], gating(1, Factor::Probability));
    let plain = bank(gating(1, Factor::Probability));
    for k in 1..=2 {
        let p = point(json!({"router": "learned", "top_k": k}), 0);
        let off = far(&forward(&turned, &p, &x, &rows).0, &forward(&plain, &p, &x, &rows).0);
        assert!(off < 1e-6, "top-{k}: {off:e}");
    }
}

#[test]
fn capacity_counts_per_member_in_order() {
    let (rows, x) = (Rows::new(&[8, 6]).unwrap(), draws("x", (14, DIM)));
    let bank = bank(gating(1, Factor::Probability));
    let chosen: Vec<usize> = x.to_vec2::<f32>().unwrap().iter().map(|r| top(&gate(0), r, 1)[0].0).collect();
    for capacity in [0, 1, 2, 14] {
        let p = point(json!({"router": "learned", "capacity": capacity}), 0);
        let (y, trace) = forward(&bank, &p, &x, &rows);
        let kept = |r: usize| {
            let from = if r < 8 { 0 } else { 8 };
            (from..=r).filter(|q| chosen[*q] == chosen[r]).count() <= capacity
        };
        let want = by_hand(&x, |r, row| if kept(r) { top(&gate(0), row, 1) } else { Vec::new() });
        assert!(far(&y, &want) < 1e-5, "capacity {capacity}");
        for r in (0..14).filter(|r| !kept(*r)) {
            assert!(y[r * DIM..(r + 1) * DIM].iter().all(|v| *v == 0.0), "a dropped row is exactly zero");
        }
        let dropped: u64 = trace.decisions.iter().map(|d| d.choice["dropped"].as_u64().unwrap()).sum();
        assert_eq!(dropped as usize, (0..14).filter(|r| !kept(*r)).count());
        assert!(capacity != 1 || dropped > 0);
    }
}

#[test]
fn members_alone_give_the_same_bits_and_the_same_record() {
    let (lens, x) = ([8, 6], draws("x", (14, DIM)));
    let rows = Rows::new(&lens).unwrap();
    let bank = bank(gating(1, Factor::Probability));
    for s in [
        json!({"router": "learned"}),
        json!({"router": "learned", "top_k": 3}),
        json!({"router": "learned", "capacity": 2}),
        json!({"router": "task", "task": 1}),
        json!({"router": "random", "grain": "token"}),
    ] {
        let (whole, trace) = forward(&bank, &point(s.clone(), 0), &x, &rows);
        let mut from = 0;
        for (i, len) in lens.into_iter().enumerate() {
            let (one, part) = (Rows::new(&[len]).unwrap(), x.narrow(0, from, len).unwrap());
            let (y, own) = forward(&bank, &point(s.clone(), 0), &part, &one);
            assert_eq!(y, whole[from * DIM..(from + len) * DIM], "{s}: member {i}");
            assert_eq!(own.decisions[0].choice, trace.decisions[i].choice);
            from += len;
        }
    }
}

/// An expert that counts its calls and rows.
struct Counted(Arc<[AtomicUsize; 2]>);

impl Ffn for Counted {
    fn forward(&self, _: &mut Ctx, x: &Tensor, _: &Rows) -> Result<Tensor> {
        self.0[0].fetch_add(1, Ordering::Relaxed);
        self.0[1].fetch_add(x.dims()[0], Ordering::Relaxed);
        Ok(x.clone())
    }
}

#[test]
fn idle_experts_are_never_called_and_active_ones_once() {
    let (rows, x) = (Rows::new(&[6]).unwrap(), draws("x", (6, DIM)));
    for n in [6, 64, 512] {
        let calls: Vec<_> = (0..n).map(|_| Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)])).collect();
        let experts = calls.iter().map(|c| Box::new(Counted(c.clone())) as Box<dyn Ffn>).collect();
        let gates = vec![Gate::new(draws("wide", (n, DIM)), None)];
        let bank = Bank::new(DIM, experts, Choosers { gates, steps: Vec::new() }, gating(2, Factor::Share)).unwrap();
        let (y, trace) = forward(&bank, &Point::new(), &x, &rows);
        // Shares sum to one and every expert gives its input back.
        assert!(far(&y, &flat(&x)) < 1e-6);
        let load = trace.decisions[0].choice["load"].as_object().unwrap().clone();
        for (e, c) in calls.iter().enumerate() {
            let rows = load.get(&e.to_string()).map_or(0, |v| v.as_u64().unwrap() as usize);
            let seen = [c[0].load(Ordering::Relaxed), c[1].load(Ordering::Relaxed)];
            assert_eq!(seen, [usize::from(rows > 0), rows], "expert {e} of {n}");
        }
        assert_eq!(calls.iter().map(|c| c[1].load(Ordering::Relaxed)).sum::<usize>(), 12);
    }
}

/// An expert that counts calls, and shows its parts or not.
struct Seen {
    own: Box<dyn Ffn>,
    shows: bool,
    calls: Arc<AtomicUsize>,
}

impl Ffn for Seen {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.own.forward(cx, x, rows)
    }
    fn plain(&self) -> Option<PlainMlp<'_>> {
        if self.shows { self.own.plain() } else { None }
    }
}

#[test]
fn gated_experts_run_at_once_with_the_bits_that_each_has_alone() {
    let spec = FfnSpec { inner: &["wi_0", "wi_1"], act: Activation::GeluTanh, ..SPEC };
    let x = draws("x", (20, DIM));
    let run = |shows: bool| {
        let calls = Arc::new(AtomicUsize::new(0));
        let seen = |name: &str| -> Box<dyn Ffn> {
            let own = dense_ffn(&Weights::seeded().at(name), &spec).unwrap();
            Box::new(Seen { own, shows, calls: calls.clone() })
        };
        let gates = vec![Gate::new(gate(0), None)];
        let choosers = Choosers { gates, steps: Vec::new() };
        let bank = Bank::new(DIM, NAMES.map(seen).into(), choosers, gating(2, Factor::Share)).unwrap();
        let (y, trace) = forward(&bank, &Point::new(), &x, &Rows::new(&[20]).unwrap());
        (y, trace.macs, calls.load(Ordering::Relaxed))
    };
    let ((at_once, macs, none), (each, same, all)) = (run(true), run(false));
    assert!(at_once == each && at_once.iter().any(|v| v.abs() > 0.05));
    assert_eq!((macs, none, all), (same, 0, N));
}

#[test]
fn work_does_not_grow_with_the_bank_and_is_forecast() {
    let (rows, x) = (Rows::new(&[6]).unwrap(), draws("x", (6, DIM)));
    let expert = (2 * 6 * DIM * 20) as u64;
    for n in [1, 3, 40] {
        let w = Weights::seeded();
        let spec = BankSpec { experts: n, bias: true, gating: gating(1, Factor::Probability) };
        let bank = Bank::load(&w, &spec, &SPEC).unwrap();
        let gate = (6 * DIM * n) as u64;
        for (setting, macs, met) in [
            (json!({"router": "learned"}), gate + expert, n.min(6)),
            (json!({"router": "fixed", "expert": n - 1}), expert, 1),
            (json!({"router": "random"}), expert, 1),
            (json!({"router": "random", "grain": "token"}), expert, n.min(6)),
            (json!({"router": "all"}), n as u64 * expert, n),
        ] {
            let p = point(setting, 0);
            assert_eq!(forward(&bank, &p, &x, &rows).1.macs, macs, "{p} of {n}");
            let cost = cost::of(&p, |cx| bank.forward(cx, &x, &rows)).unwrap();
            assert_eq!(cost.macs, macs, "{p} of {n}");
            let gate = if p.to_string().contains("learned") { n * (DIM + 1) } else { 0 };
            assert_eq!(cost.bytes, 4 * (met * 2 * DIM * 20 + gate) as u64, "{p} of {n}");
        }
        // What one token reads is the gate and one network, however many there are; many rows may meet every expert.
        let gate = n * (DIM + 1);
        let bytes = |n: usize| {
            let (x, rows) = (draws("x", (n, DIM)), Rows::new(&[n]).unwrap());
            cost::of(&Point::new(), |cx| bank.forward(cx, &x, &rows)).unwrap().bytes
        };
        assert_eq!(bytes(1), 4 * (2 * DIM * 20 + gate) as u64);
        assert_eq!(bytes(40), 4 * w.n_elements());
        assert_eq!(Offer::of(&w).unwrap().unwrap(), Offer { experts: n, gates: 1, steps: 0, top_k: 1, reach: n });
    }
}

fn trained(jitter: f64) -> (Bank, Vec<Param>) {
    let w = Weights::seeded().trainable();
    let gating = Gating { jitter, ..gating(1, Factor::Probability) };
    let bank = Bank::load(&w, &BankSpec { experts: 2, bias: true, gating }, &SPEC).unwrap();
    (bank, w.params())
}

#[test]
fn the_losses_are_those_of_the_papers_and_reach_the_gate() {
    let (rows, x) = (Rows::new(&[6, 5]).unwrap(), draws("x", (11, DIM)));
    let (bank, params) = trained(0.0);
    let (p, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&p, &mut taps, &mut trace);
    bank.forward(&mut cx, &x, &rows).unwrap();
    assert!(cx.aux.is_empty() && cx.aux_loss().unwrap().is_none(), "running asks for no loss");
    cx.train = true;
    let y = bank.forward(&mut cx, &x, &rows).unwrap();

    let (weight, bias) = (flat(params[0].var.as_tensor()), flat(params[1].var.as_tensor()));
    let (mut f, mut mean, mut z) = ([0f64; 2], [0f64; 2], 0f64);
    for r in x.to_vec2::<f32>().unwrap() {
        let s = [0, 1].map(|e| {
            let dot: f64 = r.iter().zip(&weight[e * DIM..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot + f64::from(bias[e])
        });
        let total = s[0].exp() + s[1].exp();
        f[usize::from(s[1] > s[0])] += 1.0 / 11.0;
        (0..2).for_each(|e| mean[e] += s[e].exp() / total / 11.0);
        z += total.ln().powi(2) / 11.0;
    }
    let balance = 2.0 * (f[0] * mean[0] + f[1] * mean[1]);
    let got: Vec<(&str, f32)> = cx.aux.iter().map(|a| (a.kind, a.value.to_scalar().unwrap())).collect();
    assert_eq!(got.iter().map(|g| g.0).collect::<Vec<_>>(), ["balance", "router-z"]);
    assert!((f64::from(got[0].1) - balance).abs() < 1e-6 && (f64::from(got[1].1) - z).abs() < 1e-6, "{got:?}");
    let total = cx.aux_loss().unwrap().unwrap();
    let want = 0.01 * balance + 0.001 * z;
    assert!((f64::from(total.to_scalar::<f32>().unwrap()) - want).abs() < 1e-6);

    // The auxiliary losses alone move the gate; the task moves gate and experts.
    let grads = total.backward().unwrap();
    assert!(flat(grads.get(params[0].var.as_tensor()).unwrap()).iter().any(|g| g.abs() > 1e-6));
    assert!(f.iter().all(|f| *f > 0.0), "both experts are met");
    let grads = (y * draws("probe", (11, DIM))).unwrap().sum_all().unwrap().backward().unwrap();
    for p in &params {
        let g = flat(grads.get(p.var.as_tensor()).unwrap_or_else(|| panic!("{:?} gets no gradient", p.names)));
        assert!(g.iter().any(|g| g.abs() > 1e-6) && g.iter().all(|g| g.is_finite()), "{:?}", p.names);
    }
}

#[test]
fn jitter_moves_the_gate_in_training_alone() {
    let (rows, x) = (Rows::new(&[11]).unwrap(), draws("x", (11, DIM)));
    let run = |jitter: f64, train: bool, seed: u64| {
        let (p, mut taps, mut trace) = (Point::new().with("seed", seed), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&p, &mut taps, &mut trace);
        cx.train = train;
        flat(&trained(jitter).0.forward(&mut cx, &x, &rows).unwrap())
    };
    let plain = run(0.0, true, 0);
    assert_eq!(run(0.01, false, 0), plain);
    let (a, b) = (run(0.01, true, 0), run(0.01, true, 1));
    assert!(a != plain && a != b && run(0.01, true, 0) == a);
    // The expert's own input is not touched: where the choice stands, a row is the plain one times a number.
    let scaled = |r: usize| {
        let (a, p) = (&a[r * DIM..(r + 1) * DIM], &plain[r * DIM..(r + 1) * DIM]);
        let dot = |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
        dot(a, p) / (dot(a, a) * dot(p, p)).sqrt() > 1.0 - 1e-9
    };
    assert!((0..11).filter(|r| scaled(*r)).count() >= 9);
}

#[test]
fn what_a_bank_cannot_do_is_refused_by_name() {
    let (rows, x) = (Rows::new(&[2]).unwrap(), draws("x", (2, DIM)));
    let bare = Bank::new(DIM, vec![expert("e0"), expert("e1")], Choosers::default(), gating(1, Factor::Share)).unwrap();
    let full = bank(gating(1, Factor::Share));
    let refused = |bank: &Bank, setting: Json, word: &str| {
        let p = Point::new().with("experts", setting);
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let e = p
            .axis::<Setting>("experts")
            .err()
            .or_else(|| bank.forward(&mut Ctx::new(&typed(p.clone()), &mut taps, &mut trace), &x, &rows).err());
        let e = e.unwrap_or_else(|| panic!("{p} is accepted"));
        assert!(matches!(e, Error::Point { .. }) && e.to_string().contains(word), "{p}: {e}");
    };
    refused(&bare, json!({"router": "learned"}), "no trained gate");
    refused(&full, json!({"router": "learned", "top_k": 5}), "top_k = 5");
    refused(&full, json!({"router": "learned", "top_k": 0}), "top_k = 0");
    refused(&full, json!({"router": "task", "task": 2}), "task 2");
    refused(&full, json!({"router": "step", "step": 2}), "step 2");
    refused(&full, json!({"router": "fixed", "expert": 4}), "no expert 4");
    refused(&full, json!({"router": "oracle"}), "oracle");
    refused(&full, json!({"router": "random", "grain": "word"}), "word");
    refused(&full, json!({"router": "all", "top_k": 2}), "top_k");
    refused(&full, json!({"router": "learned", "size": 2}), "size");
    refused(&full, json!("learned"), "experts");
    let broken = |experts: usize, choosers: Choosers, k: usize| {
        let all = (0..experts).map(|_| expert("e0")).collect();
        assert!(Bank::new(DIM, all, choosers, gating(k, Factor::Share)).is_err());
    };
    broken(0, Choosers::default(), 1);
    broken(2, Choosers::default(), 3);
    broken(2, Choosers { gates: vec![Gate::new(gate(0), None)], ..Choosers::default() }, 1);
    broken(2, Choosers { steps: vec![vec![(2, 1.0)]], ..Choosers::default() }, 1);
    broken(2, Choosers { steps: vec![vec![(0, 1.0)], vec![]], ..Choosers::default() }, 1);
}
