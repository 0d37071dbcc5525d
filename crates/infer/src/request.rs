//! What a model is asked. Every type reads and writes JSON; a field that is not known is refused.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::Value as Json;
use switchformer_data::{Picture, image};
use switchformer_nn::{json, objects};

use crate::error::{Error, Misfit, Result};
use crate::generate::{Beams, Choice, Early, GenerationConfig, Rules, Sampling, Settings};
use crate::named::NamedTensors;
use crate::sentence::Task;

/// Serde for types that read an object from an object alone, and so does everything inside. A type derives its own methods
/// with `remote = "Self"`.
macro_rules! strict {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                <$type>::serialize(self, s)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                switchformer_nn::objects::read_by(d, <$type>::deserialize)
            }
        }
    )*};
}
pub(crate) use strict;

strict!(Request, Inputs, GenerationOptions);

/// One request: inputs, the operating point, and what the answer should hold beside the replies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Request {
    /// What the model reads.
    pub inputs: Inputs,
    /// Operating point: a name of the checkpoint or an object such as `{"bits":4}`; the checkpoint's default where absent.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub point: Option<Json>,
    /// Seed of every random choice, in place of the point's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// How text is generated; for models that do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<GenerationOptions>,
    /// How classes of tokens are joined to entities; for models that classify tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aggregation: Option<Aggregation>,
    /// Text to put in front of every text, for embeddings; empty for none, in place of the folder's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Such a text by its name in the folder, such as `query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_name: Option<String>,
    /// What the texts are to a model of embeddings: each has its prompt, and for vectors of tokens its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// How many numbers of an embedding are kept; all that there are, or as many as the folder says, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dim: Option<usize>,
    /// How many weights of a sparse embedding are kept, the largest; all, or as many as the folder says, where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_active_dims: Option<usize>,
    /// How much the scores of BGE-M3 count in a ranking: dense, sparse, colbert. All alike where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<[f64; 3]>,
    /// Whether the answer tells every decision of the switches.
    #[serde(default, skip_serializing_if = "is_off")]
    pub trace: bool,
    /// Whether the answer holds the raw outputs of the pass.
    #[serde(default, skip_serializing_if = "is_off")]
    pub tensors: bool,
    /// Whether the answer holds feature maps and attention maps as images.
    #[serde(default, skip_serializing_if = "is_off")]
    pub maps: bool,
}

/// A value without duplicate keys; `null` is absence.
fn given<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Json>, D::Error> {
    Ok(Some(json::value(d)?).filter(|v| !v.is_null()))
}

fn is_off(flag: &bool) -> bool {
    !flag
}

impl Request {
    /// A request at the checkpoint's default point, for the replies alone.
    pub fn new(inputs: Inputs) -> Request {
        Request {
            inputs,
            point: None,
            seed: None,
            generation: None,
            aggregation: None,
            prompt: None,
            prompt_name: None,
            task: None,
            dim: None,
            max_active_dims: None,
            weights: None,
            trace: false,
            tensors: false,
            maps: false,
        }
    }
}

/// What the model reads. What becomes of it depends on the model's head.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(remote = "Self", rename_all = "snake_case", deny_unknown_fields)]
pub enum Inputs {
    /// Texts, each on its own.
    Texts(Vec<String>),
    /// Pairs of texts, each read as one input: a query and a passage, a premise and a hypothesis.
    Pairs(Vec<[String; 2]>),
    /// Questions about one passage.
    Questions {
        /// The questions.
        questions: Vec<String>,
        /// The passage that holds the answers.
        passage: String,
    },
    /// Documents to put in order for a query: by a model that scores pairs, or by the embeddings of each.
    Ranking {
        /// What is looked for.
        query: String,
        /// What is looked through.
        documents: Vec<String>,
    },
    /// Images, prepared as the checkpoint says.
    Images(Vec<Image>),
    /// Inputs as the model takes them, by Hugging Face's names.
    Tensors(NamedTensors),
}

/// How classes of tokens are joined to entities. Names are Hugging Face's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Aggregation {
    /// Neighbours of one class are one entity.
    Simple,
    /// The same for words, which have the class of their first token.
    First,
    /// The same for words, which have the likeliest class of their mean probabilities.
    Average,
    /// The same for words, which have the class of their surest token.
    Max,
}

/// An encoded image (PNG, JPEG, WebP, BMP, PPM, TIFF or GIF): `{"name": .., "bytes": base64}` in JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    name: String,
    from: Source,
}

/// Where an image is. JSON cannot name a file: a request from elsewhere must not read files here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Memory(Vec<u8>),
    File(PathBuf),
}

impl Image {
    /// An image in memory; `name` stands for it in replies and errors.
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Image {
        Image { name: name.into(), from: Source::Memory(bytes) }
    }

    /// An image file, which is read when it is needed.
    pub fn file(path: &Path) -> Image {
        Image { name: path.display().to_string(), from: Source::File(path.to_owned()) }
    }

    /// Its name in replies and errors.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The encoded image. Errors where its file cannot be read or is too large.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        Ok(match &self.from {
            Source::Memory(bytes) => Cow::Borrowed(bytes),
            Source::File(path) => Cow::Owned(image::read(path)?),
        })
    }

    /// The decoded image. Errors as [`image::decode`] does.
    pub(crate) fn picture(&self) -> Result<Picture> {
        let label = match &self.from {
            Source::Memory(_) => Path::new(&self.name),
            Source::File(path) => path,
        };
        Ok(image::decode(&self.bytes()?, label)?)
    }
}

