//! Weight files, shard indices, and tensors that do not fit the config.

use std::path::Path;

use serde_json::json;
use switchformer_nn::store::Saved;

use crate::table::*;
use crate::trust::{CONFIG, Files, INDEX, MODEL, SHARDS};

pub fn safetensors_cases(t: &mut Table) {
    const HEAD: &str = "safetensors.header";
    const CUT: &str = "safetensors.truncated";
    t.bert("safetensors/empty", &|f| put(f, MODEL, ""), "safetensors.empty", &[MODEL, "empty", "download"]);
    t.bert("safetensors/seven bytes", &|f| put(f, MODEL, [1; 7]), CUT, &[MODEL, "8-byte"]);
    t.bert(
        "safetensors/header past the end",
        &|f| put(f, MODEL, [&1000u64.to_le_bytes()[..], b"{}"].concat()),
        CUT,
        &[MODEL, "header of 1000 bytes in a file of 10"],
    );
    t.bert("safetensors/header of 2^64 - 1", &|f| put(f, MODEL, [0xff; 64]), HEAD, &[MODEL, "over 100000000"]);
    t.bert(
        "safetensors/header over 100 MB",
        &|f| put(f, MODEL, 100_000_001u64.to_le_bytes()),
        HEAD,
        &[MODEL, "100000001"],
    );
    t.bert(
        "safetensors/mostly header",
        &|f| model(f, format!("{{{}}}", " ".repeat(600_000)), 600_000),
        HEAD,
        &[MODEL, "quarter"],
    );
    t.bert("safetensors/header not text", &|f| model(f, b"{\"a\xff\xfe\":1}", 0), "json.syntax", &[MODEL, "header"]);
    t.bert("safetensors/header not JSON", &|f| model(f, "{hello", 0), "json.syntax", &[MODEL, "line 1 column 2"]);
    t.bert("safetensors/header a list", &|f| model(f, "[]", 0), HEAD, &[MODEL, "start with `{`"]);
    t.bert("safetensors/header in white space", &|f| model(f, " {}", 0), HEAD, &[MODEL, "start with `{`"]);
    t.bert("safetensors/two documents", &|f| model(f, "{} {}", 0), "json.syntax", &[MODEL, "trailing"]);
    t.bert(
        "safetensors/header cut",
        &|f| model(f, "{\"a\":{\"dtype\":\"F32\"", 0),
        "json.syntax",
        &[MODEL, "EOF", "\"a\""],
    );
    t.bert("safetensors/header of zero bytes", &|f| model(f, "", 0), HEAD, &[MODEL, "start with `{`"]);
    let a = |shape: &str, to: u64| entry("a", "F32", shape, 0, to);
    let twice = format!("{{{},{}}}", a("[1]", 4), a("[1]", 4));
    t.bert("safetensors/duplicate tensor", &|f| model(f, &twice, 4), "json.duplicate", &[MODEL, "\"a\" twice"]);
    let field = r#"{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}"#;
    t.bert("safetensors/duplicate field", &|f| model(f, field, 4), "json.duplicate", &[MODEL, "dtype", "\"a\""]);
    let meta = r#"{"__metadata__":{"a":"1","a":"2"}}"#;
    t.bert("safetensors/duplicate metadata key", &|f| model(f, meta, 0), "json.duplicate", &[MODEL, "__metadata__"]);
    let metas = r#"{"__metadata__":{},"__metadata__":{}}"#;
    t.bert("safetensors/two metadata", &|f| model(f, metas, 0), "json.duplicate", &[MODEL, "__metadata__"]);
    let deep = format!("{{\"__metadata__\":{{\"a\":{}1{}}}}}", "[".repeat(5000), "]".repeat(5000));
    t.bert("safetensors/deep metadata", &|f| model(f, &deep, 0), HEAD, &[MODEL, "expected a string"]);
    let numbers = r#"{"__metadata__":{"a":1}}"#;
    t.bert("safetensors/metadata a number", &|f| model(f, numbers, 0), HEAD, &[MODEL, "expected a string"]);
    let pair = |from: u64, to: u64| format!("{{{},{}}}", a("[1]", 4), entry("b", "F32", "[1]", from, to));
    t.bert("safetensors/hole", &|f| model(f, pair(8, 12), 12), HEAD, &[MODEL, "4 bytes between a and b"]);
    t.bert("safetensors/overlap", &|f| model(f, pair(2, 6), 6), HEAD, &[MODEL, "b overlaps a"]);
    t.bert("safetensors/same extent twice", &|f| model(f, pair(0, 4), 4), HEAD, &[MODEL, "overlaps"]);
    let back = format!("{{{}}}", entry("a", "F32", "[1]", 4, 0));
    t.bert("safetensors/offsets reversed", &|f| model(f, &back, 4), HEAD, &[MODEL, "[4, 0] run backwards"]);
    let beyond = format!("{{{}}}", a("[2]", 8));
    t.bert("safetensors/offset past the end", &|f| model(f, &beyond, 4), CUT, &[MODEL, "a ends at byte 8", "holds 4"]);
    let far = format!("{{{}}}", entry("a", "F32", "[1]", u64::MAX - 3, u64::MAX));
    t.bert("safetensors/offset of 2^64 - 1", &|f| model(f, &far, 4), CUT, &[MODEL, "a ends at byte"]);
    let too_far = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616]}}"#;
    t.bert("safetensors/offset of 2^64", &|f| model(f, too_far, 4), HEAD, &[MODEL, "\"a\""]);
    let short = format!("{{{}}}", a("[2]", 4));
    t.bert("safetensors/shape against bytes", &|f| model(f, &short, 4), HEAD, &[MODEL, "[2] is 64 bits", "4 bytes"]);
    let huge = format!("{{{}}}", a("[4294967296, 4294967296]", 4));
    t.bert("safetensors/shape overflows", &|f| model(f, &huge, 4), HEAD, &[MODEL, "overflows"]);
    let negative = format!("{{{}}}", a("[-1]", 4));
    t.bert("safetensors/negative dimension", &|f| model(f, &negative, 4), HEAD, &[MODEL, "-1", "\"a\""]);
    let rank = format!("{{{}}}", a(&format!("{:?}", [1; 17]), 4));
    t.bert("safetensors/rank 17", &|f| model(f, &rank, 4), HEAD, &[MODEL, "16 dimensions", "\"a\""]);
    let name = format!("{{{}}}", entry(&"n".repeat(2048), "F32", "[1]", 0, 4));
    t.bert("safetensors/name of 2 KiB", &|f| model(f, &name, 4), HEAD, &[MODEL, "name of 2048 bytes"]);
    let empty = format!("{{{}}}", entry("", "F32", "[1]", 0, 4));
    t.bert("safetensors/empty name", &|f| model(f, &empty, 4), HEAD, &[MODEL, "name of 0 bytes"]);
    let dots = format!("{{{}}}", entry(&".".repeat(100), "F32", "[1]", 0, 4));
    t.bert("safetensors/name of 101 parts", &|f| model(f, &dots, 4), HEAD, &[MODEL, "101 parts"]);
    let dtype = format!("{{{}}}", entry("a", "Q4_K", "[1]", 0, 4));
    t.bert("safetensors/unknown dtype", &|f| model(f, &dtype, 4), HEAD, &[MODEL, "Q4_K", "\"a\""]);
    let nibbles = format!("{{{}}}", entry("a", "F4", "[3]", 0, 1));
    t.bert("safetensors/half a byte", &|f| model(f, &nibbles, 1), HEAD, &[MODEL, "12 bits"]);
    let extra = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"codec":"zstd"}}"#;
    t.bert("safetensors/unknown field", &|f| model(f, extra, 4), HEAD, &[MODEL, "codec"]);
    let three = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#;
    t.bert("safetensors/three offsets", &|f| model(f, three, 4), "json.syntax", &[MODEL, "\"a\""]);
    t.bert("safetensors/entry a number", &|f| model(f, r#"{"a":1}"#, 0), HEAD, &[MODEL, "\"a\""]);
    t.bert(
        "safetensors/trailing bytes",
        &|f| f.get_mut(MODEL).unwrap().extend([0; 5]),
        HEAD,
        &[MODEL, "5 bytes after"],
    );
    t.bert("safetensors/data cut", &|f| f.get_mut(MODEL).unwrap().truncate(10_000), CUT, &[MODEL, "ends at byte"]);
    t.bert(
        "safetensors/no tensor at all",
        &|f| model(f, "{}", 0),
        "tensors.missing",
        &["word_embeddings", "config.json"],
    );
    t.bert("safetensors/a folder", &|f| drop(f.remove(MODEL)), "file.kind", &[MODEL, "is a folder"]);
    t.on_disk(|dir| std::fs::create_dir(dir.join(MODEL)).unwrap());
    #[cfg(unix)]
    {
        t.bert("safetensors/a named pipe", &|f| drop(f.remove(MODEL)), "file.kind", &[MODEL, "regular file"]);
        t.on_disk(|dir| pipe(&dir.join(MODEL)));
    }
}

/// Opening this for reading would wait for a writer.
#[cfg(unix)]
fn pipe(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

pub fn index_cases(t: &mut Table) {
    let send = |f: &mut Files, to: &str| {
        edit(f, INDEX, |d| {
            let map = d["weight_map"].as_object_mut().unwrap();
            let first = map.keys().next().unwrap().clone();
            map[&first] = to.into();
        });
    };
    const PATH: &str = "index.path";
    let plain = "plain file names";
    t.shards("index/path traversal", &|f| send(f, "../../etc/passwd"), PATH, &[INDEX, "../../etc/passwd", plain]);
    t.shards("index/absolute path", &|f| send(f, "/etc/passwd"), PATH, &[INDEX, "/etc/passwd", plain]);
    t.shards("index/backslash", &|f| send(f, "..\\weights"), PATH, &[INDEX, plain]);
    t.shards("index/drive letter", &|f| send(f, "C:weights"), PATH, &[INDEX, "C:weights", plain]);
    t.shards("index/NUL", &|f| send(f, "a\0b"), PATH, &[INDEX, "a\\0b", plain]);
    t.shards("index/empty name", &|f| send(f, ""), PATH, &[INDEX, plain]);
    t.shards("index/parent folder", &|f| send(f, ".."), PATH, &[INDEX, plain]);
    t.shards("index/this folder", &|f| send(f, "."), PATH, &[INDEX, plain]);
    t.shards("index/name of 300 letters", &|f| send(f, &"n".repeat(300)), PATH, &[INDEX, plain]);
    t.shards("index/shard that is no tensor file", &|f| send(f, CONFIG), "safetensors.header", &[CONFIG, "download"]);
    t.shards("index/missing shard", &|f| drop(f.remove(SHARDS[1])), "checkpoint.missing", &[SHARDS[1]]);
    t.shards("index/empty shard", &|f| put(f, SHARDS[1], ""), "safetensors.empty", &[SHARDS[1]]);
    let lie = |f: &mut Files| edit(f, INDEX, |d| d["weight_map"]["made.up"] = SHARDS[0].into());
    t.shards("index/promises too much", &lie, "index.mismatch", &[SHARDS[0], "made.up", "one revision"]);
    let swap = |f: &mut Files| {
        edit(f, INDEX, |d| {
            for v in d["weight_map"].as_object_mut().unwrap().values_mut() {
                *v = if *v == SHARDS[0] { SHARDS[1].into() } else { SHARDS[0].into() };
            }
        });
    };
    t.shards("index/shards exchanged", &swap, "index.mismatch", &[SHARDS[0], "the shard lacks it"]);
    let copy = |f: &mut Files| {
        let same = f[SHARDS[0]].clone();
        put(f, SHARDS[1], same);
        edit(f, INDEX, |d| d["weight_map"].as_object_mut().unwrap().retain(|_, v| *v == SHARDS[0]));
        edit(f, INDEX, |d| {
            let first = d["weight_map"].as_object().unwrap().keys().next().unwrap().clone();
            d["weight_map"][first] = SHARDS[1].into();
        });
    };
    t.shards("index/a tensor in two shards", &copy, "tensors.duplicate", &[SHARDS[1], "same tensor"]);
    t.shards("index/no weight_map", &|f| put(f, INDEX, "{}"), "index.schema", &[INDEX, "weight_map"]);
    t.shards(
        "index/weight_map a list",
        &|f| put(f, INDEX, r#"{"weight_map":[]}"#),
        "index.schema",
        &[INDEX, "weight_map"],
    );
    t.shards(
        "index/weight_map empty",
        &|f| put(f, INDEX, r#"{"weight_map":{}}"#),
        "tensors.missing",
        &["word_embeddings"],
    );
    t.shards(
        "index/shard a number",
        &|f| put(f, INDEX, r#"{"weight_map":{"a":1}}"#),
        "index.schema",
        &[INDEX, "not text"],
    );
    t.shards("index/a list", &|f| put(f, INDEX, "[]"), "index.schema", &[INDEX, "weight_map"]);
    t.shards("index/not JSON", &|f| put(f, INDEX, "weights"), "json.syntax", &[INDEX]);
    let twice = r#"{"weight_map":{"a":"x","a":"y"}}"#;
    t.shards("index/duplicate key", &|f| put(f, INDEX, twice), "json.duplicate", &[INDEX, "\"a\""]);
    t.shards("index/over 16 MiB", &|f| put(f, INDEX, vec![b' '; (16 << 20) + 1]), "limit", &[INDEX, "16777216"]);
    #[cfg(unix)]
    {
        t.shards("index/link out of the folder", &|f| drop(f.remove(SHARDS[1])), PATH, &[INDEX, SHARDS[1], "outside"]);
        t.on_disk(|dir| {
            let out = dir.parent().unwrap().join("elsewhere.safetensors");
            std::fs::write(&out, b"secret").unwrap();
            std::os::unix::fs::symlink(out, dir.join(SHARDS[1])).unwrap();
        });
        t.shards("index/dangling link", &|f| drop(f.remove(SHARDS[1])), "checkpoint.missing", &[SHARDS[1]]);
        t.on_disk(|dir| std::os::unix::fs::symlink("nowhere", dir.join(SHARDS[1])).unwrap());
        t.shards("index/link to itself", &|f| drop(f.remove(SHARDS[1])), "io", &[SHARDS[1]]);
        t.on_disk(|dir| std::os::unix::fs::symlink(SHARDS[1], dir.join(SHARDS[1])).unwrap());
        t.shards("index/shard a pipe", &|f| drop(f.remove(SHARDS[1])), "file.kind", &[SHARDS[1], "regular file"]);
        t.on_disk(|dir| pipe(&dir.join(SHARDS[1])));
    }
}

pub fn tensor_cases(t: &mut Table) {
    let rename = |f: &mut Files, from: &str, to: &str| {
        tensors(f, MODEL, |m| {
            let saved = m.remove(from).unwrap();
            m.insert(to.into(), saved);
        });
    };
    t.bert(
        "tensors/one missing",
        &|f| tensors(f, MODEL, |m| drop(m.remove(QUERY))),
        "tensors.missing",
        &["1 missing", "encoder.layer.0.attention.self.query.weight [32, 32]", "config.json"],
    );
    t.bert(
        "tensors/a typo",
        &|f| rename(f, QUERY, "bert.encoder.layer.0.attention.self.qury.weight"),
        "tensors.missing",
        &["query.weight [32, 32]", "(nearest left-over: encoder.layer.0.attention.self.qury.weight)", "1 left over"],
    );
    let extra = |f: &mut Files| tensors(f, MODEL, |m| drop(m.insert("extra.weight".into(), Saved::f32(&[1], &[0.0]))));
    t.bert("tensors/one left over", &extra, "tensors.leftover", &["1 left over", "extra.weight"]);
    let escape = |f: &mut Files| tensors(f, MODEL, |m| drop(m.insert("\u{1b}[2J\n".into(), Saved::f32(&[1], &[0.0]))));
    t.bert("tensors/left over with an escape", &escape, "tensors.leftover", &["\\u{1b}[2J\\n"]);
    let many = |f: &mut Files| {
        tensors(f, MODEL, |m| (0..100).for_each(|i| drop(m.insert(format!("x{i}"), Saved::f32(&[1], &[0.0])))));
    };
    t.bert("tensors/a hundred left over", &many, "tensors.leftover", &["100 left over", "and 88 more"]);
    let turn = |f: &mut Files| tensors(f, MODEL, |m| m.get_mut(QUERY).unwrap().shape = vec![16, 64]);
    t.bert(
        "tensors/wrong shape",
        &turn,
        "tensors.shape",
        &["query.weight", "config says [32, 32]", "file has [16, 64]"],
    );
    let flat = |f: &mut Files| tensors(f, MODEL, |m| m.get_mut(QUERY).unwrap().shape = vec![1024]);
    t.bert("tensors/wrong rank", &flat, "tensors.shape", &["query.weight", "[1024]"]);
    let both = |f: &mut Files| {
        tensors(f, MODEL, |m| {
            let norm = m["bert.embeddings.LayerNorm.weight"].clone();
            m.insert("bert.embeddings.LayerNorm.gamma".into(), norm);
        });
    };
    t.bert("tensors/old and new name", &both, "tensors.duplicate", &[MODEL, "gamma", "one generation"]);
    let prefix = |f: &mut Files| {
        tensors(f, MODEL, |m| {
            let norm = m["bert.embeddings.LayerNorm.weight"].clone();
            m.insert("embeddings.LayerNorm.weight".into(), norm);
        });
    };
    t.bert("tensors/with and without prefix", &prefix, "tensors.duplicate", &[MODEL, "LayerNorm.weight"]);
    let dtype = |f: &mut Files, to: safetensors::Dtype, size: usize| {
        tensors(f, MODEL, |m| {
            let s = m.get_mut(QUERY).unwrap();
            *s = Saved { dtype: to, shape: s.shape.clone(), bytes: vec![1; 1024 * size] };
        });
    };
    use safetensors::Dtype;
    let weights = "F32, F16, BF16 or F64";
    t.bert(
        "tensors/I64 weight",
        &|f| dtype(f, Dtype::I64, 8),
        "tensors.dtype",
        &[MODEL, "query.weight", "I64", weights],
    );
    t.bert("tensors/BOOL weight", &|f| dtype(f, Dtype::BOOL, 1), "tensors.dtype", &[MODEL, "BOOL", weights]);
    t.bert("tensors/F8 weight", &|f| dtype(f, Dtype::F8_E4M3, 1), "tensors.dtype", &[MODEL, "F8_E4M3", weights]);
    t.bert(
        "tensors/I8 without a plan",
        &|f| dtype(f, Dtype::I8, 1),
        "tensors.dtype",
        &[MODEL, "I8", "quantization_config"],
    );
    let part = "vit.encoder.layer.0.attention.attention.query.weight";
    let scale = "vit.encoder.layer.0.attention.attention.query.weight_scale";
    t.vit(
        "nested/scale missing",
        &|f| tensors(f, MODEL, |m| drop(m.remove(scale))),
        "tensors.missing",
        &["query.weight_scale [32]"],
    );
    t.vit(
        "nested/codes missing",
        &|f| tensors(f, MODEL, |m| drop(m.remove(part))),
        "tensors.missing",
        &["query.weight [32, 32]"],
    );
    let turn = |f: &mut Files| tensors(f, MODEL, |m| m.get_mut(part).unwrap().shape = vec![64, 16]);
    t.vit("nested/codes of another shape", &turn, "tensors.shape", &["query.weight", "[64, 16]"]);
    let short = |f: &mut Files| tensors(f, MODEL, |m| drop(m.insert(scale.into(), Saved::f32(&[1], &[1.0]))));
    t.vit("nested/scale of another shape", &short, "tensors.shape", &["query.weight_scale", "[1]"]);
    let plain = |f: &mut Files| set(f, json!({"quantization_config": null}));
    t.vit("nested/opened as dense", &plain, "tensors.dtype", &[MODEL, "I8", "quantization_config"]);
}
