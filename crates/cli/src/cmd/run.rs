//! `run`: a model on text, images or tensors.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use switchformer_data::plain;
use switchformer_infer::tasks::embed::vectors;
use switchformer_infer::{
    Aggregation, Answer, Error, Image, Inputs, Label, Misfit, NamedTensors, Ranked, Reply, Request, Sentence,
    Similarity, Task,
};
use switchformer_nn::error::plain as one_line;
use switchformer_nn::json::read_capped;
use switchformer_nn::store::{SavedMap, apart, safetensors_bytes, saved, write_atomic};

use super::table::aligned;
use super::{images, lines, open, print, print_json, standard_input};
use crate::fail::Fail;
use crate::model::{Named, named};
use crate::say;

/// `run MODEL`.
#[derive(clap::Args)]
#[command(
    override_usage = "switchformer run <MODEL> --text <TEXT>... | --text-file <FILE>... | --lines <FILE>... | --image <FILE|DIR>... | --tensors <FILE>  [OPTIONS]",
    group(clap::ArgGroup::new("input").required(true).multiple(true).args(["text", "text_file", "lines", "image", "tensors"])),
    after_help = "Examples:
  switchformer run default --image example:7 --point bits-4
  switchformer run default --image example:0 example:1 --point '{\"exit\": 3}' --trace
  switchformer run models/all-MiniLM-L6-v2 --text 'a cat' 'a kitten' --json   # needs this folder"
)]
pub(crate) struct Args {
    /// `default`, a model folder, or a published size (random weights)
    model: String,
    /// Texts. Encoder-decoders write an answer to each
    #[arg(long, num_args = 1.., conflicts_with_all = ["image", "tensors"])]
    text: Vec<String>,
    /// Files that are one text each; `-` reads standard input
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["image", "tensors"])]
    text_file: Vec<PathBuf>,
    /// Files with one text per line
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["image", "tensors"])]
    lines: Vec<PathBuf>,
    /// The passage in which a question-answering model finds the answer to each text
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["image", "tensors"])]
    context: Option<String>,
    /// The same from a file; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "tensors", "context"])]
    context_file: Option<PathBuf>,
    /// Second texts, each read as a pair with its --text; one --text goes with all of them. For rerankers and models that
    /// compare two texts
    #[arg(long, value_name = "TEXT", num_args = 1.., conflicts_with_all = ["image", "tensors", "context", "context_file"])]
    pair: Vec<String>,
    /// Documents to put in order for the one --text: by a reranker, or by embeddings of any kind
    #[arg(long, value_name = "TEXT", num_args = 1.., conflicts_with_all = ["image", "tensors", "context", "context_file", "pair"])]
    rank: Vec<String>,
    /// Files with one such document per line
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["image", "tensors", "context", "context_file", "pair"])]
    rank_lines: Vec<PathBuf>,
    /// What the scores of BGE-M3 count for in a ranking [default: 1 1 1]
    #[arg(long, value_names = ["DENSE", "SPARSE", "COLBERT"], num_args = 3)]
    weights: Vec<f64>,
    /// Join classes of tokens to entities; words have the class of their first token, of the mean, or of the surest token
    #[arg(long, value_name = "HOW", value_parser = ["simple", "first", "average", "max"])]
    aggregate: Option<String>,
    /// Images (png, jpeg, webp, bmp, gif), folders of images, or `example:0` .. `example:3999`: embedded test images
    #[arg(long, value_name = "FILE|DIR", num_args = 1.., conflicts_with = "tensors")]
    image: Vec<PathBuf>,
    /// A safetensors file with the model's inputs, such as input_ids [b,n], attention_mask, token_type_ids,
    /// decoder_input_ids [b,m], decoder_attention_mask, or pixel_values [b,c,h,w]
    #[arg(long, value_name = "FILE")]
    tensors: Option<PathBuf>,
    /// Write the model's feature maps and attention maps into a folder, as PNG
    #[arg(long, value_name = "DIR")]
    save_maps: Option<PathBuf>,
    /// Seed of every random choice of this run, in place of the point's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Operating point: a name such as bits-4 (`points MODEL` lists them), or JSON such as '{"bits": 4}'
    #[arg(long)]
    point: Option<String>,
    /// Put TEXT in front of every text that is embedded or first of a pair; '' for nothing, in place of the folder's default
    /// prompt
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["prompt_name", "image", "tensors", "context", "context_file"])]
    prompt: Option<String>,
    /// Put a prompt of the folder in front of every text, such as query or document
    #[arg(long, value_name = "NAME", conflicts_with_all = ["image", "tensors", "context", "context_file"])]
    prompt_name: Option<String>,
    /// What the texts are to a model of embeddings: each task has its prompt, and in ColBERT its length
    #[arg(long, value_name = "TASK", value_parser = ["query", "document"], conflicts_with_all = ["image", "tensors", "context", "context_file"])]
    task: Option<String>,
    /// Keep the first N numbers of each embedding (Matryoshka models); their length is not 1 then
    #[arg(long, value_name = "N", conflicts_with_all = ["image", "context", "context_file"])]
    dim: Option<usize>,
    /// Keep the N largest weights of each sparse embedding
    #[arg(long, value_name = "N", conflicts_with_all = ["image", "context", "context_file"])]
    top: Option<usize>,
    /// Write all raw outputs to a safetensors file, under Hugging Face's names; padded places are zero
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Quantise dense layers to 8-bit weights while opening, so that `bits` and `activation_bits` can be switched
    #[arg(long)]
    nested: bool,
    /// Show every decision of the switches
    #[arg(long)]
    trace: bool,
    #[command(flatten)]
    write: super::write::Flags,
}

