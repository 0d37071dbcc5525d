//! What an operating point keeps and what it costs, measured on labelled images.

use std::borrow::Cow;
use std::time::Instant;

use serde::Serialize;
use switchformer_data::batch::Draw;
use switchformer_data::fashion::Dataset;
use switchformer_nn::init::Stream;
use switchformer_nn::{Input, Point, Trace, ops};
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;

use crate::error::Result;

/// One point, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Short name.
    pub name: String,
    /// The setting.
    pub point: Point,
    /// Images the accuracy is over.
    pub n: usize,
    /// Share of images answered rightly.
    pub accuracy: f64,
    /// Wilson 95 % interval of the accuracy.
    pub accuracy_ci: [f64; 2],
    /// Median milliseconds for one image alone.
    pub ms_batch1: f64,
    /// Median milliseconds per image in batches of 32.
    pub ms_batch32: f64,
    /// Fastest and slowest of the batch-32 runs, milliseconds per image.
    pub ms_batch32_range: [f64; 2],
    /// Images per second in batches of 32.
    pub images_per_s: f64,
    /// Floating-point operations per image that were executed (two per multiply-add).
    pub flops: f64,
    /// Operations per image spent on ranking tokens, included in no other figure.
    pub decision_flops: f64,
    /// Bytes of weights that the point needs (a 4-bit view counts 4 bits).
    pub weight_bytes: u64,
    /// Bytes of weights in memory: stored 8-bit codes stay whole at every width.
    pub resident_bytes: u64,
    /// Peak memory of the process while this point ran, bytes; 0 where the system does not tell.
    pub peak_memory: u64,
    /// Blocks run per image, on average.
    pub mean_depth: f64,
    /// Whether no other point is both as accurate and as fast (batch 32).
    pub pareto: bool,
}

/// Images of a set as one batch, changed by chance with `draw`. Shapes: -> `[b, channels, h, w]`.
pub fn pixels(set: &Dataset, indices: &[u32], draw: Option<&Draw>) -> Result<Input> {
    let shape = (indices.len(), set.channels(), set.height(), set.width());
    let mut data = vec![0f32; shape.0 * shape.1 * shape.2 * shape.3];
    set.fill_batch(indices, set.norm(), draw, &mut data)?;
    Ok(Input::pixel_values(Tensor::from_vec(data, shape)?))
}

/// The set at the size that a model was trained at.
pub fn fitted<'a>(opened: &Opened, set: &'a Dataset) -> Result<Cow<'a, Dataset>> {
    match opened.model.spec().image_size() {
        Ok((_, (h, w), _)) if h == w && (h, w) != (set.height(), set.width()) => Ok(Cow::Owned(set.resized(h)?)),
        _ => Ok(Cow::Borrowed(set)),
    }
}

/// Predicted class of every member, and the trace.
pub fn predict(opened: &Opened, point: &Point, input: &Input) -> Result<(Vec<usize>, Trace)> {
    let (out, trace) = opened.run(point, input)?;
    let logits = out.get("logits")?.to_vec2::<f32>()?;
    Ok((logits.iter().map(|row| argmax(row)).collect(), trace))
}

/// Index of the largest value; the first of equals.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best })
}

/// Answers on a whole set.
pub struct Answers {
    /// Whether each image was answered rightly.
    pub correct: Vec<bool>,
    /// Multiply-adds executed.
    pub macs: u64,
    /// Multiply-adds spent on ranking.
    pub decision_macs: u64,
    /// Blocks run, summed over images.
    pub blocks: u64,
}

/// Runs every image of a set at a point, in batches.
pub fn answer(opened: &Opened, point: &Point, set: &Dataset, batch: usize) -> Result<Answers> {
    let n_blocks = opened.switches.host().n_blocks as u64;
    let mut all = Answers { correct: Vec::with_capacity(set.len()), macs: 0, decision_macs: 0, blocks: 0 };
    let order: Vec<u32> = (0..set.len() as u32).collect();
    for chunk in order.chunks(batch.max(1)) {
        let (classes, trace) = predict(opened, point, &pixels(set, chunk, None)?)?;
        let labels = set.labels_at(chunk)?;
        all.correct.extend(classes.iter().zip(&labels).map(|(c, l)| *c == usize::from(*l)));
        all.macs += trace.macs;
        all.decision_macs += trace.decision_macs;
        let mut blocks = n_blocks * chunk.len() as u64;
        for d in trace.decisions.iter().filter(|d| d.switch == "exit") {
            let after = d.choice["after"].as_u64().unwrap_or(n_blocks);
            let members = if d.member.is_some() { 1 } else { chunk.len() as u64 };
            blocks -= (n_blocks - after) * members;
        }
        all.blocks += blocks;
    }
    Ok(all)
}

/// Wilson score interval of a share at 95 %.
pub fn wilson(hits: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (z, n) = (1.959_963_985, n as f64);
    let p = hits as f64 / n;
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    [(centre - half) / (1.0 + z * z / n), (centre + half) / (1.0 + z * z / n)]
}

