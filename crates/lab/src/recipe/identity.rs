//! What makes two recipes the same run: their fingerprint, and the keys in which they differ.

use std::collections::BTreeMap;
use std::path::Path;

use sha2::{Digest, Sha256};
use toml::{Table, Value};

use super::typed;
use super::{FORMER_FROZEN, Recipe, Start, Switch, Train, based, hex};
use crate::prepare;
use crate::task::{Tables, TaskKind};

/// First characters of a fingerprint. Those of versions up to 0.1 have none, and are of keys that tasks no longer read.
const KIND: &str = "2:";

/// Keys of `[train]` that do not decide the course of a run.
const WHEN: [&str; 4] = ["save_every", "valid_every", "keep_last", "keep_best"];

impl Recipe {
    /// Identity of everything that decides the course of the run: all but its name, what is measured, and when it is
    /// validated and saved. Of the keys it holds those that say something else than their default, so that a key that comes
    /// later changes no fingerprint; and the version of the task.
    pub fn fingerprint(&self) -> String {
        let version = TaskKind::find(&self.data.task).map_or(0, |kind| kind.version);
        let mut said = self.beyond_defaults();
        rename_in_start(&mut said, "frozen", FORMER_FROZEN);
        let said = toml::to_string(&said).unwrap_or_default();
        let text = format!("{} version {version}\n{said}", self.data.task);
        KIND.to_string() + &hex(&Sha256::digest(text.as_bytes()))
    }

    /// Whether a run in a folder may go on by this recipe; else what stands against it. `fingerprint` is that of the recipe
    /// that the run was begun by.
    pub(crate) fn admits(&self, fingerprint: &str, run: &Path) -> Result<(), String> {
        if fingerprint == self.fingerprint() {
            return Ok(());
        }
        let older = !fingerprint.starts_with(KIND);
        let differs = based::read(&run.join("recipe.toml")).ok().map(|mut kept| {
            rename_in_start(&mut kept, FORMER_FROZEN, "frozen");
            self.difference(&kept, older)
        });
        let what = match differs {
            // A run of an older version is known by the recipe that it keeps.
            Some(None) if older => return Ok(()),
            Some(None) => "was begun by another version of the task; finish it with that version".to_string(),
            Some(Some(what)) => format!("was made by another recipe: {what}"),
            None if older => "was begun by an earlier version and its recipe.toml is gone".to_string(),
            None => "was made by another recipe".to_string(),
        };
        Err(format!("{what}; name another --out or remove the folder"))
    }

    /// What the sections of this recipe say beyond their defaults.
    fn beyond_defaults(&self) -> Table {
        let table = |value: Result<Table, toml::ser::Error>| value.unwrap_or_default();
        let task = |own: &Table| {
            let kind = TaskKind::find(&self.data.task).ok()?;
            Some(kind.read(&Tables { data: own.clone(), eval: self.eval.own.clone() }).ok()?.data)
        };
        let mut train = lean(&table(Table::try_from(&self.train)), &again::<Train>);
        WHEN.iter().for_each(|key| drop(train.remove(*key)));
        let mut out = Table::new();
        out.insert("data".into(), Value::Table(lean(&self.data.own, &task)));
        out.insert("model".into(), Value::Table(table(Table::try_from(&self.model))));
        out.insert("seed".into(), Value::String(self.seed.to_string()));
        out.insert("switch".into(), Value::Table(lean(&table(Table::try_from(&self.switch)), &again::<Switch>)));
        out.insert("train".into(), Value::Table(train));
        if let Some(start) = &self.start {
            let whole = |own: &Table| {
                let mut start: Start = typed(own.clone()).ok()?;
                start.prepare = prepare::read(&start.prepare).ok()?;
                Table::try_from(start).ok()
            };
            out.insert("start".into(), Value::Table(lean(&table(Table::try_from(start)), &whole)));
        }
        out
    }

