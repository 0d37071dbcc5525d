//! Rows and columns taken apart and put together, and products element by element. Plain operations do the same with
//! several passes over memory for each gradient; inside [`crate::tape::record`] these need one.

use std::ops::Range;
use std::sync::Arc;

use switchformer_kernels::mix::{self, Mix};
use switchformer_kernels::{self as kernels, Pairs, Rotary, RowsMut, elementwise, rows as moves};
use switchformer_tensor::Tensor;

use super::fused::{tensor, with};
use super::gather;
use crate::error::{Error, Result};
use crate::rows::Rows;
use crate::tape::{apply, apply_parts};

/// Some columns. Shapes: x `[rows, dim]` -> `[rows, width]`. Errors where there are fewer.
pub fn columns(x: &Tensor, from: usize, width: usize) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if from + width > dim {
        return Err(Error::shape("columns", format!("[rows, {} or more]", from + width), x.dims()));
    }
    if width == dim {
        return Ok(x.clone());
    }
    apply(
        &[x],
        || x.narrow(1, from, width)?.contiguous(),
        || {
            let mut y = kernels::unfilled(rows * width);
            with([x], |[x]| moves::columns(dim, x, from, width, &mut y))?;
            Ok((y, vec![rows, width]))
        },
        move |g| {
            let mut dx = vec![0f32; rows * dim];
            with([g], |[g]| moves::put_columns(dim, g, from, width, &mut dx))?;
            Ok(vec![Some(tensor(dx, &[rows, dim])?)])
        },
    )
}

/// `x` in `N` parts of equally many columns. Shapes: `[rows, N * width]` -> `[rows, width]` each.
pub fn split<const N: usize>(x: &Tensor) -> Result<[Tensor; N]> {
    parts(x, N)?.try_into().map_err(|_| Error::shape("split", format!("{N} parts"), x.dims()))
}

/// [`split`] into a number of parts that the types do not know.
pub fn parts(x: &Tensor, n: usize) -> Result<Vec<Tensor>> {
    let (rows, dim) = x.dims2()?;
    if n == 0 || !dim.is_multiple_of(n) {
        return Err(Error::shape("split", format!("[rows, {n} * width]"), x.dims()));
    }
    let width = dim / n;
    apply_parts(
        &[x],
        || (0..n).map(|i| x.narrow(1, i * width, width)?.contiguous()).collect(),
        || {
            let part = |i: usize| {
                let mut y = kernels::unfilled(rows * width);
                with([x], |[x]| moves::columns(dim, x, i * width, width, &mut y))?;
                Ok((y, vec![rows, width]))
            };
            (0..n).map(part).collect()
        },
        move |all| {
            let whole = all.iter().all(Option::is_some);
            let mut dx = if whole { kernels::unfilled(rows * dim) } else { vec![0f32; rows * dim] };
            for (i, g) in all.iter().enumerate() {
                if let Some(g) = g {
                    with([g], |[g]| moves::put_columns(dim, g, i * width, width, &mut dx))?;
                }
            }
            Ok(vec![Some(tensor(dx, &[rows, dim])?)])
        },
    )
}

/// Columns of all parts side by side. Shapes: `[rows, width]` each -> `[rows, sum of widths]`.
pub fn beside(parts: &[&Tensor]) -> Result<Tensor> {
    let widths = parts.iter().map(|t| Ok(t.dims2()?.1)).collect::<Result<Vec<usize>>>()?;
    let rows = parts.first().map_or(Ok(0), |t| t.dims2().map(|d| d.0))?;
    if parts.iter().any(|t| t.dims()[0] != rows) {
        return Err(Error::shape("columns side by side", format!("[{rows}, width]"), parts[parts.len() - 1].dims()));
    }
    let dim: usize = widths.iter().sum();
    let starts: Vec<(usize, usize)> = widths
        .iter()
        .scan(0, |at, w| {
            *at += w;
            Some((*at - w, *w))
        })
        .collect();
    let places = starts.clone();
    apply(
        parts,
        || Tensor::cat(parts, 1),
        || {
            let mut y = kernels::unfilled(rows * dim);
            for (part, (from, width)) in parts.iter().zip(&places) {
                with([part], |[x]| moves::put_columns(dim, x, *from, *width, &mut y))?;
            }
            Ok((y, vec![rows, dim]))
        },
        move |g| starts.iter().map(|(from, width)| columns(g, *from, *width).map(Some)).collect(),
    )
}

