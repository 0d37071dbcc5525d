//! Scores that order the rows of one member: the graph walk of Zero-TPrune and its building blocks, on plain slices.
//!
//! Paper: Zero-TPrune, arXiv 2305.17328 (CVPR 2024). Attention of one head is a graph over tokens; a walk that follows
//! it settles on the tokens that everybody looks at.

/// Attention maps of one member after a block: `heads` maps of `n x n`, row = query, rows sum to one.
pub struct Maps<'a> {
    /// `[heads, n, n]`, row-major.
    pub probs: &'a [f32],
    /// Number of heads.
    pub heads: usize,
    /// Rows of the member.
    pub n: usize,
}

/// Weighted PageRank per head: `s <- A^T s`, from uniform, `iters` times. Returns `[heads, n]`; each head sums to one.
fn walk(maps: &Maps, iters: usize) -> Vec<f64> {
    let n = maps.n;
    let mut all = Vec::with_capacity(maps.heads * n);
    for h in 0..maps.heads {
        let a = &maps.probs[h * n * n..(h + 1) * n * n];
        let mut s = vec![1.0 / n as f64; n];
        let mut next = vec![0.0; n];
        for _ in 0..iters {
            next.fill(0.0);
            for (query, weight) in s.iter().enumerate() {
                let row = &a[query * n..(query + 1) * n];
                next.iter_mut().zip(row).for_each(|(t, p)| *t += weight * f64::from(*p));
            }
            std::mem::swap(&mut s, &mut next);
        }
        all.extend_from_slice(&s);
    }
    all
}

/// Importance of every row: walk per head, drop heads whose spread is outside `var_range`, root mean square over the
/// rest. Scores are in units of `n` (mean one per head), in which the published range [0.01, 0.7] makes sense.
pub fn importance(maps: &Maps, iters: usize, var_range: (f64, f64)) -> Vec<f64> {
    let n = maps.n;
    let scores: Vec<Vec<f64>> =
        walk(maps, iters).chunks(n.max(1)).map(|s| s.iter().map(|v| v * n as f64).collect()).collect();
    let spread = |s: &Vec<f64>| s.iter().map(|v| (v - 1.0) * (v - 1.0)).sum::<f64>() / n as f64;
    let inside: Vec<&Vec<f64>> = scores.iter().filter(|s| (var_range.0..=var_range.1).contains(&spread(s))).collect();
    let used = if inside.is_empty() { scores.iter().collect() } else { inside };
    (0..n).map(|i| (used.iter().map(|s| s[i] * s[i]).sum::<f64>() / used.len() as f64).sqrt()).collect()
}

/// Maps restricted to the rows in `alive` (ascending), each row summing to one again.
pub fn restrict(maps: &Maps, alive: &[usize]) -> Vec<f32> {
    let n = maps.n;
    let mut out = Vec::with_capacity(maps.heads * alive.len() * alive.len());
    for h in 0..maps.heads {
        for q in alive {
            let row = &maps.probs[(h * n + q) * n..(h * n + q + 1) * n];
            let total: f32 = alive.iter().map(|k| row[*k]).sum();
            out.extend(alive.iter().map(|k| row[*k] / total.max(f32::MIN_POSITIVE)));
        }
    }
    out
}

/// How much the class row attends to each row, averaged over heads.
pub fn class_attention(maps: &Maps) -> Vec<f64> {
    let n = maps.n;
    (0..n)
        .map(|j| (0..maps.heads).map(|h| f64::from(maps.probs[h * n * n + j])).sum::<f64>() / maps.heads as f64)
        .collect()
}

/// Indices of `rows` by descending score; equal scores keep the lower index first.
pub fn descending(rows: &[usize], score: impl Fn(usize) -> f64) -> Vec<usize> {
    let mut order = rows.to_vec();
    order.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
    order
}

/// For each row of `from`, the largest cosine between its key and a key of `to`. Shapes: keys `[n, dim]`.
pub fn best_match(keys: &[f32], dim: usize, from: &[usize], to: &[usize]) -> Vec<f64> {
    let row = |i: usize| &keys[i * dim..(i + 1) * dim];
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>().into() };
    let norm = |i: usize| dot(row(i), row(i)).sqrt().max(1e-12);
    let norms: Vec<f64> = to.iter().map(|j| norm(*j)).collect();
    from.iter()
        .map(|i| {
            let own = norm(*i);
            to.iter().zip(&norms).map(|(j, nj)| dot(row(*i), row(*j)) / (own * nj)).fold(f64::NEG_INFINITY, f64::max)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_settles_on_the_dominant_left_eigenvector() {
        // Stationary distribution of [[7/8, 1/8], [1/2, 1/2]] is (4/5, 1/5); the entries are exact in f32.
        let probs = [0.875, 0.125, 0.5, 0.5];
        let maps = Maps { probs: &probs, heads: 1, n: 2 };
        let s = walk(&maps, 200);
        assert!((s[0] - 0.8).abs() < 1e-9 && (s[1] - 0.2).abs() < 1e-9, "{s:?}");
    }

    #[test]
    fn flat_heads_are_ignored_when_a_sharp_one_exists() {
        let sharp = [0.8f32, 0.1, 0.1, 0.6, 0.2, 0.2, 0.6, 0.2, 0.2];
        let flat = [1.0f32 / 3.0; 9];
        let both: Vec<f32> = sharp.iter().chain(&flat).copied().collect();
        let alone = importance(&Maps { probs: &sharp, heads: 1, n: 3 }, 5, (0.01, 2.0));
        let mixed = importance(&Maps { probs: &both, heads: 2, n: 3 }, 5, (0.01, 2.0));
        assert_eq!(alone, mixed);
        assert!(alone[0] > alone[1]);
    }

    #[test]
    fn restricted_rows_sum_to_one() {
        let probs = [0.5f32, 0.25, 0.25, 0.1, 0.7, 0.2, 0.3, 0.3, 0.4];
        let r = restrict(&Maps { probs: &probs, heads: 1, n: 3 }, &[0, 2]);
        assert_eq!(r.len(), 4);
        assert!((r[0] + r[1] - 1.0).abs() < 1e-6 && (r[2] + r[3] - 1.0).abs() < 1e-6);
    }
}
