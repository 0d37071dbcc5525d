//! Attention inside windows of a map: shifted or not (Swin), of places next to each other or apart (CrossFormer).

use switchformer_tensor::Tensor;

use crate::error::{Error, Result};
use crate::ops::{self, Zones};
use crate::rows::{Rows, Size};

/// What comes first where a map is no whole number of windows: references disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PadOrder {
    /// The map is filled up, then moved: places beyond the edge wander in at the upper left (transformers).
    PadThenShift,
    /// The map is moved, then filled up (timm).
    ShiftThenPad,
}

/// How a map is cut into windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cut {
    /// Windows of neighbours, of a map that is moved up and left by `shift` first.
    Shifted {
        /// Height and width of a window.
        window: Size,
        /// How far the map is moved.
        shift: Size,
        /// Whether the map is filled up before or after.
        order: PadOrder,
        /// What is added to the scores of pairs that are no neighbours.
        far: f32,
    },
    /// Windows of places that stand apart.
    Spread {
        /// Height and width of a window.
        window: Size,
        /// Steps between neighbours of a window; 1 leaves no gap.
        interval: usize,
        /// Whether half of what fills up the map stands before it.
        centred: bool,
        /// What is added to the scores of keys beyond the edge, if anything.
        far: Option<f32>,
    },
}

impl Cut {
    /// Windows of neighbours of a map that stays where it is.
    pub const fn plain(window: Size) -> Cut {
        Cut::Shifted { window, shift: (0, 0), order: PadOrder::PadThenShift, far: 0.0 }
    }

    /// Height and width of a window.
    pub const fn window(&self) -> Size {
        match self {
            Cut::Shifted { window, .. } | Cut::Spread { window, .. } => *window,
        }
    }
}

/// A map cut into windows: which row stands where, and who may not look at whom.
#[derive(Clone, Debug)]
pub struct Windows {
    /// Row of every place, window by window, `[n * len]`.
    index: Tensor,
    /// Place of every row, `[total]`.
    back: Tensor,
    /// Zone of every place, where the shift brought together what are no neighbours, or places lie beyond the edge.
    zones: Option<Vec<u8>>,
    /// Added to the scores of pairs that are not of one zone.
    far: f32,
    /// The windows as segments.
    rows: Rows,
    len: usize,
    pads: usize,
}

impl Windows {
    /// Cuts every map of a batch.
    pub fn new(rows: &Rows, cut: &Cut) -> Result<Windows> {
        match *cut {
            Cut::Shifted { window, shift, order, far } => Windows::shifted(rows, window, shift, order, far),
            Cut::Spread { window, interval, centred, far } => Windows::spread(rows, window, interval, centred, far),
        }
    }

    /// Cuts every map into windows of one size, after moving it up and left by `shift`. `far` is what pairs get that
    /// are no neighbours.
    fn shifted(rows: &Rows, window: Size, shift: Size, order: PadOrder, far: f32) -> Result<Windows> {
        let filled = |(h, w): Size| (h.next_multiple_of(window.0), w.next_multiple_of(window.1));
        let from = |(h, w): Size| {
            let (tall, wide) = filled((h, w));
            places((tall, wide), window, 1).map(move |(y, x)| match order {
                PadOrder::PadThenShift => ((y + shift.0) % tall, (x + shift.1) % wide),
                PadOrder::ShiftThenPad if y < h && x < w => ((y + shift.0) % h, (x + shift.1) % w),
                PadOrder::ShiftThenPad => (h, w),
            })
        };
        let mut windows = Windows::of(rows, window, from)?;
        if shift != (0, 0) {
            let zones = rows.sizes()?.iter().flat_map(|size| {
                let (tall, wide) = filled(*size);
                places((tall, wide), window, 1)
                    .map(move |(y, x)| 3 * zone(y, tall, window.0, shift.0) + zone(x, wide, window.1, shift.1))
            });
            windows.zones = Some(zones.collect());
            windows.far = far;
        }
        Ok(windows)
    }

