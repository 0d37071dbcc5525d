//! Writing: beams against the reference, draws by distribution and seed, stops, what is refused.

#![allow(clippy::unwrap_used)]

#[path = "../../zoo/tests/common/mod.rs"]
mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{sequences, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_infer::generate::{
    self, Beams, Choice, Early, End, Generation, GenerationConfig, Sampling, Streamer, greedy,
};
use switchformer_nn::{Error, Input, Member, Members, Point};
use switchformer_zoo::{OpenOptions, Opened, find};

fn toy_model(family: &str, changes: &Json) -> Opened {
    let entry = find(family).unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    Opened::random(config, OpenOptions::default()).unwrap()
}

fn write(opened: &Opened, seed: u64, source: &[Vec<u32>], max_tokens: usize, choice: Choice) -> Vec<Vec<Generation>> {
    let mut streamer = Streamer { stop: &|_| false, token: &mut |_, _| {} };
    let point = Point::new().with("seed", seed);
    let how = GenerationConfig::new(max_tokens, choice);
    generate::write(opened, &point, &Input::tokens(source).unwrap(), &how, &mut streamer).unwrap().0
}

fn ids(v: &Json) -> Vec<u32> {
    serde_json::from_value(v.clone()).unwrap()
}

fn golden(file: &str) -> Json {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden").join(file);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn written_sequences_are_those_of_the_reference() {
    let (mut early, mut cases) = (0, 0);
    for (family, name) in [("t5", "v1_0"), ("t5", "v1_1"), ("mt5", "seq2seq")] {
        let doc = golden(&format!("{family}/generate/{name}.json"));
        let opened = Opened::random(doc["config"].clone(), OpenOptions::default()).unwrap();
        assert_eq!(json!(opened.n_params), doc["n_params"]);
        let members = doc["members"].as_array().unwrap();
        let source: Vec<Vec<u32>> = members.iter().map(|m| ids(&m["source"])).collect();
        let max = doc["max_tokens"].as_u64().unwrap() as usize;
        let (written, _) = greedy(&opened, &Point::new(), &Input::tokens(&source).unwrap(), max).unwrap();
        for (i, (got, m)) in written.iter().zip(members).enumerate() {
            assert_eq!(*got, ids(&m["written"]), "{family}/{name}: member {i}");
            early += usize::from(got.len() < max);
            let alone = Input::tokens(&source[i..=i]).unwrap();
            assert_eq!(greedy(&opened, &Point::new(), &alone, max).unwrap().0[0], *got, "{family}/{name} alone");
            cases += 1;
        }
    }
    assert_eq!((early, cases), (2, 9), "some end early");
}

#[test]
fn experts_are_recorded_once_for_a_whole_text() {
    let doc = golden("switch_transformers/generate/words.json");
    let opened = Opened::random(doc["config"].clone(), OpenOptions::default()).unwrap();
    let members = doc["members"].as_array().unwrap();
    let source: Vec<Vec<u32>> = members.iter().map(|m| ids(&m["source"])).collect();
    let max = doc["max_tokens"].as_u64().unwrap() as usize;
    let (written, trace) = greedy(&opened, &Point::new(), &Input::tokens(&source).unwrap(), max).unwrap();
    for (got, m) in written.iter().zip(members) {
        assert_eq!(*got, ids(&m["written"]));
    }
    // One record per bank and member, however many steps: block 1 read, block 3 wrote.
    assert_eq!(trace.decisions.len(), 2 * members.len());
    for d in &trace.decisions {
        let rows: u64 = d.choice["load"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        let member = d.member.unwrap() as usize;
        let want = if d.at == "blocks.1.ffn" { source[member].len() } else { written[member].len() };
        assert_eq!((d.switch, rows, &d.choice["dropped"]), ("experts", want as u64, &json!(0)), "{d:?}");
        let entropy = d.choice["entropy"].as_f64().unwrap();
        assert!(entropy > 0.0 && entropy <= 4f64.ln(), "{d:?}");
    }
}

#[test]
fn what_does_not_write_is_refused() {
    let reader = toy_model("t5", &json!({"architectures": ["T5EncoderModel"]}));
    let (pair, text) = (toy_model("t5", &json!({})), Input::tokens(&sequences(50, &[3])).unwrap());
    assert!(greedy(&reader, &Point::new(), &text, 3).is_err());
    assert!(greedy(&pair, &Point::new(), &text, 0).is_err());
    assert!(greedy(&pair, &Point::new().with("exit", 2), &text, 3).is_err(), "the encoder alone writes nothing");
    let sure = Point::new().with("exit", json!({"confidence": 0.9}));
    assert!(greedy(&pair, &sure, &text, 3).is_err(), "no exit heads, no confidence");
}

/// Greedy texts of eight tokens behind the start, with every text read again from its start for each token.
fn read_again(opened: &Opened, point: &Point, source: &Input) -> Vec<Vec<u32>> {
    let mut texts: Vec<Vec<u32>> = vec![vec![0]; source.n()];
    for _ in 0..8 {
        let input = Input::pair(source.clone(), Input::tokens(&texts).unwrap()).unwrap();
        let (out, _) = opened.run(point, &input).unwrap();
        let (logits, rows) = out.get_rows("logits").unwrap();
        let logits: Vec<Vec<f32>> = logits.to_vec2().unwrap();
        for (m, text) in texts.iter_mut().enumerate() {
            let row = &logits[rows.range(m).end - 1];
            let best = (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            text.push(best as u32);
        }
    }
    texts
}

#[test]
fn heads_act_while_writing() {
    let opened = toy_model("t5", &json!({}));
    let source = Input::tokens(&sequences(50, &[7, 3, 12])).unwrap();
    let mut all = Vec::new();
    for keep in [1.0, 0.5, 0.25] {
        let point = Point::new().with("heads", json!({"keep": keep}));
        let (written, trace) = greedy(&opened, &point, &source, 8).unwrap();
        for (got, want) in written.iter().zip(&read_again(&opened, &point, &source)) {
            assert_eq!(got[..], want[1..=got.len()], "{keep} of the heads");
        }
        // One record for each of the two attentions that read and the four that write, however many steps.
        assert_eq!(trace.decisions.len(), if keep < 1.0 { 6 } else { 0 });
        all.push(written);
    }
    assert!(all[0] != all[1] && all[1] != all[2], "heads that change nothing prove nothing");
}

#[test]
fn exits_act_while_writing() {
    let opened = toy_model("t5", &json!({"num_decoder_layers": 3}));
    let source = sequences(50, &[7, 3, 12]);
    let source = Input::tokens(&source).unwrap();
    let mut all = Vec::new();
    for exit in 3..=5 {
        let point = Point::new().with("exit", exit);
        let (written, trace) = greedy(&opened, &point, &source, 8).unwrap();
        for (got, want) in written.iter().zip(&read_again(&opened, &point, &source)) {
            assert_eq!(got[..], want[1..=got.len()], "exit {exit}");
        }
        assert_eq!(trace.decisions.len(), usize::from(exit < 5), "one record, however many steps");
        all.push(written);
    }
    assert!(all[0] != all[2], "an exit that changes nothing proves nothing");
}

#[test]
fn beams_are_those_of_the_reference() {
    let (mut ended, mut texts) = (0, 0);
    for (family, name) in [("t5", "v1_0"), ("t5", "v1_1"), ("mt5", "seq2seq"), ("switch_transformers", "words")] {
        let doc = golden(&format!("{family}/generate/beams_{name}.json"));
        let opened = Opened::random(doc["config"].clone(), OpenOptions::default()).unwrap();
        assert_eq!(json!(opened.n_params), doc["n_params"]);
        for case in doc["cases"].as_array().unwrap() {
            let at = format!("{family}/{name}: {} {} {}", case["width"], case["length_penalty"], case["early"]);
            let width = case["width"].as_u64().unwrap() as usize;
            let early = match &case["early"] {
                Json::Bool(true) => Early::Yes,
                Json::Bool(false) => Early::No,
                _ => Early::Never,
            };
            let penalty = case["length_penalty"].as_f64().unwrap();
            let choice = Choice::Beams(Beams { width, length_penalty: penalty, early, keep: width });
            let max = case["max_tokens"].as_u64().unwrap() as usize;
            let members = case["members"].as_array().unwrap();
            let source: Vec<Vec<u32>> = members.iter().map(|m| ids(&m["source"])).collect();
            let whole = write(&opened, 0, &source, max, choice);
            for (i, (got, member)) in whole.iter().zip(members).enumerate() {
                let want = member["texts"].as_array().unwrap();
                assert_eq!(got.len(), want.len(), "{at}: member {i}");
                for (rank, (got, want)) in got.iter().zip(want).enumerate() {
                    assert_eq!(got.tokens, ids(&want["tokens"]), "{at}: member {i}, text {rank}");
                    let (score, want) = (got.score.unwrap(), want["score"].as_f64().unwrap());
                    assert!((score - want).abs() < 1e-4, "{at}: member {i}, text {rank}: {score} against {want}");
                    ended += usize::from(got.end == End::Token);
                    texts += 1;
                }
                assert_eq!(write(&opened, 0, &source[i..=i], max, choice)[0], *got, "{at}: member {i} alone");
            }
        }
    }
    assert_eq!(texts, 4 * 90);
    assert!(ended > 60 && ended < texts, "{ended} texts end by themselves");
}

#[test]
fn draws_follow_the_seed_and_the_source_alone() {
    for family in ["t5", "mt5", "switch_transformers"] {
        let opened = toy_model(family, &json!({}));
        let source = sequences(50, &[7, 3, 12]);
        let choice = Choice::Sample(Sampling { temperature: 2.0, ..Sampling::default() });
        let at = |seed: u64| write(&opened, seed, &source, 6, choice);
        assert_eq!(at(3), at(3), "{family}");
        assert!((4..8).any(|s| at(s) != at(3)), "{family}: the seed moves nothing");
        // Alone, in another order, among others: the same text.
        let turned: Vec<Vec<u32>> = source.iter().rev().cloned().collect();
        let mut back = write(&opened, 3, &turned, 6, choice);
        back.reverse();
        assert_eq!(back, at(3), "{family}");
        for (i, one) in at(3).iter().enumerate() {
            assert_eq!(write(&opened, 3, &source[i..=i], 6, choice)[0], *one, "{family}: member {i}");
        }
    }
}

#[test]
fn first_tokens_are_drawn_by_their_chances() {
    let opened = toy_model("t5", &json!({}));
    let source = sequences(50, &[6]);
    let s = Sampling { temperature: 1.5, top_k: Some(8), top_p: 0.9, ..Sampling::default() };
    let pair = Input::pair(Input::tokens(&source).unwrap(), Input::tokens(&[[0u32]]).unwrap()).unwrap();
    let logits = opened.run(&Point::new(), &pair).unwrap().0;
    let row = &logits.get_rows("logits").unwrap().0.to_vec2::<f32>().unwrap()[0];
    let chances = s.chances(row);
    assert!(chances.len() > 3 && chances.len() <= 8);
    let n = 1500u64;
    let mut counts = vec![0f64; chances.len()];
    for seed in 0..n {
        let token = write(&opened, seed, &source, 1, Choice::Sample(s))[0][0].tokens[0];
        counts[chances.iter().position(|c| c.0 == token).expect("a token that was filtered out")] += 1.0;
    }
    let chi: f64 = chances.iter().zip(&counts).map(|(c, k)| (k - c.1 * n as f64).powi(2) / (c.1 * n as f64)).sum();
    // 24.32 is the 0.999 quantile with seven degrees of freedom, the most there can be.
    assert!(chi < 24.32, "{counts:?} for {chances:?}: chi-square {chi}");
    // Narrowest filters are greedy.
    let greedy = write(&opened, 0, &source, 5, Choice::Greedy);
    for narrow in [Sampling { top_k: Some(1), ..s }, Sampling { top_p: 1e-9, ..s }, Sampling { temperature: 1e-6, ..s }]
    {
        assert_eq!(write(&opened, 9, &source, 5, Choice::Sample(narrow)), greedy);
    }
}

#[test]
fn texts_stop_by_token_rule_or_length_and_are_heard_as_written() {
    let opened = toy_model("t5", &json!({}));
    let source = Input::tokens(&sequences(50, &[7, 3, 12])).unwrap();
    let (plain, _) = greedy(&opened, &Point::new(), &source, 6).unwrap();
    let mut heard = vec![Vec::new(); 3];
    let first = plain[0][1];
    let stop = |text: &[u32]| text.len() == 4 || text == &plain[0][..2];
    let mut token = |member: usize, t: u32| heard[member].push(t);
    let mut streamer = Streamer { stop: &stop, token: &mut token };
    let how = GenerationConfig::new(6, Choice::Greedy);
    let (texts, _) = generate::write(&opened, &Point::new(), &source, &how, &mut streamer).unwrap();
    assert_eq!((texts[0][0].tokens.len(), texts[0][0].end), (2, End::Stop));
    for (i, t) in texts.iter().enumerate() {
        assert_eq!(t[0].tokens, plain[i][..t[0].tokens.len()], "member {i}");
        assert_eq!(heard[i], t[0].tokens, "member {i}");
    }
    assert!(texts[1..].iter().all(|t| t[0].tokens.len() == 4 || t[0].end == End::Token));
    // A list of ends: any of them ends a text, and is kept.
    let listed = toy_model("t5", &json!({"eos_token_id": [first, 1]}));
    let texts = write(&listed, 0, &sequences(50, &[7, 3, 12]), 6, Choice::Greedy);
    let cut = plain[0].iter().position(|t| *t == first).unwrap() + 1;
    assert_eq!((texts[0][0].tokens.as_slice(), texts[0][0].end), (&plain[0][..cut], End::Token));
    // Beams hear nothing and keep to the rule as well.
    let beams = Choice::Beams(Beams { width: 3, length_penalty: 1.0, early: Early::Yes, keep: 3 });
    let mut silent = |_: usize, _: u32| panic!("beams tell nothing");
    let mut streamer = Streamer { stop: &|text| text.len() == 3, token: &mut silent };
    let how = GenerationConfig::new(6, beams);
    let (texts, _) = generate::write(&opened, &Point::new(), &source, &how, &mut streamer).unwrap();
    assert!(texts.iter().flatten().all(|t| t.tokens.len() <= 3) && texts.iter().all(|t| t.len() == 3));
    assert!(texts.iter().flatten().any(|t| t.end == End::Stop));
}

#[test]
fn a_cancelled_member_ends_and_leaves_the_others_as_they_are() {
    let opened = toy_model("t5", &json!({}));
    let source = sequences(50, &[7, 3, 12]);
    let beams = Choice::Beams(Beams { width: 3, length_penalty: 1.0, early: Early::Never, keep: 3 });
    for choice in [Choice::Greedy, Choice::Sample(Sampling::default()), beams] {
        let whole = write(&opened, 5, &source, 6, choice);
        for after in [0, 1] {
            let flag = Arc::new(AtomicBool::new(after == 0));
            let one = |m: usize| Member { cancelled: (m == 1).then(|| flag.clone()), ..Member::default() };
            let input = Input::tokens(&source).unwrap().of_members(Members::new((0..3).map(one))).unwrap();
            // The rule of the caller sees every text as it grows, those of beams too; member 0 comes first.
            let stop = |text: &[u32]| {
                flag.fetch_or(text.len() == 2, Ordering::Relaxed);
                false
            };
            let mut streamer = Streamer { stop: &stop, token: &mut |_, _| {} };
            let point = Point::new().with("seed", 5);
            let how = GenerationConfig::new(6, choice);
            let texts = generate::write(&opened, &point, &input, &how, &mut streamer).unwrap().0;
            assert_eq!((&texts[0], &texts[2]), (&whole[0], &whole[2]), "{choice:?} after {after}");
            let [gone] = texts[1].as_slice() else { panic!("{choice:?}: {:?}", texts[1]) };
            assert_eq!((gone.end, gone.tokens.len()), (End::Cancelled, after), "{choice:?}");
            assert!(gone.score.is_none_or(f64::is_finite), "{gone:?}");
            if !matches!(choice, Choice::Beams(_)) {
                assert_eq!(gone.tokens, whole[1][0].tokens[..after], "{choice:?}");
            }
        }
    }
}

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let opened = toy_model("t5", &json!({}));
    let refused = |choice: Choice, word: &str| {
        let mut streamer = Streamer { stop: &|_| false, token: &mut |_, _| {} };
        let source = Input::tokens(&sequences(50, &[3])).unwrap();
        let e =
            generate::write(&opened, &Point::new(), &source, &GenerationConfig::new(3, choice), &mut streamer).err();
        let e = e.unwrap_or_else(|| panic!("{choice:?} is accepted"));
        assert!(matches!(e, Error::Input { .. }) && e.to_string().contains(word), "{choice:?}: {e}");
    };
    let s = Sampling::default();
    for t in [0.0, -1.0, f64::NAN, f64::INFINITY, 101.0] {
        refused(Choice::Sample(Sampling { temperature: t, ..s }), "temperature");
    }
    refused(Choice::Sample(Sampling { top_k: Some(0), ..s }), "top_k");
    for p in [0.0, -0.1, 1.1, f64::NAN] {
        refused(Choice::Sample(Sampling { top_p: p, ..s }), "top_p");
    }
    let b = Beams { width: 2, length_penalty: 1.0, early: Early::No, keep: 1 };
    for width in [0, 1, 65] {
        refused(Choice::Beams(Beams { width, ..b }), "beams");
    }
    for length_penalty in [f64::NAN, f64::INFINITY, 11.0] {
        refused(Choice::Beams(Beams { length_penalty, ..b }), "length penalty");
    }
    refused(Choice::Beams(Beams { keep: 3, ..b }), "3 texts");
}
