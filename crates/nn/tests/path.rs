//! Paths of segments: split networks, loops, stitches and ranks of a pipeline, with a toy that writes.

#![allow(clippy::unwrap_used)]

use switchformer_nn::cost;
use switchformer_nn::layers::{Embedding, LayerNorm};
use switchformer_nn::staged::Left;
use switchformer_nn::{
    Adapter, Attention, AttentionNames, AttentionSpec, Ctx, Input, Linear, LinearAdapter, Memory, Output, Path, Point,
    Result, Segment, Site, Staged, State, Stream, Taps, Tensor, Trace, Weights, cost_path, record, run_path, walk,
};

const VOCAB: usize = 20;
const HEADS: usize = 2;

/// A causal network: nothing but attention.
struct Toy {
    table: Embedding,
    blocks: Vec<Block>,
    words: Box<dyn Linear>,
    /// First block that writes, where it keeps a memory.
    resume: Option<usize>,
}

struct Block {
    norm: LayerNorm,
    attention: Box<dyn Attention>,
}

impl Toy {
    fn new(w: &Weights, dim: usize, depth: usize) -> Toy {
        let block = |i: usize| {
            let w = w.at("blocks").at(i);
            let norm = w.layer_norm("norm", dim, 1e-5).unwrap();
            let names = AttentionNames::new(["qkv"; 3], "out");
            let spec = AttentionSpec { causal: true, ..AttentionSpec::new(names, dim, HEADS) };
            Block { norm, attention: w.attention(&spec).unwrap() }
        };
        Toy {
            table: w.embedding("table", VOCAB, dim).unwrap(),
            blocks: (0..depth).map(block).collect(),
            words: w.linear("words", dim, VOCAB, true).unwrap(),
            resume: Some(0),
        }
    }

    fn seeded(name: &str, dim: usize, depth: usize) -> Toy {
        Toy::new(&Weights::seeded().at(name), dim, depth)
    }
}

impl Staged for Toy {
    fn n_blocks(&self) -> usize {
        self.blocks.len()
    }
    fn stem(&self, cx: &mut Ctx, input: &Input) -> Result<State> {
        let text = input.ids("input_ids")?;
        let rows = match &mut cx.memory {
            Some(memory) => memory.place(&text.rows)?,
            None => text.rows.clone(),
        };
        Ok(State::new(self.table.forward(&text.ids)?, rows))
    }
    fn block(&self, cx: &mut Ctx, idx: usize, State { x, rows, side }: State) -> Result<State> {
        let Block { norm, attention } = &self.blocks[idx];
        Ok(State { x: attention.forward_onto(cx, &norm.forward(&x)?, &rows, &x)?, rows, side })
    }
    fn head(&self, cx: &mut Ctx, state: State) -> Result<Output> {
        Ok(Output::new().rows("logits", self.words.forward(cx, &state.x)?, &state.rows))
    }
    fn resume(&self) -> Option<usize> {
        self.resume
    }
}

fn adapter(w: &Weights, from: usize, to: usize) -> LinearAdapter {
    LinearAdapter(w.linear("adapter", from, to, true).unwrap())
}

