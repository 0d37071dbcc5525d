//! A model measured at many operating points on the same inputs: what each point answers, what it computes and how long it
//! takes, the contestants in turns.

mod compare;
pub mod page;

use std::ops::Range;
use std::time::Instant;

use serde::Serialize;
use switchformer_data::fashion::Dataset;
use switchformer_infer::sentence::Ask;
use switchformer_infer::{Image, Inputs, Session, Similarity};
use switchformer_nn::{Input, Output, Point};
use switchformer_switch::{FULL, NamedPoint};

pub use compare::Verdict;

use crate::error::{Error, Result};
use crate::measure::{argmax, blocks, fitted, pixels, wilson};

/// Samples of a timed batch, and of the batches that are answered.
pub const BATCH: usize = 32;
/// Samples and batches that the timed runs go through.
const SINGLES: usize = 8;
const BATCHES: usize = 4;

/// What a model is measured on.
pub enum Samples {
    /// Labelled images of a data set, at the model's size.
    Labelled(Dataset),
    /// Images without labels.
    Images(Vec<Image>),
    /// Texts.
    Texts(Vec<String>),
}

impl Samples {
    /// Labelled images at the size that a model was trained at.
    pub fn labelled(session: &Session, set: &Dataset) -> Result<Samples> {
        Ok(Samples::Labelled(fitted(&session.opened, set)?.into_owned()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Samples::Labelled(set) => set.len(),
            Samples::Images(all) => all.len(),
            Samples::Texts(all) => all.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of them as a model reads them.
    fn input(&self, session: &Session, which: Range<usize>) -> Result<Input> {
        Ok(match self {
            Samples::Labelled(set) => {
                let indices: Vec<u32> = which.map(|i| i as u32).collect();
                pixels(set, &indices, None)?
            }
            Samples::Images(all) => session.input(&Inputs::Images(all[which].to_vec()), &mut ())?,
            Samples::Texts(all) => session.input(&Inputs::Texts(all[which].to_vec()), &mut ())?,
        })
    }
}

/// What the figures of quality are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Quality {
    /// Share of samples answered as their label says.
    Accuracy,
    /// Share of answers that equal those at `full`.
    Agreement,
    /// Cosine of a sample's vector and the one at `full`.
    Cosine,
}

impl Quality {
    /// Head of its column.
    pub fn title(self) -> &'static str {
        match self {
            Quality::Accuracy => "accuracy %",
            Quality::Agreement => "agreement with full %",
            Quality::Cosine => "cosine with full %",
        }
    }
}

/// Median and quartiles of something that was taken several times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Lower quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Upper quartile.
    pub q3: f64,
}

impl Spread {
    /// Of some values; zeros of none.
    pub fn of(mut all: Vec<f64>) -> Spread {
        all.sort_by(f64::total_cmp);
        let at = |share: f64| match all.len() {
            0 => 0.0,
            n => {
                let place = share * (n - 1) as f64;
                let (low, part) = (place.floor() as usize, place.fract());
                all[low] + part * (all[(low + 1).min(n - 1)] - all[low])
            }
        };
        Spread { q1: at(0.25), median: at(0.5), q3: at(0.75) }
    }

    /// Distance of the quartiles as a share of the median.
    pub fn width(&self) -> f64 {
        if self.median > 0.0 { (self.q3 - self.q1) / self.median } else { 0.0 }
    }
}

