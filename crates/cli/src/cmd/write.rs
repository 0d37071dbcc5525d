//! How `run --text` lets a model write: the flags, and text shown as it grows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use switchformer_infer::generate::Early;
use switchformer_infer::{GenerationOptions, Listener};
use switchformer_nn::{Member, Members};

use super::print;
use crate::fail::Fail;
use crate::say::Notes;

/// Flags of models that write.
#[derive(clap::Args)]
#[command(next_help_heading = "Text generation (encoder-decoders such as T5)")]
pub(crate) struct Flags {
    /// Most tokens that an encoder-decoder writes for a text [default: the folder's, else 64]
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Beam search with this many beams; the best text is shown
    #[arg(long, value_name = "N", conflicts_with_all = ["temperature", "top_k", "top_p", "stream"])]
    beams: Option<usize>,
    /// Length penalty of beam search: exponent of the length, as in Transformers [default: the folder's, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    length_penalty: Option<f64>,
    /// When beam search stops, as `early_stopping` of Transformers: `yes` (True), `no` (False) or `never`
    #[arg(long, value_name = "WHEN", value_parser = ["no", "yes", "never"])]
    early_stopping: Option<String>,
    /// Sampling temperature; below 1 is less random
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample among the K most probable tokens
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Nucleus sampling: among the smallest set of tokens whose probabilities sum to P
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f64>,
    /// Sample among tokens with at least this share of the most probable one's probability
    #[arg(long, value_name = "P", allow_negative_numbers = true, conflicts_with = "beams")]
    min_p: Option<f64>,
    /// Least tokens of a text
    #[arg(long, value_name = "N")]
    min_tokens: Option<usize>,
    /// Makes tokens that were written less likely (above 1)
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    repetition_penalty: Option<f64>,
    /// Write no run of N tokens twice
    #[arg(long, value_name = "N")]
    no_repeat_ngram_size: Option<usize>,
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
            (self.length_penalty.is_some(), "--length-penalty"),
            (self.early_stopping.is_some(), "--early-stopping"),
            (self.temperature.is_some(), "--temperature"),
            (self.top_k.is_some(), "--top-k"),
            (self.top_p.is_some(), "--top-p"),
            (self.min_p.is_some(), "--min-p"),
            (self.min_tokens.is_some(), "--min-tokens"),
            (self.repetition_penalty.is_some(), "--repetition-penalty"),
            (self.no_repeat_ngram_size.is_some(), "--no-repeat-ngram-size"),
            (!self.stop.is_empty(), "--stop"),
            (self.stream, "--stream"),
        ];
        given.into_iter().find(|(is, _)| *is).map(|(_, name)| name)
    }

    /// The options of generation, where any flag is given.
    pub(crate) fn options(&self) -> Option<GenerationOptions> {
        self.given()?;
        Some(GenerationOptions {
            max_tokens: self.max_tokens,
            beams: self.beams,
            length_penalty: self.length_penalty,
            early_stopping: self.early_stopping.as_deref().map(|when| match when {
                "yes" => Early::Yes,
                "never" => Early::Never,
                _ => Early::No,
            }),
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            min_tokens: self.min_tokens,
            repetition_penalty: self.repetition_penalty,
            no_repeat_ngram_size: self.no_repeat_ngram_size,
            stop: self.stop.clone(),
        })
    }

    /// Where notes, and text as it grows, are shown.
    pub(crate) fn terminal(&self) -> Terminal {
        Terminal { shown: self.stream.then(Shown::default) }
    }
}

/// Shows notes, and with `--stream` the one text as it grows.
pub(crate) struct Terminal {
    shown: Option<Shown>,
}

/// A text that is shown as it grows.
#[derive(Default)]
struct Shown {
    /// Raised where it can be shown no more: nobody waits for the rest.
    over: Arc<AtomicBool>,
    failed: Option<Fail>,
}

impl Terminal {
    /// Whether text is shown as it grows.
    pub(crate) fn shows(&self) -> bool {
        self.shown.is_some()
    }

    /// Errors where something could not be shown.
    pub(crate) fn check(self) -> Result<(), Fail> {
        self.shown.and_then(|shown| shown.failed).map_or(Ok(()), Err)
    }
}

impl Listener for Terminal {
    fn note(&mut self, text: &str) {
        Notes.note(text);
    }

    fn streams(&self) -> bool {
        self.shows()
    }

    fn text(&mut self, _: usize, piece: &str) {
        let Some(shown) = &mut self.shown else { return };
        if let Err(e) = print(piece) {
            shown.failed.get_or_insert(e);
            shown.over.store(true, Ordering::Relaxed);
        }
    }

    fn members(&self) -> Members {
        let one = |shown: &Shown| Member { cancelled: Some(shown.over.clone()), ..Member::default() };
        self.shown.as_ref().map_or_else(Members::default, |shown| Members::new([one(shown)]))
    }
}
