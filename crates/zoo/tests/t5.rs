//! What is T5's own: refusals by name, writing step by step, files that tie or do not.

#![allow(clippy::unwrap_used)]

mod common;

use common::{batch, far, flat, pair_sequences, sequences, toy, toy_architecture};
use serde_json::{Value as Json, json};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::{Ctx, Error, Input, Memory, Path, Point, Taps, Trace, Weights, staged, walk};
use switchformer_switch::Resolved;
use switchformer_zoo::{OpenOptions, Opened, find};

fn open(family: &str, changes: &Json) -> Result<Opened, Error> {
    let entry = find(family).unwrap();
    let mut config = toy(entry, &toy_architecture(entry));
    changes.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
    Opened::random(config, OpenOptions::default())
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (field, value, word) in [
        ("feed_forward_proj", json!("gated-mish"), "mish"),
        ("feed_forward_proj", json!("double-gated-gelu"), "double-gated-gelu"),
        ("is_decoder", json!(true), "true"),
        ("relative_attention_num_buckets", json!(3), "at least 4"),
        ("relative_attention_max_distance", json!(4), "half of the buckets"),
        ("decoder_start_token_id", json!(50), "50"),
        ("eos_token_id", json!([1, 99]), "up to 64"),
        ("d_kv", json!(65_536), "d_kv"),
        ("layer_norm_epsilon", json!(-1), "-1"),
        ("tie_word_embeddings", json!("yes"), "yes"),
    ] {
        let e = open("t5", &json!({field: value})).err().unwrap_or_else(|| panic!("{field} = {value} is accepted"));
        let text = e.to_string();
        assert!(matches!(e, Error::Config { .. } | Error::Unsupported { .. }), "{text}");
        assert!(text.contains(word) && (text.contains(field) || field == "d_kv"), "{field}: {text}");
    }
}

#[test]
fn inputs_of_the_wrong_kind_are_refused() {
    let (pair, reader) = (open("t5", &json!({})).unwrap(), open("t5", &json!({"architectures": ["T5EncoderModel"]})));
    let (reader, text) = (reader.unwrap(), Input::tokens(&sequences(50, &[3])).unwrap());
    let both = batch(pair.model.as_ref(), 2);
    let says = |opened: &Opened, input: &Input, word: &str| {
        let e = opened.run(&Point::new(), input).err().unwrap();
        assert!(matches!(e, Error::Input { .. }) && e.to_string().contains(word), "{e}");
    };
    says(&pair, &text, "decoder_input_ids");
    says(&reader, &both, "unknown input `decoder_input_ids`");
    assert!(Input::pair(text.clone(), Input::tokens(&sequences(50, &[1, 2])).unwrap()).is_err());
    assert!(Input::pair(text.clone(), both.member(0).unwrap()).is_err(), "a pair is no text to write");
    assert!(Input::pair(both.member(0).unwrap(), text).is_err(), "nor one to read");
}

/// Logits of a whole target at once, packed.
fn at_once(opened: &Opened, source: &Input, target: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let input = Input::pair(source.clone(), Input::tokens(target).unwrap()).unwrap();
    let (out, _) = opened.run(&Point::new(), &input).unwrap();
    out.get_rows("logits").unwrap().0.to_vec2().unwrap()
}

/// Logits of a pass with a memory, row by row.
fn pass(opened: &Opened, point: &Point, memory: &mut Memory, input: &Input) -> Result<Vec<Vec<f32>>, Error> {
    let (mut taps, mut trace) = (Taps::none(), Trace::default());
    let Resolved { point, rules } = opened.switches.resolve(point)?;
    let mut cx = Ctx::new(&point, &mut taps, &mut trace);
    cx.memory = Some(memory);
    let out = staged::run(opened.model.trunk(), &rules, &mut cx, input)?;
    Ok(out.get_rows("logits").unwrap().0.to_vec2().unwrap())
}

/// Reads sources and the first tokens of targets into a new memory.
fn read(opened: &Opened, source: &[Vec<u32>], first: &[&[u32]]) -> (Memory, Vec<Vec<f32>>) {
    let mut memory = Memory::new(source.len()).unwrap();
    let input = Input::pair(Input::tokens(source).unwrap(), Input::tokens(first).unwrap()).unwrap();
    let logits = pass(opened, &Point::new(), &mut memory, &input).unwrap();
    (memory, logits)
}

