//! A folder as sentence-transformers publishes it, from texts to embeddings: tokenizer, model, pooling.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use switchformer_data::Tokenizer;
use switchformer_infer::Sentence;
use switchformer_nn::{Ctx, Folder, Input, Point, Taps, Trace, Weights, run};
use switchformer_switch::Plan;
use switchformer_zoo::assemble::{Source, assemble};
use switchformer_zoo::open::read_config;

/// A field of the expected answers.
macro_rules! field {
    ($doc:expr, $name:literal) => {
        serde_json::from_value($doc[$name].clone()).unwrap()
    };
}

#[test]
fn texts_become_the_embeddings_of_the_reference() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/mpnet/sentences");
    let folder = Folder::disk(&dir).unwrap();
    let want = folder.json("expected.json", 1 << 20).unwrap();
    let (entry, config) = read_config(&folder).unwrap();
    let tensors: BTreeMap<String, Vec<usize>> = field!(want, "tensors");
    let seeded = tensors.into_iter().map(|(name, shape)| (name.clone(), shape, name));
    let source = Source::plain(Weights::manifest(seeded, &entry.names).unwrap());
    let model = assemble(entry, &config, &Plan::default(), source).unwrap().model;

    let tokenizer = Tokenizer::load(&dir, model.spec().text_size().ok().map(|(_, len)| len)).unwrap();
    let texts: Vec<String> = field!(want, "texts");
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ids: Vec<Vec<u32>> = tokenizer.encode(&texts).unwrap().into_iter().map(|e| e.ids).collect();
    let expected: Vec<Vec<u32>> = field!(want, "ids");
    assert_eq!(ids, expected);
    let pairs: Vec<(String, String)> = field!(want, "pairs");
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let paired: Vec<Vec<u32>> = tokenizer.encode_pairs(&pairs).unwrap().into_iter().map(|e| e.ids).collect();
    let expected: Vec<Vec<u32>> = field!(want, "pair_ids");
    assert_eq!(paired, expected);

    let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    let out = run(model.trunk(), &[], &mut cx, &Input::tokens(&ids).unwrap()).unwrap();
    let got = Sentence::read(&folder).unwrap().unwrap().embed(&out, ids.len(), &Default::default()).unwrap();
    let got: Vec<Vec<f32>> = got.into_iter().map(Option::unwrap).collect();
    let expected: Vec<Vec<f32>> = field!(want, "embeddings");
    assert_eq!(got.len(), expected.len());
    for (got, want) in got.iter().flatten().zip(expected.iter().flatten()) {
        assert!((got - want).abs() < 1e-5, "{got} against {want}");
    }
}
