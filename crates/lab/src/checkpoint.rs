//! Training state on disk: atomic, hashed, and enough to go on bit for bit.
//!
//! A checkpoint is a folder `checkpoints/step-<n>` of a run. It is filled under a hidden name, synced, and renamed, so a
//! folder of that name is whole whenever the process dies. Old ones are renamed to a hidden name before they are
//! removed. Hidden names are leftovers and are cleared by the next save.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, saved};
use switchformer_nn::{Folder, json};
use switchformer_tensor::Tensor;

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::optim::{Ema, Optimiser, key};
use crate::recipe::hex;

const TENSORS: &str = "state.safetensors";
const MANIFEST: &str = "manifest.json";
const PREFIX: &str = "step-";
const TEMPORARY: &str = ".new-";
const OLD: &str = ".old-";

/// What a checkpoint says about itself. Data order, augmentation and every draw are functions of (seed, step), so the
/// step is all there is to remember of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Optimiser steps done.
    pub step: u64,
    /// Fingerprint of the recipe.
    pub recipe: String,
    /// SHA-256 of the tensors.
    pub sha256: String,
    /// Seconds trained so far.
    pub seconds: f64,
    /// Version that wrote it.
    pub version: String,
    /// The last validation loss before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<f64>,
}

/// Which checkpoints stay.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// The newest so many.
    pub last: usize,
    /// Beside them the so many of the lowest validation loss.
    pub best: usize,
}

/// The checkpoints of a run.
#[derive(Debug)]
pub struct Checkpoints {
    home: PathBuf,
    /// Where versions up to 0.1 kept their only one.
    legacy: PathBuf,
    disk: Disk,
}

impl Checkpoints {
    /// Those of the run in a folder.
    pub fn of(run: &Path) -> Self {
        Checkpoints { home: run.join("checkpoints"), legacy: run.join("state"), disk: Disk::default() }
    }

    /// Saves weights, what the optimiser remembers, and the running mean; then removes what `keep` lets go. The
    /// manifest's hash is filled in here.
    pub fn save(&self, optimiser: &Optimiser, ema: Option<&Ema>, mut manifest: Manifest, keep: Keep) -> Result<()> {
        let mut map = SavedMap::new();
        for (i, (p, slots)) in optimiser.params().iter().zip(optimiser.slots()).enumerate() {
            let name = key(p);
            map.insert(format!("w.{name}"), saved(p.var.as_tensor())?);
            for (slot, v) in slots.iter().map(|(s, v)| (*s, v)).chain(ema.map(|e| ("e", &e.values[i]))) {
                map.insert(format!("{slot}.{name}"), Saved::f32(&[v.len()], v));
            }
        }
        let bytes = safetensors_bytes(&map)?;
        manifest.sha256 = hex(&Sha256::digest(&bytes));
        manifest.version = env!("CARGO_PKG_VERSION").to_string();
        let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
        if !self.home.exists() {
            self.disk.make_dir(&self.home)?;
        }
        self.clear()?;
        let name = format!("{PREFIX}{:010}", manifest.step);
        let (new, last) = (self.home.join(format!("{TEMPORARY}{name}")), self.home.join(&name));
        self.disk.make_dir(&new)?;
        self.disk.write(&new.join(TENSORS), &bytes)?;
        self.disk.write(&new.join(MANIFEST), &text)?;
        self.disk.sync(&new)?;
        if last.exists() {
            // The same step again, as after a stop at a step that saves: both are equal but for the seconds.
            self.hide(&last)?;
        }
        self.disk.rename(&new, &last)?;
        self.disk.sync(&self.home)?;
        self.prune(keep)
    }

