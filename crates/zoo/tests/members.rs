//! Laws of members: each has its own seed, may leave at any block, and may be a picture of its own size, and gets what it
//! would get alone.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{batch, everything, far, flat, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_nn::init::Stream;
use switchformer_nn::staged::Left;
use switchformer_nn::staged::lens;
use switchformer_nn::{
    BlockRule, Ctx, Input, Member, Members, Output, Point, Result, Site, Staged, State, Taps, Trace, staged,
};
use switchformer_switch::rule::cancel::Cancel;
use switchformer_tensor::Tensor;
use switchformer_zoo::{OpenOptions, Opened, ZOO};

const N: usize = 3;
const ROUNDING: f32 = 1e-5;

fn point(text: Json) -> Point {
    Point::parse(&text.to_string()).unwrap()
}

/// Every output that a member has, by name.
fn outputs_of(out: &Output, member: usize) -> Vec<(String, Vec<f32>)> {
    out.values().keys().map(|name| (name.clone(), flat(&out.of(name, member).unwrap()))).collect()
}

/// What a member of a batch got is what it gets alone.
fn same(whole: &Output, member: usize, alone: &Output, at: &str) {
    let (got, want) = (outputs_of(whole, member), outputs_of(alone, 0));
    assert!(!want.is_empty(), "{at}");
    for ((name, got), (other, want)) in got.iter().zip(&want) {
        assert_eq!(name, other, "{at}");
        let off = far(got, want);
        assert!(off < ROUNDING, "{at}: {name} of member {member} differs by {off:e}");
    }
}

/// Points whose choices are random.
fn random_points(opened: &Opened) -> Vec<Point> {
    let host = opened.switches.host();
    let mut all = Vec::new();
    if host.prefix_rows.is_some() {
        all.push(json!({"tokens": {"method": "random", "keep": 0.5, "after": [1, 2]}, "seed": 3}));
    }
    if common::offer(opened).is_some() {
        let grains = ["batch", "sentence", "token"];
        all.extend(grains.map(|g| json!({"experts": {"router": "random", "grain": g}, "seed": 3})));
    }
    all.into_iter().map(point).collect()
}

#[test]
fn members_with_seeds_of_their_own_get_what_they_get_alone() {
    let mut models = 0;
    for (entry, architecture) in everything() {
        let opened = Opened::random(toy(entry, architecture), OpenOptions::default()).unwrap();
        let input = batch(opened.model.as_ref(), N);
        let with_seeds = |seeds: [Option<u64>; N], places: [u32; N]| {
            let one = |(seed, place)| Member { seed, place, cancelled: None };
            input.clone().of_members(Members::new(seeds.into_iter().zip(places).map(one))).unwrap()
        };
        for p in random_points(&opened) {
            let at = format!("{architecture} at {p}");
            models += 1;
            // Three requests in one batch: two with seeds, one with the point's.
            let mixed = with_seeds([Some(11), None, Some(12)], [0, 0, 1]);
            let (whole, trace) = opened.run(&p, &mixed).unwrap();
            for m in 0..N {
                let (alone, own) = opened.run(&p, &mixed.member(m).unwrap()).unwrap();
                same(&whole, m, &alone, &at);
                let choices = |t: &Trace, who: u32| -> Vec<Json> {
                    t.decisions.iter().filter(|d| d.member == Some(who)).map(|d| d.choice.clone()).collect()
                };
                let (a, b) = (choices(&trace, m as u32), choices(&own, 0));
                let chosen =
                    |all: &[Json]| -> Vec<Json> { all.iter().map(|c| json!([c.get("kept"), c.get("load")])).collect() };
                assert_eq!(chosen(&a), chosen(&b), "{at}: member {m}");
            }
            // A seed of its own is the same as that seed in the point, and one seed for all is as without members.
            let (of_point, _) = opened.run(&p.clone().with("seed", 11), &input.member(0).unwrap()).unwrap();
            same(&whole, 0, &of_point, &at);
            let (plain, _) = opened.run(&p, &input).unwrap();
            let (equal, _) = opened.run(&p, &with_seeds([Some(3); N], [0, 1, 2])).unwrap();
            assert!(common::bits(&plain) == common::bits(&equal), "{at}");
        }
    }
    assert!(models >= 8, "{models}");
}

/// Raises a flag after a block, as another thread would.
struct Raise(usize, Arc<AtomicBool>);

impl BlockRule for Raise {
    fn wants(&self, _: Site) -> &[&'static str] {
        &[]
    }
    fn after(&self, _: &mut Ctx, _: &dyn Staged, site: Site, state: State, _: &mut Left) -> Result<State> {
        if site.block == self.0 {
            self.1.store(true, Ordering::Relaxed);
        }
        Ok(state)
    }
}

