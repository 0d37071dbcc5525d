//! Bounded, typed access to a published `config.json`. Every number that sizes something passes through here.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A `config.json` object with bounded getters that name the field in every error, and a record of what was read.
#[derive(Clone, Debug)]
pub struct ConfigMap {
    map: Map<String, Value>,
    /// Where it stands in the document, such as `text_config.`; empty for the whole of it.
    place: String,
    /// Fields of the whole document that somebody asked for; copies share it.
    read: Arc<Mutex<BTreeSet<String>>>,
}

impl ConfigMap {
    /// Wraps a parsed document; it must be an object.
    pub fn new(value: Value) -> Result<Self> {
        match value {
            Value::Object(map) => Ok(ConfigMap { map, place: String::new(), read: Arc::default() }),
            other => Err(Error::config("config.json", format!("must be an object, found {}", kind(&other)))),
        }
    }

    /// The raw value, with `null` read as absent.
    pub fn get(&self, field: &str) -> Option<&Value> {
        if self.place.is_empty() {
            self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(field.to_string());
        }
        self.map.get(field).filter(|v| !v.is_null())
    }

    /// The same document with another value in a field.
    pub fn with(mut self, field: &str, value: Value) -> ConfigMap {
        self.map.insert(field.to_string(), value);
        self
    }

