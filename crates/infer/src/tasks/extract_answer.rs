//! Answers that a model finds in passages.

use std::path::Path;

use switchformer_data::reader::{Found, best};
use switchformer_data::{Reader, Squad, Tokenizer, Window};
use switchformer_nn::{Input, Members, Part, Point, Rows, Trace};
use switchformer_zoo::{HeadKind, Opened};

use crate::answer::{Label, Reply, Span};
use crate::error::{Error, Result};
use crate::generate::End;
use crate::session::Session;

/// Tokens of a window where the model reads as many, and those that neighbours share (as published for SQuAD).
const WINDOW: [usize; 2] = [384, 128];
/// Windows that are read at once.
const AT_ONCE: usize = 16;
/// Answers that are told to each question.
const SHOWN: usize = 5;

/// How a model of a folder reads passages. Errors where it finds no answers.
pub fn reader(opened: &Opened, dir: &Path) -> Result<Reader> {
    if !finds_answers(opened) {
        return Err(no_answers(opened));
    }
    let (_, max_len) = opened.model.spec().text_size()?;
    let [len, overlap] = WINDOW;
    Ok(Reader::new(Tokenizer::load(dir, None)?, len.min(max_len), overlap)?)
}

/// Whether a model answers with a stretch of a passage.
pub fn finds_answers(opened: &Opened) -> bool {
    opened.entry.head_of(&opened.config).is_ok_and(|head| head == HeadKind::QuestionAnswering)
}

fn no_answers(opened: &Opened) -> Error {
    let what = format!("{} finds no answers in a passage", opened.config.architecture().unwrap_or(opened.entry.name));
    Error::input(what, "name a model with a head such as BertForQuestionAnswering")
}

/// Windows as one batch.
pub fn input<'a>(windows: impl Iterator<Item = &'a Window> + Clone) -> Result<Input> {
    let ids: Vec<&[u32]> = windows.clone().map(|w| w.ids.as_slice()).collect();
    let types: Vec<&[u32]> = windows.map(|w| w.types.as_slice()).collect();
    Ok(Input::tokens(&ids)?.with("token_type_ids", Part::tokens(&types)?)?)
}

/// The likeliest answers to a question, best first, none where the passage has no word; and every decision taken.
pub fn answers(
    opened: &Opened,
    point: &Point,
    reader: &Reader,
    question: &str,
    passage: &str,
) -> Result<(Vec<Found>, Trace)> {
    let windows = reader.windows(question, passage)?;
    let mut scores: Vec<[Vec<f32>; 2]> = Vec::with_capacity(windows.len());
    let mut whole = Trace::default();
    for part in windows.chunks(AT_ONCE) {
        let (own, trace) = read(opened, point, part.iter())?;
        scores.extend(own);
        whole.macs += trace.macs;
        whole.decision_macs += trace.decision_macs;
        whole.decisions.extend(trace.decisions);
    }
    Ok((choose(&windows, &scores), whole))
}

/// A reply to each question, and every decision taken. A question that was cancelled is not read.
pub(crate) fn replies(
    session: &Session,
    point: &Point,
    questions: &[String],
    passage: &str,
    members: &Members,
) -> Result<(Vec<Reply>, Trace)> {
    if let Some(n) = members.n().filter(|n| *n != questions.len()) {
        return Err(switchformer_nn::Error::shape("members", format!("[{}]", questions.len()), &[n]).into());
    }
    let reader = session.reader()?;
    let (mut all, mut whole) = (Vec::with_capacity(questions.len()), Trace::default());
    for (i, question) in (0..).zip(questions) {
        if members.cancelled(i) {
            all.push(Reply { end: Some(End::Cancelled), ..Reply::to(question) });
            continue;
        }
        let own = members.seed(i).map(|seed| point.clone().with("seed", seed));
        let (found, trace) = answers(&session.opened, own.as_ref().unwrap_or(point), reader, question, passage)?;
        whole.macs += trace.macs;
        whole.decision_macs += trace.decision_macs;
        whole.decisions.extend(trace.decisions);
        all.push(reply(question, &found[..found.len().min(SHOWN)], passage));
    }
    Ok((all, whole))
}

fn reply(question: &str, found: &[Found], passage: &str) -> Reply {
    let text = |f: &Found| passage.get(f.range.clone()).unwrap_or_default().to_string();
    let span = |f: &Found| Span { text: text(f), bytes: [f.range.start, f.range.end], score: f.score };
    let label = |f: &Found| Label { label: text(f), probability: f.probability };
    Reply {
        answers: Some(found.iter().map(span).collect()),
        labels: (!found.is_empty()).then(|| found.iter().map(label).collect()),
        text: found.first().map(text),
        ..Reply::to(question)
    }
}

/// The likeliest answer to questions of a set, by their number; `None` where a passage has no word.
pub fn answer_all(
    opened: &Opened,
    point: &Point,
    reader: &Reader,
    set: &Squad,
    asked: &[u32],
) -> Result<Vec<Option<String>>> {
    let mut given = Vec::with_capacity(asked.len());
    for part in asked.chunks(AT_ONCE) {
        let pairs = part.iter().map(|i| {
            let question = &set.questions[*i as usize];
            (question, set.passages[question.passage].text.as_str())
        });
        let windows = pairs.clone().map(|(q, text)| Ok(reader.windows(&q.text, text)?)).collect::<Result<Vec<_>>>()?;
        let mut scores = Vec::new();
        let flat: Vec<&Window> = windows.iter().flatten().collect();
        for some in flat.chunks(AT_ONCE) {
            scores.extend(read(opened, point, some.iter().copied())?.0);
        }
        let mut from = 0;
        for ((_, text), own) in pairs.zip(&windows) {
            let found = choose(own, &scores[from..from + own.len()]);
            from += own.len();
            given.push(found.first().and_then(|f| text.get(f.range.clone())).map(str::to_string));
        }
    }
    Ok(given)
}

fn choose(windows: &[Window], scores: &[[Vec<f32>; 2]]) -> Vec<Found> {
    best(windows.iter().zip(scores).map(|(w, [start, end])| (w, [start.as_slice(), end.as_slice()])))
}

/// Scores of every window's tokens as first and last of an answer.
fn read<'a>(
    opened: &Opened,
    point: &Point,
    windows: impl Iterator<Item = &'a Window> + Clone,
) -> Result<(Vec<[Vec<f32>; 2]>, Trace)> {
    let (out, trace) = opened.run(point, &input(windows)?)?;
    let side = |name: &str| -> Result<(Vec<f32>, Rows)> {
        let (scores, rows) = out.get_rows(name).ok_or_else(|| no_answers(opened))?;
        Ok((scores.to_vec1()?, rows.clone()))
    };
    let ((start, rows), (end, _)) = (side("start_logits")?, side("end_logits")?);
    let each = |i: usize| [start[rows.range(i)].to_vec(), end[rows.range(i)].to_vec()];
    Ok(((0..rows.n()).map(each).collect(), trace))
}
