//! Plain text, package descriptions, questions and packed batches; and files that are none of these.

#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::io::Write;
use std::path::Path;

use common::Scratch;
use switchformer_data::pairs::Aligned;
use switchformer_data::squad::Offsets;
use switchformer_data::{Batches, Descriptions, Error, Split, Squad, multiemo, plain, squad};

fn here() -> &'static Path {
    Path::new("here")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap()
}

#[track_caller]
fn says(error: &Error, code: &str, words: &[&str]) {
    let text = error.to_string();
    assert!(error.code() == code && words.iter().all(|w| text.contains(w)), "{} {text}", error.code());
}

// Plain text.

#[test]
fn lines_and_documents_are_read_plain_and_gzipped() {
    let dir = Scratch::new("plain");
    let text = "\u{feff}one\r\n\n  two \n\u{3000}\nthré";
    for path in [dir.put("b.txt", text.as_bytes()), dir.put("a.txt.gz", &gzip(text.as_bytes()))] {
        assert_eq!(plain::lines(&path).unwrap(), ["one", "  two ", "thré"]);
        assert_eq!(plain::segments(&path).unwrap(), ["one", "", "  two ", "\u{3000}", "thré"]);
        assert_eq!(plain::documents(&path).unwrap(), [&text[3..]]);
    }
    dir.put("c.md", b"not a document");
    assert_eq!(plain::documents(&dir.0).unwrap().len(), 2);
    dir.put("a.txt", b"first by name");
    assert_eq!(plain::documents(&dir.0).unwrap()[0], "first by name");
}

#[test]
fn other_packings_are_refused_with_the_command_that_unpacks_them() {
    let dir = Scratch::new("packings");
    let heads: [(&[u8], &str); 5] = [
        (b"\xFD7zXZ\0", "xz -dk"),
        (b"\x04\x22\x4D\x18", "lz4 -dk"),
        (b"\x28\xB5\x2F\xFD", "zstd -dk"),
        (b"BZh9", "bzip2 -dk"),
        (b"PK\x03\x04", "unzip"),
    ];
    for (i, (head, command)) in heads.into_iter().enumerate() {
        let path = dir.put(&format!("file{i}"), &[head, b"rest"].concat());
        let name = path.display().to_string();
        for error in [
            plain::lines(&path).unwrap_err(),
            plain::documents(&path).unwrap_err(),
            Descriptions::open(&path).unwrap_err(),
            Squad::open(&path, Offsets::Exact).unwrap_err(),
        ] {
            says(&error, "file.packed", &[command, &name]);
        }
    }
}

#[test]
fn texts_that_are_none_are_refused() {
    let dir = Scratch::new("none");
    says(&plain::lines(dir.0.join("absent")).unwrap_err(), "file.read", &["absent"]);
    says(&plain::documents(dir.0.join("absent")).unwrap_err(), "file.read", &["absent"]);
    says(&plain::lines(dir.put("empty", b" \n\n")).unwrap_err(), "text.none", &["no line"]);
    says(&plain::documents(dir.put("blank", b" \n\n")).unwrap_err(), "text.none", &["no text"]);
    says(&plain::documents(&dir.0).unwrap_err(), "text.none", &[".txt"]);
    let latin = dir.put("latin", b"good\nalso good\nna\xEFve\n");
    says(&plain::lines(latin).unwrap_err(), "text.utf8", &["line 3", "byte 17", "iconv"]);
    let long = [b"short\n".to_vec(), vec![b'x'; (1 << 20) + 1]].concat();
    says(&plain::lines(dir.put("long", &long)).unwrap_err(), "text.long_line", &["line 2", "1048577 bytes"]);
    assert_eq!(plain::lines(dir.put("just", &long[..long.len() - 1])).unwrap()[1].len(), 1 << 20);
    let whole = gzip("some text that is packed".repeat(50).as_bytes());
    for cut in 2..whole.len() {
        says(&plain::lines(dir.put("cut.gz", &whole[..cut])).unwrap_err(), "file.gzip", &["cut.gz"]);
    }
    let mut bad = whole.clone();
    let end = bad.len() - 6;
    bad[end] ^= 0xFF;
    says(&plain::lines(dir.put("bad.gz", &bad)).unwrap_err(), "file.gzip", &["damaged", "again"]);
}

