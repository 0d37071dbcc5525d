//! `convert`: an old PyTorch checkpoint becomes safetensors.

use std::path::{Path, PathBuf};

use serde_json::json;
use switchformer_nn::error::plain;
use switchformer_nn::pickle::{Left, read};
use switchformer_nn::store::{Saved, safetensors_bytes, saved, unused, write_atomic};

use super::{print, print_json};
use crate::fail::Fail;

/// `convert FILE OUT`.
#[derive(clap::Args)]
#[command(after_help = "Example (with a file of a clone of the repository):
  switchformer convert crates/format/tests/fixtures/pickle/layers.pth out.safetensors")]
pub(crate) struct Args {
    /// A file of torch.save, zipped or of the old kind (.pth, .pt, .bin)
    file: PathBuf,
    /// File to write, NAME.safetensors, which must not exist; or a folder, which gets model.safetensors and is made where there is none
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

/// The file that OUT stands for: itself where it is called so, else one in the folder.
fn target(out: &Path) -> Result<PathBuf, Fail> {
    match out.extension().and_then(|e| e.to_str()) {
        Some("safetensors") if !out.is_dir() => Ok(out.to_path_buf()),
        Some("bin" | "pt" | "pth" | "ckpt" | "onnx" | "gguf") if !out.is_dir() => Err(Fail::Usage(format!(
            "{} would not be such a file: name it {}, or name a folder",
            out.display(),
            out.with_extension("safetensors").display()
        ))),
        _ => Ok(out.join("model.safetensors")),
    }
}

/// Writes the tensors and says what they were.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    let out = target(&a.out)?;
    unused(&out)?;
    let mut read = read(&a.file, a.key.as_deref())?;
    if a.dtype == Type::F32 {
        for (name, t) in &mut read.tensors {
            *t = single(name, t)?;
        }
    }
    let bytes = safetensors_bytes(&read.tensors)?;
    if let Some(dir) = out.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|e| switchformer_nn::Error::io(dir, e))?;
    }
    write_atomic(&out, &bytes)?;
    let elements: usize = read.tensors.values().map(|t| t.shape.iter().product::<usize>()).sum();
    if as_json {
        return print_json(&json!({
            "out": out, "tensors": read.tensors.len(), "elements": elements, "bytes": bytes.len(), "key": read.key,
            "prefix_removed": read.prefix, "skipped": read.skipped,
            "left": read.left.iter().map(|l| json!({"name": l.name, "why": l.why})).collect::<Vec<_>>(),
        }));
    }
    let mut text =
        format!("{}: {} tensors, {elements} elements, {} bytes\n", out.display(), read.tensors.len(), bytes.len());
    if let Some(key) = &read.key {
        text.push_str(&format!("taken from `{}`\n", plain(key)));
    }
    if let Some(prefix) = read.prefix {
        text.push_str(&format!("`{prefix}` removed from every name\n"));
    }
    for Left { name, why } in &read.left {
        text.push_str(&format!("not written: `{}` {}\n", plain(name), plain(why)));
    }
    if let [first, ..] = read.skipped.as_slice() {
        text.push_str(&format!(
            "{} entries are no tensors and were left out (`{}`, ...)\n",
            read.skipped.len(),
            plain(first)
        ));
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
fn single(name: &str, t: &Saved) -> Result<Saved, Fail> {
    use switchformer_tensor::{DType, Tensor};
    let dtype = match t.dtype {
        safetensors::Dtype::F16 => DType::F16,
        safetensors::Dtype::BF16 => DType::BF16,
        safetensors::Dtype::F64 => {
            let values = t.bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b));
            if let Some(big) = values.filter(|v| v.is_finite()).find(|v| !(*v as f32).is_finite()) {
                let what = format!("{name} holds {big:e}, beyond what f32 can hold; leave out --dtype");
                return Err(Fail::Usage(what));
            }
            DType::F64
        }
        _ => return Ok(t.clone()),
    };
    Ok(saved(&Tensor::from_raw_buffer(&t.bytes, dtype, &t.shape)?)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use safetensors::Dtype;

    use super::*;

    #[test]
    fn a_double_beyond_single_precision_is_an_error() {
        let double = |v: f64| Saved { dtype: Dtype::F64, shape: vec![1], bytes: v.to_le_bytes().to_vec() };
        let e = single("a.w", &double(-1e300)).unwrap_err().to_string();
        assert!(e.contains("a.w holds -1e300"), "{e}");
        for (v, want) in [(0.1f64, 0.1f32), (f64::INFINITY, f32::INFINITY), (1e-320, 0.0)] {
            assert_eq!(single("w", &double(v)).unwrap(), Saved::f32(&[1], &[want]));
        }
    }
}
