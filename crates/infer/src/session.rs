//! A checkpoint folder, opened once, that answers requests.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use serde_json::Value as Json;
use switchformer_data::{Family, Preprocessor, Reader, Tokenizer};
use switchformer_nn::{Folder, Input, Members, Output, Point, Taps};
use switchformer_zoo::{HeadKind, OpenOptions, Opened, account};

use crate::answer::{Answer, Reply, Shape};
use crate::error::{Misfit, Result};
use crate::generate::{End, SETTINGS, Settings, Streamer, write};
use crate::request::{GenerationOptions, Inputs, Request};
use crate::sentence::{Ask, Sentence};
use crate::tasks::classify::Problem;
use crate::tasks::{self, Given};

/// File of the image processor.
const PROCESSOR: &str = "preprocessor_config.json";
/// File that newer folders keep it in, beside other processors.
const JOINT_PROCESSOR: &str = "processor_config.json";
/// Largest file that describes an image processor.
const MAX_PROCESSOR: u64 = 1 << 20;

/// A model with what turns requests into inputs and outputs into answers. Tokenizer and image processor are read when first
/// needed, and once.
pub struct Session {
    /// The model, its switches and its named points.
    pub opened: Opened,
    folder: Option<Folder>,
    head: HeadKind,
    sentence: Option<Sentence>,
    settings: Settings,
    /// What scores of classes mean, where the config says.
    pub(crate) problem: Option<Problem>,
    notes: Vec<String>,
    tokenizer: OnceLock<Tokenizer>,
    reader: OnceLock<Reader>,
    processor: OnceLock<(Preprocessor, Option<String>)>,
    /// Notes that were told while requests were answered, and are not told again.
    told: Mutex<BTreeSet<String>>,
}

/// Who asks: hears what there is to say while a request is answered, and may cancel samples of it.
pub trait Listener {
    /// Something the caller should know, such as a text that was cut.
    fn note(&mut self, _text: &str) {}

    /// Whether generated text is wanted as it grows.
    fn streams(&self) -> bool {
        false
    }

    /// A new piece of the generated text of a sample.
    fn text(&mut self, _sample: usize, _piece: &str) {}

    /// Seeds and cancellation flags of the samples, where they have any of their own: as many as there are inputs.
    fn members(&self) -> Members {
        Members::default()
    }
}

/// Nobody listens.
impl Listener for () {}

impl Session {
    /// Opens a folder on disk, strictly.
    pub fn open(dir: &Path, options: OpenOptions) -> Result<Session> {
        Session::folder(Folder::disk(dir)?, options)
    }

    /// Opens a folder, on disk or compiled in, strictly.
    pub fn folder(folder: Folder, options: OpenOptions) -> Result<Session> {
        let sentence = Sentence::read(&folder)?;
        let folder = sentence.as_ref().map_or_else(|| Ok(folder.clone()), |s| s.transformer(&folder))?;
        let opened = match sentence.as_ref().and_then(Sentence::head) {
            Some(head) => Opened::folder_for(&folder, head, options)?,
            None => Opened::folder(&folder, options)?,
        };
        Session::of(opened, Some(folder), sentence)
    }

    /// The model of a config with random weights: for shapes and timing.
    pub fn random(config: Json, options: OpenOptions) -> Result<Session> {
        Session::of(Opened::random(config, options)?, None, None)
    }

