//! `convert`: an old PyTorch checkpoint becomes safetensors.

use std::path::{Path, PathBuf};

use serde_json::json;
use switchformer_nn::pickle::read;
use switchformer_nn::store::{Saved, safetensors_bytes, saved, write_atomic};

use super::{print, print_json};
use crate::fail::Fail;

/// `convert FILE OUT`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A file of torch.save, zipped or of the old kind (.pth, .pt, .bin)
    file: PathBuf,
    /// File to write, or a folder that gets model.safetensors; must not exist
    out: PathBuf,
    /// Entry of the file that holds the tensors, such as `model` or `ema.model` [default: the usual ones]
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Type of float tensors; integers stay as they are
    #[arg(long, value_enum, default_value_t = Type::Keep)]
    dtype: Type,
}

/// Type of float tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    /// As stored
    Keep,
    /// Single precision
    F32,
}

/// Writes the tensors and says what they were.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    let out = if a.out.is_dir() { a.out.join("model.safetensors") } else { a.out.clone() };
    if out.exists() {
        return Err(Fail::Usage(format!("{} exists already; name a new file", out.display())));
    }
    let mut read = read(&a.file, a.key.as_deref())?;
    if a.dtype == Type::F32 {
        for t in read.tensors.values_mut() {
            *t = single(t)?;
        }
    }
    let bytes = safetensors_bytes(&read.tensors)?;
    write_atomic(&out, &bytes)?;
    let elements: usize = read.tensors.values().map(|t| t.shape.iter().product::<usize>()).sum();
    if as_json {
        return print_json(&json!({
            "out": out, "tensors": read.tensors.len(), "elements": elements, "bytes": bytes.len(), "key": read.key,
            "prefix_removed": read.prefix, "skipped": read.skipped,
        }));
    }
    let mut text =
        format!("{}: {} tensors, {elements} elements, {} bytes\n", out.display(), read.tensors.len(), bytes.len());
    if let Some(key) = &read.key {
        text.push_str(&format!("taken from `{key}`\n"));
    }
    if let Some(prefix) = read.prefix {
        text.push_str(&format!("`{prefix}` removed from every name\n"));
    }
    if let [first, ..] = read.skipped.as_slice() {
        text.push_str(&format!("{} entries are no tensors and were left out (`{first}`, ...)\n", read.skipped.len()));
    }
    if !has_config(&out) {
        text.push_str("to open it: put the model's config.json beside it, and name it model.safetensors\n");
    }
    print(&text)
}

fn has_config(out: &Path) -> bool {
    out.file_name().is_some_and(|n| n == "model.safetensors") && out.with_file_name("config.json").exists()
}

/// A float tensor in single precision; others as they are.
fn single(t: &Saved) -> Result<Saved, Fail> {
    use switchformer_tensor::{DType, Tensor};
    let dtype = match t.dtype {
        safetensors::Dtype::F16 => DType::F16,
        safetensors::Dtype::BF16 => DType::BF16,
        safetensors::Dtype::F64 => DType::F64,
        _ => return Ok(t.clone()),
    };
    Ok(saved(&Tensor::from_raw_buffer(&t.bytes, dtype, &t.shape)?)?)
}
