//! Ragged batches: packed rows and where each came from. Padding does not exist inside the engine.

use std::sync::Arc;

use crate::error::{Error, Result};

/// The shape of a packed batch: rows of all members one after another, `cu[i]..cu[i + 1]` being member `i`.
///
/// Also remembers which member of the original batch each segment is and which original position each row had, so
/// that results find their way back after members left (exits) or rows disappeared (token pruning).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    cu: Arc<[u32]>,
    members: Arc<[u32]>,
    positions: Arc<[u32]>,
    /// Whether each row is looked at by others, where some are not.
    seen: Option<Arc<[bool]>>,
    /// The map that every segment holds, where it holds a whole one.
    maps: Option<Maps>,
}

/// Maps of a batch: of each segment the rows behind its first `prefix` ones, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Maps {
    prefix: usize,
    sizes: Arc<[Size]>,
}

/// Height and width of a map of rows.
pub type Size = (usize, usize);

impl Rows {
    /// A fresh batch with the given lengths (rows per member).
    pub fn new(lens: &[usize]) -> Result<Self> {
        let mut cu = Vec::with_capacity(lens.len() + 1);
        let mut total = 0usize;
        cu.push(0);
        for len in lens {
            total = total.checked_add(*len).filter(|t| *t <= MAX_ROWS).ok_or_else(|| Error::Limit {
                what: "rows in a batch".into(),
                got: lens.iter().fold(0u64, |a, l| a.saturating_add(*l as u64)),
                max: MAX_ROWS as u64,
                hint: "send a smaller batch".into(),
            })?;
            cu.push(total as u32);
        }
        let positions = lens.iter().flat_map(|len| 0..*len as u32).collect();
        Ok(Rows { cu: cu.into(), members: (0..lens.len() as u32).collect(), positions, seen: None, maps: None })
    }

    /// `n` members of `len` rows each.
    pub fn equal(n: usize, len: usize) -> Result<Self> {
        Rows::new(&vec![len; n])
    }

    /// Members that are maps, height times width rows each, row by row; they need not be equally large.
    pub fn maps(sizes: &[Size]) -> Result<Self> {
        Rows::maps_behind(0, sizes)
    }

    /// Members that are `prefix` rows (class tokens) and a map behind them, row by row.
    pub fn maps_behind(prefix: usize, sizes: &[Size]) -> Result<Self> {
        let lens: Vec<usize> = sizes.iter().map(|(h, w)| h.saturating_mul(*w).saturating_add(prefix)).collect();
        Ok(Rows { maps: Some(Maps { prefix, sizes: sizes.into() }), ..Rows::new(&lens)? })
    }

    /// The maps of the same members at other sizes (after a patch merge).
    pub fn resized(&self, sizes: &[Size]) -> Result<Rows> {
        Rows::maps(sizes)?.of_members(&self.members)
    }

    /// Height and width of every segment. Errors where rows were dropped, never were a map, or have a prefix.
    pub fn sizes(&self) -> Result<&[Size]> {
        match &self.maps {
            Some(Maps { prefix: 0, sizes }) => Ok(sizes),
            Some(Maps { prefix, .. }) => {
                Err(Error::input(format!("a layer over maps met {prefix} rows in front of each map"), "split them off"))
            }
            None => Err(no_map()),
        }
    }

    /// The map that segment `i` holds: how many rows stand in front of it, and its height and width. `None` where rows were
    /// dropped or never held a map.
    pub fn map(&self, i: usize) -> Option<(usize, Size)> {
        let maps = self.maps.as_ref()?;
        Some((maps.prefix, *maps.sizes.get(i)?))
    }

    /// The maps alone, without the rows in front of them: packed indices to gather, and their shape. Errors where rows
    /// were dropped or never held a map.
    pub fn split_maps(&self) -> Result<(Vec<u32>, Rows)> {
        let maps = self.maps.as_ref().ok_or_else(no_map)?;
        let gather = (0..self.n()).flat_map(|i| self.cu[i] + maps.prefix as u32..self.cu[i + 1]).collect();
        Ok((gather, Rows::maps(&maps.sizes)?.of_members(&self.members)?))
    }

