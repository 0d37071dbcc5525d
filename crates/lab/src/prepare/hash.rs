//! `start.hash`: EcoFormer's codes in the place of softmax, fitted to the first training batch (arXiv 2209.09004).

use std::path::Path;

use serde::{Deserialize, Serialize};
use switchformer_compress::hash::{HashFit, hash_attention};
use toml::{Table, Value};

use super::Prepare;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::recipe::typed;
use crate::task::Task;

/// What the recipe says. The folder holds a PVT v2 or Twins that attends to whole maps.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    /// Bits of a code.
    #[serde(default = "bits")]
    bits: usize,
    /// Steps of descent per bit; 0 leaves the bits as they were drawn.
    #[serde(default = "steps")]
    steps: usize,
}

fn bits() -> usize {
    HashFit::default().bits
}
fn steps() -> usize {
    HashFit::default().steps
}

fn plan(own: Value) -> Result<Plan, String> {
    typed(own).map_err(|e| format!("start.hash: {e}"))
}

/// The step.
pub(super) struct Hash;

impl Prepare for Hash {
    fn name(&self) -> &'static str {
        "hash"
    }

    fn read(&self, own: &Value) -> Result<Table, String> {
        Table::try_from(plan(own.clone())?).map_err(|e| format!("start.hash: {e}"))
    }

    fn check(&self, recipe: &Recipe) -> Result<(), String> {
        let experts = recipe.start.as_ref().is_some_and(|s| s.experts.is_some());
        match recipe.data.task == "images" && !experts {
            true => Ok(()),
            false => Err("start.hash is for images, without start.experts".into()),
        }
    }

    fn make(&self, own: &Table, from: &Path, out: &Path, recipe: &Recipe, task: &mut dyn Task) -> Result<()> {
        let plan = plan(Value::Table(own.clone())).map_err(|what| Error::config("start.hash", what))?;
        let batch = task.batch(0)?;
        let how = HashFit { seed: recipe.seed, bits: plan.bits, steps: plan.steps, ..HashFit::default() };
        hash_attention(from, out, &batch.input, &how)?;
        Ok(())
    }
}
