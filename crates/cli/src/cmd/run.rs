//! `run`: a model on text, images or tensors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};
use switchformer_data::{Encoding, Family, Preprocessor, Tokenizer};
use switchformer_infer::tasks::extract_answer::finds_answers;
use switchformer_nn::store::{SavedMap, safetensors_bytes, saved, write_atomic};
use switchformer_nn::{Folder, Ids, Input, Output, Part, Point, Taps, Trace, Value};
use switchformer_tensor::Tensor;
use switchformer_zoo::{HeadKind, Opened};

use super::{DEFAULT, Place, open, print, print_json};
use crate::fail::Fail;

/// `run MODEL`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("input").required(true).args(["text", "image", "tensors"])))]
pub(crate) struct Args {
    /// `default`, a model folder, or a published size (random weights)
    model: String,
    /// A text; may be given several times. Encoder-decoders write an answer to each
    #[arg(long)]
    text: Vec<String>,
    /// The passage in which a model that answers questions finds the answer to each --text
    #[arg(long, value_name = "TEXT", requires = "text")]
    context: Option<String>,
    /// A picture (png, jpeg, webp, bmp, gif); may be given several times
    #[arg(long)]
    image: Vec<PathBuf>,
    /// A safetensors file with the model's inputs, such as input_ids [b,n], attention_mask, token_type_ids,
    /// decoder_input_ids [b,m], decoder_attention_mask, or pixel_values [b,c,h,w]
    #[arg(long)]
    tensors: Option<PathBuf>,
    /// Write pictures of the model's feature maps and attention maps into a folder, as PNG
    #[arg(long, value_name = "DIR")]
    save_maps: Option<PathBuf>,
    #[command(flatten)]
    write: super::write::Flags,
    /// Seed of every random choice of this run, in place of the point's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Operating point: a name of the checkpoint, or JSON such as {"bits":4}
    #[arg(long)]
    point: Option<String>,
    /// Write all outputs as tensors under Hugging Face's names; padded places are zero
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Quantise dense projections to nested 8-bit codes on opening, so that `bits` can be switched
    #[arg(long)]
    nested: bool,
    /// Show every decision of the switches
    #[arg(long)]
    trace: bool,
}

/// An input, and the names to print.
pub(crate) struct Given {
    pub(crate) input: Input,
    names: Vec<String>,
}

/// Runs and prints or writes the outputs.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    if a.save_maps.is_some() && a.image.is_empty() {
        return Err(Fail::Usage("--save-maps shows what a model makes of pictures: give --image".into()));
    }
    let (opened, place) = open(&a.model, a.nested)?;
    let mut point = opened.point(a.point.as_deref())?;
    if let Some(seed) = a.seed {
        point = point.with("seed", seed);
    }
    if let Some(passage) = &a.context {
        return write_found(a, as_json, (&opened, &place), &point, passage);
    }
    if !a.text.is_empty() && finds_answers(&opened) {
        return Err(Fail::Usage("this model finds answers in a passage: give it with --context".into()));
    }
    let tokenizer = if a.text.is_empty() { None } else { Some(tokenizer(&opened, &place)?) };
    match &tokenizer {
        Some(t) if opened.model.spec().takes("decoder_input_ids") => {
            return write_answers(a, as_json, &opened, &point, t);
        }
        _ => {}
    }
    if let Some(flag) = a.write.given() {
        return Err(Fail::Usage(format!("{flag} is for --text to a model that writes, such as t5")));
    }
    let given = match (&a.tensors, &tokenizer) {
        (Some(file), _) => from_tensors(&opened, file)?,
        (None, Some(t)) => from_text(&opened, t, &a.text)?,
        (None, None) => from_images(&opened, &place, &a.image)?,
    };
    let mut taps = a.save_maps.as_ref().map_or_else(Taps::none, |_| super::maps::listen(&opened));
    let (out, trace) = opened.run_tapped(&point, &given.input, &mut taps)?;
    if let Some(dir) = &a.save_maps {
        let sizes = given.input.image_sizes(opened.model.spec().image_size()?.0)?;
        let files = super::maps::save(dir, &opened, &taps, &opened.model.lens(&given.input)?, &sizes)?;
        eprintln!("{} pictures of maps in {}", files.len(), dir.display());
    }
    let embedding = if a.text.is_empty() && a.tensors.is_none() { None } else { opened.embed(&out)? };
    if let Some(file) = &a.out {
        write_out(file, &out, &given, embedding.as_ref())?;
    }
    let mut answers = answers(&opened, &out, &given, tokenizer.as_ref())?;
    if let Some(e) = &embedding {
        let rows = e.to_vec2::<f32>()?;
        answers.iter_mut().zip(rows).for_each(|(a, v)| {
            a.insert("sentence_embedding".into(), json!(v));
        });
    }
    report(a, as_json, &point, &answers, &out, &trace)
}