/// One point, measured.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// Short name.
    pub name: String,
    /// What it does.
    pub about: String,
    /// The setting.
    pub point: Point,
    /// Samples that quality and work are over.
    pub n: usize,
    /// Mean quality, 0 to 1.
    pub quality: f64,
    /// 95 % interval of it.
    pub quality_ci: [f64; 2],
    /// Whether it answers worse than `full` on the same samples, as far as they can tell.
    pub verdict: Verdict,
    /// Milliseconds of one sample alone.
    pub ms_batch1: Spread,
    /// Milliseconds per sample in batches of [`Tour::batch`].
    pub ms_batch32: Spread,
    /// How many times as fast as `full` it is, alone and in batches, round by round.
    pub speedup_batch1: Spread,
    /// See `speedup_batch1`.
    pub speedup_batch32: Spread,
    /// Whether its times vary so much that they tell nothing.
    pub noisy: bool,
    /// Floating-point operations per sample that were executed (two per multiply-add).
    pub flops: f64,
    /// Operations per sample spent on ranking tokens, included in no other figure.
    pub decision_flops: f64,
    /// Bytes of the weights that the point needs (a 4-bit width counts 4 bits, tables count whole).
    pub weight_bytes: u64,
    /// Bytes of weights in memory: the stored 8-bit integers stay whole at every width.
    pub resident_bytes: u64,
    /// Blocks run per sample, on average.
    pub mean_depth: f64,
    /// Pareto-optimal: no other point is clearly faster and as good, or clearly better and as fast.
    pub front: bool,
    /// Quality of each sample.
    #[serde(skip)]
    pub each: Vec<f64>,
    /// Time per sample of each round, alone and in batches.
    #[serde(skip)]
    pub rounds: [Vec<f64>; 2],
}

/// A model measured at all its points.
#[derive(Clone, Debug, Serialize)]
pub struct Tour {
    /// What quality means.
    pub quality: Quality,
    /// Samples of a timed batch: [`BATCH`], or as many as there are.
    pub batch: usize,
    /// The points, `full` first.
    pub points: Vec<Measured>,
    /// Names of points that have no answer to some tokens, and so none to compare.
    pub left_out: Vec<String>,
    /// Name of the point to use: the fastest that answers no worse than `full`; none where no point is clearly faster.
    pub recommended: Option<String>,
    /// What each shown sample was answered at [`Tour::shown`].
    #[serde(skip)]
    pub pictures: Vec<page::Picture>,
    /// Point whose kept tokens are shown.
    #[serde(skip)]
    pub shown: NamedPoint,
}

/// What a sample is answered.
enum Said {
    /// Class, or class of each token.
    Classes(Vec<usize>),
    /// Sentence embedding.
    Vector(Vec<f32>),
}

/// Why a model cannot be compared, and what to do.
const NEITHER: &str = "tour compares classes or embeddings, and this model gives neither";
const ONE: &str = "tour compares classes or embeddings, and this model gives one number";
const TIME_IT: &str = "time it with `switchformer bench`";

/// Reads the answers of a batch.
fn said(session: &Session, out: &Output, n: usize) -> Result<Vec<Said>> {
    let rows = |name: &str, i: usize| -> Result<Vec<usize>> {
        let t = out.of(name, i)?;
        match t.dims() {
            // One number is no class: it would agree with itself at every point.
            [1] | [_, 1] => Err(Error::input(ONE, TIME_IT)),
            [_] => Ok(vec![argmax(&t.to_vec1::<f32>()?)]),
            [_, _] => Ok(t.to_vec2::<f32>()?.iter().map(|row| argmax(row)).collect()),
            _ => Err(Error::input(NEITHER, TIME_IT)),
        }
    };
    if let Some(sentence) = session.sentence().filter(|s| !s.is_multi_vector()) {
        let ask = Ask { prompts: vec![session.prompt_tokens(session.default_prompt())?; n], ..Ask::default() };
        return Ok(sentence.embed(out, n, &ask)?.into_iter().flatten().map(Said::Vector).collect());
    }
    if out.values().contains_key("logits") {
        return (0..n).map(|i| Ok(Said::Classes(rows("logits", i)?))).collect();
    }
    let hidden = "last_hidden_state";
    if !out.values().contains_key(hidden) {
        return Err(Error::input(NEITHER, TIME_IT));
    }
    (0..n).map(|i| Ok(Said::Vector(out.of(hidden, i)?.mean(0)?.to_vec1()?))).collect()
}

/// Cosine of two vectors; 1 where one has no length.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let empty = |v: &[f32]| v.iter().all(|x| *x == 0.0);
    if empty(a) || empty(b) { 1.0 } else { Similarity::Cosine.of(a, b) }
}

