//! Documents in the order of their scores for a query.

use std::collections::BTreeMap;

use crate::answer::{Ranked, Reply};
use crate::sentence::{Sentence, Similarity, m3};

/// Names of the scores of BGE-M3, in the order of their weights.
const KINDS: [&str; 3] = ["dense", "sparse", "colbert"];

/// A document with its score, and the scores that this one is made of.
type Scored = (f64, Option<BTreeMap<String, f64>>, String);

/// Scored documents, the best first; of equal ones the first given.
fn ordered(scored: Vec<Scored>) -> Vec<Ranked> {
    let mut order: Vec<usize> = (0..scored.len()).collect();
    order.sort_by(|a, b| scored[*b].0.total_cmp(&scored[*a].0).then(a.cmp(b)));
    let one = |(rank, document): (usize, usize)| {
        let (score, scores, text) = scored[document].clone();
        Ranked { rank: rank + 1, document, score, scores, text }
    };
    order.into_iter().enumerate().map(one).collect()
}

/// Second texts of pairs by their one score; `None` where a pair has none, where first texts differ, or of a single pair.
pub(crate) fn of_pairs(replies: &[Reply], single: bool) -> Option<Vec<Ranked>> {
    let first = replies.first().map(|r| &r.input)?;
    let score = |r: &Reply| match (r.values.as_deref(), r.labels.as_deref()) {
        (Some([one]), None) => Some(f64::from(one.value)),
        (None, Some([one])) => Some(f64::from(one.probability)),
        _ => None,
    };
    let one = |r: &Reply| {
        let own = r.logits.as_ref().is_some_and(|all| all.len() == 1) && r.input == *first;
        Some((score(r).filter(|_| own)?, None, r.pair.clone()?))
    };
    let all: Option<Vec<_>> = replies.iter().map(one).collect();
    all.filter(|all| single || all.len() > 1).map(ordered)
}

/// Documents, which are all replies but the first, by their likeness to that one, which is the query's.
pub(crate) fn of_embeddings(sentence: &Sentence, replies: &[Reply], weights: Option<[f64; 3]>) -> Option<Vec<Ranked>> {
    let (query, documents) = replies.split_first()?;
    let vectors = |r: &Reply| -> Option<Vec<Vec<f32>>> {
        Some(r.token_embeddings.as_ref()?.iter().map(|t| t.embedding.clone()).collect())
    };
    let similarity = sentence.similarity();
    if sentence.m3().is_some() {
        let asked = vectors(query)?;
        let weights = weights.unwrap_or(m3::EQUAL);
        let one = |r: &Reply| {
            let dense = [query.sentence_embedding.as_deref()?, r.sentence_embedding.as_deref()?];
            let sparse = [query.sparse_embedding.as_ref()?, r.sparse_embedding.as_ref()?];
            let scores = m3::scores(dense, sparse, [&asked, &vectors(r)?]);
            let sum: f64 = scores.iter().zip(weights).map(|(score, weight)| score * weight).sum();
            let named = KINDS.iter().map(|name| name.to_string()).zip(scores).collect();
            Some((sum / weights.iter().sum::<f64>(), Some(named), r.input.clone()))
        };
        return documents.iter().map(one).collect::<Option<_>>().map(ordered);
    }
    if sentence.is_multi_vector() {
        let asked = vectors(query)?;
        let one = |r: &Reply| Some((similarity.of_tokens(&asked, &vectors(r)?), None, r.input.clone()));
        return documents.iter().map(one).collect::<Option<_>>().map(ordered);
    }
    let all = super::embed::vectors(replies);
    let (asked, others) = all.split_first().filter(|_| all.len() == replies.len())?;
    let one = |(v, r): (&Vec<f32>, &Reply)| (Similarity::of(similarity, asked, v), None, r.input.clone());
    Some(ordered(others.iter().zip(documents).map(one).collect()))
}
