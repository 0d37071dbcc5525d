//! Sentence embeddings.

use switchformer_nn::{Error, Output, Value};
use switchformer_tensor::Tensor;

use crate::answer::Reply;
use crate::error::Result;
use crate::session::Session;

/// The vector of each sample, `[dim]`, where the folder says how rows are pooled; given to the replies too. Empty where it
/// does not, or the model gives no rows.
pub(crate) fn fill(session: &Session, out: &Output, replies: &mut [Reply]) -> Result<Vec<Option<Tensor>>> {
    let rows = matches!(out.values().get("last_hidden_state"), Some(Value::PerRow(..)));
    let Some(pooling) = session.pooling().filter(|_| rows) else { return Ok(Vec::new()) };
    let all = pooling.embed(out, replies.len())?;
    for ((i, reply), v) in replies.iter_mut().enumerate().zip(&all) {
        reply.sentence_embedding = v.as_ref().map(Tensor::to_vec1).transpose()?;
        Error::unless_finite("sentence_embedding", i, reply.sentence_embedding.as_deref().unwrap_or_default())?;
    }
    Ok(all)
}
