//! Answers that a model finds in passages.

use std::ops::Range;
use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_data::reader::{Found, best};
use switchformer_data::{Reader, Squad, Tokenizer, Window};
use switchformer_nn::{Input, InputSpec, Member, Members, Part, Point, Rows, Trace};
use switchformer_zoo::{HeadKind, Opened};

use crate::answer::{Reply, Span};
use crate::error::{Error, Misfit, Result};
use crate::generate::End;
use crate::session::{Listener, Session};

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
    Ok(Reader::new(Tokenizer::of_model(dir, None)?, len.min(max_len), overlap)?)
}

/// Whether a model answers with a stretch of a passage.
pub fn finds_answers(opened: &Opened) -> bool {
    opened.entry.head_of(&opened.config).is_ok_and(|head| head == HeadKind::QuestionAnswering)
}

fn no_answers(opened: &Opened) -> Error {
    let what = format!("{} finds no answers in a passage", opened.config.architecture().unwrap_or(opened.entry.name));
    Error::input(what, "name a model with a head such as BertForQuestionAnswering")
}

/// Windows as one batch for a model that reads `spec`.
pub fn input<'a>(spec: &InputSpec, windows: impl Iterator<Item = &'a Window> + Clone) -> Result<Input> {
    let ids: Vec<&[u32]> = windows.clone().map(|w| w.ids.as_slice()).collect();
    let input = Input::tokens(&ids)?;
    let name = "token_type_ids";
    if !spec.takes(name) {
        return Ok(input);
    }
    let types: Vec<&[u32]> = windows.map(|w| w.types.as_slice()).collect();
    Ok(input.with(name, Part::tokens(&types)?)?)
}

/// The likeliest answers to a question, best first, none where the passage has no word; and every decision taken, with one for
/// each window. The question is `asker` in each of its windows; a note says where it was cut.
pub fn answers(
    opened: &Opened,
    point: &Point,
    reader: &Reader,
    (question, passage): (&str, &str),
    asker: &Member,
    listener: &mut dyn Listener,
) -> Result<(Vec<Found>, Trace)> {
    let windows = reader.windows(question, passage)?;
    note_cut(question, &windows, listener);
    let mut scores: Vec<[Vec<f32>; 2]> = Vec::with_capacity(windows.len());
    let mut whole = Trace::default();
    for part in windows.chunks(AT_ONCE) {
        let askers = part.iter().map(|_| asker.clone());
        let (own, trace) = read(opened, point, part.iter(), askers)?;
        scores.extend(own);
        whole.macs += trace.macs;
        whole.decision_macs += trace.decision_macs;
        whole.decisions.extend(trace.decisions);
    }
    for (i, (window, own)) in windows.iter().zip(&scores).enumerate() {
        whole.decide(format!("windows.{i}"), "window", Some(0), told(window, own, passage));
    }
    Ok((choose(&windows, &scores), whole))
}

/// What a window was, and the best that it holds.
fn told(window: &Window, scores: &[Vec<f32>; 2], passage: &str) -> Json {
    let ends = window.spans.first().zip(window.spans.last()).map(|(a, b)| [a.start, b.end]);
    let best = choose(std::slice::from_ref(window), std::slice::from_ref(scores)).into_iter().next();
    let answer = best.as_ref().and_then(|f| passage.get(f.range.clone()));
    json!({"tokens": window.ids.len(), "bytes": ends, "answer": answer, "logit": best.as_ref().map(|f| f.score)})
}

/// Why questions about a passage cannot be answered.
pub(crate) fn misfit(questions: &[String], passage: &str) -> Option<Misfit> {
    if passage.trim().is_empty() {
        return Some(Misfit::EmptyPassage);
    }
    let empty = questions.iter().position(|q| q.trim().is_empty())?;
    Some(Misfit::EmptyQuestion { number: empty + 1 })
}

/// Says of a question that it was cut.
fn note_cut(question: &str, windows: &[Window], listener: &mut dyn Listener) {
    if let Some([kept, cut]) = windows.first().map(|w| w.question)
        && cut > 0
    {
        listener.note(&format!("a question of {} characters was cut to {kept} tokens", question.chars().count()));
    }
}

