//! `eval`: the score of answers in files, with an interval, and a second system beside the first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchformer_data::squad::{Offsets, References, predictions};
use switchformer_data::{Squad, plain};
use switchformer_infer::tasks::extract_answer::answer_all;
use switchformer_lab::metric::{
    Answers, Bleu, Chrf, Labels, Paired, Stats, approximate_randomization, bootstrap, mcnemar, paired_bootstrap,
};

use super::{open, print, print_json};
use crate::fail::Fail;
use crate::say::Notes;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Metric {
    /// BLEU, equal to sacreBLEU's
    Bleu,
    /// chrF, equal to sacreBLEU's
    Chrf,
    /// chrF++, equal to sacreBLEU's
    #[value(name = "chrf++")]
    ChrfPlusPlus,
    /// Exact match and F1 of answers, equal to the SQuAD v1.1 script's
    Squad,
    /// Accuracy and macro-F1 of labels, equal to scikit-learn's
    Accuracy,
}

/// `eval --metric NAME --hyp FILE --ref FILE...`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  printf 'the cat sat\\nit is late\\n' > hyp.txt
  printf 'the cat sat down\\nit is late\\n' > ref.txt
  switchformer eval --metric chrf --hyp hyp.txt --ref ref.txt
  switchformer eval --metric squad --model FOLDER --ref dev-v1.1.json   # needs both")]
pub(crate) struct Args {
    /// Metric
    #[arg(long, value_enum)]
    metric: Metric,
    /// Predictions: one segment or label per line; for squad a JSON object from question id to answer
    #[arg(long, value_name = "FILE", required_unless_present = "model")]
    hyp: Option<PathBuf>,
    /// Instead of --hyp: a model folder that answers the questions itself (squad)
    #[arg(long, value_name = "MODEL", conflicts_with = "hyp")]
    model: Option<String>,
    /// Operating point of the model
    #[arg(long, requires = "model")]
    point: Option<String>,
    /// Ask the model the first N questions only
    #[arg(long, value_name = "N", requires = "model")]
    limit: Option<usize>,
    /// References, line for line; for squad a SQuAD v1.1 file. Several for bleu and chrf
    #[arg(long = "ref", value_name = "FILE", required = true, num_args = 1..)]
    refs: Vec<PathBuf>,
    /// Predictions of a second system, compared with the first by paired tests
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// BLEU's tokenizer: 13a, intl, char or none [default: 13a]
    #[arg(long, value_name = "NAME")]
    tokenize: Option<String>,
    /// BLEU's smoothing: exp, floor, add-k or none [default: exp]
    #[arg(long, value_name = "NAME")]
    smooth: Option<String>,
    /// Lower-case both sides first (bleu and chrf)
    #[arg(long)]
    lowercase: bool,
    /// Resamples of the interval, and trials of each paired test
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    resamples: u32,
    /// Level of the interval
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    level: f64,
    /// Seed of the resamples
    #[arg(long, value_name = "N", default_value_t = 12345)]
    seed: u64,
}

/// From summed statistics to a score.
type Score = Box<dyn Fn(&[f64]) -> f64>;

/// One or two systems, ready to be scored.
struct Case {
    /// Statistics of each system.
    systems: Vec<Stats>,
    /// Names and functions; the first is the main one.
    scores: Vec<(&'static str, Score)>,
    signature: Option<String>,
    /// Whether each system has each item right, where that is a yes or a no.
    right: Vec<Vec<bool>>,
    /// More about the first system.
    details: Value,
}

impl Args {
    /// The answer files: one or two, the first missing where a model answers.
    fn answers(&self) -> impl Iterator<Item = &PathBuf> {
        self.hyp.iter().chain(&self.against)
    }

    fn only_reference(&self) -> Result<&Path, Fail> {
        match &self.refs[..] {
            [one] => Ok(one),
            _ => Err(Fail::Usage("this metric takes one --ref file".into())),
        }
    }

    fn case(&self) -> Result<Case, Fail> {
        if self.model.is_none() && (self.point.is_some() || self.limit.is_some()) {
            return Err(Fail::Usage(
                "--point and --limit are for a --model that answers, not for answers in files".into(),
            ));
        }
        let translation = matches!(self.metric, Metric::Bleu | Metric::Chrf | Metric::ChrfPlusPlus);
        if self.metric != Metric::Bleu && (self.tokenize.is_some() || self.smooth.is_some()) {
            return Err(Fail::Usage("--tokenize and --smooth go with --metric bleu".into()));
        }
        if self.lowercase && !translation {
            return Err(Fail::Usage("--lowercase goes with --metric bleu and chrf".into()));
        }
        if self.metric != Metric::Squad && self.model.is_some() {
            return Err(Fail::Usage("--model goes with --metric squad".into()));
        }
        match self.metric {
            Metric::Bleu => self.bleu(),
            Metric::Chrf => self.chrf(Chrf::CHRF, "chrF"),
            Metric::ChrfPlusPlus => self.chrf(Chrf::PLUS_PLUS, "chrF++"),
            Metric::Squad => self.squad(),
            Metric::Accuracy => self.accuracy(),
        }
    }

