//! The dense form of attention: projections made by the loader around softmax attention on our kernels.

use switchformer_tensor::Tensor;

use super::{AttentionSpec, PairBias, Positions, Scores};
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::layers::project_onto;
use crate::leaf::{Attention, KeyValues, Linear, Mixer, attend_once};
use crate::maps::{Cut, Depthwise, Windows};
use crate::memory::Layout;
use crate::ops::{self, AttendSpec, AttentionMaps, RelativeBias, ScoreBias};
use crate::rows::{Rows, Size};
use crate::side::Stream;
use crate::weights::{LinearSpec, ParamKind, Weights};

/// One product that makes one or more of queries, keys and values, side by side.
pub struct Projection {
    pub(super) linear: Box<dyn Linear>,
    /// Biases of its parts where only some have one.
    pub(super) biases: Option<Vec<Option<Tensor>>>,
    /// Width of each part.
    pub(super) widths: Vec<usize>,
}

impl Projection {
    /// A projection to parts of these widths.
    pub fn new(linear: Box<dyn Linear>, widths: Vec<usize>) -> Self {
        Projection { linear, biases: None, widths }
    }

    /// The named parts of one input. A name that stands twice is one tensor; other names are stacked.
    fn load(w: &Weights, spec: &AttentionSpec, parts: std::ops::Range<usize>, in_dim: usize) -> Result<Self> {
        let widths: Vec<usize> = widths(spec)[parts.clone()].to_vec();
        let (names, bias) = (&spec.names.qkv[parts.clone()], &spec.bias[parts]);
        let all = bias.iter().all(|b| *b);
        let one = names[0] == names[names.len() - 1];
        let (names, out_dim) = if one { (&names[..1], widths.iter().sum()) } else { (names, widths[0]) };
        let fused = if names.len() == 3 { spec.names.fused } else { spec.names.kv.filter(|_| names.len() == 2) };
        let linear = w.linear_of(&LinearSpec { parts: names, fused, in_dim, out_dim, bias: all })?;
        if one && names.len() < widths.len() && bias.iter().any(|b| *b != bias[0]) {
            return Err(Error::unsupported("attention", format!("biases of parts of {}", names[0]), "all or none"));
        }
        let biases = if all || bias.iter().all(|b| !b) {
            None
        } else {
            let own = names.iter().zip(bias).map(|(name, has)| {
                has.then(|| w.tensor(&format!("{name}.bias"), &[out_dim], ParamKind::Vector)).transpose()
            });
            Some(own.collect::<Result<_>>()?)
        };
        Ok(Projection { linear, biases, widths })
    }

    /// Shapes: x `[rows, in]` -> `[rows, sum of widths]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor) -> Result<Tensor> {
        let y = self.linear.forward(cx, x)?;
        let Some(biases) = &self.biases else { return Ok(y) };
        let own = biases.iter().zip(&self.widths).map(|(bias, width)| match bias {
            Some(bias) => Ok(bias.clone()),
            None => Ok(Tensor::zeros(*width, y.dtype())?),
        });
        y.broadcast_add(&Tensor::cat(&own.collect::<Result<Vec<_>>>()?, 0)?)
    }

    /// The parts of a product. They are views where no gradient is tracked and nobody `copies` them for a kernel that
    /// needs their rows without gaps.
    fn parts(&self, y: &Tensor, copies: bool) -> Result<Vec<Tensor>> {
        let equal = self.widths.iter().all(|w| *w == self.widths[0]);
        if (copies || y.track_op()) && equal {
            return ops::parts(y, self.widths.len());
        }
        let mut from = 0;
        let part = |width: &usize| {
            from += width;
            if y.track_op() { ops::columns(y, from - width, *width) } else { Ok(y.narrow(1, from - width, *width)?) }
        };
        self.widths.iter().map(part).collect()
    }
}

/// Widths of queries, keys and values.
fn widths(spec: &AttentionSpec) -> [usize; 3] {
    [spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.value_dim]
}

