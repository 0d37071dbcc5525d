//! What a newcomer gets wrong, and the message for it: none silent, none misleading. Each line is a command as one would type
//! it in a folder with some files, the exit code, and words that the message must hold.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Words of a command, split at spaces; quotes keep words together.
fn words(line: &str) -> Vec<String> {
    let (mut all, mut word, mut quoted, mut any) = (Vec::new(), String::new(), false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, any) = (!quoted, true),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    all.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => word.push(c),
        }
    }
    if any || !word.is_empty() {
        all.push(word);
    }
    all
}

fn run(dir: &Path, line: &str, input: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchformer"));
    command.args(words(line)).current_dir(dir).env("HF_HOME", dir.join("hf"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that reads nothing may be gone before it is written to.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The folder that the commands run in.
fn home() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let albert = root.join("fixtures/rxnmapper-albert");
    for dir in ["imgs", "empty", "models/albert", "hf/hub/models--some--model/snapshots/abc"] {
        std::fs::create_dir_all(at(dir)).unwrap();
    }
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(albert.join(file), at("models/albert").join(file)).unwrap();
    }
    std::fs::write(at("hf/hub/models--some--model/snapshots/abc/config.json"), "{}").unwrap();
    std::fs::copy(root.join("crates/data/tests/fixtures/cat.png"), at("imgs/cat.png")).unwrap();
    std::fs::write(at("notes.txt"), "a file of text\n").unwrap();
    std::fs::write(at("weights.bin"), "PK\u{3}\u{4}").unwrap();
    std::fs::write(at("recipe.toml"), "name = \"x\"\n").unwrap();
    std::fs::write(at("fake.png"), "no image").unwrap();
    temp
}

/// Commands that fail: what was typed, exit code, what the message says.
const FAIL: &[(&str, i32, &[&str])] = &[
    // Verbs and flags.
    ("", 2, &["Usage"]),
    ("tuor", 2, &["tour"]),
    ("help tuor", 2, &["no help on `tuor`", "tour", "points"]),
    ("--frobnicate", 2, &["--frobnicate"]),
    ("run", 2, &["<MODEL>"]),
    ("run default", 2, &["--text", "--image", "--tensors"]),
    ("run --image imgs/cat.png default", 2, &["<MODEL>", "write MODEL before"]),
    ("run default --image imgs/cat.png --thread 2", 2, &["--threads"]),
    ("run default --image imgs/cat.png --threads 0", 2, &["0", "1..=1024"]),
    ("run default --image imgs/cat.png --isa sse", 2, &["this processor has", "scalar"]),
    ("completions powershel", 2, &["powershell"]),
    // Names of models.
    ("run defualt --image imgs/cat.png", 1, &["`defualt`", "similar: default"]),
    ("bench bert-base-uncasd", 1, &["similar: bert-base-uncased"]),
    ("bench vit", 1, &["`vit` is a family", "vit-base-patch16-224"]),
    ("run models/minilm --text x", 1, &["no such folder: models/minilm", "fetch-models.sh"]),
    ("run ./models/minilm --text x", 1, &["no such folder: ./models/minilm"]),
    (
        "points sentence-transformers/all-MiniLM-L6-v2",
        1,
        &["no such folder", "hf download sentence-transformers/all-MiniLM-L6-v2"],
    ),
    ("points some/model", 1, &["the hub's cache holds it", "snapshots/abc"]),
    ("points https://hub/model", 1, &["no network"]),
    ("points 'models/*bert'", 1, &["the shell found no file"]),
    ("run '' --image imgs/cat.png", 1, &["name of the model is empty"]),
    ("run models/albert/config.json --text x", 1, &["is a file: give its folder, models/albert"]),
    ("run models/albert/model.safetensors --text x", 1, &["give its folder, models/albert"]),
    ("run weights.bin --text x", 1, &["PyTorch", "switchformer convert"]),
    ("run switch-base-128 --text x", 2, &["tokenizer"]),
    ("run default --image example:1 --point bits-4+bits-2", 2, &["sets bits twice"]),
    ("run models/albert --text CC --point int8", 2, &["activation_bits cannot be set here", "--nested"]),
    ("run default --image example:1 --point exit-5", 2, &["{\"exit\": VALUE}"]),
    ("run models/albert --text-file - -", 2, &["standard input can be read once"]),
    ("tour --images 64 --out imgs", 1, &["--out imgs is a folder"]),
    ("tour --images 64 --out nodir/x.html", 1, &["there is no folder nodir"]),
    ("tour --model vit-tiny-patch16-224", 2, &["ten classes", "--image"]),
    ("bench models/albert --lengths notes.txt --seq 16", 2, &["cannot be used with"]),
    ("bench zoo --models bert-base-uncased", 2, &["reads text"]),
    ("eval --metric bleu --hyp notes.txt --ref notes.txt --point full", 2, &["--point", "--model"]),
    ("train recipe.toml --stop-after 0", 2, &["0"]),
    ("train recipe.toml --results x", 2, &["--all"]),
    ("run recipe.toml --text x", 1, &["is a recipe", "switchformer train recipe.toml"]),
    ("run empty --text x", 1, &["config.json"]),
    ("describe bret", 1, &["similar: bert"]),
    ("describe empty", 1, &["config.json"]),
    ("describe nothing/here", 1, &["no such folder: nothing/here"]),
    ("inspect nothing/here", 1, &["no such folder: nothing/here"]),
    ("inspect weights.bin", 1, &["PyTorch", "convert"]),
    ("inspect models/albert/config.json", 1, &["give its folder"]),
    ("inspect vit", 1, &["describe vit"]),
    ("inspect vit-tiny-patch16-224", 1, &["no files to inspect", "describe"]),
    ("tour --model nothing/here", 1, &["no such folder: nothing/here"]),
    ("compress fold nothing/here --out x", 1, &["no such folder: nothing/here"]),
    ("compress upcycle default --experts 2 --out x", 1, &["`default` is embedded"]),
    ("compress trim-vocab bert-base-uncased --texts notes.txt --out x", 1, &["published size without weights"]),
    ("compress models/albert --bits 8", 2, &["models/albert", "trim-vocab"]),
    ("compress --fold models/albert --out x", 2, &["compress fold MODEL"]),
    ("eval --metric squad --model nothing/here --ref notes.txt", 1, &["notes.txt"]),
    ("convert models/albert/model.safetensors x.safetensors", 1, &["already safetensors"]),
    ("convert models/albert out", 1, &["is a folder"]),
    ("convert absent.pth out", 1, &["absent.pth"]),
    ("convert weights.bin out.pth", 2, &["name it out.safetensors", "folder"]),
    // Texts and images.
    ("run models/albert --text -", 2, &["--text-file -"]),
    ("run models/albert --text notes.txt", 2, &["`notes.txt` is a file", "--text-file notes.txt"]),
    ("run models/albert --text @notes.txt", 2, &["`notes.txt` is a file", "--text-file notes.txt"]),
    ("run models/albert --text ./imgs", 2, &["is a folder"]),
    ("run models/albert --text-file absent.txt", 1, &["absent.txt"]),
    ("run models/albert --text-file imgs", 1, &["imgs"]),
    ("run models/albert --text-file fake.png --image imgs/cat.png", 2, &["cannot be used with"]),
    ("run models/albert --image imgs/cat.png", 2, &["this model reads text", "--text"]),
    ("run default --text x", 2, &["this model reads images", "--image"]),
    ("run default --image absent.png", 1, &["absent.png"]),
    ("run default --image fake.png", 1, &["fake.png"]),
    ("run default --image empty", 1, &["empty is a folder without images", "png"]),
    ("run default --image 'imgs/*.jpg'", 1, &["the shell found no file"]),
    ("run default --image example:4000", 1, &["example:0 to example:3999"]),
    ("run default --image example:x", 1, &["example:0 to example:3999"]),
    ("run bert-base-uncased --text x", 2, &["tokenizer"]),
    ("run default --image imgs/cat.png --beams 3", 2, &["--beams is for --text"]),
    ("run default --image imgs/cat.png --context x", 2, &["cannot be used with"]),
    ("run models/albert --text CC --context y", 1, &["passage"]),
    ("run models/albert --text CC --save-maps maps", 2, &["--image"]),
    ("run default --image imgs/cat.png --out imgs/cat.png", 1, &["is read by this command"]),
    // Points.
    ("run default --image imgs/cat.png --point bits-5", 2, &["no point is named `bits-5`", "bits-4", "full"]),
    ("run default --image imgs/cat.png --point bits=4", 2, &["to set bits, write JSON: {\"bits\": VALUE}"]),
    ("run default --image imgs/cat.png --point {bits:4}", 2, &["key must be a string", "{\"bits\":4"]),
    ("run default --image imgs/cat.png --point ''", 2, &["an empty name names no point", "full"]),
    ("run default --image imgs/cat.png --point [8]", 2, &["not a JSON object"]),
    ("run default --image imgs/cat.png --point '{\"bits\":5}'", 2, &["5", "[8, 6, 4, 2]"]),
    ("run default --image imgs/cat.png --point '{\"bits\":null}'", 2, &["`bits` is null", "leave it out"]),
    ("run default --image imgs/cat.png --point '{\"bit\":4}'", 2, &["no axis `bit`", "bits"]),
    ("run default --image imgs/cat.png --point '{\"exit\":9}'", 2, &["9", "6 blocks"]),
    (
        "run default --image imgs/cat.png --point '{\"tokens\":{\"keep\":0.5,\"after\":[],\"method\":\"random\"}}'",
        2,
        &["after no block"],
    ),
    ("run models/albert --text CC --point bits-4", 2, &["no point is named `bits-4`", "known here"]),
    ("run models/albert --text CC --point '{\"bits\":4}'", 2, &["bits", "--nested"]),
    // Measuring.
    ("bench default --seq 16", 2, &["--seq", "reads images"]),
    ("bench default --lengths notes.txt", 2, &["--lengths", "text"]),
    ("bench models/albert --side 224", 2, &["--side", "images"]),
    ("bench models/albert --seq 100000", 2, &["--seq 100000"]),
    ("bench default --batch 0", 2, &["--batch 0"]),
    ("bench zoo --point bits-4", 2, &["bench zoo"]),
    ("tour --images 10", 2, &["32..=10000"]),
    ("tour --model models/albert", 2, &["--text FILE"]),
    ("tour --model models/albert --text absent.txt", 1, &["absent.txt"]),
    ("tour --model models/albert --image imgs", 2, &["reads text"]),
    ("tour --text notes.txt", 2, &["reads images"]),
    ("eval --metric bleu --hyp notes.txt", 2, &["--ref"]),
    ("eval --metric rouge --hyp notes.txt --ref notes.txt", 2, &["bleu", "squad"]),
    // Training.
    ("train", 2, &["<RECIPE>"]),
    ("train absent.toml", 1, &["absent.toml"]),
    ("train notes.txt", 1, &["notes.txt"]),
    ("train recipe.toml", 1, &["recipe.toml", "missing field `data`"]),
    ("train recipe.toml --set train.lr2=1", 1, &["recipe.toml", "with --set train.lr2=1"]),
    ("train models/albert", 1, &["models/albert"]),
];

/// Commands that work, with a note of what may not be meant.
const NOTED: &[(&str, &[&str])] = &[
    ("run models/albert --text ''", &["text 1 is empty"]),
    ("run models/albert --text CC", &["text 1 holds no [MASK]"]),
    ("run models/albert --text C[Foo]C", &["not in the vocabulary"]),
    ("run vit-tiny-patch16-224 --image imgs/cat.png", &["RANDOM weights"]),
    ("run default --image imgs/cat.png --nested", &["--nested changes nothing"]),
    ("run default --image imgs/cat.png --threads 100", &["100 threads on"]),
    ("bench default --batch 1 --iters 1 --point sure-0.9", &["inputs are random"]),
];

#[test]
fn wrong_uses_are_answered_by_what_would_be_right() {
    let home = home();
    let mut wrong = Vec::new();
    for (line, code, says) in FAIL {
        let out = run(home.path(), line, "");
        let err = text(&out.stderr);
        let misleading = ["download it again", "panicked", "-- --", "entity not found", "This is a bug"];
        let bad = misleading.iter().find(|w| err.contains(*w));
        let missing = says.iter().find(|w| !err.contains(*w));
        if out.status.code() != Some(*code) || bad.is_some() || missing.is_some() || !out.stdout.is_empty() {
            wrong.push(format!(
                "{line}\n  exit {:?}, want {code}; lacks {missing:?}; has {bad:?}\n  {err}",
                out.status.code()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), FAIL.len(), wrong.join("\n"));
    assert!(FAIL.len() + NOTED.len() >= 90);
}

#[test]
fn what_may_not_be_meant_is_noted() {
    let home = home();
    for (line, says) in NOTED {
        let out = run(home.path(), line, "");
        let err = text(&out.stderr);
        assert!(out.status.success(), "{line}: {err}");
        says.iter().for_each(|w| assert!(err.contains("note: ") && err.contains(w), "{line}: {err}"));
        // The same in JSON: in the document, and nothing beside it.
        let out = run(home.path(), &format!("{line} --json"), "");
        let doc: Value = serde_json::from_slice(&out.stdout).unwrap();
        let notes = doc["notes"].to_string();
        says.iter().for_each(|w| assert!(notes.contains(w), "{line}: {doc}"));
        assert!(out.stderr.is_empty(), "{line}: {}", text(&out.stderr));
    }
}

#[test]
fn failures_are_json_where_answers_are() {
    let home = home();
    for (line, code, exit) in [
        ("run nothing/here --text x --json", "input", 1),
        ("--json run default --image imgs/cat.png --point bits-5", "point", 2),
        ("run default --json", "usage", 2),
        ("inspect fake.png --json", "safetensors.header", 1),
    ] {
        let out = run(home.path(), line, "");
        let doc: Value =
            serde_json::from_slice(&out.stderr).unwrap_or_else(|e| panic!("{line}: {e}: {}", text(&out.stderr)));
        assert_eq!((&doc["error"]["code"], &doc["error"]["exit"]), (&code.into(), &exit.into()), "{doc}");
        assert!(doc["error"]["message"].as_str().unwrap().len() > 10 && out.stdout.is_empty(), "{doc}");
        assert_eq!(out.status.code(), Some(exit));
    }
}

#[test]
fn texts_come_from_files_and_standard_input() {
    let home = home();
    let reply = |line: &str, input: &str| -> Value {
        let out = run(home.path(), line, input);
        assert!(out.status.success(), "{line}: {}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()["results"].clone()
    };
    std::fs::write(home.path().join("smiles.txt"), "CCO>>CC=O\r\n").unwrap();
    let want = reply("run models/albert --text CCO>>CC=O --json", "");
    assert_eq!(reply("run models/albert --text-file smiles.txt --json", ""), want);
    assert_eq!(reply("run models/albert --text-file - --json", "CCO>>CC=O\n"), want);
    assert_eq!(reply("run models/albert --text CCO>>CC=O CCO --json", "").as_array().unwrap().len(), 2);
    let images = reply("run default --image example:7 imgs --json", "");
    assert_eq!((images[0]["input"].as_str(), images[1]["input"].as_str()), (Some("example:7"), Some("imgs/cat.png")));
}
