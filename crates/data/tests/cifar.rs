//! CIFAR-10 in the form that BIG-bench gives it.

#![allow(clippy::unwrap_used)]

mod common;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::Scratch;
use serde_json::{Value, json};
use switchformer_data::cifar::CLASSES;
use switchformer_data::image::png;
use switchformer_data::{Cifar10, ImageSet, Picture};

/// A picture whose every byte is `value`.
fn picture(side: usize, value: u8) -> String {
    STANDARD.encode(png(&Picture::new(side, side, 3, vec![value; 3 * side * side]).unwrap()).unwrap())
}

fn example(value: u8) -> Value {
    let scores =
        CLASSES.iter().enumerate().map(|(i, c)| (c.to_string(), json!(u8::from(i == usize::from(value) % 10))));
    json!({"input": picture(32, value), "target_scores": scores.collect::<serde_json::Map<_, _>>()})
}

fn code(task: &Value) -> &'static str {
    let dir = Scratch::new("cifar-bad");
    dir.put("task.json", &serde_json::to_vec(task).unwrap());
    Cifar10::open(Some(&dir.0)).unwrap().train().unwrap_err().code()
}

#[test]
fn every_picture_is_in_one_part_and_always_the_same() {
    let dir = Scratch::new("cifar");
    let task = json!({"name": "base64", "examples": (0..40).map(example).collect::<Vec<_>>()});
    dir.put("task.json", &serde_json::to_vec(&task).unwrap());
    let set = ImageSet::open("cifar-10", Some(&dir.0)).unwrap();
    let (train, test) = (set.train().unwrap(), set.test().unwrap());
    assert_eq!((train.len(), test.len(), train.channels(), train.height()), (34, 6, 3, 32));
    let mut seen = Vec::new();
    for part in [&train, &test] {
        for i in 0..part.len() {
            let pixels = part.image(i).unwrap();
            assert!(pixels.iter().all(|p| *p == pixels[0]) && pixels.len() == 3 * 32 * 32);
            assert_eq!(part.labels()[i], pixels[0] % 10);
            seen.push(pixels[0]);
        }
    }
    // By the hash of the place in the file.
    assert_eq!(seen[..3], [28, 30, 22]);
    assert_eq!(set.train().unwrap(), train);
    seen.sort_unstable();
    assert_eq!(seen, (0..40).collect::<Vec<u8>>());
    assert_eq!(set.classes()[3], "cat");
}

#[test]
fn what_is_damaged_is_named() {
    let dir = Scratch::new("cifar-none");
    let missing = Cifar10::open(Some(&dir.0)).unwrap_err();
    assert!(missing.code() == "cifar.missing" && missing.to_string().contains("fetch-models.sh cifar-10"));
    let of = |change: &dyn Fn(&mut Value)| {
        let mut one = example(3);
        change(&mut one);
        code(&json!({"examples": [one.clone(), one]}))
    };
    assert_eq!(of(&|e| e["input"] = json!("####")), "dataset.invalid");
    assert_eq!(of(&|e| e["input"] = json!(picture(16, 1))), "dataset.invalid");
    assert_eq!(of(&|e| e["target_scores"]["dog"] = json!(1)), "dataset.invalid");
    assert_eq!(of(&|e| e["target_scores"] = json!({"table": 1})), "dataset.invalid");
    assert_eq!(of(&|e| drop(e.as_object_mut().unwrap().remove("input"))), "dataset.invalid");
    assert!(of(&|e| e["input"] = json!("AAAA")).starts_with("image."));
    assert_eq!(code(&json!({"examples": []})), "dataset.invalid");
    assert_eq!(code(&json!([1, 2])), "dataset.invalid");
    let nested = (0..40).fold(json!(1), |v, _| json!([v]));
    assert_eq!(code(&json!({"examples": [], "x": nested})), "json.depth");
}
