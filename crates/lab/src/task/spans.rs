//! Span corruption (T5, arXiv 1910.10683): stretches of a text are cut out and a mark put in their place; the decoder
//! writes every mark and what stood there.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use switchformer_data::{Rng, Split};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Input, Point};
use switchformer_zoo::Opened;

use super::corpus::{Packing, SENTINELS, Source, Text, Words, max_len, sentinel, shifted, texts, vocab};
use super::kind::Setup;
use super::{Batch, Figures, Places, Target, Task, Trims, all_hold, mean_loss, text_folder};
use crate::error::Result;
use crate::recipe::Recipe;

/// Fewest tokens of a text that is used.
const SHORTEST: usize = 8;
/// Stream of the cuts.
const CUTS: u64 = 11;
/// The epoch whose cuts validation and test use.
const FIXED: u64 = u64::MAX;
/// Texts of one language that are measured.
const TEXTS: usize = 500;
/// Most texts of the test split that are measured.
const MEASURED: usize = 1_000;

/// `[data]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// `debian` (descriptions of packages) or `text` (files of one's own).
    set: String,
    /// Languages as Debian names them; English alone where empty.
    #[serde(default)]
    languages: Vec<String>,
    /// Texts of each language at most (0 = all).
    #[serde(default)]
    limit: usize,
    /// Texts of the validation split that the validation loss is over.
    #[serde(default)]
    valid: usize,
    /// Pieces of the tokenizer that is trained on the training split.
    #[serde(default = "vocab")]
    vocab: usize,
    /// Most tokens of a text; longer ones are cut into pieces.
    #[serde(default = "max_len")]
    max_len: usize,
    /// Share of the tokens that are cut out.
    #[serde(default = "noise")]
    noise: f64,
    /// Mean length of what is cut out at one place.
    #[serde(default = "span")]
    span: f64,
}

fn noise() -> f64 {
    0.15
}
fn span() -> f64 {
    3.0
}

/// `[eval]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eval {
    /// The one language that is measured; all where empty.
    #[serde(default)]
    language: String,
    /// Vocabularies that the model is cut to afterwards, by name: tokens that occur in the training texts of `language` at
    /// least so often stay. Each is measured beside the whole.
    #[serde(default)]
    trims: BTreeMap<String, u64>,
}

pub(super) struct Spans {
    words: Words,
    sentinels: Vec<u32>,
    train: Vec<Vec<u32>>,
    valid: Vec<Vec<u32>>,
    test: Vec<Vec<u32>>,
    /// Bytes of the texts of the test split.
    tested: usize,
    all: Vec<Text>,
    packing: Packing,
    settings: Data,
    eval: Eval,
    seed: u64,
    budget: usize,
    smoothing: f64,
}

impl Setup for Spans {
    const NAME: &'static str = "span-corruption";
    type Data = Data;
    type Eval = Eval;

    fn check(data: &Data, eval: &Eval, _: &Recipe) -> Result<(), String> {
        let known = eval.language.is_empty() || data.languages.contains(&eval.language);
        all_hold(&[
            (data.set == "debian" || data.set == "text", "data.set must be \"debian\" or \"text\" for span-corruption"),
            (data.set == "debian" || data.languages.is_empty(), "data.languages are for \"debian\""),
            (known, "eval.language must be among data.languages"),
            (eval.trims.is_empty() || !eval.language.is_empty(), "eval.trims needs eval.language"),
            (data.noise > 0.0 && data.noise <= 0.5, "data.noise must be above 0 and up to 0.5"),
            (data.span >= 1.0, "data.span must be at least 1"),
        ])?;
        Source::of(&data.set, data.limit, data.vocab).check(data.max_len)
    }

    fn validates(data: &Data) -> bool {
        data.valid > 0
    }

