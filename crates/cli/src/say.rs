//! What a command says beside its answer: notes, progress and failures. With `--json` notes are part of the one document on
//! standard output, and a failure is one line of JSON on standard error.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use switchformer_infer::Listener;
use switchformer_nn::error::{plain, visible};

use crate::fail::Fail;

static JSON: AtomicBool = AtomicBool::new(false);
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Decides, once and before anything is said, whether this process answers in JSON.
pub(crate) fn in_json(yes: bool) {
    JSON.store(yes, Ordering::Relaxed);
}

fn json_wanted() -> bool {
    JSON.load(Ordering::Relaxed)
}

/// Something that the user should know; the command goes on.
pub(crate) fn note(text: &str) {
    if json_wanted() {
        let mut notes = NOTES.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.iter().any(|n| n == text) {
            notes.push(text.to_owned());
        }
    } else {
        eprintln!("note: {}", plain(text));
    }
}

/// Between lines of progress where nobody watches them come.
const PAUSE: Duration = Duration::from_secs(10);

static LAST: Mutex<Option<Instant>> = Mutex::new(None);

/// What became known while work went on, such as "round 3 of 15": on a terminal in place of the line before it, else a line of
/// its own once in a while; an empty text clears the line. Nothing with `--json`, unless somebody watches.
pub(crate) fn progress(text: &str) {
    let mut err = std::io::stderr();
    if !err.is_terminal() {
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        *last = Some(Instant::now());
    }
    // Progress is a courtesy: a closed standard error is no reason to stop.
    let _ = if err.is_terminal() {
        write!(err, "\r\x1b[2K{}", visible(text)).and_then(|()| err.flush())
    } else if json_wanted() || text.is_empty() {
        Ok(())
    } else {
        writeln!(err, "{}", visible(text))
    };
}

/// One JSON document on standard output, with the notes that were made on the way.
pub(crate) fn answer(doc: &Value) -> Result<(), Fail> {
    let notes = std::mem::take(&mut *NOTES.lock().unwrap_or_else(PoisonError::into_inner));
    let mut doc = doc.clone();
    if let (Some(map), false) = (doc.as_object_mut(), notes.is_empty()) {
        map.insert("notes".into(), json!(notes));
    }
    crate::cmd::print_raw(&format!("{doc:#}\n"))
}

/// A failure, on standard error.
pub(crate) fn failed(code: &str, exit: u8, message: &str) {
    // `error[point]: point: ..` says the same twice.
    let message = message.strip_prefix(&format!("{code}: ")).unwrap_or(message);
    if json_wanted() {
        eprintln!("{}", json!({"error": {"code": code, "exit": exit, "message": message}}));
    } else {
        eprintln!("error[{code}]: {}", visible(message));
    }
}

/// Hears notes while a request is answered.
pub(crate) struct Notes;

impl Listener for Notes {
    fn note(&mut self, text: &str) {
        note(text);
    }
}
