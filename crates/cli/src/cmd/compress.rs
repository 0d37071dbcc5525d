//! `compress`: another form of a checkpoint.

use std::path::PathBuf;

use serde_json::json;
use switchformer_compress::fold::fold;
use switchformer_compress::hash::{HashFit, hash_attention};
use switchformer_compress::upcycle::upcycle;
use switchformer_compress::vocab::trim_vocab;
use switchformer_data::trim::Keep;
use switchformer_infer::{Inputs, NamedTensors};
use switchformer_switch::leaf::experts::ExpertPlan;

use super::{images, open, print, print_json};
use crate::fail::Fail;
use crate::model::folder;
use crate::say::Notes;

/// `compress FORM MODEL`.
#[derive(clap::Args)]
#[command(after_help = "Examples (with a model folder that is in a clone of the repository):
  switchformer compress trim-vocab fixtures/rxnmapper-albert --texts docs/glossary.md --out smaller
  switchformer compress upcycle fixtures/rxnmapper-albert --experts 4 --out experts")]
pub(crate) struct Args {
    #[command(subcommand)]
    form: Form,
}

/// What to make of a checkpoint.
#[derive(clap::Subcommand)]
enum Form {
    /// Fold every batch norm, and every sum of branches, into one convolution or product: same answers, less computation
    Fold(Folders),
    /// Remove vocabulary entries that do not occur in some texts
    TrimVocab(TrimVocab),
    /// Sparse upcycling: turn a dense model into a mixture of experts, each a copy of its feed-forward network
    Upcycle(Upcycle),
    /// Replace softmax attention by EcoFormer's hashed attention, fitted on some images (PVT v2, Twins)
    HashAttention(HashAttention),
}

/// Names of the forms, with the flag that each of them once was and what to write now.
const FORMS: [(&str, &str, &str); 4] = [
    ("fold", "--fold", "compress fold MODEL --out DIR"),
    ("trim-vocab", "--trim-vocab", "compress trim-vocab MODEL --texts PATH --out DIR"),
    ("upcycle", "--upcycle", "compress upcycle MODEL --experts N --out DIR"),
    ("hash-attention", "--hash-attention", "compress hash-attention MODEL --image FILE --out DIR"),
];

/// The new way to write `compress MODEL --<form> ..`, for arguments that were not understood.
pub(crate) fn moved(args: &[String]) -> Option<String> {
    let after = args.iter().position(|a| a == "compress")? + 1;
    let rest = &args[after..];
    if rest.iter().find(|a| !a.starts_with('-')).is_some_and(|first| FORMS.iter().any(|(form, ..)| form == first)) {
        return None;
    }
    let form = rest.iter().find(|a| !a.starts_with('-'));
    let given = |flag: &str| rest.iter().any(|a| a.split('=').next() == Some(flag));
    let Some((_, flag, now)) = FORMS.iter().find(|(_, flag, _)| given(flag)) else {
        let forms: Vec<&str> = FORMS.iter().map(|(form, ..)| *form).collect();
        let form = form.filter(|f| *f != "help")?;
        return Some(format!(
            "`{form}` is none of the forms that `compress` makes: {}; write one of them before the folder (`switchformer \
             compress --help`)",
            forms.join(", ")
        ));
    };
    Some(format!("{flag} is a subcommand now: write `switchformer {now}`; `switchformer compress --help` lists all"))
}

