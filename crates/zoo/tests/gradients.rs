//! Every trainable tensor of every model learns: its gradient is finite, not zero, and the slope of the loss.
//!
//! A lost gradient (an operation without a backward pass) raises no error anywhere; only a law notices.

#![allow(clippy::unwrap_used)]

mod common;

use common::{batch, classifies, everything, flat, plan, tasks, tensor, toy, toy_architecture, typed};
use serde_json::Value as Json;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::init::Stream;
use switchformer_nn::{
    Ctx, Grads, Input, Model, Output, Param, ParamKind, Point, Taps, Trace, Weights, record, staged,
};
use switchformer_switch::{Loading, Resolved, Switches};
use switchformer_tensor::Tensor;
use switchformer_zoo::assemble::{Source, assemble};
use switchformer_zoo::{Entry, Trait, ZOO};

/// Step of the central differences. The loss is f32 inside: rounding moves it by about 1e-7, so a slope is known to
/// 1e-7 / STEP, while the neglected cubic term grows with STEP squared. Both are near 1e-4 at 1e-2; Richardson's
/// combination of two steps takes the cubic term away.
const STEP: f32 = 1e-2;
/// Relative disagreement allowed at a coordinate whose slope is at least a tenth of the tensor's largest.
const TOLERANCE: f32 = 2e-2;

/// Fixed weights for an output of `n` numbers.
fn probe(name: &str, n: usize) -> Vec<f32> {
    let mut stream = Stream::named("probe").fork(name.len() as u64);
    (0..n).map(|_| 2.0 * stream.unit() - 1.0).collect()
}

/// `sum(output * probe)` over all outputs, for the backward pass.
fn loss(out: &Output) -> Tensor {
    let terms = out.values().iter().map(|(name, v)| {
        let t = tensor(v);
        let p = Tensor::from_vec(probe(name, t.elem_count()), t.shape()).unwrap();
        (t * p).unwrap().sum_all().unwrap()
    });
    terms.reduce(|a, b| (a + b).unwrap()).unwrap()
}

/// The same, summed in f64.
fn loss_value(out: &Output) -> f64 {
    let one = |name: &str, t: &Tensor| -> f64 {
        flat(t).iter().zip(probe(name, t.elem_count())).map(|(a, b)| f64::from(*a) * f64::from(b)).sum()
    };
    out.values().iter().map(|(name, v)| one(name, tensor(v))).sum()
}

fn forward(model: &dyn Model, point: &Point, input: &Input) -> Output {
    traced(model, point, input).0
}

