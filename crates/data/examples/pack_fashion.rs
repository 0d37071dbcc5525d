//! Writes the built-in test images anew from an installed Fashion-MNIST.
//!
//! Run: cargo run --release -p switchformer-data --example pack_fashion [FOLDER]

use std::path::{Path, PathBuf};

use switchformer_data::{FashionMnist, packed_images};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let data = FashionMnist::open(folder.as_deref())?.test()?.head(4000);
    let (images, labels) = packed_images::write(data.images(), data.height(), data.width(), data.labels())?;
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    std::fs::write(assets.join("fashion-test-images.idx3.gz"), &images)?;
    std::fs::write(assets.join("fashion-test-labels.idx1.gz"), &labels)?;
    println!("{} images, {} + {} bytes", data.len(), images.len(), labels.len());
    Ok(())
}
