//! Tokens in the place of masks.

use switchformer_nn::Output;

use super::{Given, scores_of};
use crate::answer::{Reply, Scale, best};
use crate::error::Result;
use crate::session::{Listener, Session};

/// Tokens that are told for each mask.
const SHOWN: usize = 5;

/// The likeliest tokens for every mask of each text that has scores; a note where the tokenizer has no mask.
pub(crate) fn fill(
    session: &Session,
    out: &Output,
    name: &str,
    given: &Given,
    replies: &mut [Reply],
    listener: &mut dyn Listener,
) -> Result<()> {
    let tokenizer = session.tokenizer()?;
    let Some(mask) = tokenizer.mask_token().and_then(|m| tokenizer.token_to_id(m)) else {
        let hint = "name one of its tokens as mask_token in tokenizer_config.json";
        listener.note(&format!("the tokenizer has no mask token, so nothing is filled in: {hint}"));
        return Ok(());
    };
    for ((i, reply), text) in replies.iter_mut().enumerate().zip(&given.encoded) {
        let Some(scores) = scores_of(out, name, i, text) else { continue };
        let mut masks = Vec::new();
        for place in (0..text.ids.len()).filter(|p| text.ids[*p] == mask) {
            let row: Vec<f32> = scores.get(place)?.to_vec1()?;
            masks.push(best(i, &row, Scale::Softmax, SHOWN, |id| tokenizer.word_of(id as u32).unwrap_or_default())?);
        }
        if masks.is_empty() {
            let mask = tokenizer.mask_token().unwrap_or_default();
            listener.note(&format!("text {} holds no {mask}, so nothing is filled in", i + 1));
        }
        reply.masks = Some(masks);
    }
    Ok(())
}