    /// Statistics of each answer file against all references.
    fn segments(
        &self,
        stats: impl Fn(&[String], &[Vec<String>]) -> switchformer_lab::Result<Stats>,
    ) -> Result<Vec<Stats>, Fail> {
        let refs = self.refs.iter().map(plain::segments).collect::<Result<Vec<_>, _>>()?;
        self.answers().map(|file| Ok(stats(&plain::segments(file)?, &refs)?)).collect()
    }

    fn bleu(&self) -> Result<Case, Fail> {
        let metric = Bleu {
            tokenize: self.tokenize.as_deref().map_or(Ok(Default::default()), str::parse)?,
            smooth: self.smooth.as_deref().map_or(Ok(Default::default()), str::parse)?,
            lowercase: self.lowercase,
            effective_order: false,
        };
        let systems = self.segments(|hyp, refs| metric.stats(hyp, refs))?;
        let all = metric.score(&systems[0].total());
        Ok(Case {
            systems,
            scores: vec![("BLEU", Box::new(move |sums| metric.score(sums).score))],
            signature: Some(metric.signature(self.refs.len())),
            right: Vec::new(),
            details: json!({"precisions": all.precisions, "brevity_penalty": all.brevity, "hyp_len": all.hyp_len,
                            "ref_len": all.ref_len}),
        })
    }

    fn chrf(&self, metric: Chrf, name: &'static str) -> Result<Case, Fail> {
        let metric = Chrf { lowercase: self.lowercase, ..metric };
        Ok(Case {
            systems: self.segments(|hyp, refs| metric.stats(hyp, refs))?,
            scores: vec![(name, Box::new(move |sums| metric.score(sums)))],
            signature: Some(metric.signature(self.refs.len())),
            right: Vec::new(),
            details: json!({}),
        })
    }

    fn squad(&self) -> Result<Case, Fail> {
        // Only the texts of the answers matter here, so where they stand plays no part.
        let References { mut questions, unanswerable } = References::open(self.only_reference()?)?;
        questions.truncate(self.limit.unwrap_or(usize::MAX));
        let answered_by = |model: &str| {
            let mut set = Squad::open(self.only_reference()?, Offsets::Unread)?;
            set.questions.truncate(questions.len());
            found(model, self.point.as_deref(), &set)
        };
        let found = self.model.as_deref().map(answered_by);
        let texts = |(_, answers): &'_ (String, Vec<String>)| answers.clone();
        let accepted: Vec<Vec<String>> = questions.iter().map(texts).collect();
        let mut systems = Vec::new();
        let mut counts = Vec::new();
        let mut all = Vec::new();
        if let (Some(found), Some(model)) = (found.transpose()?, &self.model) {
            all.push((found, model.clone()));
        }
        for file in self.answers() {
            all.push((predictions(file)?, file.display().to_string()));
        }
        for (given, from) in all {
            let answers: Vec<Option<&str>> =
                questions.iter().map(|(id, _)| given.get(id).map(String::as_str)).collect();
            let answered = answers.iter().flatten().count();
            if answered == 0 {
                return Err(Fail::Usage(format!(
                    "{from} answers no question of {}; its keys must be the questions' ids",
                    self.refs[0].display()
                )));
            }
            systems.push(match unanswerable {
                true => Answers::stats_v2(&answers, &accepted)?,
                false => Answers::stats(&answers, &accepted)?,
            });
            counts.push((questions.len() - answered, given.len() - answered));
        }
        let mut details = json!({"unanswered": counts[0].0, "answers_to_no_question": counts[0].1});
        if unanswerable {
            // The names of the script of v2.0.
            let sums = systems[0].total();
            let parts = [("HasAns_exact", 3, 5), ("HasAns_f1", 4, 5), ("NoAns_exact", 6, 7), ("NoAns_f1", 6, 7)];
            for (name, sum, n) in parts.iter().filter(|(_, _, n)| sums[*n] > 0.0) {
                details[*name] = json!(100.0 * sums[*sum] / sums[*n]);
            }
            details["HasAns_total"] = json!(sums[5] as u64);
            details["NoAns_total"] = json!(sums[7] as u64);
        }
        Ok(Case {
            systems,
            scores: vec![("exact match", Box::new(Answers::exact)), ("F1", Box::new(Answers::f1))],
            signature: None,
            right: Vec::new(),
            details,
        })
    }

