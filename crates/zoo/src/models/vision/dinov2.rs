//! DINOv2 - a ViT trained without labels, for features that serve as they are.
//!
//! Paper: "DINOv2: Learning Robust Visual Features without Supervision", arXiv 2304.07193. Code: facebookresearch/dinov2.
//! Weights: facebook/dinov2-small, -base, -large, -giant; the names of the authors load too.
//! Idea: ViT's blocks with learned factors on both branches, a gated feed-forward in the largest size. The class row is the
//! image; a classifier reads it beside the mean of the patches.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + gh * gw), dim] -> last_hidden_state, pooler_output, or logits [b, labels].`
//! Departs from the reference: patches are never masked (`mask_token` is kept and not read); an image that is not of the
//! trained size must divide into patches.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS};
use switchformer_nn::init::Init;
use switchformer_nn::layers::{
    Activation, BlockSpec, EncoderBlock, GateSide, GatedMlp, LayerNorm, LayerScale, check_heads,
};
use switchformer_nn::leaf::Ffn;
use switchformer_nn::maps::{ImageEmbed, PositionEmbed, Resize};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::weights::{LinearSpec, PatchSpec};
use switchformer_nn::{
    AttentionNames, Ctx, Error, Linear, Output, ParamKind, Result, Rows, Size, Tensor, Weights, ops,
};

use crate::entry::{Entry, HeadKind};
use crate::patched::{Patched, RowHead, square_grid};
use crate::pool::{first_rows, mean_behind};
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "dinov2",
    paper: "DINOv2: Learning Robust Visual Features without Supervision, arXiv 2304.07193",
    summary: "ViT trained without labels, with learned factors on its branches",
    architectures: &[
        ("Dinov2Model", HeadKind::Encoder),
        ("Dinov2ForImageClassification", HeadKind::ImageClassification),
    ],
    published: Published::new(include_str!("../../../variants/dinov2.json")),
    names: NAMES,
    blocks: &["encoder.layer."],
    prefix: "dinov2.",
    heads: &["classifier"],
    traits: &[],
    toy: r#"{"model_type":"dinov2","architectures":["Dinov2ForImageClassification"],"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"mlp_ratio":2,"image_size":16,"patch_size":4,"num_channels":1,
        "num_labels":5}"#,
    load: |config, w| Ok(Box::new(load(&ENTRY, config, w, Registers::Never)?)),
};

pub(crate) const NAMES: Names = Names::new(RULES, &[]);