/// The output, and the load of every bank of experts.
fn traced(model: &dyn Model, point: &Point, input: &Input) -> (Output, Vec<Json>) {
    let (point, mut taps, mut trace) = (typed(point), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.train = true;
    let out = staged::run(model.trunk(), &[], &mut cx, input).unwrap();
    (out, trace.decisions.iter().map(|d| d.choice["load"].clone()).collect())
}

/// Checks that a parameter got a gradient in each published part. Gives the gradient.
///
/// The key part of a fused query-key-value bias adds the same number to every logit of a query, which softmax does not
/// see: it must be zero up to rounding.
fn learns(at: &str, p: &Param, grads: &Grads) -> Vec<f32> {
    let g = grads.get(p.var.as_tensor()).unwrap_or_else(|| panic!("{at}: no gradient reaches {:?}", p.names));
    assert_eq!(g.dims(), p.var.dims(), "{at}: {:?}", p.names);
    let g = flat(g);
    assert!(g.iter().all(|v| v.is_finite()), "{at}: {:?} has a gradient that is not finite", p.names);
    let top = largest(&g);
    if unseen(p) {
        assert!(top < 1e-4, "{at}: {:?} moves the loss by {top:e}, softmax should not see it", p.names);
        return g;
    }
    assert!(top > 1e-6, "{at}: {:?} has a zero gradient", p.names);
    let width = g.len() / p.names.iter().map(|(_, rows)| rows).sum::<usize>();
    let mut from = 0;
    for (i, (name, rows)) in p.names.iter().enumerate() {
        let part = largest(&g[from * width..(from + rows) * width]);
        // Keys that are turned by their place (RMT) have a bias that differs from place to place.
        let turned = name.ends_with("retention.k_proj.bias");
        let apart = ["key.bias", "wk.bias", "encoder_attn.k_proj.bias"].iter().any(|own| name.ends_with(own));
        let key = (p.names.len() == 3 && i == 1 && !turned) || apart;
        if key && p.kind == ParamKind::Vector && name.ends_with(".bias") {
            assert!(part < 1e-4 * top, "{at}: {name} moves the loss by {part:e}, softmax should not see it");
        } else {
            assert!(part > 1e-6, "{at}: {name} has a zero gradient");
        }
        from += rows;
    }
    g
}

/// Whether a tensor adds one number per head to all scores alike (the last bias of CrossFormer's network of positions).
fn unseen(p: &Param) -> bool {
    p.names.iter().all(|(name, _)| name.ends_with("attn.pos.pos3.2.bias"))
}

/// Whether a tensor is part of a network with a kink within every step that is not lost in rounding: CrossFormer's of
/// positions (three norms and ReLUs over a handful of numbers), SVT's over fine parts (a ReLU for each coefficient of
/// each direction). Goldens hold gradients of their tensors instead.
fn is_kinked(p: &Param) -> bool {
    p.names.iter().all(|(name, _)| name.contains("attn.pos.") || name.contains("attn.complex_weight_lh"))
}

fn largest(g: &[f32]) -> f32 {
    g.iter().fold(0f32, |a, v| a.max(v.abs()))
}

/// A model and what it is run on: one point, or one per task. The loss is the sum over the points.
struct Run<'a> {
    model: &'a dyn Model,
    points: &'a [Point],
    input: &'a Input,
}

impl Run<'_> {
    fn loss(&self) -> Tensor {
        let losses = self.points.iter().map(|p| loss(&forward(self.model, p, self.input)));
        losses.reduce(|a, b| (a + b).unwrap()).unwrap()
    }
}

/// Loss with one coordinate of a parameter moved. The variable is set in place, so the model sees it.
fn moved(run: &Run, p: &Param, start: &[f32], i: usize, by: f32) -> (f64, Vec<Json>) {
    let mut values = start.to_vec();
    values[i] += by;
    p.var.set(&Tensor::from_vec(values, p.var.shape()).unwrap()).unwrap();
    let all = run.points.iter().map(|point| traced(run.model, point, run.input));
    all.fold((0.0, Vec::new()), |(sum, mut loads), (out, load)| {
        loads.extend(load);
        (sum + loss_value(&out), loads)
    })
}

/// Slope of the loss along one coordinate.
fn slope(run: &Run, p: &Param, start: &[f32], i: usize, step: f32) -> f32 {
    let home = moved(run, p, start, i, 0.0).1;
    let central = |h: f32| {
        // The step that f32 really took.
        let taken = f64::from(start[i] + h) - f64::from(start[i] - h);
        let ((up, there), (down, back)) = (moved(run, p, start, i, h), moved(run, p, start, i, -h));
        (there == home && back == home).then_some((up - down) / taken)
    };
    // Where a row changes its expert the loss jumps and has no slope: smaller steps, until none does.
    let steps = (0..5).map(|k| step / f32::powi(2.0, k));
    let (wide, narrow) = steps.filter_map(|h| central(h).zip(central(h / 2.0))).next().unwrap();
    p.var.set(&Tensor::from_vec(start.to_vec(), p.var.shape()).unwrap()).unwrap();
    ((4.0 * narrow - wide) / 3.0) as f32
}

/// The coordinate with the largest gradient, and one drawn among those with at least a tenth of it.
fn coordinates(at: &str, g: &[f32]) -> [usize; 2] {
    let top = largest(g);
    let strong: Vec<usize> = (0..g.len()).filter(|i| g[*i].abs() >= 0.1 * top).collect();
    let steepest = strong.iter().copied().find(|i| g[*i].abs() == top).unwrap();
    [steepest, strong[Stream::named(at).below(strong.len() as u64) as usize]]
}

