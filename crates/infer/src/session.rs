//! A checkpoint folder, opened once, that answers requests.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value as Json;
use switchformer_data::{Family, Preprocessor, Reader, Tokenizer};
use switchformer_nn::{Folder, Input, Members, Output, Point, Taps};
use switchformer_zoo::entry::Trait;
use switchformer_zoo::{HeadKind, OpenOptions, Opened};

use crate::answer::{Answer, Reply, Shape};
use crate::error::{Misfit, Result};
use crate::generate::End;
use crate::pooling::Pooling;
use crate::request::{Inputs, Request};
use crate::tasks::{self, Given};

/// File of the image processor.
const PROCESSOR: &str = "preprocessor_config.json";
/// Largest file that describes an image processor.
const MAX_PROCESSOR: u64 = 1 << 20;

/// A model with what turns requests into inputs and outputs into answers. Tokenizer and image processor are read when first
/// needed, and once.
pub struct Session {
    /// The model, its switches and its named points.
    pub opened: Opened,
    folder: Option<Folder>,
    head: HeadKind,
    pooling: Option<Pooling>,
    tokenizer: OnceLock<Tokenizer>,
    reader: OnceLock<Reader>,
    processor: OnceLock<(Preprocessor, Option<String>)>,
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
        let opened = Opened::folder(&folder, options)?;
        let pooling = Pooling::read(&folder)?;
        Session::of(opened, Some(folder), pooling)
    }

    /// The model of a config with random weights: for shapes and timing.
    pub fn random(config: Json, options: OpenOptions) -> Result<Session> {
        Session::of(Opened::random(config, options)?, None, None)
    }

    fn of(opened: Opened, folder: Option<Folder>, pooling: Option<Pooling>) -> Result<Session> {
        let head = opened.entry.head_of(&opened.config)?;
        let (tokenizer, reader, processor) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Ok(Session { opened, folder, head, pooling, tokenizer, reader, processor })
    }

    /// What the model's head answers.
    pub fn head(&self) -> HeadKind {
        self.head
    }

    /// Whether texts are answered with generated ones.
    pub fn generates(&self) -> bool {
        matches!(self.head, HeadKind::Generation | HeadKind::EncoderDecoder)
    }

    /// How rows become one vector per text, where the folder says.
    pub fn pooling(&self) -> Option<&Pooling> {
        self.pooling.as_ref()
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
        once(&self.tokenizer, || Ok(Tokenizer::load(self.dir().ok_or(Misfit::NoTokenizer)?, Some(max_len))?))
    }

    /// What cuts passages into windows. Errors on models that extract no answers, and where the folder has no tokenizer.
    pub fn reader(&self) -> Result<&Reader> {
        once(&self.reader, || tasks::extract_answer::reader(&self.opened, self.dir().ok_or(Misfit::NoReader)?))
    }

    /// The steps that images go through, and a note where the folder does not say. Errors on models of texts.
    pub(crate) fn processor(&self) -> Result<&(Preprocessor, Option<String>)> {
        self.opened.model.spec().image_size().map_err(|_| Misfit::ReadsText)?;
        once(&self.processor, || {
            let entry = self.opened.entry;
            let family = if entry.is(Trait::CroppedImages) { Family::Deit } else { Family::Vit };
            if let Some(folder) = &self.folder {
                let stated = |name: &str| Ok::<_, crate::Error>((folder.read(name, MAX_PROCESSOR)?, folder.path(name)));
                if folder.has(PROCESSOR) {
                    let (bytes, path) = stated(PROCESSOR)?;
                    return Ok((Preprocessor::from_bytes(&bytes, &path, Some(family))?, None));
                }
                let (bytes, path) = stated("config.json")?;
                if let Some(steps) = Preprocessor::from_timm(&bytes, &path)? {
                    return Ok((steps, None));
                }
            }
            let steps = Preprocessor::default_for(family);
            let size = steps.output_size().map_or_else(String::new, |(h, w)| format!(", which make {h}x{w} pixels"));
            let note = format!("no {PROCESSOR}: preparing images by the defaults of {} models{size}", entry.name);
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

    /// What the model reads for these inputs. Errors on questions: they are read in several passes.
    pub fn input(&self, inputs: &Inputs, listener: &mut dyn Listener) -> Result<Input> {
        Ok(self.given(inputs, listener)?.input)
    }

    fn given(&self, inputs: &Inputs, listener: &mut dyn Listener) -> Result<Given> {
        let given = match inputs {
            Inputs::Texts(texts) => tasks::texts(self, texts, listener)?,
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
            Inputs::Questions { questions, .. } => Some(questions.len()),
            Inputs::Images(images) => Some(images.len()),
            Inputs::Tensors(_) => None,
        };
        let generates = matches!(&request.inputs, Inputs::Texts(_)) && self.generates();
        let passes = generates || matches!(&request.inputs, Inputs::Questions { .. });
        if let Inputs::Texts(_) = &request.inputs {
            match self.head {
                HeadKind::QuestionAnswering => return Err(Misfit::NeedsPassage.into()),
                _ => drop(self.tokenizer()?),
            }
        }
        let misfit = match &request.inputs {
            _ if n == Some(0) => Some(Misfit::Nothing),
            _ if request.generation.is_some() && !generates => Some(Misfit::NothingToGenerate),
            _ if request.maps && !matches!(&request.inputs, Inputs::Images(_)) => Some(Misfit::MapsOfImages),
            _ if request.tensors && passes => Some(Misfit::ManyPasses),
            _ => None,
        };
        if let Some(misfit) = misfit {
            return Err(misfit.into());
        }
        let (results, trace) = match &request.inputs {
            Inputs::Questions { questions, passage } => {
                tasks::extract_answer::replies(self, &point, questions, passage, listener)?
            }
            inputs if generates => {
                let given = self.given(inputs, listener)?;
                let options = request.generation.clone().unwrap_or_default();
                tasks::generate::replies(self, &point, &given, &options, listener)?
            }
            inputs => {
                let given = self.given(inputs, listener)?;
                return self.pass(request, point, &given, listener);
            }
        };
        Ok(Answer::new(point, results, trace, request.trace))
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
            HeadKind::SequenceClassification | HeadKind::ImageClassification => {
                tasks::classify::fill(self, &out, &mut results)?;
            }
            HeadKind::MaskedLm if !given.encoded.is_empty() => {
                tasks::fill_mask::fill(self, &out, given, &mut results, listener)?;
            }
            HeadKind::TokenClassification if !given.encoded.is_empty() => {
                tasks::token_classify::fill(self, &out, given, &mut results)?;
            }
            HeadKind::Encoder | HeadKind::EncoderDecoder if !matches!(request.inputs, Inputs::Images(_)) => {
                embeddings = tasks::embed::fill(self, &out, &mut results)?;
            }
            _ => {}
        }
        if given.input.members().can_cancel() {
            gone(&out, &mut results);
        }
        let tensors = request.tensors.then(|| tasks::tensors::padded(&out, given, &embeddings)).transpose()?;
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