/// Runs and prints or writes the outputs.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    if a.save_maps.is_some() && a.image.is_empty() {
        return Err(Fail::Usage("--save-maps shows what a model makes of images: give --image".into()));
    }
    if let Some(out) = &a.out {
        apart(out, &a.read())?;
    }
    if !a.image_only() && matches!(named(&a.model)?, Named::Size(_)) {
        // Known before weights are made.
        return Err(Fail::Usage("--text needs a model folder with a tokenizer; a published size has none".into()));
    }
    let session = open(&a.model, a.nested)?;
    if (a.context.is_some() || a.context_file.is_some()) && (a.out.is_some() || a.write.given().is_some()) {
        return Err(Fail::Usage("--context goes with --text, --text-file, --point, --seed and --trace alone".into()));
    }
    let texts = a.texts()?;
    let mut terminal = a.write.terminal();
    let generates = session.generates() && !texts.is_empty();
    if terminal.shows() && generates && (as_json || texts.len() > 1) {
        return Err(Fail::Usage("--stream shows one text as it grows: give one --text and no --json".into()));
    }
    let request = Request {
        inputs: a.inputs(texts)?,
        point: a.point.clone().map(Json::String),
        seed: a.seed,
        generation: a.write.options(),
        aggregation: a.aggregate.as_deref().map(|how| match how {
            "first" => Aggregation::First,
            "average" => Aggregation::Average,
            "max" => Aggregation::Max,
            _ => Aggregation::Simple,
        }),
        prompt: a.prompt.clone(),
        prompt_name: a.prompt_name.clone(),
        task: a.task.as_deref().map(|task| if task == "query" { Task::Query } else { Task::Document }),
        dim: a.dim,
        max_active_dims: a.top,
        weights: a.weights.first_chunk().copied(),
        trace: a.trace,
        tensors: a.out.is_some(),
        maps: a.save_maps.is_some(),
    };
    let answered = session.answer_to(&request, &mut terminal).map_err(|e| match (e, a.write.given()) {
        (Error::Request(Misfit::NothingToGenerate), Some(flag)) => {
            Fail::Usage(format!("{flag} is for --text to a model that writes, such as t5"))
        }
        (e, _) => e.into(),
    });
    let shown = terminal.shows();
    terminal.check()?;
    let mut answer = answered?;
    if let (Some(dir), Some(maps)) = (&a.save_maps, &answer.maps) {
        save_maps(dir, maps, &a.read())?;
    }
    if let (Some(file), Some(tensors)) = (&a.out, &answer.tensors) {
        write_out(file, tensors)?;
    }
    if shown {
        print("\n")?;
        answer.results.clear();
    }
    report(a, as_json, &answer, session.sentence().map_or(Similarity::Cosine, Sentence::similarity))
}

impl Args {
    /// Whether no text is given.
    fn image_only(&self) -> bool {
        self.text.is_empty() && self.text_file.is_empty() && self.lines.is_empty()
    }

