//! One file per task, and the inputs that they share.

pub mod classify;
pub mod embed;
pub mod extract_answer;
pub mod fill_mask;
pub mod generate;
pub mod maps;
pub mod tensors;
pub mod token_classify;

use switchformer_data::Encoding;
use switchformer_nn::{Input, Output, Part};
use switchformer_tensor::Tensor;

use crate::answer::Reply;
use crate::error::{Misfit, Result};
use crate::request::Image;
use crate::session::{Listener, Session};

/// A model's input, and what is needed to answer in its terms.
pub(crate) struct Given {
    /// What the model reads.
    pub(crate) input: Input,
    /// Texts as they were tokenized; none for images and tensors.
    pub(crate) encoded: Vec<Encoding>,
    /// Name of each sample in replies.
    pub(crate) names: Vec<String>,
    /// Second texts of pairs; none where there are no pairs.
    pub(crate) seconds: Vec<String>,
    /// Tokens of a prompt in front of every text that the pooling leaves out.
    pub(crate) prompt_tokens: usize,
}

impl Given {
    /// Samples without texts.
    fn new(input: Input, names: Vec<String>) -> Given {
        Given { input, encoded: Vec::new(), names, seconds: Vec::new(), prompt_tokens: 0 }
    }

    /// A reply for each sample that says nothing yet.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        let mut replies: Vec<Reply> = self.names.iter().map(Reply::to).collect();
        replies.iter_mut().zip(&self.seconds).for_each(|(reply, second)| reply.pair = Some(second.clone()));
        replies
    }
}

/// Scores of the tokens of a text `[tokens, ..]` in an output; `None` for a sample that has none.
fn scores_of(out: &Output, name: &str, sample: usize, text: &Encoding) -> Option<Tensor> {
    out.of(name, sample).ok().filter(|t| matches!(t.dims(), [n, _] if *n == text.ids.len()))
}

/// Tells what the files of a folder say without effect, once.
fn told(session: &Session, notes: &[String], listener: &mut dyn Listener) {
    notes.iter().filter(|note| session.first_told(note)).for_each(|note| listener.note(note));
}

/// Texts as the tokenizer cuts them, each behind a prompt, which may be empty.
pub(crate) fn texts(session: &Session, texts: &[String], prompt: &str, listener: &mut dyn Listener) -> Result<Given> {
    let prompt_tokens = session.prompt_tokens(prompt)?;
    let prompted: Vec<String> = texts.iter().map(|text| format!("{prompt}{text}")).collect();
    let encoded = session.tokenizer()?.encode(&prompted.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (i, _) in texts.iter().enumerate().filter(|(_, text)| text.trim().is_empty()) {
        listener.note(&format!("text {} is empty", i + 1));
    }
    let lengths: Vec<usize> = texts.iter().map(|t| t.chars().count()).collect();
    let given = tokens(session, encoded, &lengths, listener, texts.to_vec(), Vec::new())?;
    Ok(Given { prompt_tokens, ..given })
}

/// Pairs of texts as the tokenizer joins and cuts them.
pub(crate) fn pairs(session: &Session, pairs: &[[String; 2]], listener: &mut dyn Listener) -> Result<Given> {
    let both: Vec<(&str, &str)> = pairs.iter().map(|[a, b]| (a.as_str(), b.as_str())).collect();
    let encoded = session.tokenizer()?.encode_pairs(&both)?;
    let lengths: Vec<usize> = both.iter().map(|(a, b)| a.chars().count() + b.chars().count()).collect();
    let [firsts, seconds] = [0, 1].map(|i| pairs.iter().map(|pair| pair[i].clone()).collect());
    tokens(session, encoded, &lengths, listener, firsts, seconds)
}

/// Tokens as the model reads them; notes say what was cut and what is unknown.
fn tokens(
    session: &Session,
    encoded: Vec<Encoding>,
    lengths: &[usize],
    listener: &mut dyn Listener,
    names: Vec<String>,
    seconds: Vec<String>,
) -> Result<Given> {
    let tokenizer = session.tokenizer()?;
    told(session, tokenizer.notes(), listener);
    let what = if seconds.is_empty() { "text" } else { "pair" };
    for ((i, e), characters) in encoded.iter().enumerate().zip(lengths) {
        let n = i + 1;
        if e.truncated {
            listener.note(&format!("{what} {n} of {characters} characters was cut to {} tokens", e.ids.len()));
        }
        let (unknown, own) = (tokenizer.unknown_tokens(e), e.special_mask.iter().filter(|s| **s == 0).count());
        if unknown > 0 {
            listener.note(&format!(
                "{unknown} of the {own} tokens of {what} {n} are not in the vocabulary and read as unknown"
            ));
        }
    }
    let of = |pick: fn(&Encoding) -> &[u32]| encoded.iter().map(pick).collect::<Vec<_>>();
    let mut input = Input::tokens(&of(|e| &e.ids))?;
    // Tokenizers give segment ids to every model; some have no use for them.
    let types = "token_type_ids";
    if session.opened.model.spec().takes(types) {
        input = input.with(types, Part::tokens(&of(|e| &e.type_ids))?)?;
    }
    Ok(Given { input, encoded, names, seconds, prompt_tokens: 0 })
}

/// Images as the folder's image processor makes them.
pub(crate) fn images(session: &Session, images: &[Image], listener: &mut dyn Listener) -> Result<Given> {
    let Ok((channels, ..)) = session.opened.model.spec().image_size() else {
        return Err(Misfit::ReadsText.into());
    };
    let (steps, note) = session.processor()?;
    note.iter().for_each(|n| listener.note(n));
    told(session, &steps.notes, listener);
    let mut all = Vec::with_capacity(images.len());
    for image in images {
        let p = steps.apply(&image.picture()?, channels)?;
        all.push(Tensor::from_vec(p.data, (p.channels, p.height, p.width))?);
    }
    Ok(Given::new(Input::images(&all)?, images.iter().map(|i| i.name().to_string()).collect()))
}