/// Median, fastest and slowest of `reps` timed calls after `warmup`, in milliseconds.
pub fn time<E>(warmup: usize, reps: usize, mut call: impl FnMut() -> Result<(), E>) -> Result<[f64; 3], E> {
    let mut all = Vec::with_capacity(reps);
    for i in 0..warmup + reps.max(1) {
        let start = Instant::now();
        call()?;
        if i >= warmup {
            all.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    all.sort_by(f64::total_cmp);
    Ok([all[all.len() / 2], all[0], all[all.len() - 1]])
}

/// The most multiply-adds per second that a dense product reaches here and now: the best of some runs of `[1024, 1024]` times
/// `[1024, 1024]`, with as many threads as everything else.
pub fn gemm_rate() -> Result<f64> {
    const SIDE: usize = 1024;
    let mut stream = Stream::named("measure.gemm");
    let mut square = || -> Result<Tensor> {
        let values: Vec<f32> = (0..SIDE * SIDE).map(|_| stream.unit() - 0.5).collect();
        Ok(Tensor::from_vec(values, (SIDE, SIDE))?)
    };
    let (x, w) = (square()?, square()?);
    let [_, fastest, _] = time(2, 12, || ops::linear(&x, &w, None).map(drop))?;
    Ok((SIDE * SIDE * SIDE) as f64 / fastest * 1e3)
}

/// Starts a new peak-memory reading where the system allows it.
pub fn reset_peak() {
    // Only the reading is lost where this is not allowed.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Peak resident memory in bytes since [`reset_peak`]; 0 where the system does not tell.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) * 1024
}

/// Measures one point on a set: accuracy on all of it, time on its first images.
pub fn measure(opened: &Opened, name: &str, point: &Point, set: &Dataset, reps: usize) -> Result<Measured> {
    let set = &*fitted(opened, set)?;
    reset_peak();
    let answers = answer(opened, point, set, 64)?;
    let (n, hits) = (set.len(), answers.correct.iter().filter(|c| **c).count());
    let singles: Vec<Input> = (0..8u32.min(n as u32)).map(|i| pixels(set, &[i], None)).collect::<Result<_>>()?;
    let mut i = 0;
    let one = time(4, 4 * reps, || {
        i += 1;
        opened.run(point, &singles[i % singles.len()]).map(|_| ())
    })?;
    let b = 32.min(n);
    let batches: Vec<Input> = (0..(n / b).clamp(1, 8) as u32)
        .map(|k| pixels(set, &(k * b as u32..(k + 1) * b as u32).collect::<Vec<_>>(), None))
        .collect::<Result<_>>()?;
    let mut k = 0;
    let many = time(2, reps, || {
        k += 1;
        opened.run(point, &batches[k % batches.len()]).map(|_| ())
    })?;
    let per_image = |macs: u64| 2.0 * macs as f64 / n as f64;
    let default = Point::new();
    Ok(Measured {
        name: name.to_string(),
        point: point.clone(),
        n,
        accuracy: hits as f64 / n as f64,
        accuracy_ci: wilson(hits, n),
        ms_batch1: one[0],
        ms_batch32: many[0] / b as f64,
        ms_batch32_range: [many[1] / b as f64, many[2] / b as f64],
        images_per_s: b as f64 / many[0] * 1e3,
        flops: per_image(answers.macs),
        decision_flops: per_image(answers.decision_macs),
        weight_bytes: opened.cost(point, &singles[0])?.bytes,
        resident_bytes: opened.cost(&default, &singles[0])?.bytes + opened.switches.bytes(),
        peak_memory: peak_memory(),
        mean_depth: answers.blocks as f64 / n as f64,
        pareto: false,
    })
}

/// Marks the points that no other beats in both accuracy and time at batch 32.
pub fn mark_pareto(points: &mut [Measured]) {
    let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.ms_batch32, p.accuracy)).collect();
    points.iter_mut().zip(on_front(&pairs)).for_each(|(p, on)| p.pareto = on);
}

/// Whether no other pair has at most the cost and at least the accuracy, one of them strictly. Pairs: (cost, accuracy).
pub fn on_front(pairs: &[(f64, f64)]) -> Vec<bool> {
    let beats = |(t, a): (f64, f64), (u, b): (f64, f64)| u <= t && b >= a && (u < t || b > a);
    pairs.iter().map(|p| !pairs.iter().any(|q| beats(*p, *q))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_matches_published_values() {
        // 8 of 10 at 95 %: 0.490 to 0.943 (Newcombe 1998, method 3).
        let [lo, hi] = wilson(8, 10);
        assert!((lo - 0.4902).abs() < 1e-3 && (hi - 0.9433).abs() < 1e-3, "{lo} {hi}");
    }

    #[test]
    fn the_front_holds_what_nothing_beats() {
        let on = on_front(&[(1.0, 0.5), (2.0, 0.9), (2.0, 0.8), (3.0, 0.9), (0.5, 0.5)]);
        assert_eq!(on, [false, true, false, false, true]);
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
