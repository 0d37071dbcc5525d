//! A recipe that is another one with some values changed.
//!
//! ```toml
//! base = "other.toml"        # beside this file
//! [replace.model]
//! in_chans = 3               # wherever a variant of the other has this key
//! [data]
//! set = "cifar-10"           # laid over the tables of the other, key by key
//! ```

use std::path::Path;

use switchformer_nn::json::read_capped;

use super::study::lay_over;
use super::{Error, MAX_RECIPE, Result};

/// The table of a recipe's file, laid over the one it is based on. A base has no base of its own.
pub(super) fn read(path: &Path) -> Result<toml::Table> {
    let mut own = parse(path)?;
    let bad = |what: &str| Error::Recipe { path: path.to_path_buf(), what: what.into() };
    let replace = match own.remove("replace") {
        None => toml::Table::new(),
        Some(toml::Value::Table(table)) => table,
        Some(_) => return Err(bad("write replace as a table, such as [replace.model]")),
    };
    let Some(base) = own.remove("base") else {
        return if replace.is_empty() { Ok(own) } else { Err(bad("replace needs a base")) };
    };
    let Some(name) = base.as_str().filter(|n| !n.is_empty() && !n.contains(['/', '\\'])) else {
        return Err(bad("base must name a file beside this one"));
    };
    let mut table = parse(&path.with_file_name(name))?;
    if table.contains_key("base") {
        return Err(bad("base must not have a base of its own"));
    }
    let variants = table.get_mut("variant").and_then(toml::Value::as_array_mut).into_iter().flatten();
    let mut used = toml::Table::new();
    for variant in variants.filter_map(toml::Value::as_table_mut) {
        put(variant, &replace, &mut used);
    }
    if used != replace {
        return Err(bad("replace has a key that no variant of the base has"));
    }
    lay_over(&mut table, own);
    Ok(table)
}

/// Puts the values of `replace` where `table` has these keys already, and notes which were met.
fn put(table: &mut toml::Table, replace: &toml::Table, used: &mut toml::Table) {
    for (key, value) in replace {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(own)) => {
                let met = used.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                if let Some(met) = met.as_table_mut() {
                    put(below, own, met);
                }
            }
            (Some(old), value) => {
                *old = value.clone();
                used.insert(key.clone(), value.clone());
            }
            (None, _) => {}
        }
    }
}

fn parse(path: &Path) -> Result<toml::Table> {
    let bad = |what: String| Error::Recipe { path: path.to_path_buf(), what };
    let text = String::from_utf8(read_capped(path, MAX_RECIPE)?).map_err(|_| bad("is not UTF-8 text".into()))?;
    toml::from_str(&text).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_of_variants_change_where_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = temp.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let a = "name = \"a\"\n[data]\nset = \"x\"\nflip = 0.5\n[[variant]]\nname = \"p\"\nmodel = { c = 1, d = 1 }\n\
                 [[variant]]\nname = \"q\"\nmodel = { e = 1 }\n";
        put("a.toml", a);
        let b = "name = \"b\"\nbase = \"a.toml\"\n[replace.model]\nc = 3\ne = 4\n[data]\nset = \"y\"\n";
        let got = read(&put("b.toml", b)).unwrap();
        let want = "name = \"b\"\n[data]\nset = \"y\"\nflip = 0.5\n[[variant]]\nname = \"p\"\nmodel = { c = 3, d = 1 }\n\
                    [[variant]]\nname = \"q\"\nmodel = { e = 4 }\n";
        assert_eq!(got, toml::from_str::<toml::Table>(want).unwrap());
        let refused = |text: &str| read(&put("c.toml", text)).unwrap_err().to_string();
        assert!(refused("base = \"b.toml\"\n").contains("base of its own"));
        assert!(refused("base = \"../a.toml\"\n").contains("beside this one"));
        assert!(refused("base = \"a.toml\"\n[replace.model]\nf = 1\n").contains("no variant"));
        assert!(refused("[replace.model]\nf = 1\n").contains("needs a base"));
    }
}