    fn of(opened: Opened, folder: Option<Folder>, sentence: Option<Sentence>) -> Result<Session> {
        let head = opened.entry.head_of(&opened.config)?;
        let mut notes = opened.notes.clone();
        notes.extend(sentence.iter().flat_map(Sentence::notes).map(ToString::to_string));
        if let Some(folder) = &folder {
            notes.extend(crate::account::notes(folder)?);
        }
        let mut settings = Settings::default();
        if let (HeadKind::Generation | HeadKind::EncoderDecoder, Some(folder)) = (head, &folder) {
            let (own, said) = Settings::read(folder, &opened.config)?;
            settings = own;
            notes.extend(said);
        }
        let classifies = matches!(head, HeadKind::SequenceClassification | HeadKind::ImageClassification);
        let problem = if classifies {
            Problem::read(&opened.config, sentence.as_ref().and_then(Sentence::activation_fn))?
        } else {
            None
        };
        let mut unknown = account::unknown(&opened.config);
        // Old files repeat settings of generation here; those of models that write were read above.
        unknown.retain(|key| !SETTINGS.iter().any(|row| row.key == key));
        if !unknown.is_empty() {
            notes.push(format!("config.json: not known here and without effect: {}", unknown.join(", ")));
        }
        let (tokenizer, reader, processor) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Session {
            opened,
            folder,
            head,
            sentence,
            settings,
            problem,
            notes,
            tokenizer,
            reader,
            processor,
            told: Mutex::default(),
        })
    }

    /// What the model's head answers.
    pub fn head(&self) -> HeadKind {
        self.head
    }

    /// Whether texts are answered with generated ones.
    pub fn generates(&self) -> bool {
        matches!(self.head, HeadKind::Generation | HeadKind::EncoderDecoder)
    }

    /// How the checkpoint's author lets it write.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What a user should know of how the folder was read, once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The tokens that the model writes to those of a source, as the checkpoint's settings and `options` say.
    pub fn write_tokens(&self, source: &[u32], options: &GenerationOptions) -> Result<Vec<u32>> {
        let (how, _) = options.writing(&self.settings)?;
        let mut streamer = Streamer { stop: &|_| false, token: &mut |_, _| {} };
        let (written, _) =
            write(&self.opened, &self.opened.point(None)?, &Input::tokens(&[source])?, &how, &mut streamer)?;
        Ok(written.into_iter().flatten().next().map(|best| best.tokens).unwrap_or_default())
    }

    /// How rows become one vector per text, where the folder says.
    pub fn sentence(&self) -> Option<&Sentence> {
        self.sentence.as_ref().filter(|s| s.embeds())
    }

    /// The prompt that is put in front of texts where a request says nothing; empty for none.
    pub fn default_prompt(&self) -> &str {
        self.sentence().and_then(Sentence::default_prompt).map_or("", |(_, text)| text)
    }

    /// The prompt of a request: its own, one that it names, or the folder's default, which a note says.
    fn prompt_of<'a>(&'a self, request: &'a Request, listener: &mut dyn Listener) -> Result<&'a str> {
        let Some(sentence) = self.sentence() else { return Ok("") };
        match (&request.prompt, &request.prompt_name) {
            (Some(text), _) => Ok(text),
            (None, Some(name)) => Ok(sentence.prompt(name)?),
            (None, None) => match sentence.default_prompt() {
                Some((name, text)) if !text.is_empty() && matches!(request.inputs, Inputs::Texts(_)) => {
                    listener.note(&format!(
                        "the folder's default prompt `{name}` ({text:?}) is put in front of every text"
                    ));
                    Ok(text)
                }
                _ => Ok(""),
            },
        }
    }

    /// Tokens of a prompt that the pooling leaves out, the class token included; 0 where it leaves out none.
    pub fn prompt_tokens(&self, prompt: &str) -> Result<usize> {
        if prompt.is_empty() || !self.sentence().is_some_and(Sentence::leaves_out_prompt) {
            return Ok(0);
        }
        let tokenizer = self.tokenizer()?;
        let encoded = tokenizer.encode(&[prompt])?;
        let ids = encoded.first().map_or(&[][..], |e| &e.ids);
        // The special token that ends a text does not end the prompt in front of one.
        Ok(ids.len() - usize::from(ids.last().is_some_and(|id| tokenizer.is_special(*id))))
    }

    /// The folder of the Transformer, where there is one.
    pub(crate) fn transformer(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    /// What files say of images and tokens that has no effect: each note once, to whoever asks first.
    pub(crate) fn first_told(&self, note: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(note.to_string())
    }

    fn dir(&self) -> Option<&Path> {
        match &self.folder {
            Some(Folder::Disk(dir)) => Some(dir),
            _ => None,
        }
    }

    /// The tokenizer. Errors on models of images, and where the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        let (_, max_len) = self.opened.model.spec().text_size().map_err(|_| Misfit::ReadsImages)?;
        once(&self.tokenizer, || {
            let mut tokenizer = Tokenizer::load(self.dir().ok_or(Misfit::NoTokenizer)?, Some(max_len))?;
            if let Some(sentence) = &self.sentence {
                if let Some(max) = sentence.max_tokens() {
                    tokenizer.set_max_length(Some(max.min(max_len)))?;
                }
                if sentence.lower_case() {
                    tokenizer.lower_case()?;
                }
            }
            Ok(tokenizer)
        })
    }

    /// What cuts passages into windows. Errors on models that extract no answers, and where the folder has no tokenizer.
    pub fn reader(&self) -> Result<&Reader> {
        once(&self.reader, || tasks::extract_answer::reader(&self.opened, self.dir().ok_or(Misfit::NoReader)?))
    }

    /// The steps that images go through, and a note where the folder does not say. Errors on models of texts.
    pub(crate) fn processor(&self) -> Result<&(Preprocessor, Option<String>)> {
        let (_, trained, _) = self.opened.model.spec().image_size().map_err(|_| Misfit::ReadsText)?;
        once(&self.processor, || {
            let name = self.opened.entry.name;
            let family = Family::of_model(name);
            if let Some(folder) = &self.folder {
                let stated = |name: &str| Ok::<_, crate::Error>((folder.read(name, MAX_PROCESSOR)?, folder.path(name)));
                if folder.has(JOINT_PROCESSOR) {
                    let (bytes, path) = stated(JOINT_PROCESSOR)?;
                    if let Some(steps) = Preprocessor::from_joint(&bytes, &path, Some(family))? {
                        return Ok((steps, None));
                    }
                }
                if folder.has(PROCESSOR) {
                    let (bytes, path) = stated(PROCESSOR)?;
                    return Ok((Preprocessor::from_bytes(&bytes, &path, Some(family))?, None));
                }
                let (bytes, path) = stated("config.json")?;
                if let Some(steps) = Preprocessor::from_timm(&bytes, &path)? {
                    return Ok((steps, None));
                }
            }
            let steps = Preprocessor::sized_for(family, trained);
            let size = steps.output_size().map_or_else(String::new, |(h, w)| format!(" at {h}x{w} pixels"));
            let note = format!("no {PROCESSOR}: preparing images by the defaults of {name} models{size}");
            Ok((steps, Some(note)))
        })
    }

    /// The operating point of a request. Errors where it is not known, or asks for what the checkpoint does not offer.
    pub fn point(&self, request: &Request) -> Result<Point> {
        let text = match &request.point {
            None => None,
            Some(Json::String(name)) => Some(name.clone()),
            Some(setting) => Some(setting.to_string()),
        };
        let point = self.opened.point(text.as_deref())?;
        Ok(match request.seed {
            Some(seed) => point.with("seed", seed),
            None => point,
        })
    }

    /// What the model reads for these inputs, with the folder's default prompt. Errors on questions: they are read in several
    /// passes.
    pub fn input(&self, inputs: &Inputs, listener: &mut dyn Listener) -> Result<Input> {
        Ok(self.given(inputs, self.default_prompt(), listener)?.input)
    }

    fn given(&self, inputs: &Inputs, prompt: &str, listener: &mut dyn Listener) -> Result<Given> {
        let given = match inputs {
            Inputs::Texts(texts) => tasks::texts(self, texts, prompt, listener)?,
            Inputs::Pairs(pairs) => tasks::pairs(self, pairs, listener)?,
            Inputs::Images(images) => tasks::images(self, images, listener)?,
            Inputs::Tensors(tensors) => tasks::tensors::given(self, tensors)?,
            Inputs::Questions { .. } => return Err(Misfit::ManyPasses.into()),
        };
        let input = given.input.of_members(listener.members())?;
        Ok(Given { input, ..given })
    }

    /// Answers a request.
    pub fn answer(&self, request: &Request) -> Result<Answer> {
        self.answer_to(request, &mut ())
    }

    /// Answers a request of somebody who listens. Errors where the model does not do what is asked, and name what would do.
    pub fn answer_to(&self, request: &Request, listener: &mut dyn Listener) -> Result<Answer> {
        let point = self.point(request)?;
        let n = match &request.inputs {
            Inputs::Texts(texts) => Some(texts.len()),
            Inputs::Pairs(pairs) => Some(pairs.len()),
            Inputs::Questions { questions, .. } => Some(questions.len()),
            Inputs::Images(images) => Some(images.len()),
            Inputs::Tensors(_) => None,
        };
        let generates = matches!(&request.inputs, Inputs::Texts(_)) && self.generates();
        let passes = generates || matches!(&request.inputs, Inputs::Questions { .. });
        if let Inputs::Texts(_) | Inputs::Pairs(_) = &request.inputs {
            match self.head {
                HeadKind::QuestionAnswering => return Err(Misfit::NeedsPassage.into()),
                _ if self.generates() && matches!(&request.inputs, Inputs::Pairs(_)) => {
                    return Err(Misfit::WritesToOneText.into());
                }
                _ => drop(self.tokenizer()?),
            }
        }
        let misfit = match &request.inputs {
            _ if n == Some(0) => Some(Misfit::Nothing),
            _ if request.generation.is_some() && !generates => Some(Misfit::NothingToGenerate),
            _ if request.aggregation.is_some() && self.head != HeadKind::TokenClassification => {
                Some(Misfit::NoTokenClasses)
            }
            _ if request.maps && !matches!(&request.inputs, Inputs::Images(_)) => Some(Misfit::MapsOfImages),
            _ if request.tensors && passes => Some(Misfit::ManyPasses),
            _ => self.misfit_of_sentences(request),
        };
        if let Some(misfit) = misfit {
            return Err(misfit.into());
        }
        let prompt = self.prompt_of(request, listener)?;
        let (results, trace) = match &request.inputs {
            Inputs::Questions { questions, passage } => {
                tasks::extract_answer::replies(self, &point, questions, passage, listener)?
            }
            inputs if generates => {
                let given = self.given(inputs, prompt, listener)?;
                let options = request.generation.clone().unwrap_or_default();
                tasks::generate::replies(self, &point, &given, &options, listener)?
            }
            inputs => {
                let given = self.given(inputs, prompt, listener)?;
                return self.pass(request, point, &given, listener);
            }
        };
        Ok(Answer::new(point, results, trace, request.trace))
    }

    /// Why the options of embeddings do not fit a request.
    fn misfit_of_sentences(&self, request: &Request) -> Option<Misfit> {
        let asked = [
            ("prompt", request.prompt.is_some()),
            ("prompt_name", request.prompt_name.is_some()),
            ("dim", request.dim.is_some()),
        ];
        let (option, _) = asked.into_iter().find(|(_, asked)| *asked)?;
        match (self.sentence(), &request.inputs) {
            (None, _) => Some(Misfit::NoEmbeddings { option }),
            _ if request.prompt.is_some() && request.prompt_name.is_some() => Some(Misfit::TwoPrompts),
            (_, Inputs::Texts(_)) | (_, Inputs::Tensors(_)) if option == "dim" => {
                let sparse = self.sentence().is_some_and(Sentence::is_sparse);
                (request.dim == Some(0) || sparse).then_some(Misfit::NoSuchDim)
            }
            (_, Inputs::Texts(_)) => (request.dim == Some(0)).then_some(Misfit::NoSuchDim),
            _ => Some(Misfit::OptionOfTexts { option }),
        }
    }

    /// One forward pass, read by the kind of the head.
    fn pass(&self, request: &Request, point: Point, given: &Given, listener: &mut dyn Listener) -> Result<Answer> {
        let mut taps = if request.maps { tasks::maps::listen(&self.opened) } else { Taps::none() };
        let (out, trace) = self.opened.run_tapped(&point, &given.input, &mut taps)?;
        let maps =
            request.maps.then(|| tasks::maps::pictures(&self.opened, &taps, given.input.n(), listener)).transpose()?;
        let mut results = given.replies();
        let mut embeddings = Vec::new();
        match self.head {
            _ if !matches!(request.inputs, Inputs::Images(_)) && self.sentence().is_some_and(|s| s.reads(&out)) => {
                let ask = Ask { prompt: given.prompt_tokens, dim: request.dim };
                embeddings = tasks::embed::fill(self, &out, &ask, &mut results)?;
            }
            HeadKind::SequenceClassification | HeadKind::ImageClassification => {
                tasks::classify::fill(self, &out, &mut results)?;
            }
            HeadKind::NextSentence => tasks::classify::next_sentence(&out, "logits", &mut results)?,
            HeadKind::MultipleChoice if !given.seconds.is_empty() => {
                tasks::classify::choices(self, &out, given, &mut results)?;
            }
            HeadKind::PreTraining if !given.encoded.is_empty() => {
                tasks::classify::next_sentence(&out, "seq_relationship_logits", &mut results)?;
                tasks::fill_mask::fill(self, &out, "prediction_logits", given, &mut results, listener)?;
            }
            HeadKind::MaskedLm if !given.encoded.is_empty() => {
                tasks::fill_mask::fill(self, &out, "logits", given, &mut results, listener)?;
            }
            HeadKind::TokenClassification if !given.encoded.is_empty() => {
                tasks::token_classify::fill(self, &out, given, request.aggregation, &mut results)?;
            }
            _ => {}
        }
        if given.input.members().can_cancel() {
            gone(&out, &mut results);
        }
        let tensors = request.tensors.then(|| tasks::tensors::padded(self, &out, given, &embeddings)).transpose()?;
        let outputs = Shape::of_all(&out);
        Ok(Answer { outputs, tensors, maps, ..Answer::new(point, results, trace, request.trace) })
    }
}

/// Says of samples without any output that they were cancelled.
fn gone(out: &Output, replies: &mut [Reply]) {
    for (i, reply) in replies.iter_mut().enumerate() {
        if out.values().keys().all(|name| out.of(name, i).is_err()) {
            reply.end = Some(End::Cancelled);
        }
    }
}

/// The value of a cell, made when first needed.
fn once<T>(cell: &OnceLock<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    if let Some(value) = cell.get() {
        return Ok(value);
    }
    let value = make()?;
    Ok(cell.get_or_init(|| value))
}
