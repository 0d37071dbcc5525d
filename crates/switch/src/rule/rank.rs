//! Scores that order the rows of one member: the graph walk of Zero-TPrune and its building blocks, on plain slices.
//!
//! Paper: Zero-TPrune, arXiv 2305.17328 (CVPR 2024). Attention of one head is a graph over tokens; a walk that follows
//! it settles on the tokens that everybody looks at.

use std::borrow::Cow;

/// Weighted PageRank over one head's map `[n, n]` (row = query, rows sum to one): `s <- A^T s`, from uniform, `iters` times.
/// Returns `[n]`, which sums to one.
fn walk(map: &[f32], n: usize, iters: usize) -> Vec<f64> {
    let mut s = vec![1.0 / n as f64; n];
    let mut next = vec![0.0; n];
    for _ in 0..iters {
        next.fill(0.0);
        for (query, weight) in s.iter().enumerate() {
            let row = &map[query * n..(query + 1) * n];
            next.iter_mut().zip(row).for_each(|(t, p)| *t += weight * f64::from(*p));
        }
        std::mem::swap(&mut s, &mut next);
    }
    s
}

/// Importance of every row: walk over the map `[n, n]` of each head, drop heads whose spread is outside `var_range`, root
/// mean square over the rest. Scores are in units of `n` (mean one per head), in which the published range [0.01, 0.7] makes
/// sense.
pub fn importance<'a, E>(
    maps: impl Iterator<Item = Result<Cow<'a, [f32]>, E>>,
    n: usize,
    iters: usize,
    var_range: (f64, f64),
) -> Result<Vec<f64>, E> {
    let of = |map: Cow<[f32]>| walk(&map, n, iters).iter().map(|v| v * n as f64).collect();
    let scores: Vec<Vec<f64>> = maps.map(|map| map.map(of)).collect::<Result<_, E>>()?;
    let spread = |s: &Vec<f64>| s.iter().map(|v| (v - 1.0) * (v - 1.0)).sum::<f64>() / n as f64;
    let inside: Vec<&Vec<f64>> = scores.iter().filter(|s| (var_range.0..=var_range.1).contains(&spread(s))).collect();
    let used = if inside.is_empty() { scores.iter().collect() } else { inside };
    Ok((0..n).map(|i| (used.iter().map(|s| s[i] * s[i]).sum::<f64>() / used.len() as f64).sqrt()).collect())
}

/// One head's map `[n, n]` restricted to the rows in `alive` (ascending), each row summing to one again. It is written over
/// itself: what is read lies at or behind what is written.
pub fn restrict(mut map: Vec<f32>, n: usize, alive: &[usize]) -> Vec<f32> {
    let mut to = 0;
    for q in alive {
        let total: f32 = alive.iter().map(|k| map[q * n + k]).sum();
        for k in alive {
            map[to] = map[q * n + k] / total.max(f32::MIN_POSITIVE);
            to += 1;
        }
    }
    map.truncate(to);
    map
}

/// How much the class row attends to each row, averaged over heads. Shapes: its row of every head's map, `[heads, n]`.
pub fn class_attention(rows: &[f32], n: usize) -> Vec<f64> {
    let heads = rows.len() / n.max(1);
    (0..n).map(|j| (0..heads).map(|h| f64::from(rows[h * n + j])).sum::<f64>() / heads as f64).collect()
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
        let s = walk(&probs, 2, 200);
        assert!((s[0] - 0.8).abs() < 1e-9 && (s[1] - 0.2).abs() < 1e-9, "{s:?}");
    }

    #[test]
    fn flat_heads_are_ignored_when_a_sharp_one_exists() {
        let sharp = [0.8f32, 0.1, 0.1, 0.6, 0.2, 0.2, 0.6, 0.2, 0.2];
        let flat = [1.0f32 / 3.0; 9];
        let of = |maps: &[[f32; 9]]| {
            let maps = maps.iter().map(|m| Ok::<_, ()>(Cow::from(m.as_slice())));
            importance(maps, 3, 5, (0.01, 2.0)).unwrap_or_default()
        };
        let (alone, mixed) = (of(&[sharp]), of(&[sharp, flat]));
        assert_eq!(alone, mixed);
        assert!(alone[0] > alone[1]);
    }

    #[test]
    fn restricted_rows_sum_to_one() {
        let probs = [0.5f32, 0.25, 0.25, 0.1, 0.7, 0.2, 0.3, 0.3, 0.4];
        let r = restrict(probs.to_vec(), 3, &[0, 2]);
        assert_eq!(r.len(), 4);
        assert!((r[0] + r[1] - 1.0).abs() < 1e-6 && (r[2] + r[3] - 1.0).abs() < 1e-6);
    }
}
