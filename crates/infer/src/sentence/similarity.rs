//! How alike two embeddings are.

/// A way to compare embeddings; more is more alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Similarity {
    /// Cosine of the angle between them.
    Cosine,
    /// Dot product.
    Dot,
    /// Euclidean distance, negative.
    Euclidean,
    /// Manhattan distance, negative.
    Manhattan,
}

impl Similarity {
    /// All, by the names of sentence-transformers.
    pub const ALL: [Similarity; 4] =
        [Similarity::Cosine, Similarity::Dot, Similarity::Euclidean, Similarity::Manhattan];

    /// Its name in `similarity_fn_name`.
    pub fn name(self) -> &'static str {
        match self {
            Similarity::Cosine => "cosine",
            Similarity::Dot => "dot",
            Similarity::Euclidean => "euclidean",
            Similarity::Manhattan => "manhattan",
        }
    }

    /// How alike two vectors of the same length are. A cosine with one that has no length is 0.
    pub fn of(self, a: &[f32], b: &[f32]) -> f64 {
        let sum = |a: &[f32], b: &[f32], f: fn(f64, f64) -> f64| -> f64 {
            a.iter().zip(b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
        };
        let dot = |a: &[f32], b: &[f32]| sum(a, b, |x, y| x * y);
        match self {
            Similarity::Cosine => {
                let norms = (dot(a, a) * dot(b, b)).sqrt();
                if norms > 0.0 { dot(a, b) / norms } else { 0.0 }
            }
            Similarity::Dot => dot(a, b),
            Similarity::Euclidean => -sum(a, b, |x, y| (x - y) * (x - y)).sqrt(),
            Similarity::Manhattan => -sum(a, b, |x, y| (x - y).abs()),
        }
    }
}