    /// The files and folders that this command reads.
    fn read(&self) -> Vec<&Path> {
        let files =
            self.image.iter().chain(&self.text_file).chain(&self.lines).chain(&self.tensors).chain(&self.context_file);
        let files = files.chain(&self.rank_lines).map(PathBuf::as_path);
        files.chain([Path::new(&self.model)]).collect()
    }

    /// Texts of flags and files. Errors where a flag holds the name of a file.
    fn texts(&self) -> Result<Vec<String>, Fail> {
        self.text.iter().try_for_each(|text| no_file(text, "--text"))?;
        let files = self.text_file.iter().chain(&self.lines).chain(&self.context_file).chain(&self.rank_lines);
        let from_input = files.filter(|f| *f == Path::new("-"));
        if from_input.count() > 1 {
            return Err(Fail::Usage("standard input can be read once: give `-` once".into()));
        }
        let files = self.text_file.iter().map(|file| text_of(file));
        let mut all: Vec<String> = self.text.iter().cloned().map(Ok).chain(files).collect::<Result<_, Fail>>()?;
        for file in &self.lines {
            all.extend(lines(file)?);
        }
        Ok(all)
    }

    fn inputs(&self, texts: Vec<String>) -> Result<Inputs, Fail> {
        let passage = match (&self.context, &self.context_file) {
            (None, Some(file)) => Some(text_of(file)?),
            (given, _) => given.clone().map(|text| no_file(&text, "--context").map(|()| text)).transpose()?,
        };
        Ok(match (&self.tensors, passage) {
            (Some(file), _) => Inputs::Tensors(NamedTensors::read(file)?),
            (None, Some(passage)) => Inputs::Questions { questions: texts, passage },
            (None, None) if !self.rank.is_empty() || !self.rank_lines.is_empty() => self.ranking(texts)?,
            (None, None) if !self.image.is_empty() => Inputs::Images(images(&self.image)?),
            (None, None) if !self.pair.is_empty() => Inputs::Pairs(pairs(&texts, &self.pair)?),
            (None, None) => Inputs::Texts(texts),
        })
    }
}

impl Args {
    /// The one text and the documents to put in order for it.
    fn ranking(&self, texts: Vec<String>) -> Result<Inputs, Fail> {
        self.rank.iter().try_for_each(|text| no_file(text, "--rank"))?;
        let mut documents = self.rank.clone();
        for file in &self.rank_lines {
            documents.extend(lines(file)?);
        }
        match <[String; 1]>::try_from(texts) {
            Ok([query]) => Ok(Inputs::Ranking { query, documents }),
            Err(all) => {
                Err(Fail::Usage(format!("--rank orders documents for one --text, and {} are given", all.len())))
            }
        }
    }
}

/// Each second text with its first one, or all with the one that there is.
fn pairs(firsts: &[String], seconds: &[String]) -> Result<Vec<[String; 2]>, Fail> {
    seconds.iter().try_for_each(|text| no_file(text, "--pair"))?;
    let pair = |(a, b): (&String, &String)| [a.clone(), b.clone()];
    match firsts {
        [one] => Ok(seconds.iter().map(|b| pair((one, b))).collect()),
        _ if firsts.len() == seconds.len() => Ok(firsts.iter().zip(seconds).map(pair).collect()),
        _ => Err(Fail::Usage(format!(
            "{} texts and {} second ones: give as many of --pair as of --text, or one --text",
            firsts.len(),
            seconds.len()
        ))),
    }
}

/// Errors where a text of a flag is `-` or names a file that is there: the file was meant, and its name would be read.
fn no_file(text: &str, flag: &str) -> Result<(), Fail> {
    let file_flag = match flag {
        "--context" => "--context-file",
        "--rank" => "--rank-lines",
        _ => "--text-file",
    };
    let (at, name) = text.strip_prefix('@').map_or(("", text), |rest| ("@", rest));
    if text == "-" {
        return Err(Fail::Usage(format!("{flag} takes the text itself; to read standard input write {file_flag} -")));
    }
    let looks = name.contains(['.', '/', '\\']) || !at.is_empty();
    let short = !name.is_empty() && name.len() < 256 && !name.contains(char::is_whitespace);
    if short && looks && Path::new(name).exists() {
        let what = if Path::new(name).is_dir() { "folder" } else { "file" };
        return Err(Fail::Usage(format!(
            "{flag} takes the text itself, and `{name}` is a {what}; to read a file write {file_flag} {name}"
        )));
    }
    if short && Path::new(name).is_file() {
        say::note(&format!("`{name}` is read as a text, though a file of this name is here ({file_flag} reads it)"));
    }
    Ok(())
}