fn check(entry: &Entry, architecture: &str) -> (usize, f32) {
    let at = format!("{}/{architecture}", entry.name);
    let w = Weights::seeded().trainable();
    let model = entry.build(&ConfigMap::new(toy(entry, architecture)).unwrap(), &w).unwrap();
    let input = batch(model.as_ref(), 3);
    let points = tasks(&w);
    let run = Run { model: model.as_ref(), points: &points, input: &input };
    let (total, tape) = record(|| Ok::<_, ()>(run.loss())).unwrap();
    let grads = tape.backward(&total).unwrap();
    let graph = Grads::of(&run.loss()).unwrap();
    let mut params = w.params();
    params.retain(|p| p.kind != ParamKind::Buffer);
    let mut worst = 0f32;
    for p in &params {
        let g = learns(&at, p, &grads);
        if unseen(p) {
            continue;
        }
        let (want, top) = (flat(graph.get(p.var.as_tensor()).unwrap()), largest(&g));
        let off = g.iter().zip(&want).fold(0f32, |a, (g, w)| a.max((g - w).abs()));
        assert!(off <= 1e-5 * top, "{at}: {:?}: the tape is {off} off the graph's gradient", p.names);
        if is_kinked(p) || entry.is(Trait::Signs) || entry.is(Trait::Kinks) {
            continue;
        }
        let start = flat(p.var.as_tensor());
        for i in coordinates(&p.names[0].0, &g) {
            // A kink (ReLU) within the step has no slope: a smaller step meets fewer of them. A weak slope drowns in
            // rounding: a larger step lifts it.
            let mut slopes = Vec::new();
            let agrees = [1.0, 3.0, 10.0, 30.0, 0.3].into_iter().find_map(|by| {
                let slope = slope(&run, p, &start, i, STEP / by);
                slopes.push(slope);
                Some((slope - g[i]).abs() / g[i].abs()).filter(|e| *e <= TOLERANCE)
            });
            let e = agrees.unwrap_or(f32::INFINITY);
            assert!(e <= TOLERANCE, "{at}: {:?}[{i}]: gradient {}, slopes {slopes:?}", p.names, g[i]);
            worst = worst.max(e);
        }
    }
    (params.len(), worst)
}

#[test]
fn every_tensor_of_every_model_gets_the_slope_of_the_loss() {
    for (entry, architecture) in everything() {
        let (n, worst) = check(entry, architecture);
        println!("{architecture:<40} {n} tensors, worst relative disagreement {worst:.1e}");
    }
}

