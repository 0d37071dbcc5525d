//! What tests of several files share.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fmt::Write;
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

/// A recipe of the repository.
pub fn recipe_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name)
}

/// Descriptions of made-up packages in three languages, as apt keeps them.
pub fn debian(dir: &Path) -> PathBuf {
    let things = ["editor", "library", "game", "viewer", "server", "client", "parser", "compiler"];
    let languages = [("en", "for the"), ("de", "fuer den"), ("it", "per il")];
    let mut files = languages.map(|_| String::new());
    for i in 0..400u32 {
        let (a, b) = (things[i as usize % 8], things[(i as usize / 8) % 8]);
        // Letters alone tell families apart.
        let name: String = format!("{i:03}").bytes().map(|d| char::from(d - b'0' + b'a')).collect();
        for (out, (field, of)) in files.iter_mut().zip(languages) {
            writeln!(out, "Package: {a}{name}\nDescription-md5: {i:032x}").unwrap();
            writeln!(
                out,
                "Description-{field}: {a} {name} {of} {b}\n This {a} works with {name} {of} {b} number {i}.\n"
            )
            .unwrap();
        }
    }
    let data = dir.join("debian");
    std::fs::create_dir_all(&data).unwrap();
    for (text, (field, _)) in files.iter().zip(languages) {
        std::fs::write(data.join(format!("Translation-{field}")), text).unwrap();
    }
    data
}