    /// Removes what neither is among the last nor among the best.
    fn prune(&self, keep: Keep) -> Result<()> {
        let mut all = self.all()?;
        all.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        let rest = all.split_off(keep.last.min(all.len()));
        let mut ranked: Vec<(f64, &PathBuf)> = Vec::new();
        for (_, path) in all.iter().chain(&rest) {
            if let Some(loss) = self.manifest(path)?.valid {
                ranked.push((loss, path));
            }
        }
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        let best: Vec<&PathBuf> = ranked.into_iter().take(keep.best).map(|(_, path)| path).collect();
        for (_, path) in rest.iter().filter(|(_, path)| !best.contains(&path)) {
            self.hide(path)?;
        }
        self.clear()
    }

    /// Takes a checkpoint's name away, so that it is never seen half removed.
    fn hide(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.disk.rename(path, &self.home.join(format!("{OLD}{name}")))
    }

    /// Removes leftovers.
    fn clear(&self) -> Result<()> {
        for path in self.entries()?.into_iter().filter(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(TEMPORARY) || name.starts_with(OLD)
        }) {
            for file in list(&path)? {
                self.disk.remove_file(&file)?;
            }
            self.disk.remove_dir(&path)?;
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        if self.home.exists() { list(&self.home) } else { Ok(Vec::new()) }
    }

    /// Step and folder of everything that has the name of a checkpoint.
    fn named(&self) -> Result<Vec<(u64, PathBuf)>> {
        Ok(self.entries()?.into_iter().filter_map(|p| Some((step_of(&p)?, p))).collect())
    }

    /// Step and folder of every checkpoint.
    fn all(&self) -> Result<Vec<(u64, PathBuf)>> {
        Ok(self.named()?.into_iter().filter(|(_, path)| whole(path)).collect())
    }

    /// Folders that have the name of a checkpoint and lack a file of one; no save leaves such a folder.
    pub fn lacking(&self) -> Result<Vec<PathBuf>> {
        Ok(self.named()?.into_iter().map(|(_, path)| path).filter(|path| !whole(path)).collect())
    }

    /// The newest checkpoint, or the one that an early version left.
    pub fn newest(&self) -> Result<Option<PathBuf>> {
        let newest = self.all()?.into_iter().max().map(|(_, path)| path);
        Ok(newest.or_else(|| self.legacy.join(MANIFEST).exists().then(|| self.legacy.clone())))
    }

    /// The checkpoint of the lowest validation loss.
    pub fn best(&self) -> Result<Option<PathBuf>> {
        let mut best: Option<(f64, PathBuf)> = None;
        for (_, path) in self.all()? {
            if let Some(loss) = self.manifest(&path)?.valid
                && best.as_ref().is_none_or(|(least, _)| loss < *least)
            {
                best = Some((loss, path));
            }
        }
        Ok(best.map(|(_, path)| path))
    }

    /// What a checkpoint says about itself. Errors where that is not what its folder is called.
    pub fn manifest(&self, home: &Path) -> Result<Manifest> {
        let manifest: Manifest = json::typed(Folder::disk(home)?.json(MANIFEST, 1 << 20)?, &home.join(MANIFEST))?;
        match step_of(home) {
            Some(step) if step != manifest.step => {
                let what = format!(
                    "{MANIFEST} says step {}, and the folder is that of step {step}; remove this folder to go on from \
                     the one before",
                    manifest.step
                );
                Err(Error::Checkpoint { path: home.to_path_buf(), what })
            }
            _ => Ok(manifest),
        }
    }