/// Columns at several places, in order. Shapes: x `[rows, dim]` -> `[rows, sum of lengths]`. Errors where there are fewer.
pub fn columns_at(x: &Tensor, at: &[Range<usize>]) -> Result<Tensor> {
    let parts = at.iter().map(|r| columns(x, r.start, r.len())).collect::<Result<Vec<_>>>()?;
    match parts.as_slice() {
        [one] => Ok(one.clone()),
        parts => beside(&parts.iter().collect::<Vec<_>>()),
    }
}

/// Rows at several places, in order. Shapes: x `[rows, dim]` or `[rows]` -> `[sum of lengths, ..]`. Errors where there are
/// fewer.
pub fn rows_at(x: &Tensor, at: &[Range<usize>]) -> Result<Tensor> {
    let rows = x.dims().first().copied().unwrap_or(0);
    if let Some(beyond) = at.iter().find(|r| r.end > rows) {
        return Err(Error::shape("rows at places", format!("[{} or more, ..]", beyond.end), x.dims()));
    }
    if matches!(at, [all] if all.len() == rows) {
        return Ok(x.clone());
    }
    let index: Vec<u32> = at.iter().cloned().flatten().map(|row| row as u32).collect();
    let n = index.len();
    let index = Tensor::from_vec(index, n)?;
    match x.dims() {
        [rows] => reshape(&gather(&reshape(x, &[*rows, 1])?, &index)?, &[n]),
        _ => gather(x, &index),
    }
}

/// The same values in another shape.
pub fn reshape(x: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let (before, len) = (x.dims().to_vec(), x.elem_count());
    if shape.iter().product::<usize>() != len {
        return Err(Error::shape("reshape", format!("{len} values as {shape:?}"), x.dims()));
    }
    if before == shape {
        return Ok(x.clone());
    }
    if !x.track_op() {
        return x.reshape(shape);
    }
    apply(
        &[x],
        || x.reshape(shape),
        || Ok((with([x], |[x]| x.to_vec())?, shape.to_vec())),
        move |g| Ok(vec![Some(g.reshape(&before[..])?)]),
    )
}

/// Product element by element of two tensors of one shape.
pub fn times(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        return Err(Error::shape("product of elements", format!("{:?}", a.dims()), b.dims()));
    }
    let product = |a: &Tensor, b: &Tensor| -> Result<Vec<f32>> {
        let mut y = kernels::unfilled(a.elem_count());
        with([a, b], |[a, b]| elementwise::mul(a, b, &mut y))?;
        Ok(y)
    };
    let (x, y, dims) = (a.clone(), b.clone(), a.dims().to_vec());
    apply(
        &[a, b],
        || a * b,
        || Ok((product(a, b)?, a.dims().to_vec())),
        move |g| {
            let slope = |of: &Tensor, other: &Tensor| -> Result<Option<Tensor>> {
                Ok(if of.track_op() { Some(tensor(product(g, other)?, &dims)?) } else { None })
            };
            Ok(vec![slope(&x, &y)?, slope(&y, &x)?])
        },
    )
}

/// Every column times a factor of its own. Shapes: x `[rows, dim]`, factor `[dim]` or `[1, dim]` -> `[rows, dim]`.
pub fn scale_columns(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if factor.elem_count() != dim || factor.dims().last() != Some(&dim) {
        return Err(Error::shape("factors of columns", format!("[{dim}]"), factor.dims()));
    }
    let scaled = move |x: &Tensor, factor: &Tensor| -> Result<Vec<f32>> {
        let mut y = kernels::unfilled(rows * dim);
        with([x, factor], |[x, factor]| elementwise::scale_columns(x, factor, &mut y))?;
        Ok(y)
    };
    let (before, by) = (x.clone(), factor.clone());
    apply(
        &[x, factor],
        || x.broadcast_mul(factor),
        || Ok((scaled(x, factor)?, vec![rows, dim])),
        move |g| {
            let dx = tensor(scaled(g, &by)?, &[rows, dim])?;
            let mut df = vec![0f32; dim];
            with([&before, g], |[x, g]| elementwise::column_products(x, g, &mut df))?;
            Ok(vec![Some(dx), Some(tensor(df, by.dims())?)])
        },
    )
}