#[test]
fn passes_with_a_memory_give_the_logits_of_the_whole() {
    for family in ["t5", "mt5", "switch_transformers"] {
        let opened = open(family, &json!({})).unwrap();
        let [source, target] = pair_sequences(50, &[7, 3, 12]);
        let target: Vec<Vec<u32>> = target.iter().map(|t| t.iter().cycle().take(40).copied().collect()).collect();
        let whole = at_once(&opened, &Input::tokens(&source).unwrap(), &target);
        // Unequal numbers of tokens in each pass; the one in the middle leaves half-way.
        let chunks: [&[(usize, usize)]; 5] = [
            &[(0, 1), (0, 2), (0, 3)],
            &[(1, 2), (2, 20), (3, 4)],
            &[(2, 3), (4, 5)],
            &[(3, 38), (5, 39)],
            &[(38, 39), (39, 40)],
        ];
        let mut members = vec![0, 1, 2];
        let mut memory = Memory::new(3).unwrap();
        for (i, chunk) in chunks.iter().enumerate() {
            if i == 2 {
                memory.select(&[0, 2]).unwrap();
                members.remove(1);
            }
            let tokens: Vec<&[u32]> = members.iter().zip(*chunk).map(|(m, (a, b))| &target[*m][*a..*b]).collect();
            let tokens = Input::tokens(&tokens).unwrap();
            let input = match i {
                0 => Input::pair(Input::tokens(&source).unwrap(), tokens).unwrap(),
                _ => tokens,
            };
            let logits = pass(&opened, &Point::new(), &mut memory, &input).unwrap().concat();
            let want: Vec<f32> =
                members.iter().zip(*chunk).flat_map(|(m, (a, b))| whole[m * 40 + a..m * 40 + b].concat()).collect();
            let off = far(&logits, &want);
            assert!(off < 1e-5, "{family}: pass {i} differs by {off:e}");
        }
        assert_eq!((memory.rows().members(), memory.rows().lens()), (&[0, 2][..], vec![39, 40]));
        assert!(memory.bytes() > 0);
    }
}

#[test]
fn members_that_join_get_what_they_get_alone() {
    for family in ["t5", "switch_transformers"] {
        let opened = open(family, &json!({})).unwrap();
        let [source, target] = pair_sequences(50, &[7, 3, 12]);
        let target: Vec<Vec<u32>> = target.iter().map(|t| t.iter().cycle().take(9).copied().collect()).collect();
        let alone = |m: usize| -> Vec<Vec<f32>> {
            let (mut memory, mut rows) = read(&opened, &source[m..=m], &[&target[m][..1]]);
            let steps = target[m][1..].iter();
            let more = steps
                .flat_map(|t| pass(&opened, &Point::new(), &mut memory, &Input::tokens(&[[*t]]).unwrap()).unwrap());
            rows.extend(more);
            rows
        };
        // Members come after 0, 2 and 5 steps; the first leaves when it is done, and the others change places.
        let (mut memory, mut order) = (Memory::new(0).unwrap(), Vec::<usize>::new());
        let mut got: Vec<Vec<Vec<f32>>> = vec![Vec::new(); 3];
        for step in 0..16 {
            if let Some(m) = [0, 2, 5].iter().position(|at| *at == step) {
                let (fresh, rows) = read(&opened, &source[m..=m], &[&target[m][..1]]);
                memory.join(fresh).unwrap();
                order.push(m);
                got[m].extend(rows);
            }
            let on: Vec<usize> = (0..order.len()).rev().filter(|i| got[order[*i]].len() < 9).collect();
            memory.select(&on).unwrap();
            order = on.into_iter().map(|i| order[i]).collect();
            if order.is_empty() {
                continue;
            }
            let tokens: Vec<[u32; 1]> = order.iter().map(|m| [target[*m][got[*m].len()]]).collect();
            let rows = pass(&opened, &Point::new(), &mut memory, &Input::tokens(&tokens).unwrap()).unwrap();
            order.iter().zip(rows).for_each(|(m, row)| got[*m].push(row));
        }
        for (m, got) in got.iter().enumerate() {
            assert_eq!(*got, alone(m), "{family}: member {m}");
        }
    }
}