    /// Fields at the top of the document that hold something and that nobody has asked for.
    pub fn unread(&self) -> Vec<&str> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let held = self.map.iter().filter(|(name, value)| !value.is_null() && !read.contains(*name));
        held.map(|(name, _)| name.as_str()).collect()
    }

    /// The same document with values for fields that it does not give.
    pub fn with_defaults(&self, defaults: &[(&str, Value)]) -> ConfigMap {
        let mut filled = self.clone();
        for (field, value) in defaults {
            if self.get(field).is_none() {
                filled.map.insert((*field).to_string(), value.clone());
            }
        }
        filled
    }

    /// The object in a field, whose errors name the field in front of their own; `None` where it is absent.
    pub fn sub(&self, field: &str) -> Result<Option<ConfigMap>> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(ConfigMap { map: map.clone(), place: self.at(field) + ".", read: self.read.clone() }))
            }
            Some(other) => Err(Error::config(self.at(field), format!("must be an object, found {}", kind(other)))),
        }
    }

    /// The same where absent fields have these values: the defaults of a family that reads another's fields.
    pub fn or(&self, defaults: &[(&str, Value)]) -> ConfigMap {
        let mut filled = self.clone();
        for (field, value) in defaults.iter().filter(|(field, _)| self.get(field).is_none()) {
            filled.map.insert((*field).to_string(), value.clone());
        }
        filled
    }

    /// The dotted name of a field in the document.
    pub fn at(&self, field: &str) -> String {
        format!("{}{field}", self.place)
    }

    /// The whole object.
    pub fn as_map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// Integer within `1..=max`; absent gives `default`, or an error where there is none.
    pub fn size(&self, field: &str, default: Option<usize>, max: usize) -> Result<usize> {
        let n = self.int(field, default, max)?;
        if n == 0 {
            return Err(Error::config(self.at(field), format!("is 0, must be 1 to {max}")));
        }
        Ok(n)
    }

    /// Integer within `0..=max`.
    pub fn int(&self, field: &str, default: Option<usize>, max: usize) -> Result<usize> {
        match self.get(field) {
            None => default.ok_or_else(|| Error::config(self.at(field), "is missing")),
            Some(v) => match v.as_u64() {
                Some(n) if n <= max as u64 => Ok(n as usize),
                _ => Err(Error::config(self.at(field), format!("is {}, must be a whole number up to {max}", brief(v)))),
            },
        }
    }

    /// Finite number within `min..=max`.
    pub fn float(&self, field: &str, default: f64, min: f64, max: f64) -> Result<f64> {
        match self.get(field) {
            None => Ok(default),
            Some(v) => match v.as_f64() {
                Some(x) if (min..=max).contains(&x) => Ok(x),
                _ => {
                    Err(Error::config(self.at(field), format!("is {}, must be a number from {min} to {max}", brief(v))))
                }
            },
        }
    }

    /// Token ids within `0..=max`, given as one or as a list.
    pub fn ids(&self, field: &str, default: usize, max: usize) -> Result<Vec<u32>> {
        let Some(Value::Array(list)) = self.get(field) else {
            return Ok(vec![self.int(field, Some(default), max)? as u32]);
        };
        let one = |v: &Value| v.as_u64().filter(|n| *n <= max as u64).map(|n| n as u32);
        match list.iter().map(one).collect::<Option<Vec<u32>>>() {
            Some(ids) if !ids.is_empty() && ids.len() <= 64 => Ok(ids),
            _ => Err(Error::config(self.at(field), format!("must be one id or up to 64, each at most {max}"))),
        }
    }

    /// Boolean.
    pub fn flag(&self, field: &str, default: bool) -> Result<bool> {
        match self.get(field) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => Err(Error::config(self.at(field), format!("is {}, must be true or false", brief(v)))),
        }
    }

    /// Text.
    pub fn text(&self, field: &str, default: &str) -> Result<String> {
        match self.get(field) {
            None => Ok(default.to_string()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(v) => Err(Error::config(self.at(field), format!("is {}, must be text", brief(v)))),
        }
    }

    /// `n` or `[h, w]`, each within `1..=max`.
    pub fn pair(&self, field: &str, default: usize, max: usize) -> Result<(usize, usize)> {
        match self.get(field) {
            Some(Value::Array(v)) => match v.as_slice() {
                [h, w] => Ok((self.one(field, h, max)?, self.one(field, w, max)?)),
                _ => Err(Error::config(self.at(field), "must be one number or two")),
            },
            _ => self.size(field, Some(default), max).map(|n| (n, n)),
        }
    }

    fn one(&self, field: &str, v: &Value, max: usize) -> Result<usize> {
        match v.as_u64() {
            Some(n) if n >= 1 && n <= max as u64 => Ok(n as usize),
            _ => Err(Error::config(self.at(field), format!("is {}, must be a whole number from 1 to {max}", brief(v)))),
        }
    }

    /// One whole number per stage, each within `1..=max`; a single number stands for all `stages`.
    pub fn stages(&self, field: &str, default: &[usize], stages: Option<usize>, max: usize) -> Result<Vec<usize>> {
        let list = match self.get(field) {
            None => default.to_vec(),
            Some(Value::Array(v)) if v.len() <= MAX_STAGES => {
                v.iter().map(|v| self.one(field, v, max)).collect::<Result<_>>()?
            }
            Some(Value::Array(v)) => return Err(Error::config(self.at(field), format!("has {} entries", v.len()))),
            Some(v) => vec![self.one(field, v, max)?; stages.unwrap_or(1)],
        };
        match stages {
            Some(n) if n != list.len() => {
                Err(Error::config(self.at(field), format!("has {} entries for {n} stages", list.len())))
            }
            _ if list.is_empty() => Err(Error::config(self.at(field), "is empty")),
            _ => Ok(list),
        }
    }

    /// Two finite numbers within `min..=max`.
    pub fn floats(&self, field: &str, default: [f64; 2], min: f64, max: f64) -> Result<[f64; 2]> {
        let Some(v) = self.get(field) else { return Ok(default) };
        let list: Vec<f64> = v.as_array().into_iter().flatten().take(3).filter_map(Value::as_f64).collect();
        match list.as_slice() {
            [a, b] if [a, b].iter().all(|x| (min..=max).contains(*x)) => Ok([*a, *b]),
            _ => {
                Err(Error::config(self.at(field), format!("is {}, must be two numbers from {min} to {max}", brief(v))))
            }
        }
    }

    /// One number per stage, each within `min..=max`; a single number stands for all, in `default` too.
    pub fn stage_floats(&self, field: &str, default: &[f64], stages: usize, min: f64, max: f64) -> Result<Vec<f64>> {
        let one = |v: &Value| v.as_f64().filter(|x| (min..=max).contains(x));
        self.each_stage(field, default, stages, one, &format!("a number from {min} to {max}"))
    }

    /// A boolean per stage; a single one stands for all.
    pub fn stage_flags(&self, field: &str, default: bool, stages: usize) -> Result<Vec<bool>> {
        self.each_stage(field, &[default], stages, Value::as_bool, "true or false")
    }

    fn each_stage<T: Copy>(
        &self,
        field: &str,
        default: &[T],
        stages: usize,
        one: impl Fn(&Value) -> Option<T>,
        what: &str,
    ) -> Result<Vec<T>> {
        let list = match self.get(field) {
            None if default.len() == 1 => Some(vec![default[0]; stages]),
            None => Some(default.to_vec()),
            Some(Value::Array(v)) => v.iter().take(MAX_STAGES + 1).map(one).collect(),
            Some(v) => one(v).map(|x| vec![x; stages]),
        };
        list.filter(|l| l.len() == stages)
            .ok_or_else(|| Error::config(self.at(field), format!("must be {what}, or one for each of {stages} stages")))
    }

    /// A list with a number of entries within `len`, each read by `one`; `None` where it is absent. `what` says what its
    /// entries must be.
    pub fn list<T>(
        &self,
        field: &str,
        len: RangeInclusive<usize>,
        what: &str,
        one: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let entries = value.as_array().filter(|l| len.contains(&l.len()));
        match entries.and_then(|l| l.iter().map(one).collect()) {
            Some(list) => Ok(Some(list)),
            None => {
                let (least, most) = len.into_inner();
                let n = if least == most { most.to_string() } else { format!("{least} to {most}") };
                Err(Error::config(self.at(field), format!("must be a list of {n} {what}")))
            }
        }
    }

    /// What one of several words stands for.
    pub fn one_of<T: Copy>(&self, field: &str, default: &str, words: &[(&str, T)]) -> Result<T> {
        let text = self.text(field, default)?;
        words.iter().find(|(word, _)| *word == text).map(|(_, means)| *means).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Error::unsupported(self.at(field), text, words.join(", "))
        })
    }

    /// Refuses any value of `field` but `allowed` (absent is allowed).
    pub fn only(&self, field: &str, allowed: &[Value]) -> Result<()> {
        match self.get(field) {
            Some(v) if !allowed.contains(v) => {
                let names: Vec<_> = allowed.iter().map(Value::to_string).collect();
                Err(Error::unsupported(self.at(field), brief(v), names.join(", ")))
            }
            _ => Ok(()),
        }
    }

    /// Number of classes: `num_labels`, else the size of `id2label`, else 2 (as Hugging Face reads it).
    pub fn n_labels(&self) -> Result<usize> {
        if self.get("num_labels").is_some() {
            return self.size("num_labels", None, MAX_LABELS);
        }
        match self.get("id2label") {
            Some(Value::Object(m)) if !m.is_empty() && m.len() <= MAX_LABELS => Ok(m.len()),
            Some(Value::Object(m)) => Err(Error::config(self.at("id2label"), format!("has {} entries", m.len()))),
            Some(v) => Err(Error::config(self.at("id2label"), format!("is {}, must be an object", brief(v)))),
            None => Ok(2),
        }
    }

    /// Name of a class: what `id2label` says, else `LABEL_i`, as Hugging Face has it.
    pub fn label(&self, i: usize) -> String {
        let named = self.get("id2label").and_then(|map| map.get(i.to_string())?.as_str());
        named.map_or_else(|| format!("LABEL_{i}"), str::to_string)
    }

    /// The first entry of `architectures`.
    pub fn architecture(&self) -> Option<&str> {
        self.get("architectures")?.as_array()?.first()?.as_str()
    }
}

