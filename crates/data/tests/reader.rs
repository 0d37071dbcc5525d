//! Windows of passages, the stretches that scores speak for, and variations of texts.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::Value;
use switchformer_data::eda::{vary, vary_around};
use switchformer_data::reader::{MAX_QUESTION, best};
use switchformer_data::{Reader, Rng, Tokenizer, Window};

const WORDS: &[&str] =
    &["the", "river", "flows", "north", "to", "sea", "where", "does", "it", "flow", "?", "old", "town"];

fn reader(max_len: usize, overlap: usize) -> Reader {
    let vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].iter().chain(WORDS).map(|w| format!("{w}\n"));
    let vocab: String = vocab.collect();
    let tokenizer = Tokenizer::from_vocab(vocab.as_bytes(), &Value::Null, Path::new("vocab.txt"), Some(40)).unwrap();
    Reader::new(tokenizer, max_len, overlap).unwrap()
}

fn passage(words: usize) -> String {
    (0..words).map(|i| WORDS[i % 6]).collect::<Vec<_>>().join("  ")
}

#[test]
fn windows_cover_a_passage_and_know_where_tokens_stand() {
    let (question, text) = ("Where does it flow?", passage(300));
    let all = reader(100, 20).windows(question, &text).unwrap();
    assert!(all.len() > 3);
    let mut reached = 0;
    for w in &all {
        assert!(w.ids.len() <= 100 && w.ids.len() == w.types.len() && w.ids[0] == 2);
        assert_eq!(w.first, 7, "[CLS], five words, [SEP]");
        assert!(w.types[..w.first].iter().all(|t| *t == 0) && w.types[w.first..].iter().all(|t| *t == 1));
        assert!(w.spans.iter().all(|s| WORDS.contains(&&text[s.clone()])));
        // Neighbours share twenty tokens, each of two letters or more and two spaces.
        assert!(w.spans[0].start <= reached && (reached == 0 || reached - w.spans[0].start >= 20 * 4));
        reached = w.spans.last().unwrap().end;
    }
    assert_eq!(reached, text.len());
    assert!(reader(100, 20).windows(question, "  ").unwrap().is_empty());
    let long = "where ".repeat(90);
    let cut = reader(100, 20).windows(&long, &text).unwrap().remove(0);
    assert_eq!(
        (cut.first, cut.question),
        (MAX_QUESTION + 2, [MAX_QUESTION, 90 - MAX_QUESTION]),
        "a long question is cut"
    );
    // A short window keeps room for the passage, and takes no more from a short question than it needs.
    let short = reader(20, 4).windows(&long, &text).unwrap();
    assert!(short.iter().all(|w| w.ids.len() <= 20 && w.question == [9, 81] && w.spans.len() <= 8));
    assert_eq!(reader(20, 4).windows("where", &text).unwrap()[0].spans.len(), 16);
    let tokenizer = Tokenizer::from_vocab(b"[UNK]\n[CLS]\n[SEP]\n[PAD]\n[MASK]\n", &Value::Null, Path::new("v"), None);
    assert_eq!(Reader::new(tokenizer.unwrap(), 11, 10).unwrap_err().code(), "tokenizer.max_length");
}

#[test]
fn the_best_stretch_is_found_in_any_window_and_no_answer_is_upside_down() {
    let text = passage(300);
    let all = reader(100, 20).windows("Where?", &text).unwrap();
    let wanted = text.match_indices("north  to  sea").nth(30).map(|(at, m)| at..at + m.len()).unwrap();
    let scores: Vec<[Vec<f32>; 2]> = all
        .iter()
        .map(|w: &Window| {
            let mut scores = [vec![0.0; w.ids.len()], vec![0.0; w.ids.len()]];
            // Special tokens and an end before the start score best and must not win.
            (scores[0][0], scores[1][0], scores[1][w.first]) = (90.0, 90.0, 80.0);
            if let Some([start, end]) = w.place(&wanted) {
                (scores[0][start as usize], scores[1][end as usize]) = (50.0, 50.0);
                scores[0][w.ids.len() - 2] = 10.0;
            }
            scores
        })
        .collect();
    assert!(all.iter().filter(|w| w.place(&wanted).is_some()).count() >= 1);
    let found = best(all.iter().zip(&scores).map(|(w, [s, e])| (w, [s.as_slice(), e.as_slice()])));
    assert_eq!(found[0].range, wanted);
    assert_eq!(found[0].score, 100.0);
    assert!((found.iter().map(|f| f.probability).sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(found.iter().all(|f| f.range.start < f.range.end));
}

/// A start that is no favourite may belong to the best stretch.
#[test]
fn every_stretch_of_a_window_is_tried() {
    let w = reader(100, 20).windows("where", &passage(60)).unwrap().remove(0);
    let n = w.ids.len();
    // The likeliest starts are behind all likely ends.
    let firsts: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let lasts: Vec<f32> = (0..n).map(|i| -(i as f32)).collect();
    let found = best([(&w, [firsts.as_slice(), lasts.as_slice()])]);
    let alone = |f: &switchformer_data::reader::Found| w.spans.contains(&f.range) && f.score == 0.0;
    assert!(found.len() == 20 && found.iter().all(alone), "{found:?}");
    let spot = |at: usize| (0..n).map(|i| if i == at { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let found = best([(&w, [spot(w.first + 30).as_slice(), spot(w.first + 33).as_slice()])]);
    assert_eq!(found[0].range, w.spans[30].start..w.spans[33].end);
}

#[test]
fn variations_keep_the_answer_and_change_the_rest() {
    let text = "In 1990, the old town (at the river's mouth) flowed north; nobody knew the sea any more.";
    let at = text.find("old town").unwrap();
    let mut changed = 0;
    for seed in 0..60 {
        let (varied, range) = vary_around(text, &(at..at + 8), &mut Rng::of(&[seed]));
        assert_eq!(&varied[range], "old town");
        assert_eq!(vary_around(text, &(at..at + 8), &mut Rng::of(&[seed])).0, varied, "by seed");
        changed += usize::from(varied != text);
        assert!(varied.split_whitespace().all(|w| text.contains(w)), "{varied}");
    }
    assert!(changed > 45, "{changed} of 60");
    // Inside a word, and where nothing else is there.
    let inside = text.find("1990").unwrap();
    let (varied, range) = vary_around(text, &(inside..inside + 4), &mut Rng::of(&[7]));
    assert_eq!((&varied[range.clone()], &varied[range.end..range.end + 1]), ("1990", ","));
    assert_eq!(vary_around("äö", &(0..2), &mut Rng::of(&[1])), ("äö".into(), 0..2));
    assert_eq!(vary("one", &mut Rng::of(&[1])), "one");
    let lengths: std::collections::BTreeSet<usize> =
        (0..60).map(|s| vary(text, &mut Rng::of(&[s])).split_whitespace().count()).collect();
    let own = text.split_whitespace().count();
    assert!(lengths.iter().any(|n| *n < own) && lengths.contains(&own) && lengths.iter().any(|n| *n > own));
}
