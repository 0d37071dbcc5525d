//! Multiplications, additions and their energy by a config alone, against the table of EcoFormer's paper.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use switchformer_nn::Cost;
use switchformer_nn::config::ConfigMap;
use switchformer_zoo::Opened;

/// Size, billions of multiplications and additions, and energy in billions of picojoules as printed.
const TABLE: [(&str, [f64; 3]); 6] = [
    ("ecoformer-pvt-v2-b0", [0.54, 0.56, 2.5]),
    ("ecoformer-pvt-v2-b1", [2.03, 2.09, 9.4]),
    ("ecoformer-pvt-v2-b2", [3.85, 3.97, 17.8]),
    ("ecoformer-pvt-v2-b3", [6.54, 6.75, 30.25]),
    ("ecoformer-pvt-v2-b4", [9.57, 9.82, 44.25]),
    ("alt-gvt-small-ecoformer", [2.72, 2.81, 12.6]),
];
/// Half of the last digit of the smallest figure. The authors also count norms and the biases of convolutions, and leave
/// out the squares of distances.
const NEAR: f64 = 0.01;

fn billions(c: &Cost) -> [f64; 3] {
    [c.muls() as f64 / 1e9, c.adds() as f64 / 1e9, c.millijoules()]
}

#[test]
fn the_table_follows_from_the_config() {
    for (name, printed) in TABLE {
        let cost = Opened::forecast(name).unwrap();
        let ours = billions(&cost);
        println!("{name} {ours:.3?} printed {printed:?}");
        for (got, want) in ours.iter().zip(printed) {
            assert!((got / want - 1.0).abs() < NEAR, "{name}: {ours:?} against {printed:?}");
        }
        assert!(cost.muls() < cost.adds(), "{name}");
    }
}

#[test]
fn whole_softmax_attention_takes_four_times_the_energy() {
    let mut config = Opened::preset("pvt-v2-b0").unwrap();
    config["sr_ratios"] = json!([1, 1, 1, 1]);
    let whole = Opened::forecast_of(&ConfigMap::new(config).unwrap()).unwrap();
    let hashed = Opened::forecast("ecoformer-pvt-v2-b0").unwrap();
    assert_eq!((whole.signs, whole.sums), (0, 0));
    assert!((whole.macs as f64 / 1.988e9 - 1.0).abs() < 0.001, "{}", whole.macs);
    assert!((whole.millijoules() / 9.14 - 1.0).abs() < 0.001, "{}", whole.millijoules());
    let saved = 100.0 * (1.0 - hashed.millijoules() / whole.millijoules());
    assert!((saved - 73.0).abs() < 0.5, "{saved} %");
}
