//! Questions about paragraphs, in the layout of SQuAD v1.1.
//!
//! Answers are given by their text and by where they begin, counted in characters. Every offset is checked: an answer
//! that is not where the file says would train a model to point beside it. Published files hold such answers (3 % of
//! those about Amazon reviews), hence [`Offsets::Nearest`].

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use switchformer_format::json;

use crate::error::{Error, Result, read_file};
use crate::plain::MAX_LINE_BYTES;
use crate::plain::text_from;

/// Largest file, in bytes.
pub const MAX_BYTES: u64 = 128 << 20;
/// Longest name of a question, in bytes.
const MAX_ID: usize = 256;

/// A paragraph that questions are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Title of its article; may be empty.
    pub title: String,
    /// The text.
    pub text: String,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its name, which predictions refer to; occurs once in a file.
    pub id: String,
    /// Index of its passage.
    pub passage: usize,
    /// The text.
    pub text: String,
    /// Byte ranges of the right answers in the passage; one at least unless they were not read, repeated where annotators
    /// agree.
    pub answers: Vec<Range<usize>>,
}

/// What to do about an answer that is not where its offset says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offsets {
    /// Refuse the file.
    Exact,
    /// Take the nearest place where the answer stands, the first of two as near; refuse what stands nowhere.
    Nearest,
    /// Read no answers, and questions without one too: for passages and questions alone.
    Unread,
}

/// The right answers of a file's questions by their text alone, for scoring: where they stand plays no part, and questions may
/// have none (v2.0).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct References {
    /// Names of the questions and their answers, in the order of the file.
    pub questions: Vec<(String, Vec<String>)>,
    /// Whether the file is of v2.0, by its `version` or by a question without an answer; it is scored by other rules.
    pub unanswerable: bool,
}

/// The passages and questions of a file, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Squad {
    /// Passages.
    pub passages: Vec<Passage>,
    /// Questions.
    pub questions: Vec<Question>,
    /// How many answers stood elsewhere than their offset says.
    pub moved: usize,
}

#[derive(Deserialize)]
struct File {
    version: Option<String>,
    data: Option<Vec<Article>>,
}

#[derive(Deserialize)]
struct Article {
    title: Option<String>,
    paragraphs: Option<Vec<Paragraph>>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: Option<String>,
    qas: Option<Vec<Qa>>,
}

#[derive(Deserialize)]
struct Qa {
    id: Option<String>,
    question: Option<String>,
    answers: Option<Vec<Answer>>,
}

#[derive(Deserialize)]
struct Answer {
    text: Option<String>,
    answer_start: Option<u64>,
}

impl Squad {
    /// Reads a file, plain or gzip'd; fails with `file.*`, `text.*`, `json.*` or `squad.layout`.
    pub fn open(path: impl AsRef<Path>, offsets: Offsets) -> Result<Self> {
        let path = path.as_ref();
        Self::from_bytes(read_file(path, MAX_BYTES)?, path, offsets)
    }

    /// Reads a file in memory; `label` stands in for the path in errors; fails as [`open`](Self::open) does.
    pub fn from_bytes(bytes: Vec<u8>, label: &Path, offsets: Offsets) -> Result<Self> {
        let text = text_from(bytes, label)?;
        let refuse = |at: String, kind| layout(label, &at, kind);
        let file: File = parse(&text, label)?;
        let mut out = Squad::default();
        let mut ids = HashSet::new();
        let articles = file.data.ok_or_else(|| refuse("the top".into(), "there is no \"data\""))?;
        for (a, article) in articles.into_iter().enumerate() {
            let at = format!("data[{a}]");
            let title = article.title.unwrap_or_default();
            let paragraphs = article.paragraphs.ok_or_else(|| refuse(at.clone(), "there are no \"paragraphs\""))?;
            for (p, paragraph) in paragraphs.into_iter().enumerate() {
                let at = format!("{at}.paragraphs[{p}]");
                let context = paragraph.context.ok_or_else(|| refuse(at.clone(), "there is no \"context\""))?;
                if context.len() > MAX_LINE_BYTES {
                    return Err(refuse(at, "the context is longer than 1 MiB"));
                }
                let starts = Starts::of(&context);
                for (q, qa) in paragraph.qas.unwrap_or_default().into_iter().enumerate() {
                    let at = format!("{at}.qas[{q}]");
                    let (question, moved) =
                        qa.read(&context, &starts, out.passages.len(), offsets).map_err(|(part, kind)| {
                            let part = part.map_or(String::new(), |i| format!(".answers[{i}]"));
                            refuse(format!("{at}{part}"), kind)
                        })?;
                    out.moved += moved;
                    if !ids.insert(question.id.clone()) {
                        return Err(refuse(at, "another question has the same \"id\""));
                    }
                    out.questions.push(question);
                }
                out.passages.push(Passage { title: title.clone(), text: context });
            }
        }
        if out.questions.is_empty() {
            return Err(Error::no_text(label, "no question"));
        }
        Ok(out)
    }

    /// The texts of a question's right answers; empty beyond the end.
    pub fn answers(&self, question: usize) -> Vec<&str> {
        let Some(q) = self.questions.get(question) else { return Vec::new() };
        let text = self.passages.get(q.passage).map_or("", |p| p.text.as_str());
        q.answers.iter().filter_map(|range| text.get(range.clone())).collect()
    }
}

