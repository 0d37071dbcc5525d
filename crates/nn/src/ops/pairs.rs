//! Scores of pairs of rows that are looked up among products with vectors of places.

use std::sync::Arc;

use switchformer_kernels::{self as kernels, PairPlaces, pair_scores_backward};
use switchformer_tensor::Tensor;

use super::fused::{tensor, with};
use crate::error::{Error, Result};
use crate::tape::apply;

/// `scale (queries[h, i, at[i, j]] + keys[h, j, at[i, j]])`, by products of queries and of keys with the vectors of places.
/// Shapes: both `[heads, n, places]`, at `[n, n]` row by row -> `[heads, n, n]`. Errors where neither is given or shapes
/// do not fit.
pub fn pair_scores(queries: Option<&Tensor>, keys: Option<&Tensor>, at: Vec<u32>, scale: f64) -> Result<Tensor> {
    let given: Vec<&Tensor> = [queries, keys].into_iter().flatten().collect();
    let Some((heads, n, places)) = given.first().map(|t| t.dims3()).transpose()? else {
        return Err(Error::shape("products of pairs", "those of queries or of keys", &[0]));
    };
    let fits = given.iter().all(|t| t.dims() == [heads, n, places]) && at.len() == n * n;
    if !fits || at.iter().any(|at| *at as usize >= places) {
        return Err(Error::shape(
            "products of pairs",
            format!("[{heads}, {n}, {places}]"),
            given[given.len() - 1].dims(),
        ));
    }
    let (at, has) = (Arc::new(at), [queries.is_some(), keys.is_some()]);
    let own = at.clone();
    apply(
        &given,
        || {
            let at = Tensor::from_vec(at.to_vec(), (1, n, n))?.broadcast_as((heads, n, n))?;
            let of_queries = queries.map(|q| q.gather(&at.contiguous()?, 2)).transpose()?;
            let of_keys = keys.map(|k| k.gather(&at.t()?.contiguous()?, 2)?.t()?.contiguous()).transpose()?;
            let both = match (of_queries, of_keys) {
                (Some(q), Some(k)) => (q + k)?,
                (Some(one), None) | (None, Some(one)) => one,
                (None, None) => Tensor::zeros((heads, n, n), given[0].dtype())?,
            };
            both * scale
        },
        || {
            let pairs = PairPlaces { n, places, at: &at };
            let mut y = kernels::unfilled(heads * n * n);
            match (queries, keys) {
                (Some(q), Some(k)) => with([q, k], |[q, k]| {
                    kernels::pair_scores(&pairs, scale as f32, Some(q), Some(k), &mut y);
                })?,
                (Some(q), None) => with([q], |[q]| kernels::pair_scores(&pairs, scale as f32, Some(q), None, &mut y))?,
                (None, k) => with(k.map_or([given[0]], |k| [k]), |[k]| {
                    kernels::pair_scores(&pairs, scale as f32, None, Some(k), &mut y);
                })?,
            }
            Ok((y, vec![heads, n, n]))
        },
        move |g| {
            let pairs = PairPlaces { n, places, at: &own };
            let [mut dq, mut dk] = has.map(|has| has.then(|| vec![0f32; heads * n * places]));
            with([g], |[g]| pair_scores_backward(&pairs, scale as f32, g, dq.as_deref_mut(), dk.as_deref_mut()))?;
            let slopes = [dq, dk].into_iter().flatten();
            slopes.map(|d| tensor(d, &[heads, n, places]).map(Some)).collect()
        },
    )
}
