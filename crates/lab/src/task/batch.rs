//! A batch: what a model reads, what its answer should be, and the terms of a loss.

use std::collections::BTreeMap;

use switchformer_nn::{Input, Output, Point};
use switchformer_tensor::Tensor;

use crate::error::{Error, Result};

/// One batch.
pub struct Batch {
    /// What the model reads.
    pub input: Input,
    /// What its answer should be.
    pub target: Target,
    /// What its loss weighs in a mean over batches, such as its number of labels.
    pub weight: f64,
    /// Images or tokens in it.
    pub size: usize,
    /// The task it is for, where a model has an answer for each of several.
    pub task: Option<usize>,
}

impl Batch {
    /// A point for this batch: at its task, where it is for one.
    pub fn at(&self, point: &Point) -> Point {
        match self.task {
            Some(task) => point.clone().with("task", task),
            None => point.clone(),
        }
    }
}

/// A part of a target.
#[derive(Clone, Debug)]
enum Part {
    Ids(Vec<u32>),
    Values(Tensor),
}

/// What the answer to a batch should be: whole numbers (classes, places) and values (distributions, regressions) by name.
/// The task that makes it is the one that reads it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    parts: BTreeMap<&'static str, Part>,
    smoothing: f64,
}

/// Name of the classes in [`Target::classes`].
const CLASSES: &str = "classes";

impl Target {
    /// No part yet.
    pub fn new() -> Target {
        Target::default()
    }

    /// The right class of every row of the answer, `[n]`.
    pub fn classes(ids: Vec<u32>) -> Target {
        Target::new().with_ids(CLASSES, ids)
    }

    /// With a share of every right class spread over all classes.
    pub fn smoothed(mut self, share: f64) -> Target {
        self.smoothing = share;
        self
    }

    /// With whole numbers.
    pub fn with_ids(mut self, name: &'static str, ids: Vec<u32>) -> Target {
        self.parts.insert(name, Part::Ids(ids));
        self
    }

    /// With values.
    pub fn with_values(mut self, name: &'static str, values: Tensor) -> Target {
        self.parts.insert(name, Part::Values(values));
        self
    }

    /// Share of every right class that is spread over all classes.
    pub fn smoothing(&self) -> f64 {
        self.smoothing
    }

    /// The whole numbers of a name. Errors name the parts that are here.
    pub fn ids(&self, name: &str) -> Result<&[u32]> {
        match self.parts.get(name) {
            Some(Part::Ids(ids)) => Ok(ids),
            _ => Err(self.missing(name, "whole numbers")),
        }
    }

    /// The values of a name. Errors name the parts that are here.
    pub fn values(&self, name: &str) -> Result<&Tensor> {
        match self.parts.get(name) {
            Some(Part::Values(values)) => Ok(values),
            _ => Err(self.missing(name, "values")),
        }
    }

    /// The right classes of a target made by [`Target::classes`].
    pub fn class_ids(&self) -> Result<&[u32]> {
        self.ids(CLASSES)
    }

    fn missing(&self, name: &str, kind: &str) -> Error {
        let known: Vec<&str> = self.parts.keys().copied().collect();
        Error::input(format!("the target has no {kind} `{name}`"), format!("it has: {}", known.join(", ")))
    }
}

/// A term of a loss.
#[derive(Clone, Debug)]
pub struct Term {
    /// What it is of, for the log.
    pub name: &'static str,
    /// A scalar.
    pub value: Tensor,
    /// Factor in the sum.
    pub weight: f64,
}

/// The loss of an answer: a weighted sum of named terms, those of auxiliary heads included.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    terms: Vec<Term>,
}

impl Losses {
    /// A loss of one term. Shapes: value a scalar.
    pub fn of(name: &'static str, value: Tensor) -> Losses {
        Losses::default().and(name, value, 1.0)
    }

    /// With another term. Shapes: value a scalar.
    pub fn and(mut self, name: &'static str, value: Tensor, weight: f64) -> Losses {
        self.terms.push(Term { name, value, weight });
        self
    }

    /// All terms.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// The weighted sum, a scalar. Errors where there is no term.
    pub fn total(&self) -> Result<Tensor> {
        let mut sum = crate::loss::Sum::default();
        self.terms.iter().try_for_each(|t| sum.add(t.value.clone(), t.weight))?;
        sum.take().ok_or_else(|| Error::config("loss", "has no term"))
    }
}

/// The logits of an output, one row a token or one a member. Shapes: -> `[n, classes]`.
pub fn logits(out: &Output) -> Result<&Tensor> {
    match out.get_rows("logits") {
        Some((logits, _)) => Ok(logits),
        None => Ok(out.get("logits")?),
    }
}
