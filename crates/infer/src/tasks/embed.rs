//! Embeddings of texts, dense or sparse.

use std::collections::BTreeMap;

use switchformer_nn::{Error, Output};

use crate::answer::Reply;
use crate::error::Result;
use crate::sentence::Ask;
use crate::session::Session;

/// The vector of each sample, as the folder says how rows are pooled; given to the replies too. Empty where it does not say.
pub(crate) fn fill(session: &Session, out: &Output, ask: &Ask, replies: &mut [Reply]) -> Result<Vec<Option<Vec<f32>>>> {
    let Some(sentence) = session.sentence() else { return Ok(Vec::new()) };
    let all = sentence.embed(out, replies.len(), ask)?;
    for ((i, reply), v) in replies.iter_mut().enumerate().zip(&all) {
        let Some(v) = v else { continue };
        Error::unless_finite("sentence_embedding", i, v)?;
        match sentence.is_sparse() {
            true => reply.sparse_embedding = Some(weights(session, v)),
            false => reply.sentence_embedding = Some(v.clone()),
        }
    }
    Ok(all)
}

/// The tokens that weigh anything. One without a name has that of its id.
fn weights(session: &Session, v: &[f32]) -> BTreeMap<String, f32> {
    let tokenizer = session.tokenizer().ok();
    let name = |id: usize| tokenizer.and_then(|t| t.id_to_token(id as u32)).unwrap_or_else(|| format!("[id {id}]"));
    v.iter().enumerate().filter(|(_, w)| **w != 0.0).map(|(id, w)| (name(id), *w)).collect()
}
