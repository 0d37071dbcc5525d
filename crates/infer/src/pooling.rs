//! Sentence embeddings: how sentence-transformers turns rows into one vector per text.

use std::path::PathBuf;

use serde_json::Value as Json;
use switchformer_nn::{Error, Folder, Output, Result, Value};
use switchformer_tensor::{DType, Tensor};
use switchformer_zoo::open::MAX_CONFIG;

/// Most entries of `modules.json`.
const MAX_MODULES: usize = 16;

/// How sentence-transformers turns rows into one vector per text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pooling {
    /// Mean over all rows (else the first row).
    pub mean: bool,
    /// Scale to unit length.
    pub normalize: bool,
}

impl Pooling {
    /// Reads `modules.json` and the pooling folder it names; other modules and modes are refused by name.
    pub fn read(folder: &Folder) -> Result<Option<Pooling>> {
        if !folder.has("modules.json") {
            return Ok(None);
        }
        let doc = folder.json("modules.json", MAX_CONFIG)?;
        let modules = doc.as_array().ok_or_else(|| Error::config("modules.json", "must be a list"))?;
        if modules.len() > MAX_MODULES {
            return Err(Error::config("modules.json", format!("has {} entries, at most {MAX_MODULES}", modules.len())));
        }
        let mut pooling = None;
        for m in modules {
            let kind = m.get("type").and_then(Json::as_str).unwrap_or_default();
            let path = m.get("path").and_then(Json::as_str).unwrap_or_default();
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => pooling = Some(Pooling { mean: read_mode(folder, path)?, normalize: false }),
                "Normalize" => match &mut pooling {
                    Some(p) => p.normalize = true,
                    None => return Err(Error::config("modules.json", "Normalize comes before Pooling")),
                },
                _ => return Err(Error::unsupported("modules.json type", kind, "Transformer, Pooling, Normalize")),
            }
        }
        Ok(pooling)
    }

    /// The vector of each member of an output, `[dim]`; `None` for one without rows of its own in it (it left the batch, or the
    /// output has no `last_hidden_state`).
    pub fn embed(&self, out: &Output, members: usize) -> Result<Vec<Option<Tensor>>> {
        let mut all = vec![None; members];
        if let Some(Value::PerRow(x, rows)) = out.values().get("last_hidden_state") {
            for (i, member) in rows.members().iter().enumerate() {
                let of = all.get_mut(*member as usize);
                *of.ok_or_else(|| Error::shape("last_hidden_state", format!("{members} members"), &[rows.n()]))? =
                    Some(self.pool(&x.narrow(0, rows.range(i).start, rows.len(i))?)?);
            }
        }
        Ok(all)
    }

    /// Shapes: x `[len, dim]` -> `[dim]`; zeros where there is no row.
    fn pool(&self, x: &Tensor) -> Result<Tensor> {
        let (len, dim) = x.dims2()?;
        let take = if self.mean { len } else { len.min(1) };
        let v = match take {
            0 => Tensor::zeros(dim, DType::F32)?,
            take => x.narrow(0, 0, take)?.mean(0)?,
        };
        if !self.normalize {
            return Ok(v);
        }
        let norm = v.sqr()?.sum_all()?.sqrt()?.to_scalar::<f32>()?;
        v / f64::from(norm.max(1e-12))
    }
}

/// Whether the pooling module takes the mean (true) or the first row (false).
fn read_mode(folder: &Folder, path: &str) -> Result<bool> {
    let plain = !path.is_empty() && path.len() < 64 && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !plain {
        return Err(Error::config("modules.json path", format!("{path:?} must be a plain folder name")));
    }
    let file = PathBuf::from(path).join("config.json");
    let doc = folder.json(&file.to_string_lossy(), MAX_CONFIG)?;
    let on: Vec<&str> = doc
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| k.starts_with("pooling_mode_") && v.as_bool() == Some(true))
        .map(|(k, _)| k.as_str())
        .collect();
    // Newer files name the mode in one field.
    let named = doc.get("pooling_mode").and_then(Json::as_str);
    match (named, on.as_slice()) {
        (Some("mean"), []) | (None, ["pooling_mode_mean_tokens"]) => Ok(true),
        (Some("cls"), []) | (None, ["pooling_mode_cls_token"]) => Ok(false),
        (named, on) => {
            let value = named.map_or_else(|| on.join("+"), str::to_string);
            Err(Error::unsupported(format!("{path}/config.json pooling_mode"), value, "mean, cls"))
        }
    }
}