/// The projections of an attention.
pub struct Projections {
    /// One product of queries, keys and values; or queries (and keys) and the others; or three. Each may be of another
    /// form.
    pub qkv: Vec<Projection>,
    /// Output projection.
    pub out: Box<dyn Linear>,
}

impl Projections {
    /// Projections by the names of a spec, with as few products as names, widths and sources allow.
    pub fn load(w: &Weights, spec: &AttentionSpec) -> Result<Self> {
        let [q, k, v] = spec.names.qkv;
        let [wide, keys, values] = widths(spec);
        let same = spec.source.is_none() && spec.reduce.is_none() && spec.names.kv.is_none();
        let source = spec.source.unwrap_or(spec.dim);
        let all_names = (q == k && k == v) || (q != k && k != v);
        let mut products = Vec::with_capacity(3);
        if same && all_names && (q == k || (wide == keys && keys == values)) {
            products.push(Projection::load(w, spec, 0..3, spec.dim)?);
        } else if q == k && k != v {
            if !same {
                return Err(Error::unsupported("attention", format!("{q} and keys of a source"), "a name of its own"));
            }
            products.push(Projection::load(w, spec, 0..2, spec.dim)?);
            products.push(Projection::load(w, spec, 2..3, spec.dim)?);
        } else {
            products.push(Projection::load(w, spec, 0..1, spec.dim)?);
            if k == v || keys == values {
                products.push(Projection::load(w, spec, 1..3, source)?);
            } else {
                products.push(Projection::load(w, spec, 1..2, source)?);
                products.push(Projection::load(w, spec, 2..3, source)?);
            }
        }
        let out = w.linear(spec.names.out, spec.heads * spec.value_dim, spec.dim, spec.out_bias)?;
        Ok(Projections { qkv: products, out })
    }
}

/// Queries, keys and values of rows.
pub(super) enum Made {
    /// Side by side.
    Fused(Tensor),
    Apart([Tensor; 3]),
}

impl Made {
    fn queries_keys(&self) -> Result<[Tensor; 2]> {
        Ok(match self {
            Made::Apart([q, k, _]) => [q.clone(), k.clone()],
            Made::Fused(qkv) => {
                let dim = qkv.dims()[1] / 3;
                [qkv.narrow(1, 0, dim)?, qkv.narrow(1, dim, dim)?]
            }
        })
    }

    fn keys(&self) -> Result<Tensor> {
        self.queries_keys().map(|[_, k]| k)
    }

    /// Some of the rows: `n` of the queries and of the keys from `first` on.
    fn narrow(&self, first: [usize; 2], n: [usize; 2]) -> Result<Made> {
        let some = |t: &Tensor, i: usize| t.narrow(0, first[i], n[i]);
        Ok(match self {
            Made::Fused(qkv) => Made::Fused(some(qkv, 0)?),
            Made::Apart([q, k, v]) => Made::Apart([some(q, 0)?, some(k, 1)?, some(v, 1)?]),
        })
    }
}

/// Softmax attention between projections of any form.
pub struct SoftmaxAttention {
    pub(super) projections: Projections,
    pub(super) spec: AttentionSpec,
    /// What a pass with a memory keeps of a row.
    pub(super) layout: Layout,
}

impl SoftmaxAttention {
    /// Attention between given projections. Errors where options of the spec exclude each other.
    pub fn new(spec: &AttentionSpec, projections: Projections) -> Result<Self> {
        spec.check()?;
        let layout = Layout { kept: None, heads: spec.kv_heads, widths: [spec.head_dim, spec.value_dim] };
        Ok(SoftmaxAttention { projections, spec: spec.clone(), layout })
    }

    /// Counts the products of every query with every key of its segment.
    pub(super) fn count_pairs(&self, cx: &mut Ctx, asked: &AttendSpec) {
        let pairs = (0..asked.q_rows.n()).map(|i| asked.q_rows.len(i) * asked.k_rows.len(i)).sum();
        cx.count(self.macs(pairs));
    }

