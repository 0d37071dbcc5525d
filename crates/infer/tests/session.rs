//! A session answers what it is asked, in one pass or several, and says what to do where it cannot.

#![allow(clippy::unwrap_used)]

#[path = "../../zoo/tests/common/mod.rs"]
mod common;
mod folders;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{everything, far, toy};
use folders::{WORDS, encoder, folder, garment, refused, texts};
use serde_json::{Value as Json, json};
use switchformer_infer::generate::{End, greedy};
use switchformer_infer::tasks::extract_answer;
use switchformer_infer::{
    Answer, GenerationOptions, Image, Inputs, Listener, NamedTensors, Reply, Request, Session, Shape,
};
use switchformer_nn::{Folder, Input, Kind, Member, Members, Output, Point, Tensor};
use switchformer_switch::Plan;
use switchformer_switch::leaf::experts::ExpertPlan;
use switchformer_zoo::{HeadKind, OpenOptions, Opened, Trait, find};

fn request(doc: Json) -> Request {
    serde_json::from_value(doc).unwrap()
}

/// The answer to a request that went through JSON, as it comes out of JSON.
fn answer(session: &Session, asked: &Request) -> Answer {
    let text = serde_json::to_string(asked).unwrap();
    let answer = session.answer(&serde_json::from_str(&text).unwrap()).unwrap();
    let doc = serde_json::to_value(&answer).unwrap();
    let back: Answer = serde_json::from_value(doc.clone()).unwrap();
    assert_eq!(serde_json::to_value(&back).unwrap(), doc);
    assert_eq!(serde_json::to_value(session.answer(asked).unwrap()).unwrap(), doc, "JSON changes the request");
    answer
}

/// What `bert` sees of two texts.
fn two() -> Input {
    Input::tokens(&[vec![2u32, 5, 6, 4, 3], vec![2, 7, 8, 3]]).unwrap()
}

