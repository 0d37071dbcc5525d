//! Translation of sentences from English, or into it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use switchformer_data::Split;
use switchformer_infer::generate::greedy;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Input, Point};
use switchformer_zoo::Opened;

use super::corpus::{Packing, Source, Words, max_len, pairs, shifted, vocab};
use super::kind::Setup;
use super::{Batch, Figures, Places, Target, Task, all_hold, mean_loss, text_folder, with_interval};
use crate::error::Result;
use crate::metric::{Bleu, Chrf};
use crate::recipe::Recipe;

/// Sentences that are written at once.
const AT_ONCE: usize = 32;
/// Most pairs of the test split that the loss is over.
const MEASURED: usize = 1_000;

/// `[data]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Data {
    /// `debian` (descriptions of packages) or `multiemo` (sentences of opinions).
    set: String,
    /// The other language, as Debian or MultiEmo names it.
    language: String,
    /// Translate into English, not from it.
    #[serde(default)]
    reverse: bool,
    /// Pairs at most (0 = all).
    #[serde(default)]
    limit: usize,
    /// Pairs of the validation split that the validation loss is over.
    #[serde(default)]
    valid: usize,
    /// Pieces of the tokenizer that is trained on the training split.
    #[serde(default = "vocab")]
    vocab: usize,
    /// Most tokens of a sentence; longer pairs are left out.
    #[serde(default = "max_len")]
    max_len: usize,
}

/// `[eval]` of the task.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Eval {
    /// Sentences that are translated for BLEU (0 = all of the test split).
    #[serde(default)]
    sentences: usize,
}

/// A pair of sentences as tokens, the end token last in both.
struct Sample {
    source: Vec<u32>,
    target: Vec<u32>,
}

pub(super) struct Pairs {
    words: Words,
    train: Vec<Sample>,
    valid: Vec<Sample>,
    test: Vec<Sample>,
    /// Right translations of the test split.
    references: Vec<String>,
    packing: Packing,
    max_len: usize,
    smoothing: f64,
    /// Sentences that are translated (0 = all).
    sentences: usize,
}

impl Setup for Pairs {
    const NAME: &'static str = "translate";
    type Data = Data;
    type Eval = Eval;

    fn check(data: &Data, _: &Eval, _: &Recipe) -> Result<(), String> {
        all_hold(&[
            (
                data.set == "debian" || data.set == "multiemo",
                "data.set must be \"debian\" or \"multiemo\" for translate",
            ),
            (!data.language.is_empty(), "data.language must name the other language"),
            (
                data.language.chars().all(|c| c.is_ascii_alphabetic() || c == '_'),
                "data.language must be letters, as in pt_BR",
            ),
        ])?;
        Source::of(&data.set, data.limit, data.vocab).check(data.max_len)
    }

    fn validates(data: &Data) -> bool {
        data.valid > 0
    }

    fn open(data: Data, eval: Eval, recipe: &Recipe, places: &Places) -> Result<Self> {
        let from = Source::of(&data.set, data.limit, data.vocab);
        let all = pairs(&from, &data.language, places)?;
        let own = all.iter().filter(|p| p.split == Split::Train);
        let words = Words::of(&from, places, own.flat_map(|p| [p.english.as_str(), p.other.as_str()]))?;
        let (mut train, mut valid, mut test, mut references) = (vec![], vec![], vec![], vec![]);
        for pair in &all {
            let part = match pair.split {
                Split::Train => &mut train,
                Split::Valid if valid.len() < data.valid => &mut valid,
                Split::Test if test.len() < MEASURED => &mut test,
                _ => continue,
            };
            let (source, target) =
                if data.reverse { (&pair.other, &pair.english) } else { (&pair.english, &pair.other) };
            let sample = Sample { source: words.ids(source)?, target: words.ids(target)? };
            if sample.source.len().max(sample.target.len()) <= data.max_len {
                part.push(sample);
                if pair.split == Split::Test {
                    references.push(target.clone());
                }
            }
        }
        let lengths = train.iter().map(|s| (s.source.len() + s.target.len()) as u32).collect();
        let packing = Packing::new(lengths, recipe.train.batch, recipe.seed, text_folder(places))?;
        let (max_len, smoothing, sentences) = (data.max_len, recipe.train.label_smoothing, eval.sentences);
        Ok(Pairs { words, train, valid, test, references, packing, max_len, smoothing, sentences })
    }
}

fn make<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Result<Batch> {
    let sources: Vec<&[u32]> = samples.clone().map(|s| s.source.as_slice()).collect();
    let inputs: Vec<Vec<u32>> = samples.clone().map(|s| shifted(&s.target)).collect();
    let labels: Vec<u32> = samples.flat_map(|s| s.target.iter().copied()).collect();
    let size = sources.iter().map(|s| s.len()).sum::<usize>() + labels.len();
    let input = Input::pair(Input::tokens(&sources)?, Input::tokens(&inputs)?)?;
    Ok(Batch { input, weight: labels.len() as f64, target: Target::classes(labels), size, task: None })
}

impl Task for Pairs {
    fn unit(&self) -> &'static str {
        "tokens"
    }
    fn complete(&self, model: &mut Map<String, Value>) {
        self.words.complete(model);
    }
    fn batch(&mut self, index: u64) -> Result<Batch> {
        let (_, picked) = self.packing.take(index)?;
        let mut batch = make(picked.iter().map(|i| &self.train[*i as usize]))?;
        batch.target = batch.target.smoothed(self.smoothing);
        Ok(batch)
    }
    fn valid(&self) -> Result<Vec<Batch>> {
        self.valid.chunks(AT_ONCE).map(|part| make(part.iter())).collect()
    }
    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        self.words.files()
    }
    fn measure(&self, opened: &Opened, point: &Point) -> Result<Figures> {
        let batches: Vec<Batch> = self.test.chunks(AT_ONCE).map(|part| make(part.iter())).collect::<Result<_>>()?;
        let mut figures = mean_loss(opened, point, &batches)?;
        let n = if self.sentences == 0 { self.test.len() } else { self.sentences.min(self.test.len()) };
        let mut written = Vec::with_capacity(n);
        for part in self.test[..n].chunks(AT_ONCE) {
            let source = Input::tokens(&part.iter().map(|s| s.source.as_slice()).collect::<Vec<_>>())?;
            for ids in greedy(opened, point, &source, self.max_len)?.0 {
                written.push(self.words.tokenizer.decode(&ids, true)?);
            }
        }
        let right = [self.references[..n].to_vec()];
        let (bleu, chrf) = (Bleu::default(), Chrf::CHRF);
        with_interval(&mut figures, "BLEU", &bleu.stats(&written, &right)?, |sums| bleu.score(sums).score)?;
        with_interval(&mut figures, "chrF", &chrf.stats(&written, &right)?, |sums| chrf.score(sums))?;
        Ok(figures)
    }
}
