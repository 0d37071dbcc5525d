//! Scenes put together from pictures of clothes, so that what every pixel shows is known.

use crate::error::{Error, Result};
use crate::fashion::{Dataset, LABELS};
use switchformer_format::Rng;

/// Height and width of a scene.
pub const SIDE: usize = 64;
/// Classes of a pixel: the background, then the clothes by label.
pub const CLASSES: usize = 1 + LABELS.len();

/// Stream of the draws.
const STREAM: u64 = 21;
/// Fewest and most pieces of a scene.
const PIECES: [u32; 2] = [2, 4];

/// A gray picture and what its pixels are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scene {
    /// Gray values, `[SIDE, SIDE]`.
    pub image: Vec<u8>,
    /// Class of every pixel, 0 for the background, `[SIDE, SIDE]`.
    pub classes: Vec<u8>,
    /// 1 where a neighbour above, below, left or right belongs to another piece, `[SIDE, SIDE]`.
    pub edges: Vec<u8>,
}

impl Scene {
    /// Two to four pieces of `garments` `[n, 1, h, w]` on a gray slope with noise, later pieces over earlier ones: a
    /// function of (seed, index). Every pixel of a piece that is not black belongs to it. Fails with `batch.invalid` where
    /// there are no garments or where they are no gray pictures that fit in.
    pub fn compose(garments: &Dataset, seed: u64, index: u64) -> Result<Scene> {
        let (h, w) = (garments.height(), garments.width());
        if garments.is_empty() || garments.channels() != 1 || h > SIDE || w > SIDE {
            return Err(Error::batch("scenes are made of gray pictures of at most 64 x 64"));
        }
        let mut rng = Rng::of(&[STREAM, seed, index]);
        let mut scene = Scene::background(&mut rng);
        // 0 is the background, then the pieces in order.
        let mut pieces = vec![0u8; SIDE * SIDE];
        for piece in 1..=PIECES[0] + rng.pick(PIECES[1] - PIECES[0] + 1) {
            let pick = rng.pick(garments.len() as u32) as usize;
            let (picture, label) = (garments.image(pick).unwrap_or_default(), garments.labels()[pick]);
            let (top, left) = (rng.pick((SIDE - h + 1) as u32) as usize, rng.pick((SIDE - w + 1) as u32) as usize);
            let mirrored = rng.pick(2) == 1;
            for (i, gray) in picture.iter().enumerate().filter(|(_, gray)| **gray > 0) {
                let column = if mirrored { w - 1 - i % w } else { i % w };
                let at = (top + i / w) * SIDE + left + column;
                (scene.image[at], scene.classes[at], pieces[at]) = (*gray, 1 + label, piece as u8);
            }
        }
        scene.edges = edges(&pieces);
        Ok(scene)
    }

    fn background(rng: &mut Rng) -> Scene {
        let level = rng.between(16.0, 112.0);
        let [down, right] = [(); 2].map(|()| rng.between(-40.0, 40.0));
        let place = |i: usize| i as f64 / SIDE as f64 - 0.5;
        let mut pixel = |i: usize| {
            let noise = rng.between(-12.0, 12.0);
            (level + down * place(i / SIDE) + right * place(i % SIDE) + noise).clamp(0.0, 255.0) as u8
        };
        let image = (0..SIDE * SIDE).map(&mut pixel).collect();
        Scene { image, classes: vec![0; SIDE * SIDE], edges: Vec::new() }
    }
}

fn edges(pieces: &[u8]) -> Vec<u8> {
    let other = |i: usize| {
        let (row, column) = (i / SIDE, i % SIDE);
        let differs = |there: bool, at: usize| there && pieces[at] != pieces[i];
        differs(row > 0, i.wrapping_sub(SIDE))
            || differs(row + 1 < SIDE, i + SIDE)
            || differs(column > 0, i.wrapping_sub(1))
            || differs(column + 1 < SIDE, i + 1)
    };
    (0..pieces.len()).map(|i| u8::from(other(i))).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::embedded_fashion;

    #[test]
    fn scenes_are_functions_of_seed_and_index() {
        let set = embedded_fashion().unwrap();
        let scene = |seed, index| Scene::compose(&set, seed, index).unwrap();
        assert_eq!(scene(1, 5), scene(1, 5));
        assert!(scene(1, 5) != scene(1, 6) && scene(1, 5) != scene(2, 5));
    }

    #[test]
    fn every_pixel_says_what_it_is() {
        let set = embedded_fashion().unwrap();
        let mut seen = [0usize; CLASSES];
        for index in 0..200 {
            let s = Scene::compose(&set, 3, index).unwrap();
            assert!([&s.image, &s.classes, &s.edges].iter().all(|v| v.len() == SIDE * SIDE));
            s.classes.iter().for_each(|c| seen[usize::from(*c)] += 1);
            // A step from one class to another is an edge on both sides; inside the background there is none.
            for i in (0..SIDE * SIDE).filter(|i| i % SIDE + 1 < SIDE) {
                if s.classes[i] != s.classes[i + 1] {
                    assert_eq!([s.edges[i], s.edges[i + 1]], [1, 1]);
                }
            }
            let inside = |i: usize| [i, i - 1, i + 1, i - SIDE, i + SIDE].iter().all(|j| s.classes[*j] == 0);
            let quiet = (SIDE + 1..SIDE * (SIDE - 1) - 1).filter(|i| i % SIDE > 0 && i % SIDE + 1 < SIDE && inside(*i));
            quiet.for_each(|i| assert_eq!(s.edges[i], 0));
            let share = s.edges.iter().filter(|e| **e == 1).count() as f64 / s.edges.len() as f64;
            assert!((0.01..0.5).contains(&share), "{share}");
        }
        assert!(seen.iter().all(|n| *n > 1_000), "{seen:?}");
        assert!(seen[0] * 10 > SIDE * SIDE * 200 * 4, "{seen:?}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let set = embedded_fashion().unwrap();
        assert!(Scene::compose(&set.resized(80).unwrap(), 0, 0).is_err());
        assert!(Scene::compose(&set.head(0), 0, 0).is_err());
    }
}
