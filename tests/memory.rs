//! A warm forward pass asks the system for no large block: the second pass of the same work lives on the first's.

#![allow(clippy::unwrap_used)]

use serde_json::json;
use switchformer::nn::machine::{Pool, set_threads};
use switchformer::nn::{Input, Point};
use switchformer::zoo::{OpenOptions, Opened};

#[global_allocator]
static POOL: Pool = Pool;

#[test]
fn a_warm_pass_reuses_its_memory() {
    // One thread: which worker first needs scratch memory of its own would be chance.
    set_threads(1);
    let config = json!({
        "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 128, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 512, "vocab_size": 1000
    });
    let opened = Opened::random(config, OpenOptions::default()).unwrap();
    // Ragged: 64, 48, .. tokens; each activation is above the size that the pool keeps.
    let texts: Vec<Vec<u32>> = (0..8).map(|i| (0..64 - 4 * i).map(|t| (7 * t + i) % 1000).collect()).collect();
    let input = Input::tokens(&texts).unwrap();
    let pass = || opened.run(&Point::new(), &input).unwrap();
    pass();
    pass();
    let before = Pool::count();
    drop(pass());
    let after = Pool::count();
    assert!(after.reused >= before.reused + 3 * 5, "five large buffers a block at least: {before:?} {after:?}");
    assert_eq!(after.fresh, before.fresh, "a warm pass asked the system for memory");
    assert_eq!(after.live, before.live, "a pass kept memory");
}
