//! Scores of pairs of rows, looked up among the products of rows with vectors of places.

use crate::threads::run_chunks;

/// Which place stands for each pair of one segment.
#[derive(Clone, Copy, Debug)]
pub struct PairPlaces<'a> {
    /// Rows of the segment.
    pub n: usize,
    /// Places that there are.
    pub places: usize,
    /// The place of query `i` and key `j`. `[n, n]`
    pub at: &'a [u32],
}

impl PairPlaces<'_> {
    /// Heads in `len` scores.
    fn heads(&self, len: usize, products: [Option<usize>; 2]) -> usize {
        assert_eq!(self.at.len(), self.n * self.n, "length of at");
        assert!(self.at.iter().all(|at| (*at as usize) < self.places), "a place beyond the {} there are", self.places);
        let heads = len / self.at.len().max(1);
        assert_eq!(heads * self.at.len(), len, "length of scores");
        for own in products.into_iter().flatten() {
            assert_eq!(own, heads * self.n * self.places, "length of products");
        }
        heads
    }
}

/// `scores[h, i, j] = scale (queries[h, i, at[i, j]] + keys[h, j, at[i, j]])`: products of queries and of keys with the
/// vectors of places, `[heads, n, places]`; what is not given counts nothing.
///
/// # Panics
/// If a length does not match or a place is out of range.
pub fn pair_scores(
    pairs: &PairPlaces<'_>,
    scale: f32,
    queries: Option<&[f32]>,
    keys: Option<&[f32]>,
    scores: &mut [f32],
) {
    let n = pairs.n;
    if pairs.heads(scores.len(), [queries.map(<[f32]>::len), keys.map(<[f32]>::len)]) == 0 || n == 0 {
        return;
    }
    // A key's places of neighbouring queries are neighbours: its line stays in the first level from row to row.
    run_chunks(scores, 16 * n, |start, scores| {
        for (row, own) in (start / n..).zip(scores.chunks_exact_mut(n)) {
            let (head, i) = (row / n, row % n);
            let at = &pairs.at[i * n..][..n];
            match queries {
                None => own.fill(0.0),
                Some(q) => {
                    let q = &q[row * pairs.places..][..pairs.places];
                    own.iter_mut().zip(at).for_each(|(s, at)| *s = scale * q[*at as usize]);
                }
            }
            if let Some(k) = keys {
                let k = k[head * n * pairs.places..][..n * pairs.places].chunks_exact(pairs.places);
                own.iter_mut().zip(at).zip(k).for_each(|((s, at), k)| *s += scale * k[*at as usize]);
            }
        }
    });
}

/// Backward of [`pair_scores`]: adds to the slopes of the products that are asked for.
///
/// # Panics
/// If a length does not match or a place is out of range.
pub fn pair_scores_backward(
    pairs: &PairPlaces<'_>,
    scale: f32,
    dscores: &[f32],
    dqueries: Option<&mut [f32]>,
    dkeys: Option<&mut [f32]>,
) {
    let (n, places) = (pairs.n, pairs.places);
    let lens = [dqueries.as_deref().map(<[f32]>::len), dkeys.as_deref().map(<[f32]>::len)];
    if pairs.heads(dscores.len(), lens) == 0 || n == 0 {
        return;
    }
    // Each head's slopes are its own.
    if let Some(dq) = dqueries {
        run_chunks(dq, n * places, |start, dq| {
            let own = &dscores[start / places * n..][..n * n];
            for ((row, g), at) in dq.chunks_exact_mut(places).zip(own.chunks_exact(n)).zip(pairs.at.chunks_exact(n)) {
                g.iter().zip(at).for_each(|(g, at)| row[*at as usize] += scale * g);
            }
        });
    }
    if let Some(dk) = dkeys {
        run_chunks(dk, n * places, |start, dk| {
            let own = &dscores[start / places * n..][..n * n];
            for (g, at) in own.chunks_exact(n).zip(pairs.at.chunks_exact(n)) {
                let rows = dk.chunks_exact_mut(places);
                rows.zip(g).zip(at).for_each(|((row, g), at)| row[*at as usize] += scale * g);
            }
        });
    }
}
