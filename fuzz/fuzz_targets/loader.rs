//! Opens a checkpoint folder made of the input and runs what opens.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;

#[path = "../../crates/zoo/tests/trust/mod.rs"]
mod trust;

static DIR: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a temporary folder"));

fuzz_target!(|data: &[u8]| {
    trust::loader(DIR.path(), data);
});
