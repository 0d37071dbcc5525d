//! What tests of several files share.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use switchformer_nn::Weights;
use switchformer_nn::config::ConfigMap;
use switchformer_nn::store::safetensors_bytes;
use switchformer_zoo::find;
use switchformer_zoo::save::published_tensors;

/// A few pictures in the form of Fashion-MNIST's publishers, the same for training and test.
pub fn write_set(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let set = switchformer_data::embedded_fashion().unwrap().head(64);
    let (images, labels) =
        switchformer_data::packed_images::write(set.images(), set.height(), set.width(), set.labels()).unwrap();
    for part in ["train", "t10k"] {
        std::fs::write(data.join(format!("{part}-images-idx3-ubyte.gz")), &images).unwrap();
        std::fs::write(data.join(format!("{part}-labels-idx1-ubyte.gz")), &labels).unwrap();
    }
    data
}

/// A recipe of the repository.
pub fn recipe_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes").join(name)
}

/// Descriptions of made-up packages in three languages, as apt keeps them.
pub fn debian(dir: &Path) -> PathBuf {
    let things = ["editor", "library", "game", "viewer", "server", "client", "parser", "compiler"];
    let languages = [("en", "for the"), ("de", "fuer den"), ("it", "per il")];
    let mut files = languages.map(|_| String::new());
    for i in 0..400u32 {
        let (a, b) = (things[i as usize % 8], things[(i as usize / 8) % 8]);
        // Letters alone tell families apart.
        let name: String = format!("{i:03}").bytes().map(|d| char::from(d - b'0' + b'a')).collect();
        for (out, (field, of)) in files.iter_mut().zip(languages) {
            writeln!(out, "Package: {a}{name}\nDescription-md5: {i:032x}").unwrap();
            writeln!(
                out,
                "Description-{field}: {a} {name} {of} {b}\n This {a} works with {name} {of} {b} number {i}.\n"
            )
            .unwrap();
        }
    }
    let data = dir.join("debian");
    std::fs::create_dir_all(&data).unwrap();
    for (text, (field, _)) in files.iter().zip(languages) {
        std::fs::write(data.join(format!("Translation-{field}")), text).unwrap();
    }
    data
}

const NAMES: [&str; 6] = ["anna", "bert", "carl", "dora", "emil", "fred"];
const PLACES: [&str; 6] = ["berlin", "cairo", "delhi", "lima", "oslo", "paris"];

/// A BERT of two blocks with random weights, and its tokenizer.
pub fn checkpoint(dir: &Path, model_type: &str) -> PathBuf {
    let config = json!({
        "model_type": model_type, "vocab_size": 32, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 48, "max_position_embeddings": 96, "initializer_range": 0.2,
    });
    let entry = find(model_type).unwrap();
    let w = Weights::fresh(5, 0.2).trainable();
    entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let tensors = published_tensors(entry, entry.bare(), &w.params()).unwrap();
    let home = dir.join(model_type);
    std::fs::create_dir_all(&home).unwrap();
    std::fs::write(home.join("config.json"), config.to_string()).unwrap();
    std::fs::write(home.join("model.safetensors"), safetensors_bytes(&tensors).unwrap()).unwrap();
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "where", "does", "live", "?", "lives", "in", "and", "."];
    let vocab: Vec<&str> = words.into_iter().chain(NAMES).chain(PLACES).collect();
    std::fs::write(home.join("vocab.txt"), vocab.join("\n")).unwrap();
    home
}

/// Sets in which it must be found out who lives where.
pub fn squad(dir: &Path) -> PathBuf {
    let home = dir.join("squad");
    std::fs::create_dir_all(&home).unwrap();
    let files = ["squaddev_v1.1", "new_wiki_v1.0", "nyt_v1.0", "amazon_reviews_v1.0", "reddit_v1.0"];
    for (f, file) in files.iter().enumerate() {
        let article = |a: usize| {
            let text: Vec<String> =
                (0..3).map(|i| format!("{} lives in {} .", NAMES[(a + i) % 6], PLACES[(a * 5 + f + i) % 6])).collect();
            let text = text.join(" and ");
            let qas = |i: usize| {
                let place = PLACES[(a * 5 + f + i) % 6];
                let answer = json!({"text": place, "answer_start": text.find(place).unwrap()});
                json!({"id": format!("{a}-{i}"), "question": format!("where does {} live ?", NAMES[(a + i) % 6]),
                       "answers": [answer]})
            };
            let qas: Vec<Value> = (0..3).map(qas).collect();
            json!({"title": format!("t{a}"), "paragraphs": [{"context": text, "qas": qas}]})
        };
        let data: Vec<Value> = (0..30).map(article).collect();
        std::fs::write(home.join(format!("{file}.json")), json!({"data": data}).to_string()).unwrap();
    }
    home
}

/// Overrides that make the recipe of questions small.
pub const SMALL_QUESTIONS: [&str; 6] =
    ["data.max_len=80", "data.overlap=8", "data.valid=6", "train.batch=200", "train.warmup=2", "eval.questions=8"];

/// The recipe of questions for a start of two blocks: three blocks at most, experts in the last one.
pub fn questions_recipe(start: &Path) -> PathBuf {
    let text = std::fs::read_to_string(recipe_file("robust-qa.toml")).unwrap();
    // Variants are out of reach of overrides.
    let text = text
        .replace("models/all-MiniLM-L6-v2", &start.display().to_string())
        .replace("\"encoder.layer.0\", \"encoder.layer.1\", \"encoder.layer.2\"", "\"encoder.layer.0\"")
        .replace("encoder.layer.6", "encoder.layer.2")
        .replace("num_hidden_layers = 7", "num_hidden_layers = 3")
        .replace("from = 6", "from = 2")
        .replace("from = 4", "from = 1")
        .replace("\"runs/", &format!("\"{}/", start.with_file_name("runs").display()));
    let copy = start.with_extension("toml");
    std::fs::write(&copy, text).unwrap();
    copy
}
