//! Generated texts: stop texts, and text as it grows.

use std::cell::RefCell;

use switchformer_nn::{Point, Trace};

use super::Given;
use crate::answer::Reply;
use crate::error::{Error, Result};
use crate::generate::{Streamer, write};
use crate::request::GenerationOptions;
use crate::session::{Listener, Session};

/// A text as it is told.
#[derive(Clone, Default)]
struct Growing {
    tokens: Vec<u32>,
    /// Bytes that were told.
    told: usize,
}

/// A generated text for each given one, and every decision taken.
pub(crate) fn replies(
    session: &Session,
    point: &Point,
    given: &Given,
    options: &GenerationOptions,
    listener: &mut dyn Listener,
) -> Result<(Vec<Reply>, Trace)> {
    let (tokenizer, stop) = (session.tokenizer()?, &options.stop);
    let (how, notes) = options.writing(session.settings())?;
    notes.iter().for_each(|note| listener.note(note));
    // A failure inside the callbacks ends the generation and is told afterwards.
    let failed: RefCell<Option<Error>> = RefCell::new(None);
    let decode = |tokens: &[u32]| {
        tokenizer.decode(tokens, true).unwrap_or_else(|e| {
            failed.borrow_mut().get_or_insert(e.into());
            String::new()
        })
    };
    let ends = |tokens: &[u32]| {
        let hit = !stop.is_empty() && cut(stop, &decode(tokens)).is_some();
        hit || failed.borrow().is_some()
    };
    let streams = listener.streams();
    let mut replies = given.replies();
    let mut growing = vec![Growing::default(); replies.len()];
    let mut heard = |sample: usize, token: u32| {
        if !streams {
            return;
        }
        let Growing { tokens, told } = &mut growing[sample];
        tokens.push(token);
        let text = decode(tokens);
        let to = settled(stop, &text);
        if let Some(new) = text.get(*told..to).filter(|new| !new.is_empty()) {
            listener.text(sample, new);
            *told = to;
        }
    };
    let mut streamer = Streamer { stop: &ends, token: &mut heard };
    let (written, trace) = write(&session.opened, point, &given.input, &how, &mut streamer)?;
    for (sample, (reply, best)) in replies.iter_mut().zip(written).enumerate() {
        let Some(best) = best.into_iter().next() else { continue };
        let full = decode(&best.tokens);
        let text = &full[..cut(stop, &full).unwrap_or(full.len())];
        if let Some(rest) = text.get(growing[sample].told..).filter(|rest| streams && !rest.is_empty()) {
            listener.text(sample, rest);
        }
        reply.text = Some(text.to_string());
        (reply.tokens, reply.end, reply.score) = (Some(best.tokens), Some(best.end), best.score);
    }
    match failed.into_inner() {
        Some(e) => Err(e),
        None => Ok((replies, trace)),
    }
}

/// Where the first stop text begins.
fn cut(stop: &[String], text: &str) -> Option<usize> {
    stop.iter().filter_map(|s| text.find(s.as_str())).min()
}

/// How much of a growing text will not change any more: neither half a character nor the start of a stop text.
fn settled(stop: &[String], text: &str) -> usize {
    let text = &text[..cut(stop, text).unwrap_or(text.len())];
    let whole = text.trim_end_matches('\u{FFFD}').len();
    let starts = |at: usize| stop.iter().any(|s| s.starts_with(&text[at..]));
    (0..whole).filter(|at| text.is_char_boundary(*at)).find(|at| starts(*at)).unwrap_or(whole)
}