/// Names of the authors and those that transformers 5 has in memory onto the published ones.
const RULES: &[Rename] = &[
    ("dinov2.**", "**"),
    ("dinov2_with_registers.**", "**"),
    ("cls_token", "embeddings.cls_token"),
    ("mask_token", "embeddings.mask_token"),
    ("register_tokens", "embeddings.register_tokens"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.*", "embeddings.patch_embeddings.projection.*"),
    ("blocks.*.**", "encoder.layer.*.**"),
    ("encoder.layer.*.ls1.gamma", "encoder.layer.*.layer_scale1.lambda1"),
    ("encoder.layer.*.ls2.gamma", "encoder.layer.*.layer_scale2.lambda1"),
    ("encoder.layer.*.attn.qkv.*", "encoder.layer.*.attention.attention.qkv.*"),
    ("encoder.layer.*.attn.proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("encoder.layer.*.attention.q_proj.*", "encoder.layer.*.attention.attention.query.*"),
    ("encoder.layer.*.attention.k_proj.*", "encoder.layer.*.attention.attention.key.*"),
    ("encoder.layer.*.attention.v_proj.*", "encoder.layer.*.attention.attention.value.*"),
    ("encoder.layer.*.attention.o_proj.*", "encoder.layer.*.attention.output.dense.*"),
    ("encoder.layer.*.mlp.w12.*", "encoder.layer.*.mlp.weights_in.*"),
    ("encoder.layer.*.mlp.w3.*", "encoder.layer.*.mlp.weights_out.*"),
    ("encoder.layer.*.mlp.down_proj.*", "encoder.layer.*.mlp.weights_out.*"),
    ("norm.*", "layernorm.*"),
];

/// Whether rows without positions stand behind the class row.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registers {
    Never,
    /// As many as `num_register_tokens`; positions follow other image sizes in a smoother way.
    Always,
}

/// The published config, checked.
struct Config {
    dim: usize,
    depth: usize,
    heads: usize,
    hidden: usize,
    /// Whether the feed-forward is gated.
    gated: bool,
    act: Activation,
    eps: f64,
    qkv_bias: bool,
    /// What factors of branches start at.
    scale: f64,
    mask_token: bool,
    registers: usize,
    channels: usize,
    image: Size,
    patch: Size,
    grid: Size,
}

impl Config {
    fn read(c: &ConfigMap, registers: Registers) -> Result<Self> {
        let own = registers == Registers::Always;
        let [image, patch, grid] = square_grid(c, 224, if own { 16 } else { 14 })?;
        let dim = c.size("hidden_size", Some(768), MAX_DIM)?;
        let heads = c.size("num_attention_heads", Some(12), MAX_HEADS)?;
        check_heads(dim, heads)?;
        c.only("head_dim", &[(dim / heads).into()])?;
        let wide = (dim as f64 * c.float("mlp_ratio", 4.0, 0.01, 64.0)?) as usize;
        let gated = c.flag("use_swiglu_ffn", false)?;
        // Two thirds of the width, up to a multiple of eight.
        let hidden = if gated { ((wide as f64 * 2.0 / 3.0) as usize).next_multiple_of(8) } else { wide };
        let config = Config {
            dim,
            depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
            heads,
            hidden,
            gated,
            act: Activation::parse("hidden_act", &c.text("hidden_act", "gelu")?)?,
            eps: c.float("layer_norm_eps", 1e-6, 0.0, 1.0)?,
            qkv_bias: c.flag("qkv_bias", true)?,
            scale: c.float("layerscale_value", 1.0, -1e3, 1e3)?,
            mask_token: own || c.flag("use_mask_token", true)?,
            registers: if own { c.int("num_register_tokens", Some(4), 1024)? } else { 0 },
            channels: c.size("num_channels", Some(3), 64)?,
            image,
            patch,
            grid,
        };
        if config.hidden == 0 {
            return Err(Error::config("mlp_ratio", format!("leaves no hidden channel of {dim}")));
        }
        Ok(config)
    }
}

fn embed(c: &Config, w: &Weights, registers: Registers) -> Result<ImageEmbed> {
    let dim = c.dim;
    let patches =
        PatchSpec { name: "patch_embeddings.projection", channels: c.channels, patch: c.patch, dim, bias: true };
    if c.mask_token {
        // It stands for patches that training hides; kept for whoever saves the model.
        w.with_init(Init::Constant(0.0)).buffer("mask_token", &[1, dim])?;
    }
    let mut positions = PositionEmbed::load(w, &["cls_token"], "position_embeddings", c.grid, dim)?;
    if registers == Registers::Always {
        positions = positions.resized_by(Resize::Smooth);
    }
    if c.registers > 0 {
        let rows = w.tensor("register_tokens", &[1, c.registers, dim], ParamKind::Table)?;
        positions = positions.with_registers(Some(rows));
    }
    ImageEmbed::around(w, &patches, c.image, positions)
}

/// The gated feed-forward: gate and values as one tensor, or as two where a file holds them apart.
fn gated(c: &Config, w: &Weights) -> Result<Box<dyn Ffn>> {
    let w = w.at("mlp");
    let (parts, out_dim): (&[&str], usize) = match w.has("gate_proj.weight") {
        true => (&["gate_proj", "up_proj"], c.hidden),
        false => (&["weights_in"], 2 * c.hidden),
    };
    let inner = w.linear_of(&LinearSpec { parts, fused: None, in_dim: c.dim, out_dim, bias: true })?;
    Ok(Box::new(GatedMlp::new(
        inner,
        Activation::Silu,
        GateSide::First,
        w.linear("weights_out", c.hidden, c.dim, true)?,
    )))
}

fn block(c: &Config, w: &Weights) -> Result<EncoderBlock> {
    let spec = BlockSpec {
        dim: c.dim,
        heads: c.heads,
        mlp_dim: c.hidden,
        act: c.act,
        eps: c.eps,
        qkv_bias: c.qkv_bias,
        norm_first: true,
        attention: AttentionNames {
            fused: Some("attention.attention.qkv"),
            ..AttentionNames::new(
                ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
                "attention.output.dense",
            )
        },
        norm1: "norm1",
        norm2: "norm2",
        fc: ["mlp.fc1", "mlp.fc2"],
    };
    let attention = w.attention(&spec.attention_spec())?;
    let block = EncoderBlock::load_parts(w, &spec, attention, |w| match c.gated {
        true => gated(c, w),
        false => w.ffn(&spec.ffn_spec()),
    })?;
    let names = ["layer_scale1.lambda1", "layer_scale2.lambda1"];
    Ok(block.with_scale(LayerScale::load(w, &names, &[c.dim], Some(c.scale as f32))?))
}

/// The norm behind the blocks, and what reads it.
pub(crate) struct Head {
    norm: LayerNorm,
    /// Reads the class row beside the mean of the patches.
    classifier: Option<Box<dyn Linear>>,
}

impl RowHead for Head {
    fn forward(&self, cx: &mut Ctx, x: Tensor, rows: &Rows, front: usize) -> Result<Output> {
        let hidden = self.norm.forward(&x)?;
        let class = first_rows(&hidden, rows)?;
        Ok(match &self.classifier {
            None => Output::new().rows("last_hidden_state", hidden, rows).member("pooler_output", class),
            Some(classifier) => {
                let both = ops::beside(&[&class, &mean_behind(&hidden, rows, front)?])?;
                Output::new().member("logits", classifier.forward(cx, &both)?)
            }
        })
    }
    fn classes(&self) -> Option<usize> {
        self.classifier.as_ref().map(|c| c.dims().1)
    }
}

/// The model, with or without registers.
pub(crate) fn load(entry: &Entry, c: &ConfigMap, w: &Weights, registers: Registers) -> Result<Patched<Head>> {
    let config = Config::read(c, registers)?;
    let classifies = entry.head_of(c)? == HeadKind::ImageClassification;
    let classes = || w.linear("classifier", 2 * config.dim, c.n_labels()?, true);
    Ok(Patched {
        dim: config.dim,
        embed: embed(&config, &w.at("embeddings"), registers)?,
        norm: None,
        blocks: (0..config.depth).map(|i| block(&config, &w.at("encoder.layer").at(i))).collect::<Result<_>>()?,
        head: Head {
            norm: w.layer_norm("layernorm", config.dim, config.eps)?,
            classifier: classifies.then(classes).transpose()?,
        },
    })
}