    /// Multiply-adds of the products of `pairs` pairs of a query and a key.
    fn macs(&self, pairs: usize) -> usize {
        pairs * self.spec.heads * (self.spec.head_dim + self.spec.value_dim)
    }

    /// Whether parts of a product are read by kernels that need rows without gaps.
    fn copies(&self) -> bool {
        !self.spec.local.is_empty() || self.spec.rotary.is_some() || matches!(self.spec.scores, Scores::Cosine(_))
    }

    /// The products of keys and values, where queries have one of their own.
    fn apart(&self) -> Result<&[Projection]> {
        match self.projections.qkv.split_first() {
            Some((q, rest)) if q.widths.len() == 1 && !rest.is_empty() => Ok(rest),
            _ => {
                Err(Error::unsupported("attention", "keys and values of a source", "queries with a name of their own"))
            }
        }
    }

    /// Queries where they have a product of their own. Shapes: x `[total, dim]` -> `[total, heads * head_dim]`.
    pub(super) fn queries(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        self.apart()?;
        let q = self.projections.qkv[0].forward(cx, x)?;
        match &self.spec.rotary {
            Some(rotary) => rotary.rotate(&q, self.spec.heads, rows.positions()),
            None => Ok(q),
        }
    }

    /// Shapes: x `[total, dim]`, seen `[keys, source]` -> queries, keys, values.
    fn project(&self, cx: &mut Ctx, x: &Tensor, seen: &Tensor) -> Result<Made> {
        let apart = |all: Vec<Tensor>| -> Result<[Tensor; 3]> {
            let n = all.len();
            all.try_into().map_err(|_| Error::shape("attention", "queries, keys and values", &[n]))
        };
        match self.projections.qkv.as_slice() {
            [qkv] => {
                let y = qkv.forward(cx, x)?;
                let even = qkv.widths.iter().all(|w| *w == qkv.widths[0]);
                Ok(if even { Made::Fused(y) } else { Made::Apart(apart(qkv.parts(&y, self.copies())?)?) })
            }
            products => {
                let mut all = Vec::with_capacity(3);
                for (i, product) in products.iter().enumerate() {
                    // What holds the queries reads the own rows.
                    let y = product.forward(cx, if i == 0 { x } else { seen })?;
                    all.extend(product.parts(&y, self.copies())?);
                }
                apart(all).map(Made::Apart)
            }
        }
    }

    pub(super) fn split(&self, made: Made) -> Result<[Tensor; 3]> {
        match made {
            Made::Apart(all) => Ok(all),
            Made::Fused(qkv) if self.copies() || qkv.track_op() => ops::split(&qkv),
            Made::Fused(qkv) => {
                let dim = qkv.dims()[1] / 3;
                Ok([qkv.narrow(1, 0, dim)?, qkv.narrow(1, dim, dim)?, qkv.narrow(1, 2 * dim, dim)?])
            }
        }
    }