/// What a model that writes answers to each text.
fn write_answers(a: &Args, as_json: bool, opened: &Opened, point: &Point, tokenizer: &Tokenizer) -> Result<(), Fail> {
    if a.out.is_some() {
        return Err(Fail::Usage("--out holds the outputs of one pass: give decoder_input_ids with --tensors".into()));
    }
    let given = from_text(opened, tokenizer, &a.text)?;
    let (mut answers, trace) = a.write.answers(opened, point, tokenizer, &a.text, &given.input, as_json)?;
    if a.write.streamed() {
        answers.clear();
    }
    report(a, as_json, point, &answers, &Output::new(), &trace)
}

/// The answers that a model finds in a passage.
fn write_found(
    a: &Args,
    as_json: bool,
    (opened, place): (&Opened, &Place),
    point: &Point,
    passage: &str,
) -> Result<(), Fail> {
    if a.out.is_some() || a.write.given().is_some() {
        return Err(Fail::Usage("--context goes with --text, --point, --seed and --trace alone".into()));
    }
    let (answers, trace) = super::answer::answers(opened, place, point, &a.text, passage)?;
    report(a, as_json, point, &answers, &Output::new(), &trace)
}

fn tokenizer(opened: &Opened, place: &Place) -> Result<Tokenizer, Fail> {
    let Ok((_, max_len)) = opened.model.spec().text_size() else {
        return Err(Fail::Usage("this model reads images: use --image".into()));
    };
    match place {
        Place::Folder(Folder::Disk(dir)) => Ok(Tokenizer::load(dir, Some(max_len))?),
        _ => Err(Fail::Usage("--text needs a model folder with a tokenizer; use --tensors here".into())),
    }
}

fn from_text(opened: &Opened, tokenizer: &Tokenizer, texts: &[String]) -> Result<Given, Fail> {
    let encoded = tokenizer.encode(&texts.iter().map(String::as_str).collect::<Vec<_>>())?;
    for (e, text) in encoded.iter().zip(texts) {
        if e.truncated {
            eprintln!("note: a text of {} characters was cut to {} tokens", text.chars().count(), e.ids.len());
        }
    }
    let of = |pick: fn(&Encoding) -> &[u32]| encoded.iter().map(pick).collect::<Vec<_>>();
    let mut input = Input::tokens(&of(|e| &e.ids))?;
    // Tokenizers give segment ids to every model; some have no use for them.
    let types = "token_type_ids";
    if opened.model.spec().takes(types) {
        input = input.with(types, Part::tokens(&of(|e| &e.type_ids))?)?;
    }
    Ok(Given { input, names: texts.to_vec() })
}

