//! Attention by some of its heads: what a point may leave out, and the smaller attention that then runs.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::json;
use switchformer_tensor::{Tensor, dry};

use super::softmax::{Projection, Projections, SoftmaxAttention};
use super::{AttentionSpec, DistanceBias, PairBias, Positions, Scores};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::leaf::{Attention, KeyValues, Mixer, narrowed};
use crate::memory::Layout;
use crate::ops;
use crate::point::Point;
use crate::rows::{Rows, Size};
use crate::side::Stream;

/// Most choices of heads whose projections one attention holds beside its own.
const HELD: usize = 4;

/// The heads that stay: the setting that attentions read from a point. A head is one of the keys, and stands for all heads
/// of queries that share it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptHeads(Vec<Option<Arc<[usize]>>>);

impl KeptHeads {
    /// Ascending heads by attention, in the order of [`crate::Weights::attentions`]; `None` where all stay.
    pub fn new(all: Vec<Option<Vec<usize>>>) -> Self {
        KeptHeads(all.into_iter().map(|kept| kept.map(Into::into)).collect())
    }
}

/// An attention whose heads a point may leave out.
#[derive(Clone)]
pub struct HeadSite {
    name: String,
    whole: Arc<SoftmaxAttention>,
    learns: bool,
}

impl HeadSite {
    /// Dotted name of its output projection.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of heads; those of queries that share keys count as one.
    pub fn kv_heads(&self) -> usize {
        self.whole.spec.kv_heads
    }

    /// Neighbouring shares of the heads, of which equally many must stay: one for each kind of windows.
    pub fn shares(&self) -> usize {
        self.whole.spec.cuts.len().max(1)
    }

    /// Whether its weights may change, so that nothing made of them may be kept.
    pub fn learns(&self) -> bool {
        self.learns
    }

    /// Whether its projections are of forms that have parts, and its biases of pairs are those of one kind of windows.
    pub fn divides(&self) -> bool {
        if self.shares() > 1 && matches!(self.whole.spec.positions, Positions::Pairs(_)) {
            return false;
        }
        let Projections { qkv, out } = &self.whole.projections;
        let all_inputs = |p: &Projection| p.linear.parts(p.linear.dims().0).is_some();
        out.parts(self.whole.unit()).is_some() && qkv.iter().all(all_inputs)
    }

    /// How much each head can add to the rows, told by weights alone: the norm of its values' projection times the norm of
    /// the columns of the output projection that read it.
    pub fn importance(&self) -> Result<Vec<f64>> {
        let (rest, heads) = (Point::new(), self.kv_heads());
        let Projections { qkv, out } = &self.whole.projections;
        let values = qkv.last().ok_or_else(|| Error::shape("attention", "a projection of values", &[0]))?;
        let (made, read) = (values.linear.dense(&rest)?, out.dense(&rest)?);
        let width = values.widths.last().copied().unwrap_or(0);
        let made = made.narrow(0, made.dims()[0] - width, width)?;
        let squares = |t: &Tensor, heads: usize| -> Result<Vec<f64>> {
            let flat = t.contiguous()?.flatten_all()?.to_vec1::<f32>()?;
            let of = |part: &[f32]| part.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            Ok(flat.chunks((flat.len() / heads).max(1)).map(of).collect())
        };
        let (made, read) = (squares(&made, heads)?, squares(&read.t()?, heads)?);
        Ok(made.iter().zip(read).map(|(a, b)| (a * b).sqrt()).collect())
    }
}

/// Softmax attention that leaves out the heads that a point does not keep.
pub(crate) struct ByHeads {
    site: HeadSite,
    /// Its place among the attentions of the model.
    index: usize,
    /// Smaller attentions of late, the latest in front.
    held: RwLock<VecDeque<Arc<SoftmaxAttention>>>,
}

impl ByHeads {
    /// The attention number `index` of a model, whose output projection has the dotted name `name`.
    pub(crate) fn new(name: String, index: usize, whole: SoftmaxAttention, learns: bool) -> Self {
        let site = HeadSite { name, whole: Arc::new(whole), learns };
        ByHeads { site, index, held: RwLock::default() }
    }

    /// What is said of it to switches.
    pub(crate) fn site(&self) -> HeadSite {
        self.site.clone()
    }

