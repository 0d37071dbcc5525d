//! Embeddings of texts: dense, sparse, and of every token.

use std::collections::{BTreeMap, BTreeSet};

use switchformer_nn::{Error, Output};

use super::Given;
use crate::answer::{Reply, TokenVector};
use crate::error::Result;
use crate::sentence::{Ask, Task, Text, TokenVectors};
use crate::session::Session;

/// What is written of the embeddings of the samples, as raw outputs.
#[derive(Default)]
pub(crate) struct Embedded {
    /// One vector of each.
    pub(crate) vectors: Vec<Option<Vec<f32>>>,
    /// Vectors of the tokens of each.
    pub(crate) tokens: Vec<Option<TokenVectors>>,
}

/// What a folder makes of the rows of each sample; given to the replies too. Empty where it does not say.
pub(crate) fn fill(
    session: &Session,
    out: &Output,
    given: &Given,
    ask: &Ask,
    replies: &mut [Reply],
) -> Result<Embedded> {
    let Some(sentence) = session.sentence() else { return Ok(Embedded::default()) };
    if !sentence.is_multi_vector() && sentence.m3().is_none() {
        let vectors = sentence.embed(out, replies.len(), ask)?;
        single(session, &vectors, replies)?;
        return Ok(Embedded { vectors, tokens: Vec::new() });
    }
    let ids = given.input.ids("input_ids")?;
    let text = |i: usize| {
        let (own, task) = given.asked.get(i).map_or((ids.rows.len(i), None), |asked| (asked.tokens, asked.task));
        Text { ids: &ids.ids[ids.rows.range(i)], own, task: task.unwrap_or(Task::Document) }
    };
    let texts: Vec<Text> = (0..replies.len()).map(text).collect();
    if sentence.is_multi_vector() {
        let tokens = sentence.embed_tokens(out, &texts, &session.skipped()?)?;
        each_token(session, &tokens, &texts, replies)?;
        return Ok(Embedded { vectors: Vec::new(), tokens });
    }
    let vectors = sentence.embed(out, replies.len(), ask)?;
    single(session, &vectors, replies)?;
    let all = sentence.weigh(out, &texts)?;
    let tokenizer = session.tokenizer().ok();
    // Markers weigh nothing; the mask is a token like others.
    let marker = |id: u32| {
        tokenizer.is_some_and(|t| t.is_special(id) && t.mask_token().and_then(|mask| t.token_to_id(mask)) != Some(id))
    };
    for (i, reply) in replies.iter_mut().enumerate() {
        let Some(Some(one)) = all.get(i) else { continue };
        let own = one.weights.iter().filter(|(id, _)| !marker(**id));
        let (ids, weights): (Vec<u32>, Vec<f32>) = own.unzip();
        Error::unless_finite("sparse embedding", i, &weights)?;
        reply.sparse_embedding = Some(ids.into_iter().map(|id| name(session, id)).zip(weights).collect());
    }
    let tokens: Vec<Option<TokenVectors>> = all.into_iter().map(|one| one.map(|one| one.vectors)).collect();
    each_token(session, &tokens, &texts, replies)?;
    Ok(Embedded { vectors, tokens })
}

/// One vector of each sample.
fn single(session: &Session, all: &[Option<Vec<f32>>], replies: &mut [Reply]) -> Result<()> {
    let sparse = session.sentence().is_some_and(crate::Sentence::is_sparse);
    for ((i, reply), v) in replies.iter_mut().enumerate().zip(all) {
        let Some(v) = v else { continue };
        Error::unless_finite("sentence_embedding", i, v)?;
        match sparse {
            true => reply.sparse_embedding = Some(weights(session, v)),
            false => reply.sentence_embedding = Some(v.clone()),
        }
    }
    Ok(())
}

/// Vectors of tokens.
fn each_token(session: &Session, all: &[Option<TokenVectors>], texts: &[Text], replies: &mut [Reply]) -> Result<()> {
    for (((i, reply), tokens), text) in replies.iter_mut().enumerate().zip(all).zip(texts) {
        let Some(tokens) = tokens else { continue };
        let mut told = Vec::with_capacity(tokens.len());
        for (place, v) in tokens {
            Error::unless_finite("token_embeddings", i, v)?;
            let token = text.ids.get(*place).map_or_else(String::new, |id| name(session, *id));
            told.push(TokenVector { token, embedding: v.clone() });
        }
        reply.token_embeddings = Some(told);
    }
    Ok(())
}

/// A token without a name has that of its id.
fn name(session: &Session, id: u32) -> String {
    session.tokenizer().ok().and_then(|t| t.id_to_token(id)).unwrap_or_else(|| format!("[id {id}]"))
}

/// The tokens that weigh anything.
fn weights(session: &Session, v: &[f32]) -> BTreeMap<String, f32> {
    let weighs = v.iter().enumerate().filter(|(_, w)| **w != 0.0);
    weighs.map(|(id, w)| (name(session, id as u32), *w)).collect()
}

/// Embeddings as vectors of one length: sparse ones over the tokens of all of them.
pub fn vectors(replies: &[Reply]) -> Vec<Vec<f32>> {
    let tokens: BTreeSet<&String> =
        replies.iter().flat_map(|r| r.sparse_embedding.iter().flat_map(BTreeMap::keys)).collect();
    let sparse = |w: &BTreeMap<String, f32>| tokens.iter().map(|t| w.get(*t).copied().unwrap_or(0.0)).collect();
    let one = |r: &Reply| r.sentence_embedding.clone().or_else(|| r.sparse_embedding.as_ref().map(sparse));
    replies.iter().filter_map(one).collect()
}