/// Every column times a factor of its own, plus a number of its own. Shapes: x `[rows, dim]`, factor and shift `[dim]` ->
/// `[rows, dim]`.
pub fn affine_columns(x: &Tensor, factor: &Tensor, shift: &Tensor) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if factor.dims() != [dim] || shift.dims() != [dim] {
        return Err(Error::shape("factors of columns", format!("[{dim}]"), factor.dims()));
    }
    let (before, by) = (x.clone(), factor.clone());
    apply(
        &[x, factor, shift],
        || x.broadcast_mul(factor)?.broadcast_add(shift),
        || {
            let mut y = kernels::unfilled(rows * dim);
            with([x, factor, shift], |[x, f, t]| elementwise::affine_columns(x, f, t, &mut y))?;
            Ok((y, vec![rows, dim]))
        },
        move |g| {
            let (mut dx, mut df) = (kernels::unfilled(rows * dim), vec![0f32; dim]);
            with([&before, &by, g], |[x, f, g]| {
                elementwise::scale_columns(g, f, &mut dx);
                elementwise::column_products(x, g, &mut df);
            })?;
            Ok(vec![Some(tensor(dx, &[rows, dim])?), Some(tensor(df, &[dim])?), Some(g.sum(0)?)])
        },
    )
}

/// Every row times a factor of its own. Shapes: x `[rows, dim]`, factor `[rows]` -> `[rows, dim]`.
pub fn scale_rows(x: &Tensor, factor: &Tensor) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    if factor.dims() != [rows] {
        return Err(Error::shape("factors of rows", format!("[{rows}]"), factor.dims()));
    }
    let scaled = move |x: &Tensor, factor: &Tensor| -> Result<Vec<f32>> {
        let mut y = kernels::unfilled(rows * dim);
        with([x, factor], |[x, factor]| elementwise::scale_rows(dim, x, factor, &mut y))?;
        Ok(y)
    };
    let (before, by) = (x.clone(), factor.clone());
    apply(
        &[x, factor],
        || x.broadcast_mul(&factor.unsqueeze(1)?),
        || Ok((scaled(x, factor)?, vec![rows, dim])),
        move |g| {
            let dx = tensor(scaled(g, &by)?, &[rows, dim])?;
            if !by.track_op() {
                return Ok(vec![Some(dx), None]);
            }
            let mut df = kernels::unfilled(rows);
            with([&before, g], |[x, g]| elementwise::row_products(dim, x, g, &mut df))?;
            Ok(vec![Some(dx), Some(tensor(df, &[rows])?)])
        },
    )
}

/// Channels of several parts mixed place by place, each group seeing one channel of every part. Shapes: x
/// `[rows, parts * width]` (parts side by side), w `[width * out, parts]`, bias `[width * out]` -> `[rows, width * out]`.
pub fn mix_parts(x: &Tensor, w: &Tensor, bias: &Tensor, parts: usize) -> Result<Tensor> {
    let ((rows, dim), (all, of)) = (x.dims2()?, w.dims2()?);
    let width = dim.checked_div(parts).unwrap_or(0);
    if of != parts || bias.dims() != [all] || width * parts != dim || width == 0 || !all.is_multiple_of(width) {
        return Err(Error::shape("parts", format!("[rows, {of} * width] and {all} biases"), x.dims()));
    }
    let shape = Mix { parts, width, out: all / width };
    let (before, own) = (x.clone(), w.clone());
    apply(
        &[x, w, bias],
        || {
            // Channel g of every part makes group g: [width, rows, parts] x [width, parts, out].
            let seen = x.reshape((rows, parts, width))?.permute((2, 0, 1))?.contiguous()?;
            let mix = w.reshape((width, shape.out, parts))?.transpose(1, 2)?.contiguous()?;
            let mixed = seen.matmul(&mix)?.transpose(0, 1)?.contiguous()?.reshape((rows, all))?;
            mixed.broadcast_add(bias)
        },
        || {
            let mut y = kernels::unfilled(rows * all);
            with([x, w, bias], |[x, w, bias]| mix::mix_parts(&shape, x, w, bias, &mut y))?;
            Ok((y, vec![rows, all]))
        },
        move |g| {
            let (mut dx, mut dw, mut db) = (kernels::unfilled(rows * dim), vec![0f32; all * parts], vec![0f32; all]);
            with([&before, &own, g], |[x, w, g]| {
                mix::mix_parts_backward(&shape, x, w, g, &mut dx, &mut dw, &mut db);
            })?;
            let slopes = [tensor(dx, &[rows, dim])?, tensor(dw, &[all, parts])?, tensor(db, &[all])?];
            Ok(slopes.map(Some).into())
        },
    )
}