    /// Loads a checkpoint into parameters, optimiser and running mean. Errors when it is damaged or has other tensors.
    pub fn load(&self, home: &Path, optimiser: &mut Optimiser, mut ema: Option<&mut Ema>) -> Result<Manifest> {
        let bad = |what: String| Error::Checkpoint { path: home.to_path_buf(), what };
        let manifest = self.manifest(home)?;
        let blob = Folder::disk(home)?.blob(TENSORS)?;
        if hex(&Sha256::digest(blob.bytes())) != manifest.sha256 {
            let what = format!("{TENSORS} does not match its hash; remove this folder to go on from the one before");
            return Err(bad(what));
        }
        let tensors = safetensors::SafeTensors::deserialize(blob.bytes()).map_err(|e| bad(e.to_string()))?;
        let values = |name: &str, n: usize| -> Result<Vec<f32>> {
            let view = tensors.tensor(name).map_err(|_| bad(format!("lacks {name}")))?;
            let values: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|c| f32::from_le_bytes(*c)).collect();
            if values.len() == n { Ok(values) } else { Err(bad(format!("{name} has another size"))) }
        };
        for i in 0..optimiser.params().len() {
            let (name, var) = (key(&optimiser.params()[i]).to_string(), optimiser.params()[i].var.clone());
            let w = values(&format!("w.{name}"), var.elem_count())?;
            var.set(&Tensor::from_vec(w, var.dims())?)?;
            for (slot, v) in &mut optimiser.slots_mut()[i] {
                *v = values(&format!("{slot}.{name}"), v.len())?;
            }
            if let Some(ema) = ema.as_deref_mut() {
                ema.values[i] = values(&format!("e.{name}"), var.elem_count())?;
            }
        }
        Ok(manifest)
    }
}

