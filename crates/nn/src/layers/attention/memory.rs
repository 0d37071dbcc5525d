//! Attention to other rows than all of a segment: in a pass that remembers, what is read is kept, and what comes later looks
//! at it where it lies; and rows that nobody looks at are no keys.

use switchformer_tensor::Tensor;

use super::Positions;
use super::softmax::{Made, SoftmaxAttention, Told};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::leaf::{Attention, no_source};
use crate::memory::{Kept, Memory};
use crate::ops;
use crate::rows::Rows;
use crate::side::Stream;

impl SoftmaxAttention {
    /// Whether rows are remembered in this pass: it has a memory, and rows see only what stands before them. Errors
    /// where more than keys and values would have to be kept.
    pub(super) fn remembers(&self, cx: &Ctx) -> Result<bool> {
        if !self.spec.causal || cx.memory.is_none() {
            return Ok(false);
        }
        self.check_memory(cx).map(|()| true)
    }

    fn check_memory(&self, cx: &Ctx) -> Result<()> {
        if cx.train {
            let hint = "train on whole texts: what is remembered carries no gradient";
            return Err(Error::input("a training pass with a memory", hint));
        }
        let spec = &self.spec;
        let pairs = matches!(spec.positions, Positions::Pairs(_));
        if pairs || !spec.cuts.is_empty() || spec.reduce.is_some() || !spec.local.is_empty() {
            let hint = "attention to whole segments, without convolutions or biases of pairs";
            return Err(Error::unsupported("attention", "a memory of windows or maps", hint));
        }
        Ok(())
    }

    /// Attention of all rows to those that are looked at. Shapes: -> `[total, heads * value_dim]`.
    pub(super) fn seen(&self, cx: &mut Ctx, made: Made, [rows, k_rows]: [&Rows; 2]) -> Result<Tensor> {
        let Some((seen, keys)) = k_rows.seen() else { return self.whole(cx, made, rows, k_rows) };
        let [q, k, v] = self.split(made)?;
        let n = seen.len();
        let seen = Tensor::from_vec(seen, n)?;
        let some = |t: &Tensor| ops::gather(&t.contiguous()?, &seen);
        self.whole(cx, Made::Apart([q, some(&k)?, some(&v)?]), rows, &keys)
    }

    /// Rows go behind what is remembered of their members, and see all of it. Shapes: -> `[total, heads * value_dim]`.
    pub(super) fn continued(&self, cx: &mut Ctx, made: Made, rows: &Rows) -> Result<Tensor> {
        let [q, k, v] = self.split(made)?;
        let at = (cx.site, self.spec.tap);
        self.among(cx, &q, rows, |memory| memory.extend(at, &self.layout, [&k, &v], rows, true))
    }

    /// [`Attention::attend_source`] in a pass with a memory, which keeps what is made of the source.
    pub(super) fn visited(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, source: Option<&Stream>) -> Result<Tensor> {
        self.check_memory(cx)?;
        let made = source.map(|s| self.key_values(cx, &s.x, &s.rows)).transpose()?;
        let q = self.queries(cx, x, rows)?;
        let at = (cx.site, self.spec.tap);
        self.among(cx, &q, rows, |memory| match &made {
            Some(made) => memory.extend(at, &self.layout, [&made.k, &made.v], &made.rows, false),
            None => memory.known(at, &self.layout, rows.members()),
        })
    }

    /// Attention to what the memory gives of the members. Shapes: q `[total, heads * head_dim]` -> `[total, heads *
    /// value_dim]`.
    fn among(
        &self,
        cx: &mut Ctx,
        q: &Tensor,
        rows: &Rows,
        look: impl FnOnce(&mut Memory) -> Result<Kept<'_>>,
    ) -> Result<Tensor> {
        let memory = cx.memory.take().ok_or_else(no_source)?;
        let answer = look(memory).and_then(|kept| self.gathered_from(cx, q, rows, &kept));
        cx.memory = Some(memory);
        answer
    }

