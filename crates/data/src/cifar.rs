//! CIFAR-10's test pictures: 10,000 photographs, 32 x 32 in colour, in ten classes, as BIG-bench stores them.
//!
//! The training part is not to be had there, so these are split: a hash of its place in the file puts every picture into
//! one of three parts, always the same (`SHARES` in twentieths). Figures on the last are no figures of CIFAR-10's own test.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::batch::Norm;
use crate::bigbench::{FILE, examples};
use crate::error::{Error, Result};
use crate::fashion::Dataset;
use crate::image::{Picture, decode};
use switchformer_format::Rng;

/// The ten classes, by label.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
/// Height and width of a picture.
pub const SIDE: usize = 32;

/// Parts to train on and to keep aside, in twentieths; the rest is the test.
const SHARES: [usize; 2] = [16, 1];
/// Most pictures of a file.
const MAX_PICTURES: usize = 100_000;
/// Where the folder is looked for when none is named: what scripts/fetch-models.sh makes.
const PLACE: &str = "models/cifar-10";
/// The file of pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cifar10 {
    path: PathBuf,
}

impl Cifar10 {
    /// Finds the file in `dir`, or without one in `models/cifar-10`; fails with `cifar.missing`, saying what to do.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let path = dir.unwrap_or(Path::new(PLACE)).join(FILE);
        if path.is_file() {
            return Ok(Self { path });
        }
        let what = "is not there, and it holds CIFAR-10";
        Err(Error::file(&path, "cifar.missing", what, "run scripts/fetch-models.sh cifar-10, or name the folder"))
    }

    /// Four fifths of the pictures, and behind them a twentieth to keep aside (8,000 and 500 of 10,000); fails with
    /// `file.*`, `json.*`, `image.*` or `dataset.invalid`.
    pub fn train(&self) -> Result<Dataset> {
        self.part(|n| 0..end(n))
    }

    /// The other pictures (1,500 of 10,000); fails as [`train`](Self::train) does.
    pub fn test(&self) -> Result<Dataset> {
        self.part(|n| end(n)..n)
    }

    fn part(&self, range: impl Fn(usize) -> std::ops::Range<usize>) -> Result<Dataset> {
        let bad = |kind| Error::dataset(&self.path, kind);
        let all = examples(&self.path)?;
        let n = all.len();
        if n > MAX_PICTURES {
            return Err(bad("it has more than 100,000 pictures"));
        }
        let (mut pictures, mut labels) = (Vec::new(), Vec::new());
        for i in &order(n)[range(n)] {
            let example = &all[*i];
            let png = STANDARD.decode(&example.input).map_err(|_| bad("a picture is not in base64"))?;
            let picture: Picture = decode(&png, &self.path)?;
            if (picture.height(), picture.width(), picture.channels()) != (SIDE, SIDE, 3) {
                return Err(bad("a picture is not 32 x 32 in colour"));
            }
            let right = |name: &str| example.target_scores.get(name).is_some_and(|score| *score == 1.0);
            let mut classes = (0u8..).zip(CLASSES).filter(|(_, name)| right(name)).map(|(label, _)| label);
            match (classes.next(), classes.next()) {
                (Some(label), None) => labels.push(label),
                _ => return Err(bad("a picture has not exactly one of the ten classes")),
            }
            pictures.push(picture);
        }
        Dataset::of_pictures(&pictures, labels, [3, SIDE], Norm::CIFAR)
    }
}

/// Places in the file, by their hash.
fn order(n: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    all.sort_by_cached_key(|i| (Rng::of(&[*i as u64]).next_u64(), *i));
    all
}

/// Where the test begins among `n` pictures.
fn end(n: usize) -> usize {
    n * (SHARES[0] + SHARES[1]) / 20
}
