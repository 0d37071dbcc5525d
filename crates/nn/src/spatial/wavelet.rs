//! One level of the dual-tree complex wavelet transform, and back.
//!
//! Paper: "The dual-tree complex wavelet transform", IEEE Signal Processing Magazine 22(6), 2005; the filters are the
//! biorthogonal pair of 13 and 19 taps that its first level is published with. Every row and every column is filtered low
//! and high without leaving out a place; the three maps with a high part become six complex ones of half the size, each
//! answering to edges of one direction. Nothing is lost: [`Waves::join`] gives the map back.
//! Filtering one side is a product with a matrix whose rows are the shifted filter, with the map mirrored at its edges.

use candle_core::{Device, Tensor};

use crate::error::Result;
use crate::rows::Size;

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

/// What maps of one size are made of.
#[derive(Clone, Debug)]
pub struct Waves {
    /// The coarse part, `[h, w, n, c]` with both sides rounded up to even.
    pub low: Tensor,
    /// Real and imaginary parts of the fine maps, `[6, h / 2, w / 2, n, c]` each.
    pub high: [Tensor; 2],
    size: Size,
}

/// A side without a half cell: an odd one repeats its last place.
fn even(side: usize) -> usize {
    side.next_multiple_of(2)
}

/// Size of the coarse part of a map.
pub fn low_size((h, w): Size) -> Size {
    (even(h), even(w))
}

