//! Every command in README, docs and help runs as it is printed, or says in its line what it needs.

#![allow(clippy::unwrap_used)]
#![cfg(unix)]

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder that looks like a fresh clone, with the program on the path of its shell.
fn clone() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    for name in ["README.md", "assets", "crates", "docs", "fixtures", "recipes", "results"] {
        symlink(root().join(name), temp.path().join(name)).unwrap();
    }
    if root().join("models").is_dir() {
        symlink(root().join("models"), temp.path().join("models")).unwrap();
    }
    std::fs::create_dir(temp.path().join("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_switchformer"), temp.path().join("bin/switchformer")).unwrap();
    temp
}

fn shell(dir: &Path, command: &str) -> Output {
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    Command::new("sh").args(["-e", "-c", command]).current_dir(dir).env("PATH", path).output().unwrap()
}

/// The same command at a size that a test can pay for.
fn small(command: &str) -> String {
    let command = command.replace("cargo run --release -- ", "switchformer ");
    let short = |verb: &str, with: &str| (command.contains(verb) && !command.contains(with)).then(|| with.to_string());
    let more = [
        short("switchformer tour", "--rounds 3"),
        short("switchformer tour", "--images 32")
            .filter(|_| !command.contains("--model") && !command.contains("--image")),
        short("switchformer bench", "--iters 1"),
        short("switchformer bench", "--warmup 0"),
    ];
    let more: Vec<String> = more.into_iter().flatten().collect();
    // Later settings of a flag are errors, so what is printed is taken out first.
    let mut words: Vec<&str> = command.split(' ').collect();
    for flag in more.iter().filter_map(|m| m.split(' ').next()) {
        if let Some(at) = words.iter().position(|w| *w == flag) {
            words.drain(at..at + 2);
        }
    }
    format!("{} {}", words.join(" "), more.join(" "))
}

/// What a line of a code block runs: nothing where it is no command of ours, or says that it needs something.
fn command(line: &str) -> Option<String> {
    let (command, note) = line.split_once("  #").unwrap_or((line, ""));
    let command = command.trim().trim_start_matches("$ ");
    let ours = ["switchformer ", "cargo run --release -- ", "printf "].iter().any(|start| command.starts_with(start));
    if ours && note.contains("needs") && !(fetched(command) && note.contains("folder")) {
        eprintln!("SKIPPED, it needs what is not here: {command}");
        return None;
    }
    ours.then(|| command.to_string())
}

/// Whether a command names a model that scripts/fetch-models.sh has put into `models/`.
fn fetched(command: &str) -> bool {
    command.split(' ').any(|word| word.starts_with("models/") && root().join(word).is_dir())
}

/// The JSON blocks of a page, in order.
fn json_blocks(page: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    text.split("```json\n").skip(1).map(|b| serde_json::from_str(b.split("```").next().unwrap()).unwrap()).collect()
}

/// Whether what a page shows is in what the program says: all its keys, the first items of lists, numbers to their digits.
fn shows(page: &Value, said: &Value) -> bool {
    match (page, said) {
        (Value::Object(page), Value::Object(said)) => {
            page.iter().all(|(key, value)| said.get(key).is_some_and(|s| shows(value, s)))
        }
        (Value::Array(page), Value::Array(said)) => {
            page.len() <= said.len() && page.iter().zip(said).all(|(p, s)| shows(p, s))
        }
        (Value::Number(page), Value::Number(said)) if page.is_f64() => {
            (page.as_f64().unwrap() - said.as_f64().unwrap()).abs() < 0.006
        }
        _ => page == said,
    }
}

/// The commands of the code blocks of a page, lines that end in `\` joined with the next.
fn commands(page: &str) -> Vec<String> {
    // Inside a block: whether it holds commands.
    let (mut block, mut all, mut open) = (None, Vec::new(), String::new());
    for line in page.lines() {
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            block = if block.is_some() { None } else { Some(matches!(kind, "" | "sh")) };
        } else if block == Some(true) {
            match line.strip_suffix('\\') {
                Some(part) => open.push_str(part),
                None => all.extend(command(&(std::mem::take(&mut open) + line))),
            }
        }
    }
    all
}