/// Mean over the rows of each member; zeros for one without rows. Shapes: x `[total, dim]` -> `[members, dim]`.
pub fn mean_rows(x: &Tensor, rows: &Rows) -> Result<Tensor> {
    let (total, dim) = x.dims2()?;
    if total != rows.total() {
        return Err(Error::shape("mean of rows", format!("[{}, dim]", rows.total()), x.dims()));
    }
    let own = rows.clone();
    apply(
        &[x],
        || {
            let mean = |i: usize| -> Result<Tensor> {
                match rows.len(i) {
                    0 => Tensor::zeros((1, dim), x.dtype()),
                    n => x.narrow(0, rows.range(i).start, n)?.mean_keepdim(0),
                }
            };
            let all = (0..rows.n()).map(mean).collect::<Result<Vec<_>>>()?;
            Ok(if all.is_empty() { x.narrow(0, 0, 0)? } else { Tensor::cat(&all, 0)? })
        },
        || {
            let mut y = kernels::unfilled(rows.n() * dim);
            with([x], |[x]| moves::mean_rows(dim, x, rows.cu(), &mut y))?;
            Ok((y, vec![rows.n(), dim]))
        },
        move |g| {
            let mut dx = kernels::unfilled(total * dim);
            with([g], |[g]| moves::mean_rows_backward(dim, g, own.cu(), &mut dx))?;
            Ok(vec![Some(tensor(dx, &[total, dim])?)])
        },
    )
}

/// Angles by which the pairs of a head turn, position by position.
#[derive(Clone, Debug)]
pub struct Angles {
    cos: Arc<[f32]>,
    sin: Arc<[f32]>,
    half: usize,
    pairs: Pairs,
    /// Width of the heads.
    width: usize,
}

impl Angles {
    /// At positions `0..n`, pair `i` turns by `position * by[i]`; the pairs are whole heads.
    pub fn new(n: usize, by: &[f32], pairs: Pairs) -> Angles {
        let all = || (0..n).flat_map(|p| by.iter().map(move |a| p as f32 * a));
        Angles {
            cos: all().map(f32::cos).collect(),
            sin: all().map(f32::sin).collect(),
            half: by.len(),
            pairs,
            width: 2 * by.len(),
        }
    }

    /// The same for heads of `width` numbers, of which those behind the pairs stay.
    pub fn partial(self, width: usize) -> Angles {
        Angles { width, ..self }
    }

    /// Positions that have angles.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half.max(1)
    }
}