    /// What runs at a point in place of the whole, where that is less.
    fn at(&self, point: &Point) -> Result<Option<Arc<SoftmaxAttention>>> {
        let kept = point.setting::<KeptHeads>().and_then(|all| all.0.get(self.index)?.clone());
        let Some(kept) = kept else { return Ok(None) };
        // The lock guards a list that is whole after every step, so a panic elsewhere leaves nothing half done.
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = held.iter().find(|part| part.layout.kept.as_ref() == Some(&kept)) {
            return Ok(Some(part.clone()));
        }
        drop(held);
        // It stays for passes to come, so it is made of numbers, also for a pass that looks at none.
        let part = Arc::new(dry::wet(|| self.site.whole.part(&kept, &self.site.name))?);
        if !self.site.learns {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            held.push_front(part.clone());
            held.truncate(HELD);
        }
        Ok(Some(part))
    }

    /// The same for a pass, which records the choice.
    fn chosen(&self, cx: &mut Ctx) -> Result<Option<Arc<SoftmaxAttention>>> {
        let part = self.at(cx.point)?;
        if let Some(kept) = part.as_ref().and_then(|part| part.layout.kept.as_deref()) {
            let place = format!("{}.{}", cx.site, self.site.whole.spec.tap);
            cx.trace.decide(place, "heads", None, json!({"kept": kept}));
        }
        Ok(part)
    }

    fn of<'a>(&'a self, part: &'a Option<Arc<SoftmaxAttention>>) -> &'a SoftmaxAttention {
        part.as_ref().unwrap_or(&self.site.whole)
    }
}

impl Mixer for ByHeads {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let part = self.chosen(cx)?;
        self.of(&part).forward(cx, x, rows)
    }
    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        let part = self.chosen(cx)?;
        self.of(&part).forward_onto(cx, x, rows, residual)
    }
}

impl Attention for ByHeads {
    fn key_values(&self, cx: &mut Ctx, source: &Tensor, rows: &Rows) -> Result<KeyValues> {
        let part = self.at(cx.point)?;
        self.of(&part).key_values(cx, source, rows)
    }
    fn attend(
        &self,
        cx: &mut Ctx,
        x: &Tensor,
        rows: &Rows,
        seen: &KeyValues,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let part = self.chosen(cx)?;
        self.of(&part).attend(cx, x, rows, seen, residual)
    }
    fn attend_source(
        &self,
        cx: &mut Ctx,
        x: &Tensor,
        rows: &Rows,
        source: Option<&Stream>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let part = self.chosen(cx)?;
        self.of(&part).attend_source(cx, x, rows, source, residual)
    }
}

/// Where heads of a width stand, behind `from`; neighbours together.
fn runs(kept: &[usize], width: usize, from: usize) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for head in kept {
        let own = from + head * width..from + (head + 1) * width;
        match all.last_mut().filter(|last| last.end == own.start) {
            Some(last) => last.end = own.end,
            None => all.push(own),
        }
    }
    all
}

impl SoftmaxAttention {
    /// Heads of queries for each head of keys.
    fn sharing(&self) -> usize {
        self.spec.heads / self.spec.kv_heads.max(1)
    }

    /// Columns of the output projection that read one head of keys.
    fn unit(&self) -> usize {
        self.sharing() * self.spec.value_dim
    }

    /// The same attention by some of its heads, which ascend. Nothing is computed for the others.
    fn part(&self, kept: &Arc<[usize]>, name: &str) -> Result<SoftmaxAttention> {
        let (spec, sharing, parts) = (&self.spec, self.sharing(), self.spec.cuts.len().max(1));
        let share = spec.kv_heads / parts;
        let of_share: Vec<Vec<usize>> =
            (0..parts).map(|i| kept.iter().filter(|h| *h / share == i).map(|h| h % share).collect()).collect();
        let ascends = kept.windows(2).all(|w| w[0] < w[1]) && kept.last().is_some_and(|h| *h < spec.kv_heads);
        if !ascends || of_share.iter().any(|own| own.len() != of_share[0].len()) {
            let want = format!("ascending heads below {}, equally many of {parts} shares", spec.kv_heads);
            return Err(Error::shape(name, want, kept));
        }
        let queries = runs(kept, sharing, 0);
        let positions = match &spec.positions {
            Positions::None => Positions::None,
            Positions::Distance(d) => {
                let table = ops::columns_at(&d.table, &queries)?.weight();
                Positions::Distance(DistanceBias { table, ..d.clone() })
            }
            Positions::Pairs(_) if parts > 1 => {
                return Err(Error::unsupported(
                    name,
                    "some of the heads",
                    "one kind of windows where pairs have biases",
                ));
            }
            Positions::Pairs(inner) => {
                Positions::Pairs(Arc::new(SomePairs { inner: inner.clone(), heads: queries.clone() }))
            }
        };
        let scores = match &spec.scores {
            Scores::Dot(scale) => Scores::Dot(*scale),
            Scores::Cosine(log) => {
                let some = ops::rows_at(&ops::reshape(log, &[spec.heads])?, &queries)?;
                Scores::Cosine(ops::reshape(&some, &[kept.len() * sharing, 1, 1])?.weight())
            }
        };
        let local = spec.local.iter().zip(&of_share).map(|(conv, own)| conv.part(&runs(own, self.unit(), 0)));
        let spec = AttentionSpec {
            heads: kept.len() * sharing,
            kv_heads: kept.len(),
            positions,
            scores,
            local: local.collect::<Result<_>>()?,
            ..spec.clone()
        };
        let Projections { qkv, out } = &self.projections;
        let (whole, read) = (0..out.dims().1, runs(kept, self.unit(), 0));
        let projections = Projections {
            qkv: qkv.iter().map(|p| p.part(kept, self.spec.kv_heads, name)).collect::<Result<_>>()?,
            out: narrowed(out.as_ref(), self.unit(), name)?.part(&[whole], &read)?,
        };
        let part = SoftmaxAttention::new(&spec, projections)?;
        Ok(SoftmaxAttention { layout: Layout { kept: Some(kept.clone()), ..part.layout.clone() }, ..part })
    }
}

