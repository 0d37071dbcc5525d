//! How a checkpoint's author lets it write: `generation_config.json`, or the same fields of an old `config.json`.

use serde_json::Value;
use switchformer_nn::account::{Handling, Key, unknown_keys};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Error, Folder, Result};
use switchformer_zoo::open::MAX_CONFIG;

use super::{Early, MAX_WRITTEN, Rules, Sampling};

const FILE: &str = "generation_config.json";

/// Most tokens of one sequence that a rule names.
const MAX_SEQUENCE: usize = 1024;

/// How the checkpoint's author lets it write; flags and requests override it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Most tokens to write.
    pub max_tokens: Option<usize>,
    /// Beams, above 1.
    pub beams: Option<usize>,
    /// Exponent of the length in the score of a beam.
    pub length_penalty: Option<f64>,
    /// When a beam search stops.
    pub early: Option<Early>,
    /// Whether tokens are drawn where a request does not say.
    pub sample: bool,
    /// How scores become chances where tokens are drawn.
    pub sampling: Sampling,
    /// What changes scores.
    pub rules: Rules,
    /// The token that stands in front: one for all samples, or one for each.
    pub start: Option<Vec<u32>>,
    /// Tokens that end a text.
    pub ends: Option<Vec<u32>>,
}

const fn applied(key: &'static str, why: &'static str) -> Key {
    Key::new(FILE, key, Handling::Applied, why)
}

const fn none(key: &'static str, why: &'static str) -> Key {
    Key::new(FILE, key, Handling::NoEffect, why)
}

const fn only(key: &'static str, value: &'static str, why: &'static str) -> Key {
    Key::new(FILE, key, Handling::OnlyDefault(value), why)
}

/// Every key of `generation_config.json` that the reference reads.
pub static SETTINGS: &[Key] = &[
    applied("max_length", "most tokens, the start token included"),
    applied("max_new_tokens", "most tokens to write"),
    applied("min_length", "least tokens, the start token included"),
    applied("min_new_tokens", "least tokens to write"),
    applied("do_sample", "draws tokens"),
    applied("num_beams", "beam search"),
    applied("length_penalty", "of beam search"),
    applied("early_stopping", "of beam search"),
    applied("temperature", "of sampling"),
    applied("top_k", "of sampling"),
    applied("top_p", "of sampling"),
    applied("min_p", "of sampling"),
    applied("typical_p", "of sampling"),
    applied("epsilon_cutoff", "of sampling"),
    applied("eta_cutoff", "of sampling"),
    applied("repetition_penalty", "tokens that were written"),
    applied("encoder_repetition_penalty", "tokens of the source"),
    applied("no_repeat_ngram_size", "runs that were written"),
    applied("encoder_no_repeat_ngram_size", "runs of the source"),
    applied("bad_words_ids", "sequences that are not written"),
    applied("sequence_bias", "sequences that are favoured or not"),
    applied("suppress_tokens", "tokens that are not written"),
    applied("begin_suppress_tokens", "tokens that are not written first"),
    applied("forced_bos_token_id", "the first token"),
    applied("forced_eos_token_id", "the last token at the full length"),
    applied("exponential_decay_length_penalty", "ends become likelier"),
    applied("renormalize_logits", "whether scores that rules changed are made probabilities again, in beam search"),
    applied("decoder_start_token_id", "the token in front: one for all texts, or one for each"),
    applied("bos_token_id", "the token in front where no other is named"),
    applied("eos_token_id", "tokens that end a text"),
    none("pad_token_id", "nothing is padded"),
    none("num_return_sequences", "the best text is the answer"),
    none("output_scores", "asks for more outputs"),
    none("output_logits", "asks for more outputs"),
    none("output_attentions", "asks for more outputs"),
    none("output_hidden_states", "asks for more outputs"),
    none("return_dict_in_generate", "asks for more outputs"),
    none("use_cache", "how the reference computes, not what"),
    none("cache_implementation", "how the reference computes, not what"),
    none("cache_config", "how the reference computes, not what"),
    none("return_legacy_cache", "how the reference computes, not what"),
    none("prefill_chunk_size", "how the reference computes, not what"),
    none("low_memory", "how the reference computes, not what"),
    none("compile_config", "how the reference computes, not what"),
    none("disable_compile", "how the reference computes, not what"),
    none("is_assistant", "of a second model"),
    none("num_assistant_tokens", "of a second model"),
    none("num_assistant_tokens_schedule", "of a second model"),
    none("assistant_confidence_threshold", "of a second model"),
    none("assistant_early_exit", "of a second model"),
    none("assistant_lookbehind", "of a second model"),
    none("target_lookbehind", "of a second model"),
    none("max_matching_ngram_size", "of guesses from the prompt"),
    none("prompt_lookup_num_tokens", "guesses change no token"),
    none("_from_model_config", "where the file comes from"),
    none("transformers_version", "where the file comes from"),
    none("trust_remote_code", "nothing in a folder is executed"),
    none("custom_generate", "nothing in a folder is executed"),
    only("max_time", "null", "a limit of time is not supported"),
    only("num_beam_groups", "1", "diverse beam search is not supported"),
    only("diversity_penalty", "0.0", "diverse beam search is not supported"),
    only("penalty_alpha", "null", "contrastive search is not supported"),
    only("constraints", "null", "constrained beam search is not supported"),
    only("force_words_ids", "null", "constrained beam search is not supported"),
    only("forced_decoder_ids", "null", "write forced_bos_token_id for the first token"),
    only("guidance_scale", "null", "guidance is not supported"),
    only("remove_invalid_values", "false", "scores that are not finite are an error"),
    only("stop_strings", "null", "give --stop TEXT"),
    only("token_healing", "false", "is not supported"),
    only("top_h", "null", "is not supported"),
    only("dola_layers", "null", "is not supported"),
    only("watermarking_config", "null", "is not supported"),
];