    /// What the kernels are asked for, without biases of pairs.
    pub(super) fn asked<'a>(&'a self, q_rows: &'a Rows, k_rows: &'a Rows) -> AttendSpec<'a> {
        let scale = if let Scores::Dot(scale) = self.spec.scores { scale } else { 1.0 };
        let bias = match &self.spec.positions {
            Positions::Distance(d) => Some(ScoreBias::Distance(RelativeBias {
                table: &d.table,
                max_distance: d.max_distance,
                bidirectional: d.bidirectional,
            })),
            _ => None,
        };
        AttendSpec {
            kv_heads: self.spec.kv_heads,
            causal: self.spec.causal,
            window: self.spec.window,
            bias,
            ..AttendSpec::new(q_rows, k_rows, self.spec.heads, scale)
        }
    }

    /// Rows that turned where positions are rotary, and of length one where scores are cosines.
    fn prepared(&self, made: Made, rows: &Rows, k_rows: &Rows) -> Result<Made> {
        let made = match &self.spec.rotary {
            None => made,
            Some(rotary) => {
                let [q, k, v] = self.split(made)?;
                let q = rotary.rotate(&q, self.spec.heads, rows.positions())?;
                Made::Apart([q, rotary.rotate(&k, self.spec.kv_heads, k_rows.positions())?, v])
            }
        };
        let Scores::Cosine(log) = &self.spec.scores else { return Ok(made) };
        let [q, k, v] = self.split(made)?;
        let (heads, head_dim) = (self.spec.heads, self.spec.head_dim);
        let (q, k) = (unit(&q, heads)?, unit(&k, heads)?);
        let (rows, dim) = q.dims2()?;
        let factor = log.minimum(&Tensor::full(100f32.ln(), log.shape())?)?.exp()?;
        let q = q.reshape((rows, heads, head_dim))?.broadcast_mul(&factor.reshape((heads, 1))?)?;
        Ok(Made::Apart([q.reshape((rows, dim))?, k, v]))
    }

    /// What the heads gather from segments. Shapes: -> `[total, heads * value_dim]`.
    fn gathered(&self, cx: &mut Ctx, made: Made, spec: &AttendSpec, conv: Option<&Depthwise>) -> Result<Tensor> {
        let (mixed, v) = match made {
            Made::Fused(qkv) => {
                let dim = qkv.dims()[1] / 3;
                let v = conv.map(|_| ops::columns(&qkv, 2 * dim, dim)).transpose()?;
                (ops::attend_fused(&qkv, spec)?, v)
            }
            Made::Apart([q, k, v]) => (ops::attend(&q, &k, &v, spec)?, conv.map(|_| v)),
        };
        match (conv, v) {
            (Some(conv), Some(v)) => ops::add(&mixed, &conv.forward(cx, &v, spec.k_rows)?),
            _ => Ok(mixed),
        }
    }

    /// What the heads gather, before the output projection. Shapes: x `[total, dim]` -> `[total, heads * value_dim]`.
    fn mixed(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let remembers = self.remembers(cx)?;
        if !self.spec.cuts.is_empty() {
            return self.in_windows(cx, x, rows);
        }
        if self.spec.source.is_some() {
            return Err(Error::unsupported("attention", "rows without a source", "keys and values of a source"));
        }
        let reduced = self.spec.reduce.as_ref().map(|r| r.forward(cx, x, rows)).transpose()?;
        let (seen, k_rows) = reduced.as_ref().map_or((x, rows), |s| (&s.x, &s.rows));
        let made = self.project(cx, x, seen)?;
        let made = self.prepared(made, rows, k_rows)?;
        if remembers { self.continued(cx, made, rows) } else { self.seen(cx, made, [rows, k_rows]) }
    }

    /// Whole segments among keys that are projected.
    pub(super) fn whole(&self, cx: &mut Ctx, made: Made, rows: &Rows, k_rows: &Rows) -> Result<Tensor> {
        let mut told = Told::asked(cx, self.spec.tap, rows);
        let mixed = match &self.spec.positions {
            Positions::Pairs(p) => self.by_size(cx, made, [rows, k_rows], p.as_ref(), &mut told)?,
            _ => self.segments(cx, made, [rows, k_rows], None, &mut told)?,
        };
        told.put(cx)?;
        Ok(mixed)
    }

    /// Segments whose maps are of one size together, as numbers for pairs of places depend on it.
    fn by_size(
        &self,
        cx: &mut Ctx,
        made: Made,
        [rows, k_rows]: [&Rows; 2],
        pairs: &dyn PairBias,
        told: &mut Told,
    ) -> Result<Tensor> {
        let maps = rows.split_maps()?.1;
        let runs: Vec<&[Size]> = maps.sizes()?.chunk_by(|a, b| a == b).collect();
        if let [] | [_] = runs.as_slice() {
            let bias = runs.first().map(|run| pairs.of(run[0])).transpose()?;
            return self.segments(cx, made, [rows, k_rows], bias.as_ref(), told);
        }
        // What rules read is of one size.
        told.maps = None;
        let (mut parts, mut from) = (Vec::with_capacity(runs.len()), 0);
        for run in runs {
            let members: Vec<usize> = (from..from + run.len()).collect();
            let [own, k_own] = [rows, k_rows].map(|rows| rows.select(&members).1);
            let part = made.narrow([rows, k_rows].map(|rows| rows.range(from).start), [own.total(), k_own.total()])?;
            parts.push(self.segments(cx, part, [&own, &k_own], Some(&pairs.of(run[0])?), told)?);
            from += run.len();
        }
        Tensor::cat(&parts, 0)
    }

    /// Segments among their keys, with numbers for pairs where there are any.
    fn segments(
        &self,
        cx: &mut Ctx,
        made: Made,
        [rows, k_rows]: [&Rows; 2],
        pairs: Option<&Tensor>,
        told: &mut Told,
    ) -> Result<Tensor> {
        let mut spec = self.asked(rows, k_rows);
        spec.bias = pairs.map(ScoreBias::Pairs).or(spec.bias);
        self.count_pairs(cx, &spec);
        told.maps(|| made.queries_keys(), &spec)?;
        told.keys(|| made.keys())?;
        self.gathered(cx, made, &spec, self.spec.local.first())
    }

    /// Attention within windows. Neighbours that are cut alike go together.
    fn in_windows(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let sizes = rows.sizes()?;
        let mut runs: Vec<(Vec<Cut>, usize)> = Vec::new();
        for same in sizes.chunk_by(|a, b| a == b) {
            let own = self.cuts(same[0])?;
            match runs.last_mut().filter(|(last, _)| *last == own) {
                Some((_, n)) => *n += same.len(),
                None => runs.push((own, same.len())),
            }
        }
        let mut told = Told::asked(cx, self.spec.tap, rows);
        let mixed = match runs.as_slice() {
            [] => Tensor::zeros((0, self.spec.heads * self.spec.value_dim), x.dtype())?,
            [(cuts, _)] => self.alike(cx, x, rows, cuts, &mut told)?,
            runs => {
                let (mut parts, mut from) = (Vec::with_capacity(runs.len()), 0);
                for (cuts, n) in runs {
                    let own = Rows::maps(&sizes[from..from + n])?;
                    let x = x.narrow(0, rows.range(from).start, own.total())?;
                    parts.push(self.alike(cx, &x, &own, cuts, &mut told)?);
                    from += n;
                }
                Tensor::cat(&parts, 0)?
            }
        };
        told.put(cx)?;
        Ok(mixed)
    }

    /// How a map is cut, for each share of the heads.
    fn cuts(&self, size: Size) -> Result<Vec<Cut>> {
        self.spec.cuts.iter().map(|cut| cut(size)).collect()
    }

    /// Maps that are cut alike. Shapes: x `[total, dim]` -> `[total, heads * value_dim]`.
    fn alike(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, cuts: &[Cut], told: &mut Told) -> Result<Tensor> {
        let windows = cuts.iter().map(|cut| Windows::new(rows, cut)).collect::<Result<Vec<_>>>()?;
        if windows.len() > 1 && windows.iter().any(Windows::is_padded) {
            return Err(Error::unsupported("windows", "several kinds that reach beyond a map", "maps that divide"));
        }
        let padded = windows[0].with_pads(x)?;
        let mut made = self.project(cx, &padded, &padded)?;
        if self.spec.rotary.is_some() {
            // Places beyond the edge stand nowhere.
            let mut positions = rows.positions().to_vec();
            positions.resize(padded.dims2()?.0, 0);
            let placed = Rows::new(&[positions.len()])?.at_positions(&positions)?;
            made = self.prepared(made, &placed, &placed)?;
        }
        // What is behind the rows are places beyond an edge.
        told.keys(|| made.keys()?.narrow(0, 0, rows.total()))?;
        let mut seen = Vec::with_capacity(windows.len());
        for (i, (windows, cut)) in windows.iter().zip(cuts).enumerate() {
            let dim = self.spec.heads * self.spec.head_dim / cuts.len();
            cx.count(windows.macs(dim));
            let beside = |parts: [&Tensor; 3], from: [usize; 3]| -> Result<Tensor> {
                let own = |k: usize| ops::columns(parts[k], from[k], dim);
                ops::beside(&[&own(0)?, &own(1)?, &own(2)?])
            };
            let own = match &made {
                Made::Fused(qkv) if cuts.len() == 1 => windows.cut(qkv)?,
                Made::Fused(qkv) => windows.cut(&beside([qkv; 3], [0, 1, 2].map(|k| (k * cuts.len() + i) * dim))?)?,
                Made::Apart([q, k, v]) => windows.cut(&beside([q, k, v], [i * dim; 3])?)?,
            };
            let own = match self.spec.rotary {
                Some(_) => Made::Fused(own),
                None => self.prepared(Made::Fused(own), windows.rows(), windows.rows())?,
            };
            let pairs = match &self.spec.positions {
                Positions::Pairs(p) => Some(p.of(cut.window())?),
                _ => None,
            };
            let heads = self.spec.heads / cuts.len();
            let spec = AttendSpec {
                heads,
                kv_heads: heads,
                bias: pairs.as_ref().map(ScoreBias::Pairs),
                zones: windows.zones(),
                ..self.asked(windows.rows(), windows.rows())
            };
            told.maps(|| own.queries_keys(), &spec)?;
            if told.rows.is_some() && (cuts.len() > 1 || !windows.are(rows)) {
                told.rows = None;
            }
            seen.push(windows.join(&self.gathered(cx, own, &spec, self.spec.local.get(i))?)?);
        }
        match seen.as_slice() {
            [one] => Ok(one.clone()),
            all => ops::beside(&all.iter().collect::<Vec<_>>()),
        }
    }

    /// The output projection, on a residual where there is one.
    fn finish(&self, cx: &mut Ctx, mixed: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
        let out = self.projections.out.as_ref();
        match residual {
            Some(residual) => project_onto(cx, out, mixed, residual, self.spec.tap),
            None => out.forward(cx, mixed),
        }
    }
}

