//! Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) without a first moment: the second moment of a matrix is kept
//! as one mean per row and one per column, updates are clipped by their size, and steps are relative to the size of a
//! tensor.

use super::Slots;

/// Added to squared gradients.
const EPS1: f64 = 1e-30;
/// Least size of a tensor that steps are relative to.
const EPS2: f64 = 1e-3;
/// Largest root mean square of an update.
const CLIP: f64 = 1.0;
/// Exponent of the decay of the second moment, `1 - step^-0.8`.
const DECAY: f64 = 0.8;

/// Numbers of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    pub(super) lr: f64,
    pub(super) weight_decay: f64,
    /// Factor of the gradients.
    pub(super) scale: f64,
    /// Steps from 1.
    pub(super) step: u64,
}

/// Rows and columns where the second moment is factored: matrices alone.
fn matrix(dims: &[usize]) -> Option<(usize, usize)> {
    match dims {
        [rows, columns] => Some((*rows, *columns)),
        _ => None,
    }
}

/// What is remembered of a tensor.
pub(super) fn slots(dims: &[usize]) -> Slots {
    match matrix(dims) {
        Some((rows, columns)) => Slots::from([("r", vec![0.0; rows]), ("c", vec![0.0; columns])]),
        None => Slots::from([("v", vec![0.0; dims.iter().product()])]),
    }
}

fn rms(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    (sum / values.len().max(1) as f64).sqrt()
}

/// One update of `w`, in place; `g` is its gradient.
pub(super) fn step(w: &mut [f32], mut g: Vec<f32>, dims: &[usize], slots: &mut Slots, n: Numbers) {
    let decay = 1.0 - (n.step as f64).powf(-DECAY);
    let lr = n.lr * rms(w).max(EPS2);
    g.iter_mut().for_each(|v| *v *= n.scale as f32);
    let follow = |old: f32, new: f64| (f64::from(old) * decay + (1.0 - decay) * new) as f32;
    let square = |v: &f32| f64::from(*v) * f64::from(*v) + EPS1;
    match matrix(dims) {
        Some((rows, columns)) => {
            let mut sums = vec![0f64; columns];
            if let Some(r) = slots.get_mut("r") {
                for (row, r) in g.chunks_exact(columns).zip(r) {
                    let mut sum = 0.0;
                    for (v, s) in row.iter().zip(&mut sums) {
                        let q = square(v);
                        sum += q;
                        *s += q;
                    }
                    *r = follow(*r, sum / columns as f64);
                }
            }
            if let Some(c) = slots.get_mut("c") {
                c.iter_mut().zip(&sums).for_each(|(c, s)| *c = follow(*c, s / rows as f64));
            }
            let (r, c) = (&slots["r"], &slots["c"]);
            let mean = r.iter().map(|v| f64::from(*v)).sum::<f64>() / rows as f64;
            let by_column: Vec<f32> = c.iter().map(|c| (1.0 / f64::from(*c).sqrt()) as f32).collect();
            for (row, r) in g.chunks_exact_mut(columns).zip(r) {
                let by_row = (1.0 / (f64::from(*r) / mean).sqrt()) as f32;
                row.iter_mut().zip(&by_column).for_each(|(v, c)| *v *= by_row * c);
            }
        }
        None => {
            if let Some(second) = slots.get_mut("v") {
                for (g, v) in g.iter_mut().zip(second) {
                    *v = follow(*v, square(g));
                    *g = (f64::from(*g) / f64::from(*v).sqrt()) as f32;
                }
            }
        }
    }
    let factor = lr / (rms(&g) / CLIP).max(1.0);
    let keep = 1.0 - n.weight_decay * lr;
    w.iter_mut().zip(&g).for_each(|(w, u)| *w = (f64::from(*w) * keep - factor * f64::from(*u)) as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps as `transformers.Adafactor` takes them (lr 0.05, scale_parameter, weight_decay 0.01).
    #[test]
    fn steps_equal_the_reference() {
        let matrix =
            [[0.3, -0.1, 0.2, 1.0, 0.5, -2.0], [0.1, 0.4, -0.2, 0.3, 0.1, 0.7], [-1.0, 2.0, 0.5, 0.25, -0.5, 0.125]];
        let vector = [[0.1, -3.0], [0.2, 0.2], [-1.0, 0.5]];
        let mut w = [0.5, -0.25, 1.0, 0.1, 0.2, -0.3];
        let mut b = [0.5, -1.5];
        let (mut ws, mut bs) = (slots(&[2, 3]), slots(&[2]));
        for i in 0..3 {
            let n = Numbers { lr: 0.05, weight_decay: 0.01, scale: 1.0, step: i as u64 + 1 };
            step(&mut w, matrix[i].to_vec(), &[2, 3], &mut ws, n);
            step(&mut b, vector[i].to_vec(), &[2], &mut bs, n);
        }
        let want = [0.487_118_6, -0.322_595_3, 0.982_026_6, 0.062_157_2, 0.187_715_6, -0.290_394_8];
        w.iter().zip(want).for_each(|(a, b)| assert!((a - b).abs() < 2e-6, "{w:?}"));
        b.iter().zip([0.451_858_2, -1.462_81]).for_each(|(a, b)| assert!((a - b).abs() < 2e-6, "{b}"));
    }

    #[test]
    fn a_matrix_remembers_a_row_and_a_column() {
        let n = |dims: &[usize]| slots(dims).values().map(Vec::len).sum::<usize>();
        assert_eq!((n(&[30, 20]), n(&[30]), n(&[2, 3, 4])), (50, 30, 24));
    }
}
