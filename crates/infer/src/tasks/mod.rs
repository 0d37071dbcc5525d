//! One file per task, and the inputs that they share.

pub mod classify;
pub mod embed;
pub mod extract_answer;
pub mod fill_mask;
pub mod generate;
pub mod maps;
pub mod rank;
pub mod tensors;
pub mod token_classify;

use switchformer_data::Encoding;
use switchformer_nn::{Input, Output, Part};
use switchformer_tensor::Tensor;
use switchformer_zoo::Trait;

use crate::answer::Reply;
use crate::error::{Misfit, Result};
use crate::request::Image;
use crate::sentence::Task;
use crate::session::{Listener, Session};

/// What a text is to an embedding model.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    /// Its own tokens; more may stand behind them, which it was filled up with.
    pub(crate) tokens: usize,
    /// Those of the prompt in front of it that the pooling leaves out.
    pub(crate) prompt: usize,
    pub(crate) task: Option<Task>,
}

/// How a text is put: its prompt, which may be empty, and its task.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Put<'a> {
    pub(crate) prompt: &'a str,
    pub(crate) task: Option<Task>,
}

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
    /// How each text was put; none where there are no texts.
    pub(crate) asked: Vec<Asked>,
}

impl Given {
    /// Samples without texts.
    fn new(input: Input, names: Vec<String>) -> Given {
        Given { input, encoded: Vec::new(), names, seconds: Vec::new(), asked: Vec::new() }
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

/// Texts as the tokenizer cuts them, each put as `put` says of its number.
pub(crate) fn texts<'a>(
    session: &Session,
    texts: &[String],
    put: impl Fn(usize) -> Put<'a>,
    listener: &mut dyn Listener,
) -> Result<Given> {
    let (mut encoded, mut asked) = (Vec::with_capacity(texts.len()), Vec::with_capacity(texts.len()));
    for (i, text) in texts.iter().enumerate() {
        let Put { prompt, task } = put(i);
        let one = session.tokenizer_for(task)?.encode_as(i, &format!("{prompt}{text}"))?;
        asked.push(Asked { tokens: one.ids.len(), prompt: session.prompt_tokens(prompt)?, task });
        encoded.push(one);
        if text.trim().is_empty() {
            listener.note(&format!("text {} is empty", i + 1));
        }
    }
    let expansion = session.sentence().and_then(|s| s.expansion());
    let mut unseen = false;
    if let Some(expansion) = expansion {
        let id = session.filling(expansion)?;
        for (one, asked) in encoded.iter_mut().zip(&asked).filter(|(_, a)| a.task == Some(Task::Query)) {
            unseen |= !expansion.attend && asked.tokens < expansion.length;
            fill_up(one, id, expansion.length);
        }
    }
    let lengths: Vec<usize> = texts.iter().map(|t| t.chars().count()).collect();
    let given = tokens(session, encoded, &lengths, listener, texts.to_vec(), Vec::new())?;
    let first: Vec<usize> = asked.iter().map(|a| a.tokens).collect();
    let input = if unseen { given.input.seen_first(&first)? } else { given.input };
    Ok(Given { input, asked, ..given })
}

/// Fills a text up to a length.
fn fill_up(text: &mut Encoding, id: u32, length: usize) {
    let missing = length.saturating_sub(text.ids.len());
    text.ids.extend(std::iter::repeat_n(id, missing));
    text.type_ids.resize(text.type_ids.len() + missing, 0);
    text.sequence_ids.resize(text.sequence_ids.len() + missing, None);
    text.special_mask.resize(text.special_mask.len() + missing, 1);
    text.offsets.resize(text.offsets.len() + missing, (0, 0));
}

/// Pairs of texts as the tokenizer joins and cuts them, each behind a prompt, which may be empty.
pub(crate) fn pairs(
    session: &Session,
    pairs: &[[String; 2]],
    prompt: &str,
    listener: &mut dyn Listener,
) -> Result<Given> {
    let firsts: Vec<String> = pairs.iter().map(|[a, _]| format!("{prompt}{a}")).collect();
    let both: Vec<(&str, &str)> = firsts.iter().zip(pairs).map(|(a, [_, b])| (a.as_str(), b.as_str())).collect();
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
    Ok(Given { input, encoded, names, seconds, asked: Vec::new() })
}

/// Images as the folder's image processor makes them.
pub(crate) fn images(session: &Session, images: &[Image], listener: &mut dyn Listener) -> Result<Given> {
    let Ok((channels, trained, _)) = session.opened.model.spec().image_size() else {
        return Err(Misfit::ReadsText.into());
    };
    let (steps, note) = session.processor()?;
    note.iter().for_each(|n| listener.note(n));
    told(session, &steps.notes, listener);
    let mut all = Vec::with_capacity(images.len());
    for image in images {
        let p = steps.apply(&image.picture()?, channels)?;
        if session.opened.entry.is(Trait::OneSize) && (p.height, p.width) != trained {
            let (h, w) = trained;
            let made = format!("images are made {}x{} pixels large for a model of {h}x{w}", p.height, p.width);
            told(session, &[format!("{made}: its positions are stretched")], listener);
        }
        all.push(Tensor::from_vec(p.data, (p.channels, p.height, p.width))?);
    }
    Ok(Given::new(Input::images(&all)?, images.iter().map(|i| i.name().to_string()).collect()))
}