    /// The first key in which a recipe that was printed with every default differs from this one. An `older` one has in
    /// `[data]` the keys of all tasks; those that this task does not read are passed over.
    fn difference(&self, printed: &Table, older: bool) -> Option<String> {
        let (mut own, mut said, mut theirs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        flatten("", &Table::try_from(self).unwrap_or_default(), &mut own);
        flatten("", &self.beyond_defaults(), &mut said);
        flatten("", printed, &mut theirs);
        let counts = |key: &str| {
            let when = key.strip_prefix("train.").is_some_and(|key| WHEN.contains(&key));
            key != "name" && !key.starts_with("eval.") && !when
        };
        let foreign = |key: &str| older && key.starts_with("data.") && !own.contains_key(key);
        let say = |value: Option<&Value>| value.map_or_else(|| "absent".to_string(), Value::to_string);
        let mut keys: Vec<&String> = said.keys().chain(theirs.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let other = keys.into_iter().find(|key| {
            let (one, two) = (own.get(*key), theirs.get(*key));
            counts(key) && !foreign(key) && one != two && (two.is_some() || said.contains_key(*key))
        })?;
        Some(format!("{other} is {} there and {} here", say(theirs.get(other)), say(own.get(other))))
    }
}

/// Gives a key of `[start]` another name.
fn rename_in_start(recipe: &mut Table, from: &str, to: &str) {
    if let Some(Value::Table(start)) = recipe.get_mut("start")
        && let Some(value) = start.remove(from)
    {
        start.insert(to.into(), value);
    }
}

/// A section read and printed again.
fn again<T: serde::Serialize + serde::de::DeserializeOwned>(own: &Table) -> Option<Table> {
    Table::try_from(typed::<T>(own.clone()).ok()?).ok()
}

/// A section less the keys without which it reads the same; in the tables below too.
fn lean(section: &Table, read: &dyn Fn(&Table) -> Option<Table>) -> Table {
    fn below(at: &Table, whole: &dyn Fn(&Table) -> Table, same: &dyn Fn(&Table) -> bool) -> Table {
        let mut left = Table::new();
        for (key, value) in at {
            let mut without = at.clone();
            without.remove(key);
            if same(&whole(&without)) {
                continue;
            }
            let value = match value {
                Value::Table(inner) => {
                    let around = |inner: &Table| {
                        let mut around = at.clone();
                        around.insert(key.clone(), Value::Table(inner.clone()));
                        whole(&around)
                    };
                    Value::Table(below(inner, &around, same))
                }
                value => value.clone(),
            };
            left.insert(key.clone(), value);
        }
        left
    }
    below(section, &Table::clone, &|t| read(t).is_some_and(|t| t == *section))
}

/// The values of a table by their dotted paths; lists whole.
fn flatten(at: &str, table: &Table, out: &mut BTreeMap<String, Value>) {
    for (key, value) in table {
        let path = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
        match value {
            Value::Table(inner) => flatten(&path, inner, out),
            value => drop(out.insert(path, value.clone())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &str) -> Recipe {
        let head = "name = \"x\"\n[model]\nmodel_type = \"vit\"\n[train]\nsteps = 9\nbatch = 1\nlr = 1.0\nwarmup = 0\n";
        Recipe::of(toml::from_str(&format!("{head}{text}")).unwrap(), Path::new("x.toml")).unwrap()
    }

    #[test]
    fn a_default_that_is_written_changes_no_fingerprint() {
        let plain = read("[data]\nset = \"fashion-mnist\"\n");
        for same in ["task = \"images\"", "flip = 0.0\npad = 0", "valid = 0\n[switch]\ndraws = 1\nexits = []"] {
            assert_eq!(read(&format!("[data]\nset = \"fashion-mnist\"\n{same}")).fingerprint(), plain.fingerprint());
        }
        for other in ["pad = 1", "[switch]\nexits = [1]", "[start]\nfolder = \"a\""] {
            assert_ne!(read(&format!("[data]\nset = \"fashion-mnist\"\n{other}")).fingerprint(), plain.fingerprint());
        }
        let again = Recipe::of(toml::from_str(&plain.resolved()).unwrap(), Path::new("x.toml")).unwrap();
        assert_eq!((again.fingerprint(), &again), (plain.fingerprint(), &plain));
    }

    #[test]
    fn tables_below_are_lean_too() {
        let start = |rest: &str| read(&format!("[data]\nset = \"fashion-mnist\"\n[start]\nfolder = \"a\"\n{rest}"));
        assert_eq!(start("hash = {}").fingerprint(), start("hash = { bits = 16 }").fingerprint());
        assert_ne!(start("hash = {}").fingerprint(), start("hash = { bits = 8 }").fingerprint());
        assert_ne!(start("hash = {}").fingerprint(), start("").fingerprint());
    }

    #[test]
    fn a_run_that_was_begun_under_the_former_name_of_a_key_goes_on() {
        let start = |rest: &str| read(&format!("[data]\nset = \"fashion-mnist\"\n[start]\nfolder = \"a\"\n{rest}"));
        let recipe = start("frozen = [\"b\"]");
        let run = tempfile::tempdir().unwrap();
        let former = recipe.resolved().replace("frozen = ", "still = ");
        assert!(former.contains("still = [\"b\"]"), "{former}");
        std::fs::write(run.path().join("recipe.toml"), former).unwrap();
        // A run of an older version is known by its recipe; those since are known by fingerprints (`tests/first_steps.rs`).
        assert_eq!(recipe.admits("0123", run.path()), Ok(()));
        let other = start("frozen = [\"c\"]").admits("0123", run.path()).unwrap_err();
        assert!(other.contains("start.frozen is [\"b\"] there and [\"c\"] here"), "{other}");
    }

    #[test]
    fn the_difference_is_named() {
        let (one, two) =
            (read("[data]\nset = \"fashion-mnist\"\n"), read("[data]\nset = \"fashion-mnist\"\npad = 2\n"));
        let printed = |r: &Recipe| toml::from_str::<Table>(&r.resolved()).unwrap();
        assert_eq!(one.difference(&printed(&one), false), None);
        assert_eq!(one.difference(&printed(&two), false).unwrap(), "data.pad is 2 there and 0 here");
        // As older versions printed it, with the keys of other tasks.
        let mut old = printed(&one);
        old["data"].as_table_mut().unwrap().insert("vocab".into(), Value::Integer(2048));
        assert_eq!(one.difference(&old, true), None);
        assert!(one.difference(&old, false).unwrap().contains("data.vocab is 2048 there and absent here"));
    }
}
