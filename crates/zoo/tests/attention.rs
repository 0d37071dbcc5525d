//! The attention leaf over the whole registry: who asks for it, whether a form in its place is used, and its maps.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{batch, toy, toy_architecture};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::weights::{LeafMaker, LinearSpec};
use switchformer_nn::{
    Attention, AttentionSpec, Ctx, KeyValues, Linear, Mixer, Model, Output, Point, Result, Rows, Taps, Tensor, Trace,
    Weights, run,
};
use switchformer_zoo::{Entry, Trait, ZOO};

/// Makes attentions that answer zeros, and counts them and their uses.
#[derive(Clone, Default)]
struct Zeros {
    made: Arc<AtomicUsize>,
    used: Arc<AtomicUsize>,
}

struct Zero {
    dim: usize,
    fresh: AtomicUsize,
    used: Arc<AtomicUsize>,
}

impl LeafMaker for Zeros {
    fn linear(&self, _: &Weights, _: &LinearSpec) -> Result<Option<Box<dyn Linear>>> {
        Ok(None)
    }
    fn attention(&self, _: &Weights, spec: &AttentionSpec) -> Result<Option<Box<dyn Attention>>> {
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Box::new(Zero { dim: spec.dim, fresh: AtomicUsize::new(1), used: self.used.clone() })))
    }
}

impl Zero {
    fn answer(&self, x: &Tensor) -> Result<Tensor> {
        self.used.fetch_add(self.fresh.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        Tensor::zeros((x.dims()[0], self.dim), x.dtype())
    }
}

impl Mixer for Zero {
    fn forward(&self, _: &mut Ctx, x: &Tensor, _: &Rows) -> Result<Tensor> {
        self.answer(x)
    }
}

impl Attention for Zero {
    fn key_values(&self, _: &mut Ctx, source: &Tensor, rows: &Rows) -> Result<KeyValues> {
        Ok(KeyValues { k: source.clone(), v: source.clone(), rows: rows.clone() })
    }
    fn attend(&self, _: &mut Ctx, x: &Tensor, _: &Rows, _: &KeyValues, residual: Option<&Tensor>) -> Result<Tensor> {
        let zeros = self.answer(x)?;
        Ok(residual.cloned().unwrap_or(zeros))
    }
}

fn build(entry: &Entry, w: &Weights) -> Box<dyn Model> {
    entry.build(&ConfigMap::new(toy(entry, &toy_architecture(entry))).unwrap(), w).unwrap()
}

fn answer(model: &dyn Model, taps: &mut Taps) -> Output {
    let (point, mut trace) = (Point::new(), Trace::default());
    let mut cx = Ctx::new(&point, taps, &mut trace);
    run(model.trunk(), &[], &mut cx, &batch(model, 2)).unwrap()
}

#[test]
fn a_form_in_place_of_attention_is_asked_for_at_every_site_and_used() {
    for entry in ZOO {
        let zeros = Zeros::default();
        let model = build(entry, &Weights::seeded().with_leaves(Arc::new(zeros.clone())));
        let made = zeros.made.load(Ordering::Relaxed);
        assert_eq!(made == 0, entry.is(Trait::NoAttention), "{} asked {made} times", entry.name);
        let mut taps = Taps::all();
        answer(model.as_ref(), &mut taps);
        assert_eq!(zeros.used.load(Ordering::Relaxed), made, "{}: every leaf is used", entry.name);
        if !entry.is(Trait::NoAttention) {
            let maps = taps.recorded().iter().filter(|(name, _)| name.ends_with(".probs")).count();
            assert_eq!(maps, 0, "{} has attention beside the leaf", entry.name);
        }
    }
}

#[test]
fn every_attention_gives_its_maps_and_keys() {
    for entry in ZOO.iter().filter(|e| !e.is(Trait::NoAttention)) {
        let zeros = Zeros::default();
        build(entry, &Weights::seeded().with_leaves(Arc::new(zeros.clone())));
        let sites = zeros.made.load(Ordering::Relaxed);
        let model = build(entry, &Weights::seeded());
        let mut taps = Taps::all();
        answer(model.as_ref(), &mut taps);
        let of = |end: &str| taps.recorded().iter().filter(|(name, _)| name.ends_with(end)).collect::<Vec<_>>();
        let (maps, keys) = (of(".probs"), of(".k"));
        assert!(maps.len() >= sites && keys.len() == maps.len(), "{}: {} of {sites}", entry.name, maps.len());
        for (name, values) in maps {
            for map in values {
                let sums = map.sum(2).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-5), "{} {name}: {sums:?}", entry.name);
            }
        }
    }
}
