//! What the name of a model on the command line stands for. Every verb that takes one answers a wrong name in the same words.

use std::path::{Path, PathBuf};

use switchformer_infer::Session;
use switchformer_nn::Folder;
use switchformer_switch::leaf::bits::NestedInt;
use switchformer_switch::{Form, Plan};
use switchformer_zoo::open::read_config;
use switchformer_zoo::{Entry, OpenOptions, Opened, ZOO, find};

use crate::fail::Fail;
use crate::say;

/// The checkpoint compiled into the binary: a small ViT trained by `recipes/fashion-vit.toml`.
pub(crate) static DEFAULT: &[(&str, &[u8])] = &[
    ("config.json", include_bytes!("../../../assets/default/config.json")),
    ("model.safetensors", include_bytes!("../../../assets/default/model.safetensors")),
    ("switch.json", include_bytes!("../../../assets/default/switch.json")),
    ("switch.safetensors", include_bytes!("../../../assets/default/switch.safetensors")),
    ("preprocessor_config.json", include_bytes!("../../../assets/default/preprocessor_config.json")),
];

/// Name of the embedded checkpoint.
pub(crate) const EMBEDDED: &str = "default";

/// What a name stands for.
pub(crate) enum Named {
    /// A checkpoint: a folder on disk, or the embedded one.
    Folder(Folder),
    /// A published size, of which only the config is known.
    Size(serde_json::Value),
    /// A family of models.
    Family(&'static Entry),
}

/// What `name` stands for. Errors say what is wrong with it and what to write.
pub(crate) fn named(name: &str) -> Result<Named, Fail> {
    if name == EMBEDDED {
        if Path::new(name).is_dir() {
            say::note("`default` is the embedded model; for the folder of this name write ./default");
        }
        return Ok(Named::Folder(Folder::Embedded(DEFAULT)));
    }
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(Named::Folder(Folder::disk(path)?));
    }
    if path.exists() {
        return Err(Fail::Input(file(path)));
    }
    if let Ok(entry) = find(name) {
        return Ok(Named::Family(entry));
    }
    match Opened::preset(name) {
        Ok(config) => Ok(Named::Size(config)),
        Err(_) => Err(Fail::Input(absent(name)?)),
    }
}

/// A folder on disk, for verbs that read nothing else.
pub(crate) fn folder(name: &Path) -> Result<(), Fail> {
    match named(&name.to_string_lossy())? {
        Named::Folder(Folder::Disk(_)) => Ok(()),
        Named::Folder(Folder::Embedded(_)) => {
            Err(Fail::Input("`default` is embedded in the program, and this reads a model folder".into()))
        }
        Named::Size(_) => Err(Fail::Input(format!(
            "`{}` is a published size without weights, and this reads a model folder",
            name.display()
        ))),
        Named::Family(_) => {
            Err(Fail::Input(format!("`{}` is a family of models, and this reads a model folder", name.display())))
        }
    }
}

/// Opens `default`, a folder, or a published size by name (random weights, which a note says).
pub(crate) fn open(name: &str, nested: bool) -> Result<Session, Fail> {
    let options = OpenOptions { nested };
    match named(name)? {
        Named::Folder(folder) => {
            let session = Session::folder(folder, options)?;
            if nested && session.model_folder().map(holds_integers).transpose()? == Some(true) {
                say::note(&format!("`{name}` already stores 8-bit weights: --nested changes nothing"));
            }
            session.notes().iter().for_each(|text| say::note(text));
            Ok(session)
        }
        Named::Size(config) => {
            fits(name, &config)?;
            say::note(&format!("`{name}` has RANDOM weights: good for timing and shapes, not for answers"));
            Ok(Session::random(config, options)?)
        }
        Named::Family(entry) => Err(Fail::Input(format!(
            "`{name}` is a family; name one of its sizes ({}) or a folder",
            sizes(entry)?.join(", ")
        ))),
    }
}

/// Whether the weights of a folder are stored as 8-bit integers.
fn holds_integers(folder: &Folder) -> Result<bool, Fail> {
    let (_, config) = read_config(folder)?;
    Ok(Plan::read(folder, &config)?.forms.iter().any(|f| f.form == NestedInt.name()))
}

/// Errors where random weights of a published size would not fit into memory.
fn fits(name: &str, config: &serde_json::Value) -> Result<(), Fail> {
    let family = config["model_type"].as_str().unwrap_or_default();
    let slug = |s: &str| s.replace('_', "-");
    let params = find(family)?.variants()?.iter().find(|v| slug(&v.name) == slug(name)).map_or(0, |v| v.params);
    let (need, free) = (4 * params, available());
    if free.is_none_or(|free| need < free) {
        return Ok(());
    }
    Err(switchformer_nn::Error::Limit {
        what: format!("the memory that the weights of {name} take, in bytes,"),
        got: need,
        max: free.unwrap_or(u64::MAX),
        hint: format!("`switchformer describe {name}` needs no weights; or choose a smaller size"),
    }
    .into())
}

