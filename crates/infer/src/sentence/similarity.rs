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
    /// Of vectors of tokens: for each of the query the largest dot product with one of the document, summed.
    MaxSim,
    /// The same, over the number of vectors of the query.
    MeanMaxSim,
}

/// The score of a document without a vector, below that of every other one.
const EMPTY: f64 = -1e9;

impl Similarity {
    /// Those of vectors of tokens.
    pub const OF_TOKENS: [Similarity; 2] = [Similarity::MaxSim, Similarity::MeanMaxSim];

    /// Those of one vector a text.
    pub const ALL: [Similarity; 4] =
        [Similarity::Cosine, Similarity::Dot, Similarity::Euclidean, Similarity::Manhattan];

    /// Its name in `similarity_fn_name`.
    pub fn name(self) -> &'static str {
        match self {
            Similarity::Cosine => "cosine",
            Similarity::Dot => "dot",
            Similarity::Euclidean => "euclidean",
            Similarity::Manhattan => "manhattan",
            Similarity::MaxSim => "maxsim",
            Similarity::MeanMaxSim => "meanmaxsim",
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
            // Of single vectors the largest product is the only one.
            Similarity::Dot | Similarity::MaxSim | Similarity::MeanMaxSim => dot(a, b),
            Similarity::Euclidean => -sum(a, b, |x, y| (x - y) * (x - y)).sqrt(),
            Similarity::Manhattan => -sum(a, b, |x, y| (x - y).abs()),
        }
    }

    /// How alike the vectors of the tokens of a query and of a document are, by MaxSim unless it is [`Self::MeanMaxSim`].
    pub fn of_tokens(self, query: &[Vec<f32>], document: &[Vec<f32>]) -> f64 {
        let best = |q: &Vec<f32>| document.iter().map(|d| Similarity::Dot.of(q, d)).fold(f64::NEG_INFINITY, f64::max);
        let mean = self == Similarity::MeanMaxSim;
        let sum = if document.is_empty() { EMPTY } else { query.iter().map(best).sum() };
        if mean { sum / query.len().max(1) as f64 } else { sum }
    }
}
