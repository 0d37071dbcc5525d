//! Every score equals that of the public scorer, to ten digits; `fixtures/metrics/make.py` wrote the numbers down.

#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use serde_json::Value;
use switchformer_lab::metric::significance::{approximate_randomization_with, paired_bootstrap_with, resampled};
use switchformer_lab::metric::{
    Answers, Bleu, Calibration, Chrf, Interval, Labels, Smooth, Stats, Tokenize, approximate_randomization, bootstrap,
    mcnemar, paired_bootstrap,
};

static CASES: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("fixtures/metrics/metrics.json")).unwrap());

fn strings(v: &Value) -> Vec<String> {
    v.as_array().unwrap().iter().map(|s| s.as_str().unwrap().to_string()).collect()
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect()
}

fn corpus(name: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let c = &CASES["corpora"][name];
    (strings(&c["hyp"]), c["refs"].as_array().unwrap().iter().map(strings).collect())
}

#[track_caller]
fn equal(got: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((got - expected).abs() <= 1e-10 * expected.abs().max(1.0), "{what}: {got} is not {expected}");
}

fn bleu(case: &Value) -> Bleu {
    let smooth: Smooth = case["smooth"].as_str().unwrap().parse().unwrap();
    Bleu {
        tokenize: case["tok"].as_str().unwrap().parse().unwrap(),
        smooth: case["value"].as_f64().map_or(smooth, |v| smooth.with_value(v).unwrap()),
        lowercase: case["lc"].as_bool().unwrap(),
        effective_order: case["eff"].as_bool().unwrap(),
    }
}

#[test]
fn bleu_is_sacrebleu_s() {
    let cases = CASES["bleu"].as_array().unwrap();
    assert_eq!(cases.len(), 432);
    for case in cases {
        let what = case.to_string();
        let (hyp, refs) = corpus(case["corpus"].as_str().unwrap());
        let metric = bleu(case);
        let score = metric.score(&metric.stats(&hyp, &refs).unwrap().total());
        equal(score.score, &case["score"], &what);
        score.precisions.iter().zip(case["precisions"].as_array().unwrap()).for_each(|(&p, e)| equal(p, e, &what));
        equal(score.brevity, &case["bp"], &what);
        equal(score.hyp_len, &case["lens"][0], &what);
        equal(score.ref_len, &case["lens"][1], &what);
        assert_eq!(metric.signature(refs.len()), case["signature"].as_str().unwrap());
    }
}

#[test]
fn tokens_are_sacrebleu_s() {
    // One segment against its expected tokens, joined: a perfect score only if every token agrees.
    for case in CASES["tokens"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        for name in ["13a", "intl", "char"] {
            let expected = strings(&case[name]);
            let tokenize: Tokenize = name.parse().unwrap();
            assert_eq!(tokenize.tokens(text), expected, "{name} of {text:?}");
        }
    }
}

#[test]
fn chrf_is_sacrebleu_s() {
    let cases = CASES["chrf"].as_array().unwrap();
    assert_eq!(cases.len(), 36);
    for case in cases {
        let (hyp, refs) = corpus(case["corpus"].as_str().unwrap());
        let kind = if case["words"] == 2 { Chrf::PLUS_PLUS } else { Chrf::CHRF };
        let metric = Chrf { lowercase: case["lc"].as_bool().unwrap(), ..kind };
        let score = metric.score(&metric.stats(&hyp, &refs).unwrap().total());
        equal(score, &case["score"], &case.to_string());
        assert_eq!(metric.signature(refs.len()), case["signature"].as_str().unwrap());
    }
}

/// Statistics of two systems on the same segments, and how they are scored.
type Systems = (Stats, Stats, Box<dyn Fn(&[f64]) -> f64>);

fn systems(metric: &str) -> Systems {
    let ((a, refs), (b, _)) = (corpus("two"), corpus("other"));
    if metric == "bleu" {
        let m = Bleu::default();
        (m.stats(&a, &refs).unwrap(), m.stats(&b, &refs).unwrap(), Box::new(move |s| m.score(s).score))
    } else {
        let m = Chrf::CHRF;
        (m.stats(&a, &refs).unwrap(), m.stats(&b, &refs).unwrap(), Box::new(move |s| m.score(s)))
    }
}

