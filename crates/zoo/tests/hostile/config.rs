//! `config.json` and its companions, and the folder itself.

use serde_json::{Value as Json, json};
use switchformer_nn::store::Saved;

use crate::table::*;
use crate::trust::{CONFIG, EXITS, Files, MODEL, MODULES, PLAN, POOLING};

pub fn config_cases(t: &mut Table) {
    const VALUE: &str = "config.value";
    const NO: &str = "config.unsupported";
    let say = "config field `";
    t.bert("config/missing", &|f| drop(f.remove(CONFIG)), "checkpoint.missing", &[CONFIG]);
    t.bert("config/empty", &|f| put(f, CONFIG, ""), "json.syntax", &[CONFIG, "is empty"]);
    t.bert("config/not JSON", &|f| put(f, CONFIG, "model: bert"), "json.syntax", &[CONFIG, "line 1"]);
    t.bert("config/not text", &|f| put(f, CONFIG, *b"{\"a\":\"\xff\"}"), "json.syntax", &[CONFIG]);
    t.bert("config/trailing data", &|f| f.get_mut(CONFIG).unwrap().extend(b"{}"), "json.syntax", &[CONFIG, "trailing"]);
    let twice = |f: &mut Files| retext(f, CONFIG, "{", "{\"hidden_size\":64,");
    t.bert("config/duplicate key", &twice, "json.duplicate", &[CONFIG, "hidden_size"]);
    let evil = |f: &mut Files| put(f, CONFIG, "{\"\\u001b[2Jx\":1,\"\\u001b[2Jx\":2}");
    t.bert("config/duplicate key with an escape", &evil, "json.duplicate", &[CONFIG, "\\u{1b}[2Jx"]);
    t.bert("config/a list", &|f| put(f, CONFIG, "[]"), VALUE, &["config.json", "a list"]);
    t.bert("config/null", &|f| put(f, CONFIG, "null"), VALUE, &["config.json", "null"]);
    t.bert("config/over 1 MiB", &|f| put(f, CONFIG, vec![b' '; (1 << 20) + 1]), "limit", &[CONFIG, "1048576"]);
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
    t.bert("config/depth 100", &|f| put(f, CONFIG, deep.clone()), "json.depth", &[CONFIG, "deeper than 32"]);
    t.bert("config/depth 100,000", &|f| put(f, CONFIG, "[".repeat(100_000)), "json.depth", &[CONFIG, "deeper than 32"]);
    let wide = format!("{{\"model_type\":\"bert\",\"a\":[{}0]}}", "{\"\":0},".repeat(100_000));
    t.bert("config/grows a hundredfold", &|f| put(f, CONFIG, wide.clone()), "json.size", &[CONFIG, "memory"]);
    t.bert("config/a folder", &|f| drop(f.remove(CONFIG)), "file.kind", &[CONFIG, "is a folder"]);
    t.on_disk(|dir| std::fs::create_dir(dir.join(CONFIG)).unwrap());
    t.bert(
        "config/number beyond f64",
        &|f| retext(f, CONFIG, ": 32", ": 1e999"),
        "json.syntax",
        &[CONFIG, "out of range"],
    );
    t.bert("model_type/missing", &|f| set(f, json!({"model_type": null})), VALUE, &["model_type", "missing"]);
    t.bert("model_type/empty", &|f| set(f, json!({"model_type": ""})), VALUE, &["model_type", "missing"]);
    t.bert("model_type/unknown", &|f| set(f, json!({"model_type": "llama"})), NO, &["model_type", "llama", "bert"]);
    t.bert("model_type/a number", &|f| set(f, json!({"model_type": 7})), VALUE, &["model_type", "text"]);
    let long = "x".repeat(500_000) + "\u{1b}[2J";
    t.bert("model_type/half a megabyte", &|f| set(f, json!({"model_type": long})), NO, &["model_type", "xxx..."]);
    let arch = json!({"architectures": ["BertLMHeadModel"]});
    t.bert("architectures/unknown", &|f| set(f, arch.clone()), NO, &["architectures", "BertLMHeadModel", "BertModel"]);
    t.bert(
        "architectures/another model's",
        &|f| set(f, json!({"architectures": ["ViTModel"]})),
        NO,
        &["architectures"],
    );
    for (name, value, says) in [
        ("hidden_size/0", json!(0), "is 0"),
        ("hidden_size/negative", json!(-32), "is -32"),
        ("hidden_size/1e12", json!(1_000_000_000_000u64), "is 1000000000000"),
        ("hidden_size/2^64 - 1", json!(u64::MAX), "is 18446744073709551615"),
        ("hidden_size/a fraction", json!(32.5), "is 32.5"),
        ("hidden_size/text", json!("32"), "is \"32\""),
        ("hidden_size/a list", json!([32]), "is [32]"),
        ("hidden_size/over the limit", json!(65_537), "65536"),
    ] {
        t.bert(name, &|f| set(f, json!({"hidden_size": value})), VALUE, &[say, "hidden_size", says]);
    }
    t.bert(
        "heads/do not divide",
        &|f| set(f, json!({"num_attention_heads": 5})),
        VALUE,
        &["num_attention_heads", "divide the width 32"],
    );
    t.bert("heads/0", &|f| set(f, json!({"num_attention_heads": 0})), VALUE, &["num_attention_heads", "is 0"]);
    t.bert(
        "heads/more than the width",
        &|f| set(f, json!({"num_attention_heads": 64})),
        VALUE,
        &["num_attention_heads"],
    );
    t.bert("layers/100,000", &|f| set(f, json!({"num_hidden_layers": 100_000})), VALUE, &["num_hidden_layers", "4096"]);
    t.bert(
        "layers/4096 of 3",
        &|f| set(f, json!({"num_hidden_layers": 4096})),
        "tensors.missing",
        &["encoder.layer.3."],
    );
    t.bert(
        "layers/2 of 3",
        &|f| set(f, json!({"num_hidden_layers": 2})),
        "tensors.leftover",
        &["left over", "encoder.layer.2."],
    );
    t.bert(
        "vocab/4 million in a small file",
        &|f| set(f, json!({"vocab_size": 4_000_000})),
        "tensors.shape",
        &["word_embeddings", "4000000"],
    );
    t.bert("vocab/over the limit", &|f| set(f, json!({"vocab_size": 4_000_001})), VALUE, &["vocab_size", "4000000"]);
    t.bert("activation/unknown", &|f| set(f, json!({"hidden_act": "mish"})), NO, &["hidden_act", "mish", "gelu"]);
    t.bert("activation/a list", &|f| set(f, json!({"hidden_act": ["gelu"]})), VALUE, &["hidden_act", "text"]);
    let relative = json!({"position_embedding_type": "relative_key"});
    t.bert(
        "positions/relative",
        &|f| set(f, relative.clone()),
        NO,
        &["position_embedding_type", "relative_key", "absolute"],
    );
    t.bert("decoder/true", &|f| set(f, json!({"is_decoder": true})), NO, &["is_decoder", "true", "false"]);
    t.bert("cross attention/true", &|f| set(f, json!({"add_cross_attention": true})), NO, &["add_cross_attention"]);
    t.bert("epsilon/text", &|f| set(f, json!({"layer_norm_eps": "NaN"})), VALUE, &["layer_norm_eps", "NaN", "number"]);
    t.bert("epsilon/NaN", &|f| retext(f, CONFIG, "{", "{\"layer_norm_eps\":NaN,"), "json.syntax", &[CONFIG]);
    t.bert("epsilon/negative", &|f| set(f, json!({"layer_norm_eps": -1e-5})), VALUE, &["layer_norm_eps", "-0.00001"]);
    t.bert("labels/0", &|f| set(f, json!({"num_labels": 0})), VALUE, &["num_labels", "is 0"]);
    t.bert(
        "labels/id2label a list",
        &|f| set(f, json!({"num_labels": null, "id2label": ["a"]})),
        VALUE,
        &["id2label", "object"],
    );
    t.bert(
        "labels/id2label empty",
        &|f| set(f, json!({"num_labels": null, "id2label": {}})),
        VALUE,
        &["id2label", "0 entries"],
    );
    // A border that holds no whole patch is not read, so that there are fewer patches than the file has positions for.
    t.vit(
        "image/does not divide",
        &|f| set(f, json!({"image_size": 15})),
        "tensors.shape",
        &["position_embeddings", "[1, 10, 32]", "[1, 17, 32]"],
    );
    t.vit(
        "image/smaller than a patch",
        &|f| set(f, json!({"image_size": [16, 3]})),
        VALUE,
        &["image_size", "16x3", "smaller than a patch of 4x4"],
    );
    t.vit(
        "image/three sides",
        &|f| set(f, json!({"image_size": [16, 16, 16]})),
        VALUE,
        &["image_size", "one number or two"],
    );
    t.vit("image/0", &|f| set(f, json!({"image_size": [0, 16]})), VALUE, &["image_size", "is 0"]);
    t.vit("image/over the limit", &|f| set(f, json!({"image_size": 16_388})), VALUE, &["image_size", "16384"]);
    t.vit(
        "image/2^28 patches",
        &|f| set(f, json!({"image_size": 16_384, "patch_size": 1, "hidden_size": 65_536})),
        "limit",
        &["elements", "config.json"],
    );
    t.vit("channels/65", &|f| set(f, json!({"num_channels": 65})), VALUE, &["num_channels", "64"]);
    t.vit("qkv_bias/a number", &|f| set(f, json!({"qkv_bias": 1})), VALUE, &["qkv_bias", "true or false"]);
    let quant = |f: &mut Files, field: &str, v: Json| edit(f, CONFIG, |c| c["quantization_config"][field] = v);
    t.vit(
        "quantization/gptq",
        &|f| quant(f, "quant_method", json!("gptq")),
        NO,
        &["quantization_config.quant_method", "gptq", "plain floats"],
    );
    t.vit("quantization/form", &|f| quant(f, "form", json!("group")), NO, &["quantization_config.form", "nested_int"]);
    t.vit("quantization/4 stored bits", &|f| quant(f, "stored_bits", json!(4)), NO, &["stored_bits", "8"]);
    t.vit(
        "quantization/views empty",
        &|f| quant(f, "views", json!([])),
        VALUE,
        &["quantization_config.views", "2 to 8"],
    );
    t.vit("quantization/view of 9 bits", &|f| quant(f, "views", json!([8, 9])), VALUE, &["views", "2 to 8"]);
    t.vit("quantization/view of 1 bit", &|f| quant(f, "views", json!([1])), VALUE, &["views", "2 to 8"]);
    t.vit("quantization/views text", &|f| quant(f, "views", json!("8")), VALUE, &["views", "2 to 8"]);
    t.vit("quantization/50 views", &|f| quant(f, "views", json!(vec![4; 50])), VALUE, &["views"]);
    t.vit(
        "quantization/a list",
        &|f| set(f, json!({"quantization_config": []})),
        VALUE,
        &["quantization_config", "an object"],
    );
}

