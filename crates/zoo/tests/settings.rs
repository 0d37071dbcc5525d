//! Settings of single families: what is refused is named, and what has no effect is known.

#![allow(clippy::unwrap_used)]

use serde_json::{Value as Json, json};
use switchformer_nn::Weights;
use switchformer_nn::config::ConfigMap;
use switchformer_zoo::account;
use switchformer_zoo::registry::find;

/// The toy config of a family with changes.
fn toy(family: &str, changes: &Json) -> ConfigMap {
    let mut doc: Json = serde_json::from_str(find(family).unwrap().toy).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        doc[key] = value.clone();
    }
    ConfigMap::new(doc).unwrap()
}

fn opens(family: &str, changes: &Json) -> Result<ConfigMap, String> {
    let config = toy(family, changes);
    let built = find(family).unwrap().build(&config, &Weights::seeded());
    built.map(|_| config).map_err(|e| e.to_string())
}

/// Keys that nothing knows; the family was found by another one.
fn unknown(config: &ConfigMap) -> Vec<String> {
    account::unknown(config).into_iter().filter(|key| key != "model_type").collect()
}

fn refused(family: &str, cases: &[(Json, &str)]) {
    for (changes, says) in cases {
        let e = opens(family, changes).expect_err(&changes.to_string());
        assert!(e.contains(says), "{family} {changes}: {e}");
    }
}

#[test]
fn gte_is_refused_where_it_would_compute_otherwise() {
    for family in ["gte", "new"] {
        let scaled = |scaling: Json| json!({"rope_scaling": scaling});
        refused(
            family,
            &[
                (json!({"position_embedding_type": "absolute"}), "position_embedding_type"),
                (json!({"layer_norm_type": "rms_norm"}), "layer_norm_type"),
                (json!({"logn_attention_scale": true}), "logn_attention_scale"),
                (json!({"is_decoder": true}), "is_decoder"),
                (json!({"hidden_size": 12}), "num_attention_heads"),
                (json!({"type_vocab_size": -1}), "type_vocab_size"),
                (json!({"pack_qkv": "yes"}), "pack_qkv"),
                (scaled(json!({"type": "dynamic", "factor": 2.0})), "rope_scaling.type"),
                (scaled(json!({"rope_type": "yarn", "factor": 2.0})), "rope_scaling.rope_type"),
                (scaled(json!({"type": "ntk", "factor": 0.5})), "rope_scaling.factor"),
                (scaled(json!({"type": "ntk", "factor": 8.0, "mixed_b": 0.3})), "mixed_b"),
                (scaled(json!({"type": "linear", "factor": "x"})), "rope_scaling.factor"),
                (scaled(json!("ntk")), "rope_scaling"),
                (
                    json!({"rope_scaling": null, "rope_parameters": {"rope_type": "llama3"}}),
                    "rope_parameters.rope_type",
                ),
                (json!({"rope_scaling": null, "rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary"),
            ],
        );
        let idle = json!({"unpad_inputs": "true", "use_memory_efficient_attention": true, "pack_qkv": false,
            "logn_attention_clip1": true, "matryoshka_dimensions": [16], "hidden_act": "silu", "type_vocab_size": 0});
        assert_eq!(unknown(&opens(family, &idle).unwrap()), Vec::<String>::new());
    }
}

#[test]
fn resnet_is_refused_where_it_would_compute_otherwise() {
    refused(
        "resnet",
        &[
            (json!({"layer_type": "dense"}), "layer_type"),
            (json!({"hidden_sizes": [2, 4]}), "hidden_sizes"),
            (json!({"hidden_sizes": [8]}), "hidden_sizes"),
            (json!({"depths": []}), "depths"),
            (json!({"depths": [0, 1]}), "depths"),
            (json!({"depths": [4096, 4096]}), "depths"),
            (json!({"downsample_in_first_stage": 1}), "downsample_in_first_stage"),
            (json!({"hidden_act": "mish"}), "hidden_act"),
            (json!({"embedding_size": 0}), "embedding_size"),
        ],
    );
    let other = json!({"layer_type": "basic", "downsample_in_first_stage": true, "downsample_in_bottleneck": true});
    assert_eq!(unknown(&opens("resnet", &other).unwrap()), Vec::<String>::new());
}