fn vector(out: &Output, name: &str, member: usize) -> Vec<f32> {
    out.of(name, member).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn softmax(row: &[f32]) -> Vec<f32> {
    let all: Vec<f32> = row.iter().map(|v| v.exp()).collect();
    all.iter().map(|v| v / all.iter().sum::<f32>()).collect()
}

#[test]
fn texts_are_answered_by_the_head() {
    let temp = tempfile::tempdir().unwrap();
    let asked = Request::new(texts(&["where is [MASK]", "the river"]));
    let open = |architecture: &str, changes: Json| {
        let session = folder(&temp.path().join(architecture), "bert", architecture, changes);
        let out = session.opened.run(&Point::new(), &two()).unwrap().0;
        (answer(&session, &asked), out)
    };

    let names = json!({"id2label": {"0": "up", "1": "down", "2": "still"}});
    let (got, out) = open("BertForSequenceClassification", names.clone());
    for (i, reply) in got.results.iter().enumerate() {
        let chances = softmax(&vector(&out, "logits", i));
        let labels = reply.labels.as_ref().unwrap();
        for l in labels {
            let class = ["up", "down", "still"].iter().position(|n| *n == l.label).unwrap();
            assert!((l.probability - chances[class]).abs() < 1e-6);
        }
        assert!(labels.len() == 3 && labels.windows(2).all(|w| w[0].probability >= w[1].probability));
    }
    assert_eq!(got.outputs["logits"], Shape::PerSample(vec![2, 3]));

    let (got, out) = open("BertForTokenClassification", names);
    let tokens = got.results[1].token_labels.as_ref().unwrap();
    assert_eq!(
        tokens.iter().map(|t| (t.token.as_str(), t.bytes)).collect::<Vec<_>>(),
        [("the", [0, 3]), ("river", [4, 9])]
    );
    let chances = softmax(&vector(&out, "logits", 1)[3..6]);
    let top = chances.iter().copied().fold(0.0, f32::max);
    assert!((tokens[0].probability - top).abs() < 1e-6);

    let (got, out) = open("BertForMaskedLM", json!({}));
    let vocab = vector(&out, "logits", 0).len() / 5;
    let chances = softmax(&vector(&out, "logits", 0)[3 * vocab..4 * vocab]);
    let masks = got.results[0].masks.as_ref().unwrap();
    assert_eq!((masks.len(), masks[0].len()), (1, 5));
    assert!((masks[0][0].probability - chances.iter().copied().fold(0.0, f32::max)).abs() < 1e-6);
    assert_eq!(got.results[1].masks, Some(vec![]));

    let (got, _) = open("BertModel", json!({}));
    assert_eq!(got.results[0], Reply { input: "where is [MASK]".into(), ..Reply::default() });
}

#[test]
fn sentences_are_pooled_member_by_member() {
    let temp = tempfile::tempdir().unwrap();
    let session = encoder(temp.path());
    let mut asked = Request::new(texts(&["where is [MASK]", "the river"]));
    asked.tensors = true;
    let got = answer(&session, &asked);
    let out = session.opened.run(&Point::new(), &two()).unwrap().0;
    for (i, len) in [5, 4].into_iter().enumerate() {
        let rows = vector(&out, "last_hidden_state", i);
        let dim = rows.len() / len;
        let mean: Vec<f32> = (0..dim).map(|d| rows.iter().skip(d).step_by(dim).sum::<f32>() / len as f32).collect();
        let length = mean.iter().map(|v| v * v).sum::<f32>().sqrt();
        let want: Vec<f32> = mean.iter().map(|v| v / length).collect();
        assert!(far(got.results[i].sentence_embedding.as_ref().unwrap(), &want) < 1e-5);
    }
    let stored = &got.tensors.unwrap().map["sentence_embedding"];
    assert_eq!(stored.to_vec2::<f32>().unwrap()[1], got.results[1].sentence_embedding.clone().unwrap());

    // One that nobody waits for has none; the other keeps its own.
    struct First(Arc<AtomicBool>);
    impl Listener for First {
        fn members(&self) -> Members {
            let gone = Member { cancelled: Some(self.0.clone()), ..Member::default() };
            Members::new([gone, Member { place: 1, ..Member::default() }])
        }
    }
    let mut listener = First(Arc::new(AtomicBool::new(true)));
    let left = session.answer_to(&asked, &mut listener).unwrap();
    assert_eq!((left.results[0].end, &left.results[0].sentence_embedding), (Some(End::Cancelled), &None));
    assert_eq!(left.results[1], got.results[1]);
    assert!(left.tensors.unwrap().map.contains_key("sentence_embedding.1"));
    asked.inputs = texts(&["the river"]);
    let e = session.answer_to(&asked, &mut listener).unwrap_err();
    assert!(e.to_string().contains("members"), "{e}");
}

/// The checkpoint of the binary, as it is compiled in.
static DEFAULT: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/default/config.json")),
    ("model.safetensors", include_bytes!("../../../assets/default/model.safetensors")),
    ("switch.json", include_bytes!("../../../assets/default/switch.json")),
    ("switch.safetensors", include_bytes!("../../../assets/default/switch.safetensors")),
    ("preprocessor_config.json", include_bytes!("../../../assets/default/preprocessor_config.json")),
];