    /// The same members with these positions, where rows do not count from 0 one by one (gaps in a padded tensor,
    /// steps of a decoder).
    pub fn at_positions(self, positions: &[u32]) -> Result<Rows> {
        if positions.len() != self.total() {
            return Err(Error::shape("rows.positions", format!("[{}]", self.total()), &[positions.len()]));
        }
        Ok(Rows { positions: positions.into(), ..self })
    }

    /// The same rows for these members of the original batch.
    pub fn of_members(self, members: &[u32]) -> Result<Rows> {
        if members.len() != self.n() {
            return Err(Error::shape("rows.members", format!("[{}]", self.n()), &[members.len()]));
        }
        Ok(Rows { members: members.into(), ..self })
    }

    /// The same rows, of which others look at the first `first[i]` of segment `i` alone: rows behind them read and are not
    /// read (the tokens that ColBERT fills a query up with). Errors unless something is left to look at.
    pub fn seen_first(self, first: &[usize]) -> Result<Rows> {
        if first.len() != self.n()
            || (0..self.n()).any(|i| first[i] > self.len(i) || (first[i] == 0 && self.len(i) > 0))
        {
            return Err(Error::shape("rows.seen", format!("1 to {:?} rows", self.lens()), first));
        }
        if (0..self.n()).all(|i| first[i] == self.len(i)) {
            return Ok(Rows { seen: None, ..self });
        }
        let seen = (0..self.n()).flat_map(|i| (0..self.len(i)).map(move |row| row < first[i])).collect();
        Ok(Rows { seen: Some(seen), ..self })
    }

    /// The rows that others look at, where these are not all: packed indices to gather, and their shape.
    pub fn seen(&self) -> Option<(Vec<u32>, Rows)> {
        let seen = self.seen.as_ref()?;
        let of =
            |i: usize| self.range(i).filter(|row| seen[*row]).map(|row| (row - self.range(i).start) as u32).collect();
        let (gather, rows) = self.keep(&(0..self.n()).map(of).collect::<Vec<_>>()).ok()?;
        Some((gather, Rows { seen: None, ..rows }))
    }

    /// What is said of whether rows are looked at, for some of them.
    fn seen_of(&self, gather: &[u32]) -> Option<Arc<[bool]>> {
        self.seen.as_ref().map(|seen| gather.iter().map(|g| seen[*g as usize]).collect())
    }

    /// Number of members still in the batch.
    pub fn n(&self) -> usize {
        self.members.len()
    }

    /// Number of rows of all members.
    pub fn total(&self) -> usize {
        self.positions.len()
    }

    /// Rows of segment `i`.
    pub fn len(&self, i: usize) -> usize {
        (self.cu[i + 1] - self.cu[i]) as usize
    }

    /// Whether there is no row at all.
    pub fn is_empty(&self) -> bool {
        self.positions.is_empty()
    }

