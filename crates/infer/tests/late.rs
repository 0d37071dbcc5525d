//! Vectors of tokens (ColBERT) and the three embeddings of BGE-M3, and documents in order, as the reference has them
//! (golden/sentence_transformers/make.py).

#![allow(clippy::unwrap_used)]

mod sentence;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};
use switchformer_infer::{Ranked, Reply, Request, Session};

use sentence::{Heard, cases_of, folder, golden, near, open, put, read};

fn request(inputs: Json, ask: &Json) -> Request {
    let mut doc = json!({"inputs": inputs});
    doc.as_object_mut().unwrap().extend(ask.as_object().unwrap().clone());
    read(&doc)
}

fn vectors(reply: &Reply) -> Vec<Vec<f32>> {
    reply.token_embeddings.as_ref().unwrap().iter().map(|t| t.embedding.clone()).collect()
}

/// Errors unless documents are in the order of their scores, which are near those that are wanted.
#[track_caller]
fn in_order(ranking: &[Ranked], want: &[f32], what: &str) {
    let of = |document: usize| ranking.iter().find(|r| r.document == document).unwrap();
    let scores: Vec<f32> = (0..want.len()).map(|i| of(i).score as f32).collect();
    near(&scores, want, what);
    assert!(ranking.windows(2).all(|w| w[0].score >= w[1].score), "{what}");
    assert_eq!(ranking.iter().map(|r| r.rank).collect::<Vec<_>>(), (1..=want.len()).collect::<Vec<_>>(), "{what}");
}

#[test]
fn every_layout_of_colbert_answers_as_the_reference() {
    let (all, mut far) = (cases_of("tokens.json"), 0f32);
    for (name, case) in &all {
        let dir = folder(case);
        let session = open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(session.sentence().unwrap().similarity().name(), case["similarity"], "{name}");
        for answer in case["answers"].as_array().unwrap() {
            let what = format!("{name} {}", answer["ask"]);
            let asked = request(json!({"texts": case["texts"]}), &answer["ask"]);
            let got = session.answer(&asked).unwrap_or_else(|e| panic!("{what}: {e}")).results;
            let want: Vec<Vec<Vec<f32>>> = read(&answer["embeddings"]);
            assert_eq!(got.len(), want.len(), "{what}");
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let (what, got) = (format!("{what}, text {i}"), vectors(got));
                assert_eq!(got.len(), want.len(), "{what}: tokens that count");
                far = far.max(near(&got.concat(), &want.concat(), &what));
            }
        }
        let texts: Vec<String> = read(&case["texts"]);
        let scores: Vec<Vec<f32>> = read(&case["scores"]);
        for (query, want) in texts.iter().zip(&scores) {
            let inputs = json!({"ranking": {"query": query, "documents": case["documents"]}});
            let got = session.answer(&request(inputs, &json!({}))).unwrap();
            in_order(got.ranking.as_ref().unwrap(), want, &format!("{name} {query:?}"));
            assert_eq!(got.results.len(), want.len() + 1, "the query and the documents");
        }
    }
    assert_eq!(all.len(), 17);
    println!("largest difference {far:e}");
}

#[test]
fn vectors_of_tokens_are_told_with_their_tokens_and_written() {
    let case = &cases_of("tokens.json")["colbert"];
    let dir = folder(case);
    let session = open(dir.path()).unwrap();
    assert!(session.notes().iter().all(|n| !n.contains("linear.weight")), "{:?}", session.notes());
    let mut heard = Heard::default();
    let asked = request(json!({"texts": ["the dog , a cat"]}), &json!({"tensors": true}));
    let got = session.answer_to(&asked, &mut heard).unwrap();
    assert!(heard.0.iter().any(|n| n.contains("read as documents")), "{:?}", heard.0);
    let told = got.results[0].token_embeddings.as_ref().unwrap();
    let tokens: Vec<&str> = told.iter().map(|t| t.token.as_str()).collect();
    assert_eq!(tokens, ["[CLS]", "[unused1]", "the", "dog", "a", "cat", "[SEP]"], "the comma does not count");
    let written = &got.tensors.unwrap().map["token_embeddings.0"];
    assert_eq!(written.to_vec2::<f32>().unwrap(), vectors(&got.results[0]));
    let query = session.answer(&request(json!({"texts": ["the dog"]}), &json!({"task": "query"}))).unwrap();
    let tokens: Vec<&str> = query.results[0].token_embeddings.iter().flatten().map(|t| t.token.as_str()).collect();
    assert_eq!(tokens[..5], ["[CLS]", "[unused0]", "the", "dog", "[SEP]"]);
    assert!(tokens.len() == 11 && tokens[5..].iter().all(|t| *t == "[MASK]"));
    // A batch answers as each text alone, whatever stands beside it.
    let both = request(json!({"texts": ["the river is where", "the dog"]}), &json!({"task": "query"}));
    assert_eq!(session.answer(&both).unwrap().results[1], query.results[0]);
    // Tokens as a model takes them are those of a document.
    let ids: BTreeMap<String, Json> =
        BTreeMap::from([("input_ids".into(), json!({"shape": [1, 4], "data": [2, 9, 10, 3]}))]);
    let raw = session.answer(&request(json!({"tensors": ids}), &json!({}))).unwrap();
    assert_eq!(raw.results[0].token_embeddings.as_ref().unwrap().len(), 4);
    let fails = |ask: Json| {
        session.answer(&request(json!({"texts": ["a"]}), &ask)).map(|a| panic!("{a:?}")).unwrap_err().to_string()
    };
    assert!(fails(json!({"dim": 3})).contains("one dense vector"));
    assert!(fails(json!({"weights": [1, 1, 1]})).contains("BGE-M3"));
}

