//! What tests of several files share.

#![allow(unreachable_pub, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

/// A few pictures in the form of Fashion-MNIST's publishers, the same for training and test.
pub fn write_set(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let set = switchformer_data::embedded_fashion().unwrap().head(64);
    let (images, labels) =
        switchformer_data::packed_images::write(set.images(), set.height(), set.width(), set.labels()).unwrap();
    for part in ["train", "t10k"] {
        std::fs::write(data.join(format!("{part}-images-idx3-ubyte.gz")), &images).unwrap();
        std::fs::write(data.join(format!("{part}-labels-idx1-ubyte.gz")), &labels).unwrap();
    }
    data
}
