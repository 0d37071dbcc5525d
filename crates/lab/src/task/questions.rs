//! Answers to questions about passages, trained on most articles of a set, measured on its others and on other sources
//! (SQuAD, arXiv 1606.05250; shifted sets, arXiv 2004.14444).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use switchformer_data::eda::{vary, vary_around};
use switchformer_data::squad::Offsets;
use switchformer_data::text::lower_cased_files;
use switchformer_data::{Reader, Rng, Squad, Tokenizer, Window, permutation};
use switchformer_infer::tasks::extract_answer::{answer_all, input};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Folder, InputSpec, Output, Point, Weights};
use switchformer_tensor::Tensor;
use switchformer_zoo::Opened;
use switchformer_zoo::open::read_config;

use super::back_translation::{BackTranslation, Paraphrases};
use super::corpus::{Packing, max_len};
use super::kind::Setup;
use super::{Batch, Figures, Losses, Places, Target, Task, all_hold, with_interval};
use crate::error::{Error, Result};
use crate::loss::span_loss;
use crate::metric::Answers;
use crate::recipe::Recipe;

/// Usual folder of the files.
const HOME: &str = "models/squad";
/// The published training part, where there is one, and the part that is published for development.
const TRAIN: &str = "train-v1.1.json";
const DEV: &str = "squaddev_v1.1.json";
/// Sets of other sources, by the name of their figures.
const SHIFTED: [(&str, &str); 4] = [
    ("new-wiki", "new_wiki_v1.0.json"),
    ("nyt", "nyt_v1.0.json"),
    ("amazon", "amazon_reviews_v1.0.json"),
    ("reddit", "reddit_v1.0.json"),
];
/// One article in so many is kept for validation where there is no training part.
const KEPT: usize = 5;
/// Stream of the variations.
const VARIATIONS: u64 = 12;
/// Tokens of a validation batch.
const BATCH: usize = 4_096;

/// A window with the places of its answer.
struct Sample {
    window: Window,
    places: [u32; 2],
}

/// `[data]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// `squad`.
    set: String,
    /// Questions that are trained on at most (0 = all).
    #[serde(default)]
    limit: usize,
    /// Questions that the validation loss is over.
    #[serde(default)]
    valid: usize,
    /// Most tokens of a question and a passage; longer passages are read in windows.
    #[serde(default = "max_len")]
    max_len: usize,
    /// Tokens that neighbouring windows of a passage share.
    #[serde(default = "overlap")]
    overlap: usize,
    /// Variations of every question and passage that are trained on beside them.
    #[serde(default)]
    eda: usize,
    /// Models that say every question and passage again, to be trained on beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back: Option<BackTranslation>,
}

fn overlap() -> usize {
    128
}

/// `[eval]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eval {
    /// Questions of each set that are answered (0 = all).
    #[serde(default)]
    questions: usize,
}

/// Name of the places in a target: first and last row of each member's answer in turn, `[2 * members]`.
const SPANS: &str = "spans";

pub(super) struct Questions {
    home: PathBuf,
    start: PathBuf,
    reader: Reader,
    /// What the model reads.
    spec: InputSpec,
    train: Vec<Sample>,
    valid: Vec<Sample>,
    dev: Squad,
    /// Numbers of the questions of `dev` that are not trained on.
    held: Vec<u32>,
    packing: Packing,
    /// Questions of each set that are answered (0 = all).
    asked: usize,
}

impl Setup for Questions {
    const NAME: &'static str = "questions";
    type Data = Data;
    type Eval = Eval;

    fn check(data: &Data, _: &Eval, recipe: &Recipe) -> Result<(), String> {
        let (t, s) = (&recipe.train, &recipe.switch);
        all_hold(&[
            (data.set == "squad", "data.set must be \"squad\" for questions"),
            (recipe.start.is_some(), "data.task = \"questions\" needs start.folder, a model with its tokenizer"),
            (
                t.label_smoothing == 0.0 && s.draws == 1 && s.bits.is_empty() && s.exits.is_empty(),
                "data.task = \"questions\" has no label_smoothing, draws, bits or exits",
            ),
            (data.eda <= 16, "data.eda must be at most 16"),
            ((8..=4_096).contains(&data.max_len), "data.max_len must be 8 to 4,096"),
        ])
    }

    fn validates(data: &Data) -> bool {
        data.valid > 0
    }

