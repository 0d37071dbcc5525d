//! Questions about passages: `run --text QUESTION --context PASSAGE`, and the answers that `eval --model` scores.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value as Json, json};
use switchformer_data::Squad;
use switchformer_infer::tasks::extract_answer as reading;
use switchformer_nn::{Folder, Point, Trace};
use switchformer_zoo::Opened;

use super::Place;
use crate::fail::Fail;

/// Answers that are shown beside the best one, itself included.
const SHOWN: usize = 5;

/// The folder of a model that reads passages; its tokenizer is there.
fn home(place: &Place) -> Result<&Path, Fail> {
    match place {
        Place::Folder(Folder::Disk(dir)) => Ok(dir),
        _ => Err(Fail::Usage("answers need a model folder with a tokenizer".into())),
    }
}

/// The likeliest answers to each question, and every decision taken.
pub(crate) fn answers(
    opened: &Opened,
    place: &Place,
    point: &Point,
    questions: &[String],
    passage: &str,
) -> Result<(Vec<Map<String, Json>>, Trace), Fail> {
    let reader = reading::reader(opened, home(place)?)?;
    let (mut all, mut whole) = (Vec::new(), Trace::default());
    for question in questions {
        let (found, trace) = reading::answers(opened, point, &reader, question, passage)?;
        whole.macs += trace.macs;
        whole.decision_macs += trace.decision_macs;
        whole.decisions.extend(trace.decisions);
        let text = |i: usize| passage.get(found[i].range.clone()).unwrap_or_default();
        let some = 0..found.len().min(SHOWN);
        let labels: Vec<Json> =
            some.clone().map(|i| json!({"label": text(i), "probability": found[i].probability})).collect();
        let places: Vec<Json> = some
            .map(|i| json!({"text": text(i), "bytes": [found[i].range.start, found[i].range.end], "score": found[i].score}))
            .collect();
        let mut answer = Map::from_iter([("input".into(), json!(question)), ("answers".into(), json!(places))]);
        if !found.is_empty() {
            answer.extend([("text".into(), json!(text(0))), ("labels".into(), json!(labels))]);
        }
        all.push(answer);
    }
    Ok((all, whole))
}

/// A model's answers to the questions of a set, by their ids.
pub(crate) fn predictions(model: &str, point: Option<&str>, set: &Squad) -> Result<HashMap<String, String>, Fail> {
    let (opened, place) = super::open(model, false)?;
    let point = opened.point(point)?;
    let reader = reading::reader(&opened, home(&place)?)?;
    let asked: Vec<u32> = (0..set.questions.len() as u32).collect();
    let given = reading::answer_all(&opened, &point, &reader, set, &asked)?;
    Ok(set.questions.iter().zip(given).filter_map(|(q, given)| Some((q.id.clone(), given?))).collect())
}