#[test]
fn resamples_and_paired_tests_are_sacrebleu_s_draw_for_draw() {
    let paired = &CASES["paired"];
    let draws: Vec<Vec<u32>> = paired["draws"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d.as_array().unwrap().iter().map(|i| i.as_u64().unwrap() as u32).collect())
        .collect();
    let swaps: Vec<Vec<bool>> =
        strings(&paired["swaps"]).iter().map(|s| s.bytes().map(|b| b == b'1').collect()).collect();
    for test in paired["tests"].as_array().unwrap() {
        let (a, b, score) = systems(test["metric"].as_str().unwrap());
        for (stats, side) in [(&a, &test["first"]), (&b, &test["second"])] {
            let i = Interval::percentile(resampled(stats, &score, &draws).unwrap(), 0.95).unwrap();
            equal(score(&stats.total()), &side["score"], "score");
            // sacreBLEU scores its resamples in 32 bits.
            let near = |got: f64, expected: &Value| (got - expected.as_f64().unwrap()).abs() < 1e-5;
            assert!(near(i.mean, &side["mean"]), "{i:?} {side}");
            assert!(near((i.high - i.low) / 2.0, &side["half"]), "{i:?} {side}");
        }
        let bs = paired_bootstrap_with(&a, &b, &score, &draws).unwrap();
        let ar = approximate_randomization_with(&a, &b, &score, &swaps).unwrap();
        equal(bs.p, &test["bs"], "paired bootstrap");
        equal(ar.p, &test["ar"], "approximate randomisation");
        equal(
            ar.difference,
            &Value::from(test["second"]["score"].as_f64().unwrap() - test["first"]["score"].as_f64().unwrap()),
            "difference",
        );
    }
}

#[test]
fn tests_depend_on_the_seed_alone_and_find_no_difference_in_a_system_and_itself() {
    let (a, b, score) = systems("bleu");
    let i = bootstrap(&a, &score, 200, 0.9, 5).unwrap();
    assert_eq!(i, bootstrap(&a, &score, 200, 0.9, 5).unwrap());
    assert_ne!(i, bootstrap(&a, &score, 200, 0.9, 6).unwrap());
    let wide = bootstrap(&a, &score, 200, 0.99, 5).unwrap();
    assert!(wide.low < i.low && i.low < score(&a.total()) && score(&a.total()) < i.high && i.high < wide.high);
    for same in [paired_bootstrap(&a, &a, &score, 50, 1), approximate_randomization(&a, &a, &score, 50, 1)] {
        assert_eq!(same.unwrap().difference, 0.0);
    }
    let ar = approximate_randomization(&a, &b, &score, 300, 1).unwrap();
    let back = approximate_randomization(&b, &a, &score, 300, 1).unwrap();
    assert_eq!((ar.p, ar.difference), (back.p, -back.difference));
    // Against a perfect system the difference is beyond chance in both tests.
    let (_, refs) = corpus("two");
    let perfect = Bleu::default().stats(&refs[0], &refs).unwrap();
    assert!(paired_bootstrap(&a, &perfect, &score, 300, 1).unwrap().p < 0.01);
    assert!(approximate_randomization(&a, &perfect, &score, 300, 1).unwrap().p < 0.01);
}

#[test]
fn answers_are_scored_as_by_the_squad_script() {
    let squad = &CASES["squad"];
    let pairs = squad["pairs"].as_array().unwrap();
    let given: Vec<Option<&str>> = pairs.iter().map(|p| p[0].as_str()).collect();
    let right: Vec<Vec<String>> = pairs.iter().map(|p| strings(&p[1])).collect();
    let sums = Answers::stats(&given, &right).unwrap().total();
    for (i, each) in squad["each"].as_array().unwrap().iter().enumerate() {
        let one = Answers::stats(&given[i..=i], &right[i..=i]).unwrap().total();
        equal(one[0], &each[0], &format!("exact match of {}", pairs[i]));
        equal(one[1], &each[1], &format!("F1 of {}", pairs[i]));
    }
    equal(Answers::exact(&sums), &squad["exact"], "exact match");
    equal(Answers::f1(&sums), &squad["f1"], "F1");
}

