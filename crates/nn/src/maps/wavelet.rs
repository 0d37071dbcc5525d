//! One level of the dual-tree complex wavelet transform, and back.
//!
//! Paper: "The dual-tree complex wavelet transform", IEEE Signal Processing Magazine 22(6), 2005; the filters are the
//! biorthogonal pair of 13 and 19 taps that its first level is published with. Every row and every column is filtered low
//! and high without leaving out a place; the three maps with a high part become six complex ones of half the size, each
//! answering to edges of one direction. Nothing is lost: [`Waves::join`] gives the map back.
//! Filtering one side is a product with a matrix whose rows are the shifted filter, with the map mirrored at its edges.

use switchformer_kernels as kernels;
use switchformer_tensor::Tensor;

use crate::error::{Error, Result};
use crate::ops::fused::{tensor, with};
use crate::rows::Size;
use crate::tape::{apply, apply_parts};

/// A symmetric filter, from its middle outwards.
type Filter = &'static [f64];

const LOW: Filter = &[0.55546875, 0.296875, -0.0482421875, -0.046875, 0.022265625, 0.0, -0.0017578125];
const HIGH: Filter = &[
    0.5594308035714286,
    -0.29975760323660716,
    -0.05168805803571428,
    0.05564313616071428,
    0.023856026785714284,
    -0.007156808035714285,
    -0.0018833705357142855,
    0.0013419015066964285,
    0.0,
    -7.062639508928571e-05,
];
/// Back from the low part: [`HIGH`] with every second sign turned.
const LOW_BACK: Filter = &[
    0.5594308035714286,
    0.29975760323660716,
    -0.05168805803571428,
    -0.05564313616071428,
    0.023856026785714284,
    0.007156808035714285,
    -0.0018833705357142855,
    -0.0013419015066964285,
    0.0,
    7.062639508928571e-05,
];
/// Back from the high part: [`LOW`] with every second sign turned.
const HIGH_BACK: Filter = &[0.55546875, -0.296875, -0.0482421875, 0.046875, 0.022265625, 0.0, -0.0017578125];

/// Directions of the complex maps: 15, 45, 75, 105, 135 and 165 degrees.
pub const DIRECTIONS: usize = 6;

/// What `n` maps of one size are made of.
#[derive(Clone, Debug)]
pub struct Waves {
    /// The coarse part, `[h * w * n, c]` with both sides rounded up to even: at each place that of every map in turn.
    pub low: Tensor,
    /// Real and imaginary parts of the fine maps, `[6 * h / 2 * w / 2 * n, c]` each.
    pub high: [Tensor; 2],
    frame: Frame,
}

/// Sides of the maps, their number and channels.
#[derive(Clone, Copy, Debug)]
struct Frame {
    size: Size,
    n: usize,
    c: usize,
}

/// A side without a half cell: an odd one repeats its last place.
fn even(side: usize) -> usize {
    side.next_multiple_of(2)
}

/// Size of the coarse part of a map.
pub fn low_size((h, w): Size) -> Size {
    (even(h), even(w))
}

/// Multiply-adds of [`scatter`] and [`Waves::join`] together, for a map of this size and one channel: the taps of both
/// filters for every filtered place, or the whole side where a filter is longer.
pub fn macs((h, w): Size) -> usize {
    let (th, tw) = low_size((h, w));
    let taps = |side: usize| [LOW, HIGH].iter().map(|f| side.min(2 * f.len() - 1)).sum::<usize>();
    let apart = h * tw * taps(w) + 2 * tw * th * taps(h);
    let together = 2 * th * w * taps(tw) + w * h * taps(th);
    apart + together
}

/// Mirrors a place into a side, as often as needed.
fn mirrored(at: i64, side: usize) -> usize {
    let (side, period) = (side as i64, 2 * side as i64);
    let at = at.rem_euclid(period);
    (if at < side { at } else { period - 1 - at }) as usize
}

