//! What a pass remembers of the ones before it, so that a text is read once and then written token by token.

use std::any::Any;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Debug;
use std::sync::Arc;

use switchformer_tensor::Tensor;

use crate::error::{Error, Result};
use crate::ops::{self, KeyValueSlab};
use crate::path::Site;
use crate::rows::Rows;

/// Where on a path something is remembered: the block and its lap, and the name of the layer's taps.
pub(crate) type Place = (Site, &'static str);

/// What an attention remembers of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The heads that a point keeps, where these are not all.
    pub(crate) kept: Option<Arc<[usize]>>,
    /// Heads of keys and values.
    pub(crate) heads: usize,
    /// Widths of a head of keys and of one of values.
    pub(crate) widths: [usize; 2],
}

/// What the layers of a model remember of each member of a batch.
///
/// Segment `i` of a pass goes on with segment `i` of the memory. Members may be of any age: [`Memory::join`] takes in
/// members that were read elsewhere, [`Memory::select`] lets members go or go on in several ways. After a
/// pass that failed the memory is to be dropped; one that misses rows is refused.
#[derive(Debug)]
pub struct Memory {
    /// Rows of the text so far, of every member.
    rows: Rows,
    /// Their numbers before the present pass.
    before: Vec<usize>,
    layers: BTreeMap<Place, Box<dyn Remember>>,
}

/// What one layer remembers: keys and values, or the state of a recurrence.
pub trait Remember: Any + Debug + Send + Sync {
    /// Segment `i` goes on as the old `segments[i]`; the others are forgotten. One may be named several times.
    fn select(&mut self, segments: &[usize]);
    /// Errors where segments of another memory cannot stand behind its own.
    fn fits(&self, other: &dyn Remember) -> Result<()>;
    /// Takes in the segments of another memory of the same layer that [`Remember::fits`], behind its own.
    fn join(&mut self, other: Box<dyn Remember>) -> Result<()>;
    /// Rows remembered of a segment.
    fn len(&self, segment: usize) -> usize;
    /// Bytes held.
    fn bytes(&self) -> usize;
}

impl Memory {
    /// Nothing yet of `n` members, numbered from 0.
    pub fn new(n: usize) -> Result<Memory> {
        Memory::of_members(&(0..n as u32).collect::<Vec<_>>())
    }

    /// Nothing yet of these members of a request.
    pub fn of_members(members: &[u32]) -> Result<Memory> {
        let rows = Rows::equal(members.len(), 0)?.of_members(members)?;
        Ok(Memory { rows, before: vec![0; members.len()], layers: BTreeMap::new() })
    }

    /// The text so far: rows of every member.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Whether nothing is remembered yet.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Bytes held by all layers.
    pub fn bytes(&self) -> usize {
        self.layers.values().map(|l| l.bytes()).sum()
    }

    /// Puts the rows of a pass behind those of the text so far, for a stem: the same rows at their places in the whole
    /// text. Errors where the members are not those remembered, or some have no text yet and others have.
    pub fn place(&mut self, rows: &Rows) -> Result<Rows> {
        if rows.n() != self.rows.n() {
            return Err(Error::shape("members of a pass with memory", format!("[{}]", self.rows.n()), &[rows.n()]));
        }
        let lens = self.rows.lens();
        if !self.is_empty() && lens.contains(&0) {
            let hint = "read them with a memory of their own, then join it";
            return Err(Error::input("members without a text among members with one", hint));
        }
        let mut positions = Vec::with_capacity(rows.total());
        for i in 0..rows.n() {
            let last = self.rows.positions()[self.rows.range(i)].last();
            let next = last.map_or(0, |p| p + 1);
            positions.extend(rows.positions()[rows.range(i)].iter().map(|p| next + p));
        }
        let placed = rows.clone().at_positions(&positions)?.of_members(self.rows.members())?;
        self.rows = extended(&self.rows, &(0..rows.n()).collect::<Vec<_>>(), &placed)?;
        self.before = lens;
        Ok(placed)
    }