pub fn plan_cases(t: &mut Table) {
    let plan = |f: &mut Files, field: &str, v: Json| edit(f, PLAN, |p| p[field] = v);
    const VALUE: &str = "config.value";
    t.vit("plan/schema 3", &|f| plan(f, "schema", json!(3)), "config.unsupported", &["switch.schema", "3", "1, 2"]);
    t.vit("plan/exits in schema 2", &|f| plan(f, "schema", json!(2)), "json.schema", &[PLAN, "unknown field `exits`"]);
    t.vit(
        "plan/no schema",
        &|f| edit(f, PLAN, |p| drop(p.as_object_mut().unwrap().remove("schema"))),
        "json.schema",
        &[PLAN, "schema"],
    );
    t.vit("plan/unknown key", &|f| plan(f, "exit", json!([1])), "json.schema", &[PLAN, "unknown field `exit`"]);
    t.vit("plan/exits not sorted", &|f| plan(f, "exits", json!([2, 1])), VALUE, &["switch.exits", "ascending"]);
    t.vit("plan/exit twice", &|f| plan(f, "exits", json!([1, 1])), VALUE, &["switch.exits", "ascending"]);
    t.vit("plan/exit at 0", &|f| plan(f, "exits", json!([0, 1])), VALUE, &["switch.exits", "from 1"]);
    t.vit(
        "plan/exit too deep",
        &|f| plan(f, "exits", json!([1, 3])),
        VALUE,
        &["switch.json", "3 is not below", "3 blocks"],
    );
    t.vit("plan/exit negative", &|f| plan(f, "exits", json!([-1])), "json.schema", &[PLAN, "-1"]);
    t.vit("plan/300 exits", &|f| plan(f, "exits", json!((1..301).collect::<Vec<_>>())), VALUE, &["switch.exits"]);
    t.vit("plan/point a number", &|f| plan(f, "default_point", json!(8)), "json.schema", &[PLAN, "JSON object"]);
    t.vit(
        "plan/point with an unknown axis",
        &|f| plan(f, "default_point", json!({"speed": 2})),
        "point",
        &[PLAN, "default_point", "speed", "axes"],
    );
    t.vit(
        "plan/point out of range",
        &|f| plan(f, "default_point", json!({"bits": 9})),
        "point",
        &["bits = 9", "[8, 6, 4, 2]"],
    );
    let named = json!({"low": {"point": {"exit": [1]}}});
    t.vit(
        "plan/named point",
        &|f| plan(f, "points", named.clone()),
        "point",
        &[PLAN, "points.low", "a list", "1 to 3"],
    );
    let listed = json!({"low": [{"bits": 4}]});
    t.vit("plan/point a list", &|f| plan(f, "points", listed.clone()), "json.schema", &[PLAN, "an object", "measured"]);
    let unnamed = |f: &mut Files| edit(f, CONFIG, |c| drop(c.as_object_mut().unwrap().remove("switch")));
    t.vit("plan/not named", &unnamed, "plan.unnamed", &[PLAN, "config.json", "remove"]);
    let gone = |f: &mut Files| {
        unnamed(f);
        drop(f.remove(PLAN));
    };
    t.vit("exits/no plan", &gone, "plan.unnamed", &[EXITS, "plan"]);
    let reference = |key: &str, value: Json| {
        let mut switch = json!({"schema": 1, "file": PLAN});
        switch[key] = value;
        json!({"switch": switch})
    };
    t.vit("plan/reference of version 99", &|f| set(f, reference("schema", json!(99))), "config.unsupported", &["99"]);
    t.vit("plan/reference with a key", &|f| set(f, reference("foo", json!(1))), VALUE, &["switch", "`foo`"]);
    t.vit(
        "plan/named point with an unknown key",
        &|f| plan(f, "points", json!({"a": {"points": {}}})),
        "json.schema",
        &[PLAN, "points"],
    );
    t.vit("plan/missing", &|f| drop(f.remove(PLAN)), "checkpoint.missing", &[PLAN]);
    t.vit("plan/not JSON", &|f| put(f, PLAN, "exits: [1]"), "json.syntax", &[PLAN]);
    t.vit("plan/a list", &|f| put(f, PLAN, "[]"), "json.schema", &[PLAN]);
    t.vit("plan/over 4 MiB", &|f| put(f, PLAN, vec![b' '; (4 << 20) + 1]), "limit", &[PLAN, "4194304"]);
    let other = json!({"switch": {"schema": 1, "file": "../switch.json"}});
    t.vit(
        "plan/another file name",
        &|f| set(f, other.clone()),
        "config.unsupported",
        &["switch.file", "../switch.json"],
    );
    t.vit(
        "plan/reference a text",
        &|f| set(f, json!({"switch": "switch.json"})),
        "config.unsupported",
        &["switch.file"],
    );
    t.vit("exits/no file", &|f| drop(f.remove(EXITS)), "checkpoint.missing", &[EXITS]);
    t.vit("exits/file empty", &|f| put(f, EXITS, ""), "safetensors.empty", &[EXITS]);
    let turn = |f: &mut Files| {
        tensors(f, EXITS, |m| drop(m.insert("exits.1.classifier.weight".into(), Saved::f32(&[4, 32], &[0.0; 128]))));
    };
    t.vit("exits/head of another shape", &turn, "tensors.shape", &["exits.1.classifier.weight", "[5, 32]", "[4, 32]"]);
    t.vit(
        "exits/head missing",
        &|f| tensors(f, EXITS, |m| drop(m.remove("exits.2.norm.bias"))),
        "tensors.missing",
        &["exits.2.norm.bias"],
    );
    t.vit("exits/head not in the plan", &|f| plan(f, "exits", json!([1])), "tensors.leftover", &["exits.2."]);
}