    fn open(data: Data, eval: Eval, recipe: &Recipe, places: &Places) -> Result<Self> {
        let source = Source::of(&data.set, data.limit, data.vocab);
        let all = texts(&source, &data.languages, places)?;
        let own = all.iter().filter(|t| t.split == Split::Train).map(|t| t.text.as_str());
        let words = Words::of(&source, places, own)?;
        let sentinels = (0..SENTINELS).filter_map(|i| words.tokenizer.token_to_id(&sentinel(i))).collect();
        let (mut train, mut valid, mut test, mut tested) = (Vec::new(), Vec::new(), Vec::new(), 0);
        let language = &eval.language;
        let asked = |t: &Text| language.is_empty() || t.language == *language;
        // By number of texts where vocabularies are compared, so that the texts are the same.
        let mut left = if language.is_empty() { usize::MAX } else { TEXTS };
        for t in &all {
            let part = match t.split {
                Split::Train => &mut train,
                Split::Valid if valid.len() < data.valid => &mut valid,
                Split::Test if asked(t) && left > 0 && (test.len() < MEASURED || !language.is_empty()) => {
                    left -= 1;
                    tested += t.text.len();
                    &mut test
                }
                _ => continue,
            };
            let mut ids = words.ids(&t.text)?;
            ids.pop(); // the end token belongs behind the marks
            part.extend(ids.chunks(data.max_len).filter(|c| c.len() >= SHORTEST).map(<[u32]>::to_vec));
        }
        let lengths = train.iter().map(|t| t.len() as u32).collect();
        let packing = Packing::new(lengths, recipe.train.batch, recipe.seed, text_folder(places))?;
        let (seed, budget, smoothing) = (recipe.seed, recipe.train.batch, recipe.train.label_smoothing);
        let settings = data;
        Ok(Spans {
            words,
            sentinels,
            train,
            valid,
            test,
            tested,
            all,
            packing,
            settings,
            eval,
            seed,
            budget,
            smoothing,
        })
    }
}

impl Spans {
    /// Texts with their cuts as one batch; a text is named by its index in its split.
    fn make(&self, texts: &[Vec<u32>], picked: &[u32], seed: u64, epoch: u64) -> Result<Batch> {
        let d = &self.settings;
        let (mut sources, mut inputs, mut labels, mut size) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for i in picked {
            let text = &texts[*i as usize];
            let mut rng = Rng::of(&[CUTS, seed, epoch, u64::from(*i)]);
            let (source, target) = corrupt(text, d.noise, d.span, &self.sentinels, self.words.end, &mut rng);
            size += text.len();
            inputs.push(shifted(&target));
            sources.push(source);
            labels.extend(target);
        }
        let input = Input::pair(Input::tokens(&sources)?, Input::tokens(&inputs)?)?;
        Ok(Batch { input, weight: labels.len() as f64, target: Target::classes(labels), size, task: None })
    }

    /// A split in batches, its cuts the same for every recipe and seed.
    fn fixed(&self, texts: &[Vec<u32>]) -> Result<Vec<Batch>> {
        let order: Vec<u32> = (0..texts.len() as u32).collect();
        let per = (self.budget / self.settings.max_len).max(1);
        order.chunks(per).map(|part| self.make(texts, part, 0, FIXED)).collect()
    }
}

impl Task for Spans {
    fn unit(&self) -> &'static str {
        "tokens"
    }
    fn complete(&self, model: &mut Map<String, Value>) {
        self.words.complete(model);
    }
    fn batch(&mut self, index: u64) -> Result<Batch> {
        let (epoch, picked) = self.packing.take(index)?;
        let mut batch = self.make(&self.train, &picked, self.seed, epoch)?;
        batch.target = batch.target.smoothed(self.smoothing);
        Ok(batch)
    }
    fn valid(&self) -> Result<Vec<Batch>> {
        self.fixed(&self.valid)
    }
    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        self.words.files()
    }
    fn measure(&self, opened: &Opened, point: &Point) -> Result<Figures> {
        let batches = self.fixed(&self.test)?;
        let begun = Instant::now();
        let mut figures = mean_loss(opened, point, &batches)?;
        if !self.eval.language.is_empty() {
            let labels: f64 = batches.iter().map(|b| b.weight).sum();
            let read: usize = batches.iter().map(|b| b.size).sum();
            // Vocabularies cut a text into other tokens; its bytes are the same for all.
            let nats = figures["loss"] * labels / self.tested.max(1) as f64;
            figures.insert("nats/kB".into(), 1e3 * nats);
            figures.insert("kB/s".into(), self.tested as f64 / 1e3 / begun.elapsed().as_secs_f64());
            figures.insert("tokens/kB".into(), 1e3 * read as f64 / self.tested.max(1) as f64);
            figures.insert("vocabulary".into(), self.words.tokenizer.vocab_size() as f64);
            figures.insert("million parameters".into(), opened.n_params as f64 / 1e6);
            figures.insert("MB".into(), opened.file_bytes as f64 / 1e6);
        }
        Ok(figures)
    }
    fn trims(&self) -> Option<Trims<'_>> {
        let language = self.eval.language.as_str();
        let own = || self.all.iter().filter(|t| t.split == Split::Train && t.language == language);
        let texts = || own().map(|t| t.text.as_str()).collect();
        let min_counts = &self.eval.trims;
        (!min_counts.is_empty()).then(|| Trims { language, texts: texts(), min_counts })
    }
}