/// Largest width of any layer.
pub const MAX_DIM: usize = 65_536;
/// Largest number of blocks.
pub const MAX_DEPTH: usize = 4_096;
/// Most stages of a pyramid.
pub const MAX_STAGES: usize = 8;
/// Largest number of heads.
pub const MAX_HEADS: usize = 1_024;
/// Largest vocabulary.
pub const MAX_VOCAB: usize = 4_000_000;
/// Largest number of positions.
pub const MAX_POSITIONS: usize = 1 << 20;
/// Largest number of classes.
pub const MAX_LABELS: usize = 1_000_000;
/// Largest image side in pixels.
pub const MAX_SIDE: usize = 16_384;

/// A whole number within bounds; for the entries of [`ConfigMap::list`].
pub fn whole(v: &Value, bounds: RangeInclusive<usize>) -> Option<usize> {
    v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| bounds.contains(n))
}

fn kind(v: &Value) -> &'static str {
    match v {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

pub(crate) fn brief(v: &Value) -> String {
    let text = v.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}...", &text[..cut]),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_lists_and_words() {
        let c = ConfigMap::new(json!({"text": {"heads": 0, "deep": {"act": "gelu"}}, "sizes": [1, 2], "vision": 3}))
            .unwrap();
        let text = c.sub("text").unwrap().unwrap();
        let error = text.size("heads", None, 9).unwrap_err().to_string();
        assert!(error.contains("`text.heads`"), "{error}");
        let deep = text.sub("deep").unwrap().unwrap();
        assert_eq!(deep.one_of("act", "relu", &[("relu", 1), ("gelu", 2)]).unwrap(), 2);
        assert_eq!(deep.one_of("none", "relu", &[("relu", 1)]).unwrap(), 1);
        let error = deep.one_of("act", "relu", &[("relu", 1), ("silu", 2)]).unwrap_err().to_string();
        assert!(error.contains("`text.deep.act` = gelu") && error.contains("relu, silu"), "{error}");
        assert!(c.sub("absent").unwrap().is_none() && c.sub("vision").is_err());
        let sizes = |len, most| c.list("sizes", len, "sizes", |v| whole(v, 1..=most));
        assert_eq!(sizes(2..=2, 2).unwrap(), Some(vec![1, 2]));
        for (len, most) in [(3..=3, 2), (2..=2, 1)] {
            assert!(sizes(len.clone(), most).unwrap_err().to_string().contains(&format!("{} sizes", len.end())));
        }
        assert_eq!(c.list("absent", 1..=2, "sizes", |v| whole(v, 1..=1)).unwrap(), None);
        assert!(c.list("vision", 1..=2, "sizes", |v| whole(v, 1..=9)).is_err());
    }
}