// Package descriptions.

fn packages(text: &str) -> switchformer_data::Result<Descriptions> {
    Descriptions::from_bytes(text.as_bytes().to_vec(), here())
}

const A: &str = "00112233445566778899aabbccddeeff";
const B: &str = "ffeeddccbbaa99887766554433221100";

fn english() -> Descriptions {
    packages(&format!(
        "Package: apple\nVersion: 1\nDescription: red fruit\nDescription-md5: {A}\nTag: a,\n b\n\n\n\
         Package: libpear2\nDescription-en: green fruit\n A pear\n  * is  green,\n  * is sweet.\n \u{a0}\n It hangs.\n .\n\
         Description-md5: {B}\n"
    ))
    .unwrap()
}

fn german(more: &str) -> Aligned {
    let text = format!(
        "Package: libpear2\nDescription-md5: {}\nDescription-de: grüne Frucht\n Eine Birne\n  * ist grün,\n  * ist süß.\n \
         .\n Sie hängt.\n\nPackage: apple\nDescription-md5: {A}\nDescription-de: rote Frucht\n{more}",
        B.to_uppercase()
    );
    let german = packages(&text).unwrap();
    assert_eq!(german.language, "de");
    german.align(&english())
}

#[test]
fn descriptions_are_joined_by_digest_and_split_at_paragraphs() {
    let both = english();
    assert_eq!(both.language, "en");
    assert_eq!(both.entries[0].short, "red fruit");
    assert_eq!(both.entries[1].paragraphs, ["A pear * is green, * is sweet.", "It hangs."]);
    let found = german("");
    let pairs: Vec<(&str, &str)> = found.pairs.iter().map(|p| (p.english.as_str(), p.other.as_str())).collect();
    assert_eq!(
        pairs,
        [
            ("green fruit", "grüne Frucht"),
            ("A pear * is green, * is sweet.", "Eine Birne * ist grün, * ist süß."),
            ("It hangs.", "Sie hängt."),
            ("red fruit", "rote Frucht")
        ]
    );
    assert!(found.pairs[..3].iter().all(|p| p.split == Split::of("libpear2")));
    assert_eq!((found.unmatched, found.uneven, found.untranslated, found.repeated), (0, 0, 0, 0));
}

#[test]
fn what_does_not_align_is_counted() {
    // A paragraph that the original lacks: only the short description is used.
    let found = german(" Ein Absatz.\n");
    assert_eq!((found.pairs.len(), found.uneven), (4, 1));
    let c = "0".repeat(32);
    let found = german(&format!("\nPackage: x\nDescription-md5: {c}\nDescription-de: unbekannt\n"));
    assert_eq!((found.pairs.len(), found.unmatched), (4, 1));
    // The same translation again, under another package.
    let found = german(&format!("\nPackage: apple2\nDescription-md5: {A}\nDescription-de: eine rote Frucht\n"));
    assert_eq!((found.pairs.len(), found.repeated), (4, 1));
    let same = packages(&format!("Package: apple\nDescription-md5: {A}\nDescription-de: red   fruit\n")).unwrap();
    let found = same.align(&english());
    assert_eq!((found.pairs.len(), found.untranslated), (0, 1));
}