/// The weight of every place of a side in every filtered one. Calls `put(filtered place, place, weight)`.
fn taps(filter: Filter, side: usize, mut put: impl FnMut(usize, usize, f64)) {
    let reach = filter.len() as i64 - 1;
    for at in 0..side {
        for shift in -reach..=reach {
            put(at, mirrored(at as i64 + shift, side), filter[shift.unsigned_abs() as usize]);
        }
    }
}

/// A matrix `[rows, columns]`, and the same turned.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn new(rows: usize, columns: usize, values: &[f64]) -> Matrix {
        Matrix { rows, columns, values: values.iter().map(|v| *v as f32).collect() }
    }

    fn turned(&self) -> Matrix {
        let values =
            (0..self.columns).flat_map(|c| self.values.iter().skip(c).step_by(self.columns)).copied().collect();
        Matrix { rows: self.columns, columns: self.rows, values }
    }

    /// Along the middle axis. Shapes: x `[outer, columns, inner]` -> `[outer, rows, inner]`.
    fn along(&self, [outer, inner]: [usize; 2], x: &[f32]) -> Vec<f32> {
        let mut y = kernels::unfilled(outer * self.rows * inner);
        kernels::axis::along([outer, inner], [self.rows, self.columns], &self.values, x, &mut y);
        y
    }

    fn tensor(&self) -> Result<Tensor> {
        Tensor::from_slice(&self.values, (self.rows, self.columns))
    }
}

/// Low part of a side above its high part, `[2 * even, side]`.
fn analysis(side: usize) -> Matrix {
    let tall = even(side);
    let mut all = vec![0f64; 2 * tall * side];
    for (part, filter) in [LOW, HIGH].into_iter().enumerate() {
        taps(filter, tall, |to, from, v| all[(part * tall + to) * side + from.min(side - 1)] += v);
    }
    Matrix::new(2 * tall, side, &all)
}

/// Back from both parts, `[side, 2 * even]`.
fn synthesis(side: usize) -> Matrix {
    let tall = even(side);
    let mut all = vec![0f64; side * 2 * tall];
    for (part, filter) in [LOW_BACK, HIGH_BACK].into_iter().enumerate() {
        taps(filter, tall, |to, from, v| {
            if to < side {
                all[to * 2 * tall + part * tall + from] += v;
            }
        });
    }
    Matrix::new(side, 2 * tall, &all)
}

impl Frame {
    fn tall(&self) -> Size {
        low_size(self.size)
    }

    /// Both axes of maps: `[n, columns, columns, c]` -> `[n, rows, rows, c]`.
    fn filter(&self, x: &[f32], down: &Matrix, across: &Matrix) -> Vec<f32> {
        let wide = across.along([self.n * down.columns, self.c], x);
        down.along([self.n, across.rows * self.c], &wide)
    }

    /// Rows of the fine maps, and of the coarse part.
    fn rows(&self) -> [usize; 2] {
        let (h, w) = self.tall();
        [DIRECTIONS * (h / 2) * (w / 2) * self.n, h * w * self.n]
    }

    /// Filtered maps `[n, 2 h, 2 w, c]` as a coarse part and complex ones. Each place of the first of two complex maps of
    /// upright, slanted and flat edges is `(a - d, b + c)` of a square, of the second, that mirrors it, `(a + d, b - c)`.
    fn apart(&self, all: &[f32]) -> [Vec<f32>; 3] {
        let ((h, w), [fine, coarse]) = (self.tall(), self.rows());
        let mut parts = [kernels::unfilled(coarse * self.c), vec![0f32; fine * self.c], vec![0f32; fine * self.c]];
        let [low, re, im] = &mut parts;
        let row = |m: usize, y: usize, x: usize| &all[((m * 2 * h + y) * 2 * w + x) * self.c..][..self.c];
        for (y, x, m) in self.places((h, w)) {
            low[((y * w + x) * self.n + m) * self.c..][..self.c].copy_from_slice(row(m, y, x));
        }
        for (k, (down, across)) in BANDS.into_iter().enumerate() {
            for (y, x, m) in self.places((h / 2, w / 2)) {
                let at = |dy: usize, dx: usize| row(m, down * h + 2 * y + dy, across * w + 2 * x + dx);
                let [a, b, c, d] = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
                for (k, sign) in [(k, -1.0), (DIRECTIONS - 1 - k, 1.0)] {
                    let to = self.fine(k, (y, x), m)..self.fine(k, (y, x), m) + self.c;
                    for (i, (re, im)) in re[to.clone()].iter_mut().zip(&mut im[to]).enumerate() {
                        *re = (a[i] + sign * d[i]) * HALF;
                        *im = (b[i] - sign * c[i]) * HALF;
                    }
                }
            }
        }
        parts
    }