#[test]
fn images_are_answered_at_any_point_with_maps_and_a_trace() {
    let session = Session::folder(Folder::Embedded(DEFAULT), OpenOptions::default()).unwrap();
    let mut asked = Request::new(Inputs::Images((0..2).map(|i| Image::new(format!("{i}.png"), garment(i))).collect()));
    let plain = answer(&session, &asked);
    let labels = switchformer_data::embedded_fashion().unwrap();
    for (i, reply) in plain.results.iter().enumerate() {
        let label = &reply.labels.as_ref().unwrap()[0].label;
        assert_eq!(*label, switchformer_data::LABELS[labels.labels()[i] as usize], "{reply:?}");
    }
    assert!(plain.trace.is_none() && plain.maps.is_none() && plain.tensors.is_none());

    asked.point = Some(json!({"exit": 3}));
    (asked.trace, asked.maps, asked.tensors, asked.seed) = (true, true, true, Some(7));
    let short = answer(&session, &asked);
    assert!(short.macs < plain.macs && short.point.to_string() == r#"{"exit":3,"seed":7}"#);
    assert_eq!(short.trace.unwrap().iter().map(|d| d.switch.as_str()).collect::<Vec<_>>(), ["exit"]);
    assert_eq!(short.tensors.unwrap().map["logits"].dims(), [2, 10]);
    let maps = short.maps.unwrap();
    let names: Vec<&str> = maps.iter().map(Image::name).collect();
    assert_eq!((names.len(), names[0], names[5]), (6, "0.blocks.0.attn.png", "1.blocks.2.attn.png"));

    // A file is the same as its bytes, and is read when it is needed.
    let file = tempfile::tempdir().unwrap().keep().join("0.png");
    let mut from_file = Request::new(Inputs::Images(vec![Image::file(&file)]));
    refused(&session, &from_file, "file.read", &["0.png"]);
    assert!(serde_json::to_string(&from_file).unwrap_err().to_string().contains("0.png"));
    std::fs::write(&file, garment(0)).unwrap();
    assert_eq!(answer(&session, &from_file).results[0].labels, plain.results[0].labels);
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();

    from_file.inputs = Inputs::Images(vec![Image::new("x.png", b"no image".to_vec())]);
    refused(&session, &from_file, "image.format", &["x.png", "PNG"]);
    refused(&session, &Request::new(texts(&["x"])), "request", &["reads images", "give images"]);
    asked.point = Some("fastest".into());
    refused(&session, &asked, "point", &["fastest", "JSON"]);
}

#[test]
fn maps_have_the_shape_of_the_images_own_grid() {
    let temp = tempfile::tempdir().unwrap();
    for (family, architecture, heads) in [("vit", "ViTModel", 4), ("deit", "DeiTForImageClassification", 4)] {
        let dir = temp.path().join(family);
        folder(&dir, family, architecture, json!({}));
        // 28x12 places of 4x4 patches are 7x3; 21 patches could as well be 3x7.
        let steps = json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 28, "width": 12},
            "image_mean": [0.5], "image_std": [0.5]});
        std::fs::write(dir.join("preprocessor_config.json"), steps.to_string()).unwrap();
        let session = Session::open(&dir, OpenOptions::default()).unwrap();
        let mut asked = Request::new(Inputs::Images(vec![Image::new("a", garment(0))]));
        asked.maps = true;
        let maps = answer(&session, &asked).maps.unwrap();
        assert_eq!(maps[0].name(), "blocks.0.attn.png");
        let picture = switchformer_data::image::decode(&maps[0].bytes().unwrap(), Path::new("map")).unwrap();
        assert_eq!((picture.height(), picture.width()), (7 * 32, (heads + 1) * (3 * 32 + 1) - 1), "{family}");
    }
}

/// Hears notes, and text as it grows; raises the flag of the first sample after a piece of it.
#[derive(Default)]
struct Ear {
    notes: Vec<String>,
    pieces: BTreeMap<usize, Vec<String>>,
    flag: Option<Arc<AtomicBool>>,
    members: Option<Members>,
}

impl Listener for Ear {
    fn note(&mut self, text: &str) {
        self.notes.push(text.into());
    }

    fn streams(&self) -> bool {
        true
    }

