//! Attention maps that are made when they are read, a member and a head at a time: all at once they take a number for each
//! head and pair of rows.

use std::ops::Range;

use switchformer_tensor::Tensor;

use super::attend::{AttendSpec, RelativeBias, ScoreBias, Zones};
use crate::error::{Error, Result};
use crate::rows::Rows;

/// Queries and keys of an attention, and how it attends.
#[derive(Debug)]
pub struct AttentionMaps {
    q: Tensor,
    k: Tensor,
    q_rows: Rows,
    k_rows: Rows,
    heads: usize,
    kv_heads: usize,
    scale: f64,
    causal: bool,
    window: Option<usize>,
    bias: Option<Added>,
    zones: Option<(Vec<u8>, f32)>,
}

/// [`ScoreBias`] that owns its numbers.
#[derive(Debug)]
enum Added {
    Distance { table: Tensor, max_distance: usize, bidirectional: bool },
    Pairs(Tensor),
}

impl AttentionMaps {
    /// Of queries `[queries, heads * d]` and keys `[keys, kv_heads * d]`.
    pub(crate) fn new(q: Tensor, k: Tensor, spec: &AttendSpec) -> AttentionMaps {
        let added = |bias: ScoreBias| match bias {
            ScoreBias::Pairs(t) => Added::Pairs(t.clone()),
            ScoreBias::Distance(r) => {
                let RelativeBias { table, max_distance, bidirectional } = r;
                Added::Distance { table: table.clone(), max_distance, bidirectional }
            }
        };
        AttentionMaps {
            q,
            k,
            q_rows: spec.q_rows.clone(),
            k_rows: spec.k_rows.clone(),
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            scale: spec.scale,
            causal: spec.causal,
            window: spec.window,
            bias: spec.bias.map(added),
            zones: spec.zones.map(|z| (z.of.to_vec(), z.apart)),
        }
    }

    /// Heads of the queries.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Segments.
    pub fn n(&self) -> usize {
        self.q_rows.n()
    }

    /// Queries and keys of a segment.
    pub fn size(&self, segment: usize) -> (usize, usize) {
        (self.q_rows.len(segment), self.k_rows.len(segment))
    }