/// The one text that a file holds; `-` is standard input.
fn text_of(file: &Path) -> Result<String, Fail> {
    let bytes = if file == Path::new("-") {
        standard_input(plain::MAX_LINE_BYTES as u64)?
    } else {
        read_capped(file, plain::MAX_FILE_BYTES)?
    };
    let text = plain::text_from(bytes, file)?;
    // The end of the last line is the file's, not the text's.
    Ok(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned())
}

/// Writes maps as files of their names into a folder.
fn save_maps(dir: &Path, maps: &[Image], read: &[&Path]) -> Result<(), Fail> {
    std::fs::create_dir_all(dir).map_err(|e| switchformer_nn::Error::io(dir, e))?;
    for map in maps {
        apart(&dir.join(map.name()), read)?;
    }
    for map in maps {
        write_atomic(&dir.join(map.name()), &map.bytes()?)?;
    }
    say::note(&format!("{} maps written to {}", maps.len(), dir.display()));
    Ok(())
}

/// Writes outputs as f32 under their published names.
fn write_out(file: &Path, tensors: &NamedTensors) -> Result<(), Fail> {
    let map: SavedMap =
        tensors.map.iter().map(|(name, t)| Ok((name.clone(), saved(t)?))).collect::<Result<_, Fail>>()?;
    Ok(write_atomic(file, &safetensors_bytes(&map)?)?)
}

fn report(a: &Args, as_json: bool, answer: &Answer, similarity: Similarity) -> Result<(), Fail> {
    if as_json {
        let mut doc = json!({
            "model": a.model, "point": answer.point, "outputs": answer.outputs, "results": answer.results,
            "macs": answer.macs,
        });
        if let Some(ranking) = &answer.ranking {
            doc["ranking"] = json!(ranking);
        }
        if let Some(decisions) = &answer.trace {
            doc["trace"] = json!(decisions);
        }
        return print_json(&doc);
    }
    // A ranking that was asked for is the answer, and the embeddings are how it came about.
    let ranks = !a.rank.is_empty() || !a.rank_lines.is_empty();
    let mut text = match (&answer.ranking, answer.results.first()) {
        (Some(ranking), Some(first)) if ranks => format!("{}\n{}", one_line(&first.input), ranked(ranking)),
        (ranking, _) => {
            let mut text: String = answer.results.iter().map(|reply| human(reply, a.top)).collect();
            text.push_str(&similarities(&answer.results, similarity));
            if let Some(ranking) = ranking {
                text.push_str(&format!("\nranking\n{}", ranked(ranking)));
            }
            text
        }
    };
    // Shapes are for those who ask for them, and for models whose answers are nothing else.
    let told = answer.results.iter().any(|r| *r != Reply { input: r.input.clone(), ..Reply::default() });
    for (name, shape) in answer.outputs.iter().filter(|_| !told || a.trace || a.out.is_some()) {
        text.push_str(&format!("output {name} {}\n", json!(shape)));
    }
    if let Some(decisions) = &answer.trace {
        for d in decisions {
            let who = d.member.map_or("all".into(), |m| m.to_string());
            text.push_str(&format!("decision {} {} member {who}: {}\n", d.at, d.switch, d.choice));
        }
        text.push_str(&format!("multiply-adds {}, for deciding {}\n", answer.macs, answer.decision_macs));
    }
    print(&text)
}

/// Most texts whose embeddings are compared with each other.
const COMPARED: usize = 12;

/// Documents in their order, one a line.
fn ranked(ranking: &[Ranked]) -> String {
    let kinds = |r: &Ranked| {
        let one = |(name, score): (&String, &f64)| format!("{name} {score:.4}");
        r.scores.as_ref().map(|all| format!(" ({})", all.iter().map(one).collect::<Vec<_>>().join(", ")))
    };
    let line =
        |r: &Ranked| format!("  {}. {:.4}{} {}\n", r.rank, r.score, kinds(r).unwrap_or_default(), one_line(&r.text));
    ranking.iter().map(line).collect()
}