    fn gathered_from(&self, cx: &mut Ctx, q: &Tensor, rows: &Rows, kept: &Kept) -> Result<Tensor> {
        let spec = self.asked(rows, &kept.rows);
        let mut told = Told::asked(cx, self.spec.tap, rows);
        if told.listens() {
            let keys = ops::packed_keys(&kept.slabs)?;
            told.maps(|| Ok([q.clone(), keys.clone()]), &spec)?;
            told.keys(|| Ok(keys.clone()))?;
        }
        told.put(cx)?;
        let mixed = ops::attend_slabs(q, &kept.slabs, self.spec.value_dim, &spec)?;
        self.count_pairs(cx, &spec);
        Ok(mixed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attention::{
        AttentionNames, AttentionSpec, DistanceBias, KeptHeads, Pairs, Partition, Positions, Rotary,
    };
    use crate::maps::Cut;
    use crate::point::{Setting, Settings};
    use crate::{DType, ParamKind, Point, Taps, Trace, Weights, cost};

    const DIM: usize = 24;

    fn causal() -> AttentionSpec {
        AttentionSpec { causal: true, ..AttentionSpec::new(AttentionNames::new(["q", "k", "v"], "o"), DIM, 4) }
    }

    fn table(name: &str, shape: &[usize]) -> Tensor {
        Weights::seeded().tensor(name, shape, ParamKind::Table).unwrap()
    }

    fn numbers(t: &Tensor) -> Vec<Vec<f32>> {
        t.to_vec2().unwrap()
    }

    /// Runs `f` in a pass with a memory at a point, listening to `taps`.
    fn pass<T>(memory: Option<&mut Memory>, point: &Point, taps: &mut Taps, f: impl FnOnce(&mut Ctx) -> T) -> (T, u64) {
        let mut trace = Trace::default();
        let mut cx = Ctx::new(point, taps, &mut trace);
        cx.memory = memory;
        let answer = f(&mut cx);
        (answer, trace.macs)
    }

    fn near(got: &[Vec<f32>], want: &[Vec<f32>], what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        let off = got.concat().iter().zip(want.concat()).fold(0f32, |off, (a, b)| off.max((a - b).abs()));
        assert!(off < 1e-5, "{what}: {off:e} off");
    }

    /// Rows in several passes get the answers and give the keys of one pass over all of them.
    fn continues(what: &str, spec: &AttentionSpec) {
        let leaf = Weights::seeded().attention(spec).unwrap();
        let (point, lens) = (Point::new(), [7, 4]);
        let rows = Rows::new(&lens).unwrap();
        let x = table("x", &[11, DIM]);
        let mut taps = Taps::all();
        let (whole, _) = pass(None, &point, &mut taps, |cx| leaf.forward(cx, &x, &rows).unwrap());
        let (whole, keys) = (numbers(&whole), numbers(&taps.get("blocks.0.attn.k").unwrap()[0]));
        let mut memory = Memory::new(2).unwrap();
        for step in [[0..3, 0..1], [3..4, 1..2], [4..7, 2..4]] {
            let own: Vec<usize> = step[0].clone().chain(step[1].clone().map(|i| 7 + i)).collect();
            let part = Tensor::from_vec(own.iter().flat_map(|i| numbers(&x)[*i].clone()).collect(), (own.len(), DIM));
            let fresh = Rows::new(&[step[0].len(), step[1].len()]).unwrap();
            let placed = memory.place(&fresh).unwrap();
            let mut taps = Taps::all();
            let run = |cx: &mut Ctx| leaf.forward(cx, &part.unwrap(), &placed).unwrap();
            let (got, macs) = pass(Some(&mut memory), &point, &mut taps, run);
            let want: Vec<_> = own.iter().map(|i| whole[*i].clone()).collect();
            near(&numbers(&got), &want, what);
            let seen: Vec<_> =
                (0..step[0].end).chain((0..step[1].end).map(|i| 7 + i)).map(|i| keys[i].clone()).collect();
            near(&numbers(&taps.get("blocks.0.attn.k").unwrap()[0]), &seen, what);
            let maps = taps.get("blocks.0.attn.probs").unwrap();
            assert_eq!(maps[1].dims(), [spec.heads, step[1].len(), step[1].end], "{what}");
            // Each row looks at all that its member has by then.
            let products = |pairs: usize| (pairs * spec.heads * (spec.head_dim + spec.value_dim)) as u64;
            let (x, rows) = (Tensor::hollow((own.len(), DIM), DType::F32), Rows::new(&[own.len()]).unwrap());
            let alone = cost::of(&point, |cx| leaf.forward(cx, &x, &rows)).unwrap().macs;
            let alone = alone - products(own.len() * own.len());
            assert_eq!(macs, alone + products(step.iter().map(|s| s.len() * s.end).sum()), "{what}");
        }
        // A float for every number of keys and values, with room for 16 rows of each member.
        assert_eq!(memory.bytes(), 4 * 2 * 16 * spec.kv_heads * (spec.head_dim + spec.value_dim), "{what}");
    }

    #[test]
    fn rows_in_several_passes_get_what_they_get_in_one() {
        continues("plain", &causal());
        let rotary = Some(Arc::new(Rotary::new(vec![1.0, 0.2], Pairs::Halves)));
        let shared = AttentionSpec { kv_heads: 2, head_dim: 4, value_dim: 5, rotary, window: Some(3), ..causal() };
        continues("shared heads, a window, values of their own width", &shared);
        let bias = DistanceBias { table: table("bias", &[8, 4]), max_distance: 16, bidirectional: false };
        continues("distances", &AttentionSpec { positions: Positions::Distance(bias), ..causal() });
        continues(
            "cosines",
            &AttentionSpec { scores: super::super::Scores::Cosine(table("f", &[4, 1, 1])), ..causal() },
        );
    }

    /// Rows that nobody looks at get what each would get as the only one behind the others, which do not change.
    #[test]
    fn rows_that_nobody_looks_at_read_the_others() {
        let rotary = Some(Arc::new(Rotary::new(vec![1.0, 0.2], Pairs::Halves)));
        let all = AttentionSpec { causal: false, ..causal() };
        let specs =
            [all.clone(), AttentionSpec { kv_heads: 2, head_dim: 4, value_dim: 5, rotary, window: Some(4), ..all }];
        for spec in specs {
            let leaf = Weights::seeded().attention(&spec).unwrap();
            let x = table("x", &[9, DIM]);
            let run = |x: &Tensor, rows: &Rows| {
                let one = |cx: &mut Ctx| leaf.forward(cx, x, rows).unwrap();
                let (y, macs) = pass(None, &Point::new(), &mut Taps::none(), one);
                (numbers(&y), macs)
            };
            let rows = Rows::new(&[5, 4]).unwrap().seen_first(&[3, 4]).unwrap();
            let (got, macs) = run(&x, &rows);
            let (read, _) = run(&x.narrow(0, 0, 3).unwrap(), &Rows::new(&[3]).unwrap());
            near(&got[..3], &read, "rows that are looked at");
            let (other, _) = run(&x.narrow(0, 5, 4).unwrap(), &Rows::new(&[4]).unwrap());
            near(&got[5..], &other, "the other segment");
            let (whole, full) = run(&x, &Rows::new(&[5, 4]).unwrap());
            assert!(got[3..5] != whole[3..5] && macs < full);
        }
    }

    #[test]
    fn a_source_is_read_once() {
        let spec =
            AttentionSpec { causal: false, source: Some(10), head_dim: 4, value_dim: 3, tap: "cross", ..causal() };
        let leaf = Weights::seeded().attention(&spec).unwrap();
        let (point, rows) = (Point::new(), Rows::new(&[2, 1]).unwrap());
        let (x, residual) = (table("x", &[3, DIM]), table("residual", &[3, DIM]));
        let source = Stream { x: table("source", &[9, 10]), rows: Rows::new(&[4, 5]).unwrap() };
        let run = |memory: Option<&mut Memory>, source: Option<&Stream>| {
            let one = |cx: &mut Ctx| leaf.attend_source(cx, &x, &rows, source, Some(&residual));
            let (answer, macs) = pass(memory, &point, &mut Taps::none(), one);
            answer.map(|y| (numbers(&y), macs))
        };
        let (want, macs) = run(None, Some(&source)).unwrap();
        let dry = |cx: &mut Ctx| leaf.attend_source(cx, &x, &rows, Some(&source), Some(&residual));
        assert_eq!(cost::of(&point, dry).unwrap().macs, macs);
        let mut memory = Memory::new(2).unwrap();
        assert!(run(Some(&mut memory), None).unwrap_err().to_string().contains("remembers no source"));
        assert!(run(None, None).unwrap_err().to_string().contains("met none"));
        let first = run(Some(&mut memory), Some(&source)).unwrap();
        near(&first.0, &want, "with a source");
        assert_eq!(first.1, macs);
        let again = run(Some(&mut memory), None).unwrap();
        near(&again.0, &want, "without");
        assert_eq!(again.1, macs - 9 * 10 * 4 * 7, "keys and values are not made again");
    }

    #[test]
    fn what_cannot_be_remembered_is_refused() {
        let rows = Rows::new(&[2]).unwrap();
        let x = table("x", &[2, DIM]);
        let kept = |heads: &[usize]| {
            let setting: Setting = Arc::new(KeptHeads::new(vec![Some(heads.to_vec())]));
            Point::new().with_settings(Settings::new(vec![setting]))
        };
        let run = |memory: &mut Memory, spec: &AttentionSpec, point: &Point, train: bool| {
            let leaf = Weights::seeded().attention(spec).unwrap();
            let placed = memory.place(&rows).unwrap();
            let one = |cx: &mut Ctx| {
                cx.train = train;
                leaf.forward(cx, &x, &placed).map(|_| ())
            };
            pass(Some(memory), point, &mut Taps::none(), one).0
        };
        let refused = |answer: Result<()>, word: &str| {
            let e = answer.unwrap_err().to_string();
            assert!(e.contains(word), "{e}");
        };
        let fresh = || Memory::new(1).unwrap();
        let cut: Partition = Arc::new(|size| Ok(Cut::plain(size)));
        let windows = AttentionSpec { cuts: vec![cut], ..causal() };
        refused(run(&mut fresh(), &windows, &Point::new(), false), "windows or maps");
        refused(run(&mut fresh(), &causal(), &Point::new(), true), "carries no gradient");
        // The same number of heads, but others.
        let mut memory = fresh();
        run(&mut memory, &causal(), &kept(&[0, 2]), false).unwrap();
        run(&mut memory, &causal(), &kept(&[0, 2]), false).unwrap();
        for point in [kept(&[0, 1]), Point::new()] {
            let mut other = fresh();
            run(&mut other, &causal(), &point, false).unwrap();
            let before = (memory.rows().lens(), memory.bytes());
            refused(memory.join(other), "different heads");
            assert_eq!((memory.rows().lens(), memory.bytes()), before, "what cannot join changes nothing");
        }
        refused(run(&mut memory, &causal(), &kept(&[0, 1]), false), "other heads");
        let mut memory = fresh();
        run(&mut memory, &causal(), &Point::new(), false).unwrap();
        refused(run(&mut memory, &AttentionSpec { kv_heads: 2, ..causal() }, &Point::new(), false), "one memory");
    }
}
