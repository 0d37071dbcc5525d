//! Fashion-MNIST: 70,000 gray pictures of clothes, 28 x 28, in ten classes.

use std::path::{Path, PathBuf};

use crate::batch::Norm;
use crate::error::{Error, Result};
use crate::idx::{self, Idx};
use crate::image::Picture;
use crate::resize::{Filter, resize};

/// The ten classes, by label.
pub const LABELS: [&str; 10] =
    ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"];
/// Height and width of a Fashion-MNIST picture.
pub const SIDE: usize = 28;

/// Where the files are looked for when no folder is named: what scripts/fetch-models.sh and Debian's
/// dataset-fashion-mnist install.
const PLACES: [&str; 2] = ["models/fashion-mnist", "/usr/share/datasets/fashion-mnist"];

/// Labelled pictures of one size: images `[n, channels, height, width]`, labels `[n]`.
#[derive(Clone, PartialEq)]
pub struct Dataset {
    images: Vec<u8>,
    labels: Vec<u8>,
    channels: usize,
    height: usize,
    width: usize,
    norm: Norm,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset({} of {} x {})", self.len(), self.height, self.width)
    }
}

impl Dataset {
    /// Puts images `[n, height, width]` and labels `[n]` (each below 10) together; fails with `dataset.invalid`.
    pub fn from_idx(images: Idx, labels: Idx, label: &Path) -> Result<Self> {
        let bad = |kind| Error::dataset(label, kind);
        let [n, height, width] = images.dims[..] else {
            return Err(bad("the images do not have three dimensions"));
        };
        if labels.dims != [n] {
            return Err(bad("there is not one label for each image"));
        }
        if images.data.len() != n * height * width || labels.data.len() != n {
            return Err(bad("data and dimensions disagree"));
        }
        if labels.data.iter().any(|&l| usize::from(l) >= LABELS.len()) {
            return Err(bad("a label is above 9"));
        }
        Ok(Self { images: images.data, labels: labels.data, channels: 1, height, width, norm: Norm::FASHION })
    }

    /// Puts pictures and their labels together: `channels` channels, resized to `side` by `side` where they differ, with
    /// the mean and deviation to train at; fails as [`resize`] and [`Picture::to_channels`] do.
    pub fn of_pictures(
        pictures: &[Picture],
        labels: Vec<u8>,
        [channels, side]: [usize; 2],
        norm: Norm,
    ) -> Result<Self> {
        let mut images = Vec::with_capacity(pictures.len() * channels * side * side);
        for picture in pictures {
            let mut picture = picture.to_channels(channels)?;
            if (picture.height(), picture.width()) != (side, side) {
                picture = resize(&picture, side, side, Filter::Bilinear)?;
            }
            // A picture has its channels side by side, a set one behind the other.
            (0..channels).for_each(|c| images.extend(picture.data().iter().skip(c).step_by(channels)));
        }
        if labels.len() != pictures.len() {
            return Err(Error::batch("there is not one label for each image"));
        }
        Ok(Self { images, labels, channels, height: side, width: side, norm })
    }

