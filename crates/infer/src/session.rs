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
use crate::sentence::{Ask, Expansion, Sentence, Task};
use crate::tasks::classify::Problem;
use crate::tasks::{self, Given, Put};

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
    /// The same for queries and for documents, where these have lengths of their own.
    tokenizers: [OnceLock<Tokenizer>; 2],
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
            // sentence-transformers leaves its mark in the config of a reranker.
            let pairs = sentence.as_ref().is_some_and(Sentence::scores_pairs)
                || opened.config.sub("sentence_transformers")?.is_some();
            Problem::read(&opened.config, sentence.as_ref().and_then(Sentence::activation_fn), pairs)?
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
        let tokenizers = [OnceLock::new(), OnceLock::new()];
        Ok(Session {
            opened,
            folder,
            head,
            sentence,
            settings,
            problem,
            notes,
            tokenizer,
            tokenizers,
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

    /// What has prompts: a folder of embeddings, or a reranker.
    fn prompts(&self) -> Option<&Sentence> {
        self.sentence.as_ref().filter(|s| s.embeds() || s.scores_pairs())
    }

    /// How texts are put where a request says nothing: behind the folder's default prompt, or as documents where every token
    /// has a vector.
    fn usual(&self) -> Put<'_> {
        let Some(sentence) = self.prompts() else { return Put::default() };
        match sentence.is_multi_vector() {
            true => self.as_task(Task::Document),
            false => Put { prompt: sentence.default_prompt().map_or("", |(_, text)| text), task: None },
        }
    }

    /// How texts of a task are put.
    fn as_task(&self, task: Task) -> Put<'_> {
        let prompt = self.prompts().and_then(|s| s.prompt(task.name()).ok()).unwrap_or_default();
        Put { prompt, task: Some(task) }
    }

    /// How the texts of a request are put: behind its own prompt, one that it names, that of its task, or as usual, which a
    /// note says.
    fn put_of<'a>(&'a self, request: &'a Request, listener: &mut dyn Listener) -> Result<Put<'a>> {
        let Some(sentence) = self.prompts() else { return Ok(Put::default()) };
        if !matches!(request.inputs, Inputs::Texts(_) | Inputs::Pairs(_) | Inputs::Ranking { .. }) {
            return Ok(Put::default());
        }
        let named =
            [Task::Query, Task::Document].into_iter().find(|t| request.prompt_name.as_deref() == Some(t.name()));
        let several = sentence.is_multi_vector();
        let task = request.task.or(named.filter(|_| several)).or(several.then_some(Task::Document));
        if several && request.task.or(named).is_none() && !matches!(request.inputs, Inputs::Ranking { .. }) {
            listener.note("texts are read as documents; give the task `query` for queries");
        }
        let prompt = match (&request.prompt, &request.prompt_name, task) {
            (Some(text), ..) => text,
            (None, Some(name), _) => sentence.prompt(name)?,
            (None, None, Some(task)) => sentence.prompt(task.name())?,
            (None, None, None) => match sentence.default_prompt() {
                Some((name, text)) if !text.is_empty() => {
                    let what = if sentence.scores_pairs() { "the first text of every pair" } else { "every text" };
                    listener
                        .note(&format!("the folder's default prompt `{name}` ({text:?}) is put in front of {what}"));
                    text
                }
                _ => "",
            },
        };
        Ok(Put { prompt, task })
    }

    /// The prompt that is put in front of texts where a request says nothing; empty for none.
    pub fn default_prompt(&self) -> &str {
        self.usual().prompt
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

    /// What files say of images and tokens that has no effect: each note once, to whoever asks first.
    pub(crate) fn first_told(&self, note: &str) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(note.to_string())
    }

    /// The folder of the model, which may lie below the one that was opened (`0_Transformer`).
    pub fn model_folder(&self) -> Option<&Folder> {
        self.folder.as_ref()
    }

    fn dir(&self) -> Option<&Path> {
        match &self.folder {
            Some(Folder::Disk(dir)) => Some(dir),
            _ => None,
        }
    }

    /// The tokenizer. Errors on models of images, and where the folder has none.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        once(&self.tokenizer, || self.load_tokenizer(self.sentence.as_ref().and_then(Sentence::max_tokens)))
    }

    /// The tokenizer for texts of a task, which may have a length of its own.
    pub(crate) fn tokenizer_for(&self, task: Option<Task>) -> Result<&Tokenizer> {
        let length = task.and_then(|task| Some((task, self.sentence.as_ref()?.length(task)?)));
        match length {
            None => self.tokenizer(),
            Some((task, max)) => {
                let cell = &self.tokenizers[usize::from(task == Task::Document)];
                once(cell, || self.load_tokenizer(Some(max)))
            }
        }
    }

    fn load_tokenizer(&self, max: Option<usize>) -> Result<Tokenizer> {
        let (_, max_len) = self.opened.model.spec().text_size().map_err(|_| Misfit::ReadsImages)?;
        let mut tokenizer = Tokenizer::of_model(self.dir().ok_or(Misfit::NoTokenizer)?, Some(max_len))?;
        if let Some(max) = max {
            tokenizer.set_max_length(Some(max.min(max_len)))?;
        }
        for marker in self.sentence.iter().flat_map(|s| s.markers()) {
            // A marker with the space behind it may be a token, or the word alone.
            let word = marker.split_whitespace().next().unwrap_or_default();
            if !tokenizer.keep_whole(marker)? {
                tokenizer.keep_whole(word)?;
            }
        }
        Ok(tokenizer)
    }

    /// Ids of the tokens that do not count among vectors of tokens. Words that are no token are left out, as in the reference.
    pub(crate) fn skipped(&self) -> Result<Vec<u32>> {
        let words = self.sentence.as_ref().map_or(&[][..], Sentence::skipped);
        if words.is_empty() {
            return Ok(Vec::new());
        }
        let tokenizer = self.tokenizer()?;
        Ok(words.iter().filter_map(|word| tokenizer.token_to_id(word)).collect())
    }

    /// The token that queries are filled up with. Errors where there is none.
    pub(crate) fn filling(&self, expansion: &Expansion) -> Result<u32> {
        let (tokenizer, (_, max_len)) = (self.tokenizer()?, self.opened.model.spec().text_size()?);
        if expansion.length > max_len {
            let what = format!("queries are filled up to {} tokens, and the model reads {max_len}", expansion.length);
            return Err(crate::Error::input(what, "lower the length of query_expansion"));
        }
        let token = expansion.token.as_deref().or(tokenizer.mask_token());
        token.and_then(|token| tokenizer.token_to_id(token)).ok_or_else(|| {
            let what = format!("queries are filled up with {}, which the tokenizer lacks", token.unwrap_or("a mask"));
            crate::Error::input(what, "name one of its tokens as `token` of query_expansion")
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
        Ok(self.given(inputs, self.usual(), listener)?.input)
    }

    fn given(&self, inputs: &Inputs, put: Put, listener: &mut dyn Listener) -> Result<Given> {
        let given = match inputs {
            Inputs::Texts(texts) => tasks::texts(self, texts, |_| put, listener)?,
            Inputs::Pairs(pairs) => tasks::pairs(self, pairs, put.prompt, listener)?,
            Inputs::Ranking { query, documents } if self.sentence().is_some() => {
                let all: Vec<String> = std::iter::once(query).chain(documents).cloned().collect();
                let put = |i: usize| self.as_task(if i == 0 { Task::Query } else { Task::Document });
                tasks::texts(self, &all, put, listener)?
            }
            Inputs::Ranking { query, documents } => {
                let pairs: Vec<[String; 2]> = documents.iter().map(|d| [query.clone(), d.clone()]).collect();
                tasks::pairs(self, &pairs, put.prompt, listener)?
            }
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
            Inputs::Ranking { documents, .. } => Some(documents.len()),
            Inputs::Images(images) => Some(images.len()),
            Inputs::Tensors(_) => None,
        };
        let generates = matches!(&request.inputs, Inputs::Texts(_)) && self.generates();
        let passes = generates || matches!(&request.inputs, Inputs::Questions { .. });
        if let Inputs::Texts(_) | Inputs::Pairs(_) | Inputs::Ranking { .. } = &request.inputs {
            match self.head {
                _ if matches!(&request.inputs, Inputs::Ranking { .. }) && !self.ranks() => {
                    return Err(Misfit::CannotRank.into());
                }
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
            Inputs::Questions { questions, passage } if self.head == HeadKind::QuestionAnswering => {
                self.misfit_of_sentences(request).or_else(|| tasks::extract_answer::misfit(questions, passage))
            }
            _ => self.misfit_of_sentences(request),
        };
        if let Some(misfit) = misfit {
            return Err(misfit.into());
        }
        let put = self.put_of(request, listener)?;
        let (results, trace) = match &request.inputs {
            Inputs::Questions { questions, passage } => {
                tasks::extract_answer::replies(self, &point, questions, passage, listener)?
            }
            inputs if generates => {
                let given = self.given(inputs, put, listener)?;
                let options = request.generation.clone().unwrap_or_default();
                tasks::generate::replies(self, &point, &given, &options, listener)?
            }
            inputs => {
                let given = self.given(inputs, put, listener)?;
                return self.pass(request, point, &given, listener);
            }
        };
        Ok(Answer::new(point, results, trace, request.trace))
    }

    /// Whether documents can be put in order: by embeddings, or by one score for a pair.
    fn ranks(&self) -> bool {
        let pairs =
            self.head == HeadKind::SequenceClassification && self.opened.config.n_labels().is_ok_and(|n| n == 1);
        self.sentence().is_some() || pairs
    }

    /// Why the options of embeddings do not fit a request.
    fn misfit_of_sentences(&self, request: &Request) -> Option<Misfit> {
        let of_prompts = [("prompt", request.prompt.is_some()), ("prompt_name", request.prompt_name.is_some())];
        let of_embeddings = [
            ("task", request.task.is_some()),
            ("dim", request.dim.is_some()),
            ("max_active_dims", request.max_active_dims.is_some()),
            ("weights", request.weights.is_some()),
        ];
        let given = |all: &[(&'static str, bool)]| all.iter().find(|(_, given)| *given).map(|(option, _)| *option);
        let (prompt, option) = (given(&of_prompts), given(&of_embeddings));
        let (texts, tensors) =
            (matches!(request.inputs, Inputs::Texts(_)), matches!(request.inputs, Inputs::Tensors(_)));
        let ranking = matches!(request.inputs, Inputs::Ranking { .. });
        match (self.sentence(), prompt.or(option)) {
            (_, None) => None,
            _ if request.prompt.is_some() && request.prompt_name.is_some() => Some(Misfit::TwoPrompts),
            (None, Some(_)) if option.is_none() && self.prompts().is_some() => {
                let pairs = matches!(request.inputs, Inputs::Pairs(_));
                prompt.filter(|_| !(texts || pairs || ranking)).map(|option| Misfit::OptionOfTexts { option })
            }
            (None, Some(option)) => Some(Misfit::NoEmbeddings { option }),
            (Some(sentence), Some(_)) => {
                let other = |option, of| Some(Misfit::OtherEmbeddings { option, of });
                match () {
                    () if prompt.is_some() && !texts => prompt.map(|option| Misfit::OptionOfTexts { option }),
                    () if request.task.is_some() && !texts => Some(Misfit::OptionOfTexts { option: "task" }),
                    () if !(texts || tensors || ranking) => option.map(|option| Misfit::OptionOfTexts { option }),
                    () if request.dim == Some(0) => Some(Misfit::NoSuchDim),
                    () if request.max_active_dims == Some(0) => Some(Misfit::NoSuchWeights),
                    () if request.dim.is_some() && (sentence.is_sparse() || sentence.is_multi_vector()) => {
                        other("dim", "embeddings of one dense vector")
                    }
                    () if request.max_active_dims.is_some() && !sentence.is_sparse() => {
                        other("max_active_dims", "sparse embeddings")
                    }
                    () if request.weights.is_some() && (sentence.m3().is_none() || !ranking) => {
                        other("weights", "rankings by the three embeddings of BGE-M3")
                    }
                    () if request.weights.is_some_and(|w| !fair(w)) => Some(Misfit::BadWeights),
                    () => None,
                }
            }
        }
    }

    /// One forward pass, read by the kind of the head.
    fn pass(&self, request: &Request, point: Point, given: &Given, listener: &mut dyn Listener) -> Result<Answer> {
        let mut taps = if request.maps { tasks::maps::listen(&self.opened) } else { Taps::none() };
        let (out, trace) = self.opened.run_tapped(&point, &given.input, &mut taps)?;
        let maps =
            request.maps.then(|| tasks::maps::pictures(&self.opened, &taps, given.input.n(), listener)).transpose()?;
        let mut results = given.replies();
        let mut embedded = tasks::embed::Embedded::default();
        match self.head {
            _ if !matches!(request.inputs, Inputs::Images(_)) && self.sentence().is_some_and(|s| s.reads(&out)) => {
                let prompts = given.asked.iter().map(|asked| asked.prompt).collect();
                let ask = Ask { prompts, dim: request.dim, weights: request.max_active_dims };
                embedded = tasks::embed::fill(self, &out, given, &ask, &mut results)?;
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
        let tensors = request.tensors.then(|| tasks::tensors::padded(self, &out, given, &embedded)).transpose()?;
        let ranking = match (&request.inputs, self.sentence()) {
            (Inputs::Ranking { .. }, Some(sentence)) => tasks::rank::of_embeddings(sentence, &results, request.weights),
            (Inputs::Ranking { .. }, None) => tasks::rank::of_pairs(&results, true),
            (Inputs::Pairs(_), _) => tasks::rank::of_pairs(&results, false),
            _ => None,
        };
        let outputs = Shape::of_all(&out);
        Ok(Answer { outputs, tensors, maps, ranking, ..Answer::new(point, results, trace, request.trace) })
    }
}

/// Whether weights make a mean.
fn fair(weights: [f64; 3]) -> bool {
    let sum: f64 = weights.iter().sum();
    weights.iter().all(|w| *w >= 0.0) && sum > 0.0 && sum.is_finite()
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
