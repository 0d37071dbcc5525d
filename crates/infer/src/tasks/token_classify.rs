//! Classes of tokens: names of people and places, parts of speech.

use switchformer_nn::Output;

use super::{Given, scores_of};
use crate::answer::{Reply, TokenLabel, best};
use crate::error::Result;
use crate::session::Session;

/// The likeliest class of every token of each text that has scores.
pub(crate) fn fill(session: &Session, out: &Output, given: &Given, replies: &mut [Reply]) -> Result<()> {
    let (tokenizer, labels) = (session.tokenizer()?, session.opened.config.labels());
    let name = |i: usize| labels.get(i).cloned().unwrap_or_else(|| i.to_string());
    for ((i, reply), text) in replies.iter_mut().enumerate().zip(&given.encoded) {
        let Some(scores) = scores_of(out, i, text) else { continue };
        let mut tokens = Vec::new();
        for (t, row) in scores.to_vec2::<f32>()?.iter().enumerate().filter(|(t, _)| text.special_mask[*t] == 0) {
            let token = tokenizer.id_to_token(text.ids[t]).unwrap_or_default();
            let (from, to) = text.offsets[t];
            let one =
                |l: crate::Label| TokenLabel { token, bytes: [from, to], label: l.label, probability: l.probability };
            tokens.extend(best(i, row, 1, name)?.pop().map(one));
        }
        reply.token_labels = Some(tokens);
    }
    Ok(())
}