/// Pictures as the folder's preprocessing makes them.
pub(crate) fn from_images(opened: &Opened, place: &Place, files: &[PathBuf]) -> Result<Given, Fail> {
    let Ok((channels, size, _)) = opened.model.spec().image_size() else {
        return Err(Fail::Usage("this model reads text: use --text".into()));
    };
    let family = if opened.entry.name == "deit" { Family::Deit } else { Family::Vit };
    let name = "preprocessor_config.json";
    let steps = match place {
        Place::Embedded => {
            let bytes = DEFAULT.iter().find(|(n, _)| *n == name).map(|(_, b)| *b).unwrap_or_default();
            Preprocessor::from_bytes(bytes, Path::new(name), Some(family))?
        }
        Place::Folder(folder) if folder.has(name) => {
            Preprocessor::from_bytes(&folder.read(name, 1 << 20)?, &folder.path(name), Some(family))?
        }
        _ => match from_timm(place)? {
            Some(steps) => steps,
            None => {
                eprintln!("note: no {name}: using the {} defaults at {}x{}", opened.entry.name, size.0, size.1);
                Preprocessor::default_for(family)
            }
        },
    };
    let mut images = Vec::with_capacity(files.len());
    for file in files {
        let picture = switchformer_data::image::open(file)?;
        let p = steps.apply(&picture, channels)?;
        images.push(Tensor::from_vec(p.data, (p.channels, p.height, p.width))?);
    }
    let names = files.iter().map(|f| f.display().to_string()).collect();
    Ok(Given { input: Input::images(&images)?, names })
}

/// The steps that a folder of timm states in its config.
fn from_timm(place: &Place) -> Result<Option<Preprocessor>, Fail> {
    let name = "config.json";
    match place {
        Place::Folder(folder) => Ok(Preprocessor::from_timm(&folder.read(name, 1 << 20)?, &folder.path(name))?),
        _ => Ok(None),
    }
}

/// A model's input from a file of tensors under the names of its parts.
pub(crate) fn from_tensors(opened: &Opened, file: &Path) -> Result<Given, Fail> {
    let damaged = |what: String| {
        let hint = "write it with safetensors' save_file";
        Fail::Nn(switchformer_nn::Error::format(file, "safetensors.header", what, hint))
    };
    // Headers first: they are checked strictly before any tensor is made.
    switchformer_nn::weights::inspect(file)?;
    let tensors: BTreeMap<String, Tensor> =
        switchformer_tensor::safetensors::load(file).map_err(|e| damaged(e.to_string()))?.into_iter().collect();
    let spec = opened.model.spec();
    let known = spec.to_string();
    // A name that the model does not take is a slip of the caller; what is wrong with a part is bad input.
    let slip = tensors.keys().any(|name| known.split(", ").all(|k| k != name));
    let input = Input::from_tensors(&tensors, &spec).map_err(|e| match slip {
        true => Fail::Usage(format!("{}: {e}", file.display())),
        false => Fail::Nn(e),
    })?;
    Ok(Given { names: vec![String::new(); input.n()], input })
}

/// Writes outputs under their published names, spread over the padded places.
fn write_out(file: &Path, out: &Output, given: &Given, embedding: Option<&Tensor>) -> Result<(), Fail> {
    let mut map = SavedMap::new();
    for (name, value) in out.values() {
        let tensor = match value {
            Value::PerMember(t) => t.clone(),
            Value::PerRow(t, rows) => given.input.unpack(name, t, rows)?,
            Value::Each(all) => {
                for (i, t) in all.iter().enumerate().filter_map(|(i, t)| Some((i, t.as_ref()?))) {
                    map.insert(format!("{name}.{i}"), saved(t)?);
                }
                continue;
            }
        };
        map.insert(name.clone(), saved(&tensor)?);
    }
    if let Some(e) = embedding {
        map.insert("sentence_embedding".into(), saved(e)?);
    }
    Ok(write_atomic(file, &safetensors_bytes(&map)?)?)
}

