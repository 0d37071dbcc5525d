//! SigLIP's image tower - a ViT without a class row, pooled by a learned query.
//!
//! Paper: "Sigmoid Loss for Language Image Pre-Training", arXiv 2303.15343. Code: google-research/big_vision.
//! Weights: the image towers of google/siglip-*, saved alone.
//! Idea: patches alone go through the blocks; at the end one learned row attends to all of them, goes through a
//! feed-forward, and is the image.
//! Shapes: `pixels [b, c, h, w] -> rows [b * gh * gw, dim] -> last_hidden_state, pooler_output [b, dim].`
//! Departs from the reference: sizes other than the trained one interpolate positions without being asked.

use switchformer_nn::attention::{Projection, Projections};
use switchformer_nn::config::ConfigMap;
use switchformer_nn::layers::LayerNorm;
use switchformer_nn::leaf::{Dense, Ffn};
use switchformer_nn::weights::FfnSpec;
use switchformer_nn::{
    Attention, AttentionNames, AttentionSpec, Ctx, Output, ParamKind, Result, Rows, Tensor, Weights,
};

use super::clip_vision_model::{Config, NAMES};
use crate::entry::{Entry, HeadKind, Trait};
use crate::patched::{Patched, RowHead};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "siglip_vision_model",
    paper: "Sigmoid Loss for Language Image Pre-Training, arXiv 2303.15343",
    summary: "image tower of SigLIP, pooled by a learned query",
    architectures: &[("SiglipVisionModel", HeadKind::Encoder)],
    published: Published::new(include_str!("../../../variants/siglip_vision_model.json")),
    names: NAMES,
    blocks: &["encoder.layers."],
    prefix: "",
    heads: &[],
    traits: &[Trait::NoExitHeads, Trait::OneSize],
    toy: r#"{"model_type":"siglip_vision_model","architectures":["SiglipVisionModel"],"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,"image_size":16,"patch_size":4,
        "num_channels":1}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

/// A learned row that attends to the rows of every member, and a feed-forward.
struct Pool {
    /// `[1, 1, dim]`.
    probe: Tensor,
    attn: Box<dyn Attention>,
    norm: LayerNorm,
    ffn: Box<dyn Ffn>,
}

impl Pool {
    fn load(c: &Config, w: &Weights) -> Result<Self> {
        let (dim, own) = (c.dim, w.at("attention"));
        let plain =
            AttentionSpec::new(AttentionNames::new(["in_proj", "kv", "kv"], "attention.out_proj"), dim, c.heads);
        let spec = AttentionSpec { source: Some(dim), tap: "pool_attn", ..plain };
        // Queries, keys and values are stored as one, of which queries read another input.
        let attn = w.attention_of(&spec, |w| {
            let weight = own.tensor("in_proj_weight", &[3 * dim, dim], ParamKind::Matrix)?;
            let bias = own.tensor("in_proj_bias", &[3 * dim], ParamKind::Vector)?;
            let part = |from: usize, n: usize| -> Result<Projection> {
                let rows = |t: &Tensor| t.narrow(0, from * dim, n * dim)?.contiguous();
                let dense = Dense::new(own.name("in_proj_weight"), rows(&weight)?, Some(rows(&bias)?));
                Ok(Projection::new(Box::new(dense), vec![dim; n]))
            };
            let out = w.linear("attention.out_proj", dim, dim, true)?;
            Ok(Projections { qkv: vec![part(0, 1)?, part(1, 2)?], out })
        })?;
        let ffn = FfnSpec::new(&["fc1"], "fc2", [dim, c.hidden], c.act);
        Ok(Pool {
            probe: w.tensor("probe", &[1, 1, dim], ParamKind::Table)?,
            attn,
            norm: w.layer_norm("layernorm", dim, c.eps)?,
            ffn: w.at("mlp").ffn(&ffn)?,
        })
    }

    /// Shapes: x `[total, dim]` -> `[members, dim]`.
    fn forward(&self, cx: &mut Ctx, x: &Tensor, rows: &Rows) -> Result<Tensor> {
        let (n, dim) = (rows.n(), x.dims2()?.1);
        let asking = self.probe.reshape((1, dim))?.broadcast_as((n, dim))?.contiguous()?;
        let one = Rows::equal(n, 1)?.of_members(rows.members())?;
        let seen = self.attn.key_values(cx, x, rows)?;
        let pooled = self.attn.attend(cx, &asking, &one, &seen, None)?;
        self.ffn.forward_onto(cx, &self.norm.forward(&pooled)?, &one, &pooled)
    }
}

/// The norm behind the blocks, and the pooled row where the model has one.
struct Head {
    norm: LayerNorm,
    pool: Option<Pool>,
}

impl RowHead for Head {
    fn forward(&self, cx: &mut Ctx, x: Tensor, rows: &Rows, _: usize) -> Result<Output> {
        let hidden = self.norm.forward(&x)?;
        let pooled = self.pool.as_ref().map(|pool| pool.forward(cx, &hidden, rows)).transpose()?;
        let out = Output::new().rows("last_hidden_state", hidden, rows);
        Ok(match pooled {
            Some(pooled) => out.member("pooler_output", pooled),
            None => out,
        })
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Patched<Head>> {
    let config = Config::read(c, 16, "gelu_pytorch_tanh", 1e-6)?;
    let pools = c.flag("vision_use_head", true)?;
    Ok(Patched {
        dim: config.dim,
        embed: config.embed(&w.at("embeddings"), None, true)?,
        norm: None,
        blocks: config.blocks(w)?,
        head: Head {
            norm: w.layer_norm("post_layernorm", config.dim, config.eps)?,
            pool: pools.then(|| Pool::load(&config, &w.at("head"))).transpose()?,
        },
    })
}