    /// The turned [`Frame::apart`], which is also its inverse. Parts that are absent are zero.
    fn together(&self, [low, re, im]: [Option<&[f32]>; 3]) -> Vec<f32> {
        let (h, w) = self.tall();
        let mut all = vec![0f32; self.n * 4 * h * w * self.c];
        let place = |m: usize, y: usize, x: usize| ((m * 2 * h + y) * 2 * w + x) * self.c;
        if let Some(low) = low {
            for (y, x, m) in self.places((h, w)) {
                let from = &low[((y * w + x) * self.n + m) * self.c..][..self.c];
                all[place(m, y, x)..][..self.c].copy_from_slice(from);
            }
        }
        for (k, (down, across)) in BANDS.into_iter().enumerate() {
            for (y, x, m) in self.places((h / 2, w / 2)) {
                let at = |dy: usize, dx: usize| place(m, down * h + 2 * y + dy, across * w + 2 * x + dx);
                for (k, sign) in [(k, -1.0), (DIRECTIONS - 1 - k, 1.0)] {
                    let from = self.fine(k, (y, x), m);
                    let terms = [(re, at(0, 0), 1.0), (im, at(0, 1), 1.0), (im, at(1, 0), -sign), (re, at(1, 1), sign)];
                    for (part, to, sign) in terms {
                        let Some(part) = part else { continue };
                        let to = all[to..][..self.c].iter_mut();
                        to.zip(&part[from..]).for_each(|(to, v)| *to += sign * HALF * v);
                    }
                }
            }
        }
        all
    }

    /// Every place of every map, in the order of the parts.
    fn places(&self, (h, w): Size) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let n = self.n;
        (0..h).flat_map(move |y| (0..w).flat_map(move |x| (0..n).map(move |m| (y, x, m))))
    }

    /// Where a row of the fine maps begins.
    fn fine(&self, k: usize, (y, x): Size, m: usize) -> usize {
        let (h, w) = self.tall();
        (((k * (h / 2) + y) * (w / 2) + x) * self.n + m) * self.c
    }
}

/// Which halves of the filtered rows and columns make upright, slanted and flat edges.
const BANDS: [(usize, usize); 3] = [(1, 0), (1, 1), (0, 1)];

/// The root of a half.
const HALF: f32 = std::f32::consts::FRAC_1_SQRT_2;

/// Takes `n` maps of one size apart. Shapes: x `[n * h * w, c]`, no side zero.
pub fn scatter(x: &Tensor, n: usize, size: Size) -> Result<Waves> {
    let (rows, c) = x.dims2()?;
    if rows != n * size.0 * size.1 {
        return Err(Error::shape("wavelets", format!("[{n} * {} * {}, c]", size.0, size.1), x.dims()));
    }
    let frame = Frame { size, n, c };
    let parts = apply_parts(
        &[x],
        || composed::scatter(&frame, x),
        || {
            let [fine, coarse] = frame.rows();
            let parts = with([x], |[x]| frame.apart(&frame.filter(x, &analysis(size.0), &analysis(size.1))))?;
            Ok(parts.into_iter().zip([coarse, fine, fine]).map(|(v, rows)| (v, vec![rows, c])).collect())
        },
        move |g| {
            let g = g
                .iter()
                .map(|g| g.as_ref().map(values).transpose())
                .collect::<switchformer_tensor::Result<Vec<_>>>()?;
            let all = frame.together([g[0].as_deref(), g[1].as_deref(), g[2].as_deref()]);
            let dx = frame.filter(&all, &analysis(size.0).turned(), &analysis(size.1).turned());
            Ok(vec![Some(tensor(dx, &[rows, c])?)])
        },
    )?;
    let [low, re, im] = parts.try_into().map_err(|_| Error::shape("wavelets", "three parts", &[rows, c]))?;
    Ok(Waves { low, high: [re, im], frame })
}