#[test]
fn a_memory_is_refused_where_it_does_not_fit() {
    let opened = open("t5", &json!({"num_decoder_layers": 3})).unwrap();
    let source = sequences(50, &[7, 3]);
    let says = |memory: &mut Memory, point: &Point, tokens: &[[u32; 1]], word: &str| {
        let e = pass(&opened, point, memory, &Input::tokens(tokens).unwrap()).err().unwrap();
        assert!(e.to_string().contains(word), "{e}");
    };
    let (mut memory, _) = read(&opened, &source, &[&[0], &[0, 4]]);
    says(&mut memory, &Point::new(), &[[5]], "memory");
    // A member that left early has no keys above its exit.
    pass(&opened, &Point::new().with("exit", 3), &mut memory, &Input::tokens(&[[5], [6]]).unwrap()).unwrap();
    says(&mut memory, &Point::new(), &[[5], [6]], "exit");
    let (early, _) = {
        let mut memory = Memory::new(1).unwrap();
        let input = Input::pair(Input::tokens(&source[..1]).unwrap(), Input::tokens(&[[0u32]]).unwrap()).unwrap();
        let logits = pass(&opened, &Point::new().with("exit", 3), &mut memory, &input).unwrap();
        (memory, logits)
    };
    let (mut whole, _) = read(&opened, &source[1..], &[&[0]]);
    assert!(whole.join(early).is_err());
    assert!(whole.select(&[1]).is_err());
    let reader = open("bert", &json!({})).unwrap();
    let e = pass(&reader, &Point::new(), &mut Memory::new(1).unwrap(), &Input::tokens(&[[5u32, 6]]).unwrap());
    assert!(e.err().unwrap().to_string().contains("keeps no memory"));
}

/// Written with some of the heads, step by step as at once, and with those of the first step to the end.
#[test]
fn a_text_is_written_by_the_heads_that_read_it() {
    for family in ["t5", "mt5", "switch_transformers"] {
        let opened = open(family, &json!({})).unwrap();
        let [source, target] = pair_sequences(50, &[7, 3]);
        let target: Vec<Vec<u32>> = target.iter().map(|t| t.iter().cycle().take(6).copied().collect()).collect();
        let pair = |target: &[&[u32]]| Input::pair(Input::tokens(&source).unwrap(), Input::tokens(target).unwrap());
        let half = Point::new().with("heads", json!({"keep": 0.5}));
        let all: Vec<&[u32]> = target.iter().map(Vec::as_slice).collect();
        let whole = |point: &Point| -> Vec<Vec<f32>> {
            let (out, _) = opened.run(point, &pair(&all).unwrap()).unwrap();
            out.get_rows("logits").unwrap().0.to_vec2().unwrap()
        };
        let want = whole(&half);
        assert!(far(&want.concat(), &whole(&Point::new()).concat()) > 1e-3, "{family}: heads that went are missed");
        let mut memory = Memory::new(2).unwrap();
        for step in 0..6 {
            let tokens: Vec<&[u32]> = target.iter().map(|t| &t[step..=step]).collect();
            let input = if step == 0 { pair(&tokens) } else { Input::tokens(&tokens) };
            let got = pass(&opened, &half, &mut memory, &input.unwrap()).unwrap().concat();
            let off = far(&got, &[want[step].clone(), want[6 + step].clone()].concat());
            assert!(off < 1e-5, "{family}: step {step} differs by {off:e}");
        }
        let all_heads = read(&opened, &source, &[&[0], &[0]]).0.bytes();
        let (mut few, mut many) = (Memory::new(2).unwrap(), read(&opened, &source, &[&[0], &[0]]).0);
        pass(&opened, &half, &mut few, &pair(&[&[0], &[0]]).unwrap()).unwrap();
        assert_eq!(2 * few.bytes(), all_heads, "{family}: heads that went keep nothing");
        let e = many.join(few).unwrap_err().to_string();
        assert!(e.contains("different heads"), "{family}: {e}");
        let e = pass(&opened, &Point::new(), &mut memory, &Input::tokens(&[[1u32], [2]]).unwrap()).unwrap_err();
        assert!(e.to_string().contains("other heads") && e.to_string().contains("`heads`"), "{family}: {e}");
    }
}

