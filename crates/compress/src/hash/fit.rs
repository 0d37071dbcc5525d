//! One block's hash, fitted to rows.

use switchformer_nn::init::Stream;
use switchformer_nn::{Error, Result};
use switchformer_tensor::Tensor;

use super::HashFit;

/// Step of the descent, and the share of its direction that stays.
const RATE: f64 = 5e-4;
const MOMENTUM: f64 = 0.9;

/// Unit rows of some images, head by head.
pub struct Sample {
    /// `[members, heads, rows, dim]`.
    x: Vec<f32>,
    members: usize,
    heads: usize,
    rows: usize,
    dim: usize,
}

/// A fitted hash.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// `[heads, anchors, dim]`.
    pub anchors: Vec<f32>,
    /// Mean kernel of every anchor, `[heads, anchors]`.
    pub means: Vec<f32>,
    /// `[heads, bits, anchors]`.
    pub matrix: Vec<f32>,
    /// Mean squared distance of codes' products and wanted similarities, per pair of rows, at the start and now.
    pub errors: [f64; 2],
    /// Bits whose fitted values were better than their first ones.
    pub improved: usize,
}

impl Sample {
    /// Rows of equally many per member, each head's part scaled to length one.
    /// Shapes: x `[members * rows, heads * dim]`.
    pub fn of(x: &Tensor, members: usize, heads: usize) -> Result<Sample> {
        let (total, width) = x.dims2()?;
        if members == 0 || heads == 0 || total % members != 0 || width % heads != 0 || total == 0 {
            return Err(Error::shape("hash", format!("rows of {members} images, {heads} heads"), x.dims()));
        }
        let (rows, dim) = (total / members, width / heads);
        let x = x.reshape((members, rows, heads, dim))?.transpose(1, 2)?.contiguous()?;
        let x = x.broadcast_div(&x.sqr()?.sum_keepdim(3)?.sqrt()?)?;
        Ok(Sample { x: x.flatten_all()?.to_vec1()?, members, heads, rows, dim })
    }

    /// Rows per member.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of one head of one member.
    fn unit(&self, member: usize, head: usize) -> &[f32] {
        let n = self.rows * self.dim;
        &self.x[(member * self.heads + head) * n..][..n]
    }
}

/// One head of one member: what is wanted of its rows, and what they are to the anchors.
struct Head {
    /// Rows that each row is alike with, and unlike, with the products that their codes should have.
    wanted: Vec<Vec<(u32, f64)>>,
    /// `[rows, anchors]`, less the means.
    kernels: Vec<f64>,
    /// Signs of the bits so far, `[rows]` each.
    bits: Vec<Vec<f64>>,
}

/// Fits a hash that begins with `start` `[heads, bits, anchors]`, with the rows at `places` of the first member for
/// anchors. Errors where there are fewer rows than anchors or neighbours, and where a value is no number.
pub fn fit(sample: &Sample, start: &[f32], places: &[usize], how: &HashFit) -> Result<Fitted> {
    let (h, m, n) = (sample.heads, how.anchors, sample.rows);
    let need = m.max(how.top_k);
    if need > n || start.len() != h * how.bits * m || how.bits == 0 || m == 0 || how.top_k == 0 {
        let what = format!("a map of {n} rows for {m} anchors and {} neighbours", how.top_k);
        return Err(Error::input(what, "take larger images, or fewer anchors and neighbours"));
    }
    if sample.x.iter().any(|v| !v.is_finite()) {
        return Err(Error::input("a row of queries is zero or no number", "check the checkpoint and the images"));
    }
    if places.len() != m || places.iter().any(|at| *at >= n) {
        return Err(Error::input(format!("{} anchors among {n} rows", places.len()), format!("name {m} rows")));
    }
    let anchors = anchors(sample, places);
    let (mut heads, means) = prepare(sample, &anchors, how);
    let mut matrix = start.to_vec();
    let before = error(&heads, &matrix, how, h);
    let mut improved = 0;
    for bit in 0..how.bits {
        let of = |head: usize| (head * how.bits + bit) * m;
        let drawn: Vec<Vec<f64>> =
            (0..h).map(|head| matrix[of(head)..][..m].iter().map(|v| f64::from(*v)).collect()).collect();
        let moved = descend(&heads, &drawn, how);
        let loss = |a: &[Vec<f64>]| -> f64 {
            let of = |(i, one): (usize, &Head)| one.gain(&signs(&one.scores(&a[i % h]))).0;
            -heads.iter().enumerate().map(of).sum::<f64>()
        };
        let better = loss(&moved) < loss(&drawn);
        if better {
            improved += 1;
            for (head, values) in moved.iter().enumerate() {
                matrix[of(head)..][..m].iter_mut().zip(values).for_each(|(to, from)| *to = *from as f32);
            }
        }
        let kept = if better { &moved } else { &drawn };
        for (i, one) in heads.iter_mut().enumerate() {
            let code = signs(&one.scores(&kept[i % h]));
            one.bits.push(code);
        }
    }
    let errors = [before, error(&heads, &matrix, how, h)];
    let narrow = |v: &[f64]| v.iter().map(|x| *x as f32).collect();
    Ok(Fitted { anchors: narrow(&anchors), means: narrow(&means), matrix, errors, improved })
}

