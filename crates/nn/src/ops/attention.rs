//! Attention on our kernels, forward and backward, with everything that [`AttendSpec`] names.
//!
//! Where no gradient is tracked, queries, keys and values are read as they lie: columns of one projection need no copy.

use std::borrow::Cow;
use std::sync::OnceLock;

use switchformer_kernels::{self as kernels, Attend, Bias, Positions, QkvGrad, Rows as View, RowsMut, Zones};
use switchformer_tensor::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Tensor};

use super::attend::{AttendSpec, ScoreBias, bucket};
use super::fused::{answer, tensor, values, with};
use crate::error::Result;
use crate::rows::Rows;
use crate::tape::{apply1, apply2, apply3};

/// How the operands of an operation stand for queries, keys and values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Operands {
    /// One `[rows, 3 * dim]`, then perhaps the bias.
    Fused,
    /// Three.
    Apart,
    /// Queries `[queries, dim]`, keys beside values `[keys, 2 * dim_kv]`, the bias.
    Beside,
}

/// What the numbers of a bias stand for.
enum Form {
    /// Of pairs, `[heads, n, m]`.
    Pairs,
    /// Of buckets, `[buckets, heads]`, with the bucket of each distance from the least to the greatest.
    Buckets(Vec<u32>),
}

pub(super) struct AttendOp {
    q_rows: Rows,
    k_rows: Rows,
    heads: usize,
    kv_heads: usize,
    /// Width of a head of queries and keys, and of one of values.
    widths: [usize; 2],
    scale: f32,
    causal: bool,
    window: Option<usize>,
    zones: Option<(Vec<u8>, f32)>,
    form: Option<Form>,
    /// The bias where it is no operand.
    fixed: Option<Vec<f32>>,
    operands: Operands,
    /// Log-sum-exp of every query, `[heads, queries]`, kept for the backward pass.
    lse: OnceLock<Vec<f32>>,
}

impl AttendOp {
    /// For queries of so many columns and keys and values of so many.
    pub(super) fn new(spec: &AttendSpec, operands: Operands, [queries, values]: [usize; 2]) -> AttendOp {
        AttendOp {
            q_rows: spec.q_rows.clone(),
            k_rows: spec.k_rows.clone(),
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            widths: [queries / spec.heads, values / spec.kv_heads],
            scale: spec.scale as f32,
            causal: spec.causal,
            window: spec.window,
            zones: spec.zones.map(|z| (z.of.to_vec(), z.apart)),
            form: spec.bias.map(|b| match b {
                ScoreBias::Pairs(_) => Form::Pairs,
                ScoreBias::Distance(r) => {
                    let most = |rows: &Rows| rows.positions().iter().copied().max().unwrap_or(0) as usize;
                    // All distances from the last on share a bucket.
                    let reach = most(spec.q_rows).max(most(spec.k_rows)).min(r.max_distance) as i64;
                    let buckets = r.table.dims()[0];
                    Form::Buckets(
                        (-reach..=reach).map(|d| bucket(d, buckets, r.max_distance, r.bidirectional)).collect(),
                    )
                }
            }),
            fixed: None,
            operands,
            lse: OnceLock::new(),
        }
    }

    /// With a bias that is no operand.
    fn fixed(mut self, spec: &AttendSpec) -> Result<AttendOp> {
        self.fixed = spec.bias.map(|b| b.tensor().flatten_all()?.to_vec1()).transpose()?;
        Ok(self)
    }