/// The outputs of a pass in training.
fn dropped(model: &dyn Model, point: &Point, input: &Input, dropout: f64) -> Vec<f32> {
    let (point, mut taps, mut trace) = (typed(point), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    (cx.train, cx.dropout) = (true, dropout);
    let out = staged::run(model.trunk(), &[], &mut cx, input).unwrap();
    out.values().values().flat_map(|v| flat(tensor(v))).collect()
}

#[test]
fn every_model_has_places_that_drop_out() {
    for (entry, architecture) in everything() {
        let w = Weights::seeded();
        let model = entry.build(&ConfigMap::new(toy(entry, architecture)).unwrap(), &w).unwrap();
        let input = batch(model.as_ref(), 3);
        let task = tasks(&w).swap_remove(0);
        let run = |seed: u64, dropout| dropped(model.as_ref(), &task.clone().with("seed", seed), &input, dropout);
        let wet = run(1, 0.5);
        assert!(wet.iter().all(|v| v.is_finite()), "{architecture}");
        assert!(wet != run(1, 0.0), "{architecture} has no place for dropout");
        assert!(wet != run(2, 0.5), "{architecture} drops the same for every seed");
        assert_eq!(wet, run(1, 0.5), "{architecture} drops as it likes");
    }
}

/// Whether a tensor holds a vector per place of an image.
fn is_positions(name: &str) -> bool {
    ["position_embeddings", "pos_embed", "patch_pos"].iter().any(|n| name.contains(n))
}

#[test]
fn positions_learn_at_another_image_size() {
    for (entry, architecture) in everything() {
        let w = Weights::seeded().trainable();
        let model = entry.build(&ConfigMap::new(toy(entry, architecture)).unwrap(), &w).unwrap();
        let Ok((channels, (h, width), patch)) = model.spec().image_size() else { continue };
        let params = w.params();
        // Positions of a pyramid are relative: they know no image size.
        let Some(table) = params.iter().find(|p| is_positions(&p.names[0].0)) else {
            assert!(entry.is(Trait::NoExitHeads), "{architecture} has no positions");
            continue;
        };
        let shape = (2, channels, h + patch.0, width - patch.1);
        let pixels = Tensor::from_vec(probe("pixels", shape.0 * shape.1 * shape.2 * shape.3), shape).unwrap();
        let grads = Grads::of(&loss(&forward(model.as_ref(), &Point::new(), &Input::pixel_values(pixels)))).unwrap();
        let dim = *table.var.dims().last().unwrap();
        // Row by row: the prefix rows are not resized and would hide a loss among the others.
        for (i, row) in learns(architecture, table, &grads).chunks(dim).enumerate() {
            assert!(largest(row) > 1e-6, "{architecture}: position {i} gets no gradient");
        }
    }
}

#[test]
fn nested_training_reaches_every_tensor_and_scale_at_any_width() {
    for (entry, architecture) in everything().filter(|(e, _)| !e.is(Trait::ConvolutionsAlone)) {
        let source = Source::plain(Weights::seeded().trainable());
        let config = ConfigMap::new(toy(entry, architecture)).unwrap();
        let made = assemble(entry, &config, &plan(true, &[]), source).unwrap();
        let (model, w) = (made.model, made.source.model);
        let input = batch(model.as_ref(), 3);
        let mut params = w.params();
        params.retain(|p| p.kind != ParamKind::Buffer);
        let scales = params.iter().filter(|p| p.names[0].0.ends_with("log_scale")).count();
        assert!(scales >= 4, "{architecture}: {scales} projections are nested, is `blocks` {:?} right?", entry.blocks);
        for bits in [8, 2] {
            let at = format!("{}/{architecture} at {bits} bits", entry.name);
            let points: Vec<Point> = tasks(&w).into_iter().map(|p| p.with("bits", bits)).collect();
            let grads = Grads::of(&Run { model: model.as_ref(), points: &points, input: &input }.loss()).unwrap();
            params.iter().for_each(|p| drop(learns(&at, p, &grads)));
        }
    }
}

#[test]
fn exit_heads_learn_and_later_blocks_do_not() {
    for entry in ZOO {
        let config = ConfigMap::new(toy(entry, &toy_architecture(entry))).unwrap();
        let (w, we) = (Weights::seeded().trainable(), Weights::seeded().trainable());
        let model = entry.build(&config, &w).unwrap();
        if !classifies(entry, model.trunk()) {
            continue;
        }
        let point = Point::new().with("exit", 1);
        let plan = plan(false, &[1]);
        let loading = Loading { model: model.trunk(), config: &config, plan: &plan, weights: &w, added: Some(&we) };
        let Resolved { point, rules } = Switches::load(&loading).unwrap().resolve(&point).unwrap();
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        cx.train = true;
        let out = staged::run(model.trunk(), &rules, &mut cx, &batch(model.as_ref(), 3)).unwrap();
        let grads = Grads::of(&loss(&out)).unwrap();
        we.params().iter().for_each(|p| drop(learns(entry.name, p, &grads)));
        let reached = w.params().iter().filter(|p| grads.get(p.var.as_tensor()).is_some()).count();
        assert!(0 < reached && reached < w.params().len(), "{}: {reached} tensors reached", entry.name);
    }
}
