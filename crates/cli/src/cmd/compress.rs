//! `compress`: another form of a checkpoint.

use std::path::PathBuf;

use serde_json::json;
use switchformer_compress::fold::fold;
use switchformer_compress::hash::{HashFit, hash_attention};
use switchformer_compress::upcycle::upcycle;
use switchformer_compress::vocab::trim_vocab;
use switchformer_data::trim::Keep;
use switchformer_nn::Input;
use switchformer_switch::leaf::experts::ExpertPlan;

use super::run::{from_images, from_tensors};
use super::{open, print, print_json};
use crate::fail::Fail;

/// `compress MODEL`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("form").required(true).args(["upcycle", "trim_vocab", "hash_attention", "fold"])))]
pub(crate) struct Args {
    /// A model folder
    model: PathBuf,
    /// Copy every feed-forward network N times and add a router: at first each router gives the dense model's answer
    #[arg(long, value_name = "N")]
    upcycle: Option<usize>,
    /// Experts per row at rest
    #[arg(long, value_name = "K", default_value_t = 1, requires = "upcycle")]
    top_k: usize,
    /// Seed of the fresh routers, or of the hash's anchors and first values
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "trim_vocab")]
    seed: u64,
    /// Fit EcoFormer's hash to a model trained with softmax over whole maps (PVT v2, Twins), on some pictures
    #[arg(long)]
    hash_attention: bool,
    /// A picture to fit the hash to; may be given several times
    #[arg(long, value_name = "FILE", requires = "hash_attention", conflicts_with = "tensors")]
    image: Vec<PathBuf>,
    /// A safetensors file with pixel_values [b,c,h,w] to fit the hash to
    #[arg(long, value_name = "FILE", requires = "hash_attention")]
    tensors: Option<PathBuf>,
    /// Bits of a code
    #[arg(long, value_name = "N", default_value_t = HashFit::default().bits, requires = "hash_attention")]
    hash_bits: usize,
    /// Cut the vocabulary to the tokens that a text file, a Parquet table or a folder of these uses; may be given
    /// several times
    #[arg(long, value_name = "PATH")]
    trim_vocab: Vec<PathBuf>,
    /// Keep tokens that occur at least N times
    #[arg(long, value_name = "N", default_value_t = 1, requires = "trim_vocab")]
    min_count: u64,
    /// Keep at most N tokens, the most frequent ones
    #[arg(long, value_name = "N", requires = "trim_vocab")]
    vocab_size: Option<usize>,
    /// Keep the first N ids of the vocabulary whatever the text says
    #[arg(long, value_name = "N", default_value_t = 0, requires = "trim_vocab")]
    keep_first: usize,
    /// Fold every batch norm, and every sum of branches, into one convolution or product: the same answers, less work
    #[arg(long)]
    fold: bool,
    /// Folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes the folder and says what it holds.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    match a.upcycle {
        Some(count) => experts(a, &ExpertPlan::copies(count, a.top_k), as_json),
        None if a.hash_attention => hash(a, as_json),
        None if a.fold => folded(a, as_json),
        None => vocabulary(a, as_json),
    }
}

fn hash(a: &Args, as_json: bool) -> Result<(), Fail> {
    let model = a.model.to_str().ok_or_else(|| Fail::Usage("the model's path is not UTF-8".into()))?;
    let given = match &a.tensors {
        Some(file) => from_tensors(file)?,
        None if a.image.is_empty() => {
            return Err(Fail::Usage("--hash-attention fits a hash to pictures: give --image or --tensors".into()));
        }
        None => {
            let (opened, place) = open(model, false)?;
            from_images(&opened, &place, &a.image)?
        }
    };
    let Input::Pixels(pixels) = &given.input else {
        return Err(Fail::Usage("--hash-attention fits a hash to pictures: give pixel_values".into()));
    };
    let how = HashFit { seed: a.seed, bits: a.hash_bits, ..HashFit::default() };
    let made = hash_attention(&a.model, &a.out, pixels, &how)?;
    let [before, after] = made.params;
    if as_json {
        return print_json(&json!({
            "out": a.out, "errors": made.errors, "bits_improved": made.improved[0], "bits": made.improved[1],
            "params_before": before, "params": after,
        }));
    }
    let [drawn, fitted] = [0, 1].map(|i| made.errors.iter().map(|e| e[i]).sum::<f64>() / made.errors.len() as f64);
    print(&format!(
        "{}: {} blocks hashed to {} bits, {before} parameters before, {after} now\n\
         the fit made {} of {} bits better; codes miss the wanted products by {drawn:.2} squared as drawn, by {fitted:.2} \
         now\n",
        a.out.display(),
        made.errors.len(),
        how.bits,
        made.improved[0],
        made.improved[1],
    ))
}

fn folded(a: &Args, as_json: bool) -> Result<(), Fail> {
    let made = fold(&a.model, &a.out)?;
    let [before, after] = made.params;
    if as_json {
        return print_json(&json!({
            "out": a.out, "layers": made.layers, "params_before": before, "params": after,
        }));
    }
    let out = a.out.display();
    print(&format!("{out}: {} layers folded, {before} parameters before, {after} now\n", made.layers))
}

fn experts(a: &Args, plan: &ExpertPlan, as_json: bool) -> Result<(), Fail> {
    let made = upcycle(&a.model, &a.out, plan, a.seed)?;
    let [before, after] = made.params;
    if as_json {
        return print_json(&json!({
            "out": a.out, "banks": made.banks, "experts": plan.count, "top_k": plan.top_k,
            "params_before": before, "params": after,
        }));
    }
    let out = a.out.display();
    print(&format!(
        "{out}: {} banks of {} experts, {before} parameters before, {after} now\n\
         routers: switchformer points {out}\n",
        made.banks, plan.count
    ))
}

fn vocabulary(a: &Args, as_json: bool) -> Result<(), Fail> {
    let rule = Keep { min_count: a.min_count.max(1), size: a.vocab_size, first: a.keep_first };
    let made = trim_vocab(&a.model, &a.out, &a.trim_vocab, &rule)?;
    if as_json {
        return print_json(&json!({
            "out": a.out, "tokens_before": made.tokens[0], "tokens": made.tokens[1], "rows_before": made.rows[0],
            "params_before": made.params[0], "params": made.params[1], "weight_bytes_before": made.bytes[0],
            "weight_bytes": made.bytes[1], "corpus_tokens_kept": made.covered, "corpus_ids": made.used,
            "left_out": made.left_out,
        }));
    }
    let share = |[before, after]: [u64; 2]| 100.0 * (1.0 - after as f64 / before.max(1) as f64);
    let mut text = format!(
        "{}: {} of {} tokens, {} parameters of {} (-{:.2} %), weights {:.1} MB of {:.1} MB (-{:.1} %)\n\
         the text uses {} tokens; {:.3} % of its places keep their token\n",
        a.out.display(),
        made.tokens[1],
        made.tokens[0],
        made.params[1],
        made.params[0],
        share(made.params),
        made.bytes[1] as f64 / 1e6,
        made.bytes[0] as f64 / 1e6,
        share(made.bytes),
        made.used,
        100.0 * made.covered,
    );
    if !made.left_out.is_empty() {
        text.push_str(&format!("left out, as tokenizer.json replaces them: {}\n", made.left_out.join(", ")));
    }
    print(&text)
}