impl Mixer for SoftmaxAttention {
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let mixed = self.mixed(cx, x, rows)?;
        self.finish(cx, &mixed, None)
    }

    fn forward_onto(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows, residual: &Tensor) -> Result<Tensor> {
        let mixed = self.mixed(cx, x, rows)?;
        self.finish(cx, &mixed, Some(residual))
    }
}

impl Attention for SoftmaxAttention {
    fn key_values(&self, cx: &mut Ctx, source: &Tensor, rows: &Rows) -> Result<KeyValues> {
        let mut made = Vec::with_capacity(2);
        for product in self.apart()? {
            let y = product.forward(cx, source)?;
            made.extend(product.parts(&y, self.copies())?);
        }
        let n = made.len();
        let [k, v] = made.try_into().map_err(|_| Error::shape("attention", "keys and values", &[n]))?;
        let k = match &self.spec.rotary {
            Some(rotary) => rotary.rotate(&k, self.spec.kv_heads, rows.positions())?,
            None => k,
        };
        Ok(KeyValues { k, v, rows: rows.clone() })
    }

    fn attend(
        &self,
        cx: &mut Ctx,
        x: &Tensor,
        rows: &Rows,
        seen: &KeyValues,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        let q = self.queries(cx, x, rows)?;
        let mixed = self.whole(cx, Made::Apart([q, seen.k.clone(), seen.v.clone()]), rows, &seen.rows)?;
        self.finish(cx, &mixed, residual)
    }