#[test]
fn a_head_is_tied_unless_the_config_or_the_file_has_two_tables() {
    let entry = find("t5").unwrap();
    let mut config = toy(entry, "T5ForConditionalGeneration");
    let input =
        Input::pair(Input::tokens(&sequences(50, &[5, 2])).unwrap(), Input::tokens(&sequences(50, &[3, 4])).unwrap())
            .unwrap();
    let w = Weights::seeded().trainable();
    entry.build(&ConfigMap::new(config.clone()).unwrap(), &w).unwrap();
    let layout: Vec<(String, Vec<usize>)> = w
        .params()
        .iter()
        .flat_map(|p| {
            let rest = p.var.dims()[1..].to_vec();
            p.names.iter().map(move |(n, rows)| (n.clone(), [vec![*rows], rest.clone()].concat())).collect::<Vec<_>>()
        })
        .collect();
    // The layout with a second table, drawn from the name `seed`.
    let mut logits = |seed: Option<&str>, tied: bool| {
        config["tie_word_embeddings"] = json!(tied);
        let mut all: Vec<_> = layout.iter().map(|(n, s)| (n.clone(), s.clone(), n.clone())).collect();
        all.extend(seed.map(|s| ("lm_head.weight".to_string(), vec![50, 32], s.to_string())));
        let w = Weights::manifest(all, &entry.names).unwrap();
        let model = entry.build(&ConfigMap::new(config.clone()).unwrap(), &w);
        model.map(|m| {
            let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
            let out = staged::run(m.trunk(), &[], &mut Ctx::new(&point, &mut taps, &mut trace), &input).unwrap();
            (flat(out.get_rows("logits").unwrap().0), w.n_elements())
        })
    };
    let (tied, n) = logits(None, true).unwrap();
    // A copy changes nothing and is not counted; another table is read and counted.
    assert_eq!(logits(Some("shared.weight"), true).unwrap(), (tied.clone(), n));
    let (own, more) = logits(Some("lm_head.weight"), true).unwrap();
    assert!(far(&own, &tied) > 0.1 && more == n + 50 * 32);
    // Untied and not scaled, or refused where the second table is missing.
    let (plain, _) = logits(Some("lm_head.weight"), false).unwrap();
    let scaled: Vec<f32> = plain.iter().map(|v| v * 32f32.powf(-0.5)).collect();
    assert!(far(&own, &scaled) < 1e-5);
    assert!(matches!(logits(None, false), Err(Error::Tensors { .. })));
}

#[test]
fn members_leave_with_both_streams() {
    let opened = open("t5", &json!({})).unwrap();
    let (model, input) = (opened.model.trunk(), batch(opened.model.as_ref(), 3));
    let whole = opened.run(&Point::new(), &input).unwrap().0;
    let (whole, rows) = whole.get_rows("logits").unwrap();
    let path = Path::of(model);
    // While the encoder reads, and while the decoder writes.
    for leave in [1, 3] {
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = Ctx::new(&point, &mut taps, &mut trace);
        let mut left = Vec::new();
        let state = model.stem(&mut cx, &input).unwrap();
        let state = walk(&path, &[], &mut cx, 0..leave, state, &mut left).unwrap().select(&[0, 2]).unwrap();
        let state = walk(&path, &[], &mut cx, leave..model.n_blocks(), state, &mut left).unwrap();
        let out = model.head(&mut cx, state).unwrap();
        // Two of three are no whole batch: each is asked for by its number.
        assert!(out.get_rows("logits").is_none() && out.of("logits", 1).is_err());
        for m in [0, 2] {
            let want = whole.narrow(0, rows.range(m).start, rows.len(m)).unwrap();
            let off = far(&flat(&out.of("logits", m).unwrap()), &flat(&want));
            assert!(off < 1e-5, "leaving after block {leave}: {off:e}");
        }
    }
}