/// The text with marks, and the marks with what was cut; both end with the end token. A text begins with a stretch that
/// stays.
fn corrupt(ids: &[u32], noise: f64, span: f64, marks: &[u32], end: u32, rng: &mut Rng) -> (Vec<u32>, Vec<u32>) {
    let n = ids.len();
    let cut = ((n as f64 * noise).round() as usize).clamp(1, n - 1);
    let spans = ((cut as f64 / span).round() as usize).clamp(1, cut.min(n - cut).min(marks.len()));
    let (cuts, stays) = (split(cut, spans, rng), split(n - cut, spans, rng));
    let (mut source, mut target, mut at) = (Vec::new(), Vec::new(), 0);
    for ((stay, cut), mark) in stays.into_iter().zip(cuts).zip(marks) {
        source.extend_from_slice(&ids[at..at + stay]);
        source.push(*mark);
        target.push(*mark);
        target.extend_from_slice(&ids[at + stay..at + stay + cut]);
        at += stay + cut;
    }
    source.push(end);
    target.push(end);
    (source, target)
}

/// `total` as a sum of `parts` numbers from 1, every such sum as likely as the others.
fn split(total: usize, parts: usize, rng: &mut Rng) -> Vec<usize> {
    // A choice of `parts - 1` of the gaps between units.
    let mut gaps: Vec<usize> = (1..total).collect();
    for i in 0..parts - 1 {
        let j = i + rng.pick((gaps.len() - i) as u32) as usize;
        gaps.swap(i, j);
    }
    let mut chosen: Vec<usize> = gaps[..parts - 1].to_vec();
    chosen.push(total);
    chosen.sort_unstable();
    let mut last = 0;
    chosen.into_iter().map(|at| at - std::mem::replace(&mut last, at)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_put_what_was_cut_back_in_place() {
        let marks: Vec<u32> = (900..932).collect();
        for n in [8usize, 9, 33, 64] {
            for seed in 0..50 {
                let ids: Vec<u32> = (100..100 + n as u32).collect();
                let (source, target) = corrupt(&ids, 0.15, 3.0, &marks, 1, &mut Rng::of(&[seed]));
                assert_eq!((source.last(), target.last()), (Some(&1), Some(&1)));
                let mut whole = Vec::new();
                for t in &source[..source.len() - 1] {
                    if *t < 900 {
                        whole.push(*t);
                        continue;
                    }
                    let from = target.iter().position(|x| x == t).map_or(0, |i| i + 1);
                    whole.extend(target[from..].iter().take_while(|x| **x >= 100 && **x < 900));
                }
                assert_eq!(whole, ids);
                let cut = target.iter().filter(|t| (100..900).contains(*t)).count();
                assert_eq!(cut, ((n as f64 * 0.15).round() as usize).max(1));
                assert!(source[0] < 900, "a text begins with what stays");
            }
        }
    }

    #[test]
    fn sums_of_parts_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6_000 {
            let parts = split(5, 3, &mut Rng::of(&[seed]));
            assert!(parts.iter().sum::<usize>() == 5 && parts.iter().all(|p| *p > 0));
            *counts.entry(parts).or_insert(0) += 1;
        }
        // Six compositions of 5 into 3; 1,000 each, deviation 29.
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|c| (850..1_150).contains(c)), "{counts:?}");
    }
}
