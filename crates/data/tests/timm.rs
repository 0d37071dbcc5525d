//! Pictures as timm's evaluation transform prepares them, from the `pretrained_cfg` of its folders.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;

use common::fixture;
use serde_json::{Value, json};
use switchformer_data::{Preprocessor, image};

fn read(doc: &Value) -> switchformer_data::Result<Option<Preprocessor>> {
    Preprocessor::from_timm(&serde_json::to_vec(doc).unwrap(), Path::new("config.json"))
}

#[test]
fn pictures_are_those_of_timm() {
    let cases: Value = serde_json::from_slice(&std::fs::read(fixture("timm/cases.json")).unwrap()).unwrap();
    let expected = std::fs::read(fixture("timm/expected.bin")).unwrap();
    for case in cases.as_array().unwrap() {
        let steps = read(&case["config"]).unwrap().unwrap();
        let picture = image::open(fixture(case["picture"].as_str().unwrap())).unwrap();
        let got = steps.apply(&picture, 3).unwrap();
        let (side, at) = (case["side"].as_u64().unwrap() as usize, case["at"].as_u64().unwrap() as usize);
        assert_eq!((got.channels, got.height, got.width), (3, side, side));
        let (mean, std) = steps.normalize.as_ref().unwrap();
        let mut worst = 0f32;
        for (i, byte) in expected[at..at + 3 * side * side].iter().enumerate() {
            let c = i % 3;
            let want = (f32::from(*byte) / 255.0 - mean[c]) / std[c];
            worst = worst.max((want - got.data[c * side * side + i / 3]).abs());
        }
        println!("{} {}: {worst:e}", case["picture"], case["config"]["pretrained_cfg"]);
        assert!(worst <= 1.0 / 255.0, "{case}: {worst}");
    }
}

#[test]
fn other_configs_are_no_concern_and_bad_ones_are_named() {
    assert_eq!(read(&json!({"model_type": "vit"})).unwrap(), None);
    assert_eq!(read(&json!({"architecture": "swin"})).unwrap(), None);
    let plain = read(&json!({"architecture": "swin", "pretrained_cfg": {}})).unwrap().unwrap();
    assert_eq!(plain.output_size(), Some((224, 224)));
    let refused = |field: &str, value: Value| {
        let e = read(&json!({"architecture": "x", "pretrained_cfg": {field: value}})).unwrap_err();
        assert!(e.code() == "preprocessor.unsupported" && e.to_string().contains(field), "{e}");
    };
    refused("input_size", json!([3, 224, 256]));
    refused("input_size", json!([3, 0, 0]));
    refused("crop_pct", json!(0));
    refused("crop_pct", json!(1.2));
    refused("crop_mode", json!("border"));
    refused("interpolation", json!("random"));
    refused("mean", json!([1, 2]));
    refused("std", json!([1, 0, 1]));
}