/// A folder to read and one to write.
#[derive(clap::Args)]
struct Folders {
    /// A model folder
    model: PathBuf,
    /// Folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `compress trim-vocab`.
#[derive(clap::Args)]
struct TrimVocab {
    #[command(flatten)]
    folders: Folders,
    /// Texts whose tokens are kept: text files, Parquet tables or folders of these
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    texts: Vec<PathBuf>,
    /// Keep tokens that occur at least N times
    #[arg(long, value_name = "N", default_value_t = 1)]
    min_count: u64,
    /// Keep at most N tokens, the most frequent ones
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Keep the first N ids of the vocabulary, whatever the texts use
    #[arg(long, value_name = "N", default_value_t = 0)]
    keep_first: usize,
}

/// `compress upcycle`.
#[derive(clap::Args)]
struct Upcycle {
    #[command(flatten)]
    folders: Folders,
    /// Copies of every feed-forward network
    #[arg(long, value_name = "N")]
    experts: usize,
    /// Experts per row at the default point
    #[arg(long, value_name = "K", default_value_t = 1)]
    top_k: usize,
    /// Seed of the fresh routers
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// `compress hash-attention`.
#[derive(clap::Args)]
#[command(group(clap::ArgGroup::new("pictures").required(true).args(["image", "tensors"])))]
struct HashAttention {
    #[command(flatten)]
    folders: Folders,
    /// Images to fit the hash to, or folders of them
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    image: Vec<PathBuf>,
    /// A safetensors file with pixel_values [b,c,h,w] to fit the hash to
    #[arg(long, value_name = "FILE")]
    tensors: Option<PathBuf>,
    /// Bits of a code
    #[arg(long, value_name = "N", default_value_t = HashFit::default().bits)]
    bits: usize,
    /// Seed of the hash's anchors and first values
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

/// Writes the folder and says what it holds.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    let named = match &a.form {
        Form::Fold(a) => &a.model,
        Form::TrimVocab(a) => &a.folders.model,
        Form::Upcycle(a) => &a.folders.model,
        Form::HashAttention(a) => &a.folders.model,
    };
    folder(named)?;
    match &a.form {
        Form::Fold(a) => folded(a, as_json),
        Form::TrimVocab(a) => vocabulary(a, as_json),
        Form::Upcycle(a) => experts(a, as_json),
        Form::HashAttention(a) => hash(a, as_json),
    }
}

fn hash(a: &HashAttention, as_json: bool) -> Result<(), Fail> {
    let model = a.folders.model.to_str().ok_or_else(|| Fail::Usage("the model's path is not UTF-8".into()))?;
    let session = open(model, false)?;
    let inputs = match &a.tensors {
        Some(file) => Inputs::Tensors(NamedTensors::read(file)?),
        None => Inputs::Images(images(&a.image)?),
    };
    let input = session.input(&inputs, &mut Notes)?;
    let how = HashFit { seed: a.seed, bits: a.bits, ..HashFit::default() };
    let made = hash_attention(&a.folders.model, &a.folders.out, &input, &how)?;
    let [before, after] = made.params;
    if as_json {
        return print_json(&json!({
            "out": a.folders.out, "errors": made.errors, "bits_improved": made.improved[0], "bits": made.improved[1],
            "params_before": before, "params": after,
        }));
    }
    let [drawn, fitted] = [0, 1].map(|i| made.errors.iter().map(|e| e[i]).sum::<f64>() / made.errors.len() as f64);
    print(&format!(
        "{}: {} blocks hashed to {} bits, {before} parameters before, {after} now\n\
         the fit made {} of {} bits better; codes miss the wanted products by {drawn:.2} squared as drawn, by {fitted:.2} \
         now\n",
        a.folders.out.display(),
        made.errors.len(),
        how.bits,
        made.improved[0],
        made.improved[1],
    ))
}

fn folded(a: &Folders, as_json: bool) -> Result<(), Fail> {
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

fn experts(a: &Upcycle, as_json: bool) -> Result<(), Fail> {
    let (plan, out) = (ExpertPlan::copies(a.experts, a.top_k), &a.folders.out);
    let made = upcycle(&a.folders.model, out, &plan, a.seed)?;
    let [before, after] = made.params;
    if as_json {
        return print_json(&json!({
            "out": out, "banks": made.banks, "experts": plan.count, "top_k": plan.top_k,
            "params_before": before, "params": after,
        }));
    }
    let out = out.display();
    print(&format!(
        "{out}: {} banks of {} experts, {before} parameters before, {after} now\n\
         routers: switchformer points {out}\n",
        made.banks, plan.count
    ))
}

fn vocabulary(a: &TrimVocab, as_json: bool) -> Result<(), Fail> {
    let rule = Keep { min_count: a.min_count.max(1), size: a.vocab_size, first: a.keep_first };
    let made = trim_vocab(&a.folders.model, &a.folders.out, &a.texts, &rule)?;
    if as_json {
        return print_json(&json!({
            "out": a.folders.out, "tokens_before": made.tokens[0], "tokens": made.tokens[1], "rows_before": made.rows[0],
            "params_before": made.params[0], "params": made.params[1], "weight_bytes_before": made.bytes[0],
            "weight_bytes": made.bytes[1], "corpus_tokens_kept": made.covered, "corpus_ids": made.used,
            "left_out": made.left_out,
        }));
    }
    let share = |[before, after]: [u64; 2]| 100.0 * (1.0 - after as f64 / before.max(1) as f64);
    let mut text = format!(
        "{}: {} of {} tokens, {} parameters of {} (-{:.2} %), weights {:.1} MB of {:.1} MB (-{:.1} %)\n\
         {} distinct tokens in the texts; {:.3} % of token occurrences are unchanged\n",
        a.folders.out.display(),
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