/// Rotary positions: in every head the pairs of a row turn by the angles of the row's position; numbers behind the pairs
/// stay. Shapes: x `[rows, heads * head_dim]`, positions `[rows]` -> the same as x. Errors where a position is beyond the
/// table or heads are of another width.
pub fn rotate(x: &Tensor, heads: usize, angles: &Angles, positions: &[u32]) -> Result<Tensor> {
    let (rows, dim) = x.dims2()?;
    let beyond = positions.iter().any(|p| *p as usize >= angles.positions());
    let half = angles.half;
    let width = angles.width;
    if positions.len() != rows || dim != heads * width || width < 2 * half || beyond {
        let what = format!("[{}, {heads} * {width}] below {}", positions.len(), angles.positions());
        return Err(Error::shape("rotary positions", what, x.dims()));
    }
    let rotated = move |x: &Tensor, angles: &Angles, positions: &[u32], back: bool| -> Result<Vec<f32>> {
        let mut y = with([x], |[x]| x.to_vec())?;
        let table = Rotary { cos: &angles.cos, sin: &angles.sin, half, pairs: angles.pairs };
        let run = if back { kernels::rotary_backward } else { kernels::rotary };
        run(RowsMut::packed(&mut y, dim), heads, width, &table, positions);
        Ok(y)
    };
    let (own, at) = (angles.clone(), positions.to_vec());
    apply(
        &[x],
        || {
            let places = || positions.iter().map(|p| *p as usize);
            let table = |t: &[f32]| -> Result<Tensor> {
                let rows: Vec<f32> = places().flat_map(|p| &t[p * half..][..half]).copied().collect();
                Tensor::from_vec(rows, (positions.len(), 1, half))?.to_dtype(x.dtype())
            };
            let (cos, sin) = (table(&angles.cos)?, table(&angles.sin)?);
            let all = x.reshape((rows, heads, width))?;
            let rotating = all.narrow(2, 0, 2 * half)?;
            let (a, b) = match angles.pairs {
                Pairs::Halves => (rotating.narrow(2, 0, half)?, rotating.narrow(2, half, half)?),
                Pairs::Neighbours => {
                    let pairs = rotating.reshape((rows, heads, half, 2))?;
                    (pairs.narrow(3, 0, 1)?.squeeze(3)?, pairs.narrow(3, 1, 1)?.squeeze(3)?)
                }
            };
            let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
            let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
            let rotated = match angles.pairs {
                Pairs::Halves => Tensor::cat(&[&first, &second], 2)?,
                Pairs::Neighbours => Tensor::stack(&[first, second], 3)?.reshape((rows, heads, 2 * half))?,
            };
            if 2 * half == width {
                return rotated.reshape((rows, dim));
            }
            let still = all.narrow(2, 2 * half, width - 2 * half)?;
            Tensor::cat(&[rotated, still], 2)?.reshape((rows, dim))
        },
        || Ok((rotated(x, angles, positions, false)?, vec![rows, dim])),
        move |g| Ok(vec![Some(tensor(rotated(g, &own, &at, true)?, &[rows, dim])?)]),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::slice::from_ref;

    use switchformer_tensor::Var;

    use super::*;
    use crate::init::Stream;
    use crate::ops::pair_scores;
    use crate::tape::{Grads, record};

    fn var(seed: u64, dims: &[usize]) -> Var {
        let mut s = Stream::new(seed);
        let v: Vec<f32> = (0..dims.iter().product()).map(|_| 2.0 * s.unit() - 1.0).collect();
        Var::from_vec(v, dims).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Values and gradients of an operation by kernels on a tape against those of plain operations.
    fn check(vars: &[Var], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
        let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
        let bare: Vec<Tensor> = tensors.iter().map(Tensor::detach).collect();
        let loss = || -> Result<(Tensor, Tensor)> {
            let y = f(&tensors)?;
            // Weights that differ from place to place, or a misplaced gradient would go unseen.
            let weights = Tensor::arange(1f32, 1.0 + y.elem_count() as f32)?.reshape(y.shape())?;
            Ok(((&y * weights)?.sum_all()?, y))
        };
        let (plain, want) = loss().unwrap();
        let ((total, got), tape) = record(loss).unwrap();
        assert_eq!(got.dims(), want.dims());
        let near = |got: &Tensor, want: &Tensor| {
            assert_eq!(got.dims(), want.dims());
            let (got, want) = (flat(got), flat(want));
            let near = |(g, w): (&f32, &f32)| (g - w).abs() <= 1e-5 * (1.0 + w.abs());
            assert!(got.iter().zip(&want).all(near), "{got:?} {want:?}");
        };
        near(&got, &want);
        near(&f(&bare).unwrap(), &want);
        let (got, want) = (tape.backward(&total).unwrap(), Grads::of(&plain).unwrap());
        for t in &tensors {
            near(got.get(t).unwrap(), want.get(t).unwrap());
        }
    }

    #[test]
    fn all_equal_plain_operations_in_value_and_gradient() {
        let rows = Rows::new(&[2, 0, 5]).unwrap();
        let (x, y, z) = (var(1, &[7, 8]), var(2, &[7, 8]), var(3, &[7, 3]));
        check(from_ref(&x), |t| columns(&t[0], 3, 4));
        check(from_ref(&x), |t| columns(&t[0], 0, 8));
        check(from_ref(&x), |t| {
            let [a, b] = split(&t[0])?;
            times(&a, &b)
        });
        check(from_ref(&x), |t| {
            let [_, b, _, _] = split(&t[0])?;
            Ok(b)
        });
        check(&[x.clone(), z.clone(), y.clone()], |t| beside(&[&t[0], &t[1], &t[2]]));
        check(from_ref(&x), |t| beside(&[&t[0], &t[0]]));
        check(from_ref(&x), |t| reshape(&t[0], &[2, 28]));
        check(&[x.clone(), y], |t| times(&t[0], &t[1]));
        check(from_ref(&x), |t| times(&t[0], &t[0]));
        check(&[x.clone(), var(4, &[1, 8])], |t| scale_columns(&t[0], &t[1]));
        check(&[x.clone(), var(8, &[8]), var(9, &[8])], |t| affine_columns(&t[0], &t[1], &t[2]));
        check(&[x.clone(), var(5, &[7])], |t| scale_rows(&t[0], &t[1]));
        check(&[x.clone(), var(6, &[12, 2]), var(7, &[12])], |t| mix_parts(&t[0], &t[1], &t[2], 2));
        check(from_ref(&x), |t| mean_rows(&t[0], &rows));
        let (q, k) = (var(10, &[2, 3, 5]), var(11, &[2, 3, 5]));
        let at = vec![2, 1, 0, 3, 2, 1, 4, 3, 2];
        check(&[q.clone(), k.clone()], |t| pair_scores(Some(&t[0]), Some(&t[1]), at.clone(), 0.4));
        check(from_ref(&q), |t| pair_scores(Some(&t[0]), None, at.clone(), 0.4));
        check(from_ref(&k), |t| pair_scores(None, Some(&t[0]), at.clone(), 0.4));
        assert!(pair_scores(Some(q.as_tensor()), None, vec![5; 9], 1.0).is_err());
        assert!(pair_scores(None, None, at, 1.0).is_err());
        for pairs in [Pairs::Neighbours, Pairs::Halves] {
            check(from_ref(&x), |t| rotate(&t[0], 2, &Angles::new(6, &[1.0, 0.1], pairs), &[0, 5, 0, 1, 2, 3, 4]));
            // The third and fourth number of each head stay.
            let part = Angles::new(6, &[0.3], pairs).partial(4);
            check(from_ref(&x), |t| rotate(&t[0], 2, &part, &[0, 5, 0, 1, 2, 3, 4]));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, z) = (var(1, &[4, 6]).as_tensor().clone(), var(2, &[3, 6]).as_tensor().clone());
        let angles = Angles::new(2, &[1.0], Pairs::Neighbours);
        assert!(columns(&x, 4, 3).is_err() && beside(&[&x, &z]).is_err() && reshape(&x, &[5, 5]).is_err());
        assert!(times(&x, &z).is_err() && scale_columns(&x, &z).is_err() && scale_rows(&x, &z).is_err());
        assert!(mean_rows(&x, &Rows::new(&[3]).unwrap()).is_err());
        assert!(affine_columns(&x, &z, &z).is_err());
        assert!(mix_parts(&x, &var(3, &[12, 3]).detach(), &var(4, &[12]).detach(), 2).is_err());
        assert!(rotate(&x, 3, &angles, &[0, 1, 2, 0]).is_err() && rotate(&x, 2, &angles, &[0, 1, 1, 0]).is_err());
    }
}
