//! Which operating points a step trains, and which answers it draws together.

use switchformer_nn::Point;
use switchformer_nn::init::Stream;

use crate::recipe::Recipe;

/// A pull between the answers of two of a step's points, named by their index.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pull {
    /// The answer at `from`, fixed, teaches the one at `to`; `weight` of its loss, the labels have the rest.
    Teach {
        /// The teacher.
        from: usize,
        /// The taught.
        to: usize,
        /// Share, 0 to 1.
        weight: f64,
    },
    /// Both answers are drawn to each other by their symmetric divergence.
    Agree {
        /// One.
        a: usize,
        /// The other.
        b: usize,
        /// Factor.
        weight: f64,
    },
}

/// The points of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Each is one pass over the batch.
    pub points: Vec<Point>,
    /// Between them.
    pub pulls: Vec<Pull>,
}

/// The points of a batch: a pure function of recipe and number. With bit-widths the widest, and one narrower view by a
/// seeded draw, which the widest teaches; else as many draws as the recipe says.
pub fn sample(recipe: &Recipe, step: u64, part: u64) -> Sampled {
    let s = &recipe.switch;
    let place = |name: &str| Stream::named(name).fork(recipe.seed).fork(step).fork(part);
    let drawn = |i: u64| recipe.rest().with("seed", place("draw").fork(i).next_u64());
    let Some((wide, narrow)) = s.bits.split_first() else {
        let points = (0..s.draws as u64).map(drawn).collect();
        let pulls = if s.agree > 0.0 { vec![Pull::Agree { a: 0, b: 1, weight: s.agree }] } else { Vec::new() };
        return Sampled { points, pulls };
    };
    let mut all = Sampled { points: vec![drawn(0).with("bits", *wide)], pulls: Vec::new() };
    if !narrow.is_empty() {
        // The first part keeps the draws that runs have had from the beginning.
        let stream = Stream::named("bits").fork(recipe.seed).fork(step);
        let mut stream = if part == 0 { stream } else { stream.fork(part) };
        let pick = stream.below(narrow.len() as u64) as usize;
        all.points.push(drawn(1).with("bits", narrow[pick]));
        all.pulls.push(Pull::Teach { from: 0, to: 1, weight: s.distill });
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn recipe(switch: &str) -> Recipe {
        let text = format!(
            "name = \"x\"\n[model]\n[data]\nset = \"fashion-mnist\"\n[train]\nsteps = 1\nbatch = 1\nlr = 1.0\n\
             warmup = 0\n[switch]\n{switch}"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn draws_differ_and_return() {
        let r = recipe("draws = 2\nagree = 5.0\nexperts = { router = \"random\" }");
        let s = sample(&r, 7, 0);
        assert_eq!(s, sample(&r, 7, 0));
        assert_eq!(s.pulls, [Pull::Agree { a: 0, b: 1, weight: 5.0 }]);
        let mut seeds: Vec<u64> =
            [&s, &sample(&r, 8, 0), &sample(&r, 7, 1)].iter().flat_map(|s| s.points.iter().map(Point::seed)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), 6);
        assert!(s.points.iter().all(|p| p.axes().eq(["experts"])));
    }

    #[test]
    fn every_narrow_view_has_its_turn() {
        let r = recipe("bits = [8, 6, 4, 2]\ndistill = 0.5");
        let mut counts = std::collections::BTreeMap::new();
        for step in 0..600 {
            let s = sample(&r, step, 0);
            assert_eq!(s.points[0].axis::<u8>("bits").unwrap(), Some(8));
            assert_eq!(s.pulls, [Pull::Teach { from: 0, to: 1, weight: 0.5 }]);
            *counts.entry(s.points[1].axis::<u8>("bits").unwrap().unwrap()).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|c| (150..250).contains(c)), "{counts:?}");
    }
}