/// What a pass gave: bits of the answer, taps by name in order, multiply-adds.
#[derive(Debug, PartialEq)]
struct Got {
    answer: Vec<u32>,
    taps: Vec<(String, Vec<u32>)>,
    macs: u64,
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

fn pass(path: &Path, input: &Input, train: bool) -> Got {
    let (point, mut taps, mut trace) = (Point::new().with("seed", 7), Taps::all(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    (cx.train, cx.dropout) = (train, if train { 0.3 } else { 0.0 });
    let out = run_path(path, &[], &mut cx, input).unwrap();
    let taps = taps.recorded().iter().map(|(name, all)| (name.clone(), all.iter().flat_map(bits).collect())).collect();
    Got { answer: bits(out.get_rows("logits").unwrap().0), taps, macs: trace.macs }
}

/// Logits of a pass with a memory.
fn write(path: &Path, memory: &mut Memory, tokens: &[&[u32]]) -> Result<Vec<Vec<f32>>> {
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.memory = Some(memory);
    let out = run_path(path, &[], &mut cx, &Input::tokens(tokens).unwrap())?;
    Ok(out.get_rows("logits").unwrap().0.to_vec2().unwrap())
}

const TEXTS: [[u32; 6]; 2] = [[4, 9, 1, 17, 6, 2], [11, 3, 3, 8, 19, 5]];

fn texts() -> Input {
    Input::tokens(&[&TEXTS[0][..], &TEXTS[1][..4]]).unwrap()
}

fn names(got: &Got) -> Vec<&str> {
    got.taps.iter().map(|(name, _)| name.as_str()).filter(|name| !name.contains("attn")).collect()
}

#[test]
fn a_model_in_two_segments_is_the_model() {
    let toy = Toy::seeded("a", 8, 4);
    for train in [false, true] {
        let whole = pass(&Path::of(&toy), &texts(), train);
        assert_eq!(names(&whole), ["stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3"]);
        for at in 1..4 {
            let halves = [Segment::once(0, 0..at), Segment::once(0, at..4)];
            assert_eq!(pass(&Path::new(&[&toy], &halves).unwrap(), &texts(), train), whole, "split before {at}");
        }
    }
    assert_ne!(pass(&Path::of(&toy), &texts(), true).answer, pass(&Path::of(&toy), &texts(), false).answer);
}

#[test]
fn ranks_of_a_pipeline_walk_their_steps_of_any_path() {
    let (a, b) = (Toy::seeded("a", 8, 3), Toy::seeded("b", 12, 2));
    let to_b = adapter(&Weights::seeded(), 8, 12);
    let segments =
        [Segment { times: 2, ..Segment::once(0, 0..2) }, Segment { adapter: Some(&to_b), ..Segment::once(1, 0..2) }];
    let path = Path::new(&[&a, &b], &segments).unwrap();
    let whole = pass(&path, &texts(), false);
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    let mut state = a.stem(&mut cx, &texts()).unwrap();
    for rank in [0..1, 1..4, 4..6] {
        state = walk(&path, &[], &mut cx, rank, state, &mut Left::new()).unwrap();
    }
    assert!(walk(&path, &[], &mut cx, 4..7, state.clone(), &mut Left::new()).is_err(), "a step that is not there");
    let out = path.last().head(&mut cx, state).unwrap();
    assert_eq!(bits(out.get_rows("logits").unwrap().0), whole.answer);
}

#[test]
fn a_range_that_runs_twice_is_walked_twice() {
    let toy = Toy::seeded("a", 8, 4);
    let looped = [Segment::once(0, 0..1), Segment { times: 2, ..Segment::once(0, 1..3) }, Segment::once(0, 3..4)];
    let path = Path::new(&[&toy], &looped).unwrap();
    let got = pass(&path, &texts(), false);
    let laps = ["stem", "blocks.0", "blocks.1", "blocks.2", "laps.1.blocks.1", "laps.1.blocks.2", "blocks.3"];
    assert_eq!(names(&got), laps);
    assert!(got.taps.iter().any(|(name, _)| name == "laps.1.blocks.2.attn.probs"));

    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    let mut state = toy.stem(&mut cx, &texts()).unwrap();
    let mut by_hand = vec![bits(&state.x)];
    for block in [0, 1, 2, 1, 2, 3] {
        state = toy.block(&mut cx, block, state).unwrap();
        by_hand.push(bits(&state.x));
    }
    for (name, values) in laps.iter().zip(&by_hand) {
        assert_eq!(&got.taps.iter().find(|(n, _)| n == name).unwrap().1, values, "{name}");
    }
    assert_eq!(got.answer, bits(toy.head(&mut cx, state).unwrap().get_rows("logits").unwrap().0));

    // Another segment with the same blocks is a further lap.
    let apart = [Segment::once(0, 0..3), Segment::once(0, 1..4)];
    let apart = Path::new(&[&toy], &apart).unwrap();
    assert!(apart.sites().eq(path.sites()));
    assert_eq!(pass(&apart, &texts(), true), pass(&path, &texts(), true));
}

#[test]
fn a_place_has_one_name() {
    let site = |model, lap| Site { model, block: 3, lap, step: 9 };
    let all = [site(0, 0), site(0, 2), site(1, 0), site(1, 2)];
    assert_eq!(
        all.map(|s| s.to_string()),
        ["blocks.3", "laps.2.blocks.3", "models.1.blocks.3", "models.1.laps.2.blocks.3"]
    );
    assert_eq!(all.map(|s| s.depth()), [Some(4), None, None, None]);
    assert_eq!(all.map(|s| s.named("stages.0"))[..2], ["stages.0", "laps.2.stages.0"]);
    assert_eq!(Site::of(3), Site { model: 0, block: 3, lap: 0, step: 3 });
}

#[test]
fn a_memory_works_in_loops_and_stitches() {
    let (a, b) = (Toy::seeded("a", 8, 3), Toy::seeded("b", 12, 3));
    let w = Weights::seeded();
    let (to_b, to_a) = (adapter(&w.at("there"), 8, 12), adapter(&w.at("back"), 12, 8));
    let looped = Path::new(&[&a], &[Segment { times: 3, ..Segment::once(0, 0..3) }]).unwrap();
    let stitched = [
        Segment::once(0, 0..2),
        Segment { times: 2, adapter: Some(&to_b), ..Segment::once(1, 1..3) },
        Segment { adapter: Some(&to_a), ..Segment::once(0, 1..3) },
    ];
    let stitched = Path::new(&[&a, &b], &stitched).unwrap();
    for path in [looped, stitched] {
        let whole = write(&path, &mut Memory::new(2).unwrap(), &[&TEXTS[0], &TEXTS[1]]).unwrap();
        let plain = pass(&path, &Input::tokens(&TEXTS).unwrap(), false).answer;
        assert!(whole.concat().iter().map(|v| v.to_bits()).eq(plain), "one pass with a memory or without");
        // Chunks of unequal numbers of tokens; the first member is read alone, joins and leaves before the end.
        let mut memory = Memory::new(1).unwrap();
        let mut got = [write(&path, &mut memory, &[&TEXTS[0][..2]]).unwrap(), Vec::new()];
        let mut other = Memory::of_members(&[1]).unwrap();
        got[1] = write(&path, &mut other, &[&TEXTS[1][..1]]).unwrap();
        memory.join(other).unwrap();
        let mut both = write(&path, &mut memory, &[&TEXTS[0][2..3], &TEXTS[1][1..4]]).unwrap();
        got[1].extend(both.split_off(1));
        got[0].extend(both);
        memory.select(&[1]).unwrap();
        got[1].extend(write(&path, &mut memory, &[&TEXTS[1][4..]]).unwrap());
        for (m, got) in got.iter().enumerate() {
            let want = &whole[6 * m..6 * m + got.len()];
            let off = got.concat().iter().zip(want.concat()).fold(0f32, |far, (a, b)| far.max((a - b).abs()));
            assert!(off < 1e-5, "member {m}: {off:e}");
        }
        assert_eq!((got[0].len(), got[1].len()), (3, 6));
    }
    // A pass on another path misses rows, and says so.
    let mut memory = Memory::new(1).unwrap();
    write(&Path::of(&a), &mut memory, &[&TEXTS[0]]).unwrap();
    let other = Path::new(&[&a], &[Segment { times: 2, ..Segment::once(0, 0..3) }]).unwrap();
    let e = write(&other, &mut memory, &[&[1]]).unwrap_err().to_string();
    assert!(e.contains("laps.1.blocks.0 has no keys") && e.contains("path"), "{e}");
}

#[test]
fn a_memory_is_refused_where_a_path_cannot_resume() {
    let refuses = |path: &Path, says: &str| {
        let e = write(path, &mut Memory::new(1).unwrap(), &[&[1, 2]]).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    };
    let mut a = Toy::seeded("a", 8, 3);
    let mut b = Toy::seeded("b", 8, 3);
    let adapter = adapter(&Weights::seeded(), 8, 8);
    let to_b = |blocks| Segment { adapter: Some(&adapter as &dyn Adapter), ..Segment::once(1, blocks) };
    (a.resume, b.resume) = (Some(2), None);
    refuses(&Path::of(&b), "this model keeps no memory");
    refuses(&Path::new(&[&a, &b], &[Segment::once(0, 0..3), to_b(0..3)]).unwrap(), "network 1 of the path keeps no");
    b.resume = Some(1);
    // Block 0 of b reads; so does the second lap over blocks that read and write.
    let again = Path::new(&[&a, &b], &[Segment::once(0, 0..3), to_b(0..3)]).unwrap();
    refuses(&again, "reads again at models.1.blocks.0");
    let again = Path::new(&[&a], &[Segment { times: 2, ..Segment::once(0, 0..3) }]).unwrap();
    refuses(&again, "reads again at laps.1.blocks.0");
    let border = Path::new(&[&a, &b], &[Segment::once(0, 0..2), to_b(1..3)]).unwrap();
    refuses(&border, "an adapter before models.1.blocks.1");
    // A loop over what reads is left out of the steps that write.
    let looped = [Segment { times: 2, ..Segment::once(0, 0..2) }, Segment { times: 2, ..Segment::once(0, 2..3) }];
    let looped = Path::new(&[&a], &looped).unwrap();
    let mut memory = Memory::new(1).unwrap();
    write(&looped, &mut memory, &[&[1, 2]]).unwrap();
    let (point, mut taps, mut trace) = (Point::new(), Taps::all(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.memory = Some(&mut memory);
    run_path(&looped, &[], &mut cx, &Input::tokens(&[[3u32]]).unwrap()).unwrap();
    let ran: Vec<_> = taps.recorded().iter().map(|(n, _)| n.as_str()).filter(|n| !n.contains("attn")).collect();
    assert_eq!(ran, ["stem", "blocks.2", "laps.1.blocks.2"]);
}

#[test]
fn networks_of_two_widths_meet_at_an_adapter_and_both_learn() {
    let w = Weights::seeded().trainable();
    let (a, b) = (Toy::new(&w.at("a"), 8, 3), Toy::new(&w.at("b"), 12, 4));
    let to_b = adapter(&w.at("there"), 8, 12);
    let segments =
        [Segment { times: 2, ..Segment::once(0, 0..2) }, Segment { adapter: Some(&to_b), ..Segment::once(1, 2..4) }];
    let path = Path::new(&[&a, &b], &segments).unwrap();
    let got = pass(&path, &texts(), false);
    assert!(got.taps.iter().any(|(name, _)| name == "models.1.blocks.2.adapter"));

    // The forecast is the counted work, and weights that run twice are read once.
    let cost = cost_path(&path, &[], &Point::new(), &texts()).unwrap();
    assert_eq!(cost.macs, got.macs);
    // A norm, a product of queries, keys and values, and an output product.
    let block = |dim: usize| 2 * dim + 4 * (dim * dim + dim);
    let ends = VOCAB * 8 + (VOCAB * 12 + VOCAB);
    assert_eq!(cost.bytes, 4 * (ends + 2 * block(8) + (8 * 12 + 12) + 2 * block(12)) as u64);
    assert_eq!(
        cost::cost(&a, &[], &Point::new(), &texts()).unwrap(),
        cost_path(&Path::new(&[&a], &[Segment::once(0, 0..3)]).unwrap(), &[], &Point::new(), &texts()).unwrap()
    );

    let (loss, tape) = record(|| {
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        cx.train = true;
        let out = run_path(&path, &[], &mut cx, &texts())?;
        out.get_rows("logits").unwrap().0.sqr()?.sum_all()
    })
    .unwrap();
    let grads = tape.backward(&loss).unwrap();
    let (mut learn, mut idle) = (Vec::new(), Vec::new());
    for p in w.params() {
        let g = grads.get(p.var.as_tensor()).map(|g| g.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        let moved = g.is_some_and(|g| g.iter().all(|v| v.is_finite()) && g.iter().any(|v| *v != 0.0));
        if moved { &mut learn } else { &mut idle }.push(p.names[0].0.clone());
    }
    let runs = |name: &String| {
        ["a.table", "a.blocks.0", "a.blocks.1", "there.", "b.blocks.2", "b.blocks.3", "b.words"]
            .iter()
            .any(|part| name.starts_with(part))
    };
    assert!(learn.iter().all(runs) && !idle.iter().any(runs), "{idle:?}");
}

#[test]
fn bad_paths_are_refused() {
    let (a, b) = (Toy::seeded("a", 8, 3), Toy::seeded("b", 12, 3));
    let to_b = adapter(&Weights::seeded(), 8, 12);
    let models: [&dyn Staged; 2] = [&a, &b];
    let once = Segment::once;
    let refuses = |models: &[&dyn Staged], segments: &[Segment], says: &str| {
        let e = Path::new(models, segments).err().unwrap_or_else(|| panic!("accepted; expected: {says}")).to_string();
        assert!(e.contains(says), "{e}");
    };
    let (one, adapter) = (&models[..1], Some(&to_b as &dyn Adapter));
    refuses(one, &[once(0, 0..4)], "segment 0 of the path is blocks 0..4 of 3");
    refuses(one, &[once(0, 0..3), once(0, 2..2)], "segment 1 of the path is blocks 2..2 of 3");
    refuses(one, &[], "a path of 0 segments");
    refuses(&[], &[once(0, 0..1)], "is of network 0");
    refuses(one, &[Segment { times: 0, ..once(0, 0..3) }], "runs 3 blocks 0 times");
    refuses(one, &[Segment { times: 1366, ..once(0, 0..3) }], "runs 3 blocks 1366 times");
    refuses(one, &[once(0, 0..1), Segment { times: usize::MAX, ..once(0, 0..3) }], "segment 1 of the path runs");
    refuses(one, &[once(1, 0..3)], "is of network 1, of 1");
    refuses(&models, &[once(1, 0..3), once(0, 0..3)], "is of network 1, of 2, where 0 is the next new one");
    refuses(&models, &[once(0, 0..3)], "network 1 of 2 in none");
    refuses(one, &[Segment { adapter, ..once(0, 0..3) }], "segment 0 of the path has an adapter");
    refuses(&models, &[once(0, 0..3), once(1, 0..3)], "segment 1 of the path follows network 0 without an adapter");

    // Widths are the adapter's to check, on both sides, and so are streams that it does not know.
    let fails = |path: &Path, says: &str| {
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let e = run_path(path, &[], &mut Ctx::new(&point, &mut taps, &mut trace), &texts()).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    };
    let twice = [once(0, 0..1), Segment { adapter, ..once(1, 0..2) }, Segment { adapter, ..once(0, 2..3) }];
    fails(&Path::new(&models, &twice).unwrap(), "the adapter before blocks.2");
    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    let mut state = a.stem(&mut cx, &texts()).unwrap();
    state.side.push("source", Stream { x: state.x.clone(), rows: state.rows.clone() });
    let e = to_b.forward(&mut cx, state).unwrap_err().to_string();
    assert!(e.contains("met the stream `source`"), "{e}");
    let narrow = LinearAdapter(Weights::seeded().linear("narrow", 8, 10, true).unwrap());
    let wrong = [once(0, 0..1), Segment { adapter: Some(&narrow), ..once(1, 0..2) }];
    let e = "layer norm of models.1.blocks.0, behind its adapter: expected [.., 12]";
    fails(&Path::new(&models, &wrong).unwrap(), e);
}