/// Different rows for anchors, drawn by seed; `place` tells draws of blocks apart. At most as many as there are rows.
pub fn places(rows: usize, how: &HashFit, place: u64) -> Vec<usize> {
    let mut stream = Stream::named("hash.anchors").fork(how.seed).fork(place);
    let mut order: Vec<usize> = (0..rows).collect();
    let n = how.anchors.min(rows);
    for i in 0..n {
        let j = i + stream.below((rows - i) as u64) as usize;
        order.swap(i, j);
    }
    order.truncate(n);
    order
}

/// Rows of the first member, head by head. Shapes: -> `[heads, anchors, dim]`.
fn anchors(sample: &Sample, places: &[usize]) -> Vec<f64> {
    let row = |head: usize, at: usize| &sample.unit(0, head)[at * sample.dim..][..sample.dim];
    let all = (0..sample.heads).flat_map(|head| places.iter().flat_map(move |at| row(head, *at)));
    all.map(|v| f64::from(*v)).collect()
}

/// Kernels around the anchors and wanted similarities of every head, member by member; and the means of kernels.
fn prepare(sample: &Sample, anchors: &[f64], how: &HashFit) -> (Vec<Head>, Vec<f64>) {
    let (m, d) = (how.anchors, sample.dim);
    let mut heads = Vec::with_capacity(sample.members * sample.heads);
    for member in 0..sample.members {
        for head in 0..sample.heads {
            let own = &anchors[head * m * d..][..m * d];
            let apart = |x: &[f32], a: &[f64]| x.iter().zip(a).map(|(x, a)| (f64::from(*x) - a).powi(2)).sum::<f64>();
            let unit = sample.unit(member, head);
            let far: Vec<f64> = unit.chunks(d).flat_map(|x| own.chunks(d).map(move |a| apart(x, a))).collect();
            let width = 2.0 * far.iter().sum::<f64>() / far.len() as f64;
            let kernels = far.iter().map(|f| (-f / width).exp()).collect();
            heads.push(Head { wanted: neighbours(unit, d, how), kernels, bits: Vec::new() });
        }
    }
    let mut means = vec![0f64; sample.heads * m];
    let each = (sample.members * sample.rows) as f64;
    for (i, one) in heads.iter().enumerate() {
        let own = &mut means[i % sample.heads * m..][..m];
        one.kernels.chunks(m).for_each(|row| own.iter_mut().zip(row).for_each(|(to, k)| *to += k / each));
    }
    for (i, one) in heads.iter_mut().enumerate() {
        let own = &means[i % sample.heads * m..][..m];
        one.kernels.chunks_mut(m).for_each(|row| row.iter_mut().zip(own).for_each(|(k, mean)| *k -= mean));
    }
    (heads, means)
}

/// The rows most alike each row, all bits in common, and those least alike, none in common; what is both is unlike.
fn neighbours(unit: &[f32], dim: usize, how: &HashFit) -> Vec<Vec<(u32, f64)>> {
    let (n, k, all_bits) = (unit.len() / dim, how.top_k, how.bits as f64);
    let mut order: Vec<u32> = Vec::with_capacity(n);
    unit.chunks(dim)
        .map(|x| {
            let dots: Vec<f32> = unit.chunks(dim).map(|y| x.iter().zip(y).map(|(a, b)| a * b).sum()).collect();
            order.clear();
            order.extend(0..n as u32);
            let by = |a: &u32, b: &u32| dots[*a as usize].total_cmp(&dots[*b as usize]).then(a.cmp(b));
            order.select_nth_unstable_by(k - 1, by);
            let mut all: Vec<(u32, f64)> = order[..k].iter().map(|j| (*j, -all_bits)).collect();
            order.select_nth_unstable_by(n - k, by);
            let alike: Vec<u32> = order[n - k..].iter().copied().filter(|j| all.iter().all(|(l, _)| l != j)).collect();
            all.extend(alike.into_iter().map(|j| (j, all_bits)));
            all
        })
        .collect()
}