    /// Cuts every map into groups of places that are `interval` apart, filled up with zeros to whole groups: behind the
    /// map, or half before it where `centred`. `far` is what keys beyond the edge get, if they get anything.
    fn spread(rows: &Rows, window: Size, interval: usize, centred: bool, far: Option<f32>) -> Result<Windows> {
        let from = |(h, w): Size| {
            let filled = spread_size((h, w), window, interval);
            let before = |pad: usize| if centred { pad / 2 } else { 0 };
            let first = (before(filled.0 - h), before(filled.1 - w));
            // A place before the map is as far away as one behind it.
            let at = move |n: usize, first: usize| n.checked_sub(first).unwrap_or(usize::MAX);
            places(filled, window, interval).map(move |(y, x)| (at(y, first.0), at(x, first.1)))
        };
        let mut windows = Windows::of(rows, window, from)?;
        if let Some(far) = far.filter(|_| windows.pads > 0) {
            let index = windows.index.to_vec1::<u32>()?;
            // What asks from beyond the edge is not read.
            windows.zones = Some(index.iter().map(|row| u8::from(*row as usize >= rows.total())).collect());
            windows.far = far;
        }
        Ok(windows)
    }

    /// Windows of one size; `from` gives what stands at each place of a map, window by window.
    fn of<I: Iterator<Item = Size>>(rows: &Rows, window: Size, from: impl Fn(Size) -> I) -> Result<Windows> {
        let (total, len) = (rows.total(), window.0 * window.1);
        let (mut index, mut back) = (Vec::new(), vec![0u32; total]);
        let mut pads = 0;
        for (i, (h, w)) in rows.sizes()?.iter().copied().enumerate() {
            let first = rows.range(i).start;
            let mut padded = false;
            for (y, x) in from((h, w)) {
                if y < h && x < w {
                    let row = first + y * w + x;
                    back[row] = index.len() as u32;
                    index.push(row as u32);
                } else {
                    padded = true;
                    index.push((total + pads) as u32);
                }
            }
            pads += usize::from(padded);
        }
        let n = index.len() / len;
        let on_cpu = |v: Vec<u32>| {
            let n = v.len();
            Tensor::from_vec(v, n)
        };
        Ok(Windows {
            index: on_cpu(index)?,
            back: on_cpu(back)?,
            zones: None,
            far: 0.0,
            rows: Rows::maps(&vec![window; n])?,
            len,
            pads,
        })
    }

    /// The rows with one row of zeros per padded member behind them: what projections see, since a place beyond the
    /// edge has the bias for a key. Shapes: x `[total, dim]` -> `[total + pads, dim]`.
    pub fn with_pads(&self, x: &Tensor) -> Result<Tensor> {
        if self.pads == 0 {
            return Ok(x.clone());
        }
        let zeros = Tensor::zeros((self.pads, x.dims2()?.1), x.dtype())?;
        Tensor::cat(&[x, &zeros], 0)
    }

    /// Rows in the order of the windows. Shapes: x `[total + pads, dim]` -> `[n * len, dim]`.
    pub fn cut(&self, x: &Tensor) -> Result<Tensor> {
        ops::gather(x, &self.index)
    }

    /// Back to the order of the map. Shapes: x `[n * len, dim]` -> `[total, dim]`.
    pub fn join(&self, x: &Tensor) -> Result<Tensor> {
        ops::gather(x, &self.back)
    }

    /// Number of windows.
    pub fn n(&self) -> usize {
        self.rows.n()
    }

    /// Multiply-adds of scores and mixing over a width.
    pub fn macs(&self, dim: usize) -> usize {
        2 * self.n() * self.len * self.len * dim
    }

    /// The windows as segments, each a map.
    pub fn rows(&self) -> &Rows {
        &self.rows
    }

    /// Whether each window is one whole map of `rows`, place by place.
    pub fn are(&self, rows: &Rows) -> bool {
        let sizes = |rows: &Rows| (0..rows.n()).map(|i| rows.map(i)).collect::<Vec<_>>();
        self.zones.is_none() && self.pads == 0 && sizes(&self.rows) == sizes(rows)
    }

    /// Whether a map reaches beyond its edge.
    pub fn is_padded(&self) -> bool {
        self.pads > 0
    }

    /// Who may not look at whom.
    pub fn zones(&self) -> Option<Zones<'_>> {
        self.zones.as_deref().map(|of| Zones { of, apart: self.far })
    }
}