/// The error of a folder of a case that was changed.
#[track_caller]
fn refused(name: &str, change: impl FnOnce(&Path), says: &[&str]) {
    let dir = folder(&cases_of("tokens.json")[name]);
    change(dir.path());
    let e = open(dir.path()).err().expect("must be refused").to_string();
    says.iter().for_each(|s| assert!(e.contains(s), "must say {s:?}: {e}"));
}

#[test]
fn what_contradicts_itself_is_refused_by_name() {
    let bert = "sentence_bert_config.json";
    let filled = |more: &str| format!(r#"{{"query_expansion": {{"strategy": "fixed", "length": 9{more}}}}}"#);
    let set = |text: String| move |d: &Path| put(d, bert, text);
    refused("native", set(filled(r#", "colour": 1"#)), &[bert, "colour", "strategy"]);
    refused("native", set(filled(r#", "attend": 1"#)), &["attend must be true or false"]);
    refused("native", set(r#"{"query_expansion": {"strategy": "most", "length": 9}}"#.into()), &["most", "fixed, min"]);
    refused("native", set(r#"{"query_expansion": {"strategy": "min"}}"#.into()), &["length"]);
    refused("native", set(filled("").replacen('{', r#"{"query_length": 4, "#, 1)), &["query_length", "9 tokens"]);
    let mask = "2_MultiVectorMask/config.json";
    refused("native", |d| put(d, mask, r#"{"skiplist_words": [1]}"#), &[mask, "skiplist_words"]);
    refused("native", |d| put(d, mask, r#"{"keep_only_token_ids": [-1]}"#), &[mask, "keep_only_token_ids"]);
    let dense = r#"{"in_features": 12, "out_features": 6, "module_input_name": "sentence_embedding"}"#;
    refused("native", |d| put(d, "1_Dense/config.json", dense), &["module_input_name", "token_embeddings"]);
    let pools = json!([{"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.HierarchicalTokenPooling", "path": "1_P"}]);
    refused("native", |d| put(d, "modules.json", pools.to_string()), &["HierarchicalTokenPooling", "MultiVectorMask"]);
    refused(
        "colbert",
        |d| std::fs::copy(golden().join("base/model.safetensors"), d.join("model.safetensors")).map(drop).unwrap(),
        &["linear.weight"],
    );
    // A word to fill up with that is no token is told when it is needed.
    let dir = folder(&cases_of("tokens.json")["native"]);
    put(dir.path(), bert, filled(r#", "token": "[nobody]""#));
    let asked = request(json!({"texts": ["a"]}), &json!({"task": "query"}));
    let fails = || open(dir.path()).unwrap().answer(&asked).unwrap_err().to_string();
    assert!(fails().contains("[nobody]") && fails().contains("query_expansion"), "{}", fails());
    put(dir.path(), bert, r#"{"query_expansion": {"strategy": "min", "length": 1000000}}"#);
    assert!(fails().contains("filled up to 1000000 tokens, and the model reads 24"), "{}", fails());
}

/// The folder of BGE-M3's layout, and what is expected of it.
fn m3() -> (tempfile::TempDir, Json) {
    let (from, to) = (golden().join("m3"), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&from).unwrap() {
        let path = entry.unwrap().path();
        match path.is_file() {
            true => drop(std::fs::copy(&path, to.path().join(path.file_name().unwrap())).unwrap()),
            false => put(to.path(), "1_Pooling/config.json", std::fs::read(path.join("config.json")).unwrap()),
        }
    }
    let want = serde_json::from_slice(&std::fs::read(from.join("expected.json")).unwrap()).unwrap();
    (to, want)
}

/// Errors unless all three embeddings and the rankings are those that are wanted.
fn three(session: &Session, want: &Json) {
    let got = session.answer(&request(json!({"texts": want["texts"]}), &json!({}))).unwrap().results;
    for (i, reply) in got.iter().enumerate() {
        near(reply.sentence_embedding.as_ref().unwrap(), &read::<Vec<f32>>(&want["dense"][i]), "dense");
        let weights: BTreeMap<String, f32> = read(&want["sparse"][i]);
        let own = reply.sparse_embedding.as_ref().unwrap();
        assert_eq!(own.keys().collect::<Vec<_>>(), weights.keys().collect::<Vec<_>>());
        let values = |m: &BTreeMap<String, f32>| m.values().copied().collect::<Vec<_>>();
        near(&values(own), &values(&weights), "sparse");
        near(&vectors(reply).concat(), &read::<Vec<Vec<f32>>>(&want["colbert"][i]).concat(), "colbert");
    }
    let texts: Vec<String> = read(&want["texts"]);
    let inputs = json!({"ranking": {"query": texts[0], "documents": texts[1..]}});
    for (ask, key) in [(json!({}), "equal"), (json!({"weights": want["weights"]}), "weighted")] {
        let ranking = session.answer(&request(inputs.clone(), &ask)).unwrap().ranking.unwrap();
        in_order(&ranking, &read::<Vec<f32>>(&want[key]), key);
        for r in &ranking {
            let scores: BTreeMap<String, f32> = read(&want["scores"][r.document]);
            let own = r.scores.as_ref().unwrap();
            assert!(own.values().all(|s| *s != 0.0 || s.is_sign_positive()), "nothing in common is 0");
            let values: Vec<f32> = own.values().map(|s| *s as f32).collect();
            assert_eq!(own.keys().collect::<Vec<_>>(), scores.keys().collect::<Vec<_>>());
            near(&values, &scores.into_values().collect::<Vec<_>>(), "scores of each kind");
        }
    }
}

#[test]
fn bge_m3_answers_with_three_embeddings() {
    let (dir, want) = m3();
    three(&open(dir.path()).unwrap(), &want);
    // The same without the modules of sentence-transformers, as FlagEmbedding reads it.
    std::fs::remove_file(dir.path().join("modules.json")).unwrap();
    let session = open(dir.path()).unwrap();
    three(&session, &want);
    let e = session.answer(&request(json!({"texts": ["a"]}), &json!({"weights": [1, 1, 1]}))).unwrap_err().to_string();
    assert!(e.contains("rankings"), "{e}");
    for weights in [json!([0, 0, 0]), json!([1, -1, 1])] {
        let inputs = json!({"ranking": {"query": "a", "documents": ["the"]}});
        let e = session.answer(&request(inputs, &json!({"weights": weights}))).unwrap_err().to_string();
        assert!(e.contains("not all 0"), "{e}");
    }
    // A projection of another width, and a file that is none.
    let file = |name: &str| dir.path().join(name);
    std::fs::copy(file("colbert_linear.pt"), file("sparse_linear.pt")).unwrap();
    let e = open(dir.path()).err().unwrap().to_string();
    assert!(e.contains("sparse_linear.pt") && e.contains("8 numbers"), "{e}");
    std::fs::write(file("sparse_linear.pt"), b"not a pickle").unwrap();
    assert!(open(dir.path()).err().unwrap().to_string().contains("sparse_linear.pt"));
}

#[test]
fn every_kind_of_embedding_puts_documents_in_order() {
    let cases = cases_of("cases.json");
    for name in ["pooling mean", "prompts", "manhattan", "cut embeddings", "splade max relu", "splade of today"] {
        let case = &cases[name];
        let dir = folder(case);
        let session = open(dir.path()).unwrap();
        let texts: Vec<String> = read(&case["texts"]);
        let ask = |texts: &[String], task: &str| {
            session.answer(&request(json!({"texts": texts}), &json!({"task": task}))).unwrap().results
        };
        let (query, documents) = (ask(&texts[1..2], "query"), ask(&texts, "document"));
        let all: Vec<Reply> = query.into_iter().chain(documents).collect();
        let v = switchformer_infer::tasks::embed::vectors(&all);
        let want: Vec<f32> =
            v[1..].iter().map(|d| session.sentence().unwrap().similarity().of(&v[0], d) as f32).collect();
        let inputs = json!({"ranking": {"query": texts[1], "documents": texts}});
        let got = session.answer(&request(inputs, &json!({}))).unwrap();
        in_order(got.ranking.as_ref().unwrap(), &want, name);
    }
    // What compares nothing says so.
    let dir = folder(&cases["pooling mean"]);
    std::fs::remove_file(dir.path().join("modules.json")).unwrap();
    let inputs = json!({"ranking": {"query": "a", "documents": ["the"]}});
    let e = open(dir.path()).unwrap().answer(&request(inputs, &json!({}))).unwrap_err();
    assert!(e.code() == "request" && e.to_string().contains("cannot put documents in order"), "{e}");
}
