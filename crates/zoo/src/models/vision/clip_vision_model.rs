//! CLIP's image tower - a ViT whose class row stands beside texts.
//!
//! Paper: "Learning Transferable Visual Models From Natural Language Supervision", arXiv 2103.00020. Code: openai/CLIP.
//! Weights: the image towers of openai/clip-vit-*, saved alone.
//! Idea: ViT with a norm in front of the blocks and no bias of patches. The class row behind a norm is the image; a
//! projection takes it to where texts are.
//! Shapes: `pixels [b, c, h, w] -> rows [b * (1 + gh * gw), dim] -> last_hidden_state, pooler_output or image_embeds.`
//! Departs from the reference: sizes other than the trained one interpolate positions without being asked.

use switchformer_nn::config::{ConfigMap, MAX_DEPTH, MAX_DIM, MAX_HEADS};
use switchformer_nn::layers::{Activation, BlockSpec, EncoderBlock, LayerNorm, check_heads};
use switchformer_nn::maps::{ImageEmbed, PositionEmbed};
use switchformer_nn::names::{Names, Rename};
use switchformer_nn::weights::PatchSpec;
use switchformer_nn::{AttentionNames, Ctx, Linear, Output, ParamKind, Result, Rows, Size, Tensor, Weights};

use crate::entry::{Entry, HeadKind, Trait};
use crate::patched::{Patched, RowHead, square_grid};
use crate::pool::first_rows;
use crate::published::Published;

/// Registry entry.
pub static ENTRY: Entry = Entry {
    name: "clip_vision_model",
    paper: "Learning Transferable Visual Models From Natural Language Supervision, arXiv 2103.00020",
    summary: "image tower of CLIP",
    architectures: &[("CLIPVisionModel", HeadKind::Encoder), ("CLIPVisionModelWithProjection", HeadKind::Encoder)],
    published: Published::new(include_str!("../../../variants/clip_vision_model.json")),
    names: NAMES,
    blocks: &["encoder.layers."],
    prefix: "vision_model.",
    heads: &["visual_projection"],
    traits: &[Trait::NoExitHeads, Trait::OneSize],
    toy: r#"{"model_type":"clip_vision_model","architectures":["CLIPVisionModelWithProjection"],"hidden_size":32,
        "num_hidden_layers":3,"num_attention_heads":4,"intermediate_size":64,"image_size":16,"patch_size":4,
        "num_channels":1,"projection_dim":24}"#,
    load: |config, w| Ok(Box::new(load(config, w)?)),
};

pub(crate) const NAMES: Names = Names::new(RULES, &["embeddings.position_ids"]);

/// Earlier releases have the prefix in files of the tower alone, too.
const RULES: &[Rename] = &[("vision_model.**", "**")];

/// What the published configs of CLIP's and SigLIP's image towers share, checked.
pub(crate) struct Config {
    pub(crate) dim: usize,
    depth: usize,
    pub(crate) heads: usize,
    pub(crate) hidden: usize,
    pub(crate) act: Activation,
    pub(crate) eps: f64,
    channels: usize,
    image: Size,
    patch: Size,
    grid: Size,
}

impl Config {
    /// With the family's own defaults of patch, activation and epsilon.
    pub(crate) fn read(c: &ConfigMap, patch: usize, act: &str, eps: f64) -> Result<Self> {
        let [image, patch, grid] = square_grid(c, 224, patch)?;
        let config = Config {
            dim: c.size("hidden_size", Some(768), MAX_DIM)?,
            depth: c.size("num_hidden_layers", Some(12), MAX_DEPTH)?,
            heads: c.size("num_attention_heads", Some(12), MAX_HEADS)?,
            hidden: c.size("intermediate_size", Some(3072), MAX_DIM)?,
            act: Activation::parse("hidden_act", &c.text("hidden_act", act)?)?,
            eps: c.float("layer_norm_eps", eps, 0.0, 1.0)?,
            channels: c.size("num_channels", Some(3), 64)?,
            image,
            patch,
            grid,
        };
        check_heads(config.dim, config.heads)?;
        Ok(config)
    }

    /// Patches behind the vector `class`, where there is one; with a table of positions.
    pub(crate) fn embed(&self, w: &Weights, class: Option<&str>, bias: bool) -> Result<ImageEmbed> {
        let (dim, grid) = (self.dim, self.grid);
        let patches = PatchSpec { name: "patch_embedding", channels: self.channels, patch: self.patch, dim, bias };
        let class = class.map(|name| w.tensor(name, &[dim], ParamKind::Table)?.reshape((1, 1, dim))).transpose()?;
        let front: Vec<Tensor> = class.into_iter().collect();
        let table = w.tensor("position_embedding.weight", &[front.len() + grid.0 * grid.1, dim], ParamKind::Table)?;
        ImageEmbed::around(w, &patches, self.image, PositionEmbed::new(front, Some(table.unsqueeze(0)?), grid))
    }

    /// The blocks below `encoder.layers`.
    pub(crate) fn blocks(&self, w: &Weights) -> Result<Vec<EncoderBlock>> {
        let spec = BlockSpec {
            dim: self.dim,
            heads: self.heads,
            mlp_dim: self.hidden,
            act: self.act,
            eps: self.eps,
            qkv_bias: true,
            norm_first: true,
            attention: AttentionNames::new(
                ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
                "self_attn.out_proj",
            ),
            norm1: "layer_norm1",
            norm2: "layer_norm2",
            fc: ["mlp.fc1", "mlp.fc2"],
        };
        (0..self.depth).map(|i| EncoderBlock::load(&w.at("encoder.layers").at(i), &spec)).collect()
    }
}

/// The class row behind a norm, perhaps projected.
pub(crate) struct Head {
    norm: LayerNorm,
    projection: Option<Box<dyn Linear>>,
}

impl RowHead for Head {
    fn forward(&self, cx: &mut Ctx, x: Tensor, rows: &Rows, _: usize) -> Result<Output> {
        let class = self.norm.forward(&first_rows(&x, rows)?)?;
        let out = Output::new().rows("last_hidden_state", x, rows);
        Ok(match &self.projection {
            Some(projection) => out.member("image_embeds", projection.forward(cx, &class)?),
            None => out.member("pooler_output", class),
        })
    }
}

fn load(c: &ConfigMap, w: &Weights) -> Result<Patched<Head>> {
    let config = Config::read(c, 32, "quick_gelu", 1e-5)?;
    let projected = ENTRY.architecture(c)? == "CLIPVisionModelWithProjection";
    let project = || w.linear("visual_projection", config.dim, c.size("projection_dim", Some(512), MAX_DIM)?, false);
    Ok(Patched {
        dim: config.dim,
        embed: config.embed(&w.at("embeddings"), Some("class_embedding"), false)?,
        norm: Some(w.layer_norm("pre_layrnorm", config.dim, config.eps)?),
        blocks: config.blocks(w)?,
        head: Head {
            norm: w.layer_norm("post_layernorm", config.dim, config.eps)?,
            projection: projected.then(project).transpose()?,
        },
    })
}