impl Projection {
    /// The same products for some of `heads` heads of keys.
    fn part(&self, kept: &[usize], heads: usize, name: &str) -> Result<Projection> {
        let (mut outs, mut from) = (Vec::new(), 0);
        for width in &self.widths {
            outs.extend(runs(kept, width / heads, from));
            from += width;
        }
        let linear = self.linear.as_ref();
        let inputs = linear.dims().0;
        let linear = narrowed(linear, inputs, name)?.part(&outs, &runs(&[0], inputs, 0))?;
        let some = |(bias, width): (&Option<Tensor>, &usize)| {
            bias.as_ref().map(|b| Ok(ops::rows_at(b, &runs(kept, width / heads, 0))?.weight())).transpose()
        };
        let biases = self.biases.as_ref().map(|all| all.iter().zip(&self.widths).map(some).collect::<Result<_>>());
        let widths = self.widths.iter().map(|w| w / heads * kept.len()).collect();
        Ok(Projection { linear, biases: biases.transpose()?, widths })
    }
}

/// Biases of some heads.
struct SomePairs {
    inner: Arc<dyn PairBias>,
    heads: Vec<Range<usize>>,
}

impl PairBias for SomePairs {
    fn of(&self, window: Size) -> Result<Tensor> {
        let all = self.inner.of(window)?;
        let (heads, n, m) = all.dims3()?;
        let some = ops::rows_at(&ops::reshape(&all, &[heads, n * m])?, &self.heads)?;
        let kept = some.dims()[0];
        ops::reshape(&some, &[kept, n, m])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::attention::{AttentionNames, Pairs, Rotary};
    use crate::maps::{Cut, Depthwise};
    use crate::point::{Setting, Settings};
    use crate::{DType, ParamKind, Taps, Trace, Weights, cost};

    const DIM: usize = 24;

    fn at(kept: &[usize]) -> Point {
        let setting: Setting = Arc::new(KeptHeads::new(vec![Some(kept.to_vec())]));
        Point::new().with_settings(Settings::new(vec![setting]))
    }

    /// The answer of an attention at a point, and the multiply-adds that it took.
    fn answer(leaf: &dyn Attention, point: &Point, rows: &Rows) -> (Vec<f32>, u64) {
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let x = Weights::seeded().tensor("x", &[rows.total(), DIM], ParamKind::Table).unwrap();
        let y = leaf.forward(&mut Ctx::new(point, &mut taps, &mut trace), &x, rows).unwrap();
        (y.flatten_all().unwrap().to_vec1().unwrap(), trace.macs)
    }

    /// What the heads add to the rows is a sum over heads: some and the others together give the answer of all.
    fn adds_up(spec: &AttentionSpec, rows: &Rows, some: &[usize]) {
        let leaf = Weights::seeded().attention(&AttentionSpec { out_bias: false, ..spec.clone() }).unwrap();
        let others: Vec<usize> = (0..spec.kv_heads).filter(|h| !some.contains(h)).collect();
        let (whole, all) = answer(leaf.as_ref(), &Point::new(), rows);
        let [(a, work_a), (b, work_b)] = [some, &others].map(|kept| answer(leaf.as_ref(), &at(kept), rows));
        let off = (0..whole.len()).fold(0f32, |off, i| off.max((a[i] + b[i] - whole[i]).abs()));
        assert!(off < 2e-6, "{some:?} and {others:?}: {off:e} off");
        assert_eq!(work_a + work_b, all, "no work is done for heads that went");
        let x = Tensor::hollow((rows.total(), DIM), DType::F32);
        assert_eq!(cost::of(&at(some), |cx| leaf.forward(cx, &x, rows)).unwrap().macs, work_a);
        assert_eq!(answer(leaf.as_ref(), &Point::new(), rows).0, whole, "and back");
    }

    fn plain(heads: usize) -> AttentionSpec {
        AttentionSpec::new(AttentionNames::new(["q", "k", "v"], "o"), DIM, heads)
    }

    fn table(shape: &[usize]) -> Tensor {
        Weights::seeded().tensor("table", shape, ParamKind::Table).unwrap()
    }

    #[test]
    fn heads_of_every_kind_of_attention_add_up() {
        let rows = Rows::new(&[7, 1, 4]).unwrap();
        adds_up(&plain(4), &rows, &[1, 2]);
        adds_up(&AttentionSpec { bias: [true, false, true], ..plain(6) }, &rows, &[0, 3, 5]);
        let fused = AttentionSpec { names: AttentionNames::new(["qkv"; 3], "o"), ..plain(4) };
        adds_up(&fused, &rows, &[3]);
        let rotary = Arc::new(Rotary::new(vec![1.0, 0.2], Pairs::Halves));
        let shared =
            AttentionSpec { kv_heads: 3, head_dim: 4, value_dim: 5, causal: true, rotary: Some(rotary), ..plain(6) };
        adds_up(&shared, &rows, &[0, 2]);
        let bias = DistanceBias { table: table(&[8, 6]), max_distance: 16, bidirectional: true };
        adds_up(&AttentionSpec { positions: Positions::Distance(bias.clone()), ..plain(6) }, &rows, &[1, 2, 5]);
        let shared = AttentionSpec { kv_heads: 2, positions: Positions::Distance(bias), ..plain(6) };
        adds_up(&shared, &rows, &[1]);
        adds_up(&AttentionSpec { scores: Scores::Cosine(table(&[4, 1, 1])), ..plain(4) }, &rows, &[0, 2]);
    }

    struct Table(Tensor);

    impl PairBias for Table {
        fn of(&self, _: Size) -> Result<Tensor> {
            Ok(self.0.clone())
        }
    }

    #[test]
    fn heads_of_windows_add_up_share_by_share() {
        let rows = Rows::maps(&[(4, 4), (2, 4)]).unwrap();
        let pairs = Positions::Pairs(Arc::new(Table(table(&[4, 8, 8]))));
        let of_two = Positions::Pairs(Arc::new(Table(table(&[2, 8, 8]))));
        let cut = |of: fn(Size) -> Size| -> super::super::Partition {
            Arc::new(move |size| Ok(Cut::Spread { window: of(size), interval: 1, centred: false, far: None }))
        };
        let conv = |name: &str| Depthwise::load(&Weights::seeded().at(name), DIM / 2, 3).unwrap();
        let one = AttentionSpec { positions: pairs, cuts: vec![cut(|_| (2, 4))], ..plain(4) };
        adds_up(&one, &rows, &[0, 3]);
        // Stripes along both axes, each with half of the heads and a convolution of its own.
        let spec = AttentionSpec {
            cuts: vec![cut(|_| (2, 4)), cut(|(h, _)| if h == 4 { (4, 2) } else { (2, 4) })],
            local: vec![conv("rows"), conv("columns")],
            ..plain(4)
        };
        adds_up(&spec, &rows, &[1, 2]);
        let w = Weights::seeded();
        let leaf = w.attention(&spec).unwrap();
        w.attention(&AttentionSpec { positions: of_two, ..spec }).unwrap();
        // One bias for two shares cannot lose other heads in each.
        assert_eq!(w.attentions().iter().map(HeadSite::divides).collect::<Vec<_>>(), [true, false]);
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let x = Tensor::zeros((24, DIM), crate::DType::F32).unwrap();
        for wrong in [&[0, 1][..], &[2, 1], &[0, 4], &[]] {
            let point = at(wrong);
            let e = leaf.forward(&mut Ctx::new(&point, &mut taps, &mut trace), &x, &rows).err().unwrap();
            assert!(e.to_string().contains("equally many of 2 shares"), "{wrong:?}: {e}");
        }
    }
}