impl Settings {
    /// Reads the settings of a folder; -> them, and what is to be noted of keys that nothing here knows.
    pub(crate) fn read(folder: &Folder, config: &ConfigMap) -> Result<(Settings, Vec<String>)> {
        if !folder.has(FILE) {
            return Ok((Settings::of(config)?, Vec::new()));
        }
        let own = ConfigMap::new(folder.json(FILE, MAX_CONFIG)?)?;
        let unknown = unknown_keys(own.as_map(), FILE, SETTINGS)?;
        let notes = unknown.into_iter().map(|key| format!("{FILE}: `{key}` is not known here and has no effect"));
        let mut settings = Settings::of(&own).map_err(|e| match e {
            Error::Config { field, what } => Error::Config { field: format!("{FILE}: {field}"), what },
            e => e,
        })?;
        // Where this file names no start token, what `config.json` says does not count, and the token that begins texts does.
        if settings.start.is_none() && own.get("bos_token_id").is_some() {
            settings.start = Some(own.ids("bos_token_id", 0, u32::MAX as usize)?);
        }
        Ok((settings, notes.collect()))
    }

    fn of(c: &ConfigMap) -> Result<Settings> {
        let count = |field: &str, max: usize| c.get(field).map(|_| c.int(field, None, max)).transpose();
        let number = |field: &str, default: f64| c.float(field, default, -1e6, 1e6);
        let ids = |field: &str| c.get(field).map(|_| c.ids(field, 0, u32::MAX as usize)).transpose();
        // A rule that is below 0 is off, as one of 0 is.
        let least = |field: &str, max: usize| match c.get(field).and_then(Value::as_i64) {
            Some(n) if n < 0 => Ok(None),
            _ => count(field, max),
        };
        let some_ids = |field: &str| ids_of(c, field);
        let (plain, sample) = (Sampling::default(), c.flag("do_sample", false)?);
        let min_tokens = least("min_new_tokens", MAX_WRITTEN)?;
        let rules = Rules {
            sequence_bias: biases(c)?,
            encoder_repetition_penalty: number("encoder_repetition_penalty", 1.0)?,
            repetition_penalty: number("repetition_penalty", 1.0)?,
            no_repeat_ngram_size: least("no_repeat_ngram_size", MAX_SEQUENCE)?.unwrap_or(0),
            encoder_no_repeat_ngram_size: least("encoder_no_repeat_ngram_size", MAX_SEQUENCE)?.unwrap_or(0),
            bad_words: sequences(c, "bad_words_ids")?,
            // The reference takes the number of new tokens where both are said.
            min_length: least("min_length", MAX_WRITTEN)?.filter(|_| min_tokens.is_none()).unwrap_or(0),
            min_tokens: min_tokens.unwrap_or(0),
            renormalize: c.flag("renormalize_logits", false)?,
            forced_bos: ids("forced_bos_token_id")?.and_then(|l| l.first().copied()),
            forced_eos: ids("forced_eos_token_id")?.unwrap_or_default(),
            exponential_decay: decay(c)?,
            suppress: some_ids("suppress_tokens")?,
            begin_suppress: some_ids("begin_suppress_tokens")?,
        };
        let length = count("max_length", 1 << 30)?.map(|n| n.saturating_sub(1).max(1));
        let beams = c.get("num_beams").map(|_| c.size("num_beams", None, 1 << 16)).transpose()?;
        Ok(Settings {
            max_tokens: count("max_new_tokens", 1 << 30)?.or(length).map(|n| n.min(MAX_WRITTEN)),
            beams: beams.filter(|n| *n > 1),
            length_penalty: c.get("length_penalty").map(|_| number("length_penalty", 1.0)).transpose()?,
            early: match c.get("early_stopping") {
                None => None,
                Some(Value::Bool(true)) => Some(Early::Yes),
                Some(Value::Bool(false)) => Some(Early::No),
                Some(Value::String(s)) if s == "never" => Some(Early::Never),
                Some(_) => return Err(Error::config("early_stopping", "must be true, false or \"never\"")),
            },
            sample,
            sampling: Sampling {
                temperature: number("temperature", plain.temperature)?,
                // The reference draws among 50 where a file that asks for draws does not say.
                top_k: count("top_k", 1 << 30)?.or(sample.then_some(50)).filter(|k| *k > 0),
                top_p: number("top_p", plain.top_p)?,
                min_p: number("min_p", plain.min_p)?,
                typical_p: number("typical_p", plain.typical_p)?,
                epsilon_cutoff: number("epsilon_cutoff", plain.epsilon_cutoff)?,
                eta_cutoff: number("eta_cutoff", plain.eta_cutoff)?,
            },
            rules,
            start: ids("decoder_start_token_id")?,
            // No token at all ends a text where the list is empty.
            ends: match c.get("eos_token_id") {
                Some(Value::Array(list)) if list.is_empty() => Some(Vec::new()),
                _ => ids("eos_token_id")?,
            },
        })
    }
}

