//! What a model answers. Every type reads and writes JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value as Json;
use switchformer_nn::{Error, Output, Point, Result, Trace, Value, json, objects};

use crate::generate::End;
use crate::named::NamedTensors;
use crate::request::{Image, strict};

strict!(Answer, Decision, Reply, Label, Number, TokenLabel, Entity, Span, TokenVector, Ranked);

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Answer {
    /// The operating point it was computed at.
    pub point: Point,
    /// Shapes of the raw outputs, by name; none where a task takes several passes.
    #[serde(deserialize_with = "json::distinct")]
    pub outputs: BTreeMap<String, Shape>,
    /// One reply per text, question, image or sample of tensors.
    pub results: Vec<Reply>,
    /// Documents in the order of their scores, best first: of a ranking, and of pairs that one number scores and that share
    /// their first text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranking: Option<Vec<Ranked>>,
    /// Multiply-adds that were executed.
    pub macs: u64,
    /// Multiply-adds spent on deciding.
    pub decision_macs: u64,
    /// Decisions of the switches, where the request asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Vec<Decision>>,
    /// Raw outputs under Hugging Face's names, zero at padded places, where the request asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<NamedTensors>,
    /// Maps as PNG images, by the name of their file, where the request asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maps: Option<Vec<Image>>,
}

impl Answer {
    /// An answer without raw outputs; decisions are kept where they are `asked` for.
    pub(crate) fn new(point: Point, results: Vec<Reply>, trace: Trace, asked: bool) -> Answer {
        let Trace { decisions, macs, decision_macs } = trace;
        let decision = |d: switchformer_nn::Decision| Decision {
            at: d.at,
            switch: d.switch.into(),
            member: d.member,
            choice: d.choice,
        };
        let trace = asked.then(|| decisions.into_iter().map(decision).collect());
        let outputs = BTreeMap::new();
        Answer { point, outputs, results, ranking: None, macs, decision_macs, trace, tensors: None, maps: None }
    }
}

/// One decision of a switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Decision {
    /// Where in the model, such as `blocks.3`.
    pub at: String,
    /// The switch, such as `tokens` or `exit`.
    pub switch: String,
    /// Sample of the request, or nothing for the whole batch.
    pub member: Option<u32>,
    /// The choice.
    #[serde(deserialize_with = "json::value")]
    pub choice: Json,
}

/// Shape of a raw output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Shape {
    /// One entry per sample, `[samples, ..]`.
    PerSample(Vec<usize>),
    /// One entry per token or patch.
    PerRow {
        /// Rows of each sample.
        rows: Vec<usize>,
        /// Shape of one row.
        width: Vec<usize>,
    },
    /// A shape of its own for each sample, nothing for one without output.
    Each(Vec<Option<Vec<usize>>>),
}

impl<'de> Deserialize<'de> for Shape {
    /// Told apart by what is there: an object has rows, a list holds numbers, or a shape for each sample.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct PerRow {
            rows: Vec<usize>,
            width: Vec<usize>,
        }
        let value = json::value(d)?;
        let each = value.as_array().is_some_and(|list| list.iter().any(|v| !v.is_number()));
        let shape = match value {
            Json::Object(_) => objects::read(value).map(|PerRow { rows, width }| Shape::PerRow { rows, width }),
            _ if each => objects::read(value).map(Shape::Each),
            _ => objects::read(value).map(Shape::PerSample),
        };
        shape.map_err(de::Error::custom)
    }
}

impl Shape {
    /// Shapes of outputs by name.
    pub(crate) fn of_all(out: &Output) -> BTreeMap<String, Shape> {
        let shape = |v: &Value| match v {
            Value::PerMember(t) => Shape::PerSample(t.dims().to_vec()),
            Value::PerRow(t, rows) => Shape::PerRow { rows: rows.lens(), width: t.dims()[1..].to_vec() },
            Value::Each(all) => Shape::Each(all.iter().map(|t| t.as_ref().map(|t| t.dims().to_vec())).collect()),
        };
        out.values().iter().map(|(name, v)| (name.clone(), shape(v))).collect()
    }
}