    /// Segment `i` goes on as the old `segments[i]`; the others are forgotten. One may be named several times, and then
    /// goes on in several ways (beams).
    pub fn select(&mut self, segments: &[usize]) -> Result<()> {
        let n = self.rows.n();
        if let Some(bad) = segments.iter().find(|s| **s >= n) {
            return Err(Error::shape("segments of a memory", format!("below {n}"), &[*bad]));
        }
        if segments.iter().copied().eq(0..n) {
            return Ok(());
        }
        self.rows = self.rows.select(segments).1;
        self.before = segments.iter().map(|s| self.before[*s]).collect();
        self.layers.values_mut().for_each(|l| l.select(segments));
        Ok(())
    }

    /// Takes in members that were read elsewhere, behind its own. Errors where their passes ran other layers.
    pub fn join(&mut self, other: Memory) -> Result<()> {
        if self.rows.n() == 0 {
            *self = other;
            return Ok(());
        }
        if !self.layers.keys().eq(other.layers.keys()) {
            let hint = "run both up to here, at points with the same exit";
            return Err(Error::input("memories of passes that ran different layers cannot be joined", hint));
        }
        for (mine, theirs) in self.layers.values().zip(other.layers.values()) {
            mine.fits(theirs.as_ref())?;
        }
        self.rows = behind(&self.rows, &other.rows)?;
        self.before.extend(other.before);
        for (mine, theirs) in self.layers.values_mut().zip(other.layers.into_values()) {
            mine.join(theirs)?;
        }
        Ok(())
    }

    /// The segment of each member that is still in a pass, in order.
    pub(crate) fn segments(&self, members: &[u32]) -> Result<Vec<usize>> {
        let all = self.rows.members();
        if members == all {
            return Ok((0..all.len()).collect());
        }
        let of = |m: &u32| {
            let mut at = all.iter().enumerate().filter(|(_, own)| *own == m).map(|(i, _)| i);
            at.next().filter(|_| at.next().is_none()).ok_or_else(|| {
                let what = format!("member {m} of a pass is not one of its memory's, or several beams of it");
                Error::input(what, "select the memory to the members of the pass")
            })
        };
        members.iter().map(of).collect()
    }

    /// Adds keys and values of rows of the present pass; `own` where they are the rows that [`Memory::place`] placed.
    /// Shapes: k `[rows, heads * head_dim]`, v `[rows, heads * value_dim]`.
    pub(crate) fn extend(
        &mut self,
        at: Place,
        layout: &Layout,
        kv: [&Tensor; 2],
        rows: &Rows,
        own: bool,
    ) -> Result<Kept<'_>> {
        let segments = self.segments(rows.members())?;
        let none = || Rows::equal(self.rows.n(), 0)?.of_members(self.rows.members());
        let layer = match self.layers.entry(at) {
            Entry::Occupied(layer) => layer.into_mut(),
            Entry::Vacant(place) => place.insert(Box::new(KeyValueCache::new(none()?, layout))),
        };
        let layer: &mut dyn Any = layer.as_mut();
        let cache: &mut KeyValueCache = layer.downcast_mut().ok_or_else(|| mixed_up(at.1))?;
        cache.matches(layout, "this step keeps other heads than those that its memory is of")?;
        if let Some(i) = segments.iter().position(|s| cache.len(*s) != self.before[*s]) {
            let (site, member) = (at.0, rows.members()[i]);
            return Err(Error::point(
                format!("{site} has no keys of member {member}, which left before it in an earlier step"),
                "a member keeps its exit and its path while it writes: give the same fixed `exit` to every step",
            ));
        }
        let whole = own && segments.len() == self.rows.n();
        cache.rows = if whole { self.rows.clone() } else { extended(&cache.rows, &segments, rows)? };
        ops::extend_slabs(&mut cache.slabs, &segments, rows, kv)?;
        Ok(cache.kept(&segments))
    }

    /// What a layer remembers of the members of a pass. Errors where it remembers nothing.
    pub(crate) fn known(&self, at: Place, layout: &Layout, members: &[u32]) -> Result<Kept<'_>> {
        let layer: &dyn Any = self.layers.get(&at).map(Box::as_ref).ok_or_else(|| {
            let what = format!("{}.{} remembers no source", at.0, at.1);
            Error::input(what, "read one first, with the same memory")
        })?;
        let cache: &KeyValueCache = layer.downcast_ref().ok_or_else(|| mixed_up(at.1))?;
        cache.matches(layout, "this step keeps other heads than those that its memory is of")?;
        Ok(cache.kept(&self.segments(members)?))
    }
}

