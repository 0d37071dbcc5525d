//! What an operating point keeps and what it costs, measured on labelled images.

use std::borrow::Cow;
use std::time::Instant;

use switchformer_data::batch::Draw;
use switchformer_data::fashion::Dataset;
use switchformer_nn::init::Stream;
use switchformer_nn::{Input, Point, Trace, ops};
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;

use crate::error::Result;

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
    let n_blocks = opened.switches.host().n_blocks;
    let mut all = Answers { correct: Vec::with_capacity(set.len()), macs: 0, decision_macs: 0, blocks: 0 };
    let order: Vec<u32> = (0..set.len() as u32).collect();
    for chunk in order.chunks(batch.max(1)) {
        let (classes, trace) = predict(opened, point, &pixels(set, chunk, None)?)?;
        let labels = set.labels_at(chunk)?;
        all.correct.extend(classes.iter().zip(&labels).map(|(c, l)| *c == usize::from(*l)));
        all.macs += trace.macs;
        all.decision_macs += trace.decision_macs;
        all.blocks += blocks(&trace, n_blocks, chunk.len());
    }
    Ok(all)
}

/// Blocks run, summed over the samples of a batch of `n`.
pub(crate) fn blocks(trace: &Trace, n_blocks: usize, n: usize) -> u64 {
    let all = n_blocks as u64;
    let exits = trace.decisions.iter().filter(|d| d.switch == "exit");
    let left_out = exits.map(|d| {
        let members = if d.member.is_some() { 1 } else { n as u64 };
        (all - d.choice["after"].as_u64().unwrap_or(all).min(all)) * members
    });
    all * n as u64 - left_out.sum::<u64>()
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
    let middle = (all[(all.len() - 1) / 2] + all[all.len() / 2]) / 2.0;
    Ok([middle, all[0], all[all.len() - 1]])
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
    fn argmax_takes_the_first_of_equals() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }
}
