//! How `run --text` lets a model write: the flags, stop texts, and text shown as it grows.

use std::cell::RefCell;

use serde_json::{Map, Value as Json, json};
use switchformer_data::Tokenizer;
use switchformer_infer::generate::{Beams, Choice, Early, End, Sampling, Watch, Writing, Written, write};
use switchformer_nn::{Input, Point, Trace};
use switchformer_zoo::Opened;

use super::print;
use crate::fail::Fail;

/// Flags of models that write.
#[derive(clap::Args)]
pub(crate) struct Flags {
    /// Most tokens that an encoder-decoder writes for a text (default 64)
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Beam search with this many beams; the best text is shown
    #[arg(long, value_name = "N", conflicts_with_all = ["temperature", "top_k", "top_p", "stream"])]
    beams: Option<usize>,
    /// Power of the length that a beam's sum of log-probabilities is divided by (default 1)
    #[arg(long, value_name = "X", requires = "beams", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// When a beam search stops: `no` (by the reference's estimate), `yes` (as many texts as beams), `never` (when
    /// nothing can improve)
    #[arg(long, value_name = "WHEN", requires = "beams", value_parser = ["no", "yes", "never"])]
    early_stopping: Option<String>,
    /// Draw tokens by chance; below 1 sharpens
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Draw among the K likeliest tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Draw among the likeliest tokens that together reach this chance
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// End a text before this; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Show the text as it is written (one --text, no --json)
    #[arg(long)]
    stream: bool,
}

impl Flags {
    /// The first flag given, if any: they mean nothing to a model that does not write.
    pub(crate) fn given(&self) -> Option<&'static str> {
        let given = [
            (self.max_tokens.is_some(), "--max-tokens"),
            (self.beams.is_some(), "--beams"),
            (self.temperature.is_some(), "--temperature"),
            (self.top_k.is_some(), "--top-k"),
            (self.top_p.is_some(), "--top-p"),
            (!self.stop.is_empty(), "--stop"),
            (self.stream, "--stream"),
        ];
        given.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
    }

    fn writing(&self) -> Writing {
        let plain = Sampling::default();
        let choice = match self.beams {
            Some(width) => Choice::Beams(Beams {
                width,
                length_penalty: self.length_penalty.unwrap_or(1.0),
                early: match self.early_stopping.as_deref() {
                    Some("yes") => Early::Yes,
                    Some("never") => Early::Never,
                    _ => Early::No,
                },
                keep: 1,
            }),
            None if self.temperature.is_some() || self.top_k.is_some() || self.top_p.is_some() => {
                Choice::Sample(Sampling {
                    temperature: self.temperature.unwrap_or(plain.temperature),
                    top_k: self.top_k,
                    top_p: self.top_p.unwrap_or(plain.top_p),
                })
            }
            None => Choice::Greedy,
        };
        Writing { max_tokens: self.max_tokens.unwrap_or(64), choice }
    }

    /// Where the first stop text begins.
    fn cut(&self, text: &str) -> Option<usize> {
        self.stop.iter().filter_map(|s| text.find(s.as_str())).min()
    }

    /// How much of a growing text will not change any more: neither half a character nor the start of a stop text.
    fn settled(&self, text: &str) -> usize {
        let text = &text[..self.cut(text).unwrap_or(text.len())];
        let whole = text.trim_end_matches('\u{FFFD}').len();
        let starts = |at: usize| self.stop.iter().any(|s| s.starts_with(&text[at..]));
        (0..whole).filter(|at| text.is_char_boundary(*at)).find(|at| starts(*at)).unwrap_or(whole)
    }

    /// Writes an answer to each text. With `--stream` it is shown as it grows.
    pub(crate) fn answers(
        &self,
        opened: &Opened,
        point: &Point,
        tokenizer: &Tokenizer,
        texts: &[String],
        source: &Input,
        as_json: bool,
    ) -> Result<(Vec<Map<String, Json>>, Trace), Fail> {
        if self.stream && (as_json || texts.len() != 1) {
            return Err(Fail::Usage("--stream shows one text as it grows: give one --text and no --json".into()));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Fail::Usage("--stop \"\" would end every text before it starts".into()));
        }
        // A failure inside the callbacks ends the writing and is told afterwards.
        let failed: RefCell<Option<Fail>> = RefCell::new(None);
        let decode = |tokens: &[u32]| {
            tokenizer.decode(tokens, true).unwrap_or_else(|e| {
                failed.borrow_mut().get_or_insert(e.into());
                String::new()
            })
        };
        let stop = |tokens: &[u32]| {
            let hit = !self.stop.is_empty() && self.cut(&decode(tokens)).is_some();
            hit || failed.borrow().is_some()
        };
        let (mut grown, mut shown) = (Vec::new(), 0);
        let mut show = |_: usize, token: u32| {
            if self.stream {
                grown.push(token);
                let text = decode(&grown);
                let to = self.settled(&text);
                if let Some(new) = text.get(shown..to).filter(|new| !new.is_empty()) {
                    if let Err(e) = print(new) {
                        failed.borrow_mut().get_or_insert(e);
                    }
                    shown = to;
                }
            }
        };
        let mut watch = Watch { stop: &stop, token: &mut show };
        let (written, trace) = write(opened, point, source, &self.writing(), &mut watch)?;
        let mut answers = Vec::with_capacity(texts.len());
        for (input, best) in texts.iter().zip(written.into_iter().filter_map(|all| all.into_iter().next())) {
            let full = decode(&best.tokens);
            let text = &full[..self.cut(&full).unwrap_or(full.len())];
            if self.stream {
                print(&format!("{}\n", text.get(shown..).unwrap_or_default()))?;
            }
            answers.push(answer(input, text, best));
        }
        match failed.into_inner() {
            Some(e) => Err(e),
            None => Ok((answers, trace)),
        }
    }

    /// Whether the text was shown already.
    pub(crate) fn streamed(&self) -> bool {
        self.stream
    }
}

fn answer(input: &str, text: &str, best: Written) -> Map<String, Json> {
    let end = match best.end {
        End::Token => "token",
        End::Stop => "stop",
        End::Length => "length",
    };
    let mut answer = Map::from_iter([
        ("input".into(), json!(input)),
        ("text".into(), json!(text)),
        ("tokens".into(), json!(best.tokens)),
        ("end".into(), json!(end)),
    ]);
    if let Some(score) = best.score {
        answer.insert("score".into(), json!(score));
    }
    answer
}
