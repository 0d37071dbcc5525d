//! Random numbers that are a function of a name, so that no weights need to be stored for tests.

pub use switchformer_format::rng::Rng as Stream;

/// How a tensor is drawn from its published name (the rule of `golden/oracle.py`).
pub fn seeded(name: &str, shape: &[usize]) -> Vec<f32> {
    let lower = name.to_lowercase();
    // A vector called weight is that of a norm, whatever its name is.
    let near_one = ["weight", "gamma", "running_var"].iter().any(|end| lower.ends_with(end));
    let (base, scale) = if near_one && (lower.contains("norm") || shape.len() == 1) {
        (1.0, 0.25)
    } else if shape.len() <= 1 {
        (0.0, 0.125)
    } else if (name.contains("embeddings") && !name.contains("patch_embeddings"))
        || name.contains("_token")
        || name.contains("pos_embed")
    {
        (0.0, 0.5)
    } else {
        let fan_in: usize = shape[1..].iter().product();
        let half_log = (usize::BITS - fan_in.leading_zeros()).saturating_sub(1) / 2;
        (0.0, 0.5f32.powi(half_log as i32))
    };
    let mut stream = Stream::named(name);
    (0..shape.iter().product::<usize>()).map(|_| base + (2.0 * stream.unit() - 1.0) * scale).collect()
}

/// Deviation that BERT and ViT start matrices with when `initializer_range` says nothing else.
pub const INITIALIZER_RANGE: f32 = 0.02;

/// How a tensor of a fresh model starts.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub enum Init {
    /// As its shape says: truncated normal of the model's own deviation for matrices and tables, ones for weights of
    /// norms, zeros for biases.
    #[default]
    Range,
    /// The kernel of a convolution with so many groups: normal, variance 2 / (kernel places * outputs of a group). A
    /// vector starts as in [`Init::Range`].
    FanOut(usize),
    /// A matrix `[out, in]`: truncated normal, of this deviation over the root of `in` (T5). A vector starts as in
    /// [`Init::Range`].
    FanIn(f32),
    /// Truncated normal of this deviation, whatever the shape.
    Normal(f32),
    /// This number everywhere.
    Constant(f32),
    /// A matrix whose rows, taken as many at a time as they are long, are at right angles and as long as normal rows are
    /// (random features of Performers).
    Orthogonal,
}

/// The values of a tensor of a fresh model; `deviation` is the model's own (DeiT and BERT both start so).
pub fn fresh(name: &str, shape: &[usize], seed: u64, deviation: f32, draw: Init) -> Vec<f32> {
    let n = shape.iter().product::<usize>();
    let mut stream = Stream::named(name).fork(seed);
    match draw {
        Init::Constant(value) => return vec![value; n],
        Init::Normal(own) => return (0..n).map(|_| own * stream.trunc_normal()).collect(),
        Init::Orthogonal => return orthogonal(&mut stream, n, shape.last().copied().unwrap_or(1)),
        Init::Range | Init::FanOut(_) | Init::FanIn(_) => {}
    }
    if shape.len() <= 1 {
        let lower = name.to_lowercase();
        let one = lower.ends_with("weight") || lower.ends_with("running_var");
        return vec![if one { 1.0 } else { 0.0 }; n];
    }
    let deviation = match draw {
        Init::FanOut(groups) => {
            let fan_out = shape[0] * shape[2..].iter().product::<usize>() / groups.max(1);
            (2.0 / fan_out.max(1) as f32).sqrt()
        }
        Init::FanIn(own) => own / (shape[1..].iter().product::<usize>().max(1) as f32).sqrt(),
        _ => deviation,
    };
    (0..n).map(|_| deviation * stream.trunc_normal()).collect()
}

/// `n` values in rows of `width`; see [`Init::Orthogonal`].
fn orthogonal(stream: &mut Stream, n: usize, width: usize) -> Vec<f32> {
    let mut all: Vec<Vec<f64>> = Vec::with_capacity(n / width.max(1));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut normal = || -> Vec<f64> { (0..width).map(|_| f64::from(stream.trunc_normal())).collect() };
    while all.len() * width < n {
        let block = all.len() / width * width;
        let mut row = normal();
        for other in &all[block..] {
            let along = dot(&row, other);
            row.iter_mut().zip(other).for_each(|(r, o)| *r -= along * o);
        }
        let long = dot(&row, &row).sqrt();
        // What is nearly in the span of the others is drawn again.
        if long > 1e-3 {
            all.push(row.iter().map(|r| r / long).collect());
        }
    }
    let long: Vec<f64> = all
        .iter()
        .map(|_| {
            let v = normal();
            dot(&v, &v).sqrt()
        })
        .collect();
    all.iter().zip(long).flat_map(|(row, long)| row.iter().map(move |r| (r * long) as f32)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(v: &[f32]) -> f32 {
        (v.iter().map(|x| x * x).sum::<f32>() / v.len() as f32).sqrt()
    }

    #[test]
    fn tensors_start_as_their_layer_needs() {
        // A normal cut at two deviations has 0.88 of them.
        const CUT: f32 = 0.8796;
        let draw = |shape: &[usize], start| fresh("a.weight", shape, 7, 0.05, start);
        let near = |got: f32, want: f32| assert!((got / (CUT * want) - 1.0).abs() < 0.03, "{got} {want}");
        near(deviation(&draw(&[64, 128], Init::Range)), 0.05);
        near(deviation(&draw(&[64, 32, 3, 3], Init::FanOut(1))), (2f32 / (9.0 * 64.0)).sqrt());
        near(deviation(&draw(&[512, 1, 5, 5], Init::FanOut(512))), (2f32 / 25.0).sqrt());
        near(deviation(&draw(&[64, 128], Init::FanIn(2.0))), 2.0 / 128f32.sqrt());
        near(deviation(&draw(&[9000], Init::Normal(0.3))), 0.3);
        assert_eq!(draw(&[3, 1], Init::Constant(-2.0)), [-2.0; 3]);
        assert_eq!(draw(&[2], Init::FanOut(1)), [1.0; 2]);
        let rows = draw(&[10, 4], Init::Orthogonal);
        for (i, a) in rows.chunks(4).enumerate() {
            for (j, b) in rows.chunks(4).enumerate() {
                let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!(if i == j { dot > 0.05 } else { i / 4 != j / 4 || dot.abs() < 1e-4 }, "{i} {j} {dot}");
            }
        }
        assert_eq!(fresh("a.bias", &[2], 7, 0.05, Init::FanOut(1)), [0.0; 2]);
        assert_ne!(draw(&[2, 2], Init::Range), fresh("a.weight", &[2, 2], 8, 0.05, Init::Range));
    }
}
