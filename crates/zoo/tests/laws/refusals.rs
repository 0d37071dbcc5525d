//! What cannot be done is refused by name.

use serde_json::{Value as Json, json};
use switchformer_nn::{Error, Point, Taps, Trace};
use switchformer_zoo::{OpenOptions, Opened, Trait, ZOO};

use crate::common::{batch, everything, has_heads, offer, prunes, task_count, toy};
use crate::{With, classifiers, open, point};

/// A point that must be refused, with words that the message must hold: the axis and what is accepted.
fn refused(opened: &Opened, p: Json, words: &[&str]) {
    let at = format!("{:?} at {p}", opened.config.architecture());
    let (p, input) = (point(p), batch(opened.model.as_ref(), 1));
    let by_run = opened.run(&p, &input).err();
    for error in [by_run, opened.cost(&p, &input).err(), opened.point(Some(&p.to_string())).err()] {
        match error {
            Some(e @ Error::Point { .. }) => {
                let text = e.to_string();
                words.iter().for_each(|w| assert!(text.contains(w), "{at}: `{text}` does not say `{w}`"));
            }
            other => panic!("{at}: not refused as a point: {other:?}"),
        }
    }
}

#[test]
fn a_bad_exit_is_told_of_confidence_where_there_are_heads() {
    for (_, opened) in classifiers(With::All) {
        let words: &[&str] = if has_heads(&opened) { &["exit", "confidence"] } else { &["exit"] };
        [json!(0), json!(99), json!("last")].into_iter().for_each(|k| refused(&opened, json!({"exit": k}), words));
    }
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    for (entry, architecture) in everything() {
        let opened = open(entry, architecture, With::Nothing);
        let blocks = opened.model.trunk().n_blocks().to_string();
        refused(&opened, json!({"depth": 2}), &["`depth`", "bits", "tokens", "exit", "seed"]);
        refused(&opened, json!({"bits": 4}), &["bits", "dense", "--nested"]);
        let host = opened.switches.host();
        for k in [
            json!(host.first_exit - 1),
            json!(host.n_blocks + 1),
            json!(0),
            json!(99),
            json!(-1),
            json!(1.5),
            json!("last"),
            json!({"confidence": 2}),
        ] {
            refused(&opened, json!({"exit": k}), &["exit", &blocks]);
            // Without heads there is no confidence to give.
            let told = opened.point(Some(&json!({"exit": k}).to_string())).unwrap_err().to_string();
            assert!(k.is_object() || !told.contains("confidence"), "{told}");
        }
        refused(&opened, json!({"exit": {"confidence": 0.9}}), &["confidence exit", "heads", "fixed exit"]);
        refused(&opened, json!({"exit": {"confidence": 0.9, "after": 1}}), &["exit"]);
        let tasks = task_count(&opened);
        let here = if tasks == 1 { "has one task".to_string() } else { format!("0..{}", tasks - 1) };
        refused(&opened, json!({"task": tasks}), &["no task", &here]);
        refused(&opened, json!({"task": "depth"}), &["task"]);
        if tasks > 1 {
            let both = json!({"task": 0, "experts": {"router": "task", "task": 1}});
            refused(&opened, both, &["task 0", "task 1", "name it once"]);
        }
        match offer(&opened) {
            None => refused(&opened, json!({"experts": {"router": "all"}}), &["no experts", "compress upcycle"]),
            Some(offer) => {
                let n = offer.experts;
                refused(&opened, json!({"experts": {"router": "fixed", "expert": n}}), &["no expert", "learned"]);
                refused(&opened, json!({"experts": {"router": "learned", "top_k": n + 1}}), &["top_k", "random"]);
                let (gates, none) = (offer.gates, format!("no gate for task {}", offer.gates));
                refused(&opened, json!({"experts": {"router": "task", "task": gates}}), &[&none]);
                refused(&opened, json!({"experts": {"router": "step", "step": 0}}), &["no entry for step 0"]);
                refused(&opened, json!({"experts": {"router": "oracle"}}), &["experts", "oracle"]);
            }
        }

        if prunes(&opened) {
            for keep in [json!(0), json!(-0.5), json!(1.01), json!("half"), json!(null)] {
                refused(&opened, json!({"heads": {"keep": keep}}), &["heads"]);
            }
            refused(&opened, json!({"heads": {"keep": 0.5, "of": 1}}), &["heads", "of"]);
            refused(&opened, json!({"heads": 0.5}), &["heads"]);
        } else {
            refused(&opened, json!({"heads": {"keep": 0.5}}), &["heads"]);
        }
        let tokens = json!({"method": "random", "keep": 0.5});
        if opened.switches.host().prefix_rows.is_none() {
            refused(&opened, json!({"tokens": tokens}), &["tokens", "none may be dropped"]);
            continue;
        }
        refused(&opened, json!({"tokens": {"method": "magic", "keep": 0.5}}), &["tokens", "zero-tprune", "random"]);
        refused(&opened, json!({"tokens": {"method": "random"}}), &["tokens", "keep", "layers"]);
        refused(&opened, json!({"tokens": {"method": "random", "keep": 0.5, "size": 3}}), &["tokens", "size"]);
        for wrong in [
            json!({"keep": 0}),
            json!({"keep": 1.01}),
            json!({"keep": -0.5}),
            json!({"keep": 0.5, "after": [0]}),
            json!({"keep": 0.5, "after": [4]}),
            json!({"keep": 0.5, "layers": []}),
            json!({"layers": [{"after": 1, "keep": 0.5, "similar": 1.5}]}),
            json!({"layers": [{"after": 1, "keep": 0.5, "rank_iters": 1001}]}),
            json!({"layers": [{"after": 1, "keep": 0.5, "var_range": [1, 0]}]}),
        ] {
            let mut tokens = wrong;
            tokens["method"] = json!("zero-tprune");
            refused(&opened, json!({"tokens": tokens}), &["tokens", "keep", "layers"]);
        }
    }
    for (_, opened) in classifiers(With::Nested) {
        for b in [json!(0), json!(1), json!(3), json!(9), json!(16)] {
            refused(&opened, json!({"bits": b}), &["bits", "8, 6, 4, 2"]);
        }
        refused(&opened, json!({"bits": "four"}), &["bits"]);
        refused(&opened, json!({"activation_bits": 4}), &["activation_bits", "8"]);
        refused(&opened, json!({"acts": 8}), &["acts", "activation_bits"]);
    }
}

#[test]
fn a_nested_checkpoint_is_not_trained_by_mistake() {
    for (entry, opened) in classifiers(With::Nested) {
        let (point, mut taps, mut trace) = (Point::new(), Taps::none(), Trace::default());
        let mut cx = switchformer_nn::Ctx::new(&point, &mut taps, &mut trace);
        cx.train = true;
        let e = switchformer_nn::run(opened.model.trunk(), &[], &mut cx, &batch(opened.model.as_ref(), 2)).err();
        assert!(matches!(e, Some(Error::Point { .. })), "{}: {e:?}", entry.name);
    }
}

#[test]
fn other_forms_are_refused_where_nothing_can_take_them() {
    let mut n = 0;
    for entry in ZOO.iter().filter(|e| e.is(Trait::ConvolutionsAlone)) {
        let made = Opened::random(toy(entry, entry.bare()), OpenOptions { nested: true });
        let e = made.map(|_| ()).unwrap_err().to_string();
        assert!(e.contains(entry.name) && e.contains("convolutions alone"), "{e}");
        n += 1;
    }
    assert!(n > 0);
}