fn run_all(from: &str, commands: &[String], home: &Path) {
    for command in commands {
        let out = shell(home, &small(command));
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{from}: {command}: {err}");
    }
}

#[test]
fn the_commands_of_pages_run() {
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    for dir in ["docs", "docs/jobs"] {
        pages.extend(std::fs::read_dir(root().join(dir)).unwrap().map(|e| e.unwrap().path()));
    }
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    pages.sort();
    let mut n = 0;
    for page in pages {
        let all = commands(&std::fs::read_to_string(&page).unwrap());
        let home = clone();
        run_all(&page.display().to_string(), &all, home.path());
        n += all.len();
    }
    assert!(n >= 20, "{n} commands");
}

#[test]
fn the_json_of_pages_is_what_the_program_says() {
    let home = clone();
    let shape = |page: &str, said: &[u8]| {
        let said: Value = serde_json::from_slice(said).unwrap();
        let all = json_blocks(page);
        assert!(all.len() == 1 && shows(&all[0], &said), "{page}: {said}");
    };
    let out = shell(home.path(), "switchformer run default --image example:7 --point exit-3 --json");
    shape("docs/jobs/run.md", &out.stdout);
    let out = shell(home.path(), "switchformer --json run ./models/x --text a");
    assert!(out.stdout.is_empty() && out.status.code() == Some(1));
    shape("docs/exit-codes.md", &out.stderr);
}

#[test]
fn the_points_of_the_page_on_folders_work() {
    let [refers, plan] = json_blocks("docs/folders.md").try_into().unwrap();
    let (home, model) = (clone(), root().join("fixtures/rxnmapper-albert"));
    let dir = home.path().join("own");
    std::fs::create_dir(&dir).unwrap();
    for entry in std::fs::read_dir(&model).unwrap() {
        let name = entry.unwrap().file_name();
        std::fs::copy(model.join(&name), dir.join(&name)).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    config["switch"] = refers["switch"].clone();
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("switch.json"), plan.to_string()).unwrap();
    let out = shell(home.path(), "switchformer points own");
    assert!(String::from_utf8_lossy(&out.stdout).contains("fast"), "{}", String::from_utf8_lossy(&out.stderr));
    let out = shell(home.path(), "switchformer run own --text 'CCO>>[MASK]C=O' --point fast --json");
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(said["point"], plan["points"]["fast"]["point"]);
}

#[test]
fn the_examples_of_help_run() {
    let help = |args: &str| {
        let out = Command::new(env!("CARGO_BIN_EXE_switchformer")).args(args.split(' ')).output().unwrap();
        assert!(out.status.success(), "{args}");
        String::from_utf8(out.stdout).unwrap()
    };
    let verbs = [
        "run",
        "tour",
        "bench",
        "eval",
        "compress",
        "convert",
        "train",
        "list",
        "describe",
        "points",
        "inspect",
        "doctor",
        "completions",
        "man",
    ];
    let overview = help("help");
    for verb in verbs {
        assert!(overview.contains(&format!("\n  {verb} ")), "{verb} is not in the overview");
        let page = help(&format!("help {verb}"));
        assert!(page.ends_with(&help(&format!("{verb} --help"))), "{verb}");
        let all: Vec<String> = page.lines().filter(|l| l.starts_with("  ")).filter_map(command).collect();
        assert!(!all.is_empty(), "{verb} has no example that runs as it is");
        run_all(verb, &all, clone().path());
    }
    for topic in ["points", "switches", "folders", "exit-codes"] {
        assert!(overview.contains(topic) && help(&format!("help {topic}")).starts_with("# "), "{topic}");
    }
    let temp = tempfile::tempdir().unwrap();
    let man = format!("man --out {}", temp.path().join("man").display());
    help(&man);
    let pages = std::fs::read_dir(temp.path().join("man")).unwrap().count();
    assert!(pages > verbs.len(), "{pages} pages");
}
