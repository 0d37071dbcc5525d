//! Tokens in the place of masks.

use switchformer_nn::Output;

use super::{Given, scores_of};
use crate::answer::{Reply, best};
use crate::error::Result;
use crate::session::Session;

/// Tokens that are told for each mask.
const SHOWN: usize = 5;
/// Names of the mask in published vocabularies.
const MASKS: [&str; 2] = ["[MASK]", "<mask>"];

/// The likeliest tokens for every mask of each text that has scores.
pub(crate) fn fill(session: &Session, out: &Output, given: &Given, replies: &mut [Reply]) -> Result<()> {
    let tokenizer = session.tokenizer()?;
    let Some(mask) = MASKS.iter().find_map(|m| tokenizer.token_to_id(m)) else { return Ok(()) };
    for ((i, reply), text) in replies.iter_mut().enumerate().zip(&given.encoded) {
        let Some(scores) = scores_of(out, i, text) else { continue };
        let mut masks = Vec::new();
        for place in (0..text.ids.len()).filter(|p| text.ids[*p] == mask) {
            let row: Vec<f32> = scores.get(place)?.to_vec1()?;
            masks.push(best(&row, SHOWN, |id| tokenizer.id_to_token(id as u32).unwrap_or_default()));
        }
        reply.masks = Some(masks);
    }
    Ok(())
}
