//! Tensors that stand for another: heads tied to the word table, and copies that files carry.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Error, Weights};
use switchformer_zoo::save::published_tensors;
use switchformer_zoo::{Entry, HeadKind, ZOO, find};

/// Name on disk, shape, name to seed with.
type Layout = Vec<(String, Vec<usize>, String)>;

fn layout(entry: &Entry, architecture: &str, config: &Value) -> Layout {
    let w = Weights::seeded().trainable();
    entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let saved = published_tensors(entry, architecture, &w.params()).unwrap();
    saved.into_iter().map(|(name, s)| (name.clone(), s.shape, name)).collect()
}

fn load(entry: &Entry, config: &Value, tensors: Layout) -> Result<(), Error> {
    let w = Weights::manifest(tensors, &entry.names).unwrap();
    entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).map(drop)
}

#[test]
fn a_masked_lm_head_is_tied_or_its_own_as_the_config_says() {
    for entry in ZOO {
        let Some((architecture, _)) = entry.architectures.iter().find(|(_, head)| *head == HeadKind::MaskedLm) else {
            continue;
        };
        let mut config: Value = serde_json::from_str(entry.toy).unwrap();
        config["architectures"] = json!([architecture]);
        let tied = layout(entry, architecture, &config);
        config["tie_word_embeddings"] = json!(false);
        let own = layout(entry, architecture, &config);
        let (decoder, shape, _) = own.iter().find(|t| !tied.contains(t)).unwrap().clone();
        let (words, table, _) = tied.iter().find(|t| t.1 == shape).unwrap_or_else(|| panic!("{decoder}")).clone();
        assert!(words.ends_with("embeddings.weight"), "{decoder}: {words}");
        // A projection of its own must be there, in its shape.
        load(entry, &config, own.clone()).unwrap();
        assert!(load(entry, &config, tied.clone()).unwrap_err().to_string().contains(&decoder));
        let squat = own.iter().map(|t| if t.0 == decoder { (t.0.clone(), vec![1, 2], t.2.clone()) } else { t.clone() });
        assert!(matches!(load(entry, &config, squat.collect()), Err(Error::Tensors { .. })));
        // The one table may be stored under the name of the projection.
        let moved = |t: &(String, Vec<usize>, String)| {
            if t.0 == words { (decoder.clone(), t.1.clone(), t.2.clone()) } else { t.clone() }
        };
        config["tie_word_embeddings"] = json!(true);
        load(entry, &config, tied.iter().map(moved).collect()).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        // What is called tied may repeat the table; another tensor is used, and a remark says so.
        config["tie_word_embeddings"] = json!(true);
        let with = |name: &str, shape: &[usize], seed: &str| {
            let more = (name.to_string(), shape.to_vec(), seed.to_string());
            let w = Weights::manifest(tied.iter().cloned().chain([more]), &entry.names).unwrap();
            entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
            w.remarks()
        };
        assert!(with(&decoder, &table, &words).is_empty());
        let remarks = with(&decoder, &table, &decoder);
        assert!(remarks.iter().any(|r| r.contains("ties") && r.contains("is used")), "{remarks:?}");
        // The bias of the projection may repeat the head's, or be another.
        let bias = decoder.replace(".weight", ".bias");
        if let Some((head, shape, _)) = tied.iter().find(|t| t.0 != bias && t.1 == table[..1]) {
            with(&bias, shape, head);
            with(&bias, shape, &bias);
        }
    }
}

#[test]
fn copies_of_a_shared_word_table_are_compared_and_found() {
    for family in ["t5", "mt5", "switch_transformers", "bart", "marian"] {
        let entry = find(family).unwrap();
        let config: Value = serde_json::from_str(entry.toy).unwrap();
        let architecture = config["architectures"][0].as_str().unwrap();
        let own = layout(entry, architecture, &config);
        let (words, table, _) = own.iter().find(|t| t.0.ends_with("shared.weight")).unwrap().clone();
        for copy in ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"] {
            let copy = words.replace("shared.weight", copy);
            let moved =
                own.iter().map(|t| if t.0 == words { (copy.clone(), t.1.clone(), t.2.clone()) } else { t.clone() });
            load(entry, &config, moved.collect()).unwrap();
            let with = |seed: &str| {
                let more = (copy.to_string(), table.clone(), seed.to_string());
                load(entry, &config, own.iter().cloned().chain([more]).collect())
            };
            with(&words).unwrap();
            let refused = with(&copy).unwrap_err().to_string();
            let last = |name: &str| name.trim_start_matches("model.").to_string();
            assert!(refused.contains(&last(&copy)) && refused.contains(&last(&words)), "{refused}");
        }
    }
}
