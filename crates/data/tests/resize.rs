//! Resizing and whole pipelines against Pillow and transformers.

#![allow(clippy::unwrap_used)]

mod common;

use common::{MANIFEST, bytes, fixture, floats, hashed};
use serde_json::{Value, json};
use std::path::Path;
use switchformer_data::{Backend, Family, Filter, Middle, Picture, Preprocessor, Size, image, resize};

fn input(label: &str) -> Picture {
    match label.strip_prefix("hashed:") {
        None => image::open(fixture(&format!("{label}.png"))).unwrap(),
        Some(dims) => {
            let d: Vec<usize> = dims.split('x').map(|v| v.parse().unwrap()).collect();
            hashed(d[0], d[1], d[2])
        }
    }
}

#[test]
fn every_filter_agrees_with_pillow() {
    let mut worst = [(0u8, 0usize, 0usize); 6];
    for case in MANIFEST["resize"].as_array().unwrap() {
        let code = case["filter"].as_u64().unwrap();
        let (w, h) = (case["width"].as_u64().unwrap() as usize, case["height"].as_u64().unwrap() as usize);
        let source = input(case["input"].as_str().unwrap());
        let got = resize(&source, w, h, Filter::from_pillow(code).unwrap()).unwrap();
        let want = bytes(&case["at"], w * h * source.channels());
        for (a, b) in got.data().iter().zip(want) {
            let slot = &mut worst[code as usize];
            slot.0 = slot.0.max(a.abs_diff(*b));
            slot.1 += usize::from(a != b);
            slot.2 += 1;
        }
    }
    for (filter, (level, differing, all)) in Filter::ALL.iter().zip(worst) {
        println!("{filter:?}: worst {level}/255, {differing} of {all} bytes differ");
    }
    for (filter, (level, _, all)) in Filter::ALL.iter().zip(worst) {
        assert!(all > 0);
        assert_eq!(level, 0, "{filter:?} is off by {level}");
    }
}

