//! Everything that changes scores after the product: biases, causality, hidden keys. Tiles of scores have a key in
//! each row and a query in each lane.

use super::QUERY_BLOCK;
use super::spec::{Attend, Bias, Segment};
use crate::simd::Simd;

/// What is added to the scores of one segment and head, and which are struck out.
pub(super) struct Scores<'a> {
    spec: &'a Attend<'a>,
    segment: Segment,
    /// This head's part: `[nq, nk]`, or the table.
    bias: Bias<'a>,
    /// Of the current block of queries: the positions, as floats, for comparisons lane by lane.
    lanes: [f32; QUERY_BLOCK],
    /// Their zones, likewise.
    zones: [f32; QUERY_BLOCK],
    /// The position of the first, and the least and the greatest position of the current queries.
    first: i64,
    least: i64,
    greatest: i64,
    /// Of a relative bias: biases along the queries, so that a key's row is a window into it.
    line: Vec<f32>,
    /// The distance `line` starts with.
    far: i64,
}

/// Where a tile lies: its first query and queries, its first key and keys.
#[derive(Clone, Copy)]
pub(super) struct TileAt {
    pub(super) start: usize,
    pub(super) m: usize,
    pub(super) key: usize,
    pub(super) count: usize,
}

impl<'a> Scores<'a> {
    pub(super) fn new(spec: &'a Attend<'a>, segment: Segment, head: usize) -> Self {
        let part = |b: &'a [f32]| {
            let n = b.len() / spec.heads;
            &b[head * n..(head + 1) * n]
        };
        let bias = match spec.bias {
            Bias::None => Bias::None,
            Bias::Dense(b) => Bias::Dense(part(b)),
            Bias::Relative(t) => Bias::Relative(part(t)),
        };
        let lanes = [0.0; QUERY_BLOCK];
        Scores { spec, segment, bias, lanes, zones: lanes, first: 0, least: 0, greatest: 0, line: Vec::new(), far: 0 }
    }

    /// Whether the scores stay as they are.
    #[inline(always)]
    fn plain(&self) -> bool {
        !self.spec.causal
            && self.spec.window.is_none()
            && self.spec.key_mask.is_none()
            && self.spec.zones.is_none()
            && matches!(self.bias, Bias::None)
    }

    fn q_position(&self, i: usize) -> i64 {
        match self.spec.positions {
            Some(p) => i64::from(p.q[self.segment.q + i]),
            None => (i + self.segment.nk) as i64 - self.segment.nq as i64,
        }
    }

    fn k_position(&self, j: usize) -> i64 {
        self.spec.positions.map_or(j as i64, |p| i64::from(p.k[self.segment.k + j]))
    }

    /// Makes ready for queries `start..start + m`.
    pub(super) fn begin(&mut self, start: usize, m: usize) {
        if self.plain() {
            return;
        }
        self.first = self.q_position(start);
        (self.least, self.greatest) = (i64::MAX, i64::MIN);
        let mut steady = true;
        for i in 0..m {
            let at = self.q_position(start + i);
            steady &= at == self.first + i as i64;
            self.least = self.least.min(at);
            self.greatest = self.greatest.max(at);
            self.lanes[i] = at as f32;
        }
        if let Some(z) = self.spec.zones {
            let own = &z.q[self.segment.q + start..][..m];
            self.zones.iter_mut().zip(own).for_each(|(lane, z)| *lane = f32::from(*z));
        }
        self.line.clear();
        if let Bias::Relative(table) = self.bias
            && steady
        {
            self.begin_line(table);
        }
    }

    /// `line[t]` becomes the bias of distance `far - t`, for all distances that occur, unless they are too scattered.
    fn begin_line(&mut self, table: &[f32]) {
        let n = self.segment.nk;
        let positions = (0..n).map(|j| self.k_position(j));
        let Some((low, high)) = positions.map(|p| (p, p)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { return };
        let len = (high - low) as usize + QUERY_BLOCK + 16;
        if len > 2 * n + 1024 {
            return;
        }
        self.far = high - self.first;
        self.line.extend((0..len as i64).map(|t| table[entry(table, self.far - t)]));
    }

    /// The greatest distance at which a query sees a key.
    fn reach(&self) -> i64 {
        self.spec.window.map_or(i64::MAX, |w| w as i64 - 1)
    }

    /// How many of the first `count` keys from `key` the current queries can see at all, in whole blocks of rows.
    pub(super) fn visible(&self, key: usize, count: usize) -> usize {
        if !self.spec.causal && self.spec.window.is_none() {
            return count;
        }
        let reach = self.reach();
        let last = if self.spec.causal { self.greatest } else { self.greatest.saturating_add(reach) };
        let first = self.least.saturating_sub(reach);
        let near = |j: &usize| (first..=last).contains(&self.k_position(key + j));
        let seen = (0..count).rev().find(near).map_or(0, |j| j + 1);
        super::tile::pad_rows(seen).min(count)
    }

    /// Adds biases to a tile of scores and strikes out what is not to be seen.
    #[inline(always)]
    pub(super) fn apply<S: Simd>(&self, s: S, at: TileAt, tile: &mut [f32], ld: usize) {
        if self.plain() {
            return;
        }
        match self.bias {
            Bias::None => {}
            Bias::Dense(b) => self.add_dense(s, b, at, tile, ld),
            Bias::Relative(table) => self.add_relative(s, table, at, tile, ld),
        }
        if let Some(z) = self.spec.zones {
            let (same, apart, half) = (s.splat(0.0), s.splat(z.apart), s.splat(0.5));
            for (j, row) in tile.chunks_exact_mut(ld).take(at.count).enumerate() {
                let own = s.splat(f32::from(z.k[self.segment.k + at.key + j]));
                for (v, lanes) in row.chunks_exact_mut(S::LANES).zip(self.zones.chunks_exact(S::LANES)) {
                    let far = s.abs(s.sub(s.load(lanes), own));
                    let moved = s.add(s.load(v), s.select_lt(far, half, same, apart));
                    s.store(v, moved);
                }
            }
        }
        let never = s.splat(f32::NEG_INFINITY);
        for (j, row) in tile.chunks_exact_mut(ld).take(at.count).enumerate() {
            if self.spec.key_mask.is_some_and(|m| !m[self.segment.k + at.key + j]) {
                row.fill(f32::NEG_INFINITY);
            } else if self.spec.causal {
                let position = s.splat(self.k_position(at.key + j) as f32);
                for (v, lanes) in row.chunks_exact_mut(S::LANES).zip(self.lanes.chunks_exact(S::LANES)) {
                    let kept = s.select_lt(s.load(lanes), position, never, s.load(v));
                    s.store(v, kept);
                }
            }
        }
        let Some(window) = self.spec.window else { return };
        let beyond = s.splat(window as f32 - 0.5);
        for (j, row) in tile.chunks_exact_mut(ld).take(at.count).enumerate() {
            let position = s.splat(self.k_position(at.key + j) as f32);
            for (v, lanes) in row.chunks_exact_mut(S::LANES).zip(self.lanes.chunks_exact(S::LANES)) {
                let apart = s.abs(s.sub(s.load(lanes), position));
                let kept = s.select_lt(apart, beyond, s.load(v), never);
                s.store(v, kept);
            }
        }
    }

    /// [`Scores::apply`] to the scores of query `i` with every key of the segment.
    pub(super) fn apply_one(&self, i: usize, scores: &mut [f32]) {
        if self.plain() {
            return;
        }
        let nk = self.segment.nk;
        let at = self.q_position(i);
        match self.bias {
            Bias::None => {}
            Bias::Dense(b) => scores.iter_mut().zip(&b[i * nk..]).for_each(|(v, b)| *v += b),
            Bias::Relative(t) => {
                scores.iter_mut().enumerate().for_each(|(j, v)| *v += t[entry(t, self.k_position(j) - at)]);
            }
        }
        if let Some(z) = self.spec.zones {
            let own = z.q[self.segment.q + i];
            let keys = &z.k[self.segment.k..];
            scores.iter_mut().zip(keys).for_each(|(v, k)| *v += if *k == own { 0.0 } else { z.apart });
        }
        for (j, v) in scores.iter_mut().enumerate() {
            let hidden = self.spec.key_mask.is_some_and(|m| !m[self.segment.k + j]);
            let far = (self.k_position(j) - at).abs() > self.reach();
            if hidden || far || (self.spec.causal && self.k_position(j) > at) {
                *v = f32::NEG_INFINITY;
            }
        }
    }

    #[inline(always)]
    fn add_dense<S: Simd>(&self, s: S, bias: &[f32], at: TileAt, tile: &mut [f32], ld: usize) {
        let nk = self.segment.nk;
        let mut turned = [0.0; 256];
        for i in (0..at.m).step_by(S::LANES) {
            let rows = S::LANES.min(at.m - i);
            for j in (0..at.count).step_by(S::LANES) {
                let cols = S::LANES.min(at.count - j);
                let from = &bias[(at.start + i) * nk + at.key + j..][..(rows - 1) * nk + cols];
                // SAFETY: the slice has `rows` rows of `cols`, and `turned` holds a whole block.
                unsafe { s.transpose(from.as_ptr(), nk, rows, cols, turned.as_mut_ptr(), S::LANES, S::LANES) };
                for (c, add) in turned.chunks_exact(S::LANES).take(cols).enumerate() {
                    let to = &mut tile[(j + c) * ld + i..][..S::LANES];
                    let sum = s.add(s.load(to), s.load(add));
                    s.store(to, sum);
                }
            }
        }
    }

    #[inline(always)]
    fn add_relative<S: Simd>(&self, s: S, table: &[f32], at: TileAt, tile: &mut [f32], ld: usize) {
        for (j, row) in tile.chunks_exact_mut(ld).take(at.count).enumerate() {
            let position = self.k_position(at.key + j);
            if self.line.is_empty() {
                for (v, &lane) in row.iter_mut().zip(&self.lanes[..at.m]) {
                    *v += table[entry(table, position - lane as i64)];
                }
                continue;
            }
            let window = &self.line[self.window(position)..][..ld];
            for (v, w) in row.chunks_exact_mut(S::LANES).zip(window.chunks_exact(S::LANES)) {
                let sum = s.add(s.load(v), s.load(w));
                s.store(v, sum);
            }
        }
    }

    /// Where in `line` the biases of a key at `position` start.
    #[inline(always)]
    fn window(&self, position: i64) -> usize {
        (self.far - (position - self.first)) as usize
    }

    /// Adds the gradients of a tile of scores to the bias's, `[nq, nk]` or the table's, of this head.
    #[inline(always)]
    pub(super) fn collect<S: Simd>(&self, s: S, at: TileAt, tile: &[f32], ld: usize, grad: &mut BiasGrad<'_>) {
        match self.bias {
            Bias::None => {}
            Bias::Dense(_) => {
                let nk = self.segment.nk;
                let mut turned = [0.0; 256];
                for j in (0..at.count).step_by(S::LANES) {
                    let rows = S::LANES.min(at.count - j);
                    for i in (0..at.m).step_by(S::LANES) {
                        let cols = S::LANES.min(at.m - i);
                        let from = &tile[j * ld + i..][..(rows - 1) * ld + cols];
                        // SAFETY: the slice has `rows` rows of `cols`, and `turned` holds a whole block.
                        unsafe { s.transpose(from.as_ptr(), ld, rows, cols, turned.as_mut_ptr(), S::LANES, S::LANES) };
                        for (c, add) in turned.chunks_exact(S::LANES).take(cols).enumerate() {
                            let to = &mut grad.out[(at.start + i + c) * nk + at.key + j..][..rows];
                            let sum = s.add(s.load_part(to), s.load(add));
                            s.store_part(to, sum);
                        }
                    }
                }
            }
            Bias::Relative(table) => {
                for (j, row) in tile.chunks_exact(ld).take(at.count).enumerate() {
                    let position = self.k_position(at.key + j);
                    let row = &row[..at.m];
                    if self.line.is_empty() {
                        for (v, &lane) in row.iter().zip(&self.lanes) {
                            grad.out[entry(table, position - lane as i64)] += v;
                        }
                        continue;
                    }
                    let to = &mut grad.line[self.window(position)..][..at.m];
                    for (to, v) in to.chunks_mut(S::LANES).zip(row.chunks(S::LANES)) {
                        let sum = s.add(s.load_part(to), s.load_part(v));
                        s.store_part(to, sum);
                    }
                }
            }
        }
    }

    /// Makes ready to collect gradients of the current block of queries.
    pub(super) fn begin_grad(&self, grad: &mut BiasGrad<'_>) {
        grad.line.clear();
        grad.line.resize(self.line.len(), 0.0);
    }

    /// Puts what was collected along the queries into the table's gradient.
    pub(super) fn end_grad(&self, grad: &mut BiasGrad<'_>) {
        if let Bias::Relative(table) = self.bias {
            for (t, v) in grad.line.iter().enumerate() {
                grad.out[entry(table, self.far - t as i64)] += v;
            }
        }
    }
}

/// The entry of a distance in a relative table.
fn entry(table: &[f32], distance: i64) -> usize {
    let reach = (table.len() / 2) as i64;
    (distance.clamp(-reach, reach) + reach) as usize
}

/// Where the gradient of a head's bias is added up.
pub(super) struct BiasGrad<'a> {
    /// `[nq, nk]`, or the table's.
    pub(super) out: &'a mut [f32],
    /// Sums along the queries, as `Scores::line`.
    pub(super) line: Vec<f32>,
}