    /// Packed row range of segment `i`.
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.cu[i] as usize..self.cu[i + 1] as usize
    }

    /// Lengths of all segments.
    pub fn lens(&self) -> Vec<usize> {
        (0..self.n()).map(|i| self.len(i)).collect()
    }

    /// Cumulative lengths, `n + 1` entries.
    pub fn cu(&self) -> &[u32] {
        &self.cu
    }

    /// The longest segment.
    pub fn max_len(&self) -> usize {
        (0..self.n()).map(|i| self.len(i)).max().unwrap_or(0)
    }

    /// The common length when all segments are equally long and not empty.
    pub fn equal_len(&self) -> Option<usize> {
        let first = if self.n() == 0 { return None } else { self.len(0) };
        (first > 0 && (1..self.n()).all(|i| self.len(i) == first)).then_some(first)
    }

    /// Position in the original batch of each segment.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Original position within its member of each row.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Packed index of the first row of each segment (the class token of a Transformer encoder).
    pub fn firsts(&self) -> Vec<u32> {
        self.cu[..self.n()].to_vec()
    }

    /// Keeps the named rows. `kept[i]` are ascending row offsets within segment `i`. Returns the packed indices to
    /// gather and the new shape.
    pub fn keep(&self, kept: &[Vec<u32>]) -> Result<(Vec<u32>, Rows)> {
        if kept.len() != self.n() {
            return Err(Error::shape("rows.keep", format!("{} lists", self.n()), &[kept.len()]));
        }
        let mut gather = Vec::new();
        let mut cu = vec![0u32];
        for (i, list) in kept.iter().enumerate() {
            let len = self.len(i) as u32;
            if list.windows(2).any(|w| w[0] >= w[1]) || list.last().is_some_and(|l| *l >= len) {
                return Err(Error::shape("rows.keep", format!("ascending offsets below {len}"), &[i]));
            }
            gather.extend(list.iter().map(|o| self.cu[i] + o));
            cu.push(gather.len() as u32);
        }
        let positions = gather.iter().map(|g| self.positions[*g as usize]).collect();
        let seen = self.seen_of(&gather);
        Ok((gather, Rows { cu: cu.into(), members: self.members.clone(), positions, seen, maps: None }))
    }

    /// Puts the segments of several batches together, ordered by member. Returns the packed indices to gather from the
    /// rows of all batches one after another, and their shape. Errors where a member is in two of them.
    pub fn join(parts: &[&Rows]) -> Result<(Vec<u32>, Rows)> {
        let mut segments = Vec::new(); // member, part, segment, first packed row
        let mut before = 0;
        for (p, rows) in parts.iter().enumerate() {
            segments.extend((0..rows.n()).map(|i| (rows.members[i], p, i, before + rows.cu[i])));
            before += rows.total() as u32;
        }
        segments.sort_unstable();
        if let Some(twice) = segments.windows(2).find(|w| w[0].0 == w[1].0) {
            return Err(Error::shape("rows.join", "each member once", &[twice[0].0 as usize]));
        }
        let lens: Vec<usize> = segments.iter().map(|(_, p, i, _)| parts[*p].len(*i)).collect();
        let gather = segments.iter().zip(&lens).flat_map(|((_, _, _, from), len)| *from..from + *len as u32).collect();
        let positions: Vec<u32> =
            segments.iter().flat_map(|(_, p, i, _)| parts[*p].positions[parts[*p].range(*i)].iter().copied()).collect();
        let sees = |(_, p, i, _): &(u32, usize, usize, u32)| -> Vec<bool> {
            parts[*p].range(*i).map(|row| parts[*p].seen.as_ref().is_none_or(|seen| seen[row])).collect()
        };
        let some = parts.iter().any(|rows| rows.seen.is_some());
        let seen = some.then(|| segments.iter().flat_map(sees).collect());
        let members: Vec<u32> = segments.iter().map(|s| s.0).collect();
        let prefix = parts.first().and_then(|rows| rows.maps.as_ref()).map(|maps| maps.prefix);
        let size = |(_, p, i, _): &(u32, usize, usize, u32)| {
            parts[*p].maps.as_ref().filter(|maps| Some(maps.prefix) == prefix).map(|maps| maps.sizes[*i])
        };
        let sizes: Option<Arc<[Size]>> = segments.iter().map(size).collect();
        let maps = prefix.zip(sizes).map(|(prefix, sizes)| Maps { prefix, sizes });
        Ok((gather, Rows { maps, seen, ..Rows::new(&lens)?.at_positions(&positions)?.of_members(&members)? }))
    }

    /// Keeps whole segments, named by ascending index. Returns the packed indices to gather and the new shape.
    pub fn select(&self, segments: &[usize]) -> (Vec<u32>, Rows) {
        let mut gather = Vec::new();
        let mut cu = vec![0u32];
        for s in segments {
            gather.extend(self.cu[*s]..self.cu[*s + 1]);
            cu.push(gather.len() as u32);
        }
        let positions = gather.iter().map(|g| self.positions[*g as usize]).collect();
        let members = segments.iter().map(|s| self.members[*s]).collect();
        let maps = self
            .maps
            .as_ref()
            .map(|maps| Maps { prefix: maps.prefix, sizes: segments.iter().map(|s| maps.sizes[*s]).collect() });
        let seen = self.seen_of(&gather);
        (gather, Rows { cu: cu.into(), members, positions, seen, maps })
    }
}

