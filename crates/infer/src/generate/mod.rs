//! Writing text, step by step: the likeliest token, a seeded draw, or several beams at once.
//!
//! Members of unequal lengths are packed; one that ended leaves the batch. What a member gets depends on its own source,
//! the point and the seed.

mod beam;
mod rules;
mod sample;
mod settings;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use switchformer_nn::{BlockRule, Ctx, Error, Input, Members, Memory, Point, Result, Staged, Taps, Trace, run};
use switchformer_switch::Resolved;
use switchformer_switch::leaf::experts::Loads;

use switchformer_zoo::Opened;

pub use beam::{Beams, Early, MAX_BEAMS};
pub use rules::Rules;
use rules::Text;
pub use sample::Sampling;
pub use settings::{SETTINGS, Settings};

/// Most tokens that one call writes per member.
pub const MAX_WRITTEN: usize = 1 << 14;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The likeliest.
    Greedy,
    /// A draw by the point's seed.
    Sample(Sampling),
    /// The best whole sequences that a beam search finds.
    Beams(Beams),
}

/// How to write.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Most tokens per member.
    pub max_tokens: usize,
    /// How the next token is chosen.
    pub choice: Choice,
    /// What changes its scores before.
    pub rules: Rules,
    /// The token that stands before the first written one, in place of the model's: one for all members, or one for each.
    pub start: Option<Vec<u32>>,
    /// Tokens that end a text, in place of the model's.
    pub ends: Option<Vec<u32>>,
}

impl GenerationConfig {
    /// At most this many tokens, chosen so, from the scores as they are.
    pub fn new(max_tokens: usize, choice: Choice) -> GenerationConfig {
        GenerationConfig { max_tokens, choice, rules: Rules::default(), start: None, ends: None }
    }
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum End {
    /// A token of the model that ends texts.
    Token,
    /// The caller's own rule (a stop text).
    Stop,
    /// The most tokens were written.
    Length,
    /// Nobody waits for it any more: the flag of its member was raised.
    Cancelled,
}

/// A written text.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// Its tokens; one that ends the text is kept, the start token is not.
    pub tokens: Vec<u32>,
    /// Sum of log-probabilities over a power of the length, of beams.
    pub score: Option<f64>,
    /// Why it ended.
    pub end: End,
}

/// What the caller hears and says while texts are written.
pub struct Streamer<'a> {
    /// Whether the tokens of a member end its text, beyond the tokens that always do.
    pub stop: &'a dyn Fn(&[u32]) -> bool,
    /// Hears every token as it is written: member and token. Beams change their minds, so they tell nothing.
    pub token: &'a mut dyn FnMut(usize, u32),
}

/// Whether a text ends here, and why.
struct Ends<'a> {
    tokens: &'a [u32],
    stop: &'a dyn Fn(&[u32]) -> bool,
    max: usize,
}

impl Ends<'_> {
    fn of(&self, text: &[u32]) -> Option<End> {
        if text.last().is_some_and(|t| self.tokens.contains(t)) {
            Some(End::Token)
        } else if (self.stop)(text) {
            Some(End::Stop)
        } else {
            (text.len() >= self.max).then_some(End::Length)
        }
    }
}

/// The likeliest continuation of at most `max_tokens` per member; see [`write()`].
pub fn greedy(opened: &Opened, point: &Point, source: &Input, max_tokens: usize) -> Result<(Vec<Vec<u32>>, Trace)> {
    let mut streamer = Streamer { stop: &|_| false, token: &mut |_, _| {} };
    let (all, trace) = write(opened, point, source, &GenerationConfig::new(max_tokens, Choice::Greedy), &mut streamer)?;
    Ok((all.into_iter().map(|m| m.into_iter().flat_map(|w| w.tokens).collect()).collect(), trace))
}