/// A copy of the values.
fn values(t: &Tensor) -> switchformer_tensor::Result<Vec<f32>> {
    with([t], |[t]| t.to_vec())
}

impl Waves {
    /// The same parts changed, each in its shape.
    pub fn with(self, low: Tensor, high: [Tensor; 2]) -> Waves {
        Waves { low, high, ..self }
    }

    /// The maps back, `[n * h * w, c]`.
    pub fn join(&self) -> Result<Tensor> {
        let (frame, size) = (self.frame, self.frame.size);
        let rows = frame.n * size.0 * size.1;
        let [re, im] = &self.high;
        apply(
            &[&self.low, re, im],
            || composed::join(&frame, [&self.low, re, im]),
            || {
                let all = with([&self.low, re, im], |parts| frame.together(parts.map(Some)))?;
                Ok((frame.filter(&all, &synthesis(size.0), &synthesis(size.1)), vec![rows, frame.c]))
            },
            move |g| {
                let (down, across) = (synthesis(size.0).turned(), synthesis(size.1).turned());
                let parts = with([g], |[g]| frame.apart(&frame.filter(g, &down, &across)))?;
                let [fine, coarse] = frame.rows();
                let parts = parts.into_iter().zip([coarse, fine, fine]);
                parts.map(|(v, rows)| Ok(Some(tensor(v, &[rows, frame.c])?))).collect()
            },
        )
    }
}

/// The same by plain operations of `tensor`, with their gradients.
mod composed {
    use super::*;

    /// See [`super::scatter`].
    pub(super) fn scatter(frame: &Frame, x: &Tensor) -> Result<Vec<Tensor>> {
        let (Frame { size: (h, w), n, c }, (th, tw)) = (*frame, frame.tall());
        let deep = n * c;
        let x = x.reshape((n, h, w, c))?.permute((2, 1, 0, 3))?.contiguous()?.reshape((w, h * deep))?;
        let x = analysis(w).tensor()?.matmul(&x)?.reshape((2 * tw, h, deep))?.transpose(0, 1)?.contiguous()?;
        // Both parts of the columns, their places, both parts of the rows, their places.
        let x = analysis(h).tensor()?.matmul(&x.reshape((h, 2 * tw * deep))?)?;
        let x = x.reshape(&[2, th, 2, tw, deep][..])?;
        let part = |down: usize, across: usize| -> Result<Tensor> {
            x.get(down)?.narrow(1, across, 1)?.squeeze(1)?.contiguous() // [th, tw, deep]
        };
        let (mut re, mut im) = (vec![None; DIRECTIONS], vec![None; DIRECTIONS]);
        for (k, (down, across)) in BANDS.into_iter().enumerate() {
            let map = part(down, across)?.reshape(&[th / 2, 2, tw / 2, 2, deep][..])?;
            let place = |y: usize, x: usize| -> Result<Tensor> {
                map.narrow(1, y, 1)?.narrow(3, x, 1)?.squeeze(3)?.squeeze(1)? * f64::from(HALF)
            };
            let [a, b, c, d] = [place(0, 0)?, place(0, 1)?, place(1, 0)?, place(1, 1)?];
            (re[k], im[k]) = (Some((&a - &d)?), Some((&b + &c)?));
            (re[DIRECTIONS - 1 - k], im[DIRECTIONS - 1 - k]) = (Some((a + d)?), Some((b - c)?));
        }
        let stack = |all: Vec<Option<Tensor>>| -> Result<Tensor> {
            let all: Vec<Tensor> = all.into_iter().flatten().collect();
            Tensor::stack(&all, 0)?.reshape(((), c))
        };
        Ok(vec![part(0, 0)?.reshape(((), c))?, stack(re)?, stack(im)?])
    }

