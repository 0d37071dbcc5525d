//! The table: good folders, and how to damage them.

use std::path::Path;

use serde_json::Value as Json;
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes};

use crate::trust::{CONFIG, Files, MODEL, join};

/// A bad folder.
pub struct Case {
    pub name: &'static str,
    pub files: Files,
    /// What files alone cannot say: links, pipes, folders in the place of files.
    pub on_disk: fn(&Path),
    pub code: &'static str,
    /// What the message must hold: the place and the reason.
    pub says: Vec<&'static str>,
}

/// The good folders that the table damages.
pub struct Bases {
    pub bert: Files,
    pub vit: Files,
    pub shards: Files,
}

pub struct Table {
    pub bases: Bases,
    pub cases: Vec<Case>,
}

pub type Edit<'a> = &'a dyn Fn(&mut Files);

impl Table {
    pub fn add(&mut self, name: &'static str, base: &Files, edit: Edit, code: &'static str, says: &[&'static str]) {
        let mut files = base.clone();
        edit(&mut files);
        self.cases.push(Case { name, files, on_disk: |_| {}, code, says: says.to_vec() });
    }

    pub fn bert(&mut self, name: &'static str, edit: Edit, code: &'static str, says: &[&'static str]) {
        self.add(name, &self.bases.bert.clone(), edit, code, says);
    }

    pub fn vit(&mut self, name: &'static str, edit: Edit, code: &'static str, says: &[&'static str]) {
        self.add(name, &self.bases.vit.clone(), edit, code, says);
    }

    pub fn shards(&mut self, name: &'static str, edit: Edit, code: &'static str, says: &[&'static str]) {
        self.add(name, &self.bases.shards.clone(), edit, code, says);
    }

    pub fn on_disk(&mut self, act: fn(&Path)) {
        self.cases.last_mut().unwrap().on_disk = act;
    }
}

/// Replaces a file.
pub fn put(files: &mut Files, name: &str, bytes: impl Into<Vec<u8>>) {
    files.insert(name.into(), bytes.into());
}

/// Edits a JSON file as a document.
pub fn edit(files: &mut Files, name: &str, change: impl FnOnce(&mut Json)) {
    let mut doc = serde_json::from_slice(&files[name]).unwrap();
    change(&mut doc);
    put(files, name, doc.to_string());
}

/// Sets fields of a config.
pub fn set(files: &mut Files, fields: Json) {
    edit(files, CONFIG, |c| fields.as_object().unwrap().iter().for_each(|(k, v)| c[k] = v.clone()));
}

/// Replaces text of a JSON file, for what no document can say.
pub fn retext(files: &mut Files, name: &str, from: &str, to: &str) {
    let old = String::from_utf8(files[name].clone()).unwrap();
    assert!(old.contains(from), "{name} holds no {from}");
    put(files, name, old.replacen(from, to, 1));
}

/// A safetensors file with this header and `n` bytes of data.
pub fn model(files: &mut Files, head: impl AsRef<[u8]>, n: usize) {
    put(files, MODEL, join(head.as_ref(), &vec![0; n]));
}

/// One entry of a header.
pub fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!("{name:?}:{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{from},{to}]}}")
}

/// The tensors of a file, to edit and write again.
pub fn tensors(files: &mut Files, name: &str, change: impl FnOnce(&mut SavedMap)) {
    let parsed = safetensors::SafeTensors::deserialize(&files[name]).unwrap();
    let mut map: SavedMap = parsed
        .tensors()
        .into_iter()
        .map(|(n, t)| (n, Saved { dtype: t.dtype(), shape: t.shape().to_vec(), bytes: t.data().to_vec() }))
        .collect();
    change(&mut map);
    put(files, name, safetensors_bytes(&map).unwrap());
}

pub const QUERY: &str = "bert.encoder.layer.0.attention.self.query.weight";