    fn attend_source(
        &self,
        cx: &mut Ctx,
        x: &Tensor,
        rows: &Rows,
        source: Option<&Stream>,
        residual: Option<&Tensor>,
    ) -> Result<Tensor> {
        if cx.memory.is_some() {
            let mixed = self.visited(cx, x, rows, source)?;
            return self.finish(cx, &mixed, residual);
        }
        attend_once(self, cx, x, rows, source, residual)
    }
}

/// Each head's part of a row with length one; zeros stay zeros. Shapes: x `[rows, heads * d]` -> the same.
fn unit(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    let d = dim / heads;
    // The length is the root of d mean squares.
    let factor = Tensor::full((d as f32).powf(-0.5), d)?;
    let one = ops::rms_norm(&ops::reshape(x, &[rows * heads, d])?, &factor, 1e-24 / d as f64)?;
    ops::reshape(&one, &[rows, dim])
}

/// Maps and keys for whoever listens; nothing is computed where nobody does.
pub(super) struct Told {
    /// Of every segment or window, `[heads, n, m]`.
    probs: Option<(String, Vec<Tensor>)>,
    /// What they are made of when they are read.
    maps: Option<(String, Option<AttentionMaps>)>,
    /// In the order of their rows, `[keys, kv_heads * head_dim]`.
    k: Option<(String, Vec<Tensor>)>,
    /// The rows that the maps are of, where each is of a whole segment.
    rows: Option<Rows>,
}