    fn open(data: Data, eval: Eval, recipe: &Recipe, places: &Places) -> Result<Self> {
        let home = places.data.clone().unwrap_or_else(|| HOME.into());
        let start = recipe.start.as_ref().map(|s| s.folder.clone()).unwrap_or_default();
        let reader = Reader::new(Tokenizer::of_model(&start, None)?, data.max_len, data.overlap)?;
        let (entry, config) = read_config(&Folder::disk(&start)?)?;
        let spec = entry.build(&config, &Weights::shapes_only())?.spec();
        let dev = open(&home, DEV)?;
        let all: Vec<u32> = (0..dev.questions.len() as u32).collect();
        let whole = home.join(TRAIN).exists().then(|| open(&home, TRAIN)).transpose()?;
        let (source, trained, held) = match &whole {
            Some(train) => (train, (0..train.questions.len() as u32).collect(), all),
            None => {
                let kept = kept_articles(&dev);
                let title = |i: &u32| dev.passages[dev.questions[*i as usize].passage].title.as_str();
                let (held, trained) = all.into_iter().partition(|i| kept.contains(title(i)));
                (&dev, trained, held)
            }
        };
        let trained = mixed(&trained, data.limit);
        let again = match &data.back {
            None => None,
            Some(models) => {
                let texts = trained.iter().flat_map(|i| {
                    let q = &source.questions[*i as usize];
                    [q.text.as_str(), source.passages[q.passage].text.as_str()]
                });
                Some(Paraphrases::of(models, &places.shared, texts)?)
            }
        };
        let mut train = Vec::new();
        for i in &trained {
            train.extend(samples(&reader, source, *i, Said::AsItIs)?);
            for copy in 0..data.eda {
                let rng = Rng::of(&[VARIATIONS, recipe.seed, u64::from(*i), copy as u64]);
                train.extend(samples(&reader, source, *i, Said::Varied(rng))?);
            }
            if let Some(again) = &again {
                train.extend(samples(&reader, source, *i, Said::Again(again))?);
            }
        }
        let valid: Vec<Vec<Sample>> = mixed(&held, data.valid.max(1))
            .iter()
            .map(|i| samples(&reader, &dev, *i, Said::AsItIs))
            .collect::<Result<_>>()?;
        let lengths = train.iter().map(|s| s.window.ids.len() as u32).collect();
        let packing = Packing::new(lengths, recipe.train.batch, recipe.seed, &home)?;
        let (valid, asked) = (valid.into_iter().flatten().collect(), eval.questions);
        Ok(Questions { home, start, reader, spec, train, valid, dev, held, packing, asked })
    }
}

impl Questions {
    fn score(&self, opened: &Opened, point: &Point, set: &Squad, asked: &[u32], name: &str) -> Result<Figures> {
        let given = answer_all(opened, point, &self.reader, set, asked, &mut ())?;
        let accepted: Vec<Vec<&str>> = asked.iter().map(|i| set.answers(*i as usize)).collect();
        let stats = Answers::stats(&given, &accepted)?;
        let mut figures = Figures::new();
        for (kind, score) in [("EM", Answers::exact as fn(&[f64]) -> f64), ("F1", Answers::f1)] {
            with_interval(&mut figures, &format!("{kind} {name}"), &stats, score)?;
        }
        Ok(figures)
    }
}

/// A file of the folder. Published offsets are not all right; what stands elsewhere is found.
fn open(home: &Path, name: &str) -> Result<Squad> {
    let path = home.join(name);
    if !path.exists() {
        let what = format!("{} holds no {name}", home.display());
        let hint = "scripts/fetch-models.sh squad fetches it; name another folder with --data";
        return Err(Error::input(what, hint));
    }
    Ok(Squad::open(path, Offsets::Nearest)?)
}

/// Titles of every fifth article in a fixed random order.
fn kept_articles(set: &Squad) -> BTreeSet<&str> {
    let mut titles: Vec<&str> = set.passages.iter().map(|p| p.title.as_str()).collect();
    titles.dedup();
    let order = permutation(0, 0, titles.len() as u32);
    order.iter().take(titles.len().div_ceil(KEPT)).map(|i| titles[*i as usize]).collect()
}

/// The first `limit` (0 = all) of a fixed random order.
fn mixed(items: &[u32], limit: usize) -> Vec<u32> {
    let limit = if limit == 0 { usize::MAX } else { limit };
    permutation(0, 0, items.len() as u32).iter().map(|i| items[*i as usize]).take(limit).collect()
}

/// How a question and its passage are put.
enum Said<'a> {
    AsItIs,
    Varied(Rng),
    Again(&'a Paraphrases),
}

/// The windows of a question that hold its first answer.
fn samples(reader: &Reader, set: &Squad, question: u32, said: Said<'_>) -> Result<Vec<Sample>> {
    let q = &set.questions[question as usize];
    let Some(answer) = q.answers.first() else { return Ok(Vec::new()) };
    let text = &set.passages[q.passage].text;
    let (asked, text, answer) = match said {
        Said::AsItIs => (q.text.clone(), text.clone(), answer.clone()),
        Said::Varied(mut rng) => {
            let (text, answer) = vary_around(text, answer, &mut rng);
            (vary(&q.text, &mut rng), text, answer)
        }
        Said::Again(again) => {
            let (text, answer) = again.around(text, answer);
            (again.whole(&q.text), text, answer)
        }
    };
    let windows = reader.windows(&asked, &text)?;
    let placed = |window: Window| window.place(&answer).map(|places| Sample { window, places });
    Ok(windows.into_iter().filter_map(placed).collect())
}