    /// See [`Waves::join`].
    pub(super) fn join(frame: &Frame, [low, re, im]: [&Tensor; 3]) -> Result<Tensor> {
        let (Frame { size: (h, w), n, c }, (th, tw)) = (*frame, frame.tall());
        let deep = n * c;
        let high = [re, im].map(|t| t.reshape((DIRECTIONS, th / 2, tw / 2, deep)));
        let [re, im] = high;
        let (re, im) = (re?, im?);
        let map = |k: usize| -> Result<Tensor> {
            let other = DIRECTIONS - 1 - k;
            let ([re, im], [re2, im2]) = ([re.get(k)?, im.get(k)?], [re.get(other)?, im.get(other)?]);
            let upper = Tensor::stack(&[(&re + &re2)?, (&im + &im2)?], 2)?;
            let lower = Tensor::stack(&[(&im - &im2)?, (&re2 - &re)?], 2)?;
            let cells = (Tensor::stack(&[upper, lower], 1)? * f64::from(HALF))?;
            cells.reshape((th, tw, deep))
        };
        let upper = Tensor::stack(&[low.reshape((th, tw, deep))?, map(2)?], 1)?;
        let all = Tensor::stack(&[upper, Tensor::stack(&[map(0)?, map(1)?], 1)?], 0)?; // [2, th, 2, tw, deep]
        let x = synthesis(h).tensor()?.matmul(&all.reshape((2 * th, 2 * tw * deep))?)?;
        let x = x.reshape((h, 2 * tw, deep))?.transpose(0, 1)?.contiguous()?.reshape((2 * tw, h * deep))?;
        let x = synthesis(w).tensor()?.matmul(&x)?.reshape((w, h, n, c))?;
        x.permute((2, 1, 0, 3))?.contiguous()?.reshape((n * h * w, c))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::init;

    fn flat(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn maps(n: usize, (h, w): Size, c: usize) -> Tensor {
        let values = init::seeded("wavelet.map", &[n * h * w * c, 1]);
        Tensor::from_vec(values, (n * h * w, c)).unwrap()
    }

    fn far(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()))
    }

    #[test]
    fn joining_gives_the_map_back() {
        for size in [(56, 56), (8, 12), (7, 9), (2, 2), (1, 5), (3, 1), (1, 1)] {
            let x = maps(2, size, 3);
            let off = far(&flat(&scatter(&x, 2, size).unwrap().join().unwrap()), &flat(&x));
            assert!(off < 2e-6, "{size:?}: {off:e}");
        }
    }

    #[test]
    fn a_place_costs_its_taps_whatever_the_size_of_the_map() {
        for size in [(56, 56), (224, 112)] {
            assert_eq!(macs(size), 6 * (13 + 19) * size.0 * size.1, "{size:?}");
        }
        let zeros = |m: &Matrix| m.values.iter().filter(|v| **v == 0.0).count();
        assert_eq!(zeros(&analysis(4)), 0, "a side that all filters cover");
        assert_eq!(macs((4, 4)), 6 * 2 * 4 * 4 * 4);
    }

    /// Filters a line in f64, place by place, with the edge repeated backwards: the transform without matrices.
    fn filtered(line: &[f64], filter: Filter) -> Vec<f64> {
        let n = line.len();
        let read = |mut i: i64| loop {
            match i {
                _ if i < 0 => i = -1 - i,
                _ if i >= n as i64 => i = 2 * n as i64 - 1 - i,
                _ => return line[i as usize],
            }
        };
        let one = |i: i64| {
            let pair = |(k, v): (usize, &f64)| v * (read(i - k as i64) + read(i + k as i64));
            filter[0] * read(i) + filter.iter().enumerate().skip(1).map(pair).sum::<f64>()
        };
        (0..n as i64).map(one).collect()
    }