/// The reply to one text, question, image or sample of tensors. What is set depends on the model's head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct Reply {
    /// The text or question, or the image's name; empty for tensors.
    pub input: String,
    /// The second text of a pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pair: Option<String>,
    /// Likeliest classes, best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<Label>>,
    /// Numbers that a model of regression answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<Number>>,
    /// Raw scores of all classes, in their order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<f32>>,
    /// Likeliest tokens for every mask of the text, best first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masks: Option<Vec<Vec<Label>>>,
    /// Likeliest class of every token of the text; special tokens are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_labels: Option<Vec<TokenLabel>>,
    /// Tokens joined to entities, where the request asks for it; those of class `O` are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entities: Option<Vec<Entity>>,
    /// Sentence embedding, pooled as the checkpoint says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sentence_embedding: Option<Vec<f32>>,
    /// Sparse embedding: the weight of every token that has one.
    #[serde(deserialize_with = "weights", skip_serializing_if = "Option::is_none")]
    pub sparse_embedding: Option<BTreeMap<String, f32>>,
    /// Vectors of the tokens that count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_embeddings: Option<Vec<TokenVector>>,
    /// Generated text, or the likeliest answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Tokens of the generated text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<u32>>,
    /// Why the generated text ended, and in any reply that it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<End>,
    /// Score of the generated text, of beam search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Likeliest answers with their places in the passage, best first; none where the passage has no word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<Vec<Span>>,
}

/// Weights by token, no token twice.
fn weights<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BTreeMap<String, f32>>, D::Error> {
    json::distinct(d).map(Some)
}

impl Reply {
    /// A reply that says nothing yet.
    pub(crate) fn to(input: impl Into<String>) -> Reply {
        Reply { input: input.into(), ..Reply::default() }
    }
}

/// A class, token or answer with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Label {
    /// Its name.
    pub label: String,
    /// Its probability.
    pub probability: f32,
}

/// A number by the name of what it measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Number {
    /// Its name.
    pub label: String,
    /// The number.
    pub value: f32,
}

/// Tokens of a text that are one entity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Entity {
    /// Its class, without the part that tells a first token (`B-`) from others (`I-`).
    pub label: String,
    /// Its text, as the tokenizer joins tokens.
    pub word: String,
    /// Its first byte in the text, and the one after its last.
    pub bytes: [usize; 2],
    /// Mean probability of its parts.
    pub probability: f32,
}

/// A token of a text with its likeliest class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TokenLabel {
    /// The token.
    pub token: String,
    /// Its first byte in the text, and the one after its last.
    pub bytes: [usize; 2],
    /// The class.
    pub label: String,
    /// Its probability.
    pub probability: f32,
}

/// An answer in a passage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Span {
    /// Its text.
    pub answer: String,
    /// Its probability among the answers that were kept.
    pub score: f32,
    /// Its first character in the passage.
    pub start: usize,
    /// The character after its last.
    pub end: usize,
    /// Its first byte in the passage, and the one after its last.
    pub bytes: [usize; 2],
    /// Sum of the raw scores of its first and last token.
    pub logit: f32,
}

/// A token with its vector.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct TokenVector {
    /// The token.
    pub token: String,
    /// Its vector.
    pub embedding: Vec<f32>,
}

/// A document of a ranking.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Ranked {
    /// Its place, from 1.
    pub rank: usize,
    /// Its number among those given, from 0.
    pub document: usize,
    /// Its score; more is better.
    pub score: f64,
    /// The scores that this one is made of, where there are several.
    #[serde(default, deserialize_with = "scores", skip_serializing_if = "Option::is_none")]
    pub scores: Option<BTreeMap<String, f64>>,
    /// The document.
    pub text: String,
}

/// Scores by name, no name twice.
fn scores<'de, D: Deserializer<'de>>(d: D) -> Result<Option<BTreeMap<String, f64>>, D::Error> {
    json::distinct(d).map(Some)
}

/// How scores become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// One class of all.
    Softmax,
    /// Each class for itself.
    Sigmoid,
}

/// Probabilities of a sample's scores `[n]`. Errors where a score is not finite.
pub(crate) fn probabilities(sample: usize, logits: &[f32], scale: Scale) -> Result<Vec<f32>> {
    Error::unless_finite("logits", sample, logits)?;
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|v| (v - top).exp()).sum();
    Ok(logits
        .iter()
        .map(|v| match scale {
            Scale::Softmax => (v - top).exp() / total,
            Scale::Sigmoid => 1.0 / (1.0 + (-v).exp()),
        })
        .collect())
}

/// The `k` likeliest entries of a sample's scores `[n]` with their probabilities. Errors where a score is not finite.
pub(crate) fn best(
    sample: usize,
    logits: &[f32],
    scale: Scale,
    k: usize,
    name: impl Fn(usize) -> String,
) -> Result<Vec<Label>> {
    let probabilities = probabilities(sample, logits, scale)?;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let label = |i: &usize| Label { label: name(*i), probability: probabilities[*i] };
    Ok(order.iter().take(k).map(label).collect())
}
