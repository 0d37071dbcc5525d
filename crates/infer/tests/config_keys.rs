//! Every key of `config.json` that a family reads changes something: each golden's config is opened with other values of each
//! key, and one of them must give another output, another size or an error.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use switchformer_infer::Session;
use switchformer_nn::init::Stream;
use switchformer_nn::{Input, Point};
use switchformer_zoo::{OpenOptions, timm};

/// Keys that are read and change no outcome here, by family (`*`: all), and why.
const WITHOUT: &[(&str, &str, &str)] = &[
    ("beit", "use_mask_token", "a tensor of pre-training that may be stored"),
    ("dinov2", "use_mask_token", "a tensor of pre-training that may be stored"),
    ("dinov2", "layerscale_value", "the factors are stored"),
    ("dinov2_with_registers", "layerscale_value", "the factors are stored"),
    ("vit", "init_values", "the factors are stored"),
    ("mt5", "feed_forward_proj", "dense_act_fn and is_gated_act, which are there too, go before it"),
    ("t5", "feed_forward_proj", "dense_act_fn and is_gated_act, which are there too, go before it"),
    ("mt5", "initializer_factor", "how a fresh model starts"),
    ("t5", "initializer_factor", "how a fresh model starts"),
    ("switch_transformers", "initializer_factor", "how a fresh model starts"),
    ("switch_transformers", "num_sparse_encoder_layers", "encoder_sparse_step, which is there too, goes before it"),
    ("switch_transformers", "num_sparse_decoder_layers", "decoder_sparse_step, which is there too, goes before it"),
    ("switch_transformers", "router_aux_loss_coef", "of training"),
    ("switch_transformers", "router_z_loss_coef", "of training"),
    ("switch_transformers", "router_jitter_noise", "of training"),
];

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

/// Configs of the goldens below a folder, each with the file that it is in.
fn configs(dir: &Path, found: &mut Vec<(String, Json)>) {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(golden()).unwrap().display().to_string();
        if path.is_dir() && !name.starts_with("folders") && !name.starts_with("settings") {
            configs(&path, found);
        } else if path.extension().is_some_and(|e| e == "json") {
            let Ok(doc) = serde_json::from_slice::<Json>(&std::fs::read(&path).unwrap()) else { continue };
            let config = if doc.get("config").is_some_and(Json::is_object) { doc["config"].clone() } else { doc };
            if config.get("model_type").or(config.get("architecture")).is_some_and(Json::is_string) {
                found.push((name, config));
            }
        }
    }
}

/// What a config makes: sizes, start and end tokens, and the numbers of one pass; or its error.
fn outcome(config: &Json) -> Result<(BTreeSet<String>, String), String> {
    let session = Session::random(config.clone(), OpenOptions::default()).map_err(|e| e.to_string())?;
    let opened = &session.opened;
    let read: BTreeSet<String> = {
        let unread: BTreeSet<&str> = opened.config.unread().into_iter().collect();
        let held = opened.config.as_map().iter().filter(|(_, v)| !v.is_null()).map(|(k, _)| k.as_str());
        held.filter(|key| !unread.contains(key)).map(str::to_string).collect()
    };
    let spec = opened.model.spec();
    let len = spec.text_size().map_or(1, |(_, max)| 9.min(max));
    let input = Input::sample(&spec, &[len], None, Some(&Stream::named("keys"))).map_err(|e| e.to_string())?;
    let (out, _) = opened.run(&Point::new(), &input).map_err(|e| e.to_string())?;
    let mut told =
        format!("{:?} {:?} {:?} {}", spec.image_size().ok(), spec.text_size().ok(), session.head(), opened.n_params);
    told.push_str(&format!("{:?} {:?}", opened.model.decoder(), opened.config.n_labels().ok()));
    told.push_str(&(0..4).map(|i| opened.config.label(i)).collect::<String>());
    for name in out.values().keys() {
        let t = out.of(name, 0).map_err(|e| e.to_string())?;
        let bits: Vec<u32> = t
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(|e| e.to_string())?
            .iter()
            .map(|v| v.to_bits())
            .collect();
        told.push_str(&format!("{name}{:?}{bits:?}", t.dims()));
    }
    Ok((read, told))
}

/// Other values of the same type.
fn others(value: &Json) -> Vec<Json> {
    match value {
        Json::Bool(b) => vec![json!(!b)],
        Json::Number(n) if n.is_u64() || n.is_i64() => {
            let n = n.as_i64().unwrap();
            [n + 1, n * 2, n / 2, 1, 2, 0].into_iter().filter(|m| *m != n && *m >= 0).map(|m| json!(m)).collect()
        }
        Json::Number(n) => {
            let x = n.as_f64().unwrap();
            [x * 2.0, x + 0.25, x * 1000.0, 0.5, 1.0, 0.0].into_iter().filter(|y| *y != x).map(|y| json!(y)).collect()
        }
        Json::String(s) => {
            let words = ["relu", "gelu", "gelu_new", "silu", "tanh", "mean", "max", "sparse", "none"];
            words.iter().filter(|w| *w != s).map(|w| json!(w)).collect()
        }
        Json::Array(list) => {
            let mut all = Vec::new();
            for (i, one) in list.iter().enumerate() {
                for other in others(one) {
                    let mut changed = list.clone();
                    changed[i] = other;
                    all.push(json!(changed));
                }
            }
            all.push(json!(list.iter().skip(1).collect::<Vec<_>>()));
            all
        }
        Json::Object(map) => {
            let mut all = vec![json!({})];
            for (key, one) in map {
                for other in others(one) {
                    let mut changed = map.clone();
                    changed.insert(key.clone(), other);
                    all.push(json!(changed));
                }
            }
            all
        }
        Json::Null => Vec::new(),
    }
}

#[test]
fn every_key_that_is_read_changes_something() {
    let mut all = Vec::new();
    configs(&golden(), &mut all);
    // Read anywhere -> changed somewhere; by family and key.
    let mut keys: BTreeMap<(String, String), (bool, String)> = BTreeMap::new();
    let mut opened = 0;
    for (name, config) in all {
        let Ok(config) = timm::canonical(config) else { continue };
        let Ok((read, plain)) = outcome(&config) else { continue };
        opened += 1;
        let family = config["model_type"].as_str().unwrap().to_string();
        for key in read {
            let at = (family.clone(), key.clone());
            if keys.get(&at).is_some_and(|(changes, _)| *changes) {
                continue;
            }
            let changes = others(&config[&key]).into_iter().any(|other| {
                let mut changed = config.clone();
                changed[&key] = other;
                outcome(&changed).map_or(true, |(_, told)| told != plain)
            });
            keys.insert(at, (changes, format!("{name}: {}", config[&key])));
        }
    }
    assert!(opened > 60, "{opened} configs");
    let known = |family: &str, key: &str| WITHOUT.iter().any(|(f, k, _)| (*f == "*" || *f == family) && *k == key);
    let idle: Vec<String> = keys
        .iter()
        .filter(|((family, key), (changes, _))| !changes && !known(family, key))
        .map(|((family, key), (_, of))| format!("{family}: {key} ({of})"))
        .collect();
    assert!(idle.is_empty(), "read without effect: {idle:#?}");
    let unknown: Vec<_> = WITHOUT
        .iter()
        .filter(|(f, k, _)| {
            !keys.iter().any(|((family, key), (changes, _))| (*f == "*" || f == family) && k == key && !changes)
        })
        .collect();
    assert!(unknown.is_empty(), "these change something or are not read: {unknown:?}");
}