/// Multiply-adds of [`scatter`] and [`Waves::join`] together, for a map of this size and one channel.
pub fn macs((h, w): Size) -> usize {
    let (th, tw) = low_size((h, w));
    2 * (2 * tw * w * h + 4 * th * h * tw)
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

fn matrix(rows: usize, columns: usize, values: &[f64]) -> Result<Tensor> {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}

/// Low part of a side above its high part, `[2 * even, side]`.
fn analysis(side: usize) -> Result<Tensor> {
    let tall = even(side);
    let mut all = vec![0f64; 2 * tall * side];
    for (part, filter) in [LOW, HIGH].into_iter().enumerate() {
        taps(filter, tall, |to, from, v| all[(part * tall + to) * side + from.min(side - 1)] += v);
    }
    matrix(2 * tall, side, &all)
}

/// Back from both parts, `[side, 2 * even]`.
fn synthesis(side: usize) -> Result<Tensor> {
    let tall = even(side);
    let mut all = vec![0f64; side * 2 * tall];
    for (part, filter) in [LOW_BACK, HIGH_BACK].into_iter().enumerate() {
        taps(filter, tall, |to, from, v| {
            if to < side {
                all[to * 2 * tall + part * tall + from] += v;
            }
        });
    }
    matrix(side, 2 * tall, &all)
}

/// Takes maps of one size apart. Shapes: x `[n, h, w, c]`, no side zero.
pub fn scatter(x: &Tensor) -> Result<Waves> {
    let (n, h, w, c) = x.dims4()?;
    let ((th, tw), deep) = (low_size((h, w)), n * c);
    let x = x.permute((2, 1, 0, 3))?.contiguous()?.reshape((w, h * deep))?;
    let x = analysis(w)?.matmul(&x)?.reshape((2 * tw, h, deep))?.transpose(0, 1)?.contiguous()?;
    // Both parts of the columns, their places, both parts of the rows, their places.
    let x = analysis(h)?.matmul(&x.reshape((h, 2 * tw * deep))?)?.reshape(&[2, th, 2, tw, deep][..])?;
    let part = |down: usize, across: usize| -> Result<Tensor> {
        Ok(x.get(down)?.narrow(1, across, 1)?.squeeze(1)?.contiguous()?) // [th, tw, deep]
    };
    let (mut re, mut im) = (vec![None; DIRECTIONS], vec![None; DIRECTIONS]);
    // Upright, slanted and flat edges: the place of the first of their two complex maps, that of the second mirrors it.
    for (k, (down, across)) in [(1, 0), (1, 1), (0, 1)].into_iter().enumerate() {
        let map = part(down, across)?.reshape(&[th / 2, 2, tw / 2, 2, deep][..])?;
        let place = |y: usize, x: usize| -> Result<Tensor> {
            Ok((map.narrow(1, y, 1)?.narrow(3, x, 1)?.squeeze(3)?.squeeze(1)? * std::f64::consts::FRAC_1_SQRT_2)?)
        };
        let [a, b, c, d] = [place(0, 0)?, place(0, 1)?, place(1, 0)?, place(1, 1)?];
        (re[k], im[k]) = (Some((&a - &d)?), Some((&b + &c)?));
        (re[DIRECTIONS - 1 - k], im[DIRECTIONS - 1 - k]) = (Some((a + d)?), Some((b - c)?));
    }
    let stack = |all: Vec<Option<Tensor>>| -> Result<Tensor> {
        let all: Vec<Tensor> = all.into_iter().flatten().collect();
        Ok(Tensor::stack(&all, 0)?.reshape(&[DIRECTIONS, th / 2, tw / 2, n, c][..])?)
    };
    Ok(Waves { low: part(0, 0)?.reshape((th, tw, n, c))?, high: [stack(re)?, stack(im)?], size: (h, w) })
}

impl Waves {
    /// Parts of maps of a size, as [`scatter`] gives them.
    pub fn new(low: Tensor, high: [Tensor; 2], size: Size) -> Waves {
        Waves { low, high, size }
    }

    /// The maps back, `[n, h, w, c]`.
    pub fn join(&self) -> Result<Tensor> {
        let (th, tw, n, c) = self.low.dims4()?;
        let ((h, w), deep) = (self.size, n * c);
        let band = |part: usize, k: usize| self.high[part].get(k)?.reshape((th / 2, tw / 2, deep));
        let map = |k: usize| -> Result<Tensor> {
            let other = DIRECTIONS - 1 - k;
            let ([re, im], [re2, im2]) = ([band(0, k)?, band(1, k)?], [band(0, other)?, band(1, other)?]);
            let upper = Tensor::stack(&[(&re + &re2)?, (&im + &im2)?], 2)?;
            let lower = Tensor::stack(&[(&im - &im2)?, (&re2 - &re)?], 2)?;
            let cells = (Tensor::stack(&[upper, lower], 1)? * std::f64::consts::FRAC_1_SQRT_2)?;
            Ok(cells.reshape((th, tw, deep))?)
        };
        let low = self.low.reshape((th, tw, deep))?;
        let upper = Tensor::stack(&[low, map(2)?], 1)?;
        let all = Tensor::stack(&[upper, Tensor::stack(&[map(0)?, map(1)?], 1)?], 0)?; // [2, th, 2, tw, deep]
        let x = synthesis(h)?.matmul(&all.reshape((2 * th, 2 * tw * deep))?)?;
        let x = x.reshape((h, 2 * tw, deep))?.transpose(0, 1)?.contiguous()?.reshape((2 * tw, h * deep))?;
        let x = synthesis(w)?.matmul(&x)?.reshape((w, h, n, c))?;
        Ok(x.permute((2, 1, 0, 3))?.contiguous()?)
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

    fn maps(shape: (usize, usize, usize, usize)) -> Tensor {
        let n = shape.0 * shape.1 * shape.2 * shape.3;
        Tensor::from_vec(init::seeded("wavelet.map", &[n, 1]), shape, &Device::Cpu).unwrap()
    }

    fn far(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs()))
    }

    #[test]
    fn joining_gives_the_map_back() {
        for size in [(56, 56), (8, 12), (7, 9), (2, 2), (1, 5), (3, 1), (1, 1)] {
            let x = maps((2, size.0, size.1, 3));
            let off = far(&flat(&scatter(&x).unwrap().join().unwrap()), &flat(&x));
            assert!(off < 2e-6, "{size:?}: {off:e}");
        }
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
            let x = maps((1, h, w, 1));
            let values: Vec<f64> = flat(&x).iter().map(|v| f64::from(*v)).collect();
            let (low, high) = twin(&values.chunks(w).map(<[f64]>::to_vec).collect::<Vec<_>>());
            let waves = scatter(&x).unwrap();
            let near = |got: &Tensor, want: Vec<f64>, what: &str| {
                let off = far(&flat(got), &want.iter().map(|v| *v as f32).collect::<Vec<_>>());
                assert!(off < 1e-6, "{h}x{w} {what}: {off:e}");
            };
            near(&waves.low, low, "low");
            for (k, band) in high.iter().enumerate() {
                near(&waves.high[0].get(k).unwrap(), band.iter().map(|z| z.0).collect(), "real");
                near(&waves.high[1].get(k).unwrap(), band.iter().map(|z| z.1).collect(), "imaginary");
            }
        }
    }

    #[test]
    fn an_even_map_is_coarse_alone() {
        let waves = scatter(&Tensor::ones((1, 6, 4, 1), candle_core::DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert!(flat(&waves.low).iter().all(|v| (v - 1.0).abs() < 1e-6));
        assert!(waves.high.iter().all(|h| flat(h).iter().all(|v| v.abs() < 1e-6)));
    }
}
