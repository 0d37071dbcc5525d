//! `convert`: a PyTorch checkpoint or an ONNX file becomes safetensors.

use std::path::{Path, PathBuf};

use serde_json::json;
use switchformer_nn::error::plain;
use switchformer_nn::onnx::{self, Wanted};
use switchformer_nn::pickle::{self, Left};
use switchformer_nn::store::{Saved, SavedMap, safetensors_bytes, saved, unused, write_atomic};

use super::{print, print_json};
use crate::fail::Fail;

/// `convert FILE OUT`.
#[derive(clap::Args)]
#[command(after_help = "Example (with a file of a clone of the repository):
  switchformer convert crates/format/tests/fixtures/pickle/layers.pth out.safetensors")]
pub(crate) struct Args {
    /// A file of torch.save, zipped or of the old kind (.pth, .pt, .bin), or an ONNX model (.onnx)
    file: PathBuf,
    /// File to write, NAME.safetensors, which must not exist; or a folder, which gets model.safetensors and is made where there is none
    out: PathBuf,
    /// Entry of the file that holds the tensors, such as `model` or `ema.model` [default: the usual ones]; of an ONNX
    /// model the module that is meant, such as `backbone`
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Name a tensor of an ONNX model that has lost its name; several are joined along the dimension in which they differ
    #[arg(long, value_name = "NEW=OLD[,OLD]", value_parser = naming)]
    tensor: Vec<(String, Vec<String>)>,
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

/// A new name and the tensors that stand for it.
fn naming(text: &str) -> Result<(String, Vec<String>), String> {
    match text.split_once('=') {
        Some((new, old)) if !new.is_empty() && !old.is_empty() => {
            Ok((new.to_string(), old.split(',').map(str::to_string).collect()))
        }
        _ => Err("must be NEW=OLD, or NEW=OLD,OLD".into()),
    }
}

/// What a file gave, whatever its format.
struct Found {
    tensors: SavedMap,
    left: Vec<Left>,
    /// What more is to be said, as text and as JSON.
    notes: Vec<String>,
    json: serde_json::Value,
}

/// Reads a file by its kind.
fn found(a: &Args) -> Result<Found, Fail> {
    if onnx::is_named_so(&a.file) {
        let read = onnx::read(&a.file, Wanted { key: a.key.as_deref(), named: &a.tensor })?;
        let mut notes = Vec::new();
        if let [(new, old), ..] = read.recovered.as_slice() {
            let (n, new, old) = (read.recovered.len(), plain(new), plain(old));
            notes.push(format!("{n} names recovered from the graph (`{new}` is `{old}`, ...)"));
        }
        if read.constants > 0 {
            notes.push(format!("{} small constants of the graph left out", read.constants));
        }
        let recovered: serde_json::Map<_, _> = read.recovered.into_iter().map(|(n, o)| (n, o.into())).collect();
        let json = json!({"key": a.key, "recovered": recovered, "constants": read.constants});
        return Ok(Found { tensors: read.tensors, left: read.left, notes, json });
    }
    if !a.tensor.is_empty() {
        return Err(Fail::Usage("--tensor names tensors of ONNX models; in other files they have names".into()));
    }
    let read = pickle::read(&a.file, a.key.as_deref())?;
    let mut notes = Vec::new();
    if let Some(key) = &read.key {
        notes.push(format!("taken from `{}`", plain(key)));
    }
    if let Some(prefix) = read.prefix {
        notes.push(format!("`{prefix}` removed from every name"));
    }
    if let [first, ..] = read.skipped.as_slice() {
        let n = read.skipped.len();
        notes.push(format!("{n} entries are no tensors and were left out (`{}`, ...)", plain(first)));
    }
    let json = json!({"key": read.key, "prefix_removed": read.prefix, "skipped": read.skipped});
    Ok(Found { tensors: read.tensors, left: read.left, notes, json })
}

/// Writes the tensors and says what they were.
pub(crate) fn run(a: &Args, as_json: bool) -> Result<(), Fail> {
    let out = target(&a.out)?;
    unused(&out)?;
    let mut found = found(a)?;
    if a.dtype == Type::F32 {
        for (name, t) in &mut found.tensors {
            *t = single(name, t)?;
        }
    }
    let bytes = safetensors_bytes(&found.tensors)?;
    if let Some(dir) = out.parent().filter(|d| !d.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(|e| switchformer_nn::Error::io(dir, e))?;
    }
    write_atomic(&out, &bytes)?;
    let elements: usize = found.tensors.values().map(|t| t.shape.iter().product::<usize>()).sum();
    if as_json {
        let mut said = found.json;
        said["out"] = json!(out);
        said["tensors"] = found.tensors.len().into();
        said["elements"] = elements.into();
        said["bytes"] = bytes.len().into();
        said["left"] = found.left.iter().map(|l| json!({"name": l.name, "why": l.why})).collect();
        return print_json(&said);
    }
    let mut text =
        format!("{}: {} tensors, {elements} elements, {} bytes\n", out.display(), found.tensors.len(), bytes.len());
    for note in &found.notes {
        text.push_str(&format!("{note}\n"));
    }
    for Left { name, why } in &found.left {
        text.push_str(&format!("not written: `{}` {}\n", plain(name), plain(why)));
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