    /// The bias as the kernels read it: of pairs as it is, else of distances, `[heads, distances]`.
    pub(super) fn added<'a>(&self, raw: Option<&'a [f32]>) -> Cow<'a, [f32]> {
        match (&self.form, raw) {
            (Some(Form::Buckets(buckets)), Some(raw)) => {
                let of = |h: usize| buckets.iter().map(move |b| raw[*b as usize * self.heads + h]);
                (0..self.heads).flat_map(of).collect()
            }
            (_, raw) => raw.unwrap_or(&[]).into(),
        }
    }

    /// The gradient of the bias from that of what the kernels read.
    fn raw_grad(&self, grad: Vec<f32>, raw: &[f32]) -> Vec<f32> {
        let Some(Form::Buckets(buckets)) = &self.form else { return grad };
        let mut sum = vec![0f32; raw.len()];
        for (h, line) in grad.chunks_exact(buckets.len()).enumerate() {
            line.iter().zip(buckets).for_each(|(g, b)| sum[*b as usize * self.heads + h] += g);
        }
        sum
    }

    pub(super) fn spec<'a>(&'a self, added: &'a [f32]) -> Attend<'a> {
        let bias = match self.form {
            None => Bias::None,
            Some(Form::Pairs) => Bias::Dense(added),
            Some(Form::Buckets(_)) => Bias::Relative(added),
        };
        let placed = self.causal || self.window.is_some() || matches!(bias, Bias::Relative(_));
        Attend {
            cu_q: self.q_rows.cu(),
            cu_k: self.k_rows.cu(),
            heads: self.heads,
            heads_kv: self.kv_heads,
            head_dim: self.widths[0],
            value_dim: self.widths[1],
            scale: self.scale,
            causal: self.causal,
            window: self.window,
            positions: placed.then(|| Positions { q: self.q_rows.positions(), k: self.k_rows.positions() }),
            bias,
            key_mask: None,
            zones: self.zones.as_ref().map(|(of, apart)| Zones { q: of, k: of, apart: *apart }),
        }
    }

    /// Columns of queries, keys, values.
    fn columns(&self) -> [usize; 3] {
        let [head_dim, value_dim] = self.widths;
        [self.heads * head_dim, self.kv_heads * head_dim, self.kv_heads * value_dim]
    }

    /// Columns of the result.
    fn out(&self) -> usize {
        self.heads * self.widths[1]
    }

    /// Shapes: q, k and v of [`AttendOp::columns`] -> `[queries, heads * value_dim]`.
    fn forward(&self, [q, k, v]: [View; 3], raw: Option<&[f32]>, keep: bool) -> Vec<f32> {
        let added = self.added(raw);
        let mut out = kernels::unfilled(self.q_rows.total() * self.out());
        let mut lse = keep.then(|| kernels::unfilled(self.heads * self.q_rows.total()));
        kernels::attend(&self.spec(&added), q, k, v, &mut out, lse.as_deref_mut());
        if let Some(lse) = lse {
            let _ = self.lse.set(lse);
        }
        out
    }

    fn kept(&self, views: [View; 3], raw: Option<&[f32]>) -> Result<(CpuStorage, Shape)> {
        answer(self.forward(views, raw, true), &[self.q_rows.total(), self.out()])
    }

    /// Writes the gradients of queries, keys and values; gives that of the bias where it is `wanted`.
    fn backward(
        &self,
        [q, k, v]: [View; 3],
        (raw, wanted): (Option<&[f32]>, bool),
        [out, dout]: [&[f32]; 2],
        grad: QkvGrad,
    ) -> Result<Option<Vec<f32>>> {
        let Some(lse) = self.lse.get() else { switchformer_tensor::bail!("attention backward before forward") };
        let added = self.added(raw);
        let spec = self.spec(&added);
        let mut dbias = wanted.then(|| vec![0f32; added.len()]);
        kernels::attend_backward(&spec, q, k, v, out, lse, dout, grad, dbias.as_deref_mut());
        Ok(dbias.zip(raw).map(|(d, raw)| self.raw_grad(d, raw)))
    }

    /// Gradients of a fused projection and of the bias operand.
    fn back_fused(
        &self,
        qkv: &Tensor,
        bias: Option<&Tensor>,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let (total, width) = qkv.dims2()?;
        let (dim, mut grad) = (width / 3, kernels::unfilled(total * width));
        // `qkv` stands in for a bias that is no operand, and is not looked at.
        let dbias = with([qkv, out, dout, bias.unwrap_or(qkv)], |[qkv, out, dout, raw]| {
            let raw = if bias.is_some() { Some(raw) } else { self.fixed.as_deref() };
            let to = QkvGrad::fused(&mut grad, dim);
            self.backward(View::fused_qkv(qkv, dim), (raw, bias.is_some()), [out, dout], to)
        })??;
        let dbias = dbias.zip(bias).map(|(d, b)| tensor(d, b.dims())).transpose()?;
        Ok([Some(tensor(grad, &[total, width])?), dbias])
    }
}

/// Keys and values of these widths that stand beside each other.
fn beside(kv: &[f32], [keys, values]: [usize; 2]) -> [View<'_>; 2] {
    [0, keys].map(|offset| View { data: kv, stride: keys + values, offset })
}

