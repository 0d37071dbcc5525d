//! `inspect`: headers of a checkpoint, nothing loaded; with `--memory`, what opening and running it takes.

use std::path::PathBuf;

use serde_json::json;
use switchformer_infer::Session;
use switchformer_infer::account::{Account, account};
use switchformer_lab::measure::{peak_memory, reset_peak};
use switchformer_nn::error::visible;
use switchformer_nn::init::Stream;
use switchformer_nn::weights::{inspect, inspect_folder};
use switchformer_nn::{Folder, Input, Point, machine};
use switchformer_zoo::{OpenOptions, Opened};

use super::table::{aligned, thousands};
use super::{print, print_json};
use crate::fail::Fail;
use crate::model::{Named, named};
use crate::say;

/// `inspect PATH`.
#[derive(clap::Args)]
#[command(after_help = "Examples (with a model folder of a clone of the repository):
  switchformer inspect fixtures/rxnmapper-albert
  switchformer inspect fixtures/rxnmapper-albert --memory")]
pub(crate) struct Args {
    /// `default`, a model folder or a safetensors file
    path: PathBuf,
    /// Open the folder, run one small input and show the most memory that each took
    #[arg(long)]
    memory: bool,
}

/// Prints names, types and shapes.
pub(crate) fn run(a: &Args, json: bool) -> Result<(), Fail> {
    let tensors = match a.of()? {
        Of::File => inspect(&a.path)?,
        Of::Folder(folder) => inspect_folder(&folder)?,
    };
    if a.memory {
        return memory(a, tensors.iter().map(|t| t.bytes()).sum(), json);
    }
    let elements: u64 = tensors.iter().map(|t| t.elements()).sum();
    if json {
        let list: Vec<_> = tensors
            .iter()
            .map(|t| json!({"name": t.name, "dtype": format!("{:?}", t.dtype), "shape": t.shape}))
            .collect();
        let settings: Vec<_> = a
            .settings()?
            .iter()
            .map(|s| json!({"file": s.file, "key": s.key, "value": s.value, "handling": s.handling, "why": s.why}))
            .collect();
        return print_json(&json!({"tensors": list, "elements": elements, "settings": settings}));
    }
    let rows: Vec<Vec<String>> =
        tensors.iter().map(|t| vec![t.name.clone(), format!("{:?}", t.dtype), format!("{:?}", t.shape)]).collect();
    print(&format!(
        "{}\n{} tensors, {} elements\n",
        aligned(&["tensor", "type", "shape"], &rows, 2),
        tensors.len(),
        thousands(elements)
    ))?;
    let settings = a.settings()?;
    if settings.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = settings
        .into_iter()
        .map(|s| {
            vec![s.file, visible(&s.key).to_string(), visible(&s.value).to_string(), s.handling.to_string(), s.why]
        })
        .collect();
    print(&format!("\n{}", aligned(&["file", "setting", "value", "what becomes of it", ""], &rows, 5)))
}

/// What a path is.
enum Of {
    File,
    Folder(Folder),
}

impl Args {
    /// What becomes of the settings in the files of a folder; nothing of a lone file. A folder that does not open is told so.
    fn settings(&self) -> Result<Vec<Account>, Fail> {
        let Of::Folder(folder) = self.of()? else { return Ok(Vec::new()) };
        match Session::folder(folder.clone(), OpenOptions::default()) {
            Ok(session) => Ok(account(&folder, &session)?),
            Err(e) => {
                say::note(&format!("it does not open, so its settings are not told: {e}"));
                Ok(Vec::new())
            }
        }
    }

    fn of(&self) -> Result<Of, Fail> {
        let kind = self.path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if self.path.is_file() && !matches!(kind, "pt" | "pth" | "bin" | "ckpt" | "json" | "toml") {
            return Ok(Of::File);
        }
        let name = self.path.to_string_lossy();
        match named(&name)? {
            Named::Folder(folder) => Ok(Of::Folder(folder)),
            _ => Err(Fail::Input(format!(
                "`{name}` has no files to inspect: `switchformer describe {name}` tells its sizes, `bench` its memory"
            ))),
        }
    }
}

/// Tokens of the input that is run.
const TOKENS: usize = 16;

/// Measures opening and one pass. All figures but the file's are of resident memory, over what the process took before.
fn memory(a: &Args, file: u64, json: bool) -> Result<(), Fail> {
    let Of::Folder(folder) = a.of()? else {
        return Err(Fail::Usage("--memory opens a model: give its folder".into()));
    };
    reset_peak();
    let before = peak_memory();
    if before == 0 {
        return Err(Fail::Usage("this system does not tell how much memory a process takes".into()));
    }
    let grown = || peak_memory().saturating_sub(before);
    let opened = Opened::folder(&folder, OpenOptions::default())?;
    let opening = grown();
    let spec = opened.model.spec();
    let input = Input::sample(
        &spec,
        &[TOKENS.min(spec.text_size().map_or(1, |(_, most)| most))],
        None,
        Some(&Stream::named("memory")),
    )?;
    opened.run(&Point::new(), &input)?;
    let (pass, panels) = (grown(), machine::packed_bytes() as u64);
    if json {
        return print_json(&json!({
            "tensor_bytes": file, "opening_peak_bytes": opening, "pass_peak_bytes": pass, "packed_bytes": panels
        }));
    }
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let rows = [
        ("tensors in the file", file),
        ("most while opening", opening),
        ("most with one pass", pass),
        ("of it packed weights", panels),
    ];
    let rows: Vec<Vec<String>> = rows.iter().map(|(what, bytes)| vec![what.to_string(), mib(*bytes)]).collect();
    print(&aligned(&["memory", "size"], &rows, 1))
}
