//! Folded norms: the same answers with less work, and what does not fold.

#![allow(clippy::unwrap_used)]

#[path = "../../zoo/tests/common/mod.rs"]
mod common;

use std::path::Path;

use common::{batch, far, flat, publish, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_compress::fold::fold;
use switchformer_nn::Point;
use switchformer_nn::weights::inspect;
use switchformer_zoo::{OpenOptions, Opened, find};

fn config(name: &str, changes: Json) -> Json {
    let entry = find(name).unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    config
}

#[test]
fn folded_models_answer_as_their_branches_do() {
    let temp = tempfile::tempdir().unwrap();
    let cases = [
        json!({}),
        json!({"embed_dims": [8, 16, 24], "depths": [1, 2, 1], "sr_ratios": [2, 2, 1], "img_size": 51}),
        json!({"mixtures": "all", "frequencies": "low"}),
        json!({"mixtures": "all", "frequencies": "high"}),
        json!({"mixtures": "none"}),
    ];
    for (i, changes) in cases.into_iter().enumerate() {
        let config = config("fmvit", changes);
        let (dir, out) = (temp.path().join(i.to_string()), temp.path().join(format!("{i}-folded")));
        // Weights and statistics are drawn from names; none of them is one or zero.
        publish(&dir, find("fmvit").unwrap(), config.clone());
        let made = fold(&dir, &out).unwrap();
        let [train, deploy] = [&dir, &out].map(|d| Opened::open(d, OpenOptions::default()).unwrap());
        assert_eq!(made.params, [train.n_params, deploy.n_params]);
        assert!(made.layers > 10 && deploy.n_params < train.n_params);
        let names = |dir: &Path| {
            let all = inspect(&dir.join("model.safetensors")).unwrap();
            all.into_iter().map(|s| s.name).collect::<Vec<_>>()
        };
        assert!(names(&dir).iter().any(|n| n.ends_with("running_var")));
        assert!(names(&out).iter().all(|n| !n.contains("branches") && !n.contains("norm") && !n.contains("running")));
        let input = batch(train.model.as_ref(), 3);
        let run = |o: &Opened| o.run(&Point::new(), &input).unwrap();
        let ((want, much), (got, little)) = (run(&train), run(&deploy));
        let [want, got] = [want, got].map(|o| flat(o.get("logits").unwrap()));
        let size = want.iter().fold(0f32, |a, v| a.max(v.abs()));
        assert!(size > 0.1 && far(&got, &want) <= 1e-5 * size, "{config}: {:e} of {size}", far(&got, &want));
        assert!(little.macs < much.macs, "{config}");
    }
}

#[test]
fn what_does_not_fold_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let refused = |name: &str, config: &Json| {
        let dir = temp.path().join(name);
        publish(&dir, find(config["model_type"].as_str().unwrap()).unwrap(), config.clone());
        let out = temp.path().join(format!("{name}-out"));
        let error = fold(&dir, &out).unwrap_err().to_string();
        assert!(!out.exists());
        error
    };
    assert!(refused("vit", &config("vit", json!({}))).contains("vit has no layer"));
    assert!(refused("twice", &config("fmvit", json!({"deploy": true}))).contains("folded already"));
    let dir = temp.path().join("vit");
    assert!(fold(&dir, &dir).unwrap_err().to_string().contains("exists already"));
}
