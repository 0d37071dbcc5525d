//! Translation of sentences from English, or into it.

use serde_json::{Map, Value};
use switchformer_data::Split;
use switchformer_infer::generate::greedy;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Input, Point};
use switchformer_zoo::Opened;

use super::corpus::{Packing, Words, pairs, shifted};
use super::{Batch, Figures, Places, Task, mean_loss, text_folder, with_interval};
use crate::error::Result;
use crate::metric::{Bleu, Chrf};
use crate::recipe::{Eval, Recipe};

/// Sentences that are written at once.
const AT_ONCE: usize = 32;
/// Most pairs of the test split that the loss is over.
const MEASURED: usize = 1_000;

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
}

impl Pairs {
    pub(super) fn open(recipe: &Recipe, places: &Places) -> Result<Self> {
        let data = &recipe.data;
        let all = pairs(data, places)?;
        let own = all.iter().filter(|p| p.split == Split::Train);
        let words = Words::of(data, places, own.flat_map(|p| [p.english.as_str(), p.other.as_str()]))?;
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
        Ok(Pairs { words, train, valid, test, references, packing, max_len: data.max_len })
    }
}

fn make<'a>(samples: impl Iterator<Item = &'a Sample> + Clone) -> Result<Batch> {
    let sources: Vec<&[u32]> = samples.clone().map(|s| s.source.as_slice()).collect();
    let inputs: Vec<Vec<u32>> = samples.clone().map(|s| shifted(&s.target)).collect();
    let labels: Vec<u32> = samples.flat_map(|s| s.target.iter().copied()).collect();
    let size = sources.iter().map(|s| s.len()).sum::<usize>() + labels.len();
    Ok(Batch { input: Input::pair(Input::tokens(&sources)?, Input::tokens(&inputs)?)?, labels, size, task: None })
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
        make(picked.iter().map(|i| &self.train[*i as usize]))
    }
    fn valid(&self) -> Result<Vec<Batch>> {
        self.valid.chunks(AT_ONCE).map(|part| make(part.iter())).collect()
    }
    fn files(&self, _: &ConfigMap) -> Result<Vec<(String, Vec<u8>)>> {
        self.words.files()
    }
    fn measure(&self, opened: &Opened, point: &Point, eval: &Eval) -> Result<Figures> {
        let batches: Vec<Batch> = self.test.chunks(AT_ONCE).map(|part| make(part.iter())).collect::<Result<_>>()?;
        let mut figures = mean_loss(opened, point, &batches)?;
        let n = if eval.sentences == 0 { self.test.len() } else { eval.sentences.min(self.test.len()) };
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