    /// The map of some queries of a segment: of one head, or of all. Shapes: -> `[1 or heads, queries, keys]`.
    pub fn of(&self, segment: usize, head: Option<usize>, queries: Range<usize>) -> Result<Tensor> {
        let known = segment < self.n() && head.is_none_or(|h| h < self.heads);
        if !known || queries.start > queries.end || queries.end > self.q_rows.len(segment) {
            return Err(Error::shape(
                "attention map",
                format!("{} segments, {} heads", self.n(), self.heads),
                &[segment],
            ));
        }
        let n = self.q_rows.len(segment);
        if self.zones.is_some() && queries != (0..n) {
            // Zones are of whole segments.
            return self.of(segment, head, 0..n)?.narrow(1, queries.start, queries.len())?.contiguous();
        }
        let (asked, seen) = (self.q_rows.range(segment), self.k_rows.range(segment));
        let asked = asked.start + queries.start..asked.start + queries.end;
        let rows = |rows: &Rows, range: &Range<usize>| {
            Rows::new(&[range.len()])?.at_positions(&rows.positions()[range.clone()])
        };
        let (q_rows, k_rows) = (rows(&self.q_rows, &asked)?, rows(&self.k_rows, &seen)?);
        let mut q = self.q.narrow(0, asked.start, asked.len())?;
        let mut k = self.k.narrow(0, seen.start, seen.len())?;
        let bias = match (&self.bias, head) {
            (None, _) => None,
            (Some(Added::Distance { table, max_distance, bidirectional }), head) => {
                let table = head.map_or_else(|| Ok(table.clone()), |h| table.narrow(1, h, 1)?.contiguous())?;
                Some(Added::Distance { table, max_distance: *max_distance, bidirectional: *bidirectional })
            }
            (Some(Added::Pairs(t)), head) => {
                let own = head.map_or_else(|| Ok(t.clone()), |h| t.narrow(0, h, 1))?;
                Some(Added::Pairs(own.narrow(1, queries.start, queries.len())?.contiguous()?))
            }
        };
        if let Some(h) = head {
            let width = q.dims()[1] / self.heads;
            q = q.narrow(1, h * width, width)?;
            k = k.narrow(1, h / (self.heads / self.kv_heads) * width, width)?;
        }
        let spec = AttendSpec {
            heads: head.map_or(self.heads, |_| 1),
            kv_heads: head.map_or(self.kv_heads, |_| 1),
            causal: self.causal,
            window: self.window,
            bias: bias.as_ref().map(|added| match added {
                Added::Pairs(t) => ScoreBias::Pairs(t),
                Added::Distance { table, max_distance, bidirectional } => ScoreBias::Distance(RelativeBias {
                    table,
                    max_distance: *max_distance,
                    bidirectional: *bidirectional,
                }),
            }),
            zones: self.zones.as_ref().map(|(of, apart)| Zones { of: &of[asked], apart: *apart }),
            ..AttendSpec::new(&q_rows, &k_rows, self.heads, self.scale)
        };
        let mut maps = super::attend_probs(&q, &k, &spec)?;
        maps.pop().ok_or_else(|| Error::shape("attention map", "one segment", &[0]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::init::seeded;
    use crate::ops::attend_probs;

    #[test]
    fn parts_of_maps_are_those_of_the_whole() {
        let numbers = |name: &str, shape: &[usize]| Tensor::from_vec(seeded(name, shape), shape).unwrap();
        let rows = Rows::new(&[5, 3]).unwrap().at_positions(&[0, 1, 2, 4, 5, 1, 2, 3]).unwrap();
        let even = Rows::new(&[4, 4]).unwrap();
        let (q, k) = (numbers("q", &[8, 12]), numbers("k", &[8, 6]));
        let (table, pairs) = (numbers("table", &[8, 4]), numbers("pairs", &[4, 4, 4]));
        let zones = [0u8, 0, 1, 1, 0, 1, 1, 1];
        let plain = AttendSpec { kv_heads: 2, ..AttendSpec::new(&rows, &rows, 4, 0.5) };
        let distance = RelativeBias { table: &table, max_distance: 10, bidirectional: true };
        let specs = [
            plain,
            AttendSpec { causal: true, bias: Some(ScoreBias::Distance(distance)), ..plain },
            AttendSpec { window: Some(2), ..plain },
            AttendSpec { q_rows: &even, k_rows: &even, bias: Some(ScoreBias::Pairs(&pairs)), ..plain },
            AttendSpec { zones: Some(Zones { of: &zones, apart: -100.0 }), ..plain },
        ];
        let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (i, spec) in specs.into_iter().enumerate() {
            let whole = attend_probs(&q, &k, &spec).unwrap();
            let maps = AttentionMaps::new(q.clone(), k.clone(), &spec);
            assert_eq!((maps.n(), maps.heads()), (2, 4));
            for (segment, want) in whole.iter().enumerate() {
                let (n, m) = maps.size(segment);
                assert_eq!(want.dims(), [4, n, m]);
                for (head, queries) in [(None, 0..n), (None, 1..2), (Some(0), 0..n), (Some(3), 2..n), (Some(2), 0..0)] {
                    let part = want.narrow(0, head.unwrap_or(0), head.map_or(4, |_| 1)).unwrap();
                    let part = part.narrow(1, queries.start, queries.len()).unwrap();
                    let got = maps.of(segment, head, queries.clone()).unwrap();
                    assert_eq!(got.dims(), part.dims());
                    let near = flat(got).iter().zip(flat(part)).all(|(a, b)| (a - b).abs() < 1e-6);
                    assert!(near, "spec {i}, segment {segment}, head {head:?}, queries {queries:?}");
                }
            }
            for (segment, head, queries) in [(2, None, 0..1), (0, Some(4), 0..1), (0, None, 0..9)] {
                assert!(maps.of(segment, head, queries).is_err());
            }
        }
    }

    #[test]
    fn maps_that_are_kept_are_bounded_for_the_whole_batch() {
        // Each member alone is within the limit.
        let rows = Rows::new(&[20_000; 3]).unwrap();
        let q = Tensor::hollow(&[60_000usize, 4][..], switchformer_tensor::DType::F32);
        let e = attend_probs(&q, &q, &AttendSpec::new(&rows, &rows, 2, 1.0)).unwrap_err();
        assert_eq!(e.code(), "limit");
        assert!(
            ["3 members", "60000 rows", "2 heads", "smaller images"].iter().all(|s| e.to_string().contains(s)),
            "{e}"
        );
        assert!(attend_probs(&q, &q, &AttendSpec::new(&rows, &rows, 1, 1.0)).is_err());
        let two = Rows::new(&[20_000, 20_000]).unwrap();
        let q = q.narrow(0, 0, 40_000).unwrap();
        assert!(attend_probs(&q, &q, &AttendSpec::new(&two, &two, 1, 1.0)).is_ok());
    }
}