fn mixed_up(layer: &str) -> Error {
    Error::input(format!("two kinds of memory for the layer `{layer}`"), "use one memory for one model")
}

/// Keys and values of an attention: a slab per member, which grows in place and is copied only where beams part.
#[derive(Debug)]
struct KeyValueCache {
    layout: Layout,
    rows: Rows,
    slabs: Vec<Arc<KeyValueSlab>>,
}

impl KeyValueCache {
    fn new(rows: Rows, layout: &Layout) -> Self {
        let n = rows.n();
        // They share nothing yet, so one empty slab stands for all until a member writes.
        let empty = Arc::new(KeyValueSlab::new(layout.heads, layout.widths));
        KeyValueCache { layout: layout.clone(), rows, slabs: std::iter::repeat_n(empty, n).collect() }
    }

    /// Errors where keys and values of another layout would stand beside those that are there.
    fn matches(&self, layout: &Layout, other_heads: &str) -> Result<()> {
        if self.layout.kept != layout.kept {
            let hint = "a text is read and written by the same heads: give the same `heads` to every step";
            return Err(Error::point(other_heads, hint));
        }
        if self.layout == *layout { Ok(()) } else { Err(mixed_up("attention")) }
    }

    fn kept(&self, segments: &[usize]) -> Kept<'_> {
        let all = segments.len() == self.slabs.len();
        Kept {
            rows: if all { self.rows.clone() } else { self.rows.select(segments).1 },
            slabs: segments.iter().map(|s| self.slabs[*s].as_ref()).collect(),
        }
    }
}

impl Remember for KeyValueCache {
    fn select(&mut self, segments: &[usize]) {
        self.rows = self.rows.select(segments).1;
        self.slabs = segments.iter().map(|s| self.slabs[*s].clone()).collect();
    }
    fn fits(&self, other: &dyn Remember) -> Result<()> {
        let other: &dyn Any = other;
        let other: &KeyValueCache = other.downcast_ref().ok_or_else(|| mixed_up("attention"))?;
        self.matches(&other.layout, "memories of passes that kept different heads cannot be joined")
    }
    fn join(&mut self, other: Box<dyn Remember>) -> Result<()> {
        let other: Box<dyn Any> = other;
        let other: Box<KeyValueCache> = other.downcast().map_err(|_| mixed_up("attention"))?;
        self.rows = behind(&self.rows, &other.rows)?;
        self.slabs.extend(other.slabs);
        Ok(())
    }
    fn len(&self, segment: usize) -> usize {
        self.rows.len(segment)
    }
    fn bytes(&self) -> usize {
        self.slabs.iter().map(|s| s.bytes()).sum()
    }
}

/// `old` with the segments of `new` behind the old ones `segments`, ascending.
fn extended(old: &Rows, segments: &[usize], new: &Rows) -> Result<Rows> {
    let (mut lens, mut positions) = (old.lens(), Vec::with_capacity(old.total() + new.total()));
    let mut more = segments.iter().enumerate().peekable();
    for (s, len) in lens.iter_mut().enumerate() {
        positions.extend_from_slice(&old.positions()[old.range(s)]);
        if let Some((i, _)) = more.next_if(|(_, at)| **at == s) {
            positions.extend_from_slice(&new.positions()[new.range(i)]);
            *len += new.len(i);
        }
    }
    Rows::new(&lens)?.at_positions(&positions)?.of_members(old.members())
}

/// The segments of both.
fn behind(first: &Rows, second: &Rows) -> Result<Rows> {
    let both = |a: &[u32], b: &[u32]| [a, b].concat();
    Rows::new(&[first.lens(), second.lens()].concat())?
        .at_positions(&both(first.positions(), second.positions()))?
        .of_members(&both(first.members(), second.members()))
}

/// What is remembered of the members of a pass.
pub(crate) struct Kept<'a> {
    pub(crate) rows: Rows,
    pub(crate) slabs: Vec<&'a KeyValueSlab>,
}
