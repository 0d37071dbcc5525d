//! Training that is killed at random moments ends with the same bits. The moments are real, so this one needs a clock.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use switchformer::data::{Rng, embedded_fashion, packed_images};

const KILLS: usize = 20;

/// Some of the embedded images as a data set.
fn data(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let set = embedded_fashion().unwrap().head(64);
    let (images, labels) = packed_images::write(set.images(), set.height(), set.width(), set.labels()).unwrap();
    for part in ["train", "t10k"] {
        std::fs::write(data.join(format!("{part}-images-idx3-ubyte.gz")), &images).unwrap();
        std::fs::write(data.join(format!("{part}-labels-idx1-ubyte.gz")), &labels).unwrap();
    }
    data
}

/// The real recipe, small: exits, bit-widths, two batches a step, a running mean, a validation, a save every step.
fn train(out: &Path, data: &Path) -> Child {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/fashion-vit.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchformer"));
    command.arg("train").arg(recipe).args(["--threads", "1", "--json", "--out"]).arg(out).arg("--data").arg(data);
    for set in [
        "model.hidden_size=16",
        "model.intermediate_size=32",
        "model.num_hidden_layers=2",
        "model.patch_size=7",
        "switch.exits=[1]",
        "data.valid=8",
        "train.steps=60",
        "train.batch=8",
        "train.warmup=2",
        "train.save_every=1",
        "train.accumulate=2",
        "train.ema=0.9",
        "train.export_ema=true",
        "train.valid_every=7",
        "train.keep_best=1",
    ] {
        command.args(["--set", set]);
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Weights and what the last checkpoint holds.
fn bits(run: &Path) -> Vec<Vec<u8>> {
    ["model/model.safetensors", "model/switch.safetensors", "checkpoints/step-0000000060/state.safetensors"]
        .iter()
        .map(|f| std::fs::read(run.join(f)).unwrap_or_else(|e| panic!("{f}: {e}")))
        .collect()
}

#[test]
fn training_killed_at_random_moments_ends_with_the_same_bits() {
    let temp = tempfile::tempdir().unwrap();
    let data = data(temp.path());
    let whole = temp.path().join("whole");
    let started = Instant::now();
    assert!(train(&whole, &data).wait().unwrap().success());
    let longest = started.elapsed().as_secs_f64() * 0.4;
    let want = bits(&whole);
    let mut rng = Rng::of(&[20]);
    let (mut kills, mut round) = (0, 0);
    let mut killed_at = Vec::new();
    while kills < KILLS {
        let out = temp.path().join(format!("killed-{round}"));
        let mut child = train(&out, &data);
        std::thread::sleep(Duration::from_secs_f64(longest * rng.unit64()));
        match child.try_wait().unwrap() {
            // This run reached its end: another begins.
            Some(status) => {
                assert!(status.success(), "after {kills} kills: {status}");
                assert!(bits(&out) == want, "round {round}");
                round += 1;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
                let saved = std::fs::read_dir(out.join("checkpoints")).map_or(0, |d| d.count());
                killed_at.push(saved);
            }
        }
    }
    let out = temp.path().join(format!("killed-{round}"));
    assert!(train(&out, &data).wait().unwrap().success(), "the last run does not go on");
    assert!(bits(&out) == want, "after all kills");
    assert!(killed_at.iter().any(|saved| *saved > 0), "no kill met a run that had saved: {killed_at:?}");
}
