//! The fixtures that make.py wrote.
#![allow(dead_code, unreachable_pub, missing_docs)]

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;
use switchformer_data::Picture;

/// A file in the fixtures folder.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

pub static MANIFEST: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_slice(&std::fs::read(fixture("manifest.json")).unwrap()).unwrap());

static ARRAYS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::new();
    let file = std::fs::File::open(fixture("arrays.bin.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_end(&mut out).unwrap();
    out
});

/// Bytes of the expected arrays.
pub fn bytes(at: &Value, len: usize) -> &'static [u8] {
    &ARRAYS[at.as_u64().unwrap() as usize..][..len]
}

/// Floats of the expected arrays.
pub fn floats(at: &Value, len: usize) -> Vec<f32> {
    bytes(at, len * 4).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// The same formula stands in fixtures/make.py.
pub fn hashed(width: usize, height: usize, channels: usize) -> Picture {
    let data = (0..(width * height * channels) as u32)
        .map(|i| {
            let i = i.wrapping_mul(2_654_435_761).wrapping_add(12_345);
            let i = (i ^ (i >> 15)).wrapping_mul(2_246_822_519);
            (i >> 13) as u8
        })
        .collect();
    Picture::new(width, height, channels, data).unwrap()
}

/// A scratch folder of its own that is removed at the end; tests that run at once may give the same name.
pub struct Scratch(pub PathBuf, tempfile::TempDir);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("switchformer-{name}-")).tempdir().unwrap();
        Scratch(dir.path().to_owned(), dir)
    }

    pub fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}