/// Size of a map that is filled up to whole groups.
fn spread_size((h, w): Size, window: Size, interval: usize) -> Size {
    (h.next_multiple_of(window.0 * interval), w.next_multiple_of(window.1 * interval))
}

/// Places of a map in the order of its windows. With an interval, a square of `interval` x `interval` windows shares a
/// stretch of the map, each with places that are `interval` apart.
fn places(size: Size, window: Size, interval: usize) -> impl Iterator<Item = Size> {
    let (down, across) = (size.0 / window.0, size.1 / window.1);
    let (high, wide) = (window.0 * interval, window.1 * interval);
    (0..down * across * window.0 * window.1).map(move |k| {
        let (win, at) = (k / (window.0 * window.1), k % (window.0 * window.1));
        let (square, within) = (win / (interval * interval), win % (interval * interval));
        let (y, x) = (within / interval + interval * (at / window.1), within % interval + interval * (at % window.1));
        ((square / (across / interval)) * high + y, (square % (across / interval)) * wide + x)
    })
}

/// Zone of a coordinate of the moved map: the last window holds two parts that were no neighbours.
fn zone(at: usize, side: usize, window: usize, shift: usize) -> u8 {
    if shift == 0 { 0 } else { u8::from(at + window >= side) + u8::from(at + shift >= side) }
}

/// Entry of a table of relative positions for every pair of places of a window, query by query:
/// `(dy + h - 1) * (2 w - 1) + dx + w - 1` with query minus key.
fn relative_index((h, w): Size) -> Vec<u32> {
    let at = |p: usize| (p / w, p % w);
    let one = |q: usize, k: usize| {
        let ((qy, qx), (ky, kx)) = (at(q), at(k));
        ((qy + h - 1 - ky) * (2 * w - 1) + qx + w - 1 - kx) as u32
    };
    (0..h * w).flat_map(|q| (0..h * w).map(move |k| one(q, k))).collect()
}

/// Most numbers that are added to the scores of one window.
const MAX_PAIRS: usize = 1 << 28;

/// A table of relative positions as a number for every pair of places of a window. Errors when the window is so large that
/// the numbers would fill memory. Shapes: table `[(2 h - 1) * (2 w - 1), heads]` -> `[heads, len, len]`.
pub fn pair_biases(table: &Tensor, window: Size) -> Result<Tensor> {
    biases(table, window, window.0 * window.1, relative_index)
}

/// The same for a class row in front of the places, whose numbers stand behind those of places: class to place, place to
/// class, class to itself. Shapes: table `[(2 h - 1) * (2 w - 1) + 3, heads]` -> `[heads, 1 + len, 1 + len]`.
pub fn pair_biases_behind(table: &Tensor, window: Size) -> Result<Tensor> {
    let (len, places) = (window.0 * window.1, table.dims2()?.0 as u32 - 3);
    biases(table, window, 1 + len, |window| {
        let near = relative_index(window);
        let class = std::iter::once(places + 2).chain(std::iter::repeat_n(places, len));
        let place = near.chunks(len.max(1)).flat_map(|row| std::iter::once(places + 1).chain(row.iter().copied()));
        class.chain(place).collect()
    })
}