impl Told {
    pub(super) fn asked(cx: &Ctx, tap: &str, rows: &Rows) -> Told {
        if !cx.taps.active() {
            return Told { probs: None, maps: None, k: None, rows: None };
        }
        let name = |what: &str| format!("{}.{tap}.{what}", cx.site);
        let of = |what: &str| Some(name(what)).filter(|n| cx.taps.wants(n)).map(|n| (n, Vec::new()));
        let maps = Some(name("maps")).filter(|n| cx.taps.asks(n)).map(|n| (n, None));
        Told { probs: of("probs"), maps, k: of("k"), rows: Some(rows.clone()) }
    }

    pub(super) fn listens(&self) -> bool {
        self.probs.is_some() || self.maps.is_some() || self.k.is_some()
    }

    /// Maps of queries and keys.
    pub(super) fn maps(&mut self, made: impl FnOnce() -> Result<[Tensor; 2]>, spec: &AttendSpec) -> Result<()> {
        if self.probs.is_none() && self.maps.is_none() {
            return Ok(());
        }
        let [q, k] = made()?;
        if let Some((_, all)) = &mut self.probs {
            all.extend(ops::attend_probs(&q, &k, spec)?);
        }
        if let Some((_, kept)) = &mut self.maps {
            *kept = Some(AttentionMaps::new(q, k, spec));
        }
        Ok(())
    }

    pub(super) fn keys(&mut self, made: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        if let Some((_, all)) = &mut self.k {
            all.push(made()?.contiguous()?);
        }
        Ok(())
    }