/// A reply to each question, and every decision taken. A question that was cancelled is not read.
pub(crate) fn replies(
    session: &Session,
    point: &Point,
    questions: &[String],
    passage: &str,
    listener: &mut dyn Listener,
) -> Result<(Vec<Reply>, Trace)> {
    let members = listener.members();
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
        // Whether it is cancelled was asked above: windows of one question do not leave apart.
        let asker = Member { place: members.place(i), seed: members.seed(i), cancelled: None };
        let (found, mut trace) = answers(&session.opened, point, reader, (question, passage), &asker, listener)?;
        trace.decisions.iter_mut().filter_map(|d| d.member.as_mut()).for_each(|member| *member = i);
        whole.macs += trace.macs;
        whole.decision_macs += trace.decision_macs;
        whole.decisions.extend(trace.decisions);
        all.push(reply(question, &found[..found.len().min(SHOWN)], passage));
    }
    Ok((all, whole))
}

fn reply(question: &str, found: &[Found], passage: &str) -> Reply {
    let text = |range: Range<usize>| passage.get(range).unwrap_or_default();
    let span = |f: &Found| {
        let answer = text(f.range.clone());
        let start = text(0..f.range.start).chars().count();
        Span {
            answer: answer.to_string(),
            score: f.probability,
            start,
            end: start + answer.chars().count(),
            bytes: [f.range.start, f.range.end],
            logit: f.score,
        }
    };
    let answers: Vec<Span> = found.iter().map(span).collect();
    Reply { text: answers.first().map(|a| a.answer.clone()), answers: Some(answers), ..Reply::to(question) }
}

/// The likeliest answer to questions of a set, by their number; `None` where a passage has no word.
pub fn answer_all(
    opened: &Opened,
    point: &Point,
    reader: &Reader,
    set: &Squad,
    asked: &[u32],
    listener: &mut dyn Listener,
) -> Result<Vec<Option<String>>> {
    let mut given = Vec::with_capacity(asked.len());
    for part in asked.chunks(AT_ONCE) {
        let pairs = part.iter().map(|i| {
            let question = &set.questions[*i as usize];
            (question, set.passages[question.passage].text.as_str())
        });
        let windows = pairs.clone().map(|(q, text)| Ok(reader.windows(&q.text, text)?)).collect::<Result<Vec<_>>>()?;
        pairs.clone().zip(&windows).for_each(|((q, _), own)| note_cut(&q.text, own, listener));
        let mut scores = Vec::new();
        let flat: Vec<(&Window, u32)> =
            windows.iter().zip(part).flat_map(|(own, place)| own.iter().map(|w| (w, *place))).collect();
        for some in flat.chunks(AT_ONCE) {
            let askers = some.iter().map(|(_, place)| Member { place: *place, ..Member::default() });
            scores.extend(read(opened, point, some.iter().map(|(w, _)| *w), askers)?.0);
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

/// Scores of every window's tokens as first and last of an answer, each window read as its `askers` say.
fn read<'a>(
    opened: &Opened,
    point: &Point,
    windows: impl Iterator<Item = &'a Window> + Clone,
    askers: impl Iterator<Item = Member>,
) -> Result<(Vec<[Vec<f32>; 2]>, Trace)> {
    let members = Members::new(askers);
    let input = input(&opened.model.spec(), windows)?.of_members(members.clone())?;
    let (out, trace) = opened.run(point, &input)?;
    let side = |name: &str| -> Result<(Vec<f32>, Rows)> {
        let (scores, rows) = out.get_rows(name).ok_or_else(|| no_answers(opened))?;
        let scores: Vec<f32> = scores.to_vec1()?;
        for i in 0..rows.n() {
            let asker = members.place(rows.members()[i]) as usize;
            switchformer_nn::Error::unless_finite(name, asker, &scores[rows.range(i)])?;
        }
        Ok((scores, rows.clone()))
    };
    let ((start, rows), (end, _)) = (side("start_logits")?, side("end_logits")?);
    let each = |i: usize| [start[rows.range(i)].to_vec(), end[rows.range(i)].to_vec()];
    Ok(((0..rows.n()).map(each).collect(), trace))
}