#[test]
fn pipelines_agree_with_transformers() {
    for case in MANIFEST["pipeline"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let config = serde_json::to_vec(&case["config"]).unwrap();
        let preprocessor = Preprocessor::from_bytes(&config, Path::new("config"), None).unwrap();
        let shape: Vec<usize> =
            case["shape"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect();
        let picture = image::open(fixture(case["picture"].as_str().unwrap())).unwrap();
        let got = preprocessor.apply(&picture, shape[0]).unwrap();
        assert_eq!([got.channels, got.height, got.width], shape[..], "{name}");
        let want = floats(&case["at"], shape.iter().product());
        let worst = got.data.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("{name}: worst {worst:e}");
        assert!(worst <= 1e-6, "{name}: {worst}");
        if let Some(size) = preprocessor.output_size() {
            assert_eq!(size, (got.height, got.width), "{name}");
        }
    }
}

#[test]
fn processors_agree_with_transformers_in_both_forms() {
    let cases: Value = serde_json::from_slice(&std::fs::read(fixture("processors/cases.json")).unwrap()).unwrap();
    for case in cases.as_array().unwrap() {
        let config = case["config"].to_string();
        let steps = Preprocessor::from_bytes(config.as_bytes(), Path::new("config"), None).unwrap();
        let picture = image::open(fixture(&format!("processors/{}", case["picture"].as_str().unwrap()))).unwrap();
        let got = steps.apply(&picture, 3).unwrap();
        assert_eq!(json!([got.channels, got.height, got.width]), case["shape"], "{config}");
        for (at, value) in case["at"].as_array().unwrap().iter().zip(case["values"].as_array().unwrap()) {
            let got = got.data[at.as_u64().unwrap() as usize];
            assert_eq!(got, value.as_f64().unwrap() as f32, "{config} at {at}");
        }
    }
    assert!(cases.as_array().unwrap().len() > 120);
}

#[test]
fn a_folder_without_a_processor_is_read_at_the_size_of_its_model() {
    let of = |family, sides| {
        let steps = Preprocessor::sized_for(family, sides);
        (steps.resize.unwrap().0, steps.crop)
    };
    let square = |side| Size::Exact { height: side, width: side };
    assert_eq!(of(Family::Vit, (384, 384)), (square(384), None));
    assert_eq!(of(Family::Vit, (32, 48)), (Size::Exact { height: 32, width: 48 }, None));
    // facebook/deit-base-distilled-patch16-384 says 438 and 384.
    assert_eq!(of(Family::Deit, (384, 384)), (square(438), Some((384, 384))));
    assert_eq!(of(Family::Bit, (256, 256)), (Size::ShortestEdge(256), Some((256, 256))));
    assert_eq!(of(Family::ConvNext, (224, 224)), (Size::ShortestEdge(256), Some((224, 224))));
    assert_eq!(of(Family::ConvNext, (384, 384)), (square(384), None));
    assert_eq!(Preprocessor::sized_for(Family::Deit, (224, 224)), Preprocessor::default_for(Family::Deit));
    assert_eq!(Preprocessor::sized_for(Family::Bit, (224, 224)), Preprocessor::default_for(Family::Bit));
}

#[test]
fn without_resizing_values_are_bit_identical() {
    let case = MANIFEST["pipeline"].as_array().unwrap().iter().find(|c| c["name"] == "no-resize").unwrap();
    let config = serde_json::to_vec(&case["config"]).unwrap();
    let picture = image::open(fixture("cat.png")).unwrap();
    let got = Preprocessor::from_bytes(&config, Path::new("c"), None).unwrap().apply(&picture, 3).unwrap();
    assert_eq!(got.data, floats(&case["at"], got.data.len()));
}

fn read(value: Value) -> Result<Preprocessor, switchformer_data::Error> {
    Preprocessor::from_bytes(value.to_string().as_bytes(), Path::new("preprocessor_config.json"), None)
}

#[test]
fn classes_have_their_defaults() {
    for class in ["ViTImageProcessor", "ViTFeatureExtractor", "ViTImageProcessorPil"] {
        assert_eq!(read(json!({"image_processor_type": class})).unwrap(), Preprocessor::default_for(Family::Vit));
    }
    for class in ["DeiTImageProcessor", "DeiTFeatureExtractor"] {
        let got = read(json!({"feature_extractor_type": class})).unwrap();
        assert_eq!(got, Preprocessor::default_for(Family::Deit));
        assert_eq!(got.resize, Some((Size::Exact { height: 256, width: 256 }, Filter::Bicubic)));
        assert_eq!(got.crop, Some((224, 224)));
    }
    let fast = read(json!({"image_processor_type": "ViTImageProcessorFast"})).unwrap();
    assert_eq!((fast.backend, fast.middle), (Backend::Torchvision, Middle::Low));
    // The newer field wins.
    let both = json!({"image_processor_type": "DeiTImageProcessor", "feature_extractor_type": "ViTFeatureExtractor"});
    assert_eq!(read(both).unwrap(), Preprocessor::default_for(Family::Deit));
    // Old files name no class.
    let old = br#"{"do_normalize": true, "do_resize": true, "image_mean": [0.5,0.5,0.5], "image_std": [0.5,0.5,0.5], "size": 224}"#;
    let got = Preprocessor::from_bytes(old, Path::new("c"), Some(Family::Vit)).unwrap();
    assert_eq!(got, Preprocessor::default_for(Family::Vit));
    assert!(Preprocessor::from_bytes(old, Path::new("c"), None).is_err());
}

#[test]
fn sizes_are_read_in_every_form() {
    let size = |size: Value| {
        read(json!({"image_processor_type": "ViTImageProcessor", "size": size})).unwrap().resize.unwrap().0
    };
    assert_eq!(size(json!(32)), Size::Exact { height: 32, width: 32 });
    assert_eq!(size(json!({"width": 7, "height": 5})), Size::Exact { height: 5, width: 7 });
    assert_eq!(size(json!({"shortest_edge": 9})), Size::ShortestEdge(9));
    assert_eq!(size(json!([5, 7])), Size::Exact { height: 5, width: 7 });
    let value = json!({"image_processor_type": "ViTImageProcessor", "size": 9, "default_to_square": false});
    assert_eq!(read(value).unwrap().resize.unwrap().0, Size::ShortestEdge(9));
}

#[test]
fn unsupported_values_are_refused_by_name() {
    let cases = [
        ("image_processor_type", json!("EfficientNetImageProcessor")),
        ("image_processor_type", json!(3)),
        ("size", json!(0)),
        ("size", json!(4097)),
        ("size", json!(-1)),
        ("size", json!(22.5)),
        ("size", json!([224])),
        ("size", json!("big")),
        ("size", json!({})),
        ("size", json!({"height": 5})),
        ("size", json!({"height": 5, "width": 99999})),
        ("size", json!({"shortest_edge": 5, "longest_edge": 9})),
        ("size", json!({"max_height": 5, "max_width": 9})),
        ("resample", json!(6)),
        ("resample", json!(-1)),
        ("resample", json!("bilinear")),
        ("do_resize", json!(1)),
        ("do_center_crop", json!(true)),
        ("rescale_factor", json!(0)),
        ("rescale_factor", json!("1/255")),
        ("image_mean", json!([0.5, 0.5])),
        ("image_mean", json!([0.5, 0.5, "x"])),
        ("image_mean", json!([1e300, 0.5, 0.5])),
        ("image_std", json!([0.5, 0.0, 0.5])),
        ("image_std", json!("half")),
    ];
    for (field, value) in cases {
        let mut config = json!({"image_processor_type": "ViTImageProcessor"});
        config[field] = value.clone();
        let error = read(config).unwrap_err();
        assert_eq!(error.code(), "preprocessor.unsupported", "{field} {value}");
        let text = error.to_string();
        let named = if field == "do_center_crop" { "crop_size" } else { field };
        assert!(text.contains(named), "{text}");
    }
    assert_eq!(read(json!([])).unwrap_err().code(), "preprocessor.unsupported");
    for config in [
        json!({"image_processor_type": "ViTImageProcessorFast", "resample": 4}),
        json!({"image_processor_type": "ConvNextImageProcessor", "size": {"height": 5, "width": 5}}),
        json!({"image_processor_type": "ConvNextImageProcessor", "crop_pct": 0}),
        json!({"image_processor_type": "ConvNextImageProcessor", "size": 224, "do_center_crop": true, "crop_size": 9}),
    ] {
        assert_eq!(read(config.clone()).unwrap_err().code(), "preprocessor.unsupported", "{config}");
    }
    let padded = read(json!({"image_processor_type": "ViTImageProcessor", "do_pad": true})).unwrap_err();
    assert!(padded.code() == "config.unsupported" && padded.to_string().contains("do_pad"), "{padded}");
    // Steps of other classes are passed over, as by transformers, and noted.
    let other = json!({"image_processor_type": "ViTImageProcessor", "do_flip_channel_order": true, "size_divisor": 32});
    let noted = read(other).unwrap();
    assert!(noted.notes.len() == 2 && noted.notes[0].contains("do_flip_channel_order"), "{:?}", noted.notes);
    assert_eq!(Preprocessor { notes: Vec::new(), ..noted }, Preprocessor::default_for(Family::Vit));
    // What has no effect in transformers has none here.
    let noted = json!({"image_processor_type": "ViTImageProcessor", "do_reduce_labels": true, "pad_size": null,
        "processor_class": "X", "device": null, "do_pad": false, "data_format": "channels_last", "_valid_processor_keys": ["images"], "crop_pct": 0.9});
    assert_eq!(read(noted).unwrap(), Preprocessor::default_for(Family::Vit));
    let bad = Preprocessor::from_bytes(b"{\"size\": ", Path::new("c"), None).unwrap_err();
    assert_eq!(bad.code(), "json.syntax");
    let twice = r#"{"image_processor_type": "ViTImageProcessor", "size": 8, "size": 9}"#;
    let sixty =
        format!(r#"{{"image_processor_type": "ViTImageProcessor", "x": {}{}}}"#, "[".repeat(60), "]".repeat(60));
    for (text, code) in
        [("[".repeat(100_000), "json.depth"), (sixty, "json.depth"), (twice.to_string(), "json.duplicate")]
    {
        assert_eq!(Preprocessor::from_bytes(text.as_bytes(), Path::new("c"), None).unwrap_err().code(), code);
        let timm = format!(r#"{{"architecture": "x", "pretrained_cfg": {text}}}"#);
        assert_eq!(Preprocessor::from_timm(timm.as_bytes(), Path::new("c")).unwrap_err().code(), code);
    }
    // A long value is shortened in the message.
    let long = read(json!({"image_processor_type": "x".repeat(5000)})).unwrap_err().to_string();
    assert!(long.len() < 400, "{}", long.len());
}

#[test]
fn channels_must_fit_mean_and_std() {
    let gray = hashed(40, 30, 1);
    let default = Preprocessor::default_for(Family::Vit);
    // Three equal means serve one channel.
    assert_eq!(default.apply(&gray, 1).unwrap().data.len(), 224 * 224);
    assert_eq!(default.apply(&gray, 3).unwrap().data.len(), 3 * 224 * 224);
    assert_eq!(default.apply(&gray, 2).unwrap_err().code(), "preprocessor.channels");
    let imagenet = read(json!({"image_processor_type": "ViTImageProcessor", "image_mean": [0.4, 0.5, 0.6]})).unwrap();
    assert_eq!(imagenet.apply(&gray, 1).unwrap_err().code(), "preprocessor.channels");
    let one =
        read(json!({"image_processor_type": "ViTImageProcessor", "image_mean": [0.5], "image_std": [0.5]})).unwrap();
    assert_eq!(one.apply(&gray, 3).unwrap_err().code(), "preprocessor.channels");
    let scalar =
        read(json!({"image_processor_type": "ViTImageProcessor", "image_mean": 0.5, "image_std": 0.5})).unwrap();
    assert_eq!(scalar, default);
}

#[test]
fn huge_outputs_are_refused() {
    let line = Picture::new(16_000, 1, 1, vec![7; 16_000]).unwrap();
    let edge = read(json!({"image_processor_type": "ViTImageProcessor", "size": {"shortest_edge": 4096}})).unwrap();
    assert_eq!(edge.apply(&line, 3).unwrap_err().code(), "preprocessor.output");
    let keep = read(json!({"image_processor_type": "ViTImageProcessor", "do_resize": false})).unwrap();
    assert_eq!(keep.apply(&line, 3).unwrap_err().code(), "preprocessor.output");
    assert_eq!(resize(&line, 0, 5, Filter::Box).unwrap_err().code(), "preprocessor.output");
    assert_eq!(resize(&line, 16_384, 16_384, Filter::Box).unwrap_err().code(), "preprocessor.output");
}

#[test]
fn a_resize_to_the_same_size_changes_nothing() {
    let picture = hashed(31, 17, 3);
    for filter in Filter::ALL {
        assert_eq!(resize(&picture, 31, 17, filter).unwrap(), picture);
    }
}