/// Readable answers of each member: labels of classifiers, words for masks.
fn answers(
    opened: &Opened,
    out: &Output,
    given: &Given,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Map<String, Json>>, Fail> {
    let mut all: Vec<Map<String, Json>> =
        given.names.iter().map(|n| Map::from_iter([("input".into(), json!(n))])).collect();
    if let Some(logits) = out.get("logits").ok().filter(|t| t.dims().len() == 2) {
        let labels = opened.config.labels();
        for (a, row) in all.iter_mut().zip(logits.to_vec2::<f32>()?) {
            a.insert(
                "labels".into(),
                json!(best(&row, 5, |i| labels.get(i).cloned().unwrap_or_else(|| i.to_string()))),
            );
        }
    }
    let masked = opened.entry.head_of(&opened.config)? == HeadKind::MaskedLm;
    let mask = tokenizer.and_then(|t| ["[MASK]", "<mask>"].iter().find_map(|m| t.token_to_id(m)));
    if let (true, Some(t), Some(mask), Some((logits, rows)), Ok(Ids { ids, .. })) =
        (masked, tokenizer, mask, out.get_rows("logits"), given.input.ids("input_ids"))
    {
        for (i, a) in all.iter_mut().enumerate() {
            let mut words = Vec::new();
            for r in rows.range(i).filter(|r| ids[*r] == mask) {
                let row: Vec<f32> = logits.get(r)?.to_vec1()?;
                words.push(best(&row, 5, |id| t.id_to_token(id as u32).unwrap_or_default()));
            }
            a.insert("masks".into(), json!(words));
        }
    }
    Ok(all)
}

/// The `k` likeliest entries with their probabilities.
fn best(logits: &[f32], k: usize, name: impl Fn(usize) -> String) -> Vec<Json> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|v| (v - top).exp()).sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    order.iter().take(k).map(|i| json!({"label": name(*i), "probability": (logits[*i] - top).exp() / total})).collect()
}

fn report(
    a: &Args,
    as_json: bool,
    point: &Point,
    answers: &[Map<String, Json>],
    out: &Output,
    trace: &Trace,
) -> Result<(), Fail> {
    let shapes: Map<String, Json> = out
        .values()
        .iter()
        .map(|(name, v)| match v {
            Value::PerMember(t) => (name.clone(), json!(t.dims())),
            Value::PerRow(t, rows) => (name.clone(), json!({"rows": rows.lens(), "width": t.dims()[1..]})),
            Value::Each(all) => {
                (name.clone(), json!(all.iter().map(|t| t.as_ref().map(|t| t.dims())).collect::<Vec<_>>()))
            }
        })
        .collect();
    if as_json {
        let mut doc =
            json!({"model": a.model, "point": point, "outputs": shapes, "results": answers, "macs": trace.macs});
        if a.trace {
            doc["trace"] = json!(trace.decisions);
        }
        return print_json(&doc);
    }
    let mut text = String::new();
    for answer in answers {
        text.push_str(&human(answer));
    }
    for (name, shape) in &shapes {
        text.push_str(&format!("output {name} {shape}\n"));
    }
    if a.trace {
        for d in &trace.decisions {
            let who = d.member.map_or("all".into(), |m| m.to_string());
            text.push_str(&format!("decision {} {} member {who}: {}\n", d.at, d.switch, d.choice));
        }
        text.push_str(&format!("multiply-adds {}, for deciding {}\n", trace.macs, trace.decision_macs));
    }
    print(&text)
}

/// One member's answers as lines of text.
fn human(answer: &Map<String, Json>) -> String {
    let line = |list: &Json| -> String {
        let entries = list.as_array().into_iter().flatten();
        let one = |e: &Json| {
            let p = e["probability"].as_f64().unwrap_or(0.0);
            format!("{} {:.1} %", e["label"].as_str().unwrap_or("?"), 100.0 * p)
        };
        entries.map(one).collect::<Vec<_>>().join(", ")
    };
    let mut text = String::new();
    if let Some(name) = answer.get("input").and_then(Json::as_str).filter(|n| !n.is_empty()) {
        text.push_str(&format!("{name}\n"));
    }
    if let Some(written) = answer.get("text").and_then(Json::as_str) {
        text.push_str(&format!("  {written}\n"));
    }
    if let Some(labels) = answer.get("labels") {
        text.push_str(&format!("  {}\n", line(labels)));
    }
    for mask in answer.get("masks").and_then(Json::as_array).into_iter().flatten() {
        text.push_str(&format!("  mask: {}\n", line(mask)));
    }
    if let Some(v) = answer.get("sentence_embedding").and_then(Json::as_array) {
        let head: Vec<String> = v.iter().take(6).map(|x| format!("{:.4}", x.as_f64().unwrap_or(0.0))).collect();
        text.push_str(&format!("  embedding of {} [{}, ...] (--json or --out for all)\n", v.len(), head.join(", ")));
    }
    text
}