/// How alike embeddings are, every one to every other, where there are several and not too many.
fn similarities(replies: &[Reply], similarity: Similarity) -> String {
    let tokens = |r: &Reply| -> Option<Vec<Vec<f32>>> {
        Some(r.token_embeddings.as_ref()?.iter().map(|t| t.embedding.clone()).collect())
    };
    let (all, each) = (vectors(replies), replies.iter().filter_map(tokens).collect::<Vec<_>>());
    let n = if all.is_empty() { each.len() } else { all.len() };
    if !(2..=COMPARED).contains(&n) {
        return String::new();
    }
    let score = |i: usize, k: usize| match all.is_empty() {
        true => similarity.of_tokens(&each[i], &each[k]),
        false => similarity.of(&all[i], &all[k]),
    };
    let row =
        |i: usize| std::iter::once((i + 1).to_string()).chain((0..n).map(|k| format!("{:.3}", score(i, k)))).collect();
    let rows: Vec<Vec<String>> = (0..n).map(row).collect();
    let numbers: Vec<String> = (1..=n).map(|n| n.to_string()).collect();
    let header: Vec<&str> = std::iter::once(similarity.name()).chain(numbers.iter().map(String::as_str)).collect();
    format!("\n{}", aligned(&header, &rows, 0))
}

/// One sample's answers as lines of text.
fn human(reply: &Reply, top: Option<usize>) -> String {
    let one = |label: &str, p: f32| format!("{} {:.1} %", one_line(label), 100.0 * f64::from(p));
    let line = |list: &[Label]| list.iter().map(|l| one(&l.label, l.probability)).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !reply.input.is_empty() {
        text.push_str(&format!("{}\n", one_line(&reply.input)));
    }
    if let Some(second) = &reply.pair {
        text.push_str(&format!("  and: {}\n", one_line(second)));
    }
    for number in reply.values.iter().flatten() {
        text.push_str(&format!("  {} {:.4}\n", one_line(&number.label), number.value));
    }
    if let Some(written) = &reply.text {
        text.push_str(&format!("  {written}\n"));
    }
    if let Some(labels) = &reply.labels {
        text.push_str(&format!("  {}\n", line(labels)));
    }
    if let Some(answers) = reply.answers.as_ref().filter(|all| !all.is_empty()) {
        let all: Vec<String> = answers.iter().map(|a| one(&a.answer, a.score)).collect();
        text.push_str(&format!("  {}\n", all.join(", ")));
    }
    for mask in reply.masks.iter().flatten() {
        text.push_str(&format!("  mask: {}\n", line(mask)));
    }
    for token in reply.token_labels.iter().flatten() {
        text.push_str(&format!("  {}: {}\n", one_line(&token.token), one(&token.label, token.probability)));
    }
    for e in reply.entities.iter().flatten() {
        text.push_str(&format!("  {}: {}\n", one_line(&e.word), one(&e.label, e.probability)));
    }
    if reply.entities.as_ref().is_some_and(Vec::is_empty) {
        text.push_str("  no entities\n");
    }
    if let Some(v) = &reply.sentence_embedding {
        let head: Vec<String> = v.iter().take(6).map(|x| format!("{x:.4}")).collect();
        text.push_str(&format!("  embedding of {} [{}, ...] (--json or --out for all)\n", v.len(), head.join(", ")));
    }
    if let Some(all) = &reply.token_embeddings {
        let tokens: Vec<String> = all.iter().take(8).map(|t| one_line(&t.token).to_string()).collect();
        let (width, more) = (all.first().map_or(0, |t| t.embedding.len()), if all.len() > 8 { ", ..." } else { "" });
        text.push_str(&format!(
            "  {} token embeddings of {width}: {}{more} (--json or --out for all)\n",
            all.len(),
            tokens.join(" ")
        ));
    }
    if let Some(w) = &reply.sparse_embedding {
        let mut best: Vec<(&String, &f32)> = w.iter().collect();
        best.sort_by(|a, b| b.1.total_cmp(a.1));
        let head: Vec<String> =
            best.iter().take(top.unwrap_or(8)).map(|(t, w)| format!("{} {w:.2}", one_line(t.as_str()))).collect();
        text.push_str(&format!(
            "  sparse embedding of {} tokens: {} (--json or --out for all)\n",
            w.len(),
            head.join(", ")
        ));
    }
    text
}