#[test]
fn versions_and_parts_of_a_package_share_a_split() {
    for family in [
        &["gcc-11-doc", "gcc-12", "gcc-9-source", "gcc"][..],
        &["libboost1.74-dev", "libboost1.81-dev", "libboost-dev", "boost1.81"],
        &["linux-image-5.10.0-1-amd", "linux-image-6.1.0-22-amd"],
    ] {
        let splits: HashSet<Split> = family.iter().map(|p| Split::of(p)).collect();
        assert_eq!(splits.len(), 1, "{family:?}");
    }
    assert_eq!(Split::of("2048"), Split::of("2048"));
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for i in 0..26u32.pow(3) {
        let name: String = [i / 676, i / 26 % 26, i % 26].iter().map(|&c| char::from(b'a' + c as u8)).collect();
        *counts.entry(format!("{:?}", Split::of(&format!("x{name}x")))).or_default() += 1;
    }
    // 3 % of 17,576 is 527, with a standard deviation of 23.
    assert!((435..620).contains(&counts["Valid"]) && (435..620).contains(&counts["Test"]), "{counts:?}");
    // Written down: a split that moved would mix what was trained on with what is tested on.
    let known = ["bash", "emacs", "libc6", "python3-numpy", "vim", "xterm", "abcde", "zsh", "apt", "dpkg"];
    let held: Vec<(&str, Split)> =
        known.map(|p| (p, Split::of(p))).into_iter().filter(|p| p.1 != Split::Train).collect();
    assert_eq!(held, [("emacs", Split::Test), ("libc6", Split::Test)]);
}

#[test]
fn damaged_descriptions_are_refused_with_their_line() {
    let refused = |text: &str, words: &[&str]| says(&packages(text).unwrap_err(), "debian.stanza", words);
    let good = format!("Package: a\nDescription-md5: {A}\nDescription-de: b\n");
    packages(&good).unwrap();
    refused(&format!("{good}\nnot a field\n"), &["line 5", "neither"]);
    refused(&format!("{good}\n: empty name\n"), &["line 5", "neither"]);
    refused(&format!("{good}\n\n continued\n"), &["line 6", "continues no field"]);
    refused(&format!("{good}\nPackage: x\nDescription-md5: {A}\n"), &["line 5", "no Description"]);
    refused(&format!("{good}\nPackage: x\nDescription: y\n"), &["line 5", "Description-md5"]);
    refused(&format!("{good}\nDescription-md5: {A}\nDescription-de: y\n"), &["line 5", "no Package"]);
    refused(&format!("Package:\nDescription-md5: {A}\nDescription-de: y\n"), &["line 1", "empty"]);
    refused("Package: a\nDescription-md5: 12345\nDescription-de: b\n", &["line 1", "32"]);
    refused(&format!("{good}Package: again\n"), &["line 4", "twice"]);
    refused(&format!("{good}Description-md5: {B}\n"), &["line 4", "twice"]);
    refused(&format!("{good}Description-fr: c\n"), &["line 4", "two descriptions"]);
    refused(&format!("{good}\nPackage: x\nDescription-md5: {A}\nDescription-fr: y\n"), &["line 5", "another language"]);
    refused(&format!("Package: x\nDescription-md5: {A}\nDescription-: y\n"), &["line 3", "no language"]);
    says(&packages("\n\n").unwrap_err(), "text.none", &["no package description"]);
    says(&packages(&format!("{good} {}", "x".repeat(1 << 20))).unwrap_err(), "text.long_line", &["line 4"]);
    let bytes = [good.as_bytes(), b" caf\xE9\n"].concat();
    says(&Descriptions::from_bytes(bytes, here()).unwrap_err(), "text.utf8", &["line 4"]);
    let packed = gzip(good.as_bytes());
    assert_eq!(Descriptions::from_bytes(packed.clone(), here()).unwrap(), packages(&good).unwrap());
    says(&Descriptions::from_bytes(packed[..40].to_vec(), here()).unwrap_err(), "file.gzip", &["ends too early"]);
}

// Questions.

