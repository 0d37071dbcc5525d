//! Switch Transformer - T5 with banks of experts in place of some feed-forward networks.
//!
//! Paper: "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity", arXiv
//! 2101.03961; router z-loss from "ST-MoE", arXiv 2202.08906. Code: google/flaxformer, as transformers 4 has it.
//! Weights: google/switch-base-8 and kin.
//! Idea: every second block of each stack meets one of N feed-forward networks, chosen per row by a linear gate; the
//! chosen one's answer is scaled by its probability. More weights, the work of one network.
//! Shapes: those of T5. Which blocks are sparse: step 1 all, step s the blocks 1, 1 + s, .., step 0 none.
//! Departs from the reference: as T5; no row is dropped unless the point sets a capacity, and with one the rule is the
//! reference's, counted over rows (the reference lets padding take places).

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_POSITIONS};
use switchformer_nn::{FfnSpec, Result, Weights};
use switchformer_switch::leaf::experts::{Bank, BankSpec, Factor, Gating, MAX_EXPERTS};

use super::t5::{Defaults, Ff, NAMES, Site, T5};
use crate::entry::{Entry, HeadKind, Trait};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "switch_transformers",
    paper: "Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient Sparsity, arXiv \
            2101.03961",
    summary: "T5 with banks of experts, one per row",
    architectures: &[
        ("SwitchTransformersForConditionalGeneration", HeadKind::Generation),
        ("SwitchTransformersModel", HeadKind::EncoderDecoder),
        ("SwitchTransformersEncoderModel", HeadKind::Encoder),
    ],
    published: Published::new(include_str!("../../../variants/switch_transformers.json")),
    names: NAMES,
    blocks: &["block."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::OwnExperts],
    toy: r#"{"model_type":"switch_transformers","architectures":["SwitchTransformersForConditionalGeneration"],
        "vocab_size":50,"d_model":32,"d_kv":8,"d_ff":48,"num_layers":2,"num_decoder_layers":2,"num_heads":4,
        "num_sparse_encoder_layers":1,"num_sparse_decoder_layers":1,"num_experts":2,"dense_act_fn":"gelu",
        "relative_attention_num_buckets":8,"relative_attention_max_distance":16}"#,
    load: |config, w| {
        let sparse = Sparse::read(config)?;
        if config.get("expert_capacity").is_some() {
            let most = config.size("expert_capacity", None, MAX_POSITIONS)?;
            w.remark(format!(
                "expert_capacity {most} is not applied, and no token is dropped; the reference drops what an expert gets beyond it, \
                 as --point '{{\"experts\":{{\"router\":\"learned\",\"capacity\":{most}}}}}' does"
            ));
        }
        let feed = |w: &Weights, site: Site, f: Ff| sparse.feed(w, site, f);
        Ok(Box::new(T5::load(config, w, &ENTRY, &DEFAULTS, &feed)?))
    },
};

const DEFAULTS: Defaults = Defaults {
    vocab: 32_128,
    dim: 768,
    ff: 2048,
    depth: 12,
    heads: 12,
    act: "relu",
    act_field: "dense_act_fn",
    tied: true,
    scales: true,
};

/// Which blocks have experts, and how they are chosen.
struct Sparse {
    /// Steps of the encoder and of the decoder.
    steps: [usize; 2],
    bank: BankSpec,
}

impl Sparse {
    fn read(c: &ConfigMap) -> Result<Self> {
        c.only("is_gated_act", &[false.into()])?;
        c.only("router_type", &["tokens_masked".into()])?;
        c.only("num_selected_experts", &[1.into()])?;
        let depth = c.size("num_layers", Some(DEFAULTS.depth), MAX_DEPTH)?;
        // Unlike T5, a decoder that the config leaves out has the default depth.
        let decoder = c.size("num_decoder_layers", Some(DEFAULTS.depth), MAX_DEPTH)?;
        let step = |field: &str, sparse: &str, depth: usize| -> Result<usize> {
            let default = match c.int(sparse, Some(3), MAX_DEPTH)? {
                0 => depth,
                n => depth / n,
            };
            c.int(field, Some(default), MAX_DEPTH)
        };
        Ok(Sparse {
            steps: [
                step("encoder_sparse_step", "num_sparse_encoder_layers", depth)?,
                step("decoder_sparse_step", "num_sparse_decoder_layers", decoder)?,
            ],
            bank: BankSpec {
                experts: c.size("num_experts", Some(8), MAX_EXPERTS)?,
                bias: c.flag("router_bias", false)?,
                gating: Gating {
                    jitter: c.float("router_jitter_noise", 0.01, 0.0, 1.0)?,
                    balance: c.float("router_aux_loss_coef", 0.001, 0.0, 1e3)?,
                    z: c.float("router_z_loss_coef", 0.001, 0.0, 1e3)?,
                    ..Gating::plain(1, Factor::Probability)
                },
            },
        })
    }

    /// The sublayer's feed-forward network: a bank in sparse blocks, a dense one in others.
    fn feed(&self, w: &Weights, site: Site, f: Ff) -> Result<Box<dyn switchformer_nn::Ffn>> {
        let w = w.at("mlp");
        let spec = FfnSpec { bias: [false; 2], ..FfnSpec::new(&["wi"], "wo", [f.dim, f.hidden], f.act) };
        let sparse = match self.steps[usize::from(site.decoder)] {
            0 => false,
            1 => true,
            step => site.block % step == 1,
        };
        if sparse { Ok(Box::new(Bank::load(&w, &self.bank, &spec)?)) } else { w.ffn(&spec) }
    }
}