impl CustomOp1 for AttendOp {
    fn name(&self) -> &'static str {
        "attend"
    }
    fn cpu_fwd(&self, qkv: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        let dim = l.shape().dims2()?.1 / 3;
        self.kept(View::fused_qkv(values(qkv, l)?, dim), self.fixed.as_deref())
    }
    fn bwd(&self, qkv: &Tensor, out: &Tensor, dout: &Tensor) -> Result<Option<Tensor>> {
        let [grad, _] = self.back_fused(qkv, None, out, dout)?;
        Ok(grad)
    }
}

impl CustomOp2 for AttendOp {
    fn name(&self) -> &'static str {
        "attend"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, b: &CpuStorage, lb: &Layout) -> Result<(CpuStorage, Shape)> {
        let dim = lx.shape().dims2()?.1 / 3;
        self.kept(View::fused_qkv(values(x, lx)?, dim), Some(values(b, lb)?))
    }
    fn bwd(
        &self,
        qkv: &Tensor,
        bias: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [grad, dbias] = self.back_fused(qkv, Some(bias), out, dout)?;
        Ok((grad, dbias))
    }
}

impl CustomOp3 for AttendOp {
    fn name(&self) -> &'static str {
        "attend"
    }
    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        y: &CpuStorage,
        ly: &Layout,
        z: &CpuStorage,
        lz: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let [dim, keys, wide] = self.columns();
        let (q, y, z) = (View::packed(values(q, lq)?, dim), values(y, ly)?, values(z, lz)?);
        if self.operands == Operands::Beside {
            let [k, v] = beside(y, [keys, wide]);
            return self.kept([q, k, v], Some(z));
        }
        self.kept([q, View::packed(y, keys), View::packed(z, wide)], self.fixed.as_deref())
    }
    fn bwd(
        &self,
        q: &Tensor,
        y: &Tensor,
        z: &Tensor,
        out: &Tensor,
        dout: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [dim, keys, wide] = self.columns();
        let [mut dq, mut dy] = [q, y].map(|t| kernels::unfilled(t.elem_count()));
        let dz = with([q, y, z, out, dout], |[q, y, z, out, dout]| -> Result<Vec<f32>> {
            let q = View::packed(q, dim);
            let dq = RowsMut::packed(&mut dq, dim);
            if self.operands == Operands::Beside {
                let [k, v] = beside(y, [keys, wide]);
                // Both halves of one buffer are written, so they go through two and are joined.
                let rows = self.k_rows.total();
                let [mut dk, mut dv] = [keys, wide].map(|dim| kernels::unfilled(rows * dim));
                let grad =
                    QkvGrad::Split { dq, dk: RowsMut::packed(&mut dk, keys), dv: RowsMut::packed(&mut dv, wide) };
                let dbias = self.backward([q, k, v], (Some(z), true), [out, dout], grad)?;
                join(&mut dy, [(&dk, keys), (&dv, wide)]);
                return Ok(dbias.unwrap_or_default());
            }
            let mut dz = kernels::unfilled(z.len());
            let grad = QkvGrad::Split { dq, dk: RowsMut::packed(&mut dy, keys), dv: RowsMut::packed(&mut dz, wide) };
            let views = [q, View::packed(y, keys), View::packed(z, wide)];
            self.backward(views, (self.fixed.as_deref(), false), [out, dout], grad)?;
            Ok(dz)
        })??;
        let [dq, dy, dz] = [(dq, q), (dy, y), (dz, z)].map(|(d, of)| tensor(d, of.dims()));
        Ok((Some(dq?), Some(dy?), Some(dz?)))
    }
}

/// Two tensors as one, row by row.
struct BesideOp;

impl CustomOp2 for BesideOp {
    fn name(&self) -> &'static str {
        "beside"
    }
    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, y: &CpuStorage, ly: &Layout) -> Result<(CpuStorage, Shape)> {
        let ((rows, wide), (_, next)) = (lx.shape().dims2()?, ly.shape().dims2()?);
        let mut both = kernels::unfilled(rows * (wide + next));
        join(&mut both, [(values(x, lx)?, wide), (values(y, ly)?, next)]);
        answer(both, &[rows, wide + next])
    }
    fn bwd(&self, x: &Tensor, y: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dim, next) = (x.dims2()?.1, y.dims2()?.1);
        Ok((Some(g.narrow(1, 0, dim)?.contiguous()?), Some(g.narrow(1, dim, next)?.contiguous()?)))
    }
}

