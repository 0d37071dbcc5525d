//! Small image sets as two gzip'd IDX files, and the one that is built in.

use std::path::Path;

use crate::error::{Error, Result};
use crate::fashion::Dataset;
use crate::idx;

/// The first 4,000 test images of Fashion-MNIST in their original order; `examples/pack_fashion.rs` makes both files.
const IMAGES: &[u8] = include_bytes!("../assets/fashion-test-images.idx3.gz");
const LABELS: &[u8] = include_bytes!("../assets/fashion-test-labels.idx1.gz");

/// Packs images `[n, height, width]` and labels `[n]` into gzip'd IDX3 and IDX1; fails with `idx.shape` or `idx.length`.
pub fn write(images: &[u8], height: usize, width: usize, labels: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    let label = Path::new("(packed images)");
    let n = labels.len();
    Ok((idx::to_gzip(&[n, height, width], images, label)?, idx::to_gzip(&[n], labels, label)?))
}

/// Reads what [`write()`] made: images `[n, height, width]`, labels `[n]`; fails with `idx.*` or `dataset.invalid`.
pub fn read(images: &[u8], labels: &[u8]) -> Result<Dataset> {
    let label = Path::new("(packed images)");
    Dataset::from_idx(idx::from_bytes(images, label)?, idx::from_bytes(labels, label)?, label)
}

/// The built-in 4,000 Fashion-MNIST test images `[4000, 28, 28]` and labels `[4000]`; fails only if the build is damaged.
pub fn embedded_fashion() -> Result<Dataset> {
    let data = read(IMAGES, LABELS)?;
    if data.len() != 4000 {
        return Err(Error::dataset(Path::new("(built-in images)"), "there are not 4,000 images"));
    }
    Ok(data)
}
