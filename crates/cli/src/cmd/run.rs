//! `run`: a model on text, images or tensors.

use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use switchformer_infer::{Answer, Error, Image, Inputs, Label, Misfit, NamedTensors, Reply, Request};
use switchformer_nn::error::plain;
use switchformer_nn::store::{SavedMap, apart, safetensors_bytes, saved, write_atomic};

use super::{open, print, print_json};
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

/// Runs and prints or writes the outputs.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    if a.save_maps.is_some() && a.image.is_empty() {
        return Err(Fail::Usage("--save-maps shows what a model makes of pictures: give --image".into()));
    }
    if let Some(out) = &a.out {
        apart(out, &a.read())?;
    }
    let session = open(&a.model, a.nested)?;
    if a.context.is_some() && (a.out.is_some() || a.write.given().is_some()) {
        return Err(Fail::Usage("--context goes with --text, --point, --seed and --trace alone".into()));
    }
    let mut terminal = a.write.terminal();
    let generates = session.generates() && !a.text.is_empty();
    if terminal.shows() && generates && (as_json || a.text.len() > 1) {
        return Err(Fail::Usage("--stream shows one text as it grows: give one --text and no --json".into()));
    }
    let request = Request {
        inputs: a.inputs()?,
        point: a.point.clone().map(Json::String),
        seed: a.seed,
        generation: a.write.options(),
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
    report(a, as_json, &answer)
}

impl Args {
    /// The files and folders that this command reads.
    fn read(&self) -> Vec<&Path> {
        let files = self.image.iter().chain(&self.tensors).map(PathBuf::as_path);
        files.chain([Path::new(&self.model)]).collect()
    }

    fn inputs(&self) -> Result<Inputs, Fail> {
        Ok(match (&self.tensors, &self.context) {
            (Some(file), _) => Inputs::Tensors(NamedTensors::read(file)?),
            (None, Some(passage)) => Inputs::Questions { questions: self.text.clone(), passage: passage.clone() },
            (None, None) if self.text.is_empty() => {
                Inputs::Images(self.image.iter().map(|file| Image::file(file)).collect())
            }
            (None, None) => Inputs::Texts(self.text.clone()),
        })
    }
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
    eprintln!("{} pictures of maps in {}", maps.len(), dir.display());
    Ok(())
}

/// Writes outputs as f32 under their published names.
fn write_out(file: &Path, tensors: &NamedTensors) -> Result<(), Fail> {
    let map: SavedMap =
        tensors.map.iter().map(|(name, t)| Ok((name.clone(), saved(t)?))).collect::<Result<_, Fail>>()?;
    Ok(write_atomic(file, &safetensors_bytes(&map)?)?)
}

fn report(a: &Args, as_json: bool, answer: &Answer) -> Result<(), Fail> {
    if as_json {
        let mut doc = json!({
            "model": a.model, "point": answer.point, "outputs": answer.outputs, "results": answer.results,
            "macs": answer.macs,
        });
        if let Some(decisions) = &answer.trace {
            doc["trace"] = json!(decisions);
        }
        return print_json(&doc);
    }
    let mut text: String = answer.results.iter().map(human).collect();
    for (name, shape) in &answer.outputs {
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

/// One sample's answers as lines of text.
fn human(reply: &Reply) -> String {
    let one = |label: &str, p: f32| format!("{} {:.1} %", plain(label), 100.0 * f64::from(p));
    let line = |list: &[Label]| list.iter().map(|l| one(&l.label, l.probability)).collect::<Vec<_>>().join(", ");
    let mut text = String::new();
    if !reply.input.is_empty() {
        text.push_str(&format!("{}\n", plain(&reply.input)));
    }
    if let Some(written) = &reply.text {
        text.push_str(&format!("  {written}\n"));
    }
    if let Some(labels) = &reply.labels {
        text.push_str(&format!("  {}\n", line(labels)));
    }
    for mask in reply.masks.iter().flatten() {
        text.push_str(&format!("  mask: {}\n", line(mask)));
    }
    for token in reply.token_labels.iter().flatten() {
        text.push_str(&format!("  {}: {}\n", plain(&token.token), one(&token.label, token.probability)));
    }
    if let Some(v) = &reply.sentence_embedding {
        let head: Vec<String> = v.iter().take(6).map(|x| format!("{x:.4}")).collect();
        text.push_str(&format!("  embedding of {} [{}, ...] (--json or --out for all)\n", v.len(), head.join(", ")));
    }
    text
}