fn signs(scores: &[f64]) -> Vec<f64> {
    scores.iter().map(|s| if *s > 0.0 { 1.0 } else { -1.0 }).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Head {
    /// Products of a bit's values with the kernels, `[rows]`.
    fn scores(&self, a: &[f64]) -> Vec<f64> {
        self.kernels.chunks(a.len()).map(|row| dot(row, a)).collect()
    }

    /// `y' S y` and its gradient, where S is what the bits so far leave of the wanted products. Shapes: y `[rows]`.
    fn gain(&self, y: &[f64]) -> (f64, Vec<f64>) {
        let (mut sum, mut slope) = (0.0, vec![0f64; y.len()]);
        for (i, row) in self.wanted.iter().enumerate() {
            for (j, want) in row {
                let j = *j as usize;
                sum += want * y[i] * y[j];
                slope[i] += want * y[j];
                slope[j] += want * y[i];
            }
        }
        for bit in &self.bits {
            let along = dot(bit, y);
            sum -= along * along;
            slope.iter_mut().zip(bit).for_each(|(s, b)| *s -= 2.0 * along * b);
        }
        (sum, slope)
    }
}

/// The values of one bit, `[heads][anchors]`, after all steps of Nesterov's descent on smooth signs from `start`.
fn descend(heads: &[Head], start: &[Vec<f64>], how: &HashFit) -> Vec<Vec<f64>> {
    let (mut a, mut moving) = (start.to_vec(), Vec::<Vec<f64>>::new());
    for _ in 0..how.steps {
        let mut slopes: Vec<Vec<f64>> = start.iter().map(|v| vec![0.0; v.len()]).collect();
        for (i, one) in heads.iter().enumerate() {
            let head = i % a.len();
            let y: Vec<f64> = one.scores(&a[head]).iter().map(|z| (z / 2.0).tanh()).collect();
            let share = -1.0 / (y.len() * how.bits * heads.len()) as f64;
            let slope = one.gain(&y).1;
            for ((row, y), s) in one.kernels.chunks(how.anchors).zip(&y).zip(&slope) {
                let by = share * s * (1.0 - y * y) / 2.0;
                slopes[head].iter_mut().zip(row).for_each(|(to, k)| *to += by * k);
            }
        }
        if moving.is_empty() {
            moving.clone_from(&slopes);
        } else {
            let both = moving.iter_mut().flatten().zip(slopes.iter().flatten());
            both.for_each(|(m, s)| *m = MOMENTUM * *m + s);
        }
        let steps = slopes.iter().flatten().zip(moving.iter().flatten());
        a.iter_mut().flatten().zip(steps).for_each(|(a, (s, m))| *a -= RATE * (s + MOMENTUM * m));
    }
    a
}

/// Mean squared distance of the products of codes and the wanted ones, over all pairs of rows.
fn error(heads: &[Head], matrix: &[f32], how: &HashFit, n_heads: usize) -> f64 {
    let of = |(i, one): (usize, &Head)| -> f64 {
        let own = &matrix[i % n_heads * how.bits * how.anchors..][..how.bits * how.anchors];
        let code = |a: &[f32]| signs(&one.scores(&a.iter().map(|v| f64::from(*v)).collect::<Vec<_>>()));
        let codes: Vec<Vec<f64>> = own.chunks(how.anchors).map(code).collect();
        // The square of a sum of outer products, without forming a pair.
        let squares: f64 = codes.iter().flat_map(|a| codes.iter().map(move |b| dot(a, b).powi(2))).sum();
        let bare = Head { wanted: one.wanted.clone(), kernels: Vec::new(), bits: Vec::new() };
        let wanted: f64 = one.wanted.iter().flatten().map(|(_, want)| want * want).sum();
        let met: f64 = codes.iter().map(|y| bare.gain(y).0).sum();
        (wanted - 2.0 * met + squares) / (one.wanted.len() as f64).powi(2)
    };
    heads.iter().enumerate().map(of).sum::<f64>() / heads.len() as f64
}