/// A token.
fn id(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|n| u32::try_from(n).ok())
}

/// One sequence of tokens.
fn sequence(v: &Value) -> Option<Vec<u32>> {
    v.as_array().filter(|l| (1..=MAX_SEQUENCE).contains(&l.len()))?.iter().map(id).collect()
}

fn ids_of(c: &ConfigMap, field: &str) -> Result<Vec<u32>> {
    Ok(c.list(field, 0..=1 << 20, "tokens", id)?.unwrap_or_default())
}

fn sequences(c: &ConfigMap, field: &str) -> Result<Vec<Vec<u32>>> {
    Ok(c.list(field, 0..=100_000, "lists of tokens", sequence)?.unwrap_or_default())
}

/// `[[[tokens], bias], ..]`, as the reference writes it.
fn biases(c: &ConfigMap) -> Result<Vec<(Vec<u32>, f64)>> {
    let one = |v: &Value| match v.as_array()?.as_slice() {
        [tokens, bias] => Some((sequence(tokens)?, bias.as_f64()?)),
        _ => None,
    };
    Ok(c.list("sequence_bias", 0..=100_000, "pairs of a list of tokens and a number", one)?.unwrap_or_default())
}

/// `[start, factor]`.
fn decay(c: &ConfigMap) -> Result<Option<(usize, f64)>> {
    let Some(pair) = c.list("exponential_decay_length_penalty", 2..=2, "numbers", Value::as_f64)? else {
        return Ok(None);
    };
    let (from, factor) = (pair[0], pair[1]);
    if !((0.0..=1e6).contains(&from) && from.fract() == 0.0 && factor > 0.0 && factor <= 10.0) {
        let what = "must be a whole number of tokens and a factor above 0, up to 10";
        return Err(Error::config("exponential_decay_length_penalty", what));
    }
    Ok(Some((from as usize, factor)))
}