fn no_map() -> Error {
    Error::input("a layer over maps met rows that are no map", "rows of a map cannot be dropped one by one")
}

/// Most rows one batch may hold.
pub const MAX_ROWS: usize = 1 << 24;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn maps_stand_behind_a_prefix() {
        let rows = Rows::maps_behind(2, &[(1, 2), (2, 2), (3, 1)]).unwrap();
        assert_eq!(rows.lens(), [4, 6, 5]);
        assert_eq!((rows.map(1), rows.map(3)), (Some((2, (2, 2))), None));
        assert!(rows.sizes().is_err(), "a layer over maps must not take class tokens for a part of the map");

        let (gather, map) = rows.split_maps().unwrap();
        assert_eq!(gather, [2, 3, 6, 7, 8, 9, 12, 13, 14]);
        assert_eq!(map.sizes().unwrap(), [(1, 2), (2, 2), (3, 1)]);
        assert_eq!(map.positions(), [0, 1, 0, 1, 2, 3, 0, 1, 2]);

        let (gather, map) = rows.select(&[0, 2]).1.split_maps().unwrap();
        assert_eq!((gather, map.members()), (vec![2, 3, 6, 7, 8], &[0, 2][..]));
        assert_eq!(map.sizes().unwrap(), [(1, 2), (3, 1)]);
    }

    #[test]
    fn rows_that_nobody_looks_at_stay_so() {
        let rows = Rows::new(&[3, 2, 1]).unwrap().seen_first(&[2, 2, 1]).unwrap();
        let (gather, keys) = rows.seen().unwrap();
        assert_eq!((gather, keys.lens(), keys.positions()), (vec![0, 1, 3, 4, 5], vec![2, 2, 1], &[0, 1, 0, 1, 0][..]));
        assert!(keys.seen().is_none());
        let (_, fewer) = rows.keep(&[vec![0, 2], vec![1], vec![]]).unwrap();
        assert_eq!(fewer.seen().unwrap().0, [0, 2]);
        let (_, first) = rows.select(&[0]);
        let (_, last) = rows.select(&[1, 2]);
        assert_eq!(Rows::join(&[&last, &first]).unwrap().1, rows);
        assert!(Rows::new(&[2]).unwrap().seen_first(&[2]).unwrap().seen().is_none(), "all are looked at");
        for wrong in [&[0][..], &[3], &[1, 1]] {
            assert!(Rows::new(&[2]).unwrap().seen_first(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn rows_that_were_dropped_are_no_map() {
        let rows = Rows::maps_behind(1, &[(1, 2)]).unwrap();
        let fewer = rows.keep(&[vec![0, 2]]).unwrap().1;
        assert!(fewer.split_maps().is_err() && fewer.map(0).is_none());
        assert!(Rows::equal(1, 4).unwrap().split_maps().is_err());
        assert!(Rows::maps_behind(usize::MAX, &[(2, 2)]).is_err(), "an overflow is an error");
        let whole = Rows::maps(&[(2, 1)]).unwrap();
        assert_eq!(whole.split_maps().unwrap(), (vec![0, 1], whole));
    }
}
