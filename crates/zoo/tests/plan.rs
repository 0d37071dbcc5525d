//! Plans: what earlier versions wrote still opens, and what is written comes back to the byte.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::{Map, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Folder, Point};
use switchformer_switch::leaf::experts::ExpertPlan;
use switchformer_switch::{Form, Plan, leaf};
use switchformer_zoo::save::json_bytes;
use switchformer_zoo::{OpenOptions, Opened};

fn shipped() -> Opened {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/default");
    Opened::open(&dir, OpenOptions::default()).unwrap()
}

#[test]
fn a_checkpoint_of_the_first_version_shows_its_points() {
    let opened = shipped();
    assert_eq!(opened.plan.stored(), ["nested_int", "exit"]);
    let points = opened.switches.points();
    let names: Vec<&str> = points.iter().map(|p| p.name.as_str()).collect();
    let want = "full bits-6 bits-4 bits-2 int8 heads-0.75 heads-0.5 tprune-0.8 tprune-0.6 class-attn-0.6 random-0.6 exit-2 exit-3 exit-4 sure-0.9 \
                sure-0.7 tprune-0.8+bits-4 tprune-0.8+int8 tprune-0.8+sure-0.9 tprune-0.8+sure-0.8+bits-4";
    assert_eq!(names.join(" "), want);
    assert_eq!(
        points[19].point.to_string(),
        r#"{"bits":4,"exit":{"confidence":0.8},"tokens":{"after":[1,2],"keep":0.8,"method":"zero-tprune"}}"#
    );
    points.iter().for_each(|p| assert!(opened.switches.resolve(&p.point).is_ok() && !p.about.is_empty(), "{}", p.name));
}

/// The plan of a folder with these files.
fn read(config: &Map<String, serde_json::Value>, plan: &serde_json::Value) -> switchformer_nn::Result<Plan> {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("switch.json"), json_bytes(plan)).unwrap();
    std::fs::write(temp.path().join("config.json"), b"{}").unwrap();
    Plan::read(&Folder::disk(temp.path()).unwrap(), &ConfigMap::new(json!(config)).unwrap())
}

#[test]
fn plans_come_back_to_the_byte() {
    let reference = json!({"schema": 1, "file": "switch.json"});
    let old = json!({
        "schema": 1, "exits": [1, 2], "experts": {"count": 4, "top_k": 1, "from": 2},
        "default_point": {"acts": 8, "bits": 4}, "points": {"low": {"point": {"acts": 8}, "measured": {"n": 3}}},
        "provenance": {"recipe": "x"},
    });
    let mut config = Map::from_iter([("switch".to_string(), reference)]);
    let mut plan = read(&config, &old).unwrap();
    let experts: ExpertPlan = plan.form(&leaf::experts::Added).unwrap().unwrap();
    assert_eq!((experts.count, experts.from, plan.stored().len()), (4, 2, 2));
    assert_eq!(plan.default_point, Point::new().with("activation_bits", 8).with("bits", 4));
    plan.forms.push(leaf::bits::NestedInt::everywhere());

    let first = plan.write(&mut config).unwrap();
    assert_eq!(first["schema"], json!(2));
    let stored = json!({"quant_method": "switchformer", "form": leaf::bits::NestedInt.name(), "stored_bits": 8, "views": [8, 6, 4, 2]});
    assert_eq!(config["quantization_config"], stored);
    let again = read(&config, &first).unwrap();
    assert_eq!(again, plan);
    let mut twice = config.clone();
    assert_eq!(json_bytes(&again.write(&mut twice).unwrap()), json_bytes(&first));
    assert_eq!(twice, config);
}

#[test]
fn what_no_form_or_switch_knows_is_refused_by_name() {
    let config = Map::from_iter([("switch".to_string(), json!({"file": "switch.json"}))]);
    for (plan, word) in [
        (json!({"schema": 2, "forms": [{"form": "low_rank"}]}), "nested_int"),
        (json!({"schema": 2, "forms": [{"form": "experts", "params": {"count": 0, "top_k": 1}}]}), "count"),
        (json!({"schema": 2, "switches": {"layers": {}}}), "tokens"),
        (json!({"schema": 2, "switches": {"heads": {}}}), "order"),
        (json!({"schema": 2, "switches": {"heads": {"order": [[0, 1], [1, 1]]}}}), "list 1"),
        (json!({"schema": 2, "switches": {"heads": {"order": [[0, 100_000_000]]}}}), "once"),
        (json!({"schema": 2, "switches": {"heads": {"order": [[-1, 0]]}}}), "heads"),
        (json!({"schema": 2, "switches": {"heads": {"order": [[0]], "keep": 1}}}), "keep"),
        (json!({"schema": 2, "switches": {"tokens": {}}}), "stores nothing"),
        (json!({"schema": 2, "switches": {"exit": {"after": [2, 1]}}}), "ascending"),
        (json!({"schema": 3}), "1, 2"),
    ] {
        let e = read(&config, &plan).err().unwrap_or_else(|| panic!("{plan} is accepted"));
        assert!(e.to_string().contains(word), "{plan}: {e}");
    }
}