#[test]
fn a_question_without_an_answer_is_scored_as_by_the_script_of_v2() {
    let score = |given: Option<&str>, right: &[&str]| Answers::stats_v2(&[given], &[right.to_vec()]).unwrap().total();
    assert_eq!(score(Some(""), &[]), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]);
    assert_eq!(score(Some("x"), &[]), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(score(Some(""), &["x"]), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(score(None, &[]), [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(score(Some("the river"), &["River", "a sea"]), [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn label_scores_are_scikit_learn_s() {
    let labels = &CASES["labels"];
    let truth = strings(&labels["truth"]);
    let mut right = Vec::new();
    for system in labels["systems"].as_array().unwrap() {
        let given = strings(&system["given"]);
        let sums = Labels::stats(&given, &truth).unwrap().total();
        equal(Labels::accuracy(&sums), &system["accuracy"], "accuracy");
        equal(Labels::macro_f1(&sums), &system["macro_f1"], "macro-F1");
        right.push(given.iter().zip(&truth).map(|(g, t)| g == t).collect::<Vec<bool>>());
    }
    let m = mcnemar(&right[0], &right[1]).unwrap();
    assert_eq!(
        (Some(m.only_first), Some(m.only_second)),
        (labels["only_first"].as_u64(), labels["only_second"].as_u64())
    );
    equal(m.p, &labels["mcnemar"], "McNemar");
}

#[test]
fn paired_label_scores_share_their_columns() {
    // Each system answers a class that the truth and the other do not know.
    let (truth, first, second) = (["a", "b", "b"], ["a", "x", "b"], ["y", "b", "b"]);
    let (a, b) = Labels::paired(&first, &second, &truth).unwrap();
    assert_eq!((a.width(), b.width()), (2 + 3 * 4, 2 + 3 * 4));
    // Classes that do not occur in a system count for nothing, so its own score stays the same.
    for (paired, given) in [(&a, &first), (&b, &second)] {
        let alone = Labels::stats(given, &truth).unwrap().total();
        assert_eq!(Labels::macro_f1(&paired.total()), Labels::macro_f1(&alone));
    }
    // Changing sides in the first item: a system that answers `y x b`, and one that is right throughout.
    let swapped = approximate_randomization_with(&a, &b, Labels::macro_f1, [[true, false, false]]).unwrap();
    let mixed = Labels::macro_f1(&Labels::stats(&["y", "x", "b"], &truth).unwrap().total());
    let gap = (1.0 - mixed).abs();
    assert_eq!(swapped.p, if gap > swapped.difference.abs() { 1.0 } else { 0.5 });
    assert!(Labels::paired(&first, &second[..2], &truth).is_err());
}

#[test]
fn mcnemar_is_the_exact_binomial_test() {
    for case in CASES["mcnemar"].as_array().unwrap() {
        let (b, c) = (case["b"].as_u64().unwrap() as usize, case["c"].as_u64().unwrap() as usize);
        let first: Vec<bool> = (0..b + c).map(|i| i < b).collect();
        let second: Vec<bool> = first.iter().map(|f| !f).collect();
        equal(mcnemar(&first, &second).unwrap().p, &case["p"], &case.to_string());
    }
    assert_eq!(mcnemar(&[true, false], &[true, false]).unwrap().p, 1.0);
}

#[test]
fn calibration_error_uses_scikit_learn_s_bins() {
    let c = &CASES["calibration"];
    let confidence = numbers(&c["confidence"]);
    let right: Vec<bool> = c["right"].as_array().unwrap().iter().map(|b| b.as_bool().unwrap()).collect();
    for row in c["rows"].as_array().unwrap() {
        let metric = Calibration { bins: row["bins"].as_u64().unwrap() as usize };
        equal(Calibration::score(&metric.stats(&confidence, &right).unwrap().total()), &row["ece"], &row.to_string());
    }
}

#[test]
fn what_does_not_pair_up_is_refused() {
    let one = vec!["a".to_string()];
    let says = |e: switchformer_lab::Error, words: &[&str]| {
        let text = e.to_string();
        assert!(e.code() == "metric" && words.iter().all(|w| text.contains(w)), "{text}");
    };
    says(Bleu::default().stats(&one, &[one.clone(), vec![]]).unwrap_err(), &["1 segments", "reference 2 has 0"]);
    says(Bleu::default().stats(&one, &[]).unwrap_err(), &["no reference"]);
    says(Chrf::CHRF.stats(&one, &[]).unwrap_err(), &["no reference"]);
    says(Labels::stats::<&str>(&[], &[]).unwrap_err(), &["no segment"]);
    says(mcnemar(&[], &[]).unwrap_err(), &["no segment"]);
    says("14a".parse::<Tokenize>().unwrap_err(), &["14a", "13a", "intl"]);
    says("linear".parse::<Smooth>().unwrap_err(), &["linear", "add-k"]);
    says(Smooth::Exp.with_value(1.0).unwrap_err(), &["floor"]);
    says(Answers::stats(&[Some("x")], &[Vec::<&str>::new()]).unwrap_err(), &["question 1"]);
    says(Calibration { bins: 0 }.stats(&[0.5], &[true]).unwrap_err(), &["0 bins"]);
    says(Calibration::default().stats(&[f64::NAN], &[true]).unwrap_err(), &["confidence 1", "0 to 1"]);
    let stats = Labels::stats(&["x"], &["x"]).unwrap();
    says(bootstrap(&stats, Labels::accuracy, 0, 0.95, 1).unwrap_err(), &["0 resamples"]);
    says(bootstrap(&stats, Labels::accuracy, 9, 1.5, 1).unwrap_err(), &["1.5"]);
    says(resampled(&stats, Labels::accuracy, [[1u32]]).unwrap_err(), &["segment 1 of 1"]);
}