/// Writes an answer to each member of `source`, the best first where there are several. Every pass runs under the rules
/// of the point: a fixed exit ends each step where it ends any pass. A member whose flag is raised ends with the step, and
/// the others go on. Errors where the model does not write, a setting is
/// out of bounds, or the point asks for what this model does not offer.
pub fn write(
    opened: &Opened,
    point: &Point,
    source: &Input,
    how: &GenerationConfig,
    streamer: &mut Streamer,
) -> Result<(Vec<Vec<Generation>>, Trace)> {
    let Some(decoder) = opened.model.decoder() else {
        return Err(Error::input("this model writes no text", "open one for conditional generation, such as t5"));
    };
    // What is written starts with nothing.
    source.check(&opened.model.spec().without("decoder_input_ids"))?;
    if !(1..=MAX_WRITTEN).contains(&how.max_tokens) {
        return Err(Error::input(format!("{} tokens to write", how.max_tokens), format!("1 to {MAX_WRITTEN}")));
    }
    let (vocab, _) = opened.model.spec().text_size()?;
    how.rules.check(vocab)?;
    let inner = |token: &u32| (*token as usize) < vocab;
    if !how.start.iter().chain(&how.ends).flatten().all(inner) {
        return Err(Error::input("a start or end token", format!("must be below {vocab}, the size of the vocabulary")));
    }
    let ends = how.ends.as_deref().unwrap_or(&decoder.ends);
    let starts = match how.start.as_deref() {
        None => vec![decoder.start; source.n()],
        Some([one]) => vec![*one; source.n()],
        Some(each) if each.len() == source.n() => each.to_vec(),
        Some(each) => {
            let what = format!("decoder_start_token_id has {} tokens for {} samples", each.len(), source.n());
            return Err(Error::input(what, "one for all, or one for each"));
        }
    };
    let Resolved { point, rules } = opened.switches.resolve(point)?;
    let mut writer = Decoder {
        starts: &starts,
        model: opened.model.trunk(),
        rules,
        members: source.members(),
        point: &point,
        trace: Trace::default(),
        loads: Loads::default(),
    };
    let before = Before { rules: &how.rules, starts: &starts, ends, max: how.max_tokens, source };
    let ends = Ends { tokens: ends, stop: streamer.stop, max: how.max_tokens };
    let written = match &how.choice {
        Choice::Greedy => one_by_one(&mut writer, &before, &ends, streamer.token, &mut |_, _, row| likeliest(row))?,
        Choice::Sample(s) => {
            s.check()?;
            let draws = sample::Draws::new(point.seed(), source)?;
            let mut pick = |member: usize, step: usize, row: &[f32]| s.pick(row, draws.at(member, step));
            one_by_one(&mut writer, &before, &ends, streamer.token, &mut pick)?
        }
        Choice::Beams(b) => beam::search(&mut writer, &before, &ends, b)?,
    };
    writer.loads.give(&mut writer.trace);
    Ok((written, writer.trace))
}

/// A decoder at work: its records stay as few as one pass makes, however long the text.
struct Decoder<'a> {
    /// The token in front of each member's text.
    starts: &'a [u32],
    model: &'a dyn Staged,
    rules: Vec<Box<dyn BlockRule>>,
    members: &'a Members,
    point: &'a Point,
    trace: Trace,
    loads: Loads,
}

