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
}

impl Given {
    /// Samples without texts.
    fn new(input: Input, names: Vec<String>) -> Given {
        Given { input, encoded: Vec::new(), names }
    }

    /// A reply for each sample that says nothing yet.
    pub(crate) fn replies(&self) -> Vec<Reply> {
        self.names.iter().map(Reply::to).collect()
    }
}

/// Scores of the tokens of a text `[tokens, ..]`; `None` for a sample that has none.
fn scores_of(out: &Output, sample: usize, text: &Encoding) -> Option<Tensor> {
    out.of("logits", sample).ok().filter(|t| matches!(t.dims(), [n, _] if *n == text.ids.len()))
}

/// Texts as the tokenizer cuts them.
pub(crate) fn texts(session: &Session, texts: &[String], listener: &mut dyn Listener) -> Result<Given> {
    let tokenizer = session.tokenizer()?;
    let encoded = tokenizer.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (i, (e, text)) in encoded.iter().zip(texts).enumerate() {
        let n = i + 1;
        if e.truncated {
            let characters = text.chars().count();
            listener.note(&format!("text {n} of {characters} characters was cut to {} tokens", e.ids.len()));
        }
        let (unknown, own) = (tokenizer.unknown_tokens(e), e.special_mask.iter().filter(|s| **s == 0).count());
        if unknown > 0 {
            listener.note(&format!(
                "{unknown} of the {own} tokens of text {n} are not in the vocabulary and read as unknown"
            ));
        }
        if text.trim().is_empty() {
            listener.note(&format!("text {n} is empty"));
        }
    }
    let of = |pick: fn(&Encoding) -> &[u32]| encoded.iter().map(pick).collect::<Vec<_>>();
    let mut input = Input::tokens(&of(|e| &e.ids))?;
    // Tokenizers give segment ids to every model; some have no use for them.
    let types = "token_type_ids";
    if session.opened.model.spec().takes(types) {
        input = input.with(types, Part::tokens(&of(|e| &e.type_ids))?)?;
    }
    Ok(Given { input, encoded, names: texts.to_vec() })
}

/// Images as the folder's image processor makes them.
pub(crate) fn images(session: &Session, images: &[Image], listener: &mut dyn Listener) -> Result<Given> {
    let Ok((channels, ..)) = session.opened.model.spec().image_size() else {
        return Err(Misfit::ReadsText.into());
    };
    let (steps, note) = session.processor()?;
    note.iter().for_each(|n| listener.note(n));
    let mut all = Vec::with_capacity(images.len());
    for image in images {
        let p = steps.apply(&image.picture()?, channels)?;
        all.push(Tensor::from_vec(p.data, (p.channels, p.height, p.width))?);
    }
    Ok(Given::new(Input::images(&all)?, images.iter().map(|i| i.name().to_string()).collect()))
}