/// Quality of an answer: by its label, or beside the answer at `full`; `None` where they cannot be compared.
fn quality(said: &Said, full: &Said, label: Option<usize>) -> Option<f64> {
    let share = |hits: usize, n: usize| if n == 0 { 1.0 } else { hits as f64 / n as f64 };
    match (said, full, label) {
        (Said::Classes(c), _, Some(label)) => Some(share(usize::from(c == &[label]), 1)),
        (Said::Classes(a), Said::Classes(b), None) if a.len() == b.len() => {
            Some(share(a.iter().zip(b).filter(|(a, b)| a == b).count(), a.len()))
        }
        (Said::Vector(a), Said::Vector(b), _) => Some(cosine(a, b)),
        _ => None,
    }
}

/// What was added up over the samples of a point.
#[derive(Default)]
struct Sums {
    each: Vec<f64>,
    macs: u64,
    decision_macs: u64,
    blocks: u64,
    incomparable: bool,
}

/// A point to measure, and the model that it belongs to: the same checkpoint may be opened in several forms.
#[derive(Clone)]
pub struct Contestant<'a> {
    /// The model.
    pub session: &'a Session,
    /// The point.
    pub named: NamedPoint,
}

/// All points of a model, `full` first.
pub fn contestants(session: &Session) -> Vec<Contestant<'_>> {
    let mut all: Vec<Contestant> =
        session.opened.points().into_iter().map(|named| Contestant { session, named }).collect();
    let at = all.iter().position(|c| c.named.name == FULL).unwrap_or(0);
    all[..=at].rotate_right(1);
    all
}

/// Measures points, of which the first is what the others are compared with: `rounds` timed rounds, each of which runs all
/// once in turn. `watch` hears what is being done.
pub fn tour(all: &[Contestant], samples: &Samples, rounds: usize, mut watch: impl FnMut(&str)) -> Result<Tour> {
    let Some(Contestant { session, .. }) = all.first().filter(|_| !samples.is_empty()) else {
        return Err(Error::input("there is nothing to measure on", "give at least one text or image"));
    };
    let (n, n_blocks) = (samples.len(), session.opened.switches.host().n_blocks);
    let labels = match samples {
        Samples::Labelled(set) => Some(set.labels()),
        _ => None,
    };
    let shown = shown(all);
    let mut sums: Vec<Sums> = all.iter().map(|_| Sums::default()).collect();
    let (mut kind, mut pictures) = (Quality::Agreement, Vec::new());
    for start in (0..n).step_by(BATCH) {
        let end = (start + BATCH).min(n);
        watch(&format!("answers of samples {} to {end} of {n}", start + 1));
        let input = samples.input(session, start..end)?;
        let mut full: Option<Vec<Said>> = None;
        for (Contestant { session, named }, sums) in all.iter().zip(&mut sums) {
            let (out, trace) = session.opened.run(&named.point, &input)?;
            let answers = said(session, &out, end - start)?;
            let best = match &full {
                Some(best) => best,
                None => full.insert(said(session, &out, end - start)?),
            };
            kind = match (labels, answers.first()) {
                (Some(_), _) => Quality::Accuracy,
                (None, Some(Said::Vector(_))) => Quality::Cosine,
                _ => Quality::Agreement,
            };
            for (i, (a, b)) in answers.iter().zip(best).enumerate() {
                match quality(a, b, labels.map(|l| usize::from(l[start + i]))) {
                    Some(q) => sums.each.push(q),
                    None => sums.incomparable = true,
                }
            }
            sums.macs += trace.macs;
            sums.decision_macs += trace.decision_macs;
            sums.blocks += blocks(&trace, n_blocks, end - start);
            if start == 0 && *named == shown && shown.point.axes().next().is_some() {
                pictures = page::pictures(session, samples, &out, &trace, end)?;
            }
        }
    }
    let times = timed(all, samples, rounds, &mut watch)?;
    let first = samples.input(session, 0..1)?;
    let (mut points, mut left_out) = (Vec::new(), Vec::new());
    for ((Contestant { session, named: p }, sums), [single, many]) in all.iter().cloned().zip(sums).zip(times) {
        let opened = &session.opened;
        if sums.incomparable || sums.each.len() != n {
            left_out.push(p.name);
            continue;
        }
        let per_sample = |macs: u64| 2.0 * macs as f64 / n as f64;
        points.push(Measured {
            n,
            quality: sums.each.iter().sum::<f64>() / n as f64,
            quality_ci: interval(kind, &sums.each),
            verdict: Verdict::Full,
            ms_batch1: Spread::of(single.clone()),
            ms_batch32: Spread::of(many.clone()),
            speedup_batch1: Spread::default(),
            speedup_batch32: Spread::default(),
            noisy: false,
            flops: per_sample(sums.macs),
            decision_flops: per_sample(sums.decision_macs),
            weight_bytes: opened.cost(&p.point, &first)?.bytes,
            resident_bytes: opened.cost(&Point::new(), &first)?.bytes + opened.switches.bytes(),
            mean_depth: sums.blocks as f64 / n as f64,
            front: false,
            each: sums.each,
            rounds: [single, many],
            name: p.name,
            about: p.about,
            point: p.point,
        });
    }
    watch("");
    let recommended = compare::settle(kind, &mut points);
    Ok(Tour { quality: kind, batch: BATCH.min(n), points, left_out, recommended, pictures, shown })
}

