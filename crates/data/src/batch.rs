//! Data order, augmentation and batches as pure functions of a seed: the same on every machine.

use crate::error::{Error, Result};
use crate::fashion::Dataset;
use switchformer_format::Rng;

/// The order of `n` samples in an epoch: each of `0..n` once; `[n]`.
pub fn permutation(seed: u64, epoch: u64, n: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n).collect();
    shuffle(&mut order, &mut Rng::of(&[1, seed, epoch]));
    order
}

/// Puts at most 2^32 items into a random order, each order equally likely.
pub(crate) fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for i in (1..items.len()).rev() {
        items.swap(i, rng.pick(i as u32 + 1) as usize);
    }
}

/// The sample at a position of [`permutation`], `None` beyond the end; makes the whole order, so keep that when reading many.
pub fn order_at(seed: u64, epoch: u64, n: u32, position: u32) -> Option<u32> {
    permutation(seed, epoch, n).get(position as usize).copied()
}

/// Random changes to training images; the default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Augment {
    /// Probability of a mirror image (left and right exchanged).
    pub flip: f32,
    /// Zero pixels put around before a random crop back to size; 0 for no crop, at most the image's sides.
    pub pad: usize,
    /// Probability that a rectangle (2 to 33 % of the area, sides up to 1 : 3.3) is set to the mean.
    pub erase: f32,
}

/// Mean and standard deviation of pixels in 0..=1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// Mean.
    pub mean: f32,
    /// Standard deviation.
    pub std: f32,
}

impl Norm {
    /// Those of the Fashion-MNIST training images.
    pub const FASHION: Norm = Norm { mean: 0.286_040_6, std: 0.353_024_2 };
    /// Those of the pictures of CIFAR-10 that are trained on here, all channels together.
    pub const CIFAR: Norm = Norm { mean: 0.476_537_7, std: 0.250_843_7 };

    /// The 256 values that a byte can become.
    fn table(&self) -> [f32; 256] {
        std::array::from_fn(|byte| (byte as f32 / 255.0 - self.mean) / self.std)
    }
}

/// Which random numbers an augmented batch draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// What may be done to an image.
    pub augment: Augment,
    /// The run's seed.
    pub seed: u64,
    /// The epoch.
    pub epoch: u64,
}

impl Dataset {
    /// Fills `out` `[b, channels, height, width]` with the images at `indices` `[b]`, normalised and, with `draw`, augmented by (seed, epoch, index) alone; fails with `batch.invalid`.
    pub fn fill_batch(&self, indices: &[u32], norm: Norm, draw: Option<&Draw>, out: &mut [f32]) -> Result<()> {
        let size = self.size();
        if indices.len().checked_mul(size) != Some(out.len()) {
            return Err(Error::batch("the buffer must hold batch * channels * height * width values"));
        }
        if !norm.mean.is_finite() || !norm.std.is_finite() || norm.std == 0.0 {
            return Err(Error::batch("mean and std must be finite and std not 0"));
        }
        if let Some(Draw { augment, .. }) = draw {
            augment.check(self.height(), self.width())?;
        }
        let table = norm.table();
        for (&index, out) in indices.iter().zip(out.chunks_exact_mut(size)) {
            let image = self.image(index as usize).ok_or_else(|| Error::batch("an index is beyond the dataset"))?;
            match draw {
                None => out.iter_mut().zip(image).for_each(|(o, &b)| *o = table[usize::from(b)]),
                Some(draw) => augment_into(image, self.height(), self.width(), draw, index, &table, out),
            }
        }
        Ok(())
    }

    /// The labels at `indices`, `[b]`; fails with `batch.invalid`.
    pub fn labels_at(&self, indices: &[u32]) -> Result<Vec<u8>> {
        indices
            .iter()
            .map(|&i| self.labels().get(i as usize).copied())
            .collect::<Option<_>>()
            .ok_or_else(|| Error::batch("an index is beyond the dataset"))
    }
}

impl Augment {
    fn check(&self, height: usize, width: usize) -> Result<()> {
        let share = 0.0..=1.0;
        if !share.contains(&self.flip) || !share.contains(&self.erase) {
            return Err(Error::batch("flip and erase are probabilities from 0 to 1"));
        }
        if self.pad > height.min(width) {
            return Err(Error::batch("the padding is larger than the image"));
        }
        Ok(())
    }
}

/// Crops, mirrors and erases one image `[channels, h, w]` into `out` of the same shape, all channels alike.
fn augment_into(image: &[u8], h: usize, w: usize, draw: &Draw, index: u32, table: &[f32; 256], out: &mut [f32]) {
    let Draw { augment, seed, epoch } = *draw;
    let mut rng = Rng::of(&[2, seed, epoch, u64::from(index)]);
    // Every draw is made whatever the settings, so that changing one does not change the others.
    let span = 2 * augment.pad as u32 + 1;
    let (dy, dx) = (rng.pick(span) as usize, rng.pick(span) as usize);
    let flip = rng.unit64() < f64::from(augment.flip);
    let erase = rng.unit64() < f64::from(augment.erase);

    for (image, out) in image.chunks_exact(h * w).zip(out.chunks_exact_mut(h * w)) {
        for y in 0..h {
            for x in 0..w {
                let column = if flip { w - 1 - x } else { x };
                // In padded coordinates the image begins at `pad`; wrapping makes what lies before it huge.
                let from_y = (y + dy).wrapping_sub(augment.pad);
                let from_x = (column + dx).wrapping_sub(augment.pad);
                let byte = if from_y < h && from_x < w { image[from_y * w + from_x] } else { 0 };
                out[y * w + x] = table[usize::from(byte)];
            }
        }
    }
    if !erase {
        return;
    }
    // A rectangle that does not fit is drawn anew, ten times at most, as torchvision does.
    for _ in 0..10 {
        let area = (h * w) as f64 * rng.between(0.02, 0.33);
        // Only exactly rounded operations: the same on every machine.
        let ratio = rng.between(1.0, 3.3);
        let ratio = if rng.next_u64() >> 63 == 0 { ratio } else { 1.0 / ratio };
        let (eh, ew) = ((area * ratio).sqrt().round() as usize, (area / ratio).sqrt().round() as usize);
        if eh == 0 || ew == 0 || eh > h || ew > w {
            continue;
        }
        let top = rng.pick((h - eh + 1) as u32) as usize;
        let left = rng.pick((w - ew + 1) as u32) as usize;
        for plane in out.chunks_exact_mut(h * w) {
            for row in plane.chunks_exact_mut(w).skip(top).take(eh) {
                // 0 is the mean after normalising.
                row[left..left + ew].fill(0.0);
            }
        }
        return;
    }
}
