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
    command(out, data).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn command(out: &Path, data: &Path) -> Command {
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
    command
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

/// A scheduler's SIGTERM saves as an interrupt does, and what was changed by hand afterwards is refused or passed over.
#[test]
#[cfg(unix)]
fn a_run_that_is_told_to_end_saves_first() {
    let temp = tempfile::tempdir().unwrap();
    let (data, out) = (data(temp.path()), temp.path().join("run"));
    let long = |steps: &str| {
        let mut c = command(&out, &data);
        c.args(["--set", "train.save_every=1000000", "--set", "train.valid_every=0", "--set", "train.keep_best=0"]);
        c.args(["--set", steps]).stdout(Stdio::null()).stderr(Stdio::piped());
        c
    };
    let saved = || -> Vec<PathBuf> {
        let all = std::fs::read_dir(out.join("checkpoints"));
        all.map_or_else(|_| Vec::new(), |d| d.map(|e| e.unwrap().path()).collect())
    };
    for signal in ["-TERM", "-INT"] {
        let before = saved();
        let child = long("train.steps=1000000").spawn().unwrap();
        let begun = Instant::now();
        let stepped = || std::fs::metadata(out.join("metrics.jsonl")).is_ok_and(|m| m.len() > 0);
        while !stepped() || begun.elapsed() < Duration::from_millis(500) {
            assert!(begun.elapsed() < Duration::from_secs(120), "no step");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let end = child.wait_with_output().unwrap();
        assert_eq!(end.status.code(), Some(5), "{signal}: {}", String::from_utf8_lossy(&end.stderr));
        assert!(saved().iter().any(|p| !before.contains(p)), "{signal} saved nothing");
    }
    // A manifest that says another step than its folder, and a folder of a step that the recipe never reaches.
    let newest = saved().into_iter().max().unwrap();
    let manifest = std::fs::read_to_string(newest.join("manifest.json")).unwrap();
    let step = newest.file_name().unwrap().to_str().unwrap().trim_start_matches("step-").parse::<u64>().unwrap();
    let far = manifest.replace(&format!("\"step\": {step}"), "\"step\": 1000000000000000000");
    assert_ne!(far, manifest);
    std::fs::write(newest.join("manifest.json"), &far).unwrap();
    let refused = |says: &str| {
        let end = long("train.steps=1000000").output().unwrap();
        let err = String::from_utf8_lossy(&end.stderr).into_owned();
        // The failure is the last line, in JSON as the answer would have been.
        let last: serde_json::Value = serde_json::from_str(err.lines().last().unwrap()).unwrap();
        assert!(end.status.code() == Some(1) && last["error"]["code"] == "checkpoint" && err.contains(says), "{err}");
    };
    refused("says step 1000000000000000000");
    let beyond = newest.with_file_name("step-1000000000000000000");
    std::fs::rename(&newest, &beyond).unwrap();
    refused("ends at step 1000000");
    // An empty folder is passed over by name.
    std::fs::write(beyond.join("manifest.json"), &manifest).unwrap();
    std::fs::rename(&beyond, &newest).unwrap();
    std::fs::create_dir(&beyond).unwrap();
    let mut c = long("train.steps=1000000");
    let end = c.args(["--stop-after", "1"]).output().unwrap();
    let err = String::from_utf8_lossy(&end.stderr).into_owned();
    assert!(end.status.code() == Some(5) && err.contains("note: ") && err.contains("passed over"), "{err}");
    assert!(saved().iter().any(|p| p.ends_with(format!("step-{:010}", step + 1))), "{:?}", saved());
}