    pub(super) fn put(self, cx: &mut Ctx) -> Result<()> {
        // Maps of windows belong to no member and are for `probs` alone.
        if let (Some((name, Some(maps))), Some(rows)) = (self.maps, &self.rows) {
            cx.taps.put_maps(&name, maps, rows);
        }
        if let Some((name, all)) = self.probs {
            match self.rows {
                Some(rows) => cx.taps.put_each_of(&name, all, &rows),
                None => cx.taps.put_each(&name, all),
            }
        }
        if let Some((name, all)) = self.k.filter(|(_, all)| !all.is_empty()) {
            cx.taps.put(&name, &if all.len() == 1 { all[0].clone() } else { Tensor::cat(&all, 0)? });
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::attention::{AttentionNames, Pairs, Rotary};
    use crate::init::seeded;
    use crate::{Point, Taps, Trace};

    const HEADS: usize = 4;
    const SHARED: usize = 2;
    const WIDE: usize = 3;

    fn numbers(t: &Tensor) -> Vec<Vec<f32>> {
        t.to_vec2().unwrap()
    }

    /// Four heads of queries over two of keys, values of another width, a window of three positions, by loops.
    #[test]
    fn shared_heads_and_a_window_are_those_of_loops() {
        let (dim, head_dim, window) = (10, 4, 3);
        let rotary = Arc::new(Rotary::new(vec![1.0, 0.2], Pairs::Halves));
        let names = AttentionNames { kv: Some("kv"), ..AttentionNames::new(["q", "k", "v"], "o") };
        let spec = AttentionSpec {
            kv_heads: SHARED,
            head_dim,
            value_dim: WIDE,
            bias: [true, false, false],
            scores: Scores::Dot(0.6),
            rotary: Some(rotary.clone()),
            causal: true,
            window: Some(window),
            ..AttentionSpec::new(names, dim, HEADS)
        };
        let w = Weights::seeded();
        let leaf = w.attention(&spec).unwrap();
        let rows = Rows::new(&[6, 1, 4]).unwrap();
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let x = seeded("x", &[11, dim]);
        let x = Tensor::from_vec(x, (11, dim)).unwrap();
        let mut make =
            |name: &str, out: usize, bias: bool| w.linear(name, dim, out, bias).unwrap().forward(&mut cx, &x).unwrap();
        let (q, k, v) =
            (make("q", HEADS * head_dim, true), make("k", SHARED * head_dim, false), make("v", SHARED * WIDE, false));
        let q = numbers(&rotary.rotate(&q, HEADS, rows.positions()).unwrap());
        let k = numbers(&rotary.rotate(&k, SHARED, rows.positions()).unwrap());
        let v = numbers(&v);
        let mut mixed = vec![vec![0f32; HEADS * WIDE]; 11];
        for (segment, head) in (0..rows.n()).flat_map(|s| (0..HEADS).map(move |h| (s, h))) {
            let kv = head * SHARED / HEADS;
            for i in rows.range(segment) {
                let seen: Vec<usize> = rows.range(segment).filter(|j| *j <= i && i - j < window).collect();
                let score = |j: &usize| -> f32 {
                    let dot: f32 = (0..head_dim).map(|c| q[i][head * head_dim + c] * k[*j][kv * head_dim + c]).sum();
                    (dot * 0.6).exp()
                };
                let total: f32 = seen.iter().map(score).sum();
                for (j, c) in seen.iter().flat_map(|j| (0..WIDE).map(move |c| (j, c))) {
                    mixed[i][head * WIDE + c] += score(j) / total * v[*j][kv * WIDE + c];
                }
            }
        }
        let mixed = Tensor::from_vec(mixed.concat(), (11, HEADS * WIDE)).unwrap();
        let want = numbers(&w.linear("o", HEADS * WIDE, dim, true).unwrap().forward(&mut cx, &mixed).unwrap());
        let near = |got: Tensor, want: &[Vec<f32>]| {
            let got = numbers(&got);
            assert!(got.iter().flatten().zip(want.iter().flatten()).all(|(a, b)| (a - b).abs() < 1e-5), "{got:?}");
        };
        near(leaf.forward(&mut cx, &x, &rows).unwrap(), &want);
        let seen = leaf.key_values(&mut cx, &x, &rows).unwrap();
        near(leaf.attend(&mut cx, &x, &rows, &seen, None).unwrap(), &want);
        let (x, rows) = (Tensor::hollow((10, dim), x.dtype()), Rows::new(&[6, 4]).unwrap());
        let dry = crate::cost::of(&point, |cx| leaf.forward(cx, &x, &rows)).unwrap();
        assert_eq!(dry.macs, (10 * dim * (16 + 8 + 6 + 12) + 52 * 4 * 7) as u64);
    }

    #[test]
    fn options_that_exclude_each_other_are_refused() {
        let plain = AttentionSpec::new(AttentionNames::new(["q", "k", "v"], "o"), 8, 4);
        let refused = |spec: AttentionSpec| assert!(Weights::seeded().attention(&spec).is_err());
        refused(AttentionSpec { kv_heads: 3, ..plain.clone() });
        refused(AttentionSpec { kv_heads: 2, cuts: vec![Arc::new(|s| Ok(Cut::plain(s)))], ..plain.clone() });
        refused(AttentionSpec { cuts: vec![Arc::new(|s| Ok(Cut::plain(s)))], source: Some(8), ..plain.clone() });
        refused(AttentionSpec { names: AttentionNames::new(["qkv"; 3], "o"), bias: [true, false, true], ..plain });
    }
}
