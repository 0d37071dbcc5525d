//! The sets of labelled pictures that a recipe may name.

use std::path::Path;

use crate::cifar::{CLASSES, Cifar10};
use crate::error::Result;
use crate::fashion::{Dataset, FashionMnist, LABELS};

/// Names of the sets, as recipes write them.
pub const IMAGE_SETS: [&str; 2] = ["fashion-mnist", "cifar-10"];

/// One of [`IMAGE_SETS`], found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSet {
    /// Fashion-MNIST.
    Fashion(FashionMnist),
    /// The test pictures of CIFAR-10, split.
    Cifar(Cifar10),
}

impl ImageSet {
    /// Finds a set in `dir` or in its usual place; any name but `cifar-10` is Fashion-MNIST. Fails with `*.missing`.
    pub fn open(name: &str, dir: Option<&Path>) -> Result<Self> {
        Ok(match name {
            "cifar-10" => ImageSet::Cifar(Cifar10::open(dir)?),
            _ => ImageSet::Fashion(FashionMnist::open(dir)?),
        })
    }

    /// The pictures to train on; those to keep aside are the last.
    pub fn train(&self) -> Result<Dataset> {
        match self {
            ImageSet::Fashion(set) => set.train(),
            ImageSet::Cifar(set) => set.train(),
        }
    }

    /// The pictures to measure on.
    pub fn test(&self) -> Result<Dataset> {
        match self {
            ImageSet::Fashion(set) => set.test(),
            ImageSet::Cifar(set) => set.test(),
        }
    }

    /// The classes, by label.
    pub fn classes(&self) -> [&'static str; 10] {
        match self {
            ImageSet::Fashion(_) => LABELS,
            ImageSet::Cifar(_) => CLASSES,
        }
    }
}