/// Rows of two buffers, with their widths, one beside the other.
fn join(to: &mut [f32], [(x, wide), (y, next)]: [(&[f32], usize); 2]) {
    if wide * next == 0 {
        return;
    }
    for (to, (x, y)) in to.chunks_exact_mut(wide + next).zip(x.chunks_exact(wide).zip(y.chunks_exact(next))) {
        to[..wide].copy_from_slice(x);
        to[wide..].copy_from_slice(y);
    }
}

/// Calls `f` on rows of tensors where they lie; what is no rows of neighbouring floats is copied first.
pub(super) fn with_rows<const N: usize, T>(tensors: [&Tensor; N], f: impl FnOnce([View<'_>; N]) -> T) -> Result<T> {
    let laid = tensors.map(|t| match (t.dims(), t.stride()) {
        ([n, dim], [stride, 1]) if *n > 1 && stride >= dim => Ok(t.clone()),
        _ => t.contiguous(),
    });
    let laid = laid.into_iter().collect::<Result<Vec<Tensor>>>()?;
    let guards: Vec<_> = laid.iter().map(Tensor::storage_and_layout).collect();
    let mut views = [View::packed(&[], 0); N];
    for (view, (storage, layout)) in views.iter_mut().zip(&guards) {
        let (rows, dim) = layout.shape().dims2()?;
        let stride = if rows > 1 { layout.stride()[0] } else { dim };
        *view = View { data: storage.as_slice::<f32>()?, stride, offset: layout.start_offset() };
    }
    Ok(f(views))
}

/// Calls `f` on the values of a bias, where there is one.
pub(super) fn with_bias<T>(bias: Option<ScoreBias>, f: impl FnOnce(Option<&[f32]>) -> T) -> Result<T> {
    match bias {
        Some(b) => with([b.tensor()], |[b]| f(Some(b))),
        None => Ok(f(None)),
    }
}

fn tracked(tensors: &[&Tensor], bias: Option<ScoreBias>) -> (bool, bool) {
    let learning = bias.is_some_and(|b| b.tensor().track_op());
    (learning || tensors.iter().any(|t| t.track_op()), learning)
}

/// See [`super::attend()`].
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttendSpec) -> Result<Tensor> {
    let widths = [q.dims()[1], v.dims()[1]];
    let bias = spec.bias.map(|b| b.tensor().contiguous()).transpose()?;
    let three = || -> Result<_> { Ok((q.contiguous()?, k.contiguous()?, v.contiguous()?)) };
    match (tracked(&[q, k, v], spec.bias), bias) {
        ((false, _), _) => {
            let op = AttendOp::new(spec, Operands::Apart, widths);
            let run = |raw: Option<&[f32]>| with_rows([q, k, v], |views| op.forward(views, raw, false));
            Ok(tensor(with_bias(spec.bias, run)??, &[spec.q_rows.total(), op.out()])?)
        }
        ((_, true), Some(bias)) => {
            let (q, k, v) = three()?;
            apply3(&q, &apply2(&k, &v, BesideOp)?, &bias, AttendOp::new(spec, Operands::Beside, widths))
        }
        _ => {
            let (q, k, v) = three()?;
            apply3(&q, &k, &v, AttendOp::new(spec, Operands::Apart, widths).fixed(spec)?)
        }
    }
}

/// See [`super::attend_fused`].
pub(super) fn attend_fused(qkv: &Tensor, spec: &AttendSpec) -> Result<Tensor> {
    let (dim, qkv) = (qkv.dims()[1] / 3, qkv.contiguous()?);
    let op = AttendOp::new(spec, Operands::Fused, [dim; 2]);
    let bias = spec.bias.map(|b| b.tensor().contiguous()).transpose()?;
    match (tracked(&[&qkv], spec.bias), bias) {
        ((false, _), _) => {
            let run = |raw: Option<&[f32]>| with([&qkv], |[qkv]| op.forward(View::fused_qkv(qkv, dim), raw, false));
            Ok(tensor(with_bias(spec.bias, run)??, &[spec.q_rows.total(), dim])?)
        }
        ((_, true), Some(bias)) => apply2(&qkv, &bias, op),
        _ => apply1(&qkv, op.fixed(spec)?),
    }
}

/// See [`super::attend_probs`].
pub(super) fn attend_probs(q: &Tensor, k: &Tensor, spec: &AttendSpec) -> Result<Vec<Tensor>> {
    // No values are mixed.
    let op = AttendOp::new(spec, Operands::Apart, [q.dims()[1], k.dims()[1]]);
    let one = |i: usize| -> Result<Tensor> {
        let shape = [spec.heads, spec.q_rows.len(i), spec.k_rows.len(i)];
        let mut probs = kernels::unfilled(shape.iter().product());
        let run = |raw: Option<&[f32]>| {
            let added = op.added(raw);
            with_rows([q, k], |[q, k]| {
                kernels::attend_probs(&op.spec(&added), q, k, i, &mut probs);
            })
        };
        with_bias(spec.bias, run)??;
        tensor(probs, &shape)
    };
    (0..spec.q_rows.n()).map(one).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use switchformer_tensor::Var;

    use super::*;
    use crate::ops::{RelativeBias, Zones, composed};
    use crate::tape::{Grads, record};

    const HEADS: usize = 2;
    const DIM: usize = 6;

    fn var(seed: u64, dims: &[usize]) -> Var {
        let mut stream = crate::init::Stream::named(&format!("attention {seed}"));
        let n = dims.iter().product();
        let data: Vec<f32> = (0..n).map(|_| 2.0 * stream.unit() - 1.0).collect();
        Var::from_tensor(&Tensor::from_vec(data, dims).unwrap()).unwrap()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    /// Results and gradients against the composed form, on both roads backward and on the one without gradients.
    fn agrees(what: &str, spec: &AttendSpec) {
        let kv = DIM / spec.heads * spec.kv_heads;
        with_widths(what, spec, [kv, kv]);
        with_widths(what, spec, [kv, 4 * spec.kv_heads]);
    }

    /// [`agrees`] for keys and values of so many columns.
    fn with_widths(what: &str, spec: &AttendSpec, [kv, wide]: [usize; 2]) {
        let (n, m) = (spec.q_rows.total(), spec.k_rows.total());
        let [q, k, v] = [(1, n, DIM), (2, m, kv), (3, m, wide)].map(|(seed, rows, dim)| var(seed, &[rows, dim]));
        let r = var(4, &[n, wide / spec.kv_heads * spec.heads]).detach();
        let loss = |y: Tensor| (y * &r).unwrap().sum_all().unwrap();
        let want = composed::attend(&q, &k, &v, spec).unwrap();
        let oracle = Grads::of(&loss(want.clone())).unwrap();
        let check = |road: &str, got: &Tensor, grads: &Grads, leaves: &[&Tensor]| {
            assert!(apart(got, &want) < 1e-5, "{what}, {road}");
            for (i, leaf) in leaves.iter().enumerate() {
                let (got, want) = (grads.get(leaf).unwrap(), oracle.get(leaf).unwrap());
                assert!(apart(got, want) < 1e-5, "{what}, {road}, gradient {i}");
            }
        };
        let bias = spec.bias.map(|b| b.tensor());
        let leaves: Vec<&Tensor> = [&q, &k, &v].iter().map(|v| v.as_tensor()).chain(bias).collect();
        let got = attend(&q, &k, &v, spec).unwrap();
        check("the graph", &got, &Grads::of(&loss(got.clone())).unwrap(), &leaves);
        let (got, tape) = record(|| attend(&q, &k, &v, spec)).unwrap();
        check("our tape", &got, &tape.backward(&loss(got.clone())).unwrap(), &leaves);
        // Columns of one projection, where they lie.
        let all = Tensor::cat(&[&k.detach(), &v.detach()], 1).unwrap();
        let (k, v) = (all.narrow(1, 0, kv).unwrap(), all.narrow(1, kv, wide).unwrap());
        let still = bias.map(Tensor::detach);
        let bias = match (spec.bias, &still) {
            (Some(ScoreBias::Pairs(_)), Some(t)) => Some(ScoreBias::Pairs(t)),
            (Some(ScoreBias::Distance(d)), Some(t)) => Some(ScoreBias::Distance(RelativeBias { table: t, ..d })),
            _ => None,
        };
        let fixed = AttendSpec { bias, ..*spec };
        assert!(apart(&attend(&q.detach(), &k, &v, &fixed).unwrap(), &want) < 1e-5, "{what}, no gradient");
        let (mine, theirs) = (attend_probs(&q, &k, &fixed).unwrap(), composed_maps(&q, &k, &fixed));
        mine.iter().zip(&theirs).for_each(|(a, b)| assert!(apart(a, b) < 1e-5, "{what}, maps"));
        if std::ptr::eq(spec.q_rows, spec.k_rows) && [kv, wide] == [DIM; 2] {
            let qkv = Var::from_tensor(&Tensor::cat(&[&q.detach(), &k, &v], 1).unwrap()).unwrap();
            let bias = spec.bias.map(|b| b.tensor());
            let leaves: Vec<&Tensor> = bias.into_iter().collect();
            let (got, tape) = record(|| attend_fused(&qkv, spec)).unwrap();
            let grads = tape.backward(&loss(got.clone())).unwrap();
            check("fused", &got, &grads, &leaves);
            let whole = grads.get(&qkv).unwrap().narrow(1, 0, DIM).unwrap();
            assert!(apart(&whole, oracle.get(&q).unwrap()) < 1e-5, "{what}, fused gradient");
            assert!(apart(&attend_fused(&qkv.detach(), &fixed).unwrap(), &want) < 1e-5, "{what}, fused, no gradient");
        }
    }

    fn composed_maps(q: &Tensor, k: &Tensor, spec: &AttendSpec) -> Vec<Tensor> {
        (0..spec.q_rows.n()).map(|i| composed::attend_map(q, k, spec, i).unwrap()).collect()
    }

    #[test]
    fn every_option_agrees_with_the_composed_form() {
        let (own, other) = (Rows::new(&[3, 1, 70]).unwrap(), Rows::new(&[5, 2, 9]).unwrap());
        let even = Rows::equal(4, 6).unwrap();
        agrees("plain", &AttendSpec::new(&own, &own, HEADS, 0.5));
        agrees("cross", &AttendSpec::new(&own, &other, HEADS, 1.0));
        let step = Rows::new(&[1, 1, 1]).unwrap().at_positions(&[4, 1, 8]).unwrap();
        let table = var(5, &[8, HEADS]);
        for (bidirectional, causal) in [(true, false), (false, true)] {
            let bias = RelativeBias { table: &table, max_distance: 20, bidirectional };
            let with =
                AttendSpec { bias: Some(ScoreBias::Distance(bias)), causal, ..AttendSpec::new(&own, &own, HEADS, 0.7) };
            agrees("distances", &with);
            agrees("a step", &AttendSpec { q_rows: &step, k_rows: &other, ..with });
        }
        for (kv_heads, causal) in [(1, true), (2, false)] {
            let with = AttendSpec { kv_heads, causal, window: Some(3), ..AttendSpec::new(&own, &own, HEADS, 0.7) };
            agrees("a sliding window", &with);
            agrees("shared keys", &AttendSpec { window: None, ..with });
            agrees("shared keys of a source", &AttendSpec { k_rows: &other, causal: false, window: None, ..with });
            let bias = ScoreBias::Distance(RelativeBias { table: &table, max_distance: 20, bidirectional: true });
            agrees("shared keys and distances", &AttendSpec { bias: Some(bias), ..with });
        }
        let gaps = Rows::new(&[4, 3]).unwrap().at_positions(&[0, 2, 3, 90, 1, 5, 6]).unwrap();
        let bias = RelativeBias { table: &table, max_distance: 20, bidirectional: true };
        let with = AttendSpec { bias: Some(ScoreBias::Distance(bias)), ..AttendSpec::new(&gaps, &gaps, HEADS, 1.0) };
        agrees("gaps", &with);
        let pairs = var(6, &[HEADS, 6, 6]);
        let zones: Vec<u8> = (0..24).map(|i| (i * 5 / 7 % 3) as u8).collect();
        let plain = AttendSpec { bias: Some(ScoreBias::Pairs(&pairs)), ..AttendSpec::new(&even, &even, HEADS, 0.4) };
        agrees("pairs", &plain);
        agrees("zones", &AttendSpec { zones: Some(Zones { of: &zones, apart: -3.0 }), ..plain });
    }

    #[test]
    fn a_bias_of_another_size_is_refused() {
        let (rows, q) = (Rows::equal(2, 3).unwrap(), var(1, &[6, DIM]));
        let pairs = var(6, &[HEADS, 6, 6]);
        let spec = AttendSpec { bias: Some(ScoreBias::Pairs(&pairs)), ..AttendSpec::new(&rows, &rows, HEADS, 1.0) };
        assert!(super::super::attend(&q, &q, &q, &spec).is_err());
        let zones = AttendSpec { bias: None, zones: Some(Zones { of: &[0; 5], apart: -1.0 }), ..spec };
        assert!(super::super::attend(&q, &q, &q, &zones).is_err());
    }
}