fn set(paragraphs: &str) -> switchformer_data::Result<Squad> {
    let text = format!(r#"{{"version": "1.1", "data": [{{"title": "T", "paragraphs": [{paragraphs}]}}]}}"#);
    Squad::from_bytes(text.into_bytes(), here(), Offsets::Exact)
}

/// A paragraph with one question whose answers are given.
fn paragraph(answers: &str) -> String {
    format!(
        r#"{{"context": "Zoë sang, Zoë danced.", "qas": [{{"id": "q1", "question": "Who?", "answers": [{answers}]}}]}}"#
    )
}

#[test]
fn questions_keep_their_answers_as_byte_ranges() {
    let set = self::set(&format!(
        r#"{{"context": "Bare."}}, {}"#,
        paragraph(r#"{"text": "Zoë", "answer_start": 0}, {"text": "Zoë danced", "answer_start": 10, "more": 1}"#)
    ))
    .unwrap();
    assert_eq!(set.passages.len(), 2);
    assert_eq!((set.passages[1].title.as_str(), set.questions[0].passage), ("T", 1));
    assert_eq!(set.questions[0].answers, [0..4, 11..22]);
    assert_eq!(set.answers(0), ["Zoë", "Zoë danced"]);
    assert!(set.answers(1).is_empty());
}

#[test]
fn misplaced_answers_are_moved_only_when_asked() {
    let of = |answers: &str, offsets| {
        let text = format!(r#"{{"data": [{{"paragraphs": [{}]}}]}}"#, paragraph(answers));
        Squad::from_bytes(text.into_bytes(), here(), offsets)
    };
    // White space around an answer is no part of it, wherever the offset counts from.
    for start in [9, 10] {
        let answer = format!(r#"{{"text": " Zoë ", "answer_start": {start}}}"#);
        let set = of(&answer, Offsets::Exact).unwrap();
        assert_eq!((&set.questions[0].answers, set.moved), (&vec![11..15], 0), "{start}");
    }
    // In bytes: 5 from the first `Zoë` and 6 from the second; one further on it is the other way round.
    for (start, found) in [(4, 0..4), (5, 11..15), (20, 11..15), (21, 11..15), (9999, 11..15)] {
        let answer = format!(r#"{{"text": "Zoë", "answer_start": {start}}}"#);
        let why = if start > 20 { "beyond the end" } else { "Offsets::Nearest" };
        says(&of(&answer, Offsets::Exact).unwrap_err(), "squad.layout", &["answers[0]", why]);
        let set = of(&answer, Offsets::Nearest).unwrap();
        assert_eq!((&set.questions[0].answers, set.moved), (&vec![found], 1), "{start}");
    }
    let absent = of(r#"{"text": "Zoe", "answer_start": 0}"#, Offsets::Nearest).unwrap_err();
    says(&absent, "squad.layout", &["answers[0]", "nowhere"]);
}

#[test]
fn predictions_are_one_object_of_texts() {
    let dir = Scratch::new("predictions");
    let good = squad::predictions(dir.put("a.json", br#"{"q1": "Zo", "q2": ""}"#)).unwrap();
    assert_eq!((good.len(), good["q1"].as_str()), (2, "Zo"));
    let refused = |text: &[u8], code, words: &[&str]| {
        says(&squad::predictions(dir.put("b.json", text)).unwrap_err(), code, words);
    };
    refused(br#"{"q1": 5}"#, "squad.layout", &["b.json at line 1", "another kind"]);
    refused(br#"["q1"]"#, "squad.layout", &["another kind"]);
    refused(br#"{"q1": "#, "json.syntax", &["b.json", "EOF"]);
}

#[test]
fn damaged_questions_are_refused_with_their_place() {
    let refused = |text: &str, words: &[&str]| says(&set(text).unwrap_err(), "squad.layout", words);
    let place = "data[0].paragraphs[0].qas[0]";
    let answer = |a: &str, words: &[&str]| refused(&paragraph(a), &[words, &[place, "answers[0]"]].concat());
    answer(r#"{"text": "Zoë", "answer_start": 1}"#, &["does not stand"]);
    answer(r#"{"text": "danced.!", "answer_start": 14}"#, &["does not stand"]);
    // Counted in bytes, as some tools do.
    answer(r#"{"text": "danced", "answer_start": 16}"#, &["does not stand", "characters"]);
    answer(r#"{"text": "Zoë", "answer_start": 21}"#, &["beyond the end"]);
    answer(r#"{"text": "Zoë", "answer_start": 18446744073709551615}"#, &["beyond the end"]);
    answer(r#"{"text": "", "answer_start": 0}"#, &["empty"]);
    answer(r#"{"answer_start": 0}"#, &["\"text\""]);
    answer(r#"{"text": "Zoë"}"#, &["\"answer_start\""]);
    refused(&paragraph(""), &[place, "v2.0"]);
    refused(&paragraph(r#"{"text": "Zoë", "answer_start": -1}"#), &["line 1 column", "another kind"]);
    refused(&paragraph(r#"{"text": 5, "answer_start": 0}"#), &["another kind"]);
    refused(r#"{"qas": []}"#, &["paragraphs[0]", "\"context\""]);
    let good = paragraph(r#"{"text": "Zoë", "answer_start": 0}"#);
    refused(&format!("{good}, {good}"), &["paragraphs[1].qas[0]", "same \"id\""]);
    refused(&good.replace("\"id\"", "\"di\""), &[place, "\"id\""]);
    refused(&good.replace("question", "quest"), &[place, "\"question\""]);
    refused(&good.replace("q1", &"q".repeat(300)), &[place, "256"]);
    refused(&good.replace("Zoë sang", &"s".repeat((1 << 20) + 1)), &["paragraphs[0]", "1 MiB"]);
    let raw = |text: &[u8]| Squad::from_bytes(text.to_vec(), here(), Offsets::Exact).unwrap_err();
    says(&raw(b"{}"), "squad.layout", &["\"data\""]);
    says(&raw(br#"{"data": [{}]}"#), "squad.layout", &["data[0]", "\"paragraphs\""]);
    says(&raw(br#"{"data": []}"#), "text.none", &["no question"]);
    says(&raw(b"{\"data\": [\n"), "json.syntax", &["EOF", "line 2"]);
    says(&raw(b"{\"data\": ]"), "json.syntax", &["expected value"]);
    says(&raw(&[b"{\"data\": ".as_slice(), &[b'['; 100_000]].concat()), "json.depth", &["deeper than 32"]);
    says(&raw(br#"{"data": [], "data": []}"#), "json.duplicate", &["\"data\""]);
    says(&raw(b"{\"data\": \"\xFF\"}"), "text.utf8", &["line 1", "byte 10"]);
    let packed = gzip(b"{\"data\": []}");
    says(&raw(&packed[..packed.len() - 3]), "file.gzip", &["ends too early"]);
}

#[test]
fn random_damage_is_an_answer_or_an_error_but_never_a_panic() {
    let descriptions = format!("Package: é\nDescription-md5: {A}\nDescription-de: b\n c\n .\n d\n\n").repeat(3);
    let questions = format!(
        r#"{{"data": [{{"paragraphs": [{}]}}]}}"#,
        paragraph(r#"{"text": "Zoë", "answer_start": 0}, {"text": "danced", "answer_start": 14}"#)
    );
    let mut rng = switchformer_data::Rng::of(&[17]);
    let (mut read, mut refused) = (0, 0);
    for round in 0..4000 {
        let whole = if round % 2 == 0 { descriptions.as_bytes() } else { questions.as_bytes() };
        let mut bytes = if round % 8 < 6 { whole.to_vec() } else { gzip(whole) };
        for _ in 0..1 + rng.pick(3) {
            let at = rng.pick(bytes.len() as u32) as usize;
            match rng.pick(4) {
                0 => bytes.truncate(at.max(1)),
                1 => bytes[at] = rng.next_u64() as u8,
                2 => bytes[at] = b"\n :\"{}[],0-"[rng.pick(11) as usize],
                _ => bytes.insert(at, bytes[at]),
            }
        }
        let offsets = if round % 4 < 2 { Offsets::Exact } else { Offsets::Nearest };
        let ok = match round % 2 {
            0 => Descriptions::from_bytes(bytes, here()).is_ok(),
            _ => Squad::from_bytes(bytes, here(), offsets).is_ok(),
        };
        if ok { read += 1 } else { refused += 1 }
    }
    assert!(read > 100 && refused > 1000, "{read} {refused}");
}

// Packed batches.

/// Lengths like those of a corpus: most short, a few long.
fn lengths() -> Vec<u32> {
    let mut rng = switchformer_data::Rng::of(&[99]);
    (0..2000).map(|_| (8.0 * (4.0 * rng.unit64() * rng.unit64()).exp()) as u32).collect()
}

#[test]
fn every_sample_is_in_one_batch_of_an_epoch_and_no_batch_is_above_the_budget() {
    let lengths = lengths();
    let batches = Batches::new(&lengths, 512, 7, 3).unwrap();
    let mut seen: Vec<u32> = batches.iter().flatten().copied().collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..2000).collect::<Vec<_>>());
    let tokens = |b: &[u32]| b.iter().map(|&i| lengths[i as usize]).sum::<u32>();
    assert!(batches.iter().all(|b| !b.is_empty() && tokens(b) <= 512));
    // Batches are nearly full, and alike in length within.
    let all: u32 = lengths.iter().sum();
    assert!(batches.len() as f64 <= 1.25 * (f64::from(all) / 512.0), "{} batches", batches.len());
    let spread = |b: &[u32]| {
        let of = |i: &u32| f64::from(lengths[*i as usize].max(1));
        b.iter().map(of).fold(0.0, f64::max) / b.iter().map(of).fold(f64::MAX, f64::min)
    };
    let mut spreads: Vec<f64> = batches.iter().map(spread).collect();
    spreads.sort_by(f64::total_cmp);
    // Most are within a bucket or two neighbours, of a quarter of a doubling each; the few longest samples may not be.
    assert!(spreads[spreads.len() * 9 / 10] <= 2f64.powf(0.5), "{spreads:?}");
    // Long and short batches take turns: the first half is not the shorter one.
    let sizes: Vec<usize> = batches.iter().map(<[u32]>::len).collect();
    let mean = |half: &[usize]| half.iter().sum::<usize>() as f64 / half.len() as f64;
    let (first, second) = sizes.split_at(sizes.len() / 2);
    let (first, second) = (mean(first), mean(second));
    assert!((0.5..2.0).contains(&(first / second)), "{first} {second}");
}

#[test]
fn batches_depend_on_seed_and_epoch_alone() {
    let lengths = lengths();
    let of = |seed, epoch| Batches::new(&lengths, 512, seed, epoch).unwrap();
    assert_eq!(of(7, 3), of(7, 3));
    assert_eq!(of(7, 3).get(5), of(7, 3).iter().nth(5));
    assert_eq!(of(7, 3).get(of(7, 3).len()), None);
    // Another epoch mixes the members, not only the order of the batches.
    let members = |b: &Batches| b.iter().map(|b| b.to_vec()).collect::<HashSet<Vec<u32>>>();
    for other in [of(7, 4), of(8, 3)] {
        assert!(members(&of(7, 3)).intersection(&members(&other)).count() < 20);
    }
    assert!(Batches::new(&[], 10, 0, 0).unwrap().is_empty());
    assert_eq!(Batches::new(&[0, 0, 10, 0], 10, 0, 0).unwrap().iter().flatten().count(), 4);
    let error = Batches::new(&[3, 11, 12], 10, 0, 0).unwrap_err();
    says(&error, "batch.budget", &["sample 1", "11 tokens", "10"]);
    assert!(Batches::new(&[u32::MAX; 3], u32::MAX, 0, 0).is_ok_and(|b| b.len() == 3));
}

/// A folder of two BIG-bench tasks.
fn opinions(name: &str, english: &[&str], italian: &[&str]) -> Scratch {
    let dir = Scratch::new(name);
    for (language, texts) in [("en", english), ("it", italian)] {
        let examples: Vec<_> =
            texts.iter().map(|t| serde_json::json!({"input": t, "target_scores": {"neutral": 1}})).collect();
        let name = format!("{}/task.json", multiemo::folder(language));
        std::fs::create_dir(dir.0.join(multiemo::folder(language))).unwrap();
        dir.put(&name, serde_json::json!({"examples": examples}).to_string().as_bytes());
    }
    dir
}

#[test]
fn sentences_at_one_place_are_translations() {
    let dir = opinions(
        "multiemo",
        &["A  good hotel .", "Bad food", "OK", "A good hotel .", "Room 12"],
        &["Un buon albergo .", "Cibo cattivo", "OK", "Un albergo buono .", "Camera 12"],
    );
    let found = multiemo::pairs(&dir.0, "it").unwrap();
    let pairs: Vec<(&str, &str)> = found.pairs.iter().map(|p| (p.english.as_str(), p.other.as_str())).collect();
    assert_eq!(
        pairs,
        [("A good hotel .", "Un buon albergo ."), ("Bad food", "Cibo cattivo"), ("Room 12", "Camera 12")]
    );
    assert_eq!((found.untranslated, found.repeated), (1, 1));
    assert_eq!(found.pairs[2].split, Split::of("Room 34"));
}

#[test]
fn sentences_that_do_not_answer_each_other_are_refused() {
    let dir = opinions("multiemo-uneven", &["one", "two"], &["uno"]);
    let error = multiemo::pairs(&dir.0, "it").unwrap_err();
    assert!(error.code() == "dataset.invalid" && error.to_string().contains("all_sentence_it"), "{error}");
    assert!(multiemo::pairs(&dir.0, "de").unwrap_err().code().starts_with("file."));
    assert_eq!(multiemo::pairs(&opinions("multiemo-none", &[], &[]).0, "it").unwrap_err().code(), "dataset.invalid");
    let long = "x".repeat((1 << 20) + 1);
    let error = multiemo::pairs(&opinions("multiemo-long", &[&long], &["x"]).0, "it").unwrap_err();
    assert_eq!(error.code(), "dataset.invalid");
}

#[test]
fn references_are_texts_alone_and_questions_may_have_none() {
    use switchformer_data::squad::References;
    let dir = Scratch::new("references");
    let put = |text: &str| dir.put("set.json", text.as_bytes());
    let set = |version: &str, qas: &str| {
        format!(
            r#"{{"version": "{version}", "data": [{{"paragraphs": [{{"context": "Elsewhere.", "qas": [{qas}]}}]}}]}}"#
        )
    };
    let one = r#"{"id": "1", "question": "?", "answers": [{"text": "the River", "answer_start": 500}]}"#;
    let none = r#"{"id": "2", "question": "?", "is_impossible": true, "answers": []}"#;
    let plain = References::open(put(&set("1.1", one))).unwrap();
    assert_eq!(plain.questions, [("1".to_string(), vec!["the River".to_string()])]);
    assert!(!plain.unanswerable && References::open(put(&set("v2.0", one))).unwrap().unanswerable);
    let both = References::open(put(&set("x", &format!("{one},{none}")))).unwrap();
    assert!(both.unanswerable && both.questions[1].1.is_empty());
    let read = Squad::open(dir.0.join("set.json"), Offsets::Unread).unwrap();
    assert_eq!((read.questions.len(), read.questions[0].answers.len()), (2, 0));
    for (qas, says) in [
        (format!("{one},{one}"), "same \"id\""),
        (r#"{"id": "1"}"#.into(), "no list of \"answers\""),
        (r#"{"id": "1", "answers": [{}]}"#.into(), "no \"text\""),
        (r#"{"answers": []}"#.into(), "no \"id\""),
    ] {
        let error = References::open(put(&set("1.1", &qas))).unwrap_err();
        assert!(error.code() == "squad.layout" && error.to_string().contains(says), "{error}");
    }
}
