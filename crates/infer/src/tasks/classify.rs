//! Classes of whole texts and images.

use switchformer_nn::Output;

use crate::answer::{Reply, best};
use crate::error::Result;
use crate::session::Session;

/// Classes that are told.
const SHOWN: usize = 5;

/// The likeliest classes of each sample that has scores.
pub(crate) fn fill(session: &Session, out: &Output, replies: &mut [Reply]) -> Result<()> {
    let labels = session.opened.config.labels();
    for (i, reply) in replies.iter_mut().enumerate() {
        if let Some(scores) = out.of("logits", i).ok().filter(|t| t.dims().len() == 1) {
            let name = |i: usize| labels.get(i).cloned().unwrap_or_else(|| i.to_string());
            reply.labels = Some(best(i, &scores.to_vec1::<f32>()?, SHOWN, name)?);
        }
    }
    Ok(())
}
