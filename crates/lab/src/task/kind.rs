//! The kinds of tasks, by the name that a recipe gives in `data.task`.

use std::fmt::Display;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Places, Task, images, questions, scenes, spans, translate};
use crate::error::Result;
use crate::recipe::Recipe;
use crate::recipe::typed;

/// Every task. A task is one file and one line here.
pub static TASKS: &[TaskKind] = &[
    TaskKind::of::<images::Images>(),
    TaskKind::of::<spans::Spans>(),
    TaskKind::of::<translate::Pairs>(),
    TaskKind::of::<questions::Questions>(),
    TaskKind::of::<scenes::Scenes>(),
];

/// What a task reads of a recipe, and how it is set up.
pub(super) trait Setup: Task + Sized + 'static {
    /// Its name in recipes.
    const NAME: &'static str;
    /// Part of the fingerprint of its recipes: raised when the same table gives other batches or another loss.
    const VERSION: u32 = 1;
    /// `[data]` without the key `task`; unknown fields must be refused.
    type Data: Serialize + DeserializeOwned;
    /// `[eval]` without the key `points`; unknown fields must be refused.
    type Eval: Serialize + DeserializeOwned;

    /// Checks the values, and the rest of the recipe against them. No data is read.
    fn check(data: &Self::Data, eval: &Self::Eval, recipe: &Recipe) -> Result<(), String>;
    /// Whether samples are kept for the validation loss.
    fn validates(data: &Self::Data) -> bool;
    /// Reads the data.
    fn open(data: Self::Data, eval: Self::Eval, recipe: &Recipe, places: &Places) -> Result<Self>;
}

/// The tables of a task: `[data]` without `task`, and `[eval]` without `points`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tables {
    /// `[data]`.
    pub data: toml::Table,
    /// `[eval]`.
    pub eval: toml::Table,
}

/// A kind of task.
pub struct TaskKind {
    /// Its name in recipes.
    pub name: &'static str,
    /// Part of the fingerprint of its recipes.
    pub version: u32,
    read: fn(&Tables) -> Result<Tables, String>,
    check: fn(&Recipe) -> Result<(), String>,
    open: fn(&Recipe, &Places) -> Result<Box<dyn Task>>,
}

impl TaskKind {
    const fn of<T: Setup>() -> TaskKind {
        TaskKind { name: T::NAME, version: T::VERSION, read: read::<T>, check: check::<T>, open: open::<T> }
    }

    /// The kind of a name. Errors list the names.
    pub fn find(name: &str) -> Result<&'static TaskKind, String> {
        TASKS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let known: Vec<&str> = TASKS.iter().map(|kind| kind.name).collect();
            format!("data.task = \"{name}\" is not known; tasks: {}", known.join(", "))
        })
    }

    /// The tables with every default written out. Errors name the task, the key and the keys that it has.
    pub fn read(&self, tables: &Tables) -> Result<Tables, String> {
        (self.read)(tables)
    }

    /// Checks a recipe of this task. No data is read.
    pub fn check(&self, recipe: &Recipe) -> Result<(), String> {
        (self.check)(recipe)
    }

    /// Opens the data of a recipe.
    pub fn open(&self, recipe: &Recipe, places: &Places) -> Result<Box<dyn Task>> {
        (self.open)(recipe, places)
    }
}

fn parse<T: Setup>(tables: &Tables) -> Result<(T::Data, T::Eval), String> {
    let bad = |section: &str, e: String| format!("[{section}] of data.task = \"{}\": {e}", T::NAME);
    let data = typed(tables.data.clone()).map_err(|e| bad("data", e))?;
    let eval = typed(tables.eval.clone()).map_err(|e| bad("eval", e))?;
    Ok((data, eval))
}

fn read<T: Setup>(tables: &Tables) -> Result<Tables, String> {
    let (data, eval) = parse::<T>(tables)?;
    let bad = |e: &dyn Display| format!("data.task = \"{}\": {e}", T::NAME);
    let table = |t: Result<toml::Table, toml::ser::Error>| t.map_err(|e| bad(&e));
    Ok(Tables { data: table(toml::Table::try_from(data))?, eval: table(toml::Table::try_from(eval))? })
}

fn check<T: Setup>(recipe: &Recipe) -> Result<(), String> {
    let (data, eval) = parse::<T>(&recipe.tables())?;
    if recipe.train.valid_every > 0 && !T::validates(&data) {
        return Err("train.valid_every needs data.valid".into());
    }
    T::check(&data, &eval, recipe)
}

fn open<T: Setup>(recipe: &Recipe, places: &Places) -> Result<Box<dyn Task>> {
    let (data, eval) = parse::<T>(&recipe.tables()).map_err(|what| crate::Error::config("data", what))?;
    Ok(Box::new(T::open(data, eval, recipe, places)?))
}