/// The step that the name of a checkpoint's folder says.
fn step_of(home: &Path) -> Option<u64> {
    home.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether a folder holds the files of a checkpoint.
fn whole(home: &Path) -> bool {
    [MANIFEST, TENSORS].iter().all(|file| home.join(file).is_file())
}

/// What a folder holds, in the order of names.
fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let io = |e| Error::io(dir, e);
    let entries = std::fs::read_dir(dir).map_err(io)?.collect::<std::io::Result<Vec<_>>>().map_err(io)?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|e| e.path()).collect();
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use switchformer_nn::{Param, ParamKind};
    use switchformer_tensor::Var;

    const KEEP: Keep = Keep { last: 2, best: 1 };

    fn optimiser(value: f32) -> (Optimiser, Ema) {
        let var = Var::from_tensor(&Tensor::new(&[[value, value + 1.0]]).unwrap()).unwrap();
        let p = Param { names: vec![("w".into(), 1)], var, kind: ParamKind::Matrix, saved_shape: None };
        let mut o = Optimiser::adamw(vec![p], 0.999, 0.0);
        o.slots_mut()[0].insert("m", vec![value, -value]);
        let ema = Ema::new(o.params(), 0.9).unwrap();
        (o, ema)
    }

    fn save(c: &Checkpoints, step: u64) -> Result<()> {
        let (o, ema) = optimiser(step as f32);
        // Step 1 is the best.
        let manifest = Manifest { step, recipe: "r".into(), valid: Some(step as f64), ..Manifest::default() };
        c.save(&o, Some(&ema), manifest, KEEP)
    }

    fn steps(c: &Checkpoints) -> Vec<u64> {
        let mut all: Vec<u64> = c.all().unwrap().into_iter().map(|(s, _)| s).collect();
        all.sort_unstable();
        all
    }

    /// What a fresh process finds: everything it loads must belong to one step.
    fn loaded(run: &Path) -> u64 {
        let c = Checkpoints::of(run);
        let (mut o, mut ema) = optimiser(-1.0);
        let newest = c.newest().unwrap().unwrap();
        let m = c.load(&newest, &mut o, Some(&mut ema)).unwrap();
        let v = m.step as f32;
        let w: Vec<f32> = o.params()[0].var.flatten_all().unwrap().to_vec1().unwrap();
        assert_eq!((w, &o.slots()[0]["m"], &ema.values[0]), (vec![v, v + 1.0], &vec![v, -v], &vec![v, v + 1.0]));
        m.step
    }

    #[test]
    fn the_last_and_the_best_stay() {
        let temp = tempfile::tempdir().unwrap();
        let c = Checkpoints::of(temp.path());
        (1..=5).for_each(|s| save(&c, s).unwrap());
        assert_eq!(steps(&c), [1, 4, 5]);
        assert_eq!(c.best().unwrap().unwrap(), c.home.join("step-0000000001"));
        save(&c, 5).unwrap();
        assert_eq!((steps(&c), loaded(temp.path())), (vec![1, 4, 5], 5));
    }

    #[test]
    fn a_folder_that_is_no_checkpoint_is_passed_over_and_another_step_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let c = Checkpoints::of(temp.path());
        (1..=3).for_each(|s| save(&c, s).unwrap());
        let (empty, half) = (c.home.join("step-0000000009"), c.home.join("step-0000000008"));
        std::fs::create_dir(&empty).unwrap();
        std::fs::create_dir(&half).unwrap();
        std::fs::copy(c.home.join("step-0000000003").join(MANIFEST), half.join(MANIFEST)).unwrap();
        assert_eq!(loaded(temp.path()), 3);
        assert_eq!(c.lacking().unwrap(), [half, empty]);
        save(&c, 4).unwrap();
        assert_eq!((steps(&c), c.best().unwrap()), (vec![1, 3, 4], Some(c.home.join("step-0000000001"))));
        // A folder under the name of another step.
        std::fs::rename(c.home.join("step-0000000004"), c.home.join("step-0000000005")).unwrap();
        let (mut o, mut ema) = optimiser(-1.0);
        let newest = c.newest().unwrap().unwrap();
        let e = c.load(&newest, &mut o, Some(&mut ema)).unwrap_err().to_string();
        assert!(e.contains("says step 4") && e.contains("step 5"), "{e}");
    }

    #[test]
    fn a_kill_at_any_file_operation_leaves_a_whole_state() {
        let whole = tempfile::tempdir().unwrap();
        let c = Checkpoints::of(whole.path());
        (1..=4).for_each(|s| save(&c, s).unwrap());
        c.disk.done.set(0);
        save(&c, 5).unwrap();
        let operations = c.disk.done.get();
        assert!(operations >= 10, "{operations} operations");
        let mut outcomes = std::collections::BTreeSet::new();
        for dies_at in 0..operations {
            let temp = tempfile::tempdir().unwrap();
            (1..=4).for_each(|s| save(&Checkpoints::of(temp.path()), s).unwrap());
            let mut dying = Checkpoints::of(temp.path());
            dying.disk.dies_at = Some(dies_at);
            assert!(save(&dying, 5).is_err(), "operation {dies_at} of {operations}");
            let step = loaded(temp.path());
            assert!(step == 4 || step == 5, "operation {dies_at}: {step}");
            outcomes.insert(step);
            // The next process saves as if nothing had happened, and nothing is left over.
            let next = Checkpoints::of(temp.path());
            save(&next, step + 1).unwrap();
            assert_eq!(loaded(temp.path()), step + 1);
            assert_eq!(steps(&next), [1, step, step + 1], "operation {dies_at}");
            assert_eq!(next.entries().unwrap().len(), 3, "operation {dies_at}");
        }
        assert_eq!(outcomes.len(), 2, "some kills come before the rename and some after");
    }

    #[test]
    fn a_kill_at_any_operation_of_the_first_save_leaves_no_state_or_a_whole_one() {
        let whole = tempfile::tempdir().unwrap();
        let c = Checkpoints::of(whole.path());
        save(&c, 1).unwrap();
        for dies_at in 0..c.disk.done.get() {
            let temp = tempfile::tempdir().unwrap();
            let mut dying = Checkpoints::of(temp.path());
            dying.disk.dies_at = Some(dies_at);
            assert!(save(&dying, 1).is_err());
            if Checkpoints::of(temp.path()).newest().unwrap().is_some() {
                assert_eq!(loaded(temp.path()), 1);
            }
            save(&Checkpoints::of(temp.path()), 2).unwrap();
            assert_eq!(loaded(temp.path()), 2);
        }
    }
}
