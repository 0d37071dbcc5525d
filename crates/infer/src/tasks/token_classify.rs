//! Classes of tokens: names of people and places, parts of speech; and tokens joined to entities.

use switchformer_data::Encoding;
use switchformer_nn::Output;

use super::{Given, scores_of};
use crate::answer::{Entity, Reply, Scale, TokenLabel, probabilities};
use crate::error::Result;
use crate::request::Aggregation;
use crate::session::Session;

/// The class of what is no entity.
const OUTSIDE: &str = "O";

/// A token, or a word, with the probabilities of its classes.
struct Part {
    /// Its tokens, as places in the text.
    tokens: Vec<usize>,
    /// Index of its class.
    class: usize,
    probability: f32,
}

/// The likeliest class of every token of each text that has scores, or the entities that they are.
pub(crate) fn fill(
    session: &Session,
    out: &Output,
    given: &Given,
    aggregation: Option<Aggregation>,
    replies: &mut [Reply],
) -> Result<()> {
    let (tokenizer, config) = (session.tokenizer()?, &session.opened.config);
    for ((i, reply), text) in replies.iter_mut().enumerate().zip(&given.encoded) {
        let Some(scores) = scores_of(out, "logits", i, text) else { continue };
        let scores = scores.to_vec2::<f32>()?;
        let all = scores.iter().map(|row| probabilities(i, row, Scale::Softmax)).collect::<Result<Vec<_>, _>>()?;
        let own: Vec<usize> = (0..all.len()).filter(|t| text.special_mask[*t] == 0).collect();
        let one = |t: &usize| {
            let (class, probability) = likeliest(&all[*t]);
            Part { tokens: vec![*t], class, probability }
        };
        let Some(how) = aggregation else {
            let told = own.iter().map(one).map(|part| {
                let t = part.tokens[0];
                TokenLabel {
                    token: tokenizer.id_to_token(text.ids[t]).unwrap_or_default(),
                    bytes: text.offsets[t].into(),
                    label: config.label(part.class),
                    probability: part.probability,
                }
            });
            reply.token_labels = Some(told.collect());
            continue;
        };
        let parts: Vec<Part> = match how {
            Aggregation::Simple => own.iter().map(one).collect(),
            _ => words(session, &own, text, &reply.input)?.into_iter().map(|word| of_word(word, &all, how)).collect(),
        };
        let label = |part: &Part| config.label(part.class);
        let mut entities = Vec::new();
        for group in parts.chunk_by(|a, b| {
            let ((_, before), (first, tag)) = (tag(&label(a)), tag(&label(b)));
            before == tag && !first
        }) {
            let (_, name) = tag(&label(&group[0]));
            let tokens: Vec<usize> = group.iter().flat_map(|part| part.tokens.iter().copied()).collect();
            let ids: Vec<u32> = tokens.iter().map(|t| text.ids[*t]).collect();
            let bytes = [text.offsets[tokens[0]].0, text.offsets[tokens[tokens.len() - 1]].1];
            // A word that the vocabulary lacks is shown as it stands in the text.
            let source = reply.input.get(bytes[0]..bytes[1]).filter(|_| ids.iter().any(|id| tokenizer.is_unknown(*id)));
            let word = source.map_or_else(|| tokenizer.decode(&ids, false), |word| Ok(word.to_string()))?;
            entities.push(Entity {
                label: name,
                word,
                bytes,
                probability: group.iter().map(|part| part.probability).sum::<f32>() / group.len() as f32,
            });
        }
        entities.retain(|e| e.label != OUTSIDE);
        reply.entities = Some(entities);
    }
    Ok(())
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> (usize, f32) {
    let larger = |best: (usize, f32), (i, v): (usize, &f32)| if *v > best.1 { (i, *v) } else { best };
    row.iter().enumerate().fold((0, f32::NEG_INFINITY), larger)
}

/// Whether a class is that of a first token, and the name of its entity.
fn tag(label: &str) -> (bool, String) {
    match label.strip_prefix("B-") {
        Some(name) => (true, name.to_string()),
        None => (false, label.strip_prefix("I-").unwrap_or(label).to_string()),
    }
}

/// Tokens of each word.
fn words(session: &Session, own: &[usize], text: &Encoding, source: &str) -> Result<Vec<Vec<usize>>> {
    let tokenizer = session.tokenizer()?;
    let mut all: Vec<Vec<usize>> = Vec::new();
    for &t in own {
        let (from, to) = text.offsets[t];
        let joined = tokenizer.goes_on(text.ids[t], source, from..to);
        match all.last_mut().filter(|_| joined) {
            Some(word) => word.push(t),
            None => all.push(vec![t]),
        }
    }
    Ok(all)
}

/// The class of a word.
fn of_word(tokens: Vec<usize>, all: &[Vec<f32>], how: Aggregation) -> Part {
    let (class, probability) = match how {
        Aggregation::Simple | Aggregation::First => likeliest(&all[tokens[0]]),
        Aggregation::Max => {
            let each = tokens.iter().map(|t| likeliest(&all[*t]));
            each.reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap_or_default()
        }
        Aggregation::Average => {
            let mean = |class: usize| tokens.iter().map(|t| all[*t][class]).sum::<f32>() / tokens.len() as f32;
            likeliest(&(0..all[tokens[0]].len()).map(mean).collect::<Vec<_>>())
        }
    };
    Part { tokens, class, probability }
}