/// Bytes of memory that can be had, where the system tells.
fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let info = read("/proc/meminfo")?;
    let line = info.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let system = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .map(|max| max.saturating_sub(number("/sys/fs/cgroup/memory.current").unwrap_or(0)));
    Some(group.map_or(system, |group| group.min(system)))
}

fn sizes(entry: &Entry) -> Result<Vec<String>, Fail> {
    Ok(entry.variants()?.iter().map(|v| v.name.clone()).collect())
}

/// A file where a folder belongs.
fn file(path: &Path) -> String {
    let shown = path.display();
    let kind = match path.extension().and_then(|e| e.to_str()) {
        Some("pt" | "pth" | "bin" | "ckpt") => Some("a file of PyTorch"),
        Some("onnx") => Some("an ONNX model"),
        _ => None,
    };
    if let Some(kind) = kind {
        return format!(
            "{shown} is {kind}: `switchformer convert {shown} model.safetensors` turns it into safetensors; a model \
             is a folder with that and a config.json"
        );
    }
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if dir.join("config.json").is_file() {
        return format!("{shown} is a file: give its folder, {}", dir.display());
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("toml") => format!("{shown} is a recipe: `switchformer train {shown}` trains it"),
        _ => format!("{shown} is a file: a model is a folder with config.json and model.safetensors"),
    }
}

/// What to say of a name that is no file and no model.
fn absent(name: &str) -> Result<String, Fail> {
    if name.is_empty() {
        return Ok("the name of the model is empty: write `default`, a folder, or a published size".into());
    }
    if name.contains("://") {
        return Ok(format!("{name} is a web address, and this program makes no network calls: fetch the folder first"));
    }
    if name.contains(['*', '?']) {
        return Ok(format!("nothing here is named {name}: the shell found no file for the pattern"));
    }
    if name.starts_with("models/") {
        return Ok(format!(
            "no such folder: {name}; `sh scripts/fetch-models.sh` in a clone of the repository fetches some into models/"
        ));
    }
    if let Some((owner, repo)) = hub_name(name) {
        return Ok(match cached(owner, repo) {
            Some(dir) => format!("no such folder: {name}; the hub's cache holds it: give {}", dir.display()),
            None => format!(
                "no such folder: {name}; if it is a name on a model hub, fetch it first \
                 (`hf download {name} --local-dir {repo}`) and give the folder"
            ),
        });
    }
    if name.contains(['/', '\\']) || name.starts_with('.') {
        return Ok(format!("no such folder: {name}"));
    }
    let near = nearest(name)?;
    let meant = if near.is_empty() { String::new() } else { format!("; similar: {}", near.join(", ")) };
    Ok(format!(
        "no folder and no published size is named `{name}`{meant}; write `default`, a folder, or a name that \
         `switchformer list` shows"
    ))
}

/// Owner and repository of a name as model hubs write it.
fn hub_name(name: &str) -> Option<(&str, &str)> {
    let (owner, repo) = name.split_once('/')?;
    let word = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    (word(owner) && word(repo) && !Path::new(owner).exists()).then_some((owner, repo))
}

/// The folder where the hub's own tools keep a model, if they fetched it.
fn cached(owner: &str, repo: &str) -> Option<PathBuf> {
    let home = std::env::var_os("HF_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/huggingface")))?;
    let snapshots = home.join("hub").join(format!("models--{owner}--{repo}")).join("snapshots");
    let mut all: Vec<PathBuf> = std::fs::read_dir(snapshots).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    all.sort();
    all.into_iter().find(|dir| dir.join("config.json").is_file())
}

/// Names of families and sizes that are spelt nearly so, or that contain it.
fn nearest(name: &str) -> Result<Vec<String>, Fail> {
    let mut all: Vec<String> = ZOO.iter().map(|e| e.name.to_owned()).collect();
    for entry in ZOO {
        all.extend(sizes(entry)?);
    }
    all.push(EMBEDDED.into());
    let wanted = name.to_lowercase().replace('_', "-");
    let mut found: Vec<(f64, String)> = all
        .into_iter()
        .map(|known| (strsim::jaro_winkler(&wanted, &known.to_lowercase().replace('_', "-")), known))
        .filter(|(alike, _)| *alike > 0.85)
        .collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(found.into_iter().take(3).map(|(_, known)| known).collect())
}
