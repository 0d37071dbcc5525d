//! A study: variants of one recipe, each with several seeds.
//!
//! ```toml
//! seeds = [1, 2, 3]
//! [[variant]]
//! name = "experts-4"
//! model = { num_experts = 4 }
//! ```
//!
//! `conclusion` and `note` are printed above the table of results; they are no part of what a run is known by.
//! The tables of a variant are laid over those of the file, key by key. A file may be based on another (`base`).

use std::path::Path;

use super::Recipe;
use crate::error::{Error, Result};

/// Most runs of a study.
const MAX_RUNS: usize = 1_000;

/// Several runs that are compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// Name of the study, of its folder and of its results.
    pub name: String,
    /// What a reader should conclude, once there are results (`conclusion`).
    pub conclusion: String,
    /// What a reader of the results must know, in the file's own words (`note`).
    pub note: String,
    /// All runs: every variant with the first seed, then with the next.
    pub runs: Vec<StudyRun>,
}

/// One run of a study.
#[derive(Clone, Debug, PartialEq)]
pub struct StudyRun {
    /// Name of the variant; that of the study where the file declares none.
    pub variant: String,
    /// What is trained; its name is `<variant>-s<seed>`.
    pub recipe: Recipe,
}

impl Study {
    /// Reads a recipe with its variants and seeds, and applies overrides to all of them.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Study> {
        Study::read_all(path, overrides).map_err(|e| e.with_settings(overrides))
    }

    fn read_all(path: &Path, overrides: &[String]) -> Result<Study> {
        let bad = |what: String| Error::Recipe { path: path.to_path_buf(), what };
        let mut base = Recipe::table(path, overrides)?;
        let seeds: Vec<u64> = match base.remove("seeds") {
            None => vec![base.get("seed").and_then(toml::Value::as_integer).unwrap_or(0).unsigned_abs()],
            Some(list) => list.try_into().map_err(|_| bad("seeds must be a list of whole numbers".into()))?,
        };
        let variants: Vec<toml::Table> = match base.remove("variant") {
            None => vec![toml::Table::new()],
            Some(list) => list.try_into().map_err(|_| bad("write variants as [[variant]] tables".into()))?,
        };
        let mut text = |key: &str| match base.remove(key) {
            None => Ok(String::new()),
            Some(text) => text.try_into().map_err(|_| bad(format!("{key} must be a text"))),
        };
        let (conclusion, note) = (text("conclusion")?, text("note")?);
        if seeds.is_empty() || variants.is_empty() || seeds.len().saturating_mul(variants.len()) > MAX_RUNS {
            return Err(bad(format!("needs a seed and a variant at least, and at most {MAX_RUNS} runs")));
        }
        let name = base.get("name").and_then(toml::Value::as_str).unwrap_or_default().to_string();
        let mut runs = Vec::new();
        for seed in &seeds {
            for variant in &variants {
                let mut own = variant.clone();
                let called = match own.remove("name") {
                    Some(toml::Value::String(called)) => called,
                    None if variant.is_empty() => name.clone(),
                    _ => return Err(bad("every [[variant]] needs a name".into())),
                };
                let mut table = base.clone();
                lay_over(&mut table, own);
                table.insert("seed".into(), toml::Value::Integer(i64::try_from(*seed).unwrap_or(i64::MAX)));
                table.insert("name".into(), toml::Value::String(format!("{called}-s{seed}")));
                runs.push(StudyRun { variant: called, recipe: Recipe::of(table, path)? });
            }
        }
        let mut names: Vec<&str> = runs.iter().map(|r| r.recipe.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
            return Err(bad(format!("{} occurs twice; variants and seeds must differ", twice[0])));
        }
        Ok(Study { name, conclusion, note, runs })
    }

    /// The first run of a variant. Errors list the variants.
    pub fn variant(&self, name: &str, path: &Path) -> Result<&StudyRun> {
        self.runs.iter().find(|r| r.variant == name).ok_or_else(|| {
            let mut known: Vec<&str> = self.runs.iter().map(|r| r.variant.as_str()).collect();
            known.dedup();
            let what = format!("no variant `{name}`; here: {}", known.join(", "));
            Error::Recipe { path: path.to_path_buf(), what }
        })
    }
}

/// Puts the values of `over` into `base`; tables are merged.
pub(super) fn lay_over(base: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(own)) => lay_over(below, own),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}