    fn accuracy(&self) -> Result<Case, Fail> {
        let labels = |file: &Path| -> Result<Vec<String>, Fail> {
            Ok(plain::segments(file)?.into_iter().map(|line| line.trim().to_string()).collect())
        };
        let truth = labels(self.only_reference()?)?;
        let given = self.answers().map(|file| labels(file)).collect::<Result<Vec<_>, _>>()?;
        let systems = match &given[..] {
            [first, second] => {
                let (first, second) = Labels::paired(first, second, &truth)?;
                vec![first, second]
            }
            _ => vec![Labels::stats(&given[0], &truth)?],
        };
        Ok(Case {
            systems,
            scores: vec![("accuracy", Box::new(Labels::accuracy)), ("macro-F1", Box::new(Labels::macro_f1))],
            signature: None,
            right: given.iter().map(|g| g.iter().zip(&truth).map(|(g, t)| g == t).collect()).collect(),
            details: json!({}),
        })
    }
}

/// Prints scores, intervals, and the paired tests.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let case = a.case()?;
    let (samples, first) = (a.resamples as usize, &case.systems[0]);
    let mut list = Vec::new();
    let mut text = String::new();
    for (name, score) in &case.scores {
        let value = score(&first.total());
        let i = bootstrap(first, score, samples, a.level, a.seed)?;
        text += &format!("{name} {value:.4}, {}% interval {:.4} to {:.4}\n", 100.0 * a.level, i.low, i.high);
        let mut entry = json!({"name": name, "score": value, "mean": i.mean, "low": i.low, "high": i.high});
        if let Some(second) = case.systems.get(1) {
            let tests: [(&str, Paired); 2] = [
                ("paired_bootstrap", paired_bootstrap(first, second, score, samples, a.seed)?),
                ("approximate_randomization", approximate_randomization(first, second, score, samples, a.seed)?),
            ];
            let other = score(&second.total());
            let [bs, ar] = tests.map(|(_, t)| t.p);
            text += &format!(
                "  against: {other:.4}, difference {:+.4}, p {bs:.4} (paired bootstrap), {ar:.4} (approximate randomisation)\n",
                other - value
            );
            entry["against"] = json!({"score": other, "difference": other - value});
            tests.iter().for_each(|(name, t)| entry["against"][*name] = json!(t.p));
        }
        list.push(entry);
    }
    let mut doc = json!({"scores": list, "segments": first.len(), "resamples": a.resamples, "level": a.level,
                         "seed": a.seed, "details": case.details});
    if let [first, second] = &case.right[..] {
        let m = mcnemar(first, second)?;
        text += &format!(
            "  McNemar: {} items right in the first only, {} in the second only, p {:.4}\n",
            m.only_first, m.only_second, m.p
        );
        doc["mcnemar"] = json!({"only_first": m.only_first, "only_second": m.only_second, "p": m.p});
    }
    if let Some(signature) = case.signature {
        // A score is read with the program that made it, as sacreBLEU's are.
        let signature = format!("{signature}|version:switchformer-{}", env!("CARGO_PKG_VERSION"));
        text += &format!("signature {signature}\n");
        doc["signature"] = json!(signature);
    }
    if json {
        return print_json(&doc);
    }
    let details = case.details.as_object().into_iter().flatten();
    let details: Vec<String> =
        details.map(|(name, value)| format!("{}: {}", name.replace('_', " "), brief(value))).collect();
    if !details.is_empty() {
        text += &format!("{}\n", details.join(", "));
    }
    print(&format!("{text}{} segments, {} resamples, seed {}\n", first.len(), a.resamples, a.seed))
}

/// Numbers with three decimals where they are not whole.
fn brief(value: &Value) -> String {
    match value {
        Value::Array(list) => list.iter().map(brief).collect::<Vec<_>>().join("/"),
        _ => match value.as_f64() {
            Some(n) if n.fract() != 0.0 => format!("{n:.3}"),
            Some(n) => format!("{n}"),
            None => value.to_string(),
        },
    }
}

/// A model's answers to the questions of a set, by their ids.
fn found(model: &str, point: Option<&str>, set: &Squad) -> Result<HashMap<String, String>, Fail> {
    let session = open(model, false)?;
    let point = session.opened.point(point)?;
    let asked: Vec<u32> = (0..set.questions.len() as u32).collect();
    let given = answer_all(&session.opened, &point, session.reader()?, set, &asked, &mut Notes)?;
    Ok(set.questions.iter().zip(given).filter_map(|(q, given)| Some((q.id.clone(), given?))).collect())
}
