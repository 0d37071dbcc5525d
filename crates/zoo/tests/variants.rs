//! The files of published sizes: every family has one, every file has a family, and no two sizes share a name.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use switchformer_nn::config::ConfigMap;
use switchformer_zoo::published::{Constructor, Sizes};
use switchformer_zoo::registry::TIMM;
use switchformer_zoo::timm::canonical;
use switchformer_zoo::{Opened, ZOO};

/// Families and their files as they are on disk.
fn files() -> BTreeMap<String, Sizes> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("variants");
    let read = |path: &Path| {
        assert_eq!(path.extension().unwrap(), "json", "{}", path.display());
        let family = path.file_stem().unwrap().to_str().unwrap().to_string();
        (family, Sizes::parse(&std::fs::read(path).unwrap(), path).unwrap_or_else(|e| panic!("{e}")))
    };
    std::fs::read_dir(folder).unwrap().map(|e| read(&e.unwrap().path())).collect()
}

#[test]
fn every_family_has_its_file_and_every_file_its_family() {
    let files = files();
    let on_disk: Vec<&str> = files.keys().map(String::as_str).collect();
    let families: BTreeSet<&str> = ZOO.iter().map(|e| e.name).collect();
    assert_eq!(on_disk, Vec::from_iter(families));
    for entry in ZOO {
        // What is compiled in is the file of this name, and of no other family.
        assert_eq!(entry.variants().unwrap(), files[entry.name].variants, "{}", entry.name);
        assert_eq!(entry.constructor().unwrap(), &files[entry.name].timm, "{}", entry.name);
    }
}

#[test]
fn names_are_unique_and_lead_to_their_size() {
    let mut seen = BTreeSet::new();
    for entry in ZOO {
        let variants = entry.variants().unwrap();
        assert!(!variants.is_empty(), "{} has no published size", entry.name);
        for v in variants {
            // `-` and `_` are the same in a name that a caller gives.
            assert!(seen.insert(v.name.replace('_', "-")), "two sizes are named {}", v.name);
            assert!(entry.head(&v.architecture).is_some(), "{}: {} has no {}", v.name, entry.name, v.architecture);
            let preset = ConfigMap::new(Opened::preset(&v.name).unwrap()).unwrap();
            assert_eq!(preset.text("model_type", "").unwrap(), entry.name, "{}", v.name);
            assert_eq!(preset.architecture(), Some(&*v.architecture), "{}", v.name);
        }
    }
}

#[test]
fn only_families_of_timm_have_fields_of_timm() {
    for entry in ZOO {
        let reads_timm = TIMM.iter().any(|t| t.entry.name == entry.name);
        assert!(reads_timm || *entry.constructor().unwrap() == Constructor::default(), "{}", entry.name);
    }
    for timm in TIMM {
        let config = canonical(serde_json::json!({"architecture": timm.family})).unwrap();
        let constructor = timm.entry.constructor().unwrap();
        for (field, value) in constructor.fixed.iter().chain(&constructor.bare) {
            assert_eq!(&config[field], value, "{}: {field}", timm.family);
        }
    }
}