impl Decoder<'_> {
    /// Reads the source and scores what could follow the start token; the memory goes on from there.
    fn begin(&mut self, source: &Input) -> Result<(Memory, Vec<Vec<f32>>)> {
        let mut memory = Memory::new(source.n())?;
        let start = Input::tokens(&self.starts.iter().map(|t| [*t]).collect::<Vec<_>>())?;
        let scores = self.pass(&mut memory, &Input::pair(source.clone(), start)?)?;
        Ok((memory, scores))
    }

    /// Scores of what could follow, one row per token written.
    fn step(&mut self, memory: &mut Memory, tokens: &[u32]) -> Result<Vec<Vec<f32>>> {
        let tokens: Vec<[u32; 1]> = tokens.iter().map(|t| [*t]).collect();
        self.pass(memory, &Input::tokens(&tokens)?)
    }

    fn pass(&mut self, memory: &mut Memory, input: &Input) -> Result<Vec<Vec<f32>>> {
        let (mut taps, mut trace) = (Taps::none(), Trace::default());
        let mut cx = Ctx::new(self.point, &mut taps, &mut trace);
        cx.memory = Some(memory);
        cx.members = self.members.clone();
        let out = run(self.model, &self.rules, &mut cx, input)?;
        let (logits, _) = out.get_rows("logits").ok_or_else(|| {
            Error::point("no scores of words are left at this point", "leave out what answers in the model's stead")
        })?;
        self.loads.take(&mut trace);
        self.trace.macs += trace.macs;
        self.trace.decision_macs += trace.decision_macs;
        for decision in trace.decisions {
            if !self.trace.decisions.contains(&decision) {
                self.trace.decisions.push(decision);
            }
        }
        let logits = logits.to_vec2()?;
        for (i, row) in logits.iter().enumerate() {
            let member = memory.rows().members().get(i).map_or(i, |m| *m as usize);
            Error::unless_finite("logits", member, row)?;
        }
        Ok(logits)
    }
}

/// What is done to scores before a token is chosen.
struct Before<'a> {
    rules: &'a Rules,
    starts: &'a [u32],
    ends: &'a [u32],
    max: usize,
    source: &'a Input,
}

impl Before<'_> {
    /// Applies the rules to the scores of what may follow `written`.
    fn apply(&self, member: usize, written: &[u32], row: &mut [f64]) -> Result<()> {
        let ids = self.source.ids("input_ids")?;
        let source = &ids.ids[ids.rows.range(member)];
        self.rules.apply(&Text { start: self.starts[member], written, source, ends: self.ends, max: self.max }, row);
        Ok(())
    }

    /// The same for f32 scores; nothing is copied where there is no rule.
    fn applied<'r>(&self, member: usize, written: &[u32], row: &'r [f32]) -> Result<Cow<'r, [f32]>> {
        if self.rules.are_none() {
            return Ok(Cow::Borrowed(row));
        }
        let mut wide: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        self.apply(member, written, &mut wide)?;
        Ok(Cow::Owned(wide.into_iter().map(|v| v as f32).collect()))
    }
}

/// Chooses a token from scores `[vocab]`, given the member and the number of the step.
type Pick<'a> = &'a mut dyn FnMut(usize, usize, &[f32]) -> u32;

/// One text per member, one token per step.
fn one_by_one(
    writer: &mut Decoder,
    before: &Before,
    ends: &Ends,
    heard: &mut dyn FnMut(usize, u32),
    pick: Pick,
) -> Result<Vec<Vec<Generation>>> {
    let (mut memory, mut logits) = writer.begin(before.source)?;
    let mut texts: Vec<Generation> =
        (0..before.source.n()).map(|_| Generation { tokens: Vec::new(), score: None, end: End::Length }).collect();
    for step in 0.. {
        let mut on = Vec::with_capacity(logits.len());
        for (i, (member, row)) in memory.rows().members().iter().zip(&logits).enumerate() {
            if writer.members.cancelled(*member) {
                texts[*member as usize].end = End::Cancelled;
                continue;
            }
            let member = *member as usize;
            let token = pick(member, step, &before.applied(member, &texts[member].tokens, row)?);
            texts[member].tokens.push(token);
            heard(member, token);
            match ends.of(&texts[member].tokens) {
                Some(end) => texts[member].end = end,
                None => on.push((i, token)),
            }
        }
        if on.is_empty() {
            break;
        }
        memory.select(&on.iter().map(|(i, _)| *i).collect::<Vec<_>>())?;
        logits = writer.step(&mut memory, &on.into_iter().map(|(_, token)| token).collect::<Vec<_>>())?;
    }
    Ok(texts.into_iter().map(|t| vec![t]).collect())
}

/// The first of the largest.
fn likeliest(row: &[f32]) -> u32 {
    let best =
        row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, v)| if *v > best.1 { (i, *v) } else { best });
    best.0 as u32
}