#[test]
fn cancelling_one_member_changes_nothing_for_the_others() {
    for (entry, architecture) in everything() {
        let opened = Opened::random(toy(entry, architecture), OpenOptions::default()).unwrap();
        let trunk = opened.model.trunk();
        let input = batch(opened.model.as_ref(), N);
        let (kept, _) = opened.run(&Point::new(), &input).unwrap();
        for (gone, after) in [(0, 0), (1, 0), (2, trunk.n_blocks() - 1), (1, trunk.n_blocks() / 2)] {
            let at = format!("{architecture}: member {gone} cancelled in block {after}");
            let flag = Arc::new(AtomicBool::new(false));
            let one = |m: usize| Member { place: m as u32, seed: None, cancelled: (m == gone).then(|| flag.clone()) };
            let input = input.clone().of_members(Members::new((0..N).map(one))).unwrap();
            let rules: [Box<dyn BlockRule>; 2] = [Box::new(Raise(after, flag.clone())), Box::new(Cancel)];
            let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
            let out = staged::run(trunk, &rules, &mut Ctx::new(&point, &mut taps, &mut trace), &input).unwrap();
            assert!(!out.values().is_empty(), "{at}");
            for name in out.values().keys() {
                for m in (0..N).filter(|m| *m != gone) {
                    let off = far(&flat(&out.of(name, m).unwrap()), &flat(&kept.of(name, m).unwrap()));
                    assert!(off < ROUNDING, "{at}: {name} of member {m} differs by {off:e}");
                }
                let error = out.of(name, gone).unwrap_err().to_string();
                assert!(error.contains(&format!("member {gone}")) && error.contains("cancelled"), "{at}: {error}");
                assert!(out.get(name).is_err() && out.get_rows(name).is_none(), "{at}: {name} looks whole");
            }
            let cancelled = trace.decisions.iter().filter(|d| d.switch == "cancel");
            let who: Vec<_> = cancelled.map(|d| (d.at.clone(), d.member)).collect();
            assert_eq!(who, [(format!("blocks.{after}"), Some(gone as u32))], "{at}");
        }
    }
}

#[test]
fn a_batch_may_be_cancelled_whole_and_by_whoever_runs_a_model() {
    for entry in ZOO {
        let opened = Opened::random(toy(entry, &toy_architecture(entry)), OpenOptions::default()).unwrap();
        let flag = Arc::new(AtomicBool::new(true));
        let one = |m: usize| Member { place: m as u32, seed: None, cancelled: Some(flag.clone()) };
        let input = batch(opened.model.as_ref(), N).of_members(Members::new((0..N).map(one))).unwrap();
        let (out, trace) = opened.run(&Point::new(), &input).unwrap();
        let blocks = trace.decisions.iter().filter(|d| d.switch == "cancel").map(|d| d.at.clone());
        assert_eq!(blocks.collect::<Vec<_>>(), vec!["blocks.0"; N], "{}", entry.name);
        for m in 0..N {
            let error = out.of("logits", m).unwrap_err().to_string();
            assert!(error.contains(&format!("member {m}")) && error.contains("cancelled"), "{}: {error}", entry.name);
        }
        flag.store(false, Ordering::Relaxed);
        let (out, _) = opened.run(&Point::new(), &input).unwrap();
        assert!(out.values().keys().all(|name| (0..N).all(|m| out.of(name, m).is_ok())), "{}", entry.name);
    }
}

#[test]
fn images_of_several_sizes_share_a_batch() {
    let mut models = 0;
    for (entry, architecture) in everything() {
        let opened = Opened::random(toy(entry, architecture), OpenOptions::default()).unwrap();
        let Ok((channels, (h, w), patch)) = opened.model.spec().image_size() else { continue };
        models += 1;
        let mut stream = Stream::named("images");
        let mut image = |h: usize, w: usize| {
            let data: Vec<f32> = (0..channels * h * w).map(|_| 2.0 * stream.unit() - 1.0).collect();
            Tensor::from_vec(data, (channels, h, w)).unwrap()
        };
        // Whole windows, stripes and patches of every family; neighbours of one size, and one size twice with another
        // between.
        let (down, right) = if w % 32 == 0 { (32, 32) } else { (2 * patch.0, patch.1) };
        let sizes = [(h, w), (h, w), (h + down, w), (h, w + right), (h, w)];
        let images: Vec<Tensor> = sizes.iter().map(|(h, w)| image(*h, *w)).collect();
        let input = Input::images(&images).unwrap();
        assert_eq!(input.image_sizes(channels).unwrap(), sizes, "{architecture}");
        let (whole, trace) = opened.run(&Point::new(), &input).unwrap_or_else(|e| panic!("{architecture}: {e}"));
        let mut macs = 0;
        for (m, image) in images.iter().enumerate() {
            let (alone, own) = opened.run(&Point::new(), &Input::images(std::slice::from_ref(image)).unwrap()).unwrap();
            same(&whole, m, &alone, architecture);
            macs += own.macs;
        }
        assert_eq!(trace.macs, macs, "{architecture}: multiply-adds");
        let lens = lens(opened.model.trunk(), &input).unwrap();
        assert_eq!(lens.len(), images.len(), "{architecture}");
    }
    assert!(models >= 20, "{models}");
}