pub fn module_cases(t: &mut Table) {
    const VALUE: &str = "config.value";
    const NO: &str = "config.unsupported";
    let list = |f: &mut Files, i: usize, field: &str, v: &str| edit(f, MODULES, |m| m[i][field] = v.into());
    t.bert(
        "modules/unknown module",
        &|f| list(f, 1, "type", "models.Dense"),
        NO,
        &["modules.json", "Dense", "Pooling"],
    );
    t.bert("modules/no type", &|f| edit(f, MODULES, |m| m[1] = json!({})), NO, &["modules.json"]);
    t.bert("modules/not a list", &|f| put(f, MODULES, "{}"), VALUE, &["modules.json", "list"]);
    t.bert("modules/not JSON", &|f| put(f, MODULES, "[}"), "json.syntax", &[MODULES]);
    t.bert(
        "modules/seventeen",
        &|f| edit(f, MODULES, |m| *m = json!(vec![m[0].clone(); 17])),
        VALUE,
        &["modules.json", "17"],
    );
    let first = |f: &mut Files| edit(f, MODULES, |m| m.as_array_mut().unwrap().swap(1, 2));
    t.bert(
        "modules/dense first",
        &|f| {
            first(f);
            list(f, 1, "type", "sentence_transformers.models.Dense")
        },
        VALUE,
        &["modules.json", "before Pooling"],
    );
    t.bert(
        "pooling/path traversal",
        &|f| list(f, 1, "path", "../1_Pooling"),
        VALUE,
        &["modules.json path", "plain folder"],
    );
    t.bert("pooling/absolute path", &|f| list(f, 1, "path", "/etc"), VALUE, &["modules.json path", "plain folder"]);
    t.bert("pooling/empty path", &|f| list(f, 1, "path", ""), VALUE, &["modules.json path", "plain folder"]);
    t.bert("pooling/no config", &|f| drop(f.remove(POOLING)), "checkpoint.module", &["1_Pooling", "subfolders"]);
    let mode = |f: &mut Files, v: &str| put(f, POOLING, v);
    t.bert(
        "pooling/unknown mode",
        &|f| mode(f, r#"{"pooling_mode":"median"}"#),
        NO,
        &["1_Pooling/config.json", "median", "lasttoken"],
    );
    t.bert("pooling/empty list", &|f| mode(f, r#"{"pooling_mode":[]}"#), VALUE, &["1_Pooling", "0 modes"]);
    t.bert("pooling/flag", &|f| mode(f, r#"{"pooling_mode_cls_token":3}"#), VALUE, &["1_Pooling", "true or false"]);
    t.bert("pooling/a list", &|f| mode(f, "[]"), VALUE, &["1_Pooling", "object"]);
}

pub fn folder_cases(t: &mut Table) {
    let pickle = |f: &mut Files| {
        f.remove(MODEL);
        put(f, "pytorch_model.bin", *b"\x80\x02.");
    };
    t.bert(
        "folder/pickle only",
        &pickle,
        "checkpoint.missing",
        &["pytorch_model.bin", "run code", "switchformer convert"],
    );
    t.bert("folder/no weights", &|f| drop(f.remove(MODEL)), "checkpoint.missing", &[MODEL, "Hugging Face"]);
    t.bert("folder/empty", &|f| f.clear(), "checkpoint.missing", &[CONFIG]);
}