/// An image in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageJson<'a> {
    name: Cow<'a, str>,
    bytes: String,
}

impl Serialize for Image {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let bytes = self.bytes().map_err(ser::Error::custom)?;
        ImageJson { name: Cow::Borrowed(&self.name), bytes: BASE64.encode(bytes) }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let ImageJson { name, bytes } = objects::read_by(d, ImageJson::deserialize)?;
        let bad = |e| de::Error::custom(format!("image {name:?}: bytes are not base64 ({e}); encode the file's bytes"));
        Ok(Image::new(name.as_ref(), BASE64.decode(bytes).map_err(bad)?))
    }
}

/// How a text is generated: greedily, or by what is set here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct GenerationOptions {
    /// Most tokens of a text (what the checkpoint says, else 64).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Beam search with this many beams; the best text is the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beams: Option<usize>,
    /// Exponent of the length that a beam's summed log-probability is divided by (1 by default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f64>,
    /// When a beam search stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<Early>,
    /// Sampling temperature; below 1 is less random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Sample among this many likeliest tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Sample among the fewest likeliest tokens whose probabilities sum to this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Sample among tokens with at least this share of the likeliest one's probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f64>,
    /// Least tokens of a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<usize>,
    /// Makes tokens that were written less likely (above 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f64>,
    /// No run of this many tokens is written twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_repeat_ngram_size: Option<usize>,
    /// Texts that end the generated one; they are left out of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
}

/// Most tokens of a text where neither a request nor the checkpoint says.
const MAX_TOKENS: usize = 64;

impl GenerationOptions {
    /// The settings of the decoder: those of the checkpoint, and in front of them what is given here; -> them, and what the
    /// caller should know. Errors on options that would have no effect beside each other.
    pub(crate) fn writing(&self, own: &Settings) -> Result<(GenerationConfig, Vec<String>)> {
        if self.stop.iter().any(String::is_empty) {
            return Err(Misfit::EmptyStop.into());
        }
        let first = |given: &[(bool, &'static str)]| given.iter().find(|(is, _)| *is).map(|(_, name)| *name);
        let sampled = first(&[
            (self.temperature.is_some(), "temperature"),
            (self.top_k.is_some(), "top_k"),
            (self.top_p.is_some(), "top_p"),
            (self.min_p.is_some(), "min_p"),
        ]);
        let searched = first(&[
            (self.length_penalty.is_some(), "length_penalty"),
            (self.early_stopping.is_some(), "early_stopping"),
        ]);
        if self.beams == Some(0) {
            return Err(Error::input("0 beams", "1 or more; one beam is greedy"));
        }
        // One beam is greedy; a request for samples turns the checkpoint's own search off.
        let asked = self.beams.filter(|n| *n > 1);
        let beams = if self.beams.is_some() || sampled.is_some() { asked } else { own.beams };
        if let (Some(_), Some(option)) = (asked, sampled) {
            return Err(Misfit::BesideBeams { option }.into());
        }
        if let (None, Some(option)) = (beams, searched) {
            return Err(Misfit::WithoutBeams { option }.into());
        }
        let choice = match beams {
            Some(_) if own.sample && asked.is_none() => {
                let hint = "give beams, or an option of sampling such as the temperature";
                return Err(Error::input(
                    "the checkpoint asks for beam search with samples, which is not supported",
                    hint,
                ));
            }
            Some(width) => Choice::Beams(Beams {
                width,
                length_penalty: self.length_penalty.or(own.length_penalty).unwrap_or(1.0),
                early: self.early_stopping.or(own.early).unwrap_or_default(),
                keep: 1,
            }),
            None if sampled.is_some() || (own.sample && self.beams.is_none()) => {
                let base = own.sampling;
                Choice::Sample(Sampling {
                    temperature: self.temperature.unwrap_or(base.temperature),
                    top_k: self.top_k.or(base.top_k),
                    top_p: self.top_p.unwrap_or(base.top_p),
                    min_p: self.min_p.unwrap_or(base.min_p),
                    ..base
                })
            }
            None => Choice::Greedy,
        };
        let mut notes = Vec::new();
        if let (Some(n), None, Some(option)) = (own.beams, self.beams, sampled) {
            notes.push(format!("`{option}` asks for samples, which turns the folder's search with {n} beams off"));
        }
        if own.sample && self.beams.is_some() {
            notes.push("`beams` turns the folder's sampling (do_sample) off".to_string());
        }
        let rules = Rules {
            // As in the reference, the number of new tokens goes before the length.
            min_length: if self.min_tokens.is_some() { 0 } else { own.rules.min_length },
            min_tokens: self.min_tokens.unwrap_or(own.rules.min_tokens),
            repetition_penalty: self.repetition_penalty.unwrap_or(own.rules.repetition_penalty),
            no_repeat_ngram_size: self.no_repeat_ngram_size.unwrap_or(own.rules.no_repeat_ngram_size),
            ..own.rules.clone()
        };
        let max_tokens = self.max_tokens.or(own.max_tokens).unwrap_or(MAX_TOKENS);
        let least = rules.min_tokens.max(rules.min_length.saturating_sub(1));
        if least > max_tokens {
            notes.push(format!(
                "a text should have at least {least} tokens and at most {max_tokens}: it ends at {max_tokens}"
            ));
        }
        let (start, ends) = (own.start.clone(), own.ends.clone());
        Ok((GenerationConfig { max_tokens, choice, rules, start, ends }, notes))
    }
}
