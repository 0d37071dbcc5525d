//! What is made of a start's folder before training: each step is one file and one line here, and a key of `[start]`.
//!
//! A step reads a checkpoint folder and perhaps the first training batch, and writes another folder, once; it is kept
//! beside what runs of a study share. The loop knows nothing of it.

mod hash;

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::recipe::{FORMER_FROZEN, Recipe, Start, hex};
use crate::task::{Places, Task};

/// Every step, in the order in which they are done.
static STEPS: &[&dyn Prepare] = &[&hash::Hash];

/// Keys of `[start]` that name no step.
const KEYS: [&str; 4] = ["folder", "fresh", "frozen", "experts"];

/// A step.
trait Prepare: Sync {
    /// Its key in `[start]`, and the first part of the name of the folder that it makes.
    fn name(&self) -> &'static str;
    /// Its table with every default written out. Errors name the key.
    fn read(&self, own: &Value) -> Result<Table, String>;
    /// Whether it goes with the rest of a recipe.
    fn check(&self, recipe: &Recipe) -> Result<(), String>;
    /// Writes the folder `out`. `own` is what [`Prepare::read`] gave.
    fn make(&self, own: &Table, from: &Path, out: &Path, recipe: &Recipe, task: &mut dyn Task) -> Result<()>;
}

/// The steps of a recipe with every default written out. Errors list the keys of `[start]`.
pub(crate) fn read(steps: &Table) -> Result<Table, String> {
    let one = |(name, own): (&String, &Value)| {
        let step = STEPS.iter().find(|s| s.name() == name).ok_or_else(|| {
            if name == FORMER_FROZEN {
                return format!("[start] has no key `{name}` any more; write `frozen`, which means the same");
            }
            let known: Vec<&str> = KEYS.into_iter().chain(STEPS.iter().map(|s| s.name())).collect();
            format!("[start] has no key `{name}`; its keys: {}", known.join(", "))
        })?;
        Ok((name.clone(), Value::Table(step.read(own)?)))
    };
    steps.iter().map(one).collect()
}

/// Checks the steps of a recipe against the rest of it.
pub(crate) fn check(recipe: &Recipe) -> Result<(), String> {
    let asked = |s: &&&dyn Prepare| recipe.start.as_ref().is_some_and(|start| start.prepare.contains_key(s.name()));
    STEPS.iter().filter(asked).try_for_each(|s| s.check(recipe))
}

/// The recipe that starts from what its steps make: a folder for each, made where it is not there yet.
pub(crate) fn prepared<'a>(recipe: &'a Recipe, task: &mut dyn Task, places: &Places) -> Result<Cow<'a, Recipe>> {
    let Some(start) = recipe.start.as_ref().filter(|s| !s.prepare.is_empty()) else { return Ok(Cow::Borrowed(recipe)) };
    let mut folder = start.folder.clone();
    for step in STEPS {
        let Some(Value::Table(own)) = start.prepare.get(step.name()) else { continue };
        let file = folder.join("model.safetensors");
        let mut hash = Sha256::new();
        hash.update(fs::read(&file).map_err(|e| Error::io(&file, e))?);
        hash.update(recipe.fingerprint());
        let out = places.shared.join(format!("{}-{}", step.name(), &hex(&hash.finalize())[..16]));
        if !out.exists() {
            step.make(own, &folder, &out, recipe, task)?;
        }
        folder = out;
    }
    let start = Start { folder, prepare: Table::new(), ..start.clone() };
    Ok(Cow::Owned(Recipe { start: Some(start), ..recipe.clone() }))
}
