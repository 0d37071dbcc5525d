//! Named intermediate values of a forward pass. Free when nobody listens.

use std::collections::BTreeMap;

use switchformer_tensor::Tensor;

use crate::ops::AttentionMaps;
use crate::rows::Rows;

/// Listener for named values such as `blocks.3` or `blocks.3.attn.probs`.
///
/// Switches, golden tests, distillation and pictures read the same names. A layer asks [`Taps::wants`] before it
/// computes a value that the fast path does not need (an attention map). Maps that are large can be made later
/// ([`Taps::put_maps`]).
#[derive(Debug, Default)]
pub struct Taps {
    all: bool,
    wanted: Vec<String>,
    got: Vec<(String, Vec<Tensor>)>,
    rows: BTreeMap<String, Rows>,
    maps: Vec<(String, AttentionMaps)>,
}

impl Taps {
    /// Nobody listens.
    pub fn none() -> Self {
        Taps::default()
    }

    /// Records every tap of the model.
    pub fn all() -> Self {
        Taps { all: true, ..Taps::default() }
    }

    /// Records the named taps.
    pub fn named<I: IntoIterator<Item = S>, S: Into<String>>(names: I) -> Self {
        Taps { wanted: names.into_iter().map(Into::into).collect(), ..Taps::default() }
    }

    /// Whether anything is listened to.
    pub fn active(&self) -> bool {
        self.all || !self.wanted.is_empty()
    }

    /// Whether somebody listens to this very name: maps to be made later are for those who know them.
    pub fn asks(&self, name: &str) -> bool {
        self.wanted.iter().any(|w| w == name)
    }

    /// Whether somebody listens to `name`.
    pub fn wants(&self, name: &str) -> bool {
        self.all || self.asks(name)
    }

    /// Adds a listener.
    pub fn listen(&mut self, name: impl Into<String>) {
        self.wanted.push(name.into());
    }

    /// Records a value that is packed or per batch.
    pub fn put(&mut self, name: &str, value: &Tensor) {
        if self.wants(name) {
            self.got.push((name.to_string(), vec![value.clone()]));
        }
    }

    /// Records one value per segment (attention maps `[heads, n, n]`).
    pub fn put_each(&mut self, name: &str, values: Vec<Tensor>) {
        if self.wants(name) {
            self.got.push((name.to_string(), values));
        }
    }

    /// Records one value per segment of `rows`: whose it is, and the map it belongs to, can be asked for.
    pub fn put_each_of(&mut self, name: &str, values: Vec<Tensor>, rows: &Rows) {
        if self.wants(name) {
            self.rows.insert(name.to_string(), rows.clone());
            self.put_each(name, values);
        }
    }

    /// Keeps what maps of the segments of `rows` are made of.
    pub fn put_maps(&mut self, name: &str, maps: AttentionMaps, rows: &Rows) {
        if self.asks(name) {
            self.rows.insert(name.to_string(), rows.clone());
            self.maps.push((name.to_string(), maps));
        }
    }

    /// The latest maps of a name.
    pub fn maps(&self, name: &str) -> Option<&AttentionMaps> {
        self.maps.iter().rev().find(|(n, _)| n == name).map(|(_, maps)| maps)
    }

    /// All maps, in order of computation.
    pub fn all_maps(&self) -> &[(String, AttentionMaps)] {
        &self.maps
    }

    /// The rows that the latest value of a tap belongs to; `None` where its segments are no members (windows).
    pub fn rows(&self, name: &str) -> Option<&Rows> {
        self.rows.get(name)
    }

    /// The latest value of a tap; per-segment taps have one tensor per segment.
    pub fn get(&self, name: &str) -> Option<&[Tensor]> {
        self.got.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.as_slice())
    }

    /// Everything recorded, in order of computation.
    pub fn recorded(&self) -> &[(String, Vec<Tensor>)] {
        &self.got
    }

    /// Stops listening to and forgets a name (used by rules for what they asked for themselves).
    pub(crate) fn drop_listener(&mut self, name: &str) {
        if let Some(i) = self.wanted.iter().rposition(|w| w == name) {
            self.wanted.remove(i);
        }
        if !self.wants(name) {
            self.got.retain(|(n, _)| n != name);
            self.maps.retain(|(n, _)| n != name);
            self.rows.remove(name);
        }
    }
}