impl References {
    /// Reads a file, plain or gzip'd; fails with `file.*`, `text.*`, `json.*` or `squad.layout`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = text_from(read_file(path, MAX_BYTES)?, path)?;
        let file: File = parse(&text, path)?;
        let mut ids = HashSet::new();
        let mut out = References { questions: Vec::new(), unanswerable: false };
        out.unanswerable = file.version.is_some_and(|v| v.trim_start_matches('v').starts_with("2."));
        let articles = file.data.ok_or_else(|| layout(path, "the top", "there is no \"data\""))?;
        for (a, article) in articles.into_iter().enumerate() {
            for (p, paragraph) in article.paragraphs.unwrap_or_default().into_iter().enumerate() {
                for (q, qa) in paragraph.qas.unwrap_or_default().into_iter().enumerate() {
                    let refuse = |kind| layout(path, &format!("data[{a}].paragraphs[{p}].qas[{q}]"), kind);
                    let id = qa.id.ok_or_else(|| refuse("there is no \"id\""))?;
                    if !ids.insert(id.clone()) {
                        return Err(refuse("another question has the same \"id\""));
                    }
                    let answers = qa.answers.ok_or_else(|| refuse("there is no list of \"answers\""))?;
                    let texts = answers.into_iter().map(|a| a.text).collect::<Option<Vec<String>>>();
                    let texts = texts.ok_or_else(|| refuse("an answer has no \"text\""))?;
                    out.unanswerable |= texts.is_empty();
                    out.questions.push((id, texts));
                }
            }
        }
        if out.questions.is_empty() {
            return Err(Error::no_text(path, "no question"));
        }
        Ok(out)
    }
}

/// Predictions for a file: one JSON object from question names to answers; fails with `file.*`, `text.*`, `json.*` or `squad.layout`.
pub fn predictions(path: impl AsRef<Path>) -> Result<HashMap<String, String>> {
    let path = path.as_ref();
    parse(&text_from(read_file(path, MAX_BYTES)?, path)?, path)
}

fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T> {
    json::check(text.as_bytes(), path)?;
    json::typed_text(text.as_bytes()).map_err(|e| {
        let at = format!("line {} column {}", e.line(), e.column());
        layout(path, &at, "a field is of another kind than expected")
    })
}

fn layout(path: &Path, at: &str, kind: &str) -> Error {
    Error::file(path, "squad.layout", format!("at {at}: {kind}"), "the layout is that of SQuAD v1.1")
}

impl Qa {
    /// Checks a question and counts the answers that were moved; an error is which answer, if one, and what is wrong.
    fn read(
        self,
        context: &str,
        starts: &Starts,
        passage: usize,
        offsets: Offsets,
    ) -> std::result::Result<(Question, usize), (Option<usize>, &'static str)> {
        let id = self.id.ok_or((None, "there is no \"id\""))?;
        let text = self.question.ok_or((None, "there is no \"question\""))?;
        if id.len() > MAX_ID || text.len() > MAX_LINE_BYTES {
            return Err((None, "the id is longer than 256 bytes or the question than 1 MiB"));
        }
        if offsets == Offsets::Unread {
            return Ok((Question { id, passage, text, answers: Vec::new() }, 0));
        }
        let given = self.answers.filter(|a| !a.is_empty());
        let given = given.ok_or((None, "there are no \"answers\"; questions without one (v2.0) are not read"))?;
        let mut answers = Vec::with_capacity(given.len());
        let mut moved = 0;
        for (i, answer) in given.into_iter().enumerate() {
            let (start, len, exact) = answer.find(context, starts, offsets).map_err(|kind| (Some(i), kind))?;
            answers.push(start..start + len);
            moved += usize::from(!exact);
        }
        Ok((Question { id, passage, text, answers }, moved))
    }
}

impl Answer {
    /// Where an answer begins in its context, its length in bytes, and whether that is where the file says.
    fn find(
        &self,
        context: &str,
        starts: &Starts,
        offsets: Offsets,
    ) -> std::result::Result<(usize, usize, bool), &'static str> {
        let text = self.text.as_deref().ok_or("there is no \"text\"")?;
        let start = self.answer_start.ok_or("there is no \"answer_start\"")?;
        let stated = match (starts.byte(start), offsets) {
            (Some(byte), _) => byte,
            (None, Offsets::Nearest | Offsets::Unread) => context.len(),
            (None, Offsets::Exact) => return Err("\"answer_start\" is beyond the end of the context"),
        };
        // White space around an answer is no part of it; some offsets count it and some do not.
        let right = text.trim();
        if right.is_empty() {
            return Err("\"text\" is empty");
        }
        for start in [stated, stated + (text.len() - text.trim_start().len())] {
            if context.get(start..).is_some_and(|rest| rest.starts_with(right)) {
                return Ok((start, right.len(), true));
            }
        }
        if offsets == Offsets::Exact {
            return Err("\"text\" does not stand at \"answer_start\", counted in characters; \
                        correct it, or read the file with Offsets::Nearest");
        }
        let found = context.match_indices(right).map(|(at, _)| at).min_by_key(|at| at.abs_diff(stated));
        found.map(|at| (at, right.len(), false)).ok_or("\"text\" stands nowhere in the context")
    }
}

/// Where each character of a text begins; nothing is stored where all are one byte.
struct Starts {
    bytes: usize,
    wide: Option<Vec<u32>>,
}

impl Starts {
    fn of(text: &str) -> Self {
        let wide = (!text.is_ascii()).then(|| text.char_indices().map(|(i, _)| i as u32).collect());
        Starts { bytes: text.len(), wide }
    }

    /// The byte at which a character begins; `None` from the end on.
    fn byte(&self, character: u64) -> Option<usize> {
        let character = usize::try_from(character).ok()?;
        match &self.wide {
            Some(starts) => starts.get(character).map(|&byte| byte as usize),
            None => (character < self.bytes).then_some(character),
        }
    }
}