    fn text(&mut self, sample: usize, piece: &str) {
        self.pieces.entry(sample).or_default().push(piece.into());
        if let Some(flag) = self.flag.as_ref().filter(|_| sample == 0) {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn members(&self) -> Members {
        if let Some(members) = &self.members {
            return members.clone();
        }
        let first = |flag: &Arc<AtomicBool>| Member { cancelled: Some(flag.clone()), ..Member::default() };
        let two = |flag| Members::new([first(flag), Member { place: 1, ..Member::default() }]);
        self.flag.as_ref().map_or_else(Members::default, two)
    }
}

#[test]
fn images_are_prepared_as_the_entry_says_where_the_folder_does_not() {
    let temp = tempfile::tempdir().unwrap();
    folder(temp.path(), "deit", "DeiTForImageClassification", json!({"patch_size": 16}));
    let ask = |notes: &[&str]| {
        let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
        let mut ear = Ear::default();
        let asked = Request::new(Inputs::Images(vec![Image::new("a", garment(1))]));
        let answer = session.answer_to(&asked, &mut ear).unwrap();
        assert_eq!(ear.notes, notes);
        answer.results[0].labels.clone().unwrap()
    };
    // The toy reads 16 x 16; DeiT's processor keeps an eighth of the side as a border.
    let plain = ask(&["no preprocessor_config.json: preparing images by the defaults of deit models at 16x16 pixels"]);
    let said = |steps: Json, notes: &[&str]| {
        std::fs::write(temp.path().join("preprocessor_config.json"), steps.to_string()).unwrap();
        ask(notes)
    };
    let stated = |steps: Json| said(steps, &[]);
    let class = "DeiTImageProcessor";
    assert_eq!(stated(json!({"image_processor_type": class, "size": 18, "crop_size": 16})), plain);
    assert_ne!(stated(json!({"image_processor_type": "ViTImageProcessor", "size": 16})), plain);
    // Another size than the trained one, which the reference reads only where it is asked to.
    let large = json!({"image_processor_type": "ViTImageProcessor", "size": 32});
    said(large, &["images are made 32x32 pixels large for a model of 16x16: its positions are stretched"]);
}

#[test]
fn tensors_go_in_and_come_out_under_their_names() {
    let temp = tempfile::tempdir().unwrap();
    let session = folder(&temp.path().join("bert"), "bert", "BertForMaskedLM", json!({}));
    let whole = json!({"shape": [2, 5], "data": [2, 5, 6, 4, 3, 2, 7, 8, 3, 0]});
    let mask = json!({"shape": [2, 5], "data": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0]});
    let ask = |tensors: Json| request(json!({"inputs": {"tensors": tensors}, "tensors": true}));
    let got = answer(&session, &ask(json!({"input_ids": whole, "attention_mask": mask})));
    let out = session.opened.run(&Point::new(), &two()).unwrap().0;
    let logits = got.tensors.unwrap().map["logits"].clone();
    let (b, n, vocab) = logits.dims3().unwrap();
    assert_eq!((b, n), (2, 5));
    let flat: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    let (first, second) = flat.split_at(n * vocab);
    assert_eq!((first, &second[..4 * vocab]), (&vector(&out, "logits", 0)[..], &vector(&out, "logits", 1)[..]));
    assert!(second[4 * vocab..].iter().all(|v| *v == 0.0), "padding is zero");
    assert_eq!((got.results[0].input.as_str(), &got.results[0].masks), ("", &None));

    refused(&session, &ask(json!({"ids": whole})), "request", &["tensors: ", "`ids`", "input_ids"]);
    refused(
        &session,
        &ask(json!({"input_ids": whole, "attention_mask": {"shape": [1], "data": [1]}})),
        "shape",
        &["attention_mask"],
    );
    let half = json!({"input_ids": {"shape": [1, 2], "data": [2, 5.5]}});
    refused(&session, &ask(half), "input", &["input_ids holds 5.5", "whole numbers"]);
    refused(&session, &ask(json!({})), "input", &["reads text", "input_ids"]);
    for (bad, says) in [
        (json!({"input_ids": {"shape": [2, 3], "data": [1]}}), "1 numbers for shape [2, 3]"),
        (json!({"input_ids": {"shape": [1], "data": [1], "dtype": "F32"}}), "dtype"),
    ] {
        let e = serde_json::from_value::<Request>(json!({"inputs": {"tensors": bad}})).unwrap_err().to_string();
        assert!(e.contains(says), "{e}");
    }
    let infinite = Tensor::from_vec(vec![f32::INFINITY], 1).unwrap();
    let infinite = NamedTensors::new(BTreeMap::from([("logits".to_string(), infinite)]));
    assert!(serde_json::to_string(&infinite).unwrap_err().to_string().contains("`logits`"));
}

#[test]
fn every_architecture_is_read_by_the_kind_of_its_head() {
    for (entry, architecture) in everything() {
        let session = Session::random(toy(entry, architecture), OpenOptions::default()).unwrap();
        let (mut map, spec) = (BTreeMap::new(), session.opened.model.spec());
        for slot in spec.slots().iter().filter(|s| !s.optional) {
            let shape = match &slot.kind {
                Kind::Ids { .. } => vec![2, 3],
                Kind::Maps { channels, size: (h, w), .. } => vec![2, *channels, *h, *w],
                other => panic!("{architecture}: {other:?}"),
            };
            let data = vec![1f32; shape.iter().product()];
            map.insert(slot.name.to_string(), Tensor::from_vec(data, shape).unwrap());
        }
        let asked = Request { tensors: true, ..Request::new(Inputs::Tensors(NamedTensors::new(map))) };
        let got = session.answer(&asked).unwrap();
        // Choices are told apart by their texts, which tensors have none of.
        let classes = matches!(got.outputs.get("logits"), Some(Shape::PerSample(dims)) if dims.len() == 2)
            && session.head() != HeadKind::MultipleChoice;
        assert_eq!(got.results[1].labels.is_some(), classes, "{architecture}: {:?}", session.head());
        assert_eq!(session.generates(), spec.takes("decoder_input_ids"), "{architecture}: {:?}", session.head());
        let spans = got.outputs.contains_key("start_logits");
        assert_eq!(session.head() == HeadKind::QuestionAnswering, spans, "{architecture}");
        let tensors = got.tensors.unwrap().map;
        assert_eq!(tensors.len(), got.outputs.len(), "{architecture}");
        if let Some(rows) = tensors.get("last_hidden_state").filter(|_| entry.is(Trait::MapOutput)) {
            assert!(matches!(rows.dims(), [2, _, h, w] if h == w), "{architecture}: {:?}", rows.dims());
        }
    }
}

#[test]
fn questions_are_answered_from_their_passage() {
    let temp = tempfile::tempdir().unwrap();
    let changes = json!({"max_position_embeddings": 100});
    let session = folder(&temp.path().join("qa"), "bert", "BertForQuestionAnswering", changes);
    let passage = "it flows north to the sea ".repeat(60);
    let asked = request(json!({
        "inputs": {"questions": {"questions": ["where is it", "is it"], "passage": passage}}, "trace": true,
    }));
    let got = answer(&session, &asked);
    for (reply, question) in got.results.iter().zip(["where is it", "is it"]) {
        let reader = session.reader().unwrap();
        let (found, _) = extract_answer::answers(
            &session.opened,
            &Point::new(),
            reader,
            (question, &passage),
            &Member::default(),
            &mut (),
        )
        .unwrap();
        let spans = reply.answers.as_ref().unwrap();
        assert_eq!((reply.input.as_str(), spans.len()), (question, 5));
        for (span, f) in spans.iter().zip(&found) {
            assert_eq!((span.bytes, span.logit, span.score), ([f.range.start, f.range.end], f.score, f.probability));
            assert_eq!(span.answer, passage[f.range.clone()]);
            assert_eq!((span.start, span.end), (f.range.start, f.range.end), "characters of plain letters are bytes");
        }
        assert_eq!(reply.text.as_ref(), Some(&spans[0].answer));
    }
    assert!(got.outputs.is_empty());
    // A line for each window of each question, and the best of them is the answer.
    let trace = got.trace.unwrap();
    let windows = |question: u32| trace.iter().filter(move |d| d.member == Some(question) && d.switch == "window");
    assert!(windows(0).count() > 2 && trace.iter().all(|d| d.at.starts_with("windows.")), "{trace:?}");
    let ends: Vec<u64> = windows(1).map(|d| d.choice["bytes"][1].as_u64().unwrap()).collect();
    assert!(ends.is_sorted() && ends.last() == Some(&(passage.trim_end().len() as u64)), "{ends:?}");
    for (i, reply) in (0..).zip(&got.results) {
        let best = windows(i).map(|d| d.choice["logit"].as_f64().unwrap()).fold(f64::MIN, f64::max);
        assert_eq!(best as f32, reply.answers.as_ref().unwrap()[0].logit);
    }
    // Places count characters, as the pipeline of transformers does.
    let accents = "\u{e9}\u{e9} it flows north";
    let one = Inputs::Questions { questions: vec!["where".into()], passage: accents.into() };
    for span in answer(&session, &Request::new(one)).results[0].answers.iter().flatten() {
        let own: String = accents.chars().skip(span.start).take(span.end - span.start).collect();
        assert_eq!((&own, &own[..]), (&span.answer, &accents[span.bytes[0]..span.bytes[1]]));
    }
    let about = |question: &str, passage: &str| {
        Request::new(Inputs::Questions { questions: vec!["where".into(), question.into()], passage: passage.into() })
    };
    refused(&session, &about("is it", " \n"), "request", &["the passage is empty"]);
    refused(&session, &about("  ", "the river"), "request", &["question 2 is empty"]);
    let empty = Inputs::Questions { questions: vec!["where".into()], passage: String::new() };

    refused(&session, &Request::new(texts(&["where"])), "request", &["passage", "questions"]);
    refused(&session, &Request { tensors: true, ..asked }, "request", &["one pass", "give tensors"]);
    let other = folder(&temp.path().join("other"), "bert", "BertModel", json!({}));
    refused(&other, &Request::new(empty), "input", &["BertModel finds no answers", "BertForQuestionAnswering"]);
}

#[test]
fn texts_are_generated_streamed_and_cancelled() {
    let temp = tempfile::tempdir().unwrap();
    let session = folder(temp.path(), "t5", "T5ForConditionalGeneration", json!({}));
    let two = ["where is the river", "it flows"];
    let generation = GenerationOptions { max_tokens: Some(6), ..GenerationOptions::default() };
    let mut asked = Request { generation: Some(generation.clone()), ..Request::new(texts(&two)) };
    let got = answer(&session, &asked);
    let ids = session.tokenizer().unwrap().encode(&two).unwrap();
    let input = Input::tokens(&ids.iter().map(|e| e.ids.as_slice()).collect::<Vec<_>>()).unwrap();
    let (tokens, trace) = greedy(&session.opened, &Point::new(), &input, 6).unwrap();
    assert_eq!(got.macs, trace.macs);
    for (reply, tokens) in got.results.iter().zip(&tokens) {
        assert_eq!((reply.tokens.as_ref(), reply.end), (Some(tokens), Some(End::Length)));
        assert_eq!(*reply.text.as_ref().unwrap(), session.tokenizer().unwrap().decode(tokens, true).unwrap());
    }

    let mut ear = Ear::default();
    assert_eq!(session.answer_to(&asked, &mut ear).unwrap().results, got.results);
    for (i, reply) in got.results.iter().enumerate() {
        assert_eq!(ear.pieces.get(&i).map(|p| p.concat()).unwrap_or_default(), *reply.text.as_ref().unwrap());
    }
    assert!(ear.pieces.values().any(|p| p.len() > 1), "nothing is shown before the end: {:?}", ear.pieces);
    let mut ear = Ear { flag: Some(Arc::default()), ..Ear::default() };
    let left = session.answer_to(&asked, &mut ear).unwrap();
    assert_eq!(left.results[1], got.results[1]);
    let (some, all) = (left.results[0].tokens.as_ref().unwrap(), got.results[0].tokens.as_ref().unwrap());
    assert!(left.results[0].end == Some(End::Cancelled) && some.len() < all.len() && all.starts_with(some));

    // Options: a stop text, beams, a seed.
    let stop = got.results[0].text.as_ref().unwrap().split(' ').nth(1).unwrap().to_string();
    asked.generation = Some(GenerationOptions { stop: vec![stop.clone()], ..generation.clone() });
    let cut = answer(&session, &asked);
    assert!(cut.results[0].end == Some(End::Stop) && !cut.results[0].text.as_ref().unwrap().contains(&stop));
    asked.generation = Some(GenerationOptions { beams: Some(3), ..generation.clone() });
    assert!(answer(&session, &asked).results.iter().all(|r| r.score.is_some()));
    asked.generation = Some(GenerationOptions { temperature: Some(2.0), ..generation.clone() });
    let drawn = |seed| answer(&session, &Request { seed: Some(seed), ..asked.clone() }).results;
    assert_eq!(drawn(1), drawn(1));
    assert!((2..6).any(|seed| drawn(seed) != drawn(1)));

    for (doc, says) in [
        (json!({"beams": 3, "top_k": 2}), ["top_k", "beam search"]),
        (json!({"early_stopping": "never"}), ["early_stopping", "give beams"]),
        (json!({"stop": [""]}), ["empty", "leave it out"]),
    ] {
        asked.generation = Some(serde_json::from_value(doc).unwrap());
        refused(&session, &asked, "request", &says);
    }
    asked.generation = Some(serde_json::from_value(json!({"temperature": -1})).unwrap());
    refused(&session, &asked, "input", &["temperature", "above 0"]);
    asked.generation = None;
    refused(&session, &Request { tensors: true, ..asked.clone() }, "request", &["one pass"]);
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let temp = tempfile::tempdir().unwrap();
    let bert = folder(&temp.path().join("bert"), "bert", "BertModel", json!({}));
    let image = || Inputs::Images(vec![Image::new("a.png", garment(0))]);
    refused(&bert, &Request::new(image()), "request", &["reads text", "give texts"]);
    let words = || Request::new(texts(&["the sea"]));
    let options = GenerationOptions::default();
    refused(&bert, &Request { generation: Some(options), ..words() }, "request", &["such as t5", "leave them out"]);
    refused(&bert, &Request { maps: true, ..words() }, "request", &["give images"]);
    refused(&bert, &Request::new(texts(&[])), "request", &["at least one"]);
    let crossvit = find("crossvit").unwrap();
    let shapes = Session::random(toy(crossvit, crossvit.bare()), OpenOptions::default()).unwrap();
    refused(
        &shapes,
        &Request { maps: true, ..Request::new(image()) },
        "request",
        &["crossvit exposes neither", "swin"],
    );
    let bert = find("bert").unwrap();
    let random = Session::random(toy(bert, "BertForQuestionAnswering"), OpenOptions::default()).unwrap();
    let asked = Inputs::Questions { questions: vec!["where".into()], passage: "north".into() };
    refused(&random, &Request::new(asked), "request", &["folder with a tokenizer"]);
    let random = Session::random(toy(bert, "BertModel"), OpenOptions::default()).unwrap();
    refused(&random, &words(), "request", &["no tokenizer", "give tensors"]);

    std::fs::write(temp.path().join("bert/modules.json"), "{}").unwrap();
    let e = Session::open(&temp.path().join("bert"), OpenOptions::default()).map(|_| ()).unwrap_err();
    assert!(e.code() == "config.value" && e.to_string().contains("modules.json"), "{e}");
}

#[test]
fn a_session_is_shared_by_threads() {
    let session = Session::folder(Folder::Embedded(DEFAULT), OpenOptions::default()).unwrap();
    let ask = |i| session.answer(&Request::new(Inputs::Images(vec![Image::new("a", garment(i))]))).unwrap().results;
    let alone: Vec<_> = (0..3).map(ask).collect();
    let together = std::thread::scope(|s| {
        (0..3)
            .map(|i| s.spawn(move || ask(i)))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect::<Vec<_>>()
    });
    assert_eq!(together, alone);
}

#[test]
fn unknown_fields_are_refused() {
    let texts = json!({"texts": ["a"]});
    assert!(serde_json::from_value::<Request>(json!({"inputs": texts})).is_ok());
    for (doc, says) in [
        (json!({"inputs": texts, "sead": 3}), "sead"),
        (json!({"inputs": {"text": ["a"]}}), "texts"),
        (json!({"inputs": {"questions": {"questions": [], "passage": "", "top": 1}}}), "top"),
        (json!({"inputs": {"images": [{"name": "a", "path": "/etc/passwd"}]}}), "path"),
        (json!({"inputs": {"images": [{"name": "a", "bytes": "?"}]}}), "base64"),
        (json!({"inputs": texts, "generation": {"max_token": 3}}), "max_token"),
        (json!({"inputs": texts, "generation": {"early_stopping": "maybe"}}), "never"),
        (json!({"point": {}}), "inputs"),
    ] {
        let e = serde_json::from_value::<Request>(doc.clone()).unwrap_err().to_string();
        assert!(e.contains(says), "{doc}: {e}");
    }
    let answer = json!({"point": {}, "outputs": {}, "results": [{"input": "a", "embedding": []}], "macs": 0,
        "decision_macs": 0});
    assert!(serde_json::from_value::<Answer>(answer).unwrap_err().to_string().contains("embedding"));
}

#[test]
fn every_model_that_finds_answers_does() {
    let temp = tempfile::tempdir().unwrap();
    let finds = everything().filter(|(e, a)| e.head(a) == Some(HeadKind::QuestionAnswering));
    let mut seen = 0;
    for (entry, architecture) in finds {
        let session = folder(&temp.path().join(entry.name), entry.name, architecture, json!({}));
        let inputs =
            Inputs::Questions { questions: vec!["where is it".into()], passage: "the river flows north".into() };
        let reply = answer(&session, &Request::new(inputs)).results.remove(0);
        assert!(!reply.answers.unwrap().is_empty() && reply.text.is_some(), "{architecture}");
        seen += 1;
    }
    assert!(seen > 1);
}

#[test]
fn windows_are_read_as_their_question() {
    let temp = tempfile::tempdir().unwrap();
    let config = json!({"max_position_embeddings": 24, "architectures": ["BertForQuestionAnswering"]});
    let mut session = folder(temp.path(), "bert", "BertForQuestionAnswering", config);
    let plan = serde_json::from_value::<ExpertPlan>(json!({"count": 16, "top_k": 1})).unwrap();
    let plan = Plan { forms: vec![plan.used()], ..Plan::default() };
    session.opened = Opened::random_with(session.opened.config.as_map().clone().into(), plan).unwrap();
    // A passage of several batches of windows.
    let passage = "it flows north to the sea ".repeat(60);
    let ask = |questions: &[&str], members: Members| {
        let asked = request(json!({
            "inputs": {"questions": {"questions": questions, "passage": passage}}, "trace": true,
            "point": {"experts": {"router": "random", "grain": "sentence"}},
        }));
        let mut ear = Ear { members: Some(members), ..Ear::default() };
        let got = session.answer_to(&asked, &mut ear).unwrap();
        // Whose decisions there are, and which expert each had where.
        let mut drawn: BTreeMap<u32, BTreeSet<(String, Vec<String>)>> = BTreeMap::new();
        for d in got.trace.unwrap().into_iter().filter(|d| d.switch != "window") {
            let experts = d.choice["load"].as_object().unwrap().keys().cloned().collect();
            drawn.entry(d.member.unwrap()).or_default().insert((d.at, experts));
        }
        (drawn, got.results)
    };
    let (drawn, results) = ask(&["where is it", "where is it"], Members::default());
    assert_eq!(drawn.keys().copied().collect::<Vec<_>>(), [0, 1], "samples of the request");
    assert!(
        drawn.values().all(|experts| experts.len() == 3),
        "one draw a block for all windows of a question: {drawn:?}"
    );
    // The same place and seed in another request is the same draw; another seed is another.
    let member = |place, seed| Members::new([Member { place, seed: Some(seed), ..Member::default() }]);
    let (again, same) = ask(&["where is it"], member(1, 0));
    assert_eq!((again[&0].clone(), &same[0]), (drawn[&1].clone(), &results[1]));
    assert!((1..9).any(|seed| ask(&["where is it"], member(1, seed)).0[&0] != drawn[&1]));
}

#[test]
fn questions_are_cut_with_a_note() {
    let temp = tempfile::tempdir().unwrap();
    for (positions, kept) in [(100, 64), (32, 21)] {
        let changes = json!({"max_position_embeddings": positions});
        let session = folder(&temp.path().join(kept.to_string()), "bert", "BertForQuestionAnswering", changes);
        let question = "where ".repeat(70);
        let inputs = |q: &str| Inputs::Questions { questions: vec![q.into()], passage: "it flows north".into() };
        let mut ear = Ear::default();
        session.answer_to(&Request::new(inputs(&question)), &mut ear).unwrap();
        assert_eq!(ear.notes, [format!("a question of 420 characters was cut to {kept} tokens")]);
        ear.notes.clear();
        session.answer_to(&Request::new(inputs("where")), &mut ear).unwrap();
        assert!(ear.notes.is_empty());
    }
}

#[test]
fn masks_are_those_of_the_tokenizer() {
    let temp = tempfile::tempdir().unwrap();
    let open = |config: Option<Json>, vocab: &[&str]| {
        folder(temp.path(), "bert", "BertForMaskedLM", json!({}));
        let words = vocab.iter().map(|w| w.to_string()).chain((vocab.len()..50).map(|i| format!("w{i}")));
        std::fs::write(temp.path().join("vocab.txt"), words.collect::<Vec<_>>().join("\n")).unwrap();
        let file = temp.path().join("tokenizer_config.json");
        match config {
            Some(config) => std::fs::write(file, config.to_string()).unwrap(),
            None => drop(std::fs::remove_file(file)),
        }
        let session = Session::open(temp.path(), OpenOptions::default()).unwrap();
        let mut ear = Ear::default();
        let text = format!("where is {} river", vocab[4]);
        let mut answer = session.answer_to(&Request::new(texts(&[&text])), &mut ear).unwrap();
        (answer.results.remove(0).masks.map(|m| m.len()), ear.notes)
    };
    let mut words = WORDS;
    assert_eq!(open(None, &words), (Some(1), vec![]));
    words[4] = "[HIDE]";
    for mask in [json!("[HIDE]"), json!({"content": "[HIDE]"})] {
        assert_eq!(open(Some(json!({"mask_token": mask})), &words), (Some(1), vec![]));
    }
    let (masks, notes) = open(None, &words);
    assert!(masks == Some(0) && notes.len() == 2 && notes[1].contains("[MASK]"), "{notes:?}");
    assert!(notes[0].contains("not in the vocabulary"), "{notes:?}");
}

#[test]
fn maps_that_pruning_takes_away_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let session = folder(temp.path(), "vit", "ViTForImageClassification", json!({"num_hidden_layers": 3}));
    let mut asked = Request::new(Inputs::Images(vec![Image::new("a", garment(1))]));
    asked.maps = true;
    asked.point = Some(json!({"tokens": {"method": "zero-tprune", "keep": 0.5, "after": [1]}}));
    let mut ear = Ear::default();
    let maps = session.answer_to(&asked, &mut ear).unwrap().maps.unwrap();
    assert_eq!(maps.iter().map(Image::name).collect::<Vec<_>>(), ["blocks.0.attn.png"]);
    let note = ear.notes.last().unwrap();
    assert!(note.contains("blocks.1.attn, blocks.2.attn"), "{note}");
}