/// The point whose kept tokens are shown: the one that sets most switches.
fn shown(all: &[Contestant]) -> NamedPoint {
    let prunes = all.iter().map(|c| &c.named).filter(|p| p.point.axes().any(|a| a == "tokens"));
    let best = prunes.max_by_key(|p| p.point.axes().count());
    best.cloned().unwrap_or_else(|| NamedPoint { name: FULL.into(), point: Point::new(), about: String::new() })
}

/// 95 % interval of a mean: Wilson's where every sample is right or wrong, else the normal one.
fn interval(kind: Quality, each: &[f64]) -> [f64; 2] {
    if kind != Quality::Cosine && each.iter().all(|q| *q == 0.0 || *q == 1.0) {
        return wilson(each.iter().filter(|q| **q == 1.0).count(), each.len());
    }
    let n = each.len() as f64;
    let mean = each.iter().sum::<f64>() / n;
    let half = 1.96 * (each.iter().map(|q| (q - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0) / n).sqrt();
    [mean - half, (mean + half).min(1.0)]
}

/// Milliseconds per sample of each round, alone and in batches, for every point. A round runs all points once, one after the
/// other and every second time from the end, so that a busy moment hits no point alone.
fn timed(
    all: &[Contestant],
    samples: &Samples,
    rounds: usize,
    watch: &mut impl FnMut(&str),
) -> Result<Vec<[Vec<f64>; 2]>> {
    let Some(Contestant { session, .. }) = all.first() else { return Ok(Vec::new()) };
    let n = samples.len();
    let size = BATCH.min(n);
    let singles = (0..SINGLES.min(n)).map(|i| samples.input(session, i..i + 1)).collect::<Result<Vec<_>>>()?;
    let batches = (0..(n / size).min(BATCHES))
        .map(|i| samples.input(session, i * size..(i + 1) * size))
        .collect::<Result<Vec<_>>>()?;
    let run = |of: &Contestant, input: &Input| -> Result<f64> {
        let start = Instant::now();
        of.session.opened.run(&of.named.point, input)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let mut calls = Vec::with_capacity(all.len());
    for p in all {
        run(p, &batches[0])?;
        run(p, &singles[0])?;
        // A clock that is asked too soon tells more of itself than of the model.
        calls.push((SHORTEST_MS / run(p, &singles[0])?.max(1e-3)).ceil().clamp(1.0, SINGLES as f64) as usize);
    }
    let mut times = vec![[Vec::with_capacity(rounds), Vec::with_capacity(rounds)]; all.len()];
    for round in 0..rounds {
        watch(&format!("round {} of {rounds} of timed runs", round + 1));
        for k in 0..all.len() {
            let i = if round % 2 == 0 { k } else { all.len() - 1 - k };
            let point = &all[i];
            let mut alone = 0.0;
            for call in 0..calls[i] {
                alone += run(point, &singles[(round + call) % singles.len()])?;
            }
            times[i][0].push(alone / calls[i] as f64);
            times[i][1].push(run(point, &batches[round % batches.len()])? / size as f64);
        }
    }
    Ok(times)
}

/// Shortest time that is worth reading off a clock, in milliseconds.
const SHORTEST_MS: f64 = 2.0;
