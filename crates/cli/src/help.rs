//! Help: the verbs by what a user wants, pages on topics, man pages. Texts of verbs come from their own definitions.

use std::path::PathBuf;

use clap::{Command, CommandFactory};
use switchformer_nn::store::write_atomic;

use crate::cmd::{print, print_raw};
use crate::fail::Fail;

/// What a user wants, and the verbs for it.
const GROUPS: &[(&str, &[&str])] = &[
    ("Run a model", &["run"]),
    ("Measure", &["tour", "bench", "eval"]),
    ("Make smaller or convert", &["compress", "convert"]),
    ("Train", &["train"]),
    ("Look inside", &["list", "describe", "points", "inspect", "doctor"]),
    ("Help", &["help", "completions", "man"]),
];

/// Pages that `help` shows, with a line on each.
const TOPICS: &[(&str, &str, &str)] = &[
    (
        "points",
        "operating points: what they are, how to write one, how to choose",
        include_str!("../../../docs/points.md"),
    ),
    ("switches", "each switch, its values and the paper it follows", include_str!("../../../docs/switches.md")),
    ("folders", "which model folders can be opened", include_str!("../../../docs/folders.md")),
    ("exit-codes", "exit codes, notes and JSON", include_str!("../../../docs/exit-codes.md")),
];

/// `help [WHAT]`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A command (and a form of `compress`), or a topic: points, switches, folders, exit-codes
    what: Vec<String>,
}

/// `man`.
#[derive(clap::Args)]
pub(crate) struct Man {
    /// Write a page for every command into this folder, instead of printing the main page
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// The command line with its help in groups.
pub(crate) fn command<C: CommandFactory>() -> Command {
    let plain = C::command();
    let mut text = String::new();
    for (group, verbs) in GROUPS {
        text.push_str(&format!("{group}:\n"));
        for verb in *verbs {
            let about = plain.find_subcommand(verb).and_then(Command::get_about).map(ToString::to_string);
            text.push_str(&format!("  {verb:<12}{}\n", about.unwrap_or_default()));
        }
        text.push('\n');
    }
    text.push_str("Topics (switchformer help TOPIC):\n");
    for (name, about, _) in TOPICS {
        text.push_str(&format!("  {name:<12}{about}\n"));
    }
    plain
        .disable_help_subcommand(true)
        .help_template(format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{text}\nOptions:\n{{options}}{{after-help}}"))
        .after_help("First steps:\n  switchformer tour\n  switchformer run default --image example:7 --point bits-4\n  switchformer help points")
}

/// Shows a page, or a command's help as `--help` does.
pub(crate) fn run(a: &Args, mut command: Command) -> Result<(), Fail> {
    command.build();
    let Some(first) = a.what.first() else {
        return shown(command, &[]);
    };
    if let Some((.., page)) = TOPICS.iter().find(|(name, ..)| name == first) {
        print(&without_links(page))?;
        if command.find_subcommand(first).is_none() {
            return Ok(());
        }
        // A topic that is a command too: both.
        print("\n## The command\n\n")?;
    }
    let mut at = &command;
    for word in &a.what {
        let known: Vec<String> = at.get_subcommands().map(|c| c.get_name().to_string()).collect();
        at = match at.find_subcommand(word) {
            Some(found) => found,
            None => {
                let topics = TOPICS.iter().map(|(name, ..)| name.to_string());
                if known.is_empty() {
                    return Err(Fail::Usage(format!("no help on `{word}`: {} has no subcommands", a.what[0])));
                }
                return Err(Fail::Usage(format!(
                    "no help on `{word}`; commands: {}; topics: {}",
                    known.join(", "),
                    topics.collect::<Vec<_>>().join(", ")
                )));
            }
        };
    }
    shown(command, &a.what)
}

/// A page for a terminal: links are their words.
fn without_links(page: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some(at) = rest.find("](") {
        let Some(open) = rest[..at].rfind('[') else { break };
        let Some(close) = rest[at..].find(')') else { break };
        out.push_str(&rest[..open]);
        out.push_str(&rest[open + 1..at]);
        rest = &rest[at + close + 1..];
    }
    out + rest
}

/// What `--help` prints after these words.
fn shown(command: Command, words: &[String]) -> Result<(), Fail> {
    let words = ["switchformer"].into_iter().chain(words.iter().map(String::as_str)).chain(["--help"]);
    match command.try_get_matches_from(words) {
        Err(e) if !e.use_stderr() => print_raw(&e.render().to_string()),
        Err(e) => Err(Fail::Usage(e.render().to_string())),
        Ok(_) => Ok(()),
    }
}

/// Prints or writes man pages.
pub(crate) fn man(a: &Man, mut command: Command) -> Result<(), Fail> {
    let failed = |e: std::io::Error| Fail::Io("man page".into(), e);
    command.build();
    let page = |of: &Command| -> Result<Vec<u8>, Fail> {
        let mut bytes = Vec::new();
        clap_mangen::Man::new(of.clone()).render(&mut bytes).map_err(failed)?;
        Ok(bytes)
    };
    let Some(dir) = &a.out else {
        return print_raw(&String::from_utf8_lossy(&page(&command)?));
    };
    std::fs::create_dir_all(dir).map_err(|e| switchformer_nn::Error::io(dir, e))?;
    let mut all = vec![("switchformer".to_string(), &command)];
    let mut at = 0;
    while let Some((name, of)) = all.get(at).map(|(name, of)| (name.clone(), *of)) {
        all.extend(of.get_subcommands().map(|c| (format!("{name}-{}", c.get_name()), c)));
        at += 1;
    }
    for (name, of) in &all {
        write_atomic(&dir.join(format!("{name}.1")), &page(of)?)?;
    }
    print(&format!(
        "{} pages in {}: man -M needs them in man1; or `man {}`\n",
        all.len(),
        dir.display(),
        dir.join("switchformer.1").display()
    ))
}