/// Rows of a table for every pair of `len` rows.
fn biases(table: &Tensor, window: Size, len: usize, index: impl FnOnce(Size) -> Vec<u32>) -> Result<Tensor> {
    let heads = table.dims2()?.1;
    let pairs = len.saturating_mul(len).saturating_mul(heads);
    if pairs > MAX_PAIRS {
        return Err(Error::Limit {
            what: format!("pairs of places in a window of {}x{}, over {heads} heads", window.0, window.1),
            got: pairs as u64,
            max: MAX_PAIRS as u64,
            hint: "use smaller windows, or smaller images where a window is the whole map".into(),
        });
    }
    let index = Tensor::from_vec(index(window), len * len)?;
    ops::gather(table, &index)?.t()?.contiguous()?.reshape((heads, len, len))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn windows(size: Size, window: Size, shift: Size, order: PadOrder) -> (Vec<u32>, Vec<u32>, Windows) {
        let rows = Rows::maps(&[size]).unwrap();
        let w = Windows::new(&rows, &Cut::Shifted { window, shift, order, far: -100.0 }).unwrap();
        (w.index.to_vec1().unwrap(), w.back.to_vec1().unwrap(), w)
    }

    #[test]
    fn a_shifted_map_is_cut_as_by_hand() {
        // 4x4 places, moved by one: 5 6 7 4 / 9 10 11 8 / 13 14 15 12 / 1 2 3 0.
        let (index, back, w) = windows((4, 4), (2, 2), (1, 1), PadOrder::PadThenShift);
        assert_eq!(index, [5, 6, 9, 10, 7, 4, 11, 8, 13, 14, 1, 2, 15, 12, 3, 0]);
        assert!(back.iter().enumerate().all(|(row, at)| index[*at as usize] as usize == row));
        let zones = w.zones.unwrap();
        let of = |win: usize, q: usize, k: usize| if zones[win * 4 + q] == zones[win * 4 + k] { 0.0 } else { w.far };
        assert!((0..4).all(|q| (0..4).all(|k| of(0, q, k) == 0.0)));
        // The last window holds four corners that were no neighbours.
        assert!((0..4).all(|q| (0..4).all(|k| (of(3, q, k) == 0.0) == (q == k))));
        // The upper right one: columns 3 and 0.
        assert_eq!([of(1, 0, 1), of(1, 0, 2), of(1, 1, 3), of(1, 1, 2)], [-100.0, 0.0, 0.0, -100.0]);
    }

    #[test]
    fn places_beyond_the_edge_come_where_each_reference_has_them() {
        let (index, ..) = windows((3, 3), (2, 2), (1, 1), PadOrder::PadThenShift);
        assert_eq!(index, [4, 5, 7, 8, 9, 3, 9, 6, 9, 9, 1, 2, 9, 9, 9, 0]);
        let (index, ..) = windows((3, 3), (2, 2), (1, 1), PadOrder::ShiftThenPad);
        assert_eq!(index, [4, 5, 7, 8, 3, 9, 6, 9, 1, 2, 9, 9, 0, 9, 9, 9]);
    }

    #[test]
    fn groups_of_places_apart_are_cut_as_by_hand() {
        let cut = |size: Size, interval: usize, centred: bool| {
            let w = Windows::spread(&Rows::maps(&[size]).unwrap(), (2, 2), interval, centred, Some(-9.0)).unwrap();
            (w.index.to_vec1::<u32>().unwrap(), w)
        };
        let (index, w) = cut((4, 4), 2, false);
        assert_eq!(index, [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]);
        assert!(w.zones.is_none());
        let (index, w) = cut((3, 3), 2, false);
        assert_eq!(index, [0, 2, 6, 8, 1, 9, 7, 9, 3, 5, 9, 9, 4, 9, 9, 9]);
        assert!(w.zones.unwrap().iter().zip(&index).all(|(zone, row)| (*zone == 1) == (*row == 9)) && w.far == -9.0);
        // Two missing columns: one before the map, one behind.
        assert_eq!(cut((2, 2), 2, true).0, [4, 4, 4, 3, 4, 4, 2, 4, 4, 1, 4, 4, 0, 4, 4, 4]);
        assert_eq!(cut((2, 4), 1, false).0, [0, 1, 4, 5, 2, 3, 6, 7]);
    }

    #[test]
    fn a_class_row_has_three_numbers_of_its_own() {
        // Places 0..3 of a window 1x2 have three distances; the class row's follow.
        let table = Tensor::from_vec((0..6).map(|v| v as f32).collect::<Vec<_>>(), (6, 1)).unwrap();
        let bias = pair_biases_behind(&table, (1, 2)).unwrap();
        assert_eq!(bias.get(0).unwrap().to_vec2::<f32>().unwrap(), [[5., 3., 3.], [4., 1., 0.], [4., 2., 1.]]);
    }

    #[test]
    fn relative_positions_are_rows_first() {
        // Window 2x3: the table has 3 x 5 entries, its middle is 7.
        let index = relative_index((2, 3));
        assert_eq!(index.len(), 36);
        assert!((0..6).all(|p| index[p * 7] == 7));
        assert_eq!(index[1], 6, "query one left of the key");
        assert_eq!(index[3], 2, "query one above the key");
        assert_eq!(index[5 * 6], 14, "query below and right of the key");
    }
}
