//! Which operating points a step trains: several draws of the resting point, or what a switch puts in their place.

use switchformer_nn::Point;
use switchformer_switch::SWITCHES;
use switchformer_switch::train::{Draws, Pull, Sampled};

use crate::error::Result;
use crate::recipe::Recipe;

/// The points of a batch: a pure function of recipe and number.
pub fn sample(recipe: &Recipe, step: u64, part: u64) -> Result<Sampled> {
    let (s, table) = (&recipe.switch, recipe.switch.table());
    let draws = Draws { seed: recipe.seed, step, part, rest: recipe.rest() };
    let points: Vec<Point> = (0..s.draws as u64).map(|i| draws.point(i)).collect();
    let pulls = if s.agree > 0.0 { vec![Pull::Mutual { a: 0, b: 1, weight: s.agree }] } else { Vec::new() };
    let mut sampled = Sampled { points, pulls };
    for switch in SWITCHES.iter().filter_map(|s| s.train()) {
        sampled = switch.sample(&table, &draws, sampled)?;
    }
    Ok(sampled)
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
        let s = sample(&r, 7, 0).unwrap();
        assert_eq!(s, sample(&r, 7, 0).unwrap());
        assert_eq!(s.pulls, [Pull::Mutual { a: 0, b: 1, weight: 5.0 }]);
        let mut seeds: Vec<u64> = [&s, &sample(&r, 8, 0).unwrap(), &sample(&r, 7, 1).unwrap()]
            .iter()
            .flat_map(|s| s.points.iter().map(Point::seed))
            .collect();
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
            let s = sample(&r, step, 0).unwrap();
            assert_eq!(s.points[0].axis::<u8>("bits").unwrap(), Some(8));
            assert_eq!(s.pulls, [Pull::Distill { from: 0, to: 1, weight: 0.5 }]);
            *counts.entry(s.points[1].axis::<u8>("bits").unwrap().unwrap()).or_insert(0) += 1;
        }
        assert!(counts.len() == 3 && counts.values().all(|c| (150..250).contains(c)), "{counts:?}");
    }
}
