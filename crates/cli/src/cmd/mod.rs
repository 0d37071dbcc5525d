//! One file per verb, and what they share.

pub(crate) mod bench;
pub(crate) mod bench_zoo;
pub(crate) mod compress;
pub(crate) mod convert;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod points;
pub(crate) mod run;
pub(crate) mod table;
pub(crate) mod tour;
pub(crate) mod train;
pub(crate) mod write;

use std::io::Write;
use std::path::Path;

use serde_json::Value;
use switchformer_infer::{Listener, Session};
use switchformer_nn::Folder;
use switchformer_nn::error::{plain, visible};
use switchformer_zoo::{OpenOptions, Opened};

use crate::fail::Fail;

/// The checkpoint compiled into the binary: a small ViT trained by `recipes/fashion-vit.toml`.
pub(crate) static DEFAULT: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../../assets/default/config.json")),
    ("model.safetensors", include_bytes!("../../../../assets/default/model.safetensors")),
    ("switch.json", include_bytes!("../../../../assets/default/switch.json")),
    ("switch.safetensors", include_bytes!("../../../../assets/default/switch.safetensors")),
    ("preprocessor_config.json", include_bytes!("../../../../assets/default/preprocessor_config.json")),
];

/// Prints text to standard output, escaping what a terminal would obey: names and texts come from files. A closed pipe ends
/// the command quietly.
pub(crate) fn print(text: &str) -> Result<(), Fail> {
    print_raw(&visible(text))
}

/// Prints what no file had a part in, or what is escaped by its own rules.
pub(crate) fn print_raw(text: &str) -> Result<(), Fail> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Fail::Pipe,
        _ => Fail::Io("standard output".into(), e),
    })
}

/// Prints one JSON document.
pub(crate) fn print_json(doc: &Value) -> Result<(), Fail> {
    print_raw(&format!("{doc:#}\n"))
}

/// Writes notes to standard error.
pub(crate) struct Notes;

impl Listener for Notes {
    fn note(&mut self, text: &str) {
        eprintln!("note: {}", plain(text));
    }
}

/// Opens `default`, a folder, or a published size by name (random weights, said on standard error).
pub(crate) fn open(model: &str, nested: bool) -> Result<Session, Fail> {
    let options = OpenOptions { nested };
    if model == "default" {
        return Ok(Session::folder(Folder::Embedded(DEFAULT), options)?);
    }
    let path = Path::new(model);
    if path.exists() {
        return Ok(Session::open(path, options)?);
    }
    if model.contains(['/', '\\', '.']) {
        return Err(switchformer_nn::Error::io(path, std::io::ErrorKind::NotFound.into()).into());
    }
    let config = Opened::preset(model).map_err(|_| {
        Fail::Usage(format!(
            "no folder and no published size is named `{model}`; write `default`, a folder, or a name from `switchformer list`"
        ))
    })?;
    eprintln!("note: `{model}` has RANDOM weights: good for timing and shapes, not for answers");
    Ok(Session::random(config, options)?)
}