    /// The coarse part and the six complex maps of one even map, from the definition.
    fn twin(map: &[Vec<f64>]) -> (Vec<f64>, Vec<Vec<(f64, f64)>>) {
        let turned = |m: &[Vec<f64>]| -> Vec<Vec<f64>> {
            (0..m[0].len()).map(|x| m.iter().map(|row| row[x]).collect()).collect()
        };
        let rows = |m: &[Vec<f64>], f: Filter| -> Vec<Vec<f64>> { m.iter().map(|row| filtered(row, f)).collect() };
        let columns = |m: &[Vec<f64>], f: Filter| turned(&rows(&turned(m), f));
        let (lo, hi) = (rows(map, LOW), rows(map, HIGH));
        let bands = [columns(&lo, HIGH), columns(&hi, HIGH), columns(&hi, LOW)];
        let cells = |m: &[Vec<f64>], second: bool| -> Vec<(f64, f64)> {
            let root = 0.5f64.sqrt();
            let one = |y: usize, x: usize| {
                let [a, b, c, d] = [m[y][x], m[y][x + 1], m[y + 1][x], m[y + 1][x + 1]].map(|v| v * root);
                if second { (a + d, b - c) } else { (a - d, b + c) }
            };
            (0..m.len()).step_by(2).flat_map(|y| (0..m[0].len()).step_by(2).map(move |x| one(y, x))).collect()
        };
        let order = [(0, false), (1, false), (2, false), (2, true), (1, true), (0, true)];
        (columns(&lo, LOW).concat(), order.iter().map(|(b, second)| cells(&bands[*b], *second)).collect())
    }

    #[test]
    fn the_parts_are_those_of_the_definition() {
        for (h, w) in [(4, 6), (16, 10), (2, 2)] {
            let x = maps(1, (h, w), 1);
            let values: Vec<f64> = flat(&x).iter().map(|v| f64::from(*v)).collect();
            let (low, high) = twin(&values.chunks(w).map(<[f64]>::to_vec).collect::<Vec<_>>());
            let waves = scatter(&x, 1, (h, w)).unwrap();
            let near = |got: &Tensor, want: Vec<f64>, what: &str| {
                let off = far(&flat(got), &want.iter().map(|v| *v as f32).collect::<Vec<_>>());
                assert!(off < 1e-6, "{h}x{w} {what}: {off:e}");
            };
            near(&waves.low, low, "low");
            near(&waves.high[0], high.concat().iter().map(|z| z.0).collect(), "real");
            near(&waves.high[1], high.concat().iter().map(|z| z.1).collect(), "imaginary");
        }
    }

    #[test]
    fn an_even_map_is_coarse_alone() {
        let even = Tensor::ones((24, 1), switchformer_tensor::DType::F32).unwrap();
        let waves = scatter(&even, 1, (6, 4)).unwrap();
        assert!(flat(&waves.low).iter().all(|v| (v - 1.0).abs() < 1e-6));
        assert!(waves.high.iter().all(|h| flat(h).iter().all(|v| v.abs() < 1e-6)));
    }

    #[test]
    fn kernels_and_their_gradients_equal_plain_operations() {
        use crate::tape::{Grads, record};
        for (n, size, c) in [(1, (1, 1), 1), (2, (7, 10), 3), (3, (8, 5), 17)] {
            let x = switchformer_tensor::Var::from_tensor(&maps(n, size, c)).unwrap().into_inner();
            let slopes = maps(n, size, c);
            let loss = || -> Result<(Tensor, Tensor)> {
                let waves = scatter(&x, n, size)?;
                let [re, im] = &waves.high;
                let (low, high) = ((&waves.low * 2.0)?, [(re * 0.5)?, (im * 3.0)?]);
                let y = waves.clone().with(low, high).join()?;
                Ok(((&y * &slopes)?.sum_all()?, y))
            };
            let ((total, got), tape) = record(loss).unwrap();
            let (plain, want) = loss().unwrap();
            assert!(far(&flat(&got), &flat(&want)) < 2e-6);
            let (got, want) = (tape.backward(&total).unwrap(), Grads::of(&plain).unwrap());
            assert!(far(&flat(got.get(&x).unwrap()), &flat(want.get(&x).unwrap())) < 2e-6, "{n} {size:?} {c}");
        }
    }
}