fn make<'a>(spec: &InputSpec, samples: impl Iterator<Item = &'a Sample> + Clone) -> Result<Batch> {
    let input = input(spec, samples.clone().map(|s| &s.window))?;
    let size = samples.clone().map(|s| s.window.ids.len()).sum();
    let places: Vec<u32> = samples.flat_map(|s| s.places).collect();
    Ok(Batch { input, weight: places.len() as f64, target: Target::new().with_ids(SPANS, places), size, task: None })
}

impl Task for Questions {
    fn unit(&self) -> &'static str {
        "tokens"
    }
    fn complete(&self, _: &mut Map<String, Value>) {}
    fn batch(&mut self, index: u64) -> Result<Batch> {
        let (_, picked) = self.packing.take(index)?;
        make(&self.spec, picked.iter().map(|i| &self.train[*i as usize]))
    }
    fn loss(&self, out: &Output, batch: &Batch) -> Result<Losses> {
        let side = |name: &str| {
            let none =
                || Error::input(format!("this model gives no `{name}`"), "name one that finds answers in passages");
            out.get_rows(name).ok_or_else(none)
        };
        let ((start, rows), (end, _)) = (side("start_logits")?, side("end_logits")?);
        let scores = Tensor::stack(&[start, end], 1)?; // [total, 2]
        Ok(Losses::of("spans", span_loss(&scores, rows, batch.target.ids(SPANS)?)?))
    }
    fn valid(&self) -> Result<Vec<Batch>> {
        let longest = self.valid.iter().map(|s| s.window.ids.len()).max().unwrap_or(1);
        self.valid.chunks((BATCH / longest).max(1)).map(|part| make(&self.spec, part.iter())).collect()
    }
    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        let names = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"];
        let kept = names.iter().map(|name| (name, self.start.join(name))).filter(|(_, path)| path.exists());
        let read = |path: &Path| std::fs::read(path).map_err(|e| Error::io(path, e));
        let mut files = lower_cased_files(&self.start)?;
        for (name, path) in kept {
            if files.iter().all(|(known, _)| known != name) {
                files.push((name.to_string(), read(&path)?));
            }
        }
        Ok(files)
    }
    fn measure(&self, opened: &Opened, point: &Point) -> Result<Figures> {
        let mut figures = self.score(opened, point, &self.dev, &mixed(&self.held, self.asked), "squad")?;
        for (name, file) in SHIFTED {
            let set = open(&self.home, file)?;
            let all: Vec<u32> = (0..set.questions.len() as u32).collect();
            figures.extend(self.score(opened, point, &set, &mixed(&all, self.asked), name)?);
        }
        Ok(figures)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kept_articles_are_a_fifth_and_always_the_same() {
        let passages =
            (0..48 * 3).map(|i| switchformer_data::squad::Passage { title: format!("t{}", i / 3), text: "x".into() });
        let set = Squad { passages: passages.collect(), ..Squad::default() };
        let kept = kept_articles(&set);
        assert_eq!(kept.len(), 10);
        assert_eq!(kept, kept_articles(&set));
    }

    #[test]
    fn variations_point_at_their_answers() {
        let vocab = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nold\ntown\nlies\nby\nriver\nwhere\n";
        let tokenizer = Tokenizer::from_vocab(vocab.as_bytes(), &Value::Null, Path::new("v"), None).unwrap();
        let reader = Reader::new(tokenizer, 80, 8).unwrap();
        let json = r#"{"data":[{"title":"a","paragraphs":[{"context":"the old town lies by the old river",
            "qas":[{"id":"1","question":"where","answers":[{"text":"old river","answer_start":25}]}]}]}]}"#;
        let set = Squad::from_bytes(json.as_bytes().to_vec(), Path::new("x"), Offsets::Exact).unwrap();
        for seed in 0..20 {
            for s in
                samples(&reader, &set, 0, if seed > 0 { Said::Varied(Rng::of(&[seed])) } else { Said::AsItIs }).unwrap()
            {
                let [from, to] = s.places.map(|p| p as usize);
                assert_eq!(s.window.ids[from..=to], [6, 10], "old river");
            }
        }
        let spec = InputSpec::text(12, 80).with_types(2);
        let batch = make(&spec, samples(&reader, &set, 0, Said::AsItIs).unwrap().iter()).unwrap();
        assert_eq!((batch.target.ids(SPANS).unwrap(), batch.size), (&[9, 10][..], 12));
    }
}