    /// The same pictures at another size, by the filter that a checkpoint's preprocessing names for them (bilinear, as
    /// Pillow); fails as [`resize`] does.
    pub fn resized(&self, side: usize) -> Result<Self> {
        if (self.height, self.width) == (side, side) {
            return Ok(self.clone());
        }
        let picture = |i: usize| {
            let planes = self.image(i).unwrap_or_default();
            let size = self.height * self.width;
            let data = (0..size).flat_map(|at| planes.iter().skip(at).step_by(size)).copied().collect();
            Picture::new(self.width, self.height, self.channels, data)
        };
        let pictures: Vec<Picture> = (0..self.len()).map(picture).collect::<Result<_>>()?;
        Self::of_pictures(&pictures, self.labels.clone(), [self.channels, side], self.norm)
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Mean and deviation of its training pixels.
    pub fn norm(&self) -> Norm {
        self.norm
    }

    /// Channels of each image.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Height of each image.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width of each image.
    pub fn width(&self) -> usize {
        self.width
    }

    /// All images, `[n, channels, height, width]`.
    pub fn images(&self) -> &[u8] {
        &self.images
    }

    /// All labels, `[n]`.
    pub fn labels(&self) -> &[u8] {
        &self.labels
    }

    /// Numbers of one image.
    pub(crate) fn size(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// One image, `[channels, height, width]`; `None` beyond the end.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        let size = self.size();
        let start = index.checked_mul(size)?;
        self.images.get(start..start.checked_add(size)?)
    }

    /// The first `n` images (all, if there are fewer).
    pub fn head(&self, n: usize) -> Dataset {
        self.slice(0..n.min(self.len()))
    }

    /// All images but the first `n`.
    pub fn tail(&self, n: usize) -> Dataset {
        self.slice(n.min(self.len())..self.len())
    }

    fn slice(&self, range: std::ops::Range<usize>) -> Dataset {
        let images = self.images[range.start * self.size()..range.end * self.size()].to_vec();
        Dataset { images, labels: self.labels[range].to_vec(), ..*self }
    }
}

/// A folder that holds the four Fashion-MNIST files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FashionMnist {
    dir: PathBuf,
}

impl FashionMnist {
    /// Finds the files in `dir`, or without one in `models/fashion-mnist` and then in Debian's place; a named folder is never replaced by another; fails with `fashion.missing`, saying what to install.
    pub fn open(dir: Option<&Path>) -> Result<Self> {
        let looked: Vec<PathBuf> = match dir {
            Some(dir) => vec![dir.to_owned()],
            None => PLACES.iter().map(PathBuf::from).collect(),
        };
        let complete = |dir: &&PathBuf| {
            ["train", "t10k"].iter().all(|part| {
                find(dir, part, "images-idx3-ubyte").is_some() && find(dir, part, "labels-idx1-ubyte").is_some()
            })
        };
        match looked.iter().find(complete) {
            Some(dir) => Ok(Self { dir: dir.clone() }),
            None => Err(missing(&looked)),
        }
    }

    /// The folder found.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The 60,000 training images `[n, 28, 28]` and labels `[n]`; fails with `file.*`, `idx.*` or `dataset.invalid`.
    pub fn train(&self) -> Result<Dataset> {
        self.part("train")
    }

    /// The 10,000 test images `[n, 28, 28]` and labels `[n]`; fails as [`train`](Self::train) does.
    pub fn test(&self) -> Result<Dataset> {
        self.part("t10k")
    }

    fn part(&self, part: &str) -> Result<Dataset> {
        let missing = || missing(std::slice::from_ref(&self.dir));
        let images = find(&self.dir, part, "images-idx3-ubyte").ok_or_else(missing)?;
        let labels = find(&self.dir, part, "labels-idx1-ubyte").ok_or_else(missing)?;
        let data = Dataset::from_idx(idx::open(&images)?, idx::open(&labels)?, &images)?;
        if (data.height, data.width) != (SIDE, SIDE) {
            return Err(Error::dataset(&images, "the images are not 28 x 28"));
        }
        Ok(data)
    }
}

fn missing(looked: &[PathBuf]) -> Error {
    let places: Vec<String> = looked.iter().map(|p| p.display().to_string()).collect();
    let what = format!("Fashion-MNIST was not found (looked in {})", places.join(", "));
    let hint = "run `apt-get install dataset-fashion-mnist` or scripts/fetch-models.sh, or name the folder";
    Error::input("fashion.missing", what, hint)
}

/// The plain or gzip'd file, whichever is there.
fn find(dir: &Path, part: &str, kind: &str) -> Option<PathBuf> {
    ["", ".gz"].iter().map(|end| dir.join(format!("{part}-{kind}{end}"))).find(|path| path.is_file())
}
